/* SPDX-License-Identifier: MIT */
/*
 * The lobby of a target: whoever has connected and has not spoken yet.
 *
 * Anybody may connect. So a link leaves the lobby when its first message is there, and main never waits for a link that is
 * mute: several wait here at once, each for a limited time, and the next one in line is heard meanwhile. A link that is
 * not wanted is closed by a thread of its own, because a device may take its time over it. All calls are main's.
 */
#ifndef FERRY_LOBBY_H
#define FERRY_LOBBY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "runtime/base/fail.h"
#include "transport/xport.h"

#define CALLER_MSG_MAX 512u /* a HELLO is shorter, and so is what may be sent in its place */

struct lobby;

struct caller {
	struct caller *next;
	struct lobby *lobby;
	struct xport_link *link;
	struct fail fail;  /* the link's own: it lives as long as the link */
	uint64_t until_us; /* it is to have spoken */
	uint32_t asides;   /* came before its first message, which is in msg */
	size_t len;
	uint8_t msg[CALLER_MSG_MAX];
	pthread_t closer;
	bool refused; /* is to hear that this end is busy, before its link is closed */
	_Atomic bool closed;
};

/* A caller may be mute for patience_us. wake is called by the threads that close links, when they are done. */
int lobby_new(struct lobby **ret, struct xport_listener *listener, uint64_t patience_us, void (*wake)(void *arg), void *arg,
	      struct fail *f);
/* Readable when lobby_next() may have something to do; it has at lobby_until(), too. */
int lobby_fd(const struct lobby *l);
uint64_t lobby_until(const struct lobby *l);
/* Who has spoken: 0, and the caller is the session's. -EAGAIN: nobody yet. Else what keeps the listener from accepting. */
int lobby_next(struct lobby *l, struct caller **ret, struct fail *f);
/* As the listener's only(): those who are in the lobby stay. */
void lobby_only(struct lobby *l, const struct xport_link_id *id);
/* Closes the caller's link and frees the caller, neither of which main waits for. */
void lobby_part(struct caller *c);
/* The same, and says that this end is busy. */
void lobby_refuse(struct caller *c);
/* One whose link is closed. */
void caller_free(struct caller *c);
/* Parts with all who are still here, and listens no more. May be called twice. */
void lobby_close(struct lobby *l);
/* Waits until all links are closed, and frees the lobby. */
void lobby_free(struct lobby *l);

#endif
