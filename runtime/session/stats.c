// SPDX-License-Identifier: MIT
/* Histograms: counting values, and their quantiles. */
#include "stats.h"

static unsigned hist_index(uint64_t v)
{
	unsigned shift, i;

	if (v < HIST_STEPS)
		return (unsigned)v;
	shift = 63 - (unsigned)__builtin_clzll(v) - 4;
	i = (shift + 1) * HIST_STEPS + (unsigned)((v >> shift) - HIST_STEPS);
	return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

uint64_t hist_from(unsigned i)
{
	if (i < HIST_STEPS)
		return i;
	return (uint64_t)(HIST_STEPS + i % HIST_STEPS) << (i / HIST_STEPS - 1);
}

static uint64_t hist_value(unsigned i)
{
	return hist_from(i) + (hist_from(i + 1) - hist_from(i)) / 2;
}

void hist_add(struct hist *h, uint64_t v)
{
	uint64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);

	/* Raise max first: otherwise a reader could find a quantile above it. */
	while (v > max && !atomic_compare_exchange_weak(&h->max, &max, v))
		;
	atomic_fetch_add_explicit(&h->bucket[hist_index(v)], 1, memory_order_release);
	count(&h->count, 1);
	count(&h->sum, v);
}

uint64_t hist_quantile(const struct hist *h, unsigned permille)
{
	uint64_t n = atomic_load(&h->count), want = (n * permille + 999) / 1000, seen = 0, max, v;

	for (unsigned i = 0; i < HIST_BUCKETS && n; i++) {
		seen += atomic_load_explicit(&h->bucket[i], memory_order_acquire);
		if (seen < want)
			continue;
		max = atomic_load(&h->max); /* the bucket's middle may be above it */
		v = hist_value(i);
		return v < max ? v : max;
	}
	return atomic_load(&h->max);
}
