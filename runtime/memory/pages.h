/* SPDX-License-Identifier: MIT */
/*
 * State of pages: one bit a page for each thing tracked, and the only place where such bits change.
 *
 * A page_set is one such bit for every page of every region: dirty, sent (source), missing, requested
 * (target). Bits are taken and given atomically, by words, from any thread; what a thread has claimed
 * nobody else gets. Memory is reserved lazily (untouched words cost nothing), so a sparse TiB is cheap; a walk over a set
 * costs what is in it and a bit for each 16 MiB of RAM, so a downtime does not grow with the RAM.
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
	_Atomic uint64_t *words; /* npages rounded up to 64 bits; the bits beyond npages stay zero */
	_Atomic uint64_t *groups; /* a bit for each 64 words: clear where all of them are zero */
};

struct page_set {
	size_t nregions;
	struct page_set_region *r;
};

int page_set_init(struct page_set *s, const uint64_t *npages, size_t nregions); /* -ENOMEM */
void page_set_destroy(struct page_set *s);				       /* zeroed struct is fine */

bool page_set_test(const struct page_set *s, uint32_t region, uint64_t page);
bool page_set_add(struct page_set *s, uint32_t region, uint64_t page);	/* true: it was not in the set */
/* 64 pages from page on, a multiple of 64; bits beyond the region must be clear. */
void page_set_add_word(struct page_set *s, uint32_t region, uint64_t page, uint64_t bits);
/* Runs must lie within the region (asserted). Return how many bits changed. */
uint64_t page_set_add_run(struct page_set *s, const struct page_run *run);
uint64_t page_set_del_run(struct page_set *s, const struct page_run *run);
uint64_t page_set_count(const struct page_set *s);
void page_set_clear(struct page_set *s); /* a large set that was full gives its memory back */
/* Much has been taken out one by one: the next walks need not look where nothing is left. The caller alone uses it. */
void page_set_tidy(struct page_set *s);
/* dst |= src, word by word; the number of bits that were new in dst. Same shape (asserted). */
uint64_t page_set_merge(struct page_set *dst, const struct page_set *src);
/*
 * A region's bits as plain words, for the caller alone to set; page_set_trim() then takes away what was set beyond npages
 * and returns how many are set.
 */
uint64_t *page_set_words(struct page_set *s, uint32_t region);
uint64_t page_set_trim(struct page_set *s, uint32_t region);
/* dst |= src, src = nothing; the number of bits that were new in dst. The caller alone uses src. */
uint64_t page_set_move(struct page_set *dst, struct page_set *src);
/* dst &= ~src */
void page_set_subtract(struct page_set *dst, const struct page_set *src);

/* Where a walk is; zero begins it. end, if not 0: the walk stops there, inside this region. */
struct page_cursor {
	uint32_t region;
	uint64_t page;
	uint64_t end;
};

/*
 * The next run of set bits at or after *at, at most max pages, all removed from the set in one step a word
 * (a bit that another thread took ends the run). False: none to the end of the set. *at moves past the run.
 */
bool page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);
/* The same without removing. */
bool page_set_next(const struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);

#endif
