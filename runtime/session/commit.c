// SPDX-License-Identifier: MIT
/*
 * Who owns the VM: the one variable that decides it, and all its transitions.
 *
 *	source	OPEN -> DECIDED       commit_decide(): it never resumes after this
 *		OPEN -> ABORTED       commit_abort(): it never commits after this; it may resume
 *		DECIDED -> ABORTED    commit_revoke(): pages missing, the arbiter holds SOURCE; it may resume
 *	target	OPEN -> PREPARED      commit_prepare(): it must not drop the VM on its own any more
 *		PREPARED -> DECIDED   commit_confirm(): it is the owner; output may go out
 *		OPEN -> ABORTED       commit_abort(): it never runs again
 *		PREPARED -> ABORTED   commit_abort(): only on the source's ABORT, or the arbiter's word
 *
 * Invariant: the source leaves OPEN once. A target reaches DECIDED only through a COMMIT, which a source
 * sends only in DECIDED, or through an arbiter that holds TARGET, which it can hold only if no SOURCE was
 * recorded. A source that has an arbiter and has sent SWITCHOVER records SOURCE before it resumes, unless it
 * has heard the target's ABORT. So no order of lost messages and crashes lets the source resume while the
 * target reaches DECIDED, too.
 *
 * A target in doubt that lacks pages could not run alone. So it does not claim the VM but records SOURCE, and
 * is ABORTED by it. A source in DECIDED records TARGET, so it finds SOURCE only if such a target has given up
 * for good without COMMIT. Nothing else lets that source resume. A target in DECIDED never asks.
 */
#include <errno.h>

#include "commit.h"
#include "runtime/base/probe.h"

void commit_init(struct commit *c, bool source)
{
	c->source = source;
	atomic_init(&c->state, COMMIT_OPEN);
}

enum commit_state commit_get(const struct commit *c)
{
	return atomic_load(&c->state);
}

static bool move(struct commit *c, int from, int to)
{
	int expected = from;

	if (!atomic_compare_exchange_strong(&c->state, &expected, to))
		return false;
	PROBE3(commit, c->source, from, to);
	return true;
}

bool commit_decide(struct commit *c)
{
	return c->source && move(c, COMMIT_OPEN, COMMIT_DECIDED);
}

bool commit_abort(struct commit *c)
{
	if (commit_get(c) == COMMIT_ABORTED)
		return true;
	return move(c, COMMIT_OPEN, COMMIT_ABORTED) || move(c, COMMIT_PREPARED, COMMIT_ABORTED);
}

bool commit_revoke(struct commit *c)
{
	return c->source && move(c, COMMIT_DECIDED, COMMIT_ABORTED);
}

bool commit_prepare(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_PREPARED || move(c, COMMIT_OPEN, COMMIT_PREPARED));
}

bool commit_confirm(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_DECIDED || move(c, COMMIT_PREPARED, COMMIT_DECIDED));
}

enum ferry_owner commit_claim(const struct commit *c, uint64_t residue)
{
	if (c->source)
		return commit_get(c) == COMMIT_DECIDED ? FERRY_OWNER_TARGET : FERRY_OWNER_SOURCE;
	return residue ? FERRY_OWNER_SOURCE : FERRY_OWNER_TARGET;
}
