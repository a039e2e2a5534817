// SPDX-License-Identifier: MIT
/*
 * Pre-copy's inner loop: claim dirty pages, check that they can be read, drop zero pages, make runs, put.
 *
 * A worker takes guest memory piece by piece (an atomic ticket), so that neighbouring pages travel together.
 * It logs what it has put since its last fence; when the link is lost, the log goes back into the dirty set.
 * So a reconnect repeats at most one log per channel, not the round.
 *
 * A zero page crosses only if the target may hold something else (is_fresh()), in a run of a ZERO message on
 * the control channel. The ROUND_ACK at the end of the round confirms that the target has cleared these
 * pages.
 */
#include <errno.h>
#include <stdlib.h>

#include "rounds.h"
#include "poison.h"
#include "source_int.h"
#include "runtime/link/link.h"
#include "runtime/memory/zero.h"

#define TICKET_PAGES UINT64_C(4096) /* 16 MiB per ticket */
#define PUT_PAGES 256u		    /* 1 MiB per put */
#define LOG_RUNS 8192u
#define LOG_PAGES (UINT64_C(64) << 10) /* 256 MiB between fences */
/*
 * If a slow link breaks now and then, a long log would be sent again and again. So fence also after FENCE_US
 * plus FENCE_SHARE times what the last fence took; the share bounds the cost, as a fence drains a long link.
 */
#define FENCE_US 1000000u
#define FENCE_SHARE 16u
#define ZERO_RUNS 512u

struct sender {
	struct ferry_session *s;
	struct xport_chan *chan;
	struct page_run claimed[PUT_PAGES]; /* taken out of the dirty set, not examined yet; region: index */
	unsigned nclaimed;
	uint32_t claimed_pages;
	bool by_copy; /* examine each page in look[] */
	uint8_t *look;
	struct page_run put[PUT_PAGES]; /* region: index */
	unsigned nput;
	uint32_t put_pages;
	struct page_run zero[ZERO_RUNS];
	unsigned nzero;
	struct page_run *log;
	uint64_t fence_at_us;
	unsigned nlog;
	uint64_t log_pages;
};

_Static_assert(PUT_PAGES <= XPORT_RUNS_MAX && PUT_PAGES * PAGE_BYTES <= XPORT_XFER_MAX,
	       "a put fits the transport");
_Static_assert(ZERO_RUNS <= WIRE_RUNS_MAX, "a ZERO fits the wire");

static const uint8_t *page_at(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	return (const uint8_t *)s->regions[region].hva + page * PAGE_BYTES;
}

static int flush_zeros(struct sender *w)
{
	struct ferry_session *s = w->s;
	int err;

	if (!w->nzero)
		return 0;
	for (unsigned i = 0; i < w->nzero; i++)
		page_set_add_run(&s->src.zeros, &w->zero[i]);
	err = link_send(s, WIRE_ZERO, NULL, 0, w->zero, w->nzero * sizeof(w->zero[0]));
	w->nzero = 0;
	return err;
}

static int fence(struct sender *w)
{
	uint64_t begin = now_us();
	int err = w->chan->ops->fence(w->chan);

	if (!err) {
		if (w->nlog)
			count(&w->s->stats.steps, 1);
		w->fence_at_us = now_us();
		w->fence_at_us += FENCE_US + FENCE_SHARE * (w->fence_at_us - begin);
		w->nlog = 0;
		w->log_pages = 0;
	}
	return err;
}

static int flush_puts(struct sender *w)
{
	struct ferry_session *s = w->s;
	int err;

	if (!w->nput)
		return 0;
	memcpy(&w->log[w->nlog], w->put, w->nput * sizeof(w->put[0]));
	w->nlog += w->nput;
	w->log_pages += w->put_pages;
	err = w->chan->ops->put(w->chan, w->put, w->nput);
	if (err < 0)
		return err;
	count(&s->stats.bytes, w->put_pages * PAGE_BYTES);
	count(&s->stats.pages, w->put_pages);
	atomic_fetch_sub_explicit(&s->stats.remaining, w->put_pages, memory_order_relaxed);
	w->nput = 0;
	w->put_pages = 0;
	if (w->nlog + PUT_PAGES > LOG_RUNS || w->log_pages >= LOG_PAGES || now_us() >= w->fence_at_us)
		err = fence(w);
	return err;
}

static void mark_sent(struct ferry_session *s, uint32_t region, uint64_t page, uint32_t npages)
{
	for (uint64_t c = page / SENT_CHUNK; c <= (page + npages - 1) / SENT_CHUNK; c++)
		if (!page_set_test(&s->src.sent, region, c))
			page_set_add(&s->src.sent, region, c);
}

/*
 * The target's memory is fresh: a page that was never sent is zero there. No page comes twice in the first
 * round; later the chunk's bit in src.sent decides. A bit per page would take as much memory as the dirty
 * set, and only save a ZERO now and then.
 */
static bool is_fresh(const struct ferry_session *s, uint32_t region, uint64_t page)
{
	return !s->src.repeats || !page_set_test(&s->src.sent, region, page / SENT_CHUNK);
}

static int add_put(struct sender *w, uint32_t region, uint64_t page, uint32_t npages)
{
	struct page_run *last = w->nput ? &w->put[w->nput - 1] : NULL;

	mark_sent(w->s, region, page, npages);
	poison_read(w->s, &(struct page_run){ .region = region, .page = page, .npages = npages });
	if (last && last->region == region && last->page + last->npages == page)
		last->npages += npages;
	else
		w->put[w->nput++] = (struct page_run){ .region = region, .page = page, .npages = npages };
	w->put_pages += npages;
	return w->put_pages >= PUT_PAGES || w->nput == PUT_PAGES ? flush_puts(w) : 0;
}

static int add_zero(struct sender *w, uint32_t region, uint64_t page)
{
	struct page_run *last = w->nzero ? &w->zero[w->nzero - 1] : NULL;
	struct ferry_session *s = w->s;

	poison_read(s, &(struct page_run){ .region = region, .page = page, .npages = 1 });
	count(&s->stats.zero, 1);
	atomic_fetch_sub_explicit(&s->stats.remaining, 1, memory_order_relaxed);
	if (is_fresh(s, region, page))
		return 0;
	if (last && last->region == region && last->page + last->npages == page) {
		last->npages++;
		return 0;
	}
	w->zero[w->nzero++] = (struct page_run){ .region = region, .page = page, .npages = 1 };
	return w->nzero == ZERO_RUNS ? flush_zeros(w) : 0;
}

/* Adds a run that can be read, split into zero pages and others. */
static int add_run(struct sender *w, const struct page_run *run)
{
	uint32_t i = 0, from;
	int err = 0;

	while (i < run->npages && !err) {
		for (from = i;
		     i < run->npages && !is_zero(page_at(w->s, run->region, run->page + i), PAGE_BYTES); i++)
			;
		if (i > from)
			err = add_put(w, run->region, run->page + from, i - from);
		else
			err = add_zero(w, run->region, run->page + i++);
	}
	return err;
}

/* Adds a run page by page, from copies. If a filter forbids copies too, sends all pages unexamined. */
static int add_copied(struct sender *w, const struct page_run *run)
{
	int err = 0;

	for (uint32_t i = 0; i < run->npages && !err; i++) {
		uint64_t page = run->page + i;

		err = reach_copy(w->look, page_at(w->s, run->region, page), PAGE_BYTES);
		if (err == -EFAULT) {
			err = poison_unreadable(w->s, run->region, page);
			continue;
		}
		err = err || !is_zero(w->look, PAGE_BYTES) ? add_put(w, run->region, page, 1)
							   : add_zero(w, run->region, page);
	}
	return err;
}

/*
 * Examines the claimed runs. Asks the kernel for many runs at once whether they can be read (reach.h). If the
 * answer is no or unknown, examines them page by page.
 */
static int add_claimed(struct sender *w)
{
	struct iovec v[PUT_PAGES];
	bool copy = w->by_copy;
	int err = 0;

	for (unsigned i = 0; i < w->nclaimed; i++)
		v[i] = (struct iovec){ (void *)(uintptr_t)page_at(w->s, w->claimed[i].region,
								  w->claimed[i].page),
				       w->claimed[i].npages * PAGE_BYTES };
	if (!copy && w->nclaimed) {
		err = reach_readable(&w->s->src.reach, v, w->nclaimed);
		copy = err < 0;
		w->by_copy = err == -EINVAL || err == -EPERM || err == -ENOSYS;
		err = 0;
	}
	for (unsigned i = 0; i < w->nclaimed && !err; i++)
		err = copy ? add_copied(w, &w->claimed[i]) : add_run(w, &w->claimed[i]);
	if (err < 0)
		return err; /* hand_back() returns the runs */
	w->nclaimed = 0;
	w->claimed_pages = 0;
	return 0;
}

/* After an error: returns all pages that this worker has claimed and that may not have landed. */
static void hand_back(struct sender *w)
{
	struct page_set *dirty = &w->s->src.dirty;

	for (unsigned i = 0; i < w->nclaimed; i++)
		page_set_add_run(dirty, &w->claimed[i]);
	for (unsigned i = 0; i < w->nlog; i++)
		page_set_add_run(dirty, &w->log[i]);
	for (unsigned i = 0; i < w->nput; i++)
		page_set_add_run(dirty, &w->put[i]);
	for (unsigned i = 0; i < w->nzero; i++)
		page_set_add_run(dirty, &w->zero[i]);
}

static uint64_t pieces(const struct ferry_session *s, size_t region)
{
	return (s->regions[region].len / PAGE_BYTES + TICKET_PAGES - 1) / TICKET_PAGES;
}

/* Piece n, counted over all regions; a region begins with a new piece. */
static bool piece(const struct ferry_session *s, uint64_t n, struct page_cursor *at)
{
	for (size_t i = 0; i < s->nregions; i++) {
		uint64_t pages = s->regions[i].len / PAGE_BYTES;

		if (n < pieces(s, i)) {
			uint64_t end = (n + 1) * TICKET_PAGES;

			*at = (struct page_cursor){ .region = (uint32_t)i,
						    .page = n * TICKET_PAGES,
						    .end = end < pages ? end : pages };
			return true;
		}
		n -= pieces(s, i);
	}
	return false;
}

/* Takes the next piece that has dirty pages; false if there is none. No page becomes dirty during a round. */
static bool next_piece(struct ferry_session *s, struct page_cursor *at)
{
	uint64_t n = atomic_load(&s->src.ticket), found;
	struct page_run run;

	do {
		if (!piece(s, n, at))
			return false;
		at->end = 0;
		if (!page_set_next(&s->src.dirty, at, 1, &run))
			return false;
		found = run.page / TICKET_PAGES;
		for (size_t i = 0; i < run.region; i++)
			found += pieces(s, i);
	} while (!atomic_compare_exchange_weak(&s->src.ticket, &n, found + 1));
	return piece(s, found, at);
}

static int send_pieces(struct sender *w)
{
	struct ferry_session *s = w->s;
	struct page_cursor at;
	struct page_run run;
	int err = 0;

	while (!err && next_piece(s, &at)) {
		while (!err && page_set_claim(&s->src.dirty, &at, PUT_PAGES - w->put_pages - w->claimed_pages,
					      &run)) {
			w->claimed[w->nclaimed++] = run;
			w->claimed_pages += run.npages;
			if (w->put_pages + w->claimed_pages == PUT_PAGES)
				err = add_claimed(w);
		}
	}
	if (!err)
		err = add_claimed(w);
	if (!err)
		err = flush_puts(w);
	if (!err)
		err = flush_zeros(w);
	return err ? err : fence(w);
}

static int sender_job(struct ferry_session *s, unsigned i)
{
	struct sender *w = calloc(1, sizeof(*w));
	int err = -ENOMEM;

	if (w) {
		w->s = s;
		w->fence_at_us = now_us() + FENCE_US;
		w->chan = s->link.x->ops->chan(s->link.x, XPORT_DATA, i);
		w->log = malloc(LOG_RUNS * sizeof(w->log[0]));
		w->look = aligned_alloc(PAGE_BYTES, PAGE_BYTES);
		err = w->log && w->look ? send_pieces(w) : -ENOMEM;
		if (err < 0)
			hand_back(w);
		free(w->log);
		free(w->look);
	}
	if (err == -ENOMEM)
		fail(&s->fail, err, "no memory to send with");
	free(w);
	return err;
}

/* The VM is paused only in the last round. */
#define NO_END "the last round has not ended: the link is too slow for it, or the target hangs"

static int await_ack(struct ferry_session *s, struct wire_msg *m)
{
	int err;

	do {
		err = link_recv(s, m, source_downtime_until(s));
		if (!err)
			err = source_stood_still(s, NO_END);
	} while (!err);
	if (err < 0 || m->type == WIRE_ROUND_ACK)
		return err < 0 ? err : 0;
	return fail(&s->fail, -EPROTO, "the target sent %s where ROUND_ACK was due", wire_name(m->type));
}

/* All pages were put. Waits until the target confirms that the zero runs are done too. */
static int end_round(struct ferry_session *s, unsigned round)
{
	struct wire_round r = { .round = round };
	struct wire_msg m;
	uint64_t t0 = now_us();
	int err = link_send(s, WIRE_ROUND_END, &r, sizeof(r), NULL, 0);

	if (!err)
		err = await_ack(s, &m);
	if (err < 0)
		return err;
	s->src.ack_us = now_us() - t0;
	memcpy(&r, m.body, sizeof(r));
	if (r.round != round)
		return fail(&s->fail, -EPROTO, "the target acknowledged round %u; %u was due", r.round,
			    round);
	page_set_clear(&s->src.zeros);
	count(&s->stats.steps, 1);
	return 0;
}

int rounds_start(struct ferry_session *s)
{
	atomic_store(&s->src.ticket, 0);
	atomic_store(&s->stats.remaining, page_set_count(&s->src.dirty));
	return workers_start(&s->workers, sender_job, s->link.x->id.channels, &s->fail);
}

int rounds_finish(struct ferry_session *s, unsigned round)
{
	struct wire_msg m;
	int err = 0;

	while (!err && workers_busy(&s->workers)) {
		err = link_recv(s, &m, source_downtime_until(s));
		if (err > 0)
			err = fail(&s->fail, -EPROTO, "the target sent %s in the middle of a round",
				   wire_name(m.type));
		if (!err)
			err = link_workers_failed(s);
		if (!err)
			err = source_stood_still(s, NO_END);
	}
	if (!err) /* the last worker may have failed since */
		err = link_workers_failed(s);
	if (err < 0 && err != -EPIPE)
		return err;
	if (err < 0)
		err = link_workers_lost(s);
	else
		workers_join(&s->workers);
	if (!err)
		page_set_tidy(&s->src.dirty);
	if (!err)
		err = end_round(s, round);
	if (err == -EPIPE)
		page_set_move(&s->src.dirty, &s->src.zeros);
	s->src.repeats = true;
	return err;
}
