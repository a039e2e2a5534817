/* SPDX-License-Identifier: MIT */
/*
 * A recorded pre-copy: the options, the measurements of each round, and the expected verdict of the policy.
 * One JSON object per file (bench/micro/scenarios), with the names that rdma-migrate --json uses.
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
	uint64_t downtime_us; /* the measured downtime; 0: not measured, or after another verdict */
	bool expects;	      /* the next two fields are set */
	enum policy_verdict verdict;
	uint32_t after_rounds;
	uint32_t nrounds;
	struct ferry_round rounds[TRACE_ROUNDS];
};

struct replay {
	struct policy_result result; /* the last verdict */
	uint32_t rounds;	     /* rounds until then */
	uint32_t since_low; /* of these, since the last new low: a dirty set a tenth below all before */
};

/* Reads a trace: 0, or a negative errno with a sentence in why. */
int trace_read(struct trace *t, const char *file, char *why, size_t cap);
/* Replays the rounds until the verdict is not "another round". */
void trace_replay(const struct trace *t, struct replay *ret);
/* The policy's verdict after the first n rounds. */
void trace_ask(const struct trace *t, uint32_t n, struct policy_result *ret);
const char *verdict_name(enum policy_verdict v);

#endif
