// SPDX-License-Identifier: MIT
/*
 * The connecting end. All requests go out before the first answer is waited for: the accepting end answers none
 * until it has all of them.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "../runtime/fail.h"
#include "rdma.h"

#define REJ_NO_LISTENER 8 /* the connection manager's reasons: nobody has this service */
#define REJ_CONSUMER 28	  /* the accepting program said so */

struct rdma_cm_event *xr_event(struct rdma_event_channel *ch, uint64_t deadline)
{
	struct pollfd p = { .fd = ch->fd, .events = POLLIN };
	struct rdma_cm_event *ev;
	uint64_t now;

	for (;;) {
		if (!rdma_get_cm_event(ch, &ev))
			return ev;
		now = deadline ? xp_now_us() : 0;
		if ((errno != EAGAIN && errno != EINTR) || now >= deadline)
			return NULL;
		poll(&p, 1, xp_poll_ms(deadline - now));
	}
}

static int no_device(const struct uri *u, struct fail *f)
{
	return fail(f, -EADDRNOTAVAIL, "the route to rdma:%s:%u leads through no RDMA device; give an address of an RDMA "
		    "network, or dev=NAME", u->host, u->port);
}

/* Every address error has a sentence; what may heal has an errno that the runtime tries again after. */
static int address_error(const struct rdma_cm_event *ev, const struct uri *u, struct fail *f)
{
	int err = ev->status < 0 ? ev->status : -EHOSTUNREACH;

	if (err == -ENODEV)
		return no_device(u, f);
	return fail(f, err, "rdma:%s:%u cannot be reached (%s): %s", u->host, u->port, rdma_event_str(ev->event),
		    strerror(-err));
}

static int expect(struct xr_link *l, enum rdma_cm_event_type want, const struct uri *u, uint64_t deadline)
{
	struct rdma_cm_event *ev = xr_event(l->events, deadline);
	struct fail *f = l->link.fail;
	int err = 0;

	if (!ev)
		return fail(f, -ETIMEDOUT, "rdma:%s:%u: no address was resolved in time", u->host, u->port);
	if (ev->event != want)
		err = address_error(ev, u, f);
	rdma_ack_cm_event(ev);
	return err;
}

static unsigned left_ms(uint64_t deadline)
{
	uint64_t now = xp_now_us();

	return now < deadline ? (unsigned)xp_poll_ms(deadline - now) + 1 : 1;
}

static int resolve(struct xr_link *l, struct xr_conn *c, struct sockaddr *dst, const struct uri *u, uint64_t deadline)
{
	struct sockaddr_storage src;
	struct fail *f = l->link.fail;
	int err;

	if (rdma_create_id(l->events, &c->id, c, RDMA_PS_TCP))
		return fail(f, -errno, "rdma: no connection manager here (%s); load rdma_ucm", strerror(errno));
	err = l->opt.dev[0] ? xr_source_addr(&src, &l->opt, dst, f) : 0;
	if (err)
		return err;
	if (rdma_resolve_addr(c->id, l->opt.dev[0] ? (struct sockaddr *)&src : NULL, dst, (int)left_ms(deadline)))
		return errno == ENODEV || errno == EADDRNOTAVAIL ? no_device(u, f) :
		       fail(f, -errno, "rdma:%s:%u cannot be reached: %s", u->host, u->port, strerror(errno));
	err = expect(l, RDMA_CM_EVENT_ADDR_RESOLVED, u, deadline);
	if (err)
		return err;
	if (rdma_resolve_route(c->id, (int)left_ms(deadline)))
		return errno == ENODEV ? no_device(u, f) :
					 fail(f, -errno, "rdma:%s:%u: no route: %s", u->host, u->port, strerror(errno));
	return expect(l, RDMA_CM_EVENT_ROUTE_RESOLVED, u, deadline);
}

static void preamble_of(struct rdma_preamble *p, const struct xr_link *l, uint64_t attempt, unsigned i)
{
	const struct xport_link_id *id = &l->link.id;

	*p = (struct rdma_preamble){
		.magic = htole32(RDMA_MAGIC_PREAMBLE),
		.version = htole32(RDMA_WIRE_VERSION),
		.role = i == 0 ? RDMA_ROLE_CONTROL : i <= id->channels ? RDMA_ROLE_DATA : RDMA_ROLE_URGENT,
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

static int ask_all(struct xr_link *l, struct sockaddr *dst, const struct uri *u, uint64_t deadline)
{
	struct rdma_conn_param param;
	struct rdma_preamble pre;
	uint64_t attempt;
	unsigned i;
	int err = 0;

	if (getrandom(&attempt, sizeof(attempt), 0) != (ssize_t)sizeof(attempt))
		return -EIO;
	for (i = 0; i < l->nconns && !err; i++)
		err = resolve(l, &l->conn[i], dst, u, deadline);
	for (i = 1; i < l->nconns && !err; i++)
		if (l->conn[i].id->verbs != l->conn[0].id->verbs)
			err = fail(l->link.fail, -ENODEV, "rdma:%s:%u is reached through two devices at once", u->host, u->port);
	if (!err)
		err = xr_link_device(l);
	if (err == -ENOTCONN)
		err = fail(l->link.fail, -ECONNREFUSED, "rdma:%s:%u: the connection went in the middle", u->host, u->port);
	for (i = 0; i < l->nconns && !err; i++) {
		xr_conn_param(&param, &l->conn[i], 255, 255);
		preamble_of(&pre, l, attempt, i);
		param.private_data = &pre;
		param.private_data_len = sizeof(pre);
		if (rdma_connect(l->conn[i].id, &param))
			err = fail(l->link.fail, -errno, "cannot connect to rdma:%s:%u: %s", u->host, u->port, strerror(errno));
	}
	return err;
}

static int answer_error(const struct rdma_answer *a, const struct uri *u, struct fail *f)
{
	if (le32toh(a->magic) != RDMA_MAGIC_ANSWER)
		return fail(f, -EPROTO, "rdma:%s:%u answers, but not as a migration target does", u->host, u->port);
	switch (le32toh(a->code)) {
	case RDMA_ANSWER_OK:
		return 0;
	case RDMA_ANSWER_VERSION:
		return fail(f, -EPROTO, "rdma:%s:%u speaks version %u of the transport, this end version %u", u->host, u->port,
			    le32toh(a->version), RDMA_WIRE_VERSION);
	case RDMA_ANSWER_BUSY:
		return fail(f, -ECONNREFUSED, "rdma:%s:%u has too many half-open connections", u->host, u->port);
	case RDMA_ANSWER_LATE:
		return fail(f, -ECONNREFUSED, "rdma:%s:%u did not see all connections of the link in time", u->host, u->port);
	default:
		return fail(f, -EPROTO, "rdma:%s:%u refused the connection as malformed (code %u)", u->host, u->port,
			    le32toh(a->code));
	}
}

static int refused(const struct rdma_cm_event *ev, const struct uri *u, struct fail *f)
{
	const struct rdma_conn_param *p = &ev->param.conn;
	struct rdma_answer a;

	if (ev->event == RDMA_CM_EVENT_REJECTED && ev->status == REJ_CONSUMER &&
	    p->private_data_len >= sizeof(a)) {
		memcpy(&a, p->private_data, sizeof(a));
		if (answer_error(&a, u, f))
			return fail_err(f);
	}
	if (ev->event == RDMA_CM_EVENT_REJECTED)
		return fail(f, -ECONNREFUSED, "cannot connect to rdma:%s:%u: %s (reason %d)", u->host, u->port,
			    ev->status == REJ_NO_LISTENER ? "nobody listens there" : "the other end refused", ev->status);
	return fail(f, ev->event == RDMA_CM_EVENT_UNREACHABLE ? -ETIMEDOUT : -ECONNREFUSED,
		    "cannot connect to rdma:%s:%u: %s (%d)", u->host, u->port, rdma_event_str(ev->event), ev->status);
}

/* One answer: the connection is up, or why not. */
static int answered(struct xr_link *l, const struct rdma_cm_event *ev, const struct uri *u)
{
	struct xr_conn *c = ev->id->context;
	struct rdma_answer a;
	int err;

	if (ev->event != RDMA_CM_EVENT_CONNECT_RESPONSE)
		return refused(ev, u, l->link.fail);
	if (ev->param.conn.private_data_len < sizeof(a))
		return fail(l->link.fail, -EPROTO, "rdma:%s:%u answers, but not as a migration target does", u->host, u->port);
	memcpy(&a, ev->param.conn.private_data, sizeof(a));
	err = answer_error(&a, u, l->link.fail);
	if (!err && (le32toh(a.mtu) < IBV_MTU_256 || le32toh(a.mtu) > l->opt.mtu))
		err = fail(l->link.fail, -EPROTO, "rdma:%s:%u answers with MTU code %u; 1 to %u were offered", u->host, u->port,
			   le32toh(a.mtu), l->opt.mtu);
	if (err)
		return err;
	c->board = le64toh(a.board);
	c->board_key = le32toh(a.board_key);
	/* Nothing of this fails but by a peer that has gone meanwhile. */
	if (xr_conn_ready(c, le32toh(a.mtu), NULL) || rdma_establish(c->id))
		err = fail(l->link.fail, -ECONNREFUSED, "rdma:%s:%u: the connection went in the middle", u->host, u->port);
	atomic_store(&c->established, !err);
	return err;
}

static int hear_all(struct xr_link *l, const struct uri *u, uint64_t deadline)
{
	struct rdma_cm_event *ev;
	unsigned up = 0;
	int err = 0;

	while (up < l->nconns && !err) {
		ev = xr_event(l->events, deadline);
		if (!ev)
			return fail(l->link.fail, -ETIMEDOUT, "rdma:%s:%u did not answer in time", u->host, u->port);
		err = answered(l, ev, u);
		up++;
		rdma_ack_cm_event(ev);
	}
	return err;
}

/* To one address. A link that does not come up is freed; its sentence is in f. */
static int connect_one(struct xport_link **ret, const struct addrinfo *ai, const struct uri *u,
		       const struct xport_link_id *id, const struct xr_options *opt, const struct xport_param *p,
		       uint64_t deadline, struct fail *f)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct xr_link *l;
	int err;

	if (!ch || xr_nonblock(ch->fd)) {
		err = errno;
		if (ch)
			rdma_destroy_event_channel(ch);
		return fail(f, -EOPNOTSUPP, "rdma: no connection manager here (%s); load the modules rdma_ucm and ib_uverbs",
			    strerror(err));
	}
	err = xr_link_new(&l, id, ch, opt, p, f);
	if (err)
		return err;
	err = ask_all(l, ai->ai_addr, u, deadline);
	if (!err)
		err = hear_all(l, u, deadline);
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
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV };
	uint64_t deadline = xp_deadline(xp_now_us(), wait_us);
	struct xr_options opt;
	struct addrinfo *list;
	char port[8];
	int err;

	if (!u->host[0] || !u->port)
		return fail(f, -EINVAL, "to connect, rdma: needs a host and a port; \"%s\" and %u were given", u->host, u->port);
	err = xr_options(&opt, u, f);
	if (err)
		return err;
	snprintf(port, sizeof(port), "%u", u->port);
	err = getaddrinfo(u->host, port, &hints, &list);
	if (err)
		return fail(f, -EADDRNOTAVAIL, "host \"%s\" cannot be resolved: %s", u->host, gai_strerror(err));
	err = connect_one(ret, list, u, id, &opt, p, deadline, f);
	freeaddrinfo(list);
	return err;
}
