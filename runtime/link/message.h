/* SPDX-License-Identifier: MIT */
/*
 * Messages on the control channel. -EPIPE: the link is lost, and link_recover() may bring it back. Any other
 * error ends the migration at this end. Called by main; link_send() and link_send_locked() by any thread.
 */
#ifndef FERRY_MESSAGE_H
#define FERRY_MESSAGE_H

#include "current.h"

/* Send one message: its fixed part (body), then its elements (elems_len bytes in all). */
int link_send(struct ferry_session *s, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len);
/*
 * Send PREPARED, COMMIT or a later message. None can be taken back, and the peer waits for it as long as the
 * link is up. So if it cannot be sent, the link ends; the next handshake says it, or it is sent again.
 */
void link_send_or_end(struct ferry_session *s, enum wire_type t, const void *body, size_t len);
/*
 * Receive the next message that is no PING. 1: *msg is set, valid until the next call. 0: session_wake(), a
 * PING or the deadline (now_us() based); the caller checks its limits. ABORT and REFUSED return the peer's
 * error, a cancel -ECANCELED.
 */
int link_recv(struct ferry_session *s, struct wire_msg *msg, uint64_t deadline_us);
/*
 * Called between two pieces of work whose size the peer has set. Returns what link_recv() would for a cancel,
 * a failed worker, or a link that is lost or replaced by a newer one. 0: go on. From the reservation on.
 */
int link_still(struct ferry_session *s);
/* Receive until a message of a type in mask (1 << type) arrives; any other is -EPROTO. No deadline. */
int link_expect(struct ferry_session *s, uint32_t mask, struct wire_msg *msg);
/* As link_expect(), but messages are judged by phase, not by the session's. -EPIPE at the deadline. */
int link_expect_in(struct ferry_session *s, uint32_t mask, struct wire_msg *msg, enum ferry_phase phase,
		   uint64_t deadline_us);
/*
 * Source, after a reconnect: send a message and wait for want, which shows who is there. -ESTALE: not the
 * target; link_stranger() has noted what it said, and nothing of that is believed. -EPIPE, -ECANCELED.
 */
int link_ask(struct ferry_session *s, enum wire_type t, const void *body, size_t len, enum wire_type want,
	     struct wire_msg *msg, uint64_t deadline_us);
/* Note that another program answers at the target's address, and why. -ESTALE: as if nobody were there. */
int link_stranger(struct ferry_session *s, const char *why);
/*
 * Send ABORT or REFUSED with the first error's sentence, if the peer does not know yet. Wait at most
 * timeout_us for an answer or a hang-up; another ferry_cancel() ends the wait. 0: it knows. -EPIPE: it may
 * not; REFUSED has no answer.
 */
int link_say_failed(struct ferry_session *s);

/* link_send() for a caller that holds send_lock. The error is the transport's, and is not recorded. */
int link_send_locked(struct ferry_session *s, enum wire_type t, const void *body, size_t len,
		     const void *elems, size_t elems_len);

#endif
