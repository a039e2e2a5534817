// SPDX-License-Identifier: MIT
/* The rate limit: how a charge changes the bucket. */
#include "pace.h"

uint64_t pace_charge(struct pace *p, uint64_t bytes)
{
	uint64_t was = pace_paid(p), now, from, paid;

	if (!p->bandwidth || !bytes)
		return 0;
	now = now_us();
	do {
		from = was + PACE_BURST_US < now ? now - PACE_BURST_US : was;
		paid = from + bytes * 1000000 / p->bandwidth;
		if (p->debt_max_us && paid > now + p->debt_max_us)
			paid = now + p->debt_max_us;
	} while (!atomic_compare_exchange_weak_explicit(&p->paid_us, &was, paid, memory_order_relaxed,
							memory_order_relaxed));
	return from;
}
