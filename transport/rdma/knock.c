// SPDX-License-Identifier: MIT
/*
 * Finds which of several addresses answers; dial.h has the rule.
 *
 * A knock is a connect request that asks for no connection. A target rejects it at once, and the rejection is
 * the answer. It costs the target no device resource, and this end one small queue pair: a request must carry
 * a queue pair number, and the number of another connection would end that connection.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include "rdma_dial.h"
#include "runtime/base/fail.h"

#define KNOCKS_MAX 32u

struct knock {
	struct rdma_cm_id *id; /* NULL: free */
	unsigned addr;
	uint64_t since_us;
};

struct knocks {
	const struct xr_dialer *d;
	struct rdma_event_channel *events;
	struct dial dial;
	struct knock knock[KNOCKS_MAX];
	int won; /* -1: no answer yet */
};

static void drop(struct knock *k)
{
	if (k->id && k->id->qp)
		rdma_destroy_qp(k->id);
	if (k->id)
		rdma_destroy_id(k->id);
	k->id = NULL;
}

static bool is_knocking(const struct knocks *n)
{
	unsigned i;

	for (i = 0; i < KNOCKS_MAX; i++)
		if (n->knock[i].id)
			return true;
	return false;
}

/* A free place; if there is none, drop the oldest knock. */
static struct knock *place(struct knocks *n)
{
	struct knock *oldest = &n->knock[0];
	unsigned i;

	for (i = 0; i < KNOCKS_MAX; i++) {
		if (!n->knock[i].id)
			return &n->knock[i];
		if (n->knock[i].since_us < oldest->since_us)
			oldest = &n->knock[i];
	}
	drop(oldest);
	return oldest;
}

static void failed(struct knocks *n, struct knock *k, int err)
{
	drop(k);
	dial_failed(&n->dial, k->addr, err, now_us());
}

/* Quiet: a single address's error is reported only if all fail. The dialer's sentences are for the link. */
static void begin(struct knocks *n, unsigned addr, uint64_t now)
{
	struct xr_dialer quiet = *n->d;
	struct knock *k = place(n);
	int err;

	quiet.f = NULL;
	*k = (struct knock){ .addr = addr, .since_us = now };
	err = xr_begin(&k->id, n->events, k, &n->d->addrs.a[addr], &quiet);
	if (err)
		failed(n, k, err);
}

static int ask(struct rdma_cm_id *id, const struct xr_dialer *d)
{
	struct rdma_preamble pre = { .magic = htole32(RDMA_MAGIC_PREAMBLE),
				     .version = htole32(RDMA_WIRE_VERSION),
				     .role = RDMA_ROLE_KNOCK,
				     .channels = 1,
				     .mtu = d->opt.mtu };
	struct rdma_conn_param param = { .private_data = &pre, .private_data_len = sizeof(pre) };
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 }
	};

	if (rdma_create_qp(id, NULL, &attr))
		return -errno;
	return rdma_connect(id, &param) ? -errno : 0;
}

/* A rejection by a ferry target, whatever its code: the link's request will get the same. */
static bool is_answer(const struct rdma_cm_event *ev)
{
	struct rdma_answer a;

	if (ev->event != RDMA_CM_EVENT_REJECTED || ev->status != XR_REJ_CONSUMER ||
	    ev->param.conn.private_data_len < sizeof(a))
		return false;
	memcpy(&a, ev->param.conn.private_data, sizeof(a));
	return le32toh(a.magic) == RDMA_MAGIC_ANSWER;
}

/* The event is acknowledged, so the id may be destroyed. */
static void heard(struct knocks *n, struct knock *k, enum rdma_cm_event_type type, int address_err)
{
	struct xr_dialer quiet = *n->d;
	int err = 0;

	quiet.f = NULL;
	switch (type) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		err = xr_route(k->id, &quiet);
		break;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		err = ask(k->id, n->d);
		break;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
		err = address_err;
		break;
	case RDMA_CM_EVENT_UNREACHABLE:
		err = -ETIMEDOUT;
		break;
	default:
		err = -ECONNREFUSED;
	}
	if (err)
		failed(n, k, err);
}

static int await(struct knocks *n)
{
	uint64_t until = dial_due(&n->dial);
	struct rdma_cm_event *ev;
	int err;

	err = xr_next_event(&ev, n->events, until < n->d->deadline ? until : n->d->deadline, n->d);
	if (!err && ev) {
		enum rdma_cm_event_type type = ev->event;
		int address_err = xr_address_errno(ev);
		struct knock *k = ev->id->context;
		bool answered = is_answer(ev);

		rdma_ack_cm_event(ev);
		if (answered)
			n->won = (int)k->addr;
		else
			heard(n, k, type, address_err);
	}
	return err;
}

static int none_answers(const struct xr_dialer *d, int err)
{
	return fail(d->f, err, "cannot connect to rdma:%s:%u: none of its %u addresses answers: %s; %s",
		    d->u->host, d->u->port, d->addrs.n, strerror(-err),
		    err == -ECONNREFUSED
			    ? "start the target first"
			    : "check the route to it and that they are addresses of RDMA devices");
}

int xr_knock(unsigned *at, const struct xr_dialer *d)
{
	struct knocks n = { .d = d, .won = -1, .events = xr_channel(d->f) };
	int addr, err = 0;
	unsigned i;

	if (!n.events)
		return -EOPNOTSUPP;
	dial_start(&n.dial, 0, d->addrs.n, now_us());
	while (!err && n.won < 0) {
		while ((addr = dial_next(&n.dial, now_us())) >= 0)
			begin(&n, (unsigned)addr, now_us());
		if (dial_over(&n.dial) && !is_knocking(&n))
			err = none_answers(d, n.dial.err);
		else if (now_us() >= d->deadline)
			err = none_answers(d, -ETIMEDOUT);
		else
			err = await(&n);
	}
	for (i = 0; i < KNOCKS_MAX; i++)
		drop(&n.knock[i]);
	rdma_destroy_event_channel(n.events);
	if (!err)
		*at = (unsigned)n.won;
	return err;
}
