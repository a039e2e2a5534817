/* SPDX-License-Identifier: MIT */
/*
 * Which pages the guest has written. The source chooses the way when it creates the guest, because KVM has a log
 * or rings for the whole life of a VM. KVM does not see the writes of host threads: the page tables of this
 * process show them.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vmm_int.h"

int dirty_choose(struct vmm *vm, char *why, size_t cap)
{
	if (vm->backend == BACKEND_HOST && vm->cfg.tracking != VMM_TRACKING_AUTO) {
		snprintf(why, cap,
			 "the guest is made of host threads, whose writes KVM's dirty %s does not see: use auto, or a "
			 "guest on /dev/kvm, which rdma-migrate doctor checks",
			 vm->cfg.tracking == VMM_TRACKING_RING ? "ring" : "log");
		return -EINVAL;
	}
	if (vm->backend == BACKEND_HOST)
		vm->cfg.tracking = VMM_TRACKING_PAGEMAP;
	else if (vm->cfg.tracking == VMM_TRACKING_AUTO)
		vm->cfg.tracking = VMM_TRACKING_LOG;
	vm->tracked.by = vm->cfg.tracking;
	return 0;
}

int dirty_new_vm(struct vmm *vm, char *why, size_t cap)
{
	uint32_t entries = vm->cfg.ring_entries ? vm->cfg.ring_entries : VMM_RING_ENTRIES;
	int err;

	if (vm->cfg.tracking != VMM_TRACKING_RING)
		return 0;
	err = ferry_kvm_ring_enable(vm->vm_fd, entries);
	if (err == -EOPNOTSUPP)
		snprintf(why, cap,
			 "this KVM has no dirty rings, which need Linux 5.14 on x86-64: use the dirty log");
	else if (err)
		snprintf(why, cap, "KVM refuses dirty rings of %u entries: %s; use the dirty log", entries,
			 strerror(-err));
	return err;
}

int dirty_ring_full(struct vmm *vm)
{
	atomic_fetch_add(&vm->ring_full, 1);
	return ferry_kvm_ring_full(vm->kvm);
}

void dirty_free(struct vmm *vm)
{
	ferry_track_free(vm->track);
	vm->track = NULL;
}

void vmm_get_tracked(const struct vmm *vm, struct vmm_tracked *ret)
{
	*ret = vm->tracked;
	ret->ring_full = atomic_load(&vm->ring_full);
}

/* --- the ops --- */

static int new_track(struct vmm *vm)
{
	int err = ferry_track_new(&vm->track, NULL);

	for (int i = 0; !err && i < NREGIONS; i++) {
		const struct ferry_region *r = &vm->regions[i];
		struct ferry_track_range range = {
			FERRY_TRACK_RANGE_INIT,
			.region = r->id,
			.flags = r->flags,
			.addr = (uintptr_t)r->hva,
			.len = r->len,
			.page_shift = r->page_shift,
			.fd = r->fd,
			.fd_offset = r->fd_offset,
		};

		err = ferry_track_add(vm->track, &range);
	}
	if (err)
		dirty_free(vm);
	return err;
}

int op_dirty_start(void *arg)
{
	struct vmm *vm = arg;
	int err;

	vm->tracked = (struct vmm_tracked){ .by = vm->cfg.tracking };
	atomic_store(&vm->ring_full, 0);
	if (vm->backend == BACKEND_KVM)
		return ferry_kvm_dirty_start(vm->kvm);
	err = vm->track ? 0 : new_track(vm);
	return err ? err : ferry_track_start(vm->track);
}

/* The counts are kept here, because retire closes the VM before anybody asks for them. */
int op_dirty_stop(void *arg)
{
	struct vmm *vm = arg;
	int err;

	if (vm->backend != BACKEND_KVM)
		return vm->track ? ferry_track_stop(vm->track) : 0;
	err = ferry_kvm_dirty_stop(vm->kvm);
	if (vm->cfg.tracking == VMM_TRACKING_RING)
		ferry_kvm_dirty_counts(vm->kvm, vm->tracked.pages, vm->nvcpus);
	return err;
}

int op_dirty_fetch(void *arg, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct vmm *vm = arg;
	uint64_t began = clock_ns();
	int err;

	if (vm->backend == BACKEND_KVM)
		err = ferry_kvm_dirty_fetch(vm->kvm, region, bits, npages, flags);
	else
		err = vm->track ? ferry_track_fetch(vm->track, region, bits, npages, flags) : -EINVAL;
	vm->tracked.fetch_ns += clock_ns() - began;
	return err;
}
