/* SPDX-License-Identifier: MIT */
/* Who owns the VM: the one variable that decides it. */
#ifndef FERRY_COMMIT_H
#define FERRY_COMMIT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "ferry/ferry.h"

/* On the wire in HELLO_ACK: numbers do not change. */
enum commit_state {
	COMMIT_OPEN = 0,     /* the source owns the VM, whatever runs tentatively at the target */
	COMMIT_PREPARED = 1, /* target only: PREPARED was sent, the answer is not here */
	COMMIT_DECIDED = 2,  /* source: COMMIT decided, never resumes; target: COMMIT received, owner */
	COMMIT_ABORTED = 3   /* source: resumed, will never commit; target: discarded, will never run */
};

struct commit {
	bool source;
	_Atomic int state;
};

void commit_init(struct commit *c, bool source);
enum commit_state commit_get(const struct commit *c);

/* Source: the point of no return. False when the migration was aborted first (a cancel from another thread). */
bool commit_decide(struct commit *c);
/* Either: from now on this migration can never commit here. False when it is decided already. */
bool commit_abort(struct commit *c);
/* Source, decided: the arbiter holds SOURCE, which only a target that lacked pages and gave up can have recorded. */
bool commit_return(struct commit *c);
/* Target: about to send PREPARED. False when aborted. */
bool commit_prepare(struct commit *c);
/* Target: COMMIT has arrived, or the arbiter says so. False unless PREPARED (or already owner). */
bool commit_receive(struct commit *c);

/* In doubt: what this end may have an arbiter record. left: pages that PREPARED counted as missing. */
enum ferry_owner commit_claim(const struct commit *c, uint64_t left);

#endif
