/* SPDX-License-Identifier: MIT */
/* Ask the embedder's arbiter who owns the VM. */
#ifndef FERRY_ARBITRATE_H
#define FERRY_ARBITRATE_H

#include "ferry/ferry.h"

#define ARBITER_ALONE "only the %s has an arbiter: give both ends the same one, or neither"

struct ferry_session;
/*
 * Ask the embedder's arbiter to record want; *is is the owner that it has recorded. Without an arbiter: 0,
 * and *is is FERRY_OWNER_UNKNOWN. A failure is logged, kept for the result and returned.
 *
 * A source asks for SOURCE before it resumes after SWITCHOVER, and for TARGET if it has decided and hears
 * nothing. A target in doubt asks for TARGET, or for SOURCE if pages are missing. The first request is
 * recorded and the second end sees it, so the VM never runs at both.
 */
int arbitrate(struct ferry_session *s, enum ferry_owner want, enum ferry_owner *is);

#endif
