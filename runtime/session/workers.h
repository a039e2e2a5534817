/* SPDX-License-Identifier: MIT */
/*
 * Workers: threads that do one job in parallel while main listens to the peer.
 *
 * Main starts and joins them, and is woken when one ends. A worker that loses the link kills it, so that the
 * others leave, too. A worker that fails for a reason of this end's own (no memory, an unreadable page) does
 * not touch the link: main must first tell the peer why, on the control channel. Then main kills the link
 * (link_workers_stop()).
 */
#ifndef FERRY_WORKERS_H
#define FERRY_WORKERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define WORKERS_MAX 17u /* one per data channel, and a spare one */

struct fail;
struct ferry_session;

struct workers {
	struct ferry_session *s;		/* the argument of the three callbacks */
	void (*lost)(struct ferry_session *s);	/* by a worker whose job returned -EPIPE or -ETIMEDOUT */
	void (*ended)(struct ferry_session *s); /* by each worker, last */
	int (*job)(struct ferry_session *s, unsigned i);
	struct worker {
		struct workers *workers;
		unsigned i;
		pthread_t thread;
	} worker[WORKERS_MAX];
	unsigned n; /* started, not joined */
	_Atomic unsigned running;
	_Atomic int err; /* the first one, but any other replaces -EPIPE (link lost) */
};

/*
 * Start n workers. -EAGAIN, with a sentence, if the system has no thread to give; those that run already go
 * on until they are stopped, as after a worker's failure, so that the peer is told first.
 */
int workers_start(struct workers *w, int (*job)(struct ferry_session *s, unsigned i), unsigned n,
		  struct fail *f);
static inline bool workers_busy(const struct workers *w)
{
	return atomic_load(&w->running) > 0;
}
/* The workers' error so far: 0, -EPIPE (the link is lost), or this end's own. */
int workers_err(const struct workers *w);
/* Wait until all of them have ended by themselves. Returns their error, and resets it. */
int workers_join(struct workers *w);

#endif
