/* SPDX-License-Identifier: MIT */
/*
 * A crew: threads that do one job side by side while main goes on listening to the peer.
 *
 * Main starts and joins them, and is woken when any ends. A worker that loses the link kills it, so that the others
 * leave too. A worker that fails for a reason of this end's own (no memory, a page that cannot be read) leaves the
 * link as it is: main must first tell the peer why, on the control channel. Then main kills the link.
 */
#ifndef FERRY_CREW_H
#define FERRY_CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "transport/xport.h"

#define CREW_MAX (XPORT_CHANNELS_MAX + 1)

struct ferry_session;

struct crew {
	struct ferry_session *s;
	int (*job)(struct ferry_session *s, unsigned i);
	struct crew_worker {
		struct crew *crew;
		unsigned i;
		pthread_t thread;
	} worker[CREW_MAX];
	unsigned n; /* started, not joined */
	_Atomic unsigned running;
	_Atomic int err; /* the first; -EPIPE (link lost) gives way to anything worse */
};

/* A thread of the library's own: all signals blocked, they belong to the embedder's (vCPU kicks, SIGINT). 0 or -EAGAIN. */
int thread_start(pthread_t *t, void *(*body)(void *arg), void *arg);

/*
 * -EAGAIN and a sentence when the system has no thread to give. Those that were started run until crew_stop(), as
 * after a worker's failure: the peer is told first.
 */
int crew_start(struct crew *c, struct ferry_session *s, int (*job)(struct ferry_session *s, unsigned i), unsigned n);
static inline bool crew_busy(const struct crew *c)
{
	return atomic_load(&c->running) > 0;
}
/* What the workers came to so far: 0, -EPIPE (the link is lost), or this end's own error, with its sentence recorded. */
int crew_failed(struct crew *c);
/* Waits for all of them to end by themselves; what they came to. */
int crew_join(struct crew *c);
/* Kills the link, so that they leave, and waits for that; what they came to. Without a crew it kills the link. */
int crew_stop(struct ferry_session *s);
/* Main has lost the link: as crew_stop(), but -EPIPE, or an error of a worker's own, which counts more. */
int crew_lost(struct ferry_session *s);

#endif
