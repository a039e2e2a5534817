/* SPDX-License-Identifier: MIT */
/* rdma-migrate: runs the command and returns the exit code. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "run.h"

static int cmd_floor(const struct options *o, const struct outputs *to)
{
	for (uint64_t i = 0; i < o->repeat; i++) {
		struct floor f;

		if (run_floor(&f, o))
			return VERDICT_ENVIRONMENT;
		if (to->table)
			floor_table(out_file(to->table), &f, o);
		if (to->json)
			floor_json(out_file(to->json), &f, o);
		if (!outputs_whole(to))
			break;
	}
	return VERDICT_OK;
}

/* The program's exit code is that of its worst run. */
static int cmd_run(const struct options *o, const struct outputs *to)
{
	uint64_t repeat = o->command == CMD_RUN ? o->repeat : 1;
	struct run_report *r = calloc(1, sizeof(*r));
	struct summary *sum = summary_new(repeat);
	bool floor = o->command == CMD_RUN && o->floor != FLOOR_OFF, have_floor = false, whole = true;
	enum verdict worst = VERDICT_OK;
	struct floor f = { 0 };

	for (uint64_t i = 1; i <= repeat && r && sum && worst != VERDICT_ENVIRONMENT && whole; i++) {
		if (floor && (!have_floor || o->floor == FLOOR_EACH))
			have_floor = !run_floor(&f, o);
		run_once(r, o, i, have_floor ? &f : NULL, to->recording);
		summary_add(sum, r);
		if (to->table)
			report_table(out_file(to->table), r);
		if (to->json)
			report_json(out_file(to->json), r);
		whole = outputs_whole(to);
		if (r->verdict > worst)
			worst = r->verdict;
	}
	if (!r || !sum)
		worst = VERDICT_ENVIRONMENT;
	else if (repeat > 1 && to->table)
		summary_table(out_file(to->table), sum);
	summary_free(sum);
	free(r);
	return worst;
}

static int dispatch(const struct options *o, const struct outputs *to)
{
	switch (o->command) {
	case CMD_HELP:
		options_help(out_file(to->table), o->about);
		return VERDICT_OK;
	case CMD_VERSION:
		fprintf(out_file(to->table), "rdma-migrate and libferry %s\n", ferry_version());
		return VERDICT_OK;
	case CMD_PLOT:
		return cmd_plot(o);
	case CMD_DOCTOR:
		return cmd_doctor(o, to);
	case CMD_FLOOR:
		return cmd_floor(o, to);
	case CMD_SWEEP:
		return cmd_sweep(o, to);
	default:
		return cmd_run(o, to);
	}
}

/* Opens a file, or standard output for "-", which then has no table. */
static bool open_one(struct out **ret, const char *option, const char *name, enum out_how how,
		     struct outputs *to, struct out *std)
{
	*ret = NULL;
	if (name && !strcmp(name, "-")) {
		*ret = std;
		to->table = NULL;
	} else if (name) {
		*ret = out_open(option, name, how);
	}
	return !name || *ret;
}

int main(int argc, char **argv)
{
	struct outputs to;
	struct options o;
	struct out *std;
	int ret = VERDICT_USAGE, lost = 0;

	out_begin();
	if (options_parse(&o, argc, argv))
		return VERDICT_USAGE;
	std = out_stdout();
	if (!std)
		return VERDICT_ENVIRONMENT;
	to = (struct outputs){ .table = std };
	if (open_one(&to.json, "--json", o.json, OUT_APPEND, &to, std) &&
	    open_one(&to.recording, "--record", o.record, OUT_REPLACE, &to, std))
		ret = dispatch(&o, &to);
	if (to.json != std)
		lost |= out_close(to.json);
	if (to.recording != std)
		lost |= out_close(to.recording);
	lost |= out_close(std);
	return ret == VERDICT_OK && lost ? VERDICT_OUTPUT : ret;
}
