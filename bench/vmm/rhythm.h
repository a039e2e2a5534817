/* SPDX-License-Identifier: MIT */
/* A guest that writes for a while, rests as long, and so on: --rhythm. */
#ifndef BENCH_RHYTHM_H
#define BENCH_RHYTHM_H

#include <stdint.h>

#include "vmm.h"

struct rhythm;

/* From now on the guest writes for period_us, then rests as long. period_us 0: *ret is NULL. 0, or a negative
 * errno. */
int rhythm_start(struct rhythm **ret, struct vmm *vmm, uint64_t rate, uint64_t period_us);
/* The guest goes on as it is now. NULL is fine. */
void rhythm_stop(struct rhythm *r);

#endif
