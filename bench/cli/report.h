/* SPDX-License-Identifier: MIT */
/* All facts about a run, and its verdict. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "end.h"
#include "observer.h"
#include "options.h"
#include "bench/floor/floor.h"

#define ROUNDS_KEPT 1024
#define POLICY_KEPT 4

/* The exit codes that rdma-migrate help documents; a greater one is worse. */
enum verdict {
	VERDICT_OK = 0,
	VERDICT_USAGE = 1,
	VERDICT_NOT_AS_ASKED = 2,
	VERDICT_PROOF = 3,
	VERDICT_LOST = 4,
	VERDICT_ENVIRONMENT = 5,
	VERDICT_OUTPUT = 6 /* otherwise 0, but an output could not be written */
};

/* What one end has reported. */
struct end_report {
	bool begun, have_result, drilled; /* drilled: the fault of --kill occurred at this end */
	bool hung;			  /* the parent killed it, long after the other end had ended */
	enum ferry_phase last;		  /* the last phase up to activation that it entered */
	struct ferry_result result;
	struct end_cost cpu;
	struct ferry_stats live;      /* the latest counters, for the progress line */
	double live_mb_s;	      /* since the previous counters */
	char error[FERRY_DETAIL_MAX]; /* why it could not begin, or "" */
};

/* One migration, as the parent sees it. */
struct run_report {
	const struct options *o;
	struct options asked;	 /* the other host's options; o then points here */
	bool whole;		 /* it has both ends */
	char host[2][64];	 /* by enum vmm_end; "": unknown */
	int64_t clock_offset_ns; /* two hosts: the target's clock minus the source's, only for pictures */
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
	/* filled by judge() */
	const char *outcome;
	enum ferry_owner owner;
	enum verdict verdict;
	char sentence[1024]; /* what happened, and the reason of the verdict */
};

/* judge.c: fills outcome, owner, verdict and sentence. */
void judge(struct run_report *r);
/* The end on this host if the other end is unknown; -1: both are known. */
int only_end(const struct run_report *r);
/* The counters of the source, or of the target: from its result, or the latest ones before it died. */
const struct ferry_stats *source_stats(const struct run_report *r);
const struct ferry_stats *target_stats(const struct run_report *r);
double throughput_mb_s(const struct run_report *r);
/* "log", "ring", "pagemap"; "" for auto, which means that it is not known. */
const char *tracking_name(enum vmm_tracking by);

/* report.c, json.c */
void report_table(FILE *out, const struct run_report *r);
void report_json(FILE *out, const struct run_report *r);
void report_json_object(FILE *out, const struct run_report *r); /* without a newline */
void json_quoted(FILE *out, const char *text);			/* "text", escaped */
void json_text(FILE *out, const char *name, const char *text);	/* "name":"text", with a comma after it */
void floor_table(FILE *out, const struct floor *f, const struct options *o);
void floor_json(FILE *out, const struct floor *f, const struct options *o);
/* Writes the progress line over itself; report_progress_end() erases it. */
void report_progress(FILE *out, const struct run_report *r);
void report_progress_end(FILE *out);

/* summary.c: medians and spread over --repeat. */
struct summary;
struct summary *summary_new(uint64_t cap);
void summary_add(struct summary *s, const struct run_report *r);
void summary_table(FILE *out, struct summary *s); /* sorts the values in s */
void summary_free(struct summary *s);

#endif
