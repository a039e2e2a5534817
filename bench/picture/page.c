/* SPDX-License-Identifier: MIT */
/* Writes the HTML page with the pictures. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "page.h"
#include "bench/cli/util.h"

static const char style[] =
	"body{font:15px/1.5 system-ui,'DejaVu Sans',Arial,sans-serif;color:#1f2937;margin:2rem auto;max-width:1440px;"
	"padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}table{border-collapse:collapse;"
	"font-size:13px}th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid #e5e7eb;white-space:nowrap}"
	"th{background:#f3f4f6;position:sticky;top:0}td:first-child,th:first-child,td.l{text-align:left}.bad{color:#b91c1c;"
	"font-weight:600}.scroll{overflow-x:auto}svg{max-width:100%;height:auto}pre{white-space:pre-wrap;"
	"background:#f3f4f6;padding:.8rem;font-size:12px;overflow-wrap:anywhere}p.s{color:#4b5563}";

static void escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<':
			fputs("&lt;", out);
			break;
		case '>':
			fputs("&gt;", out);
			break;
		case '&':
			fputs("&amp;", out);
			break;
		case '"':
			fputs("&quot;", out);
			break;
		default:
			fputc(*text, out);
		}
	}
}

int page_picture(enum picture_format f, unsigned id, const struct timeline *t, const struct groups *g,
		 char **ret, size_t *len)
{
	char *script = NULL;
	size_t script_len = 0;
	FILE *out = open_memstream(&script, &script_len);
	int err;

	if (!out)
		return -ENOMEM;
	if (t) {
		gnuplot_terminal(out, f, PICTURE_RUN_WIDTH, PICTURE_RUN_HEIGHT, id);
		picture_run(out, t);
	} else {
		gnuplot_terminal(out, f, PICTURE_RUN_WIDTH, picture_compare_height(g), id);
		picture_compare(out, g);
	}
	if (fclose(out)) {
		free(script);
		return -ENOMEM;
	}
	err = gnuplot_run(script, script_len, ret, len);
	free(script);
	return err;
}

/* Only the <svg> element: HTML allows no XML declaration or document type there. */
static void inline_svg(FILE *out, const char *svg, size_t len)
{
	const char *at = memmem(svg, len, "<svg", 4);

	if (at)
		fwrite(at, 1, len - (size_t)(at - svg), out);
}

static void figure_cell(FILE *out, const struct group *g, enum figure_name f, const char *fmt, double scale)
{
	double v = group_median(g, figure, f);

	if (v > 0)
		fprintf(out, fmt, v * scale);
	else
		fprintf(out, "<td>-</td>");
}

static double ratio(const struct timeline *t, unsigned fault)
{
	return tl_number(t, fault ? "ratios.fault_p50" : "ratios.throughput");
}

static double proof_trouble(const struct timeline *t, unsigned unused)
{
	(void)unused;
	return tl_number(t, "pages_bad") + tl_number(t, "guest_errors") + tl_number(t, "outputs_missing") +
	       tl_number(t, "outputs_repeated");
}

static void outcome_cell(FILE *out, const struct group *g)
{
	size_t ok = 0, trouble = 0;

	for (size_t i = 0; i < g->n; i++) {
		ok += tl_number(g->run[i], "exit_code") == 0;
		trouble += proof_trouble(g->run[i], 0) > 0;
	}
	fprintf(out, "<td class=\"l%s\">", ok < g->n ? " bad" : "");
	escaped(out, tl_text(g->run[0], "outcome"));
	if (ok < g->n || g->n > 1)
		fprintf(out, " (%zu of %zu as asked)", ok, g->n);
	fprintf(out, "</td><td%s>%s</td>", trouble ? " class=\"bad\"" : "", trouble ? "not clean" : "clean");
}

static void table(FILE *out, const struct groups *g)
{
	fprintf(out,
		"<div class=\"scroll\"><table><tr><th>run</th><th>n</th><th>outcome</th><th>proof</th><th>total "
		"ms</th><th>pre-copy ms</th><th>downtime ms</th><th>post-copy ms</th><th>MB/s</th><th>of the "
		"floor</th><th>faults</th><th>p50 us</th><th>p99 us</th><th>p50 of the floor</th></tr>\n");
	for (size_t i = 0; i < g->n; i++) {
		const struct group *v = &g->v[i];
		double r;

		fprintf(out, "<tr><td>");
		escaped(out, v->label);
		fprintf(out, "</td><td>%zu</td>", v->n);
		outcome_cell(out, v);
		figure_cell(out, v, FIG_TOTAL_MS, "<td>%.1f</td>", 1);
		figure_cell(out, v, FIG_PRECOPY_MS, "<td>%.1f</td>", 1);
		figure_cell(out, v, FIG_DOWNTIME_US, "<td>%.2f</td>", 1e-3);
		figure_cell(out, v, FIG_POSTCOPY_MS, "<td>%.1f</td>", 1);
		figure_cell(out, v, FIG_THROUGHPUT, "<td>%.0f</td>", 1);
		r = group_median(v, ratio, 0);
		fprintf(out, r > 0 ? "<td>%.2f</td>" : "<td>-</td>", r);
		figure_cell(out, v, FIG_FAULTS, "<td>%.0f</td>", 1);
		figure_cell(out, v, FIG_FAULT_P50, "<td>%.1f</td>", 1);
		figure_cell(out, v, FIG_FAULT_P99, "<td>%.1f</td>", 1);
		r = group_median(v, ratio, 1);
		fprintf(out, r > 0 ? "<td>%.2f</td>" : "<td>-</td>", r);
		fprintf(out, "</tr>\n");
	}
	fprintf(out, "</table></div>\n");
}

static void cost(FILE *out, const struct timeline *t)
{
	static const char *const who[] = { "source", "target" };
	const char *sep = "<p class=\"s\">Sampling has cost ";

	for (int end = 0; end < 2; end++) {
		const struct tl_end *e = &t->end[end];

		if (e->samples_taken <= 0)
			continue;
		fprintf(out, "%s%.1f us of CPU per sample at the %s (%.0f samples, %.1f %% of a core)", sep,
			e->cpu_us / e->samples_taken, who[end], e->samples_taken,
			100 * e->cpu_us / (e->samples_taken * e->period_us));
		sep = ", ";
	}
	if (*sep == ',')
		fprintf(out, ".</p>\n");
}

static int run_section(FILE *out, const struct group *g, unsigned id)
{
	const struct timeline *t = group_typical(g);
	char *svg, *json;
	size_t len;
	int err = page_picture(PICTURE_SVG, id, t, NULL, &svg, &len);

	if (err)
		return err;
	fprintf(out, "<h2>");
	escaped(out, g->label);
	fprintf(out, "</h2>\n<p class=\"s\">");
	escaped(out, tl_text(t, "sentence"));
	if (g->n > 1)
		fprintf(out, " Of %zu runs this one has the median downtime.", g->n);
	fprintf(out, "</p>\n");
	inline_svg(out, svg, len);
	free(svg);
	cost(out, t);
	json = json_dumps(t->result, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
	fprintf(out, "<details><summary>The result, as --json writes it</summary><pre>");
	escaped(out, json ? json : "");
	fprintf(out, "</pre></details>\n");
	free(json);
	return 0;
}

int page_write(FILE *out, const struct timelines *all, const struct groups *g)
{
	char *svg;
	size_t len;
	int err = 0;

	fprintf(out,
		"<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>rdma-migrate: %zu run%s</title>"
		"<style>%s</style></head><body>\n<h1>rdma-migrate: %zu run%s</h1>\n",
		all->n, all->n == 1 ? "" : "s", style, all->n, all->n == 1 ? "" : "s");
	table(out, g);
	if (g->n > 1) {
		err = page_picture(PICTURE_SVG, 0, NULL, g, &svg, &len);
		if (err)
			return err;
		fprintf(out, "<h2>Side by side</h2>\n");
		inline_svg(out, svg, len);
		free(svg);
	}
	for (size_t i = 0; i < g->n && !err; i++)
		err = run_section(out, &g->v[i], (unsigned)i + 1);
	fprintf(out,
		"<p class=\"s\">Where a line has several runs, its figures are medians. MB are 10^6 bytes. "
		"Written by rdma-migrate %s.</p>\n</body></html>\n",
		ferry_version());
	return err;
}
