/* SPDX-License-Identifier: MIT */
/*
 * The connection over which two machines exchange their results, and how each recognises the other.
 *
 * The target opens a free port, or the one that --report-port names, and draws 32 random bytes. It sends port
 * and bytes over the migration's link in the reservation (ferry_ops.offer). The source connects and shows the
 * first half; the target answers with the second half. So strangers are recognised on both sides, also at the
 * port of a target that has gone. Only an attacker who can read the link knows the bytes (docs/two-hosts.md).
 *
 * No call here blocks. Strangers may connect, send nothing or anything, and stay: the target keeps listening.
 * If all places are taken, the oldest connection that has not shown its half is closed. The source tries the
 * addresses of the host in turn, one every 250 ms, and then starts again, so it returns if strangers pushed
 * it out.
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

/* The target's offer. port 0: it exchanges no results. */
struct meet_offer {
	uint16_t port;
	uint8_t source[MEET_HALF], target[MEET_HALF]; /* the bytes that each end shows */
};

struct meet_conn {
	int fd;	 /* -1: free */
	bool up; /* connected; the source has sent its half */
	uint64_t since;
	uint8_t got[MEET_HALF];
	size_t len;
};

struct addrinfo;

struct meeting {
	enum vmm_end own;
	bool agreed; /* both ends know the offer */
	bool wanted; /* results are to be exchanged */
	struct meet_offer offer;
	int fd; /* the peer; -1: not connected yet */
	int listener;
	struct meet_conn conn[MEET_CONNS];
	struct addrinfo *list, *next; /* source: the target's addresses */
	uint64_t next_at;	      /* time of the next connection attempt */
	unsigned strangers;
	int err; /* of the latest failed connection */
};

void meet_init(struct meeting *p, enum vmm_end own);
/* Target: opens port, or a free one other than uri's for 0, and sets p->offer. 0, or -errno and no offer. */
int meet_listen(struct meeting *p, const char *uri, uint16_t port);
/* Source: resolves the host of uri. It may take long, so call it before the VM moves. */
void meet_resolve(struct meeting *p, const char *uri);
/* Both ends have the offer now; the source begins to connect. */
void meet_agree(struct meeting *p, const struct meet_offer *offer);
/* The descriptors to poll (fd -1: none) and the latest time to return (*until, ns); then call meet_step(). */
void meet_poll(const struct meeting *p, struct pollfd v[MEET_FDS], uint64_t *until);
void meet_step(struct meeting *p, const struct pollfd v[MEET_FDS]);
/* Waits for the peer until that time. 0, -ETIMEDOUT, or the -errno of the latest attempt. */
int meet_wait(struct meeting *p, uint64_t until);
void meet_end(struct meeting *p);

/* Splits tcp:HOST:PORT?... or rdma:[::1]:PORT into host and port. 0 or -EINVAL. */
int meet_split(const char *uri, char host[256], uint16_t *port);
/* The offer as a section. take returns 0 also if there is no offer of this program; then ret->port is 0. */
int meet_offer_put(const struct meet_offer *o, struct ferry_stream *out);
int meet_offer_take(struct meet_offer *ret, struct ferry_stream *in);

#endif
