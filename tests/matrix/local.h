/* SPDX-License-Identifier: MIT */
/*
 * The matrix's second dimension: each kind of local failure x each phase x each end x each way to finish x
 * each kind of memory x tcp and mem. The end that fails must report it: the expected outcome, and the same
 * sentence at both ends.
 *
 * A cell is one migration in its own process, with a thread per end; inject.c causes the failure. Dry runs
 * come first: they note each place in the library that makes a call that can fail, with its phase and end.
 * Each such place becomes a cell, so no list of places has to be kept. Only where each kind can happen at all
 * is listed, in local.c.
 *
 * The time to reconnect is RECONNECT_FAR_US, so a failure that is taken for a lost link exceeds the cell's
 * time limit. local.c has the expected outcomes; docs/failure-model.md shows them.
 *
 *	inject.c	the calls that fail
 *	local.c		the expectations, the verdict, and the tables
 *	local_end.c	the two ends, in their process
 *	local_run.c	forks the cells, many at a time
 */
#ifndef MATRIX_LOCAL_H
#define MATRIX_LOCAL_H

#include "inject.h"
#include "matrix.h"

#define RECONNECT_FAR_US 600000000u
#define LOCAL_LIMIT_S 60u

struct local {
	enum kind kind;
	enum ferry_phase phase; /* FERRY_PHASE_IDLE: the sessions are made and opened */
	bool at_source, shared, mem;
	enum way way;
	bool dry;	/* no call fails: note which ones could */
	uintptr_t want; /* the site that fails; 0: a real failure */
	unsigned skip;	/* of an op: calls in the phase that succeed before */
	unsigned met;	/* dry runs that have met the site */
	unsigned tries;
	bool reached;
};

/* Shared by the process of a cell and the one that judges it. */
struct local_seen {
	struct inject inject;
	struct {
		bool opened, ended;
		int err; /* from making and opening the session */
		struct ferry_result res;
		bool runs;
		char ops[FAKE_TRACE];
	} end[2]; /* source, target */
	bool held;
	bool over;	   /* the process has finished */
	uint64_t still_us; /* how long the VM was paused after the failure */
	char cannot[200];  /* not empty: why this host cannot cause the failure */
	char trouble[512];
	char left[256]; /* what the process left behind */
};

/* The main function of a cell's process. */
_Noreturn void local_main(const struct local *c, struct local_seen *m);

/* Whether the matrix has this cell. */
bool local_is_cell(const struct local *c);
/* For an op (c->want): *skip of its i-th row in that phase; false: it has no such row. */
bool local_op_row(const struct local *c, unsigned i, unsigned *skip);
/* Whether the failure must happen in this cell; with sometimes, whether it may. Of ops, c->want counts. */
bool local_has_row(const struct local *c, bool sometimes);
/* why: empty, or why the cell failed. died: the signal that killed it. *reached: its failure happened. */
void local_judge(char why[1400], const struct local *c, const struct local_seen *m, int died, bool *reached);
void local_text(char buf[300], const struct local *c);
/* The markdown tables of docs/failure-model.md. */
void local_table(FILE *out);

struct local_choice {
	const char *kind, *phase, *end, *way;
	unsigned jobs, limit_s;
	bool verbose;
};
/* Returns how many cells failed. */
unsigned local_run(const struct local_choice *ch, unsigned *cells);

#endif
