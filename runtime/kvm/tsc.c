/* SPDX-License-Identifier: MIT */
/*
 * Saves and restores the TSC of vCPUs. If the MSR is written with a value within a second of the fresh VM's
 * TSC, KVM may take that for an attempt to synchronise vCPUs, and the guest sees time go backwards. So if the
 * kernel has KVM_VCPU_TSC_OFFSET, all offsets are moved by the same distance, which keeps the vCPUs' TSCs
 * together:
 *
 *	tsc_shift = (TSC - offset at the source) + the time passed by kvmclock - (TSC - offset here)
 *
 * measured at vCPU 0. TSC and offset are in guest units, so a scaled TSC needs no extra step.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_int.h"

#define TSC_TOLERANCE_PPM 250 /* as much as NTP slews; KVM tolerates the same */

static bool tsc_offset(int fd, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};

	return ioctl(fd, request, &attr) == 0;
}

static uint64_t tsc_khz(int fd)
{
	int khz = ioctl(fd, KVM_GET_TSC_KHZ, 0);

	return khz > 0 ? (uint64_t)khz : 0;
}

int kvm_tsc_save(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *out)
{
	int fd = k->vcpus[vcpu];
	struct kvm_tsc tsc = { .khz = tsc_khz(fd) };

	tsc.has_offset = tsc_offset(fd, KVM_GET_DEVICE_ATTR, &tsc.offset);
	if (!kvm_read_msr(fd, KVM_MSR_TSC, &tsc.value))
		return ferry_stream_fail(out, -EIO, "KVM does not give the TSC of vCPU %" PRIu32, vcpu);
	return kvm_put(out, FERRY_KVM_SECTION_TSC, vcpu, 0, &tsc, sizeof(tsc));
}

static int set_khz(int fd, uint32_t vcpu, struct ferry_stream *in, uint64_t want)
{
	uint64_t have = tsc_khz(fd);
	uint64_t off = want > have ? want - have : have - want;

	if (!want || !have ||
	    off <= have / 1000000 * TSC_TOLERANCE_PPM + have % 1000000 * TSC_TOLERANCE_PPM / 1000000)
		return 0;
	if (ioctl(fd, KVM_SET_TSC_KHZ, (unsigned long)want) == 0)
		return 0;
	return ferry_stream_fail(in, -EOPNOTSUPP,
				 "the TSC of vCPU %" PRIu32 " runs at %" PRIu64
				 " kHz, here it would at %" PRIu64
				 " and cannot be scaled: choose a host with the same, or with TSC scaling",
				 vcpu, want, have);
}

/* Measure at vCPU 0 how far the hosts' TSCs are apart, in guest units. */
static bool measure(struct ferry_kvm *k, const struct kvm_tsc *src)
{
	struct kvm_clock_data now = { 0 };
	uint64_t tsc, offset, passed = 0;

	if (!kvm_read_msr(k->vcpus[0], KVM_MSR_TSC, &tsc) ||
	    !tsc_offset(k->vcpus[0], KVM_GET_DEVICE_ATTR, &offset))
		return false;
	if (ioctl(k->vm_fd, KVM_GET_CLOCK, &now) == 0 && now.clock > k->clock_ns)
		passed = now.clock - k->clock_ns;
	k->tsc_shift = (src->value - src->offset) +
		       (uint64_t)((unsigned __int128)passed * src->khz / 1000000) - (tsc - offset);
	return true;
}

int kvm_tsc_load(struct ferry_kvm *k, uint32_t vcpu, struct ferry_stream *in, const struct kvm_tsc *src)
{
	uint64_t offset;
	int err = set_khz(k->vcpus[vcpu], vcpu, in, src->khz);

	if (err)
		return err;
	if (src->has_offset && (vcpu || measure(k, src))) {
		offset = src->offset + k->tsc_shift;
		if (tsc_offset(k->vcpus[vcpu], KVM_SET_DEVICE_ATTR, &offset))
			return 0;
	}
	if (!kvm_write_msr(k->vcpus[vcpu], KVM_MSR_TSC, src->value))
		return ferry_stream_fail(in, -EOPNOTSUPP, "this host's KVM refuses the TSC of vCPU %" PRIu32,
					 vcpu);
	return 0;
}
