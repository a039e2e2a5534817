// SPDX-License-Identifier: MIT
/* An op that fails, whichever and wherever: the VM goes on at its owner, and both ends say which op it was. */
#include <stdio.h>

#include "rig.h"

static void fails(struct fakevm *vm, enum fake_op op, unsigned nth)
{
	vm->fail_op = op;
	vm->fail_nth = nth;
	vm->fail_err = -EIO;
}

/* Everywhere the same: the op's name in the sentence at its own end, the same sentence at the other. */
static void check_sentences(const struct rig *r, enum fake_op op, bool at_source)
{
	const struct ferry_result *own = at_source ? &r->sres : &r->tres,
				  *other = at_source ? &r->tres : &r->sres;
	char due[100];

	snprintf(due, sizeof(due), "%s: the VMM answered -5 (Input/output error)", fake_op_name(op));
	cr_assert_eq(own->error, -EIO);
	rig_says(own->detail, due);
	rig_says(other->detail, due);
	cr_assert_eq(other->error, -EIO);
}

static void fail_at_source(const struct rig_kind *kind, bool postcopy, enum fake_op op, unsigned nth)
{
	struct rig r;

	rig_init(&r, kind);
	if (postcopy)
		rig_postcopy(&r, 0);
	fails(&r.src, op, nth);
	rig_run(&r);
	rig_source_owns(&r);
	check_sentences(&r, op, true);
	rig_free(&r);
}

static void fail_at_target(const struct rig_kind *kind, bool postcopy, enum fake_op op)
{
	struct rig r;

	rig_init(&r, kind);
	if (postcopy)
		rig_postcopy(&r, 0);
	fails(&r.tgt, op, 1);
	rig_run(&r);
	rig_source_owns(&r);
	check_sentences(&r, op, false);
	rig_free(&r);
}

RIG_PAIR(op_fails, needs)
{
	struct rig r;

	rig_init(&r, kind);
	fails(&r.src, FAKE_NEEDS, 1);
	rig_run(&r);
	rig_refused(&r);
	check_sentences(&r, FAKE_NEEDS, true);
	cr_assert_eq(r.tgt.calls[FAKE_RESERVE], 0);
	rig_free(&r);
}

RIG_PAIR(op_fails, reserve)
{
	struct rig r;

	rig_init(&r, kind);
	fails(&r.tgt, FAKE_RESERVE, 1);
	rig_run(&r);
	rig_refused(&r);
	check_sentences(&r, FAKE_RESERVE, false);
	cr_assert_eq(r.src.calls[FAKE_DIRTY_START], 0);
	rig_free(&r);
}

RIG_PAIR(op_fails, dirty_start)
{
	fail_at_source(kind, false, FAKE_DIRTY_START, 1);
}

RIG_PAIR(op_fails, dirty_fetch_after_the_first_round)
{
	fail_at_source(kind, false, FAKE_DIRTY_FETCH, 1);
}

RIG_PAIR(op_fails, dirty_fetch_of_the_second_region)
{
	fail_at_source(kind, true, FAKE_DIRTY_FETCH, 2);
}

RIG_PAIR(op_fails, pause)
{
	fail_at_source(kind, false, FAKE_PAUSE, 1);
}

RIG_PAIR(op_fails, pause_before_post_copy)
{
	fail_at_source(kind, true, FAKE_PAUSE, 1);
}

RIG_TESTS(op_fails, save)
{
	fail_at_source(kind, false, FAKE_SAVE, 1);
}

RIG_TESTS(op_fails, save_before_post_copy)
{
	fail_at_source(kind, true, FAKE_SAVE, 1);
}

RIG_TESTS(op_fails, load)
{
	fail_at_target(kind, false, FAKE_LOAD);
}

RIG_TESTS(op_fails, load_before_post_copy)
{
	fail_at_target(kind, true, FAKE_LOAD);
}

RIG_PAIR(op_fails, output_hold)
{
	fail_at_target(kind, true, FAKE_HOLD);
}

RIG_TESTS(op_fails, resume_of_the_tentative_run)
{
	fail_at_target(kind, true, FAKE_RESUME);
}

static void last_fetch_fails(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_PAUSE)
		fails(vm, FAKE_DIRTY_FETCH, vm->calls[FAKE_DIRTY_FETCH] + 1);
}

RIG_PAIR(op_fails, dirty_fetch_in_the_downtime)
{
	struct rig r;

	rig_init(&r, kind);
	r.src.hook = last_fetch_fails;
	rig_run(&r);
	rig_fell_back(&r);
	check_sentences(&r, FAKE_DIRTY_FETCH, true);
	rig_free(&r);
}

/* Commit at switchover: load is the target's last chance to say no. */
RIG_PAIR(op_fails, load_before_a_commit_at_switchover)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	fails(&r.tgt, FAKE_LOAD, 1);
	rig_run(&r);
	rig_fell_back(&r);
	check_sentences(&r, FAKE_LOAD, false);
	rig_free(&r);
}

/* The target's PINGs go on all the while: it is there, and does not come to an end. */
static void load_outlasts_the_source(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_LOAD)
		return;
	pthread_mutex_lock(&vm->w->lock);
	while (!vm->w->source_runs)
		pthread_cond_wait(&vm->w->cond, &vm->w->lock);
	pthread_mutex_unlock(&vm->w->lock);
}

static void stands_still_too_long(const struct rig_kind *kind, bool postcopy)
{
	struct rig r;

	rig_init(&r, kind);
	if (postcopy)
		rig_postcopy(&r, 0);
	r.scfg.switchover_limit_us = 100000;
	r.tgt.hook = load_outlasts_the_source;
	rig_run(&r);
	rig_fell_back(&r);
	cr_assert_eq(r.sres.error, -ETIME);
	rig_says(r.sres.detail, "the VM has stood still for 100 ms");
	rig_free(&r);
}

RIG_PAIR(switchover_limit, stop_and_copy)
{
	stands_still_too_long(kind, false);
}

RIG_PAIR(switchover_limit, post_copy)
{
	stands_still_too_long(kind, true);
}

/* The target is the owner by then: its VMM hears of it, and the source must not run. */
RIG_PAIR(op_fails, resume_after_the_commit_is_a_lost_vm)
{
	struct rig r;

	rig_init(&r, kind);
	fails(&r.tgt, FAKE_RESUME, 1);
	rig_impatient(&r);
	rig_run(&r);
	cr_assert_eq(r.tres.outcome, FERRY_OUTCOME_LOST, "%s", ferry_outcome_name(r.tres.outcome));
	cr_assert_eq(r.tres.owner, FERRY_OWNER_TARGET);
	cr_assert_neq(r.sres.owner, FERRY_OWNER_SOURCE);
	cr_assert(!world_source_runs(&r.world));
	cr_assert_eq(r.src.calls[FAKE_RESUME], 0);
	rig_says(r.tres.detail, "resume: the VMM answered -5");
	rig_free(&r);
}

/* Ops that tidy up: the outcome is what it is. */
static void hardly_matters(const struct rig_kind *kind, bool postcopy, bool at_source, enum fake_op op)
{
	struct rig r;

	rig_init(&r, kind);
	if (postcopy)
		rig_postcopy(&r, 0);
	fails(at_source ? &r.src : &r.tgt, op, 1);
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

RIG_PAIR(op_fails, activate_changes_nothing)
{
	hardly_matters(kind, true, false, FAKE_ACTIVATE);
}

RIG_PAIR(op_fails, output_release_changes_nothing)
{
	hardly_matters(kind, true, false, FAKE_RELEASE);
}

RIG_PAIR(op_fails, dirty_stop_changes_nothing)
{
	hardly_matters(kind, true, true, FAKE_DIRTY_STOP);
}

RIG_PAIR(op_fails, retire_changes_nothing)
{
	hardly_matters(kind, false, true, FAKE_RETIRE);
}

RIG_PAIR(op_fails, discard_changes_nothing)
{
	struct rig r;

	rig_init(&r, kind);
	fails(&r.src, FAKE_SAVE, 1);
	fails(&r.tgt, FAKE_DISCARD, 1);
	rig_run(&r);
	rig_fell_back(&r);
	check_sentences(&r, FAKE_SAVE, true);
	rig_free(&r);
}

/* ---- refused reservations ---- */

static void refused_by(struct rig *r, int err, const char *sentence)
{
	rig_run(r);
	rig_refused(r);
	cr_assert_eq(r->tres.error, err);
	cr_assert_eq(r->sres.error, err);
	cr_assert_str_eq(r->tres.detail, sentence);
	rig_says(r->sres.detail, "the target refused: ");
	rig_says(r->sres.detail, sentence);
	cr_assert_eq(r->src.calls[FAKE_DIRTY_START], 0);
	cr_assert_eq(r->tres.phase, FERRY_PHASE_RESERVATION);
	rig_free(r);
}

RIG_PAIR(reservation, refused_for_memory)
{
	struct rig r;

	rig_init(&r, kind);
	r.tgt.memory_limit = 1 << 20;
	refused_by(&r, -ENOMEM, "the VM needs 6308 KiB, this host has 1024");
}

RIG_PAIR(reservation, refused_for_another_cpuid)
{
	struct rig r;

	rig_init(&r, kind);
	r.src.cpuid = 0xabcd;
	refused_by(&r, -ENOTSUP, "the VM needs CPUID word 0xabcd, this host has 0x1234");
}

static int greedy_reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;

	(void)n;
	(void)needs;
	vm->calls[FAKE_RESERVE]++;
	regions[0].len += FAKE_PAGE;
	return 0;
}

Test(reservation, a_vmm_that_changes_the_map_is_refused)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.tgt.ops.reserve = greedy_reserve;
	refused_by(&r, -EINVAL,
		   "reserve changed more than hva, fd, fd_offset, uffd and the flag FERRY_REGION_FOREIGN of region 10");
}
