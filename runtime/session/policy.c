/* SPDX-License-Identifier: MIT */
/*
 * The policy: when to stop copying.
 *
 * The downtime of stopping now is the fixed cost of pause, save and resume plus the time that the link takes
 * for the residue. While that exceeds the limit, rounds go on as long as they shrink the residue. Once it
 * fits, they go on only as long as they shrink it much: each takes no longer than the one before, and the
 * guest feels the downtime. If it does not fit, a stall (two rounds without a new low of the dirty set) or a
 * bound ends pre-copy; then comes post-copy, if it is allowed. If post-copy was asked for, rounds go on while
 * each halves what is left to pull. docs/policy.md has the reasons, with recorded rounds.
 */
#include "policy.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>

#define RECENT_ROUNDS 4u		  /* rounds from which the throughput is taken */
#define TELLING_BYTES (UINT64_C(1) << 20) /* smaller rounds say little about the link */
#define SLOWEST UINT64_C(125000000)	  /* bytes/s, if nothing was sent at all: 1 Gbit/s */
#define THROTTLE_STEP 20u		  /* percent */
#define THROTTLE_MAX 80u
#define TINY_US UINT64_C(1000) /* a residue that costs no more is not worth another round */

/* Formats and their arguments: milliseconds and megabytes (10^6) with one decimal. */
#define F1 "%" PRIu64 ".%" PRIu64
#define MS(us) (us) / 1000, (us) % 1000 / 100
#define ROUNDS "%" PRIu32 " round%s"
#define NROUNDS(n) (n), (n) == 1 ? "" : "s"
#define MB(bytes) (bytes) / 1000000, (bytes) % 1000000 / 100000

/* a * b / c, rounded up; UINT64_MAX if that is too large or c is 0 */
static uint64_t mul_div(uint64_t a, uint64_t b, uint64_t c)
{
	unsigned __int128 v;

	if (!c)
		return UINT64_MAX;
	v = ((unsigned __int128)a * b + c - 1) / c;
	return v > UINT64_MAX ? UINT64_MAX : (uint64_t)v;
}

static uint64_t add_sat(uint64_t a, uint64_t b)
{
	return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t rate(uint64_t count, uint64_t us)
{
	return mul_div(count, 1000000, us ? us : 1);
}

/* The link's speed, from the largest recent round: small rounds mislead. */
static uint64_t throughput(const struct policy_input *in, uint32_t page_size)
{
	const struct ferry_round *best = NULL;
	uint64_t pages;

	for (uint32_t i = in->n > RECENT_ROUNDS ? in->n - RECENT_ROUNDS : 0; i < in->n; i++) {
		if (!best || in->history[i].bytes > best->bytes)
			best = &in->history[i];
	}
	if (best->bytes < TELLING_BYTES && in->last_throughput)
		return in->last_throughput;
	if (best->bytes)
		return rate(best->bytes, best->duration_us);
	/* only zero pages were sent: the next ones will take as long */
	pages = add_sat(best->pages_sent, best->pages_zero);
	return pages ? rate(mul_div(pages, page_size, 1), best->duration_us) : SLOWEST;
}

/* The number of dirty pages that round i had to send. */
static uint64_t dirty_before(const struct policy_input *in, uint32_t i)
{
	const struct ferry_round *h = in->history;

	return i ? h[i - 1].pages_dirty : add_sat(h[0].pages_sent, h[0].pages_zero);
}

/* Whether rounds from..to left at most this percentage of the pages that were dirty before them. */
static bool left_at_most(const struct policy_input *in, uint32_t from, uint32_t to, unsigned percent)
{
	return (unsigned __int128)in->history[to].pages_dirty * 100 <=
	       (unsigned __int128)dirty_before(in, from) * percent;
}

/*
 * Whether the last two rounds found no new low: a dirty set at least a tenth smaller than all before. So a
 * set that swings around one size is a stall, like one that stays. A round that halves the set ends a burst.
 */
static bool stalled(const struct policy_input *in)
{
	uint32_t last = in->n - 1;
	uint64_t low = UINT64_MAX, now;

	if (last < 1 || left_at_most(in, last, last, 50))
		return false;
	for (uint32_t i = 0; i < last; i++)
		low = dirty_before(in, i) < low ? dirty_before(in, i) : low;
	now = in->history[last].pages_dirty;
	if (in->history[last - 1].pages_dirty < now)
		now = in->history[last - 1].pages_dirty;
	return (unsigned __int128)now * 100 > (unsigned __int128)low * 90;
}

struct facts {
	const struct policy_limits *lim;
	const struct policy_input *in;
	uint64_t dirty;	     /* pages */
	uint32_t rounds;     /* done */
	uint64_t residue_us; /* time to send the dirty pages in the downtime */
	bool tiny, max_rounds, max_time;
};

static void verdict(struct policy_result *ret, enum policy_verdict v, const char *why)
{
	ret->verdict = v;
	snprintf(ret->text, sizeof(ret->text), "%s", why);
}

static void stop_now(struct policy_result *ret, const struct facts *k, const char *why)
{
	ret->verdict = POLICY_STOP_AND_COPY;
	snprintf(ret->text, sizeof(ret->text),
		 "stop-and-copy after " ROUNDS ": %s; %" PRIu64 " dirty pages, expected downtime " F1
		 " ms, limit " F1 " ms",
		 NROUNDS(k->rounds), why, k->dirty, MS(ret->expected_downtime_us), MS(k->lim->downtime_us));
}

static void again(struct policy_result *ret, const struct facts *k, const char *why)
{
	ret->verdict = POLICY_AGAIN;
	snprintf(ret->text, sizeof(ret->text),
		 "another round: %s; %" PRIu64 " dirty pages, expected downtime " F1 " ms, limit " F1 " ms",
		 why, k->dirty, MS(ret->expected_downtime_us), MS(k->lim->downtime_us));
}

/* Pre-copy alone cannot meet the limit. */
static void not_converged(struct policy_result *ret, const struct facts *k, const char *why)
{
	bool postcopy = k->lim->mode == FERRY_MODE_AUTO && k->lim->postcopy_ok;
	uint64_t dirty_bytes = mul_div(ret->dirty_rate, k->lim->page_size, 1);

	ret->verdict = postcopy ? POLICY_POSTCOPY : POLICY_GIVE_UP;
	snprintf(ret->text, sizeof(ret->text),
		 "%s after " ROUNDS ", %s: guest dirties %" PRIu64 " pages/s (" F1 " MB/s), link moves " F1
		 " MB/s, expected downtime " F1 " ms, limit " F1 " ms%s",
		 postcopy ? "post-copy" : "gave up", NROUNDS(k->rounds), why, ret->dirty_rate,
		 MB(dirty_bytes), MB(ret->throughput), MS(ret->expected_downtime_us), MS(k->lim->downtime_us),
		 postcopy ? "" : "; raise the downtime, allow post-copy or throttle the guest");
}

/* Without post-copy, a guest that outruns the link is slowed step by step. False: no step is left. */
static bool slower(struct policy_result *ret, const struct facts *k)
{
	if ((k->lim->mode == FERRY_MODE_AUTO && k->lim->postcopy_ok) || !k->lim->can_throttle ||
	    k->lim->throttle + THROTTLE_STEP > THROTTLE_MAX)
		return false;
	ret->verdict = POLICY_AGAIN;
	ret->throttle = k->lim->throttle + THROTTLE_STEP;
	snprintf(ret->text, sizeof(ret->text),
		 "another round, the guest slowed by %u %%: dirty set no longer shrinks; %" PRIu64
		 " dirty pages, expected downtime " F1 " ms, limit " F1 " ms",
		 ret->throttle, k->dirty, MS(ret->expected_downtime_us), MS(k->lim->downtime_us));
	return true;
}

/* It fits the limit: stop, unless another round would make the residue much smaller. */
static void decide_fits(struct policy_result *ret, const struct facts *k)
{
	if (k->tiny)
		stop_now(ret, k, "the residue is small");
	else if (!left_at_most(k->in, k->in->n - 1, k->in->n - 1, 75))
		stop_now(ret, k, "it fits the limit and rounds help little");
	else if (k->max_rounds)
		stop_now(ret, k, "it fits the limit and the bound on rounds is reached");
	else if (k->max_time)
		stop_now(ret, k, "it fits the limit and the bound on pre-copy time is reached");
	else
		again(ret, k, "it fits the limit and still shrinks");
}

static void postcopy_now(struct policy_result *ret, const struct facts *k, const char *why)
{
	ret->verdict = POLICY_POSTCOPY;
	snprintf(ret->text, sizeof(ret->text),
		 "post-copy after " ROUNDS ": it was asked for, and %s; %" PRIu64 " dirty pages",
		 NROUNDS(k->rounds), why, k->dirty);
}

/*
 * A pulled page costs more than a sent one, and the guest waits for it. So rounds go on while each leaves at
 * most half of what it found. At worst the last of them was useless.
 */
static void decide_postcopy(struct policy_result *ret, const struct facts *k)
{
	if (!k->lim->postcopy_ok)
		verdict(ret, POLICY_GIVE_UP,
			"gave up: post-copy was asked for, but the target cannot hold the VM's output until "
			"all memory has arrived; commit at switchover or use stop-and-copy");
	else if (k->tiny)
		postcopy_now(ret, k, "the residue is small");
	else if (!left_at_most(k->in, k->in->n - 1, k->in->n - 1, 50))
		postcopy_now(ret, k, "rounds help little");
	else if (k->max_rounds)
		postcopy_now(ret, k, "the bound on rounds is reached");
	else if (k->max_time)
		postcopy_now(ret, k, "the bound on pre-copy time is reached");
	else
		again(ret, k, "it halves what post-copy has to pull");
}

static void decide_too_long(struct policy_result *ret, const struct facts *k)
{
	if (k->tiny) /* no round can help: only the fixed cost is left, and the limit is an aim */
		stop_now(ret, k, "the residue is small, the rest of the downtime does not depend on it");
	else if (k->max_rounds)
		not_converged(ret, k, "bound on rounds reached");
	else if (k->max_time)
		not_converged(ret, k, "bound on pre-copy time reached");
	else if (stalled(k->in) && slower(ret, k))
		return;
	else if (stalled(k->in))
		not_converged(ret, k, "dirty set no longer shrinks");
	else
		again(ret, k, "it does not fit the limit yet");
}

/*
 * Round trips in the downtime. Stop-and-copy has four: the fence, the end of the residue's round, SWITCHOVER
 * until PREPARED, COMMIT until COMMITTED; without residue two. Post-copy has one: SWITCHOVER until RUNNING.
 */
static uint64_t round_trips(const struct policy_input *in, unsigned n)
{
	return mul_div(in->rtt_us, n, 1);
}

static void measure(struct policy_result *ret, struct facts *k)
{
	const struct policy_limits *lim = k->lim;
	const struct policy_input *in = k->in;
	const struct ferry_round *last = &in->history[in->n - 1];
	uint64_t enough = lim->downtime_us / 100 > TINY_US ? lim->downtime_us / 100 : TINY_US;

	ret->throttle = lim->throttle;
	k->dirty = last->pages_dirty;
	k->rounds = last->round + 1;
	ret->throughput = throughput(in, lim->page_size);
	ret->dirty_rate = rate(k->dirty, last->duration_us);
	k->residue_us = k->dirty ? mul_div(mul_div(k->dirty, lim->page_size, 1), 1000000, ret->throughput)
				 : 0;
	ret->expected_downtime_us =
		add_sat(add_sat(in->fixed_us, round_trips(in, k->dirty ? 4 : 2)), k->residue_us);
	k->tiny = k->residue_us <= enough;
	k->max_rounds = k->rounds >= lim->max_rounds;
	k->max_time = lim->precopy_limit_us && in->precopy_us >= lim->precopy_limit_us;
}

void policy_decide(const struct policy_limits *lim, const struct policy_input *in, struct policy_result *ret)
{
	struct facts k = { .lim = lim, .in = in };

	assert(in->n >= 1 && lim->page_size);
	measure(ret, &k);

	if (lim->forced) {
		if (lim->mode != FERRY_MODE_STOP_AND_COPY && lim->postcopy_ok)
			verdict(ret, POLICY_POSTCOPY, "post-copy: switchover was asked for");
		else
			stop_now(ret, &k, "switchover was asked for");
	} else if (lim->mode == FERRY_MODE_POSTCOPY) {
		decide_postcopy(ret, &k);
	} else if (!k.dirty) {
		stop_now(ret, &k, "nothing is dirty");
	} else if (ret->expected_downtime_us <= lim->downtime_us) {
		decide_fits(ret, &k);
	} else {
		decide_too_long(ret, &k);
	}
	ret->predicted_us = ret->verdict == POLICY_STOP_AND_COPY ? ret->expected_downtime_us
			    : ret->verdict == POLICY_POSTCOPY	 ? add_sat(in->fixed_us, round_trips(in, 1))
								 : 0;
}
