// SPDX-License-Identifier: MIT
/* Socket calls of the tcp transport: none blocks, and waits end when no progress is made. */
#include <errno.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "congestion.h"
#include "tcp.h"
#include "runtime/base/fail.h"

struct chan_name {
	char text[24];
};

static struct chan_name name_of(const struct tcp_link *l, int fd)
{
	struct chan_name n = { "urgent channel" };
	unsigned i;

	if (l->ctl->fd == fd)
		n = (struct chan_name){ "control channel" };
	for (i = 0; i < l->link.id.channels; i++)
		if (l->data[i]->fd == fd)
			snprintf(n.text, sizeof(n.text), "data channel %u", i);
	return n;
}

/*
 * A connection that has ended reports POLLHUP, whatever errno ended it: an ICMP error can give EACCES or
 * EPROTO. If a seccomp filter refuses a call, the connection stays up.
 */
static bool has_ended(int fd)
{
	struct pollfd p = { .fd = fd };

	return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

int tcp_err(struct tcp_link *l, int fd, const char *call, int err)
{
	struct chan_name chan = name_of(l, fd);

	if (err < 0)
		err = -err;
	if (atomic_load(&l->killed))
		return -EPIPE;
	if (err == EFAULT || err == EHWPOISON) /* guest memory: the caller reports the page */
		return -EFAULT;
	if (!xport_lost(err) && !has_ended(fd))
		return fail_cure(l->link.fail, CURE_TRANSFER, -err, "tcp: %s on the %s", call, chan.text);
	fail_lost(l->link.fail, "%s: %s", chan.text, strerror(err));
	return err == ETIMEDOUT ? -ETIMEDOUT : -EPIPE;
}

int tcp_closed(struct tcp_link *l, int fd)
{
	return atomic_load(&l->killed)
		       ? -EPIPE
		       : fail_lost(l->link.fail, "%s: closed by the peer", name_of(l, fd).text);
}

int tcp_silent(struct tcp_link *l, int fd)
{
	fail_lost(l->link.fail, "%s: nothing has moved for %llu ms", name_of(l, fd).text,
		  (unsigned long long)l->param.timeout_us / 1000);
	return -ETIMEDOUT;
}

static int tune_congestion(int fd, const struct uri *u, struct fail *f)
{
	const char *asked = uri_query(u, "congestion");

	if (!asked)
		congestion_default(fd);
	else if (congestion_set(fd, asked))
		return fail_cure(f, CURE_CONGESTION, -errno, "URI option congestion=%s", asked);
	return 0;
}

/* Socket buffer sizes stay the kernel's: fixed ones of 256 KiB to 4 MiB were no faster over loopback. */
int tcp_sock_tune(int fd, const struct uri *u, struct fail *f)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return tune_congestion(fd, u, f);
}

bool tcp_watch_idle(struct tcp_watch *w, int fd, uint64_t timeout_us)
{
	struct tcp_info info = { .tcpi_state = 0 };
	socklen_t len = sizeof(info);
	uint64_t bytes, now = now_us();

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    len < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
		bytes = 0;
	else
		bytes = info.tcpi_bytes_acked + (w->sent_only ? 0 : info.tcpi_bytes_received);
	if (!w->since_us || bytes != w->bytes) {
		w->since_us = now;
		w->bytes = bytes;
		return false;
	}
	return now - w->since_us >= timeout_us;
}

/* Returns the poll events that occurred, or a negative errno. */
static int poll_until(int fd, short events, uint64_t wait_us)
{
	uint64_t end = deadline_after(now_us(), wait_us), now;
	struct pollfd p = { .fd = fd, .events = events };
	int n;

	for (;;) {
		now = now_us();
		n = poll(&p, 1, now >= end ? 0 : xp_poll_ms(end - now));
		if (n > 0)
			return p.revents;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n && now >= end)
			return -EAGAIN;
	}
}

int tcp_poll(int fd, short events, uint64_t wait_us)
{
	int got = poll_until(fd, events, wait_us);

	return got < 0 ? got : 0;
}

/*
 * A peer that closes while its receive window is full never opens it again, and its end of stream makes
 * nothing writable. So a waiting sender also polls for POLLRDHUP. Neither end ever closes one direction only.
 */
int tcp_wait(struct tcp_link *l, int fd, short events, struct tcp_watch *w)
{
	int got =
		poll_until(fd, events == POLLOUT ? POLLOUT | POLLRDHUP : events, l->param.timeout_us / 4 + 1);

	if (w->end_us && now_us() >= w->end_us) {
		fail_lost(l->link.fail, "%s: a message was not taken within %llu ms", name_of(l, fd).text,
			  (unsigned long long)XPORT_MSG_TIMEOUTS * l->param.timeout_us / 1000);
		return -ETIMEDOUT;
	}
	if (got == -EAGAIN)
		return tcp_watch_idle(w, fd, l->param.timeout_us) ? tcp_silent(l, fd) : 0;
	if (got < 0)
		return tcp_err(l, fd, "poll", got);
	return (got & (POLLRDHUP | POLLOUT)) == POLLRDHUP ? tcp_closed(l, fd) : 0;
}

static int send_watched(struct tcp_link *l, int fd, struct iovec *iov, int n, int flags,
			struct tcp_data *reader, struct tcp_watch *watch)
{
	struct msghdr msg = { 0 };
	ssize_t done;
	int err;

	xp_iov_advance(&iov, &n, 0); /* skips empty entries */
	while (n) {
		if (atomic_load(&l->killed))
			return -EPIPE;
		msg.msg_iov = iov;
		msg.msg_iovlen = (size_t)n;
		done = sendmsg(fd, &msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
		if (done >= 0) {
			xp_iov_advance(&iov, &n, (size_t)done);
			watch->since_us = 0;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return tcp_err(l, fd, "sendmsg", errno);
		err = reader ? tcp_data_take(reader) : 0;
		if (err)
			return err;
		err = tcp_wait(l, fd, reader ? POLLIN | POLLOUT : POLLOUT, watch);
		if (err)
			return err;
	}
	return 0;
}

int tcp_send_all(struct tcp_link *l, int fd, struct iovec *iov, int n, int flags, struct tcp_data *reader)
{
	struct tcp_watch watch = { 0 };

	return send_watched(l, fd, iov, n, flags, reader, &watch);
}

int tcp_send_msg(struct tcp_link *l, int fd, struct iovec *iov, int n)
{
	struct tcp_watch watch = { .sent_only = true,
				   .end_us = deadline_after(now_us(),
							    XPORT_MSG_TIMEOUTS * l->param.timeout_us) };

	return send_watched(l, fd, iov, n, 0, NULL, &watch);
}
