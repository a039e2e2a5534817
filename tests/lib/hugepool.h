/* SPDX-License-Identifier: MIT */
/*
 * Huge pages of 2 MiB for a Criterion program: HUGEPOOL(n) sees to it that n are free while its tests run,
 * and HUGEPOOL_END() on a line of its own (the hooks are named by their lines) gives back what it took. A
 * test that needs them begins with hugepool_or_skip() and has the pool for itself until it ends.
 */
#ifndef TESTS_HUGEPOOL_H
#define TESTS_HUGEPOOL_H

#include <criterion/criterion.h>
#include <criterion/hooks.h>

/* In the process that starts the tests. */
void hugepool_raise(long pages);
void hugepool_restore(void);
/* Skips the test that calls it, and says why, where the machine has not so many free. */
void hugepool_or_skip(long pages);

#define HUGEPOOL(pages)                                    \
	ReportHook(PRE_ALL)(struct criterion_test_set * t) \
	{                                                  \
		(void)t;                                   \
		hugepool_raise(pages);                     \
	}

#define HUGEPOOL_END()                                          \
	ReportHook(POST_ALL)(struct criterion_global_stats * s) \
	{                                                       \
		(void)s;                                        \
		hugepool_restore();                             \
	}

#endif
