/* SPDX-License-Identifier: MIT */
/*
 * At a target: connections that name this migration, and have not yet shown that its source is at their other end. All calls
 * are main's.
 */
#ifndef FERRY_CALLER_H
#define FERRY_CALLER_H

#include <poll.h>

#include "fail.h"
#include "wire.h"

#define CALLERS_MAX 8u
#define CALLER_MSG_MAX 512u /* a HELLO is shorter */

struct ferry_session;

struct caller {
	struct xport_link *link; /* NULL: free */
	struct fail *fail;	 /* the link's */
	uint64_t since_us;
	uint32_t pings; /* came before its first message, which is in msg */
	size_t len;
	uint8_t msg[CALLER_MSG_MAX];
};

/* For the next link that the listener has: not used by any other. */
struct fail *callers_fail(struct ferry_session *s);
/* A connection with our session's bytes and a newer generation. Where there are too many the oldest makes room. */
void callers_add(struct ferry_session *s, struct xport_link *l, struct fail *f);
/* Reads what they say: who shows the source's number becomes s->pending, everybody else is sent away. */
void callers_look(struct ferry_session *s);
/* What to poll until callers_look() has something to do: at most CALLERS_MAX. */
nfds_t callers_fds(struct ferry_session *s, struct pollfd *p);
/* Tells a stranger that this end is busy, and hangs up. */
void caller_refuse(struct xport_link *l);
/* Ends them all, s->pending too. */
void callers_close(struct ferry_session *s);

#endif
