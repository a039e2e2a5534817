// SPDX-License-Identifier: MIT
/* The client of QEMU's monitor: connects, sends commands, matches replies, keeps events. */
#include "qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "runtime/arbiter/json_bound.h"

#define LINE_MAX_BYTES (1u << 20)
#define EVENT_MAX_BYTES (16u << 10) /* of an event that is kept */
#define READ_BYTES (64u << 10)
#define RETRY_US 5000u /* between two attempts to connect */

static const struct json_bound bound = { .bytes = LINE_MAX_BYTES, .memory = 64u << 20 };

/* ---- errors ---- */

static int fails(struct qmp *q, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fails(struct qmp *q, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(q->why, sizeof(q->why), fmt, ap);
	va_end(ap);
	json_printable(q->why);
	return err;
}

/* The connection cannot be used any more: QEMU has left, or it is not known where its next message begins. */
static int broken(struct qmp *q, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int broken(struct qmp *q, int err, const char *fmt, ...)
{
	char what[QMP_WHY];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (q->fd >= 0)
		close(q->fd);
	q->fd = -1;
	return fails(q, err, "QEMU's monitor at %s %s", q->path, what);
}

/* ---- the socket ---- */

/* 0: the socket is ready; -ETIMEDOUT. */
static int await(struct qmp *q, short events, uint64_t until_us)
{
	struct pollfd p = { .fd = q->fd, .events = events };

	for (;;) {
		uint64_t now = clock_us(), left = now < until_us ? until_us - now : 0;
		struct timespec ts = { (time_t)(left / 1000000), (long)(left % 1000000 * 1000) };
		int n = ppoll(&p, 1, &ts, NULL);

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return broken(q, -errno, "cannot be waited for: %s", strerror(errno));
		if (!n && !left)
			return -ETIMEDOUT;
	}
}

/* fd goes with the first byte. */
static ssize_t send_with(int socket, const char *text, size_t len, int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} c = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)),
			  .cmsg_level = SOL_SOCKET,
			  .cmsg_type = SCM_RIGHTS } };
	struct iovec v = { (void *)(uintptr_t)text, len };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };

	if (fd < 0)
		return send(socket, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	memcpy(CMSG_DATA(&c.head), &fd, sizeof(fd));
	return sendmsg(socket, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Only whole commands are sent: after a part of one the connection is of no use. fd may be -1. */
static int send_all(struct qmp *q, const char *text, size_t len, int fd, const char *command,
		    uint64_t until_us)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = send_with(q->fd, text + at, len - at, at ? -1 : fd);
		int err;

		if (n > 0) {
			at += (size_t)n;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return broken(q, -EPIPE, "is lost, %s cannot be sent: %s", command, strerror(errno));
		err = await(q, POLLOUT, until_us);
		if (err == -ETIMEDOUT && at)
			return broken(q, err, "has taken only a part of %s in time", command);
		if (err == -ETIMEDOUT)
			return fails(q, err, "QEMU's monitor at %s takes no command in time: %s is not sent",
				     q->path, command);
		if (err < 0)
			return err;
	}
	return 0;
}

static int send_command(struct qmp *q, const char *command, json_t *args, int fd, uint64_t until_us)
{
	json_t *o = json_pack("{s:s, s:I, s:o*}", "execute", command, "id", (json_int_t)(q->sent + 1),
			      "arguments", args);
	size_t len = o ? json_dumpb(o, NULL, 0, JSON_COMPACT) : 0;
	char *text = len ? malloc(len + 1) : NULL;
	int err;

	if (text) {
		json_dumpb(o, text, len, JSON_COMPACT);
		text[len] = '\n';
	}
	json_decref(o);
	if (!text)
		return fails(q, -ENOMEM, "%s cannot be written as JSON", command);
	err = send_all(q, text, len + 1, fd, command, until_us);
	free(text);
	q->sent += !err;
	return err;
}

/* Reads once, after await(). */
static int read_some(struct qmp *q)
{
	ssize_t n;

	if (q->len > LINE_MAX_BYTES)
		return broken(q, -EPROTO, "sends a message of more than %u bytes", LINE_MAX_BYTES);
	n = recv(q->fd, q->line + q->len, READ_BYTES, MSG_DONTWAIT);
	if (n > 0)
		q->len += (size_t)n;
	else if (!n)
		return broken(q, -EPIPE, "has closed the connection%s",
			      q->len ? " in the middle of a message" : "; QEMU may have ended");
	else if (errno != EAGAIN && errno != EINTR)
		return broken(q, -EPIPE, "is lost: %s", strerror(errno));
	return 0;
}

/* Parses the first line and takes it out of the buffer. */
static int take_line(struct qmp *q, size_t len, json_t **ret, size_t *bytes)
{
	char why[200];
	json_t *o = json_load_bounded(q->line, len, &bound, why, sizeof(why));

	q->len -= len + 1;
	memmove(q->line, q->line + len + 1, q->len);
	q->searched = 0;
	if (!o)
		return broken(q, -EPROTO, "sends what is not QMP: %s", why);
	if (!json_is_object(o)) {
		json_decref(o);
		return broken(q, -EPROTO, "sends what is not QMP: no object");
	}
	*ret = o;
	*bytes = len;
	return 0;
}

static bool is_blank(char c)
{
	return c == '\r' || c == '\n' || c == ' ';
}

/* QMP's lines end with CR LF; empty ones are no messages. */
static void skip_blank(struct qmp *q)
{
	size_t n = 0;

	while (n < q->len && is_blank(q->line[n]))
		n++;
	q->len -= n;
	q->searched = 0;
	memmove(q->line, q->line + n, q->len);
}

/* The next message: -ETIMEDOUT leaves why to the caller, who knows what was waited for. */
static int next_message(struct qmp *q, uint64_t until_us, json_t **ret, size_t *bytes)
{
	for (;;) {
		char *end;
		int err;

		if (q->len && is_blank(q->line[0]))
			skip_blank(q);
		end = memchr(q->line + q->searched, '\n', q->len - q->searched);
		if (end)
			return take_line(q, (size_t)(end - q->line), ret, bytes);
		q->searched = q->len;
		/* A peer that sends without end, and ends no line, must not outlast the deadline either. */
		err = clock_us() < until_us ? await(q, POLLIN, until_us) : -ETIMEDOUT;
		if (!err)
			err = read_some(q);
		if (err < 0)
			return err;
	}
}

/* ---- events ---- */

static void remove_event(struct qmp *q, unsigned i)
{
	memmove(&q->event[i], &q->event[i + 1], (--q->nevents - i) * sizeof(q->event[0]));
}

void qmp_forget(struct qmp *q, const char *name)
{
	for (unsigned i = 0; i < q->nevents;) {
		if (name && strcmp(q->event[i].name, name)) {
			i++;
			continue;
		}
		json_decref(q->event[i].data);
		remove_event(q, i);
	}
}

static bool is_kept(const struct qmp *q, const char *name)
{
	for (const char *const *k = q->keep; k && *k; k++)
		if (!strcmp(*k, name))
			return true;
	return false;
}

static int keep_event(struct qmp *q, json_t *o, size_t bytes)
{
	const char *name = json_string_value(json_object_get(o, "event"));
	json_t *data = json_object_get(o, "data");
	struct qmp_event *e;

	if (!name || (data && !json_is_object(data)))
		return broken(q, -EPROTO, "sends an event without a name, or with data that is no object");
	if (!is_kept(q, name))
		return 0;
	if (bytes > EVENT_MAX_BYTES || strlen(name) >= sizeof(e->name))
		return broken(q, -EPROTO, "sends an event %.40s of %zu bytes", name, bytes);
	if (q->nevents == QMP_EVENTS) {
		json_decref(q->event[0].data);
		remove_event(q, 0);
		q->dropped++;
	}
	e = &q->event[q->nevents++];
	*e = (struct qmp_event){ .data = json_incref(data), .time_us = clock_us() };
	memcpy(e->name, name, strlen(name) + 1);
	return 0;
}

static bool take_event(struct qmp *q, const char *name, struct qmp_event *ret)
{
	for (unsigned i = 0; i < q->nevents; i++)
		if (!strcmp(q->event[i].name, name)) {
			*ret = q->event[i];
			remove_event(q, i);
			return true;
		}
	return false;
}

/* ---- replies ---- */

static int lost_before(struct qmp *q, const char *what)
{
	return fails(q, -EPIPE, "QEMU's monitor at %s is lost: %s is not possible", q->path, what);
}

/* 1: o is the reply to the last command; 0: the late reply to one that has timed out. */
static int match(struct qmp *q, const json_t *o, const char *command)
{
	const json_t *id = json_object_get(o, "id");
	json_int_t n = json_is_integer(id) ? json_integer_value(id) : -1;
	const char *desc = json_string_value(json_object_get(json_object_get(o, "error"), "desc"));

	if (!id && desc)
		return broken(q, -EPROTO, "answers %s with an error that belongs to no command: %s", command,
			      desc);
	if (n <= (json_int_t)q->answered || n > (json_int_t)q->sent)
		return broken(q, -EPROTO, "answers %s with a reply that has another command's id", command);
	q->answered = (uint64_t)n;
	return q->answered == q->sent;
}

static int use_reply(struct qmp *q, json_t *o, const char *command, json_t **ret)
{
	json_t *value = json_object_get(o, "return"), *error = json_object_get(o, "error");
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));

	if (value && !error) {
		if (ret)
			*ret = json_incref(value);
		return 0;
	}
	if (value || !class || !desc)
		return broken(q, -EPROTO, "answers %s with neither a result nor an error", command);
	snprintf(q->class, sizeof(q->class), "%s", class);
	json_printable(q->class);
	return fails(q, -EREMOTEIO, "QEMU refuses %s: %s (%s)", command, desc, q->class);
}

/*
 * Reads one message: keeps an event, or hands over the reply to the last command. 1: *reply is set; 0: it was
 * an event, or the reply to a command that has timed out. -ETIMEDOUT leaves why to the caller.
 */
static int one_message(struct qmp *q, const char *what, uint64_t until_us, json_t **reply)
{
	json_t *o = NULL;
	size_t bytes;
	int err = next_message(q, until_us, &o, &bytes);

	if (err < 0)
		return err;
	err = json_object_get(o, "event") ? keep_event(q, o, bytes) : match(q, o, what);
	if (err == 1)
		*reply = o;
	else
		json_decref(o);
	return err;
}

static int call(struct qmp *q, const char *command, json_t *args, int fd, uint64_t timeout_us, json_t **ret)
{
	uint64_t until_us = clock_us() + timeout_us;
	json_t *reply = NULL;
	int err;

	if (q->fd < 0) {
		json_decref(args);
		return lost_before(q, command);
	}
	err = send_command(q, command, args, fd, until_us);
	if (err < 0)
		return err;
	while (!(err = one_message(q, command, until_us, &reply)) && clock_us() < until_us)
		;
	if (!err || err == -ETIMEDOUT)
		return fails(q, -ETIMEDOUT, "QEMU has not answered %s within %llu ms", command,
			     (unsigned long long)timeout_us / 1000);
	if (err == 1)
		err = use_reply(q, reply, command, ret);
	json_decref(reply);
	return err;
}

int qmp_call(struct qmp *q, const char *command, json_t *args, uint64_t timeout_us, json_t **ret)
{
	return call(q, command, args, -1, timeout_us, ret);
}

int qmp_give(struct qmp *q, const char *name, int fd, uint64_t timeout_us)
{
	return call(q, "getfd", json_pack("{s:s}", "fdname", name), fd, timeout_us, NULL);
}

int qmp_next(struct qmp *q, const char *name, uint64_t until_us, struct qmp_event *ret)
{
	int err = 0;

	while (!take_event(q, name, ret)) {
		json_t *late = NULL;

		if (q->fd < 0)
			return lost_before(q, name);
		if (err < 0 || clock_us() >= until_us)
			return fails(q, -ETIMEDOUT, "QEMU has not sent the event %s in time", name);
		err = one_message(q, name, until_us, &late);
		json_decref(late);
		if (err < 0 && err != -ETIMEDOUT)
			return err;
	}
	return 0;
}

/* ---- connecting ---- */

static bool is_starting(int err)
{
	return err == ENOENT || err == ECONNREFUSED;
}

static int connect_to(struct qmp *q, bool wait, uint64_t until_us)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	memcpy(a.sun_path, q->path, sizeof(q->path));
	for (;;) {
		int err = 0;

		q->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (q->fd < 0)
			return broken(q, -errno, "cannot be reached: %s", strerror(errno));
		if (!connect(q->fd, (struct sockaddr *)&a, sizeof(a)))
			return 0;
		err = errno;
		close(q->fd);
		q->fd = -1;
		/* EAGAIN: others wait there, too. */
		if (clock_us() >= until_us || !(err == EAGAIN || (wait && is_starting(err))))
			return broken(q, err == EAGAIN ? -EBUSY : -err, "cannot be reached: %s%s",
				      strerror(err),
				      err == EAGAIN
					      ? "; other clients wait there already: give QEMU a second -qmp"
				      : is_starting(err)
					      ? "; is QEMU running with -qmp unix:PATH,server=on,wait=off?"
					      : "");
		usleep(RETRY_US);
	}
}

static int peer(struct qmp *q)
{
	struct ucred c;
	socklen_t len = sizeof(c);

	if (getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &c, &len))
		return broken(q, -errno, "does not say whose it is: %s", strerror(errno));
	if (c.pid <= 0)
		return broken(q, -ESRCH, "belongs to a process that is not in this PID namespace");
	q->pid = c.pid;
	return 0;
}

static int greet(struct qmp *q, uint64_t until_us)
{
	json_t *o = NULL;
	size_t bytes;
	int err = next_message(q, until_us, &o, &bytes), major, minor, micro;

	if (err == -ETIMEDOUT)
		return broken(q, err,
			      "sends no greeting; another client may hold it, as a monitor serves one at a time: give QEMU a second -qmp");
	if (err < 0)
		return err;
	if (json_unpack(o, "{s:{s:{s:{s:i, s:i, s:i}}}}", "QMP", "version", "qemu", "major", &major, "minor",
			&minor, "micro", &micro) ||
	    major < 0 || minor < 0 || micro < 0)
		err = broken(q, -EPROTO, "greets as no QEMU does; is it a QMP socket?");
	json_decref(o);
	if (err < 0)
		return err;
	q->major = (unsigned)major;
	q->minor = (unsigned)minor;
	q->micro = (unsigned)micro;
	return 0;
}

int qmp_open(struct qmp *q, const char *path, const char *const *keep, bool wait, uint64_t timeout_us)
{
	uint64_t until_us = clock_us() + timeout_us, now;
	int err;

	memset(q, 0, sizeof(*q));
	q->fd = -1;
	q->keep = keep;
	if (!*path || strlen(path) >= sizeof(q->path))
		return fails(q, -EINVAL, "the path of a monitor has 1 to %zu characters, \"%.40s\" has %zu",
			     sizeof(q->path) - 1, path, strlen(path));
	memcpy(q->path, path, strlen(path) + 1);
	q->line = malloc(LINE_MAX_BYTES + READ_BYTES);
	if (!q->line)
		return fails(q, -ENOMEM, "no memory for the monitor at %s", path);
	err = connect_to(q, wait, until_us);
	if (!err)
		err = peer(q);
	if (!err)
		err = greet(q, until_us);
	now = clock_us();
	return err ? err : qmp_call(q, "qmp_capabilities", NULL, now < until_us ? until_us - now : 0, NULL);
}

void qmp_close(struct qmp *q)
{
	qmp_forget(q, NULL);
	if (q->fd >= 0)
		close(q->fd);
	q->fd = -1;
	free(q->line);
	q->line = NULL;
}
