/* SPDX-License-Identifier: MIT */
/* Whether memory is all zero: each bit, each length. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/memory/zero.h"

#define LEN 4096u

Test(zero, every_single_bit_is_seen)
{
	unsigned char *p = aligned_alloc(64, LEN);

	memset(p, 0, LEN);
	cr_assert(is_zero(p, LEN));
	cr_assert(is_zero_portable(p, LEN));
	for (size_t i = 0; i < LEN * 8; i++) {
		p[i / 8] = 1u << (i % 8);
		cr_assert_not(is_zero(p, LEN), "bit %zu", i);
		cr_assert_not(is_zero_portable(p, LEN), "bit %zu", i);
		p[i / 8] = 0;
	}
	free(p);
}

Test(zero, lengths)
{
	unsigned char *p = aligned_alloc(64, LEN);

	memset(p, 0xff, LEN);
	for (size_t len = 0; len < LEN; len += 64) {
		cr_assert(is_zero(p, len));
		cr_assert_not(is_zero(p, len + 64));
		cr_assert_not(is_zero_portable(p, len + 64));
		memset(p + len, 0, 64);
	}
	free(p);
}
