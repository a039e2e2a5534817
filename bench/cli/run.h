/* SPDX-License-Identifier: MIT */
/* A run: both ends, or one of them. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "out.h"
#include "report.h"

/*
 * One migration with both ends, or one of them, in child processes; fills r and judges it. floor: what was
 * measured beside it, or NULL; recording: where to write what happened, or NULL.
 */
void run_once(struct run_report *r, const struct options *o, uint64_t number, const struct floor *floor,
	      struct out *recording);
/* What --floor measures, or a sentence on stderr. */
int run_floor(struct floor *f, const struct options *o);

#endif
