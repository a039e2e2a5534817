// SPDX-License-Identifier: MIT
/*
 * The connecting end of tcp, and the listener: addresses that are dead, refuse or lead nowhere; a peer that
 * falls silent; a wake. tests/net/connecting.sh does the same over a bad link.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hole.h"
#include "runtime/base/fail.h"
#include "transport/dial.h"
#include "transport/tcp/tcp_wire.h"

#define FOREVER_US UINT64_C(3600000000) /* a test that waits this long fails by ctest's limit */
#define HOLES_MAX 4u

struct way {
	struct xport_addrs *addrs;
	struct xport_param param;
	struct xport_listener *listener;
	struct xport_link *a, *b;
	struct fail fail, theirs;
	char uri[64];
	unsigned port, channels;
	int err;
	struct hole hole[HOLES_MAX];
	unsigned nholes;
};

static struct sockaddr_in address(const char *host, unsigned port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

	cr_assert_eq(inet_pton(AF_INET, host, &a.sin_addr), 1);
	return a;
}

/* The target listens only at 127.0.0.1. */
static void set_up(struct way *w)
{
	char uri[100];

	memset(w, 0, sizeof(*w));
	w->channels = 16;
	w->addrs = calloc(1, sizeof(*w->addrs));
	w->param = (struct xport_param){ .timeout_us = 1000000, .addrs = &w->addrs };
	cr_assert_eq(xport_listen(&w->listener, "tcp:127.0.0.1:0", &w->param, &w->theirs), 0);
	cr_assert_eq(w->listener->ops->uri(w->listener, uri, sizeof(uri)), 0);
	w->port = (unsigned)atoi(strrchr(uri, ':') + 1);
	snprintf(w->uri, sizeof(w->uri), "tcp:the-target:%u", w->port);
}

static void add(struct way *w, const char *host)
{
	struct dial_addr *a = &w->addrs->a[w->addrs->n++];
	struct sockaddr_in v4 = address(host, w->port);

	memcpy(&a->sa, &v4, sizeof(v4));
	a->len = sizeof(v4);
}

static void add_hole(struct way *w, const char *host)
{
	hole_dig(&w->hole[w->nholes++], host, w->port);
	add(w, host);
}

static void *connect_thread(void *arg)
{
	struct xport_link_id id = { .session = "a session" };
	struct way *w = arg;

	id.channels = w->channels;
	w->err = xport_connect(&w->a, w->uri, &id, &w->param, FOREVER_US, &w->fail);
	return NULL;
}

static void join(struct way *w)
{
	struct pollfd p = { .fd = w->listener->ops->fd(w->listener), .events = POLLIN };
	pthread_t t;
	int err;

	cr_assert(!pthread_create(&t, NULL, connect_thread, w));
	while ((err = w->listener->ops->accept(w->listener, &w->b, &w->theirs)) == -EAGAIN)
		poll(&p, 1, -1);
	pthread_join(t, NULL);
	cr_assert_eq(err, 0, "%s", fail_text(&w->theirs));
	cr_assert_eq(w->err, 0, "%s", fail_text(&w->fail));
}

/* A message across the link shows that both ends belong to the same link. */
static void talk(struct way *w)
{
	struct xport_chan *a = w->a->ops->chan(w->a, XPORT_CONTROL, 0),
			  *b = w->b->ops->chan(w->b, XPORT_CONTROL, 0);
	struct iovec iov = { (void *)(uintptr_t) "hello", 5 };
	char buf[8];
	size_t len;

	cr_assert_eq(a->ops->send(a, &iov, 1), 0);
	cr_assert_eq(b->ops->recv(b, buf, sizeof(buf), &len, FOREVER_US), 0);
	cr_assert(len == 5 && !memcmp(buf, "hello", 5));
}

static void tear_down(struct way *w)
{
	struct xport_link *l;
	unsigned i;

	if (w->a)
		w->a->ops->close(w->a);
	if (w->b)
		w->b->ops->close(w->b);
	cr_assert_neq(w->listener->ops->accept(w->listener, &l, &w->theirs), 0, "a second link");
	w->listener->ops->close(w->listener);
	for (i = 0; i < w->nholes; i++)
		hole_fill(&w->hole[i]);
	xport_addrs_free(w->addrs);
}

Test(connect, one_address)
{
	struct way w;

	set_up(&w);
	add(&w, "127.0.0.1");
	join(&w);
	talk(&w);
	tear_down(&w);
}

Test(connect, the_first_address_is_a_black_hole)
{
	struct way w;

	set_up(&w);
	add_hole(&w, "127.0.0.2");
	add(&w, "127.0.0.1");
	join(&w);
	talk(&w);
	tear_down(&w);
}

Test(connect, black_holes_a_refusal_and_one_that_no_route_leads_to)
{
	struct way w;

	set_up(&w);
	add_hole(&w, "127.0.0.2");
	add(&w, "127.0.0.5"); /* no listener */
	add(&w, "255.255.255.255");
	add_hole(&w, "127.0.0.3");
	add(&w, "127.0.0.1");
	add_hole(&w, "127.0.0.4");
	join(&w);
	talk(&w);
	tear_down(&w);
}

/* The name in the URI is not resolved again: the addresses of the first resolution stay. */
Test(connect, addresses_that_are_known_need_no_resolver)
{
	struct way w;

	set_up(&w);
	strcpy(w.uri, "tcp:no.such.host.invalid:1");
	add(&w, "127.0.0.1");
	join(&w);
	tear_down(&w);
}

Test(connect, the_first_connect_keeps_the_addresses)
{
	struct way w;

	set_up(&w);
	xport_addrs_free(w.addrs);
	w.addrs = NULL;
	snprintf(w.uri, sizeof(w.uri), "tcp:127.0.0.1:%u", w.port);
	join(&w);
	cr_assert(w.addrs && w.addrs->n == 1);
	tear_down(&w);
}

static int try(struct way *w, uint64_t wait_us)
{
	struct xport_link_id id = { .session = "a session", .channels = 16 };

	return xport_connect(&w->a, w->uri, &id, &w->param, wait_us, &w->fail);
}

Test(connect, every_address_refuses)
{
	struct way w;

	set_up(&w);
	add(&w, "127.0.0.5");
	add(&w, "127.0.0.6");
	cr_assert_eq(try(&w, FOREVER_US), -ECONNREFUSED);
	cr_assert(strstr(fail_text(&w.fail), "start the target first"), "%s", fail_text(&w.fail));
	tear_down(&w);
}

/* A refusal does not end the attempt: the target may not listen yet, and another address may still answer. */
Test(connect, nobody_answers_in_the_time_given)
{
	struct way w;

	set_up(&w);
	add_hole(&w, "127.0.0.2");
	add(&w, "127.0.0.5");
	cr_assert_eq(try(&w, 300000), -ETIMEDOUT);
	cr_assert(strstr(fail_text(&w.fail), "the route"), "%s", fail_text(&w.fail));
	tear_down(&w);
}

/* A peer that accepts and then says nothing ends the attempt early, so that there is time for another. */
Test(connect, a_peer_that_falls_silent)
{
	struct way w;

	set_up(&w);
	add(&w, "127.0.0.1");
	cr_assert_eq(try(&w, FOREVER_US), -ETIMEDOUT);
	cr_assert(strstr(fail_text(&w.fail), "of 18 connections 18 came up and 0 were answered"), "%s",
		  fail_text(&w.fail));
	tear_down(&w);
}

struct stranger {
	int lfd;
	const char *says; /* NULL: it never accepts; the kernel completes the connections */
	pthread_t thread;
};

static void *say(void *arg)
{
	struct stranger *s = arg;
	char buf[64];
	int fd;

	while ((fd = accept(s->lfd, NULL, NULL)) >= 0) {
		cr_assert_geq(recv(fd, buf, sizeof(buf), MSG_WAITALL), 0);
		send(fd, s->says, strlen(s->says), MSG_NOSIGNAL);
		close(fd);
	}
	return NULL;
}

/* The program at the first address is no target: the next attempt tries the other address first. */
static void pass_by(const char *says, int expected)
{
	struct stranger s = { .says = says, .lfd = socket(AF_INET, SOCK_STREAM, 0) };
	struct sockaddr_in at;
	struct way w;

	set_up(&w);
	at = address("127.0.0.2", w.port);
	cr_assert(!bind(s.lfd, (struct sockaddr *)&at, sizeof(at)) && !listen(s.lfd, 64));
	cr_assert(!says || !pthread_create(&s.thread, NULL, say, &s));
	add(&w, "127.0.0.2");
	add(&w, "127.0.0.5"); /* no listener */
	add(&w, "127.0.0.1");
	cr_assert_eq(try(&w, FOREVER_US), expected, "%s", fail_text(&w.fail));
	cr_assert(!memcmp(&w.addrs->a[2].sa, &at, sizeof(at)), "the stranger is not the last one");
	fail_reset(&w.fail);
	join(&w);
	talk(&w);
	tear_down(&w);
	shutdown(s.lfd, SHUT_RDWR);
	if (says)
		pthread_join(s.thread, NULL);
	close(s.lfd);
}

Test(connect, the_first_address_is_mute)
{
	pass_by(NULL, -ETIMEDOUT);
}

Test(connect, the_first_address_hangs_up)
{
	pass_by("", -ECONNREFUSED);
}

Test(connect, the_first_address_is_another_service)
{
	pass_by("HTTP/1.1 400 Bad Request\r\n\r\n", -ECONNREFUSED);
}

static int second_wake(void *arg)
{
	return ++*(unsigned *)arg < 2 ? 0 : -ECANCELED;
}

/* A wake without a cause has no effect; a cancel ends the attempt at once: at black holes, at a mute peer. */
Test(connect, a_wake_ends_it)
{
	unsigned i, n;
	struct way w;
	int fds[2];

	for (i = 0; i < 3; i++) {
		set_up(&w);
		if (i < 2)
			add_hole(&w, "127.0.0.2");
		else
			add(&w, "127.0.0.1");
		if (i == 1)
			add_hole(&w, "127.0.0.3");
		cr_assert(!pipe(fds) && write(fds[1], "x", 1) == 1);
		w.param.woken = second_wake;
		w.param.woken_arg = &n;
		w.param.wake_fd = fds[0];
		n = 0;
		cr_assert_eq(try(&w, FOREVER_US), -ECANCELED);
		cr_assert_eq(n, 2);
		close(fds[0]);
		close(fds[1]);
		tear_down(&w);
	}
}

Test(connect, a_wake_ends_the_wait_of_mem)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_listener *listener;
	struct xport_link *l;
	struct xport_param p = { .timeout_us = 1000000 };
	unsigned n = 0;
	int fds[2];

	cr_assert(!pipe(fds) && write(fds[1], "x", 1) == 1);
	cr_assert_eq(xport_listen(&listener, "mem:mute", &p, NULL), 0);
	p.woken = second_wake;
	p.woken_arg = &n;
	p.wake_fd = fds[0];
	cr_assert_eq(xport_connect(&l, "mem:mute", &id, &p, FOREVER_US, NULL), -ECANCELED);
	cr_assert_eq(listener->ops->accept(listener, &l, NULL), -EAGAIN);
	listener->ops->close(listener);
	close(fds[0]);
	close(fds[1]);
}

Test(connect, a_link_local_address_needs_its_device)
{
	static const char *const uris[] = { "tcp:[fe80::1]:7000", "tcp:[fe80::1]:7000?bandwidth=1M" };
	struct xport_link_id id = { .channels = 1 };
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_listener *listener;
	struct xport_link *l;
	unsigned i;

	for (i = 0; i < 2; i++) {
		struct fail f = { 0 }, g = { 0 };

		cr_assert_eq(xport_connect(&l, uris[i], &id, &p, FOREVER_US, &f), -EINVAL);
		cr_assert(strstr(fail_text(&f), "tcp:[fe80::1%eth0]:7000"), "%s", fail_text(&f));
		cr_assert_eq(xport_listen(&listener, uris[i], &p, &g), -EINVAL);
		cr_assert(strstr(fail_text(&g), "tcp:[fe80::1%eth0]:7000"), "%s", fail_text(&g));
	}
}

/* Too few descriptors for the link: the sentence must blame this host, not the route. */
Test(connect, too_many_open_files)
{
	struct rlimit lim;
	struct way w;
	int fd;

	set_up(&w);
	add_hole(&w, "127.0.0.2");
	fd = dup(0);
	close(fd);
	cr_assert(!getrlimit(RLIMIT_NOFILE, &lim));
	lim.rlim_cur = (rlim_t)fd + 5;
	cr_assert(!setrlimit(RLIMIT_NOFILE, &lim));
	cr_assert_eq(try(&w, FOREVER_US), -EMFILE);
	lim.rlim_cur = lim.rlim_max;
	cr_assert(!setrlimit(RLIMIT_NOFILE, &lim));
	cr_assert(strstr(fail_text(&w.fail), "Too many open files; raise the limit of open files"), "%s",
		  fail_text(&w.fail));
	tear_down(&w);
}

static int raw_of(const struct way *w, uint8_t session, uint32_t role, uint32_t index, uint32_t generation)
{
	struct tcp_preamble p = { .magic = htole32(TCP_MAGIC_PREAMBLE),
				  .version = htole32(TCP_WIRE_VERSION),
				  .role = htole32(role),
				  .index = htole32(index),
				  .channels = htole32(16),
				  .generation = htole32(generation),
				  .session = { session },
				  .attempt = generation };
	struct sockaddr_in at = address("127.0.0.1", w->port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	cr_assert(!connect(fd, (struct sockaddr *)&at, sizeof(at)) &&
		  send(fd, &p, sizeof(p), MSG_NOSIGNAL) == sizeof(p));
	return fd;
}

static int raw(const struct way *w, uint32_t role, uint32_t index, uint32_t generation)
{
	return raw_of(w, 1, role, index, generation);
}

/* Incomplete links of invented sessions hold every place: a real source must still get in. */
Test(listener, links_that_never_become_whole_keep_none_out)
{
	struct tcp_answer a;
	unsigned i, seen = 0;
	struct way w;
	int fd[64];
	char c;

	set_up(&w);
	add(&w, "127.0.0.1");
	for (i = 0; i < 64; i++) {
		fd[i] = raw_of(&w, (uint8_t)(2 + i / 16), i % 16 ? TCP_ROLE_DATA : TCP_ROLE_CONTROL,
			       i % 16 ? i % 16 - 1 : 0, 0);
		cr_assert_eq(w.listener->ops->accept(w.listener, &w.b, &w.theirs), -EAGAIN);
	}
	for (i = 0; i < 64; i++)
		while (recv(fd[i], &a, sizeof(a), MSG_PEEK | MSG_DONTWAIT) != (ssize_t)sizeof(a))
			cr_assert_eq(w.listener->ops->accept(w.listener, &w.b, &w.theirs), -EAGAIN);
	join(&w);
	talk(&w);
	/* 18 places were needed, so two links of 16 are closed, each as a whole. */
	for (i = 0; i < 64; i++) {
		cr_assert_eq(recv(fd[i], &a, sizeof(a), MSG_WAITALL), (ssize_t)sizeof(a));
		cr_assert_eq(a.code, TCP_ANSWER_OK);
		seen += !recv(fd[i], &c, 1, MSG_DONTWAIT);
		close(fd[i]);
	}
	cr_assert_eq(seen, 32, "%u", seen);
	tear_down(&w);
}

/* Attempts that ended unnoticed while the network was down must not block the next one of their session. */
Test(listener, a_newer_attempt_takes_the_place_of_older_ones)
{
	struct tcp_answer a;
	int fd[12 * 17];
	unsigned g, i, n = 0;
	struct way w;

	set_up(&w);
	for (g = 0; g < 12; g++) {
		for (i = 0; i < 17; i++)
			fd[n++] = raw(&w, i ? TCP_ROLE_DATA : TCP_ROLE_CONTROL, i ? i - 1 : 0, g);
		cr_assert_eq(w.listener->ops->accept(w.listener, &w.b, &w.theirs), -EAGAIN);
		for (i = n - 17; i < n; i++)
			cr_assert(recv(fd[i], &a, sizeof(a), MSG_WAITALL) == sizeof(a) &&
					  a.code == TCP_ANSWER_OK,
				  "attempt %u", g);
	}
	fd[0] = (close(fd[0]), raw(&w, TCP_ROLE_URGENT, 0, g - 1));
	cr_assert_eq(w.listener->ops->accept(w.listener, &w.b, &w.theirs), 0);
	cr_assert_eq(w.b->id.generation, g - 1);
	for (i = 0; i < n; i++)
		close(fd[i]);
	tear_down(&w);
}
