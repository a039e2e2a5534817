/* SPDX-License-Identifier: MIT */
/* The hand-written other end of a real session: what tests/proto/test_session_hostile*.c send and receive. */
#ifndef TESTS_PEER_H
#define TESTS_PEER_H

#include "patience.h"
#include "rig.h"
#include "runtime/base/fail.h"
#include "runtime/link/stream.h"
#include "runtime/link/wire.h"
#include "runtime/session/commit.h"
#include "transport/xport.h"

#define PEER_WAIT_US 60000000u
#define PEER_TIMEOUT_US (300000u * patience())
#define PEER_RECONNECT_US (100000u * patience())

struct peer {
	struct rig rig; /* only one of its ends is a session */
	struct xport_param param;
	struct xport_listener *listener; /* a hostile target's */
	struct xport_link *link;
	struct xport_chan *ctl;
	struct fail fail;
	uint32_t seq;
	uint8_t session[16];
	char uri[200]; /* the target's */
	uint8_t *ram;
	char heard[WIRE_TEXT_MAX + 1]; /* the sentence of the session's REFUSED or ABORT */
	pthread_t thread;
};

/* Send raw bytes; send a message with the next number. A failure is ignored: the session has decided then. */
void peer_raw(struct peer *p, const void *buf, size_t len);
void peer_say(struct peer *p, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len);
#define SAY(p, type, ...)                                          \
	do {                                                       \
		__typeof__(__VA_ARGS__) body_ = __VA_ARGS__;       \
		peer_say(p, type, &body_, sizeof(body_), NULL, 0); \
	} while (0)
/* Receive the next message that is no PING: its type, or 0 if the session has closed the link. */
unsigned peer_hear(struct peer *p, void *body, size_t cap);
/* Receive a message of type t; any other fails the test. */
void peer_hear_only(struct peer *p, enum wire_type t, void *body, size_t cap);

/* ---- as a source ---- */

/* The point up to which a hostile source behaves correctly. */
enum peer_stage { CONNECTED, GREETED, RESERVED };

struct wire_hello peer_hello(const struct peer *p);
void peer_regions(const struct peer *p, struct wire_region r[FAKE_REGIONS]);
uint64_t peer_no_needs(void); /* the checksum of an empty state */
void peer_say_map(struct peer *p, uint32_t claimed, const struct wire_region *r, size_t n);
/* Start a real target in p->thread and go on with it up to that point. */
void peer_connect(struct peer *p, const struct rig_kind *kind, enum peer_stage upto);
/* The same in two steps; between them the test may change the target's VM. */
void peer_init(struct peer *p, const struct rig_kind *kind);
void peer_begin(struct peer *p, const struct rig_kind *kind, enum peer_stage upto);
/* Another connection of the same session, with that generation. The last one is closed. */
void peer_connect_again(struct peer *p, uint32_t generation);
/* Thread body: ferry_run() of a target whose session exists. */
void *peer_run_target(void *peer);
/* Receive the rest, close the link, check how the target ended. told: it must have sent the sentence. */
void peer_target_ends(struct peer *p, int err, const char *sentence, bool told);

/* ---- as a target ---- */

/* Start a real source in p->thread; it connects to the peer's listener at uri. After peer_init(). */
void peer_start_source(struct peer *p, const char *uri);
/* Accept the next connection as p->link. */
void peer_accept(struct peer *p);
struct wire_hello_ack peer_ack(void);
/* Expose memory for everything that the source puts. */
void peer_expose(struct peer *p);
void peer_hear_until(struct peer *p, enum wire_type t);

#endif
