// SPDX-License-Identifier: MIT
/*
 * Data and urgent channels of rdma: puts as WRITEs, gets as READs, a fence as a READ after the puts.
 *
 * Work requests are posted in lists whose last request is signalled. Completions come in the order of
 * posting, so the oldest mark says what a completion stands for. A get whose requests do not all fit waits in
 * a queue; completions make room, and reap() continues posting. wait.c takes completions.
 *
 * Soft-RoCE (link->confirm_reads) may report success for the very READ on which it gives up the queue pair, although
 * no byte of it arrived. That happens if an answer is out of sequence, for example because the peer could not
 * send its first packet. It is the queue pair's last success. So on such a device each get ends with one more
 * READ, a seal: if the seal succeeds, truly or not, all requests before it have truly succeeded. A fence
 * needs no seal: any answer to it comes after the puts.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"

#define LIST 64u /* work requests in one list */

struct transfer { /* the part of a put or get that is not posted yet */
	const struct page_run *runs;
	void *const *dst; /* NULL: a put */
	unsigned n, i;
	uint64_t off;
};

static struct xr_data *data_of(struct xport_chan *c)
{
	return (struct xr_data *)c;
}

/* ---- posting ---- */

static bool room(const struct xr_data *d)
{
	return d->posted + LIST <= XR_DEPTH && d->nmark < XR_MARKS && d->flying < XR_FLIGHT;
}

/* Post one list and signal its last request. get: a get ends with it. */
static int post(struct xr_data *d, struct ibv_send_wr *wr, unsigned n, uint64_t bytes, bool get)
{
	struct ibv_send_wr *bad;
	int err;

	wr[n - 1].next = NULL;
	wr[n - 1].send_flags = IBV_SEND_SIGNALED;
	if (!d->nmark)
		d->stamp_us = now_us();
	err = ibv_post_send(d->conn->qp, wr, &bad);
	if (err) {
		d->err = xr_err(d->conn, "ibv_post_send", err);
		return d->err;
	}
	d->mark[(d->mark_head + d->nmark++) % XR_MARKS] = (struct xr_mark){ n, bytes, get };
	d->posted += n;
	d->flying += bytes;
	return 0;
}

static int local_key(struct xr_data *d, const void *addr, bool landing, uint32_t *lkey, uint64_t *span)
{
	int err;

	if (d->link->opt.pin == XR_PIN_LAZY)
		err = xr_near(d, addr, landing, lkey, span);
	else
		err = xr_mr_find(d->link, addr, landing, lkey, span) ? 0 : -EINVAL;
	if (err == -EINVAL)
		return fail(d->link->link.fail, err, "rdma: memory at %p was not %s", addr,
			    landing ? "lent" : "exposed");
	return err;
}

static int remote_key(struct xr_data *d, uint32_t region, uint64_t off, uint64_t *addr, uint32_t *rkey,
		      uint64_t *span)
{
	struct xr_link *l = d->link;
	const struct xport_region *r;
	bool chunks = false;

	pthread_mutex_lock(&l->lock);
	r = xp_table_find(&l->keys.table, region);
	if (r && r->base) {
		*addr = (uintptr_t)r->base + off;
		*rkey = l->keys.rkey[r - l->keys.table.r];
		chunks = l->keys.chunk_shift;
		*span = (r->npages << PAGE_SHIFT) - off;
	}
	pthread_mutex_unlock(&l->lock);
	if (!r || !*addr)
		return fail(l->link.fail, -EPROTO, "rdma: the peer has taken region %u back",
			    l->table.r[region].id);
	return chunks ? xr_far(d, region, off, rkey, span) : 0;
}

/* Make the next request of a transfer. */
static int make_wr(struct xr_data *d, struct transfer *t, struct ibv_send_wr *wr, struct ibv_sge *sge)
{
	const struct page_run *run = &t->runs[t->i];
	const struct xport_region *r = xp_table_find(&d->link->table, run->region);
	uint64_t at = (run->page << PAGE_SHIFT) + t->off,
		 left = ((uint64_t)run->npages << PAGE_SHIFT) - t->off;
	uint8_t *mine = t->dst ? (uint8_t *)t->dst[t->i] + t->off : (uint8_t *)r->base + at;
	uint64_t near = 0, far = 0, len = left;
	uint32_t lkey = 0, rkey = 0;
	uint64_t addr = 0;
	int err;

	err = local_key(d, mine, t->dst, &lkey, &near);
	if (!err)
		err = remote_key(d, run->region, at, &addr, &rkey, &far);
	if (err)
		return err;
	len = near < len ? near : len;
	len = far < len ? far : len;
	len = d->link->max_msg < len ? d->link->max_msg : len;
	*sge = (struct ibv_sge){ (uintptr_t)mine, (uint32_t)len, lkey };
	*wr = (struct ibv_send_wr){ .sg_list = sge,
				    .num_sge = 1,
				    .opcode = t->dst ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE,
				    .wr.rdma = { .remote_addr = addr, .rkey = rkey } };
	t->off += len;
	if (len == left) {
		t->off = 0;
		t->i++;
	}
	return 0;
}

static bool by_chunk(struct xr_link *l)
{
	bool chunks;

	pthread_mutex_lock(&l->lock);
	chunks = l->keys.chunk_shift;
	pthread_mutex_unlock(&l->lock);
	return chunks;
}

/* A READ of the peer's board: once it has completed, everything posted before it has. */
static struct ibv_send_wr board_read(const struct xr_data *d, struct ibv_sge *sge)
{
	struct xr_link *l = d->link;

	*sge = (struct ibv_sge){ (uintptr_t)xr_board(l) + 64 + d->index * RDMA_BOARD, RDMA_BOARD,
				 l->slots_mr->lkey };
	return (struct ibv_send_wr){ .sg_list = sge,
				     .num_sge = 1,
				     .opcode = IBV_WR_RDMA_READ,
				     .wr.rdma = { .remote_addr = d->conn->board,
						  .rkey = d->conn->board_key } };
}

/* Post one list of a transfer; room() is true. */
static int post_some(struct xr_data *d, struct transfer *t)
{
	struct ibv_send_wr wr[LIST];
	struct ibv_sge sge[LIST];
	uint64_t bytes = 0;
	/*
	 * With chunks, post each request before the next one may release its chunk. Otherwise the last entry
	 * is kept for the seal.
	 */
	unsigned n = 0, max = d->link->opt.pin == XR_PIN_LAZY || by_chunk(d->link) ? 1 : LIST - 1;
	int err = 0;

	while (t->i < t->n && n < max && d->flying + bytes < XR_FLIGHT) {
		err = make_wr(d, t, &wr[n], &sge[n]);
		if (err)
			return err;
		if (n)
			wr[n - 1].next = &wr[n];
		bytes += sge[n++].length;
	}
	if (n && t->i == t->n && t->dst && d->link->confirm_reads) {
		wr[n] = board_read(d, &sge[n]);
		wr[n - 1].next = &wr[n];
		n++;
	}
	return n ? post(d, wr, n, bytes, t->dst && t->i == t->n) : 0;
}

static int await_peer(struct xr_data *d)
{
	struct xr_link *l = d->link;
	uint64_t end = deadline_after(now_us(), l->param.timeout_us);
	int err = 0;

	pthread_mutex_lock(&l->lock);
	while (!err && (!atomic_load(&d->conn->established) || !l->keys.seq)) {
		err = xr_broken(l);
		if (!err && !xr_wait(l, end))
			err = -ETIMEDOUT;
	}
	pthread_mutex_unlock(&l->lock);
	return err;
}

static int check_peer(struct xr_data *d, const struct page_run *runs, unsigned n, enum xport_access need)
{
	const char *what = need == XPORT_PEER_READ ? "get" : "put";
	struct xr_link *l = d->link;
	char why[XP_WHY_MAX];
	uint64_t bytes;
	unsigned i;
	int err = 0;

	pthread_mutex_lock(&l->lock);
	if (!(l->keys.table.access & need))
		err = fail(l->link.fail, -EPROTO, "rdma: %s of memory that the peer does not expose for it",
			   what);
	else if (xp_runs_check(&l->keys.table, runs, n, true, &bytes, why))
		err = fail(l->link.fail, -EPROTO, "rdma: %s of memory that the peer does not expose: %s",
			   what, why);
	for (i = 0; i < n && !err; i++) {
		const struct xport_region *mine = xp_table_find(&l->table, runs[i].region);
		const struct xport_region *theirs = xp_table_find(&l->keys.table, runs[i].region);

		if (theirs->id != mine->id)
			err = fail(l->link.fail, -EPROTO,
				   "rdma: the peer's region number %u is %u, here it is %u", runs[i].region,
				   theirs->id, mine->id);
	}
	pthread_mutex_unlock(&l->lock);
	return err;
}

static int check(struct xr_data *d, const struct page_run *runs, unsigned n, enum xport_access need)
{
	bool put = need == XPORT_PEER_WRITE;
	char why[XP_WHY_MAX];
	uint64_t bytes;
	int err = xr_data_broken(d);

	if (err)
		return err;
	if (xp_runs_check(&d->link->table, runs, n, put, &bytes, why))
		return fail(d->link->link.fail, -EINVAL, "rdma: %s of memory that is not exposed: %s",
			    put ? "put" : "get", why);
	err = await_peer(d);
	return err ? err : check_peer(d, runs, n, need);
}

/* ---- the calls ---- */

static int data_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct xr_data *d = data_of(chan);
	struct transfer t = { .runs = runs, .n = n };
	int err = check(d, runs, n, XPORT_PEER_WRITE);

	while (!err && t.i < t.n) {
		err = xr_take(d);
		err = err < 0 ? err : 0;
		while (!err && !room(d))
			err = xr_wait_some(d);
		if (!err)
			err = post_some(d, &t);
	}
	return err;
}

static int data_fence(struct xport_chan *chan)
{
	struct xr_data *d = data_of(chan);
	struct xr_link *l = d->link;
	struct ibv_send_wr wr;
	struct ibv_sge sge;
	uint64_t end = deadline_after(now_us(), l->param.timeout_us);
	int err = xr_data_broken(d);

	pthread_mutex_lock(&l->lock);
	while (!err && !atomic_load(&d->conn->established)) {
		err = xr_broken(l);
		if (!err && !xr_wait(l, end))
			err = -ETIMEDOUT;
	}
	pthread_mutex_unlock(&l->lock);
	while (!err && !room(d))
		err = xr_wait_some(d);
	wr = board_read(d, &sge);
	if (!err)
		err = post(d, &wr, 1, 0, false);
	while (!err && d->nmark)
		err = xr_wait_some(d);
	return err;
}

/* Post queued gets in order while there is room. */
static int go_on(struct xr_data *d)
{
	int err = 0;

	while (!err && d->nqueue && room(d)) {
		struct xr_get *g =
			&d->get[xp_gets_at(&d->gets, d->gets.ndone + d->gets.inflight - d->nqueue)];
		struct transfer t = { .runs = g->runs, .dst = g->dst, .n = g->n, .i = g->i, .off = g->off };

		err = post_some(d, &t);
		g->i = t.i;
		g->off = t.off;
		if (g->i == g->n)
			d->nqueue--;
	}
	if (err)
		d->err = err;
	return err;
}

/* Check, before anything is posted, that every buffer lies in lent memory. */
static int check_landing(struct xr_data *d, const struct page_run *runs, void *const *dst, unsigned n)
{
	struct xr_link *l = d->link;
	unsigned i;
	size_t k;

	for (i = 0; i < n; i++) {
		uint64_t len = (uint64_t)runs[i].npages << PAGE_SHIFT, off = 0;

		for (k = 0; k < l->nlent; k++) {
			off = (uintptr_t)dst[i] - (uintptr_t)l->lent[k].iov_base;
			if (off < l->lent[k].iov_len && len <= l->lent[k].iov_len - off)
				break;
		}
		if (k == l->nlent)
			return fail(l->link.fail, -EINVAL,
				    "rdma: get of %" PRIu64 " bytes to %p, which was not lent", len, dst[i]);
	}
	return 0;
}

static int data_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct xr_data *d = data_of(chan);
	struct xr_get *g;
	int err = xr_data_broken(d);

	if (!err)
		err = xp_gets_check(&d->gets, tag, "rdma", d->link->link.fail);
	if (!err)
		err = check(d, runs, n, XPORT_PEER_READ);
	if (!err)
		err = check_landing(d, runs, dst, n);
	if (err)
		return err;
	g = &d->get[tag];
	g->n = n;
	g->i = 0;
	g->off = 0;
	memcpy(g->runs, runs, n * sizeof(*runs));
	memcpy(g->dst, dst, n * sizeof(*dst));
	if (!d->gets.inflight)
		d->stamp_us = now_us();
	xp_gets_begin(&d->gets, tag);
	d->nqueue++;
	return go_on(d);
}

static int data_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct xr_data *d = data_of(chan);
	uint64_t now = now_us(), end = deadline_after(now, wait_us), until;
	int err;

	if (!max)
		return -EINVAL;
	for (;;) {
		err = xr_broken(d->link);
		if (err)
			return err;
		err = xr_take(d);
		if (err >= 0)
			err = go_on(d);
		if (d->gets.ndone || err)
			break;
		now = now_us();
		until = d->gets.inflight ? deadline_after(d->stamp_us, d->link->param.timeout_us) : end;
		if (d->gets.inflight && now >= until) {
			d->err = -ETIMEDOUT;
			return -ETIMEDOUT;
		}
		if (now >= end)
			return -EAGAIN;
		err = xr_wait_cq(d, until < end ? until : end);
		if (err < 0)
			break;
	}
	/* return what has completed; the next call returns the error */
	return d->gets.ndone ? xp_gets_take(&d->gets, tags, max) : err;
}

/* There is no serving end to tell: only check the link. */
static int data_end(struct xport_chan *chan)
{
	return xr_data_broken(data_of(chan));
}

static int data_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	(void)moved;
	(void)arg;
	return xr_data_broken(data_of(chan));
}

static int data_pair(struct xport_chan *chan, struct xport_chan *urgent)
{
	return data_of(chan)->urgent || !data_of(urgent)->urgent ? -EINVAL : 0;
}

static const struct xport_chan_ops data_ops = {
	.fd = xr_data_fd,
	.put = data_put,
	.fence = data_fence,
	.get = data_get,
	.reap = data_reap,
	.end = data_end,
	.serve = data_serve,
	.pair = data_pair,
};

int xr_data_new(struct xr_data **ret, struct xr_link *l, unsigned index, struct fail *f)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct xr_data *d = calloc(1, sizeof(*d));

	if (!d)
		return fail(f, -ENOMEM, "rdma: no memory for a channel");
	*ret = d; /* owned by the link from now on */
	d->chan.ops = &data_ops;
	d->link = l;
	d->conn = &l->conn[1 + index];
	d->index = index;
	d->urgent = index == l->link.id.channels;
	d->epfd = epoll_create1(EPOLL_CLOEXEC);
	d->ready_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	d->comp = ibv_create_comp_channel(l->ctx);
	if (!d->comp || d->epfd < 0 || d->ready_fd < 0 || xr_nonblock(d->comp->fd) ||
	    epoll_ctl(d->epfd, EPOLL_CTL_ADD, d->comp->fd, &ev) ||
	    epoll_ctl(d->epfd, EPOLL_CTL_ADD, d->ready_fd, &ev) ||
	    epoll_ctl(d->epfd, EPOLL_CTL_ADD, l->dead_fd, &ev))
		return fail_cure(f, CURE_CALL, -errno, "rdma: no descriptors for a channel");
	/* Room for every request: after an error each one completes, signalled or not. */
	d->cq = ibv_create_cq(l->ctx, (int)XR_DEPTH + 8, NULL, d->comp, 0);
	if (!d->cq)
		return fail_cure(f, CURE_RDMA_QUEUE, -errno,
				 "rdma: device %s makes no completion queue of %u", l->ctx->device->name,
				 XR_DEPTH + 8);
	return 0;
}

void xr_data_free(struct xr_data *d)
{
	if (!d)
		return;
	if (d->cq)
		ibv_destroy_cq(d->cq);
	if (d->comp)
		ibv_destroy_comp_channel(d->comp);
	if (d->epfd >= 0)
		close(d->epfd);
	if (d->ready_fd >= 0)
		close(d->ready_fd);
	free(d);
}
