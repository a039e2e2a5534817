/* SPDX-License-Identifier: MIT */
/*
 * Sets of pages, one bit per page.
 *
 * Every change is one atomic read-modify-write of one word, and the word's old value tells what it changed.
 * Add and delete use fetch_or and fetch_and. A claim uses compare-and-swap, so that it takes exactly the run
 * that it returns and never gives a bit back. The words are lazily populated: a scan of words that nobody has
 * written reads the kernel's zero page.
 *
 * Each group of 64 words has a bit, set before any of its words; walks skip groups whose bit is clear. When
 * the last bit of a group is taken, the group's bit stays set until the set is emptied or tidied; that costs
 * a look at 64 words.
 */
#include "pages.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WORD_BITS 64u
#define GROUP_WORDS 64u
#define WORDS_PAGE (PAGE_BYTES / sizeof(uint64_t))
#define GIVE_BACK_PAGES 256u /* 1 MiB */

static uint64_t nwords(const struct page_set_region *r)
{
	return r->npages / WORD_BITS + (r->npages % WORD_BITS != 0);
}

static uint64_t load(const struct page_set_region *r, uint64_t word)
{
	return atomic_load_explicit(&r->words[word], memory_order_relaxed);
}

static uint64_t ngroup_words(const struct page_set_region *r)
{
	return nwords(r) / (GROUP_WORDS * WORD_BITS) + 1;
}

/* Sets the bit of the word's group. Call this before setting a bit of the word. */
static void mark(struct page_set_region *r, uint64_t word)
{
	uint64_t group = word / GROUP_WORDS, bit = UINT64_C(1) << (group % WORD_BITS);
	_Atomic uint64_t *g = &r->groups[group / WORD_BITS];

	if (!(atomic_load_explicit(g, memory_order_relaxed) & bit))
		atomic_fetch_or_explicit(g, bit, memory_order_acq_rel);
}

/* The first word at or after this one whose group's bit is set, or nwords. word must begin a group. */
static uint64_t skip(const struct page_set_region *r, uint64_t word)
{
	uint64_t n = nwords(r), group = word / GROUP_WORDS, i = group / WORD_BITS, bits;

	if (word >= n)
		return n;
	bits = atomic_load_explicit(&r->groups[i], memory_order_relaxed) & ~UINT64_C(0)
										   << (group % WORD_BITS);
	while (!bits) {
		if (++i * GROUP_WORDS * WORD_BITS >= n)
			return n;
		bits = atomic_load_explicit(&r->groups[i], memory_order_relaxed);
	}
	return (i * WORD_BITS + (uint64_t)__builtin_ctzll(bits)) * GROUP_WORDS;
}

static uint64_t next_word(const struct page_set_region *r, uint64_t word)
{
	return ++word % GROUP_WORDS ? word : skip(r, word);
}

#define FOR_WORDS(r, w) for (uint64_t w = skip(r, 0), w##_n = nwords(r); w < w##_n; w = next_word(r, w))

/* Clears all group bits. Call this when all words are zero. */
static void unmark(struct page_set_region *r)
{
	for (uint64_t i = 0; r->npages && i < ngroup_words(r); i++)
		atomic_store_explicit(&r->groups[i], 0, memory_order_release);
}

/* n bits from bit first on: 1 <= n <= 64 and first + n <= 64. */
static uint64_t mask_of(unsigned first, unsigned n)
{
	return (~UINT64_C(0) >> (WORD_BITS - n)) << first;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

int page_set_init(struct page_set *s, const uint64_t *npages, size_t nregions)
{
	struct page_set set = { .nregions = nregions };
	size_t i;

	set.r = calloc(nregions ? nregions : 1, sizeof(*set.r));
	if (!set.r)
		return -ENOMEM;

	for (i = 0; i < nregions; i++) {
		struct page_set_region *r = &set.r[i];
		void *words;

		r->npages = npages[i];
		if (!r->npages)
			continue;
		words = mmap(NULL, nwords(r) * sizeof(*r->words), PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		r->words = words == MAP_FAILED ? NULL : words;
		r->groups = calloc(ngroup_words(r), sizeof(*r->groups));
		if (!r->words || !r->groups) {
			page_set_destroy(&set);
			return -ENOMEM;
		}
	}
	*s = set;
	return 0;
}

void page_set_destroy(struct page_set *s)
{
	size_t i;

	for (i = 0; s->r && i < s->nregions; i++) {
		if (s->r[i].words)
			munmap((void *)s->r[i].words, nwords(&s->r[i]) * sizeof(*s->r[i].words));
		free((void *)s->r[i].groups);
	}
	free(s->r);
	memset(s, 0, sizeof(*s));
}

static struct page_set_region *region_of(const struct page_set *s, uint32_t region, uint64_t page)
{
	assert(region < s->nregions && page < s->r[region].npages);
	return &s->r[region];
}

bool page_set_test(const struct page_set *s, uint32_t region, uint64_t page)
{
	const struct page_set_region *r = region_of(s, region, page);

	return atomic_load_explicit(&r->words[page / WORD_BITS], memory_order_acquire) >> (page % WORD_BITS) &
	       1;
}

bool page_set_add(struct page_set *s, uint32_t region, uint64_t page)
{
	struct page_set_region *r = region_of(s, region, page);
	uint64_t bit = UINT64_C(1) << (page % WORD_BITS);

	mark(r, page / WORD_BITS);
	return !(atomic_fetch_or_explicit(&r->words[page / WORD_BITS], bit, memory_order_acq_rel) & bit);
}

void page_set_add_word(struct page_set *s, uint32_t region, uint64_t page, uint64_t bits)
{
	struct page_set_region *r = region_of(s, region, page);

	assert(page % WORD_BITS == 0);
	mark(r, page / WORD_BITS);
	atomic_fetch_or_explicit(&r->words[page / WORD_BITS], bits, memory_order_acq_rel);
}

static uint64_t change_run(struct page_set *s, const struct page_run *run, bool add)
{
	struct page_set_region *r;
	uint64_t page = run->page, left = run->npages, changed = 0;

	assert(run->region < s->nregions);
	r = &s->r[run->region];
	assert(page <= r->npages && left <= r->npages - page);

	while (left) {
		unsigned first = page % WORD_BITS;
		unsigned n = min_u64(left, WORD_BITS - first);
		uint64_t mask = mask_of(first, n), old;
		_Atomic uint64_t *word = &r->words[page / WORD_BITS];

		if (add) {
			mark(r, page / WORD_BITS);
			old = ~atomic_fetch_or_explicit(word, mask, memory_order_acq_rel);
		} else {
			old = atomic_fetch_and_explicit(word, ~mask, memory_order_acq_rel);
		}
		changed += __builtin_popcountll(old & mask);
		page += n;
		left -= n;
	}
	return changed;
}

uint64_t page_set_add_run(struct page_set *s, const struct page_run *run)
{
	return change_run(s, run, true);
}

uint64_t page_set_del_run(struct page_set *s, const struct page_run *run)
{
	return change_run(s, run, false);
}

uint64_t page_set_count(const struct page_set *s)
{
	uint64_t count = 0;

	for (size_t i = 0; i < s->nregions; i++)
		FOR_WORDS(&s->r[i], w)
	count += __builtin_popcountll(load(&s->r[i], w));
	return count;
}

/*
 * Counts the pages of memory whose words were emptied. If there are few they are kept, because writing them
 * again after MADV_DONTNEED costs a fault each.
 */
struct emptied {
	uint64_t last, pages;
};

static void note_emptied(struct emptied *e, uint64_t word)
{
	uint64_t page = word / WORDS_PAGE + 1;

	e->pages += page != e->last;
	e->last = page;
}

static void give_back(struct page_set_region *r, const struct emptied *e)
{
	if (e->pages >= GIVE_BACK_PAGES)
		madvise((void *)r->words, nwords(r) * sizeof(*r->words), MADV_DONTNEED);
}

void page_set_clear(struct page_set *s)
{
	for (size_t i = 0; i < s->nregions; i++) {
		struct page_set_region *r = &s->r[i];
		struct emptied e = { 0 };

		FOR_WORDS(r, w)
		{
			if (!load(r, w)) /* writing a zero word would allocate its page */
				continue;
			atomic_store_explicit(&r->words[w], 0, memory_order_release);
			note_emptied(&e, w);
		}
		unmark(r);
		give_back(r, &e);
	}
}

void page_set_tidy(struct page_set *s)
{
	for (size_t i = 0; i < s->nregions; i++) {
		struct page_set_region *r = &s->r[i];
		uint64_t n = nwords(r);

		for (uint64_t first = skip(r, 0); first < n; first = skip(r, first + GROUP_WORDS)) {
			uint64_t group = first / GROUP_WORDS, w = first,
				 end = min_u64(first + GROUP_WORDS, n);

			while (w < end && !load(r, w))
				w++;
			if (w == end)
				atomic_fetch_and_explicit(&r->groups[group / WORD_BITS],
							  ~(UINT64_C(1) << (group % WORD_BITS)),
							  memory_order_acq_rel);
		}
	}
}

static void assert_same_shape(const struct page_set *a, const struct page_set *b)
{
	size_t i;

	assert(a->nregions == b->nregions);
	for (i = 0; i < a->nregions; i++)
		assert(a->r[i].npages == b->r[i].npages);
}

uint64_t page_set_merge(struct page_set *dst, const struct page_set *src)
{
	uint64_t added = 0;

	assert_same_shape(dst, src);
	for (size_t i = 0; i < dst->nregions; i++) {
		FOR_WORDS(&src->r[i], w)
		{
			uint64_t bits = load(&src->r[i], w), old;

			if (!bits)
				continue;
			mark(&dst->r[i], w);
			old = atomic_fetch_or_explicit(&dst->r[i].words[w], bits, memory_order_acq_rel);
			added += __builtin_popcountll(bits & ~old);
		}
	}
	return added;
}

uint64_t page_set_move(struct page_set *dst, struct page_set *src)
{
	uint64_t added = 0;

	assert_same_shape(dst, src);
	for (size_t i = 0; i < dst->nregions; i++) {
		struct page_set_region *r = &src->r[i];
		struct emptied e = { 0 };

		FOR_WORDS(r, w)
		{
			uint64_t bits = load(r, w), old;

			if (!bits)
				continue;
			mark(&dst->r[i], w);
			old = atomic_fetch_or_explicit(&dst->r[i].words[w], bits, memory_order_acq_rel);
			added += __builtin_popcountll(bits & ~old);
			atomic_store_explicit(&r->words[w], 0, memory_order_relaxed);
			note_emptied(&e, w);
		}
		unmark(r);
		give_back(r, &e);
	}
	return added;
}

uint64_t *page_set_words(struct page_set *s, uint32_t region)
{
	assert(region < s->nregions);
	return (uint64_t *)s->r[region].words;
}

uint64_t page_set_trim(struct page_set *s, uint32_t region)
{
	struct page_set_region *r = &s->r[region];
	static const uint64_t zeros[8];
	uint64_t count = 0, n = nwords(r);

	if (r->npages % WORD_BITS && load(r, n - 1) & ~mask_of(0, r->npages % WORD_BITS))
		atomic_fetch_and(&r->words[n - 1], mask_of(0, r->npages % WORD_BITS));
	for (uint64_t w = 0; w < n; w++) {
		uint64_t bits;

		while (n - w > 8 && !memcmp((const void *)&r->words[w], zeros, sizeof(zeros)))
			w += 8;
		bits = load(r, w);
		if (bits) {
			mark(r, w);
			count += __builtin_popcountll(bits);
		}
	}
	return count;
}

void page_set_subtract(struct page_set *dst, const struct page_set *src)
{
	assert_same_shape(dst, src);
	for (size_t i = 0; i < dst->nregions; i++) {
		FOR_WORDS(&dst->r[i], w)
		{
			uint64_t bits = load(&dst->r[i], w);

			if (bits && (bits &= load(&src->r[i], w)))
				atomic_fetch_and_explicit(&dst->r[i].words[w], ~bits, memory_order_acq_rel);
		}
	}
}

/* The first page of [page, end) whose bit, xored with flip, is set; end if there is none. */
static uint64_t find(const struct page_set_region *r, uint64_t page, uint64_t end, uint64_t flip)
{
	uint64_t w = page / WORD_BITS, bits;

	if (page >= end)
		return end;
	bits = (load(r, w) ^ flip) & (~UINT64_C(0) << (page % WORD_BITS));
	while (!bits) {
		w = flip ? w + 1 : next_word(r, w);
		if (w * WORD_BITS >= end)
			return end;
		bits = load(r, w) ^ flip;
	}
	return min_u64(w * WORD_BITS + __builtin_ctzll(bits), end);
}

/* The number of consecutive set bits of the word from bit first on, at most max. */
static unsigned ones_from(uint64_t bits, unsigned first, uint64_t max)
{
	uint64_t inverse = ~(bits >> first); /* bits shifted in count as clear */
	unsigned n = inverse ? (unsigned)__builtin_ctzll(inverse) : WORD_BITS;

	return min_u64(n, max);
}

/* Takes the consecutive set bits from page on, at most max, from this word only. Returns their number. */
static unsigned take(struct page_set_region *r, uint64_t page, uint64_t max)
{
	_Atomic uint64_t *word = &r->words[page / WORD_BITS];
	unsigned first = page % WORD_BITS, n;
	uint64_t old = atomic_load_explicit(word, memory_order_relaxed);

	do {
		n = ones_from(old, first, max);
		if (!n)
			return 0;
	} while (!atomic_compare_exchange_weak_explicit(word, &old, old & ~mask_of(first, n),
							memory_order_acq_rel, memory_order_relaxed));
	return n;
}

static uint32_t claim_run(struct page_set_region *r, uint64_t page, uint32_t max)
{
	uint32_t n = 0, got;

	do {
		got = take(r, page + n, max - n);
		n += got;
	} while (got && n < max && (page + n) % WORD_BITS == 0 && page + n < r->npages);
	return n;
}

/* The end of the walk in the cursor's region. */
static uint64_t walk_end(const struct page_set_region *r, const struct page_cursor *at)
{
	return at->end ? min_u64(at->end, r->npages) : r->npages;
}

bool page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run)
{
	assert(max);
	for (; at->region < s->nregions; at->region++, at->page = 0) {
		struct page_set_region *r = &s->r[at->region];
		uint64_t end = walk_end(r, at);

		while ((at->page = find(r, at->page, end, 0)) < end) {
			uint32_t n = claim_run(r, at->page, min_u64(max, end - at->page));

			if (!n)
				continue; /* another thread took it */
			*run = (struct page_run){ .region = at->region, .npages = n, .page = at->page };
			at->page += n;
			return true;
		}
		if (at->end)
			break;
	}
	return false;
}

/* Finds the next run of set bits in the cursor's region. */
static bool next_run(const struct page_set_region *r, struct page_cursor *at, uint32_t max,
		     struct page_run *run)
{
	uint64_t limit = walk_end(r, at), begin = find(r, at->page, limit, 0), end;

	at->page = begin;
	if (begin >= limit)
		return false;
	end = find(r, begin + 1, min_u64(begin + max, limit), ~UINT64_C(0));
	*run = (struct page_run){ .region = at->region, .npages = end - begin, .page = begin };
	at->page = end;
	return true;
}

bool page_set_next(const struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run)
{
	assert(max);
	for (; at->region < s->nregions; at->region++, at->page = 0) {
		if (next_run(&s->r[at->region], at, max, run))
			return true;
		if (at->end)
			break;
	}
	return false;
}
