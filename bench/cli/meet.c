/* SPDX-License-Identifier: MIT */
/* How two rdma-migrates find each other for their results: the offer names a port. */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "meet.h"
#include "util.h"

#define MS UINT64_C(1000000)
#define STAGGER (250 * MS)  /* between two addresses */
#define AGAIN (500 * MS)    /* before the list of addresses starts again */
#define ATTEMPT (5000 * MS) /* limit for a connection and its answer */
#define PAUSE (100 * MS)    /* wait this long if accept() lacks a descriptor */
#define SECTION 0x54505254u /* "TRPT" */
#define SECTION_VERSION 1u

/* The section byte by byte: it comes from another host, and is not aligned. */
struct section {
	uint8_t port[2]; /* little-endian */
	uint8_t source[MEET_HALF], target[MEET_HALF];
};

int meet_offer_put(const struct meet_offer *o, struct ferry_stream *out)
{
	struct section s = { .port = { (uint8_t)o->port, (uint8_t)(o->port >> 8) } };

	memcpy(s.source, o->source, sizeof(s.source));
	memcpy(s.target, o->target, sizeof(s.target));
	return ferry_stream_put(out, SECTION, SECTION_VERSION, &s, sizeof(s));
}

int meet_offer_take(struct meet_offer *ret, struct ferry_stream *in)
{
	struct ferry_section sec;
	struct section s;
	int got;

	*ret = (struct meet_offer){ 0 };
	while ((got = ferry_stream_next(in, &sec)) > 0) {
		if (sec.id != SECTION || sec.version != SECTION_VERSION || sec.len != sizeof(s))
			continue; /* a bad offer must not stop the migration */
		memcpy(&s, sec.data, sizeof(s));
		ret->port = (uint16_t)(s.port[0] | s.port[1] << 8);
		memcpy(ret->source, s.source, sizeof(s.source));
		memcpy(ret->target, s.target, sizeof(s.target));
	}
	return got;
}

int meet_split(const char *uri, char host[256], uint16_t *port)
{
	char text[512], *at, *colon;
	uint64_t v;

	if (snprintf(text, sizeof(text), "%.*s", (int)strcspn(uri, "?"), uri) >= (int)sizeof(text))
		return -EINVAL;
	at = strchr(text, ':');
	colon = strrchr(text, ':');
	if (!at || colon == at || parse_count(colon + 1, &v) || v > 65535)
		return -EINVAL;
	*colon = 0;
	if (*++at == '[' && colon[-1] == ']') {
		colon[-1] = 0;
		at++;
	}
	if (strlen(at) >= 256)
		return -EINVAL;
	strcpy(host, at);
	*port = (uint16_t)v;
	return 0;
}

static struct addrinfo *resolve(const char *host, uint16_t port, int flags)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV }, *list;
	char service[8];

	snprintf(service, sizeof(service), "%u", port);
	return getaddrinfo(*host ? host : NULL, service, &hints, &list) ? NULL : list;
}

void meet_init(struct meeting *p, enum vmm_end own)
{
	*p = (struct meeting){ .own = own, .fd = -1, .listener = -1 };
	for (unsigned i = 0; i < MEET_CONNS; i++)
		p->conn[i].fd = -1;
}

static void conn_close(struct meet_conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

void meet_end(struct meeting *p)
{
	for (unsigned i = 0; i < MEET_CONNS; i++)
		conn_close(&p->conn[i]);
	if (p->fd >= 0)
		close(p->fd);
	if (p->listener >= 0)
		close(p->listener);
	if (p->list)
		freeaddrinfo(p->list);
	p->list = p->next = NULL;
	p->fd = p->listener = -1;
}

/* --- both --- */

/* Keepalive finds a dead host within seconds, although a live peer may be silent for long. */
static void keep_alive(int fd)
{
	int on = 1, idle = 2, every = 1, count = 5, give_up_ms = 10000;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof(give_up_ms));
}

static struct meet_conn *conn_new(struct meeting *p, int fd)
{
	struct meet_conn *c = &p->conn[0];

	for (unsigned i = 0; i < MEET_CONNS && c->fd >= 0; i++) {
		if (p->conn[i].fd < 0 || p->conn[i].since < c->since)
			c = &p->conn[i];
	}
	if (c->fd >= 0) { /* full: drop the oldest unproven one */
		conn_close(c);
		p->strangers++;
	}
	*c = (struct meet_conn){ .fd = fd, .since = clock_ns() };
	return c;
}

/* In constant time: the duration does not reveal where the first wrong byte is. */
static bool same_half(const uint8_t *a, const uint8_t *b)
{
	uint8_t differs = 0;

	for (unsigned i = 0; i < MEET_HALF; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

/* 0: the peer has shown its half; -EAGAIN: not yet all of it; another -errno: it is a stranger. */
static int conn_read(struct meet_conn *c, const uint8_t *due)
{
	ssize_t n;

	do
		n = recv(c->fd, c->got + c->len, MEET_HALF - c->len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (!n)
		return -ECONNRESET;
	c->len += (size_t)n;
	if (c->len < MEET_HALF)
		return -EAGAIN;
	return same_half(c->got, due) ? 0 : -EKEYREJECTED;
}

/* The peer is found: closes the listener and the other connections. */
static void arrived(struct meeting *p, struct meet_conn *c)
{
	p->fd = c->fd;
	c->fd = -1;
	keep_alive(p->fd);
	for (unsigned i = 0; i < MEET_CONNS; i++)
		conn_close(&p->conn[i]);
	if (p->listener >= 0)
		close(p->listener);
	p->listener = -1;
}

/* --- target --- */

static int listen_on(const char *host, uint16_t port, uint16_t *ret)
{
	struct addrinfo *list = resolve(host, port, AI_PASSIVE), *a;
	int fd = -1, on = 1, err = EADDRNOTAVAIL;

	for (a = list; a && fd < 0; a = a->ai_next) { /* the first that works, as for the migration */
		struct sockaddr_in6 at = { 0 };	      /* sin_port has the same offset */
		socklen_t len = sizeof(at);

		fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) &&
		    !bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, SOMAXCONN) &&
		    !getsockname(fd, (struct sockaddr *)&at, &len)) {
			*ret = ntohs(at.sin6_port);
			continue;
		}
		err = errno;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	if (list)
		freeaddrinfo(list);
	return fd < 0 ? -err : fd;
}

static int make_offer(struct meeting *p, const char *uri, uint16_t port)
{
	struct meet_offer *o = &p->offer;
	uint16_t of_uri;
	char host[256];
	int fd, err = meet_split(uri, host, &of_uri);

	if (err)
		return err;
	p->listener = fd = listen_on(host, port, &o->port);
	if (fd >= 0 && o->port == of_uri) { /* the kernel chose the migration's port */
		p->listener = listen_on(host, port, &o->port);
		close(fd);
	}
	if (p->listener < 0)
		return p->listener;
	if (getrandom(o->source, MEET_HALF, 0) != MEET_HALF ||
	    getrandom(o->target, MEET_HALF, 0) != MEET_HALF)
		return -EIO;
	return 0;
}

int meet_listen(struct meeting *p, const char *uri, uint16_t port)
{
	int err = make_offer(p, uri, port);

	p->wanted = !err;
	if (!err)
		return 0;
	if (p->listener >= 0)
		close(p->listener);
	p->listener = -1;
	p->offer = (struct meet_offer){ 0 }; /* no process listens on its port */
	return err;
}

static void welcome(struct meeting *p, struct meet_conn *c)
{
	int err = conn_read(c, p->offer.source);

	if (err == -EAGAIN)
		return;
	if (!err && send(c->fd, p->offer.target, MEET_HALF, MSG_NOSIGNAL | MSG_DONTWAIT) == MEET_HALF) {
		arrived(p, c);
		return;
	}
	p->strangers++;
	conn_close(c);
}

static void let_in(struct meeting *p)
{
	for (unsigned i = 0; i < MEET_CONNS; i++) { /* newer connections wait for the next call */
		int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			conn_new(p, fd);
		} else {
			if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR)
				p->next_at = clock_ns() + PAUSE;
			return;
		}
	}
}

/* --- source --- */

void meet_resolve(struct meeting *p, const char *uri)
{
	uint16_t port;
	char host[256];

	if (meet_split(uri, host, &port))
		return;
	p->list = resolve(host, port, 0);
	p->err = p->list ? 0 : -EHOSTUNREACH;
	p->wanted = true;
}

void meet_agree(struct meeting *p, const struct meet_offer *offer)
{
	p->agreed = true;
	if (p->own == VMM_END_TARGET)
		return;
	p->offer = *offer;
	if (!offer->port)
		p->wanted = false;
	p->next = p->list;
	p->next_at = clock_ns();
}

static void failed(struct meeting *p, struct meet_conn *c, int err)
{
	p->err = err;
	conn_close(c);
	if (p->next)
		p->next_at = clock_ns(); /* try the next address at once */
}

static void dial_one(struct meeting *p, const struct addrinfo *a)
{
	struct sockaddr_storage at;
	struct meet_conn *c;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0) {
		p->err = -errno;
		return;
	}
	memcpy(&at, a->ai_addr, a->ai_addrlen);
	((struct sockaddr_in6 *)&at)->sin6_port = htons(p->offer.port); /* sin_port has the same offset */
	c = conn_new(p, fd);
	if (connect(fd, (struct sockaddr *)&at, a->ai_addrlen) && errno != EINPROGRESS)
		failed(p, c, -errno);
}

static void show(struct meeting *p, struct meet_conn *c)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (!err && send(c->fd, p->offer.source, MEET_HALF, MSG_NOSIGNAL | MSG_DONTWAIT) != MEET_HALF)
		err = errno;
	if (err)
		failed(p, c, -err);
	else
		c->up = true;
}

static void hear_back(struct meeting *p, struct meet_conn *c)
{
	int err = conn_read(c, p->offer.target);

	if (!err)
		arrived(p, c);
	else if (err != -EAGAIN)
		failed(p, c, err);
}

static void dial(struct meeting *p)
{
	uint64_t now = clock_ns();
	bool busy = false;

	for (unsigned i = 0; i < MEET_CONNS; i++) {
		if (p->conn[i].fd >= 0 && now - p->conn[i].since > ATTEMPT)
			failed(p, &p->conn[i], -ETIMEDOUT);
		busy = busy || p->conn[i].fd >= 0;
	}
	if (now < p->next_at)
		return;
	if (p->next) {
		struct addrinfo *a = p->next;

		p->next = a->ai_next;
		p->next_at = now + STAGGER;
		dial_one(p, a);
	} else if (!busy) {
		p->next = p->list;
		p->next_at = now + AGAIN;
	}
}

/* --- poll loop --- */

void meet_poll(const struct meeting *p, struct pollfd v[MEET_FDS], uint64_t *until)
{
	bool turn = p->agreed && p->wanted && p->own == VMM_END_SOURCE && p->fd < 0 && p->list;
	uint64_t now = clock_ns();

	v[0] = (struct pollfd){ .fd = now < p->next_at && p->own == VMM_END_TARGET ? -1 : p->listener,
				.events = POLLIN };
	for (unsigned i = 0; i < MEET_CONNS; i++)
		v[1 + i] = (struct pollfd){ .fd = p->conn[i].fd,
					    .events = p->own == VMM_END_SOURCE && !p->conn[i].up ? POLLOUT
												 : POLLIN };
	if (p->own == VMM_END_TARGET && p->listener >= 0 && now < p->next_at && p->next_at < *until)
		*until = p->next_at;
	if (turn && p->next && p->next_at < *until)
		*until = p->next_at;
	if (turn && now + STAGGER < *until)
		*until = now + STAGGER;
}

void meet_step(struct meeting *p, const struct pollfd v[MEET_FDS])
{
	for (unsigned i = 0; i < MEET_CONNS && p->fd < 0; i++) {
		struct meet_conn *c = &p->conn[i];

		if (c->fd < 0 || c->fd != v[1 + i].fd || !v[1 + i].revents)
			continue;
		if (p->own == VMM_END_TARGET)
			welcome(p, c);
		else if (c->up)
			hear_back(p, c);
		else
			show(p, c);
	}
	if (p->fd >= 0)
		return;
	if (v[0].fd >= 0 && v[0].revents && v[0].fd == p->listener)
		let_in(p);
	if (p->own == VMM_END_SOURCE && p->agreed && p->wanted && p->list)
		dial(p);
}

int meet_wait(struct meeting *p, uint64_t until)
{
	bool can = p->own == VMM_END_TARGET ? p->listener >= 0 : p->list != NULL;

	while (can && p->fd < 0 && clock_ns() < until) {
		struct pollfd v[MEET_FDS];
		uint64_t turn = until, now = clock_ns();

		meet_poll(p, v, &turn);
		poll(v, MEET_FDS, turn <= now ? 0 : (int)((turn - now) / MS + 1));
		meet_step(p, v);
	}
	if (p->fd >= 0)
		return 0;
	return p->err ? p->err : -ETIMEDOUT;
}
