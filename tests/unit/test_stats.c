// SPDX-License-Identifier: MIT
/* What the histogram of faults tells: each value in a bucket whose ends hold it, none lost, no quantile beyond the largest. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "runtime/session/session.h"

static struct ferry_session *with_faults(const uint64_t *ns, size_t n)
{
	struct ferry_session *s = calloc(1, sizeof(*s));

	cr_assert_not_null(s);
	for (size_t i = 0; i < n; i++)
		hist_add(&s->stats.fault_ns, ns[i]);
	return s;
}

Test(stats, no_faults_no_buckets)
{
	struct ferry_fault_bucket b = { .count = 7 };
	struct ferry_session *s = with_faults(NULL, 0);

	cr_assert_eq(ferry_get_faults(s, &b, 1), 0);
	cr_assert_eq(b.count, 7);
	free(s);
}

Test(stats, a_bucket_holds_its_value)
{
	static struct ferry_fault_bucket b[FERRY_FAULT_BUCKETS];

	for (unsigned shift = 0; shift < 42; shift++) {
		for (int off = -1; off <= 1; off++) {
			uint64_t v = (UINT64_C(1) << shift) + (uint64_t)off;
			struct ferry_session *s = with_faults(&v, 1);

			cr_assert_eq(ferry_get_faults(s, b, FERRY_FAULT_BUCKETS), 1);
			cr_assert(b[0].from_ns <= v && v < b[0].below_ns, "%lu in %lu to %lu", v,
				  b[0].from_ns, b[0].below_ns);
			cr_assert(b[0].below_ns - b[0].from_ns <= 1 + b[0].from_ns / 16);
			free(s);
		}
	}
}

Test(stats, counts_all_in_order_and_keeps_to_the_callers_array)
{
	static const uint64_t ns[] = { 9000000, 100, 25000, 25001, 100, 100, 7 };
	struct ferry_fault_bucket b[FERRY_FAULT_BUCKETS] = { 0 };
	struct ferry_session *s = with_faults(ns, sizeof(ns) / sizeof(*ns));
	uint64_t sum = 0;
	size_t n = ferry_get_faults(s, b, 2);

	cr_assert_eq(n, 4);
	cr_assert_eq(b[0].count, 1);
	cr_assert_eq(b[1].count, 3);
	cr_assert_eq(b[2].count, 0);
	n = ferry_get_faults(s, b, FERRY_FAULT_BUCKETS);
	for (size_t i = 0; i < n; i++) {
		sum += b[i].count;
		cr_assert(!i || b[i].from_ns >= b[i - 1].below_ns);
	}
	cr_assert_eq(sum, 7);
	free(s);
}

/* A bucket's middle may lie beyond all that is in it, and few values have their quantiles there. */
Test(stats, no_quantile_is_larger_than_the_largest)
{
	for (unsigned shift = 0; shift < 42; shift++) {
		for (unsigned n = 1; n <= 3; n++) {
			uint64_t v = (UINT64_C(1) << shift), ns[] = { v, v / 3, v + v / 50 };
			struct ferry_session *s = with_faults(ns, n);
			uint64_t max = n < 3 ? ns[0] : ns[2];
			struct ferry_stats st = { .size = sizeof(st) };

			for (unsigned permille = 1; permille <= 1000; permille++)
				cr_assert_leq(hist_quantile(&s->stats.fault_ns, permille), max,
					      "of %u values up to %lu, %u", n, max, permille);
			cr_assert_eq(ferry_get_stats(s, &st), 0);
			cr_assert_leq(st.fault_p50_ns, st.fault_p99_ns);
			cr_assert_leq(st.fault_p99_ns, st.fault_max_ns);
			free(s);
		}
	}
}
