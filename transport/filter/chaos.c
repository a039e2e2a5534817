// SPDX-License-Identifier: MIT
/* The links, channels and listeners of the chaos filter; chaos_fault.c lists the faults. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chaos.h"
#include "runtime/base/fail.h"

struct chaos_listener {
	struct filter_listener base;
	struct chaos *chaos;
	struct xport_param param;
};

static struct chaos_chan *chan_of(struct xport_chan *c)
{
	return (struct chaos_chan *)c;
}

static int moves(struct chaos_chan *c, bool pages)
{
	return chaos_stalled(c->link, pages, c->link->timeout_us, -ETIMEDOUT);
}

static int send_damaged(struct chaos_chan *c, const struct iovec *iov, int n, enum strike what)
{
	struct iovec one = { .iov_len = 0 };
	uint8_t *copy;
	int i, err;

	for (i = 0; i < n; i++) {
		if (iov[i].iov_len > XPORT_MSG_MAX - one.iov_len)
			return -EMSGSIZE;
		one.iov_len += iov[i].iov_len;
	}
	copy = malloc(one.iov_len + 1);
	if (!copy)
		return -ENOMEM;
	one.iov_base = copy;
	for (one.iov_len = 0, i = 0; i < n; one.iov_len += iov[i].iov_len, i++) {
		if (iov[i].iov_len)
			memcpy(copy + one.iov_len, iov[i].iov_base, iov[i].iov_len);
	}
	copy[one.iov_len / 2] ^= 0xff;
	if (what == STRIKE_SHORT)
		one.iov_len /= 2;
	err = c->base.inner->ops->send(c->base.inner, &one, 1);
	free(copy);
	return err;
}

static int chan_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	struct chaos_chan *c = chan_of(chan);
	struct xport_chan *inner = c->base.inner;
	int (*tear)(struct xport_link * l, const struct iovec *iov, int n);
	enum strike what;
	int err;

	if (chaos_is_hole(c->link))
		return 0;
	err = moves(c, false);
	if (err)
		return err;
	what = chaos_strike(c->link, iov, n);
	switch (what) {
	case STRIKE_CUT:
		return -EPIPE;
	case STRIKE_LOST:
		return 0;
	case STRIKE_SHORT:
	case STRIKE_CORRUPT:
		return send_damaged(c, iov, n, what);
	case STRIKE_TEAR:
		tear = xp_link_ops(c->link->base.inner)->tear;
		err = tear ? tear(c->link->base.inner, iov, n) : 0;
		chaos_after(c->link->chaos, what);
		return err ? err : -EPIPE;
	default:
		err = inner->ops->send(inner, iov, n);
		chaos_after(c->link->chaos, what);
		return err;
	}
}

/* Discard what arrives; otherwise a caller that polls the descriptor would spin. */
static int hole_recv(struct chaos_chan *c, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	uint64_t now = now_us(), end = deadline_after(now, wait_us);
	int err;

	do {
		err = c->base.inner->ops->recv(c->base.inner, buf, cap, len, end > now ? end - now : 0);
		now = now_us();
	} while (!err);
	return err;
}

static int chan_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct chaos_chan *c = chan_of(chan);
	int err;

	if (chaos_is_hole(c->link))
		return hole_recv(c, buf, cap, len, wait_us);
	err = chaos_stalled(c->link, false, wait_us, -EAGAIN);
	if (!err)
		err = c->base.inner->ops->recv(c->base.inner, buf, cap, len, wait_us);
	if (!err)
		chaos_heard(c->link->chaos, buf, *len);
	return err;
}

static int chan_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c, true);

	return err ? err : c->base.inner->ops->put(c->base.inner, runs, n);
}

static int chan_fence(struct xport_chan *chan)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c, true);

	return err ? err : c->base.inner->ops->fence(c->base.inner);
}

static int chan_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c, true);

	return err ? err : c->base.inner->ops->get(c->base.inner, runs, dst, n, tag);
}

static int chan_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct chaos_chan *c = chan_of(chan);
	int err;

	if (chaos_is_hole(c->link))
		c->base.inner->ops->reap(c->base.inner, tags, max, 0); /* discard completed gets */
	err = chaos_stalled(c->link, true, wait_us, -EAGAIN);
	return err ? err : c->base.inner->ops->reap(c->base.inner, tags, max, wait_us);
}

static int chan_end(struct xport_chan *chan)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c, false); /* a small packet */

	return err ? err : c->base.inner->ops->end(c->base.inner);
}

struct serving {
	struct chaos_chan *chan;
	void (*moved)(void *arg, uint64_t npages);
	void *arg;
};

static void served(void *arg, uint64_t npages)
{
	struct serving *s = arg;

	if (s->moved)
		s->moved(s->arg, npages);
	chaos_stalled(s->chan->link, true, UINT64_MAX, 0); /* if killed, serve() will notice */
}

static int chan_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct chaos_chan *c = chan_of(chan);
	struct serving s = { .chan = c, .moved = moved, .arg = arg };
	int err = chaos_stalled(c->link, true, UINT64_MAX, 0);

	return err ? err : c->base.inner->ops->serve(c->base.inner, served, &s);
}

static void link_kill(struct xport_link *xl)
{
	struct chaos_link *l = (struct chaos_link *)xl;

	l->base.inner->ops->kill(l->base.inner);
	pthread_mutex_lock(&l->chaos->lock);
	l->killed = true;
	pthread_cond_broadcast(&l->chaos->cond);
	pthread_mutex_unlock(&l->chaos->lock);
}

static void link_close(struct xport_link *xl)
{
	struct chaos_link *l = (struct chaos_link *)xl;

	chaos_kept(l->chaos);
	pthread_mutex_lock(&l->chaos->lock);
	*l->prev = l->next;
	if (l->next)
		l->next->prev = l->prev;
	pthread_mutex_unlock(&l->chaos->lock);
	filter_link_close(xl);
}

static int listener_accept(struct xport_listener *xl, struct xport_link **ret, struct fail *f)
{
	struct chaos_listener *l = (struct chaos_listener *)xl;
	struct xport_link *inner;
	int err;

	for (;;) {
		err = l->base.inner->ops->accept(l->base.inner, &inner, f);
		if (err)
			return err;
		if (!chaos_is_cut(l->chaos))
			return chaos_link(ret, inner, l->chaos, &l->param, f);
		inner->ops->kill(inner); /* no connection gets through a cut */
		inner->ops->close(inner);
	}
}

static void chan_init(struct filter_chan *base, struct filter_link *l, enum xport_role role)
{
	(void)role;
	chan_of(&base->chan)->link = (struct chaos_link *)l;
}

static const struct filter chaos = {
	.name = "chaos",
	.listener_size = sizeof(struct chaos_listener),
	.link_size = sizeof(struct chaos_link),
	.chan_size = sizeof(struct chaos_chan),
	.listener = { .accept = listener_accept },
	.link = { .kill = link_kill, .close = link_close },
	.chan = {
		.send = chan_send,
		.recv = chan_recv,
		.put = chan_put,
		.fence = chan_fence,
		.get = chan_get,
		.reap = chan_reap,
		.end = chan_end,
		.serve = chan_serve,
	},
	.chan_init = chan_init,
};

int chaos_link(struct xport_link **ret, struct xport_link *inner, struct chaos *c,
	       const struct xport_param *p, struct fail *f)
{
	struct chaos_link *l = (struct chaos_link *)filter_link_new(&chaos, inner, f);

	if (!l)
		return -ENOMEM;
	l->chaos = c;
	l->timeout_us = p->timeout_us;
	pthread_mutex_lock(&c->lock);
	l->killed = c->cut_until_us > now_us(); /* the cut came while the link was made */
	if (l->killed)
		inner->ops->kill(inner);
	l->prev = &c->links;
	l->next = c->links;
	if (l->next)
		l->next->prev = &l->next;
	c->links = l;
	pthread_mutex_unlock(&c->lock);
	*ret = &l->base.link;
	return 0;
}

int chaos_listener(struct xport_listener **ret, struct xport_listener *inner, struct chaos *c,
		   const struct xport_param *p, struct fail *f)
{
	struct chaos_listener *l = (struct chaos_listener *)filter_listener_new(&chaos, inner, f);

	if (!l)
		return -ENOMEM;
	l->chaos = c;
	l->param = *p;
	*ret = &l->base.listener;
	return 0;
}
