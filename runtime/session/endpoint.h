/* SPDX-License-Identifier: MIT */
/*
 * What both ends do with their peer in the same way: expose memory to it, serve its puts or gets, wait for its next message,
 * and recover a lost link. All calls are main's, but endpoint_serve().
 *
 * Only -EPIPE, a lost link, is dealt with here. After any other error nothing is torn down: the peer must first be told why,
 * over this link (link_say_failed()).
 */
#ifndef FERRY_ENDPOINT_H
#define FERRY_ENDPOINT_H

#include "session.h"

/* The phase in which the ends meet. */
int endpoint_pre_migration(struct ferry_session *s, enum ferry_phase *next);

/*
 * Exposes all regions. A target exposes only what the source may write to: it puts nothing, and with XPORT_LOCAL the transport
 * knows none of its memory.
 */
int endpoint_expose(struct ferry_session *s, enum xport_access access);
/* What expose or lend came to; the session's error when it is not -EPIPE. */
int endpoint_exposed(struct ferry_session *s, int err);

/* A worker's job: does what the peer asks on data channel i until the peer's end(), and counts the pages that move. */
int endpoint_serve(struct ferry_session *s, unsigned i);

/*
 * Main has met -EPIPE. lost() stops the workers, as link_workers_lost() does, and returns what that does: anything but -EPIPE is
 * final. Then the link is recovered, and recovered(), if not NULL, sets up the new one. -EPIPE: that was lost, too.
 */
int endpoint_recover(struct ferry_session *s, int (*lost)(struct ferry_session *s), int (*recovered)(struct ferry_session *s));
/*
 * As link_recv(), and looks at the workers, too. A lost link is recovered: 0; where it was lost once more the next call finds
 * that.
 */
int endpoint_message(struct ferry_session *s, struct wire_msg *m, uint64_t deadline_us, int (*lost)(struct ferry_session *s),
		     int (*recovered)(struct ferry_session *s));

#endif
