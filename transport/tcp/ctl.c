// SPDX-License-Identifier: MIT
/* The control channel of tcp: whole messages. send and recv share no state, so they may run concurrently. */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "tcp.h"
#include "runtime/base/fail.h"

#define CTL_IOV_MAX 15

static struct tcp_ctl *ctl_of(struct xport_chan *chan)
{
	return (struct tcp_ctl *)chan;
}

/* Send a message in its frame. !whole: the frame announces the full length, but half is sent. */
static int send_frame(struct tcp_ctl *c, const struct iovec *iov, int n, bool whole)
{
	struct iovec v[1 + CTL_IOV_MAX];
	struct tcp_msg head;
	size_t len = 0, left;
	int i;

	if (n < 0 || n > CTL_IOV_MAX)
		return -EINVAL;
	for (i = 0; i < n; i++) {
		if (iov[i].iov_len > XPORT_MSG_MAX - len)
			return -EMSGSIZE;
		len += iov[i].iov_len;
		v[1 + i] = iov[i];
	}
	if (atomic_load(&c->link->killed))
		return -EPIPE;
	if (c->tx_err)
		return c->tx_err;
	for (i = 0, left = len / 2; i < n && !whole; i++) {
		v[1 + i].iov_len = iov[i].iov_len < left ? iov[i].iov_len : left;
		left -= v[1 + i].iov_len;
	}
	head = (struct tcp_msg){ .magic = htole32(TCP_MAGIC_MSG), .len = htole32((uint32_t)len) };
	v[0] = (struct iovec){ .iov_base = &head, .iov_len = sizeof(head) };
	c->tx_err = tcp_send_msg(c->link, c->fd, v, n + 1);
	return c->tx_err;
}

static int ctl_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	return send_frame(ctl_of(chan), iov, n, true);
}

#if FERRY_DRILL
int tcp_tear(struct xport_link *l, const struct iovec *iov, int n)
{
	int err = send_frame(((struct tcp_link *)l)->ctl, iov, n, false);

	l->ops->kill(l);
	return err ? err : -EPIPE;
}
#endif

/* Receive head and body, but nothing of the next message, so poll() still reports it. -EAGAIN: incomplete. */
static int ctl_fill(struct tcp_ctl *c)
{
	for (;;) {
		size_t want = sizeof(c->rx_head), at = c->rx_got;
		uint8_t *to = (uint8_t *)&c->rx_head + at;
		ssize_t n;

		if (at >= sizeof(c->rx_head)) {
			uint32_t len = le32toh(c->rx_head.len);

			if (le32toh(c->rx_head.magic) != TCP_MAGIC_MSG || len > XPORT_MSG_MAX)
				return fail(c->link->link.fail, -EPROTO,
					    "tcp: the peer sent a control message with magic %08x and length %u; "
					    "the longest is %u",
					    le32toh(c->rx_head.magic), len, XPORT_MSG_MAX);
			want += len;
			to = c->rx_body + (at - sizeof(c->rx_head));
		}
		if (at == want)
			return 0;
		n = recv(c->fd, to, want - at, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -EAGAIN : tcp_err(c->link, c->fd, "recv", errno);
		if (!n)
			return tcp_closed(c->link, c->fd);
		c->rx_got += (size_t)n;
		c->rx_stamp_us = now_us();
	}
}

static int ctl_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct tcp_ctl *c = ctl_of(chan);
	uint64_t end = 0, now, left;
	size_t size;
	int err;

	for (;;) {
		if (atomic_load(&c->link->killed))
			return -EPIPE;
		if (c->rx_err)
			return c->rx_err;
		err = ctl_fill(c);
		if (!err)
			break;
		if (err != -EAGAIN) {
			c->rx_err = err;
			return err;
		}
		now = now_us();
		if (!end)
			end = deadline_after(now, wait_us);
		if (c->rx_got && now - c->rx_stamp_us > c->link->param.timeout_us) {
			c->rx_err = tcp_silent(c->link, c->fd);
			return c->rx_err;
		}
		if (now >= end)
			return -EAGAIN;
		left = end - now;
		if (c->rx_got && left > c->link->param.timeout_us)
			left = c->link->param.timeout_us;
		err = tcp_poll(c->fd, POLLIN, left);
		if (err && err != -EAGAIN)
			return tcp_err(c->link, c->fd, "poll", err);
	}
	size = le32toh(c->rx_head.len);
	if (size > cap)
		return -EMSGSIZE; /* the message stays: call again with a larger buffer */
	memcpy(buf, c->rx_body, size);
	*len = size;
	c->rx_got = 0;
	return 0;
}

static int ctl_fd(struct xport_chan *chan)
{
	return ctl_of(chan)->fd;
}

static const struct xport_chan_ops ctl_ops = { .send = ctl_send, .recv = ctl_recv, .fd = ctl_fd };

int tcp_ctl_new(struct tcp_ctl **ret, struct tcp_link *l, int fd)
{
	struct tcp_ctl *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->chan.ops = &ctl_ops;
	c->link = l;
	c->fd = fd;
	*ret = c;
	return 0;
}
