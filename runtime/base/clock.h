/* SPDX-License-Identifier: MIT */
/* The only clock, CLOCK_MONOTONIC, and deadlines on it. */
#ifndef FERRY_CLOCK_H
#define FERRY_CLOCK_H

#include <stdint.h>
#include <time.h>

#define DEADLINE_NONE UINT64_MAX
#define DURATION_US_MAX (UINT64_C(86400) * 1000000) /* a day: the limit of every duration given to us */

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t now_us(void)
{
	return now_ns() / 1000;
}

/* Saturates, so that DEADLINE_NONE as wait_us gives DEADLINE_NONE. */
static inline uint64_t deadline_after(uint64_t now, uint64_t wait_us)
{
	return wait_us > UINT64_MAX - now ? DEADLINE_NONE : now + wait_us;
}

static inline uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#endif
