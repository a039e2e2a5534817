/* SPDX-License-Identifier: MIT */
/*
 * The connection over which two machines tell each other their results, and how each knows that it has the other.
 *
 * The target opens a port that is free, or the one that --report-port names, and draws 32 random bytes. Port and bytes
 * cross the migration's own link in the reservation (ferry_ops.offer). The source connects, shows the first half; the
 * target answers with the second. So a stranger on the port is nobody, and neither is a stranger on the port of a target
 * that has gone. It keeps out who cannot read the link: the link itself is as open as docs/two-hosts.md says.
 *
 * Nothing here waits. Strangers may connect, say nothing or anything, and stay: the target listens on; of those that
 * have not shown their half the oldest makes room for the next. The source tries each address of the host in turn, the
 * next one 250 ms after the last, and begins again: whom a crowd of strangers has pushed out comes back.
 */
#ifndef BENCH_MEET_H
#define BENCH_MEET_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <ferry/ferry.h>

#include "bench/vmm/vmm.h"

#define MEET_HALF 16u
#define MEET_CONNS 32u
#define MEET_FDS (MEET_CONNS + 1)

/* What the target offers. port 0: it exchanges no results. */
struct meet_offer {
	uint16_t port;
	uint8_t source[MEET_HALF], target[MEET_HALF]; /* what each shows */
};

struct meet_conn {
	int fd; /* -1: free */
	bool up; /* connected: the source has shown its half */
	uint64_t since;
	uint8_t got[MEET_HALF];
	size_t len;
};

struct addrinfo;

struct meeting {
	enum vmm_end own;
	bool agreed; /* both know the offer */
	bool wanted; /* results are exchanged at all */
	struct meet_offer offer;
	int fd; /* the other end; -1: it has not come */
	int listener;
	struct meet_conn conn[MEET_CONNS];
	struct addrinfo *list, *next; /* source: the target's addresses */
	uint64_t next_at;	      /* no new connection before */
	unsigned strangers;
	int err; /* of the newest connection that came to nothing */
};

void meet_init(struct meeting *p, enum vmm_end own);
/* Target: opens the port, 0: a free one other than that of uri; p->offer. 0, or -errno and no offer. */
int meet_listen(struct meeting *p, const char *uri, uint16_t port);
/* Source: looks up the host of uri; the answer may take long, so before the VM moves. */
void meet_resolve(struct meeting *p, const char *uri);
/* The other end has the offer, or this one has it now; of the source: begins to connect. */
void meet_agree(struct meeting *p, const struct meet_offer *offer);
/* What there is to wait for, fd -1 where nothing, at most until *until (ns); and what to do then. */
void meet_poll(const struct meeting *p, struct pollfd v[MEET_FDS], uint64_t *until);
void meet_step(struct meeting *p, const struct pollfd v[MEET_FDS]);
/* Until it has come, at most until that time. 0 or the -errno of the newest attempt, -ETIMEDOUT. */
int meet_wait(struct meeting *p, uint64_t until);
void meet_end(struct meeting *p);

/* The port of tcp:HOST:PORT?..., rdma:[::1]:PORT, and its host; -EINVAL. */
int meet_split(const char *uri, char host[256], uint16_t *port);
/* The offer as a section. take: 0 also where there is none that this program knows, then ret->port is 0. */
int meet_offer_put(const struct meet_offer *o, struct ferry_stream *out);
int meet_offer_take(struct meet_offer *ret, struct ferry_stream *in);

#endif
