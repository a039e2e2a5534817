/* SPDX-License-Identifier: MIT */
/* The session's current link. Main's, except for link_why(), link_transport_fail() and link_worker_lost(). */
#ifndef FERRY_LINK_CURRENT_H
#define FERRY_LINK_CURRENT_H

#include <errno.h>

#include "runtime/session/session.h"

/* The link is lost for good, and the session's error says why. (-EPIPE: it is lost, and may come back.) */
#define LINK_GONE (-ENOLINK)
#define LINK_RETRY_US 20000u /* pause before the next attempt to connect or accept */

/* xport_param.woken of the session's links. 0, or -ECANCELED if the migration was canceled. */
int link_woken(void *session);
/* The transport's sentence for err, or strerror() if it has none. Valid until the link is replaced. */
const char *link_why(struct ferry_session *s, int err);
/* " (ADDRESS)" of the current or the last link's peer, for sentences; "" if the transport has none. Main's. */
struct link_peer {
	char text[XPORT_PEER_MAX + 4];
};
struct link_peer link_peer(const struct ferry_session *s);
/* An error of the transport: -EPIPE if the link is lost; else it becomes the session's, with its sentence. */
int link_transport_fail(struct ferry_session *s, int err);
/*
 * For a phase that does not wait for a lost link: turns -EPIPE into LINK_GONE, or into a worker's own error
 * if there is one. Returns any other err unchanged.
 */
int link_lost(struct ferry_session *s, int err);
/* End the link: every blocked or later call on it returns -EPIPE. */
void link_kill(struct ferry_session *s);
/* Make l the session's link; NULL: it has none. */
void link_install(struct ferry_session *s, struct xport_link *l);
/* Wait for session_wake(), two pollable fds (-1: none) or the deadline. 1 if woken by session_wake(). */
int link_wait(struct ferry_session *s, int fd, int fd2, uint64_t deadline_us);
/*
 * Whether ferry_cancel() was called in time to end the migration or, after an abort, to end telling the peer.
 * Not once PREPARED was sent or the commit decided.
 */
bool link_canceled(struct ferry_session *s);
int link_cancel_error(struct ferry_session *s);

/* The workers' error so far: 0, -EPIPE (the link is lost), or this end's own, with its sentence recorded. */
int link_workers_failed(struct ferry_session *s);
/* Kill the link so that the workers leave, and join them. Returns their error. Works without workers, too. */
int link_workers_stop(struct ferry_session *s);
/*
 * Main has lost the link: kill it and join the workers. Returns a worker's own error if there is one, else
 * -EPIPE: no recovery is worth trying if this end has failed by itself.
 */
int link_workers_lost(struct ferry_session *s);
/* Called by a worker that has lost the link: kill it, so that main and the other workers notice. */
void link_worker_lost(struct ferry_session *s);

#endif
