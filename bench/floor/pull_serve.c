/* SPDX-License-Identifier: MIT */
/*
 * The source of the bare pull (pull.h): a thread per data connection; the first also has the faults'
 * connection and looks at it between two pieces of an answer.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pull.h"

#define PIECE (32u << 10)

struct server {
	char *mem;
	uint64_t npages;
	int data, urgent; /* urgent: -1: none */
	struct pull_wait wait;
	struct pull_request now; /* being answered, or n is 0 */
	size_t sent;
	int err;
	pthread_t thread;
};

int pull_iov(struct iovec *iov, const uint32_t *page, size_t from, size_t len, char *mem)
{
	int n = 0;

	while (len) {
		size_t in = from % FLOOR_PAGE_SIZE;
		size_t part = len < FLOOR_PAGE_SIZE - in ? len : FLOOR_PAGE_SIZE - in;
		char *at = mem + (uint64_t)page[from / FLOOR_PAGE_SIZE] * FLOOR_PAGE_SIZE + in;

		if (n && (char *)iov[n - 1].iov_base + iov[n - 1].iov_len == at)
			iov[n - 1].iov_len += part;
		else
			iov[n++] = (struct iovec){ at, part };
		from += part;
		len -= part;
	}
	return n;
}

/* 1, or 0 if there is none, or -EPIPE at the end of the connection. */
static int take_request(struct server *s, int sock, struct pull_request *q)
{
	ssize_t n = recv(sock, q, PULL_REQUEST_BYTES(1), MSG_DONTWAIT);
	int err;

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (!n)
		return -EPIPE;
	err = read_full(sock, (char *)q + n, PULL_REQUEST_BYTES(1) - (size_t)n);
	if (!err && (!q->n || q->n > PULL_BATCH))
		err = -EPROTO;
	if (!err)
		err = read_full(sock, q->page + 1, PULL_REQUEST_BYTES(q->n) - PULL_REQUEST_BYTES(1));
	for (unsigned i = 0; !err && i < q->n; i++)
		err = q->page[i] < s->npages ? 0 : -EPROTO;
	return err ? err : 1;
}

static int answer_urgent(struct server *s)
{
	struct pull_request q;
	int got = take_request(s, s->urgent, &q);

	if (got <= 0)
		return got;
	got = write_full(s->urgent, s->mem + (uint64_t)q.page[0] * FLOOR_PAGE_SIZE, FLOOR_PAGE_SIZE);
	return got ? got : 1;
}

static int answer_piece(struct server *s)
{
	size_t left = (size_t)s->now.n * FLOOR_PAGE_SIZE - s->sent, len = left < PIECE ? left : PIECE;
	struct iovec iov[PULL_BATCH];
	struct msghdr msg = { .msg_iov = iov };
	ssize_t n;

	msg.msg_iovlen = (size_t)pull_iov(iov, s->now.page, s->sent, len, s->mem);
	n = sendmsg(s->data, &msg, MSG_DONTWAIT | MSG_NOSIGNAL | (len < left ? MSG_MORE : 0));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	s->sent += (size_t)n;
	if ((size_t)n == left)
		s->now.n = 0;
	return 1;
}

static void await(struct server *s)
{
	struct pollfd p[2] = { { .fd = s->data, .events = s->now.n ? POLLOUT : POLLIN },
			       { .fd = s->urgent, .events = POLLIN } };

	if (!pull_poll(&s->wait))
		poll(p, 2, -1);
}

/* Until the target closes its end. */
static void *serve(void *arg)
{
	struct server *s = arg;
	int urgent = 0, data = 0;

	while (urgent >= 0 && data >= 0) {
		urgent = s->urgent >= 0 ? answer_urgent(s) : 0;
		if (s->now.n) {
			data = answer_piece(s);
		} else {
			data = take_request(s, s->data, &s->now);
			s->sent = 0;
		}
		if (urgent || data)
			s->wait.work_ns = clock_ns();
		else
			await(s);
	}
	s->err = urgent < 0 ? urgent : data;
	return NULL;
}

/* A connection names itself by one byte: 0 is for the faults, from 1 on for data. */
static int dial(const struct sockaddr *addr, socklen_t len, char index)
{
	int sock = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (sock < 0)
		return -errno;
	floor_tune(sock);
	return connect(sock, addr, len) || write_full(sock, &index, 1) ? -errno : sock;
}

int floor_pull_serve(const struct floor_pull_ask *ask, const struct sockaddr *addr, unsigned len, char *mem)
{
	uint64_t npages = ask->spread / FLOOR_PAGE_SIZE;
	struct server *s = calloc(ask->channels, sizeof(*s));
	unsigned n = 0;
	int err, urgent;

	if (!s)
		return -ENOMEM;
	for (uint64_t i = 0; i < npages; i++) /* the target checks it */
		*(uint64_t *)(mem + i * FLOOR_PAGE_SIZE) = ~i;
	urgent = err = dial(addr, len, 0);
	for (; err >= 0 && n < ask->channels; n++) {
		s[n] = (struct server){ .mem = mem, .npages = npages, .urgent = n ? -1 : urgent };
		s[n].data = err = dial(addr, len, (char)(n + 1));
		if (err >= 0)
			err = -pthread_create(&s[n].thread, NULL, serve, &s[n]);
	}
	for (unsigned i = 0; err >= 0 && i < n; i++) {
		pthread_join(s[i].thread, NULL);
		if (s[i].err != -EPIPE && s[i].err != -ECONNRESET)
			err = s[i].err;
	}
	if (err < 0)
		return err; /* the process ends, and its threads with it */
	free(s);
	return 0;
}
