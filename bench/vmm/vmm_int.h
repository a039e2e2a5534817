/* SPDX-License-Identifier: MIT */
/*
 * The VMM inside.
 *
 * Threads. A thread a vCPU (vcpu.c), running a KVM vCPU (machine.c) or the same algorithm in C (mutator.c);
 * the caller's threads, of which one may be inside ferry_run(). vmm.want says what the vCPU threads shall do;
 * they acknowledge by vcpu.parked. Locks, in order: vmm.lock (want, parked, pacing, error), vmm_out.lock
 * (output). What a vCPU thread alone touches while it runs is free to others while it is parked.
 */
#ifndef BENCH_VMM_INT_H
#define BENCH_VMM_INT_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

#include <ferry/ferry.h>
#include <ferry/kvm.h>

#include "guest.h"
#include "vmm.h"

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096u
#define NREGIONS 2
#define EPOCHS_MAX 256u
#define QUOTA_MIN 16u		    /* stamps of one visit: what takes about VISIT_NS, */
#define QUOTA_FIRST 256u
#define QUOTA_MAX 20000u	    /* within these */
#define VISIT_NS UINT64_C(1000000)  /* between visits, unless behind */
#define PRINT_NS UINT64_C(10000000) /* between numbered outputs */
#define DEBT_NS UINT64_C(20000000)  /* what is not made up for when the guest cannot keep the rate */
#define FIRST_STAMPS 4096u	    /* even an idle guest makes these, so that the mutator can be told */
#define TIMER_HZ 100u
#define KICK_SIGNAL SIGUSR1

enum want { WANT_PARK, WANT_RUN, WANT_EXIT };

enum backend { BACKEND_KVM = 1, BACKEND_HOST = 2 };

/* Stamps after the one numbered .after go to a slice of .npages; the working set's history. */
struct epoch {
	uint64_t after, npages;
};

/* The host-thread mutator's registers. */
struct host_regs {
	uint64_t sequence; /* of the last stamp */
	uint64_t npages;
	uint64_t until;	  /* the last stamp of the quota */
	uint64_t tick_ns; /* of the last tick, CLOCK_MONOTONIC; 0: none yet */
	uint32_t number;  /* of the last output */
	uint32_t reserved;
};

struct vcpu {
	struct vmm *vm;
	uint32_t index;
	pthread_t thread;
	bool has_thread, parked, dead; /* vmm.lock */

	/* pacing: vmm.lock */
	uint64_t slice;			/* pages: what the guest was told */
	uint64_t pace_from, pace_given; /* since when, how many: for the rate of this generation */
	uint32_t pace_generation;
	uint64_t next_visit, next_print; /* ns */
	uint64_t quota, most, asked;	 /* of the last visit; of the next at most; when the last began, ns */
	struct epoch *epochs;
	uint32_t nepochs;
	bool greeted; /* has had its FIRST_STAMPS */

	_Atomic uint64_t given, done; /* quotas handed out, and of them certainly used up */
	_Atomic uint64_t visits;      /* at this end */
	uint64_t began;		      /* given when it came to this end */

	/* BACKEND_KVM */
	int fd, stats_fd;
	struct kvm_run *run;

	/* BACKEND_HOST */
	struct host_regs host;
	sigjmp_buf leave;
	volatile sig_atomic_t may_leave;
};

struct vmm_out {
	pthread_mutex_t lock;
	int fd;
	uint16_t end;
	bool holding;
	struct vmm_output *held;
	size_t nheld, cap;
	_Atomic uint64_t count;
};

struct tracker; /* track.c */

struct vmm {
	struct vmm_config cfg;
	enum backend backend;
	_Atomic bool built;		/* memory and vCPUs are there */
	uint64_t populated_ws; /* data pages that are populated for the working set */

	struct ferry_region regions[NREGIONS];
	int memfd; /* -1: anonymous */

	int kvm_fd, vm_fd;
	size_t run_len;
	struct ferry_kvm *kvm;
	struct tracker *tracker;

	struct vcpu vcpus[VMM_VCPUS_MAX];
	_Atomic uint32_t nvcpus;

	pthread_mutex_t lock;
	pthread_cond_t kick; /* to the vCPU threads: want or the pace changed */
	pthread_cond_t ack;  /* from them: parked */
	_Atomic int want;
	_Atomic bool ran; /* here, for however short a time */
	_Atomic uint64_t rate;
	_Atomic uint64_t slice;	  /* pages of each vCPU's slice */
	uint32_t slice_changes;	  /* lock */
	uint32_t throttle;	  /* lock: percent */
	uint32_t pace_generation; /* lock: counts changes of the rate, and resumes */
	_Atomic bool gone;
	uint64_t paused_ns, stood_ns; /* as vmm_stood_us() */
	_Atomic bool abandoned; /* what the guest does no longer matters, only that it stops */

	char error[256]; /* lock until has_error is set; then constant */
	_Atomic bool has_error;

	struct vmm_out out;
};

/* memory.c */
int memory_new(struct vmm *vm, char *why, size_t cap);
void memory_free(struct vmm *vm);
int memory_populate(struct vmm *vm);
/* Private memory over the regions: wakes whoever is stuck on them, and forgets the content. */
void memory_abandon(struct vmm *vm);
static inline uint64_t region_pages(const struct ferry_region *r)
{
	return r->len >> PAGE_SHIFT;
}
static inline uint64_t data_pages(const struct vmm *vm)
{
	return (vm->cfg.memory - GUEST_LOW_LEN) >> PAGE_SHIFT;
}
/* page counts from the start of the low region over both. */
bool memory_is_populated(const struct vmm *vm, uint64_t page);

/* image.c: the low region as it is before the guest runs; buf: GUEST_IMAGE_END bytes, zeroed. */
void image_build(const struct vmm *vm, uint8_t *buf);
/* Whether the guest itself writes into this page of the image. */
bool image_is_live(const struct vmm *vm, uint64_t page);

/* machine.c */
int machine_open(struct vmm *vm, char *why, size_t cap);  /* /dev/kvm; machine_new does it too */
int machine_new(struct vmm *vm, char *why, size_t cap);	  /* VM, slots, vCPUs: no guest memory is touched */
int machine_set_cpuid(struct vcpu *v); /* all that KVM supports */
int machine_reset(struct vmm *vm, char *why, size_t cap); /* vCPUs as they begin */
void machine_free(struct vmm *vm);
void machine_run(struct vcpu *v);  /* until want changes */
void machine_kick(struct vcpu *v); /* lock held */
void machine_unkick(struct vcpu *v);
/* Of a parked vCPU: its last stamp, exactly. May read guest memory. */
int machine_sequence(struct vcpu *v, uint64_t *sequence);
uint64_t machine_emulated(struct vmm *vm); /* instructions */
bool machine_nested(void);

/* mutator.c */
void mutator_run(struct vcpu *v);
void mutator_kick_handler(int sig, siginfo_t *info, void *context);

/* track.c: dirty tracking without KVM */
int tracker_new(struct tracker **ret, const struct ferry_region *regions, size_t n);
int tracker_fetch(struct tracker *t, uint32_t region, uint64_t *bits, uint64_t npages);
void tracker_free(struct tracker *t);

/* vcpu.c */
int vcpus_start(struct vmm *vm); /* threads, parked */
/* The threads are gone on return. abandon: the memory may go, to get them out. */
void vcpus_stop(struct vmm *vm, bool abandon);
void vcpus_pause(struct vmm *vm);
void vcpus_resume(struct vmm *vm);
void vcpus_rate_changed(struct vmm *vm); /* lock held */
void vcpu_slice_begins(struct vcpu *v, uint64_t npages);
/* The guest asks what to do; blocks as the pace demands; 0 at once when want changes. */
uint32_t vcpu_ask(struct vcpu *v);
void vmm_fail(struct vmm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t vmm_now_ns(void);

/* output.c */
void output_init(struct vmm_out *o, int fd, enum vmm_end end);
void output_destroy(struct vmm_out *o);
void output_emit(struct vmm_out *o, uint16_t stream, uint32_t number);
void output_hold(struct vmm_out *o);
void output_release(struct vmm_out *o);
void output_discard(struct vmm_out *o);
uint64_t output_held(struct vmm_out *o);

/* vmm.c */
int vmm_build(struct vmm *vm, char *why, size_t cap); /* memory and machine from cfg and backend */
/* The guest is gone: no thread of it is left. abandon: its memory may be replaced to get them out. */
void vmm_stop(struct vmm *vm, bool abandon);
void vmm_free_guest(struct vmm *vm); /* and then its memory and KVM's descriptors */

#endif
