/* SPDX-License-Identifier: MIT */
/*
 * What happened in a migration, as it happened: samples of both ends and the stamped events.
 *
 * A sampler thread in each end's process writes into memory that it shares with the parent: nothing is sent
 * while the VM moves, and what was sampled survives the process. The parent adds the events and writes all of
 * it as JSON lines when the run is over (docs/recording.md has the format).
 */
#ifndef BENCH_RECORD_H
#define BENCH_RECORD_H

#include <stdatomic.h>
#include <stdio.h>

#include <ferry/ferry.h>

#include "bench/vmm/vmm.h"

/* When it is full every second sample goes, and the sampler takes half as many from then on. */
#define RECORD_SAMPLES (UINT64_C(1) << 18)
/* Two times of one migration lie no further apart: 30 days. */
#define RECORD_SPAN_NS (INT64_C(30) * 86400 * 1000000000)

struct record_sample {
	uint64_t time_ns; /* CLOCK_MONOTONIC */
	uint64_t stamps;  /* of the guest, as this end knows */
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
	_Atomic uint64_t taken, cpu_ns; /* what the sampler has cost so far */
	_Atomic uint64_t nbuckets;
	struct ferry_fault_bucket bucket[FERRY_FAULT_BUCKETS];
	struct record_sample sample[RECORD_SAMPLES];
};

struct record_event {
	uint64_t time_ns;
	enum vmm_end end;
	struct ferry_event event; /* .text is this record's own, or NULL */
};

struct record {
	struct record_area *area[2]; /* enum vmm_end */
	struct record_event *event;
	size_t nevents, cap;
};

/* NULL: no memory. period_us: between samples. */
struct record *record_new(uint64_t period_us);
void record_free(struct record *rec);
/* The parent: an event that an end has told; rec NULL: nothing is kept. */
void record_event(struct record *rec, enum vmm_end end, const struct ferry_event *ev, const char *text,
		  uint64_t time_ns);

/* In the end's process; a sampler is one thread. */
struct sampler;
/* 0 or a negative errno. area NULL: *ret is NULL, which the others take. */
int sampler_start(struct sampler **ret, struct record_area *area, struct vmm *vmm);
/* From now on the session is asked, too. */
void sampler_watch(struct sampler *s, struct ferry_session *session);
/* The session has ended: keep its histogram. */
void sampler_faults(struct sampler *s, struct ferry_session *session);
/* On return it asks nothing any more. */
void sampler_stop(struct sampler *s);

/* record_write.c: one run. */
struct run_report;
void record_write(FILE *out, const struct record *rec, const struct run_report *r);

#endif
