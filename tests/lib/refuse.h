/* SPDX-License-Identifier: MIT */
/* System calls that are refused to this process or thread, as a container's or an embedder's seccomp filter does it. For good. */
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

/* everybody: all threads that are there; else this one, and those that it makes from now on. They get -err. */
void refuse_calls(const struct refused *r, size_t n, int err, bool everybody);
/* All but these, of this thread and those that it makes from now on: -err. */
void refuse_all_but(const int *nr, size_t n, int err);

#endif
