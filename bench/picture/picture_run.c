/* SPDX-License-Identifier: MIT */
/*
 * The picture of one migration. Three panels share the time axis: the guest's speed, the link, the remaining
 * pages; behind them the phases as bands and the downtime in red. Below: the switchover, stamp by stamp; the
 * parts of the downtime; the latency of the faults.
 */
#include <string.h>

#include "picture.h"

#define BINS 450
#define BIN_MIN_MS 2.0 /* the guest counts once a millisecond */
#define LEFT 0.065
#define RIGHT 0.945
#define SOURCE_COLOUR "#1d5fa6"
#define TARGET_COLOUR "#d0660b"

const char *const picture_item_colours[TL_ITEMS] = { "#6b7280", "#9ca3af", "#a16207", "#1d4ed8",
						     "#7c3aed", "#be123c", "#0e7490", "#15803d" };

static const char *const phase_colours[] = {
	[FERRY_PHASE_IDLE] = "#ffffff",		 [FERRY_PHASE_PRE_MIGRATION] = "#eef0f3",
	[FERRY_PHASE_RESERVATION] = "#e4e7ec",	 [FERRY_PHASE_PRECOPY] = "#dbe9fb",
	[FERRY_PHASE_STOP_AND_COPY] = "#f6a5a5", [FERRY_PHASE_POSTCOPY] = "#fdebd0",
	[FERRY_PHASE_COMMITMENT] = "#d3efdb",	 [FERRY_PHASE_ACTIVATION] = "#d3efdb",
	[FERRY_PHASE_DONE] = "#ffffff",		 [FERRY_PHASE_FAILED] = "#f3d9d9",
};
_Static_assert(sizeof(phase_colours) / sizeof(*phase_colours) == FERRY_PHASE_FAILED + 1,
	       "one colour per phase");

/* The bands show the source: it enters each phase first, and the downtime starts at its pause. */
static void bands(FILE *out, const struct timeline *t, double from, double to)
{
	const struct tl_end *e = &t->end[tl_main_end(t)];

	for (unsigned i = 0; i < e->nphases; i++) {
		double a = e->phase[i].ms, b = i + 1 < e->nphases ? e->phase[i + 1].ms : to;

		if (b > to)
			b = to;
		if (a < from)
			a = from;
		if (a < b)
			fprintf(out,
				"set object rectangle from first %.3f, graph 0 to first %.3f, graph 1 behind "
				"fillcolor rgb '%s' fillstyle solid 1 noborder\n",
				a, b, phase_colours[e->phase[i].phase]);
	}
}

static bool wide_enough(const struct tl_end *e, unsigned i, double from, double to)
{
	double a = e->phase[i].ms, b = i + 1 < e->nphases ? e->phase[i + 1].ms : to;

	return (b - a) / (to - from) > 0.011 * (double)strlen(ferry_phase_name(e->phase[i].phase));
}

static void downtime_mark(FILE *out, const struct timeline *t, double from)
{
	double downtime = tl_number(t, "downtime_us") / 1000, stood = tl_standstill_ms(t);
	double stop = tl_phase_ms(t, tl_main_end(t), FERRY_PHASE_STOP_AND_COPY);

	if (stop < from)
		return;
	fprintf(out,
		"set arrow from first %.3f, graph 1.0 to first %.3f, graph 1.05 nohead front "
		"linecolor rgb '#c81e1e' linewidth 1.5\nset label '",
		stop, stop);
	if (stood > 0)
		fprintf(out, "paused for %.1f ms, then resumed at the source", stood);
	else if (downtime > 0)
		fprintf(out, "downtime %.2f ms", downtime);
	else
		fprintf(out, "stopped");
	fprintf(out, "' at first %.3f, graph 1.08 center front textcolor rgb '#c81e1e'\n", stop);
}

/* Writes names into the bands that are wide enough; the key has the others. */
static void band_names(FILE *out, const struct timeline *t, double from, double to)
{
	const struct tl_end *e = &t->end[tl_main_end(t)];

	for (unsigned i = 0; i < e->nphases; i++) {
		double b = i + 1 < e->nphases ? e->phase[i + 1].ms : to;

		if (wide_enough(e, i, from, to))
			fprintf(out,
				"set label '%s' at first %.3f, graph 0.965 center font ',9' "
				"textcolor rgb '#4b5563' front\n",
				ferry_phase_name(e->phase[i].phase), (e->phase[i].ms + b) / 2);
	}
	downtime_mark(out, t, from);
}

static void key_entries(FILE *out, const struct timeline *t, double from, double to)
{
	const struct tl_end *e = &t->end[tl_main_end(t)];

	for (unsigned i = 0; i < e->nphases; i++) {
		enum ferry_phase p = e->phase[i].phase;

		if (!wide_enough(e, i, from, to) && p >= FERRY_PHASE_RESERVATION && p < FERRY_PHASE_DONE)
			fprintf(out,
				", keyentry with boxes fillcolor rgb '%s' fillstyle solid 1 noborder title '%s'",
				phase_colours[p], ferry_phase_name(p));
	}
}

/* Returns the largest value, or 1, because no axis may be empty. */
static double rates(FILE *out, const char *name, const struct tl_end *e,
		    double (*grown)(const struct tl_end *e, double from, double to), double from, double to,
		    double scale)
{
	double bin = (to - from) / BINS, max = 0;

	if (bin < BIN_MIN_MS)
		bin = BIN_MIN_MS;
	fprintf(out, "$%s << EOD\n", name);
	for (double at = from; at < to; at += bin) {
		double v = grown(e, at, at + bin) / bin * scale;

		fprintf(out, "%.3f %.4f\n", at + bin / 2, v);
		max = v > max ? v : max;
	}
	fprintf(out, "EOD\n");
	return max > 0 ? max : 1;
}

static double remaining(FILE *out, const char *name, const struct tl_end *e, double from, double to,
			double after, double until)
{
	double step = (to - from) / (2 * BINS), last = from - step, max = 1;

	fprintf(out, "$%s << EOD\n", name);
	for (size_t i = 0; i < e->n; i++) {
		const struct tl_sample *s = &e->sample[i];

		if (s->ms < after || s->ms < last + step || s->ms > until)
			continue;
		last = s->ms;
		fprintf(out, "%.3f %.4f %.0f\n", s->ms, s->remaining * 4096 / 1e6, s->faults);
		max = s->remaining * 4096 / 1e6 > max ? s->remaining * 4096 / 1e6 : max;
	}
	fprintf(out, "%.3f NaN NaN\nEOD\n", to); /* no block may be empty */
	return max;
}

/* The upper limits of the panels' axes. */
struct heights {
	double guest, link, left;
};

static double higher(double a, double b)
{
	return a > b ? a : b;
}

static void data(FILE *out, const struct timeline *t, double from, double to, struct heights *h)
{
	const struct tl_end *s = &t->end[VMM_END_SOURCE], *g = &t->end[VMM_END_TARGET];
	double switched = tl_phase_ms(t, VMM_END_TARGET, FERRY_PHASE_POSTCOPY);

	if (switched < 0)
		switched = to;
	h->guest = rates(out, "guest_source", s, tl_stamps, from, to, 1);
	h->guest = higher(h->guest, rates(out, "guest_target", g, tl_stamps, from, to, 1));
	h->link = rates(out, "link", s->n ? s : g, tl_bytes, from, to, 1e-3); /* bytes per ms to MB/s */
	h->left = remaining(out, "left_source", s, from, to, from, switched);
	h->left = higher(h->left, remaining(out, "left_target", g, from, to, switched, to));
}

static void panel(FILE *out, double top, double bottom, double from, double to, double height)
{
	fprintf(out,
		"unset arrow; unset label; unset object; unset logscale; set key default; unset key; unset y2tics; "
		"unset y2label; unset xlabel; set lmargin at screen %.3f; set rmargin at screen %.3f; set tmargin at screen %.3f; "
		"set bmargin at screen %.3f; set xrange [%.3f:%.3f]; set yrange [0:%.6g]; set xtics autofreq nomirror format ''; "
		"set ytics autofreq nomirror; set grid ytics linecolor rgb '#d1d5db' linewidth 0.5\n",
		LEFT, RIGHT, 1 - top, 1 - bottom, from, to, height);
}

static void guest_panel(FILE *out, const struct timeline *t, double from, double to, const struct heights *h)
{
	panel(out, 0.118, 0.37, from, to, h->guest * 1.12);
	bands(out, t, from, to);
	band_names(out, t, from, to);
	fprintf(out,
		"set ylabel 'guest: pages written per ms'\n"
		"set key at screen %.3f, screen 0.94 right top horizontal width -1 samplen 1.5 font ',9'\n"
		"plot $guest_source using 1:2 with fillsteps fillcolor rgb '" SOURCE_COLOUR "' fillstyle "
		"transparent solid 0.35 noborder title 'guest at the source', "
		"$guest_target using 1:2 with fillsteps fillcolor rgb '" TARGET_COLOUR "' fillstyle "
		"transparent solid 0.35 noborder title 'at the target', "
		"$guest_source using 1:2 with steps linecolor rgb '" SOURCE_COLOUR "' notitle, "
		"$guest_target using 1:2 with steps linecolor rgb '" TARGET_COLOUR "' notitle",
		RIGHT);
	key_entries(out, t, from, to);
	fprintf(out, "\n");
}

static void link_panel(FILE *out, const struct timeline *t, double from, double to, const struct heights *h)
{
	panel(out, 0.385, 0.515, from, to, h->link * 1.05);
	bands(out, t, from, to);
	fprintf(out,
		"set ylabel 'link: MB/s'\n"
		"plot $link using 1:2 with fillsteps fillcolor rgb '#0f766e' fillstyle transparent solid 0.35 "
		"noborder, $link using 1:2 with steps linecolor rgb '#0f766e'\n");
}

static void left_panel(FILE *out, const struct timeline *t, double from, double to, const struct heights *h)
{
	panel(out, 0.53, 0.66, from, to, h->left * 1.2);
	bands(out, t, from, to);
	fprintf(out,
		"set ylabel 'remaining: MB'; set xtics format '%%g'; set xlabel 'ms since the migration began' "
		"offset 0,0.3\n");
	if (tl_number(t, "faults") > 0)
		fprintf(out, "set y2range [0:%.6g]; set y2tics; set y2label 'faults over the link'\n",
			tl_number(t, "faults") * 1.2);
	fprintf(out,
		"set key top right horizontal samplen 2 font ',9'\n"
		"plot $left_source using 1:2 with lines linewidth 1.5 linecolor rgb '" SOURCE_COLOUR
		"' title "
		"'of the round', $left_target using 1:2 with lines linewidth 1.5 linecolor rgb '" TARGET_COLOUR
		"' title 'of the residue'");
	if (tl_number(t, "faults") > 0)
		fprintf(out,
			", $left_target using 1:3 axes x1y2 with lines linewidth 1.5 dashtype 2 linecolor rgb "
			"'#7c2d92' title 'faults'");
	fprintf(out, "\n");
	fprintf(out, "unset y2tics; unset y2label; unset xlabel\n");
}

static void small_panel(FILE *out, double left, double right)
{
	fprintf(out,
		"unset arrow; unset label; unset object; unset logscale; set key default; unset key; unset y2tics; set lmargin at "
		"screen %.3f; set rmargin at screen %.3f; set tmargin at screen 0.255; set bmargin at screen 0.06; "
		"set xtics autofreq nomirror format '%%g'; set ytics autofreq nomirror; set yrange [*:*]\n",
		left, right);
}

/* The guest's progress at either end around the stop: the target starts where the source stopped. */
static void moment(FILE *out, const char *name, const struct tl_end *e, double stop, double zero, double from,
		   double to, double range[2])
{
	fprintf(out, "$%s << EOD\n%.3f NaN\n", name, from);
	for (size_t i = 0; i < e->n; i++) {
		const struct tl_sample *s = &e->sample[i];

		if (s->ms >= from && s->ms <= to && s->stamps > 0)
			fprintf(out, "%.4f %.0f\n", s->ms - stop, s->stamps - zero);
		else
			continue;
		range[0] = higher(range[0], zero - s->stamps);
		range[1] = higher(range[1], s->stamps - zero);
	}
	fprintf(out, "EOD\n");
}

static void moment_panel(FILE *out, const struct timeline *t)
{
	enum vmm_end main_end = tl_main_end(t);
	double stop = tl_phase_ms(t, main_end, FERRY_PHASE_STOP_AND_COPY),
	       black = tl_number(t, "downtime_us") / 1000;
	double before = black * 2 > 8 ? black * 2 : 8, after = black * 4 > 32 ? black * 4 : 32, zero = 0;
	const struct tl_end *e = &t->end[main_end];
	double range[2] = { 1, 1 }; /* below and above 0 */

	small_panel(out, LEFT, 0.345);
	fprintf(out, "set title 'around the switchover' font ',11'\n");
	if (stop < 0) {
		fprintf(out,
			"set title 'the VM was not paused'; set xrange [0:1]; set yrange [0:1]; plot NaN notitle\n");
		return;
	}
	for (size_t i = 0; i < e->n && e->sample[i].ms <= stop; i++)
		zero = e->sample[i].stamps;
	moment(out, "moment_source", &t->end[VMM_END_SOURCE], stop, zero, stop - before,
	       strcmp(tl_text(t, "owner"), "target") ? stop + after : stop + black, range);
	moment(out, "moment_target", &t->end[VMM_END_TARGET], stop, zero, stop - before, stop + after, range);
	fprintf(out,
		"set object rectangle from first 0, graph 0 to first %.4f, graph 1 behind fillcolor rgb '#f6a5a5' "
		"fillstyle solid 1 noborder\n"
		"set xrange [%.3f:%.3f]; set yrange [%.0f:%.0f]; set xlabel 'ms since the pause' offset 0,0.3; set ylabel 'pages written since'; "
		"set key bottom right samplen 2 font ',9'\n"
		"plot $moment_source using 1:2 with steps linewidth 1.5 linecolor rgb '" SOURCE_COLOUR
		"' title 'at the source', $moment_target using 1:2 with steps linewidth 1.5 linecolor rgb '" TARGET_COLOUR
		"' title 'at the target'\n",
		black, -before, after, -range[0] * 1.05, range[1] * 1.05);
}

/* 1, 2 or 5 times a power of ten, no less than v. */
static double round_step(double v)
{
	double step = 1;

	while (step * 10 < v)
		step *= 10;
	return v <= step ? step : v <= 2 * step ? 2 * step : v <= 5 * step ? 5 * step : 10 * step;
}

/* A waterfall: each part begins where the previous one ended. */
static void downtime_panel(FILE *out, const struct timeline *t)
{
	double total = tl_number(t, "downtime_us"), at = 0;

	small_panel(out, 0.44, 0.635);
	fprintf(out, "unset ylabel; unset grid; set grid xtics linecolor rgb '#d1d5db' linewidth 0.5\n");
	if (total <= 0) {
		fprintf(out,
			"set title 'no switchover was completed'; set xrange [0:1]; set yrange [0:1]; unset ytics; "
			"plot NaN notitle\n");
		return;
	}
	fprintf(out, "set title '%s: %.0f us' font ',11'; set ytics (",
		tl_standstill_ms(t) > 0 ? "until it ran at the target" : "downtime", total);
	for (unsigned i = 0; i < TL_ITEMS; i++)
		fprintf(out, "%s'%s' %u", i ? ", " : "", tl_item_names[i], TL_ITEMS - 1 - i);
	fprintf(out,
		") scale 0; set yrange [-0.6:%u.6]; set xrange [0:%.6g]; set xlabel 'us since the pause' offset 0,0.3; "
		"set xtics %.0f\n",
		TL_ITEMS - 1, total * 1.22, round_step(total / 3));
	for (unsigned i = 0; i < TL_ITEMS; i++) {
		double us = tl_item_us(t, i), y = TL_ITEMS - 1 - (double)i;

		fprintf(out,
			"set object rectangle from first %.1f, first %.2f to first %.1f, first %.2f fillcolor rgb '%s' "
			"fillstyle solid 0.9 noborder\nset label '%.0f' at first %.1f, first %.2f left offset 0.4,0 "
			"font ',9'\n",
			at, y - 0.36, at + us, y + 0.36, picture_item_colours[i], us, at + us, y);
		at += us;
	}
	fprintf(out, "plot NaN notitle\n");
}

/* A logarithmic scale has no 0, where the first bucket begins: it is drawn from 0.5 ns on. */
static double on_scale(double us)
{
	return us > 0.0005 ? us : 0.0005;
}

static void faults_panel(FILE *out, const struct timeline *t)
{
	double p50 = tl_number(t, "fault_p50_us"), p99 = tl_number(t, "fault_p99_us");

	small_panel(out, 0.70, RIGHT);
	fprintf(out, "set grid ytics linecolor rgb '#d1d5db' linewidth 0.5\n");
	if (!t->nbuckets) {
		fprintf(out,
			"set title 'no fault needed the peer' font ',11'; set xrange [0:1]; set yrange [0:1]; "
			"unset ytics; unset xtics; set xlabel ''; set ylabel ''; plot NaN notitle\n");
		return;
	}
	fprintf(out, "$faults << EOD\n");
	for (unsigned i = 0; i < t->nbuckets;) { /* a bar covers four steps of the histogram, at least one */
		double from = on_scale(t->bucket[i].from_us), below, n = 0;

		do {
			n += t->bucket[i].count;
			below = t->bucket[i].below_us;
		} while (++i < t->nbuckets && t->bucket[i].from_us < from * 1.16);
		fprintf(out, "%.4f %.4f %.0f\n", from, on_scale(below), n);
	}
	fprintf(out,
		"EOD\nset title '%.0f faults over the link' font ',11'; set logscale x; set xrange [%.4f:%.4f]; "
		"set yrange [0:*]; set offsets 0, 0, graph 0.16, 0; set xtics "
		"(1,2,5,10,20,50,100,200,500,1000,2000,5000,10000,20000,50000,100000,1000000); set xlabel 'us, event "
		"read until page placed' offset 0,0.3; "
		"set ylabel 'faults'\n",
		tl_number(t, "faults"), on_scale(t->bucket[0].from_us) * 0.7,
		on_scale(t->bucket[t->nbuckets - 1].below_us) * 1.4);
	fprintf(out,
		"set arrow from first %.4f, graph 0 to first %.4f, graph 0.9 nohead front linecolor rgb '#374151' dashtype 2\n"
		"set arrow from first %.4f, graph 0 to first %.4f, graph 0.9 nohead front linecolor rgb '#374151' dashtype 2\n"
		"set label 'p50 %.1f' at first %.4f, graph 0.94 center front font ',9'\n"
		"set label 'p99 %.1f' at first %.4f, graph 0.94 center front font ',9'\n",
		on_scale(p50), on_scale(p50), on_scale(p99), on_scale(p99), p50, on_scale(p50), p99,
		on_scale(p99));
	fprintf(out, "plot $faults using (sqrt($1*$2)):3:1:2:(0):3 with boxxyerror fillcolor rgb '#7c2d92' "
		     "fillstyle solid 0.6 border linecolor rgb '#7c2d92' notitle\nset offsets 0, 0, 0, 0\n");
}

static void titles(FILE *out, const struct timeline *t)
{
	char text[512];

	snprintf(text, sizeof(text), "%s over %s: %s, owner %s", tl_text(t, "mode"), tl_text(t, "transport"),
		 tl_text(t, "outcome"), *tl_text(t, "owner") ? tl_text(t, "owner") : "unknown");
	fprintf(out, "set label 1 ");
	picture_quote(out, text);
	fprintf(out, " at screen %.3f, screen 0.978 left font ',14' front\n", LEFT);
	snprintf(text, sizeof(text),
		 "%.0f MiB of %s memory, %.0f pages/s over %.0f MiB, %.0f vCPU; pre-copy %.1f ms at %.0f MB/s, "
		 "post-copy %.1f ms, %.0f ms in total",
		 tl_number(t, "memory_bytes") / 1048576, tl_text(t, "memory_kind"),
		 tl_number(t, "dirty_rate"), tl_number(t, "working_set") / 1048576, tl_number(t, "vcpus"),
		 tl_number(t, "precopy_ms"), tl_number(t, "throughput_mb_s"), tl_number(t, "postcopy_ms"),
		 tl_number(t, "total_ms"));
	fprintf(out, "set label 2 ");
	picture_quote(out, text);
	fprintf(out, " at screen %.3f, screen 0.957 left textcolor rgb '#4b5563' front\n", LEFT);
	/* Labels need a plot; this one draws only them. */
	fprintf(out,
		"set lmargin at screen 0; set rmargin at screen 1; set tmargin at screen 1; set bmargin at screen "
		"0.99; unset border; unset tics; unset key; set xrange [0:1]; set yrange [0:1]; plot NaN notitle; "
		"set border linecolor rgb '#6b7280'; set tics nomirror out textcolor rgb '#374151' font ',9'\n");
}

void picture_run(FILE *out, const struct timeline *t)
{
	struct heights h;
	double from, to;

	tl_span(t, &from, &to);
	data(out, t, from, to, &h);
	fprintf(out, "set multiplot\nset style fill solid\n");
	titles(out, t);
	guest_panel(out, t, from, to, &h);
	link_panel(out, t, from, to, &h);
	left_panel(out, t, from, to, &h);
	moment_panel(out, t);
	downtime_panel(out, t);
	faults_panel(out, t);
	fprintf(out, "unset multiplot\n");
}
