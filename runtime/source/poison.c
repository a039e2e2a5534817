// SPDX-License-Identifier: MIT
/* Poisoned pages at the source: pages that this host has lost. session/poison.h has the theory. */
#include <errno.h>
#include <inttypes.h>

#include "poison.h"
#include "source_int.h"
#include "runtime/link/link.h"

#define SIFT_RUNS 256u
#define SIFT_PAGES 512u /* per run: sift_run() looks at all of them, one by one, if one cannot be read */
#define SEND_RUNS 512u

_Static_assert(SEND_RUNS <= WIRE_RUNS_MAX, "a POISON fits the wire");

static uint8_t *page_at(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	return (uint8_t *)s->regions[region].hva + page * PAGE_BYTES;
}

/* True if a page of this unit has been named as residue: the target will ask for it. */
static bool named(const struct ferry_session *s, const struct page_run *unit)
{
	struct page_cursor at = { .region = unit->region,
				  .page = unit->page,
				  .end = unit->page + unit->npages };
	struct page_run run;

	return page_set_next(&s->src.residue, &at, 1, &run);
}

int poison_unreadable(struct ferry_session *s, uint32_t region, uint64_t page)
{
	const struct ferry_region *reg = &s->regions[region];
	struct page_run unit = poison_unit(s, region, page);
	uint8_t *at = page_at(s, region, page);

	if (s->peer_can_poison && reach_page(at, false) == -EHWPOISON && !named(s, &unit)) {
		/* skip if the VMM has been asked, or will be */
		if (!page_set_test(&s->src.poison, region, page) &&
		    !page_set_test(&s->src.lost, region, page))
			page_set_add_run(&s->src.lost, &unit);
		return 0;
	}
	return reach_fail(&s->fail, &(struct reach_page){ reg->id, page, reg->gpa + page * PAGE_BYTES, at },
			  false);
}

int poison_ask(struct ferry_session *s)
{
	struct page_cursor at = { 0 };
	struct page_run run;

	while (page_set_next(&s->src.lost, &at, UINT32_MAX, &run)) {
		uint32_t id = s->regions[run.region].id;
		int err = OP(s, poison, id, run.page, run.npages);

		if (err < 0)
			return err;
		session_log(s, 4, NULL, "poison region=%u page=%" PRIu64 " pages=%u", id, run.page,
			    run.npages);
		s->src.poisoned = true;
	}
	if (s->src.poisoned)
		page_set_move(&s->src.poison, &s->src.lost);
	return 0;
}

/* Page by page: removes poisoned pages from set, and readable pages from src.poison. */
static int sift_run(struct ferry_session *s, struct page_set *set, const struct page_run *run)
{
	struct page_run unit;
	int err = 0;

	for (uint32_t i = 0; i < run->npages && !err; i++) {
		struct page_run one = { .region = run->region, .page = run->page + i, .npages = 1 };

		if (!page_set_test(set, one.region, one.page))
			continue;
		if (!reach_page(page_at(s, one.region, one.page), false)) {
			poison_read(s, &one);
			continue;
		}
		err = poison_unreadable(s, one.region, one.page);
		unit = poison_unit(s, one.region, one.page);
		page_set_del_run(set, &unit);
	}
	return err;
}

/* If not all of these runs can be read, checks each run, and looks into an unreadable one page by page. */
static int sift_runs(struct ferry_session *s, struct page_set *set, const struct page_run *run,
		     const struct iovec *v, unsigned n)
{
	bool fine = !reach_readable(&s->src.reach, v, n);
	int err = 0;

	for (unsigned i = 0; i < n && !err; i++)
		if (fine || (n > 1 && !reach_readable(&s->src.reach, &v[i], 1)))
			poison_read(s, &run[i]);
		else
			err = sift_run(s, set, &run[i]);
	return err;
}

/* The residue may be all of memory: checks for a cancel before each vector of runs. */
static int sift_all(struct ferry_session *s, struct page_set *set)
{
	struct page_run run[SIFT_RUNS];
	struct iovec v[SIFT_RUNS];
	struct page_cursor at = { 0 };
	unsigned n = SIFT_RUNS;
	int err = 0;

	while (n == SIFT_RUNS && !err) {
		if (atomic_load(&s->want_cancel))
			return fail(&s->fail, -ECANCELED, "canceled by the embedder in pre-copy");
		for (n = 0; n < SIFT_RUNS && page_set_next(set, &at, SIFT_PAGES, &run[n]); n++)
			v[n] = (struct iovec){ page_at(s, run[n].region, run[n].page),
					       run[n].npages * PAGE_BYTES };
		err = n ? sift_runs(s, set, run, v, n) : 0;
	}
	return err;
}

int poison_sift(struct ferry_session *s, struct page_set *set, bool all)
{
	struct page_cursor at = { 0 };
	struct page_run run;
	int err = 0;

	if (!s->peer_can_poison || (!all && !s->src.poisoned))
		return 0;
	if (all)
		err = sift_all(s, set);
	while (!all && !err && page_set_next(&s->src.poison, &at, UINT32_MAX, &run))
		err = sift_run(s, set, &run);
	return err ? err : poison_ask(s);
}

int poison_send(struct ferry_session *s)
{
	struct page_run run[SEND_RUNS];
	struct page_cursor at = { 0 };
	unsigned n = SEND_RUNS;
	int err = 0;

	while (s->src.poisoned && n == SEND_RUNS && !err) {
		for (n = 0; n < SEND_RUNS && page_set_next(&s->src.poison, &at, UINT32_MAX, &run[n]);)
			n++;
		err = source_may_send(s);
		if (n && !err)
			err = link_send(s, WIRE_POISON, NULL, 0, run, n * sizeof(run[0]));
	}
	return err;
}
