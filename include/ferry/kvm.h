/* SPDX-License-Identifier: MIT */
/*
 * KVM helper: dirty tracking by KVM's log or rings, and state of vCPUs and VM, for VMMs that hold KVM's
 * descriptors. x86-64 only.
 * Optional: a VMM can do all of this itself. No other part of ferry uses KVM.
 *
 *	ops.dirty_start, dirty_stop, dirty_fetch   ferry_kvm_dirty_start, _stop, _fetch
 *	ops.needs, reserve			   ferry_kvm_put_needs, ferry_kvm_check_needs
 *	ops.save, load				   ferry_kvm_save, ferry_kvm_load and ferry_kvm_load_end
 *
 * KVM and userfaultfd. If a guest's fault would sleep, KVM hands it to a kernel worker that no signal
 * reaches. The vCPU can be stopped, but closing the VM, even by exiting, blocks beyond SIGKILL until the
 * fault is served or its userfaultfd is closed. So stop the vCPUs in ops.discard, and close the VM's
 * descriptors only after ferry_free(). To keep KVM from using the worker at all, enable
 * KVM_CAP_X86_DISABLE_EXITS with KVM_X86_DISABLE_EXITS_HLT before the first vCPU is created; halted vCPUs
 * then keep their host CPUs.
 *
 * Functions return 0 or a negative errno. Only one thread at a time may use a struct ferry_kvm, except for
 * ferry_kvm_ring_full() and ferry_kvm_dirty_counts(). It may be any thread if no vCPU runs; otherwise the
 * ioctls on vCPUs block (a rule of KVM). Objects share nothing. Descriptors stay the caller's and must outlive
 * the object.
 */
#ifndef FERRY_KVM_H
#define FERRY_KVM_H

#include <stddef.h>
#include <stdint.h>

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_kvm;

/*
 * Optional: the VM gets KVM's dirty rings instead of its dirty log, for its whole life. Call it after
 * KVM_CREATE_VM and before the first KVM_CREATE_VCPU. ferry_kvm_new() finds the rings, and the dirty functions
 * below then use them. The VMM must handle KVM_EXIT_DIRTY_RING_FULL: see ferry_kvm_ring_full().
 *
 * The log is a bitmap of all memory, which each fetch copies. In a ring KVM notes each page that one vCPU
 * writes, so a fetch costs by the pages written, and each page that is written costs more.
 *
 * entries: of each vCPU's ring, a power of two from 256 to 65536; 0: 65536. KVM takes 16 bytes of kernel
 * memory for each, and keeps 64 in reserve (576 on VMX with PML, where 256 and 512 are too few). -EOPNOTSUPP:
 * there are no rings here, use the log (x86-64, Linux 5.14). -EINVAL: KVM does not take that number, a vCPU
 * exists already, or the VM has rings already. Other errors are KVM's.
 */
int ferry_kvm_ring_enable(int vm_fd, uint32_t entries);

/*
 * kvm_fd: /dev/kvm; vm_fd: from KVM_CREATE_VM; vcpu_fds: n descriptors (1 to 4096) from KVM_CREATE_VCPU, in
 * the same order at source and target; the array is copied. If the VM has dirty rings, from
 * ferry_kvm_ring_enable() or the VMM's own KVM_ENABLE_CAP, they are mapped here, and only this object may
 * collect their entries while it exists. It then needs all vCPUs of the VM: for one that is created later, make
 * a new object. -EINVAL (an argument is out of range), -EOPNOTSUPP
 * (the host is not x86-64; there are rings, and the kernel is older than 5.14), -ENOMEM, or mmap's errors.
 */
int ferry_kvm_new(struct ferry_kvm **ret, int kvm_fd, int vm_fd, const int *vcpu_fds, size_t n);
/* Stops dirty logging if it is on. With rings, call it only when no vCPU runs. NULL is fine. */
void ferry_kvm_free(struct ferry_kvm *k);

/*
 * A memslot that the VMM has set (KVM_SET_USER_MEMORY_REGION) for a region or a part of one; several slots
 * may cover one region. dirty_start sets the slot's KVM_MEM_LOG_DIRTY_PAGES flag and dirty_stop clears it;
 * between them the VMM must not change the slot.
 */
struct ferry_kvm_slot {
	size_t size;	   /* FERRY_KVM_SLOT_INIT sets it */
	uint32_t slot;	   /* KVM's slot number; the address space in the upper 16 bits */
	uint32_t region;   /* ferry_region.id */
	uint64_t gpa, len; /* bytes, multiples of 4096 */
	void *hva;
	uint64_t first_page; /* offset of the slot in the region, pages of 4096 bytes */
	uint32_t flags;	     /* as the VMM has set them, without KVM_MEM_LOG_DIRTY_PAGES */
	uint32_t reserved;
};
#define FERRY_KVM_SLOT_INIT FERRY_INIT_OF(struct ferry_kvm_slot)

/* -EINVAL (not page aligned, empty, or added before), -EBUSY (dirty logging is on), -ENOMEM. */
int ferry_kvm_add_slot(struct ferry_kvm *k, const struct ferry_kvm_slot *slot);

/*
 * Dirty logging of all slots, as ferry_ops.dirty_start and dirty_stop. After dirty_start returns, no write by
 * a vCPU is missed, and the first fetch returns only later writes. Without rings, if KVM has
 * KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, it is enabled until dirty_stop. vCPUs may run. A second start or stop
 * does nothing. Errors are KVM's; if dirty_start fails, logging is off. KVM does not log writes by the VMM
 * itself: the VMM must add them to bits[]. KVM's own writes (kvmclock, steal time, emulated instructions) are
 * logged; with rings they are in the ring of the vCPU that they are for.
 */
int ferry_kvm_dirty_start(struct ferry_kvm *k);
int ferry_kvm_dirty_stop(struct ferry_kvm *k);
/*
 * As ferry_ops.dirty_fetch: set in bits[] (npages bits) the pages of the region written since the last fetch,
 * or a superset; bits already set stay set. FERRY_DIRTY_LAST: the vCPUs are paused and this is the last
 * fetch; the pages are not write-protected again, which saves most of the time. If the VM runs on after all,
 * the next fetch may return them once more. -EINVAL (logging is off, no slot covers the region, or a slot lies
 * beyond npages), or KVM's errors.
 */
int ferry_kvm_dirty_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, uint64_t npages,
			  unsigned flags);

/*
 * A vCPU whose ring is nearly full leaves the guest with KVM_EXIT_DIRTY_RING_FULL, and leaves it again at once
 * until the ring has room. Call this on the vCPU's thread and enter the vCPU again. It moves the entries of all
 * rings into the object, for the next fetch. Any number of threads, at any time from ferry_kvm_new() to
 * ferry_kvm_free(), also while another thread is in dirty_start, dirty_fetch or dirty_stop; it may wait for
 * that thread, some milliseconds. -EINVAL: the VM has no rings. Other errors are KVM's: the vCPU cannot go on.
 */
int ferry_kvm_ring_full(struct ferry_kvm *k);
/*
 * With rings: pages[i] is the number of pages that vCPU i has written since dirty_start, as far as fetches and
 * ferry_kvm_ring_full() have collected them; it stays readable after dirty_stop. A page that is written again
 * after it was collected counts again. n: as for ferry_kvm_new(). Threads: as for ferry_kvm_ring_full().
 * -EOPNOTSUPP: the VM has the log, which does not tell who has written. -EINVAL: another n.
 */
int ferry_kvm_dirty_counts(struct ferry_kvm *k, uint64_t *pages, size_t n);

/*
 * Sections of ferry_kvm_put_needs() and ferry_kvm_save(). The ids 0x4b560000 to 0x4b56ffff are reserved for
 * this header; a VMM uses others for its own sections. Every section has version 1. Its data is a u32 vCPU
 * index (0 for VM-wide state), a u32 count, then KVM's own structs.
 */
#define FERRY_KVM_SECTIONS 0x4b560000u
enum ferry_kvm_section {
	FERRY_KVM_SECTION_NEED_CPUID = 0x4b560001, /* needs: kvm_cpuid_entry2[], the guest's CPUID */
	FERRY_KVM_SECTION_NEED_VCPUS = 0x4b560002, /* needs: count is the number of vCPUs */
	/* State of each vCPU, in the order in which it is restored */
	FERRY_KVM_SECTION_CPUID = 0x4b560010,
	FERRY_KVM_SECTION_SREGS = 0x4b560011, /* kvm_sregs, if KVM has no sregs2 */
	FERRY_KVM_SECTION_SREGS2 = 0x4b560012,
	FERRY_KVM_SECTION_XCRS = 0x4b560013,
	FERRY_KVM_SECTION_FPU = 0x4b560014,   /* if KVM has no xsave */
	FERRY_KVM_SECTION_XSAVE = 0x4b560015, /* the XSAVE area, in the size of the source's KVM */
	FERRY_KVM_SECTION_MSRS = 0x4b560016,  /* kvm_msr_entry[] */
	FERRY_KVM_SECTION_LAPIC = 0x4b560017,
	FERRY_KVM_SECTION_MSRS_LATE = 0x4b560018, /* MSRs that need the LAPIC: the TSC deadline */
	FERRY_KVM_SECTION_REGS = 0x4b560019,
	FERRY_KVM_SECTION_DEBUGREGS = 0x4b56001a,
	FERRY_KVM_SECTION_EVENTS = 0x4b56001b,
	FERRY_KVM_SECTION_MP_STATE = 0x4b56001c,
	/* State of the VM */
	FERRY_KVM_SECTION_IRQCHIP = 0x4b560020, /* count is the chip's number, 0 to 2 */
	FERRY_KVM_SECTION_PIT = 0x4b560021,
	FERRY_KVM_SECTION_CLOCK = 0x4b560022,
	/* State of each vCPU */
	FERRY_KVM_SECTION_TSC = 0x4b560023, /* kHz, value and, if KVM reports it, offset */
};

/*
 * For ops.needs: write the CPUID leaves of vCPU 0, as the VMM has set them by KVM_SET_CPUID2, and the number
 * of vCPUs. Pause the vCPUs for the call, about 100 us: its ioctls block while a vCPU is inside KVM_RUN.
 * Errors: those of ferry_stream_put(); KVM's; -EOPNOTSUPP if the guest itself runs VMs, whose state cannot be
 * migrated. On failure the stream holds a sentence.
 */
int ferry_kvm_put_needs(struct ferry_kvm *k, struct ferry_stream *out);
/*
 * For ops.reserve: check one section of the needs against this host. It needs /dev/kvm, but no VM yet. 0: the
 * need is met; 1: the section does not belong to this header; -EOPNOTSUPP: not met, the stream's sentence
 * names the leaf, the register and the bits that this host lacks; -EPROTO: the section is malformed.
 */
int ferry_kvm_check_needs(int kvm_fd, struct ferry_stream *in, const struct ferry_section *section);

/*
 * For ops.save: write all state of vCPUs and VM that KVM can read out. The vCPUs must be paused, and entered
 * once more with kvm_run.immediate_exit = 1 so that no I/O is half done. Does not touch guest memory. On
 * failure the stream holds a sentence.
 */
int ferry_kvm_save(struct ferry_kvm *k, struct ferry_stream *out);
/*
 * For ops.load: restore one section of ferry_kvm_save(). The VM must be created like the source's (irqchip,
 * PIT, number of vCPUs) and its vCPUs must not have run. Pass the sections in the order of the stream. If the
 * VMM has set the same CPUID already, it is not set again, which saves about 50 us per vCPU. Does not touch
 * guest memory. 0: restored; 1: the section does not belong to this header; -EPROTO (malformed, unknown id,
 * newer version, out of order) or -EOPNOTSUPP (KVM refuses it here), with a sentence on the stream.
 */
int ferry_kvm_load(struct ferry_kvm *k, struct ferry_stream *in, const struct ferry_section *section);
/* Call after the last section. -EPROTO, with a sentence: vCPU registers or the VM clock are missing. */
int ferry_kvm_load_end(struct ferry_kvm *k, struct ferry_stream *in);

#ifdef __cplusplus
}
#endif
#endif
