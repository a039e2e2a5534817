/* SPDX-License-Identifier: MIT */
/* What rdma-migrate makes of a run: each ending that can be, and the exit code it gets. */
#include <criterion/criterion.h>
#include <string.h>

#include "report.h"

#define DEAD -1

struct ending {
	const char *name;
	struct kill_drill kill;
	bool drilled;
	int source_outcome, source_owner; /* DEAD: it told nothing */
	int target_outcome, target_owner;
	bool proof;
	uint64_t bad, handovers;
	bool gap, stopped; /* the proof's faults */
	enum commit_when { COMPLETE, SWITCHOVER } commit;
	/* what must come out */
	enum verdict verdict;
	enum ferry_owner owner;
	const char *says;
};

#define TARGET_AT(stage_)                           \
	{                                           \
		.who = KILL_TARGET, .stage = stage_ \
	}
#define SOURCE_AT(stage_)                           \
	{                                           \
		.who = KILL_SOURCE, .stage = stage_ \
	}
#define AT_MESSAGE(who_, message_)                    \
	{                                             \
		.who = KILL_##who_, .message = message_ \
	}
#define LINK_AT(stage_, ms)                                      \
	{                                                        \
		.who = KILL_LINK, .stage = stage_, .heal_ms = ms \
	}

static const struct ending endings[] = {
	{ "migrated", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true,
	  .handovers = 1, .owner = FERRY_TARGET, .verdict = VERDICT_OK,
	  .says = "The VM runs at the target." },
	{ "a bad page", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true, .bad = 1,
	  .owner = FERRY_TARGET, .verdict = VERDICT_PROOF, .says = "1 of 100 pages bad" },
	{ "a gap", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true, .gap = true,
	  .owner = FERRY_TARGET, .verdict = VERDICT_PROOF, .says = "of 11 outputs 1 were missing" },
	{ "the guest stands still", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true,
	  .stopped = true, .owner = FERRY_TARGET, .verdict = VERDICT_PROOF, .says = "did not run on" },
	{ "both say it is theirs", .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE,
	  .target_owner = FERRY_TARGET, .proof = true, .owner = FERRY_SOURCE, .verdict = VERDICT_PROOF,
	  .says = "two owners" },
	{ "two speakers", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true,
	  .handovers = 2, .owner = FERRY_TARGET, .verdict = VERDICT_PROOF, .says = "changed 2 times" },
	{ "fell back for nothing", .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE,
	  .target_outcome = FERRY_DISCARDED, .target_owner = FERRY_SOURCE, .proof = true,
	  .owner = FERRY_SOURCE, .verdict = VERDICT_NOT_AS_ASKED, .says = "The VM went on at the source" },
	{ "fell back from a dead target", .kill = TARGET_AT(FERRY_POSTCOPY), .drilled = true,
	  .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE, .target_outcome = DEAD,
	  .proof = true, .owner = FERRY_SOURCE, .verdict = VERDICT_OK,
	  .says = "as it must after target@post-copy" },
	{ "the drill never came", .kill = TARGET_AT(FERRY_POSTCOPY), .source_owner = FERRY_TARGET,
	  .target_owner = FERRY_TARGET, .proof = true, .owner = FERRY_TARGET, .verdict = VERDICT_NOT_AS_ASKED,
	  .says = "never entered" },
	{ "the link healed", .kill = LINK_AT(FERRY_POSTCOPY, 200), .drilled = true,
	  .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET, .proof = true, .owner = FERRY_TARGET,
	  .verdict = VERDICT_OK, .says = "" },
	{ "the link did not heal", .kill = LINK_AT(FERRY_POSTCOPY, 200), .drilled = true,
	  .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE, .target_outcome = FERRY_DISCARDED,
	  .target_owner = FERRY_SOURCE, .proof = true, .owner = FERRY_SOURCE, .verdict = VERDICT_NOT_AS_ASKED,
	  .says = "" },
	{ "a blackout waits for no link", .kill = LINK_AT(FERRY_STOP_AND_COPY, 200), .drilled = true,
	  .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE, .target_outcome = FERRY_DISCARDED,
	  .target_owner = FERRY_SOURCE, .proof = true, .owner = FERRY_SOURCE, .verdict = VERDICT_OK,
	  .says = "as it must after" },
	{ "the source died early", .kill = SOURCE_AT(FERRY_PRECOPY), .drilled = true, .source_outcome = DEAD,
	  .target_outcome = FERRY_DISCARDED, .target_owner = FERRY_SOURCE, .owner = FERRY_NONE,
	  .verdict = VERDICT_OK, .says = "The VM died with its host, as it must after source@pre-copy" },
	{ "fell back from a target that died at a message", .kill = AT_MESSAGE(TARGET, "RUNNING"),
	  .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE, .target_outcome = DEAD, .proof = true,
	  .owner = FERRY_SOURCE, .verdict = VERDICT_OK, .says = "The VM went on at the source after target@RUNNING" },
	{ "the message never came", .kill = AT_MESSAGE(TARGET, "REFUSED"), .source_owner = FERRY_TARGET,
	  .target_owner = FERRY_TARGET, .proof = true, .owner = FERRY_TARGET, .verdict = VERDICT_NOT_AS_ASKED,
	  .says = "never sent" },
	{ "cut at a message that the target sends", .kill = AT_MESSAGE(LINK, "RUNNING"), .drilled = true,
	  .source_outcome = FERRY_FELL_BACK, .source_owner = FERRY_SOURCE, .target_outcome = FERRY_DISCARDED,
	  .target_owner = FERRY_SOURCE, .proof = true, .owner = FERRY_SOURCE, .verdict = VERDICT_OK,
	  .says = "after link@RUNNING" },
	{ "cut at a message that never came", .kill = AT_MESSAGE(LINK, "ABORT"), .source_owner = FERRY_TARGET,
	  .target_owner = FERRY_TARGET, .proof = true, .owner = FERRY_TARGET, .verdict = VERDICT_NOT_AS_ASKED,
	  .says = "never sent" },
	{ "in doubt", .kill = SOURCE_AT(FERRY_COMMITMENT), .drilled = true, .source_outcome = DEAD,
	  .target_outcome = FERRY_IN_DOUBT, .target_owner = FERRY_UNKNOWN, .owner = FERRY_UNKNOWN,
	  .verdict = VERDICT_LOST, .says = "in doubt" },
	{ "committed, and then the target died", .kill = TARGET_AT(FERRY_ACTIVATION), .drilled = true,
	  .source_owner = FERRY_TARGET, .target_outcome = DEAD, .owner = FERRY_NONE, .verdict = VERDICT_OK,
	  .says = "as it must after target@activation" },
	{ "the owner died in its proof", .source_owner = FERRY_TARGET, .target_owner = FERRY_TARGET,
	  .owner = FERRY_TARGET, .verdict = VERDICT_LOST, .says = "died before the proof" },
	{ "both died", .source_outcome = DEAD, .target_outcome = DEAD, .owner = FERRY_NONE,
	  .verdict = VERDICT_LOST, .says = "" },
	{ "classic post-copy and a dead target", .kill = TARGET_AT(FERRY_POSTCOPY), .drilled = true,
	  .commit = SWITCHOVER, .source_owner = FERRY_TARGET, .target_outcome = DEAD, .owner = FERRY_NONE,
	  .verdict = VERDICT_OK, .says = "" },
};

static void tell(struct end_report *e, int outcome, int owner, bool drilled)
{
	e->begun = true;
	e->drilled = drilled;
	e->have_result = outcome != DEAD;
	if (outcome == DEAD)
		return;
	e->result.outcome = (enum ferry_outcome)outcome;
	e->result.owner = (enum ferry_owner)owner;
}

Test(judge, each_ending)
{
	static struct run_report r;

	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
		const struct ending *e = &endings[i];
		struct options o = { .command = CMD_RUN, .kill = e->kill, .repeat = 1 };

		o.commit_at = e->commit == SWITCHOVER ? FERRY_COMMIT_AT_SWITCHOVER : FERRY_COMMIT_DEFAULT;
		memset(&r, 0, sizeof(r));
		r.o = &o;
		r.whole = true;
		tell(&r.end[VMM_END_SOURCE], e->source_outcome, e->source_owner, e->drilled);
		tell(&r.end[VMM_END_TARGET], e->target_outcome, e->target_owner, e->drilled);
		r.have_proof = e->proof;
		r.ran_on = !e->stopped;
		r.proof.pages_checked = 100;
		r.proof.pages_bad = e->bad;
		observer_init(&r.observer, -1, 1, true);
		r.observer.handovers = (unsigned)e->handovers;
		r.observer.stream[0].seen = 10;
		r.observer.stream[0].missing = e->gap;
		judge(&r);
		cr_expect_eq(r.verdict, e->verdict, "%s: exit code %d, \"%s\"", e->name, r.verdict,
			     r.sentence);
		cr_expect_eq(r.owner, e->owner, "%s: owner %s", e->name, ferry_owner_name(r.owner));
		cr_expect(strstr(r.sentence, e->says) != NULL, "%s: \"%s\"", e->name, r.sentence);
	}
}

Test(judge, an_end_that_could_not_begin)
{
	static struct run_report r;
	struct options o = { .command = CMD_RUN, .repeat = 1 };

	r.o = &o;
	snprintf(r.end[VMM_END_SOURCE].error, sizeof(r.end[0].error), "no memory");
	judge(&r);
	cr_expect_eq(r.verdict, VERDICT_ENVIRONMENT);
	cr_expect_str_eq(r.sentence, "The source could not begin: no memory");
}
