/* SPDX-License-Identifier: MIT */
/* Tests memory for zeros. */
#ifndef FERRY_ZERO_H
#define FERRY_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* True if len bytes (a multiple of 64, aligned to 64) are all zero. Stops at the first 64 that are not. */
bool is_zero(const void *p, size_t len);
/* The version for CPUs without AVX2 and for other architectures. */
bool is_zero_portable(const void *p, size_t len);

#endif
