/* SPDX-License-Identifier: MIT */
/* ferry_kvm by itself: state out of one VM into another, what is refused, the dirty log over several slots.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <linux/kvm.h>

#include <ferry/kvm.h>

#include "plainvm.h"
#include "runtime/kvm/kvm_int.h"
#include "runtime/link/stream.h"

#define NVCPUS PLAINVM_VCPUS

/* --- state --- */

static void set_msr(int vcpu, uint32_t index, uint64_t value)
{
	cr_assert(kvm_write_msr(vcpu, index, value), "MSR 0x%x", index);
}

static uint64_t msr(int vcpu, uint32_t index)
{
	uint64_t value = 0;

	cr_assert(kvm_read_msr(vcpu, index, &value), "MSR 0x%x", index);
	return value;
}

/* Something of each kind that a fresh vCPU does not have. */
static void mark(struct plainvm *m, int i)
{
	int fd = m->vcpus[i];
	struct kvm_regs regs = { .rax = 0x1111 + i, .r15 = 0x2222 + i, .rip = 0x3333 + i, .rflags = 2 };
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_debugregs dr = { .db = { 0x1000, 0x2000 }, .dr6 = 0xffff0ff0, .dr7 = 0x400 };
	struct kvm_xsave xsave;
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	cr_assert_eq(ioctl(fd, KVM_SET_REGS, &regs), 0);
	cr_assert_eq(ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	sregs.fs.base = 0x12340000 + (unsigned)i;
	sregs.gdt.base = 0x5000;
	cr_assert_eq(ioctl(fd, KVM_SET_SREGS, &sregs), 0);
	cr_assert_eq(ioctl(fd, KVM_GET_XSAVE, &xsave), 0);
	memset((uint8_t *)&xsave + 160 + 16 * 7, 0x40 + i, 16); /* xmm7 */
	((uint8_t *)&xsave)[512] |= 2;				/* SSE is in use */
	cr_assert_eq(ioctl(fd, KVM_SET_XSAVE, &xsave), 0);
	cr_assert_eq(ioctl(fd, KVM_SET_DEBUGREGS, &dr), 0);
	cr_assert_eq(ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	lapic.regs[0x80] = (char)(0x20 + 0x10 * i); /* TPR */
	cr_assert_eq(ioctl(fd, KVM_SET_LAPIC, &lapic), 0);
	cr_assert_eq(ioctl(fd, KVM_SET_MP_STATE, &mp), 0);
	set_msr(fd, 0xc0000102, 0x77770000 + (unsigned)i); /* KERNEL_GS_BASE */
	set_msr(fd, 0x174, 0x88 + (unsigned)i);		   /* SYSENTER_CS */
	set_msr(fd, 0x277, 0x0007040600070401);		   /* PAT */
}

static void check_mark(struct plainvm *m, int i)
{
	int fd = m->vcpus[i];
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_debugregs dr;
	struct kvm_fpu fpu;
	struct kvm_mp_state mp;

	cr_assert_eq(ioctl(fd, KVM_GET_REGS, &regs), 0);
	cr_expect_eq(regs.rax, 0x1111 + i);
	cr_expect_eq(regs.r15, 0x2222 + i);
	cr_expect_eq(regs.rip, 0x3333 + i);
	cr_assert_eq(ioctl(fd, KVM_GET_SREGS, &sregs), 0);
	cr_expect_eq(sregs.fs.base, 0x12340000 + i);
	cr_expect_eq(sregs.gdt.base, 0x5000);
	cr_assert_eq(ioctl(fd, KVM_GET_FPU, &fpu), 0);
	cr_expect_eq(fpu.xmm[7][3], 0x40 + i);
	cr_assert_eq(ioctl(fd, KVM_GET_DEBUGREGS, &dr), 0);
	cr_expect_eq(dr.db[1], 0x2000);
	cr_assert_eq(ioctl(fd, KVM_GET_LAPIC, &lapic), 0);
	cr_expect_eq(lapic.regs[0x80], 0x20 + 0x10 * i);
	cr_assert_eq(ioctl(fd, KVM_GET_MP_STATE, &mp), 0);
	cr_expect_eq(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	cr_expect_eq(msr(fd, 0xc0000102), 0x77770000 + i);
	cr_expect_eq(msr(fd, 0x174), 0x88 + i);
	cr_expect_eq(msr(fd, 0x277), 0x0007040600070401);
}

/* Takes all sections; what the first refusal says, or 0. */
static int load_all(struct plainvm *m, struct ferry_stream *st)
{
	struct ferry_section sec;
	int err;

	while ((err = ferry_stream_next(st, &sec)) == 1) {
		err = ferry_kvm_load(m->k, st, &sec);
		if (err)
			return err;
	}
	return err ? err : ferry_kvm_load_end(m->k, st);
}

Test(kvm_state, all_of_it_arrives)
{
	struct plainvm from, to;
	struct kvm_irqchip chip = { .chip_id = 2 };
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock = { .clock = 1234567890123 };
	struct ferry_stream st;

	plainvm_new(&from);
	plainvm_new(&to);
	for (int i = 0; i < NVCPUS; i++)
		mark(&from, i);
	cr_assert_eq(ioctl(from.vm, KVM_GET_IRQCHIP, &chip), 0);
	chip.chip.ioapic.redirtbl[5].fields.vector = 0x45;
	cr_assert_eq(ioctl(from.vm, KVM_SET_IRQCHIP, &chip), 0);
	cr_assert_eq(ioctl(from.vm, KVM_GET_PIT2, &pit), 0);
	pit.channels[2].count = 0x4321;
	cr_assert_eq(ioctl(from.vm, KVM_SET_PIT2, &pit), 0);
	cr_assert_eq(ioctl(from.vm, KVM_SET_CLOCK, &clock), 0);

	stream_init(&st);
	cr_assert_eq(ferry_kvm_save(from.k, &st), 0, "%s", fail_text(&st.fail));
	cr_assert_eq(load_all(&to, &st), 0, "%s", fail_text(&st.fail));
	for (int i = 0; i < NVCPUS; i++)
		check_mark(&to, i);
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = 2;
	cr_assert_eq(ioctl(to.vm, KVM_GET_IRQCHIP, &chip), 0);
	cr_expect_eq(chip.chip.ioapic.redirtbl[5].fields.vector, 0x45);
	cr_assert_eq(ioctl(to.vm, KVM_GET_PIT2, &pit), 0);
	cr_expect_eq(pit.channels[2].count, 0x4321);
	cr_assert_eq(ioctl(to.vm, KVM_GET_CLOCK, &clock), 0);
	cr_expect_geq(clock.clock, 1234567890123);
	cr_expect_lt(clock.clock, 1234567890123 + 5000000000);
	for (int i = 0; i < NVCPUS; i++)
		cr_expect_geq(msr(to.vcpus[i], KVM_MSR_TSC), 0);
	stream_destroy(&st);
	plainvm_end(&from);
	plainvm_end(&to);
}

/* A local APIC whose timer goes off at a TSC, which CPUID must promise and the guest choose. */
static void use_deadline(struct plainvm *m, int i)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_CPUID_LIMIT * sizeof(*c->entries));
	struct kvm_lapic_state lapic;
	const uint32_t on = 0x1ff, at_a_tsc = 2u << 17 | 0xec;

	c->nent = KVM_CPUID_LIMIT;
	cr_assert_eq(ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	for (uint32_t n = 0; n < c->nent; n++)
		if (c->entries[n].function == 1)
			c->entries[n].ecx |= 1u << 24;
	cr_assert_eq(ioctl(m->vcpus[i], KVM_SET_CPUID2, c), 0);
	free(c);
	cr_assert_eq(ioctl(m->vcpus[i], KVM_GET_LAPIC, &lapic), 0);
	memcpy(lapic.regs + 0xf0, &on, sizeof(on));
	memcpy(lapic.regs + 0x320, &at_a_tsc, sizeof(at_a_tsc));
	cr_assert_eq(ioctl(m->vcpus[i], KVM_SET_LAPIC, &lapic), 0);
}

/* The guest's TSC is as far here as it would be there, give or take a second. */
static void check_tsc(struct plainvm *from, struct plainvm *to, int i)
{
	uint64_t second = (uint64_t)ioctl(from->vcpus[i], KVM_GET_TSC_KHZ, 0) * 1000, before, here, after;

	before = msr(from->vcpus[i], KVM_MSR_TSC);
	here = msr(to->vcpus[i], KVM_MSR_TSC);
	after = msr(from->vcpus[i], KVM_MSR_TSC);
	cr_expect_geq(here + second, before, "%llu at the target, %llu at the source",
		      (unsigned long long)here, (unsigned long long)before);
	cr_expect_leq(here, after + second, "%llu at the target, %llu at the source",
		      (unsigned long long)here, (unsigned long long)after);
}

/* A guest that sleeps until a TSC is woken by the target's timer, or never again. */
Test(kvm_state, the_tsc_goes_on_and_so_does_a_timer_that_waits_for_it)
{
	const uint32_t msr_deadline = 0x6e0;
	uint64_t deadline[NVCPUS];
	struct plainvm from, to;
	struct ferry_stream st;

	plainvm_new(&from);
	plainvm_new(&to);
	for (int i = 0; i < NVCPUS; i++) {
		use_deadline(&from, i);
		deadline[i] = msr(from.vcpus[i], KVM_MSR_TSC) + (UINT64_C(1) << 42) + (unsigned)i;
		set_msr(from.vcpus[i], msr_deadline, deadline[i]);
		cr_assert_eq(msr(from.vcpus[i], msr_deadline), deadline[i], "vCPU %d has no such timer", i);
	}
	stream_init(&st);
	cr_assert_eq(ferry_kvm_save(from.k, &st), 0, "%s", fail_text(&st.fail));
	cr_assert_eq(load_all(&to, &st), 0, "%s", fail_text(&st.fail));
	for (int i = 0; i < NVCPUS; i++) {
		cr_expect_eq(msr(to.vcpus[i], msr_deadline), deadline[i], "vCPU %d would not wake", i);
		check_tsc(&from, &to, i);
	}
	stream_destroy(&st);
	plainvm_end(&from);
	plainvm_end(&to);
}

static struct kvm_cpuid2 *shown(int vcpu)
{
	struct kvm_cpuid2 *c;

	cr_assert_eq(kvm_get_cpuid(vcpu, &c), 0);
	return c;
}

/* A bit less, or a leaf less, than the source's. */
static void show_less(int vcpu, bool leaf)
{
	struct kvm_cpuid2 *c = shown(vcpu);

	if (leaf)
		c->nent--;
	for (uint32_t i = 0; i < c->nent && !leaf; i++)
		if (c->entries[i].function == 1)
			c->entries[i].ecx &= c->entries[i].ecx - 1;
	cr_assert_eq(ioctl(vcpu, KVM_SET_CPUID2, c), 0);
	free(c);
}

static void switch_xsave_on(int vcpu)
{
	struct kvm_sregs sregs;

	cr_assert_eq(ioctl(vcpu, KVM_GET_SREGS, &sregs), 0);
	sregs.cr4 |= 1u << 18; /* OSXSAVE: CPUID shows it */
	cr_assert_eq(ioctl(vcpu, KVM_SET_SREGS, &sregs), 0);
}

/* The VMM may have set CPUID before, the same or another; the guest sees what it saw at the source. */
Test(kvm_state, cpuid_arrives_whatever_was_set_before)
{
	struct plainvm from, to;
	struct ferry_stream st;

	for (int less = 0; less < 3; less++) {
		plainvm_new(&from);
		plainvm_new(&to);
		switch_xsave_on(from.vcpus[0]);
		if (less)
			show_less(to.vcpus[0], less == 2);
		stream_init(&st);
		cr_assert_eq(ferry_kvm_save(from.k, &st), 0, "%s", fail_text(&st.fail));
		cr_assert_eq(load_all(&to, &st), 0, "%s", fail_text(&st.fail));
		for (int i = 0; i < NVCPUS; i++) {
			struct kvm_cpuid2 *a = shown(from.vcpus[i]), *b = shown(to.vcpus[i]);

			cr_assert_eq(a->nent, b->nent, "%d: %u and %u leaves", less, a->nent, b->nent);
			cr_expect_arr_eq(a->entries, b->entries, a->nent * sizeof(*a->entries), "%d, vCPU %d",
					 less, i);
			free(a);
			free(b);
		}
		stream_destroy(&st);
		plainvm_end(&from);
		plainvm_end(&to);
	}
}

/* The sections of a good stream one by one into another, each changed or left out as change() says. */
static int load_changed(int (*change)(struct ferry_stream *out, const struct ferry_section *sec), char *text)
{
	struct plainvm from, to;
	struct ferry_stream st, out;
	struct ferry_section sec;
	int err;

	plainvm_new(&from);
	plainvm_new(&to);
	stream_init(&st);
	stream_init(&out);
	cr_assert_eq(ferry_kvm_save(from.k, &st), 0);
	while (ferry_stream_next(&st, &sec) == 1)
		cr_assert_eq(change(&out, &sec), 0);
	err = load_all(&to, &out);
	strcpy(text, fail_text(&out.fail));
	stream_destroy(&st);
	stream_destroy(&out);
	plainvm_end(&from);
	plainvm_end(&to);
	return err;
}

static int put(struct ferry_stream *out, const struct ferry_section *sec)
{
	return ferry_stream_put(out, sec->id, sec->version, sec->data, sec->len);
}

static int newer(struct ferry_stream *out, const struct ferry_section *sec)
{
	return ferry_stream_put(out, sec->id, sec->version + (sec->id == FERRY_KVM_SECTION_LAPIC), sec->data,
				sec->len);
}

static int shorter(struct ferry_stream *out, const struct ferry_section *sec)
{
	return ferry_stream_put(out, sec->id, sec->version, sec->data,
				sec->len - (sec->id == FERRY_KVM_SECTION_REGS));
}

static int tiny(struct ferry_stream *out, const struct ferry_section *sec)
{
	return ferry_stream_put(out, sec->id, sec->version, sec->data,
				sec->id == FERRY_KVM_SECTION_MSRS ? 5 : sec->len);
}

static int unknown(struct ferry_stream *out, const struct ferry_section *sec)
{
	return ferry_stream_put(out, sec->id == FERRY_KVM_SECTION_EVENTS ? 0x4b560077 : sec->id, sec->version,
				sec->data, sec->len);
}

static int twice(struct ferry_stream *out, const struct ferry_section *sec)
{
	return sec->id == FERRY_KVM_SECTION_XSAVE && put(out, sec) ? -1 : put(out, sec);
}

static int without_regs(struct ferry_stream *out, const struct ferry_section *sec)
{
	return sec->id == FERRY_KVM_SECTION_REGS ? 0 : put(out, sec);
}

static int without_clock(struct ferry_stream *out, const struct ferry_section *sec)
{
	return sec->id == FERRY_KVM_SECTION_CLOCK ? 0 : put(out, sec);
}

static int with_word(struct ferry_stream *out, const struct ferry_section *sec, uint32_t id, size_t at,
		     uint32_t value)
{
	uint8_t *copy;
	int err;

	if (sec->id != id)
		return put(out, sec);
	copy = malloc(sec->len);
	memcpy(copy, sec->data, sec->len);
	memcpy(copy + at, &value, sizeof(value));
	err = ferry_stream_put(out, sec->id, sec->version, copy, sec->len);
	free(copy);
	return err;
}

static int other_vcpu(struct ferry_stream *out, const struct ferry_section *sec)
{
	return with_word(out, sec, FERRY_KVM_SECTION_SREGS2, 0, 1000000);
}

static int huge_count(struct ferry_stream *out, const struct ferry_section *sec)
{
	return with_word(out, sec, FERRY_KVM_SECTION_MSRS, 4, 0xffffffff);
}

static int bad_chip(struct ferry_stream *out, const struct ferry_section *sec)
{
	return with_word(out, sec, FERRY_KVM_SECTION_IRQCHIP, 4, 40);
}

static int foreign_msr(struct ferry_stream *out, const struct ferry_section *sec)
{
	return with_word(out, sec, FERRY_KVM_SECTION_MSRS, sizeof(struct kvm_part), 0xdeadbeef);
}

Test(kvm_state, what_does_not_fit_is_refused_with_a_sentence)
{
	static const struct {
		int (*change)(struct ferry_stream *out, const struct ferry_section *sec);
		int err;
		const char *says;
	} cases[] = {
		{ put, 0, "" },
		{ newer, -EPROTO, "version 2" },
		{ shorter, -EPROTO, "regs of vCPU 0" },
		{ tiny, -EPROTO, "5 bytes" },
		{ unknown, -EPROTO, "0x4b560077" },
		{ twice, -EPROTO, "twice" },
		{ without_regs, -EPROTO, "vCPU 0 is not whole" },
		{ without_clock, -EPROTO, "clock" },
		{ other_vcpu, -EPROTO, "vCPU 1000000 of 2" },
		{ huge_count, -EPROTO, "4294967295" },
		{ bad_chip, -EPROTO, "irqchip 40" },
		{ foreign_msr, -EOPNOTSUPP, "MSR 0xdeadbeef" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		char text[FAIL_MAX] = "";
		int err = load_changed(cases[i].change, text);

		cr_expect_eq(err, cases[i].err, "case %zu: %d %s", i, err, text);
		cr_expect_not_null(strstr(text, cases[i].says), "case %zu: %s", i, text);
	}
}

Test(kvm_state, foreign_sections_are_left_to_the_caller)
{
	struct ferry_section sec = { .id = 17, .version = 1 };
	struct ferry_stream st;
	struct plainvm m;

	plainvm_new(&m);
	stream_init(&st);
	cr_expect_eq(ferry_kvm_load(m.k, &st, &sec), 1);
	cr_expect_eq(ferry_kvm_check_needs(m.kvm, &st, &sec), 1);
	cr_expect_str_eq(fail_text(&st.fail), "");
	stream_destroy(&st);
	plainvm_end(&m);
}

/* --- needs --- */

static int check_needs(struct plainvm *m, struct ferry_stream *st)
{
	struct ferry_section sec;
	int err;

	while ((err = ferry_stream_next(st, &sec)) == 1) {
		err = ferry_kvm_check_needs(m->kvm, st, &sec);
		if (err)
			return err;
	}
	return err;
}

Test(kvm_state, the_same_host_has_what_is_needed)
{
	struct ferry_stream st;
	struct plainvm m;

	plainvm_new(&m);
	stream_init(&st);
	cr_assert_eq(ferry_kvm_put_needs(m.k, &st), 0);
	cr_expect_eq(check_needs(&m, &st), 0, "%s", fail_text(&st.fail));
	stream_destroy(&st);
	plainvm_end(&m);
}

Test(kvm_state, a_missing_feature_is_named)
{
	const struct kvm_cpuid_entry2 guest = { .function = 0x80000001,
						.ecx = 1u << 15 }; /* LWP: no CPU has it now */
	struct ferry_stream st;
	struct plainvm m;

	plainvm_new(&m);
	stream_init(&st);
	cr_assert_eq(kvm_put(&st, FERRY_KVM_SECTION_NEED_CPUID, 0, 1, &guest, sizeof(guest)), 0);
	cr_expect_eq(check_needs(&m, &st), -EOPNOTSUPP);
	cr_expect_not_null(strstr(fail_text(&st.fail), "0x80000001.0 ECX"), "%s", fail_text(&st.fail));
	cr_expect_not_null(strstr(fail_text(&st.fail), "0x00008000"), "%s", fail_text(&st.fail));
	stream_destroy(&st);

	stream_init(&st);
	cr_assert_eq(kvm_put(&st, FERRY_KVM_SECTION_NEED_VCPUS, 0, 1000000, NULL, 0), 0);
	cr_expect_eq(check_needs(&m, &st), -EOPNOTSUPP);
	cr_expect_not_null(strstr(fail_text(&st.fail), "1000000 vCPUs"), "%s", fail_text(&st.fail));
	stream_destroy(&st);
	plainvm_end(&m);
}

/* --- dirty tracking: the same of each way --- */

enum way { MANUAL_LOG, CLASSIC_LOG, RINGS };

static void turn_manual_off(struct plainvm *m)
{
	struct kvm_enable_cap off = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };

	if (!m->k->manual)
		return;
	cr_assert_eq(ioctl(m->vm, KVM_ENABLE_CAP, &off), 0);
	m->k->manual = 0;
}

static void fetches(enum way way)
{
	static const uint64_t first[] = { 3, 63, 99, 100, 159 }, second[] = { 64, 101 },
			      last[] = { 127, 128, 3 };
	uint64_t none[PLAINVM_PAGES / 64 + 1] = { 0 };
	struct plainvm m;

	plainvm_new_with(&m, PLAINVM_PAGES, way == RINGS ? plainvm_ring_or_skip() : UINT32_MAX);
	plainvm_write(&m, 0, 7);
	plainvm_write(&m, 0, 130);
	cr_assert_eq(ferry_kvm_dirty_fetch(m.k, PLAINVM_REGION, none, PLAINVM_PAGES, 0), -EINVAL);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	if (way == CLASSIC_LOG)
		turn_manual_off(&m);
	plainvm_expect(&m, NULL, 0, 0);
	for (size_t i = 0; i < 5; i++)
		plainvm_write(&m, 0, first[i]);
	plainvm_expect(&m, first, 5, 0);
	plainvm_write(&m, 0, 63);
	plainvm_expect(&m, (uint64_t[]){ 63 }, 1, 0);
	plainvm_expect(&m, NULL, 0, 0);
	for (size_t i = 0; i < 2; i++)
		plainvm_write(&m, 0, second[i]);
	plainvm_expect(&m, second, 2, 0);
	for (size_t i = 0; i < 3; i++)
		plainvm_write(&m, 0, last[i]);
	plainvm_expect(&m, last, 3, FERRY_DIRTY_LAST);
	cr_expect_eq(ferry_kvm_dirty_fetch(m.k, PLAINVM_REGION + 1, none, PLAINVM_PAGES, 0), -EINVAL);
	cr_expect_eq(ferry_kvm_dirty_fetch(m.k, PLAINVM_REGION, none, PLAINVM_PAGES - 1, 0), -EINVAL);
	/* it was not the last after all: the page is writable, and its next write is not lost */
	plainvm_write(&m, 0, 128);
	plainvm_expect(&m, (uint64_t[]){ 128 }, 1, 0);
	plainvm_expect(&m, NULL, 0, 0);
	plainvm_write(&m, 0, 128);
	plainvm_expect(&m, (uint64_t[]){ 128 }, 1, 0);
	/* what no fetch has returned goes with the stop */
	plainvm_write(&m, 0, 50);
	plainvm_expect(&m, (uint64_t[]){ 50 }, 1, FERRY_DIRTY_LAST);
	plainvm_write(&m, 0, 51);
	cr_assert_eq(ferry_kvm_dirty_stop(m.k), 0);
	cr_assert_eq(ferry_kvm_dirty_stop(m.k), 0);
	plainvm_write(&m, 0, 52);
	/* and once more, from the beginning */
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	plainvm_expect(&m, NULL, 0, 0);
	plainvm_write(&m, 0, 130);
	plainvm_expect(&m, (uint64_t[]){ 130 }, 1, 0);
	plainvm_end(&m);
}

Test(kvm_state, dirty_pages_of_several_slots)
{
	fetches(MANUAL_LOG);
}

Test(kvm_state, dirty_pages_by_the_classic_log)
{
	fetches(CLASSIC_LOG);
}

Test(kvm_state, dirty_pages_by_rings)
{
	fetches(RINGS);
}

Test(kvm_state, bad_arguments)
{
	struct ferry_kvm_slot slot = { FERRY_KVM_SLOT_INIT, .slot = 9, .region = 1, .gpa = 1ull << 32,
				       .len = 4096 };
	struct ferry_kvm *k = NULL;
	struct plainvm m;

	plainvm_new(&m);
	cr_expect_eq(ferry_kvm_new(&k, m.kvm, m.vm, m.vcpus, 0), -EINVAL);
	cr_expect_eq(ferry_kvm_new(&k, -1, m.vm, m.vcpus, 1), -EINVAL);
	cr_expect_null(k);
	cr_expect_eq(ferry_kvm_add_slot(m.k, &slot), -EINVAL); /* no memory */
	slot.hva = m.ram;
	slot.len = 4095;
	cr_expect_eq(ferry_kvm_add_slot(m.k, &slot), -EINVAL);
	slot.len = 4096;
	slot.first_page = UINT64_MAX;
	cr_expect_eq(ferry_kvm_add_slot(m.k, &slot), -EINVAL);
	slot.first_page = 0;
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	cr_expect_eq(ferry_kvm_add_slot(m.k, &slot), -EBUSY);
	cr_assert_eq(ferry_kvm_dirty_stop(m.k), 0);
	ferry_kvm_free(NULL);
	plainvm_end(&m);
}
