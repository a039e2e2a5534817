/* SPDX-License-Identifier: MIT */
/*
 * Restores the state that save.c writes (the theory is there). Takes the sections one by one and checks
 * version, length, vCPU and order before it passes them to KVM.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_int.h"
#include "runtime/base/api.h"

#define VCPU_TSC_BIT 31u /* in ferry_kvm.loaded: the TSC is per vCPU, but comes after the VM's sections */

static const struct kvm_plain *find_plain(uint32_t id)
{
	for (int i = 0; i < KVM_PLAINS; i++)
		if (kvm_plains[i].id == id)
			return &kvm_plains[i];
	return NULL;
}

static int refused(struct ferry_stream *in, const char *what, uint32_t vcpu, int err)
{
	return ferry_stream_fail(in, -EOPNOTSUPP, "this host's KVM refuses the %s of vCPU %" PRIu32 ": %s",
				 what, vcpu, strerror(-err));
}

static int load_plain(int fd, uint32_t vcpu, const struct kvm_plain *p, struct ferry_stream *in,
		      const uint8_t *data, size_t len)
{
	uint64_t buf[KVM_PLAIN_MAX / 8];

	if (len != p->size)
		return ferry_stream_fail(in, -EPROTO,
					 "the %s of vCPU %" PRIu32 " has %zu bytes instead of %zu", p->name,
					 vcpu, len, p->size);
	memcpy(buf, data, len);
	return ioctl(fd, p->set, buf) < 0 ? refused(in, p->name, vcpu, -errno) : 0;
}

/* CPUID bits that KVM derives itself from CR4, XCR0 and the APIC base. */
static const struct kvm_cpuid_entry2 derived[] = {
	{ .function = 0x1, .ecx = 1u << 27, .edx = 1u << 9 }, /* OSXSAVE; APIC */
	{ .function = 0x7, .ecx = 1u << 4 },		      /* OSPKE */
	{ .function = 0xd, .index = 0, .ebx = ~0u },	      /* size of the state that XCR0 enables */
	{ .function = 0xd, .index = 1, .ebx = ~0u },
};

static bool same_leaf(const struct kvm_cpuid_entry2 *a, const struct kvm_cpuid_entry2 *b)
{
	struct kvm_cpuid_entry2 but = { 0 };

	for (size_t i = 0; i < sizeof(derived) / sizeof(*derived); i++)
		if (derived[i].function == a->function && derived[i].index == a->index)
			but = derived[i];
	return a->function == b->function && a->index == b->index && a->flags == b->flags &&
	       a->eax == b->eax && !((a->ebx ^ b->ebx) & ~but.ebx) && !((a->ecx ^ b->ecx) & ~but.ecx) &&
	       !((a->edx ^ b->edx) & ~but.edx);
}

/*
 * Whether the vCPU has this CPUID already: most VMMs set it when they create a vCPU. Setting it again makes
 * KVM reset its MMU, 70 to 110 us of downtime per vCPU; asking takes about 20.
 */
static bool has_cpuid(int vcpu_fd, const struct kvm_cpuid2 *cpuid)
{
	struct kvm_cpuid2 *have;
	bool same;

	if (kvm_get_cpuid(vcpu_fd, &have))
		return false;
	same = have->nent == cpuid->nent;
	for (uint32_t i = 0; same && i < cpuid->nent; i++)
		same = same_leaf(&have->entries[i], &cpuid->entries[i]);
	free(have);
	return same;
}

static int load_cpuid(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in,
		      const struct ferry_section *sec)
{
	struct kvm_cpuid2 *cpuid;
	uint32_t n;
	void *entries;
	int err = kvm_array(in, sec, sizeof(*cpuid->entries), KVM_CPUID_LIMIT, &entries, &n);

	if (err)
		return err;
	cpuid = calloc(1, sizeof(*cpuid) + n * sizeof(*cpuid->entries));
	if (!cpuid) {
		err = ferry_stream_fail(in, -ENOMEM, "no memory for %" PRIu32 " CPUID leaves", n);
	} else {
		cpuid->nent = n;
		memcpy(cpuid->entries, entries, n * sizeof(*cpuid->entries));
		if (!has_cpuid(k->vcpus[vcpu], cpuid) && ioctl(k->vcpus[vcpu], KVM_SET_CPUID2, cpuid) < 0)
			err = refused(in, "CPUID", vcpu, -errno);
	}
	free(cpuid);
	free(entries);
	return err;
}

static int load_xsave(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in, const uint8_t *data,
		      size_t len)
{
	size_t size = kvm_xsave_size(k);
	void *area;
	int err = 0;

	if (len < sizeof(struct kvm_xsave) || len > size)
		return ferry_stream_fail(in, len > size ? -EOPNOTSUPP : -EPROTO,
					 "the xsave area of vCPU %" PRIu32
					 " has %zu bytes, this host takes %zu to %zu",
					 vcpu, len, sizeof(struct kvm_xsave), size);
	area = calloc(1, size);
	if (!area)
		return ferry_stream_fail(in, -ENOMEM, "no memory for an xsave area of %zu bytes", size);
	memcpy(area, data, len);
	if (ioctl(k->vcpus[vcpu], KVM_SET_XSAVE, area) < 0)
		err = refused(in, "xsave area", vcpu, -errno);
	free(area);
	return err;
}

static int write_all_msrs(int vcpu_fd, uint32_t vcpu, struct ferry_stream *in, const struct kvm_msr_entry *e,
			  uint32_t n)
{
	uint32_t done = 0;

	while (done < n) {
		int got = kvm_write_msrs(vcpu_fd, e + done, n - done);
		uint64_t value;

		if (got < 0)
			return ferry_stream_fail(in, got, "no memory for %" PRIu32 " MSRs", n);
		done += (uint32_t)got;
		if (done == n)
			break;
		if (!kvm_read_msr(vcpu_fd, e[done].index, &value) || value != e[done].data)
			return ferry_stream_fail(in, -EOPNOTSUPP,
						 "this host's KVM refuses MSR 0x%" PRIx32 " = 0x%" PRIx64
						 " of vCPU %" PRIu32,
						 e[done].index, (uint64_t)e[done].data, vcpu);
		done++; /* it holds that value already */
	}
	return 0;
}

static int load_msrs(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in,
		     const struct ferry_section *sec)
{
	uint32_t n;
	void *entries;
	int err = kvm_array(in, sec, sizeof(struct kvm_msr_entry), KVM_MSRS_LIMIT, &entries, &n);

	if (err)
		return err;
	err = write_all_msrs(k->vcpus[vcpu], vcpu, in, entries, n);
	free(entries);
	return err;
}

static int load_irqchip(struct ferry_kvm *k, uint32_t chip, struct ferry_stream *in, const uint8_t *data,
			size_t len)
{
	struct kvm_irqchip state;

	if (len != sizeof(state) || chip >= KVM_NR_IRQCHIPS || k->loaded_chips & 1u << chip)
		return ferry_stream_fail(in, -EPROTO,
					 "irqchip %" PRIu32 " of %zu bytes does not fit, or came twice", chip,
					 len);
	k->loaded_chips |= 1u << chip;
	memcpy(&state, data, sizeof(state));
	state.chip_id = chip;
	if (ioctl(k->vm_fd, KVM_SET_IRQCHIP, &state) < 0)
		return ferry_stream_fail(in, -EOPNOTSUPP, "this host's KVM refuses irqchip %" PRIu32 ": %s",
					 chip, strerror(errno));
	return 0;
}

static int load_clock(struct ferry_kvm *k, struct ferry_stream *in, const uint8_t *data, size_t len)
{
	int can = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK);
	struct kvm_clock_data src, set = { 0 };

	if (len != sizeof(src))
		return ferry_stream_fail(in, -EPROTO, "the VM's clock has %zu bytes instead of %zu", len,
					 sizeof(src));
	memcpy(&src, data, sizeof(src));
	set.clock = src.clock;
	/* Given the wall-clock time of the save, KVM adds the time that has passed since. */
	if (can > 0 && (unsigned)can & src.flags & KVM_CLOCK_REALTIME) {
		set.flags = KVM_CLOCK_REALTIME;
		set.realtime = src.realtime;
	}
	if (ioctl(k->vm_fd, KVM_SET_CLOCK, &set) < 0)
		return ferry_stream_fail(in, -EOPNOTSUPP, "this host's KVM refuses the VM's clock: %s",
					 strerror(errno));
	k->clock_ns = src.clock;
	return 0;
}

static int load_tsc(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in, const uint8_t *data,
		    size_t len)
{
	struct kvm_tsc tsc;

	if (len != sizeof(tsc))
		return ferry_stream_fail(in, -EPROTO,
					 "the TSC of vCPU %" PRIu32 " has %zu bytes instead of %zu", vcpu,
					 len, sizeof(tsc));
	if (!(k->loaded_vm & 1u << (FERRY_KVM_SECTION_CLOCK & 31)))
		return ferry_stream_fail(in, -EPROTO,
					 "the TSC of vCPU %" PRIu32 " came before the VM's clock", vcpu);
	memcpy(&tsc, data, sizeof(tsc));
	return kvm_tsc_load(k, vcpu, in, &tsc);
}

static bool is_vm_section(uint32_t id)
{
	return id >= FERRY_KVM_SECTION_IRQCHIP && id < FERRY_KVM_SECTION_TSC;
}

/* Each section may come once, and not after a later one. */
static int check_order(struct ferry_kvm *k, struct ferry_stream *in, uint32_t id, uint32_t vcpu)
{
	uint32_t *loaded, bit = id == FERRY_KVM_SECTION_TSC ? VCPU_TSC_BIT : id & 31;

	if (vcpu >= k->nvcpus)
		return ferry_stream_fail(in, -EPROTO,
					 "KVM section 0x%" PRIx32 " is for vCPU %" PRIu32 " of %zu", id, vcpu,
					 k->nvcpus);
	loaded = is_vm_section(id) ? &k->loaded_vm : &k->loaded[vcpu];
	if (*loaded >> bit && !(id == FERRY_KVM_SECTION_IRQCHIP && *loaded >> bit == 1))
		return ferry_stream_fail(in, -EPROTO,
					 "KVM section 0x%" PRIx32 " of vCPU %" PRIu32
					 " is out of order or came twice",
					 id, vcpu);
	*loaded |= UINT32_C(1) << bit;
	return 0;
}

static int load_section(struct ferry_kvm *k, struct ferry_stream *in, const struct ferry_section *sec,
			const struct kvm_part *part, const uint8_t *data, size_t len)
{
	const struct kvm_plain *p = find_plain(sec->id);

	if (p)
		return load_plain(is_vm_section(p->id) ? k->vm_fd : k->vcpus[part->vcpu], part->vcpu, p, in,
				  data, len);
	switch (sec->id) {
	case FERRY_KVM_SECTION_CPUID:
		return load_cpuid(k, part->vcpu, in, sec);
	case FERRY_KVM_SECTION_XSAVE:
		return load_xsave(k, part->vcpu, in, data, len);
	case FERRY_KVM_SECTION_MSRS:
	case FERRY_KVM_SECTION_MSRS_LATE:
		return load_msrs(k, part->vcpu, in, sec);
	case FERRY_KVM_SECTION_IRQCHIP:
		return load_irqchip(k, part->count, in, data, len);
	case FERRY_KVM_SECTION_CLOCK:
		return load_clock(k, in, data, len);
	default:
		return load_tsc(k, part->vcpu, in, data, len);
	}
}

FERRY_API int ferry_kvm_load(struct ferry_kvm *k, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct kvm_part part;
	const uint8_t *data;
	size_t len;
	int err;

	if ((sec->id & 0xffff0000u) != FERRY_KVM_SECTIONS)
		return 1;
	err = kvm_part(in, sec, &part, &data, &len);
	if (err)
		return err;
	if (sec->id < FERRY_KVM_SECTION_CPUID || sec->id > FERRY_KVM_SECTION_TSC ||
	    (sec->id > FERRY_KVM_SECTION_MP_STATE && sec->id < FERRY_KVM_SECTION_IRQCHIP))
		return ferry_stream_fail(in, -EPROTO,
					 "KVM section 0x%" PRIx32 " is no state this library knows", sec->id);
	err = check_order(k, in, sec->id, part.vcpu);
	return err ? err : load_section(k, in, sec, &part, data, len);
}

FERRY_API int ferry_kvm_load_end(struct ferry_kvm *k, struct ferry_stream *in)
{
	const uint32_t regs = 1u << (FERRY_KVM_SECTION_CPUID & 31) | 1u << (FERRY_KVM_SECTION_MSRS & 31) |
			      1u << (FERRY_KVM_SECTION_REGS & 31) | 1u << VCPU_TSC_BIT;
	const uint32_t either = 1u << (FERRY_KVM_SECTION_SREGS & 31) | 1u << (FERRY_KVM_SECTION_SREGS2 & 31);

	for (size_t i = 0; i < k->nvcpus; i++)
		if ((k->loaded[i] & regs) != regs || !(k->loaded[i] & either))
			return ferry_stream_fail(in, -EPROTO,
						 "the state of vCPU %zu is not whole: sections 0x%08" PRIx32
						 " came",
						 i, k->loaded[i]);
	if (!(k->loaded_vm & 1u << (FERRY_KVM_SECTION_CLOCK & 31)))
		return ferry_stream_fail(in, -EPROTO, "the VM's clock did not come");
	return 0;
}
