// SPDX-License-Identifier: MIT
/* Frames of the rdma transport's control connection, as correct ends send them, and connect requests. */
#include <stdint.h>
#include <string.h>

#include "seeds.h"
#include "transport/rdma/rdma_wire.h"

/* Write one frame after its length; returns the place of the next one. */
static uint8_t *put(uint8_t *at, enum rdma_frame_type type, uint32_t left, const void *body, size_t len)
{
	struct rdma_frame h = {
		.magic = RDMA_MAGIC_FRAME, .type = (uint16_t)type, .len = (uint32_t)len, .left = left
	};
	uint16_t all = (uint16_t)(sizeof(h) + len);

	memcpy(at, &all, sizeof(all));
	memcpy(at + sizeof(all), &h, sizeof(h));
	if (len)
		memcpy(at + sizeof(all) + sizeof(h), body, len);
	return at + sizeof(all) + all;
}

static void keep(uint8_t *from, const uint8_t *to)
{
	for (from[0] = 0; from[0] < 8; from[0]++)
		seed("rdma", from, (size_t)(to - from), NULL, 0);
}

/* Requests of a link of one channel, complete or not, and requests with one invalid field each. */
static void requests(void)
{
	struct rdma_preamble p = { .magic = RDMA_MAGIC_PREAMBLE,
				   .version = RDMA_WIRE_VERSION,
				   .channels = 1,
				   .mtu = 5,
				   .session = { 7 } };
	uint8_t buf[1 + 6 * (2 + sizeof(p))] = { 8 }, *at = buf + 1;

	for (unsigned i = 0; i < 6; i++, at += 2 + sizeof(p)) {
		struct rdma_preamble q = p;

		q.role = (uint8_t)(i % 3);
		at[1] = sizeof(q);
		memcpy(at + 2, &q, sizeof(q));
		seed("rdma", buf, (size_t)(at + 2 + sizeof(q) - buf), NULL, 0);
		seed("rdma", buf, (size_t)(at + 2 + sizeof(q) - buf), "\003\007", 2);
	}
	for (unsigned i = 0; i < 8; i++) {
		struct rdma_preamble q = p;

		((uint8_t *)&q)[(const uint8_t[]){ 0, 4, 8, 9, 10, 11, 52, 12 }[i]] = 77;
		memcpy(buf + 3, &q, sizeof(q));
		seed("rdma", buf, 1 + 3 * (2 + sizeof(q)), NULL, 0);
	}
	buf[2] = 20; /* too short */
	seed("rdma", buf, 23, NULL, 0);
}

void seeds_rdma(void)
{
	static uint8_t buf[65536], body[RDMA_PAYLOAD];
	struct {
		struct rdma_keys head;
		struct rdma_key key[2];
	} keys = { { .access = 1, .nregions = 2 },
		   { { .id = 1, .page_shift = 12, .npages = 9, .addr = 1 << 20, .rkey = 3, .flags = 1 },
		     { .id = 2, .page_shift = 21, .npages = 4 } } };
	struct rdma_pin pin = { .slot = 1, .region = 0, .chunk = 1 };
	uint8_t *at;

	requests();
	for (unsigned type = RDMA_CREDIT; type <= RDMA_PROBED + 1; type++)
		keep(buf, put(buf + 1, (enum rdma_frame_type)type, 0, NULL, 0));
	keep(buf, put(buf + 1, RDMA_MSG, 0, body, 40));
	keep(buf, put(put(buf + 1, RDMA_MSG, 30, body, 40), RDMA_MSG, 0, body, 30));
	keep(buf, put(put(put(buf + 1, RDMA_MSG, 30, body, 40), RDMA_KEYS, 0, &keys, sizeof(keys)), RDMA_MSG,
		      0, body, 30));
	keep(buf, put(buf + 1, RDMA_KEYS, 0, &keys, sizeof(keys)));
	keep(buf, put(put(buf + 1, RDMA_KEYS, 40, &keys, sizeof(keys) - 40), RDMA_KEYS, 0,
		      (uint8_t *)&keys + 40, 40));
	keep(buf, put(buf + 1, RDMA_PINNED, 0, &pin, sizeof(pin)));
	at = buf + 1;
	for (; pin.chunk < 4; pin.chunk++)
		at = put(at, RDMA_PIN, 0, &pin, sizeof(pin));
	keep(buf, at);
	at = buf + 1;
	for (unsigned i = 0; i < RDMA_CREDITS + RDMA_SPARE + 8; i++) /* more than there are buffers */
		at = put(at, RDMA_MSG, 0, body, 8);
	keep(buf, at);
	memcpy(buf + 1, "\377\377\005", 3);
	keep(buf, buf + 4);
}
