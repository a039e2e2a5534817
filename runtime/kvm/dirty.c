/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty log for ferry's dirty ops.
 *
 * Theory. KVM keeps one bitmap per memslot. Two protocols:
 *
 *	classic: KVM_GET_DIRTY_LOG copies the bitmap, clears it and write-protects every page, in one call
 *	  under the MMU lock: milliseconds per GiB in which faulting vCPUs wait.
 *	manual (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): GET only copies; KVM_CLEAR_DIRTY_LOG clears and protects
 *	  the given pages, in slices. The last fetch needs no CLEAR at all.
 *
 * A write between GET and CLEAR is lost from the bitmap. But GET returned that page as dirty, and its content
 * is read only after the fetch, so nothing is missed.
 *
 * Enabling the log protects what the guest has mapped: 10 ms per GiB of small pages.
 * KVM_DIRTY_LOG_INITIALLY_SET would postpone that by starting with all bits set. But then the first CLEAR
 * must name every page of the slot, because a page whose bit is set is not logged again. That costs 2 ms per
 * GiB even where nothing was mapped, with the MMU lock held for writing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm_int.h"
#include "runtime/base/api.h"

#define SLICE_PAGES (UINT64_C(1) << 16) /* pages per CLEAR: 256 MiB, about 2 ms */

static uint64_t slot_pages(const struct ferry_kvm_slot *s)
{
	return s->len >> KVM_PAGE_SHIFT;
}

static size_t bitmap_words(uint64_t npages)
{
	return (npages + 63) / 64;
}

FERRY_API int ferry_kvm_new(struct ferry_kvm **ret, int kvm_fd, int vm_fd, const int *vcpu_fds, size_t n)
{
#if !defined(__x86_64__)
	(void)ret, (void)kvm_fd, (void)vm_fd, (void)vcpu_fds, (void)n;
	return -EOPNOTSUPP;
#else
	struct ferry_kvm *k;

	if (!ret || kvm_fd < 0 || vm_fd < 0 || !vcpu_fds || n < 1 || n > KVM_VCPUS_LIMIT)
		return -EINVAL;
	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	k->kvm_fd = kvm_fd;
	k->vm_fd = vm_fd;
	k->nvcpus = n;
	k->vcpus = malloc(n * sizeof(*k->vcpus));
	k->loaded = calloc(n, sizeof(*k->loaded));
	if (!k->vcpus || !k->loaded) {
		ferry_kvm_free(k);
		return -ENOMEM;
	}
	memcpy(k->vcpus, vcpu_fds, n * sizeof(*k->vcpus));
	*ret = k;
	return 0;
#endif
}

FERRY_API void ferry_kvm_free(struct ferry_kvm *k)
{
	if (!k)
		return;
	ferry_kvm_dirty_stop(k);
	for (size_t i = 0; i < k->nslots; i++)
		free(k->logs[i]);
	free(k->logs);
	free(k->slots);
	free(k->vcpus);
	free(k->loaded);
	free(k);
}

static int check_slot(const struct ferry_kvm *k, const struct ferry_kvm_slot *slot)
{
	if (!slot || slot->size < sizeof(*slot))
		return -EINVAL;
	if (!slot->len || !slot->hva || (slot->len | slot->gpa | (uintptr_t)slot->hva) & (KVM_PAGE_SIZE - 1))
		return -EINVAL;
	if (slot->gpa + slot->len < slot->gpa || slot->first_page + slot_pages(slot) < slot->first_page)
		return -EINVAL;
	for (size_t i = 0; i < k->nslots; i++)
		if (k->slots[i].slot == slot->slot)
			return -EINVAL;
	return k->logging ? -EBUSY : 0;
}

FERRY_API int ferry_kvm_add_slot(struct ferry_kvm *k, const struct ferry_kvm_slot *slot)
{
	struct ferry_kvm_slot *slots;
	uint64_t **logs, *log;
	int err = check_slot(k, slot);

	if (err)
		return err;
	slots = realloc(k->slots, (k->nslots + 1) * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	k->slots = slots;
	logs = realloc(k->logs, (k->nslots + 1) * sizeof(*logs));
	if (!logs)
		return -ENOMEM;
	k->logs = logs;
	log = calloc(bitmap_words(slot_pages(slot)), sizeof(*log));
	if (!log)
		return -ENOMEM;
	slots[k->nslots] = *slot;
	slots[k->nslots].flags &= ~(uint32_t)KVM_MEM_LOG_DIRTY_PAGES;
	logs[k->nslots++] = log;
	return 0;
}

static int enable_manual(struct ferry_kvm *k, uint64_t flags)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { flags } };

	if (ioctl(k->vm_fd, KVM_ENABLE_CAP, &cap) < 0)
		return -errno;
	k->manual = flags;
	return 0;
}

static int set_logging(struct ferry_kvm *k, const struct ferry_kvm_slot *s, bool on)
{
	struct kvm_userspace_memory_region mr = {
		.slot = s->slot,
		.flags = s->flags | (on ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = s->gpa,
		.memory_size = s->len,
		.userspace_addr = (uintptr_t)s->hva,
	};

	return ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &mr) < 0 ? -errno : 0;
}

static bool any_set(const uint64_t *bits, size_t words)
{
	for (size_t i = 0; i < words; i++)
		if (bits[i])
			return true;
	return false;
}

/* Clear and protect the pages of log, in slices, so that vCPUs get the MMU lock in between. */
static int clear_log(struct ferry_kvm *k, const struct ferry_kvm_slot *s, uint64_t *log)
{
	uint64_t npages = slot_pages(s);

	for (uint64_t first = 0; first < npages; first += SLICE_PAGES) {
		uint64_t n = npages - first < SLICE_PAGES ? npages - first : SLICE_PAGES;
		struct kvm_clear_dirty_log clear = {
			.slot = s->slot,
			.num_pages = (uint32_t)n,
			.first_page = first,
			.dirty_bitmap = log + first / 64,
		};

		if (!any_set(log + first / 64, bitmap_words(n)))
			continue;
		if (ioctl(k->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
			return -errno;
	}
	return 0;
}

static int get_log(struct ferry_kvm *k, const struct ferry_kvm_slot *s, uint64_t *log)
{
	struct kvm_dirty_log get = { .slot = s->slot, .dirty_bitmap = log };

	return ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0 ? -errno : 0;
}

FERRY_API int ferry_kvm_dirty_start(struct ferry_kvm *k)
{
	int has, err = 0;

	if (k->logging)
		return 0;
	has = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	if (has > 0 && has & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		err = enable_manual(k, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	k->logging = true; /* set now, so that dirty_stop undoes a partial start */
	for (size_t i = 0; !err && i < k->nslots; i++)
		err = set_logging(k, &k->slots[i], true);
	if (err)
		ferry_kvm_dirty_stop(k);
	return err;
}

FERRY_API int ferry_kvm_dirty_stop(struct ferry_kvm *k)
{
	int first = 0, err;

	if (!k->logging)
		return 0;
	for (size_t i = 0; i < k->nslots; i++) {
		err = set_logging(k, &k->slots[i], false);
		if (err && !first)
			first = err;
	}
	if (k->manual) {
		err = enable_manual(k, 0);
		if (err && !first)
			first = err;
	}
	k->logging = false;
	return first;
}

/* OR npages bits of log into bits, starting at bit `first`. */
static void merge(uint64_t *bits, uint64_t first, const uint64_t *log, uint64_t npages)
{
	static const uint64_t zeros[8];
	unsigned shift = first % 64;

	bits += first / 64;
	for (uint64_t done = 0; done < npages; done += 64, bits++) {
		uint64_t word;

		while (npages - done > 512 && !memcmp(log, zeros, sizeof(zeros))) {
			log += 8;
			bits += 8;
			done += 512;
		}
		word = *log++;
		if (npages - done < 64)
			word &= (UINT64_C(1) << (npages - done)) - 1;
		if (!word)
			continue;
		bits[0] |= word << shift;
		if (shift && word >> (64 - shift))
			bits[1] |= word >> (64 - shift);
	}
}

static int fetch_slot(struct ferry_kvm *k, size_t i, uint64_t *bits, uint64_t npages, unsigned flags)
{
	const struct ferry_kvm_slot *s = &k->slots[i];
	int err;

	if (s->first_page > npages || slot_pages(s) > npages - s->first_page)
		return -EINVAL;
	err = get_log(k, s, k->logs[i]);
	if (err)
		return err;
	merge(bits, s->first_page, k->logs[i], slot_pages(s));
	if (!k->manual || flags & FERRY_DIRTY_LAST)
		return 0;
	return clear_log(k, s, k->logs[i]);
}

FERRY_API int ferry_kvm_dirty_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, uint64_t npages,
				    unsigned flags)
{
	bool found = false;

	if (!k->logging)
		return -EINVAL;
	for (size_t i = 0; i < k->nslots; i++) {
		int err;

		if (k->slots[i].region != region)
			continue;
		found = true;
		err = fetch_slot(k, i, bits, npages, flags);
		if (err)
			return err;
	}
	return found ? 0 : -EINVAL;
}
