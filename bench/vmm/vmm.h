/* SPDX-License-Identifier: MIT */
/*
 * A small KVM VMM for measuring and testing ferry. Its guest cannot be fooled: every vCPU stamps
 * pages of a working set, in an order that only it and the proof know, with a sequence number at a rate that is paced from here, checks
 * its own registers and clock, counts timer ticks and prints numbered output. vmm_proof() replays the
 * sequence and compares every byte of RAM; an observer outside counts the output.
 *
 * Without /dev/kvm (or when asked) host threads run the same algorithm on the same memory: the
 * mutator is then named "host-thread".
 *
 *	source: vmm_new_source -> vmm_start -> ferry_source_new(vmm, vmm_ops(), vmm_regions()) ... vmm_destroy
 *	target: vmm_new_target -> ferry_target_new(vmm, vmm_ops()) ... vmm_destroy
 *
 * A target needs no description of the guest: all of it travels in needs and state. Functions return 0
 * or a negative errno. Those marked "any thread" may be called beside anything but vmm_destroy(); the
 * others by one thread at a time, which may be the one in ferry_run().
 */
#ifndef BENCH_VMM_H
#define BENCH_VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/ferry.h>

struct vmm;

/* Bit 0: shared; bit 1: huge pages of hugetlbfs. */
enum vmm_kind { VMM_ANON, VMM_MEMFD, VMM_HUGETLB, VMM_HUGETLB_MEMFD };

/* Which page of the working set comes next, for each vCPU; zipf: rank k about 1/k as often as the first. */
enum vmm_pattern { VMM_RANDOM, VMM_SEQUENTIAL, VMM_ZIPF };

/* Which end of the migration a record of output came from. */
enum vmm_end { VMM_END_SOURCE, VMM_END_TARGET };

#define VMM_MEMORY_MIN (32ull << 20)
#define VMM_MEMORY_MAX (256ull << 30)
#define VMM_VCPUS_MAX 16u

struct vmm_config {
	/* source: the guest */
	uint64_t memory;      /* bytes, a multiple of 2 MiB, VMM_MEMORY_MIN to VMM_MEMORY_MAX */
	uint64_t working_set; /* bytes, rounded down to pages; at most memory - 16 MiB */
	uint64_t dirty_rate;  /* pages a second, all vCPUs together; 0: idle; UINT64_MAX: unpaced */
	enum vmm_pattern pattern; /* of the pages it dirties */
	uint64_t seed;	      /* of the content */
	enum vmm_kind kind;
	uint32_t populate; /* percent of RAM with unique content; the working set is always populated */
	uint32_t vcpus;	   /* 0: 1 */
	bool host_threads; /* no KVM, even where there is one */
	bool thp;	   /* transparent huge pages, at the target too; else MADV_NOHUGEPAGE. Not with hugetlb */
	bool prealloc;	   /* target: back all of the RAM in reserve, else as pages arrive */
	/* both ends */
	enum vmm_end end;      /* stamped on the output */
	int observer;	       /* pipe or socket for struct vmm_output records, the caller's; -1: none */
	uint64_t memory_limit; /* target: refuse a larger guest; 0: none */
	void *ctx;	       /* handed to the callbacks */
	void (*event)(void *ctx, const struct ferry_event *ev); /* optional: ferry_ops.event */
	void (*log)(void *ctx, int level, const char *line);	/* optional: ferry_ops.log */
	/* optional: what vmm_arbiter() asks */
	int (*arbiter)(void *ctx, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);
	/* optional: what vmm_offer() and vmm_offered() call */
	int (*offer)(void *ctx, struct ferry_stream *out);
	int (*offered)(void *ctx, struct ferry_stream *in);
};

/* One numbered output, as the observer reads it: whole records, in order for each stream. */
struct vmm_output {
	uint64_t time_ns; /* CLOCK_MONOTONIC when it left */
	uint32_t number;  /* 1, 2, 3 ... for each stream */
	uint16_t stream;  /* the vCPU */
	uint16_t end;	  /* enum vmm_end */
};

struct vmm_stats {
	uint64_t stamps;      /* page stamps finished since the guest began, all vCPUs */
	uint64_t outputs;     /* numbered outputs made at this end, held ones too */
	uint64_t held;	      /* of them, waiting for output_release */
	uint64_t dirty_rate;  /* as set, pages a second */
	uint64_t working_set; /* as set, bytes */
	bool running;	      /* resumed and not paused */
	bool gone;	      /* discarded or retired, or a target before its reserve */
};

struct vmm_proof {
	uint64_t pages_checked; /* all pages of RAM, holes too */
	uint64_t pages_bad;
	uint64_t pages_hole;   /* of the checked: not present, as they must be */
	uint64_t stamps;       /* replayed: the sum of the sequence numbers */
	uint64_t ticks;	       /* timer ticks the guest counted, all vCPUs */
	uint64_t guest_errors; /* clock went backwards, SSE or AVX registers changed: must be 0 */
	uint64_t duration_us;
	uint32_t bad_region; /* the first bad page, if any */
	uint64_t bad_page;
	char text[256]; /* one sentence on the first thing that is wrong, or "" */
};

/*
 * Creates the guest and fills its RAM; it does not run yet. why takes one sentence on failure.
 * -EINVAL (a value out of range), -ENOMEM, or what KVM says.
 */
int vmm_new_source(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap);
/* An empty shell: memory and vCPUs come with ferry_ops.reserve, their state with load. */
int vmm_new_target(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap);
/* Let it run for the first time (source). */
int vmm_start(struct vmm *vm);
/* Stops whatever runs and frees all; NULL is fine. After ferry_free(). */
void vmm_destroy(struct vmm *vm);

/* Every op but arbiter, offer and offered; copy the table to change it. The vm handed to the ops is the struct vmm. */
const struct ferry_ops *vmm_ops(void);
/* For .arbiter in a copy of them, where vmm_config.arbiter is set. */
int vmm_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);
/* The same for .offer and .offered. */
int vmm_offer(void *vm, struct ferry_stream *out);
int vmm_offered(void *vm, struct ferry_stream *in);
/* The RAM: region 0 is the low 16 MiB (page tables, code, counters), region 1 the data. */
size_t vmm_regions(struct vmm *vm, const struct ferry_region **ret);

/* As the ops of these names; pausing what is paused is fine. */
int vmm_pause(struct vmm *vm);
int vmm_resume(struct vmm *vm);
/* How long the guest stood still from the last of vmm_pause() to the resume after it, here; 0: it was not resumed. */
uint64_t vmm_stood_us(const struct vmm *vm);

/*
 * Any thread; take effect within a millisecond or so. -EINVAL when it does not fit the RAM, -ENOSPC after 250
 * changes of the working set. A working set that grows stamps pages that were holes.
 */
int vmm_set_rate(struct vmm *vm, uint64_t pages_per_second);
int vmm_set_working_set(struct vmm *vm, uint64_t bytes);

/* Any thread. */
void vmm_get_stats(struct vmm *vm, struct vmm_stats *st);
/*
 * Any thread: "" where no guest has run at this end; else "kvm-native", "kvm-nested" (native too, but below another hypervisor's SVM or VMX), "kvm-emulated" or
 * "host-thread"; judged by what has run so far at this end.
 */
const char *vmm_mutator(struct vmm *vm);
/* Any thread: the first sentence about a vCPU that died or a call that failed, or "". */
const char *vmm_error(struct vmm *vm);

/*
 * Stops the guest, checks every byte of RAM against the replay, lets it run again if it ran. Holes are not
 * populated by it. 0 when the check was made (look at pages_bad, guest_errors and text); -ENOENT when the
 * guest is gone, -EIO when a vCPU has died.
 */
int vmm_proof(struct vmm *vm, struct vmm_proof *ret);

/* For tests of dirty tracking, any thread: a vCPU's stamps that are certainly, and perhaps, written by now.
 */
void vmm_stamps(struct vmm *vm, unsigned vcpu, uint64_t *done, uint64_t *given);
/* The page of region 1 that a vCPU's stamp seq went to, while the guest is paused or its working set fixed.
 */
uint64_t vmm_stamp_page(struct vmm *vm, unsigned vcpu, uint64_t seq);

#endif
