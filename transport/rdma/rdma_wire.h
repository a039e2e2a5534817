/* SPDX-License-Identifier: MIT */
/*
 * The wire format of the rdma transport. All numbers are little-endian; reserved fields are sent as zero and
 * must be zero.
 *
 * A link is 1 + N + 1 reliable connections: control, N data, urgent. Each is requested by a connect request
 * whose private data is a preamble, and is accepted or rejected with an answer. After that only the control
 * connection carries messages. Each is one SEND of a frame (head and payload, at most RDMA_SLOT bytes):
 *
 *	MSG	a message of the runtime, or a piece of it; left: bytes of it that are still to come
 *	KEYS	what the sender exposes from now on: struct rdma_keys, then a struct rdma_key per region;
 *		in pieces as MSG
 *	CREDIT	nothing but the credits in the head
 *	PIN	struct rdma_pin: asks the peer to register a chunk of a region exposed in chunks (pin=lazy)
 *	PINNED	struct rdma_pin: the answer
 *	PROBE	asks whether the peer is alive, after a memory key was refused
 *	PROBED	the answer
 *
 * A MSG or KEYS frame occupies one of the receiver's RDMA_CREDITS buffers until the credits in a frame's head
 * return it. The other frames are few enough that the receiver always has a buffer for them: at most one PIN
 * and one PROBE per channel, and one CREDIT per quarter of the buffers.
 */
#ifndef FERRY_RDMA_WIRE_H
#define FERRY_RDMA_WIRE_H

#include <stdint.h>

#define RDMA_WIRE_VERSION 1u

#define RDMA_MAGIC_PREAMBLE 0x72726566u /* "ferr" */
#define RDMA_MAGIC_ANSWER 0x62726566u	/* "ferb" */
#define RDMA_MAGIC_FRAME 0x65726566u	/* "fere" */

/* Private data of a connect request; the connection manager leaves 56 bytes of it to us. */
struct rdma_preamble {
	uint32_t magic;
	uint32_t version;
	uint8_t role;	  /* enum rdma_wire_role */
	uint8_t index;	  /* data: 0 to channels - 1; else 0 */
	uint8_t channels; /* data channels of the link, 1 to 16 */
	uint8_t mtu;	  /* largest path MTU of this end: enum ibv_mtu, 1 to 5 */
	uint32_t generation;
	uint8_t session[16];
	uint64_t attempt; /* random per connect: requests of an older attempt belong to another link */
	uint64_t board;	  /* RDMA_BOARD bytes that the peer may read; a fence reads them */
	uint32_t board_key;
	uint32_t offers; /* optional features of this end; none exist yet. Unknown ones are not accepted */
};

enum rdma_wire_role {
	RDMA_ROLE_CONTROL = 0,
	RDMA_ROLE_DATA = 1,
	RDMA_ROLE_URGENT = 2,
	RDMA_ROLE_KNOCK = 3, /* tests whether a target is there; rejected with RDMA_ANSWER_HERE */
};

#define RDMA_BOARD 8u

/* Private data of an accept or a reject. */
struct rdma_answer {
	uint32_t magic;
	uint32_t version; /* the accepting end's */
	uint32_t code;	  /* enum rdma_answer_code */
	uint32_t mtu;	  /* accept: the smaller one of both ends */
	uint64_t board;
	uint32_t board_key;
	uint32_t accepts; /* those of the preamble's offers that it accepts */
};

enum rdma_answer_code {
	RDMA_ANSWER_OK = 0,
	RDMA_ANSWER_VERSION = 1,   /* another version */
	RDMA_ANSWER_MALFORMED = 2, /* a field out of range, or a duplicate connection */
	RDMA_ANSWER_BUSY = 3,	   /* too many half-open connections */
	RDMA_ANSWER_LATE = 4,	   /* the rest of the link did not arrive in time */
	RDMA_ANSWER_HERE = 5,	   /* the answer to a knock */
	RDMA_ANSWER_TAKEN = 6,	   /* a session runs here, and the preamble's id or generation is refused */
};

#define RDMA_SLOT 4096u
#define RDMA_CREDITS 256u /* MSG and KEYS frames in flight to one end */
#define RDMA_SPARE 96u	  /* buffers for the other frames */

enum rdma_frame_type {
	RDMA_MSG = 1,
	RDMA_KEYS = 2,
	RDMA_CREDIT = 3,
	RDMA_PIN = 4,
	RDMA_PINNED = 5,
	RDMA_PROBE = 6,
	RDMA_PROBED = 7,
};

struct rdma_frame {
	uint32_t magic;
	uint16_t type;	  /* enum rdma_frame_type */
	uint16_t credits; /* buffers that the sender has freed */
	uint32_t len;	  /* payload bytes of this frame */
	uint32_t left;	  /* MSG, KEYS: bytes in later frames of the same type; else 0 */
};

#define RDMA_PAYLOAD (RDMA_SLOT - 16u)

struct rdma_keys {
	uint32_t access; /* enum xport_access */
	uint32_t nregions;
	uint32_t chunk_shift; /* 0: a key per region; else log2 of the chunk size; PIN asks for each key */
	uint32_t reserved;
};

struct rdma_key {
	uint32_t id;
	uint32_t page_shift;
	uint64_t npages;
	uint64_t addr;
	uint32_t rkey;
	uint32_t flags; /* bit 0: the region has memory */
};

#define RDMA_KEYS_MAX 4000u

struct rdma_pin {
	uint32_t chan; /* channel: 0 to channels - 1 data, channels urgent */
	uint32_t slot; /* one of the channel's RDMA_PIN_SLOTS; the chunk in it is released */
	uint32_t region;
	uint32_t status; /* PINNED: 0, or an errno; PIN: 0 */
	uint64_t chunk;
	uint32_t rkey; /* PINNED */
	uint32_t reserved;
};

#define RDMA_PIN_SLOTS 16u
#define RDMA_CHUNK_SHIFT 24u

_Static_assert(sizeof(struct rdma_preamble) == 56, "on the wire");
_Static_assert(sizeof(struct rdma_answer) == 32, "on the wire");
_Static_assert(sizeof(struct rdma_frame) == 16, "on the wire");
_Static_assert(sizeof(struct rdma_keys) == 16, "on the wire");
_Static_assert(sizeof(struct rdma_key) == 32, "on the wire");
_Static_assert(sizeof(struct rdma_pin) == 32, "on the wire");

#endif
