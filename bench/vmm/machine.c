/* SPDX-License-Identifier: MIT */
/* The KVM side: VM, memslots, vCPUs, and the handling of exits. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#include "vmm_int.h"

#define TSS_GPA 0xfffbd000ul /* three pages that KVM on VMX needs, below the BIOS area */

extern const uint8_t guest_begin[], guest_counted[], guest_stamped[], guest_timer[], guest_end[];

static int say(char *why, size_t cap, const char *what)
{
	int err = -errno;

	snprintf(why, cap, "KVM: %s: %s", what, strerror(-err));
	return err;
}

int machine_open(struct vmm *vm, char *why, size_t cap)
{
	if (vm->kvm_fd >= 0)
		return 0;
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	return vm->kvm_fd < 0 ? say(why, cap, "/dev/kvm") : 0;
}

static int add_slots(struct vmm *vm, char *why, size_t cap)
{
	for (uint32_t i = 0; i < NREGIONS; i++) {
		struct ferry_region *r = &vm->regions[i];
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = r->gpa,
			.memory_size = r->len,
			.userspace_addr = (uintptr_t)r->hva,
		};
		struct ferry_kvm_slot known = {
			FERRY_KVM_SLOT_INIT, .slot = i,	    .region = r->id,
			.gpa = r->gpa,	     .len = r->len, .hva = r->hva,
		};
		int err;

		if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
			return say(why, cap, "KVM_SET_USER_MEMORY_REGION");
		err = ferry_kvm_add_slot(vm->kvm, &known);
		if (err) {
			snprintf(why, cap, "memslot %u: %s", i, strerror(-err));
			return err;
		}
	}
	return 0;
}

static int new_vcpu(struct vcpu *v, char *why, size_t cap)
{
	int err;

	v->fd = ioctl(v->vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)v->index);
	if (v->fd < 0)
		return say(why, cap, "KVM_CREATE_VCPU");
	v->run = mmap(NULL, v->vm->run_len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return say(why, cap, "mapping a vCPU");
	}
	v->stats_fd = ioctl(v->fd, KVM_GET_STATS_FD, NULL); /* -1: not supported */
	err = machine_set_cpuid(v);			    /* at the target it shortens ferry_kvm_load() */
	if (err)
		snprintf(why, cap, "KVM_SET_CPUID2: %s", strerror(-err));
	return err;
}

/*
 * If a fault would sleep, KVM hands it to a worker thread that no signal reaches. A userfault that is never
 * served then blocks the process that closes the VM, even by exiting, beyond SIGKILL. KVM does not use the
 * worker for vCPUs that keep the CPU when they halt; this guest never halts. It also saves two wake-ups per
 * fault.
 */
static void disable_async_faults(struct vmm *vm)
{
	int can = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_DISABLE_EXITS);
	struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_DISABLE_EXITS,
				      .args = { KVM_X86_DISABLE_EXITS_HLT } };

	if (can > 0 && can & KVM_X86_DISABLE_EXITS_HLT)
		(void)!ioctl(vm->vm_fd, KVM_ENABLE_CAP, &cap);
}

static int new_vm(struct vmm *vm, char *why, size_t cap)
{
	struct kvm_pit_config pit = { 0 };
	uint64_t identity = TSS_GPA - PAGE_BYTES;
	int len = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), err;

	if (len < (int)sizeof(struct kvm_run))
		return say(why, cap, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_len = (size_t)len;
	vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->vm_fd < 0)
		return say(why, cap, "KVM_CREATE_VM");
	err = dirty_new_vm(vm, why, cap);
	if (err)
		return err;
	disable_async_faults(vm);
	/* Only some VMX hosts need them. */
	(void)!ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	(void)!ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, TSS_GPA);
	if (ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return say(why, cap, "KVM_CREATE_IRQCHIP");
	if (ioctl(vm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return say(why, cap, "KVM_CREATE_PIT2");
	return 0;
}

int machine_new(struct vmm *vm, char *why, size_t cap)
{
	int fds[VMM_VCPUS_MAX];
	int err = machine_open(vm, why, cap);

	if (!err)
		err = new_vm(vm, why, cap);
	for (uint32_t i = 0; !err && i < vm->nvcpus; i++) {
		err = new_vcpu(&vm->vcpus[i], why, cap);
		fds[i] = vm->vcpus[i].fd;
	}
	if (err)
		return err;
	err = ferry_kvm_new(&vm->kvm, vm->kvm_fd, vm->vm_fd, fds, vm->nvcpus);
	if (err) {
		snprintf(why, cap, "ferry_kvm_new: %s", strerror(-err));
		return err;
	}
	return add_slots(vm, why, cap);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void machine_free(struct vmm *vm)
{
	ferry_kvm_free(vm->kvm);
	vm->kvm = NULL;
	for (uint32_t i = 0; i < VMM_VCPUS_MAX; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (v->run)
			munmap(v->run, vm->run_len);
		v->run = NULL;
		close_fd(&v->stats_fd);
		close_fd(&v->fd);
	}
	close_fd(&vm->vm_fd);
	close_fd(&vm->kvm_fd);
}

/* --- running --- */

static void describe_exit(struct vcpu *v)
{
	struct kvm_regs regs = { 0 };

	ioctl(v->fd, KVM_GET_REGS, &regs);
	vmm_fail(v->vm, "vCPU %u left the guest for reason %u at rip 0x%llx", v->index, v->run->exit_reason,
		 (unsigned long long)regs.rip);
	v->dead = true;
}

static bool handle_io(struct vcpu *v)
{
	void *data = (uint8_t *)v->run + v->run->io.data_offset;
	uint32_t value;

	if (v->run->io.size != sizeof(value) || v->run->io.count != 1)
		return false;
	if (v->run->io.direction == KVM_EXIT_IO_IN && v->run->io.port == GUEST_PORT_ASK) {
		value = vcpu_ask(v);
		memcpy(data, &value, sizeof(value));
		return true;
	}
	if (v->run->io.direction == KVM_EXIT_IO_OUT && v->run->io.port == GUEST_PORT_PRINT) {
		memcpy(&value, data, sizeof(value));
		output_emit(&v->vm->out, (uint16_t)v->index, value);
		return true;
	}
	return false;
}

static void empty_rings(struct vcpu *v)
{
	int err = dirty_ring_full(v->vm);

	if (!err)
		return;
	vmm_fail(v->vm, "the full dirty ring of vCPU %u cannot be emptied: %s", v->index, strerror(-err));
	v->dead = true;
}

void machine_run(struct vcpu *v)
{
	while (!v->dead && atomic_load(&v->vm->want) == WANT_RUN) {
		if (ioctl(v->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			vmm_fail(v->vm, "KVM_RUN of vCPU %u: %s", v->index, strerror(errno));
			v->dead = true;
			return;
		}
		if (v->run->exit_reason == KVM_EXIT_INTR)
			continue;
		if (v->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
			empty_rings(v);
			continue;
		}
		if (v->run->exit_reason != KVM_EXIT_IO || !handle_io(v))
			describe_exit(v);
	}
	/* Finishes the last `in` or `out`: its result is not in the registers yet. */
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
	if (!v->dead)
		ioctl(v->fd, KVM_RUN, 0);
}

void machine_kick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
}

void machine_unkick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
}

int machine_sequence(struct vcpu *v, uint64_t *sequence)
{
	const uint64_t code = GUEST_CODE, timer = code + (uint64_t)(guest_timer - guest_begin);
	const uint64_t end = code + (uint64_t)(guest_end - guest_begin);
	const uint64_t stack = GUEST_STACK, stack_end = stack + (uint64_t)PAGE_BYTES * v->vm->nvcpus;
	struct kvm_regs regs;
	uint64_t rip;

	if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0)
		return -errno;
	rip = regs.rip;
	if (rip >= timer && rip < end && regs.rsp >= stack &&
	    regs.rsp <= stack_end - 8) /* in the handler: see guest.S */
		memcpy(&rip, (uint8_t *)v->vm->regions[0].hva + regs.rsp, sizeof(rip));
	*sequence = regs.r8;
	if (rip >= code + (uint64_t)(guest_counted - guest_begin) &&
	    rip < code + (uint64_t)(guest_stamped - guest_begin))
		--*sequence;
	return 0;
}

/* Reads one counter of a vCPU's binary statistics. */
static bool read_stat(int fd, const char *want, uint64_t *ret)
{
	struct kvm_stats_header head;
	size_t step;
	uint8_t *descs;
	bool found = false;

	if (fd < 0 || pread(fd, &head, sizeof(head), 0) != sizeof(head))
		return false;
	step = sizeof(struct kvm_stats_desc) + head.name_size;
	descs = calloc(head.num_desc, step);
	if (!descs ||
	    pread(fd, descs, head.num_desc * step, head.desc_offset) != (ssize_t)(head.num_desc * step))
		head.num_desc = 0;
	for (uint32_t i = 0; !found && i < head.num_desc; i++) {
		const struct kvm_stats_desc *d = (const void *)(descs + i * step);

		if (!strncmp(d->name, want, head.name_size))
			found = pread(fd, ret, sizeof(*ret), head.data_offset + d->offset) == sizeof(*ret);
	}
	free(descs);
	return found;
}

uint64_t machine_emulated(struct vmm *vm)
{
	uint64_t sum = 0, one;

	for (uint32_t i = 0; i < vm->nvcpus; i++)
		if (read_stat(vm->vcpus[i].stats_fd, "insn_emulation", &one))
			sum += one;
	return sum;
}

/* KVM runs on nested SVM or VMX, where an exit is much more expensive. */
bool machine_nested(void)
{
	const unsigned vmx = 1u << 5, hypervisor = 1u << 31, svm = 1u << 2;
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & hypervisor))
		return false;
	return c & vmx || (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & svm);
}
