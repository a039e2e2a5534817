/* SPDX-License-Identifier: MIT */
/*
 * A small KVM VMM for measuring and testing ferry. Its guest detects every error: every vCPU stamps pages of
 * a working set with a sequence number, in an order that only it and the proof know and at a rate set by the
 * VMM. It checks its own registers and clock, counts timer ticks and prints numbered output. vmm_proof()
 * replays the sequence and compares every byte of RAM; an observer outside counts the output.
 *
 * Without /dev/kvm, or on request, host threads run the same algorithm on the same memory; the mutator is
 * then "host-thread".
 *
 *	source: vmm_new_source -> vmm_start -> ferry_source_new(vmm, vmm_ops(), vmm_regions()) ... vmm_destroy
 *	target: vmm_new_target -> ferry_target_new(vmm, vmm_ops()) ... vmm_destroy
 *
 * A target needs no description of the guest: needs and state carry it. Functions return 0 or a negative
 * errno. Any thread may call those marked "any thread", except during vmm_destroy(); only one thread at a
 * time may call the others, which may be the one in ferry_run().
 */
#ifndef BENCH_VMM_H
#define BENCH_VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/ferry.h>

#include "bench/clock.h"

struct vmm;

/* Bit 0: shared; bit 1: huge pages of hugetlbfs. */
enum vmm_kind { VMM_ANON, VMM_MEMFD, VMM_HUGETLB, VMM_HUGETLB_MEMFD };

/* The order in which a vCPU stamps pages; zipf: the page of rank k about 1/k as often as the first. */
enum vmm_pattern { VMM_RANDOM, VMM_SEQUENTIAL, VMM_ZIPF };

/*
 * What says which pages the guest has written: KVM's dirty log, KVM's dirty ring of each vCPU, or, for host
 * threads, /proc/self/pagemap. Auto is the log if KVM runs the guest: docs/benchmarking.md has the figures.
 */
enum vmm_tracking { VMM_TRACKING_AUTO, VMM_TRACKING_LOG, VMM_TRACKING_RING, VMM_TRACKING_PAGEMAP };

/*
 * Of each vCPU's ring: as many as KVM takes, 1 MiB of kernel memory. When a vCPU has written 256 MiB since the
 * last fetch, its ring is full: then it leaves the guest, and all its pages are write-protected again. With
 * QEMU's usual 4096 entries that held a guest that writes 64 MiB as fast as it can to a 300th of its speed.
 */
#define VMM_RING_ENTRIES 65536u

/* The end of the migration that an output came from. */
enum vmm_end { VMM_END_SOURCE, VMM_END_TARGET };

#define VMM_MEMORY_MIN (32ull << 20)
#define VMM_MEMORY_MAX (256ull << 30)
#define VMM_VCPUS_MAX 16u

struct vmm_config {
	/* source: the guest */
	uint64_t memory;	  /* bytes, a multiple of 2 MiB, VMM_MEMORY_MIN to VMM_MEMORY_MAX */
	uint64_t working_set;	  /* bytes, rounded down to pages; at most memory - 16 MiB */
	uint64_t dirty_rate;	  /* pages per second, all vCPUs together; 0: idle; UINT64_MAX: unpaced */
	enum vmm_pattern pattern; /* order of the pages it dirties */
	uint64_t seed;		  /* of the content */
	enum vmm_kind kind;
	/* Log and ring only if KVM runs the guest; not pagemap. */
	enum vmm_tracking tracking;
	uint32_t ring_entries; /* of each vCPU's ring; 0: VMM_RING_ENTRIES */
	uint32_t populate;     /* percent of RAM with unique content; the working set is always populated */
	uint32_t vcpus;	       /* 0: 1 */
	bool host_threads;     /* do not use KVM */
	bool thp;      /* transparent huge pages at both ends, else MADV_NOHUGEPAGE; not for hugetlb */
	bool prealloc; /* target: allocate all of the RAM in reserve, else as pages arrive */
	/* both ends */
	enum vmm_end end;      /* stamped on the output */
	int observer;	       /* the caller's pipe or socket for struct vmm_output records; -1: none */
	uint64_t memory_limit; /* target: refuse a larger guest; 0: none */
	void *ctx;	       /* passed to the callbacks */
	void (*event)(void *ctx, const struct ferry_event *ev); /* optional: ferry_ops.event */
	void (*log)(void *ctx, int level, const char *line);	/* optional: ferry_ops.log */
	/* optional: called by vmm_arbiter() */
	int (*arbiter)(void *ctx, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);
	/* optional: called by vmm_offer() and vmm_offered() */
	int (*offer)(void *ctx, struct ferry_stream *out);
	int (*offered)(void *ctx, struct ferry_stream *in);
};

/* One numbered output. The observer reads whole records, in order for each stream. */
struct vmm_output {
	uint64_t time_ns; /* CLOCK_MONOTONIC when it was emitted */
	uint32_t number;  /* 1, 2, 3 ... for each stream */
	uint16_t stream;  /* the vCPU */
	uint16_t end;	  /* enum vmm_end */
};

struct vmm_stats {
	uint64_t stamps;      /* page stamps finished since the guest began, all vCPUs */
	uint64_t outputs;     /* numbered outputs made at this end, including held ones */
	uint64_t held;	      /* of these, waiting for output_release */
	uint64_t dirty_rate;  /* as set, pages per second */
	uint64_t working_set; /* as set, bytes */
	bool running;	      /* resumed and not paused */
	bool gone;	      /* discarded or retired, or a target before its reserve */
};

/* The dirty tracking of the source's last migration. */
struct vmm_tracked {
	enum vmm_tracking by;	       /* not auto; auto at a target */
	uint64_t fetch_ns;	       /* in dirty_fetch, all rounds */
	uint64_t ring_full;	       /* ring: exits of vCPUs whose ring was full */
	uint64_t pages[VMM_VCPUS_MAX]; /* ring: pages that each vCPU has written */
};

struct vmm_proof {
	uint64_t pages_checked; /* all pages of RAM, including holes */
	uint64_t pages_bad;
	uint64_t pages_hole;   /* of these, not present, as expected */
	uint64_t stamps;       /* replayed: the sum of the sequence numbers */
	uint64_t ticks;	       /* timer ticks the guest counted, all vCPUs */
	uint64_t guest_errors; /* clock went backwards, SSE or AVX registers changed: must be 0 */
	uint64_t duration_us;
	uint32_t bad_region; /* the first bad page, if any */
	uint64_t bad_page;
	char text[256]; /* one sentence about the first error, or "" */
};

/*
 * Creates the guest and fills its RAM; it does not run yet. On failure why holds one sentence.
 * -EINVAL (a value out of range), -ENOMEM, or KVM's error.
 */
int vmm_new_source(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap);
/* Creates an empty VMM: ferry_ops.reserve adds memory and vCPUs, load their state. */
int vmm_new_target(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap);
/* Source: runs the guest for the first time. */
int vmm_start(struct vmm *vm);
/* Stops the guest and frees everything; NULL is fine. Call after ferry_free(). */
void vmm_destroy(struct vmm *vm);

/* All ops but arbiter, offer and offered; copy the table to change it. Their vm is the struct vmm. */
const struct ferry_ops *vmm_ops(void);
/* For .arbiter in a copy of the table, if vmm_config.arbiter is set. */
int vmm_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);
/* For .offer and .offered, likewise. */
int vmm_offer(void *vm, struct ferry_stream *out);
int vmm_offered(void *vm, struct ferry_stream *in);
/* The RAM: region 0 is the low 16 MiB (page tables, code, counters), region 1 the data. */
size_t vmm_regions(struct vmm *vm, const struct ferry_region **ret);

/* As the ops of these names; a second pause is fine. */
int vmm_pause(struct vmm *vm);
int vmm_resume(struct vmm *vm);
/* How long the guest was paused here, from the last vmm_pause() to its resume; 0: it was not resumed. */
uint64_t vmm_stood_us(const struct vmm *vm);

/*
 * Any thread; they take effect within about a millisecond. -EINVAL if the value does not fit the RAM, -ENOSPC
 * after 250 changes of the working set. If the working set grows, it includes pages that were holes.
 */
int vmm_set_rate(struct vmm *vm, uint64_t pages_per_second);
int vmm_set_working_set(struct vmm *vm, uint64_t bytes);

/* After dirty_stop; before it pages[] is 0. */
void vmm_get_tracked(const struct vmm *vm, struct vmm_tracked *ret);

/* Any thread. */
void vmm_get_stats(struct vmm *vm, struct vmm_stats *st);
/*
 * Any thread: "" if no guest has run at this end; otherwise "kvm-native", "kvm-nested" (native, but in
 * another hypervisor's SVM or VMX), "kvm-emulated" or "host-thread", judged by the guest's run so far at this
 * end.
 */
const char *vmm_mutator(struct vmm *vm);
/* Any thread: the first sentence about a vCPU that died or a call that failed, or "". */
const char *vmm_error(struct vmm *vm);

/*
 * Pauses the guest, compares every byte of RAM with the replay, and resumes it if it ran. Does not populate
 * holes. 0 if the check was made (see pages_bad, guest_errors and text); -ENOENT if the guest is gone, -EIO
 * if a vCPU has died.
 */
int vmm_proof(struct vmm *vm, struct vmm_proof *ret);

/* For tests of dirty tracking, any thread: the vCPU's stamps that are written for certain, and at most. */
void vmm_stamps(struct vmm *vm, unsigned vcpu, uint64_t *done, uint64_t *given);
/* The page of region 1 that stamp seq of a vCPU went to; the guest is paused, or its working set is fixed. */
uint64_t vmm_stamp_page(struct vmm *vm, unsigned vcpu, uint64_t seq);

#endif
