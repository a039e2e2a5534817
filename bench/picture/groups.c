/* SPDX-License-Identifier: MIT */
/* Groups runs with the same options; a group's label has the options in which the groups differ. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"
#include "bench/cli/util.h"

/* The options that runs of a group share. */
static const struct {
	const char *name;
	const char *unit;
	double scale; /* 0: a text */
} asked[] = {
	{ "transport", "", 0 },
	{ "mode", "", 0 },
	{ "commit_at", " commit", 0 },
	{ "kill", "", 0 },
	{ "memory_kind", "", 0 },
	{ "memory_bytes", " MiB", 1.0 / 1048576 },
	{ "working_set", " MiB set", 1.0 / 1048576 },
	{ "dirty_rate", " pages/s", 1 },
	{ "populate", " % populated", 1 },
	{ "vcpus", " vCPUs", 1 },
	{ "channels", " channels", 1 },
	{ "bandwidth", " bytes/s", 1 },
};
#define NASKED (sizeof(asked) / sizeof(*asked))

static bool same(const struct timeline *a, const struct timeline *b, unsigned i)
{
	if (asked[i].scale > 0)
		return tl_number(a, asked[i].name) == tl_number(b, asked[i].name);
	return !strcmp(tl_text(a, asked[i].name), tl_text(b, asked[i].name));
}

static bool same_all(const struct timeline *a, const struct timeline *b)
{
	for (unsigned i = 0; i < NASKED; i++) {
		if (!same(a, b, i))
			return false;
	}
	return true;
}

/* The length of the directory that all file names share: a picture has no room for it. */
static size_t same_directory(const struct groups *g)
{
	const char *first = g->v[0].run[0]->name;
	size_t len = 0;

	for (size_t i = 0; first[i]; i++) {
		for (size_t k = 1; k < g->n; k++) {
			if (g->v[k].run[0]->name[i] != first[i])
				return len;
		}
		if (first[i] == '/')
			len = i + 1;
	}
	return len;
}

static void append(char *label, size_t cap, const struct timeline *t, unsigned i)
{
	size_t len = strlen(label);
	const char *sep = len ? ", " : "";

	if (asked[i].scale > 0)
		snprintf(label + len, cap - len, "%s%.0f%s", sep,
			 tl_number(t, asked[i].name) * asked[i].scale, asked[i].unit);
	else if (*tl_text(t, asked[i].name))
		snprintf(label + len, cap - len, "%s%s%.60s%s", sep,
			 strcmp(asked[i].name, "kill") ? "" : "kill ", tl_text(t, asked[i].name),
			 asked[i].unit);
}

static void name_groups(struct groups *g)
{
	for (unsigned i = 0; i < NASKED; i++) {
		bool differs = false;

		for (size_t k = 1; k < g->n && !differs; k++)
			differs = !same(g->v[0].run[0], g->v[k].run[0], i);
		for (size_t k = 0; k < g->n && differs; k++)
			append(g->v[k].label, sizeof(g->v[k].label), g->v[k].run[0], i);
	}
	for (size_t k = 0; k < g->n; k++) {
		struct group *v = &g->v[k];

		if (!v->label[0])
			snprintf(v->label, sizeof(v->label), "%.150s", v->run[0]->name + same_directory(g));
	}
}

/* If all runs have the same options, each run becomes a group of its own. */
static bool all_alike(const struct timelines *all)
{
	for (size_t i = 1; i < all->n; i++) {
		if (!same_all(&all->v[0], &all->v[i]))
			return false;
	}
	return true;
}

int groups_make(struct groups *ret, const struct timelines *all)
{
	struct groups g = { .v = calloc(all->n, sizeof(*g.v)) };
	bool apart = all_alike(all);

	for (size_t i = 0; i < all->n && g.v; i++) {
		const struct timeline *t = &all->v[i];
		size_t k = apart ? g.n : 0;

		while (k < g.n && !same_all(g.v[k].run[0], t))
			k++;
		if (k == g.n) {
			g.v[k].run = calloc(all->n, sizeof(*g.v[k].run));
			if (!g.v[k].run)
				break;
			g.n++;
		}
		g.v[k].run[g.v[k].n++] = t;
	}
	*ret = g;
	if (!g.v || !g.n || !g.v[g.n - 1].run) {
		groups_free(ret);
		return -ENOMEM;
	}
	name_groups(ret);
	return 0;
}

void groups_free(struct groups *g)
{
	for (size_t i = 0; i < g->n; i++)
		free(g->v[i].run);
	free(g->v);
	*g = (struct groups){ 0 };
}

double group_median(const struct group *g, double (*of)(const struct timeline *t, unsigned arg), unsigned arg)
{
	double *v = calloc(g->n, sizeof(*v)), median;
	size_t n = 0;

	for (size_t i = 0; i < g->n && v; i++) {
		double f = of(g->run[i], arg);

		if (f > 0)
			v[n++] = f;
	}
	if (v)
		sort_double(v, n);
	median = quantile(v, n, 0.5);
	free(v);
	return median;
}

const struct timeline *group_typical(const struct group *g)
{
	double median = group_median(g, figure, FIG_DOWNTIME_US), best = -1;
	const struct timeline *typical = g->run[0];

	for (size_t i = 0; i < g->n; i++) {
		double off = figure(g->run[i], FIG_DOWNTIME_US) - median;

		off = off < 0 ? -off : off;
		if (best < 0 || off < best) {
			best = off;
			typical = g->run[i];
		}
	}
	return typical;
}

double figure(const struct timeline *t, unsigned name)
{
	static const char *const paths[FIG_COUNT] = {
		[FIG_DOWNTIME_US] = "downtime_us",    [FIG_TOTAL_MS] = "total_ms",
		[FIG_PRECOPY_MS] = "precopy_ms",      [FIG_POSTCOPY_MS] = "postcopy_ms",
		[FIG_THROUGHPUT] = "throughput_mb_s", [FIG_FAULTS] = "faults",
		[FIG_FAULT_P50] = "fault_p50_us",     [FIG_FAULT_P99] = "fault_p99_us",
		[FIG_FAULT_MAX] = "fault_max_us",
	};

	return tl_number(t, paths[name]);
}

double figure_item(const struct timeline *t, unsigned item)
{
	return tl_item_us(t, item);
}
