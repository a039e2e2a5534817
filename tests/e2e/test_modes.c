// SPDX-License-Identifier: MIT
/* Every way to finish, over each transport and kind of memory: who runs when, what is called, every byte. */
#include <stdio.h>

#include "patience.h"
#include "rig.h"

#define SOURCE_OPS "needs dirty_start dirty_fetch pause dirty_fetch save dirty_stop retire"

static void phases(const struct fakevm *vm, const char *due)
{
	cr_assert_str_eq(vm->phases_seen, due);
}

static void ops(const struct fakevm *vm, const char *due)
{
	cr_assert_str_eq(vm->ops_seen, due);
}

static void downtime_sums_up(const struct rig *r)
{
	const struct ferry_downtime *b = &r->sres.stats.downtime;

	cr_assert_gt(b->total_us, 0);
	cr_assert_eq(b->total_us, b->pause_us + b->fetch_us + b->residue_us + b->save_us + b->send_us +
					  b->arm_us + b->load_us + b->resume_us);
}

RIG_TESTS(stop_and_copy, moves_everything)
{
	static const char walk[] =
		"pre-migration reservation pre-copy stop-and-copy commitment activation done";
	struct rig r;

	rig_init(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_run(&r);
	rig_migrated(&r);
	phases(&r.src, walk);
	phases(&r.tgt, walk);
	ops(&r.src, SOURCE_OPS);
	ops(&r.tgt, "reserve load activate resume");
	rig_says(r.src.policy, "stop-and-copy after");
	cr_assert_eq(r.sres.stats.pages_residue, 0);
	cr_assert_eq(r.sres.stats.pages_hole, FAKE_HOLES);
	cr_assert_eq(r.sres.stats.pages_total, FAKE_PAGES);
	cr_assert_geq(r.sres.stats.pages_zero, FAKE_ZEROS);
	downtime_sums_up(&r);
	rig_free(&r);
}

RIG_TESTS(stop_and_copy, over_four_channels)
{
	struct rig r;

	rig_init(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	r.scfg.channels = 4;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

/* The rig forces one way of landing over tcp. Here the other way, in every mode; mem has no choice. */
RIG_TESTS(landing, the_other_way)
{
	static const enum ferry_mode modes[] = { FERRY_MODE_STOP_AND_COPY, FERRY_MODE_POSTCOPY };

	for (unsigned i = 0; i < 4; i++) {
		struct rig r;

		rig_init(&r, kind);
		r.tcfg.landing = FERRY_LANDING_WAY_MAPPING;
		if (i / 2)
			rig_allocate(&r);
		if (modes[i % 2] == FERRY_MODE_POSTCOPY)
			rig_postcopy(&r, 0);
		else
			r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
		rig_run(&r);
		rig_migrated(&r);
#ifndef RIG_RDMA
		cr_assert_eq(r.tres.stats.nlandings, kind->way ? 1 : 0);
		cr_assert_eq(r.tres.stats.landing[0].way,
			     kind->way ? r.tcfg.landing : FERRY_LANDING_WAY_AUTO);
#endif
		cr_assert_eq(r.sres.stats.nlandings, 0);
		rig_free(&r);
	}
}

/* By default what was measured decides, and says so. */
RIG_TESTS(landing, is_measured)
{
	const struct ferry_landing *l;
	struct rig r;

	rig_init(&r, kind);
	r.tcfg.landing = FERRY_LANDING_WAY_AUTO;
	rig_run(&r);
	rig_migrated(&r);
#ifndef RIG_RDMA
	l = &r.tres.stats.landing[0];
	cr_assert_eq(r.tres.stats.nlandings, kind->way ? 1 : 0);
	if (!kind->way) {
		rig_free(&r);
		return;
	}
	cr_assert_eq(l->flags, kind->shared ? FERRY_REGION_SHARED : 0);
	cr_assert(l->mapping_ns && l->kernel_ns);
	cr_assert_eq(l->way, (uint64_t)l->kernel_ns * 10 < (uint64_t)l->mapping_ns * 9
				     ? FERRY_LANDING_WAY_KERNEL
				     : FERRY_LANDING_WAY_MAPPING);
#else
	l = NULL;
	(void)l;
	cr_assert_eq(r.tres.stats.nlandings, 0);
#endif
	rig_free(&r);
}

RIG_TESTS(auto_mode, converging_is_stop_and_copy)
{
	struct rig r;

	rig_init(&r, kind);
	rig_run(&r);
	rig_migrated(&r);
	rig_says(r.src.policy, "stop-and-copy after");
	cr_assert_eq(r.tgt.calls[FAKE_HOLD], 0);
	cr_assert_eq(r.sres.stats.pages_residue, 0);
	rig_free(&r);
}

/* Nothing is swept before the VM runs: what a fault does not get by itself then, nobody brings. */
static void touch_holes(struct fakevm *vm, enum fake_op op)
{
	const volatile uint8_t *ram = vm->region[0].hva;

	for (unsigned i = 0; op == FAKE_HOLD && i < FAKE_HOLES; i += 7)
		(void)ram[(FAKE_HOLE0 + i) * FAKE_PAGE];
}

RIG_TESTS(post_copy, a_page_that_never_was_is_mapped_by_its_fault)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.tgt.hook = touch_holes;
	rig_run(&r);
	rig_migrated(&r);
#ifndef RIG_RDMA /* a device that pins memory leaves none of it absent */
	cr_assert_gt(r.tres.stats.faults_local, 0);
#endif
	rig_free(&r);
}

/* Each of them a fault before the sweep begins, which goes on from the last one. */
static void touch_the_end(struct fakevm *vm, enum fake_op op)
{
	const volatile uint8_t *ram = vm->region[1].hva;

	for (unsigned i = 0; op == FAKE_HOLD && i < FAKE_PAGES1; i++)
		(void)ram[i * FAKE_PAGE];
}

/* A guest that touches nothing gets all of its memory: whatever its last fault was, the sweep comes to what lies before it. */
RIG_TESTS(post_copy, of_an_idle_guest_ends)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.tgt.hook = touch_the_end;
	r.tgt.idle = true;
	r.scfg.hold_limit_us = 30000000 * patience(); /* or else it lasts for ever */
	rig_run(&r);
	rig_migrated(&r);
#ifndef RIG_RDMA /* a device that pins memory leaves none of it absent */
	cr_assert_gt(r.tres.stats.faults, 0);
#endif
	cr_assert_eq(r.tres.stats.pages_remaining, 0);
	rig_free(&r);
}

/* 800 pages a round, always new: at 64 MB/s that is 50 ms, and the limit is 1 ms. */
static void never_converges(struct rig *r)
{
	for (int i = 0; i < 8; i++)
		r->src.writes[i] = 1000;
	r->scfg.bandwidth = 64000000;
	r->scfg.downtime_us = 1000;
}

static int slowed(void *v, unsigned percent)
{
	struct fakevm *vm = v;
	struct rig *r = vm->arg;
	size_t len = strlen(r->throttled);

	snprintf(r->throttled + len, sizeof(r->throttled) - len, "%u ", percent);
	for (int i = 0; i < 8; i++)
		vm->writes[i] = percent < 60 ? 1000 : 0; /* one more round is dirty already */
	return 0;
}

RIG_PAIR(stop_and_copy, a_guest_that_outruns_the_link_is_slowed)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	r.src.ops.throttle = slowed;
	r.src.arg = &r;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_str_eq(r.throttled, "20 40 60 80 0 ");
	rig_free(&r);
}

/* What slowing it does not help leaves it at full speed where it was. */
RIG_PAIR(stop_and_copy, a_guest_slowed_in_vain_goes_on_at_full_speed)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	r.scfg.max_rounds = 5;
	r.src.ops.throttle = slowed;
	r.src.arg = &r;
	rig_run(&r);
	rig_refused(&r);
	cr_assert_str_eq(r.throttled, "20 40 0 ");
	rig_free(&r);
}

RIG_TESTS(auto_mode, not_converging_is_post_copy)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	rig_run(&r);
	rig_migrated(&r);
	rig_says(r.src.policy, "post-copy after");
	rig_says(r.src.policy, "dirty set no longer shrinks");
	rig_says(r.src.policy, "limit 1.0 ms");
	cr_assert_gt(r.sres.stats.pages_residue, 0);
	cr_assert_leq(r.src.rounds, 30);
	cr_assert_eq(r.tgt.calls[FAKE_HOLD], 1);
	rig_free(&r);
}

/* The first round alone takes longer than pre-copy may: 1,377 pages at 64 MB/s take 88 ms. */
static void outlasts_its_limit(struct rig *r, const struct rig_kind *kind, enum ferry_mode mode)
{
	rig_init(r, kind);
	never_converges(r);
	r->scfg.mode = mode;
	r->scfg.precopy_limit_us = 20000;
	rig_run(r);
	cr_assert_eq(r->src.rounds, 1);
}

RIG_PAIR(auto_mode, not_converging_within_the_time_of_pre_copy)
{
	struct rig r;

	outlasts_its_limit(&r, kind, FERRY_MODE_AUTO);
	rig_migrated(&r);
	rig_says(r.src.policy, "post-copy after 1 round, bound on pre-copy time reached");
	rig_free(&r);
}

RIG_PAIR(stop_and_copy, not_converging_within_the_time_of_pre_copy)
{
	struct rig r;

	outlasts_its_limit(&r, kind, FERRY_MODE_STOP_AND_COPY);
	rig_refused(&r);
	cr_assert_eq(r.sres.error, -ETIME);
	rig_says(r.sres.detail, "gave up after 1 round, bound on pre-copy time reached");
	rig_free(&r);
}

Test(auto_mode, not_converging_within_max_rounds)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	never_converges(&r);
	r.scfg.max_rounds = 1;
	rig_run(&r);
	rig_migrated(&r);
	rig_says(r.src.policy, "post-copy after 1 round, bound on rounds reached");
	rig_free(&r);
}

RIG_PAIR(stop_and_copy, not_converging_gives_up)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_run(&r);
	rig_refused(&r);
	cr_assert_eq(r.sres.error, -ETIME);
	rig_says(r.sres.detail, "gave up after");
	rig_says(r.tres.detail, "the source gave up");
	rig_free(&r);
}

RIG_TESTS(post_copy, commits_on_completion)
{
	static const char walk[] =
		"pre-migration reservation pre-copy stop-and-copy post-copy commitment activation done";
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	rig_run(&r);
	rig_migrated(&r);
	phases(&r.src, walk);
	phases(&r.tgt, walk);
	ops(&r.src, SOURCE_OPS);
	ops(&r.tgt, "reserve load output_hold resume activate output_release");
	cr_assert_gt(r.sres.stats.pages_residue, FAKE_PAGES / 2);
	cr_assert_eq(r.tres.stats.pages_residue, r.sres.stats.pages_residue);
	cr_assert_eq(r.tres.stats.pages_remaining, 0);
	cr_assert_eq(r.src.rounds, 1);
	downtime_sums_up(&r);
	rig_free(&r);
}

RIG_TESTS(post_copy, faults_come_first_on_a_slow_link)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 32000000);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.tres.stats.faults, 0);
	cr_assert_gt(r.tres.stats.fault_max_ns, 0);
	cr_assert_leq(r.tres.stats.fault_p50_ns, r.tres.stats.fault_max_ns);
	cr_assert_leq(r.tres.stats.fault_max_ns, r.tres.stats.fault_total_ns);
	rig_free(&r);
}

RIG_TESTS(post_copy, over_three_channels)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.scfg.channels = 3;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

/* Those pages are mapped before the VM runs, the residue is not. */
static void into_allocated_memory(const struct rig_kind *kind)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 32000000); /* the guest gets to what is missing before that gets here */
	rig_allocate(&r);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.tres.stats.faults, 0);
	rig_free(&r);
}

Test(post_copy, into_allocated_memory_mem_memfd)
{
	into_allocated_memory(RIG_MEM_SHARED);
}

Test(post_copy, into_allocated_memory_tcp_memfd)
{
	into_allocated_memory(RIG_TCP_SHARED);
}

RIG_TESTS(post_copy, commits_at_switchover)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	rig_run(&r);
	rig_migrated(&r);
	phases(&r.src,
	       "pre-migration reservation pre-copy stop-and-copy commitment activation post-copy done");
	phases(&r.tgt,
	       "pre-migration reservation pre-copy stop-and-copy commitment activation post-copy done");
	ops(&r.tgt, "reserve load activate resume");
	ops(&r.src, SOURCE_OPS);
	cr_assert_gt(r.sres.stats.pages_residue, 0);
	rig_free(&r);
}

/* A VMM that cannot hold output gets no tentative run by default, and says why where one was asked for. */
RIG_PAIR(post_copy, refused_where_output_cannot_be_held)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.tgt.ops.output_hold = NULL;
	r.tgt.ops.output_release = NULL;
	rig_run(&r);
	rig_refused(&r);
	rig_says(r.sres.detail, "cannot hold the VM's output");
	rig_free(&r);
}

RIG_PAIR(post_copy, without_holding_commits_at_switchover)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.tgt.ops.output_hold = NULL;
	r.tgt.ops.output_release = NULL;
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

RIG_PAIR(post_copy, of_a_guest_that_wrote_nothing)
{
	struct rig r;

	rig_init(&r, kind);
	r.scfg.mode = FERRY_MODE_POSTCOPY;
	memset(r.src.writes, 0, sizeof(r.src.writes));
	r.src.last_writes = 0;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.sres.stats.pages_residue, 0);
	rig_free(&r);
}

RIG_PAIR(modes, ends_that_name_the_session)
{
	struct rig r;

	rig_init(&r, kind);
	memset(r.scfg.session, 0x5a, sizeof(r.scfg.session));
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_arr_eq(r.tres.session, r.scfg.session, 16);
	rig_free(&r);
}

RIG_PAIR(modes, a_state_of_several_messages)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.src.state_bytes = 5 << 20;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

static void ask_switchover(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY && ferry_switchover(vm->session))
		world_trouble(vm->w, "ferry_switchover() was refused in pre-copy");
	if (p == FERRY_PHASE_STOP_AND_COPY && ferry_switchover(vm->session) != -EALREADY)
		world_trouble(vm->w, "ferry_switchover() was taken in stop-and-copy");
}

RIG_TESTS(forced_switchover, is_post_copy_where_it_may_be)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	r.src.phase_hook = ask_switchover;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_str_eq(r.src.policy, "post-copy: switchover was asked for");
	cr_assert_eq(r.src.rounds, 1);
	rig_free(&r);
}

RIG_PAIR(forced_switchover, is_stop_and_copy_where_that_was_asked_for)
{
	struct rig r;

	rig_init(&r, kind);
	never_converges(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	r.src.phase_hook = ask_switchover;
	rig_run(&r);
	rig_migrated(&r);
	rig_says(r.src.policy, "switchover was asked for");
	cr_assert_eq(r.sres.stats.pages_residue, 0);
	rig_free(&r);
}

static void ask_at_target(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY && ferry_switchover(vm->session) != -EINVAL)
		world_trouble(vm->w, "a target took ferry_switchover()");
}

Test(forced_switchover, is_the_sources_to_ask_for)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	r.tgt.phase_hook = ask_at_target;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}
