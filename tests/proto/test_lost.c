// SPDX-License-Identifier: MIT
/*
 * Which errno means a lost link and which an error of this end. A lost link keeps its cause and its channel;
 * an error has its errno and a sentence with the call and the advice. If a call that only makes things faster
 * is refused, the transport works without it and logs that once.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <unistd.h>

#include "refuse.h"
#include "runtime/base/fail.h"
#include "transport/tcp/tcp.h"

#define PAGE ((size_t)4096)
#define PAGES 1024u
#define PUTS 16u

struct end {
	struct xport_link *link;
	struct fail fail;
	struct xport_chan *ctl, *data;
	uint8_t *ram;
};

struct pair {
	struct xport_param param;
	struct xport_listener *listener;
	char uri[200];
	struct end a, b; /* a has connected */
	_Atomic unsigned slower;
	char said[200];
};

static void slower(void *arg, enum cure doing, int err, const char *what)
{
	struct pair *p = arg;

	p->slower++;
	snprintf(p->said, sizeof(p->said), "%s: %s; %s", what, strerror(-err), cure(doing, err));
}

static void *connector(void *arg)
{
	struct pair *p = arg;
	struct xport_link_id id = { .channels = 1 };

	cr_assert_eq(xport_connect(&p->a.link, p->uri, &id, &p->param, 10000000, &p->a.fail), 0, "%s",
		     fail_text(&p->a.fail));
	return NULL;
}

static void ready(struct end *e, enum xport_access access)
{
	struct xport_region r = { .id = 1, .npages = PAGES };

	e->ctl = e->link->ops->chan(e->link, XPORT_CONTROL, 0);
	e->data = e->link->ops->chan(e->link, XPORT_DATA, 0);
	e->ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert(e->ram != MAP_FAILED);
	r.base = e->ram;
	cr_assert_eq(e->link->ops->expose(e->link, &r, 1, access), 0);
}

static void start(struct pair *p)
{
	struct fail f = { 0 };
	struct pollfd pfd = { .events = POLLIN };
	pthread_t t;
	int err;

	memset(p, 0, sizeof(*p));
	p->param = (struct xport_param){ .timeout_us = 20000000, .slower = slower, .slower_arg = p };
	cr_assert_eq(xport_listen(&p->listener, "tcp:127.0.0.1:0", &p->param, &f), 0, "%s", fail_text(&f));
	cr_assert(!p->listener->ops->uri(p->listener, p->uri, sizeof(p->uri)));
	cr_assert(!pthread_create(&t, NULL, connector, p));
	pfd.fd = p->listener->ops->fd(p->listener);
	while ((err = p->listener->ops->accept(p->listener, &p->b.link, &p->b.fail)) == -EAGAIN)
		cr_assert(poll(&pfd, 1, 20000) > 0);
	cr_assert_eq(err, 0, "%s", fail_text(&p->b.fail));
	pthread_join(t, NULL);
	ready(&p->a, XPORT_LOCAL);
	ready(&p->b, XPORT_PEER_WRITE);
	for (size_t i = 0; i < PAGES * PAGE / 8; i++)
		((uint64_t *)p->a.ram)[i] = i * 0x9e3779b97f4a7c15u;
}

static void stop(struct pair *p)
{
	if (p->b.link)
		p->b.link->ops->close(p->b.link);
	p->a.link->ops->close(p->a.link);
	p->listener->ops->close(p->listener);
	munmap(p->a.ram, PAGES * PAGE);
	munmap(p->b.ram, PAGES * PAGE);
}

static int fd_of(struct end *e, bool data)
{
	struct tcp_link *l = (struct tcp_link *)e->link;

	return data ? l->data[0]->fd : l->ctl->fd;
}

static void is_lost(struct end *e, int err, const char *why)
{
	cr_expect(err == -EPIPE || err == -ETIMEDOUT, "%d (%s), %s", err, strerror(-err),
		  fail_text(&e->fail));
	cr_expect_eq(fail_err(&e->fail), 0, "a lost link is no error: %s", fail_text(&e->fail));
	cr_expect_str_eq(fail_lost_text(&e->fail), why);
}

static void is_error(struct end *e, int err, int want, const char *call, const char *chan)
{
	char begin[100];

	snprintf(begin, sizeof(begin), "tcp: %s on the %s: %s", call, chan, strerror(want));
	cr_expect_eq(err, -want, "%d (%s)", err, strerror(-err));
	cr_expect_eq(fail_err(&e->fail), -want);
	cr_expect_eq(strncmp(fail_text(&e->fail), begin, strlen(begin)), 0,
		     "\"%s\" does not begin with \"%s\"", fail_text(&e->fail), begin);
	cr_expect_str_eq(fail_lost_text(&e->fail), "", "an error is no lost link");
}

/* The complete list, so that adding or removing an errno is a deliberate change. */
Test(lost, these_errnos_are_a_lost_link_and_no_other)
{
	static const int lost[] = { EPIPE,     ECONNRESET,   ECONNABORTED, ECONNREFUSED, ENOTCONN,
				    ESHUTDOWN, ETIMEDOUT,    ENETDOWN,	   ENETUNREACH,	 ENETRESET,
				    EHOSTDOWN, EHOSTUNREACH, ENONET,	   ENOPROTOOPT };
	unsigned n = 0;

	for (int e = 1; e < 4096; e++)
		n += xport_lost(e);
	cr_assert_eq(n, sizeof(lost) / sizeof(lost[0]));
	for (size_t i = 0; i < n; i++)
		cr_assert(xport_lost(lost[i]) && xport_lost(-lost[i]), "%s", strerror(lost[i]));
}

Test(lost, a_reset_is_kept_with_its_channel)
{
	const struct linger now = { .l_onoff = 1 };
	uint8_t buf[64];
	struct pair p;
	size_t len;

	start(&p);
	cr_assert(!setsockopt(fd_of(&p.b, false), SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	p.b.link->ops->close(p.b.link);
	p.b.link = NULL;
	is_lost(&p.a, p.a.ctl->ops->recv(p.a.ctl, buf, sizeof(buf), &len, 20000000),
		"control channel: Connection reset by peer");
	/* A later failure must not replace the cause. */
	cr_assert(p.a.data->ops->fence(p.a.data) < 0);
	is_lost(&p.a, -EPIPE, "control channel: Connection reset by peer");
	stop(&p);
}

Test(lost, a_peer_that_closes_is_kept_with_its_channel)
{
	struct pair p;

	start(&p);
	p.b.link->ops->close(p.b.link);
	p.b.link = NULL;
	is_lost(&p.a, p.a.data->ops->fence(p.a.data), "data channel 0: closed by the peer");
	stop(&p);
}

Test(lost, a_fence_that_nobody_answers_says_for_how_long)
{
	struct pair p;

	start(&p);
	((struct tcp_link *)p.a.link)->param.timeout_us = 100000;
	is_lost(&p.a, p.a.data->ops->fence(p.a.data), "data channel 0: nothing has moved for 100 ms");
	stop(&p);
}

Test(lost, a_link_that_this_end_kills_has_no_cause)
{
	struct pair p;

	start(&p);
	p.a.link->ops->kill(p.a.link);
	is_lost(&p.a, p.a.data->ops->fence(p.a.data), "");
	stop(&p);
}

/* EACCES is ICMP's "prohibited" after the last retransmission, or a refused call: the socket tells which. */
Test(lost, the_same_errno_is_an_error_while_the_connection_stands)
{
	const struct linger now = { .l_onoff = 1 };
	struct pollfd pfd = { .events = POLLIN };
	struct tcp_link *l;
	struct pair p;

	start(&p);
	l = (struct tcp_link *)p.a.link;
	is_error(&p.a, tcp_err(l, fd_of(&p.a, true), "sendmsg", EACCES), EACCES, "sendmsg", "data channel 0");
	fail_reset(&p.a.fail);
	cr_assert(!setsockopt(fd_of(&p.b, true), SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	p.b.link->ops->close(p.b.link);
	p.b.link = NULL;
	pfd.fd = fd_of(&p.a, true);
	cr_assert_eq(poll(&pfd, 1, 20000), 1);
	is_lost(&p.a, tcp_err(l, fd_of(&p.a, true), "sendmsg", EACCES), "data channel 0: Permission denied");
	stop(&p);
}

static int ctl_send(struct end *e)
{
	struct iovec iov = { (void *)(uintptr_t) "word", 4 };

	return e->ctl->ops->send(e->ctl, &iov, 1);
}

static int ctl_recv(struct end *e)
{
	uint8_t buf[64];
	size_t len;

	return e->ctl->ops->recv(e->ctl, buf, sizeof(buf), &len, 1000000);
}

static int data_put(struct end *e)
{
	struct page_run run = { .region = 0, .npages = 1 };

	return e->data->ops->put(e->data, &run, 1);
}

static int data_reap(struct end *e)
{
	uint32_t tag;

	return e->data->ops->reap(e->data, &tag, 1, 1000000);
}

static int serve(struct end *e)
{
	return e->data->ops->serve(e->data, NULL, NULL);
}

struct refusal {
	int nr, err, ret;
	int (*act)(struct end *e);
	struct end *e;
};

/* The filter applies to this thread, not to the test's runner. */
static void *act_refused(void *arg)
{
	struct refusal *r = arg;

	refuse_calls(&(struct refused){ r->nr }, 1, r->err, false);
	r->ret = r->act(r->e);
	return NULL;
}

Test(lost, a_call_that_a_filter_refuses_is_an_error_of_that_call)
{
	static const struct {
		int nr;
		const char *call, *chan;
		int (*act)(struct end *e);
	} row[] = {
		{ SYS_sendmsg, "sendmsg", "control channel", ctl_send },
		{ SYS_recvfrom, "recv", "control channel", ctl_recv },
		{ SYS_poll, "poll", "control channel", ctl_recv },
		{ SYS_sendmsg, "sendmsg", "data channel 0", data_put },
		{ SYS_recvmsg, "recvmsg", "data channel 0", data_reap },
		{ SYS_recvfrom, "recv", "data channel 0", serve },
		{ SYS_poll, "poll", "data channel 0", serve },
	};
	static const int how[] = { EPERM, ENOSYS, EACCES };

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		for (size_t k = 0; k < 3; k++) {
			struct pair p;
			struct refusal r = { .nr = row[i].nr, .err = how[k], .act = row[i].act, .e = &p.a };
			pthread_t t;

			start(&p);
			cr_assert(!pthread_create(&t, NULL, act_refused, &r));
			pthread_join(t, NULL);
			is_error(&p.a, r.ret, how[k], row[i].call, row[i].chan);
			cr_expect(strstr(fail_text(&p.a.fail), "seccomp"), "%s", fail_text(&p.a.fail));
			stop(&p);
		}
	}
}

/* Missing memory is an error of this end; the sentence names the page. */
Test(lost, memory_that_went_is_an_error_that_names_the_page)
{
	struct pair p;
	int err;

	start(&p);
	munmap(p.a.ram, PAGES * PAGE);
	err = data_put(&p.a);
	cr_assert_eq(err, -EFAULT, "%d", err);
	cr_assert(strstr(fail_text(&p.a.fail), "page 0 of region 1 ") &&
			  strstr(fail_text(&p.a.fail), "nothing is mapped there"),
		  "%s", fail_text(&p.a.fail));
	cr_expect_str_eq(fail_lost_text(&p.a.fail), "");
	stop(&p);
}

/* ---- calls that only make it faster ---- */

static int put_all(struct end *e)
{
	int err = 0;

	for (uint32_t i = 0; i < PUTS && !err; i++) {
		struct page_run run = { .region = 0, .npages = PAGES / PUTS, .page = i * PAGES / PUTS };

		err = e->data->ops->put(e->data, &run, 1);
	}
	return err ? err : e->data->ops->fence(e->data);
}

static void *put_thread(void *arg)
{
	return (void *)(intptr_t)put_all(arg);
}

static void *serve_thread(void *arg)
{
	return (void *)(intptr_t)serve(arg);
}

static void arrived(struct pair *p, pthread_t putter, pthread_t server)
{
	void *err;

	pthread_join(putter, &err);
	cr_expect_eq((intptr_t)err, 0, "%s", fail_text(&p->a.fail));
	cr_assert_eq(p->a.data->ops->end(p->a.data), 0);
	pthread_join(server, &err);
	cr_expect_eq((intptr_t)err, 0, "%s", fail_text(&p->b.fail));
	cr_expect(!memcmp(p->a.ram, p->b.ram, PAGES * PAGE), "what has arrived is not what was sent");
	cr_expect_eq(fail_err(&p->a.fail), 0, "%s", fail_text(&p->a.fail));
	cr_expect_str_eq(fail_lost_text(&p->a.fail), "");
}

static void says_slower(struct pair *p, const char *what)
{
	cr_expect_eq(p->slower, 1, "it was said %u times", p->slower);
	cr_expect_eq(strncmp(p->said, what, strlen(what)), 0, "%s", p->said);
}

static void refused_from_the_start(int nr, int err, const char *what)
{
	pthread_t putter, server;
	struct pair p;

	start(&p);
	refuse_calls(&(struct refused){ nr }, 1, err, true);
	cr_assert(!pthread_create(&server, NULL, serve_thread, &p.b) &&
		  !pthread_create(&putter, NULL, put_thread, &p.a));
	arrived(&p, putter, server);
	says_slower(&p, what);
	stop(&p);
}

Test(lost, without_splice_pages_are_copied)
{
	refused_from_the_start(SYS_splice, EPERM,
			       "page data is copied, splice is refused: Operation not permitted; a seccomp");
}

Test(lost, without_vmsplice_pages_are_copied)
{
	refused_from_the_start(SYS_vmsplice, ENOSYS,
			       "page data is copied, vmsplice is refused: Function not implemented; a seccomp");
}

Test(lost, without_a_pipe_pages_are_copied)
{
	refused_from_the_start(SYS_pipe2, EACCES, "page data is copied, pipe2 is refused: Permission denied");
}

Test(lost, without_descriptors_pages_are_copied)
{
	struct rlimit was, lim;
	pthread_t putter, server;
	struct pair p;

	start(&p);
	cr_assert(!getrlimit(RLIMIT_NOFILE, &was));
	lim = was;
	lim.rlim_cur = 3;
	cr_assert(!setrlimit(RLIMIT_NOFILE, &lim));
	cr_assert(!pthread_create(&server, NULL, serve_thread, &p.b) &&
		  !pthread_create(&putter, NULL, put_thread, &p.a));
	arrived(&p, putter, server);
	cr_assert(!setrlimit(RLIMIT_NOFILE, &was));
	says_slower(&p,
		    "page data is copied, pipe2 is refused: Too many open files; raise the limit of open files");
	stop(&p);
}

/* Bytes that either kernel holds and that were not read. */
static int unread(struct pair *p)
{
	int out = 0, in = 0;

	ioctl(fd_of(&p->a, true), SIOCOUTQ, &out);
	ioctl(fd_of(&p->b, true), SIOCINQ, &in);
	return out + in;
}

/* The filter comes when half of a pipe has been sent: no byte may be lost or cross twice. */
Test(lost, splice_may_be_refused_in_the_middle_of_a_put)
{
	pthread_t putter, server;
	struct pair p;
	int before, now = 0;

	start(&p);
	/* Small buffers, so that the first put does not fit. */
	now = 64 << 10;
	cr_assert(!setsockopt(fd_of(&p.a, true), SOL_SOCKET, SO_SNDBUF, &now, sizeof(now)) &&
		  !setsockopt(fd_of(&p.b, true), SOL_SOCKET, SO_RCVBUF, &now, sizeof(now)));
	cr_assert(!pthread_create(&putter, NULL, put_thread, &p.a));
	now = 0;
	do {
		struct pollfd full = { .fd = fd_of(&p.a, true), .events = POLLOUT };

		before = now;
		now = unread(&p);
		cr_assert(!poll(&full, 1, 50) || now < (int)(PAGES * PAGE));
	} while (!now || now != before);
	cr_assert_gt(now, 0);
	refuse_calls(&(struct refused){ SYS_splice }, 1, EPERM, true);
	cr_assert(!pthread_create(&server, NULL, serve_thread, &p.b));
	arrived(&p, putter, server);
	says_slower(&p, "page data is copied, splice is refused: Operation not permitted");
	stop(&p);
}
