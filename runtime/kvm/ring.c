/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty rings for ferry's dirty ops, if the VMM has enabled them before it created the vCPUs.
 *
 * Theory. KVM notes each page that a vCPU writes at the end of that vCPU's ring, once; the page is then
 * writable until KVM protects it again. An entry is free, DIRTY (noted by KVM) or RESET (collected by us).
 *
 *	collect: set the bits of all DIRTY entries in the slots' bitmaps and mark these entries RESET
 *	reset: KVM_RESET_DIRTY_RINGS protects the pages of all RESET entries again and frees the entries
 *	hand out: OR a slot's bitmap into the caller's and clear it
 *
 * Invariant while the lock is free: the page of every collected entry is protected again, or its bit is set.
 * So no write is lost. A write before the reset is to a page whose bit is set, and the page is read after the
 * fetch that hands the bit out; a write after the reset makes a new entry.
 *
 * Threads. The thread of the ops starts, stops and fetches (collect, reset, hand out). A vCPU whose ring is
 * nearly full leaves the guest, and its thread calls ferry_kvm_ring_full() (collect, reset). It does so for
 * all rings: one reset, which stops every vCPU for a moment, then serves all. The lock serialises them.
 *
 * The last fetch neither resets nor clears, which saves downtime: the invariant then holds by the bits. The
 * next reset (of a fetch, of a full ring, of dirty_stop) is for these entries, too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "kvm_int.h"
#include "runtime/base/api.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL /* linux/kvm.h, Linux 6.1 */
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef MADV_POPULATE_WRITE /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

#define ENTRIES_DEFAULT 65536u
#define ENTRIES_MIN ((uint32_t)(KVM_PAGE_SIZE / sizeof(struct kvm_dirty_gfn)))
#define GROUP_WORDS 64u /* words of a bitmap per bit of groups */
#define GROUP_PAGES (64 * GROUP_WORDS)

/* --- enabling and mapping --- */

#if defined(__x86_64__)
/* The capability that this KVM has, and the largest ring in bytes; 0: it has none. */
static size_t largest_ring(int vm_fd, uint32_t *cap)
{
	static const uint32_t caps[] = { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING };

	for (size_t i = 0; i < sizeof(caps) / sizeof(*caps); i++) {
		int max = ioctl(vm_fd, KVM_CHECK_EXTENSION, caps[i]);

		if (max <= 0)
			continue;
		*cap = caps[i];
		return (size_t)max;
	}
	return 0;
}
#endif

FERRY_API int ferry_kvm_ring_enable(int vm_fd, uint32_t entries)
{
#if !defined(__x86_64__)
	(void)vm_fd, (void)entries;
	return -EOPNOTSUPP;
#else
	struct kvm_enable_cap enable = { 0 };
	size_t max = largest_ring(vm_fd, &enable.cap);

	/* Without MADV_POPULATE_WRITE find_size() cannot work. */
	if (!max || madvise(NULL, 0, MADV_POPULATE_WRITE) < 0)
		return -EOPNOTSUPP;
	if (!entries)
		entries = ENTRIES_DEFAULT;
	if (entries & (entries - 1) || entries < ENTRIES_MIN || entries > max / sizeof(struct kvm_dirty_gfn))
		return -EINVAL;
	enable.args[0] = entries * sizeof(struct kvm_dirty_gfn);
	return ioctl(vm_fd, KVM_ENABLE_CAP, &enable) < 0 ? -errno : 0;
#endif
}

#if defined(__x86_64__)
static void *map_ring(int vcpu_fd, size_t bytes)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
		    (off_t)(KVM_DIRTY_LOG_PAGE_OFFSET * KVM_PAGE_SIZE));
}

/* 1: yes; 0: the page is behind the ring, and an access would raise SIGBUS; or a negative errno. */
static int can_touch(void *ring, size_t page)
{
	if (madvise((uint8_t *)ring + page * KVM_PAGE_SIZE, KVM_PAGE_SIZE, MADV_POPULATE_WRITE) == 0)
		return 1;
	return errno == EFAULT ? 0 : -errno;
}

/* KVM does not tell the size of the rings: a power of two of pages, and the page behind it cannot be touched. */
static int find_size(struct ferry_kvm *k, size_t max)
{
	void *ring = map_ring(k->vcpus[0], max);
	size_t pages = 0;
	int can;

	if (ring == MAP_FAILED)
		return -errno;
	while ((can = can_touch(ring, pages)) > 0) {
		pages = pages ? 2 * pages : 1;
		if (pages == max / KVM_PAGE_SIZE)
			break;
	}
	munmap(ring, max);
	k->entries = (uint32_t)(pages * ENTRIES_MIN);
	return can < 0 ? can : pages ? 0 : -EOPNOTSUPP;
}

static int map_rings(struct ferry_kvm *k)
{
	size_t bytes = k->entries * sizeof(struct kvm_dirty_gfn);

	k->rings = calloc(k->nvcpus, sizeof(*k->rings));
	if (!k->rings)
		return -ENOMEM;
	for (size_t i = 0; i < k->nvcpus; i++) {
		void *ring = map_ring(k->vcpus[i], bytes);

		if (ring == MAP_FAILED)
			return -errno;
		k->rings[i].entries = ring;
		if (madvise(ring, bytes, MADV_POPULATE_WRITE) < 0) /* so that no fetch has to fault */
			return -errno;
	}
	return 0;
}
#endif

int kvm_rings_open(struct ferry_kvm *k)
{
#if !defined(__x86_64__)
	(void)k;
	return 0;
#else
	uint32_t cap;
	size_t max = largest_ring(k->vm_fd, &cap);
	int err;

	/* KVM refuses this for a VM without rings. It also frees what an earlier owner of them has collected. */
	if (!max || ioctl(k->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0)
		return 0;
	err = find_size(k, max);
	if (!err)
		err = map_rings(k);
	if (err)
		kvm_rings_close(k);
	return err;
#endif
}

void kvm_rings_close(struct ferry_kvm *k)
{
	for (size_t i = 0; k->rings && i < k->nvcpus; i++)
		if (k->rings[i].entries)
			munmap(k->rings[i].entries, k->entries * sizeof(struct kvm_dirty_gfn));
	free(k->rings);
	k->rings = NULL;
}

/* --- collect --- */

static bool is_dirty(const struct kvm_ring *r, uint32_t i)
{
	return __atomic_load_n(&r->entries[i].flags, __ATOMIC_ACQUIRE) == KVM_DIRTY_GFN_F_DIRTY;
}

static bool is_reset(const struct kvm_ring *r, uint32_t i)
{
	return __atomic_load_n(&r->entries[i].flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET;
}

/*
 * KVM does not tell where a ring begins: a vCPU may have run for long before this object existed. The dirty
 * entries follow each other, KVM only appends to them, and it never fills the whole ring: so from any of them
 * the way back leads to the first. False: there is none yet.
 */
static bool find_next(const struct ferry_kvm *k, struct kvm_ring *r)
{
	uint32_t i = 0, last = k->entries - 1;

	while (!is_dirty(r, i))
		if (i++ == last)
			return false;
	for (uint32_t n = last; n && is_dirty(r, (i - 1) & last); n--)
		i = (i - 1) & last;
	r->next = i;
	r->found = true;
	return true;
}

static struct kvm_slot *find_slot(struct ferry_kvm *k, uint32_t number)
{
	size_t from = 0, to = k->nslots;

	while (from < to) {
		size_t mid = (from + to) / 2;

		if (k->slots[mid].as.slot < number)
			from = mid + 1;
		else
			to = mid;
	}
	return from < k->nslots && k->slots[from].as.slot == number ? &k->slots[from] : NULL;
}

/* False: the page is in no slot of ours. The VMM may log slots of its own, such as a screen's. */
static bool note_page(struct kvm_slot *s, uint64_t page)
{
	if (!s || page >= kvm_slot_pages(s))
		return false;
	s->bits[page / 64] |= UINT64_C(1) << (page % 64);
	s->groups[page / GROUP_PAGES / 64] |= UINT64_C(1) << (page / GROUP_PAGES % 64);
	return true;
}

static void collect_ring(struct ferry_kvm *k, struct kvm_ring *r)
{
	struct kvm_slot *s = NULL;

	if (!r->found && !find_next(k, r))
		return;
	for (; is_dirty(r, r->next); r->next = (r->next + 1) & (k->entries - 1)) {
		struct kvm_dirty_gfn *e = &r->entries[r->next];

		if (!s || s->as.slot != e->slot)
			s = find_slot(k, e->slot);
		r->pages += note_page(s, e->offset);
		__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		k->owed = true;
	}
}

static void collect(struct ferry_kvm *k)
{
	for (size_t i = 0; i < k->nvcpus; i++)
		collect_ring(k, &k->rings[i]);
}

/* --- reset --- */

/* KVM frees the entries of a ring in their order. */
static bool is_owed(const struct ferry_kvm *k)
{
	for (size_t i = 0; i < k->nvcpus; i++)
		if (k->rings[i].found && is_reset(&k->rings[i], (k->rings[i].next - 1) & (k->entries - 1)))
			return true;
	return false;
}

/* A signal makes KVM return before it has reset all of them (since Linux 6.17), and it does not say so. */
static int reset(struct ferry_kvm *k)
{
	while (k->owed) {
		if (ioctl(k->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0 && errno != EINTR)
			return -errno;
		k->owed = is_owed(k);
	}
	return 0;
}

/* --- hand out --- */

/*
 * Adds the collected bits of the slot to bits (NULL: drops them); clear: forgets them. Looks only at the groups
 * of 4096 pages that are marked in s->groups.
 */
static void hand_out(struct kvm_slot *s, uint64_t *bits, bool clear)
{
	uint64_t npages = kvm_slot_pages(s);

	for (uint64_t i = 0; i < (npages + 64 * GROUP_PAGES - 1) / (64 * GROUP_PAGES); i++) {
		for (uint64_t left = s->groups[i]; left; left &= left - 1) {
			uint64_t first = (64 * i + (unsigned)__builtin_ctzll(left)) * GROUP_PAGES;
			uint64_t n = npages - first < GROUP_PAGES ? npages - first : GROUP_PAGES;

			if (bits)
				kvm_bits_merge(bits, s->as.first_page + first, s->bits + first / 64, n);
			if (clear)
				memset(s->bits + first / 64, 0, kvm_bitmap_words(n) * sizeof(*s->bits));
		}
		if (clear)
			s->groups[i] = 0;
	}
}

/* --- the ops --- */

static int drop_all(struct ferry_kvm *k)
{
	int err;

	collect(k);
	err = reset(k);
	for (size_t i = 0; i < k->nslots; i++)
		hand_out(&k->slots[i], NULL, true);
	return err;
}

int kvm_rings_begin(struct ferry_kvm *k)
{
	int err;

	pthread_mutex_lock(&k->lock);
	err = drop_all(k);
	for (size_t i = 0; i < k->nvcpus; i++)
		k->rings[i].pages = 0;
	pthread_mutex_unlock(&k->lock);
	return err;
}

int kvm_rings_end(struct ferry_kvm *k)
{
	int err;

	pthread_mutex_lock(&k->lock);
	err = drop_all(k);
	pthread_mutex_unlock(&k->lock);
	return err;
}

int kvm_rings_fetch(struct ferry_kvm *k, uint32_t region, uint64_t *bits, unsigned flags)
{
	bool last = flags & FERRY_DIRTY_LAST;
	int err = 0;

	pthread_mutex_lock(&k->lock);
	collect(k);
	if (!last)
		err = reset(k);
	for (size_t i = 0; !err && i < k->nslots; i++)
		if (k->slots[i].as.region == region)
			hand_out(&k->slots[i], bits, !last);
	pthread_mutex_unlock(&k->lock);
	return err;
}

FERRY_API int ferry_kvm_ring_full(struct ferry_kvm *k)
{
	int err;

	if (!k->rings)
		return -EINVAL;
	pthread_mutex_lock(&k->lock);
	collect(k);
	err = reset(k);
	pthread_mutex_unlock(&k->lock);
	return err;
}

FERRY_API int ferry_kvm_dirty_counts(struct ferry_kvm *k, uint64_t *pages, size_t n)
{
	if (!k->rings)
		return -EOPNOTSUPP;
	if (n != k->nvcpus)
		return -EINVAL;
	pthread_mutex_lock(&k->lock);
	for (size_t i = 0; i < n; i++)
		pages[i] = k->rings[i].pages;
	pthread_mutex_unlock(&k->lock);
	return 0;
}
