/* SPDX-License-Identifier: MIT */
/* Runs a migration: both ends, or one of them. */
#ifndef BENCH_RUN_H
#define BENCH_RUN_H

#include "out.h"
#include "report.h"

/*
 * Runs one migration with both ends, or one of them, in child processes; fills r and judges it. floor: the
 * floor to compare with, or NULL; recording: the output for the recording, or NULL.
 */
void run_once(struct run_report *r, const struct options *o, uint64_t number, const struct floor *floor,
	      struct out *recording);
/* Measures the floor; on failure prints a sentence on stderr. */
int run_floor(struct floor *f, const struct options *o);

#endif
