/* SPDX-License-Identifier: MIT */
/* The first error explains itself once; callers only return. Any thread. */
#ifndef FERRY_FAIL_H
#define FERRY_FAIL_H

#include <stdatomic.h>

#define FAIL_MAX 512
#define FAIL_LOST_MAX 160

struct fail {
	_Atomic int state; /* 0: none; 1: being written; 2: done */
	int err;	   /* negative */
	char text[FAIL_MAX];
	_Atomic int lost_state;
	char lost[FAIL_LOST_MAX];
};

/* Records err (negative errno) and the sentence unless one is there already. Returns err. f may be NULL. */
int fail(struct fail *f, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* 0, or the first error recorded. */
int fail_err(struct fail *f);
const char *fail_text(struct fail *f); /* "" while there is none */
/*
 * Why a link was lost: what was met, and on which channel. Kept apart from the error, because a link that comes back leaves
 * none. The first loss stands; what follows from it is not its cause. Returns -EPIPE. Any thread.
 */
int fail_lost(struct fail *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *fail_lost_text(struct fail *f); /* "" while there is none */
void fail_reset(struct fail *f);       /* one thread, when nobody else writes */

#endif
