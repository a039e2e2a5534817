// SPDX-License-Identifier: MIT
/* What all parts of a session use: its log, its events, the results of ops, and waking main. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "session.h"

#define LOG_END_MAX 40 /* " end=... session=..." */
#define LOG_HEAD_MAX 320

void session_wake(struct ferry_session *s)
{
	uint64_t one = 1;

	if (write(s->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		session_log(s, 3, NULL, "wake-failed errno=%d", errno);
}

/* Append text="...": quotes and backslashes escaped, control characters as blanks. buf has the room. */
static void put_quoted(char *buf, const char *text)
{
	buf = stpcpy(buf, " text=\"");
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			*buf++ = '\\';
		*buf++ = (unsigned char)*text < 0x20 ? ' ' : *text;
	}
	strcpy(buf, "\"");
}

void session_log(struct ferry_session *s, int level, const char *text, const char *fmt, ...)
{
	char line[LOG_HEAD_MAX + 2 * FAIL_MAX + 16] = "event=";
	const uint8_t *id = s->session;
	size_t len = strlen(line);
	va_list ap;

	if (!s->ops.log)
		return;
	va_start(ap, fmt);
	vsnprintf(line + len, LOG_HEAD_MAX - LOG_END_MAX - len, fmt, ap);
	va_end(ap);
	len = strlen(line);
	snprintf(line + len, LOG_END_MAX, " end=%s session=%02x%02x%02x%02x",
		 s->is_source ? "source" : "target", id[0], id[1], id[2], id[3]);
	if (text)
		put_quoted(line + strlen(line), text);
	s->ops.log(s->vm, level, line);
}

void session_event(struct ferry_session *s, enum ferry_event_type type, const char *text,
		   const struct ferry_round *round)
{
	struct ferry_event ev = { .size = sizeof(ev),
				  .type = type,
				  .phase = s->phase,
				  .time_us = now_us() - s->started_us,
				  .text = text };

	if (round)
		ev.round = *round;
	if (s->ops.event)
		s->ops.event(s->vm, &ev);
}

void session_slower(void *arg, enum cure doing, int err, const char *what)
{
	struct ferry_session *s = arg;
	struct fail f = { 0 };

	fail_cure(&f, doing, err, "slower: %s", what);
	session_log(s, 4, fail_text(&f), "slower errno=%d", -err);
}

/* The first error is the session's, and its op and reason with it. Main. */
static void note_op(struct ferry_session *s, const char *op)
{
	session_reason(s, FERRY_REASON_OP);
	if (!fail_err(&s->fail))
		s->failed_op = op;
}

int op_result(struct ferry_session *s, const char *op, int err)
{
	if (err >= 0)
		return 0;
	note_op(s, op);
	fail(&s->fail, err, "%s: the VMM answered %d (%s)", op, err, strerror(-err));
	return err == -EPIPE ? -ECONNABORTED : err; /* inside, -EPIPE is a lost link */
}

int op_stream_result(struct ferry_session *s, const char *op, int err)
{
	if (err < 0)
		note_op(s, op);
	if (err < 0 && fail_err(&s->stream.fail))
		fail(&s->fail, err, "%s", fail_text(&s->stream.fail));
	return op_result(s, op, err);
}

int session_track(struct ferry_session *s, struct page_set *set, unsigned pages)
{
	uint64_t *n = calloc(s->nregions, sizeof(*n));
	int err = -ENOMEM;

	for (size_t i = 0; n && i < s->nregions; i++)
		n[i] = ((s->regions[i].len >> PAGE_SHIFT) + pages - 1) / pages;
	if (n)
		err = page_set_init(set, n, s->nregions);
	free(n);
	return err < 0 ? fail(&s->fail, err, "no memory to track %" PRIu64 " pages", s->pages_total) : 0;
}
