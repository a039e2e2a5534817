/* SPDX-License-Identifier: MIT */
/*
 * Polling, but only on a core that nobody else wants.
 *
 * Waking a thread on a sleeping core costs tens of microseconds, so a thread that waits for a fault or its
 * answer polls for a while. If others want the core, polling keeps the peer or a vCPU from it, and waking a
 * blocked thread takes a mere context switch. The time that sched_yield() takes tells the cases apart. If
 * another thread ran meanwhile, do not poll for SPIN_BAR times as long (at most SPIN_BAR_MAX_NS), so that the
 * yields cost a bounded share of the time.
 */
#ifndef FERRY_SPIN_H
#define FERRY_SPIN_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "clock.h"

#define SPIN_ALONE_NS 3000u
#define SPIN_BAR 8u
#define SPIN_BAR_MAX_NS 500000u

struct spin {
	uint64_t barred_ns; /* do not poll before this time */
};

/* Yields the core once. Returns true if the caller can go on polling, false if it should block. */
static inline bool spin_on(struct spin *s)
{
	uint64_t begin = now_ns(), took, bar;

	if (begin < s->barred_ns)
		return false;
	sched_yield();
	took = now_ns() - begin;
	if (took < SPIN_ALONE_NS)
		return true;
	bar = SPIN_BAR * took;
	s->barred_ns = begin + took + (bar < SPIN_BAR_MAX_NS ? bar : SPIN_BAR_MAX_NS);
	return false;
}

#endif
