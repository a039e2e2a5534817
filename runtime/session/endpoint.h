/* SPDX-License-Identifier: MIT */
/*
 * What both ends do in the same way: expose memory to the peer, serve its puts or gets, wait for its next
 * message, and recover a lost link. Called by main, except endpoint_serve().
 *
 * Only -EPIPE, a lost link, is handled here. After any other error nothing is torn down: the peer must first
 * be told why, over this link (link_say_failed()).
 */
#ifndef FERRY_ENDPOINT_H
#define FERRY_ENDPOINT_H

#include "session.h"

/* The body of the phase pre-migration: the first connection. */
int endpoint_pre_migration(struct ferry_session *s, enum ferry_phase *next);

/*
 * Expose all regions. A target exposes only what the source may write: it puts nothing itself, so with
 * XPORT_LOCAL the transport knows none of its memory.
 */
int endpoint_expose(struct ferry_session *s, enum xport_access access);
/* Pass on the result of expose() or lend(). An error that is not -EPIPE becomes the session's. */
int endpoint_exposed(struct ferry_session *s, int err);

/* A worker's job: serve the peer on data channel i until its end(), and count the pages that move. */
int endpoint_serve(struct ferry_session *s, unsigned i);

/*
 * Main has got -EPIPE. lost() stops the workers and returns their error, as link_workers_lost() does;
 * anything but -EPIPE is final. Then the link is recovered, and recovered(), if not NULL, sets up the new
 * one. -EPIPE: that was lost, too.
 */
int endpoint_recover(struct ferry_session *s, int (*lost)(struct ferry_session *s),
		     int (*recovered)(struct ferry_session *s));
/*
 * As link_recv(), but also checks the workers and recovers a lost link, which returns 0. If the new link is
 * lost at once, the next call finds that.
 */
int endpoint_message(struct ferry_session *s, struct wire_msg *m, uint64_t deadline_us,
		     int (*lost)(struct ferry_session *s), int (*recovered)(struct ferry_session *s));

#endif
