// SPDX-License-Identifier: MIT
/* Messages on the control channel: sent by any thread, received by main, with its other checks in between. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "message.h"
#include "listener.h"
#include "lobby.h"
#include "outage.h"

#define LOOK_US 10000u /* between two looks at the listener while messages keep coming */
#define HEARD_ASIDE 2  /* a PING or an unknown optional message */
#define NOT_LOOKED 1   /* no look at the listener: in a handshake its callers may be strangers */

int link_send_locked(struct ferry_session *s, enum wire_type t, const void *body, size_t len,
		     const void *elems, size_t elems_len)
{
	struct wire_hdr h;
	struct iovec iov[3] = { { &h, sizeof(h) },
				{ (void *)(uintptr_t)body, len },
				{ (void *)(uintptr_t)elems, elems_len } };
	int err;

	if (!s->link.ctl)
		return -EPIPE;
	h = wire_header(t, len + elems_len, s->link.send_seq);
	err = s->link.ctl->ops->send(s->link.ctl, iov, elems_len ? 3 : len ? 2 : 1);
	s->link.send_seq += !err; /* a send that failed has used no number */
	return err;
}

int link_send(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len)
{
	int err;

	pthread_mutex_lock(&s->link.send_lock);
	err = link_send_locked(s, t, body, len, elems, elems_len);
	pthread_mutex_unlock(&s->link.send_lock);
	return err < 0 ? link_transport_fail(s, err) : 0;
}

void link_send_or_end(struct ferry_session *s, enum wire_type t, const void *body, size_t len)
{
	int err;

	pthread_mutex_lock(&s->link.send_lock);
	err = link_send_locked(s, t, body, len, NULL, 0);
	pthread_mutex_unlock(&s->link.send_lock);
	if (err < 0 && err != -EPIPE) /* a lost link may still hold the peer's last message */
		link_kill(s);
}

/* Answer an ABORT by an ABORT, so that its sender knows that it was heard. */
static int hear_abort(struct ferry_session *s, const struct wire_msg *m)
{
	char text[WIRE_TEXT_MAX + 1];
	struct wire_abort a, answer;

	memcpy(&a, m->body, sizeof(a));
	wire_text(m, text);
	if (a.err >= 0 || a.err < -4095 || a.err == -EPIPE)
		a.err = -ECONNABORTED;
	s->link.peer_gone = true;
	session_reason(s, FERRY_REASON_PEER);
	fail(&s->fail, a.err, "the %s %s: %s", s->is_source ? "target" : "source",
	     m->type == WIRE_REFUSED ? "refused" : "gave up", text);
	if (m->type == WIRE_ABORT) {
		s->link.peer_aborted = true;
		answer = (struct wire_abort){ .err = a.err };
		link_send(s, WIRE_ABORT, &answer, sizeof(answer), NULL, 0);
	}
	return a.err;
}

/*
 * The target does not see one-sided puts, but the source's PINGs tell of them. Only a new low in the round is
 * progress: after a loss, pages are put again. 0 is skipped: it is also sent between rounds.
 */
static void note_puts(struct ferry_session *s, uint64_t left)
{
	if (!left || !(s->link.x->caps & XPORT_ONE_SIDED) ||
	    (s->tgt.least_left && left + 1 >= s->tgt.least_left))
		return;
	if (s->tgt.least_left)
		count(&s->stats.steps, 1);
	s->tgt.least_left = left + 1;
}

static void hear_ping(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_ping p;

	memcpy(&p, m->body, sizeof(p));
	if (!s->is_source && s->phase == FERRY_PHASE_PRECOPY)
		note_puts(s, p.pages_left);
	if (s->is_source && s->phase == FERRY_PHASE_POSTCOPY) {
		if (p.pages_left < s->src.least_left) { /* only a new low is progress */
			s->src.least_left = p.pages_left;
			count(&s->stats.steps, 1);
			s->src.pulled_us = now_us();
		}
		atomic_store(&s->stats.peer_faults, p.faults);
		atomic_store(&s->stats.remaining, p.pages_left);
	}
	atomic_store(&s->stats.peer_left, p.pages_left);
}

/* The lobby has read a caller's first message already. */
static int receive(struct ferry_session *s, size_t *len)
{
	const struct caller *c = s->link.first_words;

	s->link.first_words = NULL;
	if (!c)
		return s->link.ctl->ops->recv(s->link.ctl, s->link.msg_buf, XPORT_MSG_MAX, len, 0);
	memcpy(s->link.msg_buf, c->msg, c->len);
	*len = c->len;
	return 0;
}

/* Try once. 1: *msg is set; 0: nothing there; HEARD_ASIDE; or an error; if the peer gave up, its errno. */
static int recv_one(struct ferry_session *s, struct wire_msg *msg, enum ferry_phase phase)
{
	size_t len;
	int err;

	if (!s->link.ctl)
		return -EPIPE;
	err = receive(s, &len);
	if (err == -EAGAIN)
		return 0;
	if (err < 0)
		return link_transport_fail(s, err);
	s->link.heard_us = now_us();
	err = wire_check(msg, s->link.msg_buf, len, s->is_source ? FROM_TARGET : FROM_SOURCE, phase,
			 s->link.recv_seq++, &s->fail);
	if (err < 0)
		return err;
	if (msg->type == WIRE_ABORT || msg->type == WIRE_REFUSED)
		return hear_abort(s, msg);
	if (msg->type && msg->type != WIRE_PING)
		return 1;
	if (msg->type)
		hear_ping(s, msg);
	return HEARD_ASIDE;
}

/*
 * Wait for a message, a caller, a wake-up or until_us; 1 if woken. looked: the result of the look at the
 * listener. If that failed for lack of descriptors, the listener stays readable: look again later.
 */
static int wait_link(struct ferry_session *s, int looked, uint64_t until_us)
{
	int lobby = s->link.lobby && !looked ? lobby_fd(s->link.lobby) : -1;

	if (looked < 0)
		until_us = sooner(until_us, now_us() + LINK_RETRY_US);
	if (lobby >= 0)
		until_us = sooner(until_us, lobby_until(s->link.lobby));
	return link_wait(s, s->link.ctl->ops->fd(s->link.ctl), lobby, until_us);
}

/*
 * A peer that sends without end must not keep this end from its other checks. So each message is one turn: a
 * cancel is checked each time, the listener at least every LOOK_US, and the caller's own limits after a PING.
 */
static int recv_in(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us,
		   enum ferry_phase phase)
{
	for (;;) {
		uint64_t now = now_us(), silent_at = s->link.heard_us + s->cfg.timeout_us;
		int err = recv_one(s, msg, phase), looked = NOT_LOOKED;

		if (err < 0)
			return err;
		if (link_canceled(s))
			return link_cancel_error(s);
		if (phase != FERRY_PHASE_PRE_MIGRATION && (!err || now - s->link.looked_us >= LOOK_US) &&
		    (looked = link_look(s)) > 0)
			return -EPIPE;
		if (err)
			return err == HEARD_ASIDE ? 0 : 1;
		if (now >= silent_at) {
			session_log(s, 4, NULL, "silent silent_us=%" PRIu64, now - s->link.heard_us);
			return fail_lost(s->link.fail, "nothing was heard of it for %" PRIu64 " ms%s",
					 (now - s->link.heard_us) / 1000,
					 phase == FERRY_PHASE_RESERVATION ? OUTAGE_SHORT_ONES : "");
		}
		if (now_us() >= deadline_us)
			return 0;
		if (wait_link(s, looked, sooner(deadline_us, silent_at)))
			return link_canceled(s) ? link_cancel_error(s) : 0;
	}
}

int link_still(struct ferry_session *s)
{
	if (link_canceled(s))
		return link_cancel_error(s);
	return link_look(s) > 0 ? -EPIPE : link_workers_failed(s);
}

int link_recv(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us)
{
	return recv_in(s, msg, deadline_us, s->phase);
}

int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase phase,
		   uint64_t deadline_us)
{
	int got;

	while (!(got = recv_in(s, msg, deadline_us, phase)))
		if (now_us() >= deadline_us)
			return fail_lost(s->link.fail, "it does not finish the handshake");
	if (got < 0)
		return got;
	if (mask & (1u << msg->type))
		return 0;
	return fail(&s->fail, -EPROTO, "the peer sent %s in %s while something else was due",
		    wire_name(msg->type), ferry_phase_name(phase));
}

int link_expect(struct ferry_session *s, uint32_t mask, struct wire_msg *msg)
{
	return link_expect_in(s, mask, msg, s->phase, DEADLINE_NONE);
}

/*
 * The last words are sent. Keep the link until the peer answers or hangs up: if it were closed now, the peer
 * might see a data connection end first, and wait for a reconnect. 0: they were heard.
 */
static int linger(struct ferry_session *s)
{
	uint64_t end = now_us() + s->cfg.timeout_us;
	int err, looked;
	size_t len;

	do {
		err = receive(s, &len);
		if (!err && wire_type_of(s->link.msg_buf, len) == WIRE_ABORT)
			return 0;
		if (err && err != -EAGAIN)
			break;
		looked = link_look(s);
		if (link_canceled(s) || looked > 0)
			break;
		if (err)
			wait_link(s, looked, end);
	} while (now_us() < end);
	return -EPIPE;
}

int link_say_failed(struct ferry_session *s)
{
	struct wire_abort a = { .err = fail_err(&s->fail) };
	const char *text = fail_text(&s->fail);
	bool early = s->phase == FERRY_PHASE_PRE_MIGRATION || s->phase == FERRY_PHASE_RESERVATION;
	size_t len = strlen(text);
	int err;

	if (s->link.peer_gone)
		return 0;
	s->link.peer_gone = true;
	atomic_store(&s->link.last_words, true);
	err = link_send(s, early && !s->is_source ? WIRE_REFUSED : WIRE_ABORT, &a, sizeof(a), text,
			len < WIRE_TEXT_MAX ? len : WIRE_TEXT_MAX);
	if (!err)
		err = linger(s);
	atomic_store(&s->link.last_words, false);
	return err;
}

int link_stranger(struct ferry_session *s, const char *why)
{
	bool first = !*s->link.stranger;

	snprintf(s->link.stranger, sizeof(s->link.stranger),
		 "another program listens at %.100s: it is not the target of this migration (%s)", s->uri,
		 why);
	if (first)
		session_log(s, 4, s->link.stranger, "stranger");
	return -ESTALE;
}

/* 1: the wanted message. 0: none yet. HEARD_ASIDE. -ESTALE: *f has what else was said. Or a link error. */
static int hear_answer(struct ferry_session *s, enum wire_type want, struct wire_msg *msg, struct fail *f)
{
	char text[WIRE_TEXT_MAX + 1];
	size_t len;
	int err = s->link.ctl->ops->recv(s->link.ctl, s->link.msg_buf, XPORT_MSG_MAX, &len, 0);

	if (err == -EAGAIN)
		return 0;
	if (err == -EPROTO || err == -EMSGSIZE)
		return fail(f, -ESTALE, "what it says is no message of this protocol");
	if (err < 0)
		return err;
	if (wire_check(msg, s->link.msg_buf, len, wire_from(want), FERRY_PHASE_PRE_MIGRATION,
		       s->link.recv_seq++, f) < 0)
		return -ESTALE;
	if (msg->type == want)
		return 1;
	if (wire_is_aside(wire_type_of(s->link.msg_buf, len)))
		return HEARD_ASIDE;
	if (msg->type != WIRE_ABORT && msg->type != WIRE_REFUSED)
		return fail(f, -ESTALE, "it said %s instead of %s", wire_name(msg->type), wire_name(want));
	wire_text(msg, text);
	return fail(f, -ESTALE, "it said %s: %s", wire_name(msg->type), text);
}

int link_ask(struct ferry_session *s, enum wire_type t, const void *body, size_t len, enum wire_type want,
	     struct wire_msg *msg, uint64_t deadline_us)
{
	uint64_t silent_at = now_us() + s->cfg.timeout_us;
	struct fail f = { 0 };
	int err;

	pthread_mutex_lock(&s->link.send_lock);
	err = link_send_locked(s, t, body, len, NULL, 0);
	pthread_mutex_unlock(&s->link.send_lock);
	if (silent_at < deadline_us)
		deadline_us = silent_at;
	while (!err || err == HEARD_ASIDE) {
		err = hear_answer(s, want, msg, &f);
		if (err && err != HEARD_ASIDE)
			break;
		if (link_canceled(s))
			return link_cancel_error(s);
		if (now_us() >= deadline_us)
			return fail_lost(s->link.fail, "it does not answer");
		if (!err)
			link_wait(s, s->link.ctl->ops->fd(s->link.ctl), -1, deadline_us);
	}
	s->link.heard_us = now_us();
	if (err == -ESTALE || err == -EPROTO)
		return link_stranger(s, *fail_text(&f) ? fail_text(&f) : fail_text(s->link.fail));
	return err < 0 ? err : 0;
}
