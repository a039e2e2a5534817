/* SPDX-License-Identifier: MIT */
/*
 * The object with its slots, and KVM's dirty log for ferry's dirty ops; ring.c has the rings.
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

FERRY_API int ferry_kvm_new(struct ferry_kvm **ret, int kvm_fd, int vm_fd, const int *vcpu_fds, size_t n)
{
#if !defined(__x86_64__)
	(void)ret, (void)kvm_fd, (void)vm_fd, (void)vcpu_fds, (void)n;
	return -EOPNOTSUPP;
#else
	struct ferry_kvm *k;
	int err = -ENOMEM;

	if (!ret || kvm_fd < 0 || vm_fd < 0 || !vcpu_fds || n < 1 || n > KVM_VCPUS_LIMIT)
		return -EINVAL;
	k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	pthread_mutex_init(&k->lock, NULL);
	k->kvm_fd = kvm_fd;
	k->vm_fd = vm_fd;
	k->nvcpus = n;
	k->vcpus = malloc(n * sizeof(*k->vcpus));
	k->loaded = calloc(n, sizeof(*k->loaded));
	if (k->vcpus && k->loaded) {
		memcpy(k->vcpus, vcpu_fds, n * sizeof(*k->vcpus));
		err = kvm_rings_open(k);
	}
	if (err) {
		ferry_kvm_free(k);
		return err;
	}
	*ret = k;
	return 0;
#endif
}

FERRY_API void ferry_kvm_free(struct ferry_kvm *k)
{
	if (!k)
		return;
	ferry_kvm_dirty_stop(k);
	kvm_rings_close(k);
	for (size_t i = 0; i < k->nslots; i++) {
		free(k->slots[i].bits);
		free(k->slots[i].groups);
	}
	free(k->slots);
	free(k->vcpus);
	free(k->loaded);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static int check_slot(const struct ferry_kvm *k, const struct ferry_kvm_slot *slot)
{
	if (!slot || slot->size < sizeof(*slot))
		return -EINVAL;
	if (!slot->len || !slot->hva || (slot->len | slot->gpa | (uintptr_t)slot->hva) & (KVM_PAGE_SIZE - 1))
		return -EINVAL;
	if (slot->gpa + slot->len < slot->gpa ||
	    slot->first_page + (slot->len >> KVM_PAGE_SHIFT) < slot->first_page)
		return -EINVAL;
	for (size_t i = 0; i < k->nslots; i++)
		if (k->slots[i].as.slot == slot->slot)
			return -EINVAL;
	return k->logging ? -EBUSY : 0;
}

static int insert_slot(struct ferry_kvm *k, const struct kvm_slot *s)
{
	struct kvm_slot *slots = realloc(k->slots, (k->nslots + 1) * sizeof(*slots));
	size_t i = k->nslots;

	if (!slots)
		return -ENOMEM;
	for (; i && slots[i - 1].as.slot > s->as.slot; i--)
		slots[i] = slots[i - 1];
	slots[i] = *s;
	k->slots = slots;
	k->nslots++;
	return 0;
}

FERRY_API int ferry_kvm_add_slot(struct ferry_kvm *k, const struct ferry_kvm_slot *slot)
{
	struct kvm_slot s = { 0 };
	int err = check_slot(k, slot);

	if (err)
		return err;
	s.as = *slot;
	s.as.flags &= ~(uint32_t)KVM_MEM_LOG_DIRTY_PAGES;
	s.bits = calloc(kvm_bitmap_words(kvm_slot_pages(&s)), sizeof(*s.bits));
	s.groups = calloc(kvm_bitmap_words(kvm_bitmap_words(kvm_bitmap_words(kvm_slot_pages(&s)))),
			  sizeof(*s.groups));
	pthread_mutex_lock(&k->lock);
	err = s.bits && s.groups ? insert_slot(k, &s) : -ENOMEM;
	pthread_mutex_unlock(&k->lock);
	if (err) {
		free(s.bits);
		free(s.groups);
	}
	return err;
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

/* Clear and protect the pages of the slot's bitmap, in slices, so that vCPUs get the MMU lock in between. */
static int clear_log(struct ferry_kvm *k, const struct kvm_slot *s)
{
	uint64_t npages = kvm_slot_pages(s);

	for (uint64_t first = 0; first < npages; first += SLICE_PAGES) {
		uint64_t n = npages - first < SLICE_PAGES ? npages - first : SLICE_PAGES;
		struct kvm_clear_dirty_log clear = {
			.slot = s->as.slot,
			.num_pages = (uint32_t)n,
			.first_page = first,
			.dirty_bitmap = s->bits + first / 64,
		};

		if (!any_set(s->bits + first / 64, kvm_bitmap_words(n)))
			continue;
		if (ioctl(k->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
			return -errno;
	}
	return 0;
}

static int get_log(struct ferry_kvm *k, const struct kvm_slot *s)
{
	struct kvm_dirty_log get = { .slot = s->as.slot, .dirty_bitmap = s->bits };

	return ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0 ? -errno : 0;
}

static int begin_log(struct ferry_kvm *k)
{
	int has = ioctl(k->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	if (has > 0 && has & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)
		return enable_manual(k, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
	return 0;
}

FERRY_API int ferry_kvm_dirty_start(struct ferry_kvm *k)
{
	int err;

	if (k->logging)
		return 0;
	err = k->rings ? kvm_rings_begin(k) : begin_log(k);
	k->logging = true; /* set now, so that dirty_stop undoes a partial start */
	for (size_t i = 0; !err && i < k->nslots; i++)
		err = set_logging(k, &k->slots[i].as, true);
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
		err = set_logging(k, &k->slots[i].as, false);
		if (err && !first)
			first = err;
	}
	err = k->rings ? kvm_rings_end(k) : k->manual ? enable_manual(k, 0) : 0;
	if (err && !first)
		first = err;
	k->logging = false;
	return first;
}

void kvm_bits_merge(uint64_t *into, uint64_t first, const uint64_t *bits, uint64_t npages)
{
	static const uint64_t zeros[8];
	unsigned shift = first % 64;

	into += first / 64;
	for (uint64_t done = 0; done < npages; done += 64, into++) {
		uint64_t word;

		while (npages - done > 512 && !memcmp(bits, zeros, sizeof(zeros))) {
			bits += 8;
			into += 8;
			done += 512;
		}
		word = *bits++;
		if (npages - done < 64)
			word &= (UINT64_C(1) << (npages - done)) - 1;
		if (!word)
			continue;
		into[0] |= word << shift;
		if (shift && word >> (64 - shift))
			into[1] |= word >> (64 - shift);
	}
}

static int fetch_log(struct ferry_kvm *k, const struct kvm_slot *s, uint64_t *bits, unsigned flags)
{
	int err = get_log(k, s);

	if (err)
		return err;
	kvm_bits_merge(bits, s->as.first_page, s->bits, kvm_slot_pages(s));
	if (!k->manual || flags & FERRY_DIRTY_LAST)
		return 0;
	return clear_log(k, s);
}

/* Whether the region has slots, and all of them lie within its npages. */
static bool region_fits(const struct ferry_kvm *k, uint32_t region, uint64_t npages)
{
	bool found = false;

	for (size_t i = 0; i < k->nslots; i++) {
		const struct kvm_slot *s = &k->slots[i];

		if (s->as.region != region)
			continue;
		found = true;
		if (s->as.first_page > npages || kvm_slot_pages(s) > npages - s->as.first_page)
			return false;
	}
	return found;
}

FERRY_API int ferry_kvm_dirty_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, uint64_t npages,
				    unsigned flags)
{
	int err = 0;

	if (!k->logging || !region_fits(k, region, npages))
		return -EINVAL;
	if (k->rings)
		return kvm_rings_fetch(k, region, bits, flags);
	for (size_t i = 0; !err && i < k->nslots; i++)
		if (k->slots[i].as.region == region)
			err = fetch_log(k, &k->slots[i], bits, flags);
	return err;
}
