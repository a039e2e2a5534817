// SPDX-License-Identifier: MIT
/*
 * Who owns the VM. The one variable that decides it, and every arrow it may take:
 *
 *	source	OPEN -> DECIDED   commit_decide(): after this it never resumes
 *		OPEN -> ABORTED   commit_abort(): after this it never commits; it may resume
 *	target	OPEN -> PREPARED  commit_prepare(): it may not forget the VM of its own accord any more
 *		PREPARED -> DECIDED   commit_receive(): owner; output may go out
 *		OPEN -> ABORTED       commit_abort(): it never runs again
 *		PREPARED -> ABORTED   commit_abort(): only on the source's ABORT, or the arbiter's word
 *
 * Invariant: the source leaves OPEN once. A target reaches DECIDED only through a COMMIT, which a source sends
 * only in DECIDED, or through an arbiter that holds TARGET, which it can only where no SOURCE was recorded; and
 * a source that has an arbiter and has sent SWITCHOVER records SOURCE before it resumes. So no schedule of lost
 * messages and deaths has the source resume and the target reach DECIDED both.
 */
#include <errno.h>

#include "commit.h"
#include "session.h"

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
	return atomic_compare_exchange_strong(&c->state, &from, to);
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

bool commit_prepare(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_PREPARED || move(c, COMMIT_OPEN, COMMIT_PREPARED));
}

bool commit_receive(struct commit *c)
{
	return !c->source && (commit_get(c) == COMMIT_DECIDED || move(c, COMMIT_PREPARED, COMMIT_DECIDED));
}

enum ferry_owner commit_owner(const struct commit *c, bool done)
{
	switch (commit_get(c)) {
	case COMMIT_DECIDED:
		return !c->source || done ? FERRY_TARGET : FERRY_UNKNOWN;
	case COMMIT_PREPARED:
		return FERRY_UNKNOWN;
	case COMMIT_OPEN:
	case COMMIT_ABORTED:
		break;
	}
	return FERRY_SOURCE;
}

int commit_arbitrate(struct ferry_session *s, enum ferry_owner want, enum ferry_owner *is)
{
	int err;

	*is = FERRY_UNKNOWN;
	if (!s->ops.arbiter)
		return 0;
	err = s->ops.arbiter(s->vm, s->session, want, is);
	if (err < 0) {
		*is = FERRY_UNKNOWN;
		return fail(&s->fail, err, "arbiter: the embedder answered %d (%s)", err, strerror(-err));
	}
	if (*is != FERRY_SOURCE && *is != FERRY_TARGET)
		return fail(&s->fail, -EPROTO, "arbiter: answered owner %d; it must be source or target", *is);
	return 0;
}
