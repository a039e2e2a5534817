/* SPDX-License-Identifier: MIT */
/* Pictures of recordings: the gnuplot scripts, and running gnuplot. */
#ifndef BENCH_PICTURE_H
#define BENCH_PICTURE_H

#include <stdio.h>

#include "timeline.h"

enum picture_format { PICTURE_SVG, PICTURE_PNG };

/* picture_run.c: one run: guest, link, remaining pages, downtime, faults. */
#define PICTURE_RUN_WIDTH 1400u
#define PICTURE_RUN_HEIGHT 1220u
void picture_run(FILE *script, const struct timeline *t);

/* groups.c: runs with the same options. */
struct group {
	char label[160]; /* the options in which the groups differ */
	const struct timeline **run;
	size_t n;
};

struct groups {
	struct group *v;
	size_t n;
};

/* 0 or -ENOMEM. The timelines must outlive it. */
int groups_make(struct groups *ret, const struct timelines *all);
void groups_free(struct groups *g);
/* The median over the runs that have the figure; 0 if none has. */
double group_median(const struct group *g, double (*of)(const struct timeline *t, unsigned arg),
		    unsigned arg);
/* The run with the median downtime. */
const struct timeline *group_typical(const struct group *g);

/* Figures for group_median(), with their arg. */
enum figure_name {
	FIG_DOWNTIME_US,
	FIG_TOTAL_MS,
	FIG_PRECOPY_MS,
	FIG_POSTCOPY_MS,
	FIG_THROUGHPUT,
	FIG_FAULTS,
	FIG_FAULT_P50,
	FIG_FAULT_P99,
	FIG_FAULT_MAX,
	FIG_COUNT
};
double figure(const struct timeline *t, unsigned name); /* enum figure_name */
double figure_item(const struct timeline *t, unsigned item);

/* picture_compare.c */
unsigned picture_compare_height(const struct groups *g);
void picture_compare(FILE *script, const struct groups *g);

extern const char *const picture_item_colours[TL_ITEMS];
/* Writes text for use within double quotes of gnuplot, without markup. */
void picture_quote(FILE *script, const char *text);

/*
 * gnuplot.c: runs gnuplot on a script; *ret is the picture; free it. 0, or a negative errno after a sentence
 * on stderr.
 */
int gnuplot_run(const char *script, size_t script_len, char **ret, size_t *len);
/* Begins a script. id: unique among the pictures of a page. */
void gnuplot_terminal(FILE *script, enum picture_format f, unsigned width, unsigned height, unsigned id);

#endif
