// SPDX-License-Identifier: MIT
/*
 * The link of a session: connect, reconnect, close.
 *
 *	link_first() -> [ link_recv() ... -EPIPE -> workers joined -> link_recover() ] -> link_close()
 *
 * A loss shows itself as -EPIPE from any channel; as silence for timeout_us (a live peer sends four PINGs in
 * that time); or, at a target, as its source connecting with a newer generation: the source may notice the
 * loss first. The transport's words stay in s->link.fail until they end the migration, so a link that comes
 * back leaves no error.
 *
 * The peer that comes back must be the one that was there (handshake.c). If a connection names the target's
 * session, the target reads its HELLO beside the live link, and ends that link only if the HELLO shows the
 * source's number. If another program answers at the target's address, the source keeps trying until
 * reconnect_us has passed, as if nobody were there.
 *
 * A link must be closed before the next one is made: both would pin all memory. A close can take long
 * (soft-RoCE keeps a queue pair for up to 50 s while its card sends nothing), and a VM that is paused at the
 * source must not wait for it. So a thread closes the source's links. A new link waits for that thread until
 * the reconnect's deadline, then the VM resumes; only code that returns memory or ends the session waits
 * without limit. A target closes its links itself: no VM waits for it, and if the link does not come back it
 * returns its memory next, which needs the close anyway.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "link.h"
#include "handshake.h"
#include "heartbeat.h"
#include "listener.h"
#include "lobby.h"
#include "outage.h"
#include "runtime/base/thread.h"

#define LINK_ATTEMPT_US 1000000u /* a connection attempt that has less time left may end without an answer */
#define TELL_TRIES 4u		 /* links made to say ABORT: a peer that never answers cannot hold this end */

static void *closer_main(void *arg)
{
	struct ferry_session *s = arg;

	s->link.dying->ops->close(s->link.dying);
	atomic_store(&s->link.closed, true);
	session_wake(s);
	return NULL;
}

/* Close the current link, at a source in the background. make_room() has ended any earlier close. */
static void link_drop(struct ferry_session *s)
{
	struct xport_link *l = s->link.x;

	if (!l)
		return;
	link_kill(s);
	link_install(s, NULL);
	s->link.dying = l;
	atomic_store(&s->link.closed, false);
	s->link.closing = s->is_source && !thread_start(&s->link.closer, closer_main, s);
	if (!s->link.closing)
		l->ops->close(l);
}

void link_wait_closed(struct ferry_session *s)
{
	if (s->link.closing)
		pthread_join(s->link.closer, NULL);
	s->link.closing = false;
}

/* Before a new link: wait until the last one is closed, and forget its error. -EPIPE at the deadline. */
static int make_room(struct ferry_session *s, uint64_t deadline_us)
{
	while (s->link.closing && !atomic_load(&s->link.closed)) {
		if (link_canceled(s))
			return link_cancel_error(s);
		if (now_us() >= deadline_us)
			return -EPIPE;
		link_wait(s, -1, -1, deadline_us);
	}
	link_wait_closed(s);
	fail_reset(s->link.fail);
	return 0;
}

void link_close(struct ferry_session *s)
{
	link_drop(s);
	link_wait_closed(s);
	link_forget_caller(s);
	if (s->link.pending)
		lobby_part(s->link.pending);
	s->link.pending = NULL;
	if (s->link.lobby)
		lobby_close(s->link.lobby);
}

static int connect_once(struct ferry_session *s, uint64_t deadline_us)
{
	struct xport_link_id id = { .generation = s->link.generation, .channels = s->cfg.channels };
	struct xport_link *l;
	uint64_t now;
	int err;

	memcpy(id.session, s->session, sizeof(id.session));
	err = make_room(s, deadline_us);
	if (err < 0)
		return err;
	now = now_us();
	err = xport_connect(&l, s->uri, &id, &s->link.param, deadline_us > now ? deadline_us - now : 1,
			    s->link.fail);
	if (s->link.peer_known && (err == -EPROTO || err == -EBUSY)) /* not a target, or a busy one */
		return link_stranger(s, fail_text(s->link.fail));
	if (err == -EBUSY)
		session_reason(s, FERRY_REASON_PEER);
	if (err < 0)
		return err;
	link_install(s, l);
	err = handshake_source(s, deadline_us);
	if (err < 0)
		link_drop(s);
	return err;
}

/* This host lacks a resource for now. If a VM is at stake, wait for the resource as for a lost link. */
static bool out_of(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

/* Whether to try again: the peer is not there yet, or has gone again, or a stranger may leave. */
static bool may_retry(const struct ferry_session *s, int err)
{
	if (s->link.peer_gone)
		return false;
	/* Once the peer is known, an unusable address or a firewall's refusal means a network failure. */
	if (s->link.peer_known &&
	    (err == -ESTALE || err == -EADDRNOTAVAIL || err == -EACCES || err == -EPERM || out_of(err)))
		return true;
	return xport_lost(err) || err == -EAGAIN || err == -ENOENT;
}

static void restate(struct fail *to, struct fail *from)
{
	fail_reset(to);
	fail(to, fail_err(from), "%s", fail_text(from));
}

static int connect_until(struct ferry_session *s, uint64_t deadline_us)
{
	struct fail known = { 0 }; /* the error of the last attempt that the deadline did not cut short */
	int err, had = fail_err(&s->fail);

	for (;;) {
		uint64_t began = now_us();
		bool cut_short = deadline_us < began + LINK_ATTEMPT_US;

		err = connect_once(s, deadline_us);
		/* An error that the attempt itself recorded in s->fail is final. */
		if (!err || !may_retry(s, err) || (!had && fail_err(&s->fail)))
			return err < 0 ? link_transport_fail(s, err) : 0;
		if (link_canceled(s))
			return link_cancel_error(s);
		/* An attempt that only the deadline ended says less than the one before it. */
		if (err == -ETIMEDOUT && cut_short && fail_err(&known))
			restate(s->link.fail, &known);
		else if (fail_err(s->link.fail))
			restate(&known, s->link.fail);
		if (now_us() + LINK_RETRY_US >= deadline_us)
			return -EPIPE;
		link_wait(s, -1, -1, now_us() + LINK_RETRY_US);
		s->link.generation++;
	}
}

/* Target: accept a link from the source and do the handshake. first: any session's source will do. */
static int accept_until(struct ferry_session *s, uint64_t deadline_us, bool first)
{
	struct caller *c;
	int err = make_room(s, deadline_us);

	if (err < 0)
		return err;
	for (;;) {
		if (!s->link.pending && first)
			err = lobby_next(s->link.lobby, &s->link.pending, s->link.fail);
		else if (!s->link.pending)
			err = link_look(s);
		c = s->link.pending;
		s->link.pending = NULL;
		if (c) {
			link_take_caller(s, c);
			err = handshake_target(s, sooner(deadline_us, now_us() + s->cfg.timeout_us));
			if (!err)
				lobby_only(s->link.lobby, &s->link.x->id);
			if (!err && !first)
				heartbeat_send(s); /* tells the source how many pages have arrived */
			if (!err)
				return 0;
			if (err != -EPIPE)
				return err;
			link_part_caller(s);
		} else if (err < 0 && err != -EAGAIN && (first || !out_of(err))) {
			return link_transport_fail(s, err);
		}
		if (link_canceled(s))
			return link_cancel_error(s);
		if (now_us() >= deadline_us)
			return -EPIPE;
		if (c) /* another caller may have spoken, too */
			continue;
		if (!err || err == -EAGAIN)
			link_wait(s, lobby_fd(s->link.lobby), -1,
				  sooner(deadline_us, lobby_until(s->link.lobby)));
		else
			link_wait(s, -1, -1, now_us() + LINK_RETRY_US);
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
		return fail(&s->fail, -ETIMEDOUT,
			    "the target at %s could not be reached for %" PRIu64 " ms: %s", s->uri,
			    s->cfg.connect_us / 1000,
			    fail_err(s->link.fail)	    ? fail_text(s->link.fail)
			    : *fail_lost_text(s->link.fail) ? fail_lost_text(s->link.fail)
							    : "it closes the connection");
	}
	err = accept_until(s, deadline, true);
	if (err != -EPIPE)
		return err;
	return fail(&s->fail, -ETIMEDOUT,
		    "no source connected to %s for %" PRIu64
		    " ms; start the source sooner, or raise connect_us",
		    s->uri, s->cfg.connect_us / 1000);
}

/* Replace the lost link. -EPIPE: there is no new one by until_us. Other errors end the migration. */
static int link_again(struct ferry_session *s, uint64_t until_us)
{
	int err;

	link_drop(s);
	s->link.generation += s->is_source;
	err = s->is_source ? connect_until(s, until_us) : accept_until(s, until_us, false);
	if (!err)
		atomic_fetch_add(&s->stats.reconnects, 1);
	return err;
}

int link_recover(struct ferry_session *s)
{
	uint64_t window = outage_window(s), silent = now_us() - s->link.heard_us,
		 until = outage_until(s, window);
	const char *peer = *s->link.peer ? s->link.peer : "unknown";
	char text[sizeof(s->link.lost_why) + XPORT_PEER_MAX + 32];
	int err = -EPIPE;

	*s->link.stranger = 0;
	snprintf(s->link.lost_why, sizeof(s->link.lost_why), "%s", fail_lost_text(s->link.fail));
	snprintf(text, sizeof(text), "the link is lost%s%s%s", *s->link.lost_why ? ": " : "",
		 s->link.lost_why, link_peer(s).text);
	session_event(s, FERRY_EVENT_LINK, text, NULL);
	session_log(s, 4, s->link.lost_why, "lost phase=%s peer=%s", ferry_phase_name(s->phase), peer);
	if (window && now_us() < until)
		err = link_again(s, until);
	else
		link_drop(s);
	if (!err) {
		s->link.outage.back++;
		s->link.outage.back_us = now_us();
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

	if (s->phase <= FERRY_PHASE_RESERVATION || !window)
		return; /* the peer has given up, too */
	/*
	 * The peer has waited since the outage began, so only the rest of its window is left. A target that
	 * may be PREPARED gets a whole window from now, lest it end in doubt.
	 */
	if (!s->link.x && s->link.outage.since_us && !(s->is_source && s->src.switched))
		until = s->link.outage.since_us + window;
	/*
	 * If the link came back in this outage, the peer waits a timeout longer (outage_until()). A target
	 * always waits another one (outage_window()).
	 */
	if (s->link.outage.back)
		until += (s->is_source ? 2 : 1) * s->cfg.timeout_us;
	while (!told && tries++ < TELL_TRIES && now_us() < until) {
		s->link.peer_gone = false;
		if (link_again(s, until) < 0)
			return;
		told = !link_say_failed(s);
	}
}
