/* SPDX-License-Identifier: MIT */
/* Fault injection, where the build has it: FERRY_DRILL. */
#ifndef FERRY_RUNTIME_DRILL_H
#define FERRY_RUNTIME_DRILL_H

#include "runtime/session/session.h"

#if FERRY_DRILL
/* For a session whose flags ask for it: its links go through the filter that ferry_drill() commands. */
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
