/* SPDX-License-Identifier: MIT */
/* The link that a session has now. Main calls these, but link_worker_lost(). */
#ifndef FERRY_LINK_CURRENT_H
#define FERRY_LINK_CURRENT_H

#include <errno.h>

#include "runtime/session/session.h"

/* The link is gone for good, which the session's error says in a sentence. -EPIPE: it is lost, and may come back. */
#define LINK_GONE (-ENOLINK)
#define LINK_RETRY_US 20000u /* until another attempt at what this host or the network could not do */

/* The param.woken of the session's links. */
int link_woken(void *session);
/* What the transport said of err, else the errno's own words. Valid while the link is not replaced. */
const char *link_why(struct ferry_session *s, int err);
/* An error of the transport's: -EPIPE where the link is lost, else it is the session's, with its sentence. */
int link_transport_fail(struct ferry_session *s, int err);
/* Where a lost link (-EPIPE) is not waited for: LINK_GONE, or a worker's own error, which counts more. Else err. */
int link_lost(struct ferry_session *s, int err);
/* The link is of no use any more: wakes everyone blocked on it. */
void link_kill(struct ferry_session *s);
/* l becomes the session's link; NULL: it has none. */
void link_install(struct ferry_session *s, struct xport_link *l);
/* Waits for one of the session's own wake-ups, two pollable fds (-1: none), or the deadline: 1 when woken. */
int link_wait(struct ferry_session *s, int fd, int fd2, uint64_t deadline_us);
/* A cancel ends the migration while it may; once it is given up, another one ends the wait for telling the peer. */
bool link_canceled(struct ferry_session *s);
int link_cancel_error(struct ferry_session *s);

/* What the workers came to so far: 0, -EPIPE (the link is lost), or this end's own error, with its sentence recorded. */
int link_workers_failed(struct ferry_session *s);
/* Kills the link, so that they leave, and waits for that; what they came to. Without workers it kills the link. */
int link_workers_stop(struct ferry_session *s);
/* Main has lost the link: as link_workers_stop(), but -EPIPE, or an error of a worker's own, which counts more. */
int link_workers_lost(struct ferry_session *s);
/* A worker has lost the link: so have the others. */
void link_worker_lost(struct ferry_session *s);

#endif
