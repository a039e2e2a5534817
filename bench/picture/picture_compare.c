/* SPDX-License-Identifier: MIT */
/*
 * Several runs side by side: one row per group of runs with the same options, with medians. The downtime by
 * its parts, the time by phases, the faults from p50 to p99, and the guests' speed on one axis that starts at
 * the pause.
 */
#include <string.h>

#include "picture.h"

#define ROW 30u	 /* pixels per group and panel */
#define HEAD 34u /* title of a panel */
#define AXIS 56u /* figures and name of its axis */
#define KEY 26u	 /* a row of the key, below that */
#define TOP 56u
#define SPEED 340u /* the panel of speeds */
#define CURVES 8u
#define SPEED_MAX 250 /* percent; a guest that catches up exceeds 100 */
#define BINS 260
#define BIN_MIN_MS 2.0

static const char *const curve_colours[CURVES] = { "#1d5fa6", "#d0660b", "#15803d", "#be123c",
						   "#7c3aed", "#0e7490", "#a16207", "#374151" };

/* Three rows of panels: downtime and time; faults and throughput; the speeds. */
static unsigned bars_height(const struct groups *g, unsigned below)
{
	return (unsigned)g->n * ROW + HEAD + below;
}

unsigned picture_compare_height(const struct groups *g)
{
	return TOP + bars_height(g, AXIS + KEY) + bars_height(g, 0) + SPEED + AXIS;
}

struct canvas {
	FILE *out;
	const struct groups *g;
	double height;
	double margin; /* width of the labels, as a fraction of the picture */
};

/* top: of the whole panel; bottom: of its axis. */
static void panel(const struct canvas *c, unsigned column, unsigned top, unsigned bottom, const char *title)
{
	double left = column ? 0.56 + c->margin * 0.15 : c->margin, right = column ? 0.975 : 0.53;

	fprintf(c->out,
		"unset arrow; unset label; unset object; unset logscale; set key default; unset key; set lmargin at screen "
		"%.3f; set rmargin at screen %.3f; set tmargin at screen %.4f; set bmargin at screen %.4f; set title '%s' "
		"font ',11'; set xtics autofreq nomirror format '%%g'; set grid xtics linecolor rgb '#d1d5db' linewidth 0.5; "
		"set xlabel ''; set ylabel ''\n",
		left, right, 1 - (top + HEAD) / c->height, 1 - bottom / c->height, title);
}

/* The key of colours, below the axis. */
static void key(const struct canvas *c, unsigned column, unsigned bottom)
{
	fprintf(c->out,
		"set key at screen %.3f, screen %.4f center top horizontal maxrows 1 samplen 1 width -1 font ',9'\n",
		column ? 0.77 + c->margin * 0.07 : (0.53 + c->margin) / 2, 1 - (bottom + 46) / c->height);
}

/* gnuplot takes the name of a tic as a format, so "%" must be doubled. */
static const char *as_format(char *format, const char *name)
{
	char *at = format;

	for (; *name; name++) {
		if (*name == '%')
			*at++ = '%';
		*at++ = *name;
	}
	*at = 0;
	return format;
}

static void row_names(const struct canvas *c, bool shown)
{
	const struct groups *g = c->g;

	fprintf(c->out, "set yrange [%.1f:0.4]; set ytics (", -(double)g->n + 0.4);
	for (size_t i = 0; i < g->n; i++) {
		char name[200] = "", format[400];

		if (shown && g->v[i].n > 1)
			snprintf(name, sizeof(name), "%s (%zu)", g->v[i].label, g->v[i].n);
		else if (shown)
			snprintf(name, sizeof(name), "%s", g->v[i].label);
		fprintf(c->out, "%s", i ? ", " : "");
		picture_quote(c->out, as_format(format, name));
		fprintf(c->out, " %d", -(int)i);
	}
	fprintf(c->out, ") scale 0 nomirror\n");
}

static void bar(const struct canvas *c, size_t row, double from, double to, const char *colour)
{
	fprintf(c->out,
		"set object rectangle from first %.4f, first %.2f to first %.4f, first %.2f fillcolor rgb '%s' "
		"fillstyle solid 0.9 noborder\n",
		from, -(double)row - 0.3, to, -(double)row + 0.3, colour);
}

static void bar_text(const struct canvas *c, size_t row, double at, const char *fmt, double v)
{
	char text[64];

	snprintf(text, sizeof(text), fmt, v);
	fprintf(c->out, "set label '%s' at first %.4f, first %d left offset 0.5,0 font ',9'\n", text, at,
		-(int)row);
}

static double largest(const struct groups *g, double (*f)(const struct timeline *, unsigned), unsigned arg)
{
	double max = 0;

	for (size_t i = 0; i < g->n; i++) {
		double v = group_median(&g->v[i], f, arg);

		max = v > max ? v : max;
	}
	return max > 0 ? max : 1;
}

static void downtimes(const struct canvas *c, unsigned top, unsigned bottom)
{
	panel(c, 0, top, bottom, "downtime, by its parts");
	row_names(c, true);
	for (size_t i = 0; i < c->g->n; i++) {
		const struct timeline *t = group_typical(&c->g->v[i]);
		double at = 0;

		for (unsigned k = 0; k < TL_ITEMS; k++) {
			double us = tl_item_us(t, k);

			bar(c, i, at / 1000, (at + us) / 1000, picture_item_colours[k]);
			at += us;
		}
		bar_text(c, i, at / 1000, at > 0 ? "%.2f ms" : "none", at / 1000);
	}
	fprintf(c->out, "set xrange [0:%.6g]; set xlabel 'ms' offset 0,0.4\n",
		largest(c->g, figure, FIG_DOWNTIME_US) / 1000 * 1.2);
	key(c, 0, bottom);
	fprintf(c->out, "plot NaN notitle");
	for (unsigned k = 0; k < TL_ITEMS; k++)
		fprintf(c->out,
			", keyentry with boxes fillcolor rgb '%s' fillstyle solid 0.9 noborder title '%s'",
			picture_item_colours[k], tl_item_names[k]);
	fprintf(c->out, "\n");
}

static void times(const struct canvas *c, unsigned top, unsigned bottom)
{
	panel(c, 1, top, bottom, "time");
	row_names(c, false);
	for (size_t i = 0; i < c->g->n; i++) {
		const struct group *g = &c->g->v[i];
		double pre = group_median(g, figure, FIG_PRECOPY_MS),
		       post = group_median(g, figure, FIG_POSTCOPY_MS);
		double black = group_median(g, figure, FIG_DOWNTIME_US) / 1000;
		double total = group_median(g, figure, FIG_TOTAL_MS), other = total - pre - black - post;

		other = other > 0 ? other : 0;
		bar(c, i, 0, other, "#cbd5e1");
		bar(c, i, other, other + pre, "#93c5fd");
		bar(c, i, other + pre, other + pre + black, "#dc2626");
		bar(c, i, other + pre + black, other + pre + black + post, "#fbbf77");
		bar_text(c, i, other + pre + black + post, "%.0f ms", total);
	}
	key(c, 1, bottom);
	fprintf(c->out,
		"set xrange [0:%.6g]; set xlabel 'ms' offset 0,0.4\nplot NaN notitle, keyentry with boxes fillcolor rgb '#cbd5e1' fillstyle solid noborder title "
		"'before and after', keyentry with boxes fillcolor rgb '#93c5fd' fillstyle solid noborder title "
		"'pre-copy', keyentry with boxes fillcolor rgb '#dc2626' fillstyle solid noborder title 'downtime', "
		"keyentry with boxes fillcolor rgb '#fbbf77' fillstyle solid noborder title 'post-copy'\n",
		largest(c->g, figure, FIG_TOTAL_MS) * 1.2);
}

static void throughputs(const struct canvas *c, unsigned top, unsigned bottom)
{
	panel(c, 0, top, bottom, "page data in pre-copy");
	row_names(c, true);
	for (size_t i = 0; i < c->g->n; i++) {
		double v = group_median(&c->g->v[i], figure, FIG_THROUGHPUT);

		bar(c, i, 0, v, "#0f766e");
		bar_text(c, i, v, "%.0f", v);
	}
	fprintf(c->out, "set xrange [0:%.6g]; set xlabel 'MB/s' offset 0,0.4\nplot NaN notitle\n",
		largest(c->g, figure, FIG_THROUGHPUT) * 1.2);
}

static void faults(const struct canvas *c, unsigned top, unsigned bottom)
{
	double max = largest(c->g, figure, FIG_FAULT_MAX);

	panel(c, 1, top, bottom, "faults over the link: p50, p99 and the longest");
	row_names(c, false);
	for (size_t i = 0; i < c->g->n; i++) {
		const struct group *g = &c->g->v[i];
		double p50 = group_median(g, figure, FIG_FAULT_P50),
		       p99 = group_median(g, figure, FIG_FAULT_P99);
		double worst = group_median(g, figure, FIG_FAULT_MAX);

		if (p50 <= 0) {
			fprintf(c->out, "set label 'none' at graph 0.01, first %d font ',9'\n", -(int)i);
			continue;
		}
		bar(c, i, p50, p99, "#b48ead");
		fprintf(c->out,
			"set object circle at first %.3f, first %d size graph 0.008 fillcolor rgb '#7c2d92' fillstyle solid\n"
			"set arrow from first %.3f, first %d to first %.3f, first %d nohead linecolor rgb '#7c2d92' dashtype 3\n",
			p50, -(int)i, p99, -(int)i, worst, -(int)i);
		bar_text(c, i, worst, "%.0f us", p50);
	}
	fprintf(c->out,
		"set logscale x; set xrange [%.3f:%.3f]; set xlabel 'us, and p50 in figures' offset 0,0.4; set xtics "
		"(1,2,5,10,20,50,100,200,500,1000,2000,5000,10000,100000,1000000)\nplot NaN notitle\n",
		max > 20 ? 10.0 : 1.0, max > 1 ? max * 2 : 2);
}

/* Start and end of the curve, and the time of its 0. */
static double curve_span(const struct timeline *t, double *from, double *to)
{
	double stop = tl_phase_ms(t, tl_main_end(t), FERRY_PHASE_STOP_AND_COPY), first = *to;

	tl_span(t, from, to);
	for (int end = 0; end < 2; end++) {
		if (t->end[end].nprogress && t->end[end].progress[0].ms < first)
			first = t->end[end].progress[0].ms;
	}
	if (first > *from && first < *to)
		*from = first;
	return stop < 0 ? 0 : stop;
}

/* In percent of --dirty-rate; an idle guest has no curve. */
static void curve(const struct canvas *c, size_t i, double bin)
{
	const struct timeline *t = group_typical(&c->g->v[i]);
	double a, b = 1e9, stop = curve_span(t, &a, &b), rate = tl_number(t, "dirty_rate");

	fprintf(c->out, "$speed%zu << EOD\n%.3f NaN\n", i, a - stop);
	for (double at = a; at + bin < b && rate > 0; at += bin)
		fprintf(c->out, "%.3f %.3f\n", at - stop + bin / 2,
			(tl_stamps(&t->end[0], at, at + bin) + tl_stamps(&t->end[1], at, at + bin)) / bin /
				rate * 1e5);
	fprintf(c->out, "EOD\n");
}

static void speeds(const struct canvas *c, unsigned top, unsigned bottom)
{
	size_t shown = c->g->n < CURVES ? c->g->n : CURVES;
	double from = 0, to = 1, bin;

	for (size_t i = 0; i < shown; i++) {
		double a, b = 1e9, stop = curve_span(group_typical(&c->g->v[i]), &a, &b);

		from = a - stop < from ? a - stop : from;
		to = b - stop > to ? b - stop : to;
	}
	bin = (to - from) / BINS > BIN_MIN_MS ? (to - from) / BINS : BIN_MIN_MS;
	for (size_t i = 0; i < shown; i++)
		curve(c, i, bin);
	panel(c, 0, top, bottom, "speed of the guest, % of --dirty-rate");
	fprintf(c->out,
		"set rmargin at screen 0.975; set lmargin at screen 0.05; set yrange [0:%d]; set ytics autofreq; set xrange "
		"[%.3f:%.3f]; set xlabel 'ms since the pause%s' offset 0,0.4; set grid ytics; set key inside top right opaque "
		"samplen 2 font ',9'; set arrow from first 0, graph 0 to first 0, graph 1 nohead linecolor rgb '#dc2626' "
		"dashtype 2\nplot ",
		SPEED_MAX, from, to, shown < c->g->n ? " (the first eight)" : "");
	for (size_t i = 0; i < shown; i++) {
		fprintf(c->out, "%s$speed%zu using 1:2 with lines linewidth 1.3 linecolor rgb '%s' title ",
			i ? ", " : "", i, curve_colours[i]);
		picture_quote(c->out, c->g->v[i].label);
	}
	fprintf(c->out, "\n");
}

void picture_compare(FILE *out, const struct groups *g)
{
	struct canvas c = { .out = out, .g = g, .height = picture_compare_height(g) };
	unsigned first = TOP + bars_height(g, 0), second = first + AXIS + KEY + bars_height(g, 0);
	size_t longest = 0, runs = 0;

	for (size_t i = 0; i < g->n; i++) {
		size_t len = strlen(g->v[i].label) + (g->v[i].n > 1 ? 5 : 0);

		longest = len > longest ? len : longest;
		runs += g->v[i].n;
	}
	c.margin = 0.03 + 0.0052 * (double)(longest < 60 ? longest : 60);
	fprintf(out,
		"set multiplot\nset border linecolor rgb '#6b7280'; set tics out textcolor rgb '#374151' font ',9'\n"
		"set label 1 '%zu runs, %s' at screen 0.02, screen %.4f left font ',14' front\n",
		runs, g->n < runs ? "medians of runs with the same options" : "side by side",
		1 - 24 / c.height);
	fprintf(out,
		"set lmargin at screen 0; set rmargin at screen 1; set tmargin at screen 1; set bmargin at screen "
		"0.99; unset border; unset tics; unset key; set xrange [0:1]; set yrange [0:1]; plot NaN notitle; "
		"set border 3 linecolor rgb '#6b7280'\n");
	downtimes(&c, TOP, first);
	times(&c, TOP, first);
	throughputs(&c, first + AXIS + KEY, second);
	faults(&c, first + AXIS + KEY, second);
	speeds(&c, second + AXIS, second + SPEED);
	fprintf(out, "unset multiplot\n");
}
