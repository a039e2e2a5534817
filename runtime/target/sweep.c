// SPDX-License-Identifier: MIT
/*
 * The background fetch (sweep): claims the pages that no fault has asked for, run by run from the last fault
 * on, and keeps as many gets in flight on each data channel as its link holds.
 */
#include <errno.h>
#include <string.h>

#include "pull_int.h"
#include "runtime/base/probe.h"

static uint8_t *sweep_buf(struct pull *p, unsigned chan, unsigned slot)
{
	return p->staging + (URGENT_MAX + (chan * SWEEP_DEPTH_MAX + slot) * SWEEP_PAGES) * PAGE_BYTES;
}

static void follow_hint(struct pull *p, struct page_cursor *at)
{
	uint64_t h = atomic_exchange_explicit(&p->hint, 0, memory_order_relaxed);

	if (!h)
		return;
	h--;
	*at = (struct page_cursor){ .region = (uint32_t)(h >> 48), .page = h & ((UINT64_C(1) << 48) - 1) };
}

static uint32_t clamp(uint64_t pages)
{
	return pages < SWEEP_LEAST ? SWEEP_LEAST : pages > SWEEP_PAGES ? SWEEP_PAGES : (uint32_t)pages;
}

static uint32_t batch_pages(const struct pull *p, const struct sweep *w)
{
	uint64_t share = atomic_load_explicit(&p->left, memory_order_relaxed) / SWEEP_SHARE;
	uint64_t paid = p->pace.bandwidth ? p->pace.bandwidth / PAGE_BYTES * SWEEP_PAID_US / 1000000
					  : SWEEP_PAGES;

	share = share < w->fit ? share : w->fit;
	return clamp(share < paid ? share : paid);
}

/* Claims pages for one get; false if todo is empty. */
static bool claim_batch(struct pull *p, struct sweep *w, struct sweep_get *g)
{
	uint32_t most = batch_pages(p, w);
	struct page_cursor *at = &w->at;
	bool wrapped = at->region == 0 && at->page == 0;

	g->n = 0;
	g->pages = 0;
	while (g->pages < most) {
		if (page_set_claim(&p->todo, at, most - g->pages, &g->run[g->n])) {
			g->pages += g->run[g->n++].npages;
			continue;
		}
		if (g->n || wrapped)
			break;
		*at = (struct page_cursor){ 0 };
		wrapped = true;
	}
	return g->n > 0;
}

static int ask_batch(struct pull *p, struct sweep *w, unsigned slot)
{
	struct sweep_get *g = &w->get[slot];
	struct place *pl = p->param.place;
	uint8_t *buf = sweep_buf(p, w->chan, slot);
	void *dst[SWEEP_PAGES];

	g->buf = buf;
	g->placed = 0;
	for (unsigned i = 0; i < g->n; i++) {
		const struct page_run *r = &g->run[i];

		PROBE5(pull, p->param.s, p->param.regions[r->region].id, r->page, r->npages, 0);
		pace_charge(&p->pace, r->npages * PAGE_BYTES);
		dst[i] = place_direct(pl, r->region) ? place_inbox(pl, r->region) + r->page * PAGE_BYTES
						     : buf;
		buf += r->npages * PAGE_BYTES;
	}
	return w->c->ops->get(w->c, g->run, dst, g->n, slot);
}

int sweep_ask(struct pull *p, struct sweep *w, unsigned max)
{
	unsigned asked = 0;
	int err;

	if (!w->depth)
		w->depth = SWEEP_DEPTH;
	for (unsigned i = 0; i < SWEEP_DEPTH_MAX && w->flying < w->depth && asked < max; i++) {
		if (w->get[i].n)
			continue;
		if (asked && pace_debt(&p->pace))
			break;
		follow_hint(p, &w->at);
		if (!claim_batch(p, w, &w->get[i]))
			break;
		w->get[i].asked_us = now_us();
		if (!w->flying)
			w->moved_us = w->get[i].asked_us;
		w->flying++;
		asked++;
		err = ask_batch(p, w, i);
		if (err < 0)
			return err;
	}
	return (int)asked;
}

/* Adapts the depth to what the link holds without a queue (Brakmo, Peterson: TCP Vegas, 1995). */
static void suit_depth(struct sweep *w, uint64_t took_us)
{
	if (!w->least_us || took_us < w->least_us)
		w->least_us = took_us + 1;
	if (2 * took_us < 3 * w->least_us && w->depth < SWEEP_DEPTH_MAX)
		w->depth++;
	else if (took_us > 2 * w->least_us && w->depth > SWEEP_DEPTH)
		w->depth--;
}

int sweep_reap(struct sweep *w, uint64_t wait_us)
{
	uint32_t tag[SWEEP_DEPTH_MAX];
	uint64_t now, pages = 0;
	int n;

	if (!w->flying)
		return 0;
	n = w->c->ops->reap(w->c, tag, wait_us ? w->flying : 1, wait_us);
	if (n < 0)
		return n == -EAGAIN ? 0 : n;
	now = now_us();
	for (int k = 0; k < n; k++) {
		const struct sweep_get *g = &w->get[tag[k] % SWEEP_DEPTH_MAX];

		w->came[w->ncame++] = (unsigned)(g - w->get);
		pages += g->pages;
		suit_depth(w, now - g->asked_us);
		w->flying--;
	}
	w->fit = (w->fit + clamp(SWEEP_US * pages / (now - w->moved_us + 1)) + 1) / 2;
	w->moved_us = now;
	return n;
}

int sweep_place(struct pull *p, struct sweep *w, unsigned max_runs, uint32_t max_pages)
{
	unsigned done = 0;
	int err;

	while (done < max_runs && max_pages && w->ncame) {
		struct sweep_get *g = &w->get[w->came[0]];
		struct page_run *left = &g->run[g->placed], run = *left;

		if (run.npages > max_pages)
			run.npages = max_pages;
		if ((err = pull_placed(p, &run, g->buf, true)) < 0)
			return err;
		done++;
		max_pages -= run.npages;
		g->buf += run.npages * PAGE_BYTES;
		left->page += run.npages;
		left->npages -= run.npages;
		if (left->npages || ++g->placed < g->n)
			continue;
		g->n = 0;
		memmove(w->came, w->came + 1, --w->ncame * sizeof(w->came[0]));
	}
	return (int)done;
}

int sweep_end(struct sweep *w)
{
	w->ended = true;
	return w->c->ops->end(w->c);
}
