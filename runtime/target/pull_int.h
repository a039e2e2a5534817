/* SPDX-License-Identifier: MIT */
/* What pull.c (faults, workers) and sweep.c (everything else of the residue) share; the theory is in pull.c. */
#ifndef FERRY_PULL_INT_H
#define FERRY_PULL_INT_H

#include "pull.h"
#include "runtime/base/pace.h"
#include "runtime/base/spin.h"
#include "runtime/memory/place.h"
#include "runtime/session/stats.h"
#include "transport/xport.h"

#define URGENT_MAX 64u		/* faults in flight */
#define URGENT_RUNS XPORT_RUNS_MAX /* at most every second piece of a huge page */
/*
 * Gets of the sweep on a data channel: asked for, being answered, being placed; and as many as a long link holds: one more
 * for each that came nearly as soon as the quickest ever did, so nothing waited before it, one less when they queue.
 */
#define SWEEP_DEPTH 3u
#define SWEEP_DEPTH_MAX 16u
/*
 * Pages a get of the sweep: between these two, as many as come in SWEEP_US, for a fault may wait behind them; no more than a
 * SWEEP_SHARE of what is left, so that few faults are on pages that are under way already; and than the limit pays in
 * SWEEP_PAID_US, for faults may be only so far ahead of it.
 */
#define SWEEP_LEAST 16u
#define SWEEP_PAGES 64u
#define SWEEP_US 300u
#define SWEEP_SHARE 512u
#define SWEEP_PAID_US 10000u

_Static_assert(URGENT_RUNS >= HUGE_PAGES / 2 && HUGE_PAGES * PAGE_BYTES <= XPORT_XFER_MAX, "one get for a huge page");

struct urgent_slot {
	bool used;
	unsigned n;	     /* runs in pull.want: what was claimed of it */
	struct page_run run; /* what is mapped at once: the page, or a huge page's */
	uint64_t since_ns; /* the fault */
	uint64_t asked_ns; /* on this link */
};

struct sweep_get {
	struct page_run run[SWEEP_PAGES];
	uint32_t pages;
	unsigned n;	 /* runs; 0: it is free */
	unsigned placed; /* of them, when it has come */
	uint64_t asked_us;
	uint8_t *buf;	 /* of the next one to be placed; unused where that is direct */
};

struct sweep { /* one data channel's */
	struct xport_chan *c;
	unsigned chan;
	struct page_cursor at;
	struct sweep_get get[SWEEP_DEPTH_MAX];
	unsigned flying; /* asked for and not here */
	unsigned came[SWEEP_DEPTH_MAX], ncame; /* which are here and not all placed, in the order of their coming */
	bool ended;
	uint64_t moved_us; /* when it last got anything, or asked with nothing in flight */
	uint32_t fit;	   /* pages that come in SWEEP_US, of late */
	unsigned depth;	   /* how many may fly */
	uint64_t least_us; /* the quickest get so far; 0: none */
};

struct pull {
	struct pull_param param;
	struct xport_link *link; /* of the last pull_start() */
	struct page_set todo;
	_Atomic uint64_t left;
	_Atomic bool stop;
	_Atomic bool released;
	_Atomic int loading; /* LOAD_* */
	_Atomic uint64_t hint; /* (region << 48 | page) + 1 of the last fault; 0: none since the sweep looked */
	int stop_fd;	       /* wakes worker 0 */
	int go_fd;	       /* opens the sweep */
	struct pace pace; /* charged for every get: faults and the sweep */
	struct spin spin;
	uint64_t expect_ns; /* worker 0: until then the answer to a fault is worth waiting for */
	struct page_run clean; /* worker 0: what is left to map around the last clean fault */
	struct urgent_slot slot[URGENT_MAX]; /* worker 0; kept over a reconnect */
	struct page_run (*want)[URGENT_RUNS]; /* for each slot */
	struct urgent_slot behind[URGENT_MAX]; /* faults on pages that were under way already */
	uint8_t *staging;      /* URGENT_MAX pages, then SWEEP_DEPTH_MAX * SWEEP_PAGES a data channel */
	size_t staging_len;
};

/* The bytes of a claimed run are here: give them to the VM, and account for it. Without wake: see place_run(). */
int pull_placed(struct pull *p, const struct page_run *run, const void *buf, bool wake);

/* Asks for at most max more gets, as far as the link takes them; how many it asked for. */
int sweep_ask(struct pull *p, struct sweep *w, unsigned max);
/* Receives what comes within wait_us; how many gets. */
int sweep_reap(struct sweep *w, uint64_t wait_us);
/* Places at most so many runs, and pages, of what has come; how many runs. */
int sweep_place(struct pull *p, struct sweep *w, unsigned max_runs, uint32_t max_pages);
int sweep_end(struct sweep *w);

#endif
