/* SPDX-License-Identifier: MIT */
/* Device state as a stream of sections, with a checksum. */
#include "stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ferry/ferry.h"
#include "runtime/base/api.h"

/* Before each section: id, version (32 bits each), length of the data (64 bits); little-endian, unaligned. */
#define SECTION_HEADER 16u

#define STREAM_MIN_CAP 4096u

static void put_le(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = v >> (8 * i);
}

static uint64_t get_le(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

void stream_init(struct ferry_stream *st)
{
	memset(st, 0, sizeof(*st));
}

void stream_destroy(struct ferry_stream *st)
{
	free(st->buf);
	stream_init(st);
}

/* Make room for more bytes after len. */
static int stream_grow(struct ferry_stream *st, size_t more)
{
	size_t cap = st->cap ? st->cap : STREAM_MIN_CAP;
	uint8_t *buf;

	if (more > STREAM_MAX - st->len)
		return -E2BIG;
	if (more <= st->cap - st->len)
		return 0;
	while (cap - st->len < more)
		cap *= 2;
	buf = realloc(st->buf, cap);
	if (!buf)
		return -ENOMEM;
	st->buf = buf;
	st->cap = cap;
	return 0;
}

int stream_append(struct ferry_stream *st, const void *data, size_t len)
{
	int err = stream_grow(st, len);

	if (err)
		return err;
	if (len)
		memcpy(st->buf + st->len, data, len);
	st->len += len;
	return 0;
}

uint64_t stream_sum(const struct ferry_stream *st)
{
	uint64_t sum = UINT64_C(0xcbf29ce484222325);

	for (size_t i = 0; i < st->len; i++)
		sum = (sum ^ st->buf[i]) * UINT64_C(0x100000001b3);
	return sum;
}

FERRY_API int ferry_stream_put(struct ferry_stream *out, uint32_t id, uint32_t version, const void *data,
			       size_t len)
{
	int err = len > STREAM_MAX ? -E2BIG : stream_grow(out, SECTION_HEADER + len);

	if (err == -E2BIG)
		return fail(&out->fail, err,
			    "section %" PRIu32
			    " of %zu bytes does not fit: %zu of %u bytes are taken; what is large belongs into a region",
			    id, len, out->len, STREAM_MAX);
	if (err)
		return fail(&out->fail, err, "no memory for section %" PRIu32 " of %zu bytes", id, len);

	put_le(out->buf + out->len, id, 4);
	put_le(out->buf + out->len + 4, version, 4);
	put_le(out->buf + out->len + 8, len, 8);
	if (len)
		memcpy(out->buf + out->len + SECTION_HEADER, data, len);
	out->len += SECTION_HEADER + len;
	return 0;
}

FERRY_API int ferry_stream_next(struct ferry_stream *in, struct ferry_section *sec)
{
	size_t left = in->len - in->at;
	const uint8_t *header;
	uint64_t len;

	if (!left)
		return 0;
	if (left < SECTION_HEADER)
		return fail(&in->fail, -EPROTO,
			    "device state is damaged: %zu bytes at offset %zu are no section header", left,
			    in->at);
	header = in->buf + in->at;
	len = get_le(header + 8, 8);
	left -= SECTION_HEADER;
	if (len > left)
		return fail(&in->fail, -EPROTO,
			    "device state is damaged: section %" PRIu64 " at offset %zu says %" PRIu64
			    " bytes, %zu are left",
			    get_le(header, 4), in->at, len, left);

	*sec = (struct ferry_section){ .id = get_le(header, 4),
				       .version = get_le(header + 4, 4),
				       .data = header + SECTION_HEADER,
				       .len = len };
	in->at += SECTION_HEADER + len;
	return 1;
}

FERRY_API int ferry_stream_fail(struct ferry_stream *st, int err, const char *fmt, ...)
{
	char text[FAIL_MAX];
	va_list ap;

	if (err >= 0)
		err = -EINVAL;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return fail(&st->fail, err, "%s", text);
}
