// SPDX-License-Identifier: MIT
/*
 * In post-copy no page crosses twice, counted page by page where they arrive, in whole migrations whose guest faults all over
 * its memory while the sweep brings it: each page of the residue comes once, and no other at all.
 */
#include <stdatomic.h>

#include "hugepool.h"
#include "rig.h"
#include "runtime/base/fail.h"
#include "runtime/memory/pages.h"
#include "runtime/memory/place.h"

#define POOL_PAGES 18

HUGEPOOL(POOL_PAGES)
HUGEPOOL_END()

/* Linked with --wrap=place_run, to which whatever has come for the VM is given. */
static _Atomic unsigned came[FAKE_REGIONS][FAKE_HUGE_PAGES0];

int __real_place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, uint64_t *done,
		     struct fail *f);
int __wrap_place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, uint64_t *done,
		     struct fail *f);

int __wrap_place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, uint64_t *done,
		     struct fail *f)
{
	for (uint64_t page = run->page; page < run->page + run->npages; page++)
		atomic_fetch_add(&came[run->region][page], 1);
	return __real_place_run(p, run, buf, wake, done, f);
}

static void comes_once(const struct rig_kind *kind, uint32_t channels)
{
	uint64_t sum = 0;
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 32000000); /* the guest gets to most of it before the sweep does */
	r.scfg.channels = channels;
	r.scfg.timeout_us = r.tcfg.timeout_us = 200000000; /* on a new link pages come again */
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.tres.stats.faults, 0);
	for (unsigned region = 0; region < FAKE_REGIONS; region++)
		for (unsigned page = 0; page < FAKE_HUGE_PAGES0; page++) {
			cr_assert_leq(came[region][page], 1, "page %u of region %u came %u times", page,
				      region, came[region][page]);
			sum += came[region][page];
		}
	cr_assert_eq(sum, r.tres.stats.pages_residue, "%lu pages came, of a residue of %lu",
		     (unsigned long)sum, (unsigned long)r.tres.stats.pages_residue);
	rig_free(&r);
}

RIG_TESTS(once, each_page_of_the_residue)
{
	comes_once(kind, 1);
}
RIG_TESTS(once, each_page_of_the_residue_over_three_channels)
{
	comes_once(kind, 3);
}

static void huge_comes_once(const struct rig_kind *kind)
{
	hugepool_or_skip(POOL_PAGES);
	comes_once(kind, 2);
}

/* A fault asks for those pieces of its huge page that nobody has asked for. */
Test(once, each_piece_of_huge_pages_mem)
{
	huge_comes_once(RIG_MEM_HUGE_ANON);
}
Test(once, each_piece_of_huge_pages_mem_memfd)
{
	huge_comes_once(RIG_MEM_HUGE_SHARED);
}
Test(once, each_piece_of_huge_pages_tcp)
{
	huge_comes_once(RIG_TCP_HUGE_ANON);
}
Test(once, each_piece_of_huge_pages_tcp_memfd)
{
	huge_comes_once(RIG_TCP_HUGE_SHARED);
}
