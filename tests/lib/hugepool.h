/* SPDX-License-Identifier: MIT */
/*
 * Huge pages of 2 MiB for a Criterion program. HUGEPOOL(n) makes n of them available while its tests run;
 * HUGEPOOL_END() gives them back. HUGEPOOL_END() needs a line of its own, because the hooks are named by
 * their line numbers. A test that needs huge pages begins with hugepool_or_skip() and then has the pool alone
 * until it ends.
 */
#ifndef TESTS_HUGEPOOL_H
#define TESTS_HUGEPOOL_H

#include <criterion/criterion.h>
#include <criterion/hooks.h>

/* In the process that starts the tests. */
void hugepool_raise(long pages);
void hugepool_restore(void);
/* Skips the calling test with a sentence if the machine has fewer free huge pages. */
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
