// SPDX-License-Identifier: MIT
/*
 * chaos: a filter that breaks a link on purpose. What can be asked of xport_chaos_fault():
 *
 *	cut		every link is killed now; connect and accept fail for good
 *	cut:MS		the same, and after MS milliseconds connections succeed again
 *	stall:MS	for MS milliseconds no call of this end moves anything: a put, fence, get or send waits and is
 *			-ETIMEDOUT after the link's timeout, a recv or reap finds nothing, a serve stops after what
 *			it is doing
 *	heal		ends a cut or a stall
 *	cut@N		the Nth message sent on a control channel from now on, N >= 1, is not sent: the link is cut
 *	cut@N:MS	the same, healing after MS milliseconds
 *	short@N		of the Nth message only the first half is sent
 *	corrupt@N	the byte in the middle of the Nth message is inverted
 *
 * One counted fault is armed at a time; a new one replaces it. A struct chaos outlives its links and may serve
 * both ends of one process: N then counts the messages of both.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/fail.h"
#include "xport_int.h"

enum counted { COUNT_NONE, COUNT_CUT, COUNT_SHORT, COUNT_CORRUPT };

struct chaos_link;

struct chaos {
	pthread_mutex_t lock; /* before any lock of a link below */
	pthread_cond_t cond;
	uint64_t cut_until_us, stall_until_us; /* 0: not */
	enum counted armed;
	uint64_t countdown, armed_ms;
	struct chaos_link *links;
};

struct chaos_chan {
	struct xport_chan chan;
	struct xport_chan *inner;
	struct chaos_link *link;
};

struct chaos_link {
	struct xport_link link;
	struct xport_link *inner;
	struct chaos *chaos;
	uint64_t timeout_us;
	bool killed; /* chaos lock */
	struct chaos_link *next, **prev;
	struct chaos_chan ctl, urgent, data[XPORT_CHANNELS_MAX];
};

struct chaos_listener {
	struct xport_listener listener;
	struct xport_listener *inner;
	struct chaos *chaos;
	struct xport_param param;
};

struct chaos *xport_chaos_new(void)
{
	struct chaos *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return NULL;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->cond, &attr);
	pthread_condattr_destroy(&attr);
	return c;
}

void xport_chaos_free(struct chaos *c)
{
	if (!c)
		return;
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

/* With the lock held. ms UINT64_MAX: for good. */
static void cut(struct chaos *c, uint64_t ms)
{
	struct chaos_link *l;

	c->cut_until_us = ms == UINT64_MAX ? UINT64_MAX : xp_now_us() + ms * 1000;
	for (l = c->links; l; l = l->next) {
		l->killed = true;
		l->inner->ops->kill(l->inner);
	}
	pthread_cond_broadcast(&c->cond);
}

/* A decimal number at *s, at most max; *s moves behind it. */
static bool number(const char **s, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)**s))
		return false;
	for (; isdigit((unsigned char)**s); (*s)++) {
		v = v * 10 + (uint64_t)(**s - '0');
		if (v > max)
			return false;
	}
	*ret = v;
	return true;
}

int xport_chaos_fault(struct chaos *c, const char *fault)
{
	static const struct {
		const char *name;
		enum counted armed;
	} names[] = { { "cut", COUNT_CUT }, { "stall", COUNT_NONE }, { "heal", COUNT_NONE },
		      { "short", COUNT_SHORT }, { "corrupt", COUNT_CORRUPT } };
	size_t len = strcspn(fault, "@:"), i;
	const char *s = fault + len;
	uint64_t at = 0, ms = UINT64_MAX;
	char kind;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strlen(names[i].name) == len && !memcmp(names[i].name, fault, len))
			break;
	}
	if (i == sizeof(names) / sizeof(names[0]))
		return -EINVAL;
	kind = names[i].name[0];
	if (*s == '@' && (s++, !names[i].armed || !number(&s, 1000000000, &at) || !at))
		return -EINVAL;
	if (*s == ':' && (s++, (kind != 'c' && kind != 's') || !number(&s, 86400000, &ms)))
		return -EINVAL;
	/* short and corrupt are counted and take no time; a stall takes one; heal takes neither. */
	if (*s || (names[i].armed > COUNT_CUT && (!at || ms != UINT64_MAX)) ||
	    (!strcmp(names[i].name, "stall") && ms == UINT64_MAX))
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	if (at) {
		c->armed = names[i].armed;
		c->countdown = at;
		c->armed_ms = ms;
	} else if (names[i].armed == COUNT_CUT) {
		cut(c, ms);
	} else if (kind == 's') {
		c->stall_until_us = xp_now_us() + ms * 1000;
	} else {
		c->cut_until_us = c->stall_until_us = 0;
		pthread_cond_broadcast(&c->cond);
	}
	pthread_mutex_unlock(&c->lock);
	return 0;
}

static bool is_cut(struct chaos *c)
{
	bool yes;

	pthread_mutex_lock(&c->lock);
	yes = c->cut_until_us > xp_now_us();
	pthread_mutex_unlock(&c->lock);
	return yes;
}

int chaos_may_connect(struct chaos *c, struct fail *f)
{
	return is_cut(c) ? fail(f, -ECONNREFUSED, "chaos: the link is cut") : 0;
}

/*
 * Waits out a stall, at most wait_us: 0; late: it goes on, or the link was killed meanwhile: -EPIPE. Without
 * a stall it is one lock.
 */
static int stalled(struct chaos_link *l, uint64_t wait_us, int late)
{
	struct chaos *c = l->chaos;
	uint64_t now, end = 0, until;
	struct timespec ts;
	int err = 0;

	pthread_mutex_lock(&c->lock);
	while (!l->killed && c->stall_until_us > (now = c->stall_until_us ? xp_now_us() : 0)) {
		if (!end)
			end = xp_deadline(now, wait_us);
		if (now >= end) {
			err = late;
			break;
		}
		until = c->stall_until_us < end ? c->stall_until_us : end;
		ts = xp_timespec(until);
		pthread_cond_timedwait(&c->cond, &c->lock, &ts);
	}
	if (l->killed)
		err = -EPIPE;
	pthread_mutex_unlock(&c->lock);
	return err;
}

static struct chaos_chan *chan_of(struct xport_chan *c)
{
	return (struct chaos_chan *)c;
}

static int moves(struct chaos_chan *c)
{
	return stalled(c->link, c->link->timeout_us, -ETIMEDOUT);
}

/* Counts a message; what is to be done to it. */
static enum counted strike(struct chaos *c)
{
	enum counted what = COUNT_NONE;

	pthread_mutex_lock(&c->lock);
	if (c->armed && !--c->countdown) {
		what = c->armed;
		c->armed = COUNT_NONE;
		if (what == COUNT_CUT)
			cut(c, c->armed_ms);
	}
	pthread_mutex_unlock(&c->lock);
	return what;
}

static int send_damaged(struct chaos_chan *c, const struct iovec *iov, int n, enum counted what)
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
	if (what == COUNT_SHORT)
		one.iov_len /= 2;
	err = c->inner->ops->send(c->inner, &one, 1);
	free(copy);
	return err;
}

static int chan_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	struct chaos_chan *c = chan_of(chan);
	enum counted what;
	int err = moves(c);

	if (err)
		return err;
	what = strike(c->link->chaos);
	if (what == COUNT_CUT)
		return -EPIPE;
	return what ? send_damaged(c, iov, n, what) : c->inner->ops->send(c->inner, iov, n);
}

static int chan_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct chaos_chan *c = chan_of(chan);
	int err = stalled(c->link, wait_us, -EAGAIN);

	return err ? err : c->inner->ops->recv(c->inner, buf, cap, len, wait_us);
}

static int chan_fd(struct xport_chan *chan)
{
	struct xport_chan *inner = chan_of(chan)->inner;

	return inner->ops->fd(inner);
}

static int chan_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c);

	return err ? err : c->inner->ops->put(c->inner, runs, n);
}

static int chan_fence(struct xport_chan *chan)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c);

	return err ? err : c->inner->ops->fence(c->inner);
}

static int chan_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n, uint32_t tag)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c);

	return err ? err : c->inner->ops->get(c->inner, runs, dst, n, tag);
}

static int chan_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct chaos_chan *c = chan_of(chan);
	int err = stalled(c->link, wait_us, -EAGAIN);

	return err ? err : c->inner->ops->reap(c->inner, tags, max, wait_us);
}

static int chan_end(struct xport_chan *chan)
{
	struct chaos_chan *c = chan_of(chan);
	int err = moves(c);

	return err ? err : c->inner->ops->end(c->inner);
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
	stalled(s->chan->link, UINT64_MAX, 0); /* killed: serve() will see it */
}

static int chan_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct chaos_chan *c = chan_of(chan);
	struct serving s = { .chan = c, .moved = moved, .arg = arg };
	int err = stalled(c->link, UINT64_MAX, 0);

	return err ? err : c->inner->ops->serve(c->inner, served, &s);
}

static int chan_pair(struct xport_chan *chan, struct xport_chan *urgent)
{
	struct xport_chan *inner = chan_of(chan)->inner;

	return inner->ops->pair(inner, chan_of(urgent)->inner);
}

static const struct xport_chan_ops ctl_ops = { .send = chan_send, .recv = chan_recv, .fd = chan_fd };

static const struct xport_chan_ops data_ops = {
	.fd = chan_fd,
	.put = chan_put,
	.fence = chan_fence,
	.get = chan_get,
	.reap = chan_reap,
	.end = chan_end,
	.serve = chan_serve,
	.pair = chan_pair,
};

static int link_expose(struct xport_link *xl, const struct xport_region *r, size_t n, enum xport_access access)
{
	struct xport_link *inner = ((struct chaos_link *)xl)->inner;

	return inner->ops->expose(inner, r, n, access);
}

static struct xport_chan *link_chan(struct xport_link *xl, enum xport_role role, unsigned index)
{
	struct chaos_link *l = (struct chaos_link *)xl;

	if (role == XPORT_CONTROL)
		return &l->ctl.chan;
	if (role == XPORT_URGENT)
		return &l->urgent.chan;
	return index < xl->id.channels ? &l->data[index].chan : NULL;
}

static void link_kill(struct xport_link *xl)
{
	struct chaos_link *l = (struct chaos_link *)xl;

	l->inner->ops->kill(l->inner);
	pthread_mutex_lock(&l->chaos->lock);
	l->killed = true;
	pthread_cond_broadcast(&l->chaos->cond);
	pthread_mutex_unlock(&l->chaos->lock);
}

static void link_close(struct xport_link *xl)
{
	struct chaos_link *l = (struct chaos_link *)xl;

	pthread_mutex_lock(&l->chaos->lock);
	*l->prev = l->next;
	if (l->next)
		l->next->prev = l->prev;
	pthread_mutex_unlock(&l->chaos->lock);
	l->inner->ops->close(l->inner);
	free(l);
}

static int link_lend(struct xport_link *xl, const struct iovec *mem, size_t n)
{
	struct xport_link *inner = ((struct chaos_link *)xl)->inner;

	return inner->ops->lend(inner, mem, n);
}

static int link_fits(struct xport_link *xl, uint64_t bytes)
{
	struct xport_link *inner = ((struct chaos_link *)xl)->inner;

	return inner->ops->fits(inner, bytes);
}

static const struct xport_link_ops link_ops = {
	.expose = link_expose,
	.lend = link_lend,
	.fits = link_fits,
	.chan = link_chan,
	.kill = link_kill,
	.close = link_close,
};

static void chan_init(struct chaos_chan *c, struct chaos_link *l, enum xport_role role, unsigned index)
{
	c->chan.ops = role == XPORT_CONTROL ? &ctl_ops : &data_ops;
	c->inner = l->inner->ops->chan(l->inner, role, index);
	c->link = l;
}

int chaos_link(struct xport_link **ret, struct xport_link *inner, struct chaos *c, const struct xport_param *p,
	       struct fail *f)
{
	struct chaos_link *l = calloc(1, sizeof(*l));
	unsigned i;

	if (!l) {
		inner->ops->close(inner);
		return fail(f, -ENOMEM, "chaos: no memory for a link");
	}
	l->link = *inner;
	l->link.ops = &link_ops;
	l->inner = inner;
	l->chaos = c;
	l->timeout_us = p->timeout_us;
	chan_init(&l->ctl, l, XPORT_CONTROL, 0);
	chan_init(&l->urgent, l, XPORT_URGENT, 0);
	for (i = 0; i < inner->id.channels; i++)
		chan_init(&l->data[i], l, XPORT_DATA, i);
	pthread_mutex_lock(&c->lock);
	l->killed = c->cut_until_us > xp_now_us(); /* cut while it was being made */
	if (l->killed)
		inner->ops->kill(inner);
	l->prev = &c->links;
	l->next = c->links;
	if (l->next)
		l->next->prev = &l->next;
	c->links = l;
	pthread_mutex_unlock(&c->lock);
	*ret = &l->link;
	return 0;
}

static int listener_accept(struct xport_listener *xl, struct xport_link **ret, struct fail *f)
{
	struct chaos_listener *l = (struct chaos_listener *)xl;
	struct xport_link *inner;
	int err;

	for (;;) {
		err = l->inner->ops->accept(l->inner, &inner, f);
		if (err)
			return err;
		if (!is_cut(l->chaos))
			return chaos_link(ret, inner, l->chaos, &l->param, f);
		inner->ops->kill(inner); /* nobody gets through */
		inner->ops->close(inner);
	}
}

static int listener_fd(struct xport_listener *xl)
{
	struct xport_listener *inner = ((struct chaos_listener *)xl)->inner;

	return inner->ops->fd(inner);
}

static int listener_uri(struct xport_listener *xl, char *buf, size_t cap)
{
	struct xport_listener *inner = ((struct chaos_listener *)xl)->inner;

	return inner->ops->uri(inner, buf, cap);
}

static void listener_close(struct xport_listener *xl)
{
	struct chaos_listener *l = (struct chaos_listener *)xl;

	l->inner->ops->close(l->inner);
	free(l);
}

static const struct xport_listener_ops listener_ops = {
	.accept = listener_accept,
	.fd = listener_fd,
	.uri = listener_uri,
	.close = listener_close,
};

int chaos_listener(struct xport_listener **ret, struct xport_listener *inner, struct chaos *c,
		   const struct xport_param *p, struct fail *f)
{
	struct chaos_listener *l = calloc(1, sizeof(*l));

	if (!l) {
		inner->ops->close(inner);
		return fail(f, -ENOMEM, "chaos: no memory for a listener");
	}
	l->listener.ops = &listener_ops;
	l->inner = inner;
	l->chaos = c;
	l->param = *p;
	*ret = &l->listener;
	return 0;
}
