/* SPDX-License-Identifier: MIT */
/*
 * The VMM's internals.
 *
 * Threads. Each vCPU has one thread (vcpu.c), which runs a KVM vCPU (machine.c) or the same algorithm in C
 * (mutator.c). The other threads are the caller's; one of them may be inside ferry_run(). vmm.want tells the
 * vCPU threads what to do; they acknowledge by vcpu.parked. Locks, in order: vmm.lock (want, parked, pacing,
 * error), vmm_out.lock (output). While a vCPU thread is parked, others may use the data that only it uses
 * while it runs.
 */
#ifndef BENCH_VMM_INT_H
#define BENCH_VMM_INT_H

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

#include <ferry/ferry.h>
#include <ferry/kvm.h>
#include <ferry/track.h>

#include "guest.h"
#include "vmm.h"

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096u
#define NREGIONS 2
#define EPOCHS_MAX 256u
#define QUOTA_MIN 16u /* stamps per visit: as many as take about VISIT_NS, */
#define QUOTA_FIRST 256u
#define QUOTA_MAX 20000u	    /* between QUOTA_MIN and this */
#define VISIT_NS UINT64_C(1000000)  /* between visits, unless the guest is late */
#define PRINT_NS UINT64_C(10000000) /* between numbered outputs */
#define DEBT_NS UINT64_C(20000000)  /* if the guest is later than this, the rest is dropped */
#define FIRST_STAMPS 4096u	    /* even an idle guest makes these, to identify the mutator */
#define TIMER_HZ 100u
#define KICK_SIGNAL SIGUSR1

enum want { WANT_PARK, WANT_RUN, WANT_EXIT };

enum backend { BACKEND_KVM = 1, BACKEND_HOST = 2 };

/* History of the working set: stamps after number .after go to a slice of .npages. */
struct epoch {
	uint64_t after, npages;
};

/* The host-thread mutator's registers. */
struct host_regs {
	uint64_t sequence; /* number of the last stamp */
	uint64_t npages;
	uint64_t until;	  /* the last stamp of the quota */
	uint64_t tick_ns; /* of the last tick, CLOCK_MONOTONIC; 0: none yet */
	uint32_t number;  /* number of the last output */
	uint32_t reserved;
};

struct vcpu {
	struct vmm *vm;
	uint32_t index;
	pthread_t thread;
	bool has_thread, parked, dead; /* vmm.lock */

	/* pacing: vmm.lock */
	uint64_t slice;			/* pages, as the guest was told */
	uint64_t pace_from, pace_given; /* start of this generation's rate, and stamps given since */
	uint32_t pace_generation;
	uint64_t next_visit, next_print; /* ns */
	uint64_t quota, most, asked;	 /* stamps of the last visit, at most of the next; its start, ns */
	struct epoch *epochs;
	uint32_t nepochs;
	bool greeted; /* has had its FIRST_STAMPS */

	_Atomic uint64_t given, done; /* stamps handed out, and of these finished for certain */
	_Atomic uint64_t visits;      /* at this end */
	uint64_t began;		      /* .given when the guest came to this end */

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

struct vmm {
	struct vmm_config cfg;
	enum backend backend;
	_Atomic bool built;    /* memory and vCPUs exist */
	uint64_t populated_ws; /* data pages populated for the working set */

	struct ferry_region regions[NREGIONS];
	int memfd; /* -1: anonymous */

	int kvm_fd, vm_fd;
	size_t run_len;
	struct ferry_kvm *kvm;
	struct ferry_track *track;  /* BACKEND_HOST, from the first dirty_start on */
	struct vmm_tracked tracked; /* but .ring_full: the vCPU threads count */
	_Atomic uint64_t ring_full;

	struct vcpu vcpus[VMM_VCPUS_MAX];
	_Atomic uint32_t nvcpus;

	pthread_mutex_t lock;
	pthread_cond_t kick; /* to the vCPU threads: want or the pace changed */
	pthread_cond_t ack;  /* from them: parked */
	_Atomic int want;
	_Atomic bool ran; /* it has run at this end */
	_Atomic uint64_t rate;
	_Atomic uint64_t slice;	  /* pages of each vCPU's slice */
	uint32_t slice_changes;	  /* lock */
	uint32_t throttle;	  /* lock: percent */
	uint32_t pace_generation; /* lock: counts changes of the rate, and resumes */
	_Atomic bool gone;
	uint64_t paused_ns, stood_ns; /* as vmm_stood_us() */
	_Atomic bool abandoned;	      /* the guest must stop; its memory no longer matters */

	char error[256]; /* lock until has_error is set; then constant */
	_Atomic bool has_error;

	struct vmm_out out;
};

/* memory.c */
int memory_new(struct vmm *vm, char *why, size_t cap);
void memory_free(struct vmm *vm);
int memory_populate(struct vmm *vm);
/* Maps private memory over the regions: wakes threads blocked on them and drops the content. */
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

/* image.c: builds the low region as before the guest runs; buf: GUEST_IMAGE_END bytes, zeroed. */
void image_build(const struct vmm *vm, uint8_t *buf);
/* Whether the guest itself writes into this page of the image. */
bool image_is_live(const struct vmm *vm, uint64_t page);

/* machine.c */
int machine_open(struct vmm *vm, char *why, size_t cap);  /* opens /dev/kvm; machine_new() does it, too */
int machine_new(struct vmm *vm, char *why, size_t cap);	  /* VM, slots, vCPUs: no guest memory is touched */
int machine_set_cpuid(struct vcpu *v);			  /* all that KVM supports */
int machine_reset(struct vmm *vm, char *why, size_t cap); /* sets the initial state of the vCPUs */
void machine_free(struct vmm *vm);
void machine_run(struct vcpu *v);  /* until want changes */
void machine_kick(struct vcpu *v); /* lock held */
void machine_unkick(struct vcpu *v);
/* The exact number of a parked vCPU's last stamp. May read guest memory. */
int machine_sequence(struct vcpu *v, uint64_t *sequence);
uint64_t machine_emulated(struct vmm *vm); /* instructions */
bool machine_nested(void);

/* dirty.c */
int dirty_choose(struct vmm *vm, char *why, size_t cap); /* source: sets cfg.tracking if it is auto */
int dirty_new_vm(struct vmm *vm, char *why, size_t cap); /* after KVM_CREATE_VM, before the first vCPU */
/* KVM_EXIT_DIRTY_RING_FULL, on the vCPU's thread. An error: the vCPU cannot go on. */
int dirty_ring_full(struct vmm *vm);
void dirty_free(struct vmm *vm);
/* The ops of these names. */
int op_dirty_start(void *arg);
int op_dirty_stop(void *arg);
int op_dirty_fetch(void *arg, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags);

/* mutator.c */
void mutator_run(struct vcpu *v);
void mutator_kick_handler(int sig, siginfo_t *info, void *context);

/* vcpu.c */
int vcpus_start(struct vmm *vm); /* threads, parked */
/* On return the threads are gone. abandon: the memory may be replaced to get them out. */
void vcpus_stop(struct vmm *vm, bool abandon);
void vcpus_pause(struct vmm *vm);
void vcpus_resume(struct vmm *vm);
void vcpus_rate_changed(struct vmm *vm); /* lock held */
void vcpu_slice_begins(struct vcpu *v, uint64_t npages);
/* The guest's next order. Blocks to keep the pace; returns 0 at once if want changes. */
uint32_t vcpu_ask(struct vcpu *v);
void vmm_fail(struct vmm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

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
/* On return no thread of the guest is left. abandon: its memory may be replaced to get them out. */
void vmm_stop(struct vmm *vm, bool abandon);
void vmm_free_guest(struct vmm *vm); /* call next: frees its memory and KVM's descriptors */

#endif
