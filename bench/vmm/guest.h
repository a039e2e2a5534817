/* SPDX-License-Identifier: MIT */
/* Constants shared by the guest's code and the VMM; the assembler reads this file, too. */
#ifndef BENCH_VMM_GUEST_H
#define BENCH_VMM_GUEST_H

/* Guest physical addresses, which are also virtual: RAM is identity-mapped. */
#define GUEST_CODE 0x8000
#define GUEST_GDT 0x9000
#define GUEST_IDT 0xa000
#define GUEST_TSS 0xb000 /* 0x80 bytes per vCPU */
#define GUEST_PML4 0x10000
#define GUEST_PDPT 0x11000
#define GUEST_PD_LOW 0x12000	 /* the low region */
#define GUEST_PD_APIC 0x13000	 /* the LAPIC's page, at GUEST_APIC */
#define GUEST_VCPU 0x20000	 /* one page per vCPU: counters, below */
#define GUEST_STACK 0x40000	 /* one page per vCPU, for CPL 0 */
#define GUEST_PD_DATA 0x100000	 /* one page per GiB of data RAM */
#define GUEST_IMAGE_END 0x200000 /* after this the low region has content like the data region */

#define GUEST_APIC 0x40000000 /* 0xfee00000 is mapped here, within a 32-bit displacement */
#define GUEST_LOW_LEN 0x1000000
#define GUEST_DATA_GPA 0x100000000

#define GUEST_SEL_CODE0 0x08
#define GUEST_SEL_DATA3 0x1b
#define GUEST_SEL_CODE3 0x23
#define GUEST_SEL_TSS 0x28 /* 16 bytes per vCPU */
#define GUEST_VECTOR 0x20  /* the timer */

/* The VMM's order, by `in`. Bit 31: a new slice of so many pages; bit 30: print; else stamp so many pages. */
#define GUEST_PORT_ASK 0x11
#define GUEST_PORT_PRINT 0x12
#define GUEST_ASK_SLICE 31
#define GUEST_ASK_PRINT 30

/* The vCPU's page */
#define VCPU_TICKS 0x00
#define VCPU_VISITS 0x08
#define VCPU_SEQUENCE 0x10 /* at the last visit */
#define VCPU_TSC_BACK 0x18
#define VCPU_SSE_BAD 0x20
#define VCPU_AVX_BAD 0x28
#define VCPU_FLAGS 0x30 /* bit 0: AVX */

/* The order of stamps in a vCPU's slice: stamp.h */
#define PATTERN_RANDOM 0
#define PATTERN_SEQUENTIAL 1
#define PATTERN_ZIPF 2

#define STAMP_K1 0x9e3779b97f4a7c15
#define STAMP_K2 0xbf58476d1ce4e5b9
#define STAMP_SCATTER 2654435761 /* a prime larger than any slice */
#define GUEST_SENTINEL 0x5afe5afe12345678

#endif
