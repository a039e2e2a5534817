/* SPDX-License-Identifier: MIT */
/*
 * Compares the CPUID that a guest was shown with what another host's KVM offers. Compared are the leaves
 * whose registers are sets of features, and the width of physical addresses. Identity, topology and caches
 * are chosen by the VMM and move with the guest.
 *
 * A host offers KVM_GET_SUPPORTED_CPUID, and in addition what a vCPU is actually shown after that was set: a
 * KVM that cannot intercept CPUID shows the host's own features.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm_int.h"
#include "runtime/base/api.h"

enum reg { EAX, EBX, ECX, EDX };

static const char *const reg_names[] = { "EAX", "EBX", "ECX", "EDX" };
_Static_assert(sizeof(reg_names) / sizeof(*reg_names) == EDX + 1, "a name for each register");

struct feature_leaf {
	uint32_t function, index;
	enum reg reg;
	uint32_t ignore; /* bits that are not host features */
};

/*
 * Ignored: bits that follow the guest's CR4 (OSXSAVE, OSPKE), topology (HTT, CMP_LEGACY), the hypervisor bit,
 * and MONITOR, x2APIC and the TSC deadline timer, which KVM emulates and reports by separate capabilities.
 */
static const struct feature_leaf leaves[] = {
	{ 0x1, 0, ECX, 1u << 3 | 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31 },
	{ 0x1, 0, EDX, 1u << 28 },
	{ 0x7, 0, EBX, 0 },
	{ 0x7, 0, ECX, 1u << 4 },
	{ 0x7, 0, EDX, 0 },
	{ 0x7, 1, EAX, 0 },
	{ 0x7, 1, EDX, 0 },
	{ 0x7, 2, EDX, 0 },
	{ 0xd, 0, EAX, 0 },
	{ 0xd, 0, EDX, 0 },
	{ 0xd, 1, EAX, 0 },
	{ 0xd, 1, ECX, 0 },
	{ 0x14, 0, EBX, 0 },
	{ 0x19, 0, EBX, 0 },
	{ 0x80000001, 0, ECX, 1u << 1 },
	{ 0x80000001, 0, EDX, 0 },
	{ 0x80000007, 0, EDX, 0 },
	{ 0x80000008, 0, EBX, 0 },
	{ 0x8000000a, 0, EDX, 0 },
	{ 0x80000021, 0, EAX, 0 },
	{ 0x40000001, 0, EAX, 0 },
};

static int read_cpuid(int fd, unsigned long request, struct kvm_cpuid2 **ret)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + KVM_CPUID_LIMIT * sizeof(*c->entries));
	int err;

	if (!c)
		return -ENOMEM;
	c->nent = KVM_CPUID_LIMIT;
	if (ioctl(fd, request, c) < 0) {
		err = -errno;
		free(c);
		return err;
	}
	*ret = c;
	return 0;
}

int kvm_get_cpuid(int vcpu_fd, struct kvm_cpuid2 **ret)
{
	return read_cpuid(vcpu_fd, KVM_GET_CPUID2, ret);
}

/* The CPUID shown to a vCPU of a temporary VM. NULL: it could not be read. */
static struct kvm_cpuid2 *shown_cpuid(int kvm_fd, struct kvm_cpuid2 *supported)
{
	struct kvm_cpuid2 *shown = NULL;
	int vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	int vcpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);

	if (vcpu >= 0 && ioctl(vcpu, KVM_SET_CPUID2, supported) == 0 && kvm_get_cpuid(vcpu, &shown) < 0)
		shown = NULL;
	if (vcpu >= 0)
		close(vcpu);
	if (vm >= 0)
		close(vm);
	return shown;
}

FERRY_API int ferry_kvm_put_needs(struct ferry_kvm *k, struct ferry_stream *out)
{
	struct kvm_cpuid2 *cpuid;
	int err = kvm_put(out, FERRY_KVM_SECTION_NEED_VCPUS, 0, (uint32_t)k->nvcpus, NULL, 0);

	for (uint32_t i = 0; !err && i < k->nvcpus; i++)
		err = kvm_refuse_nested(k, i, out);
	if (err)
		return err;
	err = kvm_get_cpuid(k->vcpus[0], &cpuid);
	if (err)
		return ferry_stream_fail(out, err, "KVM does not give the CPUID of vCPU 0: %s",
					 strerror(-err));
	err = kvm_put(out, FERRY_KVM_SECTION_NEED_CPUID, 0, cpuid->nent, cpuid->entries,
		      cpuid->nent * sizeof(*cpuid->entries));
	free(cpuid);
	return err;
}

static const struct kvm_cpuid_entry2 *find_leaf(const struct kvm_cpuid_entry2 *e, uint32_t n,
						uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < n; i++)
		if (e[i].function == function &&
		    (!(e[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e[i].index == index))
			return &e[i];
	return NULL;
}

static uint32_t reg_of(const struct kvm_cpuid_entry2 *e, enum reg reg)
{
	if (!e)
		return 0;
	switch (reg) {
	case EAX:
		return e->eax;
	case EBX:
		return e->ebx;
	case ECX:
		return e->ecx;
	default:
		return e->edx;
	}
}

struct host {
	struct kvm_cpuid2 *supported, *shown; /* shown may be NULL */
};

static uint32_t host_reg(const struct host *h, uint32_t function, uint32_t index, enum reg reg)
{
	uint32_t have = reg_of(find_leaf(h->supported->entries, h->supported->nent, function, index), reg);

	if (h->shown)
		have |= reg_of(find_leaf(h->shown->entries, h->shown->nent, function, index), reg);
	return have;
}

static int check_cpuid(const struct host *host, const struct kvm_cpuid_entry2 *guest, uint32_t n,
		       struct ferry_stream *in)
{
	uint32_t want, have;

	for (size_t i = 0; i < sizeof(leaves) / sizeof(*leaves); i++) {
		const struct feature_leaf *l = &leaves[i];

		want = reg_of(find_leaf(guest, n, l->function, l->index), l->reg) & ~l->ignore;
		have = host_reg(host, l->function, l->index, l->reg);
		if (want & ~have)
			return ferry_stream_fail(in, -EOPNOTSUPP,
						 "the guest was shown CPUID leaf 0x%" PRIx32 ".%" PRIu32
						 " %s with bits 0x%08" PRIx32
						 " that this host lacks: start it with a CPU model that both hosts have",
						 l->function, l->index, reg_names[l->reg], want & ~have);
	}
	want = reg_of(find_leaf(guest, n, 0x80000008, 0), EAX) & 0xff;
	have = reg_of(find_leaf(host->supported->entries, host->supported->nent, 0x80000008, 0), EAX) & 0xff;
	if (want > have)
		return ferry_stream_fail(in, -EOPNOTSUPP,
					 "the guest was shown physical addresses of %" PRIu32
					 " bits (CPUID leaf 0x80000008 EAX), this host has %" PRIu32
					 ": start it with no more than both hosts have",
					 want, have);
	return 0;
}

static int check_cpuid_section(int kvm_fd, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct host host;
	uint32_t n;
	void *guest;
	int err = kvm_array(in, sec, sizeof(struct kvm_cpuid_entry2), KVM_CPUID_LIMIT, &guest, &n);

	if (err)
		return err;
	err = read_cpuid(kvm_fd, KVM_GET_SUPPORTED_CPUID, &host.supported);
	if (err) {
		ferry_stream_fail(in, err, "this host's KVM does not tell its CPUID: %s", strerror(-err));
	} else {
		host.shown = shown_cpuid(kvm_fd, host.supported);
		err = check_cpuid(&host, guest, n, in);
		free(host.shown);
		free(host.supported);
	}
	free(guest);
	return err;
}

static int check_vcpus(int kvm_fd, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct kvm_part part;
	const uint8_t *data;
	size_t len;
	int most, err = kvm_part(in, sec, &part, &data, &len);

	if (err)
		return err;
	most = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	if (most > 0 && part.count > (uint32_t)most)
		return ferry_stream_fail(in, -EOPNOTSUPP,
					 "the guest has %" PRIu32
					 " vCPUs, this host's KVM allows %d: choose another host",
					 part.count, most);
	return 0;
}

FERRY_API int ferry_kvm_check_needs(int kvm_fd, struct ferry_stream *in, const struct ferry_section *sec)
{
	switch (sec->id) {
	case FERRY_KVM_SECTION_NEED_CPUID:
		return check_cpuid_section(kvm_fd, in, sec);
	case FERRY_KVM_SECTION_NEED_VCPUS:
		return check_vcpus(kvm_fd, in, sec);
	default:
		return 1;
	}
}
