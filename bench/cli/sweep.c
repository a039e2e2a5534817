/* SPDX-License-Identifier: MIT */
/* Runs every transport with every working set, rate and mode, --repeat times each, and writes one page. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "run.h"

#define ELEMENT 256u

/* The axes, slowest first: an option of run and its list of values. */
struct axis {
	const char *option, *list;
	unsigned n;
};

struct sweep {
	const struct options *o;
	struct axis axis[4];
	const struct outputs *to;
	struct out *recording;
	struct run_report r;
	enum verdict worst;
	unsigned long done, all;
	bool dry; /* only check that the options of every cell are valid */
};

static unsigned length(const char *list)
{
	char element[ELEMENT];
	unsigned n = 0;

	while (list_element(list, n, element, sizeof(element)))
		n++;
	return n;
}

static bool lost(struct out *o)
{
	return o && out_whole(o) && !out_unread(o);
}

/* Whether to go on: the page counts, even if the table or the JSON has no reader any more. */
static bool one_run(struct sweep *s, const struct options *o, uint64_t number, const struct floor *floor)
{
	struct run_report *r = &s->r;

	run_once(r, o, number, floor, s->recording);
	s->done++;
	if (s->to->json)
		report_json(out_file(s->to->json), r);
	if (s->to->table)
		fprintf(out_file(s->to->table),
			"%3lu/%lu  %-13s %4lluM  %7llu pages/s  %-12s %-10s downtime %8.2f ms  total %8.1f ms%s%s\n",
			s->done, s->all, ferry_mode_name((enum ferry_mode)o->mode),
			(unsigned long long)o->working_set >> 20, (unsigned long long)o->dirty_rate, o->uri,
			r->outcome, (double)source_stats(r)->downtime.total_us / 1000,
			(double)source_stats(r)->elapsed_us / 1000, r->verdict ? "  " : "",
			r->verdict ? r->sentence : "");
	if (r->verdict > s->worst)
		s->worst = r->verdict;
	if (s->to->table)
		out_whole(s->to->table);
	return !lost(s->recording) && !lost(s->to->json);
}

/* The guest of a cell, and therefore its floor. */
static int one_cell(struct sweep *s, struct options *o)
{
	bool have_floor = false;
	struct floor f = { 0 };

	if (options_check(o))
		return VERDICT_USAGE;
	if (s->dry)
		return 0;
	for (uint64_t i = 1; i <= o->repeat; i++) {
		if (o->floor != FLOOR_OFF && (!have_floor || o->floor == FLOOR_EACH))
			have_floor = !run_floor(&f, o);
		if (!one_run(s, o, i, have_floor ? &f : NULL))
			return VERDICT_OUTPUT;
	}
	return 0;
}

/* For each value of axis a, runs all inner axes. An element must live as long as its cells. */
static int each(struct sweep *s, unsigned a, const struct options *o)
{
	char element[ELEMENT];

	if (a == sizeof(s->axis) / sizeof(*s->axis)) {
		struct options cell = *o;

		return one_cell(s, &cell);
	}
	for (unsigned i = 0; list_element(s->axis[a].list, i, element, sizeof(element)); i++) {
		struct options cell = *o;
		int err = options_set(&cell, s->axis[a].option, element);

		if (err)
			return VERDICT_USAGE;
		err = each(s, a + 1, &cell);
		if (err)
			return err;
	}
	if (!s->axis[a].n) /* not given: the default of run */
		return each(s, a + 1, o);
	return 0;
}

/* The page is made from recordings; they are kept only with --record. */
static int run_all(struct sweep *s, const char *out)
{
	char name[] = "/tmp/rdma-migrate-sweep-XXXXXX";
	const char *file = s->o->record;
	struct options base = *s->o;
	int fd = -1, err, unwritten = 0;

	base.command = CMD_RUN;
	s->dry = true;
	err = each(s, 0, &base);
	s->dry = false;
	if (err)
		return err;
	if (!file) {
		fd = mkstemp(name);
		if (fd >= 0)
			close(fd); /* only the name is needed */
		s->recording = fd < 0 ? NULL : out_open("the recordings for the page,", name, OUT_REPLACE);
		if (!s->recording) {
			fprintf(stderr,
				"rdma-migrate: cannot create a file for the recordings in /tmp; give --record FILE.\n");
			return VERDICT_ENVIRONMENT;
		}
		file = name;
	}
	err = each(s, 0, &base);
	if (!err) {
		char *files[] = { (char *)file };

		err = plot_files(files, 1, out);
		if (!err && s->to->table)
			fprintf(out_file(s->to->table), "%lu runs; the page is %s\n", s->done, out);
	}
	if (!s->o->record) {
		unwritten = out_close(s->recording);
		unlink(name);
	}
	if (err && err != VERDICT_OUTPUT)
		return err;
	return s->worst ? (int)s->worst : unwritten ? VERDICT_OUTPUT : err;
}

int cmd_sweep(const struct options *o, const struct outputs *to)
{
	const char *out = o->out ? o->out : "sweep.html";
	struct sweep *s = calloc(1, sizeof(*s));
	int ret;

	if (o->record && !strcmp(o->record, "-")) {
		fprintf(stderr,
			"rdma-migrate: --record of a sweep takes the name of a file, because sweep reads it again.\n");
		free(s);
		return VERDICT_USAGE;
	}
	if (!s || !plot_check_out(out)) {
		free(s);
		return s ? VERDICT_USAGE : VERDICT_ENVIRONMENT;
	}
	s->o = o;
	s->to = to;
	s->recording = to->recording;
	s->all = o->repeat;
	s->axis[0] = (struct axis){ .option = "uri", .list = o->uris };
	s->axis[1] = (struct axis){ .option = "working-set", .list = o->working_sets };
	s->axis[2] = (struct axis){ .option = "dirty-rate", .list = o->rates ? o->rates : "0,50000,200000" };
	s->axis[3] =
		(struct axis){ .option = "mode", .list = o->modes ? o->modes : "stop-and-copy,post-copy" };
	for (unsigned a = 0; a < sizeof(s->axis) / sizeof(*s->axis); a++) {
		s->axis[a].n = length(s->axis[a].list);
		s->all *= s->axis[a].n ? s->axis[a].n : 1;
	}
	ret = run_all(s, out);
	free(s);
	return ret;
}
