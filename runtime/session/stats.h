/* SPDX-License-Identifier: MIT */
/* Counters: written by workers with relaxed adds, read by anyone. */
#ifndef FERRY_STATS_H
#define FERRY_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "ferry/ferry.h"

/* Log-linear: 16 steps a power of two, so a quantile is at most 6 % off. */
#define HIST_STEPS 16u
#define HIST_BUCKETS (40u * HIST_STEPS)

struct hist {
	_Atomic uint32_t bucket[HIST_BUCKETS];
	_Atomic uint64_t count, max, sum;
};

void hist_add(struct hist *h, uint64_t v);
/* The smallest value in bucket i; of i + 1: what no value of i reaches. */
uint64_t hist_from(unsigned i);
uint64_t hist_quantile(const struct hist *h, unsigned permille); /* 0 when empty */

struct stats {
	_Atomic uint64_t bytes, pages, zero, hole;
	_Atomic uint64_t remaining; /* of the round, or of the residue */
	_Atomic uint64_t residue;
	_Atomic uint64_t faults, faults_local;
	_Atomic uint64_t peer_left, peer_faults; /* as its PING said */
	_Atomic uint64_t steps; /* phases entered, rounds ended; at a source, what the target is known to have got: fences, fewer pages left */
	_Atomic uint32_t round, reconnects;
	_Atomic uint64_t dirty_rate;
	_Atomic uint32_t predicted_us;
	_Atomic uint64_t round_us, round_bytes;	 /* sums over the rounds of pre-copy */
	_Atomic uint64_t fault_p50, fault_p99, fault_max, fault_total; /* source: as the target told */
	struct hist fault_ns;
	struct ferry_downtime downtime; /* view_lock */
};

static inline void count(_Atomic uint64_t *c, uint64_t n)
{
	atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

#endif
