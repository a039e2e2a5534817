/* SPDX-License-Identifier: MIT */
/*
 * Polling on a core that nobody else wants.
 *
 * Waking a thread whose core sleeps costs tens of microseconds, so who waits for a fault or its answer polls for a
 * while. But a core that somebody else could use is not asleep: there a poller is in the way (of the peer, of a vCPU),
 * and who blocks is woken by a mere switch. A yield tells the two apart by how long it takes. When somebody had the
 * core meanwhile, the next waits block; for so long that finding out costs a bounded share of the time.
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
	uint64_t barred_ns; /* somebody else had the core: block until then */
};

/* Gives the core up once. Whether to go on polling; else block. */
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
