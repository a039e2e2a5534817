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
 * Who comes back is who was there (hello.c). A target reads the HELLO of a connection that names its session beside the
 * live link, which ends only when that HELLO shows the source's number. A source whose target's address is answered by
 * another goes on trying until reconnect_us has passed, as if nobody were there.
 *
 * A link has to be closed before the next one is made: both would pin all memory. A close may take its time (soft-RoCE
 * keeps a queue pair for up to 50 s while its card sends nothing), and a VM that stands still at the source has no part
 * in that. So a source's links are closed by a thread: a new one waits for it as long as the reconnect may take, then the
 * VM goes on, and only who gives memory back, or ends the session, waits for good. A target closes its links itself: no
 * VM waits for it, and what follows a link that does not come back is that its memory is given back.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/session/config.h"
#include "hello.h"
#include "link.h"
#include "lobby.h"
#include "outage.h"

#define RETRY_US 20000u
#define LOOK_US 10000u /* between two looks at the listener while messages come one behind the other */
#define LOOK_MAX 8u /* callers who are answered in one look at the listener */
#define TELL_TRIES 4u /* links made to say ABORT: a peer that never answers it must not hold this end */

const char *link_why(struct ferry_session *s, int err)
{
	return fail_err(s->link_fail) == err ? fail_text(s->link_fail) : strerror(-err);
}

static int transport_fail(struct ferry_session *s, int err)
{
	if (err == -EPIPE || err == -ETIMEDOUT)
		return -EPIPE;
	return fail(&s->fail, err, "%s", link_why(s, err));
}

int link_lost(struct ferry_session *s, int err)
{
	const char *why = fail_lost_text(s->link_fail);
	int worker;

	if (err != -EPIPE)
		return err;
	worker = crew_failed(&s->crew);
	if (worker < 0 && worker != -EPIPE)
		return worker;
	return fail(&s->fail, err, "the link to the %s was lost in %s%s%s", s->is_source ? "target" : "source",
		    ferry_phase_name(s->phase), *why ? ": " : "", why);
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

/* A cancel ends the migration while it may; once it is given up, another one ends the wait for telling the peer. */
static bool canceled(struct ferry_session *s)
{
	enum commit_state c = commit_get(&s->commit);

	return c == COMMIT_OPEN ? atomic_load(&s->want_cancel) : c == COMMIT_ABORTED && atomic_load(&s->hurry);
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
	s->first_words = NULL;
	s->heard_us = now_us();
}

/* Who was taken out of the lobby last: what the transport said of that link is forgotten, too. The link is closed. */
static void forget_caller(struct ferry_session *s)
{
	caller_free(s->caller);
	s->caller = NULL;
	s->link_fail = &s->own_link_fail;
}

/* The link of one who has spoken becomes the session's. */
static void take_caller(struct ferry_session *s, struct caller *c)
{
	forget_caller(s);
	s->caller = c;
	s->link_fail = &c->fail;
	link_install(s, c->link);
	s->recv_seq = c->pings;
	s->first_words = c;
}

/* It was not the source: main does not wait for its link to be closed. */
static void part_caller(struct ferry_session *s)
{
	struct caller *c = s->caller;

	link_install(s, NULL);
	s->caller = NULL;
	forget_caller(s);
	lobby_part(c);
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
	fail_reset(s->link_fail);
	return 0;
}

void link_close(struct ferry_session *s)
{
	link_drop(s);
	link_closed(s);
	forget_caller(s);
	if (s->pending)
		lobby_part(s->pending);
	s->pending = NULL;
	if (s->lobby)
		lobby_close(s->lobby);
}

static void wake_main(void *arg)
{
	session_wake(arg);
}

int link_listen(struct ferry_session *s)
{
	struct xport_listener *l;
	int err = xport_listen(&l, s->uri, &s->param, &s->fail);

	if (err)
		return err;
	err = lobby_new(&s->lobby, l, s->cfg.timeout_us, wake_main, s, &s->fail);
	if (err < 0) {
		l->ops->close(l);
		return err;
	}
	pthread_mutex_lock(&s->view_lock);
	err = l->ops->uri(l, s->uri, sizeof(s->uri));
	pthread_mutex_unlock(&s->view_lock);
	if (err) {
		lobby_free(s->lobby);
		s->lobby = NULL;
	}
	return err;
}

/* send_lock is held. */
static int send_locked(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
		       size_t elems_len)
{
	struct wire_hdr h;
	struct iovec iov[3] = { { &h, sizeof(h) }, { (void *)(uintptr_t)body, len },
				{ (void *)(uintptr_t)elems, elems_len } };
	int err;

	if (!s->ctl)
		return -EPIPE;
	h = wire_header(t, len + elems_len, s->send_seq);
	err = s->ctl->ops->send(s->ctl, iov, elems_len ? 3 : len ? 2 : 1);
	s->send_seq += !err; /* who had no memory to send it may send another */
	return err;
}

int link_send(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len)
{
	int err;

	pthread_mutex_lock(&s->send_lock);
	err = send_locked(s, t, body, len, elems, elems_len);
	pthread_mutex_unlock(&s->send_lock);
	return err < 0 ? transport_fail(s, err) : 0;
}

void link_send_or_end(struct ferry_session *s, enum wire_type t, const void *body, size_t len)
{
	int err;

	pthread_mutex_lock(&s->send_lock);
	err = send_locked(s, t, body, len, NULL, 0);
	pthread_mutex_unlock(&s->send_lock);
	if (err < 0 && err != -EPIPE) /* a link that is lost may still hold what the peer said last */
		link_kill(s);
}

/* What it says is read under the lock, so that it is never older than a message that went out before it. */
static void send_ping(struct ferry_session *s)
{
	struct wire_ping ping;

	pthread_mutex_lock(&s->send_lock);
	ping = (struct wire_ping){ .pages_left = atomic_load(&s->stats.remaining), .faults = atomic_load(&s->stats.faults) };
	send_locked(s, WIRE_PING, &ping, sizeof(ping), NULL, 0); /* main will meet what is wrong with the link */
	pthread_mutex_unlock(&s->send_lock);
}

/* An ABORT is answered by an ABORT, so that whoever sent it knows that it need not say it again. */
static int hear_abort(struct ferry_session *s, const struct wire_msg *m)
{
	char text[WIRE_TEXT_MAX + 1];
	struct wire_abort a, answer;

	memcpy(&a, m->body, sizeof(a));
	wire_text(m, text);
	if (a.err >= 0 || a.err < -4095 || a.err == -EPIPE)
		a.err = -ECONNABORTED;
	s->peer_gone = true;
	fail(&s->fail, a.err, "the %s %s: %s", s->is_source ? "target" : "source",
	     m->type == WIRE_REFUSED ? "refused" : "gave up", text);
	if (m->type == WIRE_ABORT) {
		s->peer_aborted = true;
		answer = (struct wire_abort){ .err = a.err };
		link_send(s, WIRE_ABORT, &answer, sizeof(answer), NULL, 0);
	}
	return a.err;
}

/*
 * A one-sided put is not seen at the target. What counts is a new low of the round: after a loss pages are put again. 0 is
 * said between rounds, too; the end of a round counts by itself.
 */
static void note_puts(struct ferry_session *s, uint64_t left)
{
	if (!left || !(s->link->caps & XPORT_ONE_SIDED) || (s->tgt.least_left && left + 1 >= s->tgt.least_left))
		return;
	if (s->tgt.least_left)
		count(&s->stats.steps, 1);
	s->tgt.least_left = left + 1;
}

static void hear_ping(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_ping p;

	memcpy(&p, m->body, sizeof(p));
	if (!s->is_source && s->phase == FERRY_PRECOPY)
		note_puts(s, p.pages_left);
	if (s->is_source && s->phase == FERRY_POSTCOPY) {
		if (p.pages_left < s->src.least_left) { /* up and down again is no progress */
			s->src.least_left = p.pages_left;
			count(&s->stats.steps, 1);
			s->src.pulled_us = now_us();
		}
		atomic_store(&s->stats.peer_faults, p.faults);
		atomic_store(&s->stats.remaining, p.pages_left);
	}
	atomic_store(&s->stats.peer_left, p.pages_left);
}

/* A caller's first message was taken while it was in the lobby. */
static int receive(struct ferry_session *s, size_t *len)
{
	const struct caller *c = s->first_words;

	s->first_words = NULL;
	if (!c)
		return s->ctl->ops->recv(s->ctl, s->msg_buf, XPORT_MSG_MAX, len, 0);
	memcpy(s->msg_buf, c->msg, c->len);
	*len = c->len;
	return 0;
}

#define HEARD_PING 2

/* One try: 1 and a message, 0 none, HEARD_PING, or the error, which at a peer that gives up is its own: any at all. */
static int recv_one(struct ferry_session *s, struct wire_msg *msg, enum ferry_phase stage)
{
	size_t len;
	int err;

	if (!s->ctl)
		return -EPIPE;
	err = receive(s, &len);
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
	return HEARD_PING;
}

/* Our source, come back on a newer connection: whoever else knows session and generation has not its number. */
static bool is_ours(const struct ferry_session *s, const struct caller *c)
{
	const struct xport_link_id *id = &c->link->id;
	uint32_t newest = s->pending ? s->pending->link->id.generation : s->generation;

	return s->peer_known && !memcmp(id->session, s->session, sizeof(s->session)) && id->generation > newest &&
	       hello_is_source(s, c->msg, c->len, c->pings, id);
}

/*
 * Our source's newer connection replaces the link; anyone else is told that we are busy, most of them by the listener, which
 * takes nobody else once there is a session; some were in the lobby before. 1: there is one in s->pending;
 * 0: none; or what keeps this end from looking. What a stranger's connection meets is no cause of the live link's loss.
 */
static int look_at_listener(struct ferry_session *s)
{
	struct fail why = { 0 };
	struct caller *c;
	int err = s->lobby ? 0 : -EAGAIN;

	s->looked_us = now_us();
	for (unsigned n = 0; !err && n < LOOK_MAX; n++) {
		err = lobby_next(s->lobby, &c, &why);
		if (err)
			break;
		if (!is_ours(s, c)) {
			lobby_refuse(c);
			continue;
		}
		if (s->pending)
			lobby_part(s->pending);
		s->pending = c;
	}
	if (!s->link && fail_err(&why)) { /* accept_until() says it */
		fail_reset(s->link_fail);
		fail(s->link_fail, err, "%s", fail_text(&why));
	}
	return s->pending ? 1 : err == -EAGAIN ? 0 : err;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * Waits for a message, somebody in the lobby, a wake-up, or until_us: 1 when woken. looked: what looking at the listener has
 * come to; where this host has no descriptor to let anybody in, the listener stays readable, and is looked at now and then.
 */
static int wait_link(struct ferry_session *s, int looked, uint64_t until_us)
{
	int lobby = s->lobby && !looked ? lobby_fd(s->lobby) : -1;

	if (looked < 0)
		until_us = sooner(until_us, now_us() + RETRY_US);
	if (lobby >= 0)
		until_us = sooner(until_us, lobby_until(s->lobby));
	return wait_fds(s, s->ctl->ops->fd(s->ctl), lobby, until_us);
}

/* The listener is not looked at in a handshake: who is in it may not be the session's source. */
#define NOT_LOOKED 1

/*
 * A peer that sends without end must not keep this end from looking at anything else. So a message is one turn: a cancel and the
 * listener are looked at in each, and after a PING the caller looks at what it waits for.
 */
static int recv_in(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us, enum ferry_phase stage)
{
	for (;;) {
		uint64_t now = now_us(), silent_at = s->heard_us + s->cfg.timeout_us;
		int err = recv_one(s, msg, stage), looked = NOT_LOOKED;

		if (err < 0)
			return err;
		if (canceled(s))
			return cancel_error(s);
		if (stage != FERRY_PRE_MIGRATION && (!err || now - s->looked_us >= LOOK_US) && (looked = look_at_listener(s)) > 0)
			return -EPIPE;
		if (err)
			return err == HEARD_PING ? 0 : 1;
		if (now >= silent_at) {
			session_log(s, 4, NULL, "silent silent_us=%" PRIu64, now - s->heard_us);
			return fail_lost(s->link_fail, "nothing was heard of it for %" PRIu64 " ms%s",
					 (now - s->heard_us) / 1000, stage == FERRY_RESERVATION ? OUTAGE_SHORT_ONES : "");
		}
		if (now_us() >= deadline_us)
			return 0;
		if (wait_link(s, looked, sooner(deadline_us, silent_at)))
			return canceled(s) ? cancel_error(s) : 0;
	}
}

int link_still(struct ferry_session *s)
{
	if (canceled(s))
		return cancel_error(s);
	return look_at_listener(s) > 0 ? -EPIPE : crew_failed(&s->crew);
}

int link_recv(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us)
{
	return recv_in(s, msg, deadline_us, s->phase);
}

int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase stage, uint64_t deadline_us)
{
	int got;

	while (!(got = recv_in(s, msg, deadline_us, stage)))
		if (now_us() >= deadline_us)
			return fail_lost(s->link_fail, "it does not finish the handshake");
	if (got < 0)
		return got;
	if (mask & (1u << msg->type))
		return 0;
	return fail(&s->fail, -EPROTO, "the peer sent %s in %s while something else was due", wire_name(msg->type),
		    ferry_phase_name(stage));
}

int link_expect(struct ferry_session *s, uint32_t mask, struct wire_msg *msg)
{
	return link_expect_in(s, mask, msg, s->phase, DEADLINE_NONE);
}

/*
 * Last words are out: the link stays up until the peer has answered them or hangs up, because the end of a data
 * connection may overtake them, and a link that is lost without a word is waited for. 0: they were heard.
 */
static int linger(struct ferry_session *s)
{
	uint64_t end = now_us() + s->cfg.timeout_us;
	int err, looked;
	size_t len;

	do {
		err = receive(s, &len);
		if (!err && wire_type_of(s->msg_buf, len) == WIRE_ABORT)
			return 0;
		if (err && err != -EAGAIN)
			break;
		looked = look_at_listener(s);
		if (canceled(s) || looked > 0)
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
	bool early = s->phase == FERRY_PRE_MIGRATION || s->phase == FERRY_RESERVATION;
	size_t len = strlen(text);
	int err;

	if (s->peer_gone)
		return 0;
	s->peer_gone = true;
	atomic_store(&s->last_words, true);
	err = link_send(s, early && !s->is_source ? WIRE_REFUSED : WIRE_ABORT, &a, sizeof(a), text,
			len < WIRE_TEXT_MAX ? len : WIRE_TEXT_MAX);
	if (!err)
		err = linger(s);
	atomic_store(&s->last_words, false);
	return err;
}

int link_stranger(struct ferry_session *s, const char *why)
{
	bool first = !*s->stranger;

	snprintf(s->stranger, sizeof(s->stranger),
		 "another program listens at %.100s: it is not the target of this migration (%s)", s->uri, why);
	if (first)
		session_log(s, 4, s->stranger, "stranger");
	return -ESTALE;
}

/* 1: the message that is wanted. 0: none is there. HEARD_PING. -ESTALE: *f has what else was said. Else the link's error. */
static int hear_answer(struct ferry_session *s, enum wire_type want, struct wire_msg *msg, struct fail *f)
{
	char text[WIRE_TEXT_MAX + 1];
	size_t len;
	int err = s->ctl->ops->recv(s->ctl, s->msg_buf, XPORT_MSG_MAX, &len, 0);

	if (err == -EAGAIN)
		return 0;
	if (err == -EPROTO || err == -EMSGSIZE)
		return fail(f, -ESTALE, "what it says is no message of this protocol");
	if (err < 0)
		return err;
	if (wire_check(msg, s->msg_buf, len, wire_from(want), FERRY_PRE_MIGRATION, s->recv_seq++, f) < 0)
		return -ESTALE;
	if (msg->type == want)
		return 1;
	if (msg->type == WIRE_PING)
		return HEARD_PING;
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

	pthread_mutex_lock(&s->send_lock);
	err = send_locked(s, t, body, len, NULL, 0);
	pthread_mutex_unlock(&s->send_lock);
	if (silent_at < deadline_us)
		deadline_us = silent_at;
	while (!err || err == HEARD_PING) {
		err = hear_answer(s, want, msg, &f);
		if (err && err != HEARD_PING)
			break;
		if (canceled(s))
			return cancel_error(s);
		if (now_us() >= deadline_us)
			return fail_lost(s->link_fail, "it does not answer");
		if (!err)
			wait_fds(s, s->ctl->ops->fd(s->ctl), -1, deadline_us);
	}
	s->heard_us = now_us();
	if (err == -ESTALE || err == -EPROTO)
		return link_stranger(s, *fail_text(&f) ? fail_text(&f) : fail_text(s->link_fail));
	return err < 0 ? err : 0;
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
	err = xport_connect(&l, s->uri, &id, &s->param, deadline_us > now ? deadline_us - now : 1, s->link_fail);
	if (s->peer_known && (err == -EPROTO || err == -EBUSY)) /* no target, or one that serves another source */
		return link_stranger(s, fail_text(s->link_fail));
	if (err < 0)
		return err;
	link_install(s, l);
	err = hello_source(s, deadline_us);
	if (err < 0)
		link_drop(s);
	return err;
}

/* This host lacks something for the moment: where a VM is at stake, that is waited for as a lost link is. */
static bool out_of(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

/* Whether another attempt may go better: nobody there yet, or gone again in the middle, or another who may go. */
static bool may_retry(const struct ferry_session *s, int err)
{
	if (s->peer_gone)
		return false;
	/* Once the peer was found, an address that cannot be used, or a filter's no, is a network that is down. */
	if (s->peer_known && (err == -ESTALE || err == -EADDRNOTAVAIL || err == -EACCES || err == -EPERM || out_of(err)))
		return true;
	return xport_lost(err) || err == -EAGAIN || err == -ENOENT;
}

static int connect_until(struct ferry_session *s, uint64_t deadline_us)
{
	int err, had = fail_err(&s->fail);

	for (;;) {
		err = connect_once(s, deadline_us);
		/* What an attempt has recorded is final. */
		if (!err || !may_retry(s, err) || (!had && fail_err(&s->fail)))
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
	struct caller *c;
	int err = make_room(s, deadline_us);

	if (err < 0)
		return err;
	for (;;) {
		if (!s->pending && first)
			err = lobby_next(s->lobby, &s->pending, s->link_fail);
		else if (!s->pending)
			err = look_at_listener(s);
		c = s->pending;
		s->pending = NULL;
		if (c) {
			take_caller(s, c);
			err = hello_target(s, sooner(deadline_us, now_us() + s->cfg.timeout_us));
			if (!err)
				lobby_only(s->lobby, &s->link->id);
			if (!err && !first)
				send_ping(s); /* what has come so far, for a source that was cut off */
			if (!err)
				return 0;
			if (err != -EPIPE)
				return err;
			part_caller(s);
		} else if (err < 0 && err != -EAGAIN && (first || !out_of(err))) {
			return transport_fail(s, err);
		}
		if (canceled(s))
			return cancel_error(s);
		if (now_us() >= deadline_us)
			return -EPIPE;
		if (c) /* the next one may have spoken, too */
			continue;
		if (!err || err == -EAGAIN)
			wait_fds(s, lobby_fd(s->lobby), -1, sooner(deadline_us, lobby_until(s->lobby)));
		else
			wait_fds(s, -1, -1, now_us() + RETRY_US);
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
			    fail_err(s->link_fail)	 ? fail_text(s->link_fail) :
			    *fail_lost_text(s->link_fail) ? fail_lost_text(s->link_fail) :
							     "it closes the connection");
	}
	err = accept_until(s, deadline, true);
	if (err != -EPIPE)
		return err;
	return fail(&s->fail, -ETIMEDOUT, "no source connected to %s for %" PRIu64 " ms; start the source sooner, or raise connect_us", s->uri,
		    s->cfg.connect_us / 1000);
}

/* Another link instead of the one that is lost. */
static int link_again(struct ferry_session *s, uint64_t until_us)
{
	int err;

	link_drop(s);
	s->generation += s->is_source;
	err = s->is_source ? connect_until(s, until_us) : accept_until(s, until_us, false);
	if (!err)
		atomic_fetch_add(&s->stats.reconnects, 1);
	return err;
}

int link_recover(struct ferry_session *s)
{
	uint64_t window = outage_window(s), silent = now_us() - s->heard_us, until = outage_until(s, window);
	int err = -EPIPE;

	*s->stranger = 0;
	snprintf(s->lost_why, sizeof(s->lost_why), "%s", fail_lost_text(s->link_fail));
	session_event(s, FERRY_EVENT_LINK, "the link is lost", NULL);
	session_log(s, 4, s->lost_why, "lost stage=%s", ferry_phase_name(s->phase));
	if (window && now_us() < until)
		err = link_again(s, until);
	else
		link_drop(s);
	if (!err) {
		s->outage.back++;
		s->outage.back_us = now_us();
		session_event(s, FERRY_EVENT_LINK, "the link is back", NULL);
		return 0;
	}
	return err == -EPIPE ? outage_final(s, window, silent) : err;
}

void link_tell_again(struct ferry_session *s)
{
	uint64_t window = outage_window(s), now = now_us(), until = now + window;
	unsigned tries = 0;
	bool told = false;

	if (s->phase <= FERRY_RESERVATION || !window)
		return; /* the peer has given up, too */
	/* The peer waits since the outage began. A target that is PREPARED does so however long it takes. */
	if (!s->link && s->outage.since_us && !(s->is_source && s->src.switched))
		until = s->outage.since_us + window;
	/* It has seen the link come back, too, and a target waits longer than its source. */
	if (s->outage.back)
		until += (s->is_source ? 2 : 1) * s->cfg.timeout_us;
	while (!told && tries++ < TELL_TRIES && now_us() < until) {
		s->peer_gone = false;
		if (link_again(s, until) < 0)
			return;
		told = !link_say_failed(s);
	}
}

static void *pulse_main(void *arg)
{
	struct ferry_session *s = arg;
	struct pollfd p = { .fd = s->pulse_fd, .events = POLLIN };

	while (!atomic_load(&s->pulse_stop)) {
		uint64_t t = atomic_load(&s->peer_timeout_us);
		if (!t || t > s->cfg.timeout_us)
			t = s->cfg.timeout_us;
		if (t < CONFIG_TIMEOUT_US_MIN)
			t = CONFIG_TIMEOUT_US_MIN;
		if (poll(&p, 1, (int)((t / 4000) < INT32_MAX ? t / 4000 : INT32_MAX)) > 0)
			break;
		send_ping(s);
	}
	return NULL;
}

int pulse_start(struct ferry_session *s)
{
	int err = thread_start(&s->pulse, pulse_main, s);

	if (err < 0)
		return fail_cure(&s->fail, CURE_THREAD, err, "the pulse thread cannot be started");
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
