/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "arbiter.h"
#include "exchange.h"
#include "util.h"

#define HELLO "rdma-migrate"
#define FORMAT 1
#define LINE_MAX_BYTES (64u << 20) /* a report with two hours of samples is less */
#define PINGS 16
#define SECOND UINT64_C(1000000000)
#define ARRIVE_LIMIT (10 * SECOND) /* both reached the reservation: the source's connection is on its way */
#define TALK_LIMIT \
	(180 * SECOND) /* longer than either end waits for anything: a peer that lives has spoken */

/* Messages of one connection; what was read beyond a line is kept for the next. */
struct talk {
	int fd;
	char *buf;
	size_t len, cap;
	uint64_t until;
};

/* --- the connection --- */

/* HOST and PORT of a "tcp:HOST:PORT", "rdma:[::1]:PORT"; the report's port is the next, or the one that was
 * asked for. */
static int split(const char *uri, const struct options *o, char host[256], uint16_t *port)
{
	const char *at = strchr(uri, ':'), *colon = strrchr(uri, ':');
	uint64_t v;
	size_t len;

	if (!at || colon == at || parse_count(colon + 1, &v) || v > 65535)
		return -EINVAL;
	at++;
	len = (size_t)(colon - at);
	if (len >= 2 && at[0] == '[' && colon[-1] == ']') {
		at++;
		len -= 2;
	}
	if (len >= 256)
		return -EINVAL;
	memcpy(host, at, len);
	host[len] = 0;
	if (o->report_port_set)
		v = o->report_port;
	else
		v = v < 65535 ? v + 1 : 0;
	*port = (uint16_t)v;
	return v ? 0 : -ENOENT;
}

static struct addrinfo *resolve(const char *host, uint16_t port, int flags)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV }, *list;
	char service[8];

	snprintf(service, sizeof(service), "%u", port);
	return getaddrinfo(*host ? host : NULL, service, &hints, &list) ? NULL : list;
}

/* A host that has gone is found within seconds, however long the peer is silent for good reason. */
static void keep_alive(int fd)
{
	int on = 1, idle = 2, every = 1, count = 5, give_up_ms = 10000;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &give_up_ms, sizeof(give_up_ms));
}

int peer_await(struct peer *p, const char *uri, const struct options *o)
{
	struct addrinfo *list, *a;
	char host[256];
	int on = 1, err = EADDRNOTAVAIL;

	p->listener = p->fd = -1;
	if (split(uri, o, host, &p->port))
		return 0;
	list = resolve(host, p->port, AI_PASSIVE);
	for (a = list; a && p->listener < 0; a = a->ai_next) {
		int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

		if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) &&
		    !bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, 4)) {
			p->listener = fd;
			continue;
		}
		err = errno;
		if (fd >= 0)
			close(fd);
	}
	if (list)
		freeaddrinfo(list);
	return p->listener < 0 ? -err : 0;
}

void peer_dial(struct peer *p, const char *uri, const struct options *o)
{
	struct addrinfo *list, *a;
	char host[256];

	if (p->fd >= 0 || split(uri, o, host, &p->port))
		return;
	list = resolve(host, p->port, 0);
	for (a = list; a && p->fd < 0; a = a->ai_next) {
		p->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (p->fd < 0 || !connect(p->fd, a->ai_addr, a->ai_addrlen) || errno == EINPROGRESS)
			continue;
		close(p->fd);
		p->fd = -1;
	}
	if (list)
		freeaddrinfo(list);
	if (p->fd >= 0)
		keep_alive(p->fd);
}

void peer_end(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	if (p->listener >= 0)
		close(p->listener);
	p->fd = p->listener = -1;
}

/* --- lines --- */

static int wait_for(int fd, short events, uint64_t until)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		uint64_t now = clock_ns();
		int n = poll(&p, 1, now >= until ? 0 : (int)((until - now) / 1000000 + 1));

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0 && clock_ns() >= until)
			return -ETIMEDOUT;
	}
}

static int say(struct talk *t, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	size_t len = text ? strlen(text) : 0, done = 0;
	int err = text ? 0 : -ENOMEM;

	if (text)
		text[len++] = '\n'; /* in the place of the end of the string */
	while (!err && done < len) {
		ssize_t n = send(t->fd, text + done, len - done, MSG_NOSIGNAL);

		if (n > 0)
			done += (size_t)n;
		else if (errno == EAGAIN)
			err = wait_for(t->fd, POLLOUT, t->until);
		else if (errno != EINTR)
			err = -errno;
	}
	free(text);
	json_decref(o);
	return err;
}

static int more(struct talk *t)
{
	ssize_t n;

	if (t->len == LINE_MAX_BYTES)
		return -EMSGSIZE;
	if (t->len == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 65536;
		char *buf = realloc(t->buf, cap);

		if (!buf)
			return -ENOMEM;
		t->buf = buf;
		t->cap = cap;
	}
	n = recv(t->fd, t->buf + t->len, t->cap - t->len, 0);
	if (n > 0)
		t->len += (size_t)n;
	else if (!n)
		return -EPIPE;
	else if (errno == EAGAIN)
		return wait_for(t->fd, POLLIN, t->until);
	else if (errno != EINTR)
		return -errno;
	return 0;
}

/* The next message, an object; NULL with *err. */
static json_t *hear(struct talk *t, int *err)
{
	char *end = NULL;
	size_t seen = 0;
	json_t *o;

	*err = 0;
	while (!*err && !(end = t->len > seen ? memchr(t->buf + seen, '\n', t->len - seen) : NULL)) {
		seen = t->len;
		*err = more(t);
	}
	if (*err)
		return NULL;
	o = json_loadb(t->buf, (size_t)(end - t->buf), JSON_REJECT_DUPLICATES, NULL);
	t->len -= (size_t)(end + 1 - t->buf);
	memmove(t->buf, end + 1, t->len);
	if (json_is_object(o))
		return o;
	json_decref(o);
	*err = -EPROTO;
	return NULL;
}

/* --- the conversation --- */

/* Both of one migration, as far as both know which it was: an end whose process was killed does not. */
static int check_hello(const json_t *o, const char *mine)
{
	const char *name = json_string_value(json_object_get(o, "hello")),
		   *session = json_string_value(json_object_get(o, "session"));

	if (!name || strcmp(name, HELLO) || json_integer_value(json_object_get(o, "format")) != FORMAT)
		return -EPROTO;
	return session && *session && *mine && strcmp(session, mine) ? -ESTALE : 0;
}

static json_t *hello(const char *session, bool recording)
{
	return json_pack("{s:s,s:i,s:s,s:b}", "hello", HELLO, "format", FORMAT, "session", session,
			 "recording", recording);
}

static int ask_clock(struct talk *t, struct run_report *r)
{
	uint64_t best = UINT64_MAX;
	int err = 0;

	for (int i = 0; i < PINGS && !err; i++) {
		uint64_t begin = clock_ns(), end;
		json_t *o;

		err = say(t, json_pack("{s:i}", "ping", i));
		o = err ? NULL : hear(t, &err);
		end = clock_ns();
		if (o && end - begin < best) {
			best = end - begin;
			r->clock_offset_ns = json_integer_value(json_object_get(o, "clock_ns")) -
					     (int64_t)(begin + (end - begin) / 2);
			r->clock_error_ns = best / 2;
		}
		json_decref(o);
	}
	return err;
}

static int take(json_t *report, struct run_report *r, enum vmm_end other, struct record *record, char *why,
		size_t cap)
{
	/* The offset is target's clock less source's. */
	int64_t offset = other == VMM_END_TARGET ? -r->clock_offset_ns : r->clock_offset_ns;
	int err = peer_report_take(r, other, report, why, cap);
	const json_t *rec = json_object_get(report, "recording");

	if (!err && record && json_is_object(rec) && peer_record_take(record, other, rec, offset))
		fprintf(stderr,
			"rdma-migrate: the other end's recording is damaged; a part of it is missing.\n");
	return err;
}

static int source_talks(struct talk *t, struct run_report *r, struct record *record, const char *session,
			char *why, size_t cap)
{
	json_t *o, *report;
	bool recording;
	int err = say(t, hello(session, record));

	o = err ? NULL : hear(t, &err);
	if (o)
		err = check_hello(o, session);
	recording = json_is_true(json_object_get(o, "recording"));
	json_decref(o);
	if (!err)
		err = ask_clock(t, r);
	if (err)
		return err;
	report = peer_report_make(r, VMM_END_SOURCE, recording ? record : NULL);
	err = say(t,
		  json_pack("{s:o,s:I,s:I}", "report", report, "clock_offset_ns",
			    (json_int_t)r->clock_offset_ns, "clock_error_ns", (json_int_t)r->clock_error_ns));
	o = err ? NULL : hear(t, &err);
	if (o)
		err = take(json_object_get(o, "report"), r, VMM_END_TARGET, record, why, cap);
	json_decref(o);
	return err;
}

/* The source's turn: pings, and in the end its report. */
static json_t *answer_pings(struct talk *t, int *err)
{
	for (int i = 0; i <= PINGS; i++) {
		json_t *o = hear(t, err);

		if (!o || !json_object_get(o, "ping"))
			return o;
		json_decref(o);
		*err = say(t, json_pack("{s:I}", "clock_ns", (json_int_t)clock_ns()));
		if (*err)
			return NULL;
	}
	*err = -EPROTO;
	return NULL;
}

static int target_talks(struct talk *t, struct run_report *r, struct record *record, const char *session,
			char *why, size_t cap)
{
	json_t *o, *mine;
	bool recording;
	int err;

	o = hear(t, &err);
	if (o)
		err = check_hello(o, session);
	recording = json_is_true(json_object_get(o, "recording"));
	json_decref(o);
	if (!err)
		err = say(t, hello(session, record));
	o = err ? NULL : answer_pings(t, &err);
	if (!o)
		return err;
	r->clock_offset_ns = json_integer_value(json_object_get(o, "clock_offset_ns"));
	r->clock_error_ns = (uint64_t)json_integer_value(json_object_get(o, "clock_error_ns"));
	mine = peer_report_make(r, VMM_END_TARGET,
				recording ? record : NULL); /* before the other's is in it */
	err = take(json_object_get(o, "report"), r, VMM_END_SOURCE, record, why, cap);
	json_decref(o);
	if (err)
		json_decref(mine);
	else
		say(t,
		    json_pack("{s:o}", "report", mine)); /* whether it arrives is for the other end to know */
	return err;
}

/* Strangers are sent away until the source has come. */
static int serve(struct peer *p, struct run_report *r, struct record *record, const char *session, char *why,
		 size_t cap)
{
	uint64_t until = clock_ns() + ARRIVE_LIMIT;
	int err = -ENOTCONN;

	while (!wait_for(p->listener, POLLIN, until)) {
		struct talk t = { .fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK),
				  .until = clock_ns() + TALK_LIMIT };

		if (t.fd < 0)
			continue;
		keep_alive(t.fd);
		err = target_talks(&t, r, record, session, why, cap);
		free(t.buf);
		close(t.fd);
		if (!err || err == -EPIPE || err == -ECONNRESET || err == -ETIMEDOUT)
			break;
	}
	return err;
}

bool peer_exchange(struct peer *p, struct run_report *r, struct record *record)
{
	enum vmm_end own = p->listener >= 0 ? VMM_END_TARGET : VMM_END_SOURCE;
	char session[33], why[256] = "";
	int err;

	if (p->fd < 0 && p->listener < 0)
		return false;
	session[0] = 0;
	if (r->end[own].have_result)
		session_text(session, r->end[own].result.session);
	if (own == VMM_END_TARGET) {
		err = serve(p, r, record, session, why, sizeof(why));
	} else {
		struct talk t = { .fd = p->fd, .until = clock_ns() + TALK_LIMIT };

		err = wait_for(p->fd, POLLOUT, t.until);
		if (!err)
			err = source_talks(&t, r, record, session, why, sizeof(why));
		free(t.buf);
	}
	if (err)
		fprintf(stderr,
			"rdma-migrate: the %s's results did not come (port %u: %s); the table is of this end alone.\n",
			own == VMM_END_TARGET ? "source" : "target", p->port, why[0] ? why : strerror(-err));
	return !err;
}
