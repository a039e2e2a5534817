// SPDX-License-Identifier: MIT
/* What the observer sees of a cell from outside, and its verdict. */
#include <stdarg.h>
#include <string.h>

#include "matrix.h"

static void trouble(struct seen *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void trouble(struct seen *s, const char *fmt, ...)
{
	va_list ap;

	if (s->trouble[0])
		return;
	va_start(ap, fmt);
	vsnprintf(s->trouble, sizeof(s->trouble), fmt, ap);
	va_end(ap);
}

void observe(struct seen *s, const struct record *r)
{
	const char *end = r->at_source ? "source" : "target";
	bool *runs = r->at_source ? &s->source_runs : &s->target_runs;

	switch (r->what) {
	case WORLD_RUNS:
	case WORLD_STOPS:
		if (!s->ended[!r->at_source])
			*runs = r->what == WORLD_RUNS;
		break;
	case RECORD_ENDED:
		s->ended[!r->at_source] = true;
		break;
	case WORLD_HOLDS:
		s->held = true;
		break;
	case WORLD_RELEASED:
		s->held = false;
		break;
	case WORLD_OUTPUT:
		if (r->n != s->next)
			trouble(s, "output %llu came out at the %s where %llu was due",
				(unsigned long long)r->n, end, (unsigned long long)s->next);
		s->next = r->n + 1;
		break;
	default:
		return;
	}
	if (s->source_runs && s->target_runs && !s->held)
		trouble(s, "both VMs run, and nothing holds the target's output");
}

void observe_death(struct seen *s, bool source)
{
	*(source ? &s->source_runs : &s->target_runs) = false;
}

static char letter(enum ferry_outcome o)
{
	static const char letters[] = { [FERRY_OUTCOME_MIGRATED] = 'm',	 [FERRY_OUTCOME_REFUSED] = 'r',
					[FERRY_OUTCOME_FELL_BACK] = 'f', [FERRY_OUTCOME_DISCARDED] = 'd',
					[FERRY_OUTCOME_IN_DOUBT] = '?',	 [FERRY_OUTCOME_LOST] = 'l' };

	return o <= FERRY_OUTCOME_LOST ? letters[o] : '!';
}

void outcome_pair(char pair[3], const struct cell *c, const struct common *m, bool killed)
{
	for (int i = 0; i < 2; i++) {
		bool victim = struck_at_source(c->point, c->fault) == !i;

		pair[i] = killed && victim ? 'x' : m->end[i].ended ? letter(m->end[i].res.outcome) : '-';
	}
	pair[2] = 0;
}

static bool among(const char *pair, const char *expect)
{
	for (; expect; expect = strchr(expect, '|') ? strchr(expect, '|') + 1 : NULL)
		if (!strncmp(pair, expect, 2))
			return true;
	return false;
}

/* The owner that an outcome implies. Both ends must name the same owner, as far as they can know. */
static enum ferry_owner owner_of(char outcome)
{
	switch (outcome) {
	case 'm':
	case 'l':
		return FERRY_OWNER_TARGET;
	case '?':
		return FERRY_OWNER_UNKNOWN;
	default:
		return FERRY_OWNER_SOURCE;
	}
}

static void judge_end(char *why, size_t cap, const struct common *m, const struct seen *s, int i,
		      char outcome)
{
	const char *end = i ? "target" : "source";
	bool runs = i ? s->target_runs : s->source_runs, should;

	if (outcome == 'x')
		return;
	if (!m->end[i].ended) {
		snprintf(why, cap, "the %s has not said how it ended", end);
		return;
	}
	should = i ? outcome == 'm' : outcome == 'r' || outcome == 'f';
	if (m->end[i].res.owner != owner_of(outcome))
		snprintf(why, cap, "the %s says owner %s", end, ferry_owner_name(m->end[i].res.owner));
	else if (runs != should)
		snprintf(why, cap, "the VM %s at the %s", runs ? "runs" : "does not run", end);
	else if (m->end[i].trouble[0])
		snprintf(why, cap, "%s: %s", end, m->end[i].trouble);
	else if (m->end[i].left[0])
		snprintf(why, cap, "%s left behind: %s", end, m->end[i].left);
}

bool last_words(enum wire_type t)
{
	return t == WIRE_REFUSED || t == WIRE_ABORT || t == WIRE_COMMITTED || t == WIRE_COMPLETE ||
	       t == WIRE_BYE;
}

/*
 * If the link was cut and the migration succeeded, there must have been a reconnect. Exceptions: attempts at
 * the first link, which do not count as reconnects, and the last messages, after which no end waits for a
 * link.
 */
static bool came_back(const struct cell *c, const struct common *m, const char *pair)
{
	enum wire_type t = c->point->type;
	bool first = t == WIRE_HELLO || t == WIRE_HELLO_ACK;
	bool last = t == WIRE_BYE || (c->fault == AFTER_BACK && (t == WIRE_COMMITTED || t == WIRE_COMPLETE));

	return c->fault > AFTER_BACK || c->point->absent || first || last || strcmp(pair, "mm") ||
	       m->end[0].res.stats.reconnects;
}

#define LINK_CONNECTIONS 3u /* control, data, urgent */

/* Whether the source connected to the stranger and again after its answer (forger: after two lies). */
static bool met(const struct cell *c, const struct common *m)
{
	return c->stranger == FORGER ? m->asked > 2 : m->diverted > LINK_CONNECTIONS;
}

/* Whether the fault of the cell has happened at all; otherwise the cell would prove nothing. */
static void judge_precondition(char *why, size_t cap, const struct cell *c, const struct common *m,
			       const char *pair)
{
	const struct point *p = c->point;

	if (!m->armed)
		snprintf(why, cap, "the fault was not armed");
	else if (!p->absent != !!m->struck)
		snprintf(why, cap, "%s was %s", wire_name(p->type), m->struck ? "sent" : "never sent");
	else if (!came_back(c, m, pair))
		snprintf(why, cap, "the link was cut, and nobody has connected again");
	else if (m->intruder[0])
		snprintf(why, cap, "%s: %s", c->stranger ? "the stranger" : "the duplicated connection",
			 m->intruder);
	else if (c->stranger && !met(c, m))
		snprintf(why, cap, "the stranger was not asked again and again: %u connections", m->diverted);
	else if (c->fault == DUPLICATE && m->answer == ANSWER_NONE)
		snprintf(why, cap, "there was no duplicated connection");
	else if (c->fault == DUPLICATE && m->answer == ANSWER_HUNG_UP && !last_words(p->type))
		snprintf(why, cap, "the duplicated connection: the target hung up without a word");
}

void judge_cell(char why[1200], const struct cell *c, const struct seen *s, const struct common *m,
		bool killed)
{
	char pair[3], what[600] = "", buf[DUE_MAX];
	const char *due = cell_due(buf, c);

	why[0] = 0;
	outcome_pair(pair, c, m, killed);
	for (int i = 0; i < 2 && !what[0]; i++)
		judge_end(what, sizeof(what), m, s, i, pair[i]);
	if (s->trouble[0])
		snprintf(what, sizeof(what), "%s", s->trouble);
	else if (!what[0])
		judge_precondition(what, sizeof(what), c, m, pair);
	if (!what[0] && !among(pair, due))
		snprintf(what, sizeof(what), "it came to %s", pair);
	if (what[0])
		snprintf(why, 1200, "%s; got %s, due %s; source: %.200s; target: %.200s", what, pair, due,
			 m->end[0].res.detail, m->end[1].res.detail);
}
