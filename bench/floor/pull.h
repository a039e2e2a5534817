/* SPDX-License-Identifier: MIT */
/*
 * The bare pull: post-copy without the library, over plain sockets. Both ends have the same number of pages;
 * some of the target's are missing, scattered over the others. Pullers, one per data connection, ask for them
 * several gets ahead, and a toucher plays the vCPU: it writes to random pages, missing or not. If it faults,
 * the first puller asks for that page on a connection of its own, which the source serves first.
 * All of them poll as long as nobody else wants their core, because a wake-up costs more than a round trip.
 *
 * The difference to the fault of floor_fault.c: that one has machine and link for itself. Here, as in
 * post-copy, a fault shares both with the background fetch and with the guest, so this is the floor of
 * post-copy; the other one is the floor of a single fault.
 */
#ifndef BENCH_FLOOR_PULL_H
#define BENCH_FLOOR_PULL_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "floor.h"
#include "bench/cli/util.h"

#define PULL_BATCH 64u /* pages of a get of the background fetch */
#define PULL_CHANNELS_MAX 16u
#define PULL_POLL_NS 1000000u /* after the last work */
#define PULL_ALONE_NS 3000u   /* a yield that takes longer was another thread's turn */

/* A get. The answer is its pages, in this order and without a head. */
struct pull_request {
	uint32_t n;		   /* pages, 1 to PULL_BATCH */
	uint32_t page[PULL_BATCH]; /* only n of them cross */
};
#define PULL_REQUEST_BYTES(n) (offsetof(struct pull_request, page) + (n) * sizeof(uint32_t))

/*
 * Makes iov of the pages' bytes from..from + len, as if they lay one after another; neighbours share an entry.
 * Returns how many entries there are: at most one per page.
 */
int pull_iov(struct iovec *iov, const uint32_t *page, size_t from, size_t len, char *mem);

struct pull_wait {
	uint64_t work_ns;   /* the last time that there was something to do */
	uint64_t barred_ns; /* do not poll before this time */
};

/* Yields the core once. True: go on polling; false: sleep until there is something to do. */
static inline bool pull_poll(struct pull_wait *w)
{
	uint64_t begin = clock_ns(), took;

	if (begin < w->barred_ns || begin - w->work_ns > PULL_POLL_NS)
		return false;
	sched_yield();
	took = clock_ns() - begin;
	if (took < PULL_ALONE_NS)
		return true;
	w->barred_ns = begin + 8 * took; /* so that yielding costs a bounded share of the time */
	return false;
}

#endif
