/* SPDX-License-Identifier: MIT */
/*
 * A recorded pre-copy: what was asked, what each round measured, and the verdict that the policy is to come
 * to. One JSON object a file (bench/micro/scenarios), with the names that rdma-migrate --json uses.
 */
#ifndef BENCH_TRACE_H
#define BENCH_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/session/policy.h"

#define TRACE_ROUNDS 1000u

struct trace {
	char name[80], origin[16], command[400], why[800];
	struct policy_limits limits;
	uint64_t fixed_us, rtt_us;
	uint64_t blackout_us; /* as it was measured; 0: not, or by another verdict than the policy's */
	bool expects;	      /* the two below were given */
	enum policy_verdict verdict;
	uint32_t after_rounds;
	uint32_t nrounds;
	struct ferry_round rounds[TRACE_ROUNDS];
};

struct replay {
	struct policy_result result; /* the last one asked for */
	uint32_t rounds;	     /* after so many */
	uint32_t since_low; /* of them, since the dirty set last became smaller by a tenth than ever before */
};

/* 0, or a negative errno with a sentence in why. */
int trace_read(struct trace *t, const char *file, char *why, size_t cap);
/* The rounds one after the other, until the policy says something else than "another". */
void trace_replay(const struct trace *t, struct replay *ret);
/* The policy's answer after the first n rounds. */
void trace_ask(const struct trace *t, uint32_t n, struct policy_result *ret);
const char *verdict_name(enum policy_verdict v);

#endif
