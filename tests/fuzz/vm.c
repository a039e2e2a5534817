// SPDX-License-Identifier: MIT
/* The ops of the small VM. */
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SECTION 1u

static const uint64_t region_pages[VM_REGIONS] = { VM_PAGES0, VM_PAGES1 };

static void set_running(struct vm *vm, bool runs)
{
	pthread_mutex_lock(&vm->lock);
	vm->runs = runs;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
}

static size_t offset(unsigned region, uint64_t page)
{
	return ((region ? VM_PAGES0 : 0) + page) * FUZZ_PAGE;
}

/* ---- the source ---- */

static void guest_writes(struct vm *vm, unsigned n)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < n; i++) {
		unsigned at = vm->writer++ * 29 % VM_PAGES, region = at >= VM_PAGES0;
		uint64_t page = region ? at - VM_PAGES0 : at;
		uint8_t *p = vm->mem[region].at + page * FUZZ_PAGE;

		if (vm->writer % 5)
			fuzz_fill(p, vm->writer, page);
		else
			memset(p, 0, FUZZ_PAGE);
		memcpy(vm->shadow + offset(region, page), p, FUZZ_PAGE);
		vm->dirty[region][page / 64] |= UINT64_C(1) << page % 64;
	}
	pthread_mutex_unlock(&vm->lock);
}

static int op_dirty_start(void *v)
{
	((struct vm *)v)->calls[VM_DIRTY_START]++;
	return 0;
}

static int op_dirty_stop(void *v)
{
	((struct vm *)v)->calls[VM_DIRTY_STOP]++;
	return 0;
}

static int op_dirty_fetch(void *v, uint32_t id, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct vm *vm = v;
	unsigned region = id == VM_ID1;

	promise(npages == region_pages[region], "dirty_fetch of %llu pages of region %u",
		(unsigned long long)npages, id);
	if (!(flags & FERRY_DIRTY_LAST) && vm->fetches++ < 6)
		guest_writes(vm, vm->writes);
	memcpy(bits, vm->dirty[region], (npages + 63) / 64 * 8);
	memset(vm->dirty[region], 0, sizeof(vm->dirty[region]));
	return 0;
}

static int op_pause(void *v)
{
	struct vm *vm = v;

	vm->calls[VM_PAUSE]++;
	if (vm->is_source)
		guest_writes(vm, vm->writes);
	set_running(vm, false);
	return 0;
}

static int op_save(void *v, struct ferry_stream *out)
{
	struct vm *vm = v;
	uint8_t state[300];

	vm->calls[VM_SAVE]++;
	memset(state, 0x5a, sizeof(state));
	return ferry_stream_put(out, SECTION, 1, state, sizeof(state));
}

static int op_retire(void *v)
{
	struct vm *vm = v;

	promise(!vm->runs, "retire of a source that runs");
	vm->calls[VM_RETIRE]++;
	return 0;
}

const uint8_t *vm_shadow(const struct vm *vm, uint32_t region, uint64_t page)
{
	if (region >= VM_REGIONS || page >= region_pages[region])
		return NULL;
	return vm->shadow + offset(region, page);
}

bool vm_frozen(struct vm *vm, void (*look)(void *arg), void *arg)
{
	bool frozen;

	pthread_mutex_lock(&vm->lock);
	frozen = !vm->runs;
	if (frozen)
		look(arg);
	pthread_mutex_unlock(&vm->lock);
	return frozen;
}

/* ---- the target ---- */

static void *cpu_main(void *arg)
{
	struct vm *vm = arg;
	unsigned seen = 0;
	bool go = true;

	for (size_t r = vm->nregions; r-- && go;) {
		size_t pages = vm->mem[r].len / FUZZ_PAGE;

		for (size_t i = 0; i < pages && go; i++, seen++) {
			volatile uint8_t *p = vm->mem[r].at + i * 7 % pages * FUZZ_PAGE;

			pthread_mutex_lock(&vm->lock);
			while (!vm->runs && !vm->stop)
				pthread_cond_wait(&vm->cond, &vm->lock);
			go = !vm->stop;
			pthread_mutex_unlock(&vm->lock);
			if (go && *p != 0xaa && seen % 8 == 0)
				*p = 0xaa;
		}
	}
	return NULL;
}

static void stop_cpu(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->stop = true;
	vm->runs = vm->is_source && vm->runs;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
}

/* A source may name any regions; the amount of memory here is limited. */
static int op_reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct vm *vm = v;
	struct ferry_section sec;
	uint64_t pages = 0;
	int got;

	vm->calls[VM_RESERVE]++;
	while ((got = ferry_stream_next(needs, &sec)) > 0)
		if (sec.id != SECTION)
			return ferry_stream_fail(needs, -ENOTSUP, "need %u is unknown", sec.id);
	if (got < 0)
		return got;
	for (size_t i = 0; i < n; i++) {
		promise(regions[i].len && regions[i].len % FUZZ_PAGE == 0, "a region of %llu bytes",
			(unsigned long long)regions[i].len);
		pages += regions[i].len < (uint64_t)VM_PAGES_MAX * FUZZ_PAGE ? regions[i].len / FUZZ_PAGE
									     : VM_PAGES_MAX;
	}
	if (n > VM_REGIONS_MAX || pages >= VM_PAGES_MAX)
		return -ENOMEM;
	for (vm->nregions = 0; vm->nregions < n; vm->nregions++) {
		struct ferry_region *r = &regions[vm->nregions];
		struct fuzz_mem *m = &vm->mem[vm->nregions];

		if (!fuzz_mem_new(m, r->len, r->flags & FERRY_REGION_SHARED))
			return -ENOMEM;
		r->hva = m->at;
		r->fd = m->fd;
		r->fd_offset = m->fd_offset;
		vm->region[vm->nregions] = *r;
	}
	return 0;
}

/* Reads every byte of the offer of a target that may be hostile. */
static int op_offered(void *v, struct ferry_stream *in)
{
	struct ferry_section sec;
	int got;

	(void)v;
	while ((got = ferry_stream_next(in, &sec)) > 0) {
		for (size_t i = 0; i < sec.len; i++)
			(void)((const volatile uint8_t *)sec.data)[i];
		if (sec.id != SECTION)
			return ferry_stream_fail(in, -ENOTSUP, "offer %u is unknown", sec.id);
	}
	return got;
}

/* Touches guest memory, as a VMM may do in load. */
static int op_load(void *v, struct ferry_stream *in)
{
	struct vm *vm = v;
	struct ferry_section sec;
	int got;

	vm->calls[VM_LOAD]++;
	while ((got = ferry_stream_next(in, &sec)) > 0)
		if (sec.id != SECTION)
			return ferry_stream_fail(in, -EOPNOTSUPP, "section %u is unknown", sec.id);
	if (!got && vm->nregions)
		*(volatile uint8_t *)vm->mem[0].at |= 1;
	return got;
}

/* Maps fresh memory in place of the poisoned pages: an access would kill the guest thread. */
static int op_poison(void *v, uint32_t id, uint64_t page, uint64_t npages)
{
	struct vm *vm = v;
	size_t i = 0;
	const struct fuzz_mem *m;

	while (i < vm->nregions && vm->region[i].id != id)
		i++;
	promise(i < vm->nregions, "poison of region %u", id);
	m = &vm->mem[i];
	promise(!vm->calls[VM_LOAD], "poison after load");
	promise(page * FUZZ_PAGE < m->len && npages * FUZZ_PAGE <= m->len - page * FUZZ_PAGE,
		"poison outside its region");
	return madvise(m->at + page * FUZZ_PAGE, npages * FUZZ_PAGE, MADV_DONTNEED) ? -errno : 0;
}

static int op_output_hold(void *v)
{
	struct vm *vm = v;

	vm->calls[VM_HOLD]++;
	promise(!vm->runs, "output_hold while the target runs already");
	vm->held = true;
	return 0;
}

static int op_output_release(void *v)
{
	struct vm *vm = v;

	vm->calls[VM_RELEASE]++;
	vm->held = false;
	return 0;
}

static int op_activate(void *v)
{
	((struct vm *)v)->calls[VM_ACTIVATE]++;
	return 0;
}

static int op_discard(void *v)
{
	struct vm *vm = v;

	vm->calls[VM_DISCARD]++;
	stop_cpu(vm);
	return 0;
}

/* ---- both ---- */

static int op_resume(void *v)
{
	struct vm *vm = v;

	vm->calls[VM_RESUME]++;
	promise(!vm->stop, "resume after discard");
	vm->ran_free |= !vm->is_source && !vm->held;
	set_running(vm, true);
	if (vm->is_source || vm->cpu_started)
		return 0;
	promise(!pthread_create(&vm->cpu, NULL, cpu_main, vm), "no thread for the guest");
	vm->cpu_started = true;
	return 0;
}

static int op_arbiter(void *v, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct vm *vm = v;

	(void)session;
	vm->calls[VM_ARBITER]++;
	if (vm->record == FERRY_OWNER_NONE)
		return -EHOSTUNREACH;
	if (vm->record == FERRY_OWNER_UNKNOWN)
		vm->record = want;
	*is = vm->record;
	return 0;
}

static void set_up(struct vm *vm, bool source, bool arbiter)
{
	*vm = (struct vm){ .is_source = source, .record = FERRY_OWNER_UNKNOWN };
	vm->ops = (struct ferry_ops){ FERRY_OPS_INIT, .pause = op_pause, .resume = op_resume };
	if (arbiter)
		vm->ops.arbiter = op_arbiter;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->cond, NULL);
	for (unsigned i = 0; i < VM_REGIONS_MAX; i++)
		vm->mem[i].fd = -1;
}

void vm_target(struct vm *vm, bool hold, bool arbiter)
{
	set_up(vm, false, arbiter);
	vm->ops.poison = op_poison;
	vm->ops.reserve = op_reserve;
	vm->ops.load = op_load;
	vm->ops.activate = op_activate;
	vm->ops.discard = op_discard;
	if (hold) {
		vm->ops.output_hold = op_output_hold;
		vm->ops.output_release = op_output_release;
	}
}

void vm_source(struct vm *vm, bool shared, bool arbiter)
{
	set_up(vm, true, arbiter);
	vm->ops.dirty_start = op_dirty_start;
	vm->ops.dirty_stop = op_dirty_stop;
	vm->ops.dirty_fetch = op_dirty_fetch;
	vm->ops.save = op_save;
	vm->ops.retire = op_retire;
	vm->ops.offered = op_offered;
	vm->shared = shared;
	vm->shadow = calloc(VM_PAGES, FUZZ_PAGE);
	vm->nregions = VM_REGIONS;
	for (unsigned i = 0; i < VM_REGIONS; i++) {
		fuzz_mem_new(&vm->mem[i], region_pages[i] * FUZZ_PAGE, shared);
		vm->region[i] = (struct ferry_region){ .id = i ? VM_ID1 : VM_ID0,
						       .gpa = i ? UINT64_C(1) << 32 : 0,
						       .len = vm->mem[i].len,
						       .hva = vm->mem[i].at,
						       .fd = vm->mem[i].fd,
						       .fd_offset = vm->mem[i].fd_offset,
						       .page_shift = 12,
						       .flags = shared ? FERRY_REGION_SHARED : 0 };
		for (uint64_t page = 0; page < region_pages[i]; page++) {
			if (page % 9 == 4)
				continue; /* a hole */
			fuzz_fill(vm->mem[i].at + page * FUZZ_PAGE, i, page);
			memcpy(vm->shadow + offset(i, page), vm->mem[i].at + page * FUZZ_PAGE, FUZZ_PAGE);
		}
	}
	vm->runs = true;
}

void vm_check(struct vm *vm)
{
	for (size_t i = 0; i < vm->nregions; i++)
		fuzz_mem_check(&vm->mem[i]);
	for (unsigned i = 0; i < VM_REGIONS && vm->is_source; i++)
		promise(!memcmp(vm->mem[i].at, vm->shadow + offset(i, 0), vm->mem[i].len),
			"the source's memory was changed");
}

void vm_free(struct vm *vm)
{
	stop_cpu(vm);
	if (vm->cpu_started)
		pthread_join(vm->cpu, NULL);
	for (size_t i = 0; i < VM_REGIONS_MAX; i++)
		fuzz_mem_free(&vm->mem[i]);
	free(vm->shadow);
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->cond);
}
