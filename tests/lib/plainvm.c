// SPDX-License-Identifier: MIT
/* The VM of two vCPUs, its code in real mode, and what it has dirtied. */
#include "plainvm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CPUID_MAX 256

static void set_cpuid(struct plainvm *m, int vcpu)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + CPUID_MAX * sizeof(*c->entries));

	c->nent = CPUID_MAX;
	cr_assert_eq(ioctl(m->kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	cr_assert_eq(ioctl(m->vcpus[vcpu], KVM_SET_CPUID2, c), 0);
	free(c);
}

static void new_vcpu(struct plainvm *m, int i)
{
	struct kvm_mp_state runs = { .mp_state =
					     KVM_MP_STATE_RUNNABLE }; /* without another's start-up message */

	m->vcpus[i] = ioctl(m->vm, KVM_CREATE_VCPU, i);
	cr_assert_geq(m->vcpus[i], 0);
	set_cpuid(m, i);
	cr_assert_eq(ioctl(m->vcpus[i], KVM_SET_MP_STATE, &runs), 0);
	m->run[i] = mmap(NULL, (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
			 MAP_SHARED, m->vcpus[i], 0);
	cr_assert_neq(m->run[i], MAP_FAILED);
}

static int open_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		cr_skip_test("no /dev/kvm that can be used");
	return kvm;
}

void plainvm_adopt(struct plainvm *m)
{
	uint64_t first[] = { 0, PLAINVM_CUT }, pages[] = { PLAINVM_CUT, m->pages - PLAINVM_CUT };

	cr_assert_eq(ferry_kvm_new(&m->k, m->kvm, m->vm, m->vcpus, PLAINVM_VCPUS), 0);
	for (uint32_t i = 0; i < 2; i++) {
		struct kvm_userspace_memory_region r = { .slot = i,
							 .guest_phys_addr = first[i] * 4096,
							 .memory_size = pages[i] * 4096,
							 .userspace_addr =
								 (uintptr_t)m->ram + first[i] * 4096 };
		struct ferry_kvm_slot slot = { FERRY_KVM_SLOT_INIT,	 .slot = i,
					       .region = PLAINVM_REGION, .gpa = r.guest_phys_addr,
					       .len = r.memory_size,	 .hva = m->ram + first[i] * 4096,
					       .first_page = first[i] };

		cr_assert_eq(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
		cr_assert_eq(ferry_kvm_add_slot(m->k, &slot), 0);
		cr_assert_eq(ferry_kvm_add_slot(m->k, &slot), -EINVAL);
	}
}

void plainvm_new_with(struct plainvm *m, uint64_t pages, uint32_t ring_entries)
{
	struct kvm_pit_config pit = { 0 };

	memset(m, 0, sizeof(*m));
	m->kvm = open_kvm();
	m->pages = pages;
	m->ram = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		      -1, 0);
	cr_assert_neq(m->ram, MAP_FAILED);
	m->vm = ioctl(m->kvm, KVM_CREATE_VM, 0);
	cr_assert_geq(m->vm, 0);
	cr_assert_eq(ioctl(m->vm, KVM_CREATE_IRQCHIP, 0), 0);
	cr_assert_eq(ioctl(m->vm, KVM_CREATE_PIT2, &pit), 0);
	if (ring_entries != UINT32_MAX)
		cr_assert_eq(ferry_kvm_ring_enable(m->vm, ring_entries), 0);
	for (int i = 0; i < PLAINVM_VCPUS; i++)
		new_vcpu(m, i);
	plainvm_adopt(m);
}

void plainvm_new(struct plainvm *m)
{
	plainvm_new_with(m, PLAINVM_PAGES, UINT32_MAX);
}

void plainvm_end(struct plainvm *m)
{
	ferry_kvm_free(m->k);
	for (int i = 0; i < PLAINVM_VCPUS; i++) {
		munmap(m->run[i], (size_t)ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
		close(m->vcpus[i]);
	}
	close(m->vm);
	close(m->kvm);
	munmap(m->ram, m->pages * 4096);
}

/* Real mode: mov %al, 0 (in the page that ds names); out %al, $0x10 */
void plainvm_write(struct plainvm *m, int vcpu, uint64_t page)
{
	static const uint8_t code[] = { 0xa2, 0, 0, 0xe6, 0x10 };
	struct kvm_regs regs = { .rip = 0x800, .rflags = 2, .rax = 0x5a };
	struct kvm_run *run = m->run[vcpu];
	struct kvm_sregs s;

	memcpy(m->ram + 0x800, code, sizeof(code));
	m->ram[page * 4096] = 0;
	cr_assert_eq(ioctl(m->vcpus[vcpu], KVM_GET_SREGS, &s), 0);
	s.cs.base = s.cs.selector = 0;
	s.ds.base = page * 4096;
	s.ds.selector = (uint16_t)(page * 256);
	cr_assert_eq(ioctl(m->vcpus[vcpu], KVM_SET_SREGS, &s), 0);
	cr_assert_eq(ioctl(m->vcpus[vcpu], KVM_SET_REGS, &regs), 0);
	for (;;) {
		cr_assert_eq(ioctl(m->vcpus[vcpu], KVM_RUN, 0), 0);
		if (run->exit_reason != KVM_EXIT_DIRTY_RING_FULL)
			break;
		m->full++;
		cr_assert_eq(ferry_kvm_ring_full(m->k), 0);
	}
	cr_assert_eq(run->exit_reason, KVM_EXIT_IO, "reason %u", run->exit_reason);
	cr_assert_eq(m->ram[page * 4096], 0x5a);
}

uint64_t plainvm_expect(struct plainvm *m, const uint64_t *pages, size_t n, unsigned flags)
{
	size_t words = m->pages / 64 + 1;
	uint64_t *bits = calloc(words, sizeof(*bits)), set = 0;

	cr_assert_eq(ferry_kvm_dirty_fetch(m->k, PLAINVM_REGION, bits, m->pages, flags), 0);
	for (size_t i = 0; i < n; i++)
		cr_expect(bits[pages[i] / 64] >> (pages[i] % 64) & 1, "page %llu",
			  (unsigned long long)pages[i]);
	for (size_t i = 0; i < words; i++)
		set += (uint64_t)__builtin_popcountll(bits[i]);
	cr_expect_leq(set, n + 2, "%llu bits for %zu pages", (unsigned long long)set, n);
	free(bits);
	return set;
}

/* --- rings --- */

uint32_t plainvm_smallest_ring(void)
{
	int kvm = open_kvm(), vm = ioctl(kvm, KVM_CREATE_VM, 0), err = -EINVAL;
	bool has = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) > 0 ||
		   ioctl(kvm, KVM_CHECK_EXTENSION, 223 /* KVM_CAP_DIRTY_LOG_RING_ACQ_REL */) > 0;
	uint32_t entries = 128;

	while (err == -EINVAL && entries < 65536) {
		entries *= 2;
		err = ferry_kvm_ring_enable(vm, entries);
	}
	cr_assert_eq(err, has ? 0 : -EOPNOTSUPP, "KVM %s rings, and they are %s", has ? "has" : "has no",
		     err ? strerror(-err) : "enabled");
	close(vm);
	close(kvm);
	return err ? 0 : entries;
}

uint32_t plainvm_ring_or_skip(void)
{
	uint32_t entries = plainvm_smallest_ring();

	if (!entries)
		cr_skip_test("this KVM has no dirty rings, and the library has said so");
	return entries;
}
