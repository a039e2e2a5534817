/* SPDX-License-Identifier: MIT */
/*
 * Starts the target's QEMU under a keeper, a small process that is its parent. Until launch_keep() the keeper kills
 * QEMU when the process that launched it dies or closes the launch, because nobody serves its faults or releases its output
 * any more. After it QEMU runs on by itself. When QEMU has ended, the keeper removes the files of its RAM, its monitor and
 * its log.
 */
#ifndef BENCH_QEMU_LAUNCH_H
#define BENCH_QEMU_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "command.h"

struct launch {
	int keeper; /* -1: nothing was started */
	char dir[40], socket[60], log[60];
	struct qemu_args command;
};

/*
 * args: the source's command line. Returns when QEMU's monitor is there, at launch.socket, or -ECHILD if QEMU has ended
 * instead, or -ETIMEDOUT. After an error why has a sentence, and the launch is closed.
 */
int launch_qemu(struct launch *l, char *const *args, uint64_t timeout_us, char *why, size_t cap);
/* QEMU may have ended, which another error came from: true if it did so within timeout_us, with a sentence in why. */
bool launch_ended(struct launch *l, uint64_t timeout_us, char *why, size_t cap);
/* The VM is this QEMU's, or may be. */
void launch_keep(struct launch *l);
/* Lets the keeper kill QEMU unless it is kept. */
void launch_close(struct launch *l);

#endif
