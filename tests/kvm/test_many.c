// SPDX-License-Identifier: MIT
/*
 * Real guests that migrate with both ends in this one process, four of them at once: every byte and every output of each.
 * And one whose dirty rings are full in every round, because a fetch waits until its vCPUs have written enough.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "bench/cli/observer.h"
#include "bench/cli/util.h"
#include "plainvm.h"

#define PAIRS 4u
#define SPEAK_NS 60000000000ull
#define RING_ENTRIES 4096u
#define FULL_PAGES (RING_ENTRIES * 3 / 2) /* as many different pages do not fit into a ring */
#define LATE_FETCHES 3u

struct pair {
	struct vmm *source, *target;
	struct ferry_ops source_ops, target_ops;
	struct ferry_session *s, *t;
	struct ferry_result sres, tres;
	struct observer observer;
	int out[2];
	pthread_t threads[2];
};

struct way {
	enum vmm_kind kind;
	struct ferry_config cfg;
	bool fails; /* the target cannot run it: the source goes on */
	bool rings; /* two vCPUs, whose dirty rings are full before each of the first fetches */
};

static pthread_barrier_t in_precopy;
static unsigned late_fetches; /* of the one guest with rings */

static void meet(void *ctx, const struct ferry_event *ev)
{
	(void)ctx;
	if (ev->type == FERRY_EVENT_PHASE && ev->phase == FERRY_PHASE_PRECOPY)
		pthread_barrier_wait(&in_precopy);
}

static int no_resume(void *vm)
{
	(void)vm;
	return -EIO;
}

static bool have_written(struct vmm *vm, const uint64_t after[2])
{
	uint64_t done[2], given;

	for (unsigned i = 0; i < 2; i++)
		vmm_stamps(vm, i, &done[i], &given);
	return done[0] >= after[0] + FULL_PAGES && done[1] >= after[1] + FULL_PAGES;
}

/* Each vCPU writes one page after the other, so so many stamps are so many pages. */
static int late_fetch(void *arg, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct vmm *vm = arg;
	uint64_t after[2], done, until = clock_ns() + SPEAK_NS;

	if (region || flags & FERRY_DIRTY_LAST || late_fetches == LATE_FETCHES)
		return vmm_ops()->dirty_fetch(vm, region, bits, npages, flags);
	late_fetches++;
	for (unsigned i = 0; i < 2; i++)
		vmm_stamps(vm, i, &done, &after[i]);
	while (!have_written(vm, after)) {
		if (clock_ns() > until)
			return -ETIME;
		usleep(1000);
	}
	return vmm_ops()->dirty_fetch(vm, region, bits, npages, flags);
}

/* Until the outside world has heard n outputs more. */
static void hear(struct pair *p, uint64_t n)
{
	uint64_t until = clock_ns() + SPEAK_NS, from = observer_least(&p->observer);

	while (observer_least(&p->observer) < from + n) {
		cr_assert_lt(clock_ns(), until, "the guest does not speak");
		observer_drain(&p->observer);
		usleep(1000);
	}
}

static void make_guest(struct pair *p, const struct way *w, uint64_t seed)
{
	struct vmm_config cfg = { .memory = 64 << 20,
				  .working_set = 8 << 20,
				  .dirty_rate = 5000,
				  .seed = seed,
				  .kind = w->kind,
				  .populate = 100,
				  .vcpus = 1,
				  .event = meet };
	char why[256] = "";

	if (w->rings) {
		cfg.working_set = 2 * 4096 * FULL_PAGES;
		cfg.dirty_rate = 200000;
		cfg.pattern = VMM_SEQUENTIAL;
		cfg.vcpus = 2;
		cfg.tracking = VMM_TRACKING_RING;
		cfg.ring_entries = RING_ENTRIES;
	}
	cr_assert(!pipe2(p->out, O_CLOEXEC));
	observer_init(&p->observer, p->out[0], cfg.vcpus, true);
	fcntl(p->out[0], F_SETFL, O_NONBLOCK);
	cfg.observer = p->out[1];
	cr_assert_eq(vmm_new_source(&p->source, &cfg, why, sizeof(why)), 0, "%s", why);
	cr_assert_eq(vmm_start(p->source), 0, "%s", vmm_error(p->source));
	cfg.end = VMM_END_TARGET;
	cfg.event = NULL;
	cr_assert_eq(vmm_new_target(&p->target, &cfg, why, sizeof(why)), 0, "%s", why);
}

static void make_sessions(struct pair *p, const struct way *w)
{
	struct ferry_vm sv = { FERRY_VM_INIT, .vm = p->source, .ops = &p->source_ops };
	struct ferry_vm tv = { FERRY_VM_INIT, .vm = p->target, .ops = &p->target_ops };
	char uri[100];

	p->source_ops = p->target_ops = *vmm_ops();
	if (w->rings)
		p->source_ops.dirty_fetch = late_fetch;
	if (w->fails)
		p->target_ops.resume = no_resume;
	sv.nregions = vmm_regions(p->source, &sv.regions);
	cr_assert_eq(ferry_target_new(&p->t, &tv, NULL), 0);
	cr_assert_eq(ferry_open(p->t, "tcp:127.0.0.1:0"), 0, "%s", ferry_get_detail(p->t));
	cr_assert_eq(ferry_get_uri(p->t, uri, sizeof(uri)), 0);
	cr_assert_eq(ferry_source_new(&p->s, &sv, &w->cfg), 0);
	cr_assert_eq(ferry_open(p->s, uri), 0, "%s", ferry_get_detail(p->s));
}

static void *run_source(void *arg)
{
	struct pair *p = arg;

	p->sres.size = sizeof(p->sres);
	ferry_run(p->s, &p->sres);
	return NULL;
}

static void *run_target(void *arg)
{
	struct pair *p = arg;

	p->tres.size = sizeof(p->tres);
	ferry_run(p->t, &p->tres);
	return NULL;
}

static void prove(struct pair *p, bool falls_back)
{
	uint64_t seen, missing, repeated;
	struct vmm_proof proof = { 0 };

	cr_assert_eq(p->sres.outcome, falls_back ? FERRY_OUTCOME_FELL_BACK : FERRY_OUTCOME_MIGRATED, "%s",
		     p->sres.detail);
	cr_assert_eq(p->tres.outcome, falls_back ? FERRY_OUTCOME_DISCARDED : FERRY_OUTCOME_MIGRATED, "%s",
		     p->tres.detail);
	ferry_free(p->s);
	ferry_free(p->t);
	hear(p, 20);
	cr_assert_eq(vmm_proof(falls_back ? p->source : p->target, &proof), 0);
	cr_assert(!proof.pages_bad && !proof.guest_errors, "%s", proof.text);
	cr_assert_eq(proof.pages_checked, (64u << 20) / 4096);
	observer_total(&p->observer, &seen, &missing, &repeated);
	cr_assert(!missing && !repeated && !p->observer.damaged && p->observer.handovers == !falls_back);
	vmm_destroy(p->source);
	vmm_destroy(p->target);
	close(p->out[0]);
	close(p->out[1]);
}

/* In each interval before a late fetch both vCPUs have written so much, and each page counts once. */
static void check_rings(const struct pair *p)
{
	struct vmm_tracked t;

	vmm_get_tracked(p->source, &t);
	cr_assert_eq(t.by, VMM_TRACKING_RING);
	cr_assert_geq(late_fetches, 1);
	cr_expect_geq(t.ring_full, late_fetches, "%llu, %u fetches", (unsigned long long)t.ring_full,
		      late_fetches);
	for (unsigned i = 0; i < 2; i++)
		cr_expect_geq(t.pages[i], (uint64_t)late_fetches * FULL_PAGES, "vCPU %u: %llu", i,
			      (unsigned long long)t.pages[i]);
}

static void at_once(const struct way *ways, unsigned n)
{
	struct pair p[PAIRS] = { 0 };

	pthread_barrier_init(&in_precopy, NULL, n);
	for (unsigned i = 0; i < n; i++)
		make_guest(&p[i], &ways[i], 1000 + i);
	for (unsigned i = 0; i < n; i++) {
		hear(&p[i], 3);
		make_sessions(&p[i], &ways[i]);
	}
	for (unsigned i = 0; i < n; i++)
		cr_assert(!pthread_create(&p[i].threads[0], NULL, run_source, &p[i]) &&
			  !pthread_create(&p[i].threads[1], NULL, run_target, &p[i]));
	for (unsigned i = 0; i < n; i++) {
		pthread_join(p[i].threads[0], NULL);
		pthread_join(p[i].threads[1], NULL);
	}
	for (unsigned i = 0; i < n; i++) {
		if (ways[i].rings)
			check_rings(&p[i]);
		prove(&p[i], ways[i].fails);
	}
	pthread_barrier_destroy(&in_precopy);
}

Test(many, four_guests_at_once)
{
	static const struct way ways[PAIRS] = {
		{ VMM_ANON,
		  { FERRY_CONFIG_INIT, .mode = FERRY_MODE_STOP_AND_COPY, .downtime_us = 10000000 } },
		{ VMM_MEMFD,
		  { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 1, .channels = 2 } },
		{ VMM_ANON,
		  { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 1,
		    .commit_at = FERRY_COMMIT_AT_SWITCHOVER } },
		{ VMM_MEMFD,
		  { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 1 },
		  .fails = true },
	};

	if (access("/dev/kvm", R_OK | W_OK) < 0)
		cr_skip_test("no /dev/kvm that can be used");
	at_once(ways, PAIRS);
}

#define FULL_RINGS(name, ...)                                                 \
	Test(many, name)                                                      \
	{                                                                     \
		static const struct way way = { __VA_ARGS__, .rings = true }; \
		plainvm_ring_or_skip();                                       \
		at_once(&way, 1);                                             \
	}

FULL_RINGS(full_rings_stop_and_copy, VMM_ANON,
	   { FERRY_CONFIG_INIT, .mode = FERRY_MODE_STOP_AND_COPY, .downtime_us = 10000000 })
FULL_RINGS(full_rings_post_copy, VMM_MEMFD,
	   { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 2 })
FULL_RINGS(full_rings_fall_back, VMM_MEMFD,
	   { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 2 }, .fails = true)
