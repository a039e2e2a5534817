/* SPDX-License-Identifier: MIT */
/* The observer: sees the guest's numbered output from both ends, independently of what they report. */
#ifndef BENCH_OBSERVER_H
#define BENCH_OBSERVER_H

#include "bench/vmm/vmm.h"

struct observer_stream {
	uint64_t seen, missing, repeated;
	uint32_t next; /* the next expected number; 0: any */
};

struct observer {
	int fd; /* read end of the pipe that both VMMs write to, so the order is known */
	unsigned nstreams;
	int last_end;		/* of the last record; -1: none yet */
	unsigned handovers;	/* how often the printing end changed; more than once means two owners */
	uint64_t damaged;	/* records that no VMM wrote */
	struct vmm_output part; /* an incomplete record */
	size_t part_len;
	struct observer_stream stream[VMM_VCPUS_MAX];
};

/* whole: it sees both ends, so every stream must start with number 1. */
void observer_init(struct observer *o, int fd, unsigned nstreams, bool whole);
/* Reads all available records, never blocks. 1: more may come; 0: all writers are gone; or a negative errno. */
int observer_drain(struct observer *o);
void observer_take(struct observer *o, const struct vmm_output *rec);
/*
 * Joins two observers of one guest, one per host; the first saw it before the migration. Afterwards the first
 * has the sums; a number that neither has seen is missing, one that both have seen is repeated.
 */
void observer_join(struct observer *first, const struct observer *second);
void observer_total(const struct observer *o, uint64_t *seen, uint64_t *missing, uint64_t *repeated);
/* The number of outputs of the stream with the fewest. */
uint64_t observer_least(const struct observer *o);

#endif
