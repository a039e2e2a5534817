/* SPDX-License-Identifier: MIT */
/*
 * Pages that a hardware error of the source's host has destroyed. If the VMM agrees, they cross without their
 * bytes, and the guest meets the same error at the target.
 *
 * In the reservation both ends agree that they can do it (flags of MAP and RESERVED). A worker that meets
 * such a page notes it in src.lost; main asks the VMM's op and moves it to src.poison. A page that can be
 * read again later, because the guest got fresh memory for it, leaves the set. What is in it after the pause
 * crosses as POISON before SWITCHOVER, is no part of the residue, and is poisoned at the target before load.
 *
 * A huge page of hugetlbfs is lost as a whole, whichever piece was met: a set has all of its pieces or none.
 */
#ifndef FERRY_POISON_H
#define FERRY_POISON_H

#include "session.h"

/*
 * Whether this end has the op and can use it: not over a transport that pins memory, because pinned pages
 * must all be present; and a target needs a kernel that can poison.
 */
bool poison_able(struct ferry_session *s);

/* The pages that are lost together with this one: it alone, or its huge page. */
static inline struct page_run poison_unit(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	uint64_t n = UINT64_C(1) << (s->regions[region].page_shift - PAGE_SHIFT);

	return (struct page_run){ .region = region, .page = page & ~(n - 1), .npages = (uint32_t)n };
}

/*
 * Target, any thread: whether one of these pages is poisoned. MADV_COLLAPSE would remove the poison, and so
 * would UFFDIO_CONTINUE in target/pull.c.
 */
static inline bool poison_in(const struct ferry_session *s, uint32_t region, uint64_t page, uint64_t npages)
{
	struct page_cursor at = { .region = region, .page = page, .end = page + npages };
	struct page_run run;

	return atomic_load_explicit(&s->tgt.poisoned, memory_order_acquire) &&
	       page_set_next(&s->tgt.poison, &at, 1, &run);
}

#endif
