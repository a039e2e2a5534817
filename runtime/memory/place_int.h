/* SPDX-License-Identifier: MIT */
/* Shared by place.c, place_huge.c and place_land.c. */
#ifndef FERRY_PLACE_INT_H
#define FERRY_PLACE_INT_H

#include "place.h"

static inline size_t bytes(uint64_t pages)
{
	return (size_t)(pages << PAGE_SHIFT);
}

#define LANDING_KIND (FERRY_REGION_SHARED | FERRY_REGION_THP)

/*
 * Chooses the way of each kind of memory and sets .kernel of each region. If a measurement fails, its kind lands
 * in the mapping; the error is returned for the log only.
 */
int landing_choose(struct place *p, enum ferry_landing_way want);
/* Records the first page of the run that cannot be written and returns its error; 0 if there is none. */
int place_unwritable(const struct place_region *r, const struct page_run *run, struct fail *f);
/* The features (UFFD_*) that the regions need of userfaultfd. */
unsigned place_kinds(const struct place *p);
/*
 * Maps len bytes by the ioctl of the region's kind. The ioctl stops at each page that is mapped already:
 * skips that page and wakes the threads that are blocked on it.
 */
int place_resolve(struct place *p, const struct place_region *r, uint8_t *dst, const uint8_t *src, size_t len,
		  bool wake);

/* Maps the second mapping of a shared region or the inbox of a private one; allocates the counts. */
int huge_open(struct place_region *r, bool pinned, struct fail *f);
/* After all regions are open: maps the zeros for huge_clean(). */
int huge_ready(struct place *p, struct fail *f);
/*
 * Call this if UFFDIO_COPY fails with EEXIST for a huge page: 0 if the page is mapped. Linux 6.18 returns the
 * same error if it got no huge page (the pool is empty, the cgroup's limit is reached): -ENOMEM.
 */
int huge_exists(void *addr);
/* Widens a run to whole huge pages and moves the walk's cursor to their end. */
void huge_around(struct page_run *run, struct page_cursor *at);
/* As place_run(), place_clean(). */
int huge_run(struct place *p, const struct page_run *run, bool wake, uint64_t *done, struct fail *f);
int huge_clean(struct place *p, const struct page_run *run, struct fail *f);

#endif
