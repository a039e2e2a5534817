// SPDX-License-Identifier: MIT
/*
 * Two and four migrations at once in one process, both ends of each: sessions share nothing, so each ends as if it
 * were alone. All of them are held in pre-copy until the last has come there, so that they do overlap.
 */
#include "rig.h"

#define MANY 4u
#define SLOW 32000000u /* bytes a second: post-copy takes a while, beside the others' */

struct crowd {
	pthread_barrier_t in_precopy;
	struct rig rig[MANY];
	unsigned n;
};

static void meet(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct crowd *c = r->arg;

	if (p == FERRY_PHASE_PRECOPY)
		pthread_barrier_wait(&c->in_precopy);
	if (p == FERRY_PHASE_POSTCOPY && r == &c->rig[3])
		ferry_drill(r->src.session, "cut");
}

static void *run_rig(void *arg)
{
	rig_run(arg);
	return NULL;
}

/* Each its own transport, kind of memory, way to finish and end. */
static void set_up(struct crowd *c, unsigned n)
{
	static const struct rig_kind kinds[MANY] = {
		{ RIG_TCP, false }, { RIG_MEM, true }, { RIG_TCP, true }, { RIG_TCP, false }
	};

	c->n = n;
	pthread_barrier_init(&c->in_precopy, NULL, n);
	for (unsigned i = 0; i < n; i++) {
		rig_init(&c->rig[i], &kinds[i]);
		c->rig[i].arg = c;
		c->rig[i].src.phase_hook = meet;
		c->rig[i].scfg.channels = i + 1;
	}
	c->rig[0].scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_postcopy(&c->rig[1], SLOW);
	if (n < MANY)
		return;
	rig_postcopy(&c->rig[2], SLOW);
	c->rig[2].scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	rig_postcopy(&c->rig[3], SLOW);
	rig_impatient(&c->rig[3]);
	c->rig[3].src.ops.arbiter = c->rig[3].tgt.ops.arbiter = fake_arbiter;
}

static void run_all(struct crowd *c)
{
	pthread_t t[MANY];

	for (unsigned i = 0; i < c->n; i++)
		cr_assert(!pthread_create(&t[i], NULL, run_rig, &c->rig[i]));
	for (unsigned i = 0; i < c->n; i++)
		pthread_join(t[i], NULL);
	for (unsigned i = 0; i < c->n; i++) {
		struct rig *r = &c->rig[i];

		if (i == 3)
			rig_fell_back(r);
		else
			rig_migrated(r);
		/* What one drills, lacks or counts is not the others'. */
		cr_assert_eq(r->sres.stats.reconnects + r->tres.stats.reconnects, 0);
		cr_assert_eq(r->sres.stats.pages_residue != 0, i != 0);
		rig_free(r);
	}
	pthread_barrier_destroy(&c->in_precopy);
}

Test(many, two_at_once)
{
	struct crowd c;

	set_up(&c, 2);
	run_all(&c);
}

Test(many, four_at_once)
{
	struct crowd c;

	set_up(&c, 4);
	run_all(&c);
}

Test(many, four_at_once_again_and_again)
{
	struct crowd c;

	for (unsigned i = 0; i < 5; i++) {
		set_up(&c, 4);
		run_all(&c);
	}
}
