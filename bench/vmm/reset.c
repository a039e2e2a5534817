/* SPDX-License-Identifier: MIT */
/* The initial state of a vCPU: 64-bit at CPL 3 in guest.S, its timer running. */
#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include "vmm_int.h"

#define CPUID_MAX 256

#define CR0_LONG 0x80050033u /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_SSE 0x620u	     /* PAE, OSFXSR, OSXMMEXCPT */
#define CR4_OSXSAVE 0x40000u
#define EFER_LONG 0x501u    /* SCE, LME, LMA */
#define RFLAGS_USER 0x3202u /* IOPL 3, IF */

#define XCR0_SSE 3u
#define XCR0_AVX 7u /* x87, SSE, AVX */
#define XSAVE_MXCSR 24
#define XSAVE_XMM 160
#define XSAVE_HEADER 512
#define XSAVE_YMM 576 /* architectural: CPUID leaf 0xd.2 EBX */

#define APIC_SPURIOUS 0xf0
#define APIC_LVT_TIMER 0x320
#define APIC_LVT_LINT0 0x350
#define APIC_TIMER_COUNT 0x380
#define APIC_TIMER_DIVIDE 0x3e0
#define APIC_BUS_HZ 1000000000u /* KVM's */

static void number_vcpu(struct kvm_cpuid2 *c, uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0x00ffffff) | index << 24;
		else if (e->function == 0xb || e->function == 0x1f)
			e->edx = index;
	}
}

static int ask_cpuid(int fd, unsigned long request, struct kvm_cpuid2 **ret)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_MAX * sizeof(*c->entries));
	int err = c ? 0 : -ENOMEM;

	if (c)
		c->nent = CPUID_MAX;
	if (c && ioctl(fd, request, c) < 0) {
		err = -errno;
		free(c);
	}
	*ret = c;
	return err;
}

int machine_set_cpuid(struct vcpu *v)
{
	struct kvm_cpuid2 *c;
	int err = ask_cpuid(v->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, &c);

	if (err)
		return err;
	number_vcpu(c, v->index);
	if (ioctl(v->fd, KVM_SET_CPUID2, c) < 0)
		err = -errno;
	free(c);
	return err;
}

/* If KVM cannot intercept CPUID, the guest may see more features than were set. */
static int find_avx(struct vcpu *v, bool *avx)
{
	const uint32_t need = bit_XSAVE | bit_AVX;
	struct kvm_cpuid2 *c;
	int err = ask_cpuid(v->fd, KVM_GET_CPUID2, &c);

	if (err)
		return err;
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == 1)
			*avx = (c->entries[i].ecx & need) == need;
	free(c);
	return 0;
}

static struct kvm_segment flat(uint16_t selector, uint8_t type)
{
	return (struct kvm_segment){ .limit = 0xffffffff,
				     .selector = selector,
				     .type = type,
				     .present = 1,
				     .dpl = 3,
				     .db = type == 3,
				     .s = 1,
				     .l = type != 3,
				     .g = 1 };
}

static int set_sregs(struct vcpu *v, bool avx)
{
	struct kvm_sregs s;

	if (ioctl(v->fd, KVM_GET_SREGS, &s) < 0)
		return -errno;
	s.cs = flat(GUEST_SEL_CODE3, 0xb);
	s.ds = s.es = s.fs = s.gs = s.ss = flat(GUEST_SEL_DATA3, 3);
	s.tr = (struct kvm_segment){ .base = GUEST_TSS + 0x80 * v->index,
				     .limit = 0x67,
				     .present = 1,
				     .type = 11,
				     .selector = (uint16_t)(GUEST_SEL_TSS + 16 * v->index) };
	s.gdt.base = GUEST_GDT;
	s.gdt.limit = (uint16_t)(GUEST_SEL_TSS + 16 * v->vm->nvcpus - 1);
	s.idt.base = GUEST_IDT;
	s.idt.limit = 16 * (GUEST_VECTOR + 1) - 1;
	s.cr0 = CR0_LONG;
	s.cr3 = GUEST_PML4;
	s.cr4 = CR4_SSE | (avx ? CR4_OSXSAVE : 0);
	s.efer = EFER_LONG;
	return ioctl(v->fd, KVM_SET_SREGS, &s) < 0 ? -errno : 0;
}

/* Only for a KVM without XSAVE; with XSAVE, KVM_SET_FPU does not mark the registers as in use. */
static int set_fpu(struct vcpu *v)
{
	const uint64_t sentinel = GUEST_SENTINEL;
	struct kvm_fpu fpu;

	if (ioctl(v->fd, KVM_GET_FPU, &fpu) < 0)
		return -errno;
	memcpy(fpu.xmm[5], &sentinel, sizeof(sentinel));
	fpu.fcw = 0x37f;
	fpu.mxcsr = 0x1f80;
	return ioctl(v->fd, KVM_SET_FPU, &fpu) < 0 ? -errno : 0;
}

/* xmm5, ymm6 and its upper half. */
static int set_xsave(struct vcpu *v, bool avx)
{
	const uint64_t sentinel = GUEST_SENTINEL, state = avx ? XCR0_AVX : XCR0_SSE;
	const uint16_t fcw = 0x37f;
	const uint32_t mxcsr = 0x1f80;
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs = { { .value = XCR0_AVX } } };
	struct kvm_xsave x;
	uint8_t *area = (uint8_t *)&x;
	uint64_t in_use;

	if (avx && ioctl(v->fd, KVM_SET_XCRS, &xcrs) < 0)
		return -errno;
	if (ioctl(v->fd, KVM_GET_XSAVE, &x) < 0)
		return -errno;
	memcpy(area, &fcw, sizeof(fcw));
	memcpy(area + XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	memcpy(area + XSAVE_XMM + 16 * 5, &sentinel, sizeof(sentinel));
	memcpy(area + XSAVE_XMM + 16 * 6, &sentinel, sizeof(sentinel));
	if (avx)
		memcpy(area + XSAVE_YMM + 16 * 6, &sentinel, sizeof(sentinel));
	memcpy(&in_use, area + XSAVE_HEADER, sizeof(in_use));
	in_use |= state;
	memcpy(area + XSAVE_HEADER, &in_use, sizeof(in_use));
	return ioctl(v->fd, KVM_SET_XSAVE, &x) < 0 ? -errno : 0;
}

static void apic_put(struct kvm_lapic_state *l, size_t at, uint32_t value)
{
	memcpy(l->regs + at, &value, sizeof(value));
}

static int set_lapic(struct vcpu *v)
{
	struct kvm_lapic_state l;

	if (ioctl(v->fd, KVM_GET_LAPIC, &l) < 0)
		return -errno;
	apic_put(&l, APIC_SPURIOUS, 0x1ff);
	apic_put(&l, APIC_LVT_LINT0, 1u << 16);
	apic_put(&l, APIC_LVT_TIMER, GUEST_VECTOR | 1u << 17); /* periodic */
	apic_put(&l, APIC_TIMER_DIVIDE, 0xb);		       /* by 1 */
	apic_put(&l, APIC_TIMER_COUNT, APIC_BUS_HZ / TIMER_HZ);
	return ioctl(v->fd, KVM_SET_LAPIC, &l) < 0 ? -errno : 0;
}

static int set_regs(struct vcpu *v)
{
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	struct kvm_regs r = {
		.rip = GUEST_CODE,
		.rsp = GUEST_STACK + PAGE_BYTES * (v->index + 1),
		.rflags = RFLAGS_USER,
		.rbx = GUEST_DATA_GPA + PAGE_BYTES * v->index,
		.rsi = v->slice,
		.rbp = v->vm->cfg.pattern,
		.r11 = (uint64_t)PAGE_BYTES * v->vm->nvcpus,
		.r12 = STAMP_K1,
		.r13 = STAMP_K2,
		.r14 = GUEST_SENTINEL,
		.r15 = GUEST_VCPU + PAGE_BYTES * v->index,
	};

	if (ioctl(v->fd, KVM_SET_REGS, &r) < 0)
		return -errno;
	return ioctl(v->fd, KVM_SET_MP_STATE, &runnable) < 0 ? -errno : 0;
}

static int reset_vcpu(struct vcpu *v, const char **what)
{
	bool avx = false;
	int err;

	*what = "CPUID";
	err = find_avx(v, &avx);
	if (!err) {
		*what = "segments";
		err = set_sregs(v, avx);
	}
	if (!err) {
		*what = "SSE and AVX registers";
		err = ioctl(v->vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) > 0 ? set_xsave(v, avx)
										  : set_fpu(v);
	}
	if (!err && avx)
		((uint8_t *)v->vm->regions[0].hva)[GUEST_VCPU + PAGE_BYTES * v->index + VCPU_FLAGS] = 1;
	if (!err) {
		*what = "LAPIC";
		err = set_lapic(v);
	}
	if (!err) {
		*what = "registers";
		err = set_regs(v);
	}
	return err;
}

int machine_reset(struct vmm *vm, char *why, size_t cap)
{
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		const char *what;
		int err = reset_vcpu(&vm->vcpus[i], &what);

		if (err) {
			snprintf(why, cap, "KVM refuses the initial %s of vCPU %u: %s", what, i,
				 strerror(-err));
			return err;
		}
	}
	return 0;
}
