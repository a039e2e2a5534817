/* SPDX-License-Identifier: MIT */
/* Whether memory is zero. */
#ifndef FERRY_ZERO_H
#define FERRY_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/* Whether len bytes (a multiple of 64, aligned to 64) are all zero. Stops at the first 64 that are not. */
bool is_zero(const void *p, size_t len);
/* The same with what every CPU of the architecture has: what is_zero() falls back to. */
bool is_zero_portable(const void *p, size_t len);

#endif
