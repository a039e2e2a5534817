// SPDX-License-Identifier: MIT
/* ferry_cancel() in each phase, from each end, from the callback and from another thread. */
#include <stdio.h>

#include "hole.h"
#include "rig.h"

struct plan {
	enum ferry_phase at;
	bool other_thread;
	int got; /* what ferry_cancel() said; 1: not called */
};

static void *cancel_thread(void *arg)
{
	struct fakevm *vm = arg;
	struct rig *r = vm->arg;
	struct plan *plan = r->arg;

	plan->got = ferry_cancel(vm->session);
	return NULL;
}

static void cancel_at(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct plan *plan = r->arg;
	pthread_t t;

	if (p != plan->at || plan->got != 1)
		return;
	if (!plan->other_thread) {
		cancel_thread(vm);
		return;
	}
	if (pthread_create(&t, NULL, cancel_thread, vm))
		world_trouble(vm->w, "no thread to cancel from");
	else
		pthread_join(t, NULL);
}

static void setup(struct rig *r, struct plan *plan, const struct rig_kind *kind, bool postcopy)
{
	rig_init(r, kind);
	if (postcopy)
		rig_postcopy(r, 64000000);
	r->arg = plan;
	plan->got = 1;
}

static void cancel_in(const struct rig_kind *kind, enum ferry_phase at, bool at_source, bool postcopy)
{
	for (int other = 0; other < 2; other++) {
		struct plan plan = { .at = at, .other_thread = other };
		struct rig r;

		setup(&r, &plan, kind, postcopy);
		(at_source ? &r.src : &r.tgt)->phase_hook = cancel_at;
		rig_run(&r);
		cr_assert_eq(plan.got, 0, "ferry_cancel() in %s: %d", ferry_phase_name(at), plan.got);
		rig_source_owns(&r);
		cr_assert_eq(r.sres.error, -ECANCELED, "%s", r.sres.detail);
		cr_assert_eq(r.tres.error, -ECANCELED, "%s", r.tres.detail);
		rig_says((at_source ? &r.sres : &r.tres)->detail, "canceled by the embedder");
		rig_says((at_source ? &r.tres : &r.sres)->detail, "canceled by the embedder");
		cr_assert_geq((at_source ? &r.sres : &r.tres)->phase, at);
		rig_free(&r);
	}
}

RIG_PAIR(cancel_at_source, in_reservation)
{
	cancel_in(kind, FERRY_PHASE_RESERVATION, true, false);
}
RIG_PAIR(cancel_at_source, in_pre_copy)
{
	cancel_in(kind, FERRY_PHASE_PRECOPY, true, false);
}
RIG_PAIR(cancel_at_source, in_post_copy)
{
	cancel_in(kind, FERRY_PHASE_POSTCOPY, true, true);
}
RIG_PAIR(cancel_at_target, in_reservation)
{
	cancel_in(kind, FERRY_PHASE_RESERVATION, false, false);
}
RIG_PAIR(cancel_at_target, in_pre_copy)
{
	cancel_in(kind, FERRY_PHASE_PRECOPY, false, false);
}
RIG_PAIR(cancel_at_target, in_post_copy)
{
	cancel_in(kind, FERRY_PHASE_POSTCOPY, false, true);
}

/* What was taken before the decision is kept: the VM never runs at the target after it, however near the commit is. */
static void cancel_late(const struct rig_kind *kind, enum ferry_phase at, bool at_source, bool postcopy)
{
	struct plan plan = { .at = at };
	struct rig r;

	setup(&r, &plan, kind, postcopy);
	(at_source ? &r.src : &r.tgt)->phase_hook = cancel_at;
	rig_run(&r);
	cr_assert_eq(plan.got, 0);
	rig_source_owns(&r);
	cr_assert_eq(r.sres.error, -ECANCELED, "%s", r.sres.detail);
	rig_free(&r);
}

RIG_PAIR(cancel_at_source, in_stop_and_copy)
{
	cancel_late(kind, FERRY_PHASE_STOP_AND_COPY, true, false);
}
RIG_PAIR(cancel_at_source, in_stop_and_copy_before_post_copy)
{
	cancel_late(kind, FERRY_PHASE_STOP_AND_COPY, true, true);
}
RIG_PAIR(cancel_at_source, in_commitment)
{
	cancel_late(kind, FERRY_PHASE_COMMITMENT, true, false);
}
RIG_PAIR(cancel_at_source, in_commitment_after_post_copy)
{
	cancel_late(kind, FERRY_PHASE_COMMITMENT, true, true);
}
RIG_PAIR(cancel_at_target, in_stop_and_copy)
{
	cancel_late(kind, FERRY_PHASE_STOP_AND_COPY, false, false);
}
RIG_PAIR(cancel_at_target, in_stop_and_copy_before_post_copy)
{
	cancel_late(kind, FERRY_PHASE_STOP_AND_COPY, false, true);
}
RIG_PAIR(cancel_at_target, in_commitment)
{
	cancel_late(kind, FERRY_PHASE_COMMITMENT, false, false);
}
RIG_PAIR(cancel_at_target, in_commitment_after_post_copy)
{
	cancel_late(kind, FERRY_PHASE_COMMITMENT, false, true);
}

/* Once the commit is decided there is nothing to take back. */
static void too_late(const struct rig_kind *kind, bool at_source)
{
	struct plan plan = { .at = FERRY_PHASE_ACTIVATION };
	struct rig r;

	setup(&r, &plan, kind, true);
	(at_source ? &r.src : &r.tgt)->phase_hook = cancel_at;
	rig_run(&r);
	cr_assert_eq(plan.got, -EALREADY);
	rig_migrated(&r);
	rig_free(&r);
}

RIG_PAIR(cancel_at_source, is_too_late_in_activation)
{
	too_late(kind, true);
}
RIG_PAIR(cancel_at_target, is_too_late_in_activation)
{
	too_late(kind, false);
}

/* A source that is looking for its target, a target that nobody has found. */
static void cancel_alone(bool at_source, const char *to)
{
	struct plan plan = { .at = FERRY_PHASE_PRE_MIGRATION, .got = 1 };
	struct ferry_vm v = { FERRY_VM_INIT };
	struct ferry_result *res;
	struct fakevm *vm;
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.scfg.connect_us = 3600000000;
	r.arg = &plan;
	vm = at_source ? &r.src : &r.tgt;
	res = at_source ? &r.sres : &r.tres;
	vm->phase_hook = cancel_at;
	vm->thread = pthread_self();
	v.vm = vm;
	v.ops = &vm->ops;
	v.regions = at_source ? vm->region : NULL;
	v.nregions = at_source ? FAKE_REGIONS : 0;
	cr_assert_eq((at_source ? ferry_source_new : ferry_target_new)(&vm->session, &v, &r.scfg), 0);
	cr_assert_eq(ferry_open(vm->session, to), 0);
	res->size = sizeof(*res);
	cr_assert_eq(ferry_run(vm->session, res), -ECANCELED);
	cr_assert_eq(plan.got, 0);
	cr_assert_eq(res->outcome, FERRY_OUTCOME_REFUSED);
	cr_assert_eq(res->owner, FERRY_OWNER_SOURCE);
	cr_assert_str_eq(res->detail, "canceled by the embedder in pre-migration");
	ferry_free(vm->session);
	rig_free(&r);
}

Test(cancel_at_source, in_pre_migration)
{
	cancel_alone(true, "tcp:127.0.0.1:1");
}
Test(cancel_at_target, in_pre_migration)
{
	cancel_alone(false, RIG_TCP);
}

Test(cancel_at_source, while_nothing_answers)
{
	struct hole h;
	char to[64];

	hole_dig(&h, "127.0.0.1", 0);
	snprintf(to, sizeof(to), "tcp:127.0.0.1:%u", h.port);
	cancel_alone(true, to);
	hole_fill(&h);
}
