/* SPDX-License-Identifier: MIT */
/* Creating and destroying the VMM, and the functions for its user. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stamp.h"
#include "vmm_int.h"

#define SLICE_CHANGES_MAX 250

static int shell_new(struct vmm **ret, const struct vmm_config *cfg)
{
	struct vmm *vm = calloc(1, sizeof(*vm));
	pthread_condattr_t attr;

	if (!vm)
		return -ENOMEM;
	vm->cfg = *cfg;
	vm->memfd = vm->kvm_fd = vm->vm_fd = -1;
	for (uint32_t i = 0; i < VMM_VCPUS_MAX; i++)
		vm->vcpus[i] = (struct vcpu){ .vm = vm, .index = i, .fd = -1, .stats_fd = -1 };
	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->kick, &attr);
	pthread_cond_init(&vm->ack, &attr);
	pthread_condattr_destroy(&attr);
	output_init(&vm->out, cfg->observer, cfg->end);
	*ret = vm;
	return 0;
}

/* Creates memory, machine and threads; no memory is touched, and the threads are parked. */
int vmm_build(struct vmm *vm, char *why, size_t cap)
{
	int err;

	vm->built = true; /* set even after a failure: parts may exist */
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		vm->vcpus[i].epochs = calloc(EPOCHS_MAX, sizeof(struct epoch));
		if (!vm->vcpus[i].epochs) {
			snprintf(why, cap, "no memory for a vCPU's history");
			return -ENOMEM;
		}
	}
	err = memory_new(vm, why, cap);
	if (!err && vm->backend == BACKEND_KVM)
		err = machine_new(vm, why, cap);
	if (err)
		return err;
	err = vcpus_start(vm);
	if (err)
		snprintf(why, cap, "no threads for the vCPUs: %s", strerror(-err));
	return err;
}

void vmm_stop(struct vmm *vm, bool abandon)
{
	if (!atomic_exchange(&vm->gone, true))
		vcpus_stop(vm, abandon);
}

void vmm_free_guest(struct vmm *vm)
{
	machine_free(vm);
	dirty_free(vm);
	memory_free(vm);
}

static int check_config(const struct vmm_config *c, char *why, size_t cap)
{
	uint64_t vcpus = c->vcpus ? c->vcpus : 1;

	if (c->memory < VMM_MEMORY_MIN || c->memory > VMM_MEMORY_MAX || c->memory % (2u << 20))
		snprintf(why, cap, "memory is %llu bytes; it takes 32 MiB to 256 GiB, in steps of 2 MiB",
			 (unsigned long long)c->memory);
	else if (vcpus > VMM_VCPUS_MAX)
		snprintf(why, cap, "%u vCPUs; there can be 1 to %u", c->vcpus, VMM_VCPUS_MAX);
	else if (c->pattern > VMM_ZIPF)
		snprintf(why, cap, "the pattern of the guest's writes is %d; it takes 0 to %d",
			 (int)c->pattern, VMM_ZIPF);
	else if (c->populate > 100)
		snprintf(why, cap, "populate is %u percent; it takes 0 to 100", c->populate);
	else if (c->working_set < vcpus * PAGE_BYTES || c->working_set > c->memory - GUEST_LOW_LEN)
		snprintf(why, cap,
			 "the working set is %llu bytes; it takes a page a vCPU to %llu (memory but 16 MiB)",
			 (unsigned long long)c->working_set, (unsigned long long)c->memory - GUEST_LOW_LEN);
	else
		return 0;
	return -EINVAL;
}

static int begin_guest(struct vmm *vm, char *why, size_t cap)
{
	uint64_t slice = (vm->cfg.working_set >> PAGE_SHIFT) / vm->nvcpus;
	int err;

	vm->populated_ws = slice * vm->nvcpus;
	atomic_store(&vm->slice, slice);
	err = vmm_build(vm, why, cap);
	if (err)
		return err;
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		vcpu_slice_begins(&vm->vcpus[i], slice);
		vm->vcpus[i].host.npages = slice;
	}
	err = memory_populate(vm);
	if (err) {
		snprintf(why, cap, "no memory to fill the guest's RAM from");
		return err;
	}
	return vm->backend == BACKEND_KVM ? machine_reset(vm, why, cap) : 0;
}

int vmm_new_source(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap)
{
	struct vmm *vm;
	int err = check_config(cfg, why, cap);

	if (err)
		return err;
	err = shell_new(&vm, cfg);
	if (err) {
		snprintf(why, cap, "no memory for the VMM");
		return err;
	}
	vm->nvcpus = vm->cfg.vcpus = cfg->vcpus ? cfg->vcpus : 1;
	vm->backend = cfg->host_threads || access("/dev/kvm", R_OK | W_OK) < 0 ? BACKEND_HOST : BACKEND_KVM;
	atomic_store(&vm->rate, cfg->dirty_rate);
	err = dirty_choose(vm, why, cap);
	if (!err)
		err = begin_guest(vm, why, cap);
	if (err) {
		vmm_destroy(vm);
		return err;
	}
	*ret = vm;
	return 0;
}

int vmm_new_target(struct vmm **ret, const struct vmm_config *cfg, char *why, size_t cap)
{
	int err = shell_new(ret, cfg);

	if (err)
		snprintf(why, cap, "no memory for the VMM");
	return err;
}

int vmm_start(struct vmm *vm)
{
	return vmm_resume(vm);
}

void vmm_destroy(struct vmm *vm)
{
	if (!vm)
		return;
	vmm_stop(vm, true);
	vmm_free_guest(vm);
	for (uint32_t i = 0; i < VMM_VCPUS_MAX; i++)
		free(vm->vcpus[i].epochs);
	output_destroy(&vm->out);
	pthread_cond_destroy(&vm->ack);
	pthread_cond_destroy(&vm->kick);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

size_t vmm_regions(struct vmm *vm, const struct ferry_region **ret)
{
	*ret = vm->regions;
	return NREGIONS;
}

int vmm_pause(struct vmm *vm)
{
	if (!vm->built || atomic_load(&vm->gone))
		return -ENOENT;
	if (!vm->paused_ns)
		vm->paused_ns = clock_ns();
	vcpus_pause(vm);
	return atomic_load(&vm->has_error) ? -EIO : 0;
}

int vmm_resume(struct vmm *vm)
{
	if (!vm->built || atomic_load(&vm->gone))
		return -ENOENT;
	vcpus_resume(vm);
	if (vm->paused_ns)
		vm->stood_ns = clock_ns() - vm->paused_ns;
	vm->paused_ns = 0;
	return 0;
}

uint64_t vmm_stood_us(const struct vmm *vm)
{
	return vm->stood_ns / 1000;
}

int vmm_set_rate(struct vmm *vm, uint64_t pages_per_second)
{
	pthread_mutex_lock(&vm->lock);
	atomic_store(&vm->rate, pages_per_second);
	vcpus_rate_changed(vm);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

int vmm_set_working_set(struct vmm *vm, uint64_t bytes)
{
	uint64_t slice;
	int err = 0;

	if (!vm->built || atomic_load(&vm->gone))
		return -ENOENT;
	slice = (bytes >> PAGE_SHIFT) / vm->nvcpus;
	if (!slice || bytes > vm->cfg.memory - GUEST_LOW_LEN)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	if (vm->slice_changes >= SLICE_CHANGES_MAX) {
		err = -ENOSPC;
	} else if (slice != atomic_load(&vm->slice)) {
		vm->slice_changes++;
		atomic_store(&vm->slice, slice);
		pthread_cond_broadcast(&vm->kick);
	}
	pthread_mutex_unlock(&vm->lock);
	return err;
}

void vmm_get_stats(struct vmm *vm, struct vmm_stats *st)
{
	*st = (struct vmm_stats){
		.outputs = atomic_load(&vm->out.count),
		.held = output_held(&vm->out),
		.dirty_rate = atomic_load(&vm->rate),
		.working_set = (atomic_load(&vm->slice) * vm->nvcpus) << PAGE_SHIFT,
		.running = atomic_load(&vm->want) == WANT_RUN,
		.gone = !vm->built || atomic_load(&vm->gone),
	};
	for (uint32_t i = 0; i < vm->nvcpus; i++)
		st->stamps += atomic_load(&vm->vcpus[i].done);
}

/*
 * A stamp has a dozen instructions, a visit about forty and a tick three. If they are emulated, the stamps
 * alone exceed this threshold.
 */
const char *vmm_mutator(struct vmm *vm)
{
	uint64_t stamps = 0, granted = 0;

	if (!atomic_load(&vm->ran))
		return "";
	if (vm->backend == BACKEND_HOST)
		return "host-thread";
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		stamps += atomic_load(&vm->vcpus[i].done) - vm->vcpus[i].began;
		granted += 4 * atomic_load(&vm->vcpus[i].visits);
	}
	if (machine_emulated(vm) > 3 * stamps + granted + 1000)
		return "kvm-emulated";
	return machine_nested() ? "kvm-nested" : "kvm-native";
}

const char *vmm_error(struct vmm *vm)
{
	return atomic_load(&vm->has_error) ? vm->error : "";
}

void vmm_stamps(struct vmm *vm, unsigned vcpu, uint64_t *done, uint64_t *given)
{
	*done = atomic_load(&vm->vcpus[vcpu].done);
	*given = atomic_load(&vm->vcpus[vcpu].given);
}

uint64_t vmm_stamp_page(struct vmm *vm, unsigned vcpu, uint64_t seq)
{
	const struct vcpu *v = &vm->vcpus[vcpu];
	uint32_t e = v->nepochs - 1;

	while (e && v->epochs[e].after >= seq)
		e--;
	return stamp_index(vm->cfg.pattern, seq, v->epochs[e].npages) * vm->nvcpus + vcpu;
}
