// SPDX-License-Identifier: MIT
#include <errno.h>

#include "caller.h"
#include "hello.h"
#include "session.h"

#define PINGS_MAX 4u /* the pulse of an honest end may send one before its HELLO */

struct fail *callers_fail(struct ferry_session *s)
{
	for (struct fail *f = s->link_fails;; f++) {
		bool used = f == s->link_fail || (s->pending.link && s->pending.fail == f);

		for (unsigned i = 0; i < CALLERS_MAX; i++)
			used |= s->callers[i].link && s->callers[i].fail == f;
		if (used)
			continue;
		fail_reset(f);
		return f;
	}
}

static void hang_up(struct caller *c)
{
	c->link->ops->kill(c->link);
	c->link->ops->close(c->link);
	c->link = NULL;
}

void caller_refuse(struct xport_link *l)
{
	static const char busy[] = "busy with another migration";
	struct wire_abort a = { .err = -EBUSY };
	struct wire_hdr h = wire_header(WIRE_REFUSED, sizeof(a) + sizeof(busy) - 1, 0);
	struct iovec iov[3] = { { &h, sizeof(h) }, { &a, sizeof(a) }, { (void *)(uintptr_t)busy, sizeof(busy) - 1 } };
	struct xport_chan *c = l->ops->chan(l, XPORT_CONTROL, 0);

	c->ops->send(c, iov, 3);
	l->ops->close(l);
}

void callers_add(struct ferry_session *s, struct xport_link *l, struct fail *f)
{
	struct caller *to = &s->callers[0];

	for (unsigned i = 1; i < CALLERS_MAX && to->link; i++)
		if (!s->callers[i].link || s->callers[i].since_us < to->since_us)
			to = &s->callers[i];
	if (to->link)
		hang_up(to);
	*to = (struct caller){ .link = l, .fail = f, .since_us = now_us() };
}

/* 1: it is the source. 0: it has not said yet who it is. -ESTALE: another. Else it has hung up, or cannot be heard. */
static int hear(struct ferry_session *s, struct caller *c)
{
	struct xport_chan *ctl = c->link->ops->chan(c->link, XPORT_CONTROL, 0);
	int err;

	while (!(err = ctl->ops->recv(ctl, c->msg, sizeof(c->msg), &c->len, 0))) {
		if (wire_type_of(c->msg, c->len) != WIRE_PING)
			return hello_is_source(s, c->msg, c->len, c->pings, &c->link->id) ? 1 : -ESTALE;
		if (++c->pings > PINGS_MAX)
			return -ESTALE;
	}
	return err == -EAGAIN ? 0 : err;
}

/* The newest one counts: the source has given up those before it. */
static void take(struct ferry_session *s, struct caller *c)
{
	uint32_t newest = s->pending.link ? s->pending.link->id.generation : s->generation;

	if (c->link->id.generation <= newest) {
		hang_up(c);
		return;
	}
	if (s->pending.link)
		hang_up(&s->pending);
	s->pending = *c;
	c->link = NULL;
}

void callers_look(struct ferry_session *s)
{
	uint64_t now = now_us();

	for (unsigned i = 0; i < CALLERS_MAX; i++) {
		struct caller *c = &s->callers[i];
		int got;

		if (!c->link)
			continue;
		got = hear(s, c);
		if (got == 1) {
			take(s, c);
		} else if (got == -ESTALE) {
			caller_refuse(c->link);
			c->link = NULL;
		} else if (got < 0 || now > c->since_us + s->cfg.timeout_us) {
			hang_up(c);
		}
	}
}

nfds_t callers_fds(struct ferry_session *s, struct pollfd *p)
{
	nfds_t n = 0;

	for (unsigned i = 0; i < CALLERS_MAX; i++) {
		struct xport_link *l = s->callers[i].link;
		struct xport_chan *c = l ? l->ops->chan(l, XPORT_CONTROL, 0) : NULL;

		if (c)
			p[n++] = (struct pollfd){ .fd = c->ops->fd(c), .events = POLLIN };
	}
	return n;
}

void callers_close(struct ferry_session *s)
{
	for (unsigned i = 0; i < CALLERS_MAX; i++)
		if (s->callers[i].link)
			hang_up(&s->callers[i]);
	if (s->pending.link)
		hang_up(&s->pending);
}
