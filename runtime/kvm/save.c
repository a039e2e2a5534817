/* SPDX-License-Identifier: MIT */
/*
 * Saves the state of vCPUs and VM, read through KVM's ioctls, as sections.
 *
 * Theory. KVM's setters depend on each other. CPUID decides which bits of the others are legal; SREGS enables
 * the APIC; XCRS decides what XSAVE may hold; LAPIC starts its timer, and accepts a TSC deadline only then;
 * EVENTS may name an interrupt that LAPIC knows of. The clock comes late, so that little of it is lost, and
 * the TSC is moved by the time that the clock says has passed. Saving writes the sections in the order of
 * restoring. Loading takes them one by one and insists on that order, so it needs no buffer.
 *
 * MSRs: all of KVM_GET_MSR_INDEX_LIST that can be read, except those in msr_skipped(). If the target's KVM
 * refuses an MSR, the load fails, unless the MSR holds that value already.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_int.h"
#include "runtime/base/api.h"

#define MSR_IA32_TSC 0x10u
#define MSR_KVM_WALL_CLOCK 0x11u
#define MSR_IA32_VMX_FIRST 0x480u
#define MSR_IA32_VMX_LAST 0x491u
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_KVM_WALL_CLOCK_NEW 0x4b564d00u

const struct kvm_plain kvm_plains[KVM_PLAINS] = {
	[KVM_P_SREGS] = { FERRY_KVM_SECTION_SREGS, "sregs", 0, KVM_GET_SREGS, KVM_SET_SREGS,
			  sizeof(struct kvm_sregs), false },
	[KVM_P_SREGS2] = { FERRY_KVM_SECTION_SREGS2, "sregs2", KVM_CAP_SREGS2, KVM_GET_SREGS2, KVM_SET_SREGS2,
			   sizeof(struct kvm_sregs2), false },
	[KVM_P_XCRS] = { FERRY_KVM_SECTION_XCRS, "xcrs", KVM_CAP_XCRS, KVM_GET_XCRS, KVM_SET_XCRS,
			 sizeof(struct kvm_xcrs), false },
	[KVM_P_FPU] = { FERRY_KVM_SECTION_FPU, "fpu", 0, KVM_GET_FPU, KVM_SET_FPU, sizeof(struct kvm_fpu),
			false },
	[KVM_P_LAPIC] = { FERRY_KVM_SECTION_LAPIC, "lapic", 0, KVM_GET_LAPIC, KVM_SET_LAPIC,
			  sizeof(struct kvm_lapic_state), true },
	[KVM_P_REGS] = { FERRY_KVM_SECTION_REGS, "regs", 0, KVM_GET_REGS, KVM_SET_REGS,
			 sizeof(struct kvm_regs), false },
	[KVM_P_DEBUGREGS] = { FERRY_KVM_SECTION_DEBUGREGS, "debugregs", KVM_CAP_DEBUGREGS, KVM_GET_DEBUGREGS,
			      KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs), false },
	[KVM_P_EVENTS] = { FERRY_KVM_SECTION_EVENTS, "events", KVM_CAP_VCPU_EVENTS, KVM_GET_VCPU_EVENTS,
			   KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events), false },
	[KVM_P_MP_STATE] = { FERRY_KVM_SECTION_MP_STATE, "mp_state", KVM_CAP_MP_STATE, KVM_GET_MP_STATE,
			     KVM_SET_MP_STATE, sizeof(struct kvm_mp_state), true },
	[KVM_P_PIT] = { FERRY_KVM_SECTION_PIT, "pit", KVM_CAP_PIT_STATE2, KVM_GET_PIT2, KVM_SET_PIT2,
			sizeof(struct kvm_pit_state2), true },
};

bool kvm_has_cap(const struct ferry_kvm *k, int cap)
{
	return !cap || ioctl(k->vm_fd, KVM_CHECK_EXTENSION, cap) > 0;
}

/* --- sections --- */

int kvm_put(struct ferry_stream *out, uint32_t id, uint32_t vcpu, uint32_t count, const void *data,
	    size_t len)
{
	struct kvm_part part = { vcpu, count };
	uint8_t *buf = malloc(sizeof(part) + len);
	int err;

	if (!buf)
		return ferry_stream_fail(out, -ENOMEM, "no memory for %zu bytes of vCPU state", len);
	memcpy(buf, &part, sizeof(part));
	if (len)
		memcpy(buf + sizeof(part), data, len);
	err = ferry_stream_put(out, id, KVM_SECTION_VERSION, buf, sizeof(part) + len);
	free(buf);
	return err;
}

int kvm_part(struct ferry_stream *in, const struct ferry_section *sec, struct kvm_part *ret,
	     const uint8_t **data, size_t *len)
{
	if (sec->version != KVM_SECTION_VERSION)
		return ferry_stream_fail(in, -EPROTO,
					 "KVM section 0x%" PRIx32 " is of version %" PRIu32
					 ", this library knows %d",
					 sec->id, sec->version, KVM_SECTION_VERSION);
	if (sec->len < sizeof(*ret))
		return ferry_stream_fail(in, -EPROTO, "KVM section 0x%" PRIx32 " has only %zu bytes", sec->id,
					 sec->len);
	memcpy(ret, sec->data, sizeof(*ret));
	*data = (const uint8_t *)sec->data + sizeof(*ret);
	*len = sec->len - sizeof(*ret);
	return 0;
}

int kvm_array(struct ferry_stream *in, const struct ferry_section *sec, size_t size, uint32_t limit,
	      void **ret, uint32_t *count)
{
	struct kvm_part part;
	const uint8_t *data = NULL;
	size_t len = 0;
	void *copy;
	int err = kvm_part(in, sec, &part, &data, &len);

	if (err)
		return err;
	if (part.count > limit || len != part.count * size)
		return ferry_stream_fail(in, -EPROTO,
					 "KVM section 0x%" PRIx32 " has %zu bytes for %" PRIu32
					 " elements of %zu (at most %" PRIu32 ")",
					 sec->id, len, part.count, size, limit);
	copy = malloc(len ? len : 1);
	if (!copy)
		return ferry_stream_fail(in, -ENOMEM, "no memory for KVM section 0x%" PRIx32, sec->id);
	memcpy(copy, data, len);
	*ret = copy;
	*count = part.count;
	return 0;
}

/* --- save --- */

static int save_plain(struct ferry_kvm *k, int fd, uint32_t vcpu, enum kvm_plain_id id,
		      struct ferry_stream *out)
{
	const struct kvm_plain *p = &kvm_plains[id];
	uint64_t buf[KVM_PLAIN_MAX / 8];

	if (id == KVM_P_SREGS && kvm_has_cap(k, KVM_CAP_SREGS2))
		p = &kvm_plains[KVM_P_SREGS2];
	if (!kvm_has_cap(k, p->cap))
		return 0;
	memset(buf, 0, sizeof(buf));
	if (ioctl(fd, p->get, buf) < 0) {
		int err = -errno;

		if (p->may_lack && (err == -EINVAL || err == -ENXIO || err == -ENOTTY))
			return 0;
		return ferry_stream_fail(out, err, "KVM does not give the %s of vCPU %" PRIu32 ": %s",
					 p->name, vcpu, strerror(-err));
	}
	return kvm_put(out, p->id, vcpu, 0, buf, p->size);
}

static int save_cpuid(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	struct kvm_cpuid2 *cpuid;
	int err = kvm_get_cpuid(k->vcpus[vcpu], &cpuid);

	if (err)
		return ferry_stream_fail(out, err, "KVM does not give the CPUID of vCPU %" PRIu32 ": %s",
					 vcpu, strerror(-err));
	err = kvm_put(out, FERRY_KVM_SECTION_CPUID, vcpu, cpuid->nent, cpuid->entries,
		      cpuid->nent * sizeof(*cpuid->entries));
	free(cpuid);
	return err;
}

size_t kvm_xsave_size(const struct ferry_kvm *k)
{
	int size = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);

	return size > (int)sizeof(struct kvm_xsave) ? (size_t)size : sizeof(struct kvm_xsave);
}

static int save_xsave(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	bool two = kvm_has_cap(k, KVM_CAP_XSAVE2);
	size_t size = kvm_xsave_size(k);
	void *area;
	int err = 0;

	if (!kvm_has_cap(k, KVM_CAP_XSAVE))
		return save_plain(k, k->vcpus[vcpu], vcpu, KVM_P_FPU, out);
	area = calloc(1, size);
	if (!area)
		return ferry_stream_fail(out, -ENOMEM, "no memory for an xsave area of %zu bytes", size);
	if (ioctl(k->vcpus[vcpu], two ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area) < 0)
		err = ferry_stream_fail(out, -errno,
					"KVM does not give the xsave area of vCPU %" PRIu32 ": %s", vcpu,
					strerror(errno));
	else
		err = kvm_put(out, FERRY_KVM_SECTION_XSAVE, vcpu, 0, area, size);
	free(area);
	return err;
}

static bool msr_skipped(uint32_t index)
{
	switch (index) {
	case MSR_IA32_TSC:	    /* FERRY_KVM_SECTION_TSC */
	case MSR_IA32_TSC_DEADLINE: /* FERRY_KVM_SECTION_MSRS_LATE */
		return true;
	case MSR_KVM_WALL_CLOCK: /* a command: KVM writes into guest memory when it is set, and only then */
	case MSR_KVM_WALL_CLOCK_NEW:
		return true;
	default: /* nested VMX capabilities: the VMM sets them with CPUID, not the guest */
		return index >= MSR_IA32_VMX_FIRST && index <= MSR_IA32_VMX_LAST;
	}
}

static int msr_indices(struct ferry_kvm *k, struct kvm_msr_list **ret)
{
	struct kvm_msr_list probe = { .nmsrs = 0 }, *list;

	if (ioctl(k->kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe) < 0 && errno != E2BIG)
		return -errno;
	if (probe.nmsrs > KVM_MSRS_LIMIT)
		return -E2BIG;
	list = calloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
	if (!list)
		return -ENOMEM;
	list->nmsrs = probe.nmsrs;
	if (ioctl(k->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
		int err = -errno;

		free(list);
		return err;
	}
	*ret = list;
	return 0;
}

union one_msr { /* struct kvm_msrs with room for one entry */
	struct kvm_msrs msrs;
	uint64_t room[(sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)) / 8];
};

bool kvm_read_msr(int vcpu_fd, uint32_t index, uint64_t *ret)
{
	union one_msr one = { .room = { 0 } };

	one.msrs.nmsrs = 1;
	one.msrs.entries[0].index = index;
	if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1)
		return false;
	*ret = one.msrs.entries[0].data;
	return true;
}

bool kvm_write_msr(int vcpu_fd, uint32_t index, uint64_t value)
{
	union one_msr one = { .room = { 0 } };

	one.msrs.nmsrs = 1;
	one.msrs.entries[0].index = index;
	one.msrs.entries[0].data = value;
	return ioctl(vcpu_fd, KVM_SET_MSRS, &one) == 1;
}

#define MSRS_A_CALL 256u /* KVM's limit */

static int many_msrs(int vcpu_fd, unsigned long request, struct kvm_msr_entry *e, uint32_t n,
		     struct kvm_msrs *call)
{
	uint32_t done = 0;

	while (done < n) {
		uint32_t some = n - done < MSRS_A_CALL ? n - done : MSRS_A_CALL;
		int got;

		*call = (struct kvm_msrs){ .nmsrs = some };
		memcpy(call->entries, e + done, some * sizeof(*e));
		got = ioctl(vcpu_fd, request, call);
		if (got > 0 && request == KVM_GET_MSRS)
			memcpy(e + done, call->entries, (size_t)got * sizeof(*e));
		done += got > 0 ? (uint32_t)got : 0;
		if (got < (int)some)
			break;
	}
	return (int)done;
}

int kvm_read_msrs(int vcpu_fd, struct kvm_msr_entry *e, uint32_t n)
{
	struct kvm_msrs *call = malloc(sizeof(*call) + MSRS_A_CALL * sizeof(*e));
	int done = call ? many_msrs(vcpu_fd, KVM_GET_MSRS, e, n, call) : -ENOMEM;

	free(call);
	return done;
}

int kvm_write_msrs(int vcpu_fd, const struct kvm_msr_entry *e, uint32_t n)
{
	struct kvm_msrs *call = malloc(sizeof(*call) + MSRS_A_CALL * sizeof(*e));
	int done = call ? many_msrs(vcpu_fd, KVM_SET_MSRS, (struct kvm_msr_entry *)e, n, call) : -ENOMEM;

	free(call);
	return done;
}

/* Read all MSRs that can be read and remove the others from e: how many are left, or -ENOMEM. */
static int read_all_msrs(int vcpu_fd, struct kvm_msr_entry *e, uint32_t n)
{
	uint32_t have = 0;

	while (have < n) {
		int got = kvm_read_msrs(vcpu_fd, e + have, n - have);

		if (got < 0)
			return got;
		have += (uint32_t)got;
		if (have < n) {
			n--;
			memmove(e + have, e + have + 1, (n - have) * sizeof(*e));
		}
	}
	return (int)have;
}

static int save_msrs(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	struct kvm_msr_list *list = NULL;
	struct kvm_msr_entry *entries;
	uint32_t n = 0;
	int err = msr_indices(k, &list), got;

	if (err)
		return ferry_stream_fail(out, err, "KVM does not list its MSRs: %s", strerror(-err));
	entries = calloc(list->nmsrs + 1, sizeof(*entries));
	if (!entries) {
		free(list);
		return ferry_stream_fail(out, -ENOMEM, "no memory for the MSRs of vCPU %" PRIu32, vcpu);
	}
	for (uint32_t i = 0; i < list->nmsrs; i++)
		if (!msr_skipped(list->indices[i]))
			entries[n++].index = list->indices[i];
	got = read_all_msrs(k->vcpus[vcpu], entries, n);
	n = got > 0 ? (uint32_t)got : 0;
	err = got < 0 ? ferry_stream_fail(out, got, "no memory for the MSRs of vCPU %" PRIu32, vcpu)
		      : kvm_put(out, FERRY_KVM_SECTION_MSRS, vcpu, n, entries, n * sizeof(*entries));
	free(entries);
	free(list);
	return err;
}

static int save_late_msrs(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	struct kvm_msr_entry e = { .index = MSR_IA32_TSC_DEADLINE };
	uint64_t value;

	if (!kvm_read_msr(k->vcpus[vcpu], e.index, &value))
		return 0;
	e.data = value;
	return kvm_put(out, FERRY_KVM_SECTION_MSRS_LATE, vcpu, 1, &e, sizeof(e));
}

static bool is_nested(const struct kvm_nested_state *n)
{
	if (n->flags & KVM_STATE_NESTED_GUEST_MODE)
		return true;
	if (n->format == KVM_STATE_NESTED_FORMAT_VMX)
		return n->hdr.vmx.vmxon_pa != UINT64_MAX;
	return !(n->flags & KVM_STATE_NESTED_GIF_SET);
}

int kvm_refuse_nested(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	int size = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
	struct kvm_nested_state *n;
	int err = 0;

	if (size < (int)sizeof(*n))
		return 0;
	n = calloc(1, (size_t)size);
	if (!n)
		return ferry_stream_fail(out, -ENOMEM, "no memory for %d bytes of nested state", size);
	n->size = (uint32_t)size;
	if (ioctl(k->vcpus[vcpu], KVM_GET_NESTED_STATE, n) == 0 && is_nested(n))
		err = ferry_stream_fail(out, -EOPNOTSUPP,
					"vCPU %" PRIu32
					" runs a hypervisor of its own: that state is not carried; shut its guests down first",
					vcpu);
	free(n);
	return err;
}

static int save_vcpu(struct ferry_kvm *k, uint32_t i, struct ferry_stream *out)
{
	int fd = k->vcpus[i];
	int err = kvm_refuse_nested(k, i, out);

	if (!err)
		err = save_cpuid(k, i, out);
	if (!err)
		err = save_plain(k, fd, i, KVM_P_SREGS, out);
	if (!err)
		err = save_plain(k, fd, i, KVM_P_XCRS, out);
	if (!err)
		err = save_xsave(k, i, out);
	if (!err)
		err = save_msrs(k, i, out);
	if (!err)
		err = save_plain(k, fd, i, KVM_P_LAPIC, out);
	if (!err)
		err = save_late_msrs(k, i, out);
	for (int p = KVM_P_REGS; !err && p <= KVM_P_MP_STATE; p++)
		err = save_plain(k, fd, i, p, out);
	return err;
}

static int save_vm(struct ferry_kvm *k, struct ferry_stream *out)
{
	struct kvm_clock_data clock = { 0 };
	int err;

	for (uint32_t chip = 0; chip < KVM_NR_IRQCHIPS; chip++) {
		struct kvm_irqchip state = { .chip_id = chip };

		if (ioctl(k->vm_fd, KVM_GET_IRQCHIP, &state) < 0)
			break; /* no in-kernel irqchip */
		err = kvm_put(out, FERRY_KVM_SECTION_IRQCHIP, 0, chip, &state, sizeof(state));
		if (err)
			return err;
	}
	err = save_plain(k, k->vm_fd, 0, KVM_P_PIT, out);
	if (err)
		return err;
	if (ioctl(k->vm_fd, KVM_GET_CLOCK, &clock) < 0)
		return ferry_stream_fail(out, -errno, "KVM does not give the VM's clock: %s",
					 strerror(errno));
	return kvm_put(out, FERRY_KVM_SECTION_CLOCK, 0, 0, &clock, sizeof(clock));
}

FERRY_API int ferry_kvm_save(struct ferry_kvm *k, struct ferry_stream *out)
{
	int err = 0;

	for (uint32_t i = 0; !err && i < k->nvcpus; i++)
		err = save_vcpu(k, i, out);
	if (!err)
		err = save_vm(k, out);
	for (uint32_t i = 0; !err && i < k->nvcpus; i++)
		err = kvm_tsc_save(k, i, out);
	return err;
}
