/* SPDX-License-Identifier: MIT */
/* What place.c and place_huge.c share. */
#ifndef FERRY_PLACE_INT_H
#define FERRY_PLACE_INT_H

#include "place.h"


static inline size_t bytes(uint64_t pages)
{
	return (size_t)(pages << PAGE_SHIFT);
}

/* UFFD_*: what the regions need of userfaultfd. */
unsigned place_kinds(const struct place *p);
/*
 * Walks the ioctl of the region's kind over a run; it stops at each page that is there already: such a page
 * is skipped, and who waits for it woken.
 */
int place_resolve(struct place *p, const struct place_region *r, uint8_t *dst, const uint8_t *src, size_t len,
		  bool wake);

/* The second mapping of a shared region, the gathering memory of a private one; what post-copy counts. */
int huge_open(struct place_region *r, bool pinned, struct fail *f);
/* After all regions are open: refused here rather than in the middle of the migration. */
int huge_ready(struct place *p, struct fail *f);
/*
 * UFFDIO_COPY has said EEXIST of a huge page: 0 where it is mapped. Linux 6.18 says the same where there was none to be had
 * (the pool is empty, the cgroup's limit is reached): -ENOMEM.
 */
int huge_exists(void *addr);
/* Widens a run to whole huge pages, and moves the cursor of the walk that gave it behind them. */
void huge_around(struct page_run *run, struct page_cursor *at);
/* As place_run(), place_clean(). */
int huge_run(struct place *p, const struct page_run *run, bool wake, struct page_set *missing, uint64_t *done,
	     struct fail *f);
int huge_clean(struct place *p, const struct page_run *run, struct fail *f);

#endif
