/* SPDX-License-Identifier: MIT */
/*
 * A crew: threads that do one job side by side while main goes on listening to the peer.
 * Started and joined by main; a worker's error is kept (the first counts), and main is woken when any ends.
 */
#ifndef FERRY_CREW_H
#define FERRY_CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "../transport/xport.h"

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

/* -EAGAIN and a sentence when the system has no thread to give; then none runs. */
int crew_start(struct crew *c, struct ferry_session *s, int (*job)(struct ferry_session *s, unsigned i), unsigned n);
static inline bool crew_busy(const struct crew *c)
{
	return atomic_load(&c->running) > 0;
}
static inline int crew_err(const struct crew *c)
{
	return atomic_load(&c->err);
}
/* Waits for all of them; what they came to. Kill the link first to make them leave early. */
int crew_join(struct crew *c);

#endif
