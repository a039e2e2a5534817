/* SPDX-License-Identifier: MIT */
/*
 * Messages on the control channel. -EPIPE means: the link is lost, link_recover() may bring it back. Any other error ends the
 * migration at this end. Main calls these, but link_send().
 */
#ifndef FERRY_MESSAGE_H
#define FERRY_MESSAGE_H

#include "current.h"

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
/* As link_expect(), before or after the session's phase: what a message may be is told by the phase. -EPIPE at the deadline. */
int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase phase, uint64_t deadline_us);
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

/* link_send() for who holds send_lock. */
int link_send_locked(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems, size_t elems_len);

#endif
