// SPDX-License-Identifier: MIT
/*
 * The framing of the tcp transport. Byte 0 says which end is honest and what it does. The other end sends the
 * rest of the input on its connections, and then nothing more.
 *
 *	control		receives messages
 *	land		serves puts into exposed memory
 *	answer		serves gets of exposed memory, urgent ones too (byte 1 cuts the input between the two)
 *	user		gets, and believes the replies; fences
 *	listen		a listener, whose peers send preambles
 *	connect		a connecting end, whose peer answers
 *
 * Nothing outside the exposed memory may be written, and only exposed pages may be sent.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "runtime/base/fail.h"
#include "transport/tcp/tcp.h"

#define PAGES 70u
#define REGION 10u     /* its id, and the seed of its pages */
#define STALL_US 2000u /* the timeout: no more bytes come, so waits for them end soon */
#define BUFFER (1 << 20)

enum mode { CONTROL, LAND, ANSWER, USER, LISTEN, CONNECT, MODES };
enum { CTL, DATA, URGENT, CONNS };

struct bench {
	struct xport_link *link;
	struct fail fail;
	int far[CONNS];
	struct fuzz_mem mem;
};

static const struct xport_param param = { .timeout_us = STALL_US };

static void bench_up(struct bench *b, enum xport_access access)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_region r = { .id = REGION, .npages = PAGES };
	int near[CONNS], size = BUFFER;

	*b = (struct bench){ 0 };
	for (int i = 0; i < CONNS; i++) {
		int pair[2];

		promise(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			"no socket pair");
		for (int k = 0; k < 2; k++)
			setsockopt(pair[k], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
		near[i] = pair[0];
		b->far[i] = pair[1];
	}
	promise(!tcp_link_new(&b->link, &id, near, &param, &b->fail), "no link: %s", fail_text(&b->fail));
	fuzz_mem_new(&b->mem, PAGES * FUZZ_PAGE, false);
	for (unsigned i = 0; i < PAGES; i++)
		fuzz_fill(b->mem.at + i * FUZZ_PAGE, REGION, i);
	r.base = b->mem.at;
	promise(!b->link->ops->expose(b->link, &r, 1, access), "memory cannot be exposed");
}

static void bench_down(struct bench *b)
{
	b->link->ops->close(b->link);
	for (int i = 0; i < CONNS; i++)
		close(b->far[i]);
	fuzz_mem_free(&b->mem);
}

/* Send everything that the peer sends on one connection, as far as the socket takes it. */
static void say(struct bench *b, int conn, const uint8_t *data, size_t size)
{
	if (size && send(b->far[conn], data, size, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
	shutdown(b->far[conn], SHUT_WR);
}

static void judged(struct bench *b, int err)
{
	promise(err <= 0 && err != -EFAULT && err != -EINVAL, "the honest end came to %d: %s", err,
		fail_text(&b->fail));
	promise(err != -EPROTO || fail_text(&b->fail)[0], "a protocol error has no sentence");
}

static void control(struct bench *b, const uint8_t *data, size_t size)
{
	struct xport_chan *c = b->link->ops->chan(b->link, XPORT_CONTROL, 0);
	size_t len, cap = size < 200 ? size : XPORT_MSG_MAX;
	uint8_t *buf = malloc(cap + 1);
	int err;

	say(b, CTL, data, size);
	while (!(err = c->ops->recv(c, buf, cap, &len, 0)))
		promise(len <= cap, "a message of %zu bytes in a buffer of %zu", len, cap);
	promise(err == -EMSGSIZE || err < 0, "recv came to %d", err);
	free(buf);
}

static void land(struct bench *b, const uint8_t *data, size_t size)
{
	struct xport_chan *c = b->link->ops->chan(b->link, XPORT_DATA, 0);

	say(b, DATA, data, size);
	judged(b, c->ops->serve(c, NULL, NULL));
}

/* The honest end's answers must be replies, of exposed pages only, and acknowledged fences. */
static void check_replies(int fd)
{
	static uint8_t buf[2 * BUFFER];
	uint8_t page[FUZZ_PAGE];
	size_t got = 0, at = 0;
	ssize_t n;

	while (got < sizeof(buf) && (n = recv(fd, buf + got, sizeof(buf) - got, MSG_DONTWAIT)) > 0)
		got += (size_t)n;
	while (got - at >= sizeof(struct tcp_frame)) {
		struct tcp_frame h;

		memcpy(&h, buf + at, sizeof(h));
		at += sizeof(h);
		promise(h.magic == TCP_MAGIC_FRAME && (h.type == TCP_REPLY || h.type == TCP_FENCE_ACK),
			"frame %#x of type %u", h.magic, h.type);
		for (uint64_t left = h.type == TCP_REPLY ? h.bytes : 0; left && got - at >= FUZZ_PAGE;
		     left -= FUZZ_PAGE) {
			unsigned i = 0;

			do
				fuzz_fill(page, REGION, i);
			while (memcmp(page, buf + at, FUZZ_PAGE) && ++i < PAGES);
			promise(i < PAGES, "a reply has a page that is none of the exposed ones");
			at += FUZZ_PAGE;
			if (left < FUZZ_PAGE)
				broken("a reply of %llu bytes", (unsigned long long)h.bytes);
		}
		if (h.type == TCP_REPLY && got - at < FUZZ_PAGE)
			break; /* truncated */
	}
}

static void answer(struct bench *b, const uint8_t *data, size_t size)
{
	struct xport_chan *c = b->link->ops->chan(b->link, XPORT_DATA, 0);
	size_t cut = size ? (size - 1) * data[0] / 255 : 0;

	if (size)
		data++, size--;
	say(b, DATA, data, cut);
	say(b, URGENT, data + cut, size - cut);
	promise(!c->ops->pair(c, b->link->ops->chan(b->link, XPORT_URGENT, 0)),
		"the channels cannot be paired");
	judged(b, c->ops->serve(c, NULL, NULL));
	check_replies(b->far[DATA]);
	check_replies(b->far[URGENT]);
}

static void user(struct bench *b, const uint8_t *data, size_t size)
{
	struct page_run runs[3] = { { 0, 1, 3 }, { 0, 2, 68 }, { 0, 1, 0 } };
	struct xport_chan *c = b->link->ops->chan(b->link, XPORT_DATA, 0);
	struct fuzz_mem to;
	uint32_t tag[XPORT_GETS_MAX];
	int n, err = 0;

	fuzz_mem_new(&to, 8 * FUZZ_PAGE, false);
	say(b, DATA, data, size);
	for (uint32_t t = 0; t < 2 && !err; t++) {
		void *dst[3] = { to.at + 4 * t * FUZZ_PAGE, to.at + (4 * t + 1) * FUZZ_PAGE,
				 to.at + (4 * t + 3) * FUZZ_PAGE };

		err = c->ops->get(c, runs, dst, 3, t);
	}
	while (!err) {
		n = c->ops->reap(c, tag, XPORT_GETS_MAX, STALL_US);
		err = n < 0 ? n : 0;
		for (int i = 0; i < n; i++)
			promise(tag[i] < 2, "get %u has completed and was not asked for", tag[i]);
	}
	if (err == -EAGAIN)
		err = c->ops->fence(c);
	judged(b, err);
	fuzz_mem_free(&to);
}

static struct sockaddr_in loopback(unsigned port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET,
				     .sin_port = htons((uint16_t)port),
				     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

/* Reset instead of close: thousands of connections per second would keep their ports in TIME_WAIT. */
static void reset(int fd)
{
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ .l_onoff = 1 }, sizeof(struct linger));
	close(fd);
}

/* connect() and a wait: libFuzzer's timer signal may interrupt it, and the connect then continues (EINTR). */
static int connected(int fd, const struct sockaddr_in *a)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	socklen_t len = sizeof(int);
	int err = 0;

	if (!connect(fd, (const struct sockaddr *)a, sizeof(*a)))
		return 0;
	if (errno != EINTR)
		return -errno;
	while (poll(&p, 1, -1) < 0)
		if (errno != EINTR)
			return -errno;
	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) ? -errno : -err;
}

/* Each connection sends the next 64 bytes, or the rest, in two pieces; byte 0 is the length of the first. */
static void listening(const uint8_t *data, size_t size)
{
	struct xport_listener *l;
	struct xport_link *link;
	struct fail f = { 0 };
	char uri[100];
	int fd[8], n = 0, err;
	unsigned port;

	promise(!xport_listen(&l, "tcp:127.0.0.1:0", &param, &f), "no listener: %s", fail_text(&f));
	promise(!l->ops->uri(l, uri, sizeof(uri)), "no URI");
	port = (unsigned)atoi(strrchr(uri, ':') + 1);
	for (size_t at = 1; at < size && n < 8; at += 64, n++) {
		size_t len = size - at < 64 ? size - at : 64, cut = data[0] < len ? data[0] : len;
		struct sockaddr_in a = loopback(port);

		fd[n] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		promise(fd[n] >= 0, "no socket: %s", strerror(errno));
		err = connected(fd[n], &a);
		promise(!err, "cannot connect: %s", strerror(-err));
		if (cut)
			send(fd[n], data + at, cut, MSG_NOSIGNAL);
		while (!(err = l->ops->accept(l, &link, &f)))
			link->ops->close(link);
		promise(err == -EAGAIN, "accept came to %d: %s", err, fail_text(&f));
		if (len > cut)
			send(fd[n], data + at + cut, len - cut, MSG_NOSIGNAL);
	}
	while (!(err = l->ops->accept(l, &link, &f))) {
		promise(link->id.channels && link->id.channels <= XPORT_CHANNELS_MAX, "a link of %u channels",
			link->id.channels);
		link->ops->close(link);
	}
	promise(err == -EAGAIN, "accept came to %d: %s", err, fail_text(&f));
	l->ops->close(l);
	while (n)
		reset(fd[--n]);
}

/* The kernel completes the connections; the answers are sent before they are asked for. */
struct answers {
	int fd;
	const uint8_t *data;
	size_t size;
};

static void *give_answers(void *arg)
{
	struct answers *a = arg;
	int fd[CONNS];

	for (int i = 0; i < CONNS; i++) {
		size_t at = (size_t)i * 16, len = at >= a->size ? 0 : a->size - at < 16 ? a->size - at : 16;

		fd[i] = accept4(a->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd[i] >= 0 && len)
			send(fd[i], a->data + at, len, MSG_NOSIGNAL);
		if (fd[i] >= 0)
			shutdown(fd[i], SHUT_WR);
	}
	for (int i = 0; i < CONNS; i++)
		if (fd[i] >= 0)
			reset(fd[i]);
	return NULL;
}

static void connecting(const uint8_t *data, size_t size)
{
	struct xport_link_id id = { .channels = 1 };
	struct sockaddr_in addr = loopback(0);
	socklen_t len = sizeof(addr);
	struct answers a = { .fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
			     .data = data,
			     .size = size };
	struct xport_link *link;
	struct fail f = { 0 };
	pthread_t t;
	char uri[100];
	int err;

	promise(a.fd >= 0 && !bind(a.fd, (struct sockaddr *)&addr, len) && !listen(a.fd, CONNS) &&
			!getsockname(a.fd, (struct sockaddr *)&addr, &len),
		"no listening socket");
	promise(!pthread_create(&t, NULL, give_answers, &a), "no thread");
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(addr.sin_port));
	err = xport_connect(&link, uri, &id, &param, 1000000, &f);
	if (err)
		promise(fail_err(&f) == err && fail_text(&f)[0], "connect came to %d without a sentence",
			err);
	else
		link->ops->close(link);
	shutdown(a.fd, SHUT_RDWR); /* ends an accept() for which no connection comes */
	pthread_join(t, NULL);
	close(a.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static void (*const over[])(struct bench * b, const uint8_t *data, size_t size) = { control, land,
											    answer, user };
	struct fuzz_before before;
	struct bench b;
	enum mode mode;

	if (!size)
		return 0;
	before = fuzz_before();
	mode = data[0] % MODES;
	if (mode == LISTEN) {
		listening(data + 1, size - 1);
	} else if (mode == CONNECT) {
		connecting(data + 1, size - 1);
	} else {
		bench_up(&b, mode == ANSWER ? XPORT_PEER_READ
			     : mode == LAND ? XPORT_PEER_WRITE
					    : XPORT_LOCAL);
		over[mode](&b, data + 1, size - 1);
		bench_down(&b);
	}
	fuzz_left(&before);
	return 0;
}

/* Correct magic number, reserved fields and length, so that frames get further. */
static void mend_frames(uint8_t *at, size_t size, unsigned seed)
{
	while (size >= sizeof(struct tcp_frame)) {
		struct tcp_frame h;
		uint64_t pages = 0;

		memcpy(&h, at, sizeof(h));
		h.magic = TCP_MAGIC_FRAME;
		h.reserved0 = 0;
		h.reserved1 = 0;
		h.type = (uint16_t)(h.type % (TCP_END + 1));
		if (seed % 2 && (h.type == TCP_PUT || h.type == TCP_GET) && h.nruns &&
		    h.nruns <= TCP_RUNS_INLINE) {
			for (unsigned i = 0; i < h.nruns; i++)
				pages += h.runs[i].npages % (PAGES + 1);
			h.bytes = pages * FUZZ_PAGE;
		}
		memcpy(at, &h, sizeof(h));
		at += sizeof(h);
		size -= sizeof(h);
		if (h.type != TCP_PUT)
			continue;
		pages *= FUZZ_PAGE;
		at += pages < size ? pages : size;
		size -= pages < size ? pages : size;
	}
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t at = 1;

	size = LLVMFuzzerMutate(data, size, max);
	if (size < 2 || seed % 4 == 0)
		return size;
	switch (data[0] % MODES) {
	case ANSWER:
		at = 2;
		/* fall through */
	case LAND:
	case USER:
		mend_frames(data + at, size - at, seed / 4);
		break;
	case CONTROL:
		if (size >= 1 + sizeof(struct tcp_msg))
			memcpy(data + 1, &(uint32_t){ TCP_MAGIC_MSG }, 4);
		break;
	case LISTEN:
		for (at = 2; size - at >= sizeof(struct tcp_preamble) && at < size; at += 64)
			memcpy(data + at, (uint32_t[]){ TCP_MAGIC_PREAMBLE, TCP_WIRE_VERSION }, 8);
		break;
	default:
		break;
	}
	return size;
}
