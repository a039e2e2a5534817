// SPDX-License-Identifier: MIT
#include <errno.h>

#include "session.h"

static unsigned hist_index(uint64_t v)
{
	unsigned shift, i;

	if (v < HIST_STEPS)
		return (unsigned)v;
	shift = 63 - (unsigned)__builtin_clzll(v) - 4;
	i = (shift + 1) * HIST_STEPS + (unsigned)((v >> shift) - HIST_STEPS);
	return i < HIST_BUCKETS ? i : HIST_BUCKETS - 1;
}

/* The smallest value in bucket i; of i + 1: what no value of i reaches. */
static uint64_t hist_from(unsigned i)
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

	while (v > max && !atomic_compare_exchange_weak(&h->max, &max, v)) /* first: no quantile is larger */
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
		max = atomic_load(&h->max); /* the middle of its bucket may lie beyond it */
		v = hist_value(i);
		return v < max ? v : max;
	}
	return atomic_load(&h->max);
}

static uint64_t span(const struct ferry_session *s, enum ferry_phase from, uint64_t end)
{
	uint64_t a = s->phase_us[from];

	return a && end > a ? end - a : 0;
}

static void fill_times(struct ferry_session *s, struct ferry_stats *st)
{
	uint64_t now = now_us(), stop = s->phase_us[FERRY_STOP_AND_COPY], end = s->phase_us[FERRY_DONE];

	if (!end)
		end = s->phase_us[FERRY_FAILED];
	if (!end)
		end = now;
	st->elapsed_us = s->started_us ? end - s->started_us : 0;
	st->precopy_us = span(s, FERRY_PRECOPY, stop ? stop : end);
	st->postcopy_us = span(s, FERRY_POSTCOPY, end);
}

FERRY_API int ferry_get_stats(struct ferry_session *s, struct ferry_stats *st)
{
	const struct stats *c = &s->stats;
	struct ferry_stats r = { .size = st->size };
	uint64_t us = atomic_load(&c->round_us);

	if (st->size < sizeof(size_t))
		return -EINVAL;
	pthread_mutex_lock(&s->view_lock);
	r.phase = s->phase;
	r.blackout = c->blackout;
	fill_times(s, &r);
	pthread_mutex_unlock(&s->view_lock);
	r.round = atomic_load(&c->round);
	r.reconnects = atomic_load(&c->reconnects);
	r.predicted_us = atomic_load(&c->predicted_us);
	r.bytes_sent = atomic_load(&c->bytes);
	r.pages_total = s->pages_total;
	r.pages_sent = atomic_load(&c->pages);
	r.pages_zero = atomic_load(&c->zero);
	r.pages_hole = atomic_load(&c->hole);
	r.pages_residue = atomic_load(&c->residue);
	r.pages_remaining = atomic_load(&c->remaining);
	r.dirty_rate = atomic_load(&c->dirty_rate);
	r.throughput = us ? (uint64_t)((unsigned __int128)atomic_load(&c->round_bytes) * 1000000 / us) : 0;
	r.faults_local = atomic_load(&c->faults_local);
	if (s->is_source) {
		r.faults = atomic_load(&c->peer_faults);
		r.fault_p50_ns = atomic_load(&c->fault_p50);
		r.fault_p99_ns = atomic_load(&c->fault_p99);
		r.fault_max_ns = atomic_load(&c->fault_max);
		r.fault_total_ns = atomic_load(&c->fault_total);
	} else {
		r.faults = atomic_load(&c->faults);
		r.fault_p50_ns = hist_quantile(&c->fault_ns, 500);
		r.fault_p99_ns = hist_quantile(&c->fault_ns, 990);
		r.fault_max_ns = atomic_load(&c->fault_ns.max);
		r.fault_total_ns = atomic_load(&c->fault_ns.sum);
	}
	_Static_assert(sizeof(r) == sizeof(struct ferry_stats), "copied up to the caller's size");
	memcpy(st, &r, st->size < sizeof(r) ? st->size : sizeof(r));
	return 0;
}

FERRY_API size_t ferry_get_faults(struct ferry_session *s, struct ferry_fault_bucket *buckets, size_t n)
{
	const struct hist *h = &s->stats.fault_ns;
	size_t found = 0;

	_Static_assert(HIST_BUCKETS == FERRY_FAULT_BUCKETS, "what the header promises to be enough");
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		uint32_t count = atomic_load_explicit(&h->bucket[i], memory_order_relaxed);

		if (!count)
			continue;
		if (found < n)
			buckets[found] = (struct ferry_fault_bucket){ .from_ns = hist_from(i),
								      .below_ns = hist_from(i + 1),
								      .count = count };
		found++;
	}
	return found;
}
