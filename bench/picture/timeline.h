/* SPDX-License-Identifier: MIT */
/* A recording (docs/recording.md) in memory, and the queries that pictures need. */
#ifndef BENCH_TIMELINE_H
#define BENCH_TIMELINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/ferry.h>

#include "bench/vmm/vmm.h"

struct tl_sample {
	double ms;
	double stamps, bytes, remaining, faults;
	bool running;
};

/* The guest's progress; interpolated linearly between two points. */
struct tl_point {
	double ms, stamps;
};

struct tl_phase {
	double ms;
	enum ferry_phase phase;
};

struct tl_end {
	struct tl_sample *sample;
	size_t n, cap;
	struct tl_point *progress;
	size_t nprogress;
	struct tl_phase phase[32];
	unsigned nphases;
	double samples_taken, period_us, cpu_us; /* the cost of sampling */
};

struct tl_bucket {
	double from_us, below_us, count;
};

/* One run. */
struct timeline {
	char name[256]; /* FILE, or FILE:N for the Nth run of a file that has several */
	struct tl_end end[2];
	struct tl_bucket bucket[FERRY_FAULT_BUCKETS];
	unsigned nbuckets;
	json_t *result; /* as written by run --json */
};

struct timelines {
	struct timeline *v;
	size_t n, cap;
};

/* Appends the runs of a file: 0, or a negative errno after a sentence on stderr. */
int timelines_load(struct timelines *t, const char *file);
void timelines_free(struct timelines *t);

/* A value of the result, by a path such as "downtime.save_us"; 0 or "" if it is missing. */
double tl_number(const struct timeline *t, const char *path);
const char *tl_text(const struct timeline *t, const char *name);

/* The parts of the downtime, in order of time. */
#define TL_ITEMS 8u
extern const char *const tl_item_names[TL_ITEMS];
double tl_item_us(const struct timeline *t, unsigned item);

/* The time at which the end first entered the phase; -1: never. */
double tl_phase_ms(const struct timeline *t, enum vmm_end end, enum ferry_phase phase);
/* The end whose phases the picture shows: the source, if it was recorded. */
enum vmm_end tl_main_end(const struct timeline *t);
/* If the VM resumed at the source: how long it was paused there; otherwise 0. */
double tl_standstill_ms(const struct timeline *t);
/* The time span of the picture: from before the migration until the guest has run on for a while. */
void tl_span(const struct timeline *t, double *from, double *to);

/* The progress of an end's guest, and the bytes on the link, between two times. */
double tl_stamps(const struct tl_end *e, double from, double to);
double tl_bytes(const struct tl_end *e, double from, double to);

#endif
