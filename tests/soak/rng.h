/* SPDX-License-Identifier: MIT */
/* splitmix64: the same numbers from the same seed on every machine. */
#ifndef TESTS_SOAK_RNG_H
#define TESTS_SOAK_RNG_H

#include <stdbool.h>
#include <stdint.h>

static inline uint64_t rng_next(uint64_t *rng)
{
	uint64_t x = *rng += UINT64_C(0x9e3779b97f4a7c15);

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static inline uint64_t rng_below(uint64_t *rng, uint64_t n)
{
	return rng_next(rng) % n;
}

static inline bool rng_one_in(uint64_t *rng, uint64_t n)
{
	return !rng_below(rng, n);
}

/* Run number of a seed: any one of them can be drawn without those before it. */
static inline uint64_t rng_seed(uint64_t seed, uint64_t number)
{
	return seed * UINT64_C(0x2545f4914f6cdd1d) + number;
}

#endif
