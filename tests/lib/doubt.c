// SPDX-License-Identifier: MIT
/* Runs one migration into doubt and checks what the arbiter makes of it. */
#include "doubt.h"

#include <stdio.h>

#include "patience.h"

#define TIMEOUT_US (1000000u * patience()) /* even on a busy machine only the fault loses the link */
#define SLOW 5000000u /* bytes per second: pages are missing for a second, yet no put outlasts the timeout */

static int op_arbiter(void *v, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct fakevm *vm = v;
	struct doubt *d = ((struct rig *)vm->arg)->arg;

	if (!pthread_equal(pthread_self(), vm->thread))
		world_trouble(vm->w, "the arbiter was not asked on the thread inside ferry_run()");
	vm->calls[FAKE_ARBITER]++;
	return d->ask(session, want, is);
}

/*
 * Arm the fault in pre-copy. To lose an ABORT, cancel the source in commitment, when PREPARED is or may be in
 * flight.
 */
static void on_phase(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct doubt *d = r->arg;
	int err;

	if (p == FERRY_PHASE_PRECOPY && !d->armed) {
		d->armed = true;
		err = ferry_drill(d->by_target ? r->tgt.session : r->src.session, d->fault);
		if (err)
			world_trouble(vm->w, "ferry_drill(%s): %d", d->fault, err);
	}
	if (p == FERRY_PHASE_COMMITMENT && !strcmp(d->message, "ABORT"))
		ferry_cancel(r->src.session);
}

void doubt_init(struct doubt *d, const struct rig_kind *kind, enum doubt_way way, const char *how,
		const char *message, bool by_target, doubt_ask ask)
{
	struct rig *r = &d->rig;

	memset(d, 0, sizeof(*d));
	rig_init(r, kind);
	rig_impatient(r);
	r->scfg.timeout_us = r->tcfg.timeout_us = TIMEOUT_US;
	r->arg = d;
	d->ask = ask;
	d->by_target = by_target;
	d->message = message;
	snprintf(d->fault, sizeof(d->fault), "%s:%s", how, message);
	r->src.phase_hook = on_phase;
	if (ask)
		r->src.ops.arbiter = r->tgt.ops.arbiter = op_arbiter;
	if (way != DOUBT_STOP_AND_COPY)
		rig_postcopy(r, way == DOUBT_TENTATIVE ? 0 : SLOW);
	if (way == DOUBT_SWITCHOVER)
		r->scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	if (way == DOUBT_HOLD_LIMIT) {
		r->scfg.hold_limit_us = 50000;
		r->scfg.at_hold_limit = FERRY_HOLD_COMMIT;
	}
}

static void lost(struct rig *r)
{
	cr_assert(r->sres.outcome == FERRY_OUTCOME_LOST && r->tres.outcome == FERRY_OUTCOME_LOST,
		  "source: %s \"%s\"; target: %s \"%s\"", ferry_outcome_name(r->sres.outcome), r->sres.detail,
		  ferry_outcome_name(r->tres.outcome), r->tres.detail);
	cr_assert(r->sres.owner == FERRY_OWNER_TARGET && r->tres.owner == FERRY_OWNER_TARGET);
	cr_assert(!world_source_runs(&r->world) && !world_target_runs(&r->world));
	cr_assert_eq(r->tgt.calls[FAKE_DISCARD], 1);
	cr_assert_eq(r->src.calls[FAKE_RESUME] + r->src.calls[FAKE_RETIRE], 0);
}

void doubt_check(struct doubt *d, enum doubt_end end)
{
	enum ferry_owner due = end == DOUBT_SOURCE_OWNS ? FERRY_OWNER_SOURCE : FERRY_OWNER_TARGET,
			 is = FERRY_OWNER_NONE;
	struct rig *r = &d->rig;

	cr_assert(d->armed);
	if (end == DOUBT_SOURCE_OWNS)
		rig_fell_back(r);
	else if (end == DOUBT_TARGET_OWNS)
		rig_migrated(r);
	else
		lost(r);
	cr_assert(r->sres.claim == due && r->tres.claim == due);
	/* A target that has received COMMIT, or the ABORT after all, does not ask. */
	cr_assert_eq(r->src.calls[FAKE_ARBITER], 1, "the source asked %u times: %s; %s",
		     r->src.calls[FAKE_ARBITER], r->sres.detail, r->tres.detail);
	cr_assert_leq(r->tgt.calls[FAKE_ARBITER], strcmp(d->message, "COMMITTED") ? 1 : 0);
	cr_assert_eq(d->ask(r->sres.session,
			    due == FERRY_OWNER_SOURCE ? FERRY_OWNER_TARGET : FERRY_OWNER_SOURCE, &is),
		     0);
	cr_assert_eq(is, due);
}
