/* SPDX-License-Identifier: MIT */
/*
 * A recording of a migration: samples of both ends, and events with their times.
 *
 * A sampler thread in each end's process writes into memory shared with the parent: nothing is sent while the
 * VM moves, and the samples survive the process. The parent adds the events and writes everything as JSON
 * lines when the run is over (docs/recording.md has the format).
 */
#ifndef BENCH_RECORD_H
#define BENCH_RECORD_H

#include <stdatomic.h>
#include <stdio.h>

#include <ferry/ferry.h>

#include "bench/vmm/vmm.h"

/* When the area is full, every second sample is dropped and the period doubles. */
#define RECORD_SAMPLES (UINT64_C(1) << 18)
/* The largest difference between two times of one migration: 30 days. */
#define RECORD_SPAN_NS (INT64_C(30) * 86400 * 1000000000)

struct record_sample {
	uint64_t time_ns; /* CLOCK_MONOTONIC */
	uint64_t stamps;  /* of the guest, as known at this end */
	uint64_t bytes;	  /* of page data */
	uint64_t remaining, dirty_rate, faults, faults_local;
	uint32_t round;
	uint16_t phase; /* enum ferry_phase */
	uint16_t running;
};

/* Shared between an end and its parent. */
struct record_area {
	_Atomic uint64_t n;
	_Atomic uint64_t period_ns;
	_Atomic uint64_t taken, cpu_ns; /* samples taken, and CPU time of the sampler */
	_Atomic uint64_t nbuckets;
	struct ferry_fault_bucket bucket[FERRY_FAULT_BUCKETS];
	struct record_sample sample[RECORD_SAMPLES];
};

struct record_event {
	uint64_t time_ns;
	enum vmm_end end;
	struct ferry_event event; /* .text is owned by the record, or NULL */
};

struct record {
	struct record_area *area[2]; /* enum vmm_end */
	struct record_event *event;
	size_t nevents, cap;
};

/* period_us: time between samples. NULL: out of memory. */
struct record *record_new(uint64_t period_us);
void record_free(struct record *rec);
/* In the parent: adds an event of an end; rec NULL: does nothing. */
void record_event(struct record *rec, enum vmm_end end, const struct ferry_event *ev, const char *text,
		  uint64_t time_ns);

/* In the end's process: the sampler, a thread. */
struct sampler;
/*
 * get_stats: asked for the VM's counters, on another thread. 0 or a negative errno. If area is NULL, *ret is NULL,
 * which the other functions accept.
 */
int sampler_start(struct sampler **ret, struct record_area *area,
		  void (*get_stats)(void *vm, struct vmm_stats *st), void *vm);
/* From now on samples the session, too. */
void sampler_watch(struct sampler *s, struct ferry_session *session);
/* The session has ended: keeps its fault histogram. */
void sampler_faults(struct sampler *s, struct ferry_session *session);
/* Stops the thread; on return it samples nothing any more. */
void sampler_stop(struct sampler *s);

/* record_write.c: writes one run. */
struct run_report;
void record_write(FILE *out, const struct record *rec, const struct run_report *r);

#endif
