/* SPDX-License-Identifier: MIT */
/*
 * Each row of docs/failure-model.md that says "in doubt", with an arbiter. The link is lost for good: a
 * message is cut, or vanishes with everything after it. The expected results are the table under "Settling
 * doubt". The same rows run with the fake arbiter, a shared directory and a real etcd.
 */
#ifndef TESTS_DOUBT_H
#define TESTS_DOUBT_H

#include "rig.h"

typedef int (*doubt_ask)(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);

enum doubt_way {
	DOUBT_TENTATIVE,     /* post-copy, commit at completion */
	DOUBT_STOP_AND_COPY, /* nothing is missing at the switchover */
	DOUBT_SWITCHOVER,    /* commit at switchover, with pages missing */
	DOUBT_HOLD_LIMIT     /* the same, after a tentative run that lasted too long */
};

enum doubt_end { DOUBT_SOURCE_OWNS, DOUBT_TARGET_OWNS, DOUBT_LOST };

/* name, way, message, whether the target sends it, expected end */
#define DOUBT_ROWS(X)                                                                 \
	X(prepared_after_a_tentative_run, TENTATIVE, "PREPARED", true, SOURCE_OWNS)   \
	X(commit_after_a_tentative_run, TENTATIVE, "COMMIT", false, TARGET_OWNS)      \
	X(committed_after_a_tentative_run, TENTATIVE, "COMMITTED", true, TARGET_OWNS) \
	X(abort_after_a_tentative_run, TENTATIVE, "ABORT", false, SOURCE_OWNS)        \
	X(prepared_in_the_downtime, STOP_AND_COPY, "PREPARED", true, SOURCE_OWNS)     \
	X(commit_in_the_downtime, STOP_AND_COPY, "COMMIT", false, TARGET_OWNS)        \
	X(committed_in_the_downtime, STOP_AND_COPY, "COMMITTED", true, TARGET_OWNS)   \
	X(abort_in_the_downtime, STOP_AND_COPY, "ABORT", false, SOURCE_OWNS)          \
	X(prepared_at_switchover, SWITCHOVER, "PREPARED", true, SOURCE_OWNS)          \
	X(commit_at_switchover, SWITCHOVER, "COMMIT", false, SOURCE_OWNS)             \
	X(committed_at_switchover, SWITCHOVER, "COMMITTED", true, LOST)               \
	X(abort_at_switchover, SWITCHOVER, "ABORT", false, SOURCE_OWNS)               \
	X(prepared_at_the_hold_limit, HOLD_LIMIT, "PREPARED", true, SOURCE_OWNS)      \
	X(commit_at_the_hold_limit, HOLD_LIMIT, "COMMIT", false, SOURCE_OWNS)         \
	X(committed_at_the_hold_limit, HOLD_LIMIT, "COMMITTED", true, LOST)

/* A migration that ends in doubt. ask settles the doubt; if it is NULL, the caller's ops do. */
struct doubt {
	struct rig rig;
	doubt_ask ask;
	const char *message;
	char fault[64];
	bool by_target, armed;
};

/* how: "cut-before" or "lost". */
void doubt_init(struct doubt *d, const struct rig_kind *kind, enum doubt_way way, const char *how,
		const char *message, bool by_target, doubt_ask ask);
/* After rig_run(): assert outcomes, owners, ops, memory, output, and that the arbiter repeats its answer. */
void doubt_check(struct doubt *d, enum doubt_end end);

#define DOUBT_TEST(suite, ask, name, way, message, by_target, end)               \
	static void suite##_##name(const struct rig_kind *kind, const char *how) \
	{                                                                        \
		struct doubt d;                                                  \
		doubt_init(&d, kind, DOUBT_##way, how, message, by_target, ask); \
		rig_run(&d.rig);                                                 \
		doubt_check(&d, DOUBT_##end);                                    \
		rig_free(&d.rig);                                                \
	}                                                                        \
	Test(suite, name##_cut)                                                  \
	{                                                                        \
		suite##_##name(RIG_TCP_ANON, "cut-before");                      \
	}                                                                        \
	Test(suite, name##_silent)                                               \
	{                                                                        \
		suite##_##name(RIG_TCP_SHARED, "lost");                          \
	}

#endif
