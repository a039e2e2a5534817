/* SPDX-License-Identifier: MIT */
/*
 * What one end of a migration is made of. Internal to runtime/.
 *
 * Threads of a session: the embedder's thread inside ferry_run() ("main": all ops, all receiving on the
 * control channel, all phase changes), the heartbeat (a PING four times a timeout, so that a long op is not
 * taken for a dead host), the closer of a link that was lost, at a target a closer for each stranger's link
 * (lobby.c), and workers while pages move (one a data channel, one for faults).
 * Anyone may set a request flag and wake main.
 *
 * Locks, in the order of taking: send_lock (the control channel's sending side, and which link is the
 * current one), then view_lock (what other threads read of the session: stats, phase, URI).
 */
#ifndef FERRY_SESSION_H
#define FERRY_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "commit.h"
#include "policy.h"
#include "stats.h"
#include "workers.h"
#include "ferry/ferry.h"
#include "runtime/base/api.h"
#include "runtime/base/clock.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/reach.h"
#include "runtime/link/state.h"
#include "runtime/link/stream.h"
#include "runtime/link/wire.h"
#include "runtime/memory/pages.h"
#include "runtime/memory/place.h"
#include "transport/xport.h"

#define ROUNDS_MAX 1000u

struct pull;

struct source_state {
	struct reach reach;
	struct page_set dirty;	 /* to be sent in this round */
	struct page_set sent;	 /* a bit a SENT_CHUNK of pages: the target may hold something other than zero in it */
	struct page_set zeros;	 /* ZERO went out in this round, no ROUND_ACK yet; between rounds: what was fetched */
	struct page_set lost;	 /* met by workers: a hardware error, the VMM is still to be asked */
	struct page_set poison;	 /* the VMM lets them cross as poison (poison.h) */
	bool poisoned;		 /* poison has had pages; main writes it, between rounds */
	bool repeats;		 /* a page may have been sent before: no longer the first round, or a link was lost */
	struct page_set residue; /* named to the target: it will pull them */
	_Atomic uint64_t ticket; /* pieces of memory that workers have taken in this round */
	struct ferry_round *rounds; /* ROUNDS_MAX */
	uint32_t nrounds;
	bool tracking; /* dirty_start was called */
	uint32_t throttle; /* percent that the guest is slowed by */
	bool paused;
	bool switched;	/* SWITCHOVER may have left: the target may be PREPARED */
	bool reversed;	/* data channels serve the target's gets */
	uint64_t residue_pages;
	uint64_t paused_at; /* us */
	uint64_t pulled_us; /* when the target was last known to have fetched pages */
	uint64_t least_left; /* in post-copy: the fewest pages_left that it has said */
	uint64_t hold_until_us; /* the hold limit, as this end counts it; 0: none */
	uint64_t ack_us;    /* ROUND_END to ROUND_ACK, the last time: a round trip */
};

struct target_state {
	struct page_set missing; /* not here yet; only grows before SWITCHOVER, only shrinks after */
	struct page_set poison;	 /* named by POISON */
	_Atomic bool poisoned;	 /* any were; main writes it, before load, and the workers that pull are there already */
	struct page_set named;	 /* by RESIDUE since the last PREARM: not dropped yet */
	struct place place;
	struct pull *pull;
	struct wire_hello hello; /* what the source asked for */
	struct wire_switchover switchover;
	bool reserved; /* reserve was called: discard will be */
	bool no_postcopy; /* not possible here, and not asked for: mode auto */
	bool armed;
	bool pulling; /* the workers are the pull's; else they land what is put */
	uint64_t least_left; /* pages that the source had still to put in this round, + 1; 0: it has not said */
	uint64_t zeroed; /* pages that the ZEROs of this round have named */
	bool held;	/* output_hold was called */
	bool running;	/* resume was called and no pause since */
	struct wire_times times;
	uint64_t hold_until_us; /* 0: no limit */
};

struct ferry_session {
	bool is_source;
	void *vm;
	struct ferry_ops ops;
	struct ferry_config cfg;
	struct ferry_region *regions;
	size_t nregions;
	_Atomic uint64_t pages_total; /* a target's grows with the MAP, while others ask */
	uint8_t session[16];
	char uri[512];
	bool opened;
	_Atomic bool ran;

	struct fail fail;
	struct commit commit;

	pthread_mutex_t view_lock;
	struct link link;
	struct chaos *chaos; /* what fault injection was asked for; it outlives the links */

	/* requests, and what wakes main */
	int wake_fd;
	_Atomic bool want_cancel;
	_Atomic bool want_switchover;
	_Atomic bool hurry; /* canceled once it was settled: what is left to do is cut short */

	enum ferry_phase phase; /* written by phase_enter() only, under view_lock */
	enum ferry_phase last_phase;
	uint64_t started_us;
	uint64_t phase_us[FERRY_PHASE_FAILED + 1]; /* when each was entered last */
	struct workers workers;
	struct stats stats;
	struct ferry_stream stream; /* source: being sent; target: being received */
	bool peer_can_hold;
	bool peer_can_poison;
	bool peer_no_postcopy; /* RESERVED said so */
	int arbiter_err;  /* of the last time that it was asked */
	enum ferry_reason reason; /* where the errno of the first error does not tell it; else 0 */
	const char *failed_op;	  /* FERRY_REASON_OP */
	uint64_t left; /* pages that were not there when the target said PREPARED: then the source serves on */
	bool confirmed; /* source: COMMITTED heard; target: BYE heard */
	struct source_state src;
	struct target_state tgt;
};

void session_wake(struct ferry_session *s); /* any thread */
/*
 * One line for the embedder: "event=" and what fmt says (a name, then key=value), which end and session, and text
 * where there is one. docs/observability.md lists them.
 */
void session_log(struct ferry_session *s, int level, const char *text, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void session_event(struct ferry_session *s, enum ferry_event_type type, const char *text,
		   const struct ferry_round *round);
/* What is only for speed is refused here, and the migration goes on without: one line for the embedder. Any thread. */
void session_slower(void *arg, enum cure doing, int err, const char *what);
/* Main, before fail(): where the errno does not tell whose doing it is. */
static inline void session_reason(struct ferry_session *s, enum ferry_reason why)
{
	if (!fail_err(&s->fail))
		s->reason = why;
}
/* Calls one op and, when it fails, says which in a sentence. */
#define OP(s, op, ...) op_result((s), #op, (s)->ops.op((s)->vm __VA_OPT__(, ) __VA_ARGS__))
int op_result(struct ferry_session *s, const char *op, int err);
/* The same for an op that was given s->stream: what it said on it comes first. */
#define STREAM_OP(s, op, ...) op_stream_result((s), #op, (s)->ops.op((s)->vm, __VA_ARGS__))
int op_stream_result(struct ferry_session *s, const char *op, int err);
/* An empty set over all regions, one bit for so many pages. -ENOMEM, with a sentence. */
int session_track(struct ferry_session *s, struct page_set *set, unsigned pages);

#endif
