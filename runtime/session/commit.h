/* SPDX-License-Identifier: MIT */
/* Who owns the VM: the one variable that decides it. commit.c has its transitions. */
#ifndef FERRY_COMMIT_H
#define FERRY_COMMIT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "ferry/ferry.h"

/* Sent in HELLO_ACK: the numbers do not change. */
enum commit_state {
	COMMIT_OPEN = 0,     /* the source owns the VM, even during a tentative run at the target */
	COMMIT_PREPARED = 1, /* target only: PREPARED was sent, the answer has not arrived */
	COMMIT_DECIDED = 2,  /* source: COMMIT decided, never resumes; target: COMMIT received, owner */
	COMMIT_ABORTED = 3   /* source: resumed, will never commit; target: discarded, will never run */
};

struct commit {
	bool source;
	_Atomic int state;
};

void commit_init(struct commit *c, bool source);
enum commit_state commit_get(const struct commit *c);

/* Source: the point of no return. False unless OPEN: the migration was aborted first. */
bool commit_decide(struct commit *c);
/* Either end: from now on this migration can never commit here. False if it is decided already. */
bool commit_abort(struct commit *c);
/*
 * Source, decided: it may resume after all, because the arbiter holds SOURCE: only a target that lacked pages
 * and gave up can have recorded that.
 */
bool commit_revoke(struct commit *c);
/* Target: about to send PREPARED. False if aborted or decided. */
bool commit_prepare(struct commit *c);
/* Target: COMMIT has arrived, or the arbiter holds TARGET. False unless PREPARED or already the owner. */
bool commit_confirm(struct commit *c);

/* In doubt: the owner that this end may have an arbiter record. residue: pages missing at PREPARED. */
enum ferry_owner commit_claim(const struct commit *c, uint64_t residue);

#endif
