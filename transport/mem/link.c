// SPDX-License-Identifier: MIT
/* The pair of a mem link, and the link's calls; mem.h has the theory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "mem.h"
#include "runtime/base/fail.h"
#include "runtime/base/reach.h"

#define QUEUE_MAX (1u << 20) /* bytes of queued messages above which send() waits */

static void side_wake(struct side *s)
{
	uint64_t one = 1;

	if (write(s->evfd, &one, sizeof(one)) < 0)
		return; /* the counter is full, so the fd is readable anyway */
}

int mem_pair_new(struct pair **ret, const struct xport_link_id *id)
{
	struct pair *p = calloc(1, sizeof(*p));
	pthread_condattr_t attr;
	int i;

	if (!p)
		return -ENOMEM;
	for (i = 0; i < 2; i++) {
		p->side[i].evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		p->side[i].tail = &p->side[i].head;
	}
	if (p->side[0].evfd < 0 || p->side[1].evfd < 0) {
		for (i = 0; i < 2; i++) {
			if (p->side[i].evfd >= 0)
				close(p->side[i].evfd);
		}
		free(p);
		return -EMFILE;
	}
	for (i = 0; i < 2; i++)
		pthread_rwlock_init(&p->side[i].table_lock, NULL);
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->cond, &attr);
	pthread_condattr_destroy(&attr);
	p->id = *id;
	atomic_init(&p->refs, 2);
	*ret = p;
	return 0;
}

void mem_pair_put(struct pair *p)
{
	int i;

	if (atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	for (i = 0; i < 2; i++) {
		struct side *s = &p->side[i];

		while (s->head) {
			struct message *m = s->head;

			s->head = m->next;
			free(m);
		}
		xp_table_clear(&s->table);
		close(s->evfd);
		pthread_rwlock_destroy(&s->table_lock);
	}
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

bool mem_pair_wait(struct pair *p, uint64_t end)
{
	struct timespec ts = xp_timespec(end);

	if (end == UINT64_MAX)
		return !pthread_cond_wait(&p->cond, &p->lock);
	return !pthread_cond_timedwait(&p->cond, &p->lock, &ts);
}

static struct mem_link *link_of(struct xport_link *l)
{
	return (struct mem_link *)l;
}

static struct mem_chan *chan_of(struct xport_chan *c)
{
	return (struct mem_chan *)c;
}

static int link_expose(struct xport_link *xl, const struct xport_region *r, size_t n,
		       enum xport_access access)
{
	struct pair *p = link_of(xl)->pair;
	struct side *me = link_of(xl)->me;
	int err;

	pthread_rwlock_wrlock(&me->table_lock);
	err = xp_table_set(&me->table, r, n, access);
	pthread_rwlock_unlock(&me->table_lock);
	pthread_mutex_lock(&p->lock);
	me->exposed |= !err && n;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	return err;
}

static int link_lend(struct xport_link *xl, const struct iovec *mem, size_t n)
{
	struct mem_link *l = link_of(xl);
	struct iovec *copy = calloc(n ? n : 1, sizeof(*copy));

	if (!copy)
		return -ENOMEM;
	if (n)
		memcpy(copy, mem, n * sizeof(*copy));
	free(l->lent);
	l->lent = copy;
	l->nlent = n;
	return 0;
}

static int link_fits(struct xport_link *xl, uint64_t bytes)
{
	(void)xl;
	(void)bytes;
	return 0;
}

static struct xport_chan *link_chan(struct xport_link *xl, enum xport_role role, unsigned index)
{
	struct mem_link *l = link_of(xl);

	if (role == XPORT_CONTROL)
		return &l->ctl.chan;
	if (role == XPORT_URGENT)
		return &l->urgent.chan;
	return index < xl->id.channels ? &l->data[index].chan : NULL;
}

static void link_kill(struct xport_link *xl)
{
	struct mem_link *l = link_of(xl);

	pthread_mutex_lock(&l->pair->lock);
	l->me->dead = true;
	side_wake(l->me);
	side_wake(l->peer);
	pthread_cond_broadcast(&l->pair->cond);
	pthread_mutex_unlock(&l->pair->lock);
}

static void link_close(struct xport_link *xl)
{
	struct mem_link *l = link_of(xl);

	link_kill(xl);
	link_expose(xl, NULL, 0, XPORT_LOCAL);
	mem_pair_put(l->pair);
	free(l->lent);
	free(l);
}

static int ctl_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	struct mem_link *l = chan_of(chan)->link;
	uint64_t end = deadline_after(now_us(), l->timeout_us);
	struct message *m;
	size_t len = 0;
	int i, err = 0;

	for (i = 0; i < n; i++) {
		if (iov[i].iov_len > XPORT_MSG_MAX - len)
			return -EMSGSIZE;
		len += iov[i].iov_len;
	}
	m = malloc(sizeof(*m) + len);
	if (!m)
		return -ENOMEM;
	*m = (struct message){ .next = NULL };
	for (i = 0; i < n; i++) {
		if (iov[i].iov_len)
			memcpy(m->body + m->len, iov[i].iov_base, iov[i].iov_len);
		m->len += iov[i].iov_len;
	}
	pthread_mutex_lock(&l->pair->lock);
	while (!err) {
		if (l->me->dead || l->peer->dead)
			err = -EPIPE;
		else if (l->peer->queued <= QUEUE_MAX)
			break;
		else if (!mem_pair_wait(l->pair, end))
			err = -ETIMEDOUT;
	}
	if (!err) {
		*l->peer->tail = m;
		l->peer->tail = &m->next;
		l->peer->queued += sizeof(*m) + len;
		side_wake(l->peer);
		pthread_cond_broadcast(&l->pair->cond);
	}
	pthread_mutex_unlock(&l->pair->lock);
	if (err)
		free(m);
	return err;
}

/* Take the first message from the queue. Lock held. */
static int take(struct mem_link *l, void *buf, size_t cap, size_t *len)
{
	struct message *m = l->me->head;
	uint64_t count;

	if (m->len > cap)
		return -EMSGSIZE;
	memcpy(buf, m->body, m->len);
	*len = m->len;
	l->me->head = m->next;
	l->me->queued -= sizeof(*m) + m->len;
	if (!m->next) {
		l->me->tail = &l->me->head;
		if (!l->peer->dead && read(l->me->evfd, &count, sizeof(count)) < 0)
			side_wake(l->me);
	}
	free(m);
	pthread_cond_broadcast(&l->pair->cond);
	return 0;
}

static int ctl_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct mem_link *l = chan_of(chan)->link;
	uint64_t end = wait_us ? deadline_after(now_us(), wait_us) : 0;
	int err = -EAGAIN;

	pthread_mutex_lock(&l->pair->lock);
	for (;;) {
		if (l->me->dead)
			err = -EPIPE;
		else if (l->me->head)
			err = take(l, buf, cap, len);
		else if (l->peer->dead)
			err = -EPIPE;
		else if (wait_us && mem_pair_wait(l->pair, end))
			continue;
		break;
	}
	pthread_mutex_unlock(&l->pair->lock);
	return err;
}

static int ctl_fd(struct xport_chan *chan)
{
	return chan_of(chan)->link->me->evfd;
}

static bool is_dead(struct mem_link *l)
{
	bool dead;

	pthread_mutex_lock(&l->pair->lock);
	dead = l->me->dead || l->peer->dead;
	pthread_mutex_unlock(&l->pair->lock);
	return dead;
}

/* Wait for the peer's first expose: 0, or the error. */
static int await_expose(struct mem_link *l)
{
	uint64_t end = deadline_after(now_us(), l->timeout_us);
	int err = 0;

	pthread_mutex_lock(&l->pair->lock);
	while (!err && !l->peer->exposed) {
		if (l->me->dead || l->peer->dead)
			err = -EPIPE;
		else if (!mem_pair_wait(l->pair, end))
			err = -ETIMEDOUT;
	}
	pthread_mutex_unlock(&l->pair->lock);
	return err;
}

/* A memory copy works without lend(), but a device does not, so this transport enforces it too. */
static bool is_lent(const struct mem_link *l, const void *dst, size_t len)
{
	size_t i;

	for (i = 0; i < l->nlent; i++) {
		uintptr_t off = (uintptr_t)dst - (uintptr_t)l->lent[i].iov_base;

		if (off < l->lent[i].iov_len && len <= l->lent[i].iov_len - off)
			return true;
	}
	return false;
}

/* Copy one run from src to dst, and name the side whose memory cannot be reached. */
static int copy_run(struct mem_link *l, const struct page_run *run, bool get, void *dst, const void *src,
		    size_t len)
{
	const struct xp_table *from = get ? &l->peer->table : &l->me->table;
	const struct xp_table *to = get ? &l->me->table : &l->peer->table;
	int err = reach_copy(dst, src, len);

	if (err != -EFAULT)
		return err ? fail(l->link.fail, err,
				  "mem: guest memory cannot be copied: %s; allow the system call process_vm_writev",
				  strerror(-err))
			   : 0;
	return reach_find(src, len, false) ? xp_unreachable(from, run, 1, NULL, false, l->link.fail)
					   : xp_unreachable(to, run, 1, &dst, true, l->link.fail);
}

/* One transfer: a put from this end's table if dst is NULL, else a get. Both tables must contain all runs. */
static int transfer(struct mem_link *l, const struct page_run *runs, void *const *dst, unsigned n)
{
	enum xport_access need = dst ? XPORT_PEER_READ : XPORT_PEER_WRITE;
	const char *what = dst ? "get" : "put";
	char why[XP_WHY_MAX];
	uint64_t bytes;
	unsigned i;
	int err = 0;

	/* No expose runs at this end now, so its table is read without the lock. */
	if (xp_runs_check(&l->me->table, runs, n, !dst, &bytes, why))
		return fail(l->link.fail, -EINVAL, "mem: %s of memory that is not exposed: %s", what, why);
	err = await_expose(l);
	if (err)
		return err;
	pthread_rwlock_rdlock(&l->peer->table_lock);
	if (is_dead(l)) {
		err = -EPIPE;
	} else if (!(l->peer->table.access & need)) {
		err = fail(l->link.fail, -EPROTO, "mem: %s of memory that the peer does not expose for it",
			   what);
	} else if (xp_runs_check(&l->peer->table, runs, n, true, &bytes, why)) {
		err = fail(l->link.fail, -EPROTO, "mem: %s of memory that the peer does not expose: %s", what,
			   why);
	}
	for (i = 0; !err && i < n; i++) {
		struct iovec mine, theirs;

		xp_runs_iov(&l->me->table, &runs[i], 1, &mine);
		xp_runs_iov(&l->peer->table, &runs[i], 1, &theirs);
		if (mine.iov_len != theirs.iov_len)
			err = fail(l->link.fail, -EPROTO, "mem: region %u has another page size at the peer",
				   l->me->table.r[runs[i].region].id);
		else if (dst && !is_lent(l, dst[i], mine.iov_len))
			err = fail(l->link.fail, -EINVAL,
				   "mem: get of %zu bytes into memory that was not lent", mine.iov_len);
		else if (dst)
			err = copy_run(l, &runs[i], true, dst[i], theirs.iov_base, mine.iov_len);
		else
			err = copy_run(l, &runs[i], false, theirs.iov_base, mine.iov_base, mine.iov_len);
	}
	pthread_rwlock_unlock(&l->peer->table_lock);
	return err;
}

static int data_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct mem_link *l = chan_of(chan)->link;

	return is_dead(l) ? -EPIPE : transfer(l, runs, NULL, n);
}

static int data_fence(struct xport_chan *chan)
{
	return is_dead(chan_of(chan)->link) ? -EPIPE : 0;
}

static int data_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct mem_chan *c = chan_of(chan);
	int err = is_dead(c->link) ? -EPIPE : xp_gets_check(&c->gets, tag, "mem", c->link->link.fail);

	if (!err)
		err = transfer(c->link, runs, dst, n);
	if (err)
		return err;
	xp_gets_begin(&c->gets, tag);
	xp_gets_done(&c->gets);
	return 0;
}

static int data_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct mem_chan *c = chan_of(chan);
	struct pair *p = c->link->pair;
	uint64_t end;

	if (is_dead(c->link))
		return -EPIPE;
	if (!c->gets.ndone) { /* no get is in flight, so only a kill can end the wait */
		end = deadline_after(now_us(), wait_us);
		pthread_mutex_lock(&p->lock);
		while (wait_us && !c->link->me->dead && !c->link->peer->dead && mem_pair_wait(p, end))
			;
		pthread_mutex_unlock(&p->lock);
		return is_dead(c->link) ? -EPIPE : -EAGAIN;
	}
	return xp_gets_take(&c->gets, tags, max);
}

static int data_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	(void)moved;
	(void)arg;
	return is_dead(chan_of(chan)->link) ? -EPIPE : 0;
}

static int data_pair(struct xport_chan *chan, struct xport_chan *urgent)
{
	(void)chan;
	(void)urgent;
	return 0;
}

static int data_fd(struct xport_chan *chan)
{
	(void)chan;
	return -1;
}

static const struct xp_link_ops link_ops = {
	.ops = {
		.expose = link_expose,
		.lend = link_lend,
		.fits = link_fits,
		.chan = link_chan,
		.kill = link_kill,
		.close = link_close,
	},
};

static const struct xport_chan_ops ctl_ops = { .send = ctl_send, .recv = ctl_recv, .fd = ctl_fd };

static const struct xport_chan_ops data_ops = {
	.fd = data_fd,
	.put = data_put,
	.fence = data_fence,
	.get = data_get,
	.reap = data_reap,
	.end = data_fence, /* nothing to tell the peer: only checks the link */
	.serve = data_serve,
	.pair = data_pair,
};

int mem_link_new(struct mem_link **ret, const struct xport_param *p)
{
	struct mem_link *l = calloc(1, sizeof(*l));
	unsigned i;

	if (!l)
		return -ENOMEM;
	l->timeout_us = p->timeout_us;
	l->ctl = (struct mem_chan){ .chan.ops = &ctl_ops, .link = l };
	l->urgent = (struct mem_chan){ .chan.ops = &data_ops, .link = l };
	for (i = 0; i < XPORT_CHANNELS_MAX; i++)
		l->data[i] = (struct mem_chan){ .chan.ops = &data_ops, .link = l };
	*ret = l;
	return 0;
}

void mem_link_join(struct mem_link *l, struct pair *p, int side, struct fail *f)
{
	l->pair = p;
	l->me = &p->side[side];
	l->peer = &p->side[!side];
	l->link =
		(struct xport_link){ .ops = &link_ops.ops, .caps = XPORT_ONE_SIDED, .id = p->id, .fail = f };
}
