/* SPDX-License-Identifier: MIT */
/*
 * The lobby of a target: connections whose first message has not arrived yet.
 *
 * Anybody can connect, so main must not wait for a connection that says nothing. Several wait here at once,
 * each for a limited time, and a link leaves the lobby with its first message. An unwanted link is closed by
 * its own thread, because a device may take long over it. Called by main only.
 */
#ifndef FERRY_LOBBY_H
#define FERRY_LOBBY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "runtime/base/fail.h"
#include "transport/xport.h"

#define CALLER_MSG_MAX 512u /* longer than every message that may come first */

struct lobby;

struct caller {
	struct caller *next;
	struct lobby *lobby;
	struct xport_link *link;
	struct fail fail;  /* the link's errors; as long-lived as the link */
	uint64_t until_us; /* deadline for its first message */
	uint32_t asides;   /* PINGs that came before its first message, which is in msg */
	size_t len;
	uint8_t msg[CALLER_MSG_MAX];
	pthread_t closer;
	bool refused; /* the closer tells it that this end is busy */
	_Atomic bool closed;
};

/*
 * patience_us: how long a caller may be mute. The threads that close links call wake(arg) when they are done.
 * On success the lobby owns the listener.
 */
int lobby_new(struct lobby **ret, struct xport_listener *listener, uint64_t patience_us,
	      void (*wake)(void *arg), void *arg, struct fail *f);
/* Readable when lobby_next() may have something to do. It also has at lobby_until(), based on now_us(). */
int lobby_fd(const struct lobby *l);
uint64_t lobby_until(const struct lobby *l);
/* 0: *ret has spoken; it is the session's now. -EAGAIN: nobody has. Else why the listener cannot accept. */
int lobby_next(struct lobby *l, struct caller **ret, struct fail *f);
/* The listener's only(); callers that are in the lobby stay. */
void lobby_only(struct lobby *l, const struct xport_link_id *id);
/* Close the caller's link and free the caller. Main waits for neither, unless no thread can be started. */
void lobby_part(struct caller *c);
/* The same, but first tell it that this end is busy. */
void lobby_refuse(struct caller *c);
/* Free a caller whose link is closed; NULL is fine. */
void caller_free(struct caller *c);
/* Close all callers and the listener. May be called twice. */
void lobby_close(struct lobby *l);
/* Wait until all links are closed, and free the lobby. NULL is fine. */
void lobby_free(struct lobby *l);

#endif
