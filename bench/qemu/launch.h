/* SPDX-License-Identifier: MIT */
/*
 * Starts the target's QEMU under a keeper, a small process that is its parent. When the process that launched it dies or
 * closes the launch, nobody serves QEMU's faults or releases its output any more, and the keeper does what it was told last:
 * it kills QEMU, stops it by SIGSTOP, or lets it run on. When QEMU has ended, the keeper removes the files of its RAM, its monitor and
 * its log, and, if the VM is the source's, those that hold its writes to disks.
 */
#ifndef BENCH_QEMU_LAUNCH_H
#define BENCH_QEMU_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "command.h"
#include "disk.h"

struct launch {
	int keeper; /* -1: nothing was started */
	char dir[40], socket[60], log[60];
	struct qemu_args command;
	struct qemu_disk disk[QEMU_DISKS]; /* those to be held; the caller sets them before launch_qemu() */
	size_t ndisk;
};

/*
 * args: the source's command line. Returns when QEMU's monitor is there, at launch.socket, or -ECHILD if QEMU has ended
 * instead, or -ETIMEDOUT. After an error why has a sentence, and the launch is closed.
 */
int launch_qemu(struct launch *l, char *const *args, uint64_t timeout_us, char *why, size_t cap);
/* QEMU may have ended, which another error came from: true if it did so within timeout_us, with a sentence in why. */
bool launch_ended(struct launch *l, uint64_t timeout_us, char *why, size_t cap);
enum launch_end {
	LAUNCH_KILL, /* the VM is the source's; so it begins */
	LAUNCH_STOP, /* it may be either's: two of them must not run */
	LAUNCH_KEEP  /* it is this QEMU's */
};
/* What the keeper does when this process dies, or with launch_close(). */
void launch_tell(struct launch *l, enum launch_end at_end);
void launch_close(struct launch *l);

#endif
