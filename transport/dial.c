// SPDX-License-Identifier: MIT
/* The addresses of a name, and the order in which they are tried; dial.h has the theory. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dial.h"
#include "runtime/base/fail.h"

int dial_check_scope(const struct sockaddr *a, const struct uri *u, struct fail *f)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;

	if (a->sa_family != AF_INET6 || !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) || v6->sin6_scope_id)
		return 0;
	return fail(f, -EINVAL,
		    "%s:[%s]:%u: a link-local address does not say through which device; name it, as in "
		    "%s:[%s%%eth0]:%u",
		    u->scheme, u->host, u->port, u->scheme, u->host, u->port);
}

/* Alternate the two families, beginning with the resolver's first address. */
static void interleave(struct xport_addrs *ret, const struct addrinfo *list)
{
	const struct addrinfo *next[2] = { list, list }, *ai;
	unsigned turn = 0;

	ret->n = 0;
	while ((next[0] || next[1]) && ret->n < DIAL_ADDRS_MAX) {
		for (ai = next[turn]; ai && (ai->ai_family == list->ai_family) != !turn;)
			ai = ai->ai_next;
		next[turn] = ai ? ai->ai_next : NULL;
		turn = !turn;
		if (!ai)
			continue;
		memcpy(&ret->a[ret->n].sa, ai->ai_addr, ai->ai_addrlen);
		ret->a[ret->n++].len = ai->ai_addrlen;
	}
}

static int resolve(struct xport_addrs *ret, const struct uri *u, struct fail *f)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
					.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV };
	struct addrinfo *list;
	char port[8];
	int err;

	snprintf(port, sizeof(port), "%u", u->port);
	err = getaddrinfo(u->host, port, &hints, &list);
	if (err)
		return fail(f, -EADDRNOTAVAIL,
			    "host \"%s\" cannot be resolved: %s; check the name, or give an address", u->host,
			    err == EAI_SYSTEM ? strerror(errno) : gai_strerror(err));
	interleave(ret, list);
	freeaddrinfo(list);
	return ret->n == 1 ? dial_check_scope((struct sockaddr *)&ret->a[0].sa, u, f) : 0;
}

int dial_addrs(struct xport_addrs *ret, const struct uri *u, const struct xport_param *p, struct fail *f)
{
	int err;

	if (!u->host[0] || !u->port)
		return fail(f, -EINVAL, "to connect, %s: needs a host and a port; \"%s\" and %u were given",
			    u->scheme, u->host, u->port);
	if (p->addrs && *p->addrs) {
		*ret = **p->addrs;
		return 0;
	}
	err = resolve(ret, u, f);
	if (err || !p->addrs)
		return err;
	*p->addrs = malloc(sizeof(*ret));
	if (*p->addrs)
		**p->addrs = *ret;
	return 0;
}

uint64_t dial_from(const struct sockaddr *a)
{
	const struct in6_addr *in6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
	uint64_t from = 0;

	if (a->sa_family == AF_INET)
		from = ((const struct sockaddr_in *)a)->sin_addr.s_addr;
	else if (a->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(in6))
		memcpy(&from, &in6->s6_addr[12], 4);
	else if (a->sa_family == AF_INET6)
		memcpy(&from, in6->s6_addr, sizeof(from));
	return from;
}

void dial_text(char *buf, size_t cap, const struct sockaddr *a)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)a;
	struct sockaddr_in mapped = { .sin_family = AF_INET };
	char host[NI_MAXHOST], port[NI_MAXSERV];

	*buf = 0;
	if (a->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
		memcpy(&mapped.sin_addr, &in6->sin6_addr.s6_addr[12], 4);
		mapped.sin_port = in6->sin6_port;
		a = (const struct sockaddr *)&mapped;
	}
	if ((a->sa_family == AF_INET || a->sa_family == AF_INET6) &&
	    !getnameinfo(a, a->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(*in6), host,
			 sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(buf, cap, a->sa_family == AF_INET ? "%s:%s" : "[%s]:%s", host, port);
}

void dial_put_last(const struct xport_param *p, unsigned addr)
{
	struct xport_addrs *a = p->addrs ? *p->addrs : NULL;
	struct dial_addr bad;

	if (!a)
		return;
	bad = a->a[addr];
	memmove(&a->a[addr], &a->a[addr + 1], (a->n - addr - 1) * sizeof(bad));
	a->a[a->n - 1] = bad;
}

void xport_addrs_free(struct xport_addrs *a)
{
	free(a);
}

void dial_start(struct dial *d, unsigned first, unsigned n, uint64_t now)
{
	unsigned i;

	*d = (struct dial){ .first = first, .n = n };
	for (i = 0; i < n; i++)
		d->due_us[i] = now + i * (uint64_t)DIAL_STAGGER_US;
}

/* Schedule the untried addresses one after another, beginning at `at`. */
static void bring_forward(struct dial *d, uint64_t at)
{
	unsigned i;

	for (i = 0; i < d->n; i++) {
		if (d->state[i] != DIAL_UNTRIED)
			continue;
		d->due_us[i] = at;
		at += DIAL_STAGGER_US;
	}
}

int dial_next(struct dial *d, uint64_t now)
{
	unsigned i, at = 0;

	for (i = 1; i < d->n; i++)
		if (d->due_us[i] < d->due_us[at])
			at = i;
	if (!d->n || d->due_us[at] > now)
		return -1;
	d->due_us[at] = now + DIAL_AGAIN_US;
	if (d->state[at] == DIAL_UNTRIED) {
		d->state[at] = DIAL_TRIED;
		bring_forward(d, now + DIAL_STAGGER_US);
	}
	d->state[at] = DIAL_TRIED;
	return (int)(d->first + at);
}

/*
 * How informative an error is. A refusal proves that the host is there; a family that this host cannot use
 * says least.
 */
static int weight(int err)
{
	switch (err) {
	case -ECONNREFUSED:
		return 3;
	case 0:
		return 0;
	case -EINVAL:
	case -EAFNOSUPPORT:
	case -EADDRNOTAVAIL:
		return 1;
	default:
		return 2;
	}
}

void dial_failed(struct dial *d, unsigned addr, int err, uint64_t now)
{
	d->state[addr - d->first] = DIAL_FAILED;
	d->due_us[addr - d->first] = now + DIAL_RETRY_US;
	if (weight(err) >= weight(d->err))
		d->err = err;
	bring_forward(d, now);
}

bool dial_over(const struct dial *d)
{
	unsigned i;

	for (i = 0; i < d->n; i++)
		if (d->state[i] != DIAL_FAILED)
			return false;
	return true;
}

uint64_t dial_due(const struct dial *d)
{
	uint64_t due = UINT64_MAX;
	unsigned i;

	for (i = 0; i < d->n; i++)
		if (d->due_us[i] < due)
			due = d->due_us[i];
	return due;
}

int dial_poll(struct pollfd *p, nfds_t n, uint64_t deadline, const struct xport_param *param)
{
	uint64_t now = now_us();

	p[n] = (struct pollfd){ .fd = param->woken ? param->wake_fd : -1, .events = POLLIN };
	if (poll(p, n + 1, now < deadline ? xp_poll_ms(deadline - now) : 0) < 0)
		for (nfds_t i = 0; i <= n; i++)
			p[i].revents = 0;
	return p[n].revents ? param->woken(param->woken_arg) : 0;
}
