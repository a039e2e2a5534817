// SPDX-License-Identifier: MIT
/*
 * An end that fails for a reason of its own tells the other why, and at once. A lost link may be back for an hour here, so
 * an end that takes the failure for a lost link does not come to an end in time.
 */
#include <sys/mman.h>

#include "rig.h"

#define HOUR_US UINT64_C(3600000000)
#define SLOW 16000000u /* bytes a second: post-copy then takes a third of a second */

struct harm {
	enum ferry_phase at; /* when this end enters it */
	bool at_target;
	bool done;
};

/* The second half of the first region: nobody here uses it at that time but the library. */
static void protect(struct fakevm *vm, int prot)
{
	struct ferry_region *g = &vm->region[0];

	if (mprotect((char *)g->hva + g->len / 2, g->len / 2, prot))
		world_trouble(vm->w, "mprotect: %s", strerror(errno));
}

static void take_memory_away(struct fakevm *vm, enum ferry_phase p)
{
	struct harm *h = ((struct rig *)vm->arg)->arg;

	if (p != h->at || h->done)
		return;
	h->done = true;
	protect(vm, PROT_NONE);
}

/* The guest goes on with it. */
static void give_memory_back(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_RESUME)
		protect(vm, PROT_READ | PROT_WRITE);
}

static void setup(struct rig *r, struct harm *h, const struct rig_kind *kind)
{
	rig_init(r, kind);
	r->arg = h;
	r->scfg.reconnect_us = r->tcfg.reconnect_us = HOUR_US;
	(h->at_target ? &r->tgt : &r->src)->phase_hook = take_memory_away;
}

/* What the end that failed says stands in what the other says; and it is not the link that failed. */
static void both_say_so(const struct ferry_result *failed, const struct ferry_result *other)
{
	cr_assert_neq(failed->error, -EPIPE, "%s", failed->detail);
	cr_assert_null(strstr(failed->detail, "the link"), "%s", failed->detail);
	rig_says(other->detail, failed->detail);
	cr_assert_eq(other->error, failed->error, "%d and %d", other->error, failed->error);
}

Test(told_at_once, by_a_target_that_cannot_land_a_page)
{
	struct harm h = { .at = FERRY_PHASE_PRECOPY, .at_target = true };
	struct rig r;

	setup(&r, &h, RIG_TCP_ANON);
	rig_run(&r);
	cr_assert(h.done);
	rig_refused(&r);
	both_say_so(&r.tres, &r.sres);
	rig_free(&r);
}

Test(told_at_once, by_a_source_that_cannot_serve_a_page)
{
	struct harm h = { .at = FERRY_PHASE_POSTCOPY };
	struct rig r;

	setup(&r, &h, RIG_TCP_ANON);
	rig_postcopy(&r, SLOW);
	r.src.hook = give_memory_back;
	rig_run(&r);
	cr_assert(h.done);
	rig_fell_back(&r);
	both_say_so(&r.sres, &r.tres);
	rig_free(&r);
}

/* ---- while there is no link ---- */

static void cut(struct rig *r)
{
	int err = ferry_drill(r->src.session, "cut");

	if (err)
		world_trouble(&r->world, "ferry_drill(cut): %d", err);
}

static void heal(struct fakevm *vm, enum fake_op op)
{
	struct rig *r = vm->arg;

	if (op == FAKE_DISCARD && ferry_drill(r->src.session, "heal"))
		world_trouble(vm->w, "ferry_drill(heal)");
}

static void cut_in_postcopy(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_POSTCOPY)
		cut(vm->arg);
}

static void cut_and_cancel(struct fakevm *vm, enum ferry_phase p)
{
	if (p != FERRY_PHASE_POSTCOPY)
		return;
	cut(vm->arg);
	ferry_cancel(((struct rig *)vm->arg)->tgt.session);
}

/* The target has thrown the VM away when the network is back: the source hears why, instead of a refused connection. */
RIG_PAIR(told_when_the_link_is_back, that_output_was_held_too_long)
{
	struct harm h = { 0 };
	struct rig r;

	setup(&r, &h, kind);
	rig_postcopy(&r, SLOW);
	r.scfg.hold_limit_us = 100000;
	r.src.phase_hook = cut_in_postcopy;
	r.tgt.hook = heal;
	rig_run(&r);
	rig_fell_back(&r);
	rig_says(r.sres.detail, "the target gave up: ");
	rig_says(r.sres.detail, r.tres.detail);
	rig_free(&r);
}

RIG_PAIR(told_when_the_link_is_back, that_the_target_was_canceled)
{
	struct harm h = { 0 };
	struct rig r;

	setup(&r, &h, kind);
	rig_postcopy(&r, SLOW);
	r.src.phase_hook = cut_and_cancel;
	r.tgt.hook = heal;
	rig_run(&r);
	rig_fell_back(&r);
	both_say_so(&r.tres, &r.sres);
	rig_free(&r);
}
