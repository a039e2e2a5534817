// SPDX-License-Identifier: MIT
/* The gets of one channel; gets.h has the theory. */
#include <errno.h>

#include "gets.h"
#include "runtime/base/fail.h"

int xp_gets_check(const struct xp_gets *g, uint32_t tag, const char *transport, struct fail *f)
{
	if (xp_gets_full(g))
		return -EAGAIN;
	if (tag >= XPORT_GETS_MAX || g->used >> tag & 1)
		return fail(f, -EINVAL, "%s: get with tag %u, which is %s", transport, tag,
			    tag < XPORT_GETS_MAX ? "under way" : "too large");
	return 0;
}

void xp_gets_begin(struct xp_gets *g, uint32_t tag)
{
	g->used |= UINT64_C(1) << tag;
	g->ring[(g->head + g->ndone + g->inflight++) % XPORT_GETS_MAX] = tag;
}

void xp_gets_done(struct xp_gets *g)
{
	g->ndone++;
	g->inflight--;
}

int xp_gets_take(struct xp_gets *g, uint32_t *tags, unsigned max)
{
	unsigned n;

	for (n = 0; n < max && g->ndone; n++, g->ndone--) {
		tags[n] = g->ring[g->head];
		g->used &= ~(UINT64_C(1) << tags[n]);
		g->head = (g->head + 1) % XPORT_GETS_MAX;
	}
	return (int)n;
}
