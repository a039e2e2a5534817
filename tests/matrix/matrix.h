/* SPDX-License-Identifier: MIT */
/*
 * The kill matrix: every message of the protocol x what can befall it x each way to finish x each kind of memory; and
 * each cell that ends in doubt once more with an arbiter, which settles it at both ends.
 *
 * A cell is one migration between two processes over tcp, with a fake VM at each end. One end, the victim, arms a
 * fault that waits for the message, to send it or to hear it (ferry_drill()). This process is the observer: it hears
 * through a pipe, in the order in which it happened, which VM runs, holds or lets go, and each numbered output. In
 * the end it looks at who says what, who runs, what came out, the memory at the owner and what was left behind.
 *
 * local.h has the second dimension: what fails is not the link but something at one end.
 *
 *	points.c	which messages there are, when, and what each fault must come to: the expectations, and
 *			the table of docs/failure-model.md
 *	end.c		one end of a cell, in its process
 *	stranger.c	who answers the source that comes back in the target's place
 *	observer.c	the judgement of a cell
 *	main.c		forks the cells, many at a time, since most of their time is waiting
 */
#ifndef MATRIX_H
#define MATRIX_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/types.h>

#include "fakevm.h"
#include "runtime/link/wire.h"

#define TIMEOUT_US 2500000u /* silence; a machine that is busy with other cells must not look dead */
#define RECONNECT_US 1000000u
#define BACK_MS 20
#define CELL_LIMIT_US 90000000u

enum way { WAY_STOP, WAY_TENTATIVE, WAY_SERVER, WAYS };
#define IN_STOP (1u << WAY_STOP)
#define IN_TENTATIVE (1u << WAY_TENTATIVE)
#define IN_SERVER (1u << WAY_SERVER)
#define IN_POSTCOPY (IN_TENTATIVE | IN_SERVER)
#define IN_ALL (IN_STOP | IN_POSTCOPY)

enum fault {
	LOST_BACK,
	BEFORE_BACK,
	MIDDLE_BACK,
	AFTER_BACK,
	LOST,
	BEFORE,
	MIDDLE,
	AFTER,
	KILL_BEFORE,
	KILL_AFTER,
	KILL_HEARD, /* the end that hears it */
	STOP_BEFORE,
	STOP_AFTER,
	DUPLICATE,
	FAULTS
};

/* What has to happen for a message to be sent at all. */
enum provoke {
	NOTHING,
	TARGET_IS_TOO_SMALL,
	LOAD_FAILS,
	CANCEL_IN_PRECOPY,
	CANCEL_IN_COMMITMENT,
	HOLD_LIMIT,
	WAIT_FOR_PING
};

/*
 * What a cell must come to: the source's outcome and the target's, a letter each; alternatives behind a |.
 *	m migrated, r refused, f fell back, d discarded, ? in doubt, l lost, x killed
 */
struct expect {
	const char *lost_back, *cut_back, *after_back, *lost, *cut, *after;
	const char *kill_before, *kill_after, *stop_before, *stop_after;
	const char *kill_heard; /* NULL: whoever hears it cannot tell it from others of its type */
	const char *undisturbed; /* NULL: "mm" */
};

struct point {
	enum wire_type type;
	bool at_source;	      /* who sends it, and suffers */
	enum ferry_phase arm; /* the fault waits from when the victim enters this */
	unsigned nth;	      /* message of its type from then on; 0 is 1 */
	enum ferry_phase heard_arm; /* the same for who hears it; 0: from the beginning */
	unsigned heard_nth;
	enum provoke provoke;
	unsigned ways;
	const char *when;   /* for the reader */
	const char *absent; /* not NULL: the message is not sent in these ways, and why */
	bool elsewhere;	    /* nor in any other here: a test of its own has it sent */
	struct expect e;
};

extern const struct point points[];
extern const size_t npoints;

const char *way_name(enum way w);
const char *fault_name(enum fault f);
const char *expected(const struct point *p, enum fault f);
/* Whether an end may be in doubt there. */
bool in_doubt(const struct point *p, enum fault f);
/* The markdown table of docs/failure-model.md. */
void points_table(FILE *out);
/* The sentence of the first message of the protocol that has no point, or NULL. */
const char *points_missing(char buf[200]);

bool struck_at_source(const struct point *p, enum fault f); /* which end the fault strikes */

/* Who answers in the target's place when the source comes back; NOBODY_ELSE: the target does. */
enum stranger { NOBODY_ELSE, FRESH, FORGER, STRANGERS };
const char *stranger_name(enum stranger s);
/* The fault of a cell with a stranger, by which it is judged: the target's death, or a link that does not come back. */
bool stranger_fault(enum fault *ret, const struct point *p, enum stranger s, bool kill);

struct cell {
	const struct point *point;
	enum way way;
	enum fault fault;
	enum stranger stranger;
	bool claims; /* DUPLICATE: the second connection claims that the source comes back */
	bool shared, arbiter;
};

/* What a cell must come to: expected(), or what an arbiter makes of it. */
#define DUE_MAX 64
const char *cell_due(char buf[DUE_MAX], const struct cell *c);

/* What a second connection has heard. */
enum answer { ANSWER_NONE, ANSWER_REFUSED, ANSWER_HUNG_UP };

/* Shared by the processes of a cell. */
struct common {
	char uri[200];
	_Atomic int armed;  /* the victim has entered the phase from which the fault waits */
	_Atomic int struck; /* the fault has */
	_Atomic int record; /* the arbiter's: who owns the VM; FERRY_OWNER_NONE + 1 and so on, 0 nobody yet */
	struct {
		bool ended;
		struct ferry_result res;
		char trouble[512];
		char left[256]; /* behind, after everything was freed */
		char ops[FAKE_TRACE];
	} end[2]; /* source, target */
	enum answer answer; /* to the second connection */
	char stranger_uri[200];
	_Atomic unsigned diverted; /* connections that the source has made to the stranger */
	unsigned asked;		   /* HELLOs that a forger has heard */
	_Atomic int over;	   /* both ends have gone: the stranger may */
	char intruder[200]; /* what is wrong with that */
	uint8_t frozen[FAKE_PAGES * FAKE_PAGE];
};

enum record_what { RECORD_LISTENS = WORLD_OUTPUT + 1, RECORD_ENDED, RECORD_INTRUDER_IN, RECORD_STRANGER_LISTENS };

struct record {
	uint8_t at_source, what; /* enum world_what or record_what */
	uint16_t zero;
	uint32_t zero2;
	uint64_t n;
};

/* What the observer has seen of a cell. */
struct seen {
	bool source_runs, target_runs, held;
	bool ended[2]; /* source, target: what is taken down after that says nothing */
	uint64_t next; /* output */
	char trouble[300];
};

void observe(struct seen *s, const struct record *r);
/* An end was killed: its VM runs no more. */
void observe_death(struct seen *s, bool source);
/* After both have gone: empty, or why the cell has failed. */
/* Words with which the target ends, or after which it waits for an answer alone: it may not look who else has connected. */
bool last_words(enum wire_type t);
void judge_cell(char why[1200], const struct cell *c, const struct seen *s, const struct common *m, bool killed);
void outcome_pair(char pair[3], const struct cell *c, const struct common *m, bool killed);

/* The life of a child. */
_Noreturn void end_main(const struct cell *c, struct common *m, int fd, bool source);
/*
 * A third process: connects with the same session and generation as the source did; or, where the cell claims, as if it came
 * back, with a newer generation and a HELLO that has not the source's number.
 */
_Noreturn void intruder_main(const struct cell *c, struct common *m, int fd);
/* The same place: cell->stranger. */
_Noreturn void stranger_main(const struct cell *c, struct common *m, int fd);

#endif
