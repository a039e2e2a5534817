/* SPDX-License-Identifier: MIT */
/*
 * Every byte that the rdma transport itself exchanges. All numbers are little-endian; reserved fields are sent
 * as zero and must be zero.
 *
 * A link is 1 + N + 1 reliable connections: control, N data, urgent. Each is asked for by a connect request whose
 * private data is a preamble, and accepted or rejected with an answer. After that only the control connection
 * carries messages, each one SEND of a frame (head and payload, at most RDMA_SLOT bytes):
 *
 *	MSG	a message of the runtime, or a piece of it; left: bytes of it that are still to come
 *	KEYS	what the sender exposes from now on: struct rdma_keys, then a struct rdma_key a region; in pieces as MSG
 *	CREDIT	nothing but the credits in the head
 *	PIN	struct rdma_pin: a chunk of a region that is exposed in chunks is to be prepared (pin=lazy)
 *	PINNED	struct rdma_pin: the answer
 *	PROBE	is anybody there? (asked when a memory key was refused)
 *	PROBED	yes
 *
 * A MSG or KEYS frame takes one of the receiver's RDMA_CREDITS buffers until it says in a head's credits that
 * the buffer is free again. The other frames are so few that the receiver always has a buffer for them: one PIN a
 * channel, one PROBE a channel, one CREDIT for a quarter of the buffers.
 */
#ifndef FERRY_RDMA_WIRE_H
#define FERRY_RDMA_WIRE_H

#include <stdint.h>

#define RDMA_WIRE_VERSION 1u

#define RDMA_MAGIC_PREAMBLE 0x72726566u /* "ferr" */
#define RDMA_MAGIC_ANSWER 0x62726566u	/* "ferb" */
#define RDMA_MAGIC_FRAME 0x65726566u	/* "fere" */

/* Private data of a connect request: 56 bytes are what the connection manager leaves us. */
struct rdma_preamble {
	uint32_t magic;
	uint32_t version;
	uint8_t role;	  /* enum rdma_wire_role */
	uint8_t index;	  /* data: 0 to channels - 1; else 0 */
	uint8_t channels; /* data channels of the link, 1 to 16 */
	uint8_t mtu;	  /* largest path MTU that this end takes: enum ibv_mtu, 1 to 5 */
	uint32_t generation;
	uint8_t session[16];
	uint64_t attempt; /* random, one a connect: what an earlier try left behind is another link */
	uint64_t board;	  /* RDMA_BOARD bytes that the peer may read: a fence is such a read */
	uint32_t board_key;
	uint32_t offers; /* what this end could do beside the version's own: nothing yet. What is not known is not accepted */
};

enum rdma_wire_role {
	RDMA_ROLE_CONTROL = 0,
	RDMA_ROLE_DATA = 1,
	RDMA_ROLE_URGENT = 2,
	RDMA_ROLE_KNOCK = 3, /* asks for no connection: is anybody there? Rejected with RDMA_ANSWER_HERE */
};

#define RDMA_BOARD 8u

/* Private data of an accept or a reject. */
struct rdma_answer {
	uint32_t magic;
	uint32_t version; /* the accepting end's */
	uint32_t code;	  /* enum rdma_answer_code */
	uint32_t mtu;	  /* accept: of both, the smaller */
	uint64_t board;
	uint32_t board_key;
	uint32_t accepts; /* of what the preamble offers */
};

enum rdma_answer_code {
	RDMA_ANSWER_OK = 0,
	RDMA_ANSWER_VERSION = 1,   /* other version */
	RDMA_ANSWER_MALFORMED = 2, /* a field out of range, or this connection is there already */
	RDMA_ANSWER_BUSY = 3,	   /* too many half-open connections */
	RDMA_ANSWER_LATE = 4,	   /* the rest of the link did not come in time */
	RDMA_ANSWER_HERE = 5,	   /* to a knock */
	RDMA_ANSWER_TAKEN = 6,	   /* a session is under way: this request is not its, or of no newer generation */
};

#define RDMA_SLOT 4096u
#define RDMA_CREDITS 256u /* frames of MSG and KEYS under way to one end */
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
	uint16_t credits; /* buffers that are free again at the sender */
	uint32_t len;	  /* bytes that follow in this frame */
	uint32_t left;	  /* MSG, KEYS: bytes that follow in later frames of the same type; else 0 */
};

#define RDMA_PAYLOAD (RDMA_SLOT - 16u)

struct rdma_keys {
	uint32_t access;      /* enum xport_access */
	uint32_t nregions;
	uint32_t chunk_shift; /* 0: each region has one key; else a key a chunk of so many bytes, asked for by PIN */
	uint32_t reserved;
};

struct rdma_key {
	uint32_t id;
	uint32_t page_shift;
	uint64_t npages;
	uint64_t addr;
	uint32_t rkey;
	uint32_t flags; /* bit 0: there is memory */
};

#define RDMA_KEYS_MAX 4000u

struct rdma_pin {
	uint32_t chan; /* whose: 0 to channels - 1 data, channels urgent */
	uint32_t slot; /* of that channel's RDMA_PIN_SLOTS; what was in it is let go */
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
