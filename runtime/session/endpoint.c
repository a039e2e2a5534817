// SPDX-License-Identifier: MIT
/* What both ends do in the same way: expose memory, serve, receive messages, recover a lost link. */
#include <errno.h>
#include <stdlib.h>

#include "endpoint.h"
#include "runtime/link/link.h"
#include "runtime/memory/mapping.h"

int endpoint_pre_migration(struct ferry_session *s, enum ferry_phase *next)
{
	*next = FERRY_PHASE_RESERVATION;
	return link_first(s);
}

int endpoint_exposed(struct ferry_session *s, int err)
{
	if (err < 0 && err != -EPIPE)
		fail(&s->fail, err, "guest memory cannot be offered to the transport: %s", link_why(s, err));
	return err;
}

int endpoint_expose(struct ferry_session *s, enum xport_access access)
{
	struct xport_region *r = calloc(s->nregions, sizeof(*r));
	int err = -ENOMEM;

	for (size_t i = 0; r && i < s->nregions; i++)
		r[i] = (struct xport_region){
			.id = s->regions[i].id,
			.npages = s->regions[i].len >> PAGE_SHIFT,
			.gpa = s->regions[i].gpa,
			.base = s->is_source ? s->regions[i].hva
				: access     ? place_landing(&s->tgt.place, (uint32_t)i)
					     : NULL,
			.lander = access && !s->is_source && place_by_kernel(&s->tgt.place, (uint32_t)i)
					  ? &s->tgt.lander
					  : NULL
		};
	if (r)
		err = s->link.x->ops->expose(s->link.x, r, s->nregions, access);
	for (size_t i = 0; (err == -EFAULT || err == -EHWPOISON) && i < s->nregions && r[i].base; i++)
		err = mapping_unreachable(&s->regions[i], r[i].base, !s->is_source, err, &s->fail);
	free(r);
	return endpoint_exposed(s, err);
}

static void moved(void *arg, uint64_t npages)
{
	struct ferry_session *s = arg;

	count(&s->stats.bytes, npages << PAGE_SHIFT);
	count(&s->stats.pages, npages);
}

int endpoint_serve(struct ferry_session *s, unsigned i)
{
	struct xport_chan *c = s->link.x->ops->chan(s->link.x, XPORT_DATA, i);

	return c->ops->serve(c, moved, s);
}

int endpoint_recover(struct ferry_session *s, int (*lost)(struct ferry_session *s),
		     int (*recovered)(struct ferry_session *s))
{
	int err = lost(s);

	if (err != -EPIPE)
		return err;
	err = link_recover(s);
	return err < 0 || !recovered ? err : recovered(s);
}

int endpoint_message(struct ferry_session *s, struct wire_msg *m, uint64_t deadline_us,
		     int (*lost)(struct ferry_session *s), int (*recovered)(struct ferry_session *s))
{
	int err = link_recv(s, m, deadline_us);

	if (!err)
		err = link_workers_failed(s);
	if (err != -EPIPE)
		return err;
	err = endpoint_recover(s, lost, recovered);
	return err == -EPIPE ? 0 : err;
}
