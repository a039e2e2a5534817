/* SPDX-License-Identifier: MIT */
/* Recorded rounds replayed through the policy: each trace has a name, its verdict, and where it matters the sentence. */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/session/policy.h"

#define PAGE 4096u
#define MAX_ROUNDS 8

/* pages sent, pages dirty afterwards, at 400,000 pages/s (1638.4 MB/s) unless us is given */
struct shot {
	uint64_t sent, dirty, us;
};

struct trace {
	const char *name;
	enum ferry_mode mode;
	bool no_postcopy, forced, can_throttle;
	uint32_t throttle;	   /* now */
	uint32_t max_rounds;	   /* 30 */
	uint64_t downtime_us;	   /* 300,000 */
	uint64_t precopy_limit_us; /* none */
	uint64_t fixed_us;	   /* 2,000 */
	uint64_t last_throughput;
	struct shot shots[MAX_ROUNDS];
	enum policy_verdict verdict;
	uint32_t slower;  /* throttled to */
	const char *text; /* the whole sentence, NULL: not looked at */
};

static const struct trace traces[] = {
	{ .name = "an idle guest stops after the first round",
	  .shots = { { 262144, 0, 0 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 1 round: nothing is dirty; 0 dirty pages, expected downtime 2.0 ms, limit "
		  "300.0 ms" },
	{ .name = "an idle guest stops although the fixed cost is above the limit",
	  .downtime_us = 1000,
	  .fixed_us = 5000,
	  .shots = { { 262144, 0, 0 } },
	  .verdict = POLICY_STOP_AND_COPY },
	{ .name = "a residue that fits but still shrinks gets another round",
	  .shots = { { 1048576, 65536, 0 } },
	  .verdict = POLICY_AGAIN,
	  .text = "another round: it fits the limit and still shrinks; 65536 dirty pages, expected downtime 165.8 ms, "
		  "limit 300.0 ms" },
	{ .name = "a small residue is not worth a round",
	  .shots = { { 1048576, 65536, 0 }, { 65536, 1000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 2 rounds: the residue is small; 1000 dirty pages, expected downtime 4.5 ms, "
		  "limit 300.0 ms" },
	{ .name = "it fits and rounds help little",
	  .shots = { { 1048576, 65536, 0 }, { 65536, 60000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 2 rounds: it fits the limit and rounds help little; 60000 dirty pages, expected "
		  "downtime 152.0 ms, limit 300.0 ms" },
	{ .name = "it fits and shrinks by more than a quarter",
	  .shots = { { 1048576, 65536, 0 }, { 65536, 40000, 0 } },
	  .verdict = POLICY_AGAIN },
	{ .name = "it fits and the rounds are used up",
	  .max_rounds = 2,
	  .shots = { { 1048576, 65536, 0 }, { 65536, 40000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY },
	{ .name = "it fits and the time is used up",
	  .precopy_limit_us = 2000000,
	  .shots = { { 1048576, 65536, 0 }, { 65536, 40000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY },
	{ .name = "too long but converging goes on",
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400000, 0 } },
	  .verdict = POLICY_AGAIN,
	  .text = "another round: it does not fit the limit yet; 400000 dirty pages, expected downtime 1002.0 ms, limit "
		  "300.0 ms" },
	{ .name = "one round without progress is not a stall",
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 } },
	  .verdict = POLICY_AGAIN },
	{ .name = "two rounds of six percent together still converge",
	  .shots = { { 4194304, 800000, 0 }, { 800000, 752000, 0 }, { 752000, 706000, 0 } },
	  .verdict = POLICY_AGAIN },
	{ .name = "auto: a stall goes to post-copy",
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy after 3 rounds, dirty set no longer shrinks: guest dirties 397469 pages/s (1628.0 MB/s), "
		  "link moves 1638.4 MB/s, expected downtime 1964.5 ms, limit 300.0 ms" },
	{ .name = "auto: a guest that writes everything stalls after two rounds",
	  .shots = { { 1000000, 1000000, 0 }, { 1000000, 1000000, 0 } },
	  .verdict = POLICY_POSTCOPY },
	{ .name = "auto: a stall without post-copy gives up",
	  .no_postcopy = true,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_GIVE_UP },
	{ .name = "stop-and-copy: a stall gives up and says what to do",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_GIVE_UP,
	  .text = "gave up after 3 rounds, dirty set no longer shrinks: guest dirties 397469 pages/s (1628.0 MB/s), link "
		  "moves 1638.4 MB/s, expected downtime 1964.5 ms, limit 300.0 ms; raise the downtime, allow post-copy or "
		  "throttle the guest" },
	{ .name = "stop-and-copy: a stall slows a guest that can be slowed",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .can_throttle = true,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_AGAIN,
	  .slower = 20,
	  .text = "another round, the guest slowed by 20 %: dirty set no longer shrinks; 785000 dirty pages, expected "
		  "downtime 1964.5 ms, limit 300.0 ms" },
	{ .name = "stop-and-copy: a stall that throttling does not end slows it further",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .can_throttle = true,
	  .throttle = 60,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_AGAIN,
	  .slower = 80 },
	{ .name = "stop-and-copy: a guest slowed that converges stays as slow",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .can_throttle = true,
	  .throttle = 40,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 500000, 0 } },
	  .verdict = POLICY_AGAIN,
	  .slower = 40 },
	{ .name = "stop-and-copy: slowed as far as it goes, a stall gives up",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .can_throttle = true,
	  .throttle = 80,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_GIVE_UP,
	  .slower = 80 },
	{ .name = "auto: a stall goes to post-copy before anybody is slowed",
	  .can_throttle = true,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 790000, 0 }, { 790000, 785000, 0 } },
	  .verdict = POLICY_POSTCOPY },
	{ .name = "auto: the bound on rounds goes to post-copy",
	  .max_rounds = 1,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_POSTCOPY },
	{ .name = "auto: the bound on time goes to post-copy",
	  .precopy_limit_us = 12000000,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400000, 0 } },
	  .verdict = POLICY_POSTCOPY },
	{ .name = "stop-and-copy: the bound on rounds gives up",
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .max_rounds = 2,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400000, 0 } },
	  .verdict = POLICY_GIVE_UP },
	{ .name = "post-copy: another round, where it halves what is to be pulled",
	  .mode = FERRY_MODE_POSTCOPY,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_AGAIN },
	{ .name = "post-copy goes when a round does not halve it",
	  .mode = FERRY_MODE_POSTCOPY,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400001, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy after 2 rounds: it was asked for, and rounds help little; 400001 dirty pages" },
	{ .name = "post-copy goes on while rounds halve it",
	  .mode = FERRY_MODE_POSTCOPY,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400000, 0 } },
	  .verdict = POLICY_AGAIN },
	{ .name = "post-copy goes after one round where more were not asked for",
	  .mode = FERRY_MODE_POSTCOPY,
	  .max_rounds = 1,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy after 1 round: it was asked for, and the bound on rounds is reached; 800000 dirty pages" },
	{ .name = "post-copy: the bound on time",
	  .mode = FERRY_MODE_POSTCOPY,
	  .precopy_limit_us = 12000000,
	  .shots = { { 4194304, 800000, 0 }, { 800000, 400000, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy after 2 rounds: it was asked for, and the bound on pre-copy time is reached; 400000 dirty pages" },
	{ .name = "post-copy goes when the residue is small",
	  .mode = FERRY_MODE_POSTCOPY,
	  .shots = { { 4194304, 700, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy after 1 round: it was asked for, and the residue is small; 700 dirty pages" },
	{ .name = "post-copy that the target cannot do gives up",
	  .mode = FERRY_MODE_POSTCOPY,
	  .no_postcopy = true,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_GIVE_UP,
	  .text = "gave up: post-copy was asked for, but the target cannot hold the VM's output until all memory has "
		  "arrived; commit at switchover or use stop-and-copy" },
	{ .name = "forced: post-copy where it may",
	  .forced = true,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_POSTCOPY,
	  .text = "post-copy: switchover was asked for" },
	{ .name = "forced: stop-and-copy where post-copy cannot",
	  .forced = true,
	  .no_postcopy = true,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 1 round: switchover was asked for; 800000 dirty pages, expected downtime 2002.0 ms, "
		  "limit 300.0 ms" },
	{ .name = "forced: stop-and-copy where it was chosen",
	  .forced = true,
	  .mode = FERRY_MODE_STOP_AND_COPY,
	  .shots = { { 4194304, 800000, 0 } },
	  .verdict = POLICY_STOP_AND_COPY },
	{ .name = "a small residue stops although the fixed cost is above the limit",
	  .downtime_us = 1000,
	  .fixed_us = 5000,
	  .shots = { { 262144, 100, 0 } },
	  .verdict = POLICY_STOP_AND_COPY },
	{ .name = "a tiny round does not tell how fast the link is",
	  .last_throughput = UINT64_C(1638400000),
	  /* 16 pages in 100 ms */
	  .shots = { { 16, 200, 100000 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 1 round: the residue is small; 200 dirty pages, expected downtime 2.5 ms, limit "
		  "300.0 ms" },
	{ .name = "the largest recent round tells how fast the link is",
	  .shots = { { 400000, 4000, 0 }, { 4000, 500, 1000000 } },
	  .verdict = POLICY_STOP_AND_COPY,
	  .text = "stop-and-copy after 2 rounds: the residue is small; 500 dirty pages, expected downtime 3.2 ms, limit "
		  "300.0 ms" },
};

#define NTRACES (sizeof(traces) / sizeof(traces[0]))

static void decide(const struct trace *t, struct policy_result *res)
{
	struct ferry_round rounds[MAX_ROUNDS] = { 0 };
	struct policy_input in = { .history = rounds, .last_throughput = t->last_throughput };
	struct policy_limits lim = { .mode = t->mode,
				     .postcopy_ok = !t->no_postcopy,
				     .forced = t->forced,
				     .can_throttle = t->can_throttle,
				     .throttle = t->throttle,
				     .precopy_limit_us = t->precopy_limit_us,
				     .page_size = PAGE };

	lim.max_rounds = t->max_rounds ? t->max_rounds : 30;
	lim.downtime_us = t->downtime_us ? t->downtime_us : 300000;
	in.fixed_us = t->fixed_us ? t->fixed_us : 2000;
	for (; in.n < MAX_ROUNDS && t->shots[in.n].sent; in.n++) {
		const struct shot *s = &t->shots[in.n];
		struct ferry_round *r = &rounds[in.n];

		r->round = in.n;
		r->pages_sent = s->sent;
		r->bytes = s->sent * PAGE;
		r->duration_us = s->us ? s->us : s->sent * 10 / 4;
		r->pages_dirty = s->dirty;
		in.precopy_us += r->duration_us;
	}
	policy_decide(&lim, &in, res);
}

Test(policy, traces)
{
	for (size_t i = 0; i < NTRACES; i++) {
		struct policy_result res = { 0 };

		decide(&traces[i], &res);
		cr_expect_eq(res.throttle, traces[i].slower, "%s: slowed by %u", traces[i].name,
			     res.throttle);
		cr_expect_eq(res.verdict, traces[i].verdict, "%s: verdict %d, \"%s\"", traces[i].name,
			     res.verdict, res.text);
		if (traces[i].text)
			cr_expect_str_eq(res.text, traces[i].text, "%s:\n%s", traces[i].name, res.text);
		cr_expect(strlen(res.text) > 0 && strlen(res.text) < POLICY_TEXT_MAX - 1, "%s: cut off",
			  traces[i].name);
	}
}

Test(policy, figures_beside_the_verdict)
{
	struct ferry_round r = {
		.pages_sent = 100000, .bytes = 409600000, .duration_us = 500000, .pages_dirty = 50000
	};
	struct policy_limits lim = { .max_rounds = 30, .downtime_us = 300000, .page_size = PAGE };
	struct policy_input in = { .history = &r, .n = 1, .fixed_us = 1500 };
	struct policy_result res;

	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.throughput, 819200000);
	cr_assert_eq(res.dirty_rate, 100000);
	cr_assert_eq(res.expected_downtime_us, 251500);
}

/* Four round trips with a residue to send, two without, one where it is pulled later. */
Test(policy, the_downtime_is_predicted_with_its_round_trips)
{
	struct ferry_round r = {
		.pages_sent = 100000, .bytes = 409600000, .duration_us = 500000, .pages_dirty = 10
	};
	struct policy_limits lim = {
		.max_rounds = 30, .downtime_us = 300000, .page_size = PAGE, .postcopy_ok = true
	};
	struct policy_input in = { .history = &r, .n = 1, .fixed_us = 1500, .rtt_us = 1000 };
	struct policy_result res;

	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.verdict, POLICY_STOP_AND_COPY);
	cr_assert_eq(res.predicted_us, 1500 + 4000 + 50);
	r.pages_dirty = 0;
	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.predicted_us, 1500 + 2000);
	lim.mode = FERRY_MODE_POSTCOPY;
	lim.max_rounds = 1;
	r.pages_dirty = 100000;
	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.verdict, POLICY_POSTCOPY);
	cr_assert_eq(res.predicted_us, 1500 + 1000);
	lim.mode = FERRY_MODE_STOP_AND_COPY;
	lim.max_rounds = 30;
	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.verdict, POLICY_AGAIN);
	cr_assert_eq(res.predicted_us, 0);
}

Test(policy, rounds_of_zero_pages_tell_a_speed_too)
{
	struct ferry_round r = { .pages_zero = 1000000, .duration_us = 100000, .pages_dirty = 1000 };
	struct policy_limits lim = { .max_rounds = 30, .downtime_us = 300000, .page_size = PAGE };
	struct policy_input in = { .history = &r, .n = 1 };
	struct policy_result res;

	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.throughput, UINT64_C(40960000000));
	cr_assert_eq(res.verdict, POLICY_STOP_AND_COPY);
}

Test(policy, nothing_sent_yet_assumes_a_slow_link)
{
	struct ferry_round r = { .pages_dirty = 1000000 };
	struct policy_limits lim = { .max_rounds = 30, .downtime_us = 300000, .page_size = PAGE };
	struct policy_input in = { .history = &r, .n = 1 };
	struct policy_result res;

	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.throughput, 125000000);
	cr_assert_eq(res.verdict, POLICY_AGAIN);
}

Test(policy, the_largest_numbers_do_not_overflow)
{
	struct ferry_round r[2] = {
		{ .pages_sent = UINT64_MAX,
		  .pages_zero = UINT64_MAX,
		  .bytes = UINT64_MAX,
		  .duration_us = 1,
		  .pages_dirty = UINT64_MAX },
		{ .round = 1, .bytes = 1, .duration_us = UINT64_MAX, .pages_dirty = UINT64_MAX }
	};
	struct policy_limits lim = { .max_rounds = 30, .downtime_us = UINT64_MAX - 1, .page_size = 1u << 30 };
	struct policy_input in = { .history = r, .n = 2, .precopy_us = UINT64_MAX, .fixed_us = UINT64_MAX };
	struct policy_result res;

	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.expected_downtime_us, UINT64_MAX);
	cr_assert_eq(res.throughput, UINT64_MAX);
	r[0].bytes = 0;
	policy_decide(&lim, &in, &res);
	cr_assert_eq(res.expected_downtime_us, UINT64_MAX);
	cr_assert(memchr(res.text, 0, sizeof(res.text)));
}

Test(policy, the_same_rounds_give_the_same_verdict)
{
	struct policy_result a, b;

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	for (size_t i = 0; i < NTRACES; i++) {
		decide(&traces[i], &a);
		decide(&traces[i], &b);
		cr_assert_eq(a.verdict, b.verdict);
		cr_assert_str_eq(a.text, b.text);
	}
}
