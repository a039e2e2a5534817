// SPDX-License-Identifier: MIT
/*
 * The source from the pause on.
 *
 *	stop-and-copy	pause, last fetch, save; SWITCHOVER ->	<- RUNNING	(commit at completion)
 *	post-copy	serves the target's gets		<- PREPARED
 *	commitment	commit_decide(), COMMIT ->		<- COMMITTED
 *	activation	retire, BYE ->
 *	post-copy	serves on				<- COMPLETE	(commit at switchover)
 *
 * Every failure before commit_decide() ends in source_fail(): commit_abort(), then the VM resumes here before
 * anything else is cleaned up. After it the VM resumes here only if the arbiter says that a target which
 * lacked pages has given up.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "poison.h"
#include "rounds.h"
#include "source_int.h"
#include "runtime/link/link.h"
#include "runtime/session/arbitrate.h"
#include "runtime/session/endpoint.h"
#include "runtime/session/missing.h"

/* The first worker also serves the faults. */
static int serve_job(struct ferry_session *s, unsigned i)
{
	struct xport_link *l = s->link.x;
	struct xport_chan *c = l->ops->chan(l, XPORT_DATA, i);
	int err = i ? 0 : c->ops->pair(c, l->ops->chan(l, XPORT_URGENT, 0));

	return err ? err : endpoint_serve(s, i);
}

int source_serve(struct ferry_session *s)
{
	int err = endpoint_expose(s, XPORT_PEER_READ);

	return err ? err : workers_start(&s->workers, serve_job, s->link.x->id.channels, &s->fail);
}

static uint64_t up_to(uint64_t v, uint64_t max)
{
	return v < max ? v : max;
}

/*
 * Adds the target's times to those measured here; the rest of the total is the link's. Limits the target's
 * times so that the parts still sum up.
 */
static void note_times(struct ferry_session *s, const struct wire_msg *m)
{
	struct ferry_downtime *b = &s->stats.downtime;
	uint64_t left, now = now_us();
	struct wire_times t;

	memcpy(&t, m->body, sizeof(t));
	atomic_store(&s->stats.peer_faults, t.faults);
	atomic_store(&s->stats.fault_p50, t.fault_p50_ns);
	atomic_store(&s->stats.fault_p99, t.fault_p99_ns);
	atomic_store(&s->stats.fault_max, t.fault_max_ns);
	atomic_store(&s->stats.fault_total, t.fault_total_ns);
	if (m->type == WIRE_COMPLETE || b->total_us)
		return;
	pthread_mutex_lock(&s->view_lock);
	b->total_us = now - s->src.paused_at;
	left = b->total_us - up_to(b->pause_us + b->fetch_us + b->residue_us + b->save_us, b->total_us);
	left -= b->arm_us = up_to(t.arm_us, left);
	left -= b->load_us = up_to(t.load_us, left);
	left -= b->resume_us = up_to(t.resume_us, left);
	b->send_us = left;
	pthread_mutex_unlock(&s->view_lock);
}

/* Post-copy: names the rest of the residue. Otherwise starts sending the last pages, beside ops.save. */
static int begin_residue(struct ferry_session *s)
{
	if (s->src.reversed) {
		int err;

		page_set_subtract(&s->src.dirty, &s->src.residue);
		err = poison_sift(s, &s->src.dirty, false);
		if (err < 0)
			return err;
		page_set_merge(&s->src.residue, &s->src.dirty);
		return residue_send(s, &s->src.dirty);
	}
	return page_set_count(&s->src.dirty) ? rounds_start(s) : 0;
}

static int finish_residue(struct ferry_session *s)
{
	int err;

	if (s->src.reversed)
		return 0;
	err = s->workers.n ? rounds_finish(s, s->src.nrounds) : 0;
	if (!err)
		err = poison_ask(s);
	return err ? err : source_reverse(s);
}

static int send_switchover(struct ferry_session *s, bool postcopy)
{
	bool hold = s->peer_can_hold && s->cfg.commit_at != FERRY_COMMIT_AT_SWITCHOVER;
	struct wire_switchover w = { .residue = s->src.residue_pages,
				     .state_len = s->stream.len,
				     .state_sum = stream_sum(&s->stream),
				     .commit_at = !postcopy || hold ? FERRY_COMMIT_AT_COMPLETE
								    : FERRY_COMMIT_AT_SWITCHOVER };
	int err = source_send_state(s);

	if (!err)
		err = poison_send(s);
	if (err < 0)
		return err;
	s->src.switched = true;
	s->cfg.commit_at = w.commit_at;
	return link_send(s, WIRE_SWITCHOVER, &w, sizeof(w), NULL, 0);
}

uint64_t source_downtime_until(const struct ferry_session *s)
{
	return s->src.paused ? s->src.paused_at + s->cfg.switchover_limit_us : DEADLINE_NONE;
}

int source_stood_still(struct ferry_session *s, const char *why)
{
	if (now_us() < source_downtime_until(s))
		return 0;
	return fail(&s->fail, -ETIME,
		    "the VM has stood still for %" PRIu64 " ms and %s; raise switchover_limit_us",
		    s->cfg.switchover_limit_us / 1000, why);
}

int source_may_send(struct ferry_session *s)
{
	int err = link_still(s);

	return err ? err : source_stood_still(s, "the target takes what is sent too slowly");
}

/*
 * Waits for RUNNING or PREPARED. The VM is paused meanwhile, so no other message is accepted, and the wait is
 * limited whatever the target sends.
 */
static int await_in_downtime(struct ferry_session *s, enum wire_type type, struct wire_msg *m)
{
	char why[80];
	int err;

	snprintf(why, sizeof(why), "the target has not said %s: it takes too long there to load it",
		 wire_name(type));
	do {
		err = link_recv(s, m, source_downtime_until(s));
		if (!err)
			err = link_workers_failed(s);
		if (!err)
			err = source_stood_still(s, why);
	} while (!err);
	if (err == 1 && m->type != type)
		err = fail(&s->fail, -EPROTO, "the target sent %s where %s was due", wire_name(m->type),
			   wire_name(type));
	if (err < 0)
		return link_lost(s, err);
	if (type == WIRE_RUNNING)
		note_times(s, m);
	return 0;
}

int source_stop_and_copy(struct ferry_session *s, enum ferry_phase *next)
{
	struct ferry_downtime b = { 0 };
	bool postcopy = s->src.reversed;
	uint64_t t[6], fresh;
	struct wire_msg m;
	int err;

	t[0] = now_us();
	s->src.paused_at = t[0];
	s->src.paused = true; /* from here a fallback resumes, even if pause fails half-way */
	err = OP(s, pause);
	t[1] = now_us();
	if (!err)
		err = source_fetch(s, &s->src.dirty, FERRY_DIRTY_LAST, &fresh);
	t[2] = now_us();
	if (!err)
		err = begin_residue(s);
	t[3] = now_us();
	stream_destroy(&s->stream);
	stream_init(&s->stream);
	if (!err)
		err = OP(s, save, &s->stream);
	t[4] = now_us();
	if (!err)
		err = finish_residue(s);
	t[5] = now_us();
	s->src.residue_pages = postcopy ? page_set_count(&s->src.residue) : 0;
	if (!err)
		err = send_switchover(s, postcopy);
	if (err < 0)
		return link_lost(s, err); /* a reconnect would only prolong the downtime */
	b.pause_us = t[1] - t[0];
	b.fetch_us = t[2] - t[1];
	b.residue_us = t[3] - t[2] + t[5] - t[4];
	b.save_us = t[4] - t[3];
	pthread_mutex_lock(&s->view_lock);
	s->stats.downtime = b;
	pthread_mutex_unlock(&s->view_lock);
	atomic_store(&s->stats.residue, s->src.residue_pages);
	atomic_store(&s->stats.remaining, s->src.residue_pages);
	*next = FERRY_PHASE_COMMITMENT;
	if (!postcopy || s->cfg.commit_at != FERRY_COMMIT_AT_COMPLETE)
		return 0;
	*next = FERRY_PHASE_POSTCOPY;
	return await_in_downtime(s, WIRE_RUNNING, &m);
}

/*
 * Until the commit is decided the source can take the VM back, so it does not wait forever for a target that
 * it still hears: the target's heartbeat goes on while its main thread hangs, and the target may lie. Two
 * limits, pull_due() and hold_due(), depend on this end's configuration and the target's timeout_us, which
 * the handshake limits. The target's workers give up a link that brings no page within that timeout. So a
 * new low of pages_left comes within that time and a reconnect, and PREPARED as soon after the last page.
 * After the commit there is no limit: giving up would lose a VM that may only be slow.
 */
static bool may_give_up(const struct ferry_session *s)
{
	return s->phase == FERRY_PHASE_POSTCOPY && commit_get(&s->commit) == COMMIT_OPEN;
}

static uint64_t pull_due(const struct ferry_session *s)
{
	uint64_t theirs = atomic_load(&s->link.peer_timeout_us), own = s->cfg.timeout_us;

	return s->src.pulled_us + s->cfg.reconnect_us + 4 * (theirs > own ? theirs : own);
}

/*
 * At the hold limit the target ends the tentative run or sends PREPARED. Allow 2 * timeout_us more for its
 * message, or for detecting a silent link. If that link has come back, its message gets as long again, but
 * repeated losses extend the limit by no more than one reconnect.
 */
static uint64_t hold_due(const struct ferry_session *s)
{
	uint64_t word = 2 * s->cfg.timeout_us, due = s->src.hold_until_us + word,
		 most = due + s->cfg.reconnect_us + word;

	if (!s->src.hold_until_us)
		return DEADLINE_NONE;
	if (s->link.outage.back && s->link.outage.back_us + word > due)
		due = s->link.outage.back_us + word;
	return due < most ? due : most;
}

static uint64_t give_up_at(const struct ferry_session *s)
{
	uint64_t pull = pull_due(s), hold = hold_due(s);

	if (!may_give_up(s))
		return DEADLINE_NONE;
	return pull < hold ? pull : hold;
}

/* Call this when give_up_at() has passed. */
static int give_up(struct ferry_session *s)
{
	uint64_t now = now_us(), ms = (now - s->src.pulled_us) / 1000, left = s->src.least_left;

	if (now >= hold_due(s))
		return fail(&s->fail, -ETIME,
			    "output may be held for %" PRIu64
			    " ms (hold_limit_us), and the target, which is heard, has not "
			    "ended the tentative run at that limit; it hangs: see what its host does",
			    s->cfg.hold_limit_us / 1000);
	if (left)
		return fail(&s->fail, -ETIME,
			    "the target is heard but has fetched no page for %" PRIu64 " ms, with %" PRIu64
			    " to go; it hangs: see what its host does",
			    ms, left);
	return fail(&s->fail, -ETIME,
		    "the target is heard and has all pages, but has not said PREPARED for %" PRIu64
		    " ms; it hangs: see what its host does",
		    ms);
}

/* Does not count the time in which a device registers the memory again: nothing can be fetched then. */
static int serve_again(struct ferry_session *s)
{
	uint64_t back = now_us();
	int err = s->src.reversed ? source_serve(s) : 0;

	s->src.pulled_us += now_us() - back;
	s->link.outage.back_us += now_us() - back;
	return err;
}

/* Receives a message while the workers serve the target's gets. Recovers a lost link. */
static int next_message(struct ferry_session *s, struct wire_msg *m)
{
	uint32_t generation = s->link.generation;
	int err = endpoint_message(s, m, give_up_at(s), link_workers_lost, serve_again);

	if (!err && s->link.generation == generation && now_us() >= give_up_at(s))
		return give_up(s);
	return err;
}

/* Lets the VMM free the memory, after no device knows it any more. */
static void retire(struct ferry_session *s)
{
	int err;

	source_unexpose(s);
	err = s->ops.retire ? OP(s, retire) : 0;
	if (err < 0)
		session_log(s, 3, NULL, "op-failed op=retire errno=%d", -err);
}

static int page_server(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_msg m;
	int err;

	for (;;) {
		err = next_message(s, &m);
		if (err < 0)
			return err;
		if (err == 1 && m.type == WIRE_COMPLETE)
			break;
	}
	note_times(s, &m);
	link_send(s, WIRE_BYE, NULL, 0, NULL, 0);
	*next = FERRY_PHASE_DONE;
	link_workers_stop(s);
	retire(s);
	return 0;
}

static int note_prepared(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_count n;

	memcpy(&n, m->body, sizeof(n));
	if (n.pages > missing_max(s))
		return fail(&s->fail, -EPROTO,
			    "the target's PREPARED counts %" PRIu64 " pages as missing; at most %" PRIu64
			    " can be",
			    n.pages, missing_max(s));
	s->residue = n.pages;
	s->link.peer_commit = COMMIT_PREPARED;
	return 0;
}

int source_postcopy(struct ferry_session *s, enum ferry_phase *next)
{
	uint64_t now = now_us();
	struct wire_msg m;
	int err;

	s->src.pulled_us = now;
	s->src.least_left = missing_most(s);
	if (commit_get(&s->commit) == COMMIT_DECIDED)
		return page_server(s, next);
	s->src.hold_until_us = s->cfg.hold_limit_us ? now + s->cfg.hold_limit_us : 0;
	*next = FERRY_PHASE_COMMITMENT;
	for (;;) {
		err = next_message(s, &m);
		if (err < 0)
			return err;
		if (s->link.peer_commit == COMMIT_PREPARED)
			return 0;
		if (err == 1 && m.type == WIRE_PREPARED)
			return note_prepared(s, &m);
		if (err == 1)
			return fail(&s->fail, -EPROTO, "the target sent %s where PREPARED was due",
				    wire_name(m.type));
	}
}

/* For a commit at completion without residue, or at switchover: PREPARED comes within the downtime. */
static int await_prepared(struct ferry_session *s)
{
	struct wire_msg m;
	int err;

	if (s->link.peer_commit == COMMIT_PREPARED)
		return 0;
	err = await_in_downtime(s, WIRE_PREPARED, &m);
	return err ? err : note_prepared(s, &m);
}

int source_commitment(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_msg m;
	int err = await_prepared(s);

	if (err < 0)
		return err;
	if (atomic_load(&s->want_cancel))
		return fail(&s->fail, -ECANCELED, "canceled by the embedder before the commit");
	if (!commit_decide(&s->commit))
		return fail(&s->fail, -ECANCELED, "the migration was given up before the commit");
	link_send_or_end(s, WIRE_COMMIT, NULL, 0);
	for (;;) {
		uint32_t generation = s->link.generation;

		err = next_message(s, &m);
		if (err < 0)
			return err;
		if (err == 1 && m.type == WIRE_COMMITTED)
			break;
		if (s->link.peer_commit == COMMIT_DECIDED)
			goto committed;
		if (s->link.generation != generation)
			link_send_or_end(s, WIRE_COMMIT, NULL, 0);
	}
	note_times(s, &m);
committed:
	s->committed = true;
	*next = FERRY_PHASE_ACTIVATION;
	return 0;
}

/* Pre-copy is over for good: lifts the throttle and stops dirty tracking. */
static void stop_tracking(struct ferry_session *s)
{
	int err;

	if (s->src.throttle) {
		s->src.throttle = 0;
		err = s->ops.throttle(s->vm, 0);
		if (err < 0)
			session_log(s, 4, NULL, "op-failed op=throttle errno=%d", -err);
	}
	if (!s->src.tracking)
		return;
	s->src.tracking = false;
	err = s->ops.dirty_stop(s->vm);
	if (err < 0)
		session_log(s, 4, NULL, "op-failed op=dirty_stop errno=%d", -err);
}

int source_activation(struct ferry_session *s, enum ferry_phase *next)
{
	stop_tracking(s);
	if (s->residue) {
		*next = FERRY_PHASE_POSTCOPY;
		return 0;
	}
	*next = FERRY_PHASE_DONE;
	link_send(s, WIRE_BYE, NULL, 0, NULL, 0);
	if (s->workers.n)
		link_workers_stop(s);
	retire(s);
	return 0;
}

/* The VM continues from where it was paused. */
static void run_again(struct ferry_session *s, struct ferry_result *res)
{
	int err = s->ops.resume(s->vm);

	if (err < 0)
		session_log(s, 2, "the VM stands still at the source", "op-failed op=resume errno=%d", -err);
	res->outcome = FERRY_OUTCOME_FELL_BACK;
	res->owner = FERRY_OWNER_SOURCE;
}

/* The commit was decided, and no confirmation has come: only the arbiter can tell the owner. */
static void in_doubt(struct ferry_session *s, struct ferry_result *res)
{
	enum ferry_owner is;

	res->outcome = FERRY_OUTCOME_IN_DOUBT;
	res->owner = FERRY_OWNER_UNKNOWN;
	if (s->committed) {
		/* Confirmed, but now out of reach: the target owns a VM that lacks memory. */
		res->outcome = FERRY_OUTCOME_LOST;
		res->owner = FERRY_OWNER_TARGET;
		return;
	}
	if (arbitrate(s, FERRY_OWNER_TARGET, &is) < 0 || is == FERRY_OWNER_UNKNOWN)
		return;
	if (is == FERRY_OWNER_TARGET) {
		/* If memory is left that only this end has, the target cannot go on. */
		res->outcome = s->residue ? FERRY_OUTCOME_LOST : FERRY_OUTCOME_MIGRATED;
		res->owner = FERRY_OWNER_TARGET;
	} else if (s->residue && commit_revoke(&s->commit)) {
		run_again(s, res);
	}
}

/* The VM was paused. It resumes here unless the arbiter names the target or gives no answer. */
static void fall_back(struct ferry_session *s, struct ferry_result *res)
{
	enum ferry_owner is = FERRY_OWNER_SOURCE;

	/* A target that has sent ABORT never claims the VM. */
	if (s->src.switched && s->ops.arbiter && !s->link.peer_aborted)
		arbitrate(s, FERRY_OWNER_SOURCE, &is);
	if (is == FERRY_OWNER_SOURCE) {
		run_again(s, res);
		return;
	}
	link_workers_stop(s);
	res->outcome = is == FERRY_OWNER_TARGET ? FERRY_OUTCOME_MIGRATED : FERRY_OUTCOME_IN_DOUBT;
	res->owner = is;
}

/* The VM runs here again. Tells the target, which may be PREPARED and would stay in doubt. */
static void tell_target(struct ferry_session *s)
{
	bool told = !link_say_failed(s);

	link_workers_stop(s);
	if (!told)
		link_tell_again(s);
}

void source_fail(struct ferry_session *s, struct ferry_result *res)
{
	if (!commit_abort(&s->commit)) {
		link_workers_stop(s);
		stop_tracking(s);
		in_doubt(s, res);
	} else {
		res->outcome = FERRY_OUTCOME_REFUSED;
		res->owner = FERRY_OWNER_SOURCE;
		if (s->src.paused)
			fall_back(s, res);
		stop_tracking(s);
		if (res->owner == FERRY_OWNER_SOURCE)
			tell_target(s);
	}
	if (res->outcome == FERRY_OUTCOME_MIGRATED)
		retire(s);
}
