// SPDX-License-Identifier: MIT
/*
 * Saves and loads QEMU's device state. The states of the source, and the way back from each:
 *
 *	migrate			running		migrate_cancel, or it would stop later
 *	  MIGRATION pre-switchover	finish-migrate	stopped, disks active; migrate_cancel, and it runs again by itself
 *	migrate-continue	device
 *	  MIGRATION completed	postmigrate	stopped, disks inactive; cont
 *	failed			paused or running; cont
 */
#include "state.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define STATE_MAX ((size_t)62 << 20) /* ferry carries 64 MiB, headers included */
#define READ_BYTES ((size_t)256 << 10)
#define POLL_US 2000u
#define RETRY_US 100000u
#define FD_NAME "ferry"

static int says(struct qmp *q, int err, const char *what)
{
	snprintf(q->why, sizeof(q->why), "%s", what);
	return err;
}

/* ---- the stream ---- */

static int read_all(struct state_reader *r)
{
	size_t cap = 0;
	ssize_t n;

	do {
		if (r->len + READ_BYTES > cap) {
			uint8_t *more = realloc(r->buf, cap = cap * 2 + READ_BYTES);

			if (!more)
				return -ENOMEM;
			r->buf = more;
		}
		n = read(r->fd, r->buf + r->len, READ_BYTES);
		if (n > 0)
			r->len += (size_t)n;
		if (r->len > STATE_MAX)
			return -E2BIG;
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 ? -errno : 0;
}

static void *read_thread(void *arg)
{
	struct state_reader *r = arg;

	r->err = read_all(r);
	if (r->err)
		shutdown(r->fd, SHUT_RDWR); /* QEMU's migration fails, instead of waiting for us */
	return NULL;
}

static int start_reader(struct state_reader *r, int fd)
{
	*r = (struct state_reader){ .fd = fd };
	if (!pthread_create(&r->thread, NULL, read_thread, r))
		return 0;
	r->fd = -1;
	return -EAGAIN;
}

/* A socket of which QEMU has one end, under FD_NAME; ours in *fd. */
static int make_socket(struct qmp *q, int *fd, uint64_t timeout_us)
{
	int pair[2], err;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return says(q, -errno, "no socket for the device state can be made");
	err = qmp_give(q, FD_NAME, pair[1], timeout_us);
	close(pair[1]);
	if (err < 0)
		close(pair[0]);
	else
		*fd = pair[0];
	return err;
}

/* ---- the states of a migration ---- */

/* QEMU's own sentence, if it has one. */
static int failed(struct qmp *q, const char *status, uint64_t timeout_us)
{
	json_t *o = NULL;
	const char *desc = NULL;

	if (!qmp_call(q, "query-migrate", NULL, timeout_us, &o))
		desc = json_string_value(json_object_get(o, "error-desc"));
	snprintf(q->why, sizeof(q->why), "QEMU's migration has the status %.40s%s%.250s", status,
		 desc ? ": " : "", desc ? desc : "");
	json_decref(o);
	return -ECANCELED;
}

/* Waits until the migration has this status. */
static int await_status(struct qmp *q, const char *due, uint64_t timeout_us)
{
	uint64_t until_us = clock_us() + timeout_us;
	struct qmp_event e;
	int err;

	while (!(err = qmp_next(q, STATE_EVENT, until_us, &e))) {
		const char *is = json_string_value(json_object_get(e.data, "status"));
		bool there = is && !strcmp(is, due);
		bool over = !is || !strcmp(is, "failed") || !strcmp(is, "cancelled") ||
			    !strcmp(is, "completed");

		if (!there && over)
			err = failed(q, is ? is : "none", timeout_us);
		json_decref(e.data);
		if (there || err)
			break;
	}
	return err;
}

static int query_status(struct qmp *q, char status[40], uint64_t timeout_us)
{
	json_t *o = NULL;
	int err = qmp_call(q, "query-status", NULL, timeout_us, &o);
	const char *is = json_string_value(json_object_get(o, "status"));

	if (!err && !is)
		err = says(q, -EPROTO, "QEMU answers query-status without a status");
	if (!err)
		snprintf(status, 40, "%s", is);
	json_decref(o);
	return err;
}

int state_capabilities(struct qmp *q, const char *const *names, bool on, uint64_t timeout_us)
{
	json_t *list = json_array();

	for (; *names; names++)
		json_array_append_new(list, json_pack("{s:s, s:b}", "capability", *names, "state", on));
	return qmp_call(q, "migrate-set-capabilities", json_pack("{s:o}", "capabilities", list), timeout_us,
			NULL);
}

int state_stop(struct qmp *q, struct state_reader *r, uint64_t timeout_us)
{
	int fd = -1, err = make_socket(q, &fd, timeout_us);

	r->fd = -1;
	if (err < 0)
		return err;
	if (start_reader(r, fd)) {
		close(fd);
		return says(q, -EAGAIN, "no thread to read the device state can be started");
	}
	qmp_forget(q, STATE_EVENT);
	err = qmp_call(q, "migrate", json_pack("{s:s}", "uri", "fd:" FD_NAME), timeout_us, NULL);
	return err ? err : await_status(q, "pre-switchover", timeout_us);
}

int state_save(struct qmp *q, struct state_reader *r, uint64_t timeout_us)
{
	int err = qmp_call(q, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"), timeout_us,
			   NULL);

	if (!err)
		err = await_status(q, "completed", timeout_us);
	if (err < 0)
		return err;
	pthread_join(r->thread, NULL); /* QEMU closes the socket when it has completed */
	close(r->fd);
	r->fd = -1;
	if (r->err == -E2BIG)
		return says(q, r->err, "QEMU's device state has more than 62 MiB");
	return r->err ? says(q, r->err, "QEMU's device state cannot be read") : 0;
}

/* Whether the migration could still stop the VM, or has stopped it and waits for us. */
static int in_progress(struct qmp *q, bool *ret, uint64_t timeout_us)
{
	static const char *const over[] = { "none", "completed", "failed", "cancelled" };
	json_t *o = NULL;
	int err = qmp_call(q, "query-migrate", NULL, timeout_us, &o);
	const char *is = json_string_value(json_object_get(o, "status"));

	*ret = is;
	for (size_t i = 0; is && i < sizeof(over) / sizeof(over[0]); i++)
		*ret &= strcmp(is, over[i]) != 0;
	json_decref(o);
	return err;
}

/* The VM has not started: these are its states before. */
static bool stands(const char *status)
{
	static const char *const before[] = { "paused", "prelaunch", "inmigrate", "postmigrate" };

	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++)
		if (!strcmp(status, before[i]))
			return true;
	return false;
}

/*
 * QEMU 10 answers `cont` with success, too, if it does not start the VM because another process has the lock of a disk; older
 * ones with an error.
 */
int state_run(struct qmp *q, uint64_t timeout_us)
{
	uint64_t until_us = clock_us() + timeout_us;
	char status[40] = "";
	int err;

	for (;;) {
		err = qmp_call(q, "cont", NULL, timeout_us, NULL);
		if (!err)
			err = query_status(q, status, timeout_us);
		if (!err && !stands(status))
			return 0;
		if ((err && err != -EREMOTEIO) || clock_us() >= until_us)
			break;
		usleep(RETRY_US);
	}
	if (err)
		return err;
	snprintf(q->why, sizeof(q->why),
		 "QEMU does not let the VM run (status %s): another process may have the lock of one of its disks, which "
		 "QEMU's own output names",
		 status);
	return -EBUSY;
}

int state_resume(struct qmp *q, uint64_t timeout_us)
{
	uint64_t until_us = clock_us() + timeout_us;
	bool progress, canceled = false;
	char status[40];
	int err;

	for (;;) {
		err = in_progress(q, &progress, timeout_us);
		if (!err)
			err = query_status(q, status, timeout_us);
		if (!err && progress && !canceled)
			err = qmp_call(q, "migrate_cancel", NULL, timeout_us, NULL);
		canceled |= progress;
		if (err < 0 || (!progress && !strcmp(status, "running")))
			return err;
		/* After a cancel QEMU lets it run by itself; until then `cont` is refused. */
		if (!progress && strcmp(status, "finish-migrate"))
			return state_run(q, timeout_us);
		if (clock_us() >= until_us)
			return says(q, -ETIMEDOUT, "QEMU does not let the VM run again after migrate_cancel");
		usleep(POLL_US);
	}
}

void state_free(struct state_reader *r)
{
	if (r->fd >= 0) {
		shutdown(r->fd, SHUT_RDWR);
		pthread_join(r->thread, NULL);
		close(r->fd);
	}
	free(r->buf);
	*r = (struct state_reader){ .fd = -1 };
}

static int write_all(struct qmp *q, int fd, const uint8_t *buf, size_t len, uint64_t timeout_us)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	while (len) {
		ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			buf += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			return failed(q, "that it reads no more state", timeout_us);
		} else if (!poll(&p, 1, (int)(timeout_us / 1000))) {
			return says(q, -ETIMEDOUT, "QEMU does not take its device state");
		}
	}
	return 0;
}

int state_load(struct qmp *q, const void *buf, size_t len, uint64_t timeout_us)
{
	int fd = -1, err = make_socket(q, &fd, timeout_us);

	if (err < 0)
		return err;
	qmp_forget(q, STATE_EVENT);
	err = qmp_call(q, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME), timeout_us, NULL);
	if (!err)
		err = write_all(q, fd, buf, len, timeout_us);
	shutdown(fd, SHUT_WR);
	if (!err)
		err = await_status(q, "completed", timeout_us);
	close(fd);
	return err;
}
