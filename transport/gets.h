/* SPDX-License-Identifier: MIT */
/*
 * The gets of one channel: the tags in use, and the order in which they were begun. In every transport gets
 * complete in that order, so one ring holds the completed ones, followed by those in flight. A tag is in use
 * until xp_gets_take() returns it.
 */
#ifndef FERRY_GETS_H
#define FERRY_GETS_H

#include "xport.h"

struct xp_gets {
	uint64_t used; /* one bit per tag */
	uint32_t ring[XPORT_GETS_MAX];
	unsigned head, ndone, inflight;
};
_Static_assert(XPORT_GETS_MAX == 64, "a bit a tag");

/* The i-th tag in the ring: completed ones from 0, those in flight from ndone. */
static inline uint32_t xp_gets_at(const struct xp_gets *g, unsigned i)
{
	return g->ring[(g->head + i) % XPORT_GETS_MAX];
}

static inline bool xp_gets_full(const struct xp_gets *g)
{
	return g->ndone + g->inflight == XPORT_GETS_MAX;
}

/* 0 if a get with this tag can begin, -EAGAIN if the ring is full, else -EINVAL with a sentence. */
int xp_gets_check(const struct xp_gets *g, uint32_t tag, const char *transport, struct fail *f);
/* Record a new get; call xp_gets_check() before. */
void xp_gets_begin(struct xp_gets *g, uint32_t tag);
/* The oldest get in flight has completed. */
void xp_gets_done(struct xp_gets *g);
/* Take at most max tags of completed gets; returns how many. */
int xp_gets_take(struct xp_gets *g, uint32_t *tags, unsigned max);

#endif
