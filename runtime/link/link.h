/* SPDX-License-Identifier: MIT */
/*
 * The link of a session: first connection, reconnects, and messages on its control channel.
 *
 * Everything here is called by main, but link_send() and what the pulse does. -EPIPE means: the link is lost,
 * link_recover() may bring it back. Any other error ends the migration at this end.
 */
#ifndef FERRY_LINK_H
#define FERRY_LINK_H

#include "runtime/session/session.h"

#define DEADLINE_NONE UINT64_MAX

/* The param.woken of the session's links. */
int link_woken(void *session);
/* Target: listen on s->uri. */
int link_listen(struct ferry_session *s);
/* The first connection and its HELLO, within connect_us. */
int link_first(struct ferry_session *s);
/*
 * After -EPIPE: ends what is left of the link (the crew must have been joined) and waits reconnect_us for a new
 * one. 0: it is there, and s->peer_commit says where the peer stands. -EPIPE: gone for good, with a sentence.
 *
 * A link that comes back again and again and carries nothing is gone for good, too: losses with no progress between
 * them are one outage, which lasts reconnect_us and timeout_us at most. Progress is a stage entered, a round ended, at a target
 * pages that have come, at a source what it knows the target has got; or a link that stays for four times timeout_us.
 */
int link_recover(struct ferry_session *s);
/* What the transport said of err, else the errno's own words. Valid while the link is not replaced. */
const char *link_why(struct ferry_session *s, int err);
/* Where a lost link is not waited for: the sentence of -EPIPE, or a worker's own error, which counts more. Else err. */
int link_lost(struct ferry_session *s, int err);
/* The link is of no use any more: wakes everyone blocked on it. Main. */
void link_kill(struct ferry_session *s);
void link_close(struct ferry_session *s);
/* No link that was lost knows our memory any more: waits for that, however long. The current one is not touched. */
void link_closed(struct ferry_session *s);

/* One message: fixed part, trailing elements. -EPIPE. Any thread. */
int link_send(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len);
/*
 * PREPARED, COMMIT and what follows them: nobody can take them back, and an end that waits for one waits as long as the link
 * is there. Where this end cannot send it, the link ends; the next one's handshake says it, or it is sent again. Main.
 */
void link_send_or_end(struct ferry_session *s, enum wire_type t, const void *body, size_t len);
/*
 * The next message that is not PING: 1 and *msg (valid until the next call). 0: woken by session_wake(), a PING, or the
 * deadline (now_us() based) has passed: the caller looks at its clock. ABORT and REFUSED become the peer's error. -ECANCELED: ferry_cancel().
 */
int link_recv(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us);
/*
 * Between two pieces of work whose size a peer has named: what link_recv() would say now of a cancel, of a link that a worker has
 * lost, or that a newer one replaces. 0: go on. Main, from the reservation on.
 */
int link_still(struct ferry_session *s);
/* As link_recv(), until one of the types in mask (1 << type) has come; another message is -EPROTO. */
int link_expect(struct ferry_session *s, uint32_t mask, struct wire_msg *msg);
/* As link_expect(), before or behind the session's phase: what a message may be is told by the stage. -EPIPE at the deadline. */
int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase stage, uint64_t deadline_us);
/*
 * Source, on a link that came back: sends a message, and waits for one that says who is there. -ESTALE: another than the
 * target, link_stranger() has noted what it said; nothing of it is believed. -EPIPE, -ECANCELED. Main.
 */
int link_ask(struct ferry_session *s, enum wire_type t, const void *body, size_t len, enum wire_type want,
	     struct wire_msg *msg, uint64_t deadline_us);
/* Whoever answers at the target's address is not the target. -ESTALE, which counts as not come back. */
int link_stranger(struct ferry_session *s, const char *why);
/*
 * Say ABORT or REFUSED with the first error's sentence, if the peer does not know yet, and wait for its answer, or for it
 * to hang up, at most timeout_us; a second ferry_cancel() ends the wait. 0: it knows. -EPIPE: it may not (nobody answers a
 * REFUSED).
 */
int link_say_failed(struct ferry_session *s);
/*
 * link_say_failed() has not reached the peer, which may be connecting or waiting: says it over a new link, as long as the
 * peer may still be there. ferry_cancel() ends the wait. The crew must have been joined; the VM needs nothing any more.
 */
void link_tell_again(struct ferry_session *s);

int pulse_start(struct ferry_session *s);
void pulse_stop(struct ferry_session *s);

#endif
