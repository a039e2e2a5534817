/* SPDX-License-Identifier: MIT */
/* Refuses system calls to this process or thread for good, as the seccomp filter of a container does. */
#ifndef TESTS_REFUSE_H
#define TESTS_REFUSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REFUSE_MAX 80u

struct refused {
	int nr;
	unsigned arg;	/* 1 to 6: only with this argument... */
	uint32_t value; /* ...of this value; arg 0: whatever its arguments are */
};

/* These calls fail with err: in all threads (everybody), or in this one and those that it starts later. */
void refuse_calls(const struct refused *r, size_t n, int err, bool everybody);
/* All other calls fail with err, in this thread and those that it starts later. */
void refuse_all_but(const int *nr, size_t n, int err);

#endif
