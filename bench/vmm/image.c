/* SPDX-License-Identifier: MIT */
/*
 * The guest's low memory at the start: page tables, GDT, IDT, one TSS per vCPU, its code, the vCPUs' pages.
 * It depends only on the configuration, so the proof can build it again. All bits that a CPU would set
 * (accessed, dirty, busy) are set already, so the tables never change.
 */
#include <string.h>

#include "vmm_int.h"

#define PTE_TABLE UINT64_C(0x67) /* present, writable, user, accessed, dirty */
#define PTE_HUGE UINT64_C(0xe7)	 /* the same, 2 MiB */
#define PTE_UNCACHED UINT64_C(0x18)
#define APIC_GPA UINT64_C(0xfee00000)
#define APIC_PAGE (APIC_GPA & ~UINT64_C(0x1fffff)) /* the 2 MiB page around it */
_Static_assert((APIC_GPA & 0x1fffff) == 0, "GUEST_APIC is a 2 MiB page");

extern const uint8_t guest_begin[], guest_timer[], guest_end[];

static void put64(uint8_t *buf, size_t at, uint64_t value)
{
	memcpy(buf + at, &value, sizeof(value));
}

static void build_tables(const struct vmm *vm, uint8_t *buf)
{
	uint64_t data = vm->cfg.memory - GUEST_LOW_LEN;

	put64(buf, GUEST_PML4, GUEST_PDPT | PTE_TABLE);
	put64(buf, GUEST_PDPT, GUEST_PD_LOW | PTE_TABLE);
	put64(buf, GUEST_PDPT + 8 * (GUEST_APIC >> 30), GUEST_PD_APIC | PTE_TABLE);
	put64(buf, GUEST_PD_APIC, APIC_PAGE | PTE_HUGE | PTE_UNCACHED);
	for (uint64_t at = 0; at < GUEST_LOW_LEN; at += 2u << 20)
		put64(buf, GUEST_PD_LOW + 8 * (at >> 21), at | PTE_HUGE);
	for (uint64_t at = 0; at < data; at += 2u << 20) {
		uint64_t pd = GUEST_PD_DATA + PAGE_BYTES * (at >> 30);

		put64(buf, GUEST_PDPT + 8 * ((GUEST_DATA_GPA + at) >> 30), pd | PTE_TABLE);
		put64(buf, pd + 8 * ((at >> 21) & 511), (GUEST_DATA_GPA + at) | PTE_HUGE);
	}
}

static void build_segments(const struct vmm *vm, uint8_t *buf)
{
	uint64_t handler = GUEST_CODE + (uint64_t)(guest_timer - guest_begin);

	put64(buf, GUEST_GDT + GUEST_SEL_CODE0, UINT64_C(0x00af9b000000ffff));
	put64(buf, GUEST_GDT + 0x10, UINT64_C(0x00cf93000000ffff));
	put64(buf, GUEST_GDT + (GUEST_SEL_DATA3 & ~3), UINT64_C(0x00cff3000000ffff));
	put64(buf, GUEST_GDT + (GUEST_SEL_CODE3 & ~3), UINT64_C(0x00affb000000ffff));
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		uint64_t tss = GUEST_TSS + 0x80 * i;

		/* busy TSS, limit 0x67; below 4 GiB, so that its second half is zero */
		put64(buf, GUEST_GDT + GUEST_SEL_TSS + 16 * i,
		      0x67 | (tss & 0xffffff) << 16 | UINT64_C(0x8b) << 40 | (tss >> 24) << 56);
		put64(buf, tss + 4, GUEST_STACK + PAGE_BYTES * (i + 1)); /* rsp0 */
	}
	/* interrupt gate, present, for CPL 0 */
	put64(buf, GUEST_IDT + 16 * GUEST_VECTOR,
	      (handler & 0xffff) | (uint64_t)GUEST_SEL_CODE0 << 16 | UINT64_C(0x8e) << 40 |
		      (handler >> 16) << 48);
}

void image_build(const struct vmm *vm, uint8_t *buf)
{
	build_tables(vm, buf);
	build_segments(vm, buf);
	memcpy(buf + GUEST_CODE, guest_begin, (size_t)(guest_end - guest_begin));
}

bool image_is_live(const struct vmm *vm, uint64_t page)
{
	uint64_t at = page << PAGE_SHIFT;

	return (at >= GUEST_VCPU && at < GUEST_VCPU + PAGE_BYTES * vm->nvcpus) ||
	       (at >= GUEST_STACK && at < GUEST_STACK + PAGE_BYTES * vm->nvcpus);
}
