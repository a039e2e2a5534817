/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"

static FILE *open_json(const struct options *o)
{
	FILE *out;

	if (!o->json)
		return NULL;
	if (!strcmp(o->json, "-"))
		return stdout;
	out = fopen(o->json, "ae");
	if (!out)
		fprintf(stderr, "rdma-migrate: --json %s: %s.\n", o->json, strerror(errno));
	return out;
}

static int measure_floor(struct floor *f, const struct options *o)
{
	char why[256];
	int err = floor_measure(f, o->uri, o->memory, o->kind == KIND_MEMFD, why, sizeof(why));

	if (err)
		fprintf(stderr, "rdma-migrate: the floor could not be measured: %s.\n", why);
	return err;
}

static int cmd_floor(const struct options *o, FILE *json)
{
	for (uint64_t i = 0; i < o->repeat; i++) {
		struct floor f;

		if (measure_floor(&f, o))
			return VERDICT_ENVIRONMENT;
		if (json != stdout)
			floor_table(stdout, &f, o);
		if (json)
			floor_json(json, &f, o);
	}
	return VERDICT_OK;
}

/* The worst of the runs is the program's. */
static int cmd_run(const struct options *o, FILE *json)
{
	uint64_t repeat = o->command == CMD_RUN ? o->repeat : 1;
	struct run_report *r = calloc(1, sizeof(*r));
	struct summary *sum = summary_new(repeat);
	bool floor = o->command == CMD_RUN && o->floor != FLOOR_OFF, have_floor = false;
	enum verdict worst = VERDICT_OK;
	struct floor f = { 0 };

	for (uint64_t i = 1; i <= repeat && r && sum && worst != VERDICT_ENVIRONMENT; i++) {
		if (floor && (!have_floor || o->floor == FLOOR_EACH))
			have_floor = !measure_floor(&f, o);
		run_once(r, o, i);
		r->floor = f;
		r->have_floor = have_floor;
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

int main(int argc, char **argv)
{
	struct options o;
	FILE *json;
	int ret;

	if (options_parse(&o, argc, argv))
		return VERDICT_USAGE;
	if (o.command == CMD_HELP) {
		options_help(stdout);
		return VERDICT_OK;
	}
	if (o.command == CMD_VERSION) {
		printf("rdma-migrate and libferry %s\n", ferry_version());
		return VERDICT_OK;
	}
	json = open_json(&o);
	if (o.json && !json)
		return VERDICT_USAGE;
	ret = o.command == CMD_FLOOR ? cmd_floor(&o, json) : cmd_run(&o, json);
	if (json && json != stdout)
		fclose(json);
	return ret;
}
