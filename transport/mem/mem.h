/* SPDX-License-Identifier: MIT */
/*
 * The mem transport: both ends in one process, no network. One-sided: put and get copy between the two
 * exposed tables, and serve() has nothing to do.
 *
 * Rendezvous without a global: a listener is an abstract datagram socket whose name contains the process id.
 * The connecting end allocates the pair that both ends share, with one reference for itself and one for the
 * datagram, and sends the pair's address. The listener uses that pointer only if the kernel's credentials say
 * that it came from this process. Whoever receives the datagram owns its reference: accept(), or close(),
 * which first shuts the socket for further datagrams and then drains it. So no reference leaks, whichever end
 * gives up first.
 *
 * Either end may be the first to know that the link exists, so a transfer waits for the peer's first expose,
 * as on a network.
 *
 * A copy holds the peer side's table lock for reading; expose() and close() take it for writing, so memory is
 * never touched after it was taken back.
 */
#ifndef FERRY_MEM_H
#define FERRY_MEM_H

#include <pthread.h>
#include <stdatomic.h>

#include "transport/gets.h"
#include "transport/xport_int.h"

enum pair_state { PAIR_OFFERED, PAIR_ACCEPTED, PAIR_REFUSED, PAIR_TAKEN, PAIR_WITHDRAWN };

struct message {
	struct message *next;
	size_t len;
	uint8_t body[];
};

struct side {
	pthread_rwlock_t table_lock;
	struct xp_table table;
	struct message *head, **tail; /* received by this side; pair lock */
	size_t queued;		      /* bytes of them; pair lock */
	bool dead;		      /* killed or closed; pair lock */
	bool exposed;		      /* something was exposed at least once; pair lock */
	int evfd;		      /* readable while head is set or a side is dead */
};

struct pair {
	pthread_mutex_t lock; /* taken after a table_lock, never before one */
	pthread_cond_t cond;
	_Atomic unsigned refs;
	enum pair_state state;
	struct xport_link_id id;
	struct side side[2];
};

struct mem_chan {
	struct xport_chan chan;
	struct mem_link *link;
	struct xp_gets gets;
};

struct mem_link {
	struct xport_link link;
	struct pair *pair;
	struct side *me, *peer;
	uint64_t timeout_us;
	struct iovec *lent;
	size_t nlent;
	struct mem_chan ctl, urgent, data[XPORT_CHANNELS_MAX];
};

int mem_pair_new(struct pair **ret, const struct xport_link_id *id);
void mem_pair_put(struct pair *p);
/* Lock held: wait until something changes; false once end (microseconds, monotonic) has passed. */
bool mem_pair_wait(struct pair *p, uint64_t end);
int mem_link_new(struct mem_link **ret, const struct xport_param *p);
/* Takes over the caller's reference to p. */
void mem_link_join(struct mem_link *l, struct pair *p, int side, struct fail *f);

#endif
