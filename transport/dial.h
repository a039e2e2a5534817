/* SPDX-License-Identifier: MIT */
/*
 * Which address to connect to, and when; shared by the connecting ends of tcp and rdma.
 *
 * A name may have several addresses, some of them black holes. As in RFC 8305 (Happy Eyeballs) the families
 * alternate; the next address is tried DIAL_STAGGER_US after the previous one, or at once if that one fails;
 * the first that answers wins. An address that has not answered is tried again every DIAL_AGAIN_US, because
 * the kernel repeats a lost SYN only after 1, 3 and 7 s, too late for a network that has come back. The
 * earlier tries stay in flight, because an answer may take longer than a second.
 */
#ifndef FERRY_DIAL_H
#define FERRY_DIAL_H

#include <poll.h>
#include <sys/socket.h>

#include "xport_int.h"

#define DIAL_ADDRS_MAX 16u
#define DIAL_STAGGER_US 250000u
#define DIAL_AGAIN_US 1000000u
#define DIAL_RETRY_US 20000u /* before a failed address is tried again, while another may still answer */

struct xport_addrs {
	unsigned n;
	struct dial_addr {
		struct sockaddr_storage sa;
		socklen_t len;
	} a[DIAL_ADDRS_MAX];
};

/* The time of the next try for each of the addresses first to first + n - 1. */
struct dial {
	unsigned first, n;
	enum { DIAL_UNTRIED, DIAL_TRIED, DIAL_FAILED } state[DIAL_ADDRS_MAX];
	uint64_t due_us[DIAL_ADDRS_MAX];
	int err; /* most informative error of the failed addresses */
};

/* The addresses of the URI's host, from *p->addrs if set; else blocks as long as the resolver does. */
int dial_addrs(struct xport_addrs *ret, const struct uri *u, const struct xport_param *p, struct fail *f);
/* Refuse a link-local address without a scope: -EINVAL and a sentence, else 0. */
int dial_check_scope(const struct sockaddr *a, const struct uri *u, struct fail *f);

/*
 * A number that tells connecting hosts apart: the IPv4 address, or the /64 network of an IPv6 address,
 * because one host may have any number of addresses in it.
 */
uint64_t dial_from(const struct sockaddr *a);
void dial_text(char *buf, size_t cap, const struct sockaddr *a); /* "address:port"; "" if it is none */

/* addr of p->addrs accepted a connection but is no target: the next attempt tries it last. */
void dial_put_last(const struct xport_param *p, unsigned addr);

/* Schedule the first try of n addresses, DIAL_STAGGER_US apart. Times are in microseconds, as now_us(). */
void dial_start(struct dial *d, unsigned first, unsigned n, uint64_t now);
int dial_next(struct dial *d, uint64_t now); /* the address to try now, recorded as tried; -1: none yet */
void dial_failed(struct dial *d, unsigned addr, int err, uint64_t now); /* the untried addresses move up */
bool dial_over(const struct dial *d);	 /* every address has failed; tries in flight may still succeed */
uint64_t dial_due(const struct dial *d); /* time of the next try */

/* poll() until the deadline or until wake_fd is readable; p has room for one more. 0, or woken()'s return. */
int dial_poll(struct pollfd *p, nfds_t n, uint64_t deadline, const struct xport_param *param);

#endif
