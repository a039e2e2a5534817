// SPDX-License-Identifier: MIT
/* How a filter's objects are made and forward calls to the inner ones; filter.h has the theory. */
#include <errno.h>
#include <stdlib.h>

#include "filter.h"
#include "runtime/base/fail.h"

/* params begin with x, the filter's object; the variadic arguments are passed to the inner call. */
#define FORWARD(kind, ret, call, params, ...)                                    \
	static ret kind##_##call params                                          \
	{                                                                        \
		struct xport_##kind *inner = ((struct filter_##kind *)x)->inner; \
                                                                                 \
		return inner->ops->call(inner, ##__VA_ARGS__);                   \
	}
/* own: the filter's calls; ops: the table to fill. */
#define FILL(kind, call) (ops->call = !inner->ops->call ? NULL : own->call ? own->call : kind##_##call)

FORWARD(chan, int, send, (struct xport_chan * x, const struct iovec *iov, int n), iov, n)
FORWARD(chan, int, recv, (struct xport_chan * x, void *buf, size_t cap, size_t *len, uint64_t wait_us), buf,
	cap, len, wait_us)
FORWARD(chan, int, fd, (struct xport_chan * x))
FORWARD(chan, int, put, (struct xport_chan * x, const struct page_run *runs, unsigned n), runs, n)
FORWARD(chan, int, fence, (struct xport_chan * x))
FORWARD(chan, int, get,
	(struct xport_chan * x, const struct page_run *runs, void *const *dst, unsigned n, uint32_t tag),
	runs, dst, n, tag)
FORWARD(chan, int, reap, (struct xport_chan * x, uint32_t *tags, unsigned max, uint64_t wait_us), tags, max,
	wait_us)
FORWARD(chan, int, end, (struct xport_chan * x))
FORWARD(chan, int, serve, (struct xport_chan * x, void (*moved)(void *arg, uint64_t npages), void *arg),
	moved, arg)
FORWARD(chan, int, pair, (struct xport_chan * x, struct xport_chan *urgent),
	((struct filter_chan *)urgent)->inner)

FORWARD(link, int, expose,
	(struct xport_link * x, const struct xport_region *r, size_t n, enum xport_access access), r, n,
	access)
FORWARD(link, int, lend, (struct xport_link * x, const struct iovec *mem, size_t n), mem, n)
FORWARD(link, int, fits, (struct xport_link * x, uint64_t bytes), bytes)
FORWARD(link, void, kill, (struct xport_link * x))
#if FERRY_DRILL
static int link_tear(struct xport_link *x, const struct iovec *iov, int n)
{
	struct xport_link *inner = ((struct filter_link *)x)->inner;

	return xp_link_ops(inner)->tear(inner, iov, n);
}
#endif

FORWARD(listener, int, fd, (struct xport_listener * x))
FORWARD(listener, int, uri, (struct xport_listener * x, char *buf, size_t cap), buf, cap)
FORWARD(listener, void, only, (struct xport_listener * x, const struct xport_link_id *id), id)

static void listener_close(struct xport_listener *x)
{
	struct filter_listener *l = (struct filter_listener *)x;

	l->inner->ops->close(l->inner);
	free(l);
}

struct filter_listener *filter_listener_new(const struct filter *filter, struct xport_listener *inner,
					    struct fail *f)
{
	const struct xport_listener_ops *own = &filter->listener;
	struct filter_listener *l = calloc(1, filter->listener_size);
	struct xport_listener_ops *ops;

	if (!l) {
		inner->ops->close(inner);
		fail(f, -ENOMEM, "%s: no memory for a listener", filter->name);
		return NULL;
	}
	l->inner = inner;
	l->listener.ops = ops = &l->ops;
	ops->accept = own->accept;
	FILL(listener, fd);
	FILL(listener, uri);
	FILL(listener, only);
	FILL(listener, close);
	return l;
}

static struct xport_chan *link_chan(struct xport_link *x, enum xport_role role, unsigned index)
{
	struct filter_link *l = (struct filter_link *)x;
	size_t at = role == XPORT_CONTROL ? 0 : role == XPORT_URGENT ? 1 : 2 + (size_t)index;

	return at < 2 + x->id.channels ? (struct xport_chan *)(l->chans + at * l->filter->chan_size) : NULL;
}

static void chan_init(struct filter_link *l, enum xport_role role, unsigned index)
{
	struct xport_chan *inner = l->inner->ops->chan(l->inner, role, index);
	struct filter_chan *c = (struct filter_chan *)link_chan(&l->link, role, index);
	const struct xport_chan_ops *own = &l->filter->chan;
	struct xport_chan_ops *ops = &c->ops;

	c->inner = inner;
	c->chan.ops = ops;
	FILL(chan, send);
	FILL(chan, recv);
	FILL(chan, fd);
	FILL(chan, put);
	FILL(chan, fence);
	FILL(chan, get);
	FILL(chan, reap);
	FILL(chan, end);
	FILL(chan, serve);
	FILL(chan, pair);
	l->filter->chan_init(c, l, role);
}

void filter_link_close(struct xport_link *x)
{
	struct filter_link *l = (struct filter_link *)x;

	l->inner->ops->close(l->inner);
	free(l->chans);
	free(l);
}

struct filter_link *filter_link_new(const struct filter *filter, struct xport_link *inner, struct fail *f)
{
	const struct xport_link_ops *own = &filter->link;
	struct filter_link *l = calloc(1, filter->link_size);
	struct xport_link_ops *ops;
	unsigned i;

	if (l)
		l->chans = calloc(2 + inner->id.channels, filter->chan_size);
	if (!l || !l->chans) {
		free(l);
		inner->ops->close(inner);
		fail(f, -ENOMEM, "%s: no memory for a link", filter->name);
		return NULL;
	}
	l->filter = filter;
	l->inner = inner;
	l->link = *inner;
	l->link.ops = ops = &l->ops.ops;
	ops->chan = link_chan;
	FILL(link, expose);
	FILL(link, lend);
	FILL(link, fits);
	FILL(link, kill);
	ops->close = own->close ? own->close : filter_link_close;
#if FERRY_DRILL
	l->ops.tear = xp_link_ops(inner)->tear ? link_tear : NULL;
#endif
	chan_init(l, XPORT_CONTROL, 0);
	chan_init(l, XPORT_URGENT, 0);
	for (i = 0; i < inner->id.channels; i++)
		chan_init(l, XPORT_DATA, i);
	return l;
}
