// SPDX-License-Identifier: MIT
/*
 * Who owns the VM. The one variable that decides it, and every arrow it may take:
 *
 *	source	OPEN -> DECIDED   commit_decide(): after this it never resumes
 *		OPEN -> ABORTED   commit_abort(): after this it never commits; it may resume
 *		DECIDED -> ABORTED  commit_return(): pages were missing, and the arbiter holds SOURCE; it may resume
 *	target	OPEN -> PREPARED  commit_prepare(): it may not forget the VM of its own accord any more
 *		PREPARED -> DECIDED   commit_receive(): owner; output may go out
 *		OPEN -> ABORTED       commit_abort(): it never runs again
 *		PREPARED -> ABORTED   commit_abort(): only on the source's ABORT, or the arbiter's word
 *
 * Invariant: the source leaves OPEN once. A target reaches DECIDED only through a COMMIT, which a source sends
 * only in DECIDED, or through an arbiter that holds TARGET, which it can only where no SOURCE was recorded; and
 * a source that has an arbiter and has sent SWITCHOVER records SOURCE before it resumes. So no schedule of lost
 * messages and deaths has the source resume and the target reach DECIDED both.
 *
 * A target in doubt that lacks pages then could not run alone: it does not claim the VM but records SOURCE, and is
 * ABORTED by it. A source in DECIDED records TARGET, so that it finds SOURCE only where such a target has given up
 * without COMMIT, for good: that, and nothing else, lets it resume. A target in DECIDED never asks.
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

bool commit_return(struct commit *c)
{
	return c->source && move(c, COMMIT_DECIDED, COMMIT_ABORTED);
}

bool commit_prepare(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_PREPARED || move(c, COMMIT_OPEN, COMMIT_PREPARED));
}

bool commit_receive(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_DECIDED || move(c, COMMIT_PREPARED, COMMIT_DECIDED));
}

enum ferry_owner commit_claim(const struct commit *c, uint64_t left)
{
	if (c->source)
		return commit_get(c) == COMMIT_DECIDED ? FERRY_OWNER_TARGET : FERRY_OWNER_SOURCE;
	return left ? FERRY_OWNER_SOURCE : FERRY_OWNER_TARGET;
}
