/* SPDX-License-Identifier: MIT */
/* What both ends of a QEMU share. */
#ifndef BENCH_QEMU_BRIDGE_INT_H
#define BENCH_QEMU_BRIDGE_INT_H

#include <stdarg.h>

#include "bridge.h"

/* Events of block jobs. */
#define DISK_STATUS_EVENT "JOB_STATUS_CHANGE"
#define DISK_END_EVENT "BLOCK_JOB_COMPLETED"

#define QEMU_SECTION_NEEDS 1u
#define QEMU_SECTION_STATE 2u /* pieces of one stream, in order */

/* What the target's QEMU must be like. Little-endian as x86-64 has it. */
struct qemu_needs {
	uint32_t major, minor, nram, reserved;
	char machine[64]; /* its type, with the version */
	struct {
		char id[64];
		uint64_t len;
	} ram[QEMU_RAMS];
};

int qemu_fails(struct qemu *m, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int qemu_qmp_failed(struct qemu *m, int err);
/* qmp_call() within the timeout; after an error m->why says what QEMU or the monitor says. */
int qemu_ask(struct qemu *m, const char *command, json_t *args, json_t **ret);
int qemu_machine(struct qemu *m, char *buf, size_t cap);
void qemu_remove_filters(struct qemu *m); /* those of the target; what they hold gets out */
/* What QEMU says of its netdevs, a new reference to a string; it is empty if there is none. */
int qemu_netdevs(struct qemu *m, json_t **text);
/* The last checks of a source. */
int qemu_map_ram(struct qemu *m);
int qemu_open_tracker(struct qemu *m);

#endif
