// SPDX-License-Identifier: MIT
/*
 * shape: a filter that slows a link down. Production uses it as the rate limit, the bench as a slow link.
 *
 * Bandwidth. One token bucket per link, in bytes of page data, for all its channels. An end pays for what its
 * own calls move: for put and get before they start, for serve() after each transfer. Data channels wait
 * until earlier charges are paid; the urgent channel pays but never waits, so a fault is served at once and
 * slows the background fetch instead. The pull keeps to the limit by itself, so get and serve() wait only for
 * debt above PACE_AHEAD_US (runtime/base/pace.h explains why). A fence returns only when all earlier puts are
 * paid. So a round takes as long as its data costs, and no debt is left to the downtime.
 *
 * Latency, one way. A message is sent that much later; a fence, and a get from start to completion, take at
 * least twice as long. With latency, fd() of the data channels is -1: a reply that has arrived may not be due
 * yet, so poll() on the inner fd would be wrong.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "filter.h"
#include "runtime/base/fail.h"
#include "runtime/base/pace.h"
#include "transport/gets.h"

struct shape_link;

struct shape_chan {
	struct filter_chan base;
	struct shape_link *link;
	enum xport_role role;
	uint64_t due_us[XPORT_GETS_MAX];
	struct xp_gets gets; /* done: completed by the inner link, not yet returned by reap */
};

struct shape_link {
	struct filter_link base;
	struct shape_param param;
	struct xp_table table; /* for page sizes */
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool killed; /* lock */
	struct pace pace;
};

struct shape_listener {
	struct filter_listener base;
	struct shape_param param;
};

static struct shape_chan *chan_of(struct xport_chan *c)
{
	return (struct shape_chan *)c;
}

/* Wait until end_us: 0, or -EPIPE if the link is killed before. */
static int wait_until(struct shape_link *l, uint64_t end_us)
{
	struct timespec ts = xp_timespec(end_us);
	bool killed;

	pthread_mutex_lock(&l->lock);
	while (!l->killed && now_us() < end_us)
		pthread_cond_timedwait(&l->cond, &l->lock, &ts);
	killed = l->killed;
	pthread_mutex_unlock(&l->lock);
	return killed ? -EPIPE : 0;
}

/* Charge bytes; wait until the earlier debt is at most slack_us. */
static int pay(struct shape_chan *c, uint64_t bytes, uint64_t slack_us)
{
	struct shape_link *l = c->link;
	uint64_t paid = pace_charge(&l->pace, bytes); /* at most XPORT_XFER_MAX */

	return c->role == XPORT_URGENT || paid <= now_us() + slack_us ? 0 : wait_until(l, paid - slack_us);
}

static uint64_t bytes_of(struct shape_link *l, const struct page_run *runs, unsigned n)
{
	uint64_t bytes = 0;
	char why[XP_WHY_MAX];

	return xp_runs_check(&l->table, runs, n, false, &bytes, why) ? 0 : bytes; /* inner refuses these */
}

static int chan_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	struct shape_chan *c = chan_of(chan);
	int err = 0;

	if (c->link->param.latency_us)
		err = wait_until(c->link, now_us() + c->link->param.latency_us);
	return err ? err : c->base.inner->ops->send(c->base.inner, iov, n);
}

static int chan_fd(struct xport_chan *chan)
{
	struct shape_chan *c = chan_of(chan);

	if (c->role != XPORT_CONTROL && c->link->param.latency_us)
		return -1;
	return c->base.inner->ops->fd(c->base.inner);
}

static int chan_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct shape_chan *c = chan_of(chan);
	int err = pay(c, bytes_of(c->link, runs, n), 0);

	return err ? err : c->base.inner->ops->put(c->base.inner, runs, n);
}

static int chan_fence(struct xport_chan *chan)
{
	struct shape_chan *c = chan_of(chan);
	struct shape_link *l = c->link;
	uint64_t end = now_us() + 2 * l->param.latency_us, paid;
	int err = c->base.inner->ops->fence(c->base.inner);

	if (err || (!l->param.latency_us && !l->param.bandwidth))
		return err;
	paid = pace_paid(&l->pace);
	return wait_until(l, paid > end ? paid : end);
}

static int chan_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct shape_chan *c = chan_of(chan);
	int err = xp_gets_check(&c->gets, tag, "shape", c->link->base.link.fail);

	if (!err)
		err = pay(c, bytes_of(c->link, runs, n), PACE_AHEAD_US);
	if (!err)
		err = c->base.inner->ops->get(c->base.inner, runs, dst, n, tag);
	if (!err) {
		c->due_us[tag] = now_us() + 2 * c->link->param.latency_us;
		xp_gets_begin(&c->gets, tag);
	}
	return err;
}

/* Reap from the inner link: how many gets have completed, or the error. */
static int reap_inner(struct shape_chan *c, unsigned max, uint64_t wait_us)
{
	uint32_t tags[XPORT_GETS_MAX];
	int n = c->base.inner->ops->reap(c->base.inner, tags, max < XPORT_GETS_MAX ? max : XPORT_GETS_MAX,
					 wait_us);

	for (int i = 0; i < n; i++)
		xp_gets_done(&c->gets);
	return n;
}

/* reap with latency: return completed gets once they are due. */
static int reap_late(struct shape_chan *c, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	uint64_t end = deadline_after(now_us(), wait_us), now, until;
	struct xp_gets *g = &c->gets;
	unsigned i;
	int err;

	for (;;) {
		now = now_us();
		err = reap_inner(c, XPORT_GETS_MAX, !g->ndone && end > now ? end - now : 0);
		if (err < 0 && err != -EAGAIN && !g->ndone)
			return err;
		now = now_us();
		for (i = 0; i < max && g->ndone && c->due_us[xp_gets_at(g, 0)] <= now; i++)
			xp_gets_take(g, &tags[i], 1);
		if (i)
			return (int)i;
		if (now >= end)
			return -EAGAIN;
		if (!g->ndone)
			continue;
		until = c->due_us[xp_gets_at(g, 0)];
		err = wait_until(c->link, until < end ? until : end);
		if (err)
			return err;
	}
}

static int chan_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct shape_chan *c = chan_of(chan);
	int err;

	if (c->link->param.latency_us)
		return max ? reap_late(c, tags, max, wait_us) : -EINVAL;
	err = reap_inner(c, max, wait_us);
	return err < 0 ? err : xp_gets_take(&c->gets, tags, max);
}

struct serving {
	struct shape_chan *chan;
	void (*moved)(void *arg, uint64_t npages);
	void *arg;
};

static void served(void *arg, uint64_t npages)
{
	struct serving *s = arg;

	/* if killed, serve() will notice */
	pay(s->chan, npages << PAGE_SHIFT, PACE_AHEAD_US);
	if (s->moved)
		s->moved(s->arg, npages);
}

static int chan_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct shape_chan *c = chan_of(chan);
	struct serving s = { .chan = c, .moved = moved, .arg = arg };

	return c->base.inner->ops->serve(c->base.inner, served, &s);
}

static int link_expose(struct xport_link *xl, const struct xport_region *r, size_t n,
		       enum xport_access access)
{
	struct shape_link *l = (struct shape_link *)xl;
	struct xport_link *inner = l->base.inner;
	int err = inner->ops->expose(inner, r, n, access);

	return err ? err : xp_table_set(&l->table, r, n, access);
}

static void link_kill(struct xport_link *xl)
{
	struct shape_link *l = (struct shape_link *)xl;

	l->base.inner->ops->kill(l->base.inner);
	pthread_mutex_lock(&l->lock);
	l->killed = true;
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->lock);
}

static void link_close(struct xport_link *xl)
{
	struct shape_link *l = (struct shape_link *)xl;

	xp_table_clear(&l->table);
	pthread_cond_destroy(&l->cond);
	pthread_mutex_destroy(&l->lock);
	filter_link_close(xl);
}

static int listener_accept(struct xport_listener *xl, struct xport_link **ret, struct fail *f)
{
	struct shape_listener *l = (struct shape_listener *)xl;
	struct xport_link *inner;
	int err = l->base.inner->ops->accept(l->base.inner, &inner, f);

	return err ? err : shape_link(ret, inner, &l->param, f);
}

static void chan_init(struct filter_chan *base, struct filter_link *l, enum xport_role role)
{
	struct shape_chan *c = (struct shape_chan *)base;

	c->link = (struct shape_link *)l;
	c->role = role;
}

static const struct filter shape = {
	.name = "shape",
	.listener_size = sizeof(struct shape_listener),
	.link_size = sizeof(struct shape_link),
	.chan_size = sizeof(struct shape_chan),
	.listener = { .accept = listener_accept },
	.link = { .expose = link_expose, .kill = link_kill, .close = link_close },
	.chan = {
		.send = chan_send,
		.fd = chan_fd,
		.put = chan_put,
		.fence = chan_fence,
		.get = chan_get,
		.reap = chan_reap,
		.serve = chan_serve,
	},
	.chan_init = chan_init,
};

int shape_link(struct xport_link **ret, struct xport_link *inner, const struct shape_param *p, struct fail *f)
{
	struct shape_link *l = (struct shape_link *)filter_link_new(&shape, inner, f);
	pthread_condattr_t attr;

	if (!l)
		return -ENOMEM;
	l->param = *p;
	l->pace.bandwidth = p->bandwidth;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->cond, &attr);
	pthread_condattr_destroy(&attr);
	*ret = &l->base.link;
	return 0;
}

int shape_listener(struct xport_listener **ret, struct xport_listener *inner, const struct shape_param *p,
		   struct fail *f)
{
	struct shape_listener *l = (struct shape_listener *)filter_listener_new(&shape, inner, f);

	if (!l)
		return -ENOMEM;
	l->param = *p;
	*ret = &l->base.listener;
	return 0;
}
