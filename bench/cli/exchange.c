/* SPDX-License-Identifier: MIT */
/* Two rdma-migrates exchange their reports and compare their clocks. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "exchange.h"
#include "arbiter.h"
#include "util.h"
#include "runtime/arbiter/json_bound.h"

#define HELLO "rdma-migrate"
#define FORMAT 2 /* 1 counted outcomes and owners from 0 */
#define PINGS 16
#define SECOND UINT64_C(1000000000)
#define ARRIVE_LIMIT (10 * SECOND) /* from the agreement on the port; the source connects since then */
#define TALK_LIMIT (180 * SECOND)  /* longer than any wait of an end: a live peer has sent something */

/* A hello, a clock query, its answer. */
static const struct json_bound a_word = { .bytes = 1024, .memory = 64u << 10 };
/* A report with all kept rounds; and one with a recording, accepted only if --record asked for it. */
static const struct json_bound a_report = { .bytes = 1u << 20, .memory = 16u << 20 };
static const struct json_bound a_recording = { .bytes = 64u << 20, .memory = 512u << 20 };

/* Messages of one connection; bytes read beyond a line are kept for the next. */
struct talk {
	int fd;
	char *buf;
	size_t len, cap;
	uint64_t until;
	char why[256]; /* the error in the peer's message */
};

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
		text[len++] = '\n'; /* replaces the terminating zero */
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

static int more(struct talk *t, size_t max)
{
	size_t room;
	ssize_t n;

	if (t->len == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 1024;
		char *buf = realloc(t->buf, cap);

		if (!buf)
			return -ENOMEM;
		t->buf = buf;
		t->cap = cap;
	}
	room = t->cap - t->len < max + 1 - t->len ? t->cap - t->len : max + 1 - t->len;
	n = recv(t->fd, t->buf + t->len, room, 0);
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

/* Reads a line of at most max bytes, and its newline, into t->buf. */
static int hear_line(struct talk *t, size_t max, char **end)
{
	size_t seen = 0;
	int err = 0;

	*end = NULL;
	while (!err && !*end) {
		*end = t->len > seen ? memchr(t->buf + seen, '\n', t->len - seen) : NULL;
		seen = t->len;
		if (*end ? (size_t)(*end - t->buf) > max : t->len > max) {
			snprintf(t->why, sizeof(t->why), "a line of its message is longer than %zu bytes",
				 max);
			return -EMSGSIZE;
		}
		if (!*end)
			err = more(t, max);
	}
	return err;
}

/* Reads the next message, an object within its bound; NULL with *err set. */
static json_t *hear(struct talk *t, const struct json_bound *b, int *err)
{
	char *end, why[200] = "no object";
	json_t *o;

	*err = hear_line(t, b->bytes, &end);
	if (*err)
		return NULL;
	o = json_load_bounded(t->buf, (size_t)(end - t->buf), b, why, sizeof(why));
	t->len -= (size_t)(end + 1 - t->buf);
	memmove(t->buf, end + 1, t->len);
	if (json_is_object(o))
		return o;
	json_decref(o);
	snprintf(t->why, sizeof(t->why), "its message is refused: %s", why);
	*err = -EPROTO;
	return NULL;
}

/* --- the conversation --- */

/* Both ends name the same migration, or one does not know it: its process was killed. */
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

/* Reads a time of the other host, or a difference between the two clocks. */
static int take_time(struct talk *t, const json_t *o, const char *name, bool signs, int64_t *ret)
{
	const json_t *v = json_object_get(o, name);

	*ret = json_integer_value(v);
	if (json_is_integer(v) && *ret <= (int64_t)PEER_NUMBER_MAX &&
	    *ret >= (signs ? -(int64_t)PEER_NUMBER_MAX : 0))
		return 0;
	snprintf(t->why, sizeof(t->why), "its %s is not a valid time", name);
	return -EPROTO;
}

static int ask_clock(struct talk *t, struct run_report *r)
{
	uint64_t best = UINT64_MAX;
	int err = 0;

	for (int i = 0; i < PINGS && !err; i++) {
		uint64_t begin = clock_ns(), end;
		int64_t theirs = 0;
		json_t *o;

		err = say(t, json_pack("{s:i}", "ping", i));
		o = err ? NULL : hear(t, &a_word, &err);
		end = clock_ns();
		if (o)
			err = take_time(t, o, "clock_ns", false, &theirs);
		if (!err && end - begin < best) {
			best = end - begin;
			r->clock_offset_ns = theirs - (int64_t)(begin + (end - begin) / 2);
			r->clock_error_ns = best / 2;
		}
		json_decref(o);
	}
	return err;
}

static int take(struct talk *t, json_t *report, struct run_report *r, enum vmm_end other,
		struct record *record)
{
	/* The offset is the target's clock minus the source's. */
	int64_t offset = other == VMM_END_TARGET ? -r->clock_offset_ns : r->clock_offset_ns;
	int err = peer_report_take(r, other, report, t->why, sizeof(t->why));
	const json_t *rec = json_object_get(report, "recording");

	if (!err && record && json_is_object(rec) && peer_record_take(record, other, rec, offset))
		fprintf(stderr,
			"rdma-migrate: the other end's recording is damaged; a part of it is missing.\n");
	return err;
}

static int source_talks(struct talk *t, struct run_report *r, struct record *record, const char *session)
{
	json_t *o, *report;
	bool recording;
	int err = say(t, hello(session, record));

	o = err ? NULL : hear(t, &a_word, &err);
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
	o = err ? NULL : hear(t, record ? &a_recording : &a_report, &err);
	if (o)
		err = take(t, json_object_get(o, "report"), r, VMM_END_TARGET, record);
	json_decref(o);
	return err;
}

/* Answers the source's clock queries, a fixed number of short messages. */
static int answer_pings(struct talk *t)
{
	int err = 0;

	for (int i = 0; i < PINGS && !err; i++) {
		json_t *o = hear(t, &a_word, &err);

		if (o && !json_object_get(o, "ping")) {
			snprintf(t->why, sizeof(t->why), "it queried the clock %d times instead of %d", i,
				 PINGS);
			err = -EPROTO;
		}
		json_decref(o);
		if (!err)
			err = say(t, json_pack("{s:I}", "clock_ns", (json_int_t)clock_ns()));
	}
	return err;
}

/* Reads the source's report and the difference of the clocks. */
static json_t *hear_report(struct talk *t, struct run_report *r, bool recorded, int *err)
{
	json_t *o = hear(t, recorded ? &a_recording : &a_report, err);
	int64_t offset, error;

	if (!o)
		return NULL;
	*err = take_time(t, o, "clock_offset_ns", true, &offset);
	if (!*err)
		*err = take_time(t, o, "clock_error_ns", false, &error);
	if (*err) {
		json_decref(o);
		return NULL;
	}
	r->clock_offset_ns = offset;
	r->clock_error_ns = (uint64_t)error;
	return o;
}

static int target_talks(struct talk *t, struct run_report *r, struct record *record, const char *session)
{
	json_t *o, *mine;
	bool recording;
	int err;

	o = hear(t, &a_word, &err);
	if (o)
		err = check_hello(o, session);
	recording = json_is_true(json_object_get(o, "recording"));
	json_decref(o);
	if (!err)
		err = say(t, hello(session, record));
	if (!err)
		err = answer_pings(t);
	o = err ? NULL : hear_report(t, r, record, &err);
	if (!o)
		return err;
	mine = peer_report_make(r, VMM_END_TARGET,
				recording ? record : NULL); /* before the peer's is added */
	err = take(t, json_object_get(o, "report"), r, VMM_END_SOURCE, record);
	json_decref(o);
	if (err)
		json_decref(mine);
	else
		say(t, json_pack("{s:o}", "report", mine)); /* only the peer learns whether it arrives */
	return err;
}

static void no_results(enum vmm_end of, const char *why)
{
	fprintf(stderr, "rdma-migrate: the %s's results %s; the table is of this end alone.\n",
		of == VMM_END_TARGET ? "target" : "source", why);
}

/* Works the same whether both ends live or one reports an end that died. */
static void did_not_come(const struct meeting *p, int err, const char *why)
{
	char text[400], strangers[64] = "";

	if (p->strangers)
		snprintf(strangers, sizeof(strangers), ", of %u other connections none had its token",
			 p->strangers);
	snprintf(text, sizeof(text), "did not come (port %u: %s%s)", p->offer.port,
		 why[0] ? why : strerror(-err), strangers);
	no_results(p->own == VMM_END_TARGET ? VMM_END_SOURCE : VMM_END_TARGET, text);
}

bool peer_exchange(struct meeting *p, struct run_report *r, struct record *record)
{
	enum vmm_end own = p->own;
	char session[33] = "";
	struct talk t = { .until = clock_ns() + TALK_LIMIT };
	int err;

	if (!p->wanted)
		return false;
	if (!p->agreed) {
		no_results(own == VMM_END_TARGET ? VMM_END_SOURCE : VMM_END_TARGET,
			   "are not available: the migration ended before the two ends had agreed on a port for them");
		return false;
	}
	if (r->end[own].have_result)
		session_text(session, r->end[own].result.session);
	err = meet_wait(p, clock_ns() + ARRIVE_LIMIT);
	t.fd = p->fd;
	if (!err && own == VMM_END_TARGET)
		err = target_talks(&t, r, record, session);
	else if (!err)
		err = source_talks(&t, r, record, session);
	free(t.buf);
	if (err)
		did_not_come(p, err, t.why);
	return !err;
}
