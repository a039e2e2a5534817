// SPDX-License-Identifier: MIT
/*
 * Sends page data over a connection without a copy: vmsplice() puts references to the pages into a pipe,
 * splice() moves them on to the socket, and the device, or over loopback the receiver, reads the guest's
 * memory. So the bytes that cross are those that the page holds at that later moment. A put allows that: its
 * memory may be read until the fence (xport.h), and RDMA does the same. (If the kernel computes checksums in
 * software, a page that changes in between gives a segment with a bad checksum; TCP sends it again.)
 *
 * If the memory or the kernel refuses this (EFAULT for memory without struct page, no pipe left, a seccomp
 * filter), the channel copies from then on. splice() may be the call that is refused; the content of the pipe
 * is then discarded. So iov advances by what the socket took, not by what the pipe took.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tcp.h"

/* Pipe capacity: the most that any user may have (fs.pipe-max-size). 64 KiB is a tenth slower. */
#define PIPE_BYTES (1 << 20)

void tcp_pipe_close(struct tcp_pipe *p)
{
	if (p->state == TCP_PIPE_OPEN) {
		close(p->in);
		close(p->out);
	}
	p->state = TCP_PIPE_NONE;
}

/* From now on this channel copies; the first channel of the link reports it. */
static void refuse(struct tcp_data *c, const char *call, enum cure doing, int err)
{
	const struct xport_param *p = &c->link->param;
	char what[64];

	tcp_pipe_close(&c->pipe);
	c->pipe.state = TCP_PIPE_REFUSED;
	if (!p->slower || atomic_exchange(&c->link->copying, true))
		return;
	snprintf(what, sizeof(what), "page data is copied, %s is refused", call);
	p->slower(p->slower_arg, doing, -err, what);
}

static void pipe_open(struct tcp_data *c)
{
	int fd[2];

	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0) {
		refuse(c, "pipe2", CURE_CALL, errno);
		return;
	}
	c->pipe = (struct tcp_pipe){ .state = TCP_PIPE_OPEN, .out = fd[0], .in = fd[1] };
	if (fcntl(fd[1], F_SETPIPE_SZ, PIPE_BYTES) < PIPE_BYTES)
		refuse(c, "a pipe of 1 MiB", CURE_PIPE, errno);
}

/* splice() has no MSG_NOSIGNAL: block SIGPIPE, and consume one that we caused before the mask is restored. */
struct quiet {
	sigset_t old;
	bool pending;
};

static void only_sigpipe(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGPIPE);
}

static void quiet_begin(struct quiet *q)
{
	sigset_t set;

	sigpending(&set);
	q->pending = sigismember(&set, SIGPIPE) == 1;
	only_sigpipe(&set);
	pthread_sigmask(SIG_BLOCK, &set, &q->old);
}

static void quiet_end(struct quiet *q, int err)
{
	const struct timespec now = { 0 };
	sigset_t set;

	only_sigpipe(&set);
	if (err == -EPIPE && !q->pending)
		while (sigtimedwait(&set, NULL, &now) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &q->old, NULL);
}

/*
 * Move the pipe's left bytes, which begin at iov, to the socket. more: page data of the same frame follows.
 * 1: splice() is refused; everything from iov on is still to be sent.
 */
static int drain(struct tcp_data *c, struct iovec **iov, int *n, size_t left, bool more)
{
	struct tcp_watch watch = { 0 };
	ssize_t done;
	int err;

	while (left) {
		if (atomic_load(&c->link->killed))
			return -EPIPE;
		done = splice(c->pipe.out, NULL, c->fd, NULL, left, more ? SPLICE_F_MORE : 0);
		if (!done)
			return tcp_closed(c->link, c->fd);
		if (done > 0) {
			left -= (size_t)done;
			xp_iov_advance(iov, n, (size_t)done);
			watch.since_us = 0;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && xport_lost(errno))
			return tcp_err(c->link, c->fd, "splice", errno);
		if (errno != EAGAIN) {
			refuse(c, "splice", CURE_CALL, errno);
			return 1;
		}
		err = tcp_wait(c->link, c->fd, POLLOUT, &watch);
		if (err)
			return err;
	}
	return 0;
}

/* On 0 the caller must copy what is left of iov. */
static int by_reference(struct tcp_data *c, struct iovec **iov, int *n)
{
	size_t all = 0;
	ssize_t took;
	int err = 0, i;

	for (i = 0; i < *n; i++)
		all += (*iov)[i].iov_len;
	while (*n && !err) {
		took = vmsplice(c->pipe.in, *iov, (size_t)*n, SPLICE_F_NONBLOCK);
		if (took < 0 && errno == EINTR)
			continue;
		if (took <= 0) {
			refuse(c, "vmsplice", CURE_CALL, took ? errno : EIO);
			return 0;
		}
		all -= (size_t)took;
		err = drain(c, iov, n, (size_t)took, all > 0);
	}
	return err < 0 ? err : 0;
}

int tcp_send_pages(struct tcp_data *c, struct iovec *iov, int n)
{
	struct quiet quiet;
	int err = 0;

	if (c->pipe.state == TCP_PIPE_NONE && !c->link->param.no_zerocopy)
		pipe_open(c);
	xp_iov_advance(&iov, &n, 0);
	if (c->pipe.state == TCP_PIPE_OPEN) {
		quiet_begin(&quiet);
		err = by_reference(c, &iov, &n);
		quiet_end(&quiet, err);
	}
	return err || !n ? err : tcp_send_all(c->link, c->fd, iov, n, 0, NULL);
}
