/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "run.h"

static FILE *open_out(const char *option, const char *name, const char *how)
{
	FILE *out;

	if (!strcmp(name, "-"))
		return stdout;
	out = fopen(name, how);
	if (!out)
		fprintf(stderr, "rdma-migrate: --%s %s: %s; name a file that can be written.\n", option, name,
			strerror(errno));
	return out;
}

int run_floor(struct floor *f, const struct options *o)
{
	char why[256];
	int err = floor_measure(f, o->uri, o->memory, o->kind == KIND_MEMFD || o->kind == KIND_HUGETLB_MEMFD, why, sizeof(why));

	if (err)
		fprintf(stderr, "rdma-migrate: the floor could not be measured: %s.\n", why);
	return err;
}

static int cmd_floor(const struct options *o, FILE *json)
{
	for (uint64_t i = 0; i < o->repeat; i++) {
		struct floor f;

		if (run_floor(&f, o))
			return VERDICT_ENVIRONMENT;
		if (json != stdout)
			floor_table(stdout, &f, o);
		if (json)
			floor_json(json, &f, o);
	}
	return VERDICT_OK;
}

/* The worst of the runs is the program's. */
static int cmd_run(const struct options *o, FILE *json, FILE *recording)
{
	uint64_t repeat = o->command == CMD_RUN ? o->repeat : 1;
	struct run_report *r = calloc(1, sizeof(*r));
	struct summary *sum = summary_new(repeat);
	bool floor = o->command == CMD_RUN && o->floor != FLOOR_OFF, have_floor = false;
	enum verdict worst = VERDICT_OK;
	struct floor f = { 0 };

	for (uint64_t i = 1; i <= repeat && r && sum && worst != VERDICT_ENVIRONMENT; i++) {
		if (floor && (!have_floor || o->floor == FLOOR_EACH))
			have_floor = !run_floor(&f, o);
		run_once(r, o, i, have_floor ? &f : NULL, recording);
		summary_add(sum, r);
		if (json != stdout)
			report_table(stdout, r);
		if (json)
			report_json(json, r);
		if (r->verdict > worst)
			worst = r->verdict;
	}
	if (!r || !sum)
		worst = VERDICT_ENVIRONMENT;
	else if (repeat > 1 && json != stdout)
		summary_table(stdout, sum);
	summary_free(sum);
	free(r);
	return worst;
}

static int dispatch(const struct options *o, FILE *json, FILE *recording)
{
	switch (o->command) {
	case CMD_HELP:
		options_help(stdout, o->about);
		return VERDICT_OK;
	case CMD_VERSION:
		printf("rdma-migrate and libferry %s\n", ferry_version());
		return VERDICT_OK;
	case CMD_PLOT:
		return cmd_plot(o);
	case CMD_DOCTOR:
		return cmd_doctor(json);
	case CMD_FLOOR:
		return cmd_floor(o, json);
	case CMD_SWEEP:
		return cmd_sweep(o, json, recording);
	default:
		return cmd_run(o, json, recording);
	}
}

int main(int argc, char **argv)
{
	FILE *json = NULL, *recording = NULL;
	struct options o;
	int ret;

	if (options_parse(&o, argc, argv))
		return VERDICT_USAGE;
	if (o.json) {
		json = open_out("json", o.json, "ae");
		if (!json)
			return VERDICT_USAGE;
	}
	if (o.record) {
		recording = open_out("record", o.record, "we");
		if (!recording)
			return VERDICT_USAGE;
	}
	ret = dispatch(&o, json, recording);
	if (recording && recording != stdout)
		fclose(recording);
	if (json && json != stdout)
		fclose(json);
	return ret;
}
