/* SPDX-License-Identifier: MIT */
/*
 * The wire format of the tcp transport. All numbers are little-endian; reserved fields are sent as zero and
 * must be zero.
 *
 * A link is 1 + N + 1 connections: control, N data, urgent. On each, the connecting end first sends a
 * preamble and the accepting end answers it. After TCP_ANSWER_OK the connection carries
 *
 *	control:	message frames, both ways: struct tcp_msg, then len bytes
 *	data, urgent:	data frames: struct tcp_frame, then runs beyond the inline ones, then page data
 *
 *	PUT		nruns, bytes, runs; page data of the runs, in order		user -> server
 *	GET		tag, nruns, bytes, runs						user -> server
 *	REPLY		tag and bytes of the GET; page data in the order of its runs	server -> user
 *	FENCE		tag: a number of the user's choice				user -> server
 *	FENCE_ACK	tag of the FENCE: every PUT before it has landed		server -> user
 *	END		the user is done; the server leaves, and the roles are free	user -> server
 *
 * The server handles frames in order, one at a time.
 */
#ifndef FERRY_TCP_WIRE_H
#define FERRY_TCP_WIRE_H

#include <stdint.h>

#define TCP_WIRE_VERSION 1u

#define TCP_MAGIC_PREAMBLE 0x79726566u /* "fery" */
#define TCP_MAGIC_ANSWER 0x61726566u   /* "fera" */
#define TCP_MAGIC_MSG 0x6d726566u      /* "ferm" */
#define TCP_MAGIC_FRAME 0x64726566u    /* "ferd" */

struct tcp_preamble {
	uint32_t magic;
	uint32_t version;
	uint32_t role;	     /* enum tcp_wire_role */
	uint32_t index;	     /* data: 0 to channels - 1; else 0 */
	uint32_t channels;   /* data channels of the link, 1 to 16 */
	uint32_t generation; /* 0: first connection of the session; each reconnect adds one */
	uint8_t session[16];
	uint64_t attempt; /* random per connect: connections of an older attempt belong to another link */
	uint32_t offers;  /* optional features of this end; none exist yet. Unknown ones are not accepted */
	uint8_t reserved[12];
};

enum tcp_wire_role { TCP_ROLE_CONTROL = 0, TCP_ROLE_DATA = 1, TCP_ROLE_URGENT = 2 };

struct tcp_answer {
	uint32_t magic;
	uint32_t version; /* the accepting end's */
	uint32_t code;	  /* enum tcp_answer_code */
	uint32_t accepts; /* those of the preamble's offers that it accepts */
};

enum tcp_answer_code {
	TCP_ANSWER_OK = 0,
	TCP_ANSWER_VERSION = 1,	  /* another version; the connection is closed, as for every code below */
	TCP_ANSWER_MALFORMED = 2, /* role, index or channels out of range, or a duplicate connection */
	TCP_ANSWER_BUSY = 3,	  /* too many half-open connections */
	TCP_ANSWER_TAKEN = 4,	  /* a session runs here, and the preamble's id or generation is refused */
};

struct tcp_msg {
	uint32_t magic;
	uint32_t len; /* at most XPORT_MSG_MAX */
};

#define TCP_RUNS_INLINE 2u

struct tcp_run {
	uint32_t region;
	uint32_t npages; /* at least 1 */
	uint64_t page;
};

enum tcp_frame_type {
	TCP_PUT = 1,
	TCP_GET = 2,
	TCP_REPLY = 3,
	TCP_FENCE = 4,
	TCP_FENCE_ACK = 5,
	TCP_END = 6,
};

struct tcp_frame {
	uint32_t magic;
	uint16_t type;	/* enum tcp_frame_type */
	uint16_t nruns; /* PUT, GET: 1 to XPORT_RUNS_MAX; else 0 */
	uint32_t tag;	/* GET, REPLY: below XPORT_GETS_MAX */
	uint32_t reserved0;
	uint64_t bytes; /* PUT, GET, REPLY: page data, at most XPORT_XFER_MAX bytes; else 0 */
	uint64_t reserved1;
	struct tcp_run runs[TCP_RUNS_INLINE]; /* the first runs; unused entries are zero */
};

_Static_assert(sizeof(struct tcp_preamble) == 64, "on the wire");
_Static_assert(sizeof(struct tcp_answer) == 16, "on the wire");
_Static_assert(sizeof(struct tcp_msg) == 8, "on the wire");
_Static_assert(sizeof(struct tcp_run) == 16, "on the wire");
_Static_assert(sizeof(struct tcp_frame) == 64, "on the wire");

#endif
