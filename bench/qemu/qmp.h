/* SPDX-License-Identifier: MIT */
/*
 * A client of QEMU's monitor (docs/interop/qmp-spec of QEMU).
 *
 * Every call ends by its deadline, and QEMU's answers are foreign text: each line is bounded before it is
 * parsed, each reply must have the id of its command, and what is quoted cannot command a terminal. After an
 * error qmp->why is one sentence. One thread at a time uses a struct qmp.
 *
 * -EREMOTEIO	QEMU refused the command: why has its class and description; the connection stays usable.
 * -ETIMEDOUT	The connection stays usable unless the command was sent only in part. A reply that comes later
 *		is dropped; the command may take effect.
 * Any other error: the connection is lost or QEMU answered nonsense; every later call fails by -EPIPE.
 */
#ifndef BENCH_QMP_H
#define BENCH_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench/clock.h"

#define QMP_WHY 600
#define QMP_EVENTS 64

struct qmp_event {
	char name[40];
	json_t *data;	  /* an object; NULL: none */
	uint64_t time_us; /* CLOCK_MONOTONIC, when it was read */
};

struct qmp {
	int fd;		/* -1: lost */
	char path[108]; /* of the socket */
	pid_t pid;	/* the process that listens on the socket */
	unsigned major, minor, micro;
	char class[40]; /* of the last -EREMOTEIO */
	char why[QMP_WHY];
	uint64_t sent, answered; /* ids of the last command sent and of the last reply */
	const char *const *keep; /* events that are kept; ends with NULL */
	struct qmp_event event[QMP_EVENTS];
	unsigned nevents;
	uint64_t dropped; /* events that were kept and had to make room */
	char *line;	  /* what has been read and not yet used */
	size_t len, searched;
};

/*
 * Connects, reads the greeting and negotiates, within timeout_us. wait: the socket may not exist yet, as that
 * of a QEMU that is starting. keep: the names of the events for qmp_next(), ended by NULL; others are
 * dropped. It must outlive q. q may be closed after an error, too.
 */
int qmp_open(struct qmp *q, const char *path, const char *const *keep, bool wait, uint64_t timeout_us);
void qmp_close(struct qmp *q);

/*
 * Executes a command. args: an object, whose reference is taken over, or NULL. *ret: what it returned, a new
 * reference; ret may be NULL.
 */
int qmp_call(struct qmp *q, const char *command, json_t *args, uint64_t timeout_us, json_t **ret);
/* Gives QEMU a descriptor, for URIs such as fd:NAME. It replaces one of that name; fd stays open here. */
int qmp_give(struct qmp *q, const char *name, int fd, uint64_t timeout_us);
/*
 * Takes the next event of that name, which may have come before; waits until until_us (CLOCK_MONOTONIC). The
 * caller releases ret->data. Other events stay, at most QMP_EVENTS of them, the latest.
 */
int qmp_next(struct qmp *q, const char *name, uint64_t until_us, struct qmp_event *ret);
/* Forgets the events of that name that have come so far; NULL: all. Reads nothing. */
void qmp_forget(struct qmp *q, const char *name);

#endif
