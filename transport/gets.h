/* SPDX-License-Identifier: MIT */
/*
 * The gets of one channel: which tags are in use, and the order in which they were begun. In every transport gets complete
 * in that order, so one ring holds those whose data is here, and behind them those in flight. A tag is in use until it
 * is taken.
 */
#ifndef FERRY_GETS_H
#define FERRY_GETS_H

#include "xport.h"

struct xp_gets {
	uint64_t used; /* a bit a tag */
	uint32_t ring[XPORT_GETS_MAX];
	unsigned head, ndone, inflight;
};
_Static_assert(XPORT_GETS_MAX == 64, "a bit a tag");

/* The i-th tag in the ring: from 0 those that are done, from ndone those in flight. */
static inline uint32_t xp_gets_at(const struct xp_gets *g, unsigned i)
{
	return g->ring[(g->head + i) % XPORT_GETS_MAX];
}

static inline bool xp_gets_full(const struct xp_gets *g)
{
	return g->ndone + g->inflight == XPORT_GETS_MAX;
}

/* Whether a get with this tag can begin: 0, -EAGAIN if full, or -EINVAL with a sentence that names the transport. */
int xp_gets_check(const struct xp_gets *g, uint32_t tag, const char *transport, struct fail *f);
/* After xp_gets_check(). */
void xp_gets_begin(struct xp_gets *g, uint32_t tag);
/* The data of the oldest get in flight is here. */
void xp_gets_done(struct xp_gets *g);
/* At most max tags of gets that are done: how many. */
int xp_gets_take(struct xp_gets *g, uint32_t *tags, unsigned max);

#endif
