// SPDX-License-Identifier: MIT
/*
 * The tcp listener. Anyone may connect, so nothing is trusted and nothing blocks. accept() takes what has
 * arrived, reads preambles piecewise, answers them, and returns a link once all connections of one (session,
 * generation, attempt) are there. The fd that callers poll is an epoll of the listening socket, of the
 * connections whose preamble is incomplete, and of a timer that is armed while any connection is half-open.
 *
 * A half-open connection lives HALF_US. Each further connection of its link renews that, up to LINK_US in
 * all, because over a long and lossy path the connections of a link arrive seconds apart. A connection with a
 * newer generation closes the older ones of its session from the same address, whose close may have been lost
 * with the network. If all places are taken, the oldest connection of the address that has most of them is
 * closed, whatever it has sent. So neither silent connections nor incomplete links keep a real peer out, and
 * an address that floods the listener closes its own connections. Silent ones are not closed first, because
 * the preambles of a link come a round trip after its connections: a link would then close its own.
 */
#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "tcp.h"
#include "runtime/base/fail.h"
#include "transport/dial.h"

#define HALF_MAX 64
#define HALF_US 5000000u
#define LINK_US 30000000u

struct half {
	int fd;			     /* -1: free */
	uint64_t from;		     /* dial_from() of the peer */
	uint64_t since_us, first_us; /* last renewal; when the link's first connection came */
	size_t got;
	struct tcp_preamble pre; /* checked and in host order once got is complete */
};

struct tcp_listener {
	struct xport_listener listener;
	struct xport_param param;
	struct xp_only only;
	int lfd, epfd, tfd;
	char uri[320];
	struct half half[HALF_MAX];
};

static struct tcp_listener *listener_of(struct xport_listener *l)
{
	return (struct tcp_listener *)l;
}

static bool is_ready(const struct half *h)
{
	return h->fd >= 0 && h->got == sizeof(h->pre);
}

static void half_drop(struct half *h)
{
	close(h->fd); /* also removes it from the epoll */
	h->fd = -1;
}

static void answer(struct half *h, enum tcp_answer_code code)
{
	struct tcp_answer a = { .magic = htole32(TCP_MAGIC_ANSWER),
				.version = htole32(TCP_WIRE_VERSION),
				.code = htole32(code) };

	/* Sixteen bytes fit into a fresh socket's buffer. If they do not, the peer times out. */
	send(h->fd, &a, sizeof(a), MSG_DONTWAIT | MSG_NOSIGNAL);
	if (code != TCP_ANSWER_OK)
		half_drop(h);
}

static bool same_link(const struct tcp_preamble *a, const struct tcp_preamble *b)
{
	return !memcmp(a->session, b->session, sizeof(a->session)) && a->generation == b->generation &&
	       a->channels == b->channels && a->attempt == b->attempt;
}

static bool known_twice(const struct tcp_listener *l, const struct half *h)
{
	unsigned i;

	for (i = 0; i < HALF_MAX; i++) {
		const struct half *o = &l->half[i];

		if (o != h && is_ready(o) && same_link(&o->pre, &h->pre) && o->pre.role == h->pre.role &&
		    o->pre.index == h->pre.index)
			return true;
	}
	return false;
}

/*
 * Renew h's link, and drop links of its session with an older generation from the same address: that end has
 * given them up. A link from another address is another end and stays.
 */
static void refresh(struct tcp_listener *l, struct half *h, uint64_t now)
{
	unsigned i;

	h->since_us = now;
	for (i = 0; i < HALF_MAX; i++) {
		struct half *o = &l->half[i];

		if (!is_ready(o) || memcmp(o->pre.session, h->pre.session, sizeof(h->pre.session)))
			continue;
		if (same_link(&o->pre, &h->pre)) {
			o->since_us = now;
			h->first_us = o->first_us < h->first_us ? o->first_us : h->first_us;
		} else if (o->from == h->from && o->pre.generation < h->pre.generation) {
			half_drop(o);
		}
	}
}

static void judge(struct tcp_listener *l, struct half *h, uint64_t now)
{
	static const uint8_t zero[sizeof(h->pre.reserved)];
	struct tcp_preamble *p = &h->pre;

	p->magic = le32toh(p->magic);
	p->version = le32toh(p->version);
	p->role = le32toh(p->role);
	p->index = le32toh(p->index);
	p->channels = le32toh(p->channels);
	p->generation = le32toh(p->generation);
	if (p->magic != TCP_MAGIC_PREAMBLE) {
		half_drop(h); /* no ferry peer: no answer */
		return;
	}
	if (p->version != TCP_WIRE_VERSION) {
		answer(h, TCP_ANSWER_VERSION);
		return;
	}
	if (p->role > TCP_ROLE_URGENT || !p->channels || p->channels > XPORT_CHANNELS_MAX ||
	    p->index >= (p->role == TCP_ROLE_DATA ? p->channels : 1) ||
	    memcmp(p->reserved, zero, sizeof(zero)) != 0 || known_twice(l, h)) {
		answer(h, TCP_ANSWER_MALFORMED);
		return;
	}
	if (!xp_wanted(&l->only, p->session, p->generation)) {
		answer(h, TCP_ANSWER_TAKEN);
		return;
	}
	/* Later bytes belong to the link; they must not keep the epoll readable. */
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, h->fd, NULL);
	refresh(l, h, now);
	answer(h, TCP_ANSWER_OK);
}

static void half_read(struct tcp_listener *l, struct half *h, uint64_t now)
{
	ssize_t n;

	while (h->got < sizeof(h->pre)) {
		n = recv(h->fd, (char *)&h->pre + h->got, sizeof(h->pre) - h->got, MSG_DONTWAIT);
		if (n > 0) {
			h->got += (size_t)n;
		} else if (n < 0 && errno == EINTR) {
			continue;
		} else {
			if (!n || errno != EAGAIN)
				half_drop(h);
			return;
		}
	}
	judge(l, h, now);
}

/* Close h and the rest of its link, which is useless without h. It had its answer, so it gets no BUSY. */
static void give_way(struct tcp_listener *l, struct half *h)
{
	const struct tcp_preamble pre = h->pre;
	unsigned i;

	if (!is_ready(h)) {
		answer(h, TCP_ANSWER_BUSY);
		return;
	}
	for (i = 0; i < HALF_MAX; i++)
		if (is_ready(&l->half[i]) && same_link(&l->half[i].pre, &pre))
			half_drop(&l->half[i]);
}

static unsigned places_of(const struct tcp_listener *l, uint64_t from)
{
	unsigned i, n = 0;

	for (i = 0; i < HALF_MAX; i++)
		n += l->half[i].fd >= 0 && l->half[i].from == from;
	return n;
}

static struct half *half_place(struct tcp_listener *l)
{
	struct half *first = NULL;
	unsigned i, n, most = 0;

	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];

		if (h->fd < 0)
			return h;
		n = places_of(l, h->from);
		if (n > most || (n == most && h->since_us < first->since_us))
			first = h;
		most = n > most ? n : most;
	}
	give_way(l, first);
	return first;
}

/* Accept new connections. -errno only if the listening socket itself is broken. */
static int take_new(struct tcp_listener *l, uint64_t now, struct fail *f)
{
	unsigned n;

	for (n = 0; n < HALF_MAX; n++) {
		struct epoll_event ev = { .events = EPOLLIN };
		struct sockaddr_storage from = { .ss_family = AF_UNSPEC };
		socklen_t len = sizeof(from);
		struct half *h;
		int fd;

		fd = accept4(l->lfd, (struct sockaddr *)&from, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && errno == EAGAIN)
			return 0;
		/* accept4() also returns errors of the network that are pending on the new connection. */
		if (fd < 0 && !xport_lost(errno) && errno != EPROTO && errno != EOPNOTSUPP && errno != EINTR)
			return fail_cure(f, CURE_CALL, -errno, "%s: accept4", l->uri);
		if (fd < 0)
			continue; /* that connection died in the queue */
		h = half_place(l);
		*h = (struct half){ .fd = fd,
				    .from = dial_from((struct sockaddr *)&from),
				    .since_us = now,
				    .first_us = now };
		ev.data.fd = fd;
		if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0) {
			half_drop(h);
			continue;
		}
		half_read(l, h, now);
	}
	return 0;
}

/* Collect the connections of first's link in order; false if some are missing. */
static bool gather(struct tcp_listener *l, const struct half *first, struct half **parts)
{
	unsigned i, n = 0, conns = first->pre.channels + 2;

	memset(parts, 0, conns * sizeof(*parts));
	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];
		unsigned at;

		if (!is_ready(h) || !same_link(&h->pre, &first->pre))
			continue;
		at = h->pre.role == TCP_ROLE_CONTROL ? 0
		     : h->pre.role == TCP_ROLE_DATA  ? 1 + h->pre.index
						     : conns - 1;
		n += !parts[at];
		parts[at] = h;
	}
	return n == conns;
}

static bool is_gone(const struct half *h)
{
	ssize_t n;
	char c;

	n = recv(h->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
	return !n || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/* If the peer has closed any of the connections, drop all of them. */
static bool all_there(struct half **parts)
{
	unsigned i, n = parts[0]->pre.channels + 2, gone = 0;

	for (i = 0; i < n; i++)
		gone += is_gone(parts[i]);
	for (i = 0; gone && i < n; i++)
		half_drop(parts[i]);
	return !gone;
}

static int build(struct tcp_listener *l, struct half **parts, struct xport_link **ret, struct fail *f)
{
	struct xport_link_id id = { .generation = parts[0]->pre.generation,
				    .channels = parts[0]->pre.channels };
	int fds[XPORT_CHANNELS_MAX + 2], err;
	unsigned i;

	memcpy(id.session, parts[0]->pre.session, sizeof(id.session));
	for (i = 0; i < id.channels + 2; i++) {
		fds[i] = parts[i]->fd;
		parts[i]->fd = -1;
	}
	err = tcp_link_new(ret, &id, fds, &l->param, f);
	if (!err)
		(*ret)->from = parts[0]->from;
	return err;
}

static uint64_t ends_at(const struct half *h)
{
	return h->since_us + HALF_US < h->first_us + LINK_US ? h->since_us + HALF_US : h->first_us + LINK_US;
}

static void expire(struct tcp_listener *l, uint64_t now)
{
	struct itimerspec it = { .it_value = { 0 } };
	uint64_t next = UINT64_MAX, ticks;
	unsigned i;

	for (i = 0; i < HALF_MAX; i++) {
		struct half *h = &l->half[i];

		if (h->fd < 0)
			continue;
		if (now >= ends_at(h))
			half_drop(h);
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
	struct tcp_listener *l = listener_of(xl);
	struct half *parts[XPORT_CHANNELS_MAX + 2];
	uint64_t now = now_us();
	unsigned i;
	int err;

	for (i = 0; i < HALF_MAX; i++) {
		if (l->half[i].fd >= 0 && !is_ready(&l->half[i]))
			half_read(l, &l->half[i], now);
	}
	err = take_new(l, now, f);
	for (i = 0; !err && i < HALF_MAX; i++) {
		if (is_ready(&l->half[i]) && l->half[i].pre.role == TCP_ROLE_CONTROL &&
		    gather(l, &l->half[i], parts) && all_there(parts)) {
			err = build(l, parts, ret, f);
			break;
		}
	}
	if (i == HALF_MAX && !err)
		err = -EAGAIN;
	expire(l, now);
	return err;
}

static int listener_fd(struct xport_listener *l)
{
	return listener_of(l)->epfd;
}

static int listener_uri(struct xport_listener *xl, char *buf, size_t cap)
{
	struct tcp_listener *l = listener_of(xl);

	if (strlen(l->uri) >= cap)
		return -ENOSPC;
	memcpy(buf, l->uri, strlen(l->uri) + 1);
	return 0;
}

static void listener_only(struct xport_listener *xl, const struct xport_link_id *id)
{
	struct tcp_listener *l = listener_of(xl);
	unsigned i;

	l->only = (struct xp_only){ .set = true, .id = *id };
	for (i = 0; i < HALF_MAX; i++)
		if (is_ready(&l->half[i]) &&
		    !xp_wanted(&l->only, l->half[i].pre.session, l->half[i].pre.generation))
			half_drop(&l->half[i]);
}

static void listener_close(struct xport_listener *xl)
{
	struct tcp_listener *l = listener_of(xl);
	unsigned i;

	for (i = 0; i < HALF_MAX; i++) {
		if (l->half[i].fd >= 0)
			half_drop(&l->half[i]);
	}
	if (l->tfd >= 0)
		close(l->tfd);
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->lfd >= 0)
		close(l->lfd);
	free(l);
}

static const struct xport_listener_ops listener_ops = {
	.accept = listener_accept,
	.fd = listener_fd,
	.uri = listener_uri,
	.only = listener_only,
	.close = listener_close,
};

/* Returns a listening socket and its *port, or -errno, and *call is the call that failed. */
static int listen_on(const struct addrinfo *ai, unsigned *port, const char **call)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	int fd, one = 1, err;
	char serv[8];

	*call = "socket";
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if ((*call = "setsockopt", setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))) < 0 ||
	    (*call = "bind", bind(fd, ai->ai_addr, ai->ai_addrlen)) < 0 ||
	    (*call = "listen", listen(fd, HALF_MAX)) < 0 ||
	    (*call = "getsockname", getsockname(fd, (struct sockaddr *)&addr, &len)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	if (getnameinfo((struct sockaddr *)&addr, len, NULL, 0, serv, sizeof(serv), NI_NUMERICSERV)) {
		close(fd);
		return -EADDRNOTAVAIL;
	}
	*port = (unsigned)strtoul(serv, NULL, 10);
	return fd;
}

static int open_fds(struct tcp_listener *l, struct fail *f)
{
	struct epoll_event ev = { .events = EPOLLIN };

	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (l->epfd < 0)
		return fail_cure(f, CURE_CALL, -errno, "tcp: epoll_create1 for a listener");
	l->tfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->tfd < 0)
		return fail_cure(f, CURE_CALL, -errno, "tcp: timerfd_create for a listener");
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->lfd, &ev) < 0 ||
	    epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->tfd, &ev) < 0)
		return fail_cure(f, CURE_CALL, -errno, "tcp: epoll_ctl for a listener");
	return 0;
}

/* EACCES means a privileged port only from bind() below 1024; any other EACCES is a refused call. */
static int refuse_listen(const struct uri *u, const char *call, int err, struct fail *f)
{
	if (!strcmp(call, "bind") && (err != -EACCES || (u->port && u->port < 1024)))
		return fail_cure(f, CURE_LISTEN, err, "cannot listen on tcp:%s:%u", u->host, u->port);
	return fail_cure(f, err == -EACCES ? CURE_CALL : CURE_LISTEN, err, "cannot listen on tcp:%s:%u: %s",
			 u->host, u->port, call);
}

int tcp_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f)
{
	const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
	struct tcp_listener *l = calloc(1, sizeof(*l));
	struct addrinfo *list, *ai;
	const char *call = "bind";
	unsigned i, port = 0;
	char serv[8];
	int err;

	if (!l)
		return fail(f, -ENOMEM, "tcp: no memory for a listener");
	l->listener.ops = &listener_ops;
	l->param = *p;
	l->lfd = l->epfd = l->tfd = -1;
	for (i = 0; i < HALF_MAX; i++)
		l->half[i].fd = -1;
	snprintf(serv, sizeof(serv), "%u", u->port);
	err = getaddrinfo(u->host[0] ? u->host : NULL, serv, &hints, &list);
	if (err) {
		err = fail(f, -EADDRNOTAVAIL,
			   "host \"%s\" cannot be resolved: %s; check the name, or give an address", u->host,
			   gai_strerror(err));
		goto out;
	}
	err = list->ai_next ? 0 : dial_check_scope(list->ai_addr, u, f);
	for (ai = err ? NULL : list; ai; ai = ai->ai_next) {
		l->lfd = listen_on(ai, &port, &call);
		if (l->lfd >= 0)
			break;
	}
	freeaddrinfo(list);
	if (err)
		goto out;
	err = l->lfd < 0 ? l->lfd : tcp_sock_tune(l->lfd, u, f);
	if (!err)
		err = open_fds(l, f);
	if (err) {
		err = refuse_listen(u, call, err, f);
		goto out;
	}
	snprintf(l->uri, sizeof(l->uri), strchr(u->host, ':') ? "tcp:[%s]:%u" : "tcp:%s:%u", u->host, port);
	*ret = &l->listener;
	return 0;
out:
	listener_close(&l->listener);
	return err;
}
