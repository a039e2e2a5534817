/* SPDX-License-Identifier: MIT */
/*
 * The matrix's second dimension: each kind of local failure x each phase x each end x each way to finish x each kind of
 * memory x tcp and mem. Whoever gives up must say so: the outcome, and one sentence at both ends.
 *
 * A cell is one migration in a process of its own, an end a thread, whose failure inject.c brings about. Dry runs come
 * first: they note each place in the library from where a call that may fail is made, in which phase and at which end. Each
 * such place is a cell then, so that no list has to be kept of them. What is kept is where each kind is met at all.
 *
 * The time to reconnect is RECONNECT_FAR_US: a failure that is taken for a lost link does not end before the cell's time
 * is over. What a failure comes to, and which one cannot happen where, is in local.c; docs/failure-model.md shows it.
 *
 *	inject.c	the calls that fail
 *	local.c		the expectations, the judgement, and the tables
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
	enum ferry_phase phase; /* FERRY_PHASE_IDLE: while the sessions are made and opened */
	bool at_source, shared, mem;
	enum way way;
	bool dry;	/* nothing fails: what could is noted */
	uintptr_t want; /* where it strikes; 0: nowhere, it is in earnest */
	unsigned skip;	/* of an op: so many calls in the phase come before the one that fails */
	unsigned tries;
};

/* Shared by the process of a cell and the one that judges it. */
struct local_seen {
	struct inject inject;
	struct {
		bool opened, ended;
		int err; /* of making and opening it */
		struct ferry_result res;
		bool runs;
		char ops[FAKE_TRACE];
	} end[2]; /* source, target */
	bool held;
	bool over; /* it came to its end */
	uint64_t still_us; /* the VM stood still so long after the failure */
	char cannot[200];  /* not empty: the failure cannot be brought about on this host */
	char trouble[512];
	char left[256]; /* behind */
};

/* The life of a cell's process. */
_Noreturn void local_main(const struct local *c, struct local_seen *m);

/* Whether the matrix has such cells at all. */
bool local_is_cell(const struct local *c);
/* Of an op that fails in that phase, with want: the skip of its i-th row; false: there is none. */
bool local_op_row(const struct local *c, unsigned i, unsigned *skip);
/* Whether such a failure has to come about, or, sometimes, may; c->want counts for ops. */
bool local_has_row(const struct local *c, bool sometimes);
/* Empty, or why it has failed; died: the signal that killed it. *reached: its failure came about. */
void local_judge(char why[1400], const struct local *c, const struct local_seen *m, int died, bool *reached);
void local_text(char buf[300], const struct local *c);
/* The markdown tables of docs/failure-model.md. */
void local_table(FILE *out);

struct local_choice {
	const char *kind, *phase, *end, *way;
	unsigned jobs, limit_s;
	bool verbose;
};
/* How many failed. */
unsigned local_run(const struct local_choice *ch, unsigned *cells);

#endif
