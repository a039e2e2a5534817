// SPDX-License-Identifier: MIT
/*
 * The target from SWITCHOVER on.
 *
 *	commit at completion, residue	load, hold, resume, RUNNING; pull; PREPARED; COMMIT; activate, release
 *	commit at completion, none	load, PREPARED; COMMIT; activate, resume
 *	commit at switchover		load, PREPARED; COMMIT; activate, resume; pull; COMPLETE
 *
 * The workers that pull run from before load (which may touch guest memory) until no page is missing, across
 * phases; main only waits. Between PREPARED and the answer the VM may run tentatively. If the link is lost in
 * that time, the VM is paused: in doubt this end does not run it.
 */
#include <errno.h>
#include <inttypes.h>

#include "pull.h"
#include "target_int.h"
#include "runtime/link/link.h"
#include "runtime/session/arbitrate.h"
#include "runtime/session/endpoint.h"
#include "runtime/session/poison.h"

static int quiet_op(struct ferry_session *s, const char *name, int (*op)(void *vm))
{
	int err = op ? op(s->vm) : 0;

	if (err < 0)
		session_log(s, 3, NULL, "op-failed op=%s errno=%d", name, -err);
	return err;
}

static struct wire_times times(const struct ferry_session *s)
{
	struct wire_times t = s->tgt.times;
	const struct hist *h = &s->stats.fault_ns;

	t.faults = atomic_load(&s->stats.faults);
	t.fault_p50_ns = hist_quantile(h, 500);
	t.fault_p99_ns = hist_quantile(h, 990);
	t.fault_max_ns = atomic_load(&h->max);
	t.fault_total_ns = atomic_load(&h->sum);
	return t;
}

static int resume(struct ferry_session *s)
{
	uint64_t t = now_us();
	int err = OP(s, resume);

	s->tgt.times.resume_us = now_us() - t;
	s->tgt.running = !err;
	return err;
}

/* Reports first: the background fetch, which starts then, would keep both ends' main threads from a core. */
static int say_running(struct ferry_session *s, enum wire_type type)
{
	struct wire_times t = times(s);
	int err = 0;

	if (type == WIRE_COMMITTED)
		link_send_or_end(s, type, &t, sizeof(t));
	else
		err = link_send(s, type, &t, sizeof(t), NULL, 0);
	if (s->tgt.pull)
		pull_release(s->tgt.pull);
	return err;
}

static int load(struct ferry_session *s)
{
	int err;

	if (s->tgt.pulling && !pull_loading(s->tgt.pull))
		return -EPIPE;
	err = s->ops.load(s->vm, &s->stream);
	if (s->tgt.pulling && !pull_loaded(s->tgt.pull))
		return -EPIPE;
	return op_stream_result(s, "load", err);
}

/* The VM runs here while the source can still take it back; its output is held. */
static int start_tentative(struct ferry_session *s)
{
	int err = OP(s, output_hold);

	if (err < 0)
		return err;
	s->tgt.held = true;
	err = resume(s);
	if (err < 0)
		return err;
	err = say_running(s, WIRE_RUNNING);
	if (s->tgt.hello.hold_limit_us)
		s->tgt.hold_until_us = now_us() + s->tgt.hello.hold_limit_us;
	return err == -EPIPE ? 0 : err; /* the next receive meets it, too, and recovers */
}

/* After PREARM the run is tentative, even if no page is missing in the end. */
static bool tentative(const struct ferry_session *s)
{
	return s->tgt.pulling && s->tgt.switchover.commit_at == FERRY_COMMIT_AT_COMPLETE;
}

static int check_switchover(struct ferry_session *s, uint64_t left)
{
	const struct wire_switchover *w = &s->tgt.switchover;

	/* Once armed, load and the VM fault whatever was named: a running pull must serve the faults. */
	if (w->residue != left || ((left || s->tgt.armed) && !s->tgt.pulling) ||
	    (w->commit_at != FERRY_COMMIT_AT_COMPLETE && w->commit_at != FERRY_COMMIT_AT_SWITCHOVER))
		return fail(&s->fail, -EPROTO,
			    "the source's SWITCHOVER leaves %" PRIu64
			    " pages and commits at %u; its RESIDUEs named %" PRIu64 "%s",
			    w->residue, w->commit_at, left, s->tgt.pulling ? "" : " and no PREARM came");
	if (tentative(s) && !s->ops.output_hold)
		return fail(&s->fail, -EPROTO,
			    "the source asks for a tentative run, and output cannot be held here; give the target output_hold and "
			    "output_release, or commit at the switchover");
	return target_check_state(s, w->state_len, w->state_sum);
}

int target_stop_and_copy(struct ferry_session *s, enum ferry_phase *next)
{
	uint64_t left, t[3];
	int err = s->tgt.pulling ? 0 : target_puts_ended(s);

	t[0] = now_us();
	/* The source writes no more. Pages named without PREARM are still pinned, and are refused below. */
	if (!err && !s->tgt.armed && !(err = target_lend(s, true)))
		err = endpoint_expose(s, XPORT_LOCAL);
	if (!err && s->tgt.pulling)
		err = target_drop_named(s);
	left = page_set_count(&s->tgt.missing) + page_set_count(&s->tgt.named);
	if (!err)
		err = check_switchover(s, left);
	if (!err)
		err = poison_install(s);
	atomic_store(&s->stats.residue, left);
	atomic_store(&s->stats.remaining, left);
	if (!err && s->tgt.pulling)
		pull_residue(s->tgt.pull);
	t[1] = now_us();
	if (!err)
		err = load(s);
	t[2] = now_us();
	s->tgt.times.arm_us = t[1] - t[0];
	s->tgt.times.load_us = t[2] - t[1];
	*next = FERRY_PHASE_COMMITMENT;
	if (tentative(s)) {
		*next = FERRY_PHASE_POSTCOPY;
		if (!err)
			err = start_tentative(s);
	}
	return link_lost(s, err); /* no reconnect: before the VM has run here, the source resumes at once */
}

/* Stops the workers; in doubt, also pauses the VM. */
static int stop_in_doubt(struct ferry_session *s)
{
	int err = target_workers_lost(s);

	if (err == -EPIPE && commit_get(&s->commit) == COMMIT_PREPARED && s->tgt.running) {
		s->tgt.running = false;
		quiet_op(s, "pause", s->ops.pause);
	}
	return err;
}

static int pull_again(struct ferry_session *s)
{
	int err;

	if (!s->tgt.pull || pull_complete(s->tgt.pull))
		return 0;
	err = target_lend(s, false);
	if (!err)
		err = endpoint_expose(s, XPORT_LOCAL);
	return err ? err : target_pull_start(s);
}

/* Waits for a message, the workers, or the deadline. Recovers a lost link and continues the pull. */
static int next_message(struct ferry_session *s, struct wire_msg *m, uint64_t deadline_us)
{
	return endpoint_message(s, m, deadline_us, stop_in_doubt, pull_again);
}

/* The hold limit has passed. 0: commit early; an error: fall back. */
static int hold_limit(struct ferry_session *s)
{
	uint64_t left = atomic_load(&s->stats.remaining);

	if (s->tgt.hello.at_hold_limit == FERRY_HOLD_COMMIT) {
		session_event(s, FERRY_EVENT_POLICY,
			      "the hold limit has passed: committing with pages still at the source", NULL);
		return 0;
	}
	return fail(&s->fail, -ETIME,
		    "post-copy lasted longer than output may be held (%" PRIu64 " ms) with %" PRIu64
		    " pages to go; raise hold_limit_us or commit at the limit",
		    s->tgt.hello.hold_limit_us / 1000, left);
}

/* Every page is here: the workers end, and an error that one of them met no longer matters. */
static void end_pull(struct ferry_session *s)
{
	int err;

	pull_stop(s->tgt.pull);
	err = workers_join(&s->workers);
	if (err < 0)
		session_log(s, 4, NULL, "late-error errno=%d", -err);
	place_disarm(&s->tgt.place);
}

/* The VM is complete and owned here, whether or not the source knows: logs and forgets the error. */
static void no_goodbye(struct ferry_session *s)
{
	if (!fail_err(&s->fail))
		return;
	session_log(s, 4, fail_text(&s->fail), "no-goodbye");
	fail_forgive(&s->fail); /* ferry_get_detail() may have been called meanwhile */
}

static int finish_page_server(struct ferry_session *s)
{
	struct wire_times t;
	struct wire_msg m;
	int err = 0;

	while (!err && !pull_complete(s->tgt.pull)) {
		err = next_message(s, &m, DEADLINE_NONE);
		if (err < 0 && !pull_complete(s->tgt.pull))
			return err;
		err = err < 0 ? err : 0;
	}
	end_pull(s);
	if (err < 0) { /* the link was lost for good after the last page */
		no_goodbye(s);
		return 0;
	}
	t = times(s);
	link_send_or_end(s, WIRE_COMPLETE, &t, sizeof(t));
	target_await_bye(s, WIRE_COMPLETE);
	return 0;
}

int target_postcopy(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_msg m;
	int err = 0;

	if (commit_get(&s->commit) == COMMIT_DECIDED) {
		*next = FERRY_PHASE_DONE;
		return finish_page_server(s);
	}
	*next = FERRY_PHASE_COMMITMENT;
	while (!err && !pull_complete(s->tgt.pull)) {
		uint64_t until = s->tgt.hold_until_us;

		if (until && now_us() >= until) {
			err = hold_limit(s);
			break;
		}
		err = next_message(s, &m, until ? until : DEADLINE_NONE);
	}
	if (!err && pull_complete(s->tgt.pull))
		end_pull(s);
	return err;
}

/* We send PREPARED; it may be lost. Until COMMIT or ABORT arrives, this end is in doubt. */
int target_commitment(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_count n = { .pages = s->tgt.pull ? atomic_load(&s->stats.remaining) : 0 };
	struct wire_msg m;
	int err = 0;

	*next = FERRY_PHASE_ACTIVATION;
	s->residue = n.pages;
	if (atomic_load(&s->want_cancel))
		return fail(&s->fail, -ECANCELED, "canceled by the embedder before the commit");
	if (!commit_prepare(&s->commit))
		return fail(&s->fail, -ECANCELED, "the migration was given up before the commit");
	link_send_or_end(s, WIRE_PREPARED, &n, sizeof(n));
	/* After a reconnect HELLO_ACK repeats PREPARED. */
	while (err != 1 || m.type != WIRE_COMMIT) {
		err = next_message(s, &m, DEADLINE_NONE);
		if (err < 0)
			return err;
	}
	return commit_confirm(&s->commit)
		       ? 0
		       : fail(&s->fail, -EPROTO, "COMMIT has come after the migration was given up");
}

/* Waits for BYE; on each new link sends `again`. If the source does not come back, nothing changes. */
void target_await_bye(struct ferry_session *s, enum wire_type again)
{
	uint64_t patience = s->cfg.timeout_us + s->tgt.hello.timeout_us, until = now_us() + patience;
	struct wire_times t = times(s);
	struct wire_msg m;

	for (;;) {
		uint32_t generation = s->link.generation;
		int err = next_message(s, &m, until);

		if (err < 0 || (!err && now_us() >= until))
			break;
		if (err == 1 && m.type == WIRE_BYE) {
			s->bye = true;
			break;
		}
		if (s->link.generation != generation) {
			link_send_or_end(s, again, &t, sizeof(t));
			until = now_us() + patience;
		}
	}
	if (!s->bye)
		no_goodbye(s);
}

/* The VM is owned here for good: if an op fails, the embedder is told, and the owner stays. */
int target_activation(struct ferry_session *s, enum ferry_phase *next)
{
	int err = 0;

	quiet_op(s, "activate", s->ops.activate);
	if (!s->tgt.running)
		err = resume(s);
	if (s->tgt.held)
		quiet_op(s, "output_release", s->ops.output_release);
	if (err < 0)
		return err;
	say_running(s, WIRE_COMMITTED);
	if (s->residue) {
		*next = FERRY_PHASE_POSTCOPY;
		return 0;
	}
	*next = FERRY_PHASE_DONE;
	if (s->tgt.pull)
		end_pull(s);
	target_await_bye(s, WIRE_COMMITTED);
	return 0;
}

/*
 * Stops the vCPUs while their faults are still held, so that none continues with a page of zeros. Then
 * releases the faults, because KVM, when it destroys a VM, waits for the faults that its own workers took
 * over. The embedder destroys the VM after ferry_free().
 */
static void discard(struct ferry_session *s)
{
	s->tgt.running = false;
	if (s->tgt.reserved)
		quiet_op(s, "discard", s->ops.discard);
	s->tgt.reserved = false;
	target_workers_lost(s);
	place_disarm(&s->tgt.place);
}

/*
 * PREPARED, and no answer will come: the VM stays paused, its output held, until the arbiter tells. With
 * pages missing it could not run here, so this end gives it back instead of claiming it; if the source has
 * decided, the VM is lost.
 */
static void settle(struct ferry_session *s)
{
	enum ferry_owner is;

	if (s->tgt.running)
		quiet_op(s, "pause", s->ops.pause);
	s->tgt.running = false;
	target_workers_lost(s);
	if (s->residue &&
	    pull_complete(s->tgt.pull)) /* the rest came after PREPARED: this end can run alone */
		s->residue = 0;
	arbitrate(s, commit_claim(&s->commit, s->residue), &is);
	if (is == FERRY_OWNER_TARGET)
		commit_confirm(&s->commit);
	else if (is == FERRY_OWNER_SOURCE)
		commit_abort(&s->commit);
}

/* The arbiter has named this end as the owner. */
static void take_over(struct ferry_session *s, struct ferry_result *res)
{
	place_disarm(&s->tgt.place);
	quiet_op(s, "activate", s->ops.activate);
	if (resume(s) < 0) { /* as after a COMMIT: the owner's VM cannot run */
		discard(s);
		return;
	}
	if (s->tgt.held)
		quiet_op(s, "output_release", s->ops.output_release);
	res->outcome = FERRY_OUTCOME_MIGRATED;
}

void target_fail(struct ferry_session *s, struct ferry_result *res)
{
	bool heard = s->link.peer_aborted, settled = false, told;

	if (commit_get(&s->commit) == COMMIT_PREPARED && !heard) {
		settle(s);
		settled = true;
	}
	if (settled && commit_get(&s->commit) == COMMIT_PREPARED) {
		res->outcome = FERRY_OUTCOME_IN_DOUBT;
		res->owner = FERRY_OWNER_UNKNOWN;
		return;
	}
	if (commit_get(&s->commit) == COMMIT_DECIDED) {
		/* This end is the owner; the VM is lost if the rest of its memory cannot come. */
		res->outcome = FERRY_OUTCOME_LOST;
		res->owner = FERRY_OWNER_TARGET;
		if (settled && !s->residue)
			take_over(s, res);
		else
			discard(s);
		return;
	}
	commit_abort(&s->commit);
	told = !link_say_failed(s);
	discard(s);
	if (!told && !settled)
		link_tell_again(s);
	res->outcome = s->phase <= FERRY_PHASE_RESERVATION ? FERRY_OUTCOME_REFUSED : FERRY_OUTCOME_DISCARDED;
	res->owner = FERRY_OWNER_SOURCE;
}
