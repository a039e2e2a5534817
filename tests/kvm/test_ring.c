/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty rings: what is of them alone. test_kvm_state has what they have in common with the log, test_vmm real
 * guests, test_migrate and test_many whole migrations.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "plainvm.h"
#include "runtime/kvm/kvm_int.h"

/* What a vCPU that was created first, and everything else that KVM does not take, gets. */
Test(ring, a_request_that_cannot_be_met_is_refused)
{
	uint32_t smallest = plainvm_smallest_ring(), too_few = smallest ? smallest / 2 : 128;
	struct plainvm m;
	int vm;

	plainvm_new(&m);
	cr_expect_eq(ferry_kvm_ring_enable(m.vm, smallest), smallest ? -EINVAL : -EOPNOTSUPP);
	cr_expect_eq(ferry_kvm_ring_full(m.k), -EINVAL);
	cr_expect_eq(ferry_kvm_dirty_counts(m.k, (uint64_t[PLAINVM_VCPUS]){ 0 }, PLAINVM_VCPUS), -EOPNOTSUPP);
	vm = ioctl(m.kvm, KVM_CREATE_VM, 0);
	cr_expect_eq(ferry_kvm_ring_enable(m.kvm, 0), smallest ? -EINVAL : -EOPNOTSUPP);
	for (uint32_t entries = 1; entries <= too_few; entries *= 2)
		cr_expect_eq(ferry_kvm_ring_enable(vm, entries), smallest ? -EINVAL : -EOPNOTSUPP, "%u",
			     entries);
	cr_expect_eq(ferry_kvm_ring_enable(vm, 1000), smallest ? -EINVAL : -EOPNOTSUPP);
	cr_expect_eq(ferry_kvm_ring_enable(vm, 1u << 31), smallest ? -EINVAL : -EOPNOTSUPP);
	if (smallest) {
		cr_expect_eq(ferry_kvm_ring_enable(vm, 0), 0);
		cr_expect_eq(ferry_kvm_ring_enable(vm, 0), -EINVAL);
	}
	close(vm);
	plainvm_end(&m);
}

/* KVM does not tell the size of its rings; a wrong one would lose entries. */
Test(ring, its_size_is_found)
{
	for (uint32_t entries = plainvm_ring_or_skip(); entries <= 65536; entries *= 2) {
		struct plainvm m;

		plainvm_new_with(&m, PLAINVM_PAGES, entries);
		cr_expect_eq(m.k->entries, entries, "%u of %u", m.k->entries, entries);
		plainvm_end(&m);
	}
}

/* The pages of a ring that is full again and again are all returned by the one fetch, each counted once. */
Test(ring, a_full_ring_loses_nothing)
{
	uint32_t entries = plainvm_ring_or_skip();
	uint64_t n = 3 * (uint64_t)entries, counts[PLAINVM_VCPUS], *pages = calloc(n, sizeof(*pages)), set;
	struct plainvm m;

	plainvm_new_with(&m, n + 2, entries);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	for (uint64_t i = 0; i < n; i++) {
		pages[i] = 1 + i;
		plainvm_write(&m, 0, pages[i]);
	}
	cr_expect_geq(m.full, 2, "the ring was full %llu times", (unsigned long long)m.full);
	set = plainvm_expect(&m, pages, n, 0);
	plainvm_expect(&m, NULL, 0, 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect_eq(counts[0], set, "%llu entries, %llu pages", (unsigned long long)counts[0],
		     (unsigned long long)set);
	cr_expect_eq(counts[1], 0);
	free(pages);
	plainvm_end(&m);
}

/* A page that was collected because a ring was full, and is written again, is returned once more. */
Test(ring, a_page_written_after_a_full_ring_is_dirty_again)
{
	struct plainvm m;

	plainvm_new_with(&m, PLAINVM_PAGES, plainvm_ring_or_skip());
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	plainvm_write(&m, 0, 90);
	cr_assert_eq(ferry_kvm_ring_full(m.k), 0);
	plainvm_write(&m, 1, 110);
	cr_assert_eq(ferry_kvm_ring_full(m.k), 0);
	plainvm_expect(&m, (uint64_t[]){ 90, 110 }, 2, 0);
	plainvm_write(&m, 0, 90);
	plainvm_expect(&m, (uint64_t[]){ 90 }, 1, 0);
	/* after a last fetch, too */
	plainvm_write(&m, 1, 110);
	plainvm_expect(&m, (uint64_t[]){ 110 }, 1, FERRY_DIRTY_LAST);
	cr_assert_eq(ferry_kvm_ring_full(m.k), 0);
	plainvm_write(&m, 1, 111);
	plainvm_expect(&m, (uint64_t[]){ 110, 111 }, 2, FERRY_DIRTY_LAST);
	plainvm_expect(&m, (uint64_t[]){ 110, 111 }, 2, 0);
	plainvm_expect(&m, NULL, 0, 0);
	plainvm_end(&m);
}

Test(ring, each_vcpu_counts_its_own)
{
	uint64_t counts[PLAINVM_VCPUS] = { 7, 7 }, set;
	struct plainvm m;

	plainvm_new_with(&m, PLAINVM_PAGES, plainvm_ring_or_skip());
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	plainvm_write(&m, 0, 20);
	plainvm_write(&m, 1, 120);
	plainvm_write(&m, 1, 121);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS - 1), -EINVAL);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect(!counts[0] && !counts[1], "they were not collected yet");
	set = plainvm_expect(&m, (uint64_t[]){ 20, 120, 121 }, 3, 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect_eq(counts[0] + counts[1], set);
	cr_expect_geq(counts[0], 1);
	cr_expect_geq(counts[1], 2);
	plainvm_write(&m, 1, 120);
	set += plainvm_expect(&m, (uint64_t[]){ 120 }, 1, 0);
	cr_assert_eq(ferry_kvm_dirty_stop(m.k), 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect_eq(counts[0] + counts[1], set);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect(!counts[0] && !counts[1], "they begin anew");
	plainvm_end(&m);
}

/* Where a ring goes on, only KVM knows. Each object begins at another place, and some behind the ring's end. */
Test(ring, a_later_object_goes_on_where_the_ring_is)
{
	uint32_t entries = plainvm_ring_or_skip();
	uint64_t n = entries / 3, *pages = calloc(n, sizeof(*pages));
	struct plainvm m;

	plainvm_new_with(&m, n + PLAINVM_CUT, entries);
	for (unsigned object = 0; object < 8; object++) {
		cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
		plainvm_expect(&m, NULL, 0, 0);
		for (uint64_t i = 0; i < n; i++) {
			pages[i] = n - i;
			plainvm_write(&m, 0, pages[i]);
		}
		plainvm_expect(&m, pages, n, 0);
		for (uint64_t i = 0; i < object; i++)
			plainvm_write(&m, 0, pages[i]);
		plainvm_expect(&m, pages, object, 0);
		ferry_kvm_free(m.k);
		plainvm_adopt(&m);
	}
	cr_expect_eq(m.full, 0);
	free(pages);
	plainvm_end(&m);
}

static void log_by_hand(struct plainvm *m, uint32_t slot, bool on)
{
	struct kvm_userspace_memory_region r = { .slot = slot,
						 .memory_size = PLAINVM_CUT * 4096,
						 .flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
						 .userspace_addr = (uintptr_t)m->ram };

	if (slot) {
		r.guest_phys_addr = PLAINVM_CUT * 4096;
		r.memory_size = (m->pages - PLAINVM_CUT) * 4096;
		r.userspace_addr += PLAINVM_CUT * 4096;
	}
	cr_assert_eq(ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
}

/* Entries from before dirty_start: the VMM has logged for itself. */
Test(ring, older_entries_are_dropped)
{
	uint64_t counts[PLAINVM_VCPUS];
	struct plainvm m;

	plainvm_new_with(&m, PLAINVM_PAGES, plainvm_ring_or_skip());
	log_by_hand(&m, 0, true);
	for (uint64_t i = 30; i < 35; i++)
		plainvm_write(&m, i % 2, i);
	log_by_hand(&m, 0, false);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect(!counts[0] && !counts[1]);
	plainvm_expect(&m, NULL, 0, 0);
	plainvm_write(&m, 0, 31);
	plainvm_expect(&m, (uint64_t[]){ 31 }, 1, 0);
	plainvm_end(&m);
}

/* Of a slot that the VMM logs for itself, such as a screen's, entries are passed over and make room. */
Test(ring, entries_of_other_slots_are_none_of_ours)
{
	struct ferry_kvm_slot slot = { FERRY_KVM_SLOT_INIT, .region = PLAINVM_REGION,
				       .len = PLAINVM_CUT * 4096 };
	uint64_t counts[PLAINVM_VCPUS], set;
	struct plainvm m;

	plainvm_new_with(&m, PLAINVM_PAGES, plainvm_ring_or_skip());
	ferry_kvm_free(m.k);
	cr_assert_eq(ferry_kvm_new(&m.k, m.kvm, m.vm, m.vcpus, PLAINVM_VCPUS), 0);
	slot.hva = m.ram;
	cr_assert_eq(ferry_kvm_add_slot(m.k, &slot), 0);
	log_by_hand(&m, 1, true);
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	for (uint64_t i = 0; i < 9; i++)
		plainvm_write(&m, 0, PLAINVM_CUT + i);
	plainvm_write(&m, 0, 20);
	set = plainvm_expect(&m, (uint64_t[]){ 20 }, 1, 0);
	cr_assert_eq(ferry_kvm_dirty_counts(m.k, counts, PLAINVM_VCPUS), 0);
	cr_expect_eq(counts[0], set);
	plainvm_end(&m);
}

/* The bits of more than a GiB: those of a group far up are handed out, and cleared. */
Test(ring, a_page_far_up)
{
	const uint64_t up = 3 << 17, pages[] = { 5, up, up + 4096, up + 8191 };
	struct plainvm m;

	plainvm_new_with(&m, 1 << 19, plainvm_ring_or_skip());
	cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
	for (size_t i = 0; i < 4; i++)
		plainvm_write(&m, 0, pages[i]);
	plainvm_expect(&m, pages, 4, 0);
	plainvm_expect(&m, NULL, 0, 0);
	plainvm_write(&m, 0, pages[2]);
	plainvm_expect(&m, pages + 2, 1, 0);
	plainvm_end(&m);
}

/* --- threads --- */

struct racer {
	struct plainvm *m;
	_Atomic bool stop;
	_Atomic int err;
};

static void *say_full(void *arg)
{
	struct racer *r = arg;

	while (!r->stop && !r->err) {
		int err = ferry_kvm_ring_full(r->m->k);

		if (err)
			r->err = err;
	}
	return NULL;
}

/* As vCPUs do whose rings are full at any moment, before, during and after a migration. */
Test(ring, full_rings_may_be_told_at_any_time)
{
	struct plainvm m;
	struct racer r = { .m = &m };
	pthread_t t[3];

	plainvm_new_with(&m, PLAINVM_PAGES, plainvm_ring_or_skip());
	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, say_full, &r), 0);
	for (uint64_t i = 0; i < 200; i++) {
		const uint64_t pages[] = { 1 + i % 90, 101 + i % 50 };

		cr_assert_eq(ferry_kvm_dirty_start(m.k), 0);
		plainvm_write(&m, 0, pages[0]);
		plainvm_write(&m, 1, pages[1]);
		plainvm_expect(&m, pages, 2, i % 3 ? 0 : FERRY_DIRTY_LAST);
		plainvm_write(&m, 1, pages[0]);
		plainvm_expect(&m, pages, 1, 0);
		plainvm_write(&m, 0, pages[1]);
		cr_assert_eq(ferry_kvm_dirty_stop(m.k), 0);
	}
	r.stop = true;
	for (size_t i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	cr_expect_eq(r.err, 0, "%s", strerror(-r.err));
	plainvm_end(&m);
}
