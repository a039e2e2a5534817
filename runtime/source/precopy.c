// SPDX-License-Identifier: MIT
/*
 * The source's phases up to the switchover; source/switchover.c has the later ones.
 *
 *	reservation	needs, MAP ->			<- RESERVED, offer | REFUSED
 *	pre-copy	puts, ZERO, ROUND_END ->	<- ROUND_ACK		in each round
 *			RESIDUE.., PREARM ->		<- PREARMED		post-copy only, VM running
 *	stop-and-copy	RESIDUE.. | puts, STATE.., SWITCHOVER ->
 *
 * If the link is lost in pre-copy: join the workers, link_recover(), go on with the pages still dirty.
 * From the pause to SWITCHOVER a lost link ends the migration: the downtime must not wait for a network.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "poison.h"
#include "rounds.h"
#include "source_int.h"
#include "runtime/base/probe.h"
#include "runtime/link/link.h"
#include "runtime/memory/mapping.h"
#include "runtime/memory/populated.h"
#include "runtime/session/arbitrate.h"
#include "runtime/session/endpoint.h"

#define PREARM_PASSES 4u
#define PREARM_ENOUGH 64u /* pages; dropping so few costs 50 us of downtime: no reason for another pass */
#define FIXED_US 1200u	  /* downtime without residue and link: pause, save, load, resume */

int source_init(struct ferry_session *s)
{
	struct source_state *src = &s->src;
	struct page_set *set[] = { &src->dirty, &src->zeros, &src->residue, &src->lost, &src->poison };
	int err = 0;

	reach_open(&src->reach, true);
	for (size_t i = 0; i < sizeof(set) / sizeof(set[0]) && !err; i++)
		err = session_track(s, set[i], 1);
	if (!err)
		err = session_track(s, &src->sent, SENT_CHUNK);
	if (err < 0)
		return err;
	src->rounds = calloc(ROUNDS_MAX + 1, sizeof(src->rounds[0]));
	return src->rounds ? 0
			   : fail(&s->fail, -ENOMEM, "no memory to track %" PRIu64 " pages", s->pages_total);
}

void source_destroy(struct ferry_session *s)
{
	struct source_state *src = &s->src;

	reach_close(&src->reach);
	page_set_destroy(&src->dirty);
	page_set_destroy(&src->sent);
	page_set_destroy(&src->zeros);
	page_set_destroy(&src->residue);
	page_set_destroy(&src->lost);
	page_set_destroy(&src->poison);
	free(src->rounds);
}

/* Call this before the VMM may free its memory. */
void source_unexpose(struct ferry_session *s)
{
	link_wait_closed(s);
	if (s->link.x)
		s->link.x->ops->expose(s->link.x, NULL, 0, XPORT_LOCAL);
}

int source_send_state(struct ferry_session *s)
{
	const struct ferry_stream *st = &s->stream;
	int err = 0;

	for (size_t at = 0; at < st->len && !err; at += WIRE_STATE_CHUNK) {
		size_t n = st->len - at;

		err = source_may_send(s);
		if (!err)
			err = link_send(s, WIRE_STATE, NULL, 0, st->buf + at,
					n < WIRE_STATE_CHUNK ? n : WIRE_STATE_CHUNK);
	}
	return err;
}

static int send_map(struct ferry_session *s)
{
	struct wire_map m = { .nregions = (uint32_t)s->nregions,
			      .flags = (s->ops.arbiter ? WIRE_SOURCE_ARBITER : 0) |
				       (poison_able(s) ? WIRE_SOURCE_POISON : 0),
			      .needs_len = s->stream.len,
			      .needs_sum = stream_sum(&s->stream) };
	struct wire_region *r = calloc(s->nregions, sizeof(*r));
	int err;

	if (!r)
		return fail(&s->fail, -ENOMEM, "no memory for the map of %zu regions", s->nregions);
	for (size_t i = 0; i < s->nregions; i++)
		r[i] = (struct wire_region){ .id = s->regions[i].id,
					     .page_shift = s->regions[i].page_shift,
					     .flags = s->regions[i].flags,
					     .gpa = s->regions[i].gpa,
					     .len = s->regions[i].len };
	err = link_send(s, WIRE_MAP, &m, sizeof(m), r, s->nregions * sizeof(*r));
	free(r);
	return err;
}

static int take_offer(struct ferry_session *s, const struct wire_msg *m)
{
	int err;

	if (!s->ops.offered)
		return 0;
	stream_destroy(&s->stream);
	err = stream_append(&s->stream, m->elems, m->nelems);
	if (err < 0)
		return fail(&s->fail, err, "no memory for an offer of %zu bytes", m->nelems);
	return STREAM_OP(s, offered, &s->stream);
}

int source_reservation(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_reserved r;
	struct wire_msg m;
	int err = 0;

	stream_init(&s->stream);
	err = s->link.x->ops->fits(s->link.x, s->pages_total << PAGE_SHIFT);
	if (err < 0)
		return fail(&s->fail, err, "%s", link_why(s, err));
	if ((err = mapping_check(s->regions, s->nregions, false, &s->fail)) < 0)
		return err;
	if (s->ops.needs && (err = STREAM_OP(s, needs, &s->stream)) < 0)
		return err;
	if (!(err = source_send_state(s)) && !(err = send_map(s)))
		err = link_expect(s, 1u << WIRE_RESERVED, &m);
	if (err < 0)
		return link_lost(s, err);
	memcpy(&r, m.body, sizeof(r));
	if (r.flags & ~WIRE_RESERVED_FLAGS)
		return fail(&s->fail, -EPROTO, "the target's RESERVED has flags %#x; %#x are known", r.flags,
			    WIRE_RESERVED_FLAGS);
	if (!!(r.flags & WIRE_TARGET_ARBITER) != !!s->ops.arbiter)
		return fail(&s->fail, -EINVAL, ARBITER_ALONE, s->ops.arbiter ? "source" : "target");
	if (r.flags & WIRE_NO_POSTCOPY && s->cfg.mode != FERRY_MODE_AUTO)
		return fail(&s->fail, -EPROTO,
			    "the target's RESERVED does without post-copy, which is for mode auto; this is %s",
			    ferry_mode_name(s->cfg.mode));
	if (r.flags & WIRE_TARGET_POISON && !poison_able(s))
		return fail(&s->fail, -EPROTO,
			    "the target's RESERVED accepts POISON, which MAP did not announce");
	s->peer_can_hold = r.flags & WIRE_CAN_HOLD;
	s->peer_can_poison = r.flags & WIRE_TARGET_POISON;
	s->peer_no_postcopy = r.flags & WIRE_NO_POSTCOPY;
	if (s->peer_no_postcopy)
		session_log(s, 4,
			    "the target cannot do post-copy, its log says why; this migration is stop-and-copy only",
			    "no-postcopy");
	*next = FERRY_PHASE_PRECOPY;
	return take_offer(s, &m);
}

/* ---- pre-copy ---- */

/*
 * Adds pages written since the last fetch to set; *fresh: those that were not in it. After a round set is
 * empty, and the op fills it directly. At the pause set still holds pages: the op fills `zeros`, which is
 * empty between rounds, and the result is merged.
 */
int source_fetch(struct ferry_session *s, struct page_set *set, unsigned flags, uint64_t *fresh)
{
	struct page_set *into = flags & FERRY_DIRTY_LAST ? &s->src.zeros : set;
	uint64_t n = 0;

	*fresh = 0;
	for (uint32_t i = 0; i < s->nregions; i++) {
		int err = OP(s, dirty_fetch, s->regions[i].id, page_set_words(into, i),
			     s->regions[i].len >> PAGE_SHIFT, flags);

		n += page_set_trim(into, i); /* also on error: the op may have set bits */
		if (err < 0)
			return err;
	}
	*fresh = into == set ? n : page_set_move(set, into);
	return 0;
}

static int expose_for_puts(struct ferry_session *s)
{
	return endpoint_expose(s, XPORT_LOCAL);
}

static int begin_tracking(struct ferry_session *s)
{
	uint64_t populated = 0, n;
	int err = OP(s, dirty_start);

	if (err < 0)
		return err;
	s->src.tracking = true;
	for (size_t i = 0; i < s->nregions; i++) {
		err = populated_pages(&s->src.dirty, (uint32_t)i, &s->regions[i], &n);
		if (err < 0)
			return fail_cure(&s->fail, CURE_POPULATED, err,
					 "which pages of region %u are populated cannot be found",
					 s->regions[i].id);
		if (err > 0)
			session_slower(s, CURE_CALL, -err,
				       s->regions[i].flags & FERRY_REGION_SHARED
					       ? "all huge pages are read to find those in use, userfaultfd is refused"
					       : "the page table is read to find the pages in use, PAGEMAP_SCAN is refused");
		populated += n;
	}
	atomic_store(&s->stats.hole, s->pages_total - populated);
	/* Not earlier: if a device pins memory, all of it looks populated. Round 0 handles a lost link. */
	err = expose_for_puts(s);
	return err == -EPIPE ? 0 : err;
}

static int send_dirty(struct ferry_session *s, unsigned round)
{
	int err = rounds_start(s);

	return err ? err : rounds_finish(s, round);
}

/* Sends one round, with all its reconnects. */
static int send_round(struct ferry_session *s, unsigned round)
{
	int err;

	while ((err = send_dirty(s, round)) == -EPIPE) {
		err = endpoint_recover(s, link_workers_lost, expose_for_puts);
		if (err < 0 && err != -EPIPE)
			break;
	}
	return err;
}

static bool postcopy_ok(const struct ferry_session *s)
{
	if (s->peer_no_postcopy)
		return false;
	return s->cfg.commit_at == FERRY_COMMIT_AT_SWITCHOVER || s->peer_can_hold;
}

static void ask_policy(struct ferry_session *s, struct policy_result *v)
{
	struct policy_limits lim = { .mode = s->cfg.mode,
				     .postcopy_ok = postcopy_ok(s),
				     .forced = atomic_load(&s->want_switchover),
				     .can_throttle = s->ops.throttle,
				     .throttle = s->src.throttle,
				     .max_rounds = s->cfg.max_rounds,
				     .downtime_us = s->cfg.downtime_us,
				     .precopy_limit_us = s->cfg.precopy_limit_us,
				     .page_size = PAGE_BYTES };
	uint64_t us = atomic_load(&s->stats.round_us);
	struct policy_input in = { .history = s->src.rounds,
				   .n = s->src.nrounds,
				   .precopy_us = now_us() - s->phase_us[FERRY_PHASE_PRECOPY],
				   .fixed_us = FIXED_US,
				   .rtt_us = s->src.ack_us,
				   .last_throughput = us ? atomic_load(&s->stats.round_bytes) * 1000000 / us
							 : 0 };

	policy_decide(&lim, &in, v);
	atomic_store(&s->stats.dirty_rate, v->dirty_rate);
	atomic_store(&s->stats.predicted_us,
		     v->predicted_us < UINT32_MAX ? (uint32_t)v->predicted_us : UINT32_MAX);
}

static int throttle(struct ferry_session *s, const struct policy_result *v)
{
	if (v->throttle == s->src.throttle)
		return 0;
	s->src.throttle = v->throttle;
	session_event(s, FERRY_EVENT_POLICY, v->text, NULL);
	session_log(s, 6, v->text, "throttle percent=%u", v->throttle);
	return OP(s, throttle, v->throttle);
}

static int one_round(struct ferry_session *s, struct policy_result *v)
{
	struct stats *c = &s->stats;
	struct ferry_round *r = &s->src.rounds[s->src.nrounds];
	uint64_t t0 = now_us(), bytes = atomic_load(&c->bytes), zero = atomic_load(&c->zero), fresh;
	int err;

	*r = (struct ferry_round){ .round = s->src.nrounds };
	atomic_store(&c->round, s->src.nrounds);
	err = send_round(s, s->src.nrounds);
	if (!err)
		err = poison_ask(s);
	if (err < 0)
		return err;
	r->duration_us = now_us() - t0;
	r->bytes = atomic_load(&c->bytes) - bytes;
	r->pages_sent = r->bytes / PAGE_BYTES;
	r->pages_zero = atomic_load(&c->zero) - zero;
	count(&c->round_us, r->duration_us);
	count(&c->round_bytes, r->bytes);
	err = source_fetch(s, &s->src.dirty, 0, &fresh);
	if (err < 0)
		return err;
	r->pages_dirty = fresh;
	PROBE6(round, s, r->round, r->pages_sent, r->bytes, r->duration_us, r->pages_dirty);
	s->src.nrounds++;
	session_event(s, FERRY_EVENT_ROUND, NULL, r);
	ask_policy(s, v);
	session_log(s, 6, NULL,
		    "round round=%u pages_sent=%" PRIu64 " pages_zero=%" PRIu64 " duration_us=%" PRIu64
		    " pages_dirty=%" PRIu64,
		    r->round, r->pages_sent, r->pages_zero, r->duration_us, r->pages_dirty);
	return throttle(s, v);
}

static int check_prearmed(struct ferry_session *s, const struct wire_msg *m, uint64_t pages)
{
	struct wire_count n;

	memcpy(&n, m->body, sizeof(n));
	if (n.pages == pages)
		return 0;
	return fail(&s->fail, -EPROTO,
		    "the target's PREARMED counts %" PRIu64 " pages; %" PRIu64 " were named", n.pages, pages);
}

/*
 * While the VM still runs: names the pages that will be the residue, so that the target drops them now. The
 * next pass names what is dirtied meanwhile; each pass is shorter than the one before.
 */
static int prearm(struct ferry_session *s)
{
	struct page_set *dirty = &s->src.dirty, *residue = &s->src.residue;
	uint64_t fresh = UINT64_MAX;
	int err = 0;

	page_set_merge(dirty, residue); /* after a reconnect all are named again; one that is lost fails */
	for (unsigned pass = 0; pass < PREARM_PASSES && fresh >= PREARM_ENOUGH && !err; pass++) {
		struct wire_count n;
		struct wire_msg m;

		err = poison_sift(s, dirty, !pass);
		if (err < 0)
			return err;
		page_set_merge(residue, dirty);
		n.pages = page_set_count(residue);
		err = residue_send(s, dirty);
		if (!err)
			err = link_send(s, WIRE_PREARM, &n, sizeof(n), NULL, 0);
		if (!err)
			err = link_expect(s, 1u << WIRE_PREARMED, &m);
		if (!err)
			err = check_prearmed(s, &m, n.pages);
		if (!err) {
			page_set_clear(dirty);
			err = source_fetch(s, dirty, 0, &fresh);
			page_set_subtract(dirty, residue);
			fresh = page_set_count(dirty);
		}
	}
	return err;
}

int source_reverse(struct ferry_session *s)
{
	int err = 0;

	for (unsigned i = 0; i < s->link.x->id.channels && !err; i++) {
		struct xport_chan *c = s->link.x->ops->chan(s->link.x, XPORT_DATA, i);

		err = c->ops->end(c);
	}
	if (err == -ETIMEDOUT)
		err = -EPIPE;
	s->src.reversed = !err;
	return err;
}

static int prepare_postcopy(struct ferry_session *s)
{
	int err;

	for (;;) {
		err = source_reverse(s);
		if (!err)
			err = prearm(s);
		if (!err)
			err = source_serve(s);
		if (err != -EPIPE)
			return err;
		err = endpoint_recover(s, link_workers_lost, NULL);
		if (err < 0)
			return err;
	}
}

int source_precopy(struct ferry_session *s, enum ferry_phase *next)
{
	struct policy_result v = { .verdict = POLICY_AGAIN };
	int err = begin_tracking(s);

	while (!err && v.verdict == POLICY_AGAIN) {
		err = one_round(s, &v);
		if (!err && atomic_load(&s->want_cancel))
			err = fail(&s->fail, -ECANCELED, "canceled by the embedder in pre-copy");
	}
	if (err < 0)
		return err;
	session_event(s, FERRY_EVENT_POLICY, v.text, NULL);
	session_log(s, 6, v.text, "policy verdict=%d", v.verdict);
	if (v.verdict == POLICY_GIVE_UP)
		return fail(&s->fail, -ETIME, "%s", v.text);
	*next = FERRY_PHASE_STOP_AND_COPY;
	return v.verdict == POLICY_POSTCOPY ? prepare_postcopy(s) : 0;
}
