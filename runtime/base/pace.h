/* SPDX-License-Identifier: MIT */
/*
 * The rate limit: one token bucket, in bytes of page data, that can run into debt.
 *
 * A charge is never refused. It moves the time at which everything charged is paid, and the caller alone
 * decides whether to wait. Unused bandwidth can be used later, but only that of the last PACE_BURST_US.
 *
 * In post-copy the same get is charged twice, to the pull's bucket and to the link's.
 *
 *	the pull	(runtime/target) charges when it asks. Its first thread serves faults and must not
 *			sleep, so it keeps to the limit by asking later: the background fetch asks for nothing
 *			while there is any debt; a fault is asked for unless the debt exceeds PACE_AHEAD_US.
 *	the link	(transport/filter/shape.c) charges what it moves, at the end that gets and at the end
 *			that serves. It cannot know whether its caller keeps to the limit, and a caller that
 *			sleeps in it may have faults to serve. So it makes a caller wait only while the debt
 *			before the get exceeds PACE_AHEAD_US; a pull that keeps to the limit asks for nothing
 *			then.
 */
#ifndef FERRY_PACE_H
#define FERRY_PACE_H

#include <stdatomic.h>
#include <stdint.h>

#include "clock.h"

#define PACE_BURST_US 5000u
#define PACE_AHEAD_US 50000u

/* A zeroed struct means no limit. Set bandwidth and debt_max_us before any thread charges. */
struct pace {
	uint64_t bandwidth;	  /* bytes per second; 0: no limit */
	uint64_t debt_max_us;	  /* upper limit of the debt after a charge; 0: no upper limit */
	_Atomic uint64_t paid_us; /* when everything charged is paid; 0: nothing was charged yet */
};

/*
 * Returns the time at which all earlier charges are paid, or 0 without a limit. A caller that waits until
 * then keeps to the limit. Any thread.
 */
uint64_t pace_charge(struct pace *p, uint64_t bytes); /* bytes * 1000000 must fit into 64 bits */

/* The time at which everything charged is paid. It may have passed. */
static inline uint64_t pace_paid(const struct pace *p)
{
	return atomic_load_explicit(&p->paid_us, memory_order_relaxed);
}

/* Microseconds until everything charged is paid; 0 if there is no debt. */
static inline uint64_t pace_debt(const struct pace *p)
{
	uint64_t paid = pace_paid(p), now;

	if (!paid)
		return 0;
	now = now_us();
	return paid > now ? paid - now : 0;
}

#endif
