// SPDX-License-Identifier: MIT
/*
 * Data and urgent channels, the end that serves: frames in order, one at a time. Nothing in a frame is
 * believed: the whole head and all runs are checked against the exposed memory before a byte of page data
 * is read or sent.
 */
#include <endian.h>
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "../runtime/fail.h"
#include "tcp.h"

#define PLAIN_MAX (64u << 10) /* a reply up to here goes by one plain sendmsg, which does not wait */

static int bad(struct tcp_data *c, const struct tcp_frame *h, const char *why)
{
	return fail(c->link->link.fail, -EPROTO,
		    "tcp: the peer sent a frame of type %u, tag %u, %llu bytes, %u runs: %s", le16toh(h->type),
		    le32toh(h->tag), (unsigned long long)le64toh(h->bytes), le16toh(h->nruns), why);
}

/* Exactly bytes into iov (which is changed); standing still is an error. */
static int recv_exact(struct tcp_data *c, struct iovec *iov, int n, uint64_t bytes)
{
	struct msghdr msg = { 0 };
	int err, res;

	while (bytes) {
		msg.msg_iov = iov;
		msg.msg_iovlen = (size_t)n;
		err = tcp_ring_recv(&c->ring, &msg, true);
		if (!err)
			err = tcp_ring_wait(&c->ring, c->link->param.timeout_us, &res);
		if (!err && res <= 0)
			err = res ? res : -EPIPE;
		if (err)
			return tcp_err(c->link, err);
		bytes -= (uint64_t)res;
		xp_iov_advance(&iov, &n, (size_t)res);
	}
	return 0;
}

static int send_reply(struct tcp_data *c, struct iovec *iov, int n, uint64_t bytes)
{
	struct msghdr msg = { 0 };
	int err, res;

	if (bytes <= PLAIN_MAX)
		return tcp_send_all(c->link, c->fd, iov, n, NULL);
	while (bytes) {
		msg.msg_iov = iov;
		msg.msg_iovlen = (size_t)n;
		err = tcp_ring_send(&c->ring, &msg);
		if (!err)
			err = tcp_ring_wait(&c->ring, c->link->param.timeout_us, &res);
		if (!err && res <= 0)
			err = res ? res : -EPIPE;
		if (err)
			return tcp_err(c->link, err);
		bytes -= (uint64_t)res;
		xp_iov_advance(&iov, &n, (size_t)res);
	}
	return 0;
}

/* Waits for the peer as long as it takes, hot for poll_us on the urgent channel, then reads the whole head. */
static int next_frame(struct tcp_data *c, struct tcp_frame *h)
{
	struct iovec iov = { .iov_base = h, .iov_len = sizeof(*h) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	uint64_t cold = 0, now;
	int err, res;

	for (;;) {
		if (atomic_load(&c->link->killed))
			return -EPIPE;
		res = (int)recv(c->fd, h, sizeof(*h), MSG_DONTWAIT);
		if (res >= 0)
			break;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return tcp_err(c->link, errno);
		now = c->urgent ? xp_now_us() : 0;
		if (!cold)
			cold = now + c->link->param.poll_us;
		if (c->urgent && now < cold) {
			sched_yield();
			continue;
		}
		err = tcp_ring_recv(&c->ring, &msg, false);
		if (!err)
			err = tcp_ring_wait(&c->ring, 0, &res);
		if (err || res < 0)
			return tcp_err(c->link, err ? err : res);
		break;
	}
	if (!res)
		return -EPIPE;
	iov = (struct iovec){ .iov_base = (char *)h + res, .iov_len = sizeof(*h) - (size_t)res };
	return recv_exact(c, &iov, 1, sizeof(*h) - (uint64_t)res);
}

/* The runs of a PUT or GET into c->runs, checked; then the frame may be obeyed. */
static int take_runs(struct tcp_data *c, const struct tcp_frame *h, unsigned n, enum xport_access need)
{
	uint64_t bytes, said = le64toh(h->bytes);
	char why[XP_WHY_MAX];
	unsigned i;
	int err;

	if (!n || n > XPORT_RUNS_MAX)
		return bad(c, h, "too many runs, or none");
	if (!(c->link->table.access & need))
		return bad(c, h, need == XPORT_PEER_WRITE ? "memory is not exposed for writing" :
							    "memory is not exposed for reading");
	if (n > TCP_RUNS_INLINE) {
		struct iovec iov = { .iov_base = c->more, .iov_len = (n - TCP_RUNS_INLINE) * sizeof(c->more[0]) };

		err = recv_exact(c, &iov, 1, iov.iov_len);
		if (err)
			return err;
	}
	for (i = 0; i < n; i++) {
		const struct tcp_run *r = i < TCP_RUNS_INLINE ? &h->runs[i] : &c->more[i - TCP_RUNS_INLINE];

		c->runs[i] = (struct page_run){ .region = le32toh(r->region),
						.npages = le32toh(r->npages),
						.page = le64toh(r->page) };
	}
	if (xp_runs_check(&c->link->table, c->runs, n, &bytes, why))
		return bad(c, h, why);
	if (bytes != said)
		return bad(c, h, "its runs do not add up to its bytes");
	return 0;
}

static uint64_t pages_of(const struct page_run *runs, unsigned n)
{
	uint64_t sum = 0;

	while (n--)
		sum += runs[n].npages;
	return sum;
}

static int serve_put(struct tcp_data *c, const struct tcp_frame *h, unsigned n)
{
	int err = take_runs(c, h, n, XPORT_PEER_WRITE);

	if (err)
		return err;
	xp_runs_iov(&c->link->table, c->runs, n, c->iov);
	return recv_exact(c, c->iov, (int)n, le64toh(h->bytes));
}

static int serve_get(struct tcp_data *c, const struct tcp_frame *h, unsigned n)
{
	struct tcp_frame reply = { .magic = htole32(TCP_MAGIC_FRAME),
				   .type = htole16(TCP_REPLY),
				   .tag = h->tag,
				   .bytes = h->bytes };
	int err;

	if (le32toh(h->tag) >= XPORT_GETS_MAX)
		return bad(c, h, "tags are below 64");
	err = take_runs(c, h, n, XPORT_PEER_READ);
	if (err)
		return err;
	c->iov[0] = (struct iovec){ .iov_base = &reply, .iov_len = sizeof(reply) };
	xp_runs_iov(&c->link->table, c->runs, n, c->iov + 1);
	return send_reply(c, c->iov, (int)n + 1, sizeof(reply) + le64toh(h->bytes));
}

static int serve_fence(struct tcp_data *c, const struct tcp_frame *h)
{
	struct tcp_frame ack = { .magic = htole32(TCP_MAGIC_FRAME), .type = htole16(TCP_FENCE_ACK), .tag = h->tag };
	struct iovec iov = { .iov_base = &ack, .iov_len = sizeof(ack) };

	return tcp_send_all(c->link, c->fd, &iov, 1, NULL);
}

/* One frame: 0, 1: it was END, -errno. */
static int serve_one(struct tcp_data *c, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct tcp_frame h;
	unsigned n;
	int err;

	err = next_frame(c, &h);
	if (err)
		return err;
	n = le16toh(h.nruns);
	if (le32toh(h.magic) != TCP_MAGIC_FRAME || h.reserved0 || h.reserved1)
		return bad(c, &h, "not a frame");
	switch (le16toh(h.type)) {
	case TCP_PUT:
		err = serve_put(c, &h, n);
		break;
	case TCP_GET:
		err = serve_get(c, &h, n);
		break;
	case TCP_FENCE:
		return n || h.bytes ? bad(c, &h, "a fence carries nothing") : serve_fence(c, &h);
	case TCP_END:
		return n || h.bytes ? bad(c, &h, "an end carries nothing") : 1;
	default:
		return bad(c, &h, "not a request");
	}
	if (!err && moved)
		moved(arg, pages_of(c->runs, n));
	return err;
}

int tcp_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct tcp_data *c = (struct tcp_data *)chan;
	int err = 0;

	if (atomic_load(&c->link->killed))
		return -EPIPE;
	if (c->err)
		return c->err;
	while (!err)
		err = serve_one(c, moved, arg);
	if (err == 1)
		return 0;
	c->err = err;
	return err;
}
