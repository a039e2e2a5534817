/* SPDX-License-Identifier: MIT */
/*
 * The state of one end of a migration, and what all its parts use. Internal to runtime/.
 *
 * Threads of a session: main, the embedder's thread inside ferry_run() (all ops, all receiving on the control
 * channel, all phase changes); the heartbeat (four PINGs per timeout, so that a long op is not taken for a
 * dead host); a closer for a lost link; at a target a closer for each unwanted caller (lobby.c); and while
 * pages move the workers, one per data channel. A transport may have threads of its own. Any thread may set a
 * request flag and wake main.
 *
 * Locks, in locking order: send_lock (the control channel's sending side, and which link is current), then
 * view_lock (what other threads read of the session: stats, phase, URI).
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
	struct page_set dirty; /* to send in this round */
	struct page_set sent;  /* one bit per SENT_CHUNK pages: nonzero data may be at the target */
	/* Announced as ZERO in this round, not acknowledged yet. The last dirty_fetch uses it as scratch. */
	struct page_set zeros;
	struct page_set lost;	/* workers met a hardware error; the VMM has not been asked yet */
	struct page_set poison; /* lost pages that the VMM lets cross as poison (poison.h) */
	bool poisoned;		/* set when poison first had pages; main writes it, between rounds */
	/* Pages may have been sent before: this is not the first round, or a link was lost. */
	bool repeats;
	struct page_set residue;    /* named to the target, which will pull them */
	_Atomic uint64_t ticket;    /* the next piece of memory for a worker in this round */
	struct ferry_round *rounds; /* array of ROUNDS_MAX + 1 */
	uint32_t nrounds;
	bool tracking;	   /* dirty_start was called */
	uint32_t throttle; /* percent by which the guest is slowed */
	bool paused;
	bool switched; /* SWITCHOVER may have been sent: the target may be PREPARED */
	bool reversed; /* data channels serve the target's gets */
	uint64_t residue_pages;
	uint64_t paused_at;	/* us */
	uint64_t pulled_us;	/* when the target was last known to have fetched pages */
	uint64_t least_left;	/* post-copy: the smallest pages_left that it has reported */
	uint64_t hold_until_us; /* end of the hold limit, as this end counts it; 0: none */
	uint64_t ack_us;	/* last ROUND_END to ROUND_ACK, us: a round trip */
};

struct target_state {
	struct page_set missing; /* not arrived; only grows before SWITCHOVER, only shrinks after */
	struct page_set poison;	 /* named by POISON */
	/* poison is not empty. Main sets it before load, when workers may pull already. */
	_Atomic bool poisoned;
	struct page_set named; /* named by RESIDUE since the last PREARM: not dropped yet */
	struct place place;
	struct xport_lander lander; /* what arrives in pre-copy, to place */
	struct pull *pull;
	struct wire_hello hello; /* what the source asked for */
	struct wire_switchover switchover;
	bool reserved;	  /* reserve was called, so discard must be */
	bool no_postcopy; /* mode auto, and post-copy is not possible here */
	bool armed;
	bool pulling; /* the workers pull; else they land what is put */
	/* 1 + the smallest pages_left in the source's PINGs of this round; 0: no such PING yet. */
	uint64_t least_left;
	uint64_t zeroed; /* pages named by this round's ZEROs */
	bool held;	 /* output_hold was called */
	bool running;	 /* resume was called and no pause since */
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
	_Atomic uint64_t pages_total; /* a target's grows with MAP, while other threads read it */
	uint8_t session[16];
	char uri[512];
	bool opened;
	_Atomic bool ran;

	struct fail fail;
	struct commit commit;

	pthread_mutex_t view_lock;
	struct link link;
	struct chaos *chaos; /* injected faults; outlive the links */

	/* requests, and what wakes main */
	int wake_fd;
	_Atomic bool want_cancel;
	_Atomic bool want_switchover;
	_Atomic bool hurry; /* ferry_cancel() came after the outcome was settled: skip what is optional */

	enum ferry_phase phase; /* written by phase_enter() only, under view_lock */
	enum ferry_phase last_phase;
	uint64_t started_us;
	uint64_t phase_us[FERRY_PHASE_FAILED + 1]; /* when each phase was last entered */
	struct workers workers;
	struct stats stats;
	struct ferry_stream stream; /* source: being sent; target: being received */
	bool peer_can_hold;
	bool peer_can_poison;
	bool peer_no_postcopy;	  /* RESERVED said that post-copy is not possible there */
	int arbiter_err;	  /* of the arbiter's last call */
	enum ferry_reason reason; /* set if the first error's errno does not tell the reason; else 0 */
	const char *failed_op;	  /* FERRY_REASON_OP */
	uint64_t residue;	  /* pages missing at PREPARED: the source serves them after the commit */
	bool committed;		  /* source: COMMITTED was heard */
	bool bye;		  /* target: BYE was heard */
	struct source_state src;
	struct target_state tgt;
};

void session_wake(struct ferry_session *s); /* any thread */
/*
 * Log one line: "event=", then fmt (a name and key=value pairs), which end and session, and text if not NULL.
 * docs/observability.md lists the events and levels.
 */
void session_log(struct ferry_session *s, int level, const char *text, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
void session_event(struct ferry_session *s, enum ferry_event_type type, const char *text,
		   const struct ferry_round *round);
/* Log that a faster way is refused here and not used. err: negative errno. Any thread. */
void session_slower(void *arg, enum cure doing, int err, const char *what);
/* Set the reason where the first error's errno does not tell it. Main, before fail(). */
static inline void session_reason(struct ferry_session *s, enum ferry_reason why)
{
	if (!fail_err(&s->fail))
		s->reason = why;
}
/* Call one op. If it fails, the sentence names it. */
#define OP(s, op, ...) op_result((s), #op, (s)->ops.op((s)->vm __VA_OPT__(, ) __VA_ARGS__))
int op_result(struct ferry_session *s, const char *op, int err);
/* The same for an op that was given s->stream: a sentence that it put there comes first. */
#define STREAM_OP(s, op, ...) op_stream_result((s), #op, (s)->ops.op((s)->vm, __VA_ARGS__))
int op_stream_result(struct ferry_session *s, const char *op, int err);
/* Make an empty set over all regions, with one bit for this many pages. -ENOMEM, with a sentence. */
int session_track(struct ferry_session *s, struct page_set *set, unsigned pages);

#endif
