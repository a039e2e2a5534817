// SPDX-License-Identifier: MIT
/* Links that break, heal, fall silent or are too slow, in each phase: who owns the VM, and what is lost. */
#include <stdio.h>

#include "patience.h"
#include "rig.h"
#include "runtime/session/session.h"

#define SLOW 16000000u /* bytes a second: post-copy then takes a third of a second */

struct drill {
	enum ferry_phase at; /* when this end enters it */
	bool at_target;	     /* this end */
	bool break_target;   /* whose filter breaks the link */
	const char *keep;    /* before it: the link will not be closed; or NULL */
	const char *fault;
	bool done;
};

static void do_drill(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct drill *d = r->arg;
	struct ferry_session *s = d->break_target ? r->tgt.session : r->src.session;
	int err = 0;

	if (p != d->at || d->done)
		return;
	d->done = true;
	if (d->keep)
		err = ferry_drill(s, d->keep);
	if (!err)
		err = ferry_drill(s, d->fault);
	if (err)
		world_trouble(vm->w, "ferry_drill(%s): %d", d->fault, err);
}

static void setup(struct rig *r, struct drill *d, const struct rig_kind *kind)
{
	rig_init(r, kind);
	r->arg = d;
	(d->at_target ? &r->tgt : &r->src)->phase_hook = do_drill;
}

static void reconnected_once(const struct rig *r)
{
	cr_assert_eq(r->sres.stats.reconnects, 1, "source: %u", r->sres.stats.reconnects);
	cr_assert_eq(r->tres.stats.reconnects, 1, "target: %u", r->tres.stats.reconnects);
	cr_assert_str_eq(r->src.links, "the link is lost the link is back");
	cr_assert_str_eq(r->tgt.links, "the link is lost the link is back");
	/* One end has met it on a channel; the other may have been told by a newer connection. */
	if (!strncmp(r->uri, "tcp", 3))
		cr_assert(*r->src.link_cause || *r->tgt.link_cause,
			  "neither end's event says what the link was lost of");
}

/* Each end names the address of the other; the ports are any. */
static void says_where(const struct rig *r)
{
	const char *host = strchr(r->uri, ':') + 1;
	char says[120];

	if (!strncmp(r->uri, "mem", 3))
		return;
	snprintf(says, sizeof(says), "the link to the target (%.*s:", (int)strcspn(host, ":"), host);
	rig_says(r->sres.detail, says);
	snprintf(says, sizeof(says), "the link to the source (%.*s:", (int)strcspn(host, ":"), host);
	rig_says(r->tres.detail, says);
}

/* ---- back in time ---- */

static void heals(const struct rig_kind *kind, struct drill d, bool postcopy, enum ferry_commit_at commit)
{
	struct rig r;

	setup(&r, &d, kind);
	if (postcopy)
		rig_postcopy(&r, d.at == FERRY_PHASE_POSTCOPY ? SLOW : 0);
	r.scfg.commit_at = commit;
	rig_run(&r);
	cr_assert(d.done);
	rig_migrated(&r);
	reconnected_once(&r);
	rig_free(&r);
}

RIG_TESTS(heals, in_pre_copy)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_PRECOPY, .fault = "cut:100" }, false, 0);
}

RIG_PAIR(heals, in_pre_copy_broken_by_the_target)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_PRECOPY, .fault = "cut:100", .break_target = true },
	      false, 0);
}

RIG_TESTS(heals, in_post_copy)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut:100" }, true, 0);
}

RIG_PAIR(heals, in_post_copy_broken_by_the_target)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut:100", .break_target = true },
	      true, 0);
}

RIG_TESTS(heals, in_commitment_with_the_commit_lost)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_COMMITMENT, .fault = "cut:100" }, true, 0);
}

RIG_PAIR(heals, in_activation_with_committed_lost)
{
	heals(kind,
	      (struct drill){ .at = FERRY_PHASE_ACTIVATION,
			      .at_target = true,
			      .break_target = true,
			      .fault = "cut:100" },
	      true, 0);
}

static void cut_in_second_postcopy(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_POSTCOPY && vm->calls[FAKE_DIRTY_STOP])
		do_drill(vm, p);
}

RIG_TESTS(heals, under_a_page_server)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .fault = "cut:100" };
	struct rig r;

	setup(&r, &d, kind);
	rig_postcopy(&r, SLOW);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	r.src.phase_hook = cut_in_second_postcopy;
	rig_run(&r);
	rig_migrated(&r);
	reconnected_once(&r);
	rig_free(&r);
}

/* Two links at once would pin all memory twice: the next one waits until the last is closed. */
RIG_PAIR(heals, in_post_copy_when_the_close_takes_longer_than_the_cut)
{
	heals(kind, (struct drill){ .at = FERRY_PHASE_POSTCOPY, .keep = "keep:100", .fault = "cut:1" }, true,
	      0);
}

/* In doubt nobody runs: the tentative run stands still until the COMMIT is here. */
RIG_PAIR(heals, in_commitment_with_prepared_lost)
{
	struct drill d = {
		.at = FERRY_PHASE_COMMITMENT, .at_target = true, .break_target = true, .fault = "cut:100"
	};
	struct rig r;

	setup(&r, &d, kind);
	rig_postcopy(&r, SLOW);
	rig_run(&r);
	rig_migrated(&r);
	reconnected_once(&r);
	cr_assert_str_eq(r.tgt.ops_seen,
			 "reserve load output_hold resume pause activate resume output_release");
	rig_free(&r);
}

/* Between two rounds: what the fences have confirmed is not sent again. */
static void cut_at_fetch(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_DIRTY_FETCH && vm->calls[op] == 1)
		do_drill(vm, FERRY_PHASE_PRECOPY);
}

RIG_PAIR(heals, between_rounds)
{
	struct drill d = { .at = FERRY_PHASE_PRECOPY, .fault = "cut:50" };
	struct rig r;

	setup(&r, &d, kind);
	r.src.phase_hook = NULL;
	r.src.hook = cut_at_fetch;
	r.src.writes[0] = 1000; /* 60 ms of this link, and the limit is 10 */
	r.scfg.bandwidth = 64000000;
	r.scfg.downtime_us = 10000;
	rig_run(&r);
	rig_migrated(&r);
	reconnected_once(&r);
	cr_assert_lt(r.sres.stats.pages_sent, 2 * FAKE_PAGES);
	rig_free(&r);
}

RIG_PAIR(heals, a_pause_of_the_network_shorter_than_the_timeout)
{
	struct drill d = { .at = FERRY_PHASE_PRECOPY, .fault = "stall:100" };
	struct rig r;

	setup(&r, &d, kind);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.sres.stats.reconnects, 0);
	rig_free(&r);
}

/* ---- back, and not as it was ---- */

static uint32_t back_with; /* data channels */

static void changes_its_channels(struct fakevm *vm, const char *what)
{
	if (!strcmp(what, "the link is lost"))
		vm->session->cfg.channels = back_with;
}

/* What the target has made for so many channels does for no other number: a worker would have none, or pages nobody who lands them. */
static void with_other_channels(const struct rig_kind *kind, enum ferry_phase at, uint32_t channels)
{
	struct drill d = { .at = at, .fault = "cut:100" };
	char says[100];
	struct rig r;

	setup(&r, &d, kind);
	rig_postcopy(&r, SLOW);
	r.scfg.channels = 2;
	back_with = channels;
	r.src.link_hook = changes_its_channels;
	rig_run(&r);
	cr_assert(d.done);
	rig_source_owns(&r);
	cr_assert_eq(r.tres.error, -EPROTO, "%s", r.tres.detail);
	snprintf(says, sizeof(says), "the source came back with %u data channels; it had 2", channels);
	rig_says(r.tres.detail, says);
	rig_free(&r);
}

RIG_PAIR(refused_back, with_more_channels_in_pre_copy)
{
	with_other_channels(kind, FERRY_PHASE_PRECOPY, 3);
}
RIG_PAIR(refused_back, with_fewer_channels_in_pre_copy)
{
	with_other_channels(kind, FERRY_PHASE_PRECOPY, 1);
}
RIG_PAIR(refused_back, with_more_channels_in_post_copy)
{
	with_other_channels(kind, FERRY_PHASE_POSTCOPY, 3);
}
RIG_PAIR(refused_back, with_fewer_channels_in_post_copy)
{
	with_other_channels(kind, FERRY_PHASE_POSTCOPY, 1);
}

/* Not by its own free will: as a program would be that lies, or has lost its way. */
static void says_that_it_gave_up(struct fakevm *vm, const char *what)
{
	if (!strcmp(what, "the link is lost"))
		atomic_store(&vm->session->commit.state, COMMIT_ABORTED);
}

/* A target that answers ABORTED and says no more: the VM goes on at the source, which waits for no words that do not come. */
static void answers_aborted(const struct rig_kind *kind)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .fault = "cut:100" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	r.scfg.reconnect_us = r.tcfg.reconnect_us = 1000000 * patience();
	rig_postcopy(&r, SLOW);
	r.tgt.link_hook = says_that_it_gave_up;
	rig_run(&r);
	cr_assert(d.done);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_FELL_BACK, "%s", ferry_outcome_name(r.sres.outcome));
	cr_assert_eq(r.sres.error, -ECONNABORTED, "%s", r.sres.detail);
	rig_says(r.sres.detail, "the target has given up while the link was lost");
	rig_free(&r);
}

Test(refused_back, by_a_target_that_answers_aborted_mem_memfd, .timeout = 60)
{
	answers_aborted(RIG_MEM_SHARED);
}

Test(refused_back, by_a_target_that_answers_aborted_tcp_anon, .timeout = 60)
{
	answers_aborted(RIG_TCP_ANON);
}

/* ---- lost for good, or silent ---- */

static void source_keeps(const struct rig_kind *kind, struct drill d, bool postcopy)
{
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	if (postcopy)
		rig_postcopy(&r, SLOW);
	rig_run(&r);
	cr_assert(d.done);
	rig_source_owns(&r);
	cr_assert_eq(r.sres.error, -EPIPE);
	cr_assert_eq(r.tres.error, -EPIPE);
	rig_says(r.sres.detail, "lost in");
	rig_says(r.tres.detail, "lost in");
	rig_free(&r);
}

RIG_PAIR(lost, in_pre_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_PRECOPY, .fault = "cut" }, false);
}

RIG_PAIR(lost, in_stop_and_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_STOP_AND_COPY, .fault = "cut" }, false);
}

RIG_PAIR(lost, in_stop_and_copy_before_post_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_STOP_AND_COPY, .fault = "cut" }, true);
}

RIG_PAIR(lost, in_stop_and_copy_at_the_target)
{
	source_keeps(kind,
		     (struct drill){ .at = FERRY_PHASE_STOP_AND_COPY,
				     .at_target = true,
				     .break_target = true,
				     .fault = "cut" },
		     true);
}

RIG_TESTS(lost, in_post_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut" }, true);
}

RIG_PAIR(lost, in_post_copy_before_running_was_heard)
{
	source_keeps(kind,
		     (struct drill){ .at = FERRY_PHASE_POSTCOPY,
				     .at_target = true,
				     .break_target = true,
				     .fault = "cut" },
		     true);
}

RIG_PAIR(silent, in_pre_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_PRECOPY, .fault = "stall:60000" }, false);
}

RIG_PAIR(silent, target_in_pre_copy)
{
	source_keeps(kind,
		     (struct drill){
			     .at = FERRY_PHASE_PRECOPY, .break_target = true, .fault = "stall:60000" },
		     false);
}

RIG_PAIR(silent, in_stop_and_copy)
{
	source_keeps(kind, (struct drill){ .at = FERRY_PHASE_STOP_AND_COPY, .fault = "stall:60000" }, true);
}

/* Over tcp only: mem needs nobody at the source to move pages, so there the pull would go on to its end. */
Test(silent, in_post_copy_tcp_memfd)
{
	source_keeps(RIG_TCP_SHARED, (struct drill){ .at = FERRY_PHASE_POSTCOPY, .fault = "stall:60000" },
		     true);
}

RIG_PAIR(silent, target_in_post_copy)
{
	source_keeps(kind,
		     (struct drill){
			     .at = FERRY_PHASE_POSTCOPY, .break_target = true, .fault = "stall:60000" },
		     true);
}

static void let_go_when_it_runs(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_RESUME && ferry_drill(vm->session, "heal"))
		world_trouble(vm->w, "ferry_drill(heal)");
}

/* The device lets go of the lost link when the VM runs again, and not before: waiting for it would be for ever. */
RIG_PAIR(lost, the_vm_waits_for_no_device)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .keep = "keep", .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, SLOW);
	r.src.hook = let_go_when_it_runs;
	rig_run(&r);
	rig_fell_back(&r);
	cr_assert_eq(r.sres.error, -EPIPE, "%s", r.sres.detail);
	rig_free(&r);
}

RIG_PAIR(lost, without_a_reconnect_at_once)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_postcopy(&r, SLOW);
	r.scfg.flags |= FERRY_CONFIG_NO_RECONNECT;
	r.tcfg.flags |= FERRY_CONFIG_NO_RECONNECT;
	rig_run(&r);
	rig_fell_back(&r);
	rig_says(r.sres.detail, "did not come back within 0 ms");
	says_where(&r);
	rig_free(&r);
}

/* ---- around the commit ---- */

static void in_doubt(const struct rig *r, const struct ferry_result *res)
{
	cr_assert_eq(res->outcome, FERRY_OUTCOME_IN_DOUBT, "%s (%s)", ferry_outcome_name(res->outcome),
		     res->detail);
	cr_assert_eq(res->owner, FERRY_OWNER_UNKNOWN);
	cr_assert_str_eq(r->world.trouble, "");
}

/* The source has decided, and nobody tells it whether the target has heard: nobody runs. */
RIG_PAIR(around_commit, lost_after_the_decision)
{
	struct drill d = { .at = FERRY_PHASE_COMMITMENT, .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, 0);
	rig_run(&r);
	in_doubt(&r, &r.sres);
	in_doubt(&r, &r.tres);
	cr_assert(!world_source_runs(&r.world) && !world_target_runs(&r.world));
	cr_assert_eq(r.src.calls[FAKE_RESUME] + r.src.calls[FAKE_RETIRE], 0);
	cr_assert_eq(r.tgt.calls[FAKE_DISCARD] + r.tgt.calls[FAKE_RELEASE] + r.tgt.calls[FAKE_ACTIVATE], 0);
	cr_assert_eq(r.tres.stats.pages_remaining, 0);
	rig_free(&r);
}

RIG_PAIR(around_commit, lost_with_prepared)
{
	struct drill d = {
		.at = FERRY_PHASE_COMMITMENT, .at_target = true, .break_target = true, .fault = "cut"
	};
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, 0);
	rig_run(&r);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_FELL_BACK, "%s", r.sres.detail);
	in_doubt(&r, &r.tres);
	cr_assert(world_source_runs(&r.world) && !world_target_runs(&r.world));
	cr_assert_eq(r.tgt.calls[FAKE_DISCARD] + r.tgt.calls[FAKE_RELEASE] + r.tgt.calls[FAKE_ACTIVATE], 0);
	fakevm_run_on(&r.src);
	fakevm_check_memory(&r.src);
	rig_free(&r);
}

/* The downtime does not wait for the network; the target is told as soon as it is back. */
RIG_PAIR(around_commit, prepared_lost_in_the_downtime_falls_back)
{
	struct drill d = {
		.at = FERRY_PHASE_COMMITMENT, .at_target = true, .break_target = true, .fault = "cut:100"
	};
	struct rig r;

	setup(&r, &d, kind);
	rig_run(&r);
	rig_fell_back(&r);
	rig_says(r.sres.detail, "was lost in commitment");
	rig_free(&r);
}

RIG_PAIR(around_commit, goodbye_lost_changes_nothing)
{
	struct drill d = { .at = FERRY_PHASE_ACTIVATION, .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, 0);
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

static void cancel_and_drill(struct fakevm *vm, enum ferry_phase p)
{
	struct drill *d = ((struct rig *)vm->arg)->arg;

	if (p == d->at && !d->done)
		ferry_cancel(vm->session);
	do_drill(vm, p);
}

/* An ABORT that was sent is not yet one that was heard: the target, which is PREPARED, is told again. */
RIG_PAIR(around_commit, abort_lost_is_said_again)
{
	struct drill d = { .at = FERRY_PHASE_COMMITMENT, .fault = "lost:ABORT:100" };
	struct rig r;

	setup(&r, &d, kind);
	rig_postcopy(&r, 0);
	r.scfg.timeout_us = 500000 * patience();
	r.src.phase_hook = cancel_and_drill;
	rig_run(&r);
	cr_assert(d.done);
	rig_fell_back(&r);
	cr_assert_eq(r.sres.error, -ECANCELED, "%s", r.sres.detail);
	cr_assert_eq(r.tres.error, -ECANCELED, "%s", r.tres.detail);
	rig_free(&r);
}

/* With an arbiter at both ends exactly one owner comes out of each of these. */
static void arbitrated(const struct rig_kind *kind, struct drill d)
{
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, 0);
	r.src.ops.arbiter = r.tgt.ops.arbiter = fake_arbiter;
	rig_run(&r);
	cr_assert_eq(r.src.calls[FAKE_ARBITER], 1);
	cr_assert_eq(r.tgt.calls[FAKE_ARBITER], 1);
	cr_assert_eq(r.sres.owner, r.world.record);
	cr_assert_eq(r.tres.owner, r.world.record);
	if (r.world.record == FERRY_OWNER_TARGET)
		rig_migrated(&r);
	else
		rig_fell_back(&r);
	rig_free(&r);
}

RIG_PAIR(arbiter, settles_a_commit_that_was_lost)
{
	arbitrated(kind, (struct drill){ .at = FERRY_PHASE_COMMITMENT, .fault = "cut" });
}

RIG_PAIR(arbiter, settles_a_prepared_that_was_lost)
{
	arbitrated(kind, (struct drill){ .at = FERRY_PHASE_COMMITMENT,
					 .at_target = true,
					 .break_target = true,
					 .fault = "cut" });
}

/* A target that breaks off in doubt for another reason than a lost link asks, too. */
RIG_PAIR(arbiter, settles_a_commit_that_was_damaged)
{
	arbitrated(kind, (struct drill){ .at = FERRY_PHASE_COMMITMENT, .fault = "corrupt@1" });
}

/* ---- commit before all memory is there ---- */

RIG_PAIR(page_server, lost_for_good_loses_the_vm)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, SLOW);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	r.src.phase_hook = cut_in_second_postcopy;
	rig_run(&r);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_LOST, "%s: %s", ferry_outcome_name(r.sres.outcome),
		     r.sres.detail);
	cr_assert_eq(r.tres.outcome, FERRY_OUTCOME_LOST, "%s: %s", ferry_outcome_name(r.tres.outcome),
		     r.tres.detail);
	cr_assert(r.sres.owner == FERRY_OWNER_TARGET && r.tres.owner == FERRY_OWNER_TARGET);
	cr_assert(!world_source_runs(&r.world) && !world_target_runs(&r.world));
	cr_assert_eq(r.tgt.calls[FAKE_DISCARD], 1);
	cr_assert_eq(r.src.calls[FAKE_RESUME], 0);
	rig_free(&r);
}

static void hold_for(struct rig *r, const struct rig_kind *kind, enum ferry_hold action)
{
	rig_init(r, kind);
	rig_postcopy(r, SLOW);
	r->scfg.hold_limit_us = 50000;
	r->scfg.at_hold_limit = action;
	rig_run(r);
}

RIG_TESTS(hold_limit, falls_back)
{
	struct rig r;

	hold_for(&r, kind, FERRY_HOLD_FALLBACK);
	rig_fell_back(&r);
	cr_assert_eq(r.tres.error, -ETIME);
	cr_assert_eq(r.sres.error, -ETIME);
	rig_says(r.tres.detail, "post-copy lasted longer than output may be held (50 ms)");
	rig_says(r.sres.detail, "the target gave up: post-copy lasted longer");
	rig_free(&r);
}

/* The end of the wait for a source that is gone, which lasts as long as a reconnect may take. */
static void cancel_at_discard(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_DISCARD)
		ferry_cancel(vm->session);
}

/* Held output piles up while the link is down, too: the VM is given up then, not when the link's hour is over. */
static void counts_while_the_link_is_down(const struct rig_kind *kind)
{
	struct drill d = { .at = FERRY_PHASE_POSTCOPY, .fault = "cut" };
	struct rig r;

	setup(&r, &d, kind);
	rig_impatient(&r);
	rig_postcopy(&r, SLOW);
	r.scfg.hold_limit_us = 500000 * patience();
	r.tcfg.reconnect_us = 3600000000;
	r.tgt.hook = cancel_at_discard;
	rig_run(&r);
	cr_assert(d.done);
	rig_fell_back(&r);
	rig_says(r.tres.detail, "was lost in post-copy");
	rig_free(&r);
}

Test(hold_limit, counts_while_the_link_is_down_mem_memfd, .timeout = 60)
{
	counts_while_the_link_is_down(RIG_MEM_SHARED);
}

Test(hold_limit, counts_while_the_link_is_down_tcp_anon, .timeout = 60)
{
	counts_while_the_link_is_down(RIG_TCP_ANON);
}

RIG_TESTS(hold_limit, commits_early)
{
	struct rig r;

	hold_for(&r, kind, FERRY_HOLD_COMMIT);
	rig_migrated(&r);
	rig_says(r.tgt.policy, "the hold limit has passed");
	cr_assert_str_eq(r.tgt.phases_seen,
			 "pre-migration reservation pre-copy stop-and-copy post-copy commitment "
			 "activation post-copy done");
	cr_assert_str_eq(r.src.phases_seen, r.tgt.phases_seen);
	cr_assert_eq(r.tgt.calls[FAKE_RELEASE], 1);
	rig_free(&r);
}
