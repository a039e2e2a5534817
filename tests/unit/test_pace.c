// SPDX-License-Identifier: MIT
/* The rate limit's bucket: what a charge costs, what of unused bandwidth is caught up with, and several threads that charge. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <time.h>

#include "runtime/base/pace.h"

#define BYTE_US 1000000u /* a byte a microsecond */

Test(pace, without_a_limit_nothing_is_owed)
{
	struct pace p = { .debt_max_us = 1 };

	cr_assert_eq(pace_charge(&p, UINT32_MAX), 0);
	cr_assert_eq(pace_charge(&p, UINT32_MAX), 0);
	cr_assert_eq(pace_paid(&p), 0);
	cr_assert_eq(pace_debt(&p), 0);
}

Test(pace, nothing_costs_nothing)
{
	struct pace p = { .bandwidth = BYTE_US };

	pace_charge(&p, 1000000000);
	cr_assert_eq(pace_charge(&p, 0), 0, "whoever moves nothing waits for nobody");
	cr_assert_gt(pace_debt(&p), 0);
}

/* A second's worth, less what the idle time before it may have given. */
Test(pace, a_charge_is_paid_by_the_time_it_takes)
{
	struct pace p = { .bandwidth = BYTE_US };
	uint64_t begin = now_us(), paid;

	cr_assert_leq(pace_charge(&p, 1000000), now_us(), "the first waits for nothing");
	paid = pace_paid(&p);
	cr_assert_geq(paid, begin - PACE_BURST_US + 1000000);
	cr_assert_leq(paid, now_us() - PACE_BURST_US + 1000000);
	cr_assert_leq(pace_debt(&p), paid - begin);
	cr_assert_eq(pace_charge(&p, 500000), paid,
		     "the next waits for what was charged before it, not for itself");
	cr_assert_eq(pace_paid(&p), paid + 500000);
}

Test(pace, unused_bandwidth_is_caught_up_with_for_the_burst_alone)
{
	struct pace p = { .bandwidth = BYTE_US };
	uint64_t before;

	pace_charge(&p, 1);
	nanosleep(&(struct timespec){ .tv_nsec = (long)PACE_BURST_US * 4 * 1000 }, NULL);
	before = now_us();
	cr_assert_geq(pace_charge(&p, 2 * PACE_BURST_US), before - PACE_BURST_US);
	cr_assert_geq(pace_paid(&p), before + PACE_BURST_US);
	cr_assert_leq(pace_paid(&p), now_us() + PACE_BURST_US);
}

Test(pace, debt_is_bounded_where_the_user_says_so)
{
	struct pace p = { .bandwidth = 1, .debt_max_us = 20000 };

	for (unsigned i = 0; i < 3; i++) {
		pace_charge(&p, 4096);
		cr_assert_leq(pace_debt(&p), 20000);
	}
	cr_assert_leq(pace_charge(&p, 4096), now_us() + 20000);
}

#define CHARGES 20000u
#define THREADS 4u

static void *charge(void *arg)
{
	for (unsigned i = 0; i < CHARGES; i++)
		pace_charge(arg, 100);
	return NULL;
}

Test(pace, no_charge_of_any_thread_is_lost)
{
	struct pace p = { .bandwidth = BYTE_US };
	pthread_t thread[THREADS];
	uint64_t before;

	pace_charge(&p, UINT64_C(3600000000)); /* in debt all the time: what is idle is not caught up with */
	before = pace_paid(&p);
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, charge, &p), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	cr_assert_eq(pace_paid(&p), before + UINT64_C(100) * CHARGES * THREADS);
}
