/* SPDX-License-Identifier: MIT */
/*
 * The kill matrix: every message of the protocol x every fault x each way to finish x each kind of memory.
 * Each cell that ends in doubt runs once more with an arbiter, which settles the doubt at both ends.
 *
 * A cell is one migration between two processes over tcp, with a fake VM at each end. One end, the victim,
 * arms a fault that strikes when the message is sent or received (ferry_drill()). The process that runs the
 * matrix is the observer: the children report through a pipe, in order, which VM runs, is held or released,
 * and each numbered output. At the end it checks the reported outcomes, who runs, the output, the owner's
 * memory and what was left behind.
 *
 * local.h has the second dimension: not the link fails, but something at one end.
 *
 *	points.c	the messages, when each is sent, the expected outcome of each fault, and the table of
 *			docs/failure-model.md
 *	end.c		one end of a cell, in its process
 *	stranger.c	the program that answers a reconnecting source in the target's place
 *	observer.c	the verdict on a cell
 *	main.c		forks the cells, many at a time, since they mostly wait
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

#define TIMEOUT_US 2500000u /* for silence: an end on a busy machine must not look dead */
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
	KILL_HEARD, /* kills the end that receives it */
	STOP_BEFORE,
	STOP_AFTER,
	DUPLICATE,
	FAULTS
};

/* What must happen for the message to be sent. */
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
 * The expected outcomes of the source and the target, a letter each; alternatives are separated by |.
 *	m migrated, r refused, f fell back, d discarded, ? in doubt, l lost, x killed
 */
struct expect {
	const char *lost_back, *cut_back, *after_back, *lost, *cut, *after;
	const char *kill_before, *kill_after, *stop_before, *stop_after;
	const char *kill_heard;	 /* NULL: the receiver cannot tell it from others of its type */
	const char *undisturbed; /* NULL: "mm" */
};

struct point {
	enum wire_type type;
	bool at_source;		    /* the sender, which is the victim */
	enum ferry_phase arm;	    /* the fault is armed when the victim enters this phase */
	unsigned nth;		    /* the nth message of its type from then on; 0 means 1 */
	enum ferry_phase heard_arm; /* the same at the receiver; 0: from the beginning */
	unsigned heard_nth;
	enum provoke provoke;
	unsigned ways;
	const char *when;   /* for the reader */
	const char *absent; /* not NULL: why the message is not sent in these ways */
	bool elsewhere;	    /* it is sent in no other way either; another test sends it */
	struct expect e;
};

extern const struct point points[];
extern const size_t npoints;

const char *way_name(enum way w);
const char *fault_name(enum fault f);
const char *expected(const struct point *p, enum fault f);
/* Whether this point and fault may leave an end in doubt. */
bool in_doubt(const struct point *p, enum fault f);
/* The markdown table of docs/failure-model.md. */
void points_table(FILE *out);
/* The sentence of the first message of the protocol that has no point, or NULL. */
const char *points_missing(char buf[200]);

bool struck_at_source(const struct point *p, enum fault f); /* whether the fault strikes the source */

/* Who answers at the target's address when the source comes back; NOBODY_ELSE: the target. */
enum stranger { NOBODY_ELSE, FRESH, FORGER, STRANGERS };
const char *stranger_name(enum stranger s);
/* The fault by which a cell with a stranger is judged: the target's death, or a link lost for good. */
bool stranger_fault(enum fault *ret, const struct point *p, enum stranger s, bool kill);

struct cell {
	const struct point *point;
	enum way way;
	enum fault fault;
	enum stranger stranger;
	bool claims; /* DUPLICATE: the second connection claims to be the source coming back */
	bool shared, arbiter;
};

/* The expected outcomes: expected(), or what an arbiter makes of them. */
#define DUE_MAX 64
const char *cell_due(char buf[DUE_MAX], const struct cell *c);

/* The answer that the second connection got. */
enum answer { ANSWER_NONE, ANSWER_REFUSED, ANSWER_HUNG_UP };

/* Shared by the processes of a cell. */
struct common {
	char uri[200];
	_Atomic int armed;  /* the victim has entered the phase from which the fault waits */
	_Atomic int struck; /* the fault has struck */
	_Atomic int record; /* the arbiter's: an enum ferry_owner + 1; 0: none yet */
	struct {
		bool ended;
		struct ferry_result res;
		char trouble[512];
		char left[256]; /* what is left after everything was freed */
		char ops[FAKE_TRACE];
	} end[2];	    /* source, target */
	enum answer answer; /* to the second connection */
	char stranger_uri[200];
	_Atomic unsigned diverted; /* connections that the source has made to the stranger */
	unsigned asked;		   /* HELLOs that the forger has received */
	_Atomic int over;	   /* both ends have ended; the stranger may end */
	char intruder[200];	   /* what is wrong with it */
	uint8_t frozen[FAKE_PAGES * FAKE_PAGE];
};

enum record_what {
	RECORD_LISTENS = WORLD_OUTPUT + 1,
	RECORD_ENDED,
	RECORD_INTRUDER_IN,
	RECORD_STRANGER_LISTENS
};

struct record {
	uint8_t at_source, what; /* enum world_what or record_what */
	uint16_t zero;
	uint32_t zero2;
	uint64_t n;
};

/* What the observer has seen of a cell. */
struct seen {
	bool source_runs, target_runs, held;
	bool ended[2]; /* source, target; later records of it have no meaning */
	uint64_t next; /* output */
	char trouble[300];
};

void observe(struct seen *s, const struct record *r);
/* An end was killed; its VM no longer runs. */
void observe_death(struct seen *s, bool source);
/* Messages after which the target ends or only waits for an answer: it may not see another connection. */
bool last_words(enum wire_type t);
/* After both ends have ended. why: empty, or why the cell has failed. */
void judge_cell(char why[1200], const struct cell *c, const struct seen *s, const struct common *m,
		bool killed);
void outcome_pair(char pair[3], const struct cell *c, const struct common *m, bool killed);

/* The main functions of the child processes. */
_Noreturn void end_main(const struct cell *c, struct common *m, int fd, bool source);
/*
 * A third process. It connects with the session and generation of the source; or, if the cell claims, like a
 * source that comes back, with a newer generation and a HELLO without the source's number.
 */
_Noreturn void intruder_main(const struct cell *c, struct common *m, int fd);
/* Runs in place of the intruder, for cell->stranger. */
_Noreturn void stranger_main(const struct cell *c, struct common *m, int fd);

#endif
