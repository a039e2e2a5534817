// SPDX-License-Identifier: MIT
/*
 * One ring a data channel, one operation in flight. A channel changes threads between rounds, so the ring
 * has no SINGLE_ISSUER; the thread that submits is the one that waits, or an operation would end with the
 * thread that started it.
 *
 * Where io_uring is forbidden (seccomp of most containers, kernel.io_uring_disabled) the same calls go by
 * poll: an operation is tried at once and, if nothing moved, again when it is waited for. Callers take short
 * results from both.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "../runtime/fail.h"
#include "tcp.h"

int tcp_ring_init(struct tcp_ring *r, int fd, struct fail *f)
{
	int err;

	err = io_uring_queue_init(4, &r->ring, IORING_SETUP_COOP_TASKRUN);
	if (err == -EINVAL) /* before Linux 5.19 */
		err = io_uring_queue_init(4, &r->ring, 0);
	if (err == -ENOMEM)
		return fail(f, err, "tcp: no memory for an io_uring; is RLIMIT_MEMLOCK too low?");
	if (err && err != -EPERM && err != -EACCES && err != -ENOSYS)
		return fail(f, err, "tcp: io_uring cannot be set up: %s", strerror(-err));
	r->fd = fd;
	r->ready = !err;
	r->busy = false;
	return 0;
}

void tcp_ring_exit(struct tcp_ring *r)
{
	int res;

	if (!r->ready)
		return; /* nothing is in flight between two calls */
	if (r->busy) {
		shutdown(r->fd, SHUT_RDWR);
		tcp_ring_wait(r, 0, &res);
	}
	io_uring_queue_exit(&r->ring);
	r->ready = false;
}

static int submit(struct tcp_ring *r)
{
	int n;

	do {
		n = io_uring_submit(&r->ring);
	} while (n == -EINTR);
	if (n < 0)
		return n == -EAGAIN ? -ENOMEM : n;
	r->busy = true;
	return 0;
}

static void plain_try(struct tcp_ring *r)
{
	ssize_t n = r->events == POLLOUT ? sendmsg(r->fd, r->msg, MSG_DONTWAIT | MSG_NOSIGNAL) :
					   recvmsg(r->fd, r->msg, MSG_DONTWAIT);

	r->res = n >= 0 ? (int)n : errno == EINTR ? -EAGAIN : -errno;
}

static int plain_start(struct tcp_ring *r, struct msghdr *msg, short events)
{
	r->msg = msg;
	r->events = events;
	r->busy = true;
	plain_try(r);
	return 0;
}

static int plain_wait(struct tcp_ring *r, uint64_t timeout_us, int *res)
{
	struct tcp_watch watch = { 0 };
	int err;

	while (r->res == -EAGAIN) {
		err = tcp_poll(r->fd, r->events, timeout_us ? timeout_us / 4 + 1 : UINT64_MAX);
		if (err == -EAGAIN && tcp_watch_idle(&watch, r->fd, timeout_us)) {
			r->busy = false;
			return -ETIMEDOUT;
		}
		if (err && err != -EAGAIN)
			return err;
		plain_try(r);
	}
	*res = r->res;
	r->busy = false;
	return 0;
}

int tcp_ring_send(struct tcp_ring *r, struct msghdr *msg)
{
	if (!r->ready)
		return plain_start(r, msg, POLLOUT);
	io_uring_prep_sendmsg(io_uring_get_sqe(&r->ring), r->fd, msg, MSG_NOSIGNAL | MSG_WAITALL);
	return submit(r);
}

int tcp_ring_recv(struct tcp_ring *r, struct msghdr *msg, bool all)
{
	if (!r->ready)
		return plain_start(r, msg, POLLIN);
	io_uring_prep_recvmsg(io_uring_get_sqe(&r->ring), r->fd, msg, all ? MSG_WAITALL : 0);
	return submit(r);
}

int tcp_ring_wait(struct tcp_ring *r, uint64_t timeout_us, int *res)
{
	struct __kernel_timespec ts = { .tv_sec = (long long)(timeout_us / 4 / 1000000),
					.tv_nsec = (long long)(timeout_us / 4 % 1000000) * 1000 };
	struct tcp_watch watch = { 0 };
	struct io_uring_cqe *cqe;
	int err;

	if (!r->ready)
		return plain_wait(r, timeout_us, res);
	while (io_uring_peek_cqe(&r->ring, &cqe)) {
		err = io_uring_wait_cqe_timeout(&r->ring, &cqe, timeout_us ? &ts : NULL);
		if (!err)
			break;
		if (err == -ETIME && tcp_watch_idle(&watch, r->fd, timeout_us)) {
			shutdown(r->fd, SHUT_RDWR);
			tcp_ring_wait(r, 0, res);
			return -ETIMEDOUT;
		}
		if (err != -ETIME && err != -EINTR && err != -EAGAIN)
			return err;
	}
	*res = cqe->res;
	io_uring_cqe_seen(&r->ring, cqe);
	r->busy = false;
	return 0;
}
