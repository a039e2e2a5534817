/* SPDX-License-Identifier: MIT */
/*
 * QEMU's device state: the stream of its `migrate` without the RAM (capability x-ignore-shared), over a socket
 * that is handed over by QMP's getfd, so that no path has to be agreed on.
 */
#ifndef BENCH_QEMU_STATE_H
#define BENCH_QEMU_STATE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "qmp.h"

/* Reads what QEMU writes, from the begin of `migrate` on, because QEMU waits when nobody reads. */
struct state_reader {
	pthread_t thread;
	int fd; /* -1: not started */
	uint8_t *buf;
	size_t len;
	int err;
};

/* The events that these functions wait for, for qmp_open(). */
#define STATE_EVENT "MIGRATION"

/* Switches capabilities, named up to NULL. */
int state_capabilities(struct qmp *q, const char *const *names, bool on, uint64_t timeout_us);
/* Begins to save; returns when the VM has stopped (pre-switchover). Each wait is bounded by timeout_us. */
int state_stop(struct qmp *q, struct state_reader *r, uint64_t timeout_us);
/* Saves the rest: r->buf and r->len are the state. */
int state_save(struct qmp *q, struct state_reader *r, uint64_t timeout_us);
/* `cont`, and the VM runs. Another process may have the lock of a disk: tries again until timeout_us have passed. */
int state_run(struct qmp *q, uint64_t timeout_us);
/* Wherever the migration stands: the VM runs again in this QEMU. */
int state_resume(struct qmp *q, uint64_t timeout_us);
void state_free(struct state_reader *r);
/* Loads a state into a QEMU that waits for one (-incoming defer). */
int state_load(struct qmp *q, const void *buf, size_t len, uint64_t timeout_us);

#endif
