// SPDX-License-Identifier: MIT
/* The lobby of a target: connections whose first message has not arrived yet. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lobby.h"
#include "wire.h"
#include "runtime/base/clock.h"
#include "runtime/base/cure.h"
#include "runtime/base/thread.h"

#define MUTE_MAX 8u   /* mute callers; for one more, close the oldest of the host that has most of them */
#define DYING_MAX 16u /* links being closed; at this many nobody is accepted until fewer than half are left */
#define ASIDES_MAX 8u /* PINGs read from a caller in one look */

struct lobby {
	struct xport_listener *listener; /* NULL: closed */
	uint64_t patience_us;
	void (*wake)(void *arg);
	void *arg;
	int epfd;	     /* watches the listener and the mute callers' control channels */
	struct caller *mute; /* callers that have not spoken, oldest first */
	unsigned nmute;
	struct caller *dying;
	unsigned ndying;
	struct caller *spare; /* for the next accept: a look that finds nobody allocates nothing */
	bool full;	      /* DYING_MAX was reached: the listener is not watched */
};

static int watch(struct lobby *l, int op, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events };

	return epoll_ctl(l->epfd, op, fd, &ev);
}

int lobby_new(struct lobby **ret, struct xport_listener *listener, uint64_t patience_us,
	      void (*wake)(void *arg), void *arg, struct fail *f)
{
	struct lobby *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return fail(f, -ENOMEM, "no memory for a listener");
	*l = (struct lobby){ .listener = listener, .patience_us = patience_us, .wake = wake, .arg = arg };
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0 || watch(l, EPOLL_CTL_ADD, listener->ops->fd(listener), EPOLLIN) < 0) {
		err = fail_cure(f, CURE_CALL, -errno, "epoll for a listener");
		if (l->epfd >= 0)
			close(l->epfd);
		free(l);
		return err;
	}
	*ret = l;
	return 0;
}

int lobby_fd(const struct lobby *l)
{
	return l->epfd;
}

uint64_t lobby_until(const struct lobby *l)
{
	return l->mute ? l->mute->until_us : UINT64_MAX;
}

void lobby_only(struct lobby *l, const struct xport_link_id *id)
{
	l->listener->ops->only(l->listener, id);
}

static struct xport_chan *control(const struct caller *c)
{
	return c->link->ops->chan(c->link, XPORT_CONTROL, 0);
}

/* The link may have no room for the message; only the closer waits for that. */
static void say_busy(struct caller *c)
{
	static const char busy[] = "busy with another migration";
	struct wire_abort a = { .err = -EBUSY };
	struct wire_hdr h = wire_header(WIRE_REFUSED, sizeof(a) + sizeof(busy) - 1, 0);
	struct iovec iov[3] = { { &h, sizeof(h) },
				{ &a, sizeof(a) },
				{ (void *)(uintptr_t)busy, sizeof(busy) - 1 } };
	struct xport_chan *ctl = control(c);

	ctl->ops->send(ctl, iov, 3);
}

static void *closer_main(void *arg)
{
	struct caller *c = arg;
	struct lobby *l = c->lobby;

	if (c->refused)
		say_busy(c);
	c->link->ops->close(c->link);
	atomic_store(&c->closed, true);
	l->wake(l->arg);
	return NULL;
}

void caller_free(struct caller *c)
{
	if (c)
		explicit_bzero(c, sizeof(*c)); /* msg may have a source's number */
	free(c);
}

void lobby_part(struct caller *c)
{
	struct lobby *l = c->lobby;

	if (thread_start(&c->closer, closer_main, c)) {
		c->link->ops->close(c->link);
		caller_free(c);
		return;
	}
	c->next = l->dying;
	l->dying = c;
	l->ndying++;
}

void lobby_refuse(struct caller *c)
{
	c->refused = true;
	lobby_part(c);
}

/* Free the callers whose links are closed; all: wait for the other closes, too. */
static void reap(struct lobby *l, bool all)
{
	struct caller **at = &l->dying, *c;

	while ((c = *at)) {
		if (!all && !atomic_load(&c->closed)) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		l->ndying--;
		pthread_join(c->closer, NULL);
		caller_free(c);
	}
}

static void leave(struct lobby *l, struct caller **at)
{
	struct caller *c = *at;

	*at = c->next;
	l->nmute--;
	watch(l, EPOLL_CTL_DEL, control(c)->ops->fd(control(c)), 0);
}

static void turn_out(struct lobby *l, struct caller **at)
{
	struct caller *c = *at;

	leave(l, at);
	lobby_part(c);
}

static struct caller **who_gives_way(struct lobby *l)
{
	struct caller **first = NULL, **at, *o;
	unsigned n, most = 0;

	for (at = &l->mute; *at; at = &(*at)->next) {
		for (n = 0, o = l->mute; o; o = o->next)
			n += o->link->from == (*at)->link->from;
		if (n > most)
			first = at;
		most = n > most ? n : most;
	}
	return first;
}

/* 1: its first message is in c->msg; 0: not yet; < 0: it has gone, or the message is too long. */
static int hear(struct caller *c)
{
	struct xport_chan *ctl = control(c);
	struct fail why = { 0 };
	struct wire_msg m;
	int err;

	for (unsigned n = 0; n < ASIDES_MAX; n++) {
		err = ctl->ops->recv(ctl, c->msg, sizeof(c->msg), &c->len, 0);
		if (err)
			return err == -EAGAIN ? 0 : err;
		if (!wire_is_aside(wire_type_of(c->msg, c->len)))
			return 1;
		err = wire_check(&m, c->msg, c->len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, c->asides++,
				 &why);
		if (err < 0)
			return err;
	}
	return 0;
}

/* Take out the first caller that has spoken, or NULL. Close those that have gone or whose time is over. */
static struct caller *hear_all(struct lobby *l)
{
	struct caller **at = &l->mute, *c;
	uint64_t now = now_us();

	while ((c = *at)) {
		int err = hear(c);

		if (err == 1) {
			leave(l, at);
			return c;
		}
		if (err < 0 || now >= c->until_us)
			turn_out(l, at);
		else
			at = &c->next;
	}
	return NULL;
}

/* Accept one connection: 0, or why there is none. */
static int let_in(struct lobby *l, struct fail *f)
{
	struct caller *c = l->spare ? l->spare : calloc(1, sizeof(*c)), **at;
	int err;

	l->spare = c;
	if (!c)
		return fail(f, -ENOMEM, "no memory for a connection");
	fail_reset(&c->fail);
	err = l->listener->ops->accept(l->listener, &c->link, &c->fail);
	if (err)
		return fail_err(&c->fail) ? fail(f, err, "%s", fail_text(&c->fail)) : err;
	l->spare = NULL;
	c->lobby = l;
	if (l->nmute == MUTE_MAX)
		turn_out(l, who_gives_way(l));
	c->until_us = now_us() + l->patience_us;
	for (at = &l->mute; *at; at = &(*at)->next)
		;
	*at = c;
	l->nmute++;
	if (watch(l, EPOLL_CTL_ADD, control(c)->ops->fd(control(c)), EPOLLIN) < 0)
		turn_out(l, at);
	return 0;
}

int lobby_next(struct lobby *l, struct caller **ret, struct fail *f)
{
	int err = 0;

	reap(l, false);
	if (l->full && l->ndying < DYING_MAX / 2)
		l->full = watch(l, EPOLL_CTL_MOD, l->listener->ops->fd(l->listener), EPOLLIN) < 0;
	/* Listen to all callers before each accept, lest newer connections displace one that has spoken. */
	for (unsigned n = 0; n <= MUTE_MAX; n++) {
		*ret = hear_all(l);
		if (*ret)
			return 0;
		if (l->ndying >= DYING_MAX && !l->full)
			l->full = !watch(l, EPOLL_CTL_MOD, l->listener->ops->fd(l->listener), 0);
		err = l->full ? -EAGAIN : let_in(l, f);
		if (err)
			return err;
	}
	return -EAGAIN;
}

void lobby_close(struct lobby *l)
{
	while (l->mute)
		turn_out(l, &l->mute);
	if (l->listener)
		l->listener->ops->close(l->listener);
	l->listener = NULL;
}

void lobby_free(struct lobby *l)
{
	if (!l)
		return;
	lobby_close(l);
	reap(l, true);
	close(l->epfd);
	free(l->spare);
	free(l);
}
