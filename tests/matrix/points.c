// SPDX-License-Identifier: MIT
/*
 * The expected outcome of each fault at each message. docs/failure-model.md has this table (points_table())
 * and the reasons; a test compares the two.
 *
 * Up to the pause the three ways to finish are the same; those rows are run for the two with post-copy. Where
 * a fault leaves open whether the last message was received (an end may notice the loss of one channel before
 * it reads a message on another), both outcomes are allowed. There is never a second owner.
 */
#include <stdio.h>
#include <string.h>

#include "matrix.h"

/* In reservation a lost link ends the migration. A sender that has not noticed it may be a phase further. */
#define BY_SOURCE_EARLY(after_, killed, stopped) \
	.e = { "rr", "rr", after_, "rr", "rr", after_, "xr", killed, "rr", stopped, "rx" }
/* In pre-copy the link may come back. */
#define BY_SOURCE_IN_PRECOPY .e = { "mm", "mm", "mm", "rd", "rd", "rd", "xd", "xd", "rd", "rd", "rx" }
#define BY_TARGET_IN_PRECOPY .e = { "mm", "mm", "mm", "rd", "rd", "rd", "rx", "rx", "rd", "rd", "xd" }
/* In the downtime no end waits for a lost link. */
#define BY_SOURCE_IN_DOWNTIME .e = { "fd", "fd", "fd", "fd", "fd", "fd", "xd", "xd", "fd", "fd", "fx" }
/* No kill_heard: the target has received an unknown number of RESIDUEs in pre-copy. */
#define RESIDUE_IN_DOWNTIME .e = { "fd", "fd", "fd", "fd", "fd", "fd", "xd", "xd", "fd", "fd" }
#define BY_TARGET_IN_DOWNTIME .e = { "fd", "fd", "fd", "fd", "fd", "fd", "fx", "fx", "fd", "fd", "xd" }
#define ABSENT(type_, at_source_, arm_, ways_, why)                                             \
	{                                                                                       \
		.type = type_, .at_source = at_source_, .arm = arm_, .ways = ways_, .when = "", \
		.absent = why                                                                   \
	}

const struct point points[] = {
	{ WIRE_HELLO, true, FERRY_PHASE_PRE_MIGRATION, .ways = IN_POSTCOPY, .when = "first connection",
	  .e = { "mm", "mm", "rr|mm", "rr", "rr", "rr", "xr", "xr", "rr", "rr", "rx" } },
	{ WIRE_HELLO_ACK, false, FERRY_PHASE_PRE_MIGRATION, .ways = IN_POSTCOPY, .when = "first connection",
	  .e = { "rr", "mm", "rr", "rr", "rr", "rr", "rx", "rx", "rr", "rr|rd", "xr" } },
	{ WIRE_REFUSED, false, FERRY_PHASE_PRE_MIGRATION, .ways = IN_POSTCOPY, .when = "reservation",
	  .provoke = TARGET_IS_TOO_SMALL,
	  .e = { "rr", "rr", "rr", "rr", "rr", "rr", "rx", "rx", "rr", "rr", "xr", "rr" } },
	{ WIRE_STATE, true, FERRY_PHASE_RESERVATION, .ways = IN_POSTCOPY, .when = "reservation: needs",
	  BY_SOURCE_EARLY("rr", "xr", "rr") },
	{ WIRE_MAP, true, FERRY_PHASE_RESERVATION, .ways = IN_POSTCOPY, .when = "reservation",
	  BY_SOURCE_EARLY("rd|rr", "xd|xr", "rd|rr") },
	{ WIRE_RESERVED, false, FERRY_PHASE_RESERVATION, .ways = IN_POSTCOPY, .when = "reservation",
	  .e = { "rd", "rr", "mm|rd", "rd", "rr", "rd", "rx", "rx", "rd", "rd", "xd" } },
	{ WIRE_ZERO, true, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_SOURCE_IN_PRECOPY },
	{ WIRE_ROUND_END, true, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_SOURCE_IN_PRECOPY },
	{ WIRE_ROUND_ACK, false, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_TARGET_IN_PRECOPY },
	{ WIRE_RESIDUE, true, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_SOURCE_IN_PRECOPY },
	{ WIRE_PREARM, true, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_SOURCE_IN_PRECOPY },
	{ WIRE_PREARMED, false, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  BY_TARGET_IN_PRECOPY },
	{ WIRE_PING, true, FERRY_PHASE_PRECOPY, .heard_arm = FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY,
	  .when = "pre-copy", .provoke = WAIT_FOR_PING, BY_SOURCE_IN_PRECOPY },
	/* No kill_heard: the source waits for it inside an op, where it receives nothing. */
	{ WIRE_PING, false, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  .provoke = WAIT_FOR_PING, .e = { "mm", "mm", "mm", "rd", "rd", "rd", "rx", "rx", "rd", "rd" } },
	{ WIRE_ABORT, true, FERRY_PHASE_PRECOPY, .ways = IN_POSTCOPY, .when = "pre-copy",
	  .provoke = CANCEL_IN_PRECOPY,
	  .e = { "rd", "rd", "rd", "rd", "rd", "rd", "xd", "xd", "rd", "rd", "rx", "rd" } },

	{ WIRE_ZERO, true, FERRY_PHASE_STOP_AND_COPY, .heard_nth = 2, .ways = IN_STOP,
	  .when = "downtime: last round", BY_SOURCE_IN_DOWNTIME },
	{ WIRE_ROUND_END, true, FERRY_PHASE_STOP_AND_COPY, .heard_nth = 3, .ways = IN_STOP,
	  .when = "downtime: last round", BY_SOURCE_IN_DOWNTIME },
	{ WIRE_ROUND_ACK, false, FERRY_PHASE_PRECOPY, .nth = 3, .heard_arm = FERRY_PHASE_STOP_AND_COPY,
	  .ways = IN_STOP, .when = "downtime: last round", BY_TARGET_IN_DOWNTIME },
	{ WIRE_STATE, true, FERRY_PHASE_STOP_AND_COPY, .heard_arm = FERRY_PHASE_PRECOPY, .ways = IN_ALL,
	  .when = "downtime", BY_SOURCE_IN_DOWNTIME },
	{ WIRE_RESIDUE, true, FERRY_PHASE_STOP_AND_COPY, .ways = IN_POSTCOPY, .when = "downtime",
	  RESIDUE_IN_DOWNTIME },
	{ WIRE_SWITCHOVER, true, FERRY_PHASE_STOP_AND_COPY, .ways = IN_TENTATIVE, .when = "downtime",
	  BY_SOURCE_IN_DOWNTIME },
	{ WIRE_SWITCHOVER, true, FERRY_PHASE_STOP_AND_COPY, .ways = IN_STOP | IN_SERVER, .when = "downtime",
	  .e = { "fd", "fd", "fd", "fd", "fd", "f?|fd", "xd", "x?|xd", "fd", "f?|??", "fx" } },
	{ WIRE_ABORT, false, FERRY_PHASE_STOP_AND_COPY, .ways = IN_ALL, .when = "downtime",
	  .provoke = LOAD_FAILS,
	  .e = { "fd", "fd", "fd", "fd", "fd", "fd", "fx", "fx", "fd", "fd", "xd", "fd" } },
	{ WIRE_RUNNING, false, FERRY_PHASE_STOP_AND_COPY, .ways = IN_TENTATIVE, .when = "downtime",
	  .e = { "fd", "fd", "mm|fd", "fd", "fd", "fd", "fx", "fx", "fd", "fd", "xd" } },

	{ WIRE_ABORT, false, FERRY_PHASE_POSTCOPY, .ways = IN_TENTATIVE, .when = "post-copy: hold limit",
	  .provoke = HOLD_LIMIT,
	  .e = { "fd", "fd", "fd", "fd", "fd", "fd", "fx", "fx", "fd", "fd", "xd", "fd" } },
	{ WIRE_PREPARED, false, FERRY_PHASE_COMMITMENT, .ways = IN_TENTATIVE, .when = "after the pull",
	  .e = { "mm", "mm", "mm", "f?", "f?", "??|f?", "fx", "?x|fx", "f?", "?m", "x?" } },
	{ WIRE_PREPARED, false, FERRY_PHASE_COMMITMENT, .ways = IN_STOP, .when = "downtime",
	  .e = { "fd", "fd", "mm|fd", "f?", "f?", "??|f?", "fx", "?x|fx", "fd|f?", "?m", "x?" } },
	{ WIRE_PREPARED, false, FERRY_PHASE_COMMITMENT, .ways = IN_SERVER, .when = "downtime",
	  .e = { "fd", "fd", "mm|fd", "f?", "f?", "??|f?", "fx", "?x|fx", "fd|f?", "??|?l", "x?" } },
	{ WIRE_ABORT, true, FERRY_PHASE_COMMITMENT, .ways = IN_STOP | IN_TENTATIVE,
	  .when = "before the commit", .provoke = CANCEL_IN_COMMITMENT,
	  .e = { "fd", "fd", "fd", "f?", "f?", "fd", "x?", "xd", "f?", "fd", "fx", "fd" } },
	{ WIRE_ABORT, true, FERRY_PHASE_COMMITMENT, .ways = IN_SERVER, .when = "before the commit",
	  .provoke = CANCEL_IN_COMMITMENT,
	  .e = { "fd", "fd", "fd", "f?|fd", "f?|fd", "f?|fd", "x?|xd", "xd|x?", "f?|fd", "fd", "fx", "fd" } },
	{ WIRE_COMMIT, true, FERRY_PHASE_COMMITMENT, .ways = IN_STOP | IN_TENTATIVE, .when = "commitment",
	  .e = { "mm", "mm", "mm", "??", "??", "?m", "x?", "xm", "??", "mm", "?x" } },
	{ WIRE_COMMIT, true, FERRY_PHASE_COMMITMENT, .ways = IN_SERVER, .when = "commitment",
	  .e = { "mm", "mm", "mm", "??", "??", "?l|??", "x?", "xl|x?", "??", "?l|ll", "?x" } },
	{ WIRE_COMMITTED, false, FERRY_PHASE_COMMITMENT, .ways = IN_STOP | IN_TENTATIVE, .when = "activation",
	  .e = { "mm", "mm", "mm", "?m", "?m", "mm", "?x", "mx", "?m", "mm", "xm" } },
	{ WIRE_COMMITTED, false, FERRY_PHASE_COMMITMENT, .ways = IN_SERVER, .when = "activation",
	  .e = { "mm", "mm", "mm", "?l", "?l", "ll|?l", "?x", "lx|?x", "?l", "ll", "xl" } },
	{ WIRE_COMPLETE, false, FERRY_PHASE_ACTIVATION, .ways = IN_SERVER, .when = "after the pull",
	  .e = { "mm", "mm", "mm", "lm", "lm", "mm|lm", "lx", "mx|lx", "lm", "mm", "xm" } },
	{ WIRE_BYE, true, FERRY_PHASE_ACTIVATION, .ways = IN_ALL, .when = "the end",
	  .e = { "mm", "mm", "mm", "mm", "mm", "mm", "xm", "xm", "mm", "mm", "mx" } },

	ABSENT(WIRE_REFUSED, false, FERRY_PHASE_PRE_MIGRATION, IN_ALL, "nothing is refused"),
	ABSENT(WIRE_ABORT, true, FERRY_PHASE_PRE_MIGRATION, IN_ALL, "nothing fails"),
	ABSENT(WIRE_ABORT, false, FERRY_PHASE_PRE_MIGRATION, IN_ALL, "nothing fails"),
	{ .type = WIRE_POISON,
	  .at_source = true,
	  .arm = FERRY_PHASE_PRE_MIGRATION,
	  .ways = IN_ALL,
	  .when = "",
	  .elsewhere = true,
	  .absent = "no page is lost to a hardware error" },
	ABSENT(WIRE_RESIDUE, true, FERRY_PHASE_PRE_MIGRATION, IN_STOP, "nothing is left to pull"),
	ABSENT(WIRE_PREARM, true, FERRY_PHASE_PRE_MIGRATION, IN_STOP, "nothing is left to pull"),
	ABSENT(WIRE_PREARMED, false, FERRY_PHASE_PRE_MIGRATION, IN_STOP, "nothing is left to pull"),
	ABSENT(WIRE_RUNNING, false, FERRY_PHASE_PRE_MIGRATION, IN_STOP | IN_SERVER,
	       "the VM does not run there before the commit"),
	ABSENT(WIRE_COMPLETE, false, FERRY_PHASE_PRE_MIGRATION, IN_STOP | IN_TENTATIVE,
	       "nothing is missing at the commit"),
};
const size_t npoints = sizeof(points) / sizeof(points[0]);

const char *way_name(enum way w)
{
	static const char *const names[] = { "stop-and-copy", "commit at completion",
					     "commit at switchover" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == WAYS, "a name a way");
	return names[w];
}

const char *fault_name(enum fault f)
{
	static const char *const names[] = { "lost, the link comes back",
					     "cut before, the link comes back",
					     "cut in the middle, the link comes back",
					     "cut after, the link comes back",
					     "lost for good",
					     "cut before for good",
					     "cut in the middle for good",
					     "cut after for good",
					     "sender killed before",
					     "sender killed after",
					     "receiver killed on hearing it",
					     "sender stopped before",
					     "sender stopped after",
					     "duplicated connection" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FAULTS, "a name a fault");
	return names[f];
}

const char *stranger_name(enum stranger s)
{
	static const char *const names[] = { "", ", a fresh target answers", ", a forger answers" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == STRANGERS, "a name a stranger");
	return names[s];
}

/*
 * Only a source that comes back meets a stranger: not before pre-copy, where a lost link ends the migration,
 * and not after it has learned how its target ends.
 */
bool stranger_fault(enum fault *ret, const struct point *p, enum stranger s, bool kill)
{
	bool ends = p->type == WIRE_COMMITTED || p->type == WIRE_COMPLETE ||
		    (p->type == WIRE_ABORT && !p->at_source);
	bool before = s == FRESH || ends;

	if (kill)
		*ret = p->at_source ? KILL_HEARD : before ? KILL_BEFORE : KILL_AFTER;
	else
		*ret = before ? BEFORE : AFTER;
	return !p->absent && p->arm >= FERRY_PHASE_PRECOPY && p->type != WIRE_BYE && expected(p, *ret);
}

const char *expected(const struct point *p, enum fault f)
{
	const struct expect *e = &p->e;

	switch (f) {
	case LOST_BACK:
		return e->lost_back;
	case BEFORE_BACK:
	case MIDDLE_BACK:
		return e->cut_back;
	case AFTER_BACK:
		return e->after_back;
	case LOST:
		return e->lost;
	case BEFORE:
	case MIDDLE:
		return e->cut;
	case AFTER:
		return e->after;
	case KILL_BEFORE:
		return e->kill_before;
	case KILL_AFTER:
		return e->kill_after;
	case KILL_HEARD:
		return e->kill_heard;
	case STOP_BEFORE:
		return e->stop_before;
	case STOP_AFTER:
		return e->stop_after;
	default:
		return e->undisturbed ? e->undisturbed : "mm";
	}
}

bool in_doubt(const struct point *p, enum fault f)
{
	const char *e = expected(p, f);

	return e && !p->absent && strchr(e, '?');
}

/*
 * The outcome of a pair with doubt if there is an arbiter. A target that lacks pages gives the VM back; but
 * if it stood still for longer than the source waits, the source asks first, and both ends are lost. If no
 * page is missing, the target may ask first. A source asks before it sends ABORT.
 */
static const char *settled(const char *pair, const struct cell *c)
{
	bool missing = c->way == WAY_SERVER, stood = c->fault == STOP_BEFORE || c->fault == STOP_AFTER;

	if (pair[1] != '?')
		return pair[1] == 'x' ? (missing ? "lx" : "mx") : pair[1] == 'l' ? "ll" : "mm";
	if (pair[0] == 'x')
		return missing || c->point->type == WIRE_ABORT ? "xd" : "xm";
	if (pair[0] == 'f')
		return missing || c->point->type == WIRE_ABORT ? "fd" : "fd|mm";
	if (!missing)
		return "mm";
	return stood ? "fd|ll" : "fd";
}

const char *cell_due(char buf[DUE_MAX], const struct cell *c)
{
	const char *e = c->point->absent ? "mm" : expected(c->point, c->fault);
	char *to = buf;

	if (!c->arbiter)
		return e;
	for (const char *p = e; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
		bool doubt = p[0] == '?' || p[1] == '?';

		to += snprintf(to, DUE_MAX - (size_t)(to - buf), "%s%.*s", to == buf ? "" : "|",
			       doubt ? 5 : 2, doubt ? settled(p, c) : p);
	}
	return buf;
}

bool struck_at_source(const struct point *p, enum fault f)
{
	return f == KILL_HEARD ? !p->at_source : p->at_source;
}

/* ---- is every message covered? ---- */

static bool has_point(enum wire_type t, bool at_source, enum way way, bool sent)
{
	for (size_t i = 0; i < npoints; i++)
		if (points[i].type == t && points[i].at_source == at_source && (!sent || !points[i].absent) &&
		    points[i].ways & (1u << way))
			return true;
	return false;
}

/* Not every host can cause this message, so another test covers it. */
static bool is_elsewhere(enum wire_type t, bool at_source)
{
	for (size_t i = 0; i < npoints; i++)
		if (points[i].type == t && points[i].at_source == at_source && points[i].elsewhere)
			return true;
	return false;
}

const char *points_missing(char buf[200])
{
	for (unsigned n = 1; n < WIRE_TYPES; n++) {
		enum wire_type t = (enum wire_type)n;

		for (int at_source = 0; at_source < 2; at_source++) {
			bool somewhere = false, each = true;

			if (!(wire_from(t) & (at_source ? FROM_SOURCE : FROM_TARGET)))
				continue;
			for (enum way w = 0; w < WAYS; w++) {
				somewhere |= has_point(t, at_source, w, true) || is_elsewhere(t, at_source);
				each &= w == WAY_STOP || has_point(t, at_source, w, false);
			}
			if (somewhere && each)
				continue;
			snprintf(buf, 200, "%s from the %s has no row in tests/matrix/points.c for %s",
				 wire_name(t), at_source ? "source" : "target",
				 somewhere ? "one of the ways to finish" : "any way to finish");
			return buf;
		}
	}
	return NULL;
}

/* ---- the document ---- */

static const char *word(char outcome)
{
	switch (outcome) {
	case 'm':
		return "migrated";
	case 'r':
		return "refused";
	case 'f':
		return "fell back";
	case 'd':
		return "discarded";
	case '?':
		return "**in doubt**";
	case 'l':
		return "lost";
	default:
		return "dead";
	}
}

/* One cell of the document: each allowed pair once. */
static void put_pairs(FILE *out, const char *const *expects, size_t n)
{
	char done[64] = "";

	for (size_t i = 0; i < n; i++) {
		for (const char *p = expects[i]; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
			char pair[4] = { p[0], p[1], ' ', 0 };

			if (strstr(done, pair))
				continue;
			fprintf(out, done[0] ? " or " : " ");
			if (p[0] == p[1])
				fprintf(out, "%s", word(p[0]));
			else
				fprintf(out, "%s / %s", word(p[0]), word(p[1]));
			strcat(done, pair);
		}
	}
	fprintf(out, " |");
}

static const char *ways_text(const struct point *p)
{
	bool early = !(p->ways & IN_STOP) && p->arm <= FERRY_PHASE_PRECOPY;

	if (early || p->ways == IN_ALL)
		return "any";
	switch (p->ways) {
	case IN_STOP:
		return "stop-and-copy";
	case IN_TENTATIVE:
		return "commit at completion";
	case IN_SERVER:
		return "commit at switchover";
	case IN_POSTCOPY:
		return "post-copy";
	case IN_STOP | IN_TENTATIVE:
		return "not at switchover";
	default:
		return "not at completion";
	}
}

void points_table(FILE *out)
{
	fprintf(out,
		"| message | when | way to finish | the link comes back | it does not, unheard | it does not, heard "
		"| sender dies first | sender dies then "
		"| receiver dies of it | sender stands still |\n|---|---|---|---|---|---|---|---|---|---|\n");
	for (size_t i = 0; i < npoints; i++) {
		const struct point *p = &points[i];
		const struct expect *e = &p->e;

		if (p->absent)
			continue;
		fprintf(out, "| %s, %s | %s | %s |", wire_name(p->type), p->at_source ? "source" : "target",
			p->when, ways_text(p));
		put_pairs(out, (const char *const[]){ e->cut_back, e->lost_back, e->after_back }, 3);
		put_pairs(out, (const char *const[]){ e->cut, e->lost }, 2);
		put_pairs(out, (const char *const[]){ e->after }, 1);
		put_pairs(out, (const char *const[]){ e->kill_before }, 1);
		put_pairs(out, (const char *const[]){ e->kill_after }, 1);
		if (e->kill_heard)
			put_pairs(out, (const char *const[]){ e->kill_heard }, 1);
		else
			fprintf(out, " |");
		put_pairs(out, (const char *const[]){ e->stop_before, e->stop_after }, 2);
		fprintf(out, "\n");
	}
	fprintf(out, "\n| message | not sent in | because |\n|---|---|---|\n");
	for (size_t i = 0; i < npoints; i++)
		if (points[i].absent)
			fprintf(out, "| %s, %s | %s | %s |\n", wire_name(points[i].type),
				points[i].at_source ? "source" : "target",
				points[i].ways == (IN_STOP | IN_SERVER)
					? "stop-and-copy, commit at switchover"
				: points[i].ways == (IN_STOP | IN_TENTATIVE)
					? "stop-and-copy, commit at completion"
					: ways_text(&points[i]),
				points[i].absent);
}
