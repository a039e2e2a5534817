// SPDX-License-Identifier: MIT
/*
 * How many gets the sweep keeps in flight: what a long link holds, and few where they would only queue. And that it comes to
 * everything, wherever a fault has sent it.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "runtime/memory/place_int.h"
#include "runtime/target/pull_int.h"

#define NPAGES (UINT64_C(1) << 20)

/* A channel whose gets come LATE_US after they were asked for, or after the one before. */
struct late {
	struct xport_chan chan;
	bool queues;
	uint64_t due_us[XPORT_GETS_MAX], last_us;
	uint32_t tag[XPORT_GETS_MAX]; /* in order */
	unsigned flying, most;
};
#define LATE_US 4000u

static int late_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct late *c = (struct late *)chan;
	uint64_t from = now_us();

	(void)runs, (void)dst;
	cr_assert_gt(n, 0);
	if (c->queues && from < c->last_us)
		from = c->last_us;
	c->due_us[c->flying] = c->last_us = from + LATE_US;
	c->tag[c->flying++] = tag;
	if (c->flying > c->most)
		c->most = c->flying;
	return 0;
}

static int late_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct late *c = (struct late *)chan;
	unsigned n = 0;

	(void)wait_us;
	while (now_us() < c->due_us[0]) {
		uint64_t left = c->due_us[0] - now_us();

		nanosleep(&(struct timespec){ .tv_nsec = (long)(left < LATE_US ? left : 0) * 1000 }, NULL);
	}
	while (n < c->flying && n < max && c->due_us[n] <= now_us()) {
		tags[n] = c->tag[n];
		n++;
	}
	c->flying -= n;
	memmove(c->due_us, c->due_us + n, c->flying * sizeof(c->due_us[0]));
	memmove(c->tag, c->tag + n, c->flying * sizeof(c->tag[0]));
	return (int)n;
}

static const struct xport_chan_ops late_ops = { .get = late_get, .reap = late_reap };

/* So many gets, each thrown away as it comes. */
static unsigned sweep_over(struct late *c, unsigned gets)
{
	struct ferry_region region = { .len = NPAGES << 12 };
	struct place_region memory = { 0 };
	struct place place = { .r = &memory, .n = 1 };
	struct pull_param param = { .place = &place, .regions = &region, .nregions = 1, .channels = 1 };
	struct sweep w = { .c = &c->chan };
	struct pull *p = NULL;

	cr_assert_eq(pull_new(&p, &param), 0);
	page_set_add_run(&p->todo, &(struct page_run){ .npages = NPAGES });
	atomic_store(&p->left, NPAGES);
	for (unsigned done = 0; done < gets; done += w.ncame, w.ncame = 0) {
		cr_assert_geq(sweep_ask(p, &w, UINT32_MAX), 0);
		cr_assert_gt(sweep_reap(&w, 1000000), 0);
		for (unsigned i = 0; i < w.ncame; i++)
			w.get[w.came[i]].n = 0;
	}
	cr_assert_leq(c->most, SWEEP_DEPTH_MAX);
	pull_free(p);
	return w.depth;
}

Test(sweep, fills_a_long_link)
{
	struct late c = { .chan.ops = &late_ops };

	sweep_over(&c, 600);
	cr_assert_eq(c.most, SWEEP_DEPTH_MAX, "at most %u in flight", c.most);
}

/* At first three are asked for at once; had the first been late, the others would have looked quick. */
Test(sweep, keeps_few_gets_where_they_queue)
{
	struct late c = { .chan.ops = &late_ops, .queues = true };
	unsigned depth = sweep_over(&c, 100);

	cr_assert_leq(depth, SWEEP_DEPTH + 1, "%u in flight", depth);
}

/* A fault in the last page, or behind all that is missing, sends it there: what lies before is found all the same, once. */
Test(sweep, what_lies_before_the_last_fault_is_swept_too)
{
	static const uint64_t hints[] = { 0, 1, 50, 100, 104, 108, NPAGES - 1 };

	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++) {
		struct late c = { .chan.ops = &late_ops };
		struct ferry_region region = { .len = NPAGES << 12 };
		struct place_region memory = { 0 };
		struct place place = { .r = &memory, .n = 1 };
		struct pull_param param = {
			.place = &place, .regions = &region, .nregions = 1, .channels = 1
		};
		struct sweep w = { .c = &c.chan };
		struct page_run run = { .page = 100, .npages = 8 };
		struct pull *p = NULL;
		uint32_t got = 0;

		cr_assert_eq(pull_new(&p, &param), 0);
		page_set_add_run(&p->todo, &run);
		atomic_store(&p->left, run.npages);
		atomic_store(&p->hint, hints[i] + 1);
		while (sweep_ask(p, &w, 1) == 1)
			;
		for (unsigned k = 0; k < SWEEP_DEPTH_MAX; k++)
			for (unsigned r = 0; r < w.get[k].n; r++)
				got += w.get[k].run[r].npages;
		cr_assert_eq(got, run.npages, "from page %lu on: %u pages of %u", (unsigned long)hints[i],
			     got, run.npages);
		cr_assert_eq(page_set_count(&p->todo), 0);
		pull_free(p);
	}
}
