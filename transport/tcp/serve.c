// SPDX-License-Identifier: MIT
/*
 * Data and urgent channels of tcp at the end that serves: frames in order, one at a time. No frame is
 * trusted: head and runs are checked against the exposed memory before a byte of page data is read or sent.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp.h"
#include "runtime/base/fail.h"
#include "runtime/base/spin.h"

#define PIECE (32u << 10) /* of a reply: bounds how long an urgent request waits */

static int bad(struct tcp_data *c, const struct tcp_frame *h, const char *why)
{
	return fail(c->link->link.fail, -EPROTO,
		    "tcp: the peer sent a frame of type %u, tag %u, %llu bytes, %u runs: %s",
		    le16toh(h->type), le32toh(h->tag), (unsigned long long)le64toh(h->bytes),
		    le16toh(h->nruns), why);
}

/* Receive exactly the bytes of iov, which it modifies; a stall is an error. */
static int recv_exact(struct tcp_data *c, struct iovec *iov, int n)
{
	struct tcp_watch watch = { 0 };
	ssize_t done;
	int err = 0;

	xp_iov_advance(&iov, &n, 0);
	while (n && !err) {
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };

		if (atomic_load(&c->link->killed))
			return -EPIPE;
		done = recvmsg(c->fd, &msg, MSG_DONTWAIT);
		if (!done)
			return tcp_closed(c->link, c->fd);
		if (done < 0 && errno != EAGAIN && errno != EINTR)
			return tcp_err(c->link, c->fd, "recvmsg", errno);
		if (done > 0) {
			xp_iov_advance(&iov, &n, (size_t)done);
			watch.since_us = 0;
		}
		if (!n || (done < 0 && errno == EINTR))
			continue;
		err = tcp_wait(c->link, c->fd, POLLIN, &watch);
	}
	return err;
}

static int serve_beside(struct tcp_data *c);

/* Wait until c's fd is ready (1) or only the urgent channel has a request (0); wait_us 0: without limit. */
static int wait_both(struct tcp_data *c, short events, uint64_t wait_us)
{
	struct pollfd p[2] = { { .fd = c->fd, .events = events },
			       { .fd = c->beside ? c->beside->fd : -1, .events = POLLIN } };

	if (poll(p, 2, wait_us ? xp_poll_ms(wait_us) : -1) < 0)
		return errno == EINTR ? 1 : tcp_err(c->link, c->fd, "poll", errno);
	return p[0].revents || !p[1].revents;
}

/* How many entries of iov fit into PIECE bytes. 0: the first is larger, *head is its first PIECE bytes. */
static int cut_piece(struct iovec *iov, int n, struct iovec *head)
{
	size_t sum = 0;
	int k;

	if (iov[0].iov_len > PIECE) {
		*head = (struct iovec){ iov[0].iov_base, PIECE };
		return 0;
	}
	for (k = 0; k < n && sum + iov[k].iov_len <= PIECE; k++)
		sum += iov[k].iov_len;
	return k;
}

/* Send a large reply in pieces and serve the urgent channel between them. */
static int send_pieces(struct tcp_data *c, struct iovec *iov, int n)
{
	struct tcp_watch watch = { 0 };
	struct iovec head;
	ssize_t done;
	int err = 0, k;

	while (n && !err) {
		struct msghdr msg = { .msg_iov = &head, .msg_iovlen = 1 };

		if (atomic_load(&c->link->killed))
			return -EPIPE;
		k = cut_piece(iov, n, &head);
		if (k)
			msg = (struct msghdr){ .msg_iov = iov, .msg_iovlen = (size_t)k };
		done = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL | (k < n ? MSG_MORE : 0));
		if (done < 0 && errno != EAGAIN && errno != EINTR)
			return tcp_err(c->link, c->fd, "sendmsg", errno);
		if (done >= 0) {
			xp_iov_advance(&iov, &n, (size_t)done);
			watch.since_us = 0;
		} else if (errno == EAGAIN) {
			err = wait_both(c, POLLOUT, c->link->param.timeout_us / 4 + 1);
			if (err >= 0 && tcp_watch_idle(&watch, c->fd, c->link->param.timeout_us))
				return tcp_silent(c->link, c->fd);
		}
		if (err >= 0)
			err = serve_beside(c);
		err = err > 0 ? 0 : err;
	}
	return err;
}

static int send_reply(struct tcp_data *c, struct iovec *iov, int n, uint64_t bytes)
{
	return c->beside && bytes > PIECE ? send_pieces(c, iov, n)
					  : tcp_send_all(c->link, c->fd, iov, n, 0, NULL);
}

/* Receive a head: 1, or 0 if no byte of it has come, or -errno. Waits for the rest of one that has begun. */
static int try_frame(struct tcp_data *c, struct tcp_frame *h)
{
	struct iovec iov;
	int err, res;

	if (atomic_load(&c->link->killed))
		return -EPIPE;
	res = (int)recv(c->fd, h, sizeof(*h), MSG_DONTWAIT);
	if (res < 0)
		return errno == EINTR || errno == EAGAIN ? 0 : tcp_err(c->link, c->fd, "recv", errno);
	if (!res)
		return tcp_closed(c->link, c->fd);
	iov = (struct iovec){ .iov_base = (char *)h + res, .iov_len = sizeof(*h) - (size_t)res };
	err = recv_exact(c, &iov, 1);
	return err ? err : 1;
}

/* Wait for the next frame without limit; poll for poll_us after each urgent request, then sleep. */
static int next_frame(struct tcp_data *c, struct tcp_frame *h)
{
	uint64_t cold = 0, now;
	int got = 0, served, ready = 1;

	for (;;) {
		if (ready)
			got = try_frame(c, h);
		if (got)
			return got < 0 ? got : 0;
		served = serve_beside(c);
		if (served < 0)
			return served;
		now = now_us();
		if (!cold || served)
			cold = now + (c->urgent || c->beside ? c->link->param.poll_us : 0);
		ready = 1;
		if (now < cold && spin_on(&c->spin))
			continue;
		ready = wait_both(c, POLLIN, 0);
		if (ready < 0)
			return ready;
	}
}

/* Receive the runs of a PUT or GET into c->runs and check them; on 0 the frame may be executed. */
static int take_runs(struct tcp_data *c, const struct tcp_frame *h, unsigned n, enum xport_access need)
{
	uint64_t bytes, said = le64toh(h->bytes);
	char why[XP_WHY_MAX];
	unsigned i;
	int err;

	if (!n || n > XPORT_RUNS_MAX)
		return bad(c, h, "too many runs, or none");
	if (!(c->link->table.access & need))
		return bad(c, h,
			   need == XPORT_PEER_WRITE ? "memory is not exposed for writing"
						    : "memory is not exposed for reading");
	if (n > TCP_RUNS_INLINE) {
		struct iovec iov = { .iov_base = c->more,
				     .iov_len = (n - TCP_RUNS_INLINE) * sizeof(c->more[0]) };

		err = recv_exact(c, &iov, 1);
		if (err)
			return err;
	}
	for (i = 0; i < n; i++) {
		const struct tcp_run *r = i < TCP_RUNS_INLINE ? &h->runs[i] : &c->more[i - TCP_RUNS_INLINE];

		c->runs[i] = (struct page_run){ .region = le32toh(r->region),
						.npages = le32toh(r->npages),
						.page = le64toh(r->page) };
	}
	if (xp_runs_check(&c->link->table, c->runs, n, true, &bytes, why))
		return bad(c, h, why);
	if (bytes != said)
		return bad(c, h, "its runs do not add up to its bytes");
	return 0;
}

/* Receive the page data of runs in place. */
static int recv_runs(struct tcp_data *c, const struct page_run *runs, unsigned n)
{
	int err;

	xp_runs_iov(&c->link->table, runs, n, c->iov);
	err = recv_exact(c, c->iov, (int)n);
	return err == -EFAULT ? xp_unreachable(&c->link->table, runs, n, NULL, true, c->link->link.fail)
			      : err;
}

/*
 * Receive the page data of runs, which it consumes, into the box, and hand it over each time that is full.
 * The box begins at a page, as the data does at the source: where source and destination of a copy differ in
 * the lower bits of their addresses, string moves take three times as long on some processors.
 */
static int land_runs(struct tcp_data *c, const struct xport_lander *to, struct page_run *runs, unsigned n)
{
	struct page_run part[XPORT_RUNS_MAX];
	int err = 0;

	if (!c->box)
		c->box = aligned_alloc(PAGE_BYTES, LANDING_BYTES);
	if (!c->box)
		return -ENOMEM;
	while (n && !err) {
		unsigned k = xp_runs_cut(&runs, &n, LANDING_BYTES >> PAGE_SHIFT, part);
		struct iovec iov = { c->box, xp_runs_pages(part, k) << PAGE_SHIFT };

		err = recv_exact(c, &iov, 1);
		if (!err)
			err = to->land(to->arg, part, k, c->box);
	}
	return err;
}

static int serve_put(struct tcp_data *c, const struct tcp_frame *h, unsigned n)
{
	int err = take_runs(c, h, n, XPORT_PEER_WRITE);

	for (unsigned i = 0, k; i < n && !err; i += k) {
		const struct xport_lander *to = xp_lander(&c->link->table, &c->runs[i]);

		for (k = 1; i + k < n && xp_lander(&c->link->table, &c->runs[i + k]) == to; k++)
			;
		err = to ? land_runs(c, to, &c->runs[i], k) : recv_runs(c, &c->runs[i], k);
	}
	return err;
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
	err = send_reply(c, c->iov, (int)n + 1, sizeof(reply) + le64toh(h->bytes));
	return err == -EFAULT ? xp_unreachable(&c->link->table, c->runs, n, NULL, false, c->link->link.fail)
			      : err;
}

static int serve_fence(struct tcp_data *c, const struct tcp_frame *h)
{
	struct tcp_frame ack = { .magic = htole32(TCP_MAGIC_FRAME),
				 .type = htole16(TCP_FENCE_ACK),
				 .tag = h->tag };
	struct iovec iov = { .iov_base = &ack, .iov_len = sizeof(ack) };

	return tcp_send_all(c->link, c->fd, &iov, 1, 0, NULL);
}

/* Execute one frame whose head has arrived: 0, 1 if it was END, or -errno. */
static int obey(struct tcp_data *c, const struct tcp_frame *h)
{
	unsigned n = le16toh(h->nruns);
	int err;

	if (le32toh(h->magic) != TCP_MAGIC_FRAME || h->reserved0 || h->reserved1)
		return bad(c, h, "not a frame");
	switch (le16toh(h->type)) {
	case TCP_PUT:
		err = serve_put(c, h, n);
		break;
	case TCP_GET:
		err = serve_get(c, h, n);
		break;
	case TCP_FENCE:
		return n || h->bytes ? bad(c, h, "a fence carries nothing") : serve_fence(c, h);
	case TCP_END:
		return n || h->bytes ? bad(c, h, "an end carries nothing") : 1;
	default:
		return bad(c, h, "not a request");
	}
	if (!err && c->moved)
		c->moved(c->moved_arg, le64toh(h->bytes) >> PAGE_SHIFT);
	return err;
}

/* Serve everything that has come on the urgent channel: the number of frames, or -errno. */
static int serve_beside(struct tcp_data *c)
{
	struct tcp_frame h;
	int n = 0, err;

	while (c->beside) {
		err = try_frame(c->beside, &h);
		if (!err)
			break;
		if (err > 0)
			err = obey(c->beside, &h);
		if (err < 0)
			return err;
		if (err)
			c->beside = NULL;
		n++;
	}
	return n;
}

int tcp_pair(struct xport_chan *chan, struct xport_chan *urgent)
{
	struct tcp_data *c = (struct tcp_data *)chan, *u = (struct tcp_data *)urgent;

	if (c->urgent || !u->urgent)
		return -EINVAL;
	c->beside = u;
	return 0;
}

static int serve_until_end(struct tcp_data *c)
{
	struct tcp_frame h;
	int err;

	if (atomic_load(&c->link->killed))
		return -EPIPE;
	if (c->err)
		return c->err;
	do {
		err = next_frame(c, &h);
		if (!err)
			err = obey(c, &h);
	} while (!err);
	if (err < 0)
		c->err = err;
	return err < 0 ? err : 0;
}

int tcp_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg)
{
	struct tcp_data *c = (struct tcp_data *)chan, *u = c->beside;
	int err;

	c->moved = moved;
	c->moved_arg = arg;
	if (u) {
		u->moved = moved;
		u->moved_arg = arg;
	}
	err = serve_until_end(c);
	if (!err && c->beside)
		err = serve_until_end(u);
	c->beside = NULL;
	return err;
}
