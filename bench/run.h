/* SPDX-License-Identifier: MIT */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "report.h"

/* One migration with both ends, or one of them, in child processes; fills r and judges it. */
void run_once(struct run_report *r, const struct options *o, uint64_t number);

#endif
