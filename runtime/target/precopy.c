// SPDX-License-Identifier: MIT
/*
 * The target's phases up to the switchover; target/switchover.c has the later ones.
 *
 * In pre-copy one worker per data channel runs the transport's serve(), which lands what the source puts in
 * the exposed memory. Main does the rest: zero runs, round acknowledgements, the residue as it is named. A
 * worker ends when the source calls end() on its channel, before PREARM or SWITCHOVER.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "pull.h"
#include "target_int.h"
#include "runtime/link/link.h"
#include "runtime/link/listener.h"
#include "runtime/memory/mapping.h"
#include "runtime/session/arbitrate.h"
#include "runtime/session/config.h"
#include "runtime/session/endpoint.h"
#include "runtime/session/poison.h"

void target_destroy(struct ferry_session *s)
{
	pull_free(s->tgt.pull);
	place_close(&s->tgt.place);
	page_set_destroy(&s->tgt.missing);
	page_set_destroy(&s->tgt.named);
	page_set_destroy(&s->tgt.poison);
}

/* Checks the STATE received so far against the length and checksum that the source gives. */
int target_check_state(struct ferry_session *s, uint64_t len, uint64_t sum)
{
	if (s->stream.len != len || stream_sum(&s->stream) != sum)
		return fail(&s->fail, -EPROTO,
			    "%zu bytes of state with checksum %016" PRIx64
			    " have arrived; the source sent %" PRIu64 " with %016" PRIx64,
			    s->stream.len, stream_sum(&s->stream), len, sum);
	return 0;
}

static int append_state(struct ferry_session *s, const struct wire_msg *m)
{
	int err = stream_append(&s->stream, m->elems, m->nelems);

	if (err == -ENOMEM)
		return fail(&s->fail, err,
			    "no memory for the state that the source sends: %zu bytes have come",
			    s->stream.len);
	if (err < 0)
		return fail(&s->fail, err, "the source sends more than %u MiB of state", STREAM_MAX >> 20);
	return 0;
}

static int take_map(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_map map;

	memcpy(&map, m->body, sizeof(map));
	if (map.nregions != m->nelems || !map.nregions)
		return fail(&s->fail, -EPROTO, "the source's MAP says %u regions and has %zu", map.nregions,
			    m->nelems);
	if (map.flags & ~WIRE_MAP_FLAGS)
		return fail(&s->fail, -EPROTO, "the source's MAP has flags %#x; %#x are known", map.flags,
			    WIRE_MAP_FLAGS);
	if (map.flags & WIRE_SOURCE_POISON && !(s->link.features & WIRE_FEATURE_POISON))
		return fail(&s->fail, -EPROTO,
			    "the source's MAP announces POISON, which its HELLO did not offer");
	s->regions = calloc(m->nelems, sizeof(*s->regions));
	if (!s->regions)
		return fail(&s->fail, -ENOMEM, "no memory for a map of %zu regions", m->nelems);
	s->nregions = m->nelems;
	for (size_t i = 0; i < s->nregions; i++) {
		struct wire_region w;

		memcpy(&w, (const struct wire_region *)m->elems + i, sizeof(w));
		/* The VMM fills hva and fd later; placeholders let the rest pass its check now. */
		s->regions[i] = (struct ferry_region){ .gpa = w.gpa,
						       .len = w.len,
						       .id = w.id,
						       .page_shift = w.page_shift,
						       .flags = w.flags,
						       .hva = (void *)(UINT64_C(1) << HUGE_SHIFT),
						       .fd = w.flags & FERRY_REGION_SHARED ? 0 : -1 };
		s->pages_total += w.len >> PAGE_SHIFT;
	}
	s->peer_can_poison = map.flags & WIRE_SOURCE_POISON;
	if (!!(map.flags & WIRE_SOURCE_ARBITER) != !!s->ops.arbiter)
		return fail(&s->fail, -EINVAL, ARBITER_ALONE, s->ops.arbiter ? "target" : "source");
	return target_check_state(s, map.needs_len, map.needs_sum);
}

static int call_reserve(struct ferry_session *s)
{
	struct ferry_region *was = calloc(s->nregions, sizeof(*was));
	int err;

	if (!was)
		return fail(&s->fail, -ENOMEM, "no memory for %zu regions", s->nregions);
	for (size_t i = 0; i < s->nregions; i++) {
		s->regions[i].hva = NULL;
		s->regions[i].fd = -1;
		was[i] = s->regions[i];
	}
	s->tgt.reserved = true;
	err = s->ops.reserve(s->vm, s->regions, s->nregions, &s->stream);
	for (size_t i = 0; i < s->nregions && err >= 0; i++) {
		const struct ferry_region *a = &was[i], *b = &s->regions[i];

		if (a->gpa != b->gpa || a->len != b->len || a->id != b->id ||
		    a->page_shift != b->page_shift || a->flags != (b->flags & ~FERRY_REGION_FOREIGN))
			err = fail(&s->fail, -EINVAL,
				   "reserve changed more than hva, fd, fd_offset, uffd and the flag FERRY_REGION_FOREIGN of region %u",
				   a->id);
	}
	free(was);
	if (err < 0)
		return op_stream_result(s, "reserve", err);
	err = config_reserved(s->regions, s->nregions, &s->fail);
	return err ? err : mapping_check(s->regions, s->nregions, true, &s->fail);
}

static int make_sets(struct ferry_session *s)
{
	int err = session_track(s, &s->tgt.missing, 1);

	if (!err)
		err = session_track(s, &s->tgt.named, 1);
	return err ? err : session_track(s, &s->tgt.poison, 1);
}

/*
 * Registers the memory that post-copy's gets land in: the second mapping of shared memory, and staging for
 * the rest. all: registers also what the source's puts were exposed to. Then the expose() that follows only
 * takes the source's access back; else the device would pin that memory anew, during the downtime.
 */
int target_lend(struct ferry_session *s, bool all)
{
	struct iovec *v = calloc(s->nregions + 1, sizeof(*v));
	int err = -ENOMEM;
	size_t n = 0;

	for (uint32_t i = 0; v && i < s->nregions; i++)
		if (all || place_direct(&s->tgt.place, i))
			v[n++] = (struct iovec){ all ? place_landing(&s->tgt.place, i)
						     : place_inbox(&s->tgt.place, i),
						 s->regions[i].len };
	if (v && s->tgt.pull)
		v[n++] = pull_staging(s->tgt.pull);
	if (v)
		err = s->link.x->ops->lend(s->link.x, v, n);
	free(v);
	return endpoint_exposed(s, err);
}

/* Finds out before pre-copy if post-copy will fail. In mode auto the source is told and does without it. */
static int try_postcopy(struct ferry_session *s)
{
	struct fail why = { 0 };
	int err;

	if (s->tgt.hello.mode == FERRY_MODE_STOP_AND_COPY)
		return 0;
	err = place_try(&s->tgt.place, &why);
	if (err < 0 && s->tgt.hello.mode == FERRY_MODE_POSTCOPY)
		return fail(&s->fail, err, "%s", fail_text(&why));
	s->tgt.no_postcopy = err < 0;
	if (err < 0)
		session_log(s, 4, fail_text(&why), "no-postcopy errno=%d", -err);
	return 0;
}

/* Call this when only the link can still fail, so that what the source's VMM is told stays true. */
static int say_reserved(struct ferry_session *s)
{
	struct wire_reserved r = { .flags = (s->ops.output_hold ? WIRE_CAN_HOLD : 0) |
					    (s->ops.arbiter ? WIRE_TARGET_ARBITER : 0) |
					    (s->tgt.place.poisons ? WIRE_TARGET_POISON : 0) |
					    (s->tgt.no_postcopy ? WIRE_NO_POSTCOPY : 0) };
	int err = 0;

	stream_destroy(&s->stream);
	if (s->ops.offer)
		err = STREAM_OP(s, offer, &s->stream);
	if (!err && s->stream.len > WIRE_OFFER_MAX)
		err = fail(&s->fail, -E2BIG, "offer: the VMM wrote %zu bytes; RESERVED carries %u",
			   s->stream.len, WIRE_OFFER_MAX);
	if (!err)
		err = link_send(s, WIRE_RESERVED, &r, sizeof(r), s->stream.buf, s->stream.len);
	stream_destroy(&s->stream);
	return err;
}

static int look(void *arg)
{
	return link_still(arg);
}

static void say_landing(struct ferry_session *s)
{
	const struct place *p = &s->tgt.place;

	pthread_mutex_lock(&s->view_lock);
	memcpy(s->stats.landing, p->landing, sizeof(s->stats.landing));
	s->stats.nlandings = p->nlandings;
	pthread_mutex_unlock(&s->view_lock);
	for (unsigned i = 0; i < p->nlandings; i++) {
		const struct ferry_landing *l = &p->landing[i];
		const char *memory = l->flags & FERRY_REGION_SHARED ? "shared" : "anonymous";
		const char *thp = l->flags & FERRY_REGION_THP ? "on" : "off";

		session_log(s, 6, NULL, "landing memory=%s thp=%s way=%s mapping_ns=%u kernel_ns=%u", memory,
			    thp, ferry_landing_name(l->way), l->mapping_ns, l->kernel_ns);
	}
}

static int reserve(struct ferry_session *s, const struct wire_msg *m)
{
	const struct place_look l = { look, s };
	const struct place_param param = { .pinned = s->link.x->caps & XPORT_PINS,
					   .one_sided = s->link.x->caps & XPORT_ONE_SIDED,
					   .way = s->cfg.landing,
					   .look = &l,
					   .slower = session_slower,
					   .slower_arg = s };
	int err = take_map(s, m);

	if (!err)
		err = config_regions(s->regions, s->nregions, &s->fail);
	if (!err &&
	    (err = s->link.x->ops->fits(s->link.x, (s->pages_total << PAGE_SHIFT) +
							   pull_staging_len(s->link.x->id.channels))) < 0)
		fail(&s->fail, err, "%s", link_why(s, err));
	if (!err)
		err = call_reserve(s);
	if (!err)
		err = make_sets(s);
	if (!err)
		err = place_open(&s->tgt.place, s->regions, s->nregions, &param, &s->fail);
	if (!err)
		say_landing(s);
	if (!err)
		err = try_postcopy(s);
	if (err)
		return err;
	/* Foreign memory: UFFDIO_API has been called for it already, without UFFD_FEATURE_POISON. */
	s->tgt.place.poisons = s->peer_can_poison && !s->tgt.place.foreign && poison_able(s);
	return say_reserved(s);
}

int target_reservation(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_msg m;
	int err;

	stream_init(&s->stream);
	do {
		err = link_expect(s, 1u << WIRE_STATE | 1u << WIRE_MAP, &m);
		if (!err && m.type == WIRE_STATE)
			err = append_state(s, &m);
	} while (!err && m.type == WIRE_STATE);
	if (!err)
		err = reserve(s, &m);
	*next = FERRY_PHASE_PRECOPY;
	return link_lost(s, err);
}

/* ---- pre-copy ---- */

static int land(void *arg, const struct page_run *runs, unsigned n, const void *data)
{
	struct ferry_session *s = arg;

	return place_land(&s->tgt.place, runs, n, data, &s->fail);
}

/* Once armed, no puts are allowed: the workers then only receive the end of each channel. */
static int land_start(struct ferry_session *s)
{
	int err;

	s->tgt.lander = (struct xport_lander){ land, s };
	err = endpoint_expose(s, s->tgt.armed ? XPORT_LOCAL : XPORT_PEER_WRITE);
	return err ? err : workers_start(&s->workers, endpoint_serve, s->link.x->id.channels, &s->fail);
}

/* Stops the workers, whether they land puts or pull. */
int target_workers_lost(struct ferry_session *s)
{
	if (s->tgt.pull)
		pull_stop(s->tgt.pull);
	return link_workers_lost(s);
}

/* The source has ended its puts: each channel's END is here or on its way. Waits, but only timeout_us. */
int target_puts_ended(struct ferry_session *s)
{
	uint64_t now = now_us(), end = now + s->cfg.timeout_us, n;
	struct pollfd p = { .fd = s->wake_fd, .events = POLLIN };
	bool busy;
	int err;

	for (; workers_busy(&s->workers) && !link_workers_failed(s) && now < end; now = now_us())
		if (poll(&p, 1, (int)((end - now) / 1000 < INT32_MAX ? (end - now) / 1000 + 1 : INT32_MAX)) >
			    0 &&
		    read(s->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
			break;
	busy = workers_busy(&s->workers); /* must be read before the workers' error: one may end in between */
	err = link_workers_failed(s);
	if (err < 0 && err != -EPIPE)
		return err;
	return err < 0 || busy ? target_workers_lost(s) : workers_join(&s->workers);
}

int target_check_run(struct ferry_session *s, const char *message, const struct page_run *run)
{
	uint64_t npages;

	if (run->region >= s->nregions)
		return fail(&s->fail, -EPROTO, "the source's %s names region number %u; its map has %zu",
			    message, run->region, s->nregions);
	npages = s->regions[run->region].len >> PAGE_SHIFT;
	if (run->npages && run->page < npages && run->npages <= npages - run->page)
		return 0;
	return fail(&s->fail, -EPROTO,
		    "the source's %s names pages %" PRIu64 "+%u of region %u, which its map does not have",
		    message, run->page, run->npages, s->regions[run->region].id);
}

/* A round may name each page once, so a peer cannot keep main busy for longer than all memory takes. */
static int check_zero(struct ferry_session *s, const struct page_run *run)
{
	int err = target_check_run(s, "ZERO", run);

	if (err < 0)
		return err;
	if (s->tgt.armed)
		return fail(&s->fail, -EPROTO, "the source sent ZERO after PREARM");
	s->tgt.zeroed += run->npages;
	if (s->tgt.zeroed > s->pages_total)
		return fail(&s->fail, -EPROTO,
			    "the source's ZEROs of one round name %" PRIu64 " pages; all memory has %" PRIu64,
			    s->tgt.zeroed, atomic_load(&s->pages_total));
	return 0;
}

/* The first piece of a run, up to the next multiple of PIECE_PAGES, so that no huge page is split. */
static uint32_t piece_of(const struct page_run *run)
{
	uint64_t n = PIECE_PAGES - run->page % PIECE_PAGES;

	return n < run->npages ? (uint32_t)n : run->npages;
}

/* *since: pages handled since the last link_still(). */
static int zero_run(struct ferry_session *s, struct page_run run, uint64_t *since)
{
	int err = 0;

	for (struct page_run piece = run; run.npages && !err;
	     run.page += piece.npages, run.npages -= piece.npages) {
		if (*since >= PIECE_PAGES && (err = link_still(s)) < 0)
			return err;
		piece.page = run.page;
		piece.npages = piece_of(&run);
		*since = *since < PIECE_PAGES ? *since + piece.npages : piece.npages;
		err = place_zero(&s->tgt.place, &piece, &s->fail);
		if (!err)
			count(&s->stats.zero, piece.npages);
	}
	return err;
}

static int zero_runs(struct ferry_session *s, const struct wire_msg *m)
{
	uint64_t since = 0;
	int err = 0;

	for (size_t i = 0; i < m->nelems && !err; i++) {
		struct page_run run;

		memcpy(&run, (const struct page_run *)m->elems + i, sizeof(run));
		err = check_zero(s, &run);
		if (!err)
			err = zero_run(s, run, &since);
	}
	return err;
}

/* Drops the pages named since the last call, so that access faults. After a lost link all are named again. */
int target_drop_named(struct ferry_session *s)
{
	struct page_cursor at = { 0 };
	int err;

	page_set_merge(&s->tgt.missing, &s->tgt.named);
	while ((err = place_drop(&s->tgt.place, &s->tgt.named, &at, &s->fail)) == 1)
		if ((err = link_still(s)) < 0)
			return err;
	page_set_clear(&s->tgt.named);
	return err;
}

static int new_pull(struct ferry_session *s)
{
	const struct pull_param param = { .place = &s->tgt.place,
					  .missing = &s->tgt.missing,
					  .poison = &s->tgt.poison,
					  .poisoned = &s->tgt.poisoned,
					  .regions = s->regions,
					  .nregions = s->nregions,
					  .channels = s->link.x->id.channels,
					  .timeout_us = s->cfg.timeout_us,
					  .poll_us = s->cfg.poll_us,
					  .stats = &s->stats,
					  .fail = &s->fail,
					  .s = s,
					  .wake = session_wake };

	return pull_new(&s->tgt.pull, &param);
}

static int pull_job(struct ferry_session *s, unsigned i)
{
	return pull_work(s->tgt.pull, i);
}

int target_pull_start(struct ferry_session *s)
{
	uint64_t bandwidth = s->cfg.bandwidth, peer = s->tgt.hello.bandwidth;

	pull_start(s->tgt.pull, s->link.x, peer && (!bandwidth || peer < bandwidth) ? peer : bandwidth);
	return workers_start(&s->workers, pull_job, s->link.x->id.channels, &s->fail);
}

/* Prepares post-copy while the VM still runs at the source. */
static int make_ready(struct ferry_session *s)
{
	int err = s->tgt.pull ? 0 : new_pull(s);

	/* The transport first gives up memory that will be dropped, or that it must not fault in. */
	if (!err)
		err = target_lend(s, false);
	if (!err)
		err = endpoint_expose(s, XPORT_LOCAL);
	/* Arm before dropping anything: khugepaged then leaves the dropped pages alone. */
	if (!err)
		err = place_arm(&s->tgt.place, &s->fail);
	s->tgt.armed = !err;
	return err ? err : target_pull_start(s);
}

static int prearm(struct ferry_session *s, const struct wire_msg *m)
{
	struct wire_count want, n;
	int err = 0;

	if (!s->tgt.pulling) {
		err = target_puts_ended(s);
		if (!err)
			err = make_ready(s);
		s->tgt.pulling = !err;
	}
	if (!err)
		err = target_drop_named(s);
	if (err < 0)
		return err;
	n.pages = page_set_count(&s->tgt.missing);
	memcpy(&want, m->body, sizeof(want));
	if (want.pages != n.pages)
		return fail(&s->fail, -EPROTO,
			    "the source's PREARM counts %" PRIu64 " pages; its RESIDUEs named %" PRIu64,
			    want.pages, n.pages);
	return link_send(s, WIRE_PREARMED, &n, sizeof(n), NULL, 0);
}

/* Rounds count up. After a reconnect the last one may end again, if its ROUND_ACK was lost. */
static int round_end(struct ferry_session *s, const struct wire_msg *m)
{
	uint32_t due = (uint32_t)atomic_load(&s->stats.round);
	struct wire_round r;

	memcpy(&r, m->body, sizeof(r));
	if (r.round != due && !(due && r.round == due - 1 && atomic_load(&s->stats.reconnects)))
		return fail(&s->fail, -EPROTO, "the source's ROUND_END is of round %u; %u was due", r.round,
			    due);
	if (r.round == due)
		count(&s->stats.steps, 1);
	s->tgt.least_left = 0;
	s->tgt.zeroed = 0;
	atomic_store(&s->stats.round, r.round + 1);
	return link_send(s, WIRE_ROUND_ACK, &r, sizeof(r), NULL, 0);
}

static int precopy_message(struct ferry_session *s, const struct wire_msg *m)
{
	switch (m->type) {
	case WIRE_ZERO:
		return zero_runs(s, m);
	case WIRE_ROUND_END:
		return round_end(s, m);
	case WIRE_RESIDUE:
		return residue_recv(s, m, &s->tgt.named);
	case WIRE_PREARM:
		return prearm(s, m);
	case WIRE_POISON:
		return poison_recv(s, m);
	case WIRE_STATE:
		return append_state(s, m);
	case WIRE_SWITCHOVER:
		memcpy(&s->tgt.switchover, m->body, sizeof(s->tgt.switchover));
		return 1;
	default:
		return fail(&s->fail, -EPROTO, "the source sent %s in pre-copy", wire_name(m->type));
	}
}

/* The source sends again everything that was in flight when the link was lost. */
static int land_again(struct ferry_session *s)
{
	s->stream.len = 0;
	s->tgt.pulling = false;
	s->tgt.zeroed = 0;
	return land_start(s);
}

int target_precopy(struct ferry_session *s, enum ferry_phase *next)
{
	struct wire_msg m;
	int err = land_start(s);

	*next = FERRY_PHASE_STOP_AND_COPY;
	for (;;) {
		if (!err)
			err = link_recv(s, &m, DEADLINE_NONE);
		if (err == 1)
			err = precopy_message(s, &m);
		if (err == 1)
			return 0;
		if (!err)
			err = link_workers_failed(s);
		if (err == -EPIPE)
			err = endpoint_recover(s, target_workers_lost, land_again);
		if (err < 0 && err != -EPIPE)
			return err;
	}
}
