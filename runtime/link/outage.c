// SPDX-License-Identifier: MIT
/* How long a lost link is waited for, and the error if it does not come back. */
#include <errno.h>
#include <inttypes.h>

#include "outage.h"
#include "current.h"
#include "runtime/session/session.h"

uint64_t outage_window(const struct ferry_session *s)
{
	uint64_t window = s->cfg.reconnect_us, timeout = s->cfg.timeout_us;

	/* The target waits longer: the source may notice the loss last, and must not find the target gone. */
	if (!s->is_source && !(s->cfg.flags & FERRY_CONFIG_NO_RECONNECT)) {
		/*
		 * A target in doubt that lacks pages must give up before its source (below). So it waits by
		 * the source's reconnect_us even if its own is longer: the source does not know that one.
		 */
		if (s->tgt.hello.reconnect_us > window ||
		    (s->residue && commit_get(&s->commit) == COMMIT_PREPARED))
			window = s->tgt.hello.reconnect_us;
		if (s->tgt.hello.timeout_us > timeout)
			timeout = s->tgt.hello.timeout_us;
		window = window ? window + timeout : 0;
	}
	/*
	 * A source that has decided, and does not know whether a target that lacks pages heard COMMIT, lets
	 * the target give up first: then the arbiter has what the target recorded.
	 */
	if (s->is_source && s->residue && !s->committed && s->ops.arbiter &&
	    commit_get(&s->commit) == COMMIT_DECIDED)
		window += 2 * (s->cfg.timeout_us + atomic_load(&s->link.peer_timeout_us));
	return window;
}

static uint64_t progress(const struct ferry_session *s)
{
	uint64_t steps = atomic_load(&s->stats.steps);

	return s->is_source ? steps : steps + atomic_load(&s->stats.pages) + atomic_load(&s->stats.zero);
}

/*
 * The time by which the link must be back. An outage begins with the first loss since the last progress. A
 * link that outlasts the time to notice that it carries nothing ends it, too: then that link was good, and
 * only a slow op of the peer kept progress away.
 */
uint64_t outage_until(struct ferry_session *s, uint64_t window)
{
	uint64_t reached = progress(s), now = now_us(), until;

	if (!s->link.outage.since_us || s->link.outage.progress != reached ||
	    (s->link.outage.back && now - s->link.outage.back_us > 4 * s->cfg.timeout_us)) {
		s->link.outage.since_us = now;
		s->link.outage.progress = reached;
		s->link.outage.back = 0;
	}
	until = s->link.outage.since_us + window;
	if (s->link.outage.back) /* noticing that a link carries nothing takes a timeout */
		until += s->cfg.timeout_us;
	/* The hold limit also counts while the link is down: held output keeps piling up. */
	if (s->tgt.hold_until_us && s->tgt.hello.at_hold_limit == FERRY_HOLD_FALLBACK &&
	    commit_get(&s->commit) == COMMIT_OPEN && s->tgt.hold_until_us < until)
		until = s->tgt.hold_until_us;
	return until;
}

/* Pages that should have come while the link was up. In pre-copy a target knows the number from PINGs. */
static uint64_t pages_due(const struct ferry_session *s)
{
	if (s->phase == FERRY_PHASE_POSTCOPY)
		return atomic_load(&s->stats.remaining);
	if (s->phase != FERRY_PHASE_PRECOPY || s->src.reversed || s->tgt.pulling)
		return 0;
	return s->is_source ? page_set_count(&s->src.dirty) : atomic_load(&s->stats.peer_left);
}

int outage_final(struct ferry_session *s, uint64_t window, uint64_t silent)
{
	const char *peer = s->is_source ? "target" : "source", *phase = ferry_phase_name(s->phase);
	const char *last = *s->link.stranger ? s->link.stranger : fail_text(s->link.fail),
		   *why = s->link.lost_why;
	uint64_t ms = (now_us() - s->link.outage.since_us) / 1000, due = pages_due(s);
	const struct link_peer at = link_peer(s);

	if (s->link.outage.back && due && !*s->link.stranger)
		fail(&s->fail, -EPIPE,
		     "the link to the %s%s was lost in %s and came back %u times within %" PRIu64
		     " ms, and carried messages but no page, with %" PRIu64
		     " to go%s%s; packets of full size seem to be "
		     "lost on the way: " OUTAGE_COMPARE_MTU,
		     peer, at.text, phase, s->link.outage.back, ms, due, *why ? ": " : "", why);
	else if (s->link.outage.back && !*s->link.stranger)
		fail(&s->fail, -EPIPE,
		     "the link to the %s%s was lost in %s and came back %u times within %" PRIu64
		     " ms, and nothing that was waited for came%s%s; mend the network%s",
		     peer, at.text, phase, s->link.outage.back, ms, *why ? ": " : "", why, OUTAGE_SHORT_ONES);
	else
		fail(&s->fail, -EPIPE,
		     "the link to the %s%s was lost in %s and did not come back within %" PRIu64
		     " ms (last heard %" PRIu64 " ms before)%s%s%s%s",
		     peer, at.text, phase, window / 1000, silent / 1000, *why ? ": " : "", why,
		     *last ? "; at last: " : "", last);
	return LINK_GONE;
}
