// SPDX-License-Identifier: MIT
/*
 * The rdma listener. Anyone may ask for a connection, so nothing is trusted and nothing blocks. accept()
 * takes pending connect requests, checks their preambles, and accepts none until all connections of one
 * (session, generation, attempt) have asked. Until then a request costs a cm id and no device resource.
 *
 * A request of an incomplete link lives HALF_US. Each further request of its link renews that, up to LINK_US
 * in all. A request with a newer generation rejects the older ones of its session from the same address. If
 * all places are taken, the oldest request of the address that has most of them is rejected, so requests that
 * lead to no link cannot keep a real peer out. The fd that callers poll is an epoll of the event channel and
 * of a timer.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"
#include "transport/dial.h"

#define HALF_MAX 64
#define HALF_US 5000000u
#define LINK_US 30000000u

struct half {
	struct rdma_cm_id *id;	      /* NULL: free */
	uint64_t from;		      /* dial_from() of the peer */
	uint64_t since_us, first_us;  /* last renewal; when the link's first request came */
	uint8_t initiator, responder; /* the peer's READ limits */
	struct rdma_preamble pre;     /* host order */
};

struct xr_listener {
	struct xport_listener listener;
	struct xport_param param;
	struct xr_options opt;
	struct xp_only only;
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	int epfd, tfd;
	char uri[320];
	struct half half[HALF_MAX];
};

static struct xr_listener *listener_of(struct xport_listener *l)
{
	return (struct xr_listener *)l;
}

static void answer_no(struct rdma_cm_id *id, enum rdma_answer_code code)
{
	struct rdma_answer a = { .magic = htole32(RDMA_MAGIC_ANSWER),
				 .version = htole32(RDMA_WIRE_VERSION),
				 .code = htole32(code) };

	rdma_reject(id, &a, sizeof(a));
	rdma_destroy_id(id);
}

static void half_drop(struct half *h, enum rdma_answer_code code)
{
	answer_no(h->id, code);
	h->id = NULL;
}

static bool same_link(const struct rdma_preamble *a, const struct rdma_preamble *b)
{
	return !memcmp(a->session, b->session, sizeof(a->session)) && a->generation == b->generation &&
	       a->channels == b->channels && a->attempt == b->attempt;
}

static struct half *half_of(struct xr_listener *l, const struct rdma_cm_id *id)
{
	unsigned i;

	for (i = 0; i < HALF_MAX; i++)
		if (l->half[i].id == id)
			return &l->half[i];
	return NULL;
}

static unsigned places_of(const struct xr_listener *l, uint64_t from)
{
	unsigned i, n = 0;

	for (i = 0; i < HALF_MAX; i++)
		n += l->half[i].id && l->half[i].from == from;
	return n;
}

/* A free place, or that of the oldest request of the address that has most. */
static struct half *half_place(struct xr_listener *l)
{
	struct half *first = half_of(l, NULL);
	unsigned i, n, most = 0;

	if (first)
		return first;
	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];

		n = places_of(l, h->from);
		if (n > most || (n == most && h->since_us < first->since_us))
			first = h;
		most = n > most ? n : most;
	}
	half_drop(first, RDMA_ANSWER_BUSY);
	return first;
}

/* Convert the preamble to host order and check it: the answer for its request. */
static enum rdma_answer_code judge(const struct xr_listener *l, struct rdma_preamble *p)
{
	unsigned i;

	p->version = le32toh(p->version);
	p->generation = le32toh(p->generation);
	p->board = le64toh(p->board);
	p->board_key = le32toh(p->board_key);
	if (p->version != RDMA_WIRE_VERSION)
		return RDMA_ANSWER_VERSION;
	if (p->role == RDMA_ROLE_KNOCK)
		return RDMA_ANSWER_HERE;
	if (p->role > RDMA_ROLE_URGENT || !p->channels || p->channels > XPORT_CHANNELS_MAX ||
	    p->index >= (p->role == RDMA_ROLE_DATA ? p->channels : 1) || p->mtu < IBV_MTU_256 ||
	    p->mtu > IBV_MTU_4096)
		return RDMA_ANSWER_MALFORMED;
	for (i = 0; i < HALF_MAX; i++) {
		const struct half *h = &l->half[i];

		if (h->id && same_link(&h->pre, p) && h->pre.role == p->role && h->pre.index == p->index)
			return RDMA_ANSWER_MALFORMED;
	}
	if (!xp_wanted(&l->only, p->session, p->generation))
		return RDMA_ANSWER_TAKEN;
	return RDMA_ANSWER_OK;
}

/* Renew p's link, drop those its end has given up (tcp/listen.c); returns when its first request came. */
static uint64_t refresh(struct xr_listener *l, const struct rdma_preamble *p, uint64_t from, uint64_t now)
{
	uint64_t first = now;
	unsigned i;

	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];

		if (!h->id || memcmp(h->pre.session, p->session, sizeof(p->session)))
			continue;
		if (same_link(&h->pre, p)) {
			h->since_us = now;
			first = h->first_us;
		} else if (h->from == from && h->pre.generation < p->generation) {
			half_drop(h, RDMA_ANSWER_LATE);
		}
	}
	return first;
}

static void take_request(struct xr_listener *l, struct rdma_cm_id *id, const struct rdma_conn_param *c,
			 uint64_t now)
{
	enum rdma_answer_code code;
	struct rdma_preamble pre;
	uint64_t first, from = dial_from(rdma_get_peer_addr(id));
	struct half *h;

	if (c->private_data_len < sizeof(pre)) {
		answer_no(id, RDMA_ANSWER_MALFORMED);
		return;
	}
	memcpy(&pre, c->private_data, sizeof(pre));
	/* no ferry peer: reject without an answer */
	if (le32toh(pre.magic) != RDMA_MAGIC_PREAMBLE) {
		rdma_reject(id, NULL, 0);
		rdma_destroy_id(id);
		return;
	}
	code = judge(l, &pre);
	if (code != RDMA_ANSWER_OK) {
		answer_no(id, code);
		return;
	}
	first = refresh(l, &pre, from, now);
	h = half_place(l);
	*h = (struct half){ .id = id,
			    .from = from,
			    .since_us = now,
			    .first_us = first,
			    .initiator = c->initiator_depth,
			    .responder = c->responder_resources,
			    .pre = pre };
}

static int take_events(struct xr_listener *l, uint64_t now, struct fail *f)
{
	struct rdma_cm_event *ev;
	unsigned n;

	for (n = 0; n < HALF_MAX; n++) {
		enum rdma_cm_event_type type;
		struct rdma_conn_param c;
		struct rdma_cm_id *id;
		uint8_t data[256];
		struct half *h;

		ev = xr_event(l->events);
		if (!ev)
			return errno == EAGAIN
				       ? 0
				       : fail_cure(f, CURE_CALL, -errno, "%s: rdma_get_cm_event", l->uri);
		type = ev->event;
		c = ev->param.conn;
		id = ev->id;
		/* Copy the private data: the acknowledgement frees it, and must precede rdma_destroy_id(). */
		if (c.private_data && c.private_data_len)
			memcpy(data, c.private_data, c.private_data_len);
		else
			c.private_data_len = 0;
		c.private_data = data;
		rdma_ack_cm_event(ev);
		if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
			take_request(l, id, &c, now);
		} else if (id != l->id && (h = half_of(l, id))) {
			rdma_destroy_id(id); /* the peer has given up */
			h->id = NULL;
		}
	}
	return 0;
}

/* Collect the requests of first's link in order; false if some are missing. */
static bool gather(struct xr_listener *l, const struct half *first, struct half **parts)
{
	unsigned i, n = 0, conns = first->pre.channels + 2u;

	memset(parts, 0, conns * sizeof(*parts));
	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];
		unsigned at;

		if (!h->id || !same_link(&h->pre, &first->pre))
			continue;
		at = h->pre.role == RDMA_ROLE_CONTROL ? 0
		     : h->pre.role == RDMA_ROLE_DATA  ? 1u + h->pre.index
						      : conns - 1;
		n += !parts[at];
		parts[at] = h;
	}
	return n == conns;
}

static int accept_one(struct xr_link *l, unsigned i, const struct half *h)
{
	unsigned mtu = h->pre.mtu < l->opt.mtu ? h->pre.mtu : l->opt.mtu;
	struct rdma_answer a = { .magic = htole32(RDMA_MAGIC_ANSWER),
				 .version = htole32(RDMA_WIRE_VERSION),
				 .code = htole32(RDMA_ANSWER_OK),
				 .mtu = htole32(mtu),
				 .board = htole64((uintptr_t)xr_board(l)),
				 .board_key = htole32(l->board_mr->rkey) };
	struct xr_conn *c = &l->conn[i];
	struct rdma_conn_param param;

	c->board = h->pre.board;
	c->board_key = h->pre.board_key;
	if (xr_conn_ready(c, mtu, NULL))
		return -ENOTCONN;
	xr_conn_param(&param, c, h->initiator, h->responder);
	param.private_data = &a;
	param.private_data_len = sizeof(a);
	return rdma_accept(c->id, &param) ? -ENOTCONN : 0; /* the peer has gone: no error here */
}

static int build(struct xr_listener *l, struct half **parts, struct xport_link **ret, struct fail *f)
{
	struct xport_link_id id = { .generation = parts[0]->pre.generation,
				    .channels = parts[0]->pre.channels };
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct half h[XR_CONNS_MAX];
	struct xr_link *link;
	unsigned i, n = id.channels + 2;
	int err;

	for (i = 0; i < n; i++) {
		h[i] = *parts[i];
		parts[i]->id = NULL;
	}
	memcpy(id.session, h[0].pre.session, sizeof(id.session));
	if (!ch || xr_nonblock(ch->fd)) {
		err = fail_cure(f, CURE_CALL, -errno, "%s: no event channel for a link", l->uri);
		if (ch)
			rdma_destroy_event_channel(ch);
	} else {
		err = xr_link_new(&link, &id, ch, &l->opt, &l->param, f);
	}
	if (err) {
		for (i = 0; i < n; i++)
			answer_no(h[i].id, RDMA_ANSWER_BUSY);
		return err;
	}
	for (i = 0; i < n; i++) {
		link->conn[i].id = h[i].id;
		h[i].id->context = &link->conn[i];
		if (rdma_migrate_id(h[i].id, ch) && !err)
			err = -ENOTCONN;
	}
	if (!err)
		err = xr_link_device(link);
	for (i = 0; i < n && !err; i++)
		err = accept_one(link, i, &h[i]);
	if (!err)
		err = xr_link_start(link);
	if (err) {
		xr_link_free(link);
		return err == -ENOTCONN ? -EAGAIN : err;
	}
	link->link.from = h[0].from;
	*ret = &link->link;
	return 0;
}

static uint64_t ends_at(const struct half *h)
{
	return h->since_us + HALF_US < h->first_us + LINK_US ? h->since_us + HALF_US : h->first_us + LINK_US;
}

static void expire(struct xr_listener *l, uint64_t now)
{
	struct itimerspec it = { .it_value = { 0 } };
	uint64_t next = UINT64_MAX, ticks;
	unsigned i;

	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];

		if (!h->id)
			continue;
		if (now >= ends_at(h))
			half_drop(h, RDMA_ANSWER_LATE);
		else if (ends_at(h) < next)
			next = ends_at(h);
	}
	if (read(l->tfd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
		return;
	if (next != UINT64_MAX)
		it.it_value = xp_timespec(next);
	timerfd_settime(l->tfd, TFD_TIMER_ABSTIME, &it, NULL);
}

static int listener_accept(struct xport_listener *xl, struct xport_link **ret, struct fail *f)
{
	struct xr_listener *l = listener_of(xl);
	struct half *parts[XR_CONNS_MAX];
	uint64_t now = now_us();
	unsigned i;
	int err;

	err = take_events(l, now, f);
	if (!err)
		err = -EAGAIN;
	for (i = 0; i < HALF_MAX && err == -EAGAIN; i++)
		if (l->half[i].id && l->half[i].pre.role == RDMA_ROLE_CONTROL &&
		    gather(l, &l->half[i], parts))
			err = build(l, parts, ret, f);
	expire(l, now);
	return err;
}

static int listener_fd(struct xport_listener *xl)
{
	return listener_of(xl)->epfd;
}

static int listener_uri(struct xport_listener *xl, char *buf, size_t cap)
{
	struct xr_listener *l = listener_of(xl);

	if (strlen(l->uri) >= cap)
		return -ENOSPC;
	memcpy(buf, l->uri, strlen(l->uri) + 1);
	return 0;
}

static void listener_only(struct xport_listener *xl, const struct xport_link_id *id)
{
	struct xr_listener *l = listener_of(xl);
	unsigned i;

	l->only = (struct xp_only){ .set = true, .id = *id };
	for (i = 0; i < HALF_MAX; i++)
		if (l->half[i].id && !xp_wanted(&l->only, l->half[i].pre.session, l->half[i].pre.generation))
			half_drop(&l->half[i], RDMA_ANSWER_TAKEN);
}

static void listener_close(struct xport_listener *xl)
{
	struct xr_listener *l = listener_of(xl);
	unsigned i;

	if (l->events)
		take_events(l, now_us(), NULL);
	for (i = 0; i < HALF_MAX; i++)
		if (l->half[i].id)
			half_drop(&l->half[i], RDMA_ANSWER_LATE);
	if (l->id)
		rdma_destroy_id(l->id);
	if (l->events)
		rdma_destroy_event_channel(l->events);
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->tfd >= 0)
		close(l->tfd);
	free(l);
}

static const struct xport_listener_ops listener_ops = {
	.accept = listener_accept,
	.fd = listener_fd,
	.uri = listener_uri,
	.only = listener_only,
	.close = listener_close,
};

static int open_fds(struct xr_listener *l)
{
	struct epoll_event ev = { .events = EPOLLIN };

	l->events = rdma_create_event_channel();
	if (!l->events)
		return -EOPNOTSUPP;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->tfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->epfd < 0 || l->tfd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->events->fd, &ev) < 0 ||
	    epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->tfd, &ev) < 0)
		return -errno;
	return xr_nonblock(l->events->fd);
}

static void set_port(struct sockaddr_storage *a, uint16_t port)
{
	if (a->ss_family == AF_INET)
		((struct sockaddr_in *)a)->sin_port = htons(port);
	else
		((struct sockaddr_in6 *)a)->sin6_port = htons(port);
}

/* The address to listen on: the host's; without a host the device's, if dev= is given; else any. */
static int bind_addr(struct sockaddr_storage *ret, const struct xr_listener *l, const struct uri *u,
		     struct fail *f)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct addrinfo *list;
	int err;

	if (l->opt.dev[0]) {
		err = xr_source_addr(ret, &l->opt, NULL, f);
		if (err || !u->host[0]) {
			set_port(ret, u->port);
			return err;
		}
	}
	err = getaddrinfo(u->host[0] ? u->host : NULL, "0", &hints, &list);
	if (err)
		return fail(f, -EADDRNOTAVAIL, "host \"%s\" cannot be resolved: %s", u->host,
			    gai_strerror(err));
	err = dial_check_scope(list->ai_addr, u, f);
	memset(ret, 0, sizeof(*ret));
	memcpy(ret, list->ai_addr, list->ai_addrlen);
	freeaddrinfo(list);
	set_port(ret, u->port);
	return err;
}

static bool is_any(const struct sockaddr *a)
{
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)a)->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* Check the device early, if the address determines one. */
static int check_device(struct xr_listener *l, const struct uri *u, struct fail *f)
{
	struct ibv_context *ctx = l->id->verbs;

	/* A loopback address can be bound, but no peer can connect to it. */
	if (!ctx && u->host[0] && !is_any(rdma_get_local_addr(l->id)))
		return fail(f, -EADDRNOTAVAIL, "cannot listen on rdma:%s:%u: no RDMA device has this address",
			    u->host, u->port);
	if (!ctx)
		return 0;
	if (l->opt.dev[0] && strcmp(ctx->device->name, l->opt.dev))
		return fail(f, -ENODEV, "rdma:%s:%u is an address of device %s, and dev=%s was asked for",
			    u->host, u->port, ctx->device->name, l->opt.dev);
	if (l->opt.pin == XR_PIN_ODP && xr_can_odp(ctx))
		return fail(f, -EOPNOTSUPP,
			    "rdma: device %s has no on-demand paging for reads and writes; use pin=all or "
			    "pin=lazy",
			    ctx->device->name);
	return 0;
}

static int listen_on(struct xr_listener *l, const struct uri *u, struct fail *f)
{
	struct sockaddr_storage addr;
	int err = bind_addr(&addr, l, u, f);

	if (err)
		return err;
	if (rdma_create_id(l->events, &l->id, NULL, RDMA_PS_TCP))
		return fail_cure(f, CURE_RDMA_OPEN, -errno, "cannot listen on rdma:%s:%u", u->host, u->port);
	if (rdma_bind_addr(l->id, (struct sockaddr *)&addr))
		return errno == ENODEV || errno == EADDRNOTAVAIL
			       ? fail(f, -EADDRNOTAVAIL,
				      "cannot listen on rdma:%s:%u: no RDMA device has this address", u->host,
				      u->port)
			       : fail_cure(f, CURE_LISTEN, -errno, "cannot listen on rdma:%s:%u", u->host,
					   u->port);
	err = check_device(l, u, f);
	if (!err && rdma_listen(l->id, HALF_MAX))
		err = fail_cure(f, CURE_LISTEN, -errno, "cannot listen on rdma:%s:%u", u->host, u->port);
	return err;
}

int xr_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f)
{
	struct xr_listener *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return fail(f, -ENOMEM, "rdma: no memory for a listener");
	l->listener.ops = &listener_ops;
	l->param = *p;
	l->epfd = l->tfd = -1;
	err = xr_options(&l->opt, u, f);
	if (!err) {
		err = open_fds(l);
		if (err == -EOPNOTSUPP)
			fail(f, err,
			     "there is no RDMA here: /dev/infiniband/rdma_cm cannot be opened (%s); load the modules of "
			     "your device, rdma_ucm and ib_uverbs",
			     strerror(errno));
		else if (err)
			fail_cure(f, CURE_CALL, err, "rdma: no descriptors for a listener");
	}
	if (!err)
		err = listen_on(l, u, f);
	if (err) {
		listener_close(&l->listener);
		return err;
	}
	snprintf(l->uri, sizeof(l->uri), strchr(u->host, ':') ? "rdma:[%s]:%u" : "rdma:%s:%u", u->host,
		 ntohs(rdma_get_src_port(l->id)));
	*ret = &l->listener;
	return 0;
}
