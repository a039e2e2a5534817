// SPDX-License-Identifier: MIT
/* The effects of shape and chaos on a link. The conformance test checks that they have no others. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/base/fail.h"
#include "transport/xport.h"

#define PAGE 4096u
#define PAGES 4096u
#define WAIT_US 60000000u

struct rig {
	struct xport_param a_param, b_param; /* a connects, b listens */
	struct xport_listener *listener;
	struct xport_link *a, *b;
	struct fail fail;
	char uri[200];
	uint8_t *ram;
	int connected;
};

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void *connect_thread(void *arg)
{
	struct rig *r = arg;
	struct xport_link_id id = { .channels = 1 };

	r->connected = xport_connect(&r->a, r->uri, &id, &r->a_param, WAIT_US, &r->fail);
	return NULL;
}

static void link_up(struct rig *r)
{
	struct xport_region reg = { .id = 1, .npages = PAGES, .base = r->ram };
	struct pollfd pfd = { .fd = r->listener->ops->fd(r->listener), .events = POLLIN };
	pthread_t t;
	int err;

	cr_assert(!pthread_create(&t, NULL, connect_thread, r));
	while ((err = r->listener->ops->accept(r->listener, &r->b, &r->fail)) == -EAGAIN)
		cr_assert_gt(poll(&pfd, 1, WAIT_US / 1000), 0);
	pthread_join(t, NULL);
	cr_assert(!err && !r->connected, "%s", fail_text(&r->fail));
	cr_assert_eq(r->a->ops->expose(r->a, &reg, 1, XPORT_LOCAL), 0);
	cr_assert_eq(r->a->ops->lend(r->a, &(struct iovec){ NULL, SIZE_MAX }, 1), 0);
	cr_assert_eq(r->b->ops->expose(r->b, &reg, 1, XPORT_PEER_READ), 0);
}

static void start(struct rig *r, const char *uri, const char *query, struct chaos *chaos)
{
	char at[100];

	memset(r, 0, sizeof(*r));
	r->a_param = r->b_param = (struct xport_param){ .timeout_us = 1000000, .poll_us = 50 };
	r->a_param.chaos = chaos;
	cr_assert_eq(xport_listen(&r->listener, uri, &r->b_param, &r->fail), 0, "%s", fail_text(&r->fail));
	cr_assert_eq(r->listener->ops->uri(r->listener, at, sizeof(at)), 0);
	snprintf(r->uri, sizeof(r->uri), "%s%s", at, query);
	r->ram = aligned_alloc(PAGE, PAGES * PAGE);
	cr_assert(r->ram);
	memset(r->ram, 1, PAGES * PAGE);
	link_up(r);
}

static void link_down(struct rig *r)
{
	r->a->ops->kill(r->a);
	r->a->ops->close(r->a);
	r->b->ops->close(r->b);
}

static void stop(struct rig *r)
{
	link_down(r);
	r->listener->ops->close(r->listener);
	xport_chaos_free(r->a_param.chaos);
	free(r->ram);
}

static int say(struct xport_link *l, const char *text)
{
	struct xport_chan *c = l->ops->chan(l, XPORT_CONTROL, 0);
	struct iovec iov = { (void *)text, strlen(text) };

	return c->ops->send(c, &iov, 1);
}

static int hear(struct xport_link *l, const char *text, uint64_t wait_us)
{
	struct xport_chan *c = l->ops->chan(l, XPORT_CONTROL, 0);
	char buf[2000];
	size_t len;
	int err = c->ops->recv(c, buf, sizeof(buf), &len, wait_us);

	if (!err)
		cr_assert(len == strlen(text) && !memcmp(buf, text, len), "heard %.*s", (int)len, buf);
	return err;
}

static void get_pages(struct xport_chan *c, uint8_t *to, unsigned total, unsigned each)
{
	unsigned next = 0, inflight = 0, tag = 0;
	uint32_t tags[8];
	int n;

	while (next < total || inflight) {
		if (next < total && inflight < 8) {
			struct page_run run = { .region = 0, .page = next, .npages = each };
			void *dst = to + (size_t)next * PAGE;

			cr_assert_eq(c->ops->get(c, &run, &dst, 1, tag++ % XPORT_GETS_MAX), 0);
			next += each;
			inflight++;
			continue;
		}
		n = c->ops->reap(c, tags, 8, WAIT_US);
		cr_assert_gt(n, 0);
		inflight -= (unsigned)n;
	}
}

/* 16 MiB at 64 MiB/s take a quarter of a second in either direction; a pull may be 50 ms ahead. */
Test(shape, bandwidth_over_mem_gets)
{
	uint8_t *to = malloc(PAGES * PAGE);
	struct xport_chan *c;
	struct rig r;
	uint64_t t;

	start(&r, "mem:shape", "?bandwidth=64M", NULL);
	c = r.a->ops->chan(r.a, XPORT_DATA, 0);
	t = now_us();
	get_pages(c, to, PAGES, 256);
	t = now_us() - t;
	cr_assert(t > 150000, "%u us", (unsigned)t);
	cr_assert(!memcmp(to, r.ram, PAGES * PAGE));
	stop(&r);
	free(to);
}

Test(shape, who_comes_after_urgent_pages_pays_for_them)
{
	uint8_t *to = malloc(PAGES * PAGE);
	struct xport_chan *u, *d;
	struct rig r;
	uint64_t t;

	start(&r, "mem:shape", "?bandwidth=16M", NULL);
	u = r.a->ops->chan(r.a, XPORT_URGENT, 0);
	d = r.a->ops->chan(r.a, XPORT_DATA, 0);
	t = now_us();
	get_pages(u, to, PAGES, 256);
	get_pages(d, to, 1, 1);
	t = now_us() - t;
	cr_assert(t > 900000, "the data channel waits for what was urgent: %u us", (unsigned)t);
	stop(&r);
	free(to);
}

/* If they waited for this bandwidth, they would take hours. */
Test(shape, urgent_pages_wait_for_none)
{
	uint8_t *to = malloc(PAGES * PAGE);
	struct rig r;

	start(&r, "mem:shape", "?bandwidth=1K", NULL);
	get_pages(r.a->ops->chan(r.a, XPORT_URGENT, 0), to, PAGES, 256);
	cr_assert(!memcmp(to, r.ram, PAGES * PAGE));
	stop(&r);
	free(to);
}

static void *serve_thread(void *arg)
{
	struct rig *r = arg;
	struct xport_chan *c = r->b->ops->chan(r->b, XPORT_DATA, 0);

	r->connected = c->ops->serve(c, NULL, NULL);
	return NULL;
}

/* Only the serving end has a limit; it slows the getting end. */
Test(shape, bandwidth_of_the_serving_end)
{
	uint8_t *to = malloc(PAGES * PAGE);
	struct xport_chan *c;
	struct rig r;
	pthread_t th;
	uint64_t t;

	start(&r, "tcp:127.0.0.1:0?bandwidth=64M", "", NULL);
	cr_assert(!pthread_create(&th, NULL, serve_thread, &r));
	c = r.a->ops->chan(r.a, XPORT_DATA, 0);
	t = now_us();
	get_pages(c, to, PAGES, 256);
	t = now_us() - t;
	cr_assert_eq(c->ops->end(c), 0);
	pthread_join(th, NULL);
	cr_assert_eq(r.connected, 0);
	cr_assert(t > 150000, "%u us", (unsigned)t);
	stop(&r);
	free(to);
}

Test(shape, latency)
{
	uint8_t to[PAGE];
	struct page_run run = { .region = 0, .page = 5, .npages = 1 };
	struct xport_chan *c;
	void *dst = to;
	struct rig r;
	uint32_t tag;
	uint64_t t;
	int n;

	start(&r, "mem:shape", "?latency=20ms", NULL);
	c = r.a->ops->chan(r.a, XPORT_URGENT, 0);
	t = now_us();
	cr_assert_eq(say(r.a, "late"), 0);
	cr_assert_eq(hear(r.b, "late", WAIT_US), 0);
	cr_assert_geq(now_us() - t, 20000);
	t = now_us();
	cr_assert_eq(c->ops->get(c, &run, &dst, 1, 9), 0);
	while ((n = c->ops->reap(c, &tag, 1, 1000)) == -EAGAIN)
		;
	cr_assert_eq(n, 1);
	cr_assert_geq(now_us() - t, 40000);
	cr_assert_eq(tag, 9);
	stop(&r);
}

/* In these tests the type of a message is its first letter. */
static unsigned first_letter(const void *msg, size_t len)
{
	return len ? *(const unsigned char *)msg : 0;
}

Test(chaos, what_can_be_asked)
{
	static const char *const good[] = { "cut:1",
					    "stall:1",
					    "keep",
					    "keep:1",
					    "mtu",
					    "mtu:1",
					    "heal",
					    "cut@1",
					    "cut@7:20",
					    "short@2",
					    "corrupt@3",
					    "lost:1",
					    "lost:1@2",
					    "lost:1@2:30",
					    "lost:1:30",
					    "cut-before:9",
					    "cut-middle:9@3",
					    "cut-after:65535:1",
					    "kill-at:1",
					    "kill-heard:1",
					    "kill-before:1",
					    "kill-after:1@2",
					    "stop-before:1",
					    "stop-after:1" };
	static const char *const bad[] = { "",
					   "cu",
					   "cutt",
					   "cut:",
					   "cut:x",
					   "cut:1x",
					   "cut@",
					   "cut@0",
					   "cut@x",
					   "cut@1:",
					   "stall",
					   "stall@1",
					   "stall@1:1",
					   "short",
					   "short:1",
					   "short@1:1",
					   "corrupt",
					   "heal:1",
					   "heal@1",
					   "keep:",
					   "keep@1",
					   "mtu:",
					   "mtu@1",
					   "cut:99999999999999999999",
					   "cut@99999999999999999999",
					   "lost",
					   "lost@1",
					   "lost:",
					   "lost:0",
					   "lost:x",
					   "lost:65536",
					   "lost:1@0",
					   "lost:1:",
					   "lost:1:1:1",
					   "kill-before",
					   "kill-before:1:1",
					   "stop-after:1@x",
					   "pending:1" };
	struct chaos *c = xport_chaos_new(first_letter), *typeless = xport_chaos_new(NULL);
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		cr_assert_eq(xport_chaos_fault(c, good[i]), 0, "%s", good[i]);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(xport_chaos_fault(c, bad[i]), -EINVAL, "%s", bad[i]);
	cr_assert_eq(xport_chaos_fault(c, "pending"), 1);
	cr_assert_eq(xport_chaos_fault(typeless, "pending"), 0);
	cr_assert_eq(xport_chaos_fault(typeless, "lost:1"), -EINVAL, "its messages have no types");
	xport_chaos_free(c);
	xport_chaos_free(typeless);
}

static void cut_and_heal(const char *uri)
{
	struct xport_link_id id = { .channels = 1 };
	struct chaos *c = xport_chaos_new(NULL);
	struct xport_link *l;
	struct rig r;
	uint64_t t;

	start(&r, uri, "", c);
	cr_assert_eq(xport_chaos_fault(c, "cut"), 0);
	cr_assert_eq(say(r.a, "x"), -EPIPE);
	cr_assert_eq(hear(r.b, "", WAIT_US), -EPIPE);
	cr_assert_eq(xport_connect(&l, r.uri, &id, &r.a_param, WAIT_US, NULL), -ECONNREFUSED);
	t = now_us();
	cr_assert_eq(xport_chaos_fault(c, "cut:50"), 0);
	while (xport_connect(&l, r.uri, &id, &r.a_param, 1000, NULL) == -ECONNREFUSED)
		;
	cr_assert_geq(now_us() - t, 50000);
	link_down(&r);
	link_up(&r);
	cr_assert_eq(say(r.a, "again"), 0);
	cr_assert_eq(hear(r.b, "again", WAIT_US), 0);
	stop(&r);
}

Test(chaos, cut_and_heal_tcp)
{
	cut_and_heal("tcp:127.0.0.1:0");
}

Test(chaos, cut_and_heal_mem)
{
	cut_and_heal("mem:chaos");
}

Test(chaos, a_cut_at_the_accepting_end)
{
	struct xport_link_id id = { .channels = 1 };
	struct chaos *c = xport_chaos_new(NULL);
	struct xport_link *l;
	struct rig r;

	start(&r, "tcp:127.0.0.1:0", "", NULL);
	link_down(&r);
	r.listener->ops->close(r.listener);
	r.b_param.chaos = c;
	cr_assert_eq(xport_listen(&r.listener, r.uri, &r.b_param, &r.fail), 0, "%s", fail_text(&r.fail));
	link_up(&r);
	cr_assert_eq(xport_chaos_fault(c, "cut"), 0);
	cr_assert_eq(hear(r.a, "", WAIT_US), -EPIPE);
	cr_assert_eq(r.listener->ops->accept(r.listener, &l, &r.fail), -EAGAIN);
	cr_assert_eq(xport_connect(&l, r.uri, &id, &r.a_param, 20000, NULL), -ETIMEDOUT);
	cr_assert_eq(xport_chaos_fault(c, "heal"), 0);
	link_down(&r);
	link_up(&r);
	stop(&r);
	xport_chaos_free(c);
}

Test(chaos, stall)
{
	struct chaos *c = xport_chaos_new(NULL);
	struct rig r;
	uint64_t t;

	start(&r, "tcp:127.0.0.1:0", "", c);
	cr_assert_eq(say(r.b, "hello"), 0);
	cr_assert_eq(xport_chaos_fault(c, "stall:600000"), 0);
	cr_assert_eq(hear(r.a, "hello", 0), -EAGAIN);
	cr_assert_eq(hear(r.a, "hello", 1000), -EAGAIN);
	t = now_us();
	cr_assert_eq(xport_chaos_fault(c, "stall:100"), 0);
	cr_assert_eq(say(r.a, "late"), 0);
	cr_assert_geq(now_us() - t, 100000);
	cr_assert_eq(hear(r.b, "late", WAIT_US), 0);
	cr_assert_eq(hear(r.a, "hello", WAIT_US), 0);
	cr_assert_eq(xport_chaos_fault(c, "stall:60000"), 0);
	cr_assert_eq(say(r.a, "never"), -ETIMEDOUT);
	stop(&r);
}

/* Short messages and connects work; page data does not move, and a long message loses the link. */
static void small_packets_only(const char *uri)
{
	struct page_run run = { .region = 0, .npages = 1 };
	char fits[1001] = { 0 }, longer[1002] = { 0 };
	struct chaos *c = xport_chaos_new(NULL);
	struct xport_chan *data;
	uint8_t page[PAGE];
	void *dst = page;
	struct rig r;

	memset(fits, 'x', sizeof(fits) - 1);
	memset(longer, 'x', sizeof(longer) - 1);
	start(&r, uri, "", c);
	data = r.a->ops->chan(r.a, XPORT_DATA, 0);
	cr_assert_eq(xport_chaos_fault(c, "mtu"), 0);
	cr_assert_eq(say(r.a, fits), 0);
	cr_assert_eq(hear(r.b, fits, WAIT_US), 0);
	cr_assert_eq(say(r.b, "back"), 0);
	cr_assert_eq(hear(r.a, "back", WAIT_US), 0);
	cr_assert_eq(data->ops->get(data, &run, &dst, 1, 0), -ETIMEDOUT);
	cr_assert_eq(say(r.a, longer), 0);
	cr_assert_eq(say(r.a, "behind it"), 0);
	cr_assert_eq(hear(r.b, "", 20000), -EAGAIN);
	link_down(&r);
	link_up(&r);
	cr_assert_eq(say(r.a, "again"), 0);
	cr_assert_eq(hear(r.b, "again", WAIT_US), 0);
	cr_assert_eq(xport_chaos_fault(c, "heal"), 0);
	data = r.a->ops->chan(r.a, XPORT_DATA, 0);
	cr_assert_eq(data->ops->get(data, &run, &dst, 1, 0), 0);
	stop(&r);
}

Test(chaos, small_packets_only_tcp)
{
	small_packets_only("tcp:127.0.0.1:0");
}

Test(chaos, small_packets_only_mem)
{
	small_packets_only("mem:chaos");
}

Test(chaos, counted_faults)
{
	struct chaos *c = xport_chaos_new(NULL);
	struct rig r;

	start(&r, "mem:chaos", "", c);
	cr_assert_eq(xport_chaos_fault(c, "short@2"), 0);
	cr_assert_eq(say(r.a, "12345678"), 0);
	cr_assert_eq(say(r.a, "12345678"), 0);
	cr_assert_eq(say(r.a, "12345678"), 0);
	cr_assert_eq(hear(r.b, "12345678", WAIT_US), 0);
	cr_assert_eq(hear(r.b, "1234", WAIT_US), 0);
	cr_assert_eq(hear(r.b, "12345678", WAIT_US), 0);
	cr_assert_eq(xport_chaos_fault(c, "corrupt@1"), 0);
	cr_assert_eq(say(r.a, "12345678"), 0);
	cr_assert_eq(hear(r.b,
			  "1234\xca"
			  "678",
			  WAIT_US),
		     0);
	cr_assert_eq(xport_chaos_fault(c, "cut@3"), 0);
	cr_assert_eq(say(r.a, "one"), 0);
	cr_assert_eq(say(r.a, "two"), 0);
	cr_assert_eq(say(r.a, "three"), -EPIPE);
	cr_assert_eq(hear(r.b, "one", WAIT_US), 0);
	cr_assert_eq(hear(r.b, "two", WAIT_US), 0);
	cr_assert_eq(hear(r.b, "", WAIT_US), -EPIPE);
	stop(&r);
}

/* One rig per fault: "a" is sent twice, then "b"; the fault strikes when "b" is sent the second time. */
static void strike_b(struct rig *r, const char *uri, const char *fault, int second)
{
	struct chaos *c = xport_chaos_new(first_letter);

	start(r, uri, "", c);
	cr_assert_eq(xport_chaos_fault(c, fault), 0);
	cr_assert_eq(say(r->a, "a"), 0);
	cr_assert_eq(say(r->a, "b one"), 0);
	cr_assert_eq(say(r->a, "a"), 0);
	cr_assert_eq(xport_chaos_fault(c, "pending"), 1);
	cr_assert_eq(say(r->a, "b two"), second);
	cr_assert_eq(xport_chaos_fault(c, "pending"), 0);
	cr_assert_eq(hear(r->b, "a", WAIT_US), 0);
	cr_assert_eq(hear(r->b, "b one", WAIT_US), 0);
	cr_assert_eq(hear(r->b, "a", WAIT_US), 0);
}

static void by_type(const char *uri)
{
	struct rig r;

	strike_b(&r, uri, "cut-before:98@2", -EPIPE);
	cr_assert_eq(hear(r.b, "", WAIT_US), -EPIPE);
	stop(&r);
	strike_b(&r, uri, "cut-middle:98@2", -EPIPE);
	cr_assert_eq(hear(r.b, "", WAIT_US), -EPIPE, "half a message is none");
	stop(&r);
	strike_b(&r, uri, "cut-after:98@2", 0);
	cr_assert_eq(hear(r.b, "b two", WAIT_US), 0);
	cr_assert_eq(hear(r.b, "", WAIT_US), -EPIPE);
	cr_assert_eq(say(r.a, "a"), -EPIPE);
	stop(&r);
}

Test(chaos, cut_at_a_message_tcp)
{
	by_type("tcp:127.0.0.1:0");
}

Test(chaos, cut_at_a_message_mem)
{
	by_type("mem:chaos");
}

Test(chaos, cut_at_a_message_shaped)
{
	by_type("tcp:127.0.0.1:0?bandwidth=1G");
}

/* Nothing crosses any more and no end is told. The next link works. */
Test(chaos, lost)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l;
	struct xport_chan *d;
	struct rig r;

	strike_b(&r, "tcp:127.0.0.1:0", "lost:98@2:50", 0);
	cr_assert_eq(say(r.a, "a"), 0);
	cr_assert_eq(hear(r.b, "", 1000), -EAGAIN);
	cr_assert_eq(say(r.b, "an answer"), 0);
	cr_assert_eq(hear(r.a, "", 1000), -EAGAIN);
	d = r.a->ops->chan(r.a, XPORT_DATA, 0);
	cr_assert_eq(d->ops->fence(d), -ETIMEDOUT);
	while (xport_connect(&l, r.uri, &id, &r.a_param, 1000, NULL) == -ECONNREFUSED)
		;
	link_down(&r);
	link_up(&r);
	cr_assert_eq(say(r.a, "again"), 0);
	cr_assert_eq(hear(r.b, "again", WAIT_US), 0);
	stop(&r);
}

Test(chaos, kill_before_a_message, .signal = SIGKILL)
{
	struct rig r;

	strike_b(&r, "mem:chaos", "kill-before:98@2", 0);
}

static void killed_by_the_second(const char *fault)
{
	struct chaos *c = xport_chaos_new(first_letter);
	struct rig r;

	start(&r, "mem:chaos", "", c);
	cr_assert_eq(xport_chaos_fault(c, fault), 0);
	cr_assert_eq(say(r.b, "b"), 0);
	cr_assert_eq(say(r.b, "c"), 0);
	cr_assert_eq(say(r.b, "b"), 0);
	cr_assert_eq(hear(r.a, "b", WAIT_US), 0);
	cr_assert_eq(hear(r.a, "c", WAIT_US), 0);
	hear(r.a, "b", WAIT_US);
	_exit(0); /* not killed: the test fails */
}

Test(chaos, kill_at_a_message_that_arrives, .signal = SIGKILL)
{
	killed_by_the_second("kill-at:98@2");
}

Test(chaos, kill_at_a_message_that_is_heard, .signal = SIGKILL)
{
	killed_by_the_second("kill-heard:98@2");
}

Test(chaos, what_is_sent_was_not_heard)
{
	struct chaos *c = xport_chaos_new(first_letter);
	struct rig r;

	start(&r, "mem:chaos", "", c);
	cr_assert_eq(xport_chaos_fault(c, "kill-heard:98"), 0);
	cr_assert_eq(say(r.a, "b"), 0);
	cr_assert_eq(xport_chaos_fault(c, "pending"), 1);
	stop(&r);
}

/* A child is stopped. The parent checks that it stands still and continues from the same point. */
static void stands_still(const char *fault)
{
	struct rig r;
	int status;
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (!pid) {
		struct chaos *c = xport_chaos_new(first_letter);

		start(&r, "mem:chaos", "", c);
		_exit(xport_chaos_fault(c, fault) || say(r.a, "b") || hear(r.b, "b", 0));
	}
	cr_assert_eq(waitpid(pid, &status, WUNTRACED), pid);
	cr_assert(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
	cr_assert_eq(kill(pid, SIGCONT), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
}

Test(chaos, stop_at_a_message)
{
	stands_still("stop-before:98");
	stands_still("stop-after:98");
}
