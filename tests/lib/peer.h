/* SPDX-License-Identifier: MIT */
/* The other end of a real session, written by hand: what tests/proto/test_session_hostile*.c send and hear. */
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
	struct rig rig; /* of it only one end is a session */
	struct xport_param param;
	struct xport_listener *listener; /* a hostile target */
	struct xport_link *link;
	struct xport_chan *ctl;
	struct fail fail;
	uint32_t seq;
	uint8_t session[16];
	char uri[200]; /* the target's */
	uint8_t *ram;
	char heard[WIRE_TEXT_MAX + 1]; /* the sentence of its REFUSED or ABORT */
	pthread_t thread;
};

/* A message as it stands; a whole message with the next number. What fails to go out has been judged already. */
void peer_raw(struct peer *p, const void *buf, size_t len);
void peer_say(struct peer *p, enum wire_type t, const void *body, size_t len, const void *elems, size_t elems_len);
#define SAY(p, type, ...)                                                 \
	do {                                                              \
		__typeof__(__VA_ARGS__) body_ = __VA_ARGS__;              \
		peer_say(p, type, &body_, sizeof(body_), NULL, 0);        \
	} while (0)
/* The next message that is no PING: its type; 0 when the session has hung up. */
unsigned peer_hear(struct peer *p, void *body, size_t cap);
/* That one and no other. */
void peer_hear_only(struct peer *p, enum wire_type t, void *body, size_t cap);

/* ---- as a source ---- */

/* How far a hostile source has come, decently, before it does its thing. */
enum peer_stage { CONNECTED, GREETED, RESERVED };

struct wire_hello peer_hello(const struct peer *p);
void peer_regions(const struct peer *p, struct wire_region r[FAKE_REGIONS]);
uint64_t peer_no_needs(void); /* the checksum of no state at all */
void peer_say_map(struct peer *p, uint32_t claimed, const struct wire_region *r, size_t n);
/* A real target in p->thread, and the way to that stage. */
void peer_connect(struct peer *p, const struct rig_kind *kind, enum peer_stage upto);
/* The same in two steps, between which the target's VM may be changed. */
void peer_init(struct peer *p, const struct rig_kind *kind);
void peer_begin(struct peer *p, const struct rig_kind *kind, enum peer_stage upto);
/* The thread of a real target, whose session is there: ferry_run(). */
void *peer_run_target(void *peer);
/* Hears it out, hangs up, and looks at what the target has come to; told: it said so itself. */
void peer_target_ends(struct peer *p, int err, const char *sentence, bool told);

/* ---- as a target ---- */

/* A real source in p->thread, which connects to a listener of the peer's at uri. After peer_init(). */
void peer_start_source(struct peer *p, const char *uri);
/* The next connection: p->link. */
void peer_accept(struct peer *p);
struct wire_hello_ack peer_ack(void);
/* Memory for everything that the source puts. */
void peer_expose(struct peer *p);
void peer_hear_until(struct peer *p, enum wire_type t);

#endif
