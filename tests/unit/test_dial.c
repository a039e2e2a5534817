// SPDX-License-Identifier: MIT
/* Whose turn it is, on a clock of the test's own. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>

#include "transport/dial.h"

#define NOW UINT64_C(1000000000)

Test(dial, one_after_another_and_each_again)
{
	struct dial d;

	dial_start(&d, 0, 3, NOW);
	cr_assert_eq(dial_next(&d, NOW), 0);
	cr_assert_eq(dial_next(&d, NOW), -1);
	cr_assert_eq(dial_due(&d), NOW + DIAL_STAGGER_US);
	cr_assert_eq(dial_next(&d, NOW + DIAL_STAGGER_US), 1);
	cr_assert_eq(dial_next(&d, NOW + 2 * DIAL_STAGGER_US), 2);
	cr_assert_eq(dial_due(&d), NOW + DIAL_AGAIN_US);
	cr_assert_eq(dial_next(&d, NOW + DIAL_AGAIN_US), 0, "beside the try that is under way");
	cr_assert_not(dial_over(&d));
}

Test(dial, who_is_late_does_not_start_all_at_once)
{
	struct dial d;

	dial_start(&d, 0, 3, NOW);
	cr_assert_eq(dial_next(&d, NOW + 10 * DIAL_STAGGER_US), 0);
	cr_assert_eq(dial_next(&d, NOW + 10 * DIAL_STAGGER_US), -1);
	cr_assert_eq(dial_next(&d, NOW + 11 * DIAL_STAGGER_US), 1);
}

Test(dial, after_a_failure_the_next_one_at_once)
{
	struct dial d;

	dial_start(&d, 0, 4, NOW);
	cr_assert_eq(dial_next(&d, NOW), 0);
	dial_failed(&d, 0, -ECONNREFUSED, NOW + 1);
	cr_assert_eq(dial_next(&d, NOW + 1), 1);
	cr_assert_eq(dial_next(&d, NOW + 1), -1, "only one");
	dial_failed(&d, 1, -ENETUNREACH, NOW + 2);
	cr_assert_eq(dial_next(&d, NOW + 2), 2);
	cr_assert_eq(dial_next(&d, NOW + 1 + DIAL_RETRY_US), 0,
		     "who has failed is asked again while others may answer");
	cr_assert_eq(d.err, -ECONNREFUSED);
}

Test(dial, over_when_every_one_has_failed)
{
	struct dial d;

	dial_start(&d, 5, 2, NOW);
	cr_assert_eq(dial_next(&d, NOW), 5);
	dial_failed(&d, 5, -EHOSTUNREACH, NOW);
	cr_assert_not(dial_over(&d));
	cr_assert_eq(dial_next(&d, NOW), 6);
	cr_assert_not(dial_over(&d));
	dial_failed(&d, 6, -EINVAL, NOW);
	cr_assert(dial_over(&d));
	cr_assert_eq(d.err, -EHOSTUNREACH, "what may heal is not hidden by an address of the wrong kind");
	cr_assert_eq(dial_next(&d, NOW + DIAL_RETRY_US), 5);
	cr_assert_not(dial_over(&d));
}

Test(dial, no_address_no_turn)
{
	struct dial d;

	dial_start(&d, 0, 0, NOW);
	cr_assert_eq(dial_next(&d, UINT64_MAX), -1);
	cr_assert_eq(dial_due(&d), UINT64_MAX);
}

static void text_is(const void *a, const char *want)
{
	char text[XPORT_PEER_MAX];

	dial_text(text, sizeof(text), a);
	cr_assert_str_eq(text, want);
}

Test(dial, an_address_in_words)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(7000) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(65535) };
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	cr_assert_eq(inet_pton(AF_INET, "10.98.0.2", &v4.sin_addr), 1);
	text_is(&v4, "10.98.0.2:7000");
	cr_assert_eq(inet_pton(AF_INET6, "::ffff:10.98.0.2", &v6.sin6_addr), 1);
	text_is(&v6, "10.98.0.2:65535");
	/* the longest that there is */
	cr_assert_eq(inet_pton(AF_INET6, "fe80:1111:2222:3333:4444:5555:6666:7777", &v6.sin6_addr), 1);
	v6.sin6_scope_id = UINT32_MAX;
	text_is(&v6, "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535");
	text_is(&none, "");
}
