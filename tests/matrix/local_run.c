// SPDX-License-Identifier: MIT
/*
 * Runs the cells of local failures. This process has no threads, so it may fork at any time.
 *
 * Which sites a dry run meets is partly a matter of timing. So each dry run is made DRY_RUNS times, and a
 * cell that does not meet its site is repeated up to TRIES times, with ends that wait (dawdle(),
 * local_end.c). A cell that never meets its site is named. It fails if each dry run has met the site, and a
 * row fails if none of its cells in one combination meets its site, unless the table says "sometimes" for it.
 */
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "local.h"

#define SLOTS_MAX 64u
#define SLOTS 12u /* these cells work most of the time */
#define TRIES 6u
#define DRY_RUNS 4u
#define TICK_MS 4

struct slot {
	pid_t pid; /* 0: free */
	struct local cell;
	struct local_seen *m;
	uint64_t begun_us;
};

struct tally {
	unsigned cells, failed, migrated;
	uint64_t still_us;
};

struct runs {
	const struct local_choice *ch;
	struct slot slot[SLOTS_MAX];
	unsigned nslots, busy;
	struct local *cell;
	size_t ncells, room, next;
	struct tally by_kind[KINDS][2], by_phase[FERRY_PHASE_DONE][2];
	unsigned cells, failed, without, missed, cannot;
	char why_cannot[200];
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static const char *phase_name(enum ferry_phase p)
{
	return p == FERRY_PHASE_IDLE ? "opening" : ferry_phase_name(p);
}

static bool in_earnest(enum kind k)
{
	return k == FILE_FULL || k == PAGE_GONE;
}

static bool chosen(const struct local_choice *ch, const struct local *c)
{
	return (!ch->kind || strstr(kind_name(c->kind), ch->kind)) &&
	       (!ch->phase || !strcmp(phase_name(c->phase), ch->phase)) &&
	       (!ch->end || !strcmp(ch->end, c->at_source ? "source" : "target")) &&
	       (!ch->way || strstr(way_name(c->way), ch->way));
}

static void add(struct runs *x, const struct local *c)
{
	if (x->ncells == x->room) {
		x->room = x->room ? 2 * x->room : 1024;
		x->cell = realloc(x->cell, x->room * sizeof(*x->cell));
		if (!x->cell)
			exit(1);
	}
	x->cell[x->ncells++] = *c;
}

static void lay_out_dry(struct runs *x)
{
	for (unsigned i = 0; i < 2 * 2 * WAYS * DRY_RUNS; i++)
		add(x, &(struct local){
			       .dry = true, .shared = i & 1, .mem = i & 2, .way = (enum way)(i / 4 % WAYS) });
}

static bool same_group(const struct local *a, const struct local *b)
{
	return a->kind == b->kind && a->phase == b->phase && a->at_source == b->at_source &&
	       a->shared == b->shared && a->mem == b->mem && a->way == b->way && a->skip == b->skip;
}

static void add_new(struct runs *x, const struct local *c)
{
	for (size_t i = 0; i < x->ncells; i++)
		if (same_group(&x->cell[i], c) && x->cell[i].want == c->want && !x->cell[i].dry) {
			x->cell[i].met++;
			return;
		}
	add(x, c);
}

/* Adds a cell for a site that a dry run has met, unless there is one. */
static void add_met(struct runs *x, const struct local *dry, const struct met *met)
{
	struct local c = *dry;
	unsigned rows = 0;

	c.dry = false;
	c.kind = met->kind;
	c.phase = (enum ferry_phase)met->phase;
	c.at_source = met->at_source;
	c.want = met->site;
	c.met = 1;
	if (!local_is_cell(&c) || !chosen(x->ch, &c) || in_earnest(c.kind))
		return;
	while (local_op_row(&c, rows, &c.skip)) {
		add_new(x, &c);
		rows++;
	}
	if (!rows) /* no op, or an op without a row, which then fails */
		add_new(x, &c);
}

static bool has_cell(const struct runs *x, const struct local *c)
{
	for (size_t i = 0; i < x->ncells; i++)
		if (same_group(&x->cell[i], c) && !x->cell[i].dry)
			return true;
	return false;
}

/* Adds the cells that no dry run can meet, and reports rows that no dry run has met. */
static void lay_out_rest(struct runs *x, struct local c)
{
	char text[300];

	if (!local_is_cell(&c) || !chosen(x->ch, &c) || c.kind == OP_FAILS || c.kind == OP_SAYS_EPIPE ||
	    has_cell(x, &c))
		return;
	c.want = c.kind == THROTTLE_FAILS ? op_site(FAKE_OPS) : 0;
	if (in_earnest(c.kind) || c.kind == THROTTLE_FAILS) {
		add(x, &c);
		return;
	}
	x->without++;
	if (!local_has_row(&c, false))
		return;
	local_text(text, &c);
	printf("  bad %s\n       it did not come about\n", text);
	x->by_kind[c.kind][!c.at_source].failed++;
	x->by_kind[c.kind][!c.at_source].cells++;
	x->failed++;
}

static void lay_out(struct runs *x)
{
	for (enum kind k = 0; k < KINDS; k++)
		for (enum ferry_phase p = FERRY_PHASE_IDLE; p <= FERRY_PHASE_ACTIVATION; p++)
			for (unsigned i = 0; i < 2 * 2 * 2 * WAYS; i++)
				lay_out_rest(x, (struct local){ .kind = k,
								.phase = p,
								.at_source = i & 1,
								.shared = i & 2,
								.mem = i & 4,
								.way = (enum way)(i / 8) });
}

static void begin(struct runs *x, struct slot *s)
{
	pid_t parent = getpid();

	s->cell = x->cell[x->next++];
	memset(s->m, 0, sizeof(*s->m));
	s->begun_us = now();
	s->pid = fork();
	if (s->pid < 0) {
		perror("fork");
		exit(1);
	}
	if (s->pid) {
		x->busy++;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(2);
	local_main(&s->cell, s->m);
}

static void tell(const struct slot *s, const char *why)
{
	char text[300];

	local_text(text, &s->cell);
	printf("%s %s (%.1f s)\n", why[0] ? "  bad" : "  fine", text, (double)(now() - s->begun_us) / 1e6);
	if (why[0])
		printf("       %s\n", why);
	else
		printf("       %s / %s; \"%.200s\"\n", ferry_outcome_name(s->m->end[0].res.outcome),
		       ferry_outcome_name(s->m->end[1].res.outcome),
		       s->m->end[!s->cell.at_source].res.detail);
}

static void count(struct tally *t, const struct slot *s, bool failed)
{
	t->cells++;
	t->failed += failed;
	t->migrated += s->m->end[0].res.outcome == FERRY_OUTCOME_MIGRATED && s->m->end[0].ended;
	if (s->m->still_us > t->still_us)
		t->still_us = s->m->still_us;
}

/* A matter of timing, and no run has reached the site during the phase: allowed, but named. */
static void not_met(struct runs *x, const struct local *c)
{
	char text[300];

	local_text(text, c);
	printf("  did not come about, which it need not: %s\n", text);
	x->missed++;
}

static void mark_reached(struct runs *x, const struct local *c)
{
	for (size_t i = 0; i < x->ncells; i++)
		x->cell[i].reached |= same_group(&x->cell[i], c) && !x->cell[i].dry;
}

static void account(struct runs *x, struct slot *s, int status)
{
	const struct local *c = &s->cell;
	char why[1400];
	bool reached, last;

	if (s->m->cannot[0]) {
		x->cannot++;
		memcpy(x->why_cannot, s->m->cannot, sizeof(x->why_cannot));
		return;
	}
	local_judge(why, c, s->m, WIFSIGNALED(status) ? WTERMSIG(status) : 0, &reached);
	last = !reached && c->want && !c->dry && c->tries + 1 == TRIES;
	if (!why[0] && last && local_has_row(c, false) && c->met == DRY_RUNS)
		snprintf(why, sizeof(why),
			 "each of %u dry runs has met this place, and %u runs after them have not: it was not tried",
			 DRY_RUNS, TRIES);
	if (reached)
		mark_reached(x, c);
	if (c->dry) {
		struct met met;

		for (unsigned i = 0; i < MET_MAX; i++)
			if (inject_met(&s->m->inject, i, &met))
				add_met(x, c, &met);
		x->failed += !!why[0];
	} else if (!why[0] && last) {
		not_met(x, c);
	} else if (!why[0] && !reached && c->want) {
		struct local again = *c;

		again.tries++;
		add(x, &again);
	} else if (reached || why[0]) {
		count(&x->by_kind[c->kind][!c->at_source], s, why[0]);
		count(&x->by_phase[c->phase][!c->at_source], s, why[0]);
		x->cells++;
		x->failed += !!why[0];
	} else {
		x->without++;
	}
	if (why[0] || (x->ch->verbose && reached))
		tell(s, why);
}

static void reap(struct runs *x)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (unsigned i = 0; i < x->nslots; i++)
			if (x->slot[i].pid == pid) {
				x->slot[i].pid = 0;
				x->busy--;
				account(x, &x->slot[i], status);
			}
}

/* Reports rows of which nothing was tried in some combination, although dry runs have met places of them. */
static void look_for_untried(struct runs *x)
{
	for (size_t i = 0; i < x->ncells; i++) {
		struct local *c = &x->cell[i];
		char text[300];

		if (c->dry || c->reached || !c->want || !local_has_row(c, false))
			continue;
		local_text(text, c);
		printf("  bad %s\n       no run has met it, nor any other place of its row\n", text);
		x->by_kind[c->kind][!c->at_source].failed++;
		x->by_kind[c->kind][!c->at_source].cells++;
		x->failed++;
		mark_reached(x, c);
	}
}

static void report(const struct runs *x)
{
	for (enum kind k = 0; k < KINDS; k++)
		for (unsigned e = 0; e < 2; e++) {
			const struct tally *t = &x->by_kind[k][e];

			const char *end = e ? "target" : "source";

			if (t->failed)
				printf("[FAIL] %s at the %s: %u of %u cells\n", kind_name(k), end, t->failed,
				       t->cells);
			else if (t->cells)
				printf("[PASS] %s at the %s: %u cells\n", kind_name(k), end, t->cells);
		}
	printf("%-16s %-8s %6s %9s %s\n", "fails in", "at the", "cells", "migrated",
	       "the VM stood still after it, at most");
	for (enum ferry_phase p = FERRY_PHASE_IDLE; p < FERRY_PHASE_DONE; p++)
		for (unsigned e = 0; e < 2; e++)
			if (x->by_phase[p][e].cells)
				printf("%-16s %-8s %6u %9u %.1f ms\n", phase_name(p), e ? "target" : "source",
				       x->by_phase[p][e].cells, x->by_phase[p][e].migrated,
				       (double)x->by_phase[p][e].still_us / 1000);
	if (x->cannot)
		printf("[SKIP] local failures: %u cells: %s\n", x->cannot, x->why_cannot);
}

/* Runs the cells before index upto; cells that these add are run, too, if upto allows. */
static void run_all(struct runs *x, size_t upto)
{
	while (x->busy || (x->next < x->ncells && x->next < upto)) {
		for (unsigned i = 0; i < x->nslots; i++) {
			struct slot *s = &x->slot[i];

			if (!s->pid && x->next < x->ncells && x->next < upto)
				begin(x, s);
			else if (s->pid && now() - s->begun_us > x->ch->limit_s * UINT64_C(1000000))
				kill(s->pid, SIGKILL);
		}
		poll(NULL, 0, TICK_MS);
		reap(x);
	}
}

unsigned local_run(const struct local_choice *ch, unsigned *cells)
{
	struct runs *x = calloc(1, sizeof(*x));
	uint64_t t = now();

	x->ch = ch;
	x->nslots = ch->jobs && ch->jobs < SLOTS ? ch->jobs : SLOTS;
	for (unsigned i = 0; i < x->nslots; i++) {
		x->slot[i].m = mmap(NULL, sizeof(struct local_seen), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (x->slot[i].m == MAP_FAILED)
			exit(1);
	}
	lay_out_dry(x);
	run_all(x, x->ncells);
	lay_out(x);
	run_all(x, SIZE_MAX);
	look_for_untried(x);
	report(x);
	printf("local failures: %u cells in %.0f s, %u failed; %u more assert that a failure does not come about; %u need "
	       "not come about and did not\n",
	       x->cells, (double)(now() - t) / 1e6, x->failed, x->without, x->missed);
	*cells = x->cells;
	t = x->failed;
	free(x->cell);
	free(x);
	return (unsigned)t;
}
