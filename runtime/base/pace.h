/* SPDX-License-Identifier: MIT */
/*
 * A rate limit: one token bucket, in bytes of page data, that can run into debt.
 *
 * A charge is never refused. It moves the time at which everything charged is paid, and the caller alone decides
 * whether to wait. Bandwidth that nobody used is caught up with for PACE_BURST_US, and no longer.
 *
 * In post-copy the same get is charged twice, to the pull's bucket and to the link's.
 *
 *	the pull	(runtime/target) charges when it asks. Its first thread serves faults and must not sleep, so it
 *			keeps to the limit by asking later: the sweep asks for nothing while there is any debt, a fault
 *			is asked for unless the debt is above PACE_AHEAD_US.
 *	the link	(transport/filter/shape.c) charges what it moves, at the end that gets and at the end that serves.
 *			It cannot know whether its user keeps to the limit, and a caller that sleeps in it may have
 *			faults to serve. So it makes a caller wait only while the debt before the get is above
 *			PACE_AHEAD_US, where a pull that keeps to the limit asks for nothing.
 */
#ifndef FERRY_PACE_H
#define FERRY_PACE_H

#include <stdatomic.h>
#include <stdint.h>

#include "clock.h"

#define PACE_BURST_US 5000u
#define PACE_AHEAD_US 50000u

/* Zero is no limit. bandwidth and debt_max_us are set before the threads that charge are there. */
struct pace {
	uint64_t bandwidth;	  /* bytes a second; 0: no limit */
	uint64_t debt_max_us;	  /* a charge leaves no more debt than this; 0: it leaves any */
	_Atomic uint64_t paid_us; /* the time at which everything charged is paid; 0: nothing was charged */
};

/*
 * Any thread. Returns the time at which everything charged before is paid, 0 without a limit: who waits until then
 * keeps to the limit.
 */
uint64_t pace_charge(struct pace *p, uint64_t bytes); /* bytes * 1000000 fits into 64 bits */

/* The time at which everything charged is paid; it may have passed. */
static inline uint64_t pace_paid(const struct pace *p)
{
	return atomic_load_explicit(&p->paid_us, memory_order_relaxed);
}

/* Microseconds until then; 0: no debt. */
static inline uint64_t pace_debt(const struct pace *p)
{
	uint64_t paid = pace_paid(p), now;

	if (!paid)
		return 0;
	now = now_us();
	return paid > now ? paid - now : 0;
}

#endif
