/* SPDX-License-Identifier: MIT */
/*
 * Every byte that crosses the control channel: little-endian, sizes asserted, enums numbered. wire_check()
 * checks all lengths before anything else reads a message. docs/protocol.md is normative.
 */
#ifndef FERRY_WIRE_H
#define FERRY_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ferry/ferry.h"
#include "runtime/base/page.h"

struct fail;

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the structs below are the bytes on the link");

#define WIRE_MAGIC 0x59525246u /* "FRRY" */
#define WIRE_VERSION 1u	       /* the newest version that this library speaks */
#define WIRE_VERSION_OLDEST 1u /* the oldest: always the one before it, once there is one */
#define WIRE_REGIONS_MAX 1024u
#define WIRE_MEMORY_MAX (UINT64_C(1) << 46) /* bytes in all regions */
#define WIRE_STATE_CHUNK (64u << 10)
#define WIRE_RESIDUE_PAGES (UINT64_C(1) << 19) /* pages in one RESIDUE message: 64 KiB of bitmap */
#define WIRE_RUNS_MAX 4096u
#define WIRE_TEXT_MAX 400u
#define WIRE_OFFER_MAX (64u << 10)
#define WIRE_NUMBER 16u	       /* bytes of the number by which an end is recognized */
#define WIRE_GREETING_MAX 256u /* most bytes of a HELLO or HELLO_ACK; readers ignore unknown fields */
/* A reader that does not know a message type with this bit skips the message. */
#define WIRE_OPTIONAL 0x8000u
/* Features: both ends must know one before either uses it. The source offers, the target accepts some. */
#define WIRE_FEATURE_POISON (UINT64_C(1) << 0) /* POISON, and its flags in MAP and RESERVED */
#define WIRE_FEATURES WIRE_FEATURE_POISON      /* all that this library knows */

enum wire_from { FROM_SOURCE = 1, FROM_TARGET = 2, FROM_BOTH = 3 };

/* name, number, sender, fixed part, size of a trailing element, at most how many, phases of the receiver */
#define WIRE_MESSAGES(X)                                                                                     \
	X(HELLO, 1, FROM_SOURCE, struct wire_greeting, 1, WIRE_GREETING_MAX - 8, IN(PRE_MIGRATION))          \
	X(HELLO_ACK, 2, FROM_TARGET, struct wire_greeting, 1, WIRE_GREETING_MAX - 8, IN(PRE_MIGRATION))      \
	X(REFUSED, 3, FROM_TARGET, struct wire_abort, 1, WIRE_TEXT_MAX, IN(PRE_MIGRATION) | IN(RESERVATION)) \
	X(MAP, 4, FROM_SOURCE, struct wire_map, sizeof(struct wire_region), WIRE_REGIONS_MAX,                \
	  IN(RESERVATION))                                                                                   \
	X(RESERVED, 5, FROM_TARGET, struct wire_reserved, 1, WIRE_OFFER_MAX, IN(RESERVATION))                \
	X(ZERO, 6, FROM_SOURCE, struct wire_empty, sizeof(struct page_run), WIRE_RUNS_MAX, IN(PRECOPY))      \
	X(ROUND_END, 7, FROM_SOURCE, struct wire_round, 1, 0, IN(PRECOPY))                                   \
	X(ROUND_ACK, 8, FROM_TARGET, struct wire_round, 1, 0, IN(PRECOPY) | IN(STOP_AND_COPY))               \
	X(STATE, 9, FROM_SOURCE, struct wire_empty, 1, WIRE_STATE_CHUNK, IN(RESERVATION) | IN(PRECOPY))      \
	X(RESIDUE, 10, FROM_SOURCE, struct wire_residue, 8, WIRE_RESIDUE_PAGES / 64, IN(PRECOPY))            \
	X(PREARM, 11, FROM_SOURCE, struct wire_count, 1, 0, IN(PRECOPY))                                     \
	X(PREARMED, 12, FROM_TARGET, struct wire_count, 1, 0, IN(PRECOPY))                                   \
	X(SWITCHOVER, 13, FROM_SOURCE, struct wire_switchover, 1, 0, IN(PRECOPY))                            \
	X(RUNNING, 14, FROM_TARGET, struct wire_times, 1, 0, IN(STOP_AND_COPY))                              \
	X(PREPARED, 15, FROM_TARGET, struct wire_count, 1, 0, IN(POSTCOPY) | IN(COMMITMENT))                 \
	X(COMMIT, 16, FROM_SOURCE, struct wire_empty, 1, 0, IN(COMMITMENT))                                  \
	X(COMMITTED, 17, FROM_TARGET, struct wire_times, 1, 0, IN(COMMITMENT))                               \
	X(COMPLETE, 18, FROM_TARGET, struct wire_times, 1, 0, IN(POSTCOPY))                                  \
	X(BYE, 19, FROM_SOURCE, struct wire_empty, 1, 0, IN(ACTIVATION) | IN(POSTCOPY))                      \
	X(ABORT, 20, FROM_BOTH, struct wire_abort, 1, WIRE_TEXT_MAX, WIRE_ANY_PHASE)                         \
	X(PING, 21, FROM_BOTH, struct wire_ping, 1, 0, WIRE_ANY_PHASE)                                       \
	X(POISON, 22, FROM_SOURCE, struct wire_empty, sizeof(struct page_run), WIRE_RUNS_MAX, IN(PRECOPY))

#define WIRE_ANY_PHASE (~0u)
#define WIRE_ENUM(name, number, ...) WIRE_##name = (number),
enum wire_type { WIRE_MESSAGES(WIRE_ENUM) WIRE_TYPES };

struct wire_hdr {
	uint16_t type;
	uint16_t zero;
	uint32_t len; /* bytes after the header */
	uint32_t seq; /* 0 for the first message of a connection, in each direction */
	uint32_t zero2;
};
_Static_assert(sizeof(struct wire_hdr) == 16, "");

struct wire_empty {
	uint8_t none[0];
};

/*
 * HELLO and HELLO_ACK begin with this in every version; it is checked before the length and all else. HELLO
 * has the newest and the oldest version of the source, HELLO_ACK twice the version that was chosen.
 */
struct wire_greeting {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
};
_Static_assert(sizeof(struct wire_greeting) == 8, "");

#define WIRE_COMES_BACK 1u /* the source has received a HELLO_ACK in this session */
#define WIRE_HELLO_FLAGS WIRE_COMES_BACK
/* Sent on each link, with a higher generation. New fields go to the end; one that was not sent reads as 0. */
struct wire_hello {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint64_t features;	     /* offered */
	uint8_t number[WIRE_NUMBER]; /* the source's; a secret of the two ends */
	uint32_t generation;
	uint16_t page_shift;
	uint16_t mode;		/* enum ferry_mode */
	uint32_t commit_at;	/* enum ferry_commit_at */
	uint16_t at_hold_limit; /* enum ferry_hold */
	uint16_t flags;
	uint64_t hold_limit_us;
	uint64_t timeout_us;
	uint64_t reconnect_us;
	uint64_t bandwidth;
};
_Static_assert(sizeof(struct wire_hello) == 80, "");
#define WIRE_HELLO_LEAST 80u /* version 1; later fields are optional */

struct wire_hello_ack {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint64_t features; /* accepted */
	uint32_t generation;
	uint16_t page_shift;
	uint16_t commit; /* enum commit_state of the target */
	uint64_t timeout_us;
	uint64_t left;		     /* pages that its PREPARED counted as missing */
	uint8_t number[WIRE_NUMBER]; /* the target's; a secret of the two ends */
};
_Static_assert(sizeof(struct wire_hello_ack) == 56, "");
#define WIRE_HELLO_ACK_LEAST 56u

struct wire_abort { /* ABORT and REFUSED; the sentence follows, without a NUL */
	int32_t err;
	uint32_t reserved;
};
_Static_assert(sizeof(struct wire_abort) == 8, "");

#define WIRE_SOURCE_ARBITER 1u
#define WIRE_SOURCE_POISON 2u
#define WIRE_MAP_FLAGS (WIRE_SOURCE_ARBITER | WIRE_SOURCE_POISON)
struct wire_map { /* nregions struct wire_region follow; the STATE messages before it are the needs */
	uint32_t nregions;
	uint32_t flags;
	uint64_t needs_len;
	uint64_t needs_sum;
};
_Static_assert(sizeof(struct wire_map) == 24, "");

struct wire_region {
	uint32_t id;
	uint32_t page_shift;
	uint32_t flags;
	uint32_t reserved;
	uint64_t gpa;
	uint64_t len;
};
_Static_assert(sizeof(struct wire_region) == 32, "");
_Static_assert(sizeof(struct page_run) == 16, "");

#define WIRE_CAN_HOLD 1u
#define WIRE_TARGET_ARBITER 2u
#define WIRE_TARGET_POISON 4u
#define WIRE_NO_POSTCOPY 8u /* in mode auto: the target cannot do post-copy */
#define WIRE_RESERVED_FLAGS (WIRE_CAN_HOLD | WIRE_TARGET_ARBITER | WIRE_TARGET_POISON | WIRE_NO_POSTCOPY)
struct wire_reserved { /* the target's offer follows, as sections */
	uint32_t flags;
	uint32_t reserved;
};
_Static_assert(sizeof(struct wire_reserved) == 8, "");

struct wire_round {
	uint32_t round;
	uint32_t reserved;
};
_Static_assert(sizeof(struct wire_round) == 8, "");

struct wire_residue { /* a bitmap of npages bits in 8-byte words follows */
	uint32_t region;
	uint32_t reserved;
	uint64_t first; /* a multiple of 64 */
	uint64_t npages;
};
_Static_assert(sizeof(struct wire_residue) == 24, "");

struct wire_count { /* pages in PREARM: named so far; in PREARMED: dropped; in PREPARED: still missing */
	uint64_t pages;
};
_Static_assert(sizeof(struct wire_count) == 8, "");

struct wire_switchover {
	uint64_t residue; /* pages named by all RESIDUE messages together */
	uint64_t state_len;
	uint64_t state_sum;
	uint32_t commit_at; /* FERRY_COMMIT_AT_COMPLETE or _SWITCHOVER */
	uint32_t reserved;
};
_Static_assert(sizeof(struct wire_switchover) == 32, "");

struct wire_times { /* measured by the target */
	uint64_t arm_us, load_us, resume_us;
	uint64_t faults, fault_p50_ns, fault_p99_ns, fault_max_ns, fault_total_ns;
};
_Static_assert(sizeof(struct wire_times) == 64, "");

struct wire_ping {
	uint64_t pages_left; /* source: to send in this round; target: missing in post-copy */
	uint64_t faults;
};
_Static_assert(sizeof(struct wire_ping) == 16, "in every version: it may come before HELLO");

struct wire_msg {
	enum wire_type type; /* 0: an unknown optional message; the rest is zero */
	const void *body;    /* the fixed part */
	const void *elems;   /* after the fixed part */
	size_t nelems;
};

const char *wire_name(enum wire_type t);		   /* "ROUND_END"; "?" for an unknown number */
enum wire_type wire_by_name(const char *name, size_t len); /* 0: no message has that name */
enum wire_from wire_from(enum wire_type t);		   /* who sends it */
/* The type in the header of a message of len bytes; 0 if there is no whole header. */
unsigned wire_type_of(const void *msg, size_t len);
/* Whether messages of that type need nothing from main: PING, unknown optional ones. Valid at any time. */
bool wire_is_aside(unsigned type);

/* Copy the sentence of a REFUSED or ABORT; unprintable bytes become '?'. text: WIRE_TEXT_MAX + 1 bytes. */
void wire_text(const struct wire_msg *m, char *text);

/* The header of a message with len bytes after the header. */
struct wire_hdr wire_header(enum wire_type t, size_t len, uint32_t seq);

/*
 * Check one received message of len bytes: header, sender, phase of the receiver, sequence number, all
 * lengths and reserved fields. *ret points into buf. -EPROTO, with a sentence that has the values.
 */
int wire_check(struct wire_msg *ret, const void *buf, size_t len, enum wire_from from, enum ferry_phase phase,
	       uint32_t seq, struct fail *f);

#endif
