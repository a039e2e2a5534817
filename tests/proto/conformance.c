// SPDX-License-Identifier: MIT
/*
 * The contract of xport.h as one set of tests, run over every transport and filter. CASE(name) makes a
 * Criterion test for each of them; its body gets the pair of linked ends. With CONFORMANCE_RDMA this is the
 * program for the soft-RoCE machine, with the addresses of a guest there.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "refuse.h"
#include "runtime/base/fail.h"
#include "transport/xport.h"
#ifdef CONFORMANCE_RDMA
#include "rdma_left.h"
#endif

#define PAGE 4096u
#define BIG 0u /* regions, in their order in expose() */
#define SMALL 1u
#define BIG_PAGES 2048u
#define SMALL_PAGES 64u
#define PAGES (BIG_PAGES + SMALL_PAGES)
#define WAIT_US 60000000u
#define ATTEMPTS 4 /* to connect, in that time */

struct kind {
	const char *uri, *query;
	bool chaos;
	int refused, err; /* a system call that a seccomp filter refuses, and its errno */
};

static const struct kind kinds[] = {
#ifdef CONFORMANCE_RDMA
	{ .uri = "rdma:10.9.0.1:0", .query = "" },
	{ .uri = "rdma:[fd09::1]:0", .query = "" },
	{ .uri = "rdma:10.9.0.1:0", .query = "?pin=lazy" },
	{ .uri = "rdma:10.9.0.1:0", .query = "?bandwidth=4G&latency=300us" },
	{ .uri = "rdma:10.9.0.1:0", .query = "?mtu=1024&dev=rxe0&gid=1", .chaos = true },
#else
	{ .uri = "tcp:127.0.0.1:0", .query = "" },
	{ .uri = "tcp:[::1]:0", .query = "" },
	{ .uri = "mem:conformance", .query = "" },
	{ .uri = "tcp:127.0.0.1:0", .query = "?bandwidth=4G&latency=300us" },
	{ .uri = "tcp:127.0.0.1:0", .query = "", .chaos = true },
	{ .uri = "mem:conformance", .query = "?bandwidth=4G&latency=300us", .chaos = true },
	{ .uri = "tcp:127.0.0.1:0", .query = "", .refused = SYS_splice, .err = ENOSYS },
#endif
};

struct end {
	struct xport_link *link;
	struct xport_chan *ctl, *data, *urgent;
	struct fail fail;
	uint8_t *ram;
};

struct pair {
	const struct kind *kind;
	struct xport_param param;
	struct xport_listener *listener;
	struct fail fail;
	char uri[400];
	struct end a, b; /* a has connected, b has accepted */
};

static void ready(struct end *e)
{
	e->ctl = e->link->ops->chan(e->link, XPORT_CONTROL, 0);
	e->data = e->link->ops->chan(e->link, XPORT_DATA, 0);
	e->urgent = e->link->ops->chan(e->link, XPORT_URGENT, 0);
	cr_assert(e->ctl && e->data && e->urgent);
}

struct connecting {
	struct pair *p;
	struct end *e;
	struct xport_link_id id;
	int err;
};

static void *connect_thread(void *arg)
{
	struct connecting *c = arg;

	/* One lost packet of a connection's may cost a whole attempt, so there are several, as there are in a session. */
	for (unsigned i = 0; i < ATTEMPTS; i++) {
		c->err = xport_connect(&c->e->link, c->p->uri, &c->id, &c->p->param, WAIT_US / ATTEMPTS,
				       &c->e->fail);
		if (c->err != -ETIMEDOUT)
			break;
	}
	return NULL;
}

static void accept_into(struct pair *p, struct end *e)
{
	struct pollfd pfd = { .fd = p->listener->ops->fd(p->listener), .events = POLLIN };
	int err;

	while ((err = p->listener->ops->accept(p->listener, &e->link, &e->fail)) == -EAGAIN)
		cr_assert(poll(&pfd, 1, WAIT_US / 1000) > 0, "nothing arrives at the listener");
	cr_assert(!err, "accept: %s", fail_text(&e->fail));
	ready(e);
}

static void join_ends(struct pair *p, struct end *a, struct end *b, uint8_t session, unsigned generation,
		      unsigned channels)
{
	struct connecting c = { .p = p, .e = a, .id = { .generation = generation, .channels = channels } };
	pthread_t t;

	memset(c.id.session, session, sizeof(c.id.session));
	cr_assert(!pthread_create(&t, NULL, connect_thread, &c));
	accept_into(p, b);
	pthread_join(t, NULL);
	cr_assert(!c.err, "connect: %s", fail_text(&a->fail));
	ready(a);
	cr_assert(!memcmp(&b->link->id, &c.id, sizeof(c.id)));
}

static void *fill(size_t bytes, uint64_t seed)
{
	uint64_t *m = aligned_alloc(PAGE, bytes);
	size_t i;

	cr_assert(m);
	for (i = 0; i < bytes / 8; i++)
		m[i] = seed + i * 0x9e3779b97f4a7c15ull;
	return m;
}

static bool start(struct pair *p, const struct kind *k, unsigned channels)
{
	char uri[400];
	int err;

	if (k->refused)
		refuse_calls(&(struct refused){ k->refused }, 1, k->err, true);
	memset(p, 0, sizeof(*p));
	p->kind = k;
	p->param = (struct xport_param){ .timeout_us = 30000000, .poll_us = 50 };
	if (k->chaos)
		p->param.chaos = xport_chaos_new(NULL);
	snprintf(uri, sizeof(uri), "%s%s", k->uri, k->query);
	err = xport_listen(&p->listener, uri, &p->param, &p->fail);
	if (err && !strncmp(k->uri, "tcp:[", 5)) {
		cr_log_warn("no IPv6 loopback here: %s", fail_text(&p->fail));
		return false;
	}
	cr_assert(!err, "%s", fail_text(&p->fail));
	cr_assert(!p->listener->ops->uri(p->listener, uri, sizeof(uri)));
	cr_assert_eq(p->listener->ops->uri(p->listener, uri, 3), -ENOSPC);
	snprintf(p->uri, sizeof(p->uri), "%.300s%s", uri, k->query);
	p->a.ram = fill(PAGES * PAGE, 1);
	p->b.ram = fill(PAGES * PAGE, 2);
	join_ends(p, &p->a, &p->b, 0x5a, 0, channels);
	return true;
}

static void stop(struct pair *p)
{
	if (p->a.link)
		p->a.link->ops->close(p->a.link);
	if (p->b.link)
		p->b.link->ops->close(p->b.link);
	p->listener->ops->close(p->listener);
	xport_chaos_free(p->param.chaos);
	free(p->a.ram);
	free(p->b.ram);
#ifdef CONFORMANCE_RDMA
	{
		char left[200];

		cr_assert_eq(rdma_left(left, sizeof(left)), 0, "left of the device: %s", left);
	}
#endif
}

static void expose(struct end *e, enum xport_access access)
{
	struct xport_region r[] = {
		{ .id = 7, .npages = BIG_PAGES, .base = e->ram },
		{ .id = 9, .npages = SMALL_PAGES, .base = e->ram + BIG_PAGES * PAGE },
	};

	cr_assert_eq(e->link->ops->expose(e->link, r, 2, access), 0, "%s", fail_text(&e->fail));
}

static void lend(struct end *e, void *mem, size_t len)
{
	struct iovec v[] = { { e->ram, PAGES * PAGE }, { mem, len } };

	cr_assert_eq(e->link->ops->lend(e->link, v, mem ? 2 : 1), 0, "%s", fail_text(&e->fail));
}

static uint8_t *page_at(struct end *e, uint32_t region, uint64_t page)
{
	return e->ram + ((region == SMALL ? BIG_PAGES : 0) + page) * PAGE;
}

struct server {
	struct xport_chan *chan;
	_Atomic uint64_t moved;
	int ret;
	_Atomic int tid;
	pthread_t thread;
};

static void count(void *arg, uint64_t npages)
{
	*(_Atomic uint64_t *)arg += npages;
}

static void *serve_thread(void *arg)
{
	struct server *s = arg;

	s->tid = (int)syscall(SYS_gettid);
	s->ret = s->chan->ops->serve(s->chan, count, &s->moved);
	return NULL;
}

static void serve(struct server *s, struct xport_chan *chan)
{
	memset(s, 0, sizeof(*s));
	s->chan = chan;
	cr_assert(!pthread_create(&s->thread, NULL, serve_thread, s));
}

static int served(struct server *s)
{
	pthread_join(s->thread, NULL);
	return s->ret;
}

static bool one_sided(struct pair *p)
{
	return p->a.link->caps & XPORT_ONE_SIDED;
}

#define CASE_ON(fn, suite, k, nch)              \
	Test(suite, fn)                         \
	{                                       \
		struct pair p;                  \
		if (!start(&p, &kinds[k], nch)) \
			return;                 \
		fn(&p);                         \
		stop(&p);                       \
	}
#ifdef CONFORMANCE_RDMA
#define CASE_N(fn, nch)                     \
	static void fn(struct pair *p);     \
	CASE_ON(fn, rdma4, 0, nch)          \
	CASE_ON(fn, rdma6, 1, nch)          \
	CASE_ON(fn, rdma_lazy, 2, nch)      \
	CASE_ON(fn, shape_rdma, 3, nch)     \
	CASE_ON(fn, chaos_rdma_mtu, 4, nch) \
	static void fn(struct pair *p)
#else
#define CASE_N(fn, nch)                         \
	static void fn(struct pair *p);         \
	CASE_ON(fn, tcp4, 0, nch)               \
	CASE_ON(fn, tcp6, 1, nch)               \
	CASE_ON(fn, mem, 2, nch)                \
	CASE_ON(fn, shape_tcp, 3, nch)          \
	CASE_ON(fn, chaos_tcp, 4, nch)          \
	CASE_ON(fn, shape_chaos_mem, 5, nch)    \
	CASE_ON(fn, tcp_without_splice, 6, nch) \
	static void fn(struct pair *p)
#endif
#define CASE(fn) CASE_N(fn, 1)

static void exchange(struct end *from, struct end *to, size_t size)
{
	uint8_t *out = fill(XPORT_MSG_MAX, size + 3), *in = malloc(XPORT_MSG_MAX);
	struct iovec iov[3] = { { out, size / 3 },
				{ out + size / 3, 0 },
				{ out + size / 3, size - size / 3 } };
	size_t len = 77;

	cr_assert_eq(from->ctl->ops->send(from->ctl, iov, 3), 0, "size %zu", size);
	cr_assert_eq(to->ctl->ops->recv(to->ctl, in, XPORT_MSG_MAX, &len, WAIT_US), 0, "size %zu", size);
	cr_assert_eq(len, size);
	cr_assert(!memcmp(in, out, size));
	free(out);
	free(in);
}

CASE(messages_of_all_sizes)
{
	static const size_t sizes[] = { 0, 1, 7, 8, 9, 4096, 65536, XPORT_MSG_MAX - 1, XPORT_MSG_MAX };
	size_t i;

	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		exchange(&p->a, &p->b, sizes[i]);
		exchange(&p->b, &p->a, sizes[i]);
	}
}

CASE(oversize_message_is_refused_and_the_next_one_goes)
{
	uint8_t *m = calloc(1, XPORT_MSG_MAX + 1);
	struct iovec iov = { m, XPORT_MSG_MAX + 1 };

	cr_assert_eq(p->a.ctl->ops->send(p->a.ctl, &iov, 1), -EMSGSIZE);
	exchange(&p->a, &p->b, 100);
	free(m);
}

CASE(message_that_does_not_fit_stays)
{
	char small[4], big[16];
	struct iovec iov = { "twelve bytes", 12 };
	size_t len;

	cr_assert_eq(p->a.ctl->ops->send(p->a.ctl, &iov, 1), 0);
	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, small, sizeof(small), &len, WAIT_US), -EMSGSIZE);
	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, big, sizeof(big), &len, WAIT_US), 0);
	cr_assert(len == 12 && !memcmp(big, "twelve bytes", 12));
}

CASE(messages_keep_their_order_and_show_on_the_fd)
{
	struct pollfd pfd = { .fd = p->b.ctl->ops->fd(p->b.ctl), .events = POLLIN };
	uint32_t i, got;
	size_t len;

	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, &got, sizeof(got), &len, 0), -EAGAIN);
	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, &got, sizeof(got), &len, 2000), -EAGAIN);
	cr_assert_eq(poll(&pfd, 1, 0), 0);
	for (i = 0; i < 100; i++) {
		struct iovec iov = { &i, sizeof(i) };

		cr_assert_eq(p->a.ctl->ops->send(p->a.ctl, &iov, 1), 0);
	}
	for (i = 0; i < 100; i++) {
		cr_assert_eq(poll(&pfd, 1, WAIT_US / 1000), 1);
		cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, &got, sizeof(got), &len, WAIT_US), 0);
		cr_assert_eq(got, i);
	}
	cr_assert_eq(poll(&pfd, 1, 0), 0);
}

/* Disjoint runs of 1 to 7 pages all over both regions. */
static unsigned scatter(struct page_run *runs)
{
	unsigned n = 0;
	uint64_t page;

	for (page = 1; n < XPORT_RUNS_MAX - 8 && page + 8 < BIG_PAGES; page += 8)
		runs[n] = (struct page_run){ .region = BIG, .page = page, .npages = 1 + n % 7 }, n++;
	for (page = 0; n < XPORT_RUNS_MAX && page + 2 <= SMALL_PAGES; page += 9)
		runs[n++] = (struct page_run){ .region = SMALL, .page = page, .npages = 2 };
	return n;
}

/* b's memory must hold a's pages in the runs and its own everywhere else. */
static void check_landed(struct pair *p, const struct page_run *runs, unsigned n, const uint8_t *before)
{
	bool *moved = calloc(PAGES, 1);
	unsigned i, j;

	for (i = 0; i < n; i++) {
		for (j = 0; j < runs[i].npages; j++)
			moved[(runs[i].region == SMALL ? BIG_PAGES : 0) + runs[i].page + j] = true;
	}
	for (i = 0; i < PAGES; i++)
		cr_assert(!memcmp(p->b.ram + i * PAGE, (moved[i] ? p->a.ram : before) + i * PAGE, PAGE),
			  "page %u, which was%s put", i, moved[i] ? "" : " not");
	free(moved);
}

static uint64_t pages_of(const struct page_run *runs, unsigned n)
{
	uint64_t pages = 0;

	while (n--)
		pages += runs[n].npages;
	return pages;
}

CASE(put_lands_exactly)
{
	struct page_run runs[XPORT_RUNS_MAX];
	uint8_t *before = fill(PAGES * PAGE, 2);
	unsigned n = scatter(runs);
	struct server s;

	expose(&p->a, XPORT_LOCAL);
	expose(&p->b, XPORT_PEER_WRITE);
	serve(&s, p->b.data);
	cr_assert_eq(p->a.data->ops->put(p->a.data, runs, n), 0, "%s", fail_text(&p->a.fail));
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	check_landed(p, runs, n, before);
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	cr_assert_eq(served(&s), 0);
	if (!one_sided(p))
		cr_assert_eq(s.moved, pages_of(runs, n));
	free(before);
}

/* A lander: writes to where base is, and counts. */
struct lander {
	struct pair *p;
	_Atomic uint64_t pages;
	uint64_t fails_at; /* 0: never */
};

static int land(void *arg, const struct page_run *runs, unsigned n, const void *data)
{
	struct lander *l = arg;
	const uint8_t *from = data;
	uint64_t pages = 0;

	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(runs[i].region, BIG);
		memcpy(page_at(&l->p->b, BIG, runs[i].page), from, runs[i].npages * PAGE);
		from += runs[i].npages * PAGE;
		pages += runs[i].npages;
	}
	cr_assert(pages && pages * PAGE <= LANDING_BYTES, "%llu pages at once", (unsigned long long)pages);
	l->pages += pages;
	return l->fails_at && l->pages >= l->fails_at ? fail(&l->p->b.fail, -ENOSPC, "it is full") : 0;
}

/* The big region of b has a lander, the small one has none. */
static void expose_to(struct pair *p, const struct xport_lander *lander)
{
	struct xport_region r[] = {
		{ .id = 7, .npages = BIG_PAGES, .base = p->b.ram, .lander = lander },
		{ .id = 9, .npages = SMALL_PAGES, .base = p->b.ram + BIG_PAGES * PAGE },
	};

	cr_assert_eq(p->b.link->ops->expose(p->b.link, r, 2, XPORT_PEER_WRITE), 0, "%s",
		     fail_text(&p->b.fail));
}

static uint64_t of_big(const struct page_run *runs, unsigned n)
{
	uint64_t pages = 0;

	while (n--)
		pages += runs[n].region == BIG ? runs[n].npages : 0;
	return pages;
}

static void mix(struct page_run *runs, unsigned n)
{
	for (unsigned i = 0; i < n / 2; i += 3) {
		struct page_run last = runs[n - 1 - i];

		runs[n - 1 - i] = runs[i];
		runs[i] = last;
	}
}

/* Each run lands as its region wants it, wherever it stands among the others. */
CASE(put_goes_to_the_lander_of_its_region)
{
	struct lander l = { .p = p };
	const struct xport_lander lander = { land, &l };
	struct page_run runs[XPORT_RUNS_MAX];
	uint8_t *before = fill(PAGES * PAGE, 2);
	unsigned n = scatter(runs);
	struct server s;

	mix(runs, n);
	expose(&p->a, XPORT_LOCAL);
	expose_to(p, &lander);
	serve(&s, p->b.data);
	cr_assert_eq(p->a.data->ops->put(p->a.data, runs, n), 0, "%s", fail_text(&p->a.fail));
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	check_landed(p, runs, n, before);
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	cr_assert_eq(served(&s), 0);
	if (!one_sided(p))
		cr_assert_eq(s.moved, pages_of(runs, n));
	cr_assert_eq(l.pages, one_sided(p) ? 0 : of_big(runs, n));
	free(before);
}

/* Longer than a buffer, of one run and of many. */
CASE(largest_put_to_a_lander)
{
	struct lander l = { .p = p };
	const struct xport_lander lander = { land, &l };
	struct page_run one = { .region = BIG, .page = 512, .npages = XPORT_XFER_MAX / PAGE },
			many[XPORT_RUNS_MAX];
	uint8_t *before = fill(PAGES * PAGE, 2);
	unsigned n = scatter(many);
	struct server s;

	expose(&p->a, XPORT_LOCAL);
	expose_to(p, &lander);
	serve(&s, p->b.data);
	cr_assert_eq(p->a.data->ops->put(p->a.data, &one, 1), 0);
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	check_landed(p, &one, 1, before);
	memcpy(p->b.ram, before, PAGES * PAGE);
	cr_assert_eq(p->a.data->ops->put(p->a.data, many, n), 0);
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	check_landed(p, many, n, before);
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	cr_assert_eq(served(&s), 0);
	free(before);
}

/* Its error is that of serve(), which the peer's runtime reports. */
CASE(a_lander_that_fails)
{
	struct lander l = { .p = p, .fails_at = 100 };
	const struct xport_lander lander = { land, &l };
	struct page_run run = { .region = BIG, .npages = 256 };
	struct server s;

	if (one_sided(p))
		return;
	expose(&p->a, XPORT_LOCAL);
	expose_to(p, &lander);
	serve(&s, p->b.data);
	p->a.data->ops->put(p->a.data, &run, 1); /* the peer may be gone before it has all */
	cr_assert_eq(served(&s), -ENOSPC);
	cr_assert_str_eq(fail_text(&p->b.fail), "it is full");
	cr_assert_lt(l.pages, 256);
}

CASE(a_fence_means_landed_round_after_round)
{
	struct page_run run = { .region = BIG, .npages = 256 };
	unsigned round, i;
	struct server s;

	expose(&p->a, XPORT_LOCAL);
	expose(&p->b, XPORT_PEER_WRITE);
	for (round = 0; round < 5; round++) {
		serve(&s, p->b.data);
		for (i = 0; i < 8; i++) {
			run.page = i * 256;
			memset(page_at(&p->a, BIG, run.page), (int)(round * 8 + i), run.npages * PAGE);
			cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 1), 0);
		}
		cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
		cr_assert(!memcmp(p->a.ram, p->b.ram, BIG_PAGES * PAGE));
		cr_assert_eq(p->a.data->ops->fence(p->a.data), 0); /* fences without puts are allowed */
		cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
		cr_assert_eq(served(&s), 0);
	}
}

CASE(largest_put_and_get)
{
	struct page_run run = { .region = BIG, .page = 512, .npages = XPORT_XFER_MAX / PAGE };
	void *dst = p->b.ram;
	struct server s;
	uint32_t tag;

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_PEER_WRITE);
	serve(&s, p->b.data);
	cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 1), 0);
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	cr_assert(!memcmp(page_at(&p->a, BIG, 512), page_at(&p->b, BIG, 512), XPORT_XFER_MAX));
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	cr_assert_eq(served(&s), 0);
	/* now the other direction on the same channel, with the roles exchanged */
	lend(&p->b, NULL, 0);
	serve(&s, p->a.data);
	cr_assert_eq(p->b.data->ops->get(p->b.data, &run, &dst, 1, 5), 0);
	cr_assert_eq(p->b.data->ops->reap(p->b.data, &tag, 1, WAIT_US), 1);
	cr_assert_eq(tag, 5);
	cr_assert(!memcmp(page_at(&p->a, BIG, 512), dst, XPORT_XFER_MAX));
	cr_assert_eq(p->b.data->ops->end(p->b.data), 0);
	cr_assert_eq(served(&s), 0);
}

/* All of XPORT_GETS_MAX gets complete in the order in which they were made: with the tags first, first + 1 and so on. */
static void reap_all(struct xport_chan *c, uint32_t first)
{
	uint32_t tags[XPORT_GETS_MAX];
	unsigned n = 0;

	while (n < XPORT_GETS_MAX) {
		int got = c->ops->reap(c, tags, 7, WAIT_US);

		cr_assert(got > 0 && got <= 7 && n + (unsigned)got <= XPORT_GETS_MAX, "reap: %d", got);
		for (int i = 0; i < got; i++, n++)
			cr_assert_eq(tags[i], (first + n) % XPORT_GETS_MAX, "get %u: tag %u", n, tags[i]);
	}
}

/* More requests and replies than any buffer holds: the two ends must not wait for each other for ever. */
CASE(largest_gets_all_at_once)
{
	struct page_run runs[XPORT_RUNS_MAX];
	void *dst[XPORT_RUNS_MAX];
	struct server s;
	unsigned i;

	for (i = 0; i < XPORT_RUNS_MAX; i++) {
		runs[i] = (struct page_run){ .region = BIG, .page = i * 8, .npages = 4 };
		dst[i] = page_at(&p->b, BIG, i * 8);
	}
	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_LOCAL);
	lend(&p->b, NULL, 0);
	serve(&s, p->a.data);
	for (i = 0; i < XPORT_GETS_MAX; i++)
		cr_assert_eq(p->b.data->ops->get(p->b.data, runs, dst, XPORT_RUNS_MAX, i), 0);
	reap_all(p->b.data, 0);
	for (i = 0; i < XPORT_RUNS_MAX; i++)
		cr_assert(!memcmp(dst[i], page_at(&p->a, BIG, i * 8), 4 * PAGE));
	cr_assert_eq(p->b.data->ops->end(p->b.data), 0);
	cr_assert_eq(served(&s), 0);
}

static void get_on(struct pair *p, struct xport_chan *user, struct xport_chan *server)
{
	uint8_t *buf = calloc(XPORT_GETS_MAX * 4, PAGE);
	struct page_run runs[3];
	struct server s;
	unsigned round, tag, i;
	void *dst[3];

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_LOCAL);
	lend(&p->b, buf, XPORT_GETS_MAX * 4 * PAGE);
	serve(&s, server);
	for (round = 0; round < 3; round++) {
		memset(buf, 0, XPORT_GETS_MAX * 4 * PAGE);
		for (tag = 0; tag < XPORT_GETS_MAX; tag++) {
			/* four pages in three runs, which land in another order */
			runs[0] = (struct page_run){ .region = BIG, .page = 1900 - tag * 7, .npages = 1 };
			runs[1] = (struct page_run){ .region = SMALL, .page = tag, .npages = 1 };
			runs[2] = (struct page_run){ .region = BIG, .page = tag * 11 + round, .npages = 2 };
			dst[0] = buf + (tag * 4 + 3) * PAGE;
			dst[1] = buf + (tag * 4 + 2) * PAGE;
			dst[2] = buf + tag * 4 * PAGE;
			cr_assert_eq(user->ops->get(user, runs, dst, 3, (tag + round) % XPORT_GETS_MAX), 0,
				     "%s", fail_text(&p->b.fail));
		}
		cr_assert_eq(user->ops->get(user, runs, dst, 1, 0), -EAGAIN);
		reap_all(user, round);
		for (i = 0; i < XPORT_GETS_MAX; i++) {
			uint8_t *at = buf + i * 4 * PAGE;

			cr_assert(!memcmp(at, page_at(&p->a, BIG, i * 11 + round), 2 * PAGE));
			cr_assert(!memcmp(at + 2 * PAGE, page_at(&p->a, SMALL, i), PAGE));
			cr_assert(!memcmp(at + 3 * PAGE, page_at(&p->a, BIG, 1900 - i * 7), PAGE));
		}
	}
	cr_assert_eq(user->ops->end(user), 0);
	cr_assert_eq(served(&s), 0);
	if (!one_sided(p))
		cr_assert_eq(s.moved, 3u * XPORT_GETS_MAX * 4);
	free(buf);
}

CASE(gets_on_a_data_channel)
{
	get_on(p, p->b.data, p->a.data);
}

CASE(gets_on_the_urgent_channel)
{
	get_on(p, p->b.urgent, p->a.urgent);
}

CASE(reap_without_waiting)
{
	struct page_run run = { .region = BIG, .page = 3, .npages = 1 };
	void *dst = page_at(&p->b, BIG, 9);
	struct pollfd pfd = { .events = POLLIN };
	struct server s;
	uint32_t tag;
	int n;

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_LOCAL);
	lend(&p->b, NULL, 0);
	cr_assert_eq(p->b.urgent->ops->reap(p->b.urgent, &tag, 1, 0), -EAGAIN);
	cr_assert_eq(p->b.urgent->ops->reap(p->b.urgent, &tag, 1, 3000), -EAGAIN);
	serve(&s, p->a.urgent);
	cr_assert_eq(p->b.urgent->ops->get(p->b.urgent, &run, &dst, 1, 63), 0);
	while ((n = p->b.urgent->ops->reap(p->b.urgent, &tag, 1, 0)) == -EAGAIN) {
		pfd.fd = p->b.urgent->ops->fd(p->b.urgent);
		if (pfd.fd >= 0)
			cr_assert_eq(poll(&pfd, 1, WAIT_US / 1000), 1);
	}
	cr_assert(n == 1 && tag == 63);
	cr_assert(!memcmp(dst, page_at(&p->a, BIG, 3), PAGE));
	cr_assert_eq(p->b.urgent->ops->end(p->b.urgent), 0);
	cr_assert_eq(served(&s), 0);
}

CASE(runs_outside_are_refused_here)
{
	static const struct page_run bad[] = {
		{ .region = 2, .page = 0, .npages = 1 },
		{ .region = BIG, .page = BIG_PAGES, .npages = 1 },
		{ .region = BIG, .page = BIG_PAGES - 1, .npages = 2 },
		{ .region = SMALL, .page = 0, .npages = SMALL_PAGES + 1 },
		{ .region = BIG, .page = UINT64_MAX, .npages = 1 },
		{ .region = BIG, .page = UINT64_MAX - 1, .npages = 3 },
		{ .region = BIG, .page = 1ull << 52, .npages = 1 },
		{ .region = BIG, .page = 1, .npages = UINT32_MAX },
		{ .region = BIG, .page = 1, .npages = 0 },
		{ .region = BIG, .page = 0, .npages = XPORT_XFER_MAX / PAGE + 1 },
	};
	struct page_run run = { .region = BIG, .page = 1, .npages = 1 };
	void *dst = p->b.ram;
	struct server s;
	size_t i;

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_PEER_WRITE);
	serve(&s, p->b.data);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(p->a.data->ops->put(p->a.data, &bad[i], 1), -EINVAL, "run %zu", i);
		cr_assert_eq(p->b.urgent->ops->get(p->b.urgent, &bad[i], &dst, 1, 0), -EINVAL, "run %zu", i);
	}
	cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 0), -EINVAL);
	cr_assert(fail_text(&p->a.fail)[0], "a refusal has a sentence");
	cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 1), 0);
	cr_assert_eq(p->a.data->ops->fence(p->a.data), 0);
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	cr_assert_eq(served(&s), 0);
}

CASE(put_needs_write_access)
{
	struct page_run run = { .region = BIG, .page = 1, .npages = 3 };
	uint8_t *before = fill(PAGES * PAGE, 2);
	struct server s;
	int err;

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_PEER_READ);
	serve(&s, p->b.data);
	err = p->a.data->ops->put(p->a.data, &run, 1);
	if (one_sided(p)) {
		cr_assert_eq(err, -EPROTO);
		served(&s);
	} else {
		cr_assert_eq(err, 0);
		cr_assert_eq(served(&s), -EPROTO);
		cr_assert(fail_text(&p->b.fail)[0]);
		p->b.link->ops->kill(p->b.link);
		cr_assert_lt(p->a.data->ops->fence(p->a.data), 0);
	}
	cr_assert(!memcmp(p->b.ram, before, PAGES * PAGE));
	free(before);
}

CASE(get_needs_read_access)
{
	struct page_run run = { .region = BIG, .page = 1, .npages = 3 };
	uint8_t *before = fill(PAGES * PAGE, 2);
	void *dst = page_at(&p->b, BIG, 1);
	struct server s;
	uint32_t tag;
	int err;

	expose(&p->a, XPORT_PEER_WRITE);
	expose(&p->b, XPORT_LOCAL);
	lend(&p->b, NULL, 0);
	serve(&s, p->a.urgent);
	err = p->b.urgent->ops->get(p->b.urgent, &run, &dst, 1, 1);
	if (one_sided(p)) {
		cr_assert_eq(err, -EPROTO);
		served(&s);
	} else {
		cr_assert_eq(err, 0);
		cr_assert_eq(served(&s), -EPROTO);
		p->a.link->ops->kill(p->a.link);
		cr_assert_eq(p->b.urgent->ops->reap(p->b.urgent, &tag, 1, WAIT_US), -EPIPE);
	}
	cr_assert(!memcmp(p->b.ram, before, PAGES * PAGE));
	free(before);
}

CASE(a_region_without_memory_can_be_named_in_a_get_only)
{
	struct xport_region r = { .id = 7, .npages = BIG_PAGES };
	struct page_run run = { .region = BIG, .page = 1, .npages = 3 };
	void *dst = page_at(&p->b, BIG, 40);
	struct server s;
	uint32_t tag;

	expose(&p->a, XPORT_PEER_READ | XPORT_PEER_WRITE);
	lend(&p->b, NULL, 0);
	cr_assert_eq(p->b.link->ops->expose(p->b.link, &r, 1, XPORT_LOCAL), 0);
	cr_assert_eq(p->b.data->ops->put(p->b.data, &run, 1), -EINVAL);
	serve(&s, p->a.data);
	cr_assert_eq(p->b.data->ops->get(p->b.data, &run, &dst, 1, 2), 0, "%s", fail_text(&p->b.fail));
	cr_assert_eq(p->b.data->ops->reap(p->b.data, &tag, 1, WAIT_US), 1);
	cr_assert(!memcmp(dst, page_at(&p->a, BIG, 1), 3 * PAGE));
	cr_assert_eq(p->b.data->ops->end(p->b.data), 0);
	cr_assert_eq(served(&s), 0);
}

CASE(a_get_lands_in_lent_memory_only)
{
	struct page_run run = { .region = BIG, .page = 1, .npages = 2 };
	uint8_t *before = fill(4 * PAGE, 9), *buf = fill(4 * PAGE, 9);
	struct iovec half = { buf, PAGE };
	void *dst = buf;
	int err;

	expose(&p->a, XPORT_PEER_READ);
	expose(&p->b, XPORT_LOCAL);
	cr_assert_eq(p->b.link->ops->lend(p->b.link, &half, 1), 0);
	if (one_sided(p)) {
		err = p->b.urgent->ops->get(p->b.urgent, &run, &dst, 1, 2);
		cr_assert_eq(err, -EINVAL, "get: %d", err);
		cr_assert(!memcmp(before, buf, 4 * PAGE) || !memcmp(buf, page_at(&p->a, BIG, 1), PAGE));
		cr_assert(!memcmp(before + PAGE, buf + PAGE, 3 * PAGE));
	}
	cr_assert_eq(p->b.link->ops->lend(p->b.link, NULL, 0), 0);
	free(buf);
	free(before);
}

CASE(memory_comes_back_after_a_kill)
{
	expose(&p->a, XPORT_PEER_READ);
	lend(&p->b, NULL, 0);
	cr_assert_eq(p->a.link->ops->fits(p->a.link, PAGES * PAGE), 0);
	p->a.link->ops->kill(p->a.link);
	cr_assert_eq(p->a.link->ops->expose(p->a.link, NULL, 0, XPORT_LOCAL), 0);
	cr_assert_eq(p->b.link->ops->lend(p->b.link, NULL, 0), 0);
}

CASE(nothing_exposed_nothing_moves)
{
	struct page_run run = { .region = BIG, .page = 1, .npages = 1 };

	expose(&p->a, XPORT_LOCAL);
	cr_assert_eq(p->a.link->ops->expose(p->a.link, NULL, 0, XPORT_LOCAL), 0);
	cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 1), -EINVAL);
}

/* Waits until the thread sleeps in the kernel. */
static void wait_asleep(_Atomic int *tid)
{
	char path[64], state = 0;
	FILE *f;

	while (state != 'S') {
		if (!*tid)
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%d/stat", *tid);
		f = fopen(path, "r");
		cr_assert(f);
		cr_assert_eq(fscanf(f, "%*d (%*[^)]) %c", &state), 1);
		fclose(f);
	}
}

/* Waits until the thread has not run for a while: all data in flight has arrived; the peer takes no more. */
static void wait_still(int tid)
{
	long ran, was = -1;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	for (;;) {
		char line[128];

		f = fopen(path, "r");
		cr_assert(f);
		ran = -1;
		while (ran < 0 && fgets(line, sizeof(line), f))
			sscanf(line, "voluntary_ctxt_switches: %ld", &ran);
		fclose(f);
		cr_assert(ran >= 0);
		if (ran == was)
			return;
		was = ran;
		usleep(300000);
	}
}

struct blocked {
	struct end *e;
	int (*call)(struct end *e);
	_Atomic int tid;
	int ret;
};

static void *blocked_thread(void *arg)
{
	struct blocked *b = arg;

	b->tid = (int)syscall(SYS_gettid);
	b->ret = b->call(b->e);
	return NULL;
}

static int call_recv(struct end *e)
{
	char buf[16];
	size_t len;

	return e->ctl->ops->recv(e->ctl, buf, sizeof(buf), &len, UINT64_MAX);
}

static int call_serve_data(struct end *e)
{
	return e->data->ops->serve(e->data, NULL, NULL);
}

static int call_serve_urgent(struct end *e)
{
	return e->urgent->ops->serve(e->urgent, NULL, NULL);
}

static int call_reap(struct end *e)
{
	uint32_t tag;

	return e->data->ops->reap(e->data, &tag, 1, UINT64_MAX);
}

/* No thread serves: puts fill the socket, then block. */
static int call_put(struct end *e)
{
	struct page_run run = { .region = BIG, .npages = 1024 };
	int err;

	do {
		err = e->data->ops->put(e->data, &run, 1);
	} while (!err);
	return err;
}

static int call_fence(struct end *e)
{
	return e->data->ops->fence(e->data);
}

/* A kill wakes each call that waits for the peer. On a one-sided transport some calls never wait. */
static void kill_while(struct pair *p, int (*call)(struct end *), bool by_peer, bool still)
{
	struct blocked b = { .e = &p->a, .call = call };
	pthread_t t;

	expose(&p->a, XPORT_LOCAL);
	cr_assert(!pthread_create(&t, NULL, blocked_thread, &b));
	wait_asleep(&b.tid);
	if (still)
		wait_still(b.tid);
	if (by_peer)
		p->b.link->ops->kill(p->b.link);
	else
		p->a.link->ops->kill(p->a.link);
	pthread_join(t, NULL);
	cr_assert_eq(b.ret, -EPIPE, "ended with %d", b.ret);
	if (!by_peer)
		p->a.link->ops->kill(p->a.link); /* a second kill is allowed */
}

CASE(kill_wakes_recv)
{
	kill_while(p, call_recv, false, false);
}

CASE(kill_wakes_reap)
{
	kill_while(p, call_reap, false, false);
}

CASE(kill_wakes_serve)
{
	if (!one_sided(p))
		kill_while(p, call_serve_data, false, false);
}

CASE(kill_wakes_urgent_serve)
{
	if (!one_sided(p))
		kill_while(p, call_serve_urgent, false, false);
}

CASE(kill_wakes_put)
{
	if (!one_sided(p))
		kill_while(p, call_put, false, false);
}

CASE(kill_wakes_fence)
{
	if (!one_sided(p))
		kill_while(p, call_fence, false, false);
}

CASE(peer_gone_wakes_recv)
{
	kill_while(p, call_recv, true, false);
}

CASE(peer_gone_wakes_serve)
{
	if (!one_sided(p))
		kill_while(p, call_serve_data, true, false);
}

CASE(peer_gone_wakes_reap)
{
	kill_while(p, call_reap, true, false);
}

/* Only the result may say so: a SIGPIPE would end this process. */
CASE(peer_gone_wakes_put)
{
	sigset_t pending;

	if (!one_sided(p))
		kill_while(p, call_put, true, false);
	sigpending(&pending);
	cr_assert(!sigismember(&pending, SIGPIPE));
}

/* The socket is full, and the end of the peer does not make it writable. */
CASE(peer_gone_with_all_full_wakes_put)
{
	if (!one_sided(p))
		kill_while(p, call_put, true, true);
}

CASE(every_call_after_kill_says_so)
{
	struct page_run run = { .region = BIG, .npages = 1 };
	struct iovec iov = { "x", 1 };
	void *dst = p->a.ram;
	size_t len;
	uint32_t tag;
	char buf[8];

	expose(&p->a, XPORT_LOCAL);
	expose(&p->b, XPORT_PEER_READ | XPORT_PEER_WRITE);
	cr_assert_eq(p->b.ctl->ops->send(p->b.ctl, &iov, 1), 0); /* stays unread */
	p->a.link->ops->kill(p->a.link);
	cr_assert_eq(p->a.ctl->ops->send(p->a.ctl, &iov, 1), -EPIPE);
	cr_assert_eq(p->a.ctl->ops->recv(p->a.ctl, buf, sizeof(buf), &len, 0), -EPIPE);
	cr_assert_eq(p->a.data->ops->put(p->a.data, &run, 1), -EPIPE);
	cr_assert_eq(p->a.data->ops->fence(p->a.data), -EPIPE);
	cr_assert_eq(p->a.data->ops->get(p->a.data, &run, &dst, 1, 0), -EPIPE);
	cr_assert_eq(p->a.data->ops->reap(p->a.data, &tag, 1, 0), -EPIPE);
	cr_assert_eq(p->a.data->ops->end(p->a.data), -EPIPE);
	cr_assert_eq(p->a.urgent->ops->serve(p->a.urgent, NULL, NULL), -EPIPE);
}

CASE(what_was_sent_before_the_end_still_arrives)
{
	struct iovec iov = { "last words", 10 };
	char buf[16];
	size_t len;

	cr_assert_eq(p->a.ctl->ops->send(p->a.ctl, &iov, 1), 0);
	p->a.link->ops->kill(p->a.link);
	p->a.link->ops->close(p->a.link);
	p->a.link = NULL;
	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, buf, sizeof(buf), &len, WAIT_US), 0);
	cr_assert(len == 10 && !memcmp(buf, "last words", 10));
	cr_assert_eq(p->b.ctl->ops->recv(p->b.ctl, buf, sizeof(buf), &len, WAIT_US), -EPIPE);
}

CASE(reconnect_with_the_next_generation)
{
	unsigned g;

	for (g = 1; g <= 3; g++) {
		p->a.link->ops->kill(p->a.link);
		p->a.link->ops->close(p->a.link);
		p->b.link->ops->close(p->b.link);
		join_ends(p, &p->a, &p->b, 0x5a, g, 2);
		exchange(&p->a, &p->b, 1000);
	}
}

CASE(two_links_on_one_listener)
{
	struct end a2 = { .ram = p->a.ram }, b2 = { .ram = p->b.ram };

	join_ends(p, &a2, &b2, 0x77, 0, 3);
	exchange(&p->a, &p->b, 10);
	exchange(&a2, &b2, 20);
	a2.link->ops->kill(a2.link);
	exchange(&p->b, &p->a, 30);
	a2.link->ops->close(a2.link);
	b2.link->ops->close(b2.link);
}

struct putter {
	struct pair *p;
	unsigned index;
	int err;
};

static void *put_thread(void *arg)
{
	struct putter *w = arg;
	struct xport_chan *c = w->p->a.link->ops->chan(w->p->a.link, XPORT_DATA, w->index);
	struct page_run run = { .region = BIG, .npages = 64 };
	unsigned i;

	for (i = w->index; !w->err && i < BIG_PAGES / 64; i += 4) {
		run.page = i * 64;
		w->err = c->ops->put(c, &run, 1);
	}
	if (!w->err)
		w->err = c->ops->fence(c);
	if (!w->err)
		w->err = c->ops->end(c);
	return NULL;
}

CASE_N(four_data_channels, 4)
{
	struct server s[4];
	struct putter w[4];
	pthread_t t[4];
	unsigned i;

	expose(&p->a, XPORT_LOCAL);
	expose(&p->b, XPORT_PEER_WRITE);
	cr_assert_null(p->a.link->ops->chan(p->a.link, XPORT_DATA, 4));
	for (i = 0; i < 4; i++) {
		serve(&s[i], p->b.link->ops->chan(p->b.link, XPORT_DATA, i));
		w[i] = (struct putter){ .p = p, .index = i };
		cr_assert(!pthread_create(&t[i], NULL, put_thread, &w[i]));
	}
	for (i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		cr_assert_eq(w[i].err, 0);
		cr_assert_eq(served(&s[i]), 0);
	}
	cr_assert(!memcmp(p->a.ram, p->b.ram, BIG_PAGES * PAGE));
}

CASE(nobody_listens)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l = NULL;
	struct fail f = { 0 };

	p->listener->ops->close(p->listener);
	cr_assert_eq(xport_connect(&l, p->uri, &id, &p->param, WAIT_US, &f), -ECONNREFUSED);
	cr_assert(strlen(fail_text(&f)) > 10);
	cr_assert_null(l);
	cr_assert_eq(xport_listen(&p->listener, p->uri, &p->param, &p->fail), 0, "%s", fail_text(&p->fail));
}

CASE(nobody_accepts_at_first)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l;
	struct fail f = { 0 };

	cr_assert_eq(xport_connect(&l, p->uri, &id, &p->param, 20000, &f), -ETIMEDOUT);
	cr_assert(strlen(fail_text(&f)) > 10);
	/* the remains of that attempt must not disturb the next one */
	p->a.link->ops->close(p->a.link);
	p->b.link->ops->close(p->b.link);
	join_ends(p, &p->a, &p->b, 0, 0, 1);
	exchange(&p->a, &p->b, 10);
	cr_assert_eq(p->listener->ops->accept(p->listener, &l, &f), -EAGAIN);
}
