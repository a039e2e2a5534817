/* SPDX-License-Identifier: MIT */
/*
 * The benches' clock. It is the library's, CLOCK_MONOTONIC, so times of both can be compared. The programs read it by
 * themselves: as embedders they know the public headers alone.
 */
#ifndef BENCH_CLOCK_H
#define BENCH_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t clock_us(void)
{
	return clock_ns() / 1000;
}

#endif
