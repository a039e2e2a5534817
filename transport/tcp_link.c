// SPDX-License-Identifier: MIT
/* The link object, and how the connecting end makes one. */
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../runtime/fail.h"
#include "tcp.h"

#define CONNS_MAX (XPORT_CHANNELS_MAX + 2)

static struct tcp_link *link_of(struct xport_link *l)
{
	return (struct tcp_link *)l;
}

static int link_expose(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access)
{
	return xp_table_set(&link_of(l)->table, r, n, access);
}

/* The kernel copies: any memory will do. */
static int link_lend(struct xport_link *l, const struct iovec *mem, size_t n)
{
	(void)l;
	(void)mem;
	(void)n;
	return 0;
}

static int link_fits(struct xport_link *l, uint64_t bytes)
{
	(void)l;
	(void)bytes;
	return 0;
}

static struct xport_chan *link_chan(struct xport_link *xl, enum xport_role role, unsigned index)
{
	struct tcp_link *l = link_of(xl);

	switch (role) {
	case XPORT_CONTROL:
		return &l->ctl->chan;
	case XPORT_DATA:
		return index < xl->id.channels ? &l->data[index]->chan : NULL;
	case XPORT_URGENT:
		return &l->data[xl->id.channels]->chan;
	}
	return NULL;
}

static void link_kill(struct xport_link *xl)
{
	struct tcp_link *l = link_of(xl);
	unsigned i;

	atomic_store(&l->killed, true);
	shutdown(l->ctl->fd, SHUT_RDWR);
	for (i = 0; i <= xl->id.channels; i++)
		shutdown(l->data[i]->fd, SHUT_RDWR);
}

static void link_free(struct tcp_link *l)
{
	unsigned i;

	for (i = 0; i <= XPORT_CHANNELS_MAX; i++)
		tcp_data_free(l->data[i]);
	if (l->ctl)
		close(l->ctl->fd);
	free(l->ctl);
	xp_table_clear(&l->table);
	free(l);
}

static void link_close(struct xport_link *xl)
{
	link_free(link_of(xl));
}

static const struct xport_link_ops link_ops = {
	.expose = link_expose,
	.lend = link_lend,
	.fits = link_fits,
	.chan = link_chan,
	.kill = link_kill,
	.close = link_close,
};

int tcp_link_new(struct xport_link **ret, const struct xport_link_id *id, const int *fds,
		 const struct xport_param *p, struct fail *f)
{
	struct tcp_link *l = calloc(1, sizeof(*l));
	unsigned i, taken = 0;
	int err = -ENOMEM;

	if (!l)
		goto out;
	/* kill() may not fail: whoever is blocked on a connection is woken by it. */
	if (shutdown(-1, SHUT_RDWR) < 0 && errno != EBADF) {
		err = fail_cure(f, CURE_CALL, -errno, "tcp: shutdown");
		goto out;
	}
	l->link = (struct xport_link){ .ops = &link_ops, .id = *id, .fail = f };
	l->param = *p;
	err = tcp_ctl_new(&l->ctl, l, fds[0]);
	if (err)
		goto out;
	taken = 1;
	for (i = 0; i <= id->channels; i++) {
		err = tcp_data_new(&l->data[i], l, fds[1 + i], i == id->channels);
		if (err)
			goto out;
		taken++;
	}
	*ret = &l->link;
	return 0;
out:
	for (i = taken; i < id->channels + 2; i++)
		close(fds[i]);
	if (l)
		link_free(l);
	return err == -ENOMEM ? fail(f, err, "tcp: no memory for a link of %u channels", id->channels) : err;
}

/* One connection by the deadline; the socket, or -errno without a sentence (the next address may do). */
static int connect_one(const struct addrinfo *ai, const struct uri *u, uint64_t deadline, struct fail *f)
{
	int fd, err = 0;
	socklen_t len = sizeof(err);
	uint64_t now;

	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	err = -tcp_sock_tune(fd, u, f);
	if (!err && connect(fd, ai->ai_addr, ai->ai_addrlen) < 0)
		err = errno;
	if (err == EINPROGRESS) {
		now = xp_now_us();
		err = -tcp_poll(fd, POLLOUT, deadline > now ? deadline - now : 0);
		if (err == EAGAIN)
			err = ETIMEDOUT;
		else if (!err && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
			err = errno;
	}
	if (!err)
		return fd;
	close(fd);
	return -err;
}

static void preamble_of(struct tcp_preamble *p, const struct xport_link_id *id, uint64_t attempt, unsigned conn)
{
	*p = (struct tcp_preamble){
		.magic = htole32(TCP_MAGIC_PREAMBLE),
		.version = htole32(TCP_WIRE_VERSION),
		.role = htole32(conn == 0 ? TCP_ROLE_CONTROL :
				conn <= id->channels ? TCP_ROLE_DATA : TCP_ROLE_URGENT),
		.index = htole32(conn && conn <= id->channels ? conn - 1 : 0),
		.channels = htole32(id->channels),
		.generation = htole32(id->generation),
		.attempt = attempt,
	};
	memcpy(p->session, id->session, sizeof(p->session));
}

static int answer_error(const struct tcp_answer *a, const struct uri *u, struct fail *f)
{
	if (le32toh(a->magic) != TCP_MAGIC_ANSWER)
		return fail(f, -EPROTO, "tcp:%s:%u answers, but not as a migration target does; is it the right port?", u->host, u->port);
	switch (le32toh(a->code)) {
	case TCP_ANSWER_OK:
		return 0;
	case TCP_ANSWER_VERSION:
		return fail(f, -EPROTO, "tcp:%s:%u speaks version %u of the transport, this end version %u; use one "
			    "version of the library at both ends", u->host,
			    u->port, le32toh(a->version), TCP_WIRE_VERSION);
	case TCP_ANSWER_BUSY:
		return fail(f, -ECONNREFUSED, "tcp:%s:%u has too many half-open connections; something else connects to it", u->host, u->port);
	default:
		return fail(f, -EPROTO, "tcp:%s:%u refused the connection as malformed (code %u)", u->host, u->port,
			    le32toh(a->code));
	}
}

static int read_answer(int fd, const struct uri *u, uint64_t deadline, struct fail *f)
{
	struct tcp_answer a;
	size_t got = 0;
	uint64_t now;
	ssize_t n;
	int err;

	while (got < sizeof(a)) {
		n = recv(fd, (char *)&a + got, sizeof(a) - got, MSG_DONTWAIT);
		if (n > 0) {
			got += (size_t)n;
			continue;
		}
		if (!n || (errno != EAGAIN && errno != EINTR))
			return fail(f, -ECONNREFUSED, "tcp:%s:%u closed the connection before it answered", u->host,
				    u->port);
		now = xp_now_us();
		err = tcp_poll(fd, POLLIN, deadline > now ? deadline - now : 0);
		if (err)
			return fail(f, err == -EAGAIN ? -ETIMEDOUT : err, "tcp:%s:%u did not answer in time", u->host,
				    u->port);
	}
	return answer_error(&a, u, f);
}

/* All connections to one address, then all answers: the peer sees them at once. */
static int connect_all(int *fds, unsigned *opened, const struct addrinfo *ai, const struct xport_link_id *id,
		       const struct uri *u, uint64_t deadline, struct fail *f)
{
	unsigned i, conns = id->channels + 2;
	struct tcp_preamble pre;
	uint64_t attempt;
	int err;

	if (getrandom(&attempt, sizeof(attempt), 0) != (ssize_t)sizeof(attempt))
		return fail_cure(f, CURE_CALL, -errno, "the kernel gives no random bytes for a connection");
	for (i = 0; i < conns; i++) {
		fds[i] = connect_one(ai, u, deadline, f);
		if (fds[i] < 0)
			return fds[i];
		*opened = i + 1;
		preamble_of(&pre, id, attempt, i);
		if (send(fds[i], &pre, sizeof(pre), MSG_NOSIGNAL) != (ssize_t)sizeof(pre))
			return fail(f, -ECONNREFUSED, "tcp:%s:%u closed the connection at once", u->host, u->port);
	}
	for (i = 0; i < conns; i++) {
		err = read_answer(fds[i], u, deadline, f);
		if (err)
			return err;
	}
	return 0;
}

int tcp_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		const struct xport_param *p, uint64_t wait_us, struct fail *f)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV };
	uint64_t deadline = xp_deadline(xp_now_us(), wait_us);
	struct addrinfo *list, *ai;
	int fds[CONNS_MAX], err;
	unsigned opened = 0;
	char port[8];

	if (!u->host[0] || !u->port)
		return fail(f, -EINVAL, "to connect, tcp: needs a host and a port; \"%s\" and %u were given", u->host,
			    u->port);
	snprintf(port, sizeof(port), "%u", u->port);
	err = getaddrinfo(u->host, port, &hints, &list);
	if (err)
		return fail(f, -EADDRNOTAVAIL, "host \"%s\" cannot be resolved: %s; check the name, or give an address", u->host, gai_strerror(err));
	err = -EADDRNOTAVAIL;
	for (ai = list; ai; ai = ai->ai_next) {
		err = connect_all(fds, &opened, ai, id, u, deadline, f);
		if (!err || opened)
			break; /* somebody is there */
	}
	freeaddrinfo(list);
	if (!err)
		return tcp_link_new(ret, id, fds, p, f);
	while (opened)
		close(fds[--opened]);
	return fail_cure(f, CURE_CONNECT, err, "cannot connect to tcp:%s:%u", u->host, u->port);
}
