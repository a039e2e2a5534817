/* SPDX-License-Identifier: MIT */
/*
 * The VMM as ferry's embedder. The needs (struct need) carry what the target must know before it has memory.
 * The state carries the rest: struct guest_state, then for each vCPU a struct vcpu_state and its epochs.
 * ferry_kvm's own sections carry KVM's state.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vmm_int.h"

#define SECTION_NEED 1u
#define SECTION_GUEST 2u
#define SECTION_VCPU 3u
#define SECTION_VERSION 1u

struct need {
	uint64_t memory, seed, populated_ws, slice;
	uint32_t populate, vcpus;
	uint32_t backend; /* enum backend */
	uint32_t pattern; /* enum vmm_pattern */
};

struct guest_state {
	uint64_t rate, slice;
	uint32_t slice_changes, reserved;
};

struct vcpu_state {
	uint32_t index, nepochs;
	uint64_t given, done;
	struct host_regs host;
	/* struct epoch [nepochs] */
};

static uint64_t need_pages(const struct need *n)
{
	return (n->memory - GUEST_LOW_LEN) >> PAGE_SHIFT;
}

/* --- needs and reserve --- */

static int op_needs(void *arg, struct ferry_stream *out)
{
	struct vmm *vm = arg;
	struct need need = {
		.memory = vm->cfg.memory,
		.seed = vm->cfg.seed,
		.populated_ws = vm->populated_ws,
		.slice = atomic_load(&vm->slice),
		.populate = vm->cfg.populate,
		.vcpus = vm->nvcpus,
		.backend = vm->backend,
		.pattern = vm->cfg.pattern,
	};
	bool running = atomic_load(&vm->want) == WANT_RUN;
	int err = ferry_stream_put(out, SECTION_NEED, SECTION_VERSION, &need, sizeof(need));

	if (err || vm->backend != BACKEND_KVM)
		return err;
	vcpus_pause(vm); /* the call reads their state */
	err = ferry_kvm_put_needs(vm->kvm, out);
	if (running)
		vcpus_resume(vm);
	return err;
}

static int check_need(struct vmm *vm, struct ferry_stream *in, const struct need *n)
{
	if (n->memory < VMM_MEMORY_MIN || n->memory > VMM_MEMORY_MAX || n->memory & ((2u << 20) - 1) ||
	    n->populate > 100 || n->vcpus < 1 || n->vcpus > VMM_VCPUS_MAX ||
	    n->populated_ws > need_pages(n) || !n->slice || n->slice > need_pages(n) / n->vcpus ||
	    n->pattern > VMM_ZIPF || (n->backend != BACKEND_KVM && n->backend != BACKEND_HOST))
		return ferry_stream_fail(in, -EPROTO, "the source describes no guest of this VMM");
	if (vm->cfg.memory_limit && n->memory > vm->cfg.memory_limit)
		return ferry_stream_fail(in, -ENOMEM,
					 "the source needs %" PRIu64 " MiB, this host grants %" PRIu64 " MiB",
					 n->memory >> 20, vm->cfg.memory_limit >> 20);
	if (n->backend == BACKEND_KVM && vm->cfg.host_threads)
		return ferry_stream_fail(in, -EOPNOTSUPP,
					 "the guest needs KVM, but this end must not use it");
	return 0;
}

static int take_need(struct vmm *vm, struct ferry_stream *in, const struct ferry_section *sec, struct need *n)
{
	int err;

	if (sec->version != SECTION_VERSION || sec->len != sizeof(*n))
		return ferry_stream_fail(in, -EPROTO,
					 "the guest's description is of version %u and %zu bytes, which is not this VMM's; start both ends with the same --vmm",
					 sec->version, sec->len);
	memcpy(n, sec->data, sizeof(*n));
	err = check_need(vm, in, n);
	if (err)
		return err;
	vm->backend = (enum backend)n->backend;
	vm->cfg.memory = n->memory;
	vm->cfg.seed = n->seed;
	vm->cfg.populate = n->populate;
	vm->cfg.pattern = (enum vmm_pattern)n->pattern;
	vm->nvcpus = vm->cfg.vcpus = n->vcpus;
	vm->populated_ws = n->populated_ws;
	atomic_store(&vm->slice, n->slice);
	return 0;
}

static int check_kvm_need(struct vmm *vm, struct ferry_stream *in, const struct ferry_section *sec)
{
	char why[256];
	int err = machine_open(vm, why, sizeof(why));

	if (err)
		return ferry_stream_fail(in, -EOPNOTSUPP, "the guest needs KVM: %s", why);
	err = ferry_kvm_check_needs(vm->kvm_fd, in, sec);
	return err == 1 ? ferry_stream_fail(in, -EPROTO, "the source needs something of kind %u", sec->id)
			: err;
}

static int read_needs(struct vmm *vm, struct ferry_stream *in, struct need *need)
{
	struct ferry_section sec;
	bool have = false;
	int err;

	while ((err = ferry_stream_next(in, &sec)) == 1) {
		if (sec.id == SECTION_NEED && !have) {
			err = take_need(vm, in, &sec, need);
			have = true;
		} else {
			err = check_kvm_need(vm, in, &sec);
		}
		if (err)
			return err;
	}
	if (!err && !have)
		err = ferry_stream_fail(in, -EPROTO, "the source does not describe its guest");
	return err;
}

/* The memory map must be the one that this VMM creates. */
static int check_regions(struct vmm *vm, const struct ferry_region *regions, size_t n,
			 struct ferry_stream *in)
{
	uint64_t lens[NREGIONS] = { GUEST_LOW_LEN, vm->cfg.memory - GUEST_LOW_LEN };
	uint64_t gpas[NREGIONS] = { 0, GUEST_DATA_GPA };

	if (n != NREGIONS)
		return ferry_stream_fail(in, -EOPNOTSUPP,
					 "the source has %zu regions of memory, this VMM takes %d", n,
					 NREGIONS);
	for (size_t i = 0; i < n; i++) {
		if ((regions[i].page_shift != PAGE_SHIFT && regions[i].page_shift != 21) ||
		    regions[i].page_shift != regions[0].page_shift || regions[i].flags != regions[0].flags)
			return ferry_stream_fail(in, -EOPNOTSUPP,
						 "region %u has pages of %llu bytes and flags %#x, this VMM takes %u "
						 "or 2097152, and one kind of memory",
						 regions[i].id, 1ull << (regions[i].page_shift & 63),
						 regions[i].flags, PAGE_BYTES);
		if (regions[i].id != i || regions[i].gpa != gpas[i] || regions[i].len != lens[i])
			return ferry_stream_fail(in, -EOPNOTSUPP,
						 "region %u of %" PRIu64 " bytes at 0x%" PRIx64
						 " does not fit this VMM",
						 regions[i].id, regions[i].len, regions[i].gpa);
	}
	vm->cfg.kind = (enum vmm_kind)((regions[0].flags & FERRY_REGION_SHARED ? VMM_MEMFD : 0) |
				       (regions[0].page_shift != PAGE_SHIFT ? VMM_HUGETLB : 0));
	vm->cfg.thp = regions[0].flags & FERRY_REGION_THP;
	return 0;
}

static int op_reserve(void *arg, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct vmm *vm = arg;
	struct need need;
	char why[256];
	int err;

	if (vm->built)
		return ferry_stream_fail(needs, -EBUSY, "this VMM has a guest already");
	err = read_needs(vm, needs, &need);
	if (!err)
		err = check_regions(vm, regions, n, needs);
	if (err)
		return err;
	err = vmm_build(vm, why, sizeof(why));
	if (err)
		return ferry_stream_fail(needs, err, "%s", why);
	for (size_t i = 0; i < n; i++) {
		regions[i].hva = vm->regions[i].hva;
		regions[i].fd = vm->regions[i].fd;
		regions[i].fd_offset = vm->regions[i].fd_offset;
	}
	return 0;
}

/* --- state --- */

static int put_vcpu(struct vcpu *v, struct ferry_stream *out)
{
	size_t tail = v->nepochs * sizeof(*v->epochs);
	struct vcpu_state *s = calloc(1, sizeof(*s) + tail);
	int err;

	if (!s)
		return ferry_stream_fail(out, -ENOMEM, "no memory for the state of vCPU %u", v->index);
	s->index = v->index;
	s->nepochs = v->nepochs;
	s->given = atomic_load(&v->given);
	s->done = atomic_load(&v->done);
	s->host = v->host;
	memcpy(s + 1, v->epochs, tail);
	err = ferry_stream_put(out, SECTION_VCPU, SECTION_VERSION, s, sizeof(*s) + tail);
	free(s);
	return err;
}

static int op_save(void *arg, struct ferry_stream *out)
{
	struct vmm *vm = arg;
	struct guest_state g = {
		.rate = atomic_load(&vm->rate),
		.slice = atomic_load(&vm->slice),
		.slice_changes = vm->slice_changes,
	};
	int err = ferry_stream_put(out, SECTION_GUEST, SECTION_VERSION, &g, sizeof(g));

	for (uint32_t i = 0; !err && i < vm->nvcpus; i++)
		err = put_vcpu(&vm->vcpus[i], out);
	if (!err && vm->backend == BACKEND_KVM)
		err = ferry_kvm_save(vm->kvm, out);
	return err;
}

static int load_guest(struct vmm *vm, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct guest_state g;

	if (sec->len != sizeof(g))
		return ferry_stream_fail(in, -EPROTO, "the guest's state has %zu bytes instead of %zu",
					 sec->len, sizeof(g));
	memcpy(&g, sec->data, sizeof(g));
	if (!g.slice || g.slice > data_pages(vm) / vm->nvcpus)
		return ferry_stream_fail(in, -EPROTO, "a slice of %" PRIu64 " pages does not fit the guest",
					 g.slice);
	atomic_store(&vm->rate, g.rate);
	atomic_store(&vm->slice, g.slice);
	vm->slice_changes = g.slice_changes;
	return 0;
}

static bool epochs_fit(const struct vmm *vm, const struct vcpu_state *s, const struct epoch *e)
{
	for (uint32_t i = 0; i < s->nepochs; i++)
		if (!e[i].npages || e[i].npages > data_pages(vm) / vm->nvcpus || e[i].after > s->given ||
		    (i && e[i].after < e[i - 1].after))
			return false;
	return true;
}

static int load_vcpu(struct vmm *vm, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct vcpu_state s;
	struct vcpu *v;

	if (sec->len < sizeof(s))
		return ferry_stream_fail(in, -EPROTO, "a vCPU's state has only %zu bytes", sec->len);
	memcpy(&s, sec->data, sizeof(s));
	if (s.index >= vm->nvcpus || !s.nepochs || s.nepochs > EPOCHS_MAX ||
	    sec->len != sizeof(s) + s.nepochs * sizeof(struct epoch))
		return ferry_stream_fail(in, -EPROTO, "the state of vCPU %u has %zu bytes for %u epochs",
					 s.index, sec->len, s.nepochs);
	v = &vm->vcpus[s.index];
	if (v->nepochs)
		return ferry_stream_fail(in, -EPROTO, "the state of vCPU %u came twice", s.index);
	memcpy(v->epochs, (const uint8_t *)sec->data + sizeof(s), s.nepochs * sizeof(struct epoch));
	if (!epochs_fit(vm, &s, v->epochs) || s.host.sequence > s.host.until)
		return ferry_stream_fail(in, -EPROTO, "the history of vCPU %u does not fit the guest",
					 s.index);
	v->nepochs = s.nepochs;
	v->slice = v->epochs[s.nepochs - 1].npages;
	v->host = s.host;
	v->host.npages = v->slice;
	v->host.tick_ns = 0; /* another host's clock */
	v->greeted = true;
	v->began = s.done;
	atomic_store(&v->given, s.given);
	atomic_store(&v->done, s.done);
	return 0;
}

static int op_load(void *arg, struct ferry_stream *in)
{
	struct vmm *vm = arg;
	struct ferry_section sec;
	uint32_t vcpus = 0;
	bool guest = false;
	int err;

	while ((err = ferry_stream_next(in, &sec)) == 1) {
		if (vm->backend == BACKEND_KVM) {
			err = ferry_kvm_load(vm->kvm, in, &sec);
			if (!err)
				continue;
			if (err < 0)
				return err;
		}
		if (sec.version != SECTION_VERSION || (sec.id != SECTION_GUEST && sec.id != SECTION_VCPU))
			return ferry_stream_fail(in, -EPROTO,
						 "section %u of version %u is not known to this VMM", sec.id,
						 sec.version);
		err = sec.id == SECTION_GUEST ? load_guest(vm, in, &sec) : load_vcpu(vm, in, &sec);
		if (err)
			return err;
		guest |= sec.id == SECTION_GUEST;
		vcpus += sec.id == SECTION_VCPU;
	}
	if (!err && (!guest || vcpus != vm->nvcpus))
		err = ferry_stream_fail(in, -EPROTO, "the state has %u vCPUs, the guest has %u", vcpus,
					vm->nvcpus);
	if (!err && vm->backend == BACKEND_KVM)
		err = ferry_kvm_load_end(vm->kvm, in);
	return err;
}

/* --- running, output, the end --- */

static int op_pause(void *arg)
{
	return vmm_pause(arg);
}

static int op_resume(void *arg)
{
	return vmm_resume(arg);
}

static int op_throttle(void *arg, unsigned percent)
{
	struct vmm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	vm->throttle = percent > 100 ? 100 : percent;
	vcpus_rate_changed(vm);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_output_hold(void *arg)
{
	struct vmm *vm = arg;

	output_hold(&vm->out);
	return 0;
}

static int op_output_release(void *arg)
{
	struct vmm *vm = arg;

	output_release(&vm->out);
	return 0;
}

/* There is no disk to lock and no network to announce the VM on. */
static int op_activate(void *arg)
{
	struct vmm *vm = arg;

	return vm->built && !atomic_load(&vm->gone) ? 0 : -ENOENT;
}

static int op_retire(void *arg)
{
	vmm_stop(arg, false);
	vmm_free_guest(arg);
	return 0;
}

static int op_discard(void *arg)
{
	struct vmm *vm = arg;

	/* Memory and descriptors stay until vmm_destroy(): the VM must not be closed while a userfault may be
	 * pending. */
	vmm_stop(vm, true);
	output_discard(&vm->out);
	return 0;
}

static void op_event(void *arg, const struct ferry_event *ev)
{
	struct vmm *vm = arg;

	if (vm->cfg.event)
		vm->cfg.event(vm->cfg.ctx, ev);
}

static void op_log(void *arg, int level, const char *line)
{
	struct vmm *vm = arg;

	if (vm->cfg.log)
		vm->cfg.log(vm->cfg.ctx, level, line);
}

int vmm_arbiter(void *arg, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct vmm *vm = arg;

	return vm->cfg.arbiter(vm->cfg.ctx, session, want, is);
}

int vmm_offer(void *arg, struct ferry_stream *out)
{
	struct vmm *vm = arg;

	return vm->cfg.offer(vm->cfg.ctx, out);
}

int vmm_offered(void *arg, struct ferry_stream *in)
{
	struct vmm *vm = arg;

	return vm->cfg.offered(vm->cfg.ctx, in);
}

const struct ferry_ops *vmm_ops(void)
{
	static const struct ferry_ops ops = {
		FERRY_OPS_INIT,
		.needs = op_needs,
		.reserve = op_reserve,
		.dirty_start = op_dirty_start,
		.dirty_stop = op_dirty_stop,
		.dirty_fetch = op_dirty_fetch,
		.throttle = op_throttle,
		.pause = op_pause,
		.resume = op_resume,
		.save = op_save,
		.load = op_load,
		.output_hold = op_output_hold,
		.output_release = op_output_release,
		.activate = op_activate,
		.retire = op_retire,
		.discard = op_discard,
		.event = op_event,
		.log = op_log,
	};

	return &ops;
}
