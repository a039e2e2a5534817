/* SPDX-License-Identifier: MIT */
/* The stamps of guest.S and the initial content of RAM, in C: for the host-thread mutator and the proof. */
#ifndef BENCH_VMM_STAMP_H
#define BENCH_VMM_STAMP_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

#define PAGE_WORDS 512
#define CONTENT_STEP UINT64_C(0x6a09e667f3bcc908) /* even: if the first word is odd, every word is odd */
#define CONTENT_CHUNK 64			  /* a chunk of pages is populated or a hole as a whole */

/*
 * The page of the slice that stamp seq goes to. Sequential: one after another, cyclically. Random: uniformly
 * over the slice. Zipf: the page of rank k with a probability of about 1/k (each octave of ranks is equally
 * likely, and uniform within itself); the ranks are scattered over the slice.
 */
static inline uint64_t stamp_index(uint32_t pattern, uint64_t seq, uint64_t npages)
{
	uint64_t h = seq * STAMP_K1, rank;
	unsigned __int128 octave;

	if (pattern == PATTERN_SEQUENTIAL)
		return seq % npages;
	h ^= h >> 32;
	h *= STAMP_K2;
	if (pattern == PATTERN_RANDOM)
		return (uint64_t)(((unsigned __int128)h * npages) >> 64);
	octave = (unsigned __int128)h * (64 - (unsigned)__builtin_clzll(npages));
	rank = UINT64_C(1) << (octave >> 64);
	rank += (uint64_t)((unsigned __int128)(uint64_t)octave * rank >> 64);
	return rank * STAMP_SCATTER % npages;
}

/* The word of the page that is stamped. */
static inline uint64_t stamp_word(uint64_t index)
{
	return (index * STAMP_K1) >> 55;
}

/* A bijection: distinct pages have distinct content. */
static inline uint64_t content_mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Word w of a page's content is content_first(...) + w * CONTENT_STEP: never zero, as the first is odd. */
static inline uint64_t content_first(uint64_t seed, uint64_t page)
{
	return content_mix(page + content_mix(seed)) | 1;
}

/* page counts over all of RAM; percent is of the chunks. */
static inline bool content_populated(uint64_t seed, uint64_t page, uint32_t percent)
{
	return content_mix(~seed + page / CONTENT_CHUNK) % 100 < percent;
}

#endif
