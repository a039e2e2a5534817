/* SPDX-License-Identifier: MIT */
/* What is known of a run when it is over. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "end.h"
#include "observer.h"
#include "options.h"
#include "bench/floor/floor.h"

#define ROUNDS_KEPT 1024
#define POLICY_KEPT 4

/* The exit codes that help documents; the worst run's is the greatest. */
enum verdict {
	VERDICT_OK = 0,
	VERDICT_USAGE = 1,
	VERDICT_NOT_AS_ASKED = 2,
	VERDICT_PROOF = 3,
	VERDICT_LOST = 4,
	VERDICT_ENVIRONMENT = 5,
	VERDICT_OUTPUT = 6 /* else 0, and an output of the program could not be written */
};

/* What one end told, until it ended or was ended. */
struct end_report {
	bool begun, have_result, drilled; /* drilled: it entered the stage that --kill names */
	bool hung;			  /* it was killed here, long after the other had ended */
	enum ferry_phase last;		  /* the furthest stage up to activation that it entered */
	struct ferry_result result;
	struct end_cost cpu;
	struct ferry_stats live;      /* the newest, for the progress line */
	double live_mb_s;	      /* since the stats before */
	char error[FERRY_DETAIL_MAX]; /* it could not begin */
};

/* One migration, from the outside. */
struct run_report {
	const struct options *o;
	struct options asked; /* what o points to once the other host has said what it was asked for */
	bool whole;	      /* both ends are in it */
	char host[2][64];     /* enum vmm_end; "": not known */
	int64_t clock_offset_ns; /* two hosts: the target's clock less the source's, for drawing only */
	uint64_t clock_error_ns;
	uint64_t number;	  /* 1 to --repeat */
	struct end_report end[2]; /* enum vmm_end */
	struct ferry_round rounds[ROUNDS_KEPT];
	unsigned nrounds;
	char policy[POLICY_KEPT][FERRY_DETAIL_MAX];
	unsigned npolicy;
	char mutator[16];
	bool have_proof, ran_on;
	int proof_err;
	struct vmm_proof proof;
	struct observer observer;
	bool have_floor;
	struct floor floor;
	/* the judgement */
	const char *outcome;
	enum ferry_owner owner;
	enum verdict verdict;
	char sentence[1024]; /* what happened, and why the verdict */
};

/* judge.c: fills outcome, owner, verdict and sentence. */
void judge(struct run_report *r);
/* The end that was here, where nothing is known of the other; -1: both are known. */
int only_end(const struct run_report *r);
/* The result of the end that knows most of the source's side or the target's; NULL when both died. */
const struct ferry_stats *source_stats(const struct run_report *r);
const struct ferry_stats *target_stats(const struct run_report *r);
double throughput_mb_s(const struct run_report *r);

/* report.c, json.c */
void report_table(FILE *out, const struct run_report *r);
void report_json(FILE *out, const struct run_report *r);
void report_json_object(FILE *out, const struct run_report *r); /* without the end of the line */
/* "name":"text", escaped, with a comma behind */
void json_quoted(FILE *out, const char *text); /* "text", escaped */
void json_text(FILE *out, const char *name, const char *text);
void floor_table(FILE *out, const struct floor *f, const struct options *o);
void floor_json(FILE *out, const struct floor *f, const struct options *o);
/* A line on a terminal, written over itself; stage NULL wipes it. */
void report_progress(FILE *out, const struct run_report *r);
void report_progress_end(FILE *out);

/* summary.c: medians and spread over --repeat. */
struct summary;
struct summary *summary_new(uint64_t cap);
void summary_add(struct summary *s, const struct run_report *r);
void summary_table(FILE *out, struct summary *s); /* sorts what it holds */
void summary_free(struct summary *s);

#endif
