// SPDX-License-Identifier: MIT
/* The bench's own VMM (bench/vmm) as the VM of an end. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "vm.h"
#include "bench/vmm/rhythm.h"

struct own {
	struct vmm *vmm;
	struct vm_ask ask;
	struct rhythm *rhythm;
};

const struct vm_kind *vm_kind(const struct options *o)
{
	return o->vmm == VM_QEMU ? &vm_qemu : &vm_own;
}

static void own_close(void *vm)
{
	struct own *w = vm;

	if (w)
		vmm_destroy(w->vmm);
	free(w);
}

static int own_open(void **ret, const struct vm_ask *ask, char *why, size_t cap)
{
	const struct options *o = ask->o;
	bool source = ask->end == VMM_END_SOURCE;
	struct vmm_config cfg = {
		.memory = o->memory,
		.working_set = o->working_set,
		.dirty_rate = o->dirty_rate,
		.seed = o->seed,
		.pattern = (enum vmm_pattern)o->pattern,
		.kind = (enum vmm_kind)o->kind,
		.prealloc = o->prealloc == 0 && !source,
		.thp = o->thp == THP_ON,
		.tracking = source ? (enum vmm_tracking)o->dirty_tracking : VMM_TRACKING_AUTO,
		.populate = (uint32_t)o->populate,
		.vcpus = (uint32_t)o->vcpus,
		.end = ask->end,
		.observer = ask->observer,
		.ctx = ask->calls.ctx,
		.event = ask->calls.event,
		.log = ask->calls.log,
		.arbiter = ask->calls.arbiter,
		.offer = ask->calls.offer,
		.offered = ask->calls.offered,
	};
	struct own *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->ask = *ask;
	err = source ? vmm_new_source(&w->vmm, &cfg, why, cap) : vmm_new_target(&w->vmm, &cfg, why, cap);
	if (err) {
		free(w);
		return err;
	}
	if (source)
		err = vmm_start(w->vmm);
	if (err) {
		snprintf(why, cap, "%s", vmm_error(w->vmm));
		own_close(w);
	} else {
		*ret = w;
	}
	return err;
}

static void own_describe(void *vm, struct ferry_ops *ops, struct ferry_vm *ret)
{
	struct own *w = vm;

	*ops = *vmm_ops();
	ops->arbiter = w->ask.calls.arbiter ? vmm_arbiter : NULL;
	ops->offer = w->ask.calls.offer ? vmm_offer : NULL;
	ops->offered = w->ask.calls.offered ? vmm_offered : NULL;
	*ret = (struct ferry_vm){ FERRY_VM_INIT, .vm = w->vmm, .ops = ops };
	if (w->ask.end == VMM_END_SOURCE)
		ret->nregions = vmm_regions(w->vmm, &ret->regions);
}

static int own_begin(void *vm)
{
	struct own *w = vm;
	const struct options *o = w->ask.o;

	return w->ask.end == VMM_END_SOURCE ? rhythm_start(&w->rhythm, w->vmm, o->dirty_rate, o->rhythm_us)
					    : 0;
}

static void own_end(void *vm, const struct ferry_result *result)
{
	struct own *w = vm;

	(void)result;
	rhythm_stop(w->rhythm);
	w->rhythm = NULL;
}

static void own_get_stats(void *vm, struct vmm_stats *st)
{
	struct own *w = vm;

	vmm_get_stats(w->vmm, st);
}

static uint64_t own_stood_us(void *vm)
{
	struct own *w = vm;

	return vmm_stood_us(w->vmm);
}

/* Anonymous pages of the process, and the backed pages of shared RAM. */
static uint64_t own_resident(void *vm)
{
	struct own *w = vm;
	const struct ferry_region *regions;
	FILE *f = fopen("/proc/self/smaps_rollup", "re");
	unsigned long long kb = 0;
	char line[128];
	struct stat st;

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "Anonymous: %llu", &kb) != 1)
		;
	if (f)
		fclose(f);
	if (!vmm_regions(w->vmm, &regions) || !(regions[0].flags & FERRY_REGION_SHARED) ||
	    fstat(regions[0].fd, &st))
		return kb << 10;
	return (kb << 10) + (uint64_t)st.st_blocks * 512;
}

static void own_get_tracked(void *vm, struct vmm_tracked *ret)
{
	struct own *w = vm;

	vmm_get_tracked(w->vmm, ret);
}

static const char *own_mutator(void *vm)
{
	struct own *w = vm;

	return vmm_mutator(w->vmm);
}

static int own_prove(void *vm, struct vmm_proof *ret)
{
	struct own *w = vm;
	int err = vmm_proof(w->vmm, ret);

	if (err && !ret->text[0])
		snprintf(ret->text, sizeof(ret->text), "%s", vmm_error(w->vmm));
	return err;
}

const struct vm_kind vm_own = {
	.proves = true,
	.open = own_open,
	.close = own_close,
	.describe = own_describe,
	.begin = own_begin,
	.end = own_end,
	.get_stats = own_get_stats,
	.stood_us = own_stood_us,
	.resident = own_resident,
	.get_tracked = own_get_tracked,
	.mutator = own_mutator,
	.prove = own_prove,
};
