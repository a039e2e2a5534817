/* SPDX-License-Identifier: MIT */
/* Fault injection, if the build has it (FERRY_DRILL). */
#ifndef FERRY_RUNTIME_DRILL_H
#define FERRY_RUNTIME_DRILL_H

#include "runtime/session/session.h"

#if FERRY_DRILL
/* For a session with FERRY_CONFIG_DRILL: its links get the filter that ferry_drill() commands. -ENOMEM. */
int drill_new(struct ferry_session *s);
void drill_free(struct ferry_session *s);
#else
static inline int drill_new(struct ferry_session *s) /* config_load() has refused the flag */
{
	(void)s;
	return 0;
}
static inline void drill_free(struct ferry_session *s)
{
	(void)s;
}
#endif

#endif
