/* SPDX-License-Identifier: MIT */
/*
 * Inside the chaos filter: chaos_fault.c has what is asked of it and when it strikes, chaos.c the link, its
 * channels and the listener that obey.
 */
#ifndef FERRY_CHAOS_H
#define FERRY_CHAOS_H

#include <pthread.h>

#include "filter.h"

/* What is to be done to a message that is being sent. */
enum strike {
	STRIKE_NONE,
	STRIKE_CUT,	/* not sent */
	STRIKE_SHORT,	/* the first half, as if it were all */
	STRIKE_CORRUPT,
	STRIKE_LOST,	/* it vanishes, and the link with it */
	STRIKE_TEAR,	/* the connection breaks in its middle */
	STRIKE_CUT_AFTER,
	STRIKE_KILL,
	STRIKE_KILL_AFTER,
	STRIKE_STOP,
	STRIKE_STOP_AFTER,
};

struct chaos_link;

struct chaos {
	pthread_mutex_t lock; /* before any lock of a link below */
	pthread_cond_t cond;
	uint64_t cut_until_us, stall_until_us, keep_until_us, mtu_until_us; /* 0: not */
	enum strike armed;
	bool striking; /* what was armed is out, and its second half is due */
	unsigned type; /* of the messages that count; 0: all */
	bool sent, heard; /* which count: those that are to be sent, those that have arrived */
	uint64_t countdown, armed_ms;
	unsigned (*type_of)(const void *msg, size_t len);
	struct chaos_link *links;
};

struct chaos_chan {
	struct filter_chan base;
	struct chaos_link *link;
};

struct chaos_link {
	struct filter_link base;
	struct chaos *chaos;
	uint64_t timeout_us;
	bool killed; /* chaos lock */
	bool hole;   /* chaos lock; nothing gets through, and nobody is told */
	struct chaos_link *next, **prev;
};

bool chaos_is_cut(struct chaos *c);
/* Counts a message; what is to be done to it. A cut before it has been done, a loss has made the link a hole. */
enum strike chaos_strike(struct chaos_link *l, const struct iovec *iov, int n);
/* A message has arrived, and nobody knows of it yet. */
void chaos_heard(struct chaos *c, const void *msg, size_t len);
/* The message is out: what has to follow it. */
void chaos_after(struct chaos *c, enum strike what);
/*
 * Waits out a stall or a hole, and what moves pages a path that does not carry them, at most wait_us: 0; late: it goes on, or
 * the link was killed meanwhile: -EPIPE. Without any of them it is one lock.
 */
int chaos_stalled(struct chaos_link *l, bool pages, uint64_t wait_us, int late);
bool chaos_is_hole(struct chaos_link *l);
/* Waits out a keep. */
void chaos_kept(struct chaos *c);

#endif
