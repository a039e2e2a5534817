/* SPDX-License-Identifier: MIT */
/* --rhythm: the guest writes and rests in turn, each for the same time. */
#ifndef BENCH_RHYTHM_H
#define BENCH_RHYTHM_H

#include <stdint.h>

#include "vmm.h"

struct rhythm;

/*
 * Starts the rhythm: the guest writes for period_us, then rests as long. For period_us 0 *ret is NULL. 0, or
 * a negative errno.
 */
int rhythm_start(struct rhythm **ret, struct vmm *vmm, uint64_t rate, uint64_t period_us);
/* Stops the rhythm; the guest keeps its present rate. NULL is fine. */
void rhythm_stop(struct rhythm *r);

#endif
