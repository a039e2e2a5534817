/* SPDX-License-Identifier: MIT */
/*
 * A VM of two vCPUs in real mode for tests of ferry_kvm, without the bench's VMM. Its RAM is one region of two
 * slots; the second does not begin at a multiple of 64 pages.
 */
#ifndef TESTS_PLAINVM_H
#define TESTS_PLAINVM_H

#include <stdint.h>

#include <linux/kvm.h>

#include <ferry/kvm.h>

#define PLAINVM_VCPUS 2
#define PLAINVM_PAGES 160 /* of plainvm_new() */
#define PLAINVM_CUT 100	  /* pages in the first slot */
#define PLAINVM_REGION 5

struct plainvm {
	int kvm, vm, vcpus[PLAINVM_VCPUS];
	struct kvm_run *run[PLAINVM_VCPUS];
	uint8_t *ram;
	uint64_t pages;
	struct ferry_kvm *k;
	uint64_t full; /* exits of vCPUs because their ring was full */
};

/* Skips the test if there is no /dev/kvm. */
void plainvm_new(struct plainvm *m);
/* pages: of RAM; ring_entries: as for ferry_kvm_ring_enable(), UINT32_MAX: no rings. */
void plainvm_new_with(struct plainvm *m, uint64_t pages, uint32_t ring_entries);
void plainvm_end(struct plainvm *m);
/* Another object for the same VM: ferry_kvm_free(m->k) first. */
void plainvm_adopt(struct plainvm *m);

/* The vCPU writes one byte to the page. */
void plainvm_write(struct plainvm *m, int vcpu, uint64_t page);
/* Fetches. Exactly these n pages are dirty, or up to two more (the code, the stack); returns how many. */
uint64_t plainvm_expect(struct plainvm *m, const uint64_t *pages, size_t n, unsigned flags);

/*
 * The smallest ring that this KVM takes, in entries. 0: it has no rings, and the library has refused them as it
 * must. Skips the test if there is no /dev/kvm.
 */
uint32_t plainvm_smallest_ring(void);
/* The same for tests of rings: skips where there are none. */
uint32_t plainvm_ring_or_skip(void);

#endif
