// SPDX-License-Identifier: MIT
/*
 * The link of a session.
 *
 *	link_first() -> [ link_recv() ... -EPIPE -> crew joined -> link_recover() ] -> link_close()
 *
 * A lost link shows itself as -EPIPE from any channel, as silence for longer than timeout_us (the pulse of a
 * live peer comes four times as often), or, at a target, as a newer generation of the same session at the
 * listener: the source may know of the loss first. Whatever the transport says in words stays in link_fail
 * until it ends the migration, so that a link that heals leaves no error behind.
 *
 * A link has to be closed before the next one is made: both would pin all memory. A close may take its time (soft-RoCE
 * keeps a queue pair for up to 50 s while its card sends nothing), and a VM that stands still at the source has no part
 * in that. So a source's links are closed by a thread: a new one waits for it as long as the reconnect may take, then the
 * VM goes on, and only who gives memory back, or ends the session, waits for good. A target closes its links itself: no
 * VM waits for it, and what follows a link that does not come back is that its memory is given back.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "config.h"
#include "hello.h"
#include "link.h"

#define RETRY_US 20000u

static int transport_fail(struct ferry_session *s, int err)
{
	if (err == -EPIPE || err == -ETIMEDOUT)
		return -EPIPE;
	return fail(&s->fail, err, "%s", fail_err(&s->link_fail) ? fail_text(&s->link_fail) : strerror(-err));
}

/* Waits for one of the session's own wake-ups, a pollable fd, or the deadline: 1 when woken. */
static int wait_fds(struct ferry_session *s, int fd, int fd2, uint64_t deadline_us)
{
	struct pollfd p[3] = { { .fd = s->wake_fd, .events = POLLIN },
			       { .fd = fd, .events = POLLIN },
			       { .fd = fd2, .events = POLLIN } };
	uint64_t now = now_us(), left = deadline_us > now ? deadline_us - now : 0;
	struct timespec ts = { .tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000 * 1000) };
	uint64_t n;

	ppoll(p, 3, deadline_us == DEADLINE_NONE ? NULL : &ts, NULL);
	if (!(p[0].revents & POLLIN))
		return 0;
	if (read(s->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return 0;
	return 1;
}

static bool canceled(struct ferry_session *s)
{
	return atomic_load(&s->want_cancel) && commit_get(&s->commit) == COMMIT_OPEN;
}

static int cancel_error(struct ferry_session *s)
{
	return fail(&s->fail, -ECANCELED, "canceled by the embedder in %s", ferry_phase_name(s->phase));
}

/* The transport's, while it connects: wake_fd is readable. */
int link_woken(void *arg)
{
	struct ferry_session *s = arg;

	wait_fds(s, -1, -1, 0);
	return canceled(s) ? cancel_error(s) : 0;
}

static void link_install(struct ferry_session *s, struct xport_link *l)
{
	pthread_mutex_lock(&s->send_lock);
	s->link = l;
	s->ctl = l ? l->ops->chan(l, XPORT_CONTROL, 0) : NULL;
	s->send_seq = 0;
	pthread_mutex_unlock(&s->send_lock);
	s->recv_seq = 0;
	s->heard_us = now_us();
}

void link_kill(struct ferry_session *s)
{
	if (s->link)
		s->link->ops->kill(s->link);
}

static void *closer_main(void *arg)
{
	struct ferry_session *s = arg;

	s->dying->ops->close(s->dying);
	atomic_store(&s->closed, true);
	session_wake(s);
	return NULL;
}

/* While there is a link nothing is being closed. */
static void link_drop(struct ferry_session *s)
{
	struct xport_link *l = s->link;

	if (!l)
		return;
	link_kill(s);
	link_install(s, NULL);
	s->dying = l;
	atomic_store(&s->closed, false);
	s->closing = s->is_source && !thread_start(&s->closer, closer_main, s);
	if (!s->closing)
		l->ops->close(l);
}

void link_closed(struct ferry_session *s)
{
	if (s->closing)
		pthread_join(s->closer, NULL);
	s->closing = false;
}

/* Before another link: the last one is closed, and what it said is forgotten. Else -EPIPE at the deadline, -ECANCELED. */
static int make_room(struct ferry_session *s, uint64_t deadline_us)
{
	while (s->closing && !atomic_load(&s->closed)) {
		if (canceled(s))
			return cancel_error(s);
		if (now_us() >= deadline_us)
			return -EPIPE;
		wait_fds(s, -1, -1, deadline_us);
	}
	link_closed(s);
	fail_reset(&s->link_fail);
	return 0;
}

void link_close(struct ferry_session *s)
{
	link_drop(s);
	link_closed(s);
	if (s->pending) {
		s->pending->ops->kill(s->pending);
		s->pending->ops->close(s->pending);
		s->pending = NULL;
	}
	if (s->listener)
		s->listener->ops->close(s->listener);
	s->listener = NULL;
}

int link_listen(struct ferry_session *s)
{
	return xport_listen(&s->listener, s->uri, &s->param, &s->fail);
}

int link_send(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len)
{
	struct wire_hdr h;
	struct iovec iov[3] = { { &h, sizeof(h) }, { (void *)(uintptr_t)body, len },
				{ (void *)(uintptr_t)elems, elems_len } };
	int err = -EPIPE;

	pthread_mutex_lock(&s->send_lock);
	if (s->ctl) {
		h = wire_header(t, len + elems_len, s->send_seq++);
		err = s->ctl->ops->send(s->ctl, iov, elems_len ? 3 : len ? 2 : 1);
	}
	pthread_mutex_unlock(&s->send_lock);
	return err < 0 ? transport_fail(s, err) : 0;
}

/* An ABORT is answered by an ABORT, so that whoever sent it knows that it need not say it again. */
static int hear_abort(struct ferry_session *s, const struct wire_msg *m)
{
	char text[WIRE_TEXT_MAX + 1];
	struct wire_abort a, answer;
	size_t i;

	memcpy(&a, m->body, sizeof(a));
	for (i = 0; i < m->nelems; i++) {
		text[i] = ((const char *)m->elems)[i];
		if (!isprint((unsigned char)text[i]))
			text[i] = '?';
	}
	text[i] = 0;
	if (a.err >= 0 || a.err < -4095 || a.err == -EPIPE)
		a.err = -ECONNABORTED;
	s->peer_gone = true;
	if (m->type == WIRE_ABORT) {
		s->peer_aborted = true;
		answer = (struct wire_abort){ .err = a.err };
		link_send(s, WIRE_ABORT, &answer, sizeof(answer), NULL, 0);
	}
	return fail(&s->fail, a.err, "the %s %s: %s", s->is_source ? "target" : "source",
		    m->type == WIRE_REFUSED ? "refused" : "gave up", text);
}

static void hear_ping(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_ping p;

	memcpy(&p, m->body, sizeof(p));
	atomic_store(&s->stats.peer_left, p.pages_left);
	if (s->is_source && s->phase == FERRY_POSTCOPY) {
		atomic_store(&s->stats.peer_faults, p.faults);
		atomic_store(&s->stats.remaining, p.pages_left);
	}
}

/* One try: 1 and a message, 0 none (a PING counts as none), or the error. */
static int recv_one(struct ferry_session *s, struct wire_msg *msg, enum ferry_phase stage)
{
	size_t len;
	int err;

	if (!s->ctl)
		return -EPIPE;
	err = s->ctl->ops->recv(s->ctl, s->msg_buf, XPORT_MSG_MAX, &len, 0);
	if (err == -EAGAIN)
		return 0;
	if (err < 0)
		return transport_fail(s, err);
	s->heard_us = now_us();
	err = wire_check(msg, s->msg_buf, len, s->is_source ? FROM_TARGET : FROM_SOURCE, stage, s->recv_seq++,
			 &s->fail);
	if (err < 0)
		return err;
	if (msg->type == WIRE_ABORT || msg->type == WIRE_REFUSED)
		return hear_abort(s, msg);
	if (msg->type != WIRE_PING)
		return 1;
	hear_ping(s, msg);
	return -EAGAIN;
}

/* A newer connection of our session replaces the link; anyone else is told that we are busy. */
static int look_at_listener(struct ferry_session *s)
{
	static const char busy[] = "busy with another migration";
	struct wire_abort a = { .err = -EBUSY };
	struct xport_link *l;
	struct wire_hdr h;
	struct iovec iov[3] = { { &h, sizeof(h) }, { &a, sizeof(a) }, { (void *)(uintptr_t)busy, sizeof(busy) - 1 } };
	struct xport_chan *c;

	while (s->listener && !s->listener->ops->accept(s->listener, &l, &s->link_fail)) {
		if (!memcmp(l->id.session, s->session, sizeof(s->session)) && l->id.generation > s->generation) {
			if (s->pending) {
				s->pending->ops->kill(s->pending);
				s->pending->ops->close(s->pending);
			}
			s->pending = l;
			continue;
		}
		c = l->ops->chan(l, XPORT_CONTROL, 0);
		h = wire_header(WIRE_REFUSED, sizeof(a) + sizeof(busy) - 1, 0);
		c->ops->send(c, iov, 3);
		l->ops->close(l);
	}
	return s->pending ? -EPIPE : 0;
}

static int listener_fd(struct ferry_session *s)
{
	return s->listener ? s->listener->ops->fd(s->listener) : -1;
}

static int recv_in(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us, enum ferry_phase stage)
{
	for (;;) {
		uint64_t now, silent_at = s->heard_us + s->cfg.timeout_us;
		int err = recv_one(s, msg, stage);

		if (err == -EAGAIN)
			continue;
		if (err)
			return err;
		if (canceled(s))
			return cancel_error(s);
		if (stage != FERRY_PRE_MIGRATION && look_at_listener(s) < 0)
			return -EPIPE;
		now = now_us();
		if (now >= silent_at) {
			session_log(s, 4, NULL, "silent silent_us=%" PRIu64, now - s->heard_us);
			return -EPIPE;
		}
		if (now >= deadline_us)
			return 0;
		if (wait_fds(s, s->ctl->ops->fd(s->ctl), stage == FERRY_PRE_MIGRATION ? -1 : listener_fd(s),
			     deadline_us < silent_at ? deadline_us : silent_at))
			return canceled(s) ? cancel_error(s) : 0;
	}
}

int link_recv(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us)
{
	return recv_in(s, msg, deadline_us, s->phase);
}

int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase stage)
{
	int got;

	while (!(got = recv_in(s, msg, DEADLINE_NONE, stage)))
		;
	if (got < 0)
		return got;
	if (mask & (1u << msg->type))
		return 0;
	return fail(&s->fail, -EPROTO, "the peer sent %s in %s while something else was due", wire_name(msg->type),
		    ferry_phase_name(stage));
}

int link_expect(struct ferry_session *s, uint32_t mask, struct wire_msg *msg)
{
	return link_expect_in(s, mask, msg, s->phase);
}

/*
 * Last words are out: the link stays up until the peer has answered them or hangs up, because the end of a data
 * connection may overtake them, and a link that is lost without a word is waited for. 0: they were heard.
 */
static int linger(struct ferry_session *s)
{
	uint64_t now = now_us(), end = now + s->cfg.timeout_us;
	struct wire_hdr h = { 0 };
	int err = 0;
	size_t len;

	for (; (!err || err == -EAGAIN) && now < end; now = now_us()) {
		err = s->ctl->ops->recv(s->ctl, s->msg_buf, XPORT_MSG_MAX, &len, end - now);
		if (err || len < sizeof(h))
			continue;
		memcpy(&h, s->msg_buf, sizeof(h));
		if (h.type == WIRE_ABORT)
			return 0;
	}
	return -EPIPE;
}

int link_say_failed(struct ferry_session *s)
{
	struct wire_abort a = { .err = fail_err(&s->fail) };
	const char *text = fail_text(&s->fail);
	bool early = s->phase == FERRY_PRE_MIGRATION || s->phase == FERRY_RESERVATION;
	size_t len = strlen(text);
	int err;

	if (s->peer_gone)
		return 0;
	s->peer_gone = true;
	err = link_send(s, early && !s->is_source ? WIRE_REFUSED : WIRE_ABORT, &a, sizeof(a), text,
			len < WIRE_TEXT_MAX ? len : WIRE_TEXT_MAX);
	return err ? err : linger(s);
}

static int connect_once(struct ferry_session *s, uint64_t deadline_us)
{
	struct xport_link_id id = { .generation = s->generation, .channels = s->cfg.channels };
	struct xport_link *l;
	uint64_t now;
	int err;

	memcpy(id.session, s->session, sizeof(id.session));
	err = make_room(s, deadline_us);
	if (err < 0)
		return err;
	now = now_us();
	err = xport_connect(&l, s->uri, &id, &s->param, deadline_us > now ? deadline_us - now : 1, &s->link_fail);
	if (err < 0)
		return err;
	link_install(s, l);
	err = hello_source(s);
	if (err < 0)
		link_drop(s);
	return err;
}

/* Whether another attempt may go better: nobody there yet, or gone again in the middle. */
static bool may_retry(const struct ferry_session *s, int err)
{
	if (s->peer_gone)
		return false;
	/* Once the peer was found, an address that cannot be used is a network that is down. */
	if (err == -EADDRNOTAVAIL && s->peer_known)
		return true;
	return err == -EPIPE || err == -ECONNREFUSED || err == -ETIMEDOUT || err == -EAGAIN || err == -ENETUNREACH ||
	       err == -EHOSTUNREACH || err == -ECONNRESET || err == -ENETDOWN || err == -ENOENT;
}

static int connect_until(struct ferry_session *s, uint64_t deadline_us)
{
	int err;

	for (;;) {
		err = connect_once(s, deadline_us);
		if (!err || !may_retry(s, err))
			return err < 0 ? transport_fail(s, err) : 0;
		if (canceled(s))
			return cancel_error(s);
		if (now_us() + RETRY_US >= deadline_us)
			return -EPIPE;
		wait_fds(s, -1, -1, now_us() + RETRY_US);
		s->generation++;
	}
}

/* Target: the next link that may be ours, with its handshake done. first: any session will do. */
static int accept_until(struct ferry_session *s, uint64_t deadline_us, bool first)
{
	struct xport_link *l;
	int err = make_room(s, deadline_us);

	if (err < 0)
		return err;
	for (;;) {
		l = s->pending;
		s->pending = NULL;
		if (!l && first)
			err = s->listener->ops->accept(s->listener, &l, &s->link_fail);
		else if (!l)
			err = look_at_listener(s) < 0 ? -EINTR : -EAGAIN;
		else
			err = 0;
		if (err == -EINTR)
			continue;
		if (!err) {
			link_install(s, l);
			err = hello_target(s);
			if (!err)
				return 0;
			if (err != -EPIPE)
				return err;
			link_drop(s);
			continue;
		}
		if (err != -EAGAIN)
			return transport_fail(s, err);
		if (canceled(s))
			return cancel_error(s);
		if (now_us() >= deadline_us)
			return -EPIPE;
		wait_fds(s, listener_fd(s), -1, deadline_us);
	}
}

int link_first(struct ferry_session *s)
{
	uint64_t deadline = now_us() + s->cfg.connect_us;
	int err;

	if (s->is_source) {
		err = connect_until(s, deadline);
		if (err != -EPIPE)
			return err;
		return fail(&s->fail, -ETIMEDOUT, "the target at %s could not be reached for %" PRIu64 " ms: %s", s->uri,
			    s->cfg.connect_us / 1000,
			    fail_err(&s->link_fail) ? fail_text(&s->link_fail) : "it closes the connection");
	}
	err = accept_until(s, deadline, true);
	if (err != -EPIPE)
		return err;
	return fail(&s->fail, -ETIMEDOUT, "no source connected to %s for %" PRIu64 " ms; start the source sooner, or raise connect_us", s->uri,
		    s->cfg.connect_us / 1000);
}

int link_recover(struct ferry_session *s)
{
	uint64_t window = s->cfg.reconnect_us, timeout = s->cfg.timeout_us;
	uint64_t silent = now_us() - s->heard_us;
	uint64_t until;
	int err;

	/* The target waits longer than the source, which may hear of the loss last: it must not find the target gone. */
	if (!s->is_source && !(s->cfg.flags & FERRY_CONFIG_NO_RECONNECT)) {
		/* But in doubt without all pages it gives up first (below): the source cannot know its reconnect_us. */
		if (s->tgt.hello.reconnect_us > window || (s->left && commit_get(&s->commit) == COMMIT_PREPARED))
			window = s->tgt.hello.reconnect_us;
		if (s->tgt.hello.timeout_us > timeout)
			timeout = s->tgt.hello.timeout_us;
		window = window ? window + timeout : 0;
	}
	/* A source that cannot know whether a target that lacks pages has heard COMMIT lets that one give up first. */
	if (s->is_source && s->left && !s->confirmed && s->ops.arbiter &&
	    commit_get(&s->commit) == COMMIT_DECIDED)
		window += 2 * (s->cfg.timeout_us + atomic_load(&s->peer_timeout_us));
	until = now_us() + window;
	/* Held output piles up while the link is down, too. */
	if (s->tgt.hold_until_us && s->tgt.hello.at_hold_limit == FERRY_HOLD_FALLBACK &&
	    commit_get(&s->commit) == COMMIT_OPEN && s->tgt.hold_until_us < until)
		until = s->tgt.hold_until_us;
	session_event(s, FERRY_EVENT_LINK, "the link is lost", NULL);
	link_drop(s);
	if (window) {
		s->generation += s->is_source;
		err = s->is_source ? connect_until(s, until) : accept_until(s, until, false);
		if (!err) {
			atomic_fetch_add(&s->stats.reconnects, 1);
			session_event(s, FERRY_EVENT_LINK, "the link is back", NULL);
			return 0;
		}
		if (err != -EPIPE)
			return err;
	}
	fail(&s->fail, -EPIPE, "the link to the %s was lost in %s and did not come back within %" PRIu64
	     " ms (last heard %" PRIu64 " ms before)", s->is_source ? "target" : "source",
	     ferry_phase_name(s->phase), window / 1000, silent / 1000);
	return -EPIPE;
}

static void *pulse_main(void *arg)
{
	struct ferry_session *s = arg;
	struct pollfd p = { .fd = s->pulse_fd, .events = POLLIN };

	while (!atomic_load(&s->pulse_stop)) {
		uint64_t t = atomic_load(&s->peer_timeout_us);
		struct wire_ping ping = { .pages_left = atomic_load(&s->stats.remaining),
					  .faults = atomic_load(&s->stats.faults) };

		if (!t || t > s->cfg.timeout_us)
			t = s->cfg.timeout_us;
		if (t < CONFIG_TIMEOUT_US_MIN)
			t = CONFIG_TIMEOUT_US_MIN;
		if (poll(&p, 1, (int)((t / 4000) < INT32_MAX ? t / 4000 : INT32_MAX)) > 0)
			break;
		link_send(s, WIRE_PING, &ping, sizeof(ping), NULL, 0);
	}
	return NULL;
}

int pulse_start(struct ferry_session *s)
{
	int err = thread_start(&s->pulse, pulse_main, s);

	if (err < 0)
		return fail(&s->fail, err, "the pulse thread cannot be started: %s", strerror(-err));
	s->pulsing = true;
	return 0;
}

void pulse_stop(struct ferry_session *s)
{
	uint64_t one = 1;

	if (!s->pulsing)
		return;
	atomic_store(&s->pulse_stop, true);
	if (write(s->pulse_fd, &one, sizeof(one)) < 0)
		session_log(s, 3, NULL, "wake-failed errno=%d", errno);
	pthread_join(s->pulse, NULL);
	s->pulsing = false;
}
