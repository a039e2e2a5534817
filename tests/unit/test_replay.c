/* SPDX-License-Identifier: MIT */
/* The recorded rounds of bench/micro/scenarios through the policy: each comes to the verdict that its file says. */
#include <criterion/criterion.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/micro/trace.h"

#define SCENARIOS FERRY_SOURCE_DIR "/bench/micro/scenarios/*.json"

static struct trace *load(const char *file)
{
	struct trace *t = malloc(sizeof(*t));
	char why[512] = "";

	cr_assert(t);
	cr_assert_eq(trace_read(t, file, why, sizeof(why)), 0, "%s", why);
	return t;
}

Test(replay, each_recorded_trace_gets_its_verdict)
{
	glob_t g;

	cr_assert_eq(glob(SCENARIOS, 0, NULL, &g), 0);
	cr_expect(g.gl_pathc >= 12, "only %zu traces", g.gl_pathc);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct trace *t = load(g.gl_pathv[i]);
		struct replay r;

		cr_expect(t->expects && t->why[0] && t->name[0], "%s says no verdict, name or why",
			  g.gl_pathv[i]);
		cr_expect(!strcmp(t->origin, "model") ||
				  (!strcmp(t->origin, "recorded") && strstr(t->command, "rdma-migrate")),
			  "%s is neither a model nor recorded by a command", g.gl_pathv[i]);
		trace_replay(t, &r);
		cr_expect(t->verdict == r.result.verdict && t->after_rounds == r.rounds,
			  "%s: %s after %u rounds instead of %s after %u: %s", t->name,
			  verdict_name(r.result.verdict), r.rounds, verdict_name(t->verdict), t->after_rounds,
			  r.result.text);
		free(t);
	}
	globfree(&g);
}

Test(replay, a_stall_is_seen_within_two_rounds_of_the_last_new_low)
{
	unsigned stalls = 0;
	glob_t g;

	cr_assert_eq(glob(SCENARIOS, 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct trace *t = load(g.gl_pathv[i]);
		struct replay r;

		trace_replay(t, &r);
		if (strstr(r.result.text, "no longer shrinks")) {
			stalls++;
			cr_expect(r.since_low <= 2, "%s: %u rounds after its last low", t->name, r.since_low);
		}
		free(t);
	}
	cr_expect(stalls >= 4, "only %u traces stall", stalls);
	globfree(&g);
}

/* The run went the way that the policy of today goes: what it predicts is what was measured. */
Test(replay, predicted_downtimes_are_within_a_tenth_or_a_millisecond)
{
	unsigned compared = 0;
	glob_t g;

	cr_assert_eq(glob(SCENARIOS, 0, NULL, &g), 0);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		struct trace *t = load(g.gl_pathv[i]);
		uint64_t off, allowed;
		struct replay r;

		trace_replay(t, &r);
		if (t->downtime_us) {
			off = llabs((long long)(r.result.predicted_us - t->downtime_us));
			allowed = t->downtime_us / 10 > 1000 ? t->downtime_us / 10 : 1000;
			compared++;
			cr_expect(off <= allowed, "%s: predicted %lu us, measured %lu us", t->name,
				  (unsigned long)r.result.predicted_us, (unsigned long)t->downtime_us);
		}
		free(t);
	}
	cr_expect(compared >= 5, "only %u traces have a measured downtime", compared);
	globfree(&g);
}

Test(replay, what_is_no_trace_is_refused_with_a_sentence)
{
	static const char *const bad[] = {
		"",
		"[]",
		"{}",
		"{\"round_list\":[]}",
		"{\"round_list\":[{\"bytes\":-1}]}",
		"{\"mode\":\"fast\",\"round_list\":[{}]}",
		"{\"verdict\":\"post-copy\",\"after_rounds\":2,\"round_list\":[{}]}",
		"{\"verdict\":\"perhaps\",\"after_rounds\":1,\"round_list\":[{}]}",
		"{\"round_list\":[{\"duration_us\":4611686018427387904}]}",
		"{\"round_list\":[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]}",
	};
	struct trace *t = malloc(sizeof(*t));

	cr_assert(t);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		char name[] = "/tmp/traceXXXXXX", why[512] = "";
		int fd = mkstemp(name);

		cr_assert(fd >= 0 && write(fd, bad[i], strlen(bad[i])) == (ssize_t)strlen(bad[i]));
		close(fd);
		cr_expect_lt(trace_read(t, name, why, sizeof(why)), 0, "%s was taken", bad[i]);
		cr_expect(strstr(why, name), "%s", why);
		unlink(name);
	}
	free(t);
}
