/* SPDX-License-Identifier: MIT */
/*
 * Pages that a hardware error of the source's host has destroyed, and that the VMM lets cross without their bytes: what was an
 * error for the guest at the source is the same error at the target.
 *
 * Both ends agree in the reservation that they can (MAP and RESERVED have a flag). Workers that meet such a page note it in
 * src.lost; main asks the VMM's op, and keeps it in src.poison. A page that is read again later, because the guest was given
 * fresh memory for it, leaves the set. What is in the set when the VM has been paused crosses as POISON before SWITCHOVER, is not a part
 * of the residue, and is poisoned at the target before load.
 *
 * A huge page of hugetlbfs is lost as a whole, whichever of its pieces was met: what is noted, and leaves a set, is always all of it.
 */
#ifndef FERRY_POISON_H
#define FERRY_POISON_H

#include "session.h"

/*
 * Whether this end has the op, and can: not over a transport that pins memory, because all of it has to be there; a target needs a
 * kernel that can poison.
 */
bool poison_able(struct ferry_session *s);

/* What is lost with this page: it alone, or its huge page. */
static inline struct page_run poison_unit(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	uint64_t n = UINT64_C(1) << (s->regions[region].page_shift - PAGE_SHIFT);

	return (struct page_run){ .region = region, .page = page & ~(n - 1), .npages = (uint32_t)n };
}

/*
 * Any thread, after that: whether one of these pages is poisoned. MADV_COLLAPSE would take that away, as UFFDIO_CONTINUE
 * would in pull.c of the target.
 */
static inline bool poison_in(const struct ferry_session *s, uint32_t region, uint64_t page, uint64_t npages)
{
	struct page_cursor at = { .region = region, .page = page, .end = page + npages };
	struct page_run run;

	return atomic_load_explicit(&s->tgt.poisoned, memory_order_acquire) && page_set_next(&s->tgt.poison, &at, 1, &run);
}

#endif
