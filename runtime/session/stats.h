/* SPDX-License-Identifier: MIT */
/* Counters and histograms: workers write them with relaxed adds, anyone reads them. */
#ifndef FERRY_STATS_H
#define FERRY_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "ferry/ferry.h"

/* Log-linear: 16 steps per power of two, so a quantile is at most 6 % off. */
#define HIST_STEPS 16u
#define HIST_BUCKETS (40u * HIST_STEPS)

struct hist {
	_Atomic uint32_t bucket[HIST_BUCKETS];
	_Atomic uint64_t count, max, sum;
};

void hist_add(struct hist *h, uint64_t v);
/* The smallest value in bucket i. All values in bucket i are below hist_from(i + 1). */
uint64_t hist_from(unsigned i);
uint64_t hist_quantile(const struct hist *h, unsigned permille); /* 0 when empty */

struct stats {
	_Atomic uint64_t bytes, pages, zero, hole;
	_Atomic uint64_t remaining; /* pages, of the round or of the residue */
	_Atomic uint64_t residue;
	_Atomic uint64_t faults, faults_local;
	_Atomic uint64_t peer_left, peer_faults; /* from the peer's PING */
	/* Progress (link_recover()): phases, rounds, new lows of the pages left; at a source also fences. */
	_Atomic uint64_t steps;
	_Atomic uint32_t round, reconnects;
	_Atomic uint64_t dirty_rate;
	_Atomic uint32_t predicted_us;
	_Atomic uint64_t round_us, round_bytes;			       /* sums over the rounds of pre-copy */
	_Atomic uint64_t fault_p50, fault_p99, fault_max, fault_total; /* source: as the target reported */
	struct hist fault_ns;
	struct ferry_downtime downtime;		      /* view_lock */
	struct ferry_landing landing[FERRY_LANDINGS]; /* view_lock; the first nlandings */
	unsigned nlandings;
};

static inline void count(_Atomic uint64_t *c, uint64_t n)
{
	atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

#endif
