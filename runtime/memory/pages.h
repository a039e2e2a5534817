/* SPDX-License-Identifier: MIT */
/*
 * Sets of pages: one bit per page for each tracked property, such as dirty and sent (source) or missing and
 * requested (target). Page state changes only here.
 *
 * Any thread may set and take bits; both are atomic per word, and two threads never take the same bit. Memory
 * is reserved lazily, so a sparse TiB is cheap. A walk costs what is in the set plus one bit per 16 MiB of
 * RAM, so that the downtime does not grow with the RAM.
 */
#ifndef FERRY_PAGES_H
#define FERRY_PAGES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/base/page.h"

struct page_set_region {
	uint64_t npages;
	_Atomic uint64_t *words;  /* npages bits, rounded up to 64; bits beyond npages stay zero */
	_Atomic uint64_t *groups; /* one bit per 64 words; clear only if all of them are zero */
};

struct page_set {
	size_t nregions;
	struct page_set_region *r;
};

int page_set_init(struct page_set *s, const uint64_t *npages, size_t nregions); /* -ENOMEM */
void page_set_destroy(struct page_set *s);					/* a zeroed struct is fine */

bool page_set_test(const struct page_set *s, uint32_t region, uint64_t page);
bool page_set_add(struct page_set *s, uint32_t region, uint64_t page); /* true if it was not in the set */
/* Adds up to 64 pages from page on, which is a multiple of 64. Bits beyond the region must be clear. */
void page_set_add_word(struct page_set *s, uint32_t region, uint64_t page, uint64_t bits);
/* The run must lie within the region (asserted). Return how many bits changed. */
uint64_t page_set_add_run(struct page_set *s, const struct page_run *run);
uint64_t page_set_del_run(struct page_set *s, const struct page_run *run);
uint64_t page_set_count(const struct page_set *s);
void page_set_clear(struct page_set *s); /* also frees the memory of a set that had many pages */
/* After taking many pages one by one: lets walks skip emptied groups. No other thread may use s. */
void page_set_tidy(struct page_set *s);
/* dst |= src, word by word. Returns the number of new bits in dst. Both have the same shape (asserted). */
uint64_t page_set_merge(struct page_set *dst, const struct page_set *src);
/*
 * A region's bits as plain words, to be set while no other thread uses the set. Then call page_set_trim(): it
 * clears bits beyond npages and returns how many bits are set.
 */
uint64_t *page_set_words(struct page_set *s, uint32_t region);
uint64_t page_set_trim(struct page_set *s, uint32_t region);
/* dst |= src; empties src. Returns the number of new bits in dst. No other thread may use src. */
uint64_t page_set_move(struct page_set *dst, struct page_set *src);
/* dst &= ~src */
void page_set_subtract(struct page_set *dst, const struct page_set *src);

/* The position of a walk; start with zeros. If end is not 0, the walk stops there, in this region. */
struct page_cursor {
	uint32_t region;
	uint64_t page;
	uint64_t end;
};

/*
 * Removes the next run of set bits at or after *at, at most max pages, one atomic step per word; a bit that
 * another thread took ends the run. Moves *at past the run. False: no bits are left up to the end.
 */
bool page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);
/* The same without removing. */
bool page_set_next(const struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);

#endif
