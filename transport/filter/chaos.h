/* SPDX-License-Identifier: MIT */
/*
 * Internal header of the chaos filter, which injects faults. chaos_fault.c parses faults and decides when
 * they strike; chaos.c has the link, channels and listener that execute them.
 */
#ifndef FERRY_CHAOS_H
#define FERRY_CHAOS_H

#include <pthread.h>

#include "filter.h"

/* What happens to a message that is being sent. */
enum strike {
	STRIKE_NONE,
	STRIKE_CUT,   /* not sent */
	STRIKE_SHORT, /* only the first half is sent, as a whole message */
	STRIKE_CORRUPT,
	STRIKE_LOST, /* the message is lost, and all later traffic of the link too */
	STRIKE_TEAR, /* half is sent, then the connection breaks */
	STRIKE_CUT_AFTER,
	STRIKE_KILL,
	STRIKE_KILL_AFTER,
	STRIKE_STOP,
	STRIKE_STOP_AFTER,
};

struct chaos_link;

struct chaos {
	pthread_mutex_t lock; /* taken before any lock of an inner link */
	pthread_cond_t cond;
	uint64_t cut_until_us, stall_until_us, keep_until_us, mtu_until_us; /* 0: off */
	enum strike armed;
	bool striking;	  /* a fault that acts after the send has struck but not yet acted */
	unsigned type;	  /* type of the messages counted; 0: all */
	bool sent, heard; /* which messages count: those sent, those received */
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
	bool hole;   /* chaos lock; all traffic is lost silently */
	struct chaos_link *next, **prev;
};

bool chaos_is_cut(struct chaos *c);
/*
 * Count a message about to be sent; returns its fault. STRIKE_CUT, _KILL and _STOP have already acted;
 * STRIKE_LOST has made the link a hole.
 */
enum strike chaos_strike(struct chaos_link *l, const struct iovec *iov, int n);
/* Count a received message before the caller sees it. */
void chaos_heard(struct chaos *c, const void *msg, size_t len);
/* Act on the faults that follow a sent message. */
void chaos_after(struct chaos *c, enum strike what);
/*
 * Wait at most wait_us while a stall or a hole lasts; pages: also while "mtu" loses packets of full size.
 * Returns 0 if traffic flows, late if not, -EPIPE if the link was killed. Without a fault it costs one lock.
 */
int chaos_stalled(struct chaos_link *l, bool pages, uint64_t wait_us, int late);
bool chaos_is_hole(struct chaos_link *l);
/* Wait until a "keep" fault is over. */
void chaos_kept(struct chaos *c);

#endif
