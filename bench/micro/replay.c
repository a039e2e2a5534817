// SPDX-License-Identifier: MIT
/*
 * Replays recorded rounds through runtime/session/policy.c: prints its verdict on each trace, or with
 * --rounds after each round. Exits 1 if a trace expects another verdict.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace.h"
#include "bench/cli/out.h"

static void print_rounds(const struct trace *t)
{
	struct policy_result res = { .verdict = POLICY_AGAIN };

	printf("%s (%s)\n", t->name, t->origin);
	for (uint32_t n = 1; n <= t->nrounds && res.verdict == POLICY_AGAIN; n++) {
		const struct ferry_round *r = &t->rounds[n - 1];

		trace_ask(t, n, &res);
		printf("  round %" PRIu32 ": %" PRIu64 " pages in %.1f ms, %" PRIu64
		       " dirty, %.0f MB/s: %s\n",
		       r->round, r->pages_sent, (double)r->duration_us / 1000, r->pages_dirty,
		       (double)res.throughput / 1e6, res.text);
	}
	printf("  why: %s\n", t->why);
}

static void print_row(const struct trace *t, const struct replay *r)
{
	const struct policy_result *p = &r->result;

	printf("%-34s %-14s %6" PRIu32, t->name, verdict_name(p->verdict), r->rounds);
	if (p->verdict == POLICY_POSTCOPY || p->verdict == POLICY_GIVE_UP)
		printf(" %9" PRIu32, r->since_low);
	else
		printf(" %9s", "-");
	printf(" %12.1f", (double)p->predicted_us / 1000);
	if (t->downtime_us)
		printf(" %12.1f", (double)t->downtime_us / 1000);
	else
		printf(" %12s", "-");
	printf("  %s\n", !t->expects						    ? ""
			 : t->verdict == p->verdict && t->after_rounds == r->rounds ? "as expected"
										    : "NOT AS EXPECTED");
}

static int usage(FILE *out, int status)
{
	fprintf(out,
		"replay [--rounds] TRACE...\n"
		"  replays recorded rounds through runtime/session/policy.c: bench/micro/scenarios/*.json, or output of rdma-migrate run --json\n");
	return status;
}

int main(int argc, char **argv)
{
	struct trace *t = malloc(sizeof(*t));
	bool rounds = argc > 1 && !strcmp(argv[1], "--rounds");
	int first = rounds ? 2 : 1, wrong = 0;
	char why[512];

	if (!t || argc <= first)
		return usage(stderr, 2);
	if (!strcmp(argv[1], "--help"))
		return out_close_stdout(usage(stdout, 0), 2);
	if (!rounds)
		printf("%-34s %-14s %6s %9s %12s %12s\n", "trace", "verdict", "rounds", "since low",
		       "predicted ms", "measured ms");
	for (int i = first; i < argc; i++) {
		struct replay r;

		if (trace_read(t, argv[i], why, sizeof(why)) < 0) {
			fprintf(stderr, "replay: %s\n", why);
			free(t);
			return 2;
		}
		trace_replay(t, &r);
		if (rounds)
			print_rounds(t);
		else
			print_row(t, &r);
		wrong += t->expects && (t->verdict != r.result.verdict || t->after_rounds != r.rounds);
	}
	free(t);
	return out_close_stdout(wrong ? 1 : 0, 2);
}
