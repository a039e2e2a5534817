/* SPDX-License-Identifier: MIT */
/*
 * Workers: threads that do one job side by side while main goes on listening to the peer.
 *
 * Main starts and joins them, and is woken when any ends. A worker that loses the link kills it, so that the others
 * leave too. A worker that fails for a reason of this end's own (no memory, a page that cannot be read) leaves the
 * link as it is: main must first tell the peer why, on the control channel. Then main kills the link: link_workers_stop().
 */
#ifndef FERRY_WORKERS_H
#define FERRY_WORKERS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define WORKERS_MAX 17u /* one a data channel, and one more */

struct fail;
struct ferry_session;

struct workers {
	struct ferry_session *s; /* what job and the two below are given */
	void (*lost)(struct ferry_session *s);	/* by a worker whose job has come to -EPIPE */
	void (*ended)(struct ferry_session *s); /* by each, last */
	int (*job)(struct ferry_session *s, unsigned i);
	struct worker {
		struct workers *workers;
		unsigned i;
		pthread_t thread;
	} worker[WORKERS_MAX];
	unsigned n; /* started, not joined */
	_Atomic unsigned running;
	_Atomic int err; /* the first; -EPIPE (link lost) gives way to anything worse */
};

/*
 * -EAGAIN and a sentence when the system has no thread to give. Those that were started run until they are stopped, as
 * after a worker's failure: the peer is told first.
 */
int workers_start(struct workers *w, int (*job)(struct ferry_session *s, unsigned i), unsigned n, struct fail *f);
static inline bool workers_busy(const struct workers *w)
{
	return atomic_load(&w->running) > 0;
}
/* What the workers came to so far: 0, -EPIPE (the link is lost), or this end's own error. */
int workers_err(const struct workers *w);
/* Waits for all of them to end by themselves; what they came to. */
int workers_join(struct workers *w);

#endif
