/* SPDX-License-Identifier: MIT */
/* Shared by pull.c (faults, workers), clean.c (clean pages) and sweep.c (background fetch); pull.c has the theory. */
#ifndef FERRY_PULL_INT_H
#define FERRY_PULL_INT_H

#include "pull.h"
#include "runtime/base/pace.h"
#include "runtime/base/spin.h"
#include "runtime/memory/place.h"
#include "runtime/session/stats.h"
#include "transport/xport.h"

#define URGENT_MAX 64u		   /* faults with a get in flight */
#define URGENT_RUNS XPORT_RUNS_MAX /* of a get for a huge page: at most every second piece */
/*
 * Gets in flight per data channel in the background fetch. At least one asked for, one being answered, one
 * being placed. A long link holds more: one more after a get that took less than 1.5 times the fastest
 * (nothing queued before it), one less after one that took more than twice the fastest.
 */
#define SWEEP_DEPTH 3u
#define SWEEP_DEPTH_MAX 16u
/*
 * Pages per get of the background fetch, within these bounds: as many as arrive in SWEEP_US, because a fault
 * may queue behind them; at most a SWEEP_SHARE of what is left, so that few faults hit pages in flight; and
 * at most what the bandwidth limit allows in SWEEP_PAID_US, because faults may exceed it only so far.
 */
#define SWEEP_LEAST 16u
#define SWEEP_PAGES 64u
#define SWEEP_US 300u
#define SWEEP_SHARE 512u
#define SWEEP_PAID_US 10000u

_Static_assert(URGENT_RUNS >= HUGE_PAGES / 2 && HUGE_PAGES * PAGE_BYTES <= XPORT_XFER_MAX,
	       "one get for a huge page");

struct urgent_slot {
	bool used;
	unsigned n;	     /* runs claimed for it, in pull.want */
	struct page_run run; /* the unit to be mapped: the page or its huge page */
	uint64_t since_ns;   /* when the fault was read */
	uint64_t asked_ns;   /* when it was asked for on this link */
};

struct sweep_get {
	struct page_run run[SWEEP_PAGES];
	uint32_t pages;
	unsigned n;	 /* runs; 0: unused */
	unsigned placed; /* of these, after arrival */
	uint64_t asked_us;
	uint8_t *buf; /* data of the next run to be placed; unused if it arrives in place */
};

struct sweep { /* the background fetch on one data channel */
	struct xport_chan *c;
	unsigned chan;
	struct page_cursor at;
	struct sweep_get get[SWEEP_DEPTH_MAX];
	unsigned flying;		       /* gets in flight */
	unsigned came[SWEEP_DEPTH_MAX], ncame; /* arrived and not yet all placed, in order of arrival */
	bool ended;
	uint64_t moved_us; /* when data last arrived, or a get was sent with none in flight */
	uint32_t fit;	   /* recent number of pages that arrive in SWEEP_US */
	unsigned depth;	   /* limit of flying */
	uint64_t least_us; /* duration of the fastest get so far; 0: none */
};

struct pull {
	struct pull_param param;
	struct xport_link *link; /* the current one: of the last pull_start() */
	struct page_set todo;
	_Atomic uint64_t left;
	_Atomic bool stop;
	_Atomic bool released;
	_Atomic int loading;   /* LOAD_* */
	_Atomic uint64_t hint; /* (region << 48 | page) + 1 of the last fault; 0: none since last read */
	int stop_fd;	       /* wakes worker 0 */
	int go_fd;	       /* starts the background fetch */
	struct pace pace;      /* charged for every get, of faults and of the background fetch */
	struct spin spin;
	uint64_t expect_ns;    /* worker 0: the answer to a fault is worth waiting for until then */
	struct page_run clean; /* worker 0: pages left to map around the last clean fault */
	struct page_run ahead; /* worker 0, foreign memory: pages of the file that are left to map, if clean */
	struct page_cursor ahead_at; /* where the search for more goes on */
	bool ahead_ended;
	struct urgent_slot slot[URGENT_MAX];   /* worker 0; kept across reconnects */
	struct page_run (*want)[URGENT_RUNS];  /* per slot */
	struct urgent_slot behind[URGENT_MAX]; /* faults on pages that were in flight already */
	uint8_t *staging; /* URGENT_MAX pages, then SWEEP_DEPTH_MAX * SWEEP_PAGES per channel */
	size_t staging_len;
};

/* Maps a claimed run for the VM when its data has arrived, and counts it. wake: see place_run(). */
int pull_placed(struct pull *p, const struct page_run *run, const void *buf, bool wake);

/* Whether the data of any page of the unit is still at the source. */
static inline bool pull_missing_any(const struct page_set *missing, const struct page_run *unit)
{
	struct page_cursor at = { .region = unit->region,
				  .page = unit->page,
				  .end = unit->page + unit->npages };
	struct page_run run;

	return unit->npages == 1 ? page_set_test(missing, unit->region, unit->page)
				 : page_set_next(missing, &at, unit->npages, &run);
}

/* Worker 0 alone. Maps the clean page of a fault, and some of its neighbours. */
int clean_fault(struct pull *p, const struct page_run *fault);
/* Maps the next piece around the last clean fault: 1, or 0 if none is left. */
int clean_step(struct pull *p);
/* Maps the next clean pages of foreign memory: 1, or 0 if none is left or the VM does not run yet. */
int clean_ahead(struct pull *p);

/* Sends at most max more gets, as far as depth allows. Returns how many, or an error. */
int sweep_ask(struct pull *p, struct sweep *w, unsigned max);
/* Receives what arrives within wait_us. Returns the number of gets, or an error. */
int sweep_reap(struct sweep *w, uint64_t wait_us);
/* Places at most max_runs runs and max_pages pages of what has arrived. Returns the number of runs. */
int sweep_place(struct pull *p, struct sweep *w, unsigned max_runs, uint32_t max_pages);
int sweep_end(struct sweep *w);

#endif
