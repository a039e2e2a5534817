// SPDX-License-Identifier: MIT
/* Sets up a rig, runs both ends, and checks their results. */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "patience.h"
#include "rdma_left.h"

static void config(struct ferry_config *c)
{
	*c = (struct ferry_config){ FERRY_CONFIG_INIT, .flags = FERRY_CONFIG_DRILL };
}

void rig_init(struct rig *r, const struct rig_kind *kind)
{
	unsigned made_of = (kind->shared ? FAKE_SHARED : 0) | (kind->huge ? FAKE_HUGE : 0) |
			   (kind->thp ? FAKE_THP : 0);

	memset(r, 0, sizeof(*r));
	world_init(&r->world);
	fakevm_source(&r->src, &r->world, made_of);
	fakevm_target(&r->tgt, &r->world, made_of);
	r->src.arg = r->tgt.arg = r;
	r->src.writes[0] = 400;
	r->src.writes[1] = 60;
	r->src.writes[2] = 10;
	r->src.last_writes = 40;
	config(&r->scfg);
	config(&r->tcfg);
	r->tcfg.landing = kind->way;
	r->uri = kind->uri;
}

void rig_postcopy(struct rig *r, uint64_t bandwidth)
{
	r->scfg.mode = FERRY_MODE_POSTCOPY;
	r->scfg.max_rounds = 1;
	r->src.writes[0] = 2 * FAKE_PAGES;
	r->tcfg.bandwidth = bandwidth / patience(); /* must outlast timeouts, which grow, too */
}

static int (*reserve)(void *vm, struct ferry_region *regions, size_t n,
		      struct ferry_stream *needs); /* fake */

static int reserve_allocated(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	int err = reserve(vm, regions, n, needs);

	for (size_t i = 0; i < n && !err; i++)
		err = madvise(regions[i].hva, regions[i].len >> i, MADV_POPULATE_WRITE) ? -errno : 0;
	return err;
}

void rig_allocate(struct rig *r)
{
	reserve = r->tgt.ops.reserve;
	r->tgt.ops.reserve = reserve_allocated;
}

/* Longer than a loaded machine stalls by itself. Even emulated, three timeouts are shorter than 5 s. */
void rig_impatient(struct rig *r)
{
	r->scfg.timeout_us = r->tcfg.timeout_us = 300000 * (patience() > 1 ? patience() : 2);
	r->scfg.reconnect_us = r->tcfg.reconnect_us = 100000 * patience();
}

static void *run(struct fakevm *vm, struct ferry_result *res)
{
	vm->thread = pthread_self();
	res->size = sizeof(*res);
	ferry_run(vm->session, res);
	return NULL;
}

static void *run_source(void *arg)
{
	struct rig *r = arg;

	return run(&r->src, &r->sres);
}

static void *run_target(void *arg)
{
	struct rig *r = arg;

	return run(&r->tgt, &r->tres);
}

static void open_both(struct rig *r)
{
	struct ferry_vm tv = { FERRY_VM_INIT, .vm = &r->tgt, .ops = &r->tgt.ops };
	struct ferry_vm sv = { FERRY_VM_INIT, .vm = &r->src, .ops = &r->src.ops, .regions = r->src.region,
			       .nregions = FAKE_REGIONS };

	cr_assert_eq(ferry_target_new(&r->tgt.session, &tv, &r->tcfg), 0, "%s", r->tgt.error_line);
	cr_assert_eq(ferry_open(r->tgt.session, r->uri), 0, "%s", ferry_get_detail(r->tgt.session));
	if (!r->connect_to[0])
		cr_assert_eq(ferry_get_uri(r->tgt.session, r->connect_to, sizeof(r->connect_to)), 0);
	cr_assert_eq(ferry_source_new(&r->src.session, &sv, &r->scfg), 0, "%s", r->src.error_line);
	cr_assert_eq(ferry_open(r->src.session, r->connect_to), 0, "%s", ferry_get_detail(r->src.session));
}

void rig_run(struct rig *r)
{
	pthread_t s, t;

	open_both(r);
	cr_assert(!pthread_create(&t, NULL, run_target, r) && !pthread_create(&s, NULL, run_source, r));
	pthread_join(s, NULL);
	pthread_join(t, NULL);
	if (r->tres.outcome == FERRY_OUTCOME_MIGRATED)
		fakevm_finish(&r->tgt);
	ferry_free(r->src.session);
	ferry_free(r->tgt.session);
	r->src.session = r->tgt.session = NULL;
}

void rig_free(struct rig *r)
{
	char left[200];

	rig_no_trouble(r);
	fakevm_destroy(&r->tgt);
	fakevm_destroy(&r->src);
	world_destroy(&r->world);
	cr_assert_eq(rdma_left(left, sizeof(left)), 0, "left of an RDMA device: %s", left);
}

void rig_says(const char *sentence, const char *part)
{
	cr_assert(strstr(sentence, part), "\"%s\" does not say \"%s\"", sentence, part);
}

void rig_no_trouble(struct rig *r)
{
	cr_assert_str_eq(r->world.trouble, "");
}

static void outcome(struct rig *r, enum ferry_outcome s, enum ferry_outcome t, enum ferry_owner owner)
{
	cr_assert(r->sres.outcome == s && r->tres.outcome == t,
		  "source: %s, %d \"%s\"; target: %s, %d \"%s\"; %s", ferry_outcome_name(r->sres.outcome),
		  r->sres.error, r->sres.detail, ferry_outcome_name(r->tres.outcome), r->tres.error,
		  r->tres.detail, r->world.trouble);
	cr_assert(r->sres.owner == owner && r->tres.owner == owner, "owners: %s and %s",
		  ferry_owner_name(r->sres.owner), ferry_owner_name(r->tres.owner));
	rig_no_trouble(r);
}

static void called(const struct fakevm *vm, enum fake_op op, unsigned times)
{
	cr_assert_eq(vm->calls[op], times, "%s: %s was called %u times, %u were due (%s)",
		     vm->is_source ? "source" : "target", fake_op_name(op), vm->calls[op], times,
		     vm->ops_seen);
}

void rig_migrated(struct rig *r)
{
	outcome(r, FERRY_OUTCOME_MIGRATED, FERRY_OUTCOME_MIGRATED, FERRY_OWNER_TARGET);
	cr_assert(!r->sres.error && !r->tres.error);
	cr_assert_arr_eq(r->sres.session, r->tres.session, 16);
	called(&r->src, FAKE_RETIRE, 1);
	called(&r->src, FAKE_RESUME, 0);
	called(&r->src, FAKE_PAUSE, 1);
	called(&r->src, FAKE_DIRTY_STOP, 1);
	called(&r->tgt, FAKE_ACTIVATE, 1);
	called(&r->tgt, FAKE_LOAD, 1);
	called(&r->tgt, FAKE_RELEASE, r->tgt.calls[FAKE_HOLD]);
	called(&r->tgt, FAKE_DISCARD, 0);
	cr_assert(world_target_runs(&r->world) && !world_source_runs(&r->world));
	fakevm_run_on(&r->tgt);
	fakevm_check_memory(&r->tgt);
	rig_no_trouble(r);
}

static void source_goes_on(struct rig *r)
{
	called(&r->src, FAKE_RETIRE, 0);
	called(&r->src, FAKE_RESUME, r->src.calls[FAKE_PAUSE]);
	cr_assert(r->src.calls[FAKE_DIRTY_STOP] <= r->src.calls[FAKE_DIRTY_START]);
	called(&r->tgt, FAKE_DISCARD, r->tgt.calls[FAKE_RESERVE]);
	called(&r->tgt, FAKE_ACTIVATE, 0);
	called(&r->tgt, FAKE_RELEASE, 0);
	cr_assert(world_source_runs(&r->world) && !world_target_runs(&r->world));
	cr_assert(r->sres.error < 0 && r->tres.error < 0);
	cr_assert(r->sres.detail[0] && r->tres.detail[0]);
	fakevm_run_on(&r->src);
	fakevm_check_memory(&r->src);
	rig_no_trouble(r);
}

void rig_fell_back(struct rig *r)
{
	outcome(r, FERRY_OUTCOME_FELL_BACK, FERRY_OUTCOME_DISCARDED, FERRY_OWNER_SOURCE);
	called(&r->src, FAKE_RESUME, 1);
	source_goes_on(r);
}

void rig_refused(struct rig *r)
{
	bool reserved = r->tres.phase > FERRY_PHASE_RESERVATION;

	outcome(r, FERRY_OUTCOME_REFUSED, reserved ? FERRY_OUTCOME_DISCARDED : FERRY_OUTCOME_REFUSED,
		FERRY_OWNER_SOURCE);
	called(&r->src, FAKE_PAUSE, 0);
	source_goes_on(r);
}

void rig_source_owns(struct rig *r)
{
	if (r->src.calls[FAKE_PAUSE])
		rig_fell_back(r);
	else
		rig_refused(r);
}
