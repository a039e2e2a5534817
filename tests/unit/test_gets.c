// SPDX-License-Identifier: MIT
/* The gets of a channel: which tags can be used, and in which order they come back. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/base/fail.h"
#include "transport/gets.h"

#define ALL XPORT_GETS_MAX

Test(gets, a_tag_is_in_use_until_it_is_taken)
{
	struct xp_gets g = { 0 };
	struct fail f = { 0 };
	uint32_t tag;

	cr_assert_eq(xp_gets_check(&g, 7, "tcp", &f), 0);
	xp_gets_begin(&g, 7);
	cr_assert_eq(xp_gets_check(&g, 7, "tcp", &f), -EINVAL);
	cr_assert_str_eq(fail_text(&f), "tcp: get with tag 7, which is under way");
	cr_assert_eq(xp_gets_check(&g, 8, "tcp", &f), 0);
	xp_gets_done(&g);
	cr_assert_eq(xp_gets_check(&g, 7, "tcp", &f), -EINVAL);
	cr_assert_eq(xp_gets_take(&g, &tag, 1), 1);
	cr_assert_eq(tag, 7);
	cr_assert_eq(xp_gets_check(&g, 7, "tcp", &f), 0);
}

Test(gets, a_tag_that_is_none)
{
	struct xp_gets g = { 0 };
	struct fail f = { 0 };

	cr_assert_eq(xp_gets_check(&g, ALL - 1, "mem", &f), 0);
	cr_assert_eq(xp_gets_check(&g, ALL, "mem", &f), -EINVAL);
	cr_assert_str_eq(fail_text(&f), "mem: get with tag 64, which is too large");
	f = (struct fail){ 0 };
	cr_assert_eq(xp_gets_check(&g, UINT32_MAX, "mem", &f), -EINVAL);
}

Test(gets, full_counts_what_is_not_taken)
{
	struct xp_gets g = { 0 };
	struct fail f = { 0 };
	uint32_t tags[ALL];

	for (uint32_t i = 0; i < ALL; i++) {
		cr_assert_eq(xp_gets_check(&g, i, "rdma", &f), 0);
		xp_gets_begin(&g, i);
	}
	cr_assert(xp_gets_full(&g));
	cr_assert_eq(xp_gets_check(&g, 0, "rdma", &f), -EAGAIN);
	cr_assert_eq(xp_gets_check(&g, ALL, "rdma", &f), -EAGAIN);
	for (unsigned i = 0; i < ALL; i++)
		xp_gets_done(&g);
	cr_assert_eq(xp_gets_check(&g, 0, "rdma", &f), -EAGAIN);
	cr_assert_str_eq(fail_text(&f), "", "being full is no failure");
	cr_assert_eq(xp_gets_take(&g, tags, ALL), (int)ALL);
	cr_assert_not(xp_gets_full(&g));
	cr_assert_eq(g.used, 0);
}

Test(gets, they_come_back_in_the_order_of_begin_round_the_ring)
{
	struct xp_gets g = { 0 };
	struct fail f = { 0 };
	uint32_t next = 0, expect = 0, tags[ALL];

	while (expect < 1000) {
		while (g.ndone + g.inflight < 5) {
			uint32_t tag = next++ * 37 % ALL;

			cr_assert_eq(xp_gets_check(&g, tag, "tcp", &f), 0);
			xp_gets_begin(&g, tag);
		}
		cr_assert_eq(xp_gets_at(&g, g.ndone), expect * 37 % ALL, "the oldest in flight");
		cr_assert_eq(xp_gets_take(&g, tags, ALL), 0, "none is done");
		for (int i = 0; i < 3; i++)
			xp_gets_done(&g);
		cr_assert_eq(g.inflight, 2);
		cr_assert_eq(xp_gets_at(&g, g.ndone), (expect + 3) * 37 % ALL);
		cr_assert_eq(xp_gets_take(&g, tags, 2), 2);
		cr_assert_eq(xp_gets_take(&g, tags + 2, ALL), 1);
		for (int i = 0; i < 3; i++)
			cr_assert_eq(tags[i], expect++ * 37 % ALL);
	}
}
