// SPDX-License-Identifier: MIT
/*
 * Links that come back and bring nothing: the bound is the progress of what is waited for, in each phase and at both
 * ends, and the sentence names the likely cause. Links that bring a little each time are not given up.
 */
#include "patience.h"
#include "rig.h"

#include <stdio.h>
#include <unistd.h>

struct trouble {
	enum ferry_phase
		at; /* when the source enters it; of two times post-copy, the second is the page server's */
	bool page_server;
	bool at_target;	   /* whose filter it is */
	const char *fault; /* then */
	const char *again; /* and each time that the link is back, */
	unsigned times;	   /* if not 0 only so often; or NULL */
	bool cancel;	   /* the source is canceled when the link is back */
	bool began;
};

static void break_it(struct rig *r, const char *fault)
{
	struct trouble *t = r->arg;
	int err = ferry_drill(t->at_target ? r->tgt.session : r->src.session, fault);

	if (err)
		world_trouble(&r->world, "ferry_drill(%s): %d", fault, err);
}

static void begin(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct trouble *t = r->arg;

	if (p != t->at || t->began || (t->page_server && !vm->calls[FAKE_DIRTY_STOP]))
		return;
	t->began = true;
	break_it(r, t->fault);
}

/* The source has sent its last round and is about to have the residue dropped at the target. */
static void begin_before_prearm(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_DIRTY_FETCH && vm->calls[op] == 1)
		begin(vm, FERRY_PHASE_DONE);
}

static void link_event(struct fakevm *vm, const char *what)
{
	struct rig *r = vm->arg;
	struct trouble *t = r->arg;

	if (!t->began || strcmp(what, "the link is back"))
		return;
	if (t->again && (!t->times || t->times-- > 1))
		break_it(r, t->again);
	if (t->cancel)
		ferry_cancel(vm->session);
}

static void setup(struct rig *r, struct trouble *t, const struct rig_kind *kind)
{
	rig_init(r, kind);
	rig_impatient(r);
	r->arg = t;
	r->src.phase_hook = begin;
	r->src.link_hook = link_event;
	if (t->page_server)
		r->scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	if (t->at != FERRY_PHASE_PRECOPY)
		rig_postcopy(r, 16000000);
	if (t->at == FERRY_PHASE_DONE)
		r->src.hook = begin_before_prearm;
}

/* Who goes on reconnecting for as long as it works never comes here. */
static void ended(struct rig *r, const struct trouble *t, const char *source, const char *target)
{
	cr_assert(t->began);
	cr_assert_eq(r->sres.error, -EPIPE, "%d: %s", r->sres.error, r->sres.detail);
	cr_assert_geq(r->sres.stats.reconnects + r->tres.stats.reconnects, 1);
	rig_says(r->sres.detail, source);
	rig_says(r->tres.detail, target);
}

static void source_owns(const struct rig_kind *kind, struct trouble t, const char *says)
{
	struct rig r;

	setup(&r, &t, kind);
	rig_run(&r);
	rig_source_owns(&r);
	ended(&r, &t, says, says);
	rig_free(&r);
}

static void loses_the_vm(const struct rig_kind *kind, struct trouble t, const char *says)
{
	struct rig r;

	t.page_server = true;
	setup(&r, &t, kind);
	rig_run(&r);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_LOST, "%s: %s", ferry_outcome_name(r.sres.outcome),
		     r.sres.detail);
	cr_assert_eq(r.tres.outcome, FERRY_OUTCOME_LOST, "%s: %s", ferry_outcome_name(r.tres.outcome),
		     r.tres.detail);
	cr_assert(!world_source_runs(&r.world) && !world_target_runs(&r.world));
	cr_assert_gt(r.tres.stats.pages_remaining, 0);
	ended(&r, &t, says, says);
	rig_free(&r);
}

/* ---- messages cross, pages do not ---- */

RIG_TESTS(no_page, in_pre_copy)
{
	source_owns(kind, (struct trouble){ .at = FERRY_PHASE_PRECOPY, .fault = "mtu" }, "MTU");
}

/* Over mem nobody at the target lands pages in pre-copy, */
Test(no_page, in_pre_copy_at_the_target_tcp_anon)
{
	source_owns(RIG_TCP_ANON,
		    (struct trouble){ .at = FERRY_PHASE_PRECOPY, .at_target = true, .fault = "mtu" }, "MTU");
}

RIG_TESTS(no_page, in_post_copy)
{
	source_owns(kind, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .at_target = true, .fault = "mtu" },
		    "MTU");
}

/* and nobody at the source moves any in post-copy. */
Test(no_page, in_post_copy_at_the_source_tcp_memfd)
{
	source_owns(RIG_TCP_SHARED, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .fault = "mtu" }, "MTU");
}

RIG_TESTS(no_page, under_a_page_server)
{
	loses_the_vm(kind, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .at_target = true, .fault = "mtu" },
		     "MTU");
}

/* A link that comes back for ever is no reason not to listen. */
RIG_PAIR(no_page, is_canceled)
{
	struct trouble t = { .at = FERRY_PHASE_POSTCOPY, .at_target = true, .fault = "mtu", .cancel = true };
	struct rig r;

	setup(&r, &t, kind);
	r.scfg.reconnect_us = r.tcfg.reconnect_us = 20000000;
	rig_run(&r);
	rig_fell_back(&r);
	cr_assert_eq(r.sres.error, -ECANCELED, "%d: %s", r.sres.error, r.sres.detail);
	cr_assert_eq(r.tres.error, -ECANCELED, "%d: %s", r.tres.error, r.tres.detail);
	rig_free(&r);
}

static void goes_on(const struct rig_kind *kind, struct trouble t)
{
	unsigned more = patience();
	char fault[24];
	struct rig r;

	snprintf(fault, sizeof(fault), "mtu:%u", 1300 * more);
	t.fault = fault;
	setup(&r, &t, kind);
	r.scfg.timeout_us = r.tcfg.timeout_us = 600000 * more; /* within the hole's time */
	r.scfg.reconnect_us = r.tcfg.reconnect_us = 10000000 * more;
	rig_run(&r);
	cr_assert(t.began);
	rig_migrated(&r);
	cr_assert_geq(r.sres.stats.reconnects, 1);
	rig_free(&r);
}

/* Twice as long as a link without pages is believed, and less than all that is waited for. */
RIG_PAIR(no_page, in_pre_copy_for_a_while)
{
	goes_on(kind, (struct trouble){ .at = FERRY_PHASE_PRECOPY });
}

RIG_PAIR(no_page, in_post_copy_for_a_while)
{
	goes_on(kind, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .at_target = true });
}

/* ---- each link is lost before anything has come of it ---- */

RIG_PAIR(again_and_again, in_pre_copy)
{
	source_owns(kind, (struct trouble){ .at = FERRY_PHASE_PRECOPY, .fault = "cut:1", .again = "cut:1" },
		    "came back");
}

RIG_PAIR(again_and_again, before_the_residue_is_dropped)
{
	source_owns(kind, (struct trouble){ .at = FERRY_PHASE_DONE, .fault = "cut:1", .again = "cut:1" },
		    "came back");
}

/* Each link stands until it is silent: PREARM takes it along, and the heartbeats behind it. */
RIG_PAIR(again_and_again, at_prearm)
{
	source_owns(kind,
		    (struct trouble){
			    .at = FERRY_PHASE_DONE, .fault = "lost:PREARM:1", .again = "lost:PREARM:1" },
		    "came back");
}

RIG_PAIR(again_and_again, in_post_copy)
{
	source_owns(kind, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut:1", .again = "cut:1" },
		    "came back");
}

RIG_PAIR(again_and_again, under_a_page_server)
{
	loses_the_vm(kind, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut:1", .again = "cut:1" },
		     "came back");
}

/* Each COMMIT is lost: both are in doubt, and say so after a while. */
RIG_PAIR(again_and_again, in_commitment)
{
	struct trouble t = { .at = FERRY_PHASE_COMMITMENT, .fault = "cut:1", .again = "cut:1" };
	struct rig r;

	setup(&r, &t, kind);
	rig_run(&r);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_IN_DOUBT, "%s: %s", ferry_outcome_name(r.sres.outcome),
		     r.sres.detail);
	cr_assert_eq(r.tres.outcome, FERRY_OUTCOME_IN_DOUBT, "%s: %s", ferry_outcome_name(r.tres.outcome),
		     r.tres.detail);
	cr_assert(!world_source_runs(&r.world) && !world_target_runs(&r.world));
	ended(&r, &t, "came back", "came back");
	rig_free(&r);
}

/* ---- each link brings something ---- */

/* The source's first heartbeat of pre-copy is out before it knows of any page: nothing left to put, it says. */
static void begin_with_a_heartbeat(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_START)
		return;
	break_it(vm->arg, "cut-after:PING:1");
	while (ferry_drill(vm->session, "pending") == 1)
		usleep(1000);
}

/* Each link lives for `fault`, and is back soon; all together it takes longer than one outage may. */
static void limps(const struct rig_kind *kind, struct trouble t, uint64_t bandwidth)
{
	struct rig r;

	t.again = t.fault;
	setup(&r, &t, kind);
	r.scfg.timeout_us = r.tcfg.timeout_us = 600000; /* a heartbeat each 150 ms */
	r.scfg.reconnect_us = r.tcfg.reconnect_us = 500000;
	if (t.at == FERRY_PHASE_PRECOPY)
		r.src.hook = begin_with_a_heartbeat;
	if (t.at == FERRY_PHASE_PRECOPY)
		r.scfg.timeout_us = r.tcfg.timeout_us = 1000000;
	*(t.at == FERRY_PHASE_PRECOPY ? &r.scfg.bandwidth : &r.tcfg.bandwidth) = bandwidth;
	rig_run(&r);
	cr_assert(t.began, "%s; %s", r.sres.detail, r.tres.detail);
	rig_migrated(&r);
	cr_assert_geq(r.sres.stats.reconnects, 2, "%u", r.sres.stats.reconnects);
	rig_free(&r);
}

/* Of a round, what no fence has confirmed is sent again; there is one a second. */
RIG_PAIR(a_little_each_time, in_pre_copy)
{
	limps(kind,
	      (struct trouble){ .at = FERRY_PHASE_PRECOPY, .fault = "cut-before:PING@11:50", .times = 3 },
	      1000000);
}

/* Over mem: at a limit that slow the pre-copy before it would stand in tcp's buffers for longer than the timeout. */
Test(a_little_each_time, in_post_copy_mem_anon)
{
	limps(RIG_MEM_ANON, (struct trouble){ .at = FERRY_PHASE_POSTCOPY, .fault = "cut-before:PING@3:50" },
	      4000000);
}

Test(a_little_each_time, under_a_page_server_mem_memfd)
{
	limps(RIG_MEM_SHARED,
	      (struct trouble){
		      .at = FERRY_PHASE_POSTCOPY, .page_server = true, .fault = "cut-before:PING@3:50" },
	      4000000);
}
