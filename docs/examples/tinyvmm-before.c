/* SPDX-License-Identifier: MIT */
/*
 * A KVM VMM, whole: one vCPU, 64 MiB of RAM, one output port. The guest checks and rewrites a word in every
 * page, then prints how often it has done so; a page that is not as it left it makes it print -1. Commands on
 * standard input: pause, resume, quit. tinyvmm.c is tinyvmm-before.c with live migration: "migrate URI", and a
 * URI as its argument to wait there for a VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/kvm.h>

#define RAM (64ull << 20)
#define PML4 0x1000 /* guest physical addresses, and virtual: all RAM is mapped one to one */
#define PDPT 0x2000
#define PD 0x3000
#define CODE 0x8000
#define DATA 0x200000
#define PORT 0x10
#define PACE_NS 5000000 /* what a visit to the port takes */

/* Long mode, CPL 3, IOPL 3. rbx: first page, rsi: how many, r8: the count. */
extern const uint8_t guest_begin[], guest_end[];
__asm__(".pushsection .rodata\n"
	"guest_begin:\n"
	"1:	inc %r8; mov %rbx, %rdi; mov %rsi, %rcx; lea -1(%r8), %rdx\n"
	"2:	cmp %rdx, (%rdi); jne 3f\n"
	"	mov %r8, (%rdi); add $4096, %rdi; dec %rcx; jnz 2b\n"
	"	mov %r8d, %eax; out %eax, $0x10; jmp 1b\n"
	"3:	mov $-1, %eax; out %eax, $0x10; jmp 3b\n"
	"guest_end:\n"
	".popsection");

struct vm {
	int kvm, fd, vcpu;
	uint8_t *ram;
	struct kvm_run *run;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	_Atomic bool want; /* the vCPU is to run */
	bool parked;	   /* under the lock: it does not */
};

static void must(bool good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "tinyvmm: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* The guest prints. On the vCPU's thread. */
static void emit(struct vm *vm, int32_t n)
{
	pthread_mutex_lock(&vm->lock);
	printf("%d\n", n);
	fflush(stdout);
	pthread_mutex_unlock(&vm->lock);
	nanosleep(&(struct timespec){ .tv_nsec = PACE_NS }, NULL);
}

static void *vcpu_main(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	for (;;) {
		vm->parked = true;
		pthread_cond_broadcast(&vm->cond);
		while (!vm->want)
			pthread_cond_wait(&vm->cond, &vm->lock);
		vm->parked = false;
		vm->run->immediate_exit = 0;
		pthread_mutex_unlock(&vm->lock);
		while (vm->want) {
			if (ioctl(vm->vcpu, KVM_RUN, 0))
				must(errno == EINTR || errno == EAGAIN, "KVM_RUN");
			else if (vm->run->exit_reason == KVM_EXIT_IO && vm->run->io.port == PORT)
				emit(vm, *(int32_t *)((uint8_t *)vm->run + vm->run->io.data_offset));
			else
				must(false, "the vCPU left the guest for no output");
		}
		vm->run->immediate_exit = 1; /* finishes the `out`: then the registers say that it is done */
		ioctl(vm->vcpu, KVM_RUN, 0);
		pthread_mutex_lock(&vm->lock);
	}
	return NULL;
}

/* The signal ends KVM_RUN; it is repeated, as it may have come just before. */
static int vm_pause(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	vm->want = false;
	while (!vm->parked) {
		vm->run->immediate_exit = 1;
		pthread_kill(vm->thread, SIGUSR1);
		pthread_mutex_unlock(&vm->lock);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		pthread_mutex_lock(&vm->lock);
	}
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int vm_resume(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	vm->want = true;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static void on_signal(int sig)
{
	(void)sig;
}

static void vm_new(struct vm *vm)
{
	struct kvm_userspace_memory_region slot = { .memory_size = RAM };
	struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 room[256]; } cpuid = { .head.nent = 256 };
	struct sigaction sa = { .sa_handler = on_signal };

	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	must(vm->fd >= 0, "/dev/kvm");
	vm->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(vm->ram != MAP_FAILED, "64 MiB of RAM");
	slot.userspace_addr = (uintptr_t)vm->ram;
	must(!ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	vm->vcpu = ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	vm->run = mmap(NULL, (size_t)ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
		       vm->vcpu, 0);
	must(vm->run != MAP_FAILED, "KVM_CREATE_VCPU");
	must(!ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
	must(!ioctl(vm->vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
	sigaction(SIGUSR1, &sa, NULL);
	must(!pthread_create(&vm->thread, NULL, vcpu_main, vm), "a thread for the vCPU");
}

#define SEGMENT .limit = ~0u, .present = 1, .dpl = 3, .s = 1, .g = 1

/* What a boot loader leaves: page tables, code, and a vCPU in 64-bit mode at its first instruction. */
static void vm_boot(struct vm *vm)
{
	struct kvm_regs regs = { .rip = CODE, .rflags = 0x3002, .rbx = DATA, .rsi = (RAM - DATA) / 4096 };
	uint64_t *p = (uint64_t *)vm->ram;
	struct kvm_sregs s;

	p[PML4 / 8] = PDPT | 0x67;
	p[PDPT / 8] = PD | 0x67;
	for (uint64_t i = 0; i < RAM >> 21; i++)
		p[PD / 8 + i] = i << 21 | 0xe7;
	memcpy(vm->ram + CODE, guest_begin, (size_t)(guest_end - guest_begin));
	must(!ioctl(vm->vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs = (struct kvm_segment){ SEGMENT, .selector = 0x23, .type = 0xb, .l = 1 };
	s.ds = s.es = s.fs = s.gs = s.ss = (struct kvm_segment){ SEGMENT, .selector = 0x1b, .type = 3, .db = 1 };
	s.tr = (struct kvm_segment){ .limit = 0x67, .selector = 0x28, .type = 11, .present = 1 };
	s.cr0 = 0x80050033; /* paging, protected mode */
	s.cr3 = PML4;
	s.cr4 = 0x620; /* PAE, SSE */
	s.efer = 0x501; /* long mode */
	must(!ioctl(vm->vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	must(!ioctl(vm->vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

int main(void)
{
	static struct vm vm = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	char line[256];

	vm_new(&vm);
	vm_boot(&vm);
	vm_resume(&vm);
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "pause"))
			vm_pause(&vm);
		else if (!strcmp(line, "resume"))
			vm_resume(&vm);
		else
			fprintf(stderr, "tinyvmm: there is no command \"%s\"\n", line);
	}
	vm_pause(&vm);
	return 0;
}
