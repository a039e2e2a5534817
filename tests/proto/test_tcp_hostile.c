// SPDX-License-Identifier: MIT
/* A hand-written peer of the tcp transport that violates the framing. */
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "patience.h"
#include "runtime/base/fail.h"
#include "transport/tcp/tcp_wire.h"
#include "transport/xport.h"

#define PAGE 4096u
#define PAGES 1024u
#define TIMEOUT_US (200000u * patience())

enum { CTL, DATA, URGENT, CONNS };

struct bench {
	struct xport_param param;
	struct xport_listener *listener;
	struct xport_link *link; /* the honest end */
	struct xport_chan *ctl, *data, *urgent;
	struct fail fail;
	unsigned port;
	int raw[CONNS]; /* the raw end */
	uint8_t *ram;
};

static bool small_windows; /* small buffers at the raw end: reading a few pages opens its window again */

static void make_small(int fd)
{
	int rcvbuf = 4096, maxseg = 536;

	cr_assert(!setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf)));
	cr_assert(!setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &maxseg, sizeof(maxseg)));
}

static int raw_connect_from(unsigned port, uint32_t from)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in mine = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(from) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	cr_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&mine, sizeof(mine)));
	if (small_windows)
		make_small(fd);
	cr_assert(!connect(fd, (struct sockaddr *)&a, sizeof(a)));
	return fd;
}

static int raw_connect(unsigned port)
{
	return raw_connect_from(port, INADDR_LOOPBACK);
}

static void put_all(int fd, const void *data, size_t len)
{
	cr_assert_eq(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Reads exactly len bytes; false at the end of the stream. */
static bool get_all(int fd, void *data, size_t len)
{
	return recv(fd, data, len, MSG_WAITALL) == (ssize_t)len;
}

static struct tcp_preamble preamble(uint32_t role, uint32_t index, uint32_t channels, uint8_t session)
{
	struct tcp_preamble p = { .magic = htole32(TCP_MAGIC_PREAMBLE),
				  .version = htole32(TCP_WIRE_VERSION),
				  .role = htole32(role),
				  .index = htole32(index),
				  .channels = htole32(channels) };

	memset(p.session, session, sizeof(p.session));
	return p;
}

static void listen_on_any(struct bench *b, uint64_t timeout_us)
{
	char uri[100];

	memset(b, 0, sizeof(*b));
	b->param = (struct xport_param){ .timeout_us = timeout_us, .poll_us = 50 };
	cr_assert_eq(xport_listen(&b->listener, "tcp:127.0.0.1:0", &b->param, &b->fail), 0);
	cr_assert_eq(b->listener->ops->uri(b->listener, uri, sizeof(uri)), 0);
	b->port = (unsigned)atoi(strrchr(uri, ':') + 1);
}

/* Drives the listener until cond(b, arg) holds. A link that is accepted meanwhile is in b->link. */
static void drive(struct bench *b, bool (*cond)(struct bench *b, int arg), int arg)
{
	struct pollfd pfd = { .fd = b->listener->ops->fd(b->listener), .events = POLLIN };
	int err;

	while (!cond(b, arg)) {
		cr_assert_gt(poll(&pfd, 1, 60000), 0, "the listener's fd shows nothing");
		err = b->listener->ops->accept(b->listener, &b->link, &b->fail);
		cr_assert(!err || err == -EAGAIN, "%s", fail_text(&b->fail));
	}
}

static bool have_link(struct bench *b, int unused)
{
	(void)unused;
	return b->link;
}

/* Whether fd has data or has ended. */
static bool answered(struct bench *b, int fd)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	(void)b;
	return poll(&pfd, 1, 10) > 0;
}

static void expose(struct bench *b, enum xport_access access)
{
	struct xport_region r = { .id = 1, .npages = PAGES, .base = b->ram };

	cr_assert_eq(b->link->ops->expose(b->link, &r, 1, access), 0);
}

static void take_link(struct bench *b)
{
	b->ctl = b->link->ops->chan(b->link, XPORT_CONTROL, 0);
	b->data = b->link->ops->chan(b->link, XPORT_DATA, 0);
	b->urgent = b->link->ops->chan(b->link, XPORT_URGENT, 0);
	b->ram = aligned_alloc(PAGE, PAGES * PAGE);
	cr_assert(b->ram);
	memset(b->ram, 0xee, PAGES * PAGE);
	expose(b, XPORT_PEER_WRITE);
}

/* The raw end connects, the honest end accepts. */
static void start_patient(struct bench *b, uint64_t timeout_us)
{
	struct tcp_answer a;
	int i;

	listen_on_any(b, timeout_us);
	for (i = 0; i < CONNS; i++) {
		struct tcp_preamble p = preamble((uint32_t)i, 0, 1, 9);

		b->raw[i] = raw_connect(b->port);
		put_all(b->raw[i], &p, sizeof(p));
	}
	drive(b, have_link, 0);
	for (i = 0; i < CONNS; i++)
		cr_assert(get_all(b->raw[i], &a, sizeof(a)) && a.code == TCP_ANSWER_OK);
	take_link(b);
}

static void start(struct bench *b)
{
	start_patient(b, TIMEOUT_US);
}

static void stop(struct bench *b)
{
	int i;

	for (i = 0; i < CONNS; i++)
		close(b->raw[i]);
	b->link->ops->close(b->link);
	if (b->listener)
		b->listener->ops->close(b->listener);
	free(b->ram);
}

static void untouched(struct bench *b)
{
	unsigned i;

	for (i = 0; i < PAGES * PAGE; i++)
		cr_assert_eq(b->ram[i], 0xee, "byte %u was written", i);
}

static struct tcp_frame frame(enum tcp_frame_type type, unsigned nruns, uint64_t bytes)
{
	struct tcp_frame h = { .magic = htole32(TCP_MAGIC_FRAME),
			       .type = htole16(type),
			       .nruns = htole16((uint16_t)nruns),
			       .bytes = htole64(bytes) };

	h.runs[0] = (struct tcp_run){ .region = htole32(0), .npages = htole32(1), .page = 0 };
	return h;
}

/* The honest end serves what is in the socket, and must refuse it before it moves a page. */
static void refused(struct bench *b, const void *data, size_t len, const char *what)
{
	static uint8_t junk[64 * PAGE];

	memset(junk, 0x11, sizeof(junk));
	put_all(b->raw[DATA], data, len);
	put_all(b->raw[DATA], junk, sizeof(junk)); /* in the place of page data */
	cr_assert_eq(b->data->ops->serve(b->data, NULL, NULL), -EPROTO, "%s", what);
	cr_assert_gt(strlen(fail_text(&b->fail)), 20, "%s", what);
	untouched(b);
	cr_assert_eq(b->data->ops->serve(b->data, NULL, NULL), -EPROTO, "%s: and it stays refused", what);
	stop(b);
}

static void refused_frame(struct tcp_frame h, const char *what)
{
	struct bench b;

	start(&b);
	refused(&b, &h, sizeof(h), what);
}

static void refused_run(uint32_t region, uint64_t page, uint32_t npages, uint64_t bytes, const char *what)
{
	struct tcp_frame h = frame(TCP_PUT, 1, bytes);

	h.runs[0] = (struct tcp_run){ .region = htole32(region),
				      .npages = htole32(npages),
				      .page = htole64(page) };
	refused_frame(h, what);
}

Test(put, runs_outside)
{
	refused_run(1, 0, 1, PAGE, "unknown region");
	refused_run(UINT32_MAX, 0, 1, PAGE, "far from any region");
	refused_run(0, PAGES, 1, PAGE, "first page outside");
	refused_run(0, PAGES - 1, 2, 2 * PAGE, "last page outside");
	refused_run(0, UINT64_MAX, 1, PAGE, "page wraps");
	refused_run(0, UINT64_MAX - 1, 4, 4 * PAGE, "page and length wrap");
	refused_run(0, 1ull << 52, 1, PAGE, "byte offset wraps");
	refused_run(0, 1, UINT32_MAX, (uint64_t)UINT32_MAX * PAGE, "length too large");
	refused_run(0, 1, 0, 0, "empty run");
	refused_run(0, 0, 2, PAGE, "more pages than bytes");
	refused_run(0, 0, 1, 2 * PAGE, "more bytes than pages");
	refused_run(0, 0, 1, UINT64_MAX, "bytes wrap");
}

Test(put, frames_of_the_wrong_form)
{
	struct tcp_frame h;

	refused_frame(frame(TCP_PUT, 0, 0), "no runs");
	refused_frame(frame(TCP_PUT, XPORT_RUNS_MAX + 1, PAGE), "too many runs");
	refused_frame(frame(TCP_PUT, 65535, PAGE), "far too many runs");
	h = frame(TCP_PUT, 1, PAGE);
	h.magic ^= 1;
	refused_frame(h, "magic");
	h = frame(TCP_PUT, 1, PAGE);
	h.reserved0 = 1;
	refused_frame(h, "reserved");
	refused_frame(frame(0, 0, 0), "type 0");
	refused_frame(frame(7, 0, 0), "type 7");
	refused_frame(frame(65535, 0, 0), "type 65535");
	refused_frame(frame(TCP_REPLY, 0, PAGE), "a reply to the server");
	refused_frame(frame(TCP_FENCE_ACK, 0, 0), "a fence ack to the server");
	refused_frame(frame(TCP_FENCE, 0, PAGE), "a fence with data");
	refused_frame(frame(TCP_END, 1, 0), "an end with runs");
}

Test(put, too_many_bytes_in_many_runs)
{
	struct {
		struct tcp_frame h;
		struct tcp_run more[3];
	} m = { .h = frame(TCP_PUT, 5, 5ull * PAGES * PAGE) };
	struct bench b;
	int i;

	for (i = 0; i < 5; i++)
		*(i < 2 ? &m.h.runs[i] : &m.more[i - 2]) =
			(struct tcp_run){ .region = htole32(0), .npages = htole32(PAGES) };
	start(&b);
	refused(&b, &m, sizeof(m), "20 MiB in one put");
}

Test(put, the_last_of_many_runs_is_checked_too)
{
	struct {
		struct tcp_frame h;
		struct tcp_run more[1];
	} m = { .h = frame(TCP_PUT, 3, 3 * PAGE) };
	struct bench b;

	m.h.runs[1] = (struct tcp_run){ .region = htole32(0), .npages = htole32(1), .page = htole64(5) };
	m.more[0] = (struct tcp_run){ .region = htole32(0), .npages = htole32(1), .page = htole64(PAGES) };
	start(&b);
	refused(&b, &m, sizeof(m), "third run");
}

Test(put, needs_write_access)
{
	struct tcp_frame h = frame(TCP_PUT, 1, PAGE);
	struct bench b;

	start(&b);
	expose(&b, XPORT_PEER_READ);
	refused(&b, &h, sizeof(h), "not exposed for writing");
	start(&b);
	cr_assert_eq(b.link->ops->expose(b.link, NULL, 0, XPORT_PEER_WRITE), 0);
	refused(&b, &h, sizeof(h), "nothing exposed");
}

Test(get, refused)
{
	struct tcp_frame h = frame(TCP_GET, 1, PAGE);
	struct bench b;

	refused_frame(h, "not exposed for reading");
	start(&b);
	expose(&b, XPORT_PEER_READ);
	h.tag = htole32(XPORT_GETS_MAX);
	refused(&b, &h, sizeof(h), "tag");
	start(&b);
	expose(&b, XPORT_PEER_READ);
	h.tag = 0;
	h.runs[0].page = htole64(PAGES);
	refused(&b, &h, sizeof(h), "outside");
}

Test(put, an_honest_one_by_hand_lands)
{
	struct tcp_frame h = frame(TCP_PUT, 1, PAGE), end = frame(TCP_END, 0, 0);
	uint8_t page[PAGE];
	struct bench b;

	start(&b);
	memset(page, 0x33, sizeof(page));
	h.runs[0].page = htole64(17);
	put_all(b.raw[DATA], &h, sizeof(h));
	put_all(b.raw[DATA], page, sizeof(page));
	put_all(b.raw[DATA], &end, sizeof(end));
	cr_assert_eq(b.data->ops->serve(b.data, NULL, NULL), 0, "%s", fail_text(&b.fail));
	cr_assert(!memcmp(b.ram + 17 * PAGE, page, PAGE));
	memset(b.ram + 17 * PAGE, 0xee, PAGE);
	untouched(&b);
	stop(&b);
}

Test(put, standing_still_in_the_middle)
{
	struct tcp_frame h = frame(TCP_PUT, 1, PAGE);
	struct bench b;

	start(&b);
	put_all(b.raw[DATA], &h, 10);
	cr_assert_eq(b.data->ops->serve(b.data, NULL, NULL), -ETIMEDOUT, "in the head");
	put_all(b.raw[URGENT], &h, sizeof(h));
	put_all(b.raw[URGENT], b.ram, 100);
	cr_assert_eq(b.urgent->ops->serve(b.urgent, NULL, NULL), -ETIMEDOUT, "in the page data");
	stop(&b);
	start(&b);
	put_all(b.raw[DATA], &h, sizeof(h));
	put_all(b.raw[DATA], b.ram, 100);
	close(b.raw[DATA]);
	b.raw[DATA] = -1;
	cr_assert_eq(b.data->ops->serve(b.data, NULL, NULL), -EPIPE, "closed in the page data");
	stop(&b);
}

/* The honest end requests one page and gets these bytes as the answer. */
static void bad_reply(const struct tcp_frame *h, unsigned n, const char *what)
{
	struct page_run run = { .region = 0, .page = 2, .npages = 2 };
	uint8_t page[2 * PAGE] = { 0 };
	struct tcp_frame request;
	struct bench b;
	uint32_t tag;
	void *dst;
	unsigned i;
	int err;

	start(&b);
	dst = b.ram;
	cr_assert_eq(b.data->ops->get(b.data, &run, &dst, 1, 3), 0);
	cr_assert(get_all(b.raw[DATA], &request, sizeof(request)));
	cr_assert(le16toh(request.type) == TCP_GET && le64toh(request.bytes) == 2 * PAGE);
	for (i = 0; i < n; i++) {
		put_all(b.raw[DATA], &h[i], sizeof(h[i]));
		put_all(b.raw[DATA], page, sizeof(page));
	}
	if (n == 2) /* the first one is correct */
		cr_assert_eq(b.data->ops->reap(b.data, &tag, 1, 60000000), 1);
	err = b.data->ops->reap(b.data, &tag, 1, 60000000);
	cr_assert_eq(err, -EPROTO, "%s: %d", what, err);
	cr_assert_gt(strlen(fail_text(&b.fail)), 20);
	memset(b.ram, 0xee, 2 * PAGE); /* page data read with the header has landed before the check */
	untouched(&b);
	stop(&b);
}

Test(get, replies_nobody_asked_for)
{
	struct tcp_frame h[2];

	memset(h, 0, sizeof(h));
	h[0].magic = htole32(TCP_MAGIC_FRAME);
	h[0].type = htole16(TCP_REPLY);
	h[0].bytes = htole64(2 * PAGE);
	h[0].tag = htole32(4);
	bad_reply(h, 1, "another tag");
	h[0].tag = htole32(64);
	bad_reply(h, 1, "a tag out of range");
	h[0].tag = htole32(UINT32_MAX);
	bad_reply(h, 1, "a tag far out of range");
	h[0].tag = htole32(3);
	h[0].bytes = htole64(4 * PAGE);
	bad_reply(h, 1, "too long");
	h[0].bytes = htole64(PAGE);
	bad_reply(h, 1, "too short");
	h[0].bytes = htole64(2 * PAGE);
	h[0].reserved0 = 1;
	bad_reply(h, 1, "a reserved field that is not zero");
	h[0].reserved0 = 0;
	h[0].reserved1 = htole64(UINT64_C(1) << 63);
	bad_reply(h, 1, "another one");
	h[0].reserved1 = 0;
	h[1] = h[0];
	bad_reply(h, 2, "twice");
	h[0].type = htole16(TCP_FENCE_ACK);
	bad_reply(h, 1, "an ack of no fence");
	h[0].type = htole16(TCP_PUT);
	bad_reply(h, 1, "a put instead");
}

/* Page data is received with its header into the place of the oldest get, so replies keep the gets' order. */
Test(get, replies_in_another_order)
{
	struct tcp_frame h = { .magic = htole32(TCP_MAGIC_FRAME),
			       .type = htole16(TCP_REPLY),
			       .bytes = htole64(PAGE) };
	const uint32_t tags[2] = { 3, 5 };
	uint8_t page[PAGE] = { 0 };
	struct tcp_frame request;
	struct bench b;
	uint32_t tag;

	start(&b);
	for (unsigned i = 0; i < 2; i++) {
		struct page_run run = { .region = 0, .page = 2 + i, .npages = 1 };
		void *dst = b.ram + i * PAGE;

		cr_assert_eq(b.data->ops->get(b.data, &run, &dst, 1, tags[i]), 0);
		cr_assert(get_all(b.raw[DATA], &request, sizeof(request)));
	}
	h.tag = htole32(tags[1]);
	put_all(b.raw[DATA], &h, sizeof(h));
	put_all(b.raw[DATA], page, sizeof(page));
	cr_assert_eq(b.data->ops->reap(b.data, &tag, 1, 60000000), -EPROTO);
	memset(b.ram, 0xee, PAGE);
	untouched(&b);
	stop(&b);
}

/* Only the pending fence may be acknowledged; any other answer would not mean that its puts have landed. */
Test(put, acks_of_another_fence)
{
	static const uint32_t tags[] = { 0, 2, 7, UINT32_MAX };

	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		struct tcp_frame h = { .magic = htole32(TCP_MAGIC_FRAME),
				       .type = htole16(TCP_FENCE_ACK),
				       .tag = htole32(tags[i]) };
		struct bench b;

		start(&b);
		put_all(b.raw[DATA], &h, sizeof(h));
		cr_expect_eq(b.data->ops->fence(b.data), -EPROTO,
			     "an acknowledgement of fence %u counts for the first", tags[i]);
		stop(&b);
	}
}

Test(get, no_answer_is_a_timeout)
{
	struct page_run run = { .region = 0, .page = 2, .npages = 2 };
	struct bench b;
	uint32_t tag;
	void *dst;

	start(&b);
	dst = b.ram;
	cr_assert_eq(b.urgent->ops->get(b.urgent, &run, &dst, 1, 3), 0);
	cr_assert_eq(b.urgent->ops->reap(b.urgent, &tag, 1, 60000000), -ETIMEDOUT);
	stop(&b);
}

Test(get, a_peer_that_asks_and_never_reads)
{
	struct tcp_frame h = frame(TCP_GET, 1, PAGES * PAGE);
	struct bench b;
	unsigned i;

	start(&b);
	expose(&b, XPORT_PEER_READ);
	h.runs[0].npages = htole32(PAGES);
	for (i = 0; i < 64; i++)
		put_all(b.raw[DATA], &h, sizeof(h));
	cr_assert_eq(b.data->ops->serve(b.data, NULL, NULL), -ETIMEDOUT);
	stop(&b);
}

#define REQUEST_BYTES (sizeof(struct tcp_frame) + (XPORT_RUNS_MAX - TCP_RUNS_INLINE) * sizeof(struct tcp_run))

/* Answers the first request with 4 MiB before it reads the next one. */
static void *answer_first(void *arg)
{
	struct tcp_frame h = frame(TCP_REPLY, 0, PAGES * PAGE);
	uint8_t request[REQUEST_BYTES], *page = calloc(PAGES, PAGE);
	unsigned left = XPORT_GETS_MAX - 1;
	int fd = *(int *)arg;

	h.runs[0] = (struct tcp_run){ .npages = 0 };
	if (get_all(fd, request, sizeof(request)) && send(fd, &h, sizeof(h), MSG_NOSIGNAL) > 0 &&
	    send(fd, page, PAGES * PAGE, MSG_NOSIGNAL) > 0) {
		while (left && get_all(fd, request, sizeof(request)))
			left--;
	}
	free(page);
	return (void *)(uintptr_t)left;
}

Test(get, requests_and_replies_may_cross)
{
	struct page_run runs[XPORT_RUNS_MAX];
	void *dst[XPORT_RUNS_MAX], *left;
	int small = 32768;
	struct bench b;
	uint32_t tag;
	pthread_t t;
	unsigned i;

	start_patient(&b, 3000000);
	for (i = 0; i < XPORT_RUNS_MAX; i++) {
		runs[i] = (struct page_run){ .region = 0, .page = i * 4, .npages = 4 };
		dst[i] = b.ram + i * 4 * PAGE;
	}
	/* small, so that neither all requests nor one reply fit into the sockets */
	cr_assert(!setsockopt(b.data->ops->fd(b.data), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
	cr_assert(!setsockopt(b.raw[DATA], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
	cr_assert(!setsockopt(b.raw[DATA], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
	cr_assert(!pthread_create(&t, NULL, answer_first, &b.raw[DATA]));
	for (i = 0; i < XPORT_GETS_MAX; i++)
		cr_assert_eq(b.data->ops->get(b.data, runs, dst, XPORT_RUNS_MAX, i), 0, "get %u", i);
	cr_assert_eq(b.data->ops->reap(b.data, &tag, 1, 5000000), 1);
	cr_assert_eq(tag, 0);
	pthread_join(t, &left);
	cr_assert_eq((uintptr_t)left, 0);
	stop(&b);
}

Test(put, a_peer_that_never_reads)
{
	struct page_run run = { .region = 0, .npages = PAGES };
	struct bench b;
	int err;

	start(&b);
	do {
		err = b.data->ops->put(b.data, &run, 1);
	} while (!err);
	cr_assert_eq(err, -ETIMEDOUT);
	cr_assert_eq(b.urgent->ops->fence(b.urgent), -ETIMEDOUT);
	stop(&b);
}

struct sipping {
	int fd;
	size_t bytes;
};

/* Reads in small pieces: each within the timeout, all of them together far longer. */
static void *sip(void *arg)
{
	struct sipping *s = arg;
	uint8_t buf[64 << 10];
	ssize_t n;

	while (s->bytes) {
		poll(NULL, 0, 10); /* like a slow link */
		n = recv(s->fd, buf, s->bytes < sizeof(buf) ? s->bytes : sizeof(buf), 0);
		if (n <= 0)
			break;
		s->bytes -= (size_t)n;
	}
	return NULL;
}

Test(put, slow_is_not_silent)
{
	struct page_run run = { .region = 0, .npages = PAGES };
	struct sipping s;
	struct bench b;
	pthread_t t;
	int i;

	start_patient(&b, 1000000);
	s = (struct sipping){ .fd = b.raw[DATA], .bytes = 4 * (sizeof(struct tcp_frame) + PAGES * PAGE) };
	cr_assert(!pthread_create(&t, NULL, sip, &s));
	for (i = 0; i < 4; i++)
		cr_assert_eq(b.data->ops->put(b.data, &run, 1), 0, "put %d of 4 MiB at 6 MB/s", i);
	pthread_join(t, NULL);
	cr_assert_eq(s.bytes, 0);
	stop(&b);
}

Test(control, bad_frames)
{
	static const struct {
		uint32_t magic, len;
	} bad[] = { { TCP_MAGIC_MSG ^ 1, 4 },
		    { TCP_MAGIC_MSG, XPORT_MSG_MAX + 1 },
		    { TCP_MAGIC_MSG, UINT32_MAX } };
	uint8_t buf[64];
	struct bench b;
	size_t len, i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct tcp_msg m = { .magic = htole32(bad[i].magic), .len = htole32(bad[i].len) };

		start(&b);
		put_all(b.raw[CTL], &m, sizeof(m));
		put_all(b.raw[CTL], "abcd", 4);
		cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 1000000), -EPROTO);
		cr_assert_gt(strlen(fail_text(&b.fail)), 20);
		cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 0), -EPROTO);
		stop(&b);
	}
}

Test(control, half_a_message_is_a_timeout_and_none_is_not)
{
	struct tcp_msg m = { .magic = htole32(TCP_MAGIC_MSG), .len = htole32(10) };
	uint8_t buf[64];
	struct bench b;
	size_t len;

	start(&b);
	cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 2 * TIMEOUT_US), -EAGAIN);
	put_all(b.raw[CTL], &m, sizeof(m));
	put_all(b.raw[CTL], "abcd", 4);
	cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 0), -EAGAIN);
	cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 60000000), -ETIMEDOUT);
	stop(&b);
}

/* Sends messages until one fails. */
static void send_until_it_fails(struct bench *b, const char *why)
{
	static uint8_t body[XPORT_MSG_MAX];
	struct iovec iov = { body, sizeof(body) };
	int err;

	do {
		err = b->ctl->ops->send(b->ctl, &iov, 1);
	} while (!err);
	cr_assert_eq(err, -ETIMEDOUT);
	cr_assert(strstr(fail_lost_text(&b->fail), why), "%s", fail_lost_text(&b->fail));
}

Test(control, a_peer_that_never_reads)
{
	struct bench b;

	start(&b);
	send_until_it_fails(&b, "nothing has moved for");
	stop(&b);
}

struct meanwhile {
	int fd;
	_Atomic bool over;
};

static void *talk(void *arg)
{
	struct meanwhile *m = arg;

	while (!atomic_load(&m->over) && send(m->fd, "ping", 4, MSG_NOSIGNAL) == 4)
		usleep(TIMEOUT_US / 20);
	return NULL;
}

/* Like a target whose main thread hangs while its heartbeat continues. */
Test(control, a_peer_that_talks_and_never_reads)
{
	struct meanwhile m;
	struct bench b;
	pthread_t t;

	start(&b);
	m = (struct meanwhile){ .fd = b.raw[CTL] };
	cr_assert(!pthread_create(&t, NULL, talk, &m));
	send_until_it_fails(&b, "nothing has moved for");
	atomic_store(&m.over, true);
	pthread_join(t, NULL);
	stop(&b);
}

static void *drip(void *arg)
{
	struct meanwhile *m = arg;
	uint8_t buf[2048];

	while (!atomic_load(&m->over) && recv(m->fd, buf, sizeof(buf), 0) > 0)
		usleep(TIMEOUT_US / 20);
	return NULL;
}

/* The socket's buffer stays full: 4 timeouts of 20 reads of 2 KiB make no room for a message of 128 KiB. */
Test(control, a_peer_that_reads_by_the_drop)
{
	struct meanwhile m;
	struct bench b;
	pthread_t t;

	small_windows = true;
	start(&b);
	m = (struct meanwhile){ .fd = b.raw[CTL] };
	cr_assert(!pthread_create(&t, NULL, drip, &m));
	send_until_it_fails(&b, "a message was not taken within");
	atomic_store(&m.over, true);
	shutdown(b.raw[CTL], SHUT_RDWR);
	pthread_join(t, NULL);
	stop(&b);
}

/* The listener's answer to one preamble; -1: it has closed the connection. */
static int answer_to(struct bench *b, const void *data, size_t len)
{
	struct tcp_answer a;
	int fd = raw_connect(b->port), code;

	put_all(fd, data, len);
	drive(b, answered, fd);
	code = get_all(fd, &a, sizeof(a)) ? (int)le32toh(a.code) : -1;
	close(fd);
	return code;
}

static int answer_to_preamble(struct bench *b, struct tcp_preamble p)
{
	return answer_to(b, &p, sizeof(p));
}

Test(listener, preambles)
{
	static const char http[80] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
	struct tcp_preamble p;
	struct bench b;

	listen_on_any(&b, TIMEOUT_US);
	p = preamble(TCP_ROLE_CONTROL, 0, 1, 1);
	p.version = htole32(TCP_WIRE_VERSION + 1);
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_VERSION);
	p = preamble(TCP_ROLE_CONTROL, 0, 1, 1);
	p.reserved[11] = 1;
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_MALFORMED);
	cr_assert_eq(answer_to_preamble(&b, preamble(3, 0, 1, 1)), TCP_ANSWER_MALFORMED);
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_DATA, 1, 1, 1)), TCP_ANSWER_MALFORMED);
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_CONTROL, 1, 1, 1)), TCP_ANSWER_MALFORMED);
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_CONTROL, 0, 0, 1)), TCP_ANSWER_MALFORMED);
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_CONTROL, 0, UINT32_MAX, 1)),
		     TCP_ANSWER_MALFORMED);
	p = preamble(TCP_ROLE_DATA, 0, 1, 1);
	p.offers = htole32(0x80000001);
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_OK, "what is not known is not accepted");
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_DATA, 0, 1, 1)), TCP_ANSWER_MALFORMED, "twice");
	cr_assert_eq(answer_to(&b, http, sizeof(http)), -1);
	cr_assert_null(b.link);
	b.listener->ops->close(b.listener);
}

Test(listener, garbage_and_silence_disturb_no_link_and_keep_none_out)
{
	struct tcp_msg m = { .magic = htole32(TCP_MAGIC_MSG), .len = htole32(5) };
	struct bench b, late;
	int crowd[100];
	char buf[8];
	unsigned i;
	size_t len;

	start(&b);
	late = b; /* a second link on the same listener */
	late.link = NULL;
	for (i = 0; i < 100; i++) {
		crowd[i] = raw_connect(b.port);
		if (i % 3 == 1)
			put_all(crowd[i], "f", 1);
		if (i % 3 == 2)
			put_all(crowd[i], "0123456789012345678901234567890123456789012345678901234567890123",
				64);
		cr_assert_eq(late.listener->ops->accept(late.listener, &late.link, &late.fail), -EAGAIN);
	}
	for (i = 0; i < CONNS; i++) {
		struct tcp_preamble p = preamble(i, 0, 1, 10);

		late.raw[i] = raw_connect(b.port);
		put_all(late.raw[i], &p, 40);
		cr_assert_eq(late.listener->ops->accept(late.listener, &late.link, &late.fail), -EAGAIN);
		put_all(late.raw[i], (char *)&p + 40, sizeof(p) - 40); /* the preamble comes in two pieces */
	}
	drive(&late, have_link, 0);
	take_link(&late);
	put_all(b.raw[CTL], &m, sizeof(m));
	put_all(b.raw[CTL], "still", 5);
	cr_assert_eq(b.ctl->ops->recv(b.ctl, buf, sizeof(buf), &len, 1000000), 0);
	cr_assert(len == 5 && !memcmp(buf, "still", 5));
	for (i = 0; i < 100; i++)
		close(crowd[i]);
	b.listener = NULL;
	stop(&b);
	stop(&late);
}

Test(listener, what_an_earlier_try_left_behind_is_another_link)
{
	struct bench b;
	unsigned try, i;

	listen_on_any(&b, TIMEOUT_US);
	for (try = 0; try < 2; try++) {
		for (i = 0; i < CONNS; i++) {
			struct tcp_preamble p = preamble(i, 0, 1, 9);

			p.attempt = try;
			b.raw[i] = raw_connect(b.port);
			put_all(b.raw[i], &p, sizeof(p));
			if (!try)
				close(b.raw[i]);
		}
	}
	drive(&b, have_link, 0);
	take_link(&b);
	put_all(b.raw[CTL], &(struct tcp_msg){ .magic = htole32(TCP_MAGIC_MSG) }, sizeof(struct tcp_msg));
	cr_assert_eq(b.ctl->ops->recv(b.ctl, b.ram, 8, &(size_t){ 0 }, 1000000), 0);
	stop(&b);
}

static bool hung_up(struct bench *b, int fd)
{
	char c;

	(void)b;
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

Test(listener, half_open_connections_time_out)
{
	struct tcp_preamble p = preamble(TCP_ROLE_CONTROL, 0, 1, 1);
	struct tcp_answer a;
	struct bench b;
	int silent, lonely;

	listen_on_any(&b, TIMEOUT_US);
	silent = raw_connect(b.port);
	lonely = raw_connect(b.port);
	put_all(lonely, &p, sizeof(p));
	drive(&b, answered, lonely);
	cr_assert(get_all(lonely, &a, sizeof(a)) && a.code == TCP_ANSWER_OK);
	drive(&b, hung_up, silent); /* the listener's fd must wake us for it */
	drive(&b, hung_up, lonely);
	cr_assert_null(b.link);
	close(silent);
	close(lonely);
	b.listener->ops->close(b.listener);
}

/* Incomplete links, more than there are places. */
static void crowd_from(struct bench *b, int *crowd, uint32_t from)
{
	for (unsigned i = 0; i < 100; i++) {
		struct tcp_preamble p = preamble(TCP_ROLE_CONTROL, 0, 1, (uint8_t)(100 + i));

		crowd[i] = raw_connect_from(b->port, from);
		put_all(crowd[i], &p, sizeof(p));
		cr_assert_eq(b->listener->ops->accept(b->listener, &b->link, &b->fail), -EAGAIN);
	}
}

Test(listener, a_crowd_from_one_address_pushes_out_itself)
{
	int crowd[2][100];
	struct bench b;
	unsigned i;

	listen_on_any(&b, TIMEOUT_US);
	crowd_from(&b, crowd[0], INADDR_LOOPBACK + 1);
	for (i = 0; i < CONNS; i++) {
		struct tcp_preamble p = preamble(i, 0, 1, 9);

		b.raw[i] = raw_connect(b.port);
		put_all(b.raw[i], &p, sizeof(p));
		if (!i) /* the other connections come a round trip later, or were lost once */
			crowd_from(&b, crowd[1], INADDR_LOOPBACK + 1);
	}
	drive(&b, have_link, 0);
	take_link(&b);
	put_all(b.raw[CTL], &(struct tcp_msg){ .magic = htole32(TCP_MAGIC_MSG) }, sizeof(struct tcp_msg));
	cr_assert_eq(b.ctl->ops->recv(b.ctl, b.ram, 8, &(size_t){ 0 }, 1000000), 0);
	for (i = 0; i < 200; i++)
		close(crowd[i / 100][i % 100]);
	stop(&b);
}

Test(listener, of_a_session_takes_nobody_else)
{
	struct tcp_preamble p = preamble(TCP_ROLE_CONTROL, 0, 1, 9);
	struct tcp_answer a;
	struct bench b;
	int other;

	listen_on_any(&b, TIMEOUT_US);
	other = raw_connect(b.port); /* half-open before the session began */
	put_all(other, &p, 1);
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_OK);
	b.listener->ops->only(b.listener, &(struct xport_link_id){ .session = { 9, 9, 9, 9, 9, 9, 9, 9, 9, 9,
										9, 9, 9, 9, 9, 9 },
								   .generation = 3 });
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_TAKEN, "a generation before");
	p.generation = htole32(3);
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_TAKEN, "the same generation");
	cr_assert_eq(answer_to_preamble(&b, preamble(TCP_ROLE_DATA, 0, 1, 8)), TCP_ANSWER_TAKEN,
		     "another session");
	p.generation = htole32(4);
	cr_assert_eq(answer_to_preamble(&b, p), TCP_ANSWER_OK);
	p = preamble(TCP_ROLE_CONTROL, 0, 1, 8);
	p.generation = htole32(77);
	put_all(other, (char *)&p + 1, sizeof(p) - 1);
	drive(&b, answered, other);
	cr_assert(get_all(other, &a, sizeof(a)) && le32toh(a.code) == TCP_ANSWER_TAKEN,
		  "one who was there before");
	cr_assert_null(b.link);
	close(other);
	b.listener->ops->close(b.listener);
}

struct liar {
	int lfd;
	struct tcp_answer answer;
	size_t len;
};

static void *lie(void *arg)
{
	struct liar *l = arg;
	struct tcp_preamble p;
	int fd = accept(l->lfd, NULL, NULL);

	if (get_all(fd, &p, sizeof(p)))
		send(fd, &l->answer, l->len, MSG_NOSIGNAL);
	recv(fd, &p, 1, 0); /* until the connecting end gives up */
	close(fd);
	return NULL;
}

/* The result of connecting to a target with this answer. */
static int connect_to_liar(struct tcp_answer answer, size_t len, uint64_t wait_us, struct fail *f)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct liar l = { .lfd = socket(AF_INET, SOCK_STREAM, 0), .answer = answer, .len = len };
	struct xport_param param = { .timeout_us = TIMEOUT_US };
	struct xport_link_id id = { .channels = 1 };
	socklen_t alen = sizeof(addr);
	struct xport_link *link;
	char uri[64];
	pthread_t t;
	int err;

	cr_assert(!bind(l.lfd, (struct sockaddr *)&addr, alen) && !listen(l.lfd, 4));
	cr_assert(!getsockname(l.lfd, (struct sockaddr *)&addr, &alen));
	cr_assert(!pthread_create(&t, NULL, lie, &l));
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(addr.sin_port));
	err = xport_connect(&link, uri, &id, &param, wait_us, f);
	pthread_join(t, NULL);
	close(l.lfd);
	return err;
}

Test(connect, strange_targets)
{
	struct tcp_answer a = { .magic = htole32(TCP_MAGIC_ANSWER),
				.version = htole32(77),
				.code = htole32(1) };
	struct fail f = { 0 };

	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -EPROTO);
	cr_assert(strstr(fail_text(&f), "version 77") && strstr(fail_text(&f), "version 1"), "%s",
		  fail_text(&f));
	fail_reset(&f);
	a.code = htole32(TCP_ANSWER_OK);
	a.accepts = htole32(4);
	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -EPROTO);
	cr_assert(strstr(fail_text(&f), "accepts 0x4, which was not offered"), "%s", fail_text(&f));
	fail_reset(&f);
	a.code = htole32(TCP_ANSWER_BUSY);
	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -ECONNREFUSED);
	fail_reset(&f);
	a.code = htole32(TCP_ANSWER_TAKEN);
	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -EBUSY);
	cr_assert(strstr(fail_text(&f), "is busy with another migration"), "%s", fail_text(&f));
	fail_reset(&f);
	a.code = htole32(99);
	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -EPROTO);
	cr_assert_eq(connect_to_liar(a, 7, 50000, &f), -ETIMEDOUT, "half an answer");
	fail_reset(&f);
	memcpy(&a, "SSH-2.0-OpenSSH_", sizeof(a));
	cr_assert_eq(connect_to_liar(a, sizeof(a), 10000000, &f), -EPROTO);
	cr_assert(fail_text(&f)[0]);
}
