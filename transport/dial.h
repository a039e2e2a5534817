/* SPDX-License-Identifier: MIT */
/*
 * Whom to connect to, and when: what tcp and rdma share of the connecting end.
 *
 * A name has several addresses, of which some may be black holes. As in RFC 8305 (Happy Eyeballs) the families take turns,
 * the next address is tried DIAL_STAGGER_US after the one before, or at once when that one fails, and whoever answers first
 * wins. An address that has not answered is tried once more every DIAL_AGAIN_US beside the tries that are under way: the
 * kernel repeats a lost SYN after 1, 3 and 7 s, and a network that is back must not wait for that, while an answer that
 * takes longer than a second must still be heard.
 */
#ifndef FERRY_DIAL_H
#define FERRY_DIAL_H

#include <poll.h>
#include <sys/socket.h>

#include "xport_int.h"

#define DIAL_ADDRS_MAX 16u
#define DIAL_STAGGER_US 250000u
#define DIAL_AGAIN_US 1000000u
#define DIAL_RETRY_US 20000u /* of an address that has failed, while another one may still answer */

struct xport_addrs {
	unsigned n;
	struct dial_addr {
		struct sockaddr_storage sa;
		socklen_t len;
	} a[DIAL_ADDRS_MAX];
};

/* When each of the addresses first to first + n - 1 is tried next. */
struct dial {
	unsigned first, n;
	enum { DIAL_UNTRIED, DIAL_TRIED, DIAL_FAILED } state[DIAL_ADDRS_MAX];
	uint64_t due_us[DIAL_ADDRS_MAX];
	int err; /* of the addresses that have failed, the one that says most */
};

/* The addresses of the URI's host, from p->addrs where it has them. It blocks as long as the resolver does. */
int dial_addrs(struct xport_addrs *ret, const struct uri *u, const struct xport_param *p, struct fail *f);
/* A link-local address names no device by itself: 0, or a sentence. what: as written in the URI. */
int dial_check_scope(const struct sockaddr *a, const struct uri *u, struct fail *f);

/*
 * Tells the hosts of connections apart: an address of IPv4, or a network of 64 bits of IPv6, in which one host may have any
 * number of addresses.
 */
uint64_t dial_from(const struct sockaddr *a);

/* That address of p->addrs came up, and no target answered: the next attempt tries the others first. */
void dial_put_last(const struct xport_param *p, unsigned addr);

void dial_start(struct dial *d, unsigned first, unsigned n, uint64_t now);
int dial_next(struct dial *d, uint64_t now); /* the address whose turn it is, or -1; it is under way from here on */
void dial_failed(struct dial *d, unsigned addr, int err, uint64_t now);
bool dial_over(const struct dial *d); /* every address has failed; tries that are still under way may yet succeed */
uint64_t dial_due(const struct dial *d);

/* poll() until the deadline, and for param's wake: p has room for one more. 0, or what woken() gave. */
int dial_poll(struct pollfd *p, nfds_t n, uint64_t deadline, const struct xport_param *param);

#endif
