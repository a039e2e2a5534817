/* SPDX-License-Identifier: MIT */
/*
 * When to stop copying: a pure function from the measured rounds to a verdict and its sentence. It has no
 * clock and no state but its input, so recorded rounds can be replayed.
 */
#ifndef FERRY_POLICY_H
#define FERRY_POLICY_H

#include <stdbool.h>
#include <stdint.h>

#include "ferry/ferry.h"

#define POLICY_TEXT_MAX 256

enum policy_verdict {
	POLICY_AGAIN,	      /* another round */
	POLICY_STOP_AND_COPY, /* pause, send the residue in the downtime */
	POLICY_POSTCOPY,      /* pause, leave the residue to demand paging */
	POLICY_GIVE_UP	      /* the request cannot be met: leave the VM where it is */
};

struct policy_limits { /* what was asked for, with defaults */
	enum ferry_mode mode;
	bool postcopy_ok;  /* the target can run before the residue has arrived */
	bool forced;	   /* ferry_switchover() was called */
	bool can_throttle; /* the VMM can slow the guest */
	uint32_t throttle; /* percent by which it is slowed now */
	uint32_t max_rounds;
	uint64_t downtime_us;
	uint64_t precopy_limit_us;
	uint32_t page_size;
};

/* history[0..n-1], oldest first, n >= 1. The last one's .pages_dirty is the next round, or the residue. */
struct policy_input {
	const struct ferry_round *history;
	uint32_t n;
	uint64_t precopy_us;	  /* since pre-copy began */
	uint64_t fixed_us;	  /* expected downtime without residue and without a link */
	uint64_t rtt_us;	  /* a round trip on the link */
	uint64_t last_throughput; /* bytes/s, if the last rounds were too short to tell; 0: unknown */
};

struct policy_result {
	enum policy_verdict verdict;
	uint64_t throughput;	       /* bytes/s assumed */
	uint64_t dirty_rate;	       /* pages/s over the last round */
	uint64_t expected_downtime_us; /* if stop-and-copy began now */
	uint32_t throttle;	       /* percent by which to slow the guest from now on */
	uint64_t predicted_us;	       /* the downtime that this verdict leads to; 0: the VM is not paused */
	char text[POLICY_TEXT_MAX];    /* one sentence, with its values */
};

void policy_decide(const struct policy_limits *lim, const struct policy_input *in, struct policy_result *ret);

#endif
