/* SPDX-License-Identifier: MIT */
/* The outside world: it sees the guest's numbered output, from whichever end, and cannot be talked round. */
#ifndef BENCH_OBSERVER_H
#define BENCH_OBSERVER_H

#include "bench/vmm/vmm.h"

struct observer_stream {
	uint64_t seen, missing, repeated;
	uint32_t next; /* the number that must come now; 0: whichever comes first is right */
};

struct observer {
	int fd; /* read end of the pipe that both VMMs write to: one order for all */
	unsigned nstreams;
	int last_end;		/* of the last record; -1: none yet */
	unsigned handovers;	/* how often the speaker changed: more than once means two owners */
	uint64_t damaged;	/* records that no VMM wrote */
	struct vmm_output part; /* a record that has not wholly arrived */
	size_t part_len;
	struct observer_stream stream[VMM_VCPUS_MAX];
};

/* whole: it sees both ends, so every stream must begin with number 1. */
void observer_init(struct observer *o, int fd, unsigned nstreams, bool whole);
/* Takes all there is without waiting. 1: more may come; 0: every writer has gone; or a negative errno. */
int observer_drain(struct observer *o);
void observer_take(struct observer *o, const struct vmm_output *rec);
/*
 * Two observers of one guest, each at a host: the first saw it before. Afterwards the first has seen all of it; what is
 * missing between the two, or was said twice, counts.
 */
void observer_join(struct observer *first, const struct observer *second);
void observer_total(const struct observer *o, uint64_t *seen, uint64_t *missing, uint64_t *repeated);
/* The stream that has been seen least: so often. */
uint64_t observer_least(const struct observer *o);

#endif
