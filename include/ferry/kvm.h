/* SPDX-License-Identifier: MIT */
/*
 * ferry over KVM: the dirty log, and the state of vCPUs and VM, for VMMs that hold KVM's descriptors.
 * Optional: a VMM may do all of this itself; nothing else in ferry knows about KVM. x86-64.
 *
 *	ops.dirty_start, dirty_stop, dirty_fetch   ferry_kvm_dirty_start, _stop, _fetch
 *	ops.needs, reserve			   ferry_kvm_put_needs, ferry_kvm_check_needs
 *	ops.save, load				   ferry_kvm_save, ferry_kvm_load and ferry_kvm_load_end
 *
 * KVM and userfaultfd. KVM hands a guest's fault that would sleep to a kernel worker that no signal reaches.
 * The vCPU can be stopped, but closing the VM, even by exiting, then blocks beyond SIGKILL until the fault is
 * served or its userfaultfd is closed. So in ops.discard stop the vCPUs, and close the VM's descriptors once
 * ferry_run() has returned. KVM_CAP_X86_DISABLE_EXITS with KVM_X86_DISABLE_EXITS_HLT, before the first vCPU
 * is created, keeps KVM from using the worker at all, where the guest may keep its CPUs when they halt.
 *
 * Functions return 0 or a negative errno. A struct ferry_kvm is used by one thread at a time; it may be any
 * thread, ioctls on vCPUs included, as long as no vCPU runs (KVM's own rule: they would block). Objects
 * share nothing. Descriptors are borrowed: they stay the caller's and must outlive the object.
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
 * kvm_fd: /dev/kvm; vm_fd: KVM_CREATE_VM; vcpu_fds: n of KVM_CREATE_VCPU, in the same order at source and
 * target (n is 1 to 4096; the array is copied). -EINVAL (an argument is out of range), -EOPNOTSUPP (not an
 * x86-64 host), -ENOMEM.
 */
int ferry_kvm_new(struct ferry_kvm **ret, int kvm_fd, int vm_fd, const int *vcpu_fds, size_t n);
/* Ends dirty logging if it is on. NULL is fine. */
void ferry_kvm_free(struct ferry_kvm *k);

/*
 * A memslot that the VMM has set (KVM_SET_USER_MEMORY_REGION) for a region, or for a part of one; a region
 * may be covered by several. From dirty_start to dirty_stop the library sets and clears the slot's
 * KVM_MEM_LOG_DIRTY_PAGES flag, and the VMM must not change the slot.
 */
struct ferry_kvm_slot {
	size_t size;	   /* of this struct */
	uint32_t slot;	   /* KVM's number; the address space in the upper 16 bits */
	uint32_t region;   /* ferry_region.id */
	uint64_t gpa, len; /* bytes; pages of 4096 */
	void *hva;
	uint64_t first_page; /* where in the region the slot begins, pages */
	uint32_t flags;	     /* as set, without KVM_MEM_LOG_DIRTY_PAGES */
	uint32_t reserved;
};
#define FERRY_KVM_SLOT_INIT FERRY_INIT_OF(struct ferry_kvm_slot)

/* -EINVAL (not page aligned, empty, or the slot is known already), -EBUSY (dirty logging is on), -ENOMEM. */
int ferry_kvm_add_slot(struct ferry_kvm *k, const struct ferry_kvm_slot *slot);

/*
 * Dirty logging of all slots. After dirty_start has returned no write by a vCPU is missed, and the first
 * fetch returns only what was written since. Where KVM has KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 it is enabled
 * until dirty_stop. vCPUs may run. Starting what is started, and stopping what is stopped, does nothing.
 * Errors are KVM's; a failed start leaves logging off.
 * What the VMM itself writes into guest memory is not seen: it adds that to bits on its own.
 */
int ferry_kvm_dirty_start(struct ferry_kvm *k);
int ferry_kvm_dirty_stop(struct ferry_kvm *k);
/*
 * As ferry_ops.dirty_fetch: sets in bits[] (npages bits, of which those set stay set) the pages of the region
 * written since the last fetch, a superset. flags: FERRY_DIRTY_LAST, the vCPUs are paused and
 * nothing will be fetched again: the pages are not protected anew, which saves most of the time. -EINVAL
 * (logging is off, no slot has this region, or a slot lies outside npages), or KVM's errors.
 */
int ferry_kvm_dirty_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, uint64_t npages,
			  unsigned flags);

/*
 * Sections of ferry_kvm_put_needs() and ferry_kvm_save(): ids from FERRY_KVM_SECTIONS on are this header's, a
 * VMM takes others for its own. Every section has a version of its own, 1 now. The data is KVM's own structs
 * behind a u32 vCPU index (0 for what belongs to the VM) and a u32 count of elements where there are several.
 */
#define FERRY_KVM_SECTIONS 0x4b560000u /* to 0x4b56ffff */
enum ferry_kvm_section {
	FERRY_KVM_NEED_CPUID = 0x4b560001, /* needs: kvm_cpuid_entry2[], what the guest was shown */
	FERRY_KVM_NEED_VCPUS = 0x4b560002, /* needs: count: the number of vCPUs */
	FERRY_KVM_CPUID = 0x4b560010,	   /* the vCPU's; in the order in which they are restored: */
	FERRY_KVM_SREGS = 0x4b560011,	   /* kvm_sregs, where sregs2 is not there */
	FERRY_KVM_SREGS2 = 0x4b560012,
	FERRY_KVM_XCRS = 0x4b560013,
	FERRY_KVM_FPU = 0x4b560014,   /* where xsave is not there */
	FERRY_KVM_XSAVE = 0x4b560015, /* the area, of the size that the source's KVM has */
	FERRY_KVM_MSRS = 0x4b560016,  /* kvm_msr_entry[] */
	FERRY_KVM_LAPIC = 0x4b560017,
	FERRY_KVM_MSRS_LATE = 0x4b560018, /* those that need the LAPIC: the TSC deadline */
	FERRY_KVM_REGS = 0x4b560019,
	FERRY_KVM_DEBUGREGS = 0x4b56001a,
	FERRY_KVM_EVENTS = 0x4b56001b,
	FERRY_KVM_MP_STATE = 0x4b56001c,
	FERRY_KVM_IRQCHIP = 0x4b560020, /* the VM's; count: which of the three */
	FERRY_KVM_PIT = 0x4b560021,
	FERRY_KVM_CLOCK = 0x4b560022,
	FERRY_KVM_TSC = 0x4b560023, /* per vCPU again: kHz, the value and, where KVM tells it, the offset */
};

/*
 * What the target must offer: the CPUID leaves of vCPU 0 (the VMM has set them by KVM_SET_CPUID2) and the
 * number of vCPUs. It asks the vCPUs, so they must be outside KVM_RUN: pause them for the call, some 100 us,
 * else it waits until they come out by themselves. Errors as ferry_stream_put(), or KVM's with a sentence on
 * the stream; -EOPNOTSUPP: the guest runs VMs of its own, whose state is not carried.
 */
int ferry_kvm_put_needs(struct ferry_kvm *k, struct ferry_stream *out);
/*
 * Judges one section of the needs at the target, where only /dev/kvm is needed yet. 0: fine; 1: the section
 * is not one of this header's; -EOPNOTSUPP: refused, with a sentence that names the leaf, the register and
 * the bits that this host lacks; -EPROTO: the section is malformed.
 */
int ferry_kvm_check_needs(int kvm_fd, struct ferry_stream *in, const struct ferry_section *section);

/*
 * All state of vCPUs and VM that KVM holds and can give, the vCPUs being paused (and re-entered once with
 * kvm_run.immediate_exit = 1, so that no I/O is half done). Pages are not touched. On failure the
 * sentence is on the stream.
 */
int ferry_kvm_save(struct ferry_kvm *k, struct ferry_stream *out);
/*
 * Takes one section of ferry_kvm_save(). The VM must have been created like the source's (irqchip, PIT, as
 * many vCPUs), its vCPUs not have run. CPUID that the VMM has set to the same before is not set again, which
 * saves some 50 us a vCPU. Sections come in the order in which they were saved. Guest memory is
 * not touched. 0: taken; 1: not a section of this header; -EPROTO (malformed, of unknown id or newer version,
 * out of order) or -EOPNOTSUPP (KVM refuses it here), with a sentence on the stream.
 */
int ferry_kvm_load(struct ferry_kvm *k, struct ferry_stream *in, const struct ferry_section *section);
/* After the last section: -EPROTO with a sentence when a vCPU's registers or the VM's clock did not come. */
int ferry_kvm_load_end(struct ferry_kvm *k, struct ferry_stream *in);

#ifdef __cplusplus
}
#endif
#endif
