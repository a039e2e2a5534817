/* SPDX-License-Identifier: MIT */
/* Over the runs of --repeat: counts of outcomes, and the spread of the main figures. */
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "util.h"

enum figure {
	TOTAL,
	DOWNTIME,
	POSTCOPY,
	THROUGHPUT,
	THROUGHPUT_RATIO,
	FAULT_P50,
	FAULT_P99,
	FAULT_P50_RATIO,
	NFIGURES
};

static const char *const figure_names[] = {
	"total ms",	  "downtime ms",  "post-copy ms", "throughput MB/s",
	"  of the floor", "fault p50 us", "fault p99 us", "  p50 of the floor",
};
_Static_assert(sizeof(figure_names) / sizeof(*figure_names) == NFIGURES, "one name per figure");

struct summary {
	uint64_t cap, runs, ok, migrated;
	uint64_t pages_bad, missing, repeated;
	size_t n[NFIGURES];
	double *v[NFIGURES];
};

struct summary *summary_new(uint64_t cap)
{
	struct summary *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->cap = cap;
	for (int i = 0; i < NFIGURES; i++) {
		s->v[i] = calloc(cap, sizeof(double));
		if (!s->v[i]) {
			summary_free(s);
			return NULL;
		}
	}
	return s;
}

void summary_free(struct summary *s)
{
	for (int i = 0; s && i < NFIGURES; i++)
		free(s->v[i]);
	free(s);
}

static void add(struct summary *s, enum figure f, double v)
{
	if (v > 0 && s->n[f] < s->cap)
		s->v[f][s->n[f]++] = v;
}

void summary_add(struct summary *s, const struct run_report *r)
{
	const struct ferry_stats *src = source_stats(r), *tgt = target_stats(r);
	uint64_t seen, missing, repeated;

	observer_total(&r->observer, &seen, &missing, &repeated);
	s->runs++;
	s->ok += r->verdict == VERDICT_OK;
	s->migrated += r->owner == FERRY_OWNER_TARGET;
	s->pages_bad += r->have_proof ? r->proof.pages_bad : 0;
	s->missing += missing;
	s->repeated += repeated;
	add(s, TOTAL, (double)src->elapsed_us / 1000);
	add(s, DOWNTIME, (double)src->downtime.total_us / 1000);
	add(s, POSTCOPY, (double)tgt->postcopy_us / 1000);
	add(s, THROUGHPUT, throughput_mb_s(r));
	if (tgt->faults) {
		add(s, FAULT_P50, (double)tgt->fault_p50_ns / 1000);
		add(s, FAULT_P99, (double)tgt->fault_p99_ns / 1000);
	}
	if (r->have_floor) {
		add(s, THROUGHPUT_RATIO, throughput_mb_s(r) / r->floor.throughput_mb_s);
		if (tgt->faults)
			add(s, FAULT_P50_RATIO, (double)tgt->fault_p50_ns / 1000 / r->floor.fault_p50_us);
	}
}

void summary_table(FILE *out, struct summary *s)
{
	fprintf(out,
		"%llu runs: %llu as asked, %llu migrated; %llu pages bad, %llu outputs missing, %llu repeated\n",
		(unsigned long long)s->runs, (unsigned long long)s->ok, (unsigned long long)s->migrated,
		(unsigned long long)s->pages_bad, (unsigned long long)s->missing,
		(unsigned long long)s->repeated);
	fprintf(out, "  %-18s %10s %10s %10s %10s\n", "", "min", "p50", "p99", "max");
	for (int i = 0; i < NFIGURES; i++) {
		const double *v = s->v[i];
		size_t n = s->n[i];

		if (!n)
			continue;
		sort_double(s->v[i], n);
		fprintf(out, "  %-18s %10.2f %10.2f %10.2f %10.2f\n", figure_names[i], v[0],
			quantile(v, n, 0.5), quantile(v, n, 0.99), v[n - 1]);
	}
}
