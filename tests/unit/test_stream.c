/* SPDX-License-Identifier: MIT */
/* The stream of device state: its bytes, where it ends, and what is refused. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ferry/ferry.h"
#include "runtime/link/stream.h"

static void copy(struct ferry_stream *to, const struct ferry_stream *from, size_t len)
{
	stream_init(to);
	cr_assert_eq(stream_append(to, from->buf, len), 0);
}

Test(stream, sections_come_back_in_order)
{
	struct ferry_stream out, in;
	struct ferry_section sec;

	stream_init(&out);
	cr_assert_eq(ferry_stream_put(&out, 7, 1, "seven", 5), 0);
	cr_assert_eq(ferry_stream_put(&out, 7, 2, NULL, 0), 0);
	cr_assert_eq(ferry_stream_put(&out, 0xffffffff, 0x80000000, "x", 1), 0);
	copy(&in, &out, out.len);
	cr_assert_eq(stream_sum(&in), stream_sum(&out));

	cr_assert_eq(ferry_stream_next(&in, &sec), 1);
	cr_assert(sec.id == 7 && sec.version == 1 && sec.len == 5 && !memcmp(sec.data, "seven", 5));
	cr_assert_eq(ferry_stream_next(&in, &sec), 1);
	cr_assert(sec.id == 7 && sec.version == 2 && sec.len == 0);
	cr_assert_eq(ferry_stream_next(&in, &sec), 1);
	cr_assert(sec.id == 0xffffffff && sec.version == 0x80000000 && sec.len == 1);
	cr_assert_eq(ferry_stream_next(&in, &sec), 0);
	cr_assert_eq(ferry_stream_next(&in, &sec), 0);
	stream_destroy(&out);
	stream_destroy(&in);
}

Test(stream, the_bytes_are_little_endian)
{
	static const uint8_t want[] = { 4, 3, 2, 1, 8, 7, 6, 5, 3, 0, 0, 0, 0, 0, 0, 0, 'a', 'b', 'c' };
	struct ferry_stream out;

	stream_init(&out);
	cr_assert_eq(ferry_stream_put(&out, 0x01020304, 0x05060708, "abc", 3), 0);
	cr_assert(out.len == sizeof(want) && !memcmp(out.buf, want, sizeof(want)));
	stream_destroy(&out);
}

Test(stream, an_empty_stream_ends_at_once)
{
	struct ferry_stream st;
	struct ferry_section sec = { .id = 99 };

	stream_init(&st);
	cr_assert_eq(ferry_stream_next(&st, &sec), 0);
	cr_assert_eq(sec.id, 99);
	cr_assert_eq(stream_sum(&st), UINT64_C(0xcbf29ce484222325));
	stream_destroy(&st);
}

Test(stream, every_truncation_is_seen)
{
	struct ferry_stream out, in;
	struct ferry_section sec;
	size_t len;
	int ret;

	stream_init(&out);
	ferry_stream_put(&out, 1, 1, "0123456789", 10);
	ferry_stream_put(&out, 2, 1, "0123456789abcdef", 16);
	for (len = 0; len < out.len; len++) {
		copy(&in, &out, len);
		while ((ret = ferry_stream_next(&in, &sec)) == 1)
			;
		if (len == 0 || len == 26) {
			cr_assert_eq(ret, 0);
		} else {
			cr_assert_eq(ret, -EPROTO, "cut at %zu: %d", len, ret);
			cr_assert_eq(fail_err(&in.fail), -EPROTO);
			cr_assert_eq(ferry_stream_next(&in, &sec), -EPROTO, "it stays damaged");
		}
		stream_destroy(&in);
	}
	stream_destroy(&out);
}

Test(stream, a_length_beyond_the_end_is_refused)
{
	static const uint64_t lens[] = { 11, UINT64_C(1) << 32, INT64_MAX, UINT64_MAX, UINT64_MAX - 15 };
	struct ferry_stream st;
	struct ferry_section sec;

	for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
		stream_init(&st);
		ferry_stream_put(&st, 1, 1, "0123456789", 10);
		memcpy(st.buf + 8, &lens[i], 8);
		cr_assert_eq(ferry_stream_next(&st, &sec), -EPROTO);
		stream_destroy(&st);
	}
	stream_init(&st);
	ferry_stream_put(&st, 3, 1, "0123456789", 10);
	memcpy(st.buf + 8, &lens[0], 8);
	ferry_stream_next(&st, &sec);
	cr_assert_str_eq(fail_text(&st.fail),
			 "device state is damaged: section 3 at offset 0 says 11 bytes, 10 are left");
	stream_destroy(&st);
}

Test(stream, sixty_four_mebibytes_are_the_limit)
{
	struct ferry_stream st;
	char *big = calloc(1, STREAM_MAX);

	stream_init(&st);
	cr_assert_eq(ferry_stream_put(&st, 1, 1, big, STREAM_MAX - 16 - 17), 0);
	cr_assert_eq(ferry_stream_put(&st, 2, 1, big, 2), -E2BIG);
	cr_assert_str_eq(fail_text(&st.fail),
			 "section 2 of 2 bytes does not fit: 67108847 of 67108864 bytes are taken; what is large belongs into a region");
	cr_assert_eq(ferry_stream_put(&st, 2, 1, big, SIZE_MAX), -E2BIG);
	cr_assert_eq(ferry_stream_put(&st, 2, 1, big, SIZE_MAX - 15), -E2BIG);
	cr_assert_eq(ferry_stream_put(&st, 2, 1, big, 1), 0);
	cr_assert_eq(st.len, STREAM_MAX);
	cr_assert_eq(stream_append(&st, big, 1), -E2BIG);
	cr_assert_eq(stream_append(&st, big, SIZE_MAX), -E2BIG);
	cr_assert_eq(stream_append(&st, big, 0), 0);
	stream_destroy(&st);
	free(big);
}

Test(stream, refusing_keeps_the_first_sentence)
{
	struct ferry_stream st;

	stream_init(&st);
	cr_assert_eq(ferry_stream_fail(&st, -ENODEV, "leaf %d is missing", 7), -ENODEV);
	cr_assert_eq(ferry_stream_fail(&st, -EIO, "later"), -EIO);
	cr_assert_eq(ferry_stream_fail(&st, 5, "not negative"), -EINVAL);
	cr_assert_str_eq(fail_text(&st.fail), "leaf 7 is missing");
	cr_assert_eq(fail_err(&st.fail), -ENODEV);
	stream_destroy(&st);
}

Test(stream, the_sum_sees_a_changed_byte)
{
	struct ferry_stream st;
	uint64_t sum;

	stream_init(&st);
	ferry_stream_put(&st, 1, 1, "0123456789", 10);
	sum = stream_sum(&st);
	for (size_t i = 0; i < st.len; i++) {
		st.buf[i] ^= 0x40;
		cr_assert_neq(stream_sum(&st), sum);
		st.buf[i] ^= 0x40;
	}
	stream_destroy(&st);
}
