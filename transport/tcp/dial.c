// SPDX-License-Identifier: MIT
/*
 * The connecting end of tcp: all sockets of a link are in flight at once, in one poll() loop.
 *
 * The control connection decides which address of the host is used, and the other connections follow it
 * there. If the host has only one address, nothing waits for that, and a link costs two round trips: one for
 * all SYNs, one for all preambles and answers. A *try* is a socket that is connecting. A connection may have
 * several tries, to several addresses or begun at several times (dial.h); the first that comes up is the
 * connection. Only that one sends a preamble, so the peer never sees a connection twice. The first address to
 * come up need not be a target's: if no target answers there, the next attempt tries that address last.
 *
 * Once any connection is up, the peer is there. If nothing then moves for STILL_US and STILL_RTTS round
 * trips, the attempt is given up, whatever time is left: the kernel repeats a preamble that the network lost
 * at growing intervals, but a new attempt gets through as soon as the network is back.
 */
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "transport/dial.h"

#define CONNS_MAX (XPORT_CHANNELS_MAX + 2)
#define TRIES_MAX 64u
#define STILL_US 1000000u
#define STILL_RTTS 8u /* a segment may be lost twice: the kernel waits 3 round trips, then 6 */

struct conn {
	int fd; /* -1: not up yet */
	struct dial dial;
	struct tcp_answer answer;
	size_t got;
};

struct
try {
	int fd;
	unsigned conn, addr;
	uint64_t since_us;
};

struct dialer {
	const struct uri *u;
	const struct xport_link_id *id;
	const struct xport_param *param;
	struct fail *f;
	uint64_t deadline, attempt;
	struct xport_addrs addrs;
	unsigned at; /* the address where the control connection came up */
	unsigned nconns, up, answered;
	struct conn conn[CONNS_MAX];
	struct try try[TRIES_MAX];
	unsigned ntry;
	uint64_t moved_us, rtt_us; /* last time a connection came up or was answered; fastest handshake */
};

static void preamble_of(struct tcp_preamble *p, const struct xport_link_id *id, uint64_t attempt,
			unsigned conn)
{
	*p = (struct tcp_preamble){
		.magic = htole32(TCP_MAGIC_PREAMBLE),
		.version = htole32(TCP_WIRE_VERSION),
		.role = htole32(conn == 0	       ? TCP_ROLE_CONTROL
				: conn <= id->channels ? TCP_ROLE_DATA
						       : TCP_ROLE_URGENT),
		.index = htole32(conn && conn <= id->channels ? conn - 1 : 0),
		.channels = htole32(id->channels),
		.generation = htole32(id->generation),
		.attempt = attempt,
	};
	memcpy(p->session, id->session, sizeof(p->session));
}

/* A wrong answer is final if the host has one address; otherwise -ECONNREFUSED permits another attempt. */
static int answer_error(const struct tcp_answer *a, unsigned naddrs, const struct uri *u, struct fail *f)
{
	if (le32toh(a->magic) != TCP_MAGIC_ANSWER)
		return fail(f, naddrs > 1 ? -ECONNREFUSED : -EPROTO,
			    "tcp:%s:%u answers, but not as a migration target does; is it the right port?",
			    u->host, u->port);
	switch (le32toh(a->code)) {
	case TCP_ANSWER_OK:
		if (a->accepts)
			return fail(f, -EPROTO, "tcp:%s:%u accepts %#x, which was not offered", u->host,
				    u->port, le32toh(a->accepts));
		return 0;
	case TCP_ANSWER_VERSION:
		return fail(f, -EPROTO,
			    "tcp:%s:%u speaks version %u of the transport, this end version %u; use one "
			    "version of the library at both ends",
			    u->host, u->port, le32toh(a->version), TCP_WIRE_VERSION);
	case TCP_ANSWER_BUSY:
		return fail(f, -ECONNREFUSED,
			    "tcp:%s:%u has too many half-open connections; something else connects to it",
			    u->host, u->port);
	case TCP_ANSWER_TAKEN:
		return fail(f, -EBUSY, "tcp:%s:%u is busy with another migration", u->host, u->port);
	default:
		return fail(f, -EPROTO, "tcp:%s:%u refused the connection as malformed (code %u)", u->host,
			    u->port, le32toh(a->code));
	}
}

/* Whether err means that this host cannot make a socket, whatever the address. */
static bool is_local(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

static int cannot(struct dialer *d, int err)
{
	return fail_cure(d->f, CURE_CONNECT, err, "cannot connect to tcp:%s:%u", d->u->host, d->u->port);
}

static bool is_trying(const struct dialer *d, unsigned conn)
{
	unsigned i;

	for (i = 0; i < d->ntry; i++)
		if (d->try[i].conn == conn)
			return true;
	return false;
}

static void drop_try(struct dialer *d, unsigned i)
{
	close(d->try[i].fd);
	d->try[i] = d->try[--d->ntry];
}

static void drop_tries(struct dialer *d, unsigned conn)
{
	unsigned i = 0;

	while (i < d->ntry)
		if (d->try[i].conn == conn)
			drop_try(d, i);
		else
			i++;
}

static void make_place(struct dialer *d)
{
	unsigned i, oldest = 0;

	for (i = 1; i < d->ntry; i++)
		if (d->try[i].since_us < d->try[oldest].since_us)
			oldest = i;
	if (d->ntry == TRIES_MAX)
		drop_try(d, oldest);
}

/* A try has come up and becomes the connection; the control connection sets the address for the others. */
static int win(struct dialer *d, const struct try *t, uint64_t now)
{
	struct conn *c = &d->conn[t->conn];
	struct tcp_preamble pre;
	unsigned i;

	c->fd = t->fd;
	d->up++;
	d->moved_us = now;
	if (d->up == 1 || now - t->since_us < d->rtt_us)
		d->rtt_us = now - t->since_us;
	drop_tries(d, t->conn);
	if (!t->conn)
		d->at = t->addr;
	for (i = 1; !t->conn && d->addrs.n > 1 && i < d->nconns; i++)
		dial_start(&d->conn[i].dial, t->addr, 1, now);
	preamble_of(&pre, d->id, d->attempt, t->conn);
	if (send(c->fd, &pre, sizeof(pre), MSG_NOSIGNAL) != (ssize_t)sizeof(pre))
		return fail(d->f, -ECONNREFUSED, "tcp:%s:%u closed the connection at once", d->u->host,
			    d->u->port);
	return 0;
}

static int begin_try(struct dialer *d, unsigned conn, unsigned addr, uint64_t now)
{
	const struct dial_addr *a = &d->addrs.a[addr];
	struct try t = { .conn = conn, .addr = addr, .since_us = now };
	int err;

	t.fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	err = t.fd < 0 ? -errno : 0;
	if (is_local(err))
		return is_trying(d, conn) ? 0 : cannot(d, err);
	if (!err) {
		err = tcp_sock_tune(t.fd, d->u, d->f);
		if (err) {
			close(t.fd);
			return err;
		}
		if (connect(t.fd, (const struct sockaddr *)&a->sa, a->len) < 0)
			err = -errno;
		if (!err)
			return win(d, &t, now);
	}
	if (err == -EINPROGRESS) {
		make_place(d);
		d->try[d->ntry++] = t;
		return 0;
	}
	if (t.fd >= 0)
		close(t.fd);
	dial_failed(&d->conn[conn].dial, addr, err, now);
	return 0;
}

/* Handle a try that poll() has reported. */
static int end_try(struct dialer *d, unsigned i, uint64_t now)
{
	struct try t = d->try[i];
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(t.fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	if (err) {
		drop_try(d, i);
		dial_failed(&d->conn[t.conn].dial, t.addr, -err, now);
		return 0;
	}
	d->try[i] = d->try[--d->ntry];
	return win(d, &t, now);
}

/* Begin the tries that are due. The attempt ends if a connection has nothing left to try. */
static int begin_tries(struct dialer *d, uint64_t now)
{
	unsigned i;
	int addr, err = 0;

	for (i = 0; i < d->nconns && !err; i++) {
		struct conn *c = &d->conn[i];

		while (!err && c->fd < 0 && (addr = dial_next(&c->dial, now)) >= 0)
			err = begin_try(d, i, (unsigned)addr, now);
		if (!err && c->fd < 0 && c->dial.n && dial_over(&c->dial) && !is_trying(d, i))
			err = cannot(d, c->dial.err);
	}
	return err;
}

static int read_answer(struct dialer *d, struct conn *c, uint64_t now)
{
	ssize_t n;
	int err;

	n = recv(c->fd, (char *)&c->answer + c->got, sizeof(c->answer) - c->got, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return fail(d->f, -ECONNREFUSED, "tcp:%s:%u closed the connection before it answered",
			    d->u->host, d->u->port);
	c->got += (size_t)n;
	if (c->got < sizeof(c->answer))
		return 0;
	err = answer_error(&c->answer, d->addrs.n, d->u, d->f);
	d->answered += !err;
	d->moved_us = now;
	return err;
}

static uint64_t still_at(const struct dialer *d)
{
	return d->up ? deadline_after(d->moved_us, STILL_US + STILL_RTTS * d->rtt_us) : UINT64_MAX;
}

static int check_time(struct dialer *d, uint64_t now)
{
	if (now < d->deadline && now < still_at(d))
		return 0;
	if (!d->up)
		return cannot(d, -ETIMEDOUT);
	return fail(d->f, -ETIMEDOUT,
		    "tcp:%s:%u did not answer in time: of %u connections %u came up and %u were answered; is "
		    "the target busy, or the network losing packets?",
		    d->u->host, d->u->port, d->nconns, d->up, d->answered);
}

/* Wait for an event or for the next try's time, and handle the events. */
static int await(struct dialer *d)
{
	struct pollfd p[TRIES_MAX + CONNS_MAX + 1];
	unsigned i, ntry = d->ntry, at[CONNS_MAX], n = 0;
	uint64_t now, until = d->deadline < still_at(d) ? d->deadline : still_at(d);
	int err;

	for (i = 0; i < ntry; i++)
		p[i] = (struct pollfd){ .fd = d->try[i].fd, .events = POLLOUT };
	for (i = 0; i < d->nconns; i++) {
		struct conn *c = &d->conn[i];

		if (c->fd < 0 && dial_due(&c->dial) < until)
			until = dial_due(&c->dial);
		if (c->fd < 0 || c->got == sizeof(c->answer))
			continue;
		p[ntry + n] = (struct pollfd){ .fd = c->fd, .events = POLLIN };
		at[n++] = i;
	}
	err = dial_poll(p, ntry + n, until, d->param);
	now = now_us();
	for (i = 0; i < n && !err; i++)
		if (p[ntry + i].revents)
			err = read_answer(d, &d->conn[at[i]], now);
	/* Backwards: drop_try() fills the gap with the last try. win() drops rivals, so compare the fds. */
	for (i = ntry; i-- > 0 && !err;)
		if (p[i].revents && i < d->ntry && d->try[i].fd == p[i].fd)
			err = end_try(d, i, now);
	return err;
}

static int dial_all(struct dialer *d)
{
	uint64_t now = now_us();
	unsigned i;
	int err = 0;

	/* With several addresses, the others start when the control connection is up. */
	for (i = 0; i < d->nconns; i++) {
		d->conn[i].fd = -1;
		dial_start(&d->conn[i].dial, 0, !i || d->addrs.n == 1 ? d->addrs.n : 0, now);
	}
	while (!err && d->answered < d->nconns) {
		now = now_us();
		err = begin_tries(d, now);
		if (!err)
			err = check_time(d, now);
		if (!err)
			err = await(d);
	}
	return err;
}

int tcp_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		const struct xport_param *p, uint64_t wait_us, struct fail *f)
{
	struct dialer d = { .u = u,
			    .id = id,
			    .param = p,
			    .f = f,
			    .deadline = deadline_after(now_us(), wait_us),
			    .nconns = id->channels + 2 };
	int fds[CONNS_MAX], err;
	unsigned i;

	err = dial_addrs(&d.addrs, u, p, f);
	if (err)
		return err;
	if (getrandom(&d.attempt, sizeof(d.attempt), 0) != (ssize_t)sizeof(d.attempt))
		return fail_cure(f, CURE_CALL, -errno, "the kernel gives no random bytes for a connection");
	err = dial_all(&d);
	while (d.ntry)
		drop_try(&d, 0);
	if (err && d.addrs.n > 1 && d.up && !d.answered)
		dial_put_last(p, d.at);
	for (i = 0; i < d.nconns; i++) {
		fds[i] = d.conn[i].fd;
		if (err && fds[i] >= 0)
			close(fds[i]);
	}
	return err ? err : tcp_link_new(ret, id, fds, p, f);
}
