/* SPDX-License-Identifier: MIT */
/* In doubt: the embedder's arbiter is asked. */
#ifndef FERRY_ARBITRATE_H
#define FERRY_ARBITRATE_H

#include "ferry/ferry.h"

#define ARBITER_ALONE "only the %s has an arbiter: give both ends the same one, or neither"

struct ferry_session;
/*
 * Ask the embedder's arbiter to record want; *is is what stands. Without an arbiter 0 and *is = FERRY_OWNER_UNKNOWN.
 * The source asks for SOURCE before it resumes once SWITCHOVER was sent, and for TARGET when it has decided and
 * hears nothing; the target in doubt asks for TARGET, or for SOURCE where pages are missing. So whoever comes
 * second sees the first, and never do both run. A failure is logged, and kept for the result.
 */
int arbitrate(struct ferry_session *s, enum ferry_owner want, enum ferry_owner *is);

#endif
