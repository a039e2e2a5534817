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

#include <ferry/ferry.h>
#include <ferry/kvm.h>

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
	struct ferry_kvm *ferry;
	bool holding; /* under the lock: what is printed goes to held[] */
	int32_t nheld, held[1024];
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
	for (; vm->holding && vm->nheld == 1024; vm->parked = false) { /* full: the vCPU stands still */
		vm->parked = true;
		pthread_cond_wait(&vm->cond, &vm->lock);
	}
	if (vm->holding)
		vm->held[vm->nheld++] = n;
	else
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
	must(!ferry_kvm_new(&vm->ferry, vm->kvm, vm->fd, &vm->vcpu, 1), "ferry_kvm_new");
	must(!ferry_kvm_add_slot(vm->ferry, &(struct ferry_kvm_slot){ FERRY_KVM_SLOT_INIT, .len = RAM, .hva = vm->ram }),
	     "ferry_kvm_add_slot");
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

static struct ferry_kvm *kvm_of(void *vm) { return ((struct vm *)vm)->ferry; }
static void op_log(void *vm, int level, const char *line) { if (vm && level < 5) fprintf(stderr, "tinyvmm: %s\n", line); }
static int op_dirty_start(void *vm) { return ferry_kvm_dirty_start(kvm_of(vm)); }
static int op_dirty_stop(void *vm) { return ferry_kvm_dirty_stop(kvm_of(vm)); }
static int op_save(void *vm, struct ferry_stream *out) { return ferry_kvm_save(kvm_of(vm), out); }
static int op_output_hold(void *vm) { ((struct vm *)vm)->holding = true; return 0; } /* no vCPU runs yet */
static int op_dirty_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	return ferry_kvm_dirty_fetch(kvm_of(vm), region, bits, npages, flags);
}

static int op_reserve(void *arg, struct ferry_region *r, size_t n, struct ferry_stream *needs)
{
	if (n != 1 || r->gpa || r->len != RAM || r->flags)
		return ferry_stream_fail(needs, -EINVAL, "this VMM takes 64 MiB of anonymous memory at 0, nothing else");
	r->hva = ((struct vm *)arg)->ram;
	return 0;
}

static int op_load(void *vm, struct ferry_stream *in)
{
	struct ferry_section sec;
	int err;

	while ((err = ferry_stream_next(in, &sec)) == 1)
		if ((err = ferry_kvm_load(kvm_of(vm), in, &sec)) != 0)
			return err < 0 ? err : ferry_stream_fail(in, -EPROTO, "section %u is not this VMM's", sec.id);
	return err ? err : ferry_kvm_load_end(kvm_of(vm), in);
}

static int op_output_release(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	for (int i = 0; i < vm->nheld; i++)
		printf("%d\n", vm->held[i]);
	fflush(stdout);
	vm->holding = false;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static const struct ferry_ops ops = {
	FERRY_OPS_INIT, .dirty_start = op_dirty_start, .dirty_stop = op_dirty_stop, .dirty_fetch = op_dirty_fetch,
	.pause = vm_pause, .resume = vm_resume, .save = op_save, .load = op_load, .reserve = op_reserve,
	.output_hold = op_output_hold, .output_release = op_output_release, .discard = vm_pause, .log = op_log,
};

/* Returns when the VM is this end's to run. */
static void migrate(struct vm *vm, bool away, const char *uri)
{
	struct ferry_region ram = { .len = RAM, .hva = vm->ram, .fd = -1, .page_shift = 12 };
	struct ferry_vm v = { FERRY_VM_INIT, .vm = vm, .ops = &ops, .regions = away ? &ram : NULL, .nregions = away };
	struct ferry_config cfg = { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .hold_limit_us = 30000000 };
	struct ferry_result res = { .size = sizeof(res) };
	struct ferry_session *s;
	char at[256];

	must(!(away ? ferry_source_new : ferry_target_new)(&s, &v, &cfg), "no session");
	if (!ferry_open(s, uri) && !ferry_get_uri(s, at, sizeof(at)))
		fprintf(stderr, "tinyvmm: at %s\n", at);
	ferry_run(s, &res);
	fprintf(stderr, "tinyvmm: the VM is the %s's: %s\n", ferry_owner_name(res.owner), res.detail);
	ferry_free(s);
	if (res.owner != (away ? FERRY_OWNER_SOURCE : FERRY_OWNER_TARGET))
		exit(res.owner != FERRY_OWNER_TARGET);
}

int main(int argc, char **argv)
{
	static struct vm vm = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };
	char line[256];

	vm_new(&vm);
	if (argc > 1)
		migrate(&vm, false, argv[1]);
	else
		vm_boot(&vm);
	vm_resume(&vm);
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n")) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "pause"))
			vm_pause(&vm);
		else if (!strcmp(line, "resume"))
			vm_resume(&vm);
		else if (!strncmp(line, "migrate ", 8))
			migrate(&vm, true, line + 8);
		else
			fprintf(stderr, "tinyvmm: there is no command \"%s\"\n", line);
	}
	vm_pause(&vm);
	return 0;
}
