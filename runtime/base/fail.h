/* SPDX-License-Identifier: MIT */
/* The first error and its sentence. Whoever meets it calls fail() once; callers only return. Any thread. */
#ifndef FERRY_FAIL_H
#define FERRY_FAIL_H

#include <stdatomic.h>

#define FAIL_MAX 512
#define FAIL_LOST_MAX 160

struct fail {
	_Atomic int state; /* 0: none; 1: being written; 2: done; 3: forgiven */
	int err;	   /* negative */
	char text[FAIL_MAX];
	_Atomic int lost_state;
	char lost[FAIL_LOST_MAX];
};

/* Records err (negative) and the sentence unless an error is recorded. Returns err. f may be NULL. */
int fail(struct fail *f, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Returns 0 or the first recorded error. */
int fail_err(struct fail *f);
const char *fail_text(struct fail *f); /* "" if there is none */
/*
 * Records why a link was lost, and on which channel; apart from the error, because a link that comes back
 * leaves no error. Only the first call counts: later errors are consequences. Returns -EPIPE. Any thread.
 */
int fail_lost(struct fail *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *fail_lost_text(struct fail *f); /* "" if there is none */
/*
 * The recorded error does not count any more, and no later one does: fail_err() is 0, fail_text() is "". The
 * text stays for threads that hold it. Any thread.
 */
void fail_forgive(struct fail *f);
void fail_reset(struct fail *f); /* call from one thread while no other uses f */

#endif
