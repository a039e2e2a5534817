/* SPDX-License-Identifier: MIT */
/* The observer behind rdma-migrate's proof: a gap, a repeat or a second owner cannot hide. */
#include <criterion/criterion.h>
#include <unistd.h>

#include "bench/cli/observer.h"

static void take(struct observer *o, unsigned stream, uint32_t number, enum vmm_end end)
{
	struct vmm_output rec = { .number = number, .stream = (uint16_t)stream, .end = (uint16_t)end };

	observer_take(o, &rec);
}

static void expect(const struct observer *o, uint64_t seen, uint64_t missing, uint64_t repeated)
{
	uint64_t s, m, r;

	observer_total(o, &s, &m, &r);
	cr_expect_eq(s, seen, "%lu seen", s);
	cr_expect_eq(m, missing, "%lu missing", m);
	cr_expect_eq(r, repeated, "%lu repeated", r);
}

Test(observer, a_clean_migration)
{
	struct observer o;

	observer_init(&o, -1, 2, true);
	for (uint32_t i = 1; i <= 5; i++) {
		take(&o, 0, i, VMM_END_SOURCE);
		take(&o, 1, i, VMM_END_SOURCE);
	}
	take(&o, 0, 6, VMM_END_TARGET);
	expect(&o, 11, 0, 0);
	cr_expect_eq(o.handovers, 1);
	cr_expect_eq(observer_least(&o), 5);
}

Test(observer, the_first_output_counts_where_it_sees_both_ends)
{
	struct observer o;

	observer_init(&o, -1, 1, true);
	take(&o, 0, 3, VMM_END_SOURCE);
	expect(&o, 1, 2, 0);
	observer_init(&o, -1, 1, false);
	take(&o, 0, 3, VMM_END_TARGET);
	take(&o, 0, 4, VMM_END_TARGET);
	expect(&o, 2, 0, 0);
}

Test(observer, a_gap_and_a_repeat)
{
	struct observer o;

	observer_init(&o, -1, 1, true);
	take(&o, 0, 1, VMM_END_SOURCE);
	take(&o, 0, 4, VMM_END_SOURCE);
	expect(&o, 2, 2, 0);
	take(&o, 0, 4, VMM_END_TARGET);
	take(&o, 0, 5, VMM_END_TARGET);
	expect(&o, 4, 2, 1);
}

Test(observer, what_comes_late_is_no_better_than_a_repeat)
{
	struct observer o;

	observer_init(&o, -1, 1, true);
	take(&o, 0, 2, VMM_END_SOURCE);
	take(&o, 0, 1, VMM_END_SOURCE);
	expect(&o, 2, 1, 1);
}

Test(observer, two_owners_are_seen_even_if_the_numbers_fit)
{
	struct observer o;

	observer_init(&o, -1, 1, true);
	take(&o, 0, 1, VMM_END_SOURCE);
	take(&o, 0, 2, VMM_END_TARGET);
	take(&o, 0, 3, VMM_END_SOURCE);
	expect(&o, 3, 0, 0);
	cr_expect_eq(o.handovers, 2);
}

Test(observer, records_that_no_vmm_wrote)
{
	struct observer o;

	observer_init(&o, -1, 1, true);
	take(&o, 1, 1, VMM_END_SOURCE);
	take(&o, 0, 1, (enum vmm_end)7);
	expect(&o, 0, 0, 0);
	cr_expect_eq(o.damaged, 2);
}

Test(observer, a_record_may_arrive_in_pieces)
{
	struct vmm_output rec[2] = { { .number = 1 }, { .number = 2 } };
	const char *bytes = (const char *)rec;
	struct observer o;
	int fds[2];

	cr_assert_eq(pipe2(fds, 04000 /* O_NONBLOCK */), 0);
	observer_init(&o, fds[0], 1, true);
	for (size_t at = 0; at < sizeof(rec); at += 5) {
		size_t n = sizeof(rec) - at < 5 ? sizeof(rec) - at : 5;

		cr_assert_eq(write(fds[1], bytes + at, n), (ssize_t)n);
		cr_assert_eq(observer_drain(&o), 1);
	}
	expect(&o, 2, 0, 0);
	close(fds[1]);
	cr_assert_eq(observer_drain(&o), 0);
	close(fds[0]);
}

/* --- two observers, each at its host --- */

static void speak(struct observer *o, uint16_t end, uint32_t from, uint32_t to)
{
	for (uint32_t n = from; n <= to; n++)
		observer_take(o, &(struct vmm_output){ .number = n, .end = end });
}

static void joined(struct observer *a, const struct observer *b, uint64_t seen, uint64_t missing,
		   uint64_t repeated)
{
	uint64_t s, m, r;

	observer_join(a, b);
	observer_total(a, &s, &m, &r);
	cr_assert_eq(s, seen);
	cr_assert_eq(m, missing, "%lu missing", m);
	cr_assert_eq(r, repeated, "%lu repeated", r);
}

static void two(struct observer *a, struct observer *b)
{
	observer_init(a, -1, 1, true);
	observer_init(b, -1, VMM_VCPUS_MAX, false);
}

Test(observer, two_hosts_that_follow_each_other)
{
	struct observer a, b;

	two(&a, &b);
	speak(&a, VMM_END_SOURCE, 1, 10);
	speak(&b, VMM_END_TARGET, 11, 15);
	joined(&a, &b, 15, 0, 0);
	cr_assert_eq(a.handovers, 1);
}

Test(observer, what_neither_host_saw_is_missing)
{
	struct observer a, b;

	two(&a, &b);
	speak(&a, VMM_END_SOURCE, 1, 10);
	speak(&b, VMM_END_TARGET, 13, 15);
	speak(&b, VMM_END_TARGET, 17, 18);
	joined(&a, &b, 15, 3, 0);
}

Test(observer, what_both_hosts_saw_is_repeated)
{
	struct observer a, b;

	two(&a, &b);
	speak(&a, VMM_END_SOURCE, 1, 10);
	speak(&b, VMM_END_TARGET, 9, 15);
	joined(&a, &b, 17, 0, 2);
}

Test(observer, a_host_that_saw_nothing_changes_nothing)
{
	struct observer a, b;

	two(&a, &b);
	speak(&a, VMM_END_SOURCE, 1, 10);
	joined(&a, &b, 10, 0, 0);
	cr_assert_eq(a.handovers, 0);
	two(&a, &b);
	speak(&b, VMM_END_TARGET, 1, 4);
	joined(&a, &b, 4, 0, 0);
}

Test(observer, a_vcpu_that_the_guest_does_not_have_is_damage)
{
	struct observer a, b;

	two(&a, &b);
	observer_take(&b, &(struct vmm_output){ .number = 1, .stream = 3, .end = VMM_END_TARGET });
	joined(&a, &b, 0, 0, 0);
	cr_assert_eq(a.damaged, 1);
}
