/* SPDX-License-Identifier: MIT */
/* What rdma-migrate makes of a run: each ending that can be, and the exit code it gets. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "bench/cli/report.h"

#define DEAD -1

struct ending {
	const char *name;
	struct kill_drill kill;
	bool drilled;
	int source_outcome, source_owner; /* DEAD: it told nothing */
	int target_outcome, target_owner;
	bool proof;
	uint64_t bad, handovers;
	bool gap, repeat, damage, errors, unproved, stopped; /* the proof's faults */
	enum commit_when { COMPLETE, SWITCHOVER } commit;
	/* what must come out */
	enum verdict verdict;
	enum ferry_owner owner;
	const char *says;
};

#define TARGET_AT(phase_)                           \
	{                                           \
		.who = KILL_TARGET, .phase = phase_ \
	}
#define SOURCE_AT(phase_)                           \
	{                                           \
		.who = KILL_SOURCE, .phase = phase_ \
	}
#define AT_MESSAGE(who_, message_)                      \
	{                                               \
		.who = KILL_##who_, .message = message_ \
	}
#define LINK_AT(phase_, ms)                                      \
	{                                                        \
		.who = KILL_LINK, .phase = phase_, .heal_ms = ms \
	}

static const struct ending endings[] = {
	{ "migrated", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .handovers = 1, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_OK,
	  .says = "The VM runs at the target." },
	{ "a bad page", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .bad = 1, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF, .says = "1 of 100 pages bad" },
	{ "a gap", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .gap = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "of 11 outputs 1 were missing" },
	{ "a repeat", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .repeat = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "of 10 outputs 0 were missing, 1 repeated and 0 damaged" },
	{ "damage", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .damage = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "of 10 outputs 0 were missing, 0 repeated and 1 damaged" },
	{ "errors in the guest", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET,
	  .proof = true, .errors = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "0 of 100 pages bad, 1 errors in the guest" },
	{ "no proof can be made", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET,
	  .proof = true, .unproved = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "the proof could not be made" },
	{ "the guest stands still", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET,
	  .proof = true, .stopped = true, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "did not run on" },
	{ "both say it is theirs", .source_outcome = FERRY_OUTCOME_FELL_BACK,
	  .source_owner = FERRY_OWNER_SOURCE, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_PROOF, .says = "two owners" },
	{ "two speakers", .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET,
	  .proof = true, .handovers = 2, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_PROOF,
	  .says = "changed 2 times" },
	{ "fell back for nothing", .source_outcome = FERRY_OUTCOME_FELL_BACK,
	  .source_owner = FERRY_OWNER_SOURCE, .target_outcome = FERRY_OUTCOME_DISCARDED,
	  .target_owner = FERRY_OWNER_SOURCE, .proof = true, .owner = FERRY_OWNER_SOURCE,
	  .verdict = VERDICT_NOT_AS_ASKED, .says = "The VM went on at the source" },
	{ "fell back from a dead target", .kill = TARGET_AT(FERRY_PHASE_POSTCOPY), .drilled = true,
	  .source_outcome = FERRY_OUTCOME_FELL_BACK, .source_owner = FERRY_OWNER_SOURCE,
	  .target_outcome = DEAD, .proof = true, .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_OK,
	  .says = "as it must after target@post-copy" },
	{ "the drill never came", .kill = TARGET_AT(FERRY_PHASE_POSTCOPY), .source_owner = FERRY_OWNER_TARGET,
	  .target_owner = FERRY_OWNER_TARGET, .proof = true, .owner = FERRY_OWNER_TARGET,
	  .verdict = VERDICT_NOT_AS_ASKED, .says = "never entered" },
	{ "the link healed", .kill = LINK_AT(FERRY_PHASE_POSTCOPY, 200), .drilled = true,
	  .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_OK, .says = "" },
	{ "the link did not heal", .kill = LINK_AT(FERRY_PHASE_POSTCOPY, 200), .drilled = true,
	  .source_outcome = FERRY_OUTCOME_FELL_BACK, .source_owner = FERRY_OWNER_SOURCE,
	  .target_outcome = FERRY_OUTCOME_DISCARDED, .target_owner = FERRY_OWNER_SOURCE, .proof = true,
	  .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_NOT_AS_ASKED, .says = "" },
	{ "a downtime waits for no link", .kill = LINK_AT(FERRY_PHASE_STOP_AND_COPY, 200), .drilled = true,
	  .source_outcome = FERRY_OUTCOME_FELL_BACK, .source_owner = FERRY_OWNER_SOURCE,
	  .target_outcome = FERRY_OUTCOME_DISCARDED, .target_owner = FERRY_OWNER_SOURCE, .proof = true,
	  .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_OK, .says = "as it must after" },
	{ "the source died early", .kill = SOURCE_AT(FERRY_PHASE_PRECOPY), .drilled = true,
	  .source_outcome = DEAD, .target_outcome = FERRY_OUTCOME_DISCARDED,
	  .target_owner = FERRY_OWNER_SOURCE, .owner = FERRY_OWNER_NONE, .verdict = VERDICT_OK,
	  .says = "The VM died with its host, as it must after source@pre-copy" },
	{ "fell back from a target that died at a message", .kill = AT_MESSAGE(TARGET, "RUNNING"),
	  .source_outcome = FERRY_OUTCOME_FELL_BACK, .source_owner = FERRY_OWNER_SOURCE,
	  .target_outcome = DEAD, .proof = true, .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_OK,
	  .says = "The VM went on at the source after target@RUNNING" },
	{ "the message never came", .kill = AT_MESSAGE(TARGET, "REFUSED"), .source_owner = FERRY_OWNER_TARGET,
	  .target_owner = FERRY_OWNER_TARGET, .proof = true, .owner = FERRY_OWNER_TARGET,
	  .verdict = VERDICT_NOT_AS_ASKED, .says = "never sent" },
	{ "cut at a message that the target sends", .kill = AT_MESSAGE(LINK, "RUNNING"), .drilled = true,
	  .source_outcome = FERRY_OUTCOME_FELL_BACK, .source_owner = FERRY_OWNER_SOURCE,
	  .target_outcome = FERRY_OUTCOME_DISCARDED, .target_owner = FERRY_OWNER_SOURCE, .proof = true,
	  .owner = FERRY_OWNER_SOURCE, .verdict = VERDICT_OK, .says = "after link@RUNNING" },
	{ "cut at a message that never came", .kill = AT_MESSAGE(LINK, "ABORT"),
	  .source_owner = FERRY_OWNER_TARGET, .target_owner = FERRY_OWNER_TARGET, .proof = true,
	  .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_NOT_AS_ASKED, .says = "never sent" },
	{ "in doubt", .kill = SOURCE_AT(FERRY_PHASE_COMMITMENT), .drilled = true, .source_outcome = DEAD,
	  .target_outcome = FERRY_OUTCOME_IN_DOUBT, .target_owner = FERRY_OWNER_UNKNOWN,
	  .owner = FERRY_OWNER_UNKNOWN, .verdict = VERDICT_LOST, .says = "in doubt" },
	{ "committed, and then the target died", .kill = TARGET_AT(FERRY_PHASE_ACTIVATION), .drilled = true,
	  .source_owner = FERRY_OWNER_TARGET, .target_outcome = DEAD, .owner = FERRY_OWNER_NONE,
	  .verdict = VERDICT_OK, .says = "as it must after target@activation" },
	{ "the owner died in its proof", .source_owner = FERRY_OWNER_TARGET,
	  .target_owner = FERRY_OWNER_TARGET, .owner = FERRY_OWNER_TARGET, .verdict = VERDICT_LOST,
	  .says = "died before the proof" },
	{ "both died", .source_outcome = DEAD, .target_outcome = DEAD, .owner = FERRY_OWNER_NONE,
	  .verdict = VERDICT_LOST, .says = "" },
	{ "classic post-copy and a dead target", .kill = TARGET_AT(FERRY_PHASE_POSTCOPY), .drilled = true,
	  .commit = SWITCHOVER, .source_owner = FERRY_OWNER_TARGET, .target_outcome = DEAD,
	  .owner = FERRY_OWNER_NONE, .verdict = VERDICT_OK, .says = "" },
};

static void tell(struct end_report *e, int outcome, int owner, bool drilled)
{
	e->begun = true;
	e->drilled = drilled;
	e->have_result = outcome != DEAD;
	if (outcome == DEAD)
		return;
	e->result.outcome = outcome ? (enum ferry_outcome)outcome : FERRY_OUTCOME_MIGRATED;
	e->result.owner = (enum ferry_owner)owner;
}

Test(judge, each_ending)
{
	static struct run_report r;

	for (size_t i = 0; i < sizeof(endings) / sizeof(*endings); i++) {
		const struct ending *e = &endings[i];
		struct options o = { .command = CMD_RUN, .kill = e->kill, .repeat = 1 };

		o.commit_at = e->commit == SWITCHOVER ? FERRY_COMMIT_AT_SWITCHOVER : FERRY_COMMIT_AT_DEFAULT;
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
		r.observer.stream[0].repeated = e->repeat;
		r.observer.damaged = e->damage;
		r.proof.guest_errors = e->errors;
		r.proof_err = e->unproved ? -EIO : 0;
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

/* A QEMU is not in the process of its end: it has the VM when that dies. */
Test(judge, a_source_that_died_beside_its_qemu)
{
	static struct run_report r;
	struct options o = { .command = CMD_SOURCE, .vmm = VM_QEMU, .repeat = 1 };

	r.o = &o;
	r.end[VMM_END_SOURCE].last = FERRY_PHASE_PRECOPY;
	judge(&r);
	cr_expect_eq(r.owner, FERRY_OWNER_SOURCE);
	cr_expect_eq(r.verdict, VERDICT_NOT_AS_ASKED);
	cr_expect(strstr(r.sentence, "its QEMU has the VM"), "%s", r.sentence);

	memset(&r, 0, sizeof(r));
	r.o = &o;
	r.end[VMM_END_SOURCE].last = FERRY_PHASE_COMMITMENT; /* the target may have the VM */
	judge(&r);
	cr_expect_eq(r.owner, FERRY_OWNER_UNKNOWN);

	memset(&r, 0, sizeof(r));
	o.kill = (struct kill_drill){ .who = KILL_SOURCE, .phase = FERRY_PHASE_PRECOPY };
	r.o = &o;
	r.whole = true;
	tell(&r.end[VMM_END_TARGET], FERRY_OUTCOME_DISCARDED, FERRY_OWNER_SOURCE, true);
	r.end[VMM_END_SOURCE].drilled = true;
	judge(&r);
	cr_expect_eq(r.owner, FERRY_OWNER_SOURCE);
	cr_expect_eq(r.verdict, VERDICT_OK, "%s", r.sentence);
	cr_expect(strstr(r.sentence, "its QEMU has the VM"), "%s", r.sentence);
}

/* --- one end of two machines that has not heard of the other --- */

struct alone {
	const char *name;
	enum command command;
	int outcome, owner; /* DEAD: its process died, when it had come to this phase */
	enum ferry_phase last;
	bool arbiter;
	struct kill_drill kill;
	/* what must come out */
	enum verdict verdict;
	enum ferry_owner owned;
	const char *reads, *says;
};

static const struct alone alones[] = {
	{ "a target that has it", CMD_TARGET, FERRY_OUTCOME_MIGRATED, FERRY_OWNER_TARGET,
	  .verdict = VERDICT_OK, .owned = FERRY_OWNER_TARGET, .reads = "migrated",
	  .says = "The VM runs at the target." },
	{ "a source that was told so", CMD_SOURCE, FERRY_OUTCOME_MIGRATED, FERRY_OWNER_TARGET,
	  .verdict = VERDICT_OK, .owned = FERRY_OWNER_TARGET, .reads = "migrated",
	  .says = "The VM is the target's." },
	{ "a target that discarded it", CMD_TARGET, FERRY_OUTCOME_DISCARDED, FERRY_OWNER_SOURCE,
	  .verdict = VERDICT_NOT_AS_ASKED, .owned = FERRY_OWNER_SOURCE, .reads = "discarded",
	  .says = "The VM is not here." },
	{ "a target that refused", CMD_TARGET, FERRY_OUTCOME_REFUSED, FERRY_OWNER_SOURCE,
	  .verdict = VERDICT_NOT_AS_ASKED, .owned = FERRY_OWNER_SOURCE, .reads = "refused",
	  .says = "The VM is not here." },
	{ "a source that fell back", CMD_SOURCE, FERRY_OUTCOME_FELL_BACK, FERRY_OWNER_SOURCE,
	  .verdict = VERDICT_NOT_AS_ASKED, .owned = FERRY_OWNER_SOURCE, .reads = "fell-back",
	  .says = "The VM went on at the source." },
	{ "a target in doubt", CMD_TARGET, FERRY_OUTCOME_IN_DOUBT, FERRY_OWNER_UNKNOWN,
	  .verdict = VERDICT_LOST, .owned = FERRY_OWNER_UNKNOWN, .reads = "in-doubt",
	  .says = "Who owns the VM is in doubt." },
	{ "a page server's target", CMD_TARGET, FERRY_OUTCOME_LOST, FERRY_OWNER_TARGET,
	  .verdict = VERDICT_LOST, .owned = FERRY_OWNER_TARGET, .reads = "lost", .says = "" },
	{ "a target died in pre-copy", CMD_TARGET, DEAD, 0, FERRY_PHASE_PRECOPY,
	  .verdict = VERDICT_NOT_AS_ASKED, .owned = FERRY_OWNER_SOURCE, .reads = "discarded",
	  .says = "The target's process died in pre-copy, before the VM could be its own: it is the source's." },
	{ "a target was killed in post-copy", CMD_TARGET, DEAD, 0, FERRY_PHASE_POSTCOPY,
	  .kill = TARGET_AT(FERRY_PHASE_POSTCOPY), .verdict = VERDICT_OK, .owned = FERRY_OWNER_SOURCE,
	  .reads = "discarded", .says = "as it must after target@post-copy." },
	{ "a target died in commitment", CMD_TARGET, DEAD, 0, FERRY_PHASE_COMMITMENT, .verdict = VERDICT_LOST,
	  .owned = FERRY_OWNER_UNKNOWN, .reads = "in-doubt",
	  .says = "died in commitment; which end has the VM cannot be known here." },
	{ "a target died with its VM", CMD_TARGET, DEAD, 0, FERRY_PHASE_ACTIVATION, .verdict = VERDICT_LOST,
	  .owned = FERRY_OWNER_NONE, .reads = "lost",
	  .says = "The VM died with the target's process, in activation." },
	{ "an arbiter may give it back", CMD_TARGET, DEAD, 0, FERRY_PHASE_ACTIVATION, .arbiter = true,
	  .verdict = VERDICT_LOST, .owned = FERRY_OWNER_UNKNOWN, .reads = "in-doubt",
	  .says = "cannot be known here." },
	{ "no arbiter gives it to a target that died early", CMD_TARGET, DEAD, 0, FERRY_PHASE_POSTCOPY,
	  .arbiter = true, .verdict = VERDICT_NOT_AS_ASKED, .owned = FERRY_OWNER_SOURCE, .reads = "discarded",
	  .says = "it is the source's." },
	{ "a source died with its VM", CMD_SOURCE, DEAD, 0, FERRY_PHASE_PRECOPY, .verdict = VERDICT_LOST,
	  .owned = FERRY_OWNER_NONE, .reads = "lost",
	  .says = "The VM died with the source's process, in pre-copy." },
	{ "a source was killed with its VM", CMD_SOURCE, DEAD, 0, FERRY_PHASE_POSTCOPY,
	  .kill = SOURCE_AT(FERRY_PHASE_POSTCOPY), .verdict = VERDICT_OK, .owned = FERRY_OWNER_NONE,
	  .reads = "lost", .says = "as it must after source@post-copy." },
	{ "a source died in commitment", CMD_SOURCE, DEAD, 0, FERRY_PHASE_COMMITMENT, .verdict = VERDICT_LOST,
	  .owned = FERRY_OWNER_UNKNOWN, .reads = "in-doubt",
	  .says = "The source's process died in commitment; which end has the VM cannot be known here." },
	{ "an arbiter may have given it away", CMD_SOURCE, DEAD, 0, FERRY_PHASE_STOP_AND_COPY,
	  .arbiter = true, .verdict = VERDICT_LOST, .owned = FERRY_OWNER_UNKNOWN, .reads = "in-doubt",
	  .says = "cannot be known here." },
	{ "not before the VM stood still", CMD_SOURCE, DEAD, 0, FERRY_PHASE_PRECOPY, .arbiter = true,
	  .verdict = VERDICT_LOST, .owned = FERRY_OWNER_NONE, .reads = "lost",
	  .says = "The VM died with the source's process" },
};

Test(judge, an_end_alone_says_what_it_knows)
{
	static struct run_report r;

	for (size_t i = 0; i < sizeof(alones) / sizeof(*alones); i++) {
		const struct alone *a = &alones[i];
		enum vmm_end end = a->command == CMD_TARGET ? VMM_END_TARGET : VMM_END_SOURCE;
		struct options o = { .command = a->command,
				     .kill = a->kill,
				     .repeat = 1,
				     .arbiter = a->arbiter ? "file:/x" : NULL };

		memset(&r, 0, sizeof(r));
		r.o = &o;
		r.end[end].last = a->last;
		tell(&r.end[end], a->outcome, a->owner, a->kill.who != KILL_NOBODY);
		judge(&r);
		cr_expect_eq(r.verdict, a->verdict, "%s: exit code %d, \"%s\"", a->name, r.verdict,
			     r.sentence);
		cr_expect_eq(r.owner, a->owned, "%s: owner %s", a->name, ferry_owner_name(r.owner));
		cr_expect_str_eq(r.outcome, a->reads, "%s: outcome %s", a->name, r.outcome);
		cr_expect(strstr(r.sentence, a->says) != NULL, "%s: \"%s\"", a->name, r.sentence);
	}
}

Test(judge, an_end_that_hung_was_killed)
{
	static struct run_report r;
	struct options o = { .command = CMD_RUN, .repeat = 1 };

	memset(&r, 0, sizeof(r));
	r.o = &o;
	r.whole = true;
	tell(&r.end[VMM_END_SOURCE], FERRY_OUTCOME_MIGRATED, FERRY_OWNER_TARGET, false);
	r.end[VMM_END_TARGET].hung = true;
	judge(&r);
	cr_expect_eq(r.verdict, VERDICT_LOST);
	cr_expect_str_eq(r.sentence,
			 "The VM died with its host: the target had not ended two minutes after the source, and was killed");
}
