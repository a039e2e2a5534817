// SPDX-License-Identifier: MIT
/*
 * docs/failure-model.md, row by row, for what tests/soak draws. Where two endings are right it is because the drill
 * strikes one end, and how far the other has come just then is chance.
 */
#include <stdio.h>
#include <string.h>

#include "soak.h"

static bool says(const struct run_report *r, enum vmm_end end, enum ferry_outcome what)
{
	return r->end[end].have_result && r->end[end].result.outcome == what;
}

enum ending ending_of(const struct run_report *r)
{
	if (says(r, VMM_END_SOURCE, FERRY_OUTCOME_LOST) || says(r, VMM_END_TARGET, FERRY_OUTCOME_LOST))
		return END_LOST;
	switch (r->owner) {
	case FERRY_OWNER_SOURCE:
		return END_SOURCE;
	case FERRY_OWNER_TARGET:
		return END_TARGET;
	case FERRY_OWNER_NONE:
		return END_DEAD;
	case FERRY_OWNER_UNKNOWN:
		break;
	}
	return END_DOUBT;
}

/* Pages may be missing at the commit: at switchover, or at the hold limit. */
static bool may_lack(const struct options *o)
{
	return o->mode != FERRY_MODE_STOP_AND_COPY &&
	       (o->commit_at == FERRY_COMMIT_AT_SWITCHOVER ||
		(o->hold_limit_us && o->hold_action == FERRY_HOLD_COMMIT));
}

/* The target pulls as soon as it runs: on a busy machine it has the last page before the source enters post-copy. */
static unsigned page_server_gone(void)
{
	return END_LOST | END_TARGET;
}

static unsigned link_cut(const struct options *o)
{
	switch (o->kill.phase) {
	case FERRY_PHASE_POSTCOPY: /* at the source: tentative, or a page server */
		return o->commit_at == FERRY_COMMIT_AT_SWITCHOVER ? page_server_gone() : END_SOURCE;
	case FERRY_PHASE_COMMITMENT: /* PREPARED lost in a downtime, else COMMIT lost */
		return END_SOURCE | (o->arbiter ? END_TARGET : END_DOUBT);
	case FERRY_PHASE_ACTIVATION: /* nothing but BYE, or the pages that are missing */
		return END_TARGET | (may_lack(o) ? END_LOST : 0);
	default:
		return END_SOURCE;
	}
}

/* Back before anybody has given up. */
static unsigned link_heals(const struct options *o)
{
	switch (o->kill.phase) {
	case FERRY_PHASE_RESERVATION:
	case FERRY_PHASE_STOP_AND_COPY:
		return END_SOURCE;
	case FERRY_PHASE_COMMITMENT: /* a downtime does not wait for PREPARED */
		return END_TARGET | END_SOURCE;
	default:
		return END_TARGET;
	}
}

static unsigned source_killed(const struct options *o)
{
	switch (o->kill.phase) {
	case FERRY_PHASE_POSTCOPY:
		return o->commit_at == FERRY_COMMIT_AT_SWITCHOVER ? page_server_gone() : END_DEAD;
	case FERRY_PHASE_COMMITMENT: /* before or after the target has said PREPARED */
		return END_DEAD | (o->arbiter ? END_TARGET : END_DOUBT);
	case FERRY_PHASE_ACTIVATION:
		return END_TARGET | (may_lack(o) ? END_LOST : 0);
	default:
		return END_DEAD;
	}
}

static unsigned target_killed(const struct options *o)
{
	switch (o->kill.phase) {
	case FERRY_PHASE_POSTCOPY:
		return o->commit_at == FERRY_COMMIT_AT_SWITCHOVER ? END_LOST : END_SOURCE;
	case FERRY_PHASE_ACTIVATION: /* COMMIT was heard, COMMITTED not sent */
		return o->arbiter ? END_DEAD | (may_lack(o) ? END_LOST : 0) : END_DOUBT;
	default:
		return END_SOURCE;
	}
}

static unsigned drilled_endings(const struct run_report *r)
{
	const struct kill_drill *k = &r->o->kill;

	if (!r->end[k->who == KILL_TARGET ? VMM_END_TARGET : VMM_END_SOURCE].drilled)
		return END_TARGET; /* it never came to that phase */
	switch (k->who) {
	case KILL_SOURCE:
		return source_killed(r->o);
	case KILL_TARGET:
		return target_killed(r->o);
	case KILL_LINK:
		return k->heal_ms ? link_heals(r->o) : link_cut(r->o);
	case KILL_NOBODY:
		break;
	}
	return END_TARGET;
}

unsigned expect_endings(const struct run_report *r)
{
	const struct options *o = r->o;
	unsigned set = drilled_endings(r);

	/* Stop-and-copy that does not fit the downtime gives up, and so does a hold that lasts too long. */
	if ((set & END_TARGET) && r->npolicy && !strncmp(r->policy[r->npolicy - 1], "gave up", 7))
		return END_SOURCE;
	if ((set & END_TARGET) && o->hold_limit_us && o->hold_action == FERRY_HOLD_FALLBACK)
		set |= END_SOURCE;
	return set;
}

const char *endings_text(char buf[100], unsigned set)
{
	static const char *const names[ENDINGS] = { "target", "source", "dead", "in doubt", "lost" };

	buf[0] = 0;
	for (unsigned i = 0; i < ENDINGS; i++)
		if (set & 1u << i)
			snprintf(buf + strlen(buf), 100 - strlen(buf), "%s%s", buf[0] ? " or " : "",
				 names[i]);
	return buf;
}
