/* SPDX-License-Identifier: MIT */
/* Internal header of runtime/kvm: the object behind include/ferry/kvm.h. */
#ifndef FERRY_KVM_INT_H
#define FERRY_KVM_INT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <ferry/kvm.h>

#define KVM_PAGE_SHIFT 12
#define KVM_PAGE_SIZE (UINT64_C(1) << KVM_PAGE_SHIFT)
#define KVM_VCPUS_LIMIT 4096
#define KVM_CPUID_LIMIT 256 /* entries: KVM's own limit */
#define KVM_MSRS_LIMIT 4096

struct kvm_tsc {
	uint64_t khz, value, offset;
	uint64_t has_offset; /* bool */
};

struct kvm_slot {
	struct ferry_kvm_slot as; /* as the VMM has set it */
	uint64_t *bits;		  /* log: as KVM fills it; rings: the pages collected and not handed out */
	uint64_t *groups;	  /* rings: bit i: words 64 * i to 64 * i + 63 of bits may not be 0 */
};

struct kvm_ring {
	struct kvm_dirty_gfn *entries; /* mapped; shared with KVM */
	uint32_t next;		       /* the first entry that was not collected */
	bool found;		       /* .next is known */
	uint64_t pages;		       /* collected since dirty_start */
};

struct ferry_kvm {
	int kvm_fd, vm_fd;
	size_t nvcpus;
	int *vcpus;

	struct kvm_slot *slots; /* in the order of KVM's numbers */
	size_t nslots;
	bool logging;
	uint64_t manual; /* enabled flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */

	pthread_mutex_t lock;	/* rings: everything of them, and the slots */
	struct kvm_ring *rings; /* one per vCPU; NULL: KVM's log is used */
	uint32_t entries;	/* in each ring, a power of two */
	bool owed;		/* entries were collected and not reset */

	/* loading */
	uint32_t *loaded;      /* per vCPU: bit (id & 31) of each section loaded; the TSC's is bit 31 */
	uint32_t loaded_vm;    /* the same for the VM's sections */
	uint32_t loaded_chips; /* one bit per irqchip */
	uint64_t clock_ns;     /* the source's kvmclock */
	uint64_t tsc_shift;    /* added to every vCPU's TSC offset; known once vCPU 0's TSC is loaded */
};

static inline uint64_t kvm_slot_pages(const struct kvm_slot *s)
{
	return s->as.len >> KVM_PAGE_SHIFT;
}

static inline size_t kvm_bitmap_words(uint64_t npages)
{
	return (npages + 63) / 64;
}

/* dirty.c: OR npages bits into `into`, from its bit `first` on. */
void kvm_bits_merge(uint64_t *into, uint64_t first, const uint64_t *bits, uint64_t npages);

/* ring.c. All but open and close are for an object with rings. */
int kvm_rings_open(struct ferry_kvm *k); /* 0 and no rings: the VM has none */
void kvm_rings_close(struct ferry_kvm *k);
/* Drops what was collected or is still in the rings. begin: of an earlier dirty_start; the counts begin at 0. */
int kvm_rings_begin(struct ferry_kvm *k);
int kvm_rings_end(struct ferry_kvm *k);
/* The region's slots lie within npages. */
int kvm_rings_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, unsigned flags);

#define KVM_SECTION_VERSION 1

/* The data of every section begins with this; unaligned on the stream. */
struct kvm_part {
	uint32_t vcpu, count;
};
_Static_assert(sizeof(struct kvm_part) == 8, "on the link");

/* State that is one fixed-size struct with one pair of ioctls, of a vCPU or of the VM. */
struct kvm_plain {
	uint32_t id;
	const char *name;
	int cap; /* 0: always available */
	unsigned long get, set;
	size_t size;
	bool may_lack; /* without the in-kernel device the getter fails, and nothing is saved */
};

enum kvm_plain_id {
	KVM_P_SREGS,
	KVM_P_SREGS2,
	KVM_P_XCRS,
	KVM_P_FPU,
	KVM_P_LAPIC,
	KVM_P_REGS,
	KVM_P_DEBUGREGS,
	KVM_P_EVENTS,
	KVM_P_MP_STATE,
	KVM_P_PIT,
	KVM_PLAINS
};
extern const struct kvm_plain kvm_plains[KVM_PLAINS];

#define KVM_PLAIN_MAX sizeof(struct kvm_lapic_state) /* the largest of them */

bool kvm_has_cap(const struct ferry_kvm *k, int cap);
size_t kvm_xsave_size(const struct ferry_kvm *k);
bool kvm_read_msr(int vcpu_fd, uint32_t index, uint64_t *ret);
bool kvm_write_msr(int vcpu_fd, uint32_t index, uint64_t value);
/* Read or write MSRs up to the first that KVM refuses. Returns how many (n if all), or -ENOMEM. */
int kvm_read_msrs(int vcpu_fd, struct kvm_msr_entry *e, uint32_t n);
int kvm_write_msrs(int vcpu_fd, const struct kvm_msr_entry *e, uint32_t n);

#define KVM_MSR_TSC 0x10u

/* A vCPU's CPUID; the caller frees it. */
int kvm_get_cpuid(int vcpu_fd, struct kvm_cpuid2 **ret);
/* Append header and data as one section. */
int kvm_put(struct ferry_stream *out, uint32_t id, uint32_t vcpu, uint32_t count, const void *data,
	    size_t len);
/* Split a section; -EPROTO with a sentence if it is too short or of another version. */
int kvm_part(struct ferry_stream *in, const struct ferry_section *sec, struct kvm_part *ret,
	     const uint8_t **data, size_t *len);
/* The data of a section that is an array: copied, aligned, freed by the caller. */
int kvm_array(struct ferry_stream *in, const struct ferry_section *sec, size_t size, uint32_t limit,
	      void **ret, uint32_t *count);
/* -EOPNOTSUPP with a sentence if the vCPU itself runs VMs. */
int kvm_refuse_nested(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out);
int kvm_tsc_save(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out);
int kvm_tsc_load(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in, const struct kvm_tsc *src);

#endif
