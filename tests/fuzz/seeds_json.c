// SPDX-License-Identifier: MIT
/* Seeds of JSON: the programs' own output, and answers of etcd. */
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seeds.h"
#include "bench/cli/exchange.h"

#define HI "{\"hello\":\"rdma-migrate\",\"format\":2,\"session\":\"\",\"recording\":true}\n"

/* One end of a migration with a round, faults and outputs. */
static void fill(struct run_report *r, struct options *o, struct record *rec, enum vmm_end end)
{
	char program[] = "rdma-migrate", source[] = "source", target[] = "target", to[] = "--to";
	static char uri[] = "tcp:h:1"; /* the options point to it */
	char *argv[] = { program, end ? target : source, to, uri, NULL };
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE };

	if (options_parse(o, end ? 2 : 4, argv))
		exit(1);
	memset(r, 0, sizeof(*r));
	r->o = o;
	strcpy(r->host[end], "alpha");
	strcpy(r->mutator, "kvm-native");
	observer_init(&r->observer, -1, 1, !end);
	r->end[end].begun = r->end[end].have_result = true;
	r->end[end].result = (struct ferry_result){ .outcome = FERRY_OUTCOME_MIGRATED,
						    .owner = FERRY_OWNER_TARGET,
						    .phase = FERRY_PHASE_DONE };
	r->end[end].result.stats.downtime.load_us = 33;
	r->nrounds = r->npolicy = 1;
	r->rounds[0] = (struct ferry_round){ .bytes = 4096, .duration_us = 7 };
	strcpy(r->policy[0], "post-copy: it was asked for");
	r->have_proof = r->ran_on = end == VMM_END_TARGET;
	for (unsigned i = 0; i < 6; i++)
		rec->area[end]->sample[i] = (struct record_sample){ .time_ns = 5000000 + i * 1000000,
								    .stamps = i,
								    .bytes = i * 4096,
								    .phase = (uint16_t)(i + 1),
								    .running = i != 3 };
	atomic_store(&rec->area[end]->n, 6);
	rec->area[end]->bucket[0] = (struct ferry_fault_bucket){ 0, 1, 3 };
	rec->area[end]->bucket[1] = (struct ferry_fault_bucket){ 16, 17, 3 };
	atomic_store(&rec->area[end]->nbuckets, 2);
	for (ev.phase = FERRY_PHASE_PRE_MIGRATION; ev.phase <= FERRY_PHASE_DONE; ev.phase++)
		record_event(rec, end, &ev, "a phase", 5000000 + (uint64_t)ev.phase * 1000000);
}

/* The report, alone and with a recording, after the lines that precede it. */
static void conversations(struct run_report *r, struct record *rec, enum vmm_end end)
{
	uint8_t head[2] = { !end };

	for (int recorded = 0; recorded < 2; recorded++) {
		json_t *o = json_pack("{s:o,s:i,s:i}", "report",
				      peer_report_make(r, end, recorded ? rec : NULL), "clock_offset_ns", 5,
				      "clock_error_ns", 7);
		char *text = json_dumps(o, JSON_COMPACT), *all = malloc(strlen(text) + 4000);

		strcpy(all, HI);
		for (int i = 0; i < 16; i++)
			strcat(all, end ? "{\"clock_ns\":5000000}\n" : "{\"ping\":1}\n");
		strcat(strcat(all, text), "\n");
		for (head[0] = !end; head[0] < 4; head[0] += 2)
			seed("exchange", head, 1, all, strlen(all));
		free(all);
		free(text);
		json_decref(o);
	}
}

static void recording(const struct record *rec, struct run_report *r)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	judge(r);
	record_write(out, rec, r);
	fclose(out);
	seed("recording", "\000", 1, text, len);
	free(text);
	out = open_memstream(&text, &len);
	report_json(out, r);
	fclose(out);
	seed("recording", "\001", 1, text, len);
	free(text);
}

static void traces(void)
{
	static char text[65536];
	glob_t g;

	if (glob(FERRY_SOURCE_DIR "/bench/micro/scenarios/*.json", 0, NULL, &g))
		exit(1);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		FILE *in = fopen(g.gl_pathv[i], "re");
		size_t len = in ? fread(text, 1, sizeof(text), in) : 0;

		if (in)
			fclose(in);
		for (size_t k = 0; k < len; k++) /* make it one line, as the mutator needs it */
			text[k] = text[k] == '\n' ? ' ' : text[k];
		seed("recording", "\001", 1, text, len);
	}
	globfree(&g);
}

#define KEY "ZmVycnkvMDEwMjAzMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA=" /* ferry/ and the fuzzer's session */
#define HELD(owner) \
	"{\"responses\":[{\"response_range\":{\"kvs\":[{\"key\":\"" KEY "\",\"value\":\"" owner "\"}]}}]}\n"
#define PUT "{\"header\":{\"revision\":\"2\"},\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}\n"

static void etcd(void)
{
	static const char *const bodies[] = {
		PUT,
		HELD("c291cmNl"),
		HELD("dGFyZ2V0"),
		HELD("bm9ib2R5"),
		"{\"token\":\"abc.9\"}\n" PUT,
		"{\"token\":\"abc.9\"}\n" HELD("c291cmNl"),
		"{\"error\":\"etcdserver: no leader\",\"code\":14}\n" PUT,
		"{\"error\":\"permission denied\",\"code\":7}\n",
		"<html>It works!</html>\n",
		"{}\n",
		"[]\n",
	};

	for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++)
		for (uint8_t flags = 0; flags < 8; flags++)
			for (uint8_t how = 0; how < 10; how++)
				seed("etcd", (uint8_t[]){ flags, how, 0, how & 1 ? how : 0, 0 }, 5, bodies[i],
				     strlen(bodies[i]));
}

void seeds_json(void)
{
	static struct run_report r;
	struct options o;

	for (int end = 0; end < 2; end++) {
		struct record *rec = record_new(1000);

		if (!rec)
			exit(1);
		fill(&r, &o, rec, (enum vmm_end)end);
		conversations(&r, rec, (enum vmm_end)end);
		recording(rec, &r);
		record_free(rec);
	}
	traces();
	etcd();
}
