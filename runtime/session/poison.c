// SPDX-License-Identifier: MIT
#include "poison.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include "runtime/link/link.h"
#include "runtime/source/source.h"
#include "runtime/target/target.h"
#include "runtime/memory/uffd.h"

#define PAGE ((size_t)4096)
#define SIFT_RUNS 256u
#define SIFT_PAGES 512u /* a run: so many are looked at one by one for each that is poisoned */
#define SEND_RUNS 512u
#define LOOK_RUNS 64u /* of fewer pages than a piece: the VMM is asked for each */

_Static_assert(SEND_RUNS <= WIRE_RUNS_MAX, "a POISON fits the wire");

bool poison_able(struct ferry_session *s)
{
	int fd;

	if (!s->ops.poison || s->link->caps & XPORT_PINS || s->is_source)
		return s->ops.poison && !(s->link->caps & XPORT_PINS);
	fd = uffd_open(UFFD_POISON, NULL);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static uint8_t *page_at(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	return (uint8_t *)s->regions[region].hva + page * PAGE;
}

/* A piece of this unit has been named: the target will ask for it. */
static bool named(const struct ferry_session *s, const struct page_run *unit)
{
	struct page_cursor at = { .region = unit->region, .page = unit->page, .end = unit->page + unit->npages };
	struct page_run run;

	return page_set_next(&s->src.residue, &at, 1, &run);
}

int poison_unreadable(struct ferry_session *s, uint32_t region, uint64_t page)
{
	const struct ferry_region *reg = &s->regions[region];
	struct page_run unit = poison_unit(s, region, page);
	uint8_t *at = page_at(s, region, page);

	if (s->peer_can_poison && reach_page(at, false) == -EHWPOISON && !named(s, &unit)) {
		/* else the VMM has been asked, or will be */
		if (!page_set_test(&s->src.poison, region, page) && !page_set_test(&s->src.lost, region, page))
			page_set_add_run(&s->src.lost, &unit);
		return 0;
	}
	return reach_fail(&s->fail, &(struct reach_page){ reg->id, page, reg->gpa + page * PAGE, at }, false);
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
		session_log(s, 4, NULL, "poison region=%u page=%" PRIu64 " pages=%u", id, run.page, run.npages);
		s->src.poisoned = true;
	}
	if (s->src.poisoned)
		page_set_move(&s->src.poison, &s->src.lost);
	return 0;
}

/* Page by page: what is poisoned leaves the set, what is not leaves the poison. */
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

/* Where not all of these runs can be read, each is asked for by itself, and one that cannot page by page. */
static int sift_runs(struct ferry_session *s, struct page_set *set, const struct page_run *run, const struct iovec *v, unsigned n)
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

/* All of the residue may be the whole of memory, and whoever cancels waits for no more than a vector of it. */
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
			v[n] = (struct iovec){ page_at(s, run[n].region, run[n].page), run[n].npages * PAGE };
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
		for (n = 0; n < SEND_RUNS && page_set_next(&s->src.poison, &at, UINT32_MAX, &run[n]); n++)
			run[n].region = s->regions[run[n].region].id;
		err = source_may_send(s);
		if (n && !err)
			err = link_send(s, WIRE_POISON, NULL, 0, run, n * sizeof(run[0]));
	}
	return err;
}

/* ---- target ---- */

int poison_recv(struct ferry_session *s, const struct wire_msg *m)
{
	for (size_t i = 0; i < m->nelems; i++) {
		struct page_run run;
		uint32_t unit;
		int idx;

		memcpy(&run, (const struct page_run *)m->elems + i, sizeof(run));
		idx = region_index(s, run.region);
		if (idx < 0 || !run.npages || run.page >= s->tgt.poison.r[idx].npages ||
		    run.npages > s->tgt.poison.r[idx].npages - run.page)
			return fail(&s->fail, -EPROTO,
				    "the source's POISON names pages %" PRIu64 "+%u of region %u, which its map does not have", run.page,
				    run.npages, run.region);
		unit = poison_unit(s, (uint32_t)idx, run.page).npages;
		if (run.page % unit || run.npages % unit)
			return fail(&s->fail, -EPROTO, "the source's POISON names pages %" PRIu64 "+%u of region %u, which are no whole huge pages",
				    run.page, run.npages, run.region);
		if (!s->tgt.place.poisons)
			return fail(&s->fail, -EPROTO, "the source sent POISON, and this end has not said that it can");
		run.region = (uint32_t)idx;
		page_set_add_run(&s->tgt.poison, &run);
	}
	return 0;
}

int poison_install(struct ferry_session *s)
{
	struct page_cursor at = { 0 };
	struct page_run run;
	unsigned n = 0;
	int err = 0;

	while (!err && page_set_next(&s->tgt.poison, &at, PIECE_PAGES, &run)) {
		struct page_cursor in = { .region = run.region, .page = run.page, .end = run.page + run.npages };
		struct page_run both;

		if (page_set_next(&s->tgt.missing, &in, 1, &both))
			return fail(&s->fail, -EPROTO, "the source's POISON and its RESIDUE both name page %" PRIu64 " of region %u", both.page,
				    s->regions[run.region].id);
		atomic_store(&s->tgt.poisoned, true);
		err = place_poison(&s->tgt.place, &run, &s->fail);
		if (!err)
			err = OP(s, poison, s->regions[run.region].id, run.page, run.npages);
		if (!err && (run.npages == PIECE_PAGES || ++n % LOOK_RUNS == 0))
			err = link_still(s);
	}
	return err;
}
