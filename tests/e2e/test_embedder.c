// SPDX-License-Identifier: MIT
/* What an embedder may do wrong or in parallel: arguments, nobody there, two at once, and nothing left behind. */
#include <stdio.h>
#include <stdlib.h>

#include "left.h"
#include "rig.h"

static int make_source(struct rig *r)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &r->src, .ops = &r->src.ops, .regions = r->src.region,
			      .nregions = FAKE_REGIONS };

	return ferry_source_new(&r->src.session, &v, &r->scfg);
}

static int make_target(struct rig *r)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &r->tgt, .ops = &r->tgt.ops };

	return ferry_target_new(&r->tgt.session, &v, &r->tcfg);
}

static void source_refuses(struct rig *r, int err, const char *sentence)
{
	cr_assert_eq(make_source(r), err);
	cr_assert_null(r->src.session);
	cr_assert_str_eq(r->src.error_line, sentence);
	rig_free(r);
}

Test(arguments, a_region_of_gigantic_pages)
{
	struct rig r;

	rig_init(&r, RIG_TCP_SHARED);
	r.src.region[0].page_shift = 30;
	source_refuses(&r, -EOPNOTSUPP,
		       "region 10 has page_shift 30; set 12 for pages of 4 KiB (transparent huge pages too), 21 for 2 MiB of "
		       "hugetlbfs");
}

Test(arguments, a_region_that_is_no_memfd)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.src.region[1].flags = FERRY_REGION_SHARED;
	source_refuses(&r, -EINVAL,
		       "region 13 is shared memory with fd -1 at offset 0; it needs a memfd and a multiple of 4096");
}

Test(arguments, regions_that_overlap)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.src.region[1].gpa = FAKE_PAGE;
	source_refuses(&r, -EINVAL,
		       "regions 10 and 13 overlap in guest physical memory; give each byte to one region");
}

Test(arguments, a_source_that_cannot_save)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.src.ops.save = NULL;
	source_refuses(&r, -EINVAL, "ops.save is NULL; a source must have it");
}

Test(arguments, a_number_of_channels)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.scfg.channels = 17;
	source_refuses(&r, -EINVAL, "config.channels is 17; it takes 1 to 16");
}

Test(arguments, a_target_that_cannot_discard)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.tgt.ops.discard = NULL;
	cr_assert_eq(make_target(&r), -EINVAL);
	cr_assert_str_eq(r.tgt.error_line, "ops.discard is NULL; a target must have it");
	rig_free(&r);
}

Test(arguments, a_target_that_holds_and_never_releases)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.tgt.ops.output_release = NULL;
	cr_assert_eq(make_target(&r), -EINVAL);
	rig_says(r.tgt.error_line, "output_hold and output_release come together");
	rig_free(&r);
}

Test(arguments, a_uri_of_no_transport)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	cr_assert_eq(make_target(&r), 0);
	cr_assert_lt(ferry_open(r.tgt.session, "pigeon:coop"), 0);
	cr_assert_gt(strlen(ferry_get_detail(r.tgt.session)), 10);
	ferry_free(r.tgt.session);
	rig_free(&r);
}

Test(arguments, run_before_open_and_twice)
{
	struct ferry_result res = { .size = sizeof(res) };
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	cr_assert_eq(make_source(&r), 0);
	cr_assert_eq(ferry_run(r.src.session, NULL), -EINVAL);
	cr_assert_eq(ferry_run(r.src.session, &res), -EINVAL);
	cr_assert_str_eq(res.detail, "ferry_run() was called before ferry_open(): open a URI first");
	cr_assert_eq(res.outcome, FERRY_OUTCOME_REFUSED);
	cr_assert_eq(res.owner, FERRY_OWNER_SOURCE);
	cr_assert_eq(ferry_run(r.src.session, &res), -EALREADY);
	ferry_free(r.src.session);
	rig_free(&r);
}

Test(arguments, drills_need_their_flag)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.scfg.flags = 0;
	cr_assert_eq(make_source(&r), 0);
	cr_assert_eq(ferry_drill(r.src.session, "cut"), -EPERM);
	ferry_free(r.src.session);
	r.scfg.flags = FERRY_CONFIG_DRILL;
	cr_assert_eq(make_source(&r), 0);
	cr_assert_eq(ferry_drill(r.src.session, "hurt"), -EINVAL);
	cr_assert_eq(ferry_drill(r.src.session, NULL), -EINVAL);
	cr_assert_eq(ferry_drill(r.src.session, "lost:PIGEON"), -EINVAL);
	cr_assert_eq(ferry_drill(r.src.session, "lost:COMMITTE"), -EINVAL);
	cr_assert_eq(ferry_drill(r.src.session, "pending"), 0);
	cr_assert_eq(ferry_drill(r.src.session, "lost:COMMIT@2:50"), 0);
	cr_assert_eq(ferry_drill(r.src.session, "pending"), 1);
	ferry_free(r.src.session);
	rig_free(&r);
}

Test(arguments, a_uri_that_does_not_fit)
{
	char buf[100], small[4];
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	cr_assert_eq(make_target(&r), 0);
	cr_assert_eq(ferry_open(r.tgt.session, RIG_TCP), 0);
	cr_assert_eq(ferry_open(r.tgt.session, RIG_TCP), -EALREADY);
	cr_assert_eq(ferry_get_uri(r.tgt.session, small, sizeof(small)), -ENOSPC);
	cr_assert_eq(ferry_get_uri(r.tgt.session, buf, sizeof(buf)), 0);
	rig_says(buf, "tcp:127.0.0.1:");
	cr_assert_str_neq(buf, RIG_TCP);
	ferry_free(r.tgt.session);
	rig_free(&r);
}

/* ---- nobody there ---- */

Test(alone, a_target_that_no_source_finds)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.tcfg.connect_us = 50000;
	cr_assert_eq(make_target(&r), 0);
	cr_assert_eq(ferry_open(r.tgt.session, RIG_TCP), 0);
	r.tres.size = sizeof(r.tres);
	r.tgt.thread = pthread_self();
	cr_assert_eq(ferry_run(r.tgt.session, &r.tres), -ETIMEDOUT);
	cr_assert_eq(r.tres.outcome, FERRY_OUTCOME_REFUSED);
	rig_says(r.tres.detail, "no source connected to tcp:127.0.0.1:");
	rig_says(r.tres.detail, "for 50 ms");
	cr_assert_eq(r.tgt.calls[FAKE_DISCARD], 0);
	ferry_free(r.tgt.session);
	rig_free(&r);
}

Test(alone, a_source_that_finds_no_target)
{
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	r.scfg.connect_us = 50000;
	cr_assert_eq(make_source(&r), 0);
	cr_assert_eq(ferry_open(r.src.session, "tcp:127.0.0.1:1"), 0);
	r.sres.size = sizeof(r.sres);
	r.src.thread = pthread_self();
	cr_assert_eq(ferry_run(r.src.session, &r.sres), -ETIMEDOUT);
	cr_assert_eq(r.sres.outcome, FERRY_OUTCOME_REFUSED);
	cr_assert_eq(r.sres.owner, FERRY_OWNER_SOURCE);
	rig_says(r.sres.detail, "the target at tcp:127.0.0.1:1 could not be reached for 50 ms");
	cr_assert(world_source_runs(&r.world));
	ferry_free(r.src.session);
	rig_free(&r);
}

/* ---- two at once ---- */

static void *run_rig(void *arg)
{
	rig_run(arg);
	return NULL;
}

/* Sessions share nothing: one falls back while the other migrates. */
Test(two_at_once, in_one_process)
{
	struct rig a, b;
	pthread_t t;

	rig_init(&a, RIG_TCP_ANON);
	rig_init(&b, RIG_MEM_SHARED);
	rig_postcopy(&a, 64000000);
	rig_postcopy(&b, 64000000);
	b.tgt.fail_op = FAKE_RESUME;
	b.tgt.fail_nth = 1;
	b.tgt.fail_err = -EIO;
	cr_assert(!pthread_create(&t, NULL, run_rig, &a));
	rig_run(&b);
	pthread_join(t, NULL);
	rig_migrated(&a);
	rig_fell_back(&b);
	rig_free(&a);
	rig_free(&b);
}

/* A second source at a target that is in pre-copy with another. */
struct intruder {
	struct rig second;
	bool done;
};

static void intrude(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct intruder *i = r->arg;
	struct rig *o = &i->second;

	if (p != FERRY_PHASE_PRECOPY || i->done)
		return;
	i->done = true;
	o->src.thread = pthread_self();
	o->sres.size = sizeof(o->sres);
	if (make_source(o) || ferry_open(o->src.session, r->connect_to)) {
		world_trouble(vm->w, "the second source cannot begin");
		return;
	}
	/* Inside the first source's callback: its target goes on answering. */
	ferry_run(o->src.session, &o->sres);
}

RIG_PAIR(two_at_once, a_second_source_hears_that_the_target_is_busy)
{
	struct intruder i = { .done = false };
	struct rig r;

	rig_init(&r, kind);
	rig_init(&i.second, kind);
	r.arg = &i;
	r.src.phase_hook = intrude;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert(i.done);
	cr_assert_eq(i.second.sres.outcome, FERRY_OUTCOME_REFUSED);
	cr_assert_eq(i.second.sres.error, -EBUSY, "%d: %s", i.second.sres.error, i.second.sres.detail);
	rig_says(i.second.sres.detail, "busy with another migration");
	cr_assert_eq(i.second.sres.reason, FERRY_REASON_PEER);
	cr_assert(world_source_runs(&i.second.world));
	ferry_free(i.second.src.session);
	rig_free(&i.second);
	rig_free(&r);
}

/* ---- nothing is left behind ---- */

static unsigned mappings(const char *of)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;
	char line[600];

	cr_assert(f);
	while (fgets(line, sizeof(line), f))
		n += !of || strstr(line, of);
	fclose(f);
	return n;
}

static void postcopy_that_fails(struct rig *r)
{
	rig_postcopy(r, 0);
	r->tgt.fail_op = FAKE_RESUME;
	r->tgt.fail_nth = 1;
	r->tgt.fail_err = -EIO;
}

static void migrate(const struct rig_kind *kind, bool fails)
{
	struct rig r;

	rig_init(&r, kind);
	if (fails)
		postcopy_that_fails(&r);
	else
		rig_postcopy(&r, 0);
	rig_run(&r);
	if (fails)
		rig_fell_back(&r);
	else
		rig_migrated(&r);
	rig_free(&r);
}

#define RUNS 10u

/* A sanitizer maps memory of its own as it goes. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define COUNT_MAPPINGS false
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define COUNT_MAPPINGS false
#endif
#endif
#ifndef COUNT_MAPPINGS
#define COUNT_MAPPINGS true
#endif

static void leaves_nothing(const struct rig_kind *kind, bool fails)
{
	unsigned fds = entries("/proc/self/fd"), threads = threads_now(), maps;

	migrate(kind, fails); /* the C library keeps stacks and arenas of the first threads */
	migrate(kind, fails);
	threads = threads_left(threads); /* a sanitizer may have begun one of its own */
	maps = mappings(NULL);
	for (unsigned i = 0; i < RUNS; i++)
		migrate(kind, fails);
	cr_assert_eq(entries("/proc/self/fd"), fds, "%u descriptors, %u before", entries("/proc/self/fd"),
		     fds);
	cr_assert_eq(threads_left(threads), threads);
	cr_assert_eq(mappings("memfd:"), 0);
	if (COUNT_MAPPINGS)
		cr_assert_lt(mappings(NULL), maps + RUNS, "%u mappings, %u before", mappings(NULL), maps);
}

RIG_TESTS(leaves_nothing, after_a_migration)
{
	leaves_nothing(kind, false);
}

RIG_TESTS(leaves_nothing, after_a_fallback)
{
	leaves_nothing(kind, true);
}
