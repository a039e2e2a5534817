/* SPDX-License-Identifier: MIT */
/* Device state: sections {id, version, length, bytes} in one buffer, little-endian, with a checksum. */
#ifndef FERRY_STREAM_H
#define FERRY_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/fail.h"

struct ferry_section;

#define STREAM_MAX (64u << 20)

struct ferry_stream {
	uint8_t *buf;
	size_t len, cap;
	size_t at;	  /* reader: offset of the next section */
	struct fail fail; /* an error here, or the embedder's refusal */
};

void stream_init(struct ferry_stream *st);
void stream_destroy(struct ferry_stream *st);
/* Append raw bytes as they arrive. -E2BIG over STREAM_MAX, -ENOMEM. */
int stream_append(struct ferry_stream *st, const void *data, size_t len);
/* FNV-1a, 64 bits, over the whole buffer. */
uint64_t stream_sum(const struct ferry_stream *st);

#endif
