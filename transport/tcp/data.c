// SPDX-License-Identifier: MIT
/*
 * Data and urgent channels of tcp at the end that puts and gets (serve.c is the other end).
 *
 * put() returns once the socket has head, runs and (by reference, pages.c) page data. Replies and fence acks
 * are read by rx_step(), which never waits and resumes where it stopped: reap(0) is one recv, and a reply's
 * page data lands in the buffers given to get().
 *
 * If a get's request does not fit into the socket, get() receives replies while it waits: the peer may be
 * blocked until this end reads them.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"
#include "runtime/base/fail.h"

static struct tcp_data *data_of(struct xport_chan *chan)
{
	return (struct tcp_data *)chan;
}

/* The get whose reply is arriving or comes next. */
static struct tcp_get *oldest_get(struct tcp_data *c)
{
	return &c->get[xp_gets_at(&c->gets, c->gets.ndone)];
}

static int broken(struct tcp_data *c)
{
	return atomic_load(&c->link->killed) ? -EPIPE : c->err;
}

/* Fill tx with a frame's head and runs: iov[0], and iov[1] if not all runs are inline. Returns how many. */
static int tx_frame(struct tcp_data *c, enum tcp_frame_type type, uint32_t tag, const struct page_run *runs,
		    unsigned n, uint64_t bytes)
{
	unsigned i;

	c->tx.head = (struct tcp_frame){
		.magic = htole32(TCP_MAGIC_FRAME),
		.type = htole16(type),
		.nruns = htole16((uint16_t)n),
		.tag = htole32(tag),
		.bytes = htole64(bytes),
	};
	for (i = 0; i < n; i++) {
		struct tcp_run *to = i < TCP_RUNS_INLINE ? &c->tx.head.runs[i]
							 : &c->tx.more[i - TCP_RUNS_INLINE];

		*to = (struct tcp_run){ .region = htole32(runs[i].region),
					.npages = htole32(runs[i].npages),
					.page = htole64(runs[i].page) };
	}
	c->tx.iov[0] = (struct iovec){ .iov_base = &c->tx.head, .iov_len = sizeof(c->tx.head) };
	if (n <= TCP_RUNS_INLINE)
		return 1;
	c->tx.iov[1] = (struct iovec){ .iov_base = c->tx.more,
				       .iov_len = (n - TCP_RUNS_INLINE) * sizeof(c->tx.more[0]) };
	return 2;
}

static int tx_small(struct tcp_data *c, enum tcp_frame_type type, uint32_t tag, const struct page_run *runs,
		    unsigned n, uint64_t bytes)
{
	int k = tx_frame(c, type, tag, runs, n, bytes);

	c->err = tcp_send_all(c->link, c->fd, c->tx.iov, k, 0, c);
	return c->err;
}

/* put: the runs' memory must be exposed here. A get brings its own buffers. */
static int check_runs(struct tcp_data *c, bool put, const struct page_run *runs, unsigned n, uint64_t *bytes)
{
	char why[XP_WHY_MAX];

	if (xp_runs_check(&c->link->table, runs, n, put, bytes, why))
		return fail(c->link->link.fail, -EINVAL, "tcp: %s of memory that is not exposed: %s",
			    put ? "put" : "get", why);
	return 0;
}

static int data_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct tcp_data *c = data_of(chan);
	uint64_t bytes;
	int err, k;

	err = broken(c);
	if (!err)
		err = check_runs(c, true, runs, n, &bytes);
	if (err)
		return err;
	k = tx_frame(c, TCP_PUT, 0, runs, n, bytes);
	xp_runs_iov(&c->link->table, runs, n, c->tx.iov + k);
	err = tcp_send_all(c->link, c->fd, c->tx.iov, k, MSG_MORE, NULL);
	if (!err)
		err = tcp_send_pages(c, c->tx.iov + k, (int)n);
	if (err == -EFAULT)
		err = xp_unreachable(&c->link->table, runs, n, NULL, false, c->link->link.fail);
	c->err = err;
	return err;
}

static int rx_bad(struct tcp_data *c, const char *what)
{
	const struct tcp_frame *h = &c->rx.head;

	return fail(c->link->link.fail, -EPROTO,
		    "tcp: the peer sent a frame of type %u, tag %u, %llu bytes, %u runs: %s",
		    le16toh(h->type), le32toh(h->tag), (unsigned long long)le64toh(h->bytes),
		    le16toh(h->nruns), what);
}

/* A whole head has arrived: check it and prepare for what it announces. */
static int rx_head(struct tcp_data *c)
{
	const struct tcp_frame *h = &c->rx.head;
	uint32_t tag = le32toh(h->tag);
	struct tcp_get *g;

	c->rx.got = 0;
	if (le32toh(h->magic) != TCP_MAGIC_FRAME || h->nruns || h->reserved0 || h->reserved1)
		return rx_bad(c, "not an answer");
	switch (le16toh(h->type)) {
	case TCP_FENCE_ACK:
		if (tag != c->fence_sent || c->fence_acked == c->fence_sent)
			return rx_bad(c, "no such fence is under way");
		c->fence_acked = tag;
		return 0;
	case TCP_REPLY:
		if (tag >= XPORT_GETS_MAX || !c->gets.inflight || !(c->gets.used >> tag & 1))
			return rx_bad(c, "no such get is under way");
		g = oldest_get(c);
		if (g != &c->get[tag])
			return rx_bad(c, "another get was asked before");
		if (le64toh(h->bytes) != g->bytes)
			return rx_bad(c, "not as long as the get");
		c->rx.at = g->iov + 1;
		c->rx.n = (int)g->n;
		c->rx.left = g->bytes;
		return 0;
	default:
		return rx_bad(c, "not an answer");
	}
}

/*
 * Receive what has arrived, at most to the end of a frame. If only replies can come, receive the next one's
 * page data together with its head, directly into its destination: one call for a page that a vCPU waits for.
 */
static ssize_t rx_recv(struct tcp_data *c)
{
	struct iovec head = { (char *)&c->rx.head + c->rx.got, sizeof(c->rx.head) - c->rx.got };
	struct msghdr msg = { .msg_iov = &head, .msg_iovlen = 1 };
	struct tcp_get *g;

	if (c->rx.at) {
		msg.msg_iov = c->rx.at;
		msg.msg_iovlen = (size_t)c->rx.n;
	} else if (c->gets.inflight && c->fence_acked == c->fence_sent) {
		g = oldest_get(c);
		g->iov[0] = head;
		msg.msg_iov = g->iov;
		msg.msg_iovlen = 1 + g->n;
	}
	return recvmsg(c->fd, &msg, MSG_DONTWAIT);
}

static void rx_data(struct tcp_data *c, size_t n)
{
	c->rx.left -= n;
	xp_iov_advance(&c->rx.at, &c->rx.n, n);
	if (c->rx.left)
		return;
	c->rx.at = NULL;
	xp_gets_done(&c->gets);
}

/* Account for n received bytes. 1: a frame is complete, 0: not yet, or a negative errno. */
static int rx_got(struct tcp_data *c, size_t n)
{
	size_t of_head = sizeof(c->rx.head) - c->rx.got;
	int err;

	if (!c->rx.at) {
		of_head = n < of_head ? n : of_head;
		c->rx.got += of_head;
		if (c->rx.got < sizeof(c->rx.head))
			return 0;
		err = rx_head(c);
		if (err || !c->rx.at)
			return err ? err : 1;
		n -= of_head;
	}
	if (n)
		rx_data(c, n);
	return !c->rx.at;
}

/* Replies cannot be written to their destination: report the first such page of the oldest get. */
static int rx_unreachable(struct tcp_data *c)
{
	const struct tcp_get *g = oldest_get(c);
	void *dst[XPORT_RUNS_MAX];

	for (unsigned i = 0; i < g->n; i++) /* received bytes advance the base; the end stays */
		dst[i] = (uint8_t *)g->iov[1 + i].iov_base + g->iov[1 + i].iov_len -
			 ((size_t)g->runs[i].npages << PAGE_SHIFT);
	return xp_unreachable(&c->link->table, g->runs, g->n, dst, true, c->link->link.fail);
}

/* Receive up to the end of one frame: 0, -EAGAIN if nothing more is here, or the error. */
static int rx_step(struct tcp_data *c)
{
	ssize_t n;
	int end = 0;

	do {
		n = rx_recv(c);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EFAULT)
			return rx_unreachable(c);
		if (n < 0)
			return errno == EAGAIN ? -EAGAIN : tcp_err(c->link, c->fd, "recvmsg", errno);
		if (!n)
			return tcp_closed(c->link, c->fd);
		c->rx.stamp_us = 0; /* bytes have moved */
		end = rx_got(c, (size_t)n);
	} while (!end);
	return end < 0 ? end : 0;
}

int tcp_data_take(struct tcp_data *c)
{
	int err;

	do {
		err = rx_step(c);
	} while (!err);
	return err == -EAGAIN ? 0 : err;
}

/* Wait for data until end: 0 if some may be here, -EAGAIN at end, -ETIMEDOUT after the link's timeout. */
static int rx_wait(struct tcp_data *c, uint64_t end)
{
	uint64_t now = now_us(), left, timeout = c->link->param.timeout_us;
	int err;

	if (!c->rx.stamp_us)
		c->rx.stamp_us = now;
	if (now - c->rx.stamp_us > timeout && (c->gets.inflight || c->rx.got))
		return tcp_silent(c->link, c->fd);
	if (now >= end)
		return -EAGAIN;
	left = end - now < timeout ? end - now : timeout;
	err = tcp_poll(c->fd, POLLIN, left);
	return !err || err == -EAGAIN ? 0 : tcp_err(c->link, c->fd, "poll", err);
}

static int data_fence(struct xport_chan *chan)
{
	struct tcp_data *c = data_of(chan);
	struct tcp_watch watch = { 0 };
	int err = broken(c);

	if (err)
		return err;
	c->fence_sent++;
	err = tx_small(c, TCP_FENCE, c->fence_sent, NULL, 0, 0);
	while (!err && c->fence_acked != c->fence_sent) {
		if (atomic_load(&c->link->killed))
			return -EPIPE;
		err = rx_step(c);
		if (err != -EAGAIN)
			continue;
		err = tcp_wait(c->link, c->fd, POLLIN, &watch);
	}
	if (err)
		c->err = err;
	return err;
}

static int data_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		    uint32_t tag)
{
	struct tcp_data *c = data_of(chan);
	struct tcp_get *g;
	uint64_t bytes;
	unsigned i;
	int err;

	err = broken(c);
	if (!err)
		err = xp_gets_check(&c->gets, tag, "tcp", c->link->link.fail);
	if (!err)
		err = check_runs(c, false, runs, n, &bytes);
	if (err)
		return err;
	g = &c->get[tag];
	xp_runs_iov(&c->link->table, runs, n, g->iov + 1);
	for (i = 0; i < n; i++) {
		g->iov[1 + i].iov_base = dst[i];
		g->runs[i] = runs[i];
	}
	g->n = n;
	g->bytes = bytes;
	err = tx_small(c, TCP_GET, tag, runs, n, bytes);
	if (err)
		return err;
	if (!c->gets.inflight)
		c->rx.stamp_us = 0; /* the timeout counts from the first get */
	xp_gets_begin(&c->gets, tag);
	return 0;
}

static int data_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct tcp_data *c = data_of(chan);
	uint64_t end = 0;
	int err;

	if (!max)
		return -EINVAL;
	for (;;) {
		err = broken(c);
		if (err)
			return err;
		while (c->gets.ndone < max && (c->gets.inflight || !c->gets.ndone)) {
			err = rx_step(c);
			if (err)
				break;
		}
		if (c->gets.ndone)
			break;
		if (err == -EAGAIN) {
			if (!end)
				end = deadline_after(now_us(), wait_us);
			err = rx_wait(c, end);
			if (err == -EAGAIN)
				return err;
		}
		if (err) {
			c->err = err;
			return err;
		}
	}
	if (err && err != -EAGAIN)
		c->err = err; /* return what has completed; the next call returns the error */
	return xp_gets_take(&c->gets, tags, max);
}

static int data_end(struct xport_chan *chan)
{
	struct tcp_data *c = data_of(chan);
	int err = broken(c);

	return err ? err : tx_small(c, TCP_END, 0, NULL, 0, 0);
}

static int data_fd(struct xport_chan *chan)
{
	return data_of(chan)->fd;
}

static const struct xport_chan_ops data_ops = {
	.fd = data_fd,
	.put = data_put,
	.fence = data_fence,
	.get = data_get,
	.reap = data_reap,
	.end = data_end,
	.serve = tcp_serve,
	.pair = tcp_pair,
};

int tcp_data_new(struct tcp_data **ret, struct tcp_link *l, int fd, bool urgent)
{
	struct tcp_data *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->chan.ops = &data_ops;
	c->link = l;
	c->fd = fd;
	c->urgent = urgent;
	*ret = c;
	return 0;
}

void tcp_data_free(struct tcp_data *c)
{
	const struct linger now = { .l_onoff = 1 };

	if (!c)
		return;
	/* After a failure discard the queue: it refers to memory that the guest may write again. */
	if (broken(c))
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	tcp_pipe_close(&c->pipe);
	close(c->fd);
	free(c->box);
	free(c);
}
