// SPDX-License-Identifier: MIT
/*
 * The connecting end of rdma. All connections of a link are in flight at once: addresses, routes, requests.
 * The accepting end answers no request before it has all of them, so the address must be chosen before:
 * knock.c.
 *
 * The connection manager repeats a lost request only after 4 s. So if nothing happens for STILL_US, the
 * attempt is given up, whatever time is left; a new attempt gets through as soon as the network is back.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "rdma_dial.h"
#include "runtime/base/fail.h"

#define STILL_US 2000000u /* covers a long path, and both devices making all queue pairs */

struct rdma_cm_event *xr_event(struct rdma_event_channel *ch)
{
	struct rdma_cm_event *ev;

	while (rdma_get_cm_event(ch, &ev))
		if (errno != EINTR)
			return NULL;
	return ev;
}

int xr_next_event(struct rdma_cm_event **ret, struct rdma_event_channel *ch, uint64_t until,
		  const struct xr_dialer *d)
{
	int err;

	for (;;) {
		struct pollfd p[2] = { { .fd = ch->fd, .events = POLLIN } };

		*ret = xr_event(ch);
		err = *ret ? 0 : -errno;
		if (err && err != -EAGAIN)
			return fail_cure(d->f, CURE_CALL, err, "rdma:%s:%u: rdma_get_cm_event", d->u->host,
					 d->u->port);
		if (!err || now_us() >= until)
			return 0;
		err = dial_poll(p, 1, until, d->param);
		if (err)
			return err;
	}
}

static int no_device(const struct uri *u, struct fail *f)
{
	return fail(f, -EADDRNOTAVAIL,
		    "the route to rdma:%s:%u leads through no RDMA device; give an address of an RDMA "
		    "network, or dev=NAME",
		    u->host, u->port);
}

int xr_address_errno(const struct rdma_cm_event *ev)
{
	return ev->status < 0 ? ev->status : -EHOSTUNREACH;
}

/* fail() with a sentence and, where a retry may succeed, an errno after which the runtime retries. */
static int address_error(const struct rdma_cm_event *ev, const struct uri *u, struct fail *f)
{
	int err = xr_address_errno(ev);

	if (err == -ENODEV)
		return no_device(u, f);
	return fail(f, err, "rdma:%s:%u cannot be reached (%s): %s", u->host, u->port,
		    rdma_event_str(ev->event), strerror(-err));
}

static unsigned left_ms(uint64_t deadline)
{
	uint64_t now = now_us();

	return now < deadline ? (unsigned)xp_poll_ms(deadline - now) + 1 : 1;
}

int xr_begin(struct rdma_cm_id **ret, struct rdma_event_channel *ch, void *context,
	     const struct dial_addr *to, const struct xr_dialer *d)
{
	struct sockaddr_storage src, dst = to->sa;
	const struct uri *u = d->u;
	int err;

	if (rdma_create_id(ch, ret, context, RDMA_PS_TCP))
		return fail(d->f, -errno, "rdma: no connection manager here (%s); load rdma_ucm",
			    strerror(errno));
	err = d->opt.dev[0] ? xr_source_addr(&src, &d->opt, (struct sockaddr *)&dst, d->f) : 0;
	if (err)
		return err;
	if (rdma_resolve_addr(*ret, d->opt.dev[0] ? (struct sockaddr *)&src : NULL, (struct sockaddr *)&dst,
			      (int)left_ms(d->deadline)))
		return errno == ENODEV || errno == EADDRNOTAVAIL
			       ? no_device(u, d->f)
			       : fail(d->f, -errno, "rdma:%s:%u cannot be reached: %s", u->host, u->port,
				      strerror(errno));
	return 0;
}

int xr_route(struct rdma_cm_id *id, const struct xr_dialer *d)
{
	if (!rdma_resolve_route(id, (int)left_ms(d->deadline)))
		return 0;
	return errno == ENODEV ? no_device(d->u, d->f)
			       : fail(d->f, -errno, "rdma:%s:%u: no route: %s", d->u->host, d->u->port,
				      strerror(errno));
}

/* The next event, but at most STILL_US from now: 0, or the error. what: the sentence's verb. */
static int hear(struct rdma_cm_event **ret, struct xr_link *l, const struct xr_dialer *d, const char *what)
{
	uint64_t still = deadline_after(now_us(), STILL_US);
	int err = xr_next_event(ret, l->events, still < d->deadline ? still : d->deadline, d);

	if (err || *ret)
		return err;
	return fail(d->f, -ETIMEDOUT, "rdma:%s:%u %s in time", d->u->host, d->u->port, what);
}

/* Resolve addresses and routes of all connections. */
static int resolve_all(struct xr_link *l, const struct dial_addr *to, const struct xr_dialer *d)
{
	struct rdma_cm_event *ev;
	unsigned i, routed = 0;
	int err = 0;

	for (i = 0; i < l->nconns && !err; i++)
		err = xr_begin(&l->conn[i].id, l->events, &l->conn[i], to, d);
	while (!err && routed < l->nconns) {
		err = hear(&ev, l, d, "was not resolved to an address and a route");
		if (err)
			break;
		if (ev->event == RDMA_CM_EVENT_ADDR_RESOLVED)
			err = xr_route(ev->id, d);
		else if (ev->event == RDMA_CM_EVENT_ROUTE_RESOLVED)
			routed++;
		else
			err = address_error(ev, d->u, d->f);
		rdma_ack_cm_event(ev);
	}
	return err;
}

static void preamble_of(struct rdma_preamble *p, const struct xr_link *l, uint64_t attempt, unsigned i)
{
	const struct xport_link_id *id = &l->link.id;

	*p = (struct rdma_preamble){
		.magic = htole32(RDMA_MAGIC_PREAMBLE),
		.version = htole32(RDMA_WIRE_VERSION),
		.role = i == 0		    ? RDMA_ROLE_CONTROL
			: i <= id->channels ? RDMA_ROLE_DATA
					    : RDMA_ROLE_URGENT,
		.index = (uint8_t)(i && i <= id->channels ? i - 1 : 0),
		.channels = (uint8_t)id->channels,
		.mtu = l->opt.mtu,
		.generation = htole32(id->generation),
		.attempt = attempt,
		.board = htole64((uintptr_t)xr_board(l)),
		.board_key = htole32(l->board_mr->rkey),
	};
	memcpy(p->session, id->session, sizeof(p->session));
}

static int ask_all(struct xr_link *l, const struct dial_addr *to, const struct xr_dialer *d)
{
	const struct uri *u = d->u;
	struct rdma_conn_param param;
	struct rdma_preamble pre;
	uint64_t attempt;
	unsigned i;
	int err;

	if (getrandom(&attempt, sizeof(attempt), 0) != (ssize_t)sizeof(attempt))
		return fail(d->f, -EIO, "rdma: no random number for an attempt: %s", strerror(errno));
	err = resolve_all(l, to, d);
	for (i = 1; i < l->nconns && !err; i++)
		if (l->conn[i].id->verbs != l->conn[0].id->verbs)
			err = fail(l->link.fail, -ENODEV, "rdma:%s:%u is reached through two devices at once",
				   u->host, u->port);
	if (!err)
		err = xr_link_device(l);
	if (err == -ENOTCONN)
		err = fail(l->link.fail, -ECONNREFUSED, "rdma:%s:%u: the connection went in the middle",
			   u->host, u->port);
	for (i = 0; i < l->nconns && !err; i++) {
		xr_conn_param(&param, &l->conn[i], 255, 255);
		preamble_of(&pre, l, attempt, i);
		param.private_data = &pre;
		param.private_data_len = sizeof(pre);
		if (rdma_connect(l->conn[i].id, &param))
			err = fail(l->link.fail, -errno, "cannot connect to rdma:%s:%u: %s", u->host, u->port,
				   strerror(errno));
	}
	return err;
}

static int answer_error(const struct rdma_answer *a, const struct uri *u, struct fail *f)
{
	if (le32toh(a->magic) != RDMA_MAGIC_ANSWER)
		return fail(f, -EPROTO, "rdma:%s:%u answers, but not as a migration target does", u->host,
			    u->port);
	switch (le32toh(a->code)) {
	case RDMA_ANSWER_OK:
		if (a->accepts)
			return fail(f, -EPROTO, "rdma:%s:%u accepts %#x, which was not offered", u->host,
				    u->port, le32toh(a->accepts));
		return 0;
	case RDMA_ANSWER_VERSION:
		return fail(f, -EPROTO, "rdma:%s:%u speaks version %u of the transport, this end version %u",
			    u->host, u->port, le32toh(a->version), RDMA_WIRE_VERSION);
	case RDMA_ANSWER_BUSY:
		return fail(f, -ECONNREFUSED, "rdma:%s:%u has too many half-open connections", u->host,
			    u->port);
	case RDMA_ANSWER_TAKEN:
		return fail(f, -EBUSY, "rdma:%s:%u is busy with another migration", u->host, u->port);
	case RDMA_ANSWER_LATE:
		return fail(f, -ECONNREFUSED, "rdma:%s:%u did not see all connections of the link in time",
			    u->host, u->port);
	default:
		return fail(f, -EPROTO, "rdma:%s:%u refused the connection as malformed (code %u)", u->host,
			    u->port, le32toh(a->code));
	}
}

static int refused(const struct rdma_cm_event *ev, const struct uri *u, struct fail *f)
{
	const struct rdma_conn_param *p = &ev->param.conn;
	struct rdma_answer a;

	if (ev->event == RDMA_CM_EVENT_REJECTED && ev->status == XR_REJ_CONSUMER &&
	    p->private_data_len >= sizeof(a)) {
		memcpy(&a, p->private_data, sizeof(a));
		/* All zeros: the connection manager refuses; the port is bound at another address. */
		if (a.magic && answer_error(&a, u, f))
			return fail_err(f);
	}
	if (ev->event == RDMA_CM_EVENT_REJECTED)
		return fail(f, -ECONNREFUSED, "cannot connect to rdma:%s:%u: %s (reason %d)", u->host,
			    u->port,
			    ev->status == XR_REJ_NO_LISTENER ? "nobody listens there"
							     : "the other end refused",
			    ev->status);
	return fail(f, ev->event == RDMA_CM_EVENT_UNREACHABLE ? -ETIMEDOUT : -ECONNREFUSED,
		    "cannot connect to rdma:%s:%u: %s (%d)", u->host, u->port, rdma_event_str(ev->event),
		    ev->status);
}

/* Handle one answer: the connection is up, or the error. */
static int answered(struct xr_link *l, const struct rdma_cm_event *ev, const struct uri *u)
{
	struct xr_conn *c = ev->id->context;
	struct rdma_answer a;
	int err;

	if (ev->event != RDMA_CM_EVENT_CONNECT_RESPONSE)
		return refused(ev, u, l->link.fail);
	if (ev->param.conn.private_data_len < sizeof(a))
		return fail(l->link.fail, -EPROTO, "rdma:%s:%u answers, but not as a migration target does",
			    u->host, u->port);
	memcpy(&a, ev->param.conn.private_data, sizeof(a));
	err = answer_error(&a, u, l->link.fail);
	if (!err && (le32toh(a.mtu) < IBV_MTU_256 || le32toh(a.mtu) > l->opt.mtu))
		err = fail(l->link.fail, -EPROTO, "rdma:%s:%u answers with MTU code %u; 1 to %u were offered",
			   u->host, u->port, le32toh(a.mtu), l->opt.mtu);
	if (err)
		return err;
	c->board = le64toh(a.board);
	c->board_key = le32toh(a.board_key);
	/* This fails only if the peer has gone meanwhile. */
	if (xr_conn_ready(c, le32toh(a.mtu), NULL) || rdma_establish(c->id))
		err = fail(l->link.fail, -ECONNREFUSED, "rdma:%s:%u: the connection went in the middle",
			   u->host, u->port);
	c->cm_established = !err;
	atomic_store(&c->established, !err);
	return err;
}

static int hear_all(struct xr_link *l, const struct xr_dialer *d)
{
	struct rdma_cm_event *ev;
	unsigned up;
	int err = 0;

	for (up = 0; up < l->nconns && !err; up++) {
		err = hear(&ev, l, d, "did not answer");
		if (err)
			break;
		err = answered(l, ev, d->u);
		rdma_ack_cm_event(ev);
	}
	return err;
}

struct rdma_event_channel *xr_channel(struct fail *f)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	int err = ch ? xr_nonblock(ch->fd) : -errno;

	if (!err)
		return ch;
	if (ch)
		rdma_destroy_event_channel(ch);
	fail(f, -EOPNOTSUPP, "rdma: no connection manager here (%s); load the modules rdma_ucm and ib_uverbs",
	     strerror(-err));
	return NULL;
}

/* Connect to one address. On failure the link is freed and f has the sentence. */
static int connect_to(struct xport_link **ret, const struct dial_addr *to, const struct xport_link_id *id,
		      const struct xr_dialer *d)
{
	struct rdma_event_channel *ch = xr_channel(d->f);
	struct xr_link *l;
	int err;

	if (!ch)
		return -EOPNOTSUPP;
	err = xr_link_new(&l, id, ch, &d->opt, d->param, d->f);
	if (err)
		return err;
	err = ask_all(l, to, d);
	if (!err)
		err = hear_all(l, d);
	if (!err)
		err = xr_link_start(l);
	if (err) {
		xr_link_free(l);
		return err;
	}
	*ret = &l->link;
	return 0;
}

int xr_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
	       const struct xport_param *p, uint64_t wait_us, struct fail *f)
{
	struct xr_dialer d = { .u = u, .param = p, .f = f, .deadline = deadline_after(now_us(), wait_us) };
	unsigned at = 0;
	int err;

	err = xr_options(&d.opt, u, f);
	if (!err)
		err = dial_addrs(&d.addrs, u, p, f);
	if (!err && d.addrs.n > 1)
		err = xr_knock(&at, &d);
	return err ? err : connect_to(ret, &d.addrs.a[at], id, &d);
}
