// SPDX-License-Identifier: MIT
/*
 * The expected outcome of each local failure, where each kind can happen, and the verdict on a cell.
 *
 * The outcome depends only on the phase and the end, not on what failed; that is the promise that is tested.
 * A kind that cannot happen in a phase has no row. A cell without a row fails if its failure happens, and a
 * cell with a row fails if its failure does not happen.
 */
#include <errno.h>
#include <string.h>

#include "local.h"

/*
 * In which cells a failure happens: alternatives separated by commas, each of words that all must apply.
 * where: in each run; sometimes: only in some runs, because a worker's call or a PING may miss the phase.
 * NULL: nowhere.
 */
struct row {
	enum kind kind;
	bool at_source;
	enum ferry_phase phase;
	const char *where, *sometimes;
};

static const struct row rows[] = {
	{ NO_MEMORY, true, FERRY_PHASE_IDLE, "any", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_PRE_MIGRATION, "any", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_POSTCOPY, "mem commit at switchover", "mem" },
	{ NO_MEMORY, true, FERRY_PHASE_COMMITMENT, "mem", NULL },
	{ NO_MEMORY, true, FERRY_PHASE_ACTIVATION, "mem stop-and-copy, mem commit at completion", "mem" },
	{ NO_MEMORY, false, FERRY_PHASE_IDLE, "any", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_PRE_MIGRATION, "any", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_PRECOPY, "any", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_STOP_AND_COPY, "stop-and-copy, mem commit at completion", "mem" },
	{ NO_MEMORY, false, FERRY_PHASE_POSTCOPY, "mem", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_COMMITMENT, "mem", NULL },
	{ NO_MEMORY, false, FERRY_PHASE_ACTIVATION, "mem", NULL },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_IDLE, "any", NULL },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_STOP_AND_COPY, "stop-and-copy", "tcp" },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_POSTCOPY, "tcp", NULL },
	{ NO_KERNEL_MEMORY, true, FERRY_PHASE_COMMITMENT, NULL, "tcp" },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_PRECOPY,
	  "tcp, anon, commit at completion, commit at switchover", NULL },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_STOP_AND_COPY, NULL,
	  "commit at completion, commit at switchover" },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_POSTCOPY, "any", NULL },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_COMMITMENT, NULL, "commit at switchover" },
	{ NO_KERNEL_MEMORY, false, FERRY_PHASE_ACTIVATION, NULL,
	  "commit at completion, commit at switchover" },
	{ NO_SPACE, true, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_SPACE, false, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_SPACE, false, FERRY_PHASE_PRECOPY, "memfd", NULL },
	{ NO_SPACE, false, FERRY_PHASE_STOP_AND_COPY, NULL, "commit at completion, commit at switchover" },
	{ NO_SPACE, false, FERRY_PHASE_POSTCOPY, "any", NULL },
	{ NO_SPACE, false, FERRY_PHASE_COMMITMENT, NULL, "commit at switchover" },
	{ NO_SPACE, false, FERRY_PHASE_ACTIVATION, NULL, "commit at completion, commit at switchover" },
	{ FILE_FULL, false, FERRY_PHASE_PRECOPY, "any", NULL },
	{ FILE_FULL, false, FERRY_PHASE_POSTCOPY, "any", NULL },
	{ BAD_PAGE, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ BAD_PAGE, true, FERRY_PHASE_STOP_AND_COPY, "stop-and-copy", "tcp" },
	{ BAD_PAGE, true, FERRY_PHASE_POSTCOPY, "tcp", NULL },
	{ BAD_PAGE, true, FERRY_PHASE_COMMITMENT, NULL, "tcp" },
	{ BAD_PAGE, false, FERRY_PHASE_PRECOPY, "tcp", NULL },
	{ BAD_PAGE, false, FERRY_PHASE_STOP_AND_COPY, NULL, "commit at completion, commit at switchover" },
	{ BAD_PAGE, false, FERRY_PHASE_POSTCOPY, "any", NULL },
	{ BAD_PAGE, false, FERRY_PHASE_COMMITMENT, NULL, "commit at switchover" },
	{ BAD_PAGE, false, FERRY_PHASE_ACTIVATION, NULL, "commit at completion, commit at switchover" },
	{ PAGE_GONE, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ PAGE_GONE, true, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ PAGE_GONE, true, FERRY_PHASE_POSTCOPY, "any", NULL },
	{ NO_DESCRIPTOR, true, FERRY_PHASE_IDLE, "any", NULL },
	{ NO_DESCRIPTOR, true, FERRY_PHASE_PRE_MIGRATION, "any", NULL },
	{ NO_DESCRIPTOR, true, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_DESCRIPTOR, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_IDLE, "any", NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_PRE_MIGRATION, "tcp", NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_RESERVATION, "any", NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_PRECOPY, "tcp, commit at completion, commit at switchover",
	  NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_POSTCOPY, "tcp", NULL },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_COMMITMENT, NULL, "tcp" },
	{ NO_DESCRIPTOR, false, FERRY_PHASE_ACTIVATION, NULL, "tcp" },
	{ NO_THREAD, true, FERRY_PHASE_PRE_MIGRATION, "any", NULL },
	{ NO_THREAD, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ NO_THREAD, true, FERRY_PHASE_STOP_AND_COPY, "stop-and-copy", NULL },
	{ NO_THREAD, true, FERRY_PHASE_POSTCOPY, "commit at switchover", NULL },
	{ NO_THREAD, true, FERRY_PHASE_ACTIVATION, "stop-and-copy, commit at completion", NULL },
	{ NO_THREAD, false, FERRY_PHASE_PRE_MIGRATION, "any", NULL },
	{ NO_THREAD, false, FERRY_PHASE_PRECOPY, "any", NULL },
};

/* An op and the expected outcomes. NULL: as for any other failure in that phase. */
struct op_row {
	enum fake_op op;
	bool at_source;
	enum ferry_phase phase;
	const char *where, *due;
	unsigned skip; /* calls in the phase that succeed before */
};

static const struct op_row op_rows[] = {
	{ FAKE_NEEDS, true, FERRY_PHASE_RESERVATION, "any", NULL },
	{ FAKE_DIRTY_START, true, FERRY_PHASE_PRECOPY, "any", NULL },
	{ FAKE_DIRTY_FETCH, true, FERRY_PHASE_PRECOPY, "any", NULL },
	/* After the two rounds, while the residue is named. */
	{ FAKE_DIRTY_FETCH, true, FERRY_PHASE_PRECOPY, "commit at completion, commit at switchover", NULL,
	  2 * FAKE_REGIONS },
	{ FAKE_PAUSE, true, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ FAKE_DIRTY_FETCH, true, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ FAKE_SAVE, true, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ FAKE_DIRTY_STOP, true, FERRY_PHASE_ACTIVATION, "any", "mm" },
	{ FAKE_RETIRE, true, FERRY_PHASE_ACTIVATION, "stop-and-copy, commit at completion", "mm" },
	{ FAKE_RETIRE, true, FERRY_PHASE_POSTCOPY, "commit at switchover", "mm" },
	{ FAKE_RESERVE, false, FERRY_PHASE_RESERVATION, "any", NULL },
	{ FAKE_LOAD, false, FERRY_PHASE_STOP_AND_COPY, "any", NULL },
	{ FAKE_HOLD, false, FERRY_PHASE_STOP_AND_COPY, "commit at completion", NULL },
	{ FAKE_RESUME, false, FERRY_PHASE_STOP_AND_COPY, "commit at completion", NULL },
	{ FAKE_ACTIVATE, false, FERRY_PHASE_ACTIVATION, "any", "mm" },
	{ FAKE_RESUME, false, FERRY_PHASE_ACTIVATION, "stop-and-copy, commit at switchover", "?l|ll" },
	{ FAKE_RELEASE, false, FERRY_PHASE_ACTIVATION, "commit at completion", "mm" },
};

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *phase_name(enum ferry_phase p)
{
	return p == FERRY_PHASE_IDLE ? "opening" : ferry_phase_name(p);
}

static const char *end_name(bool source)
{
	return source ? "source" : "target";
}

/* Whether all words of one alternative apply to the cell. */
static bool holds(const char *p, size_t len, const struct local *c)
{
	const char * not [] = { c->mem ? " tcp " : " mem ", c->shared ? " anon " : " memfd " };
	char text[100];
	bool way = false;

	snprintf(text, sizeof(text), " %.*s ", (int)len, p);
	for (unsigned i = 0; i < N(not ); i++)
		if (strstr(text, not [i]))
			return false;
	for (enum way w = 0; w < WAYS; w++)
		way |= strstr(text, way_name(w)) != NULL;
	return !way || strstr(text, way_name(c->way));
}

static bool within(const char *where, const struct local *c)
{
	for (; where; where++) {
		size_t len = strcspn(where, ",");

		if (holds(where, len, c))
			return true;
		where += len;
		if (!*where)
			break;
	}
	return false;
}

static bool in_earnest(enum kind k)
{
	return k == FILE_FULL || k == PAGE_GONE;
}

static bool is_op(enum kind k)
{
	return k == OP_FAILS || k == OP_SAYS_EPIPE;
}

static bool matches(const struct op_row *r, const struct local *c)
{
	return op_site(r->op) == c->want && r->at_source == c->at_source && r->phase == c->phase &&
	       within(r->where, c);
}

static const struct op_row *op_row(const struct local *c)
{
	for (size_t i = 0; i < N(op_rows); i++)
		if (matches(&op_rows[i], c) && op_rows[i].skip == c->skip)
			return &op_rows[i];
	return NULL;
}

bool local_op_row(const struct local *c, unsigned i, unsigned *skip)
{
	for (size_t k = 0; k < N(op_rows); k++)
		if (is_op(c->kind) && matches(&op_rows[k], c) && !i--) {
			*skip = op_rows[k].skip;
			return true;
		}
	return false;
}

bool local_has_row(const struct local *c, bool sometimes)
{
	bool yes = false;

	if (is_op(c->kind))
		return op_row(c);
	if (c->kind == THROTTLE_FAILS)
		return true;
	for (size_t i = 0; i < N(rows) && !yes; i++)
		yes = rows[i].kind == c->kind && rows[i].at_source == c->at_source &&
		      rows[i].phase == c->phase &&
		      (within(rows[i].where, c) || (sometimes && within(rows[i].sometimes, c)));
	return yes;
}

bool local_is_cell(const struct local *c)
{
	bool pages = c->phase == FERRY_PHASE_PRECOPY || c->phase == FERRY_PHASE_STOP_AND_COPY ||
		     c->phase == FERRY_PHASE_POSTCOPY;

	/* Up to the reservation there is no difference between the ways to finish. */
	if (c->phase <= FERRY_PHASE_RESERVATION && c->way != WAY_TENTATIVE)
		return false;
	if (c->phase == FERRY_PHASE_POSTCOPY && c->way == WAY_STOP)
		return false;
	if (c->kind == THROTTLE_FAILS)
		return c->at_source && c->way == WAY_STOP && c->phase == FERRY_PHASE_PRECOPY;
	/* With commit at switchover, a full tmpfs or a lost page is met only after the commit. */
	if (in_earnest(c->kind) && c->way == WAY_SERVER && c->phase == FERRY_PHASE_STOP_AND_COPY)
		return false;
	/* The target enters stop-and-copy after all pages of the last round have arrived. */
	if (c->kind == FILE_FULL)
		return !c->at_source && c->shared && pages && c->phase != FERRY_PHASE_STOP_AND_COPY;
	if (c->kind == PAGE_GONE)
		return c->at_source && pages;
	return true;
}

/* The allowed pairs of outcomes. For each kind the library may also work without the call. */
static const char *due_of(const struct local *c)
{
	bool server = c->way == WAY_SERVER;

	switch (c->phase) {
	case FERRY_PHASE_PRE_MIGRATION:
		return "rr";
	case FERRY_PHASE_RESERVATION:
		return "rr|rd";
	case FERRY_PHASE_PRECOPY: /* the target stays in it until SWITCHOVER; the VM is paused then */
		return c->at_source ? "rd" : "rd|fd";
	case FERRY_PHASE_STOP_AND_COPY:
		return "fd";
	case FERRY_PHASE_POSTCOPY:
		return server ? "ll|lm|?l" : "fd";
	case FERRY_PHASE_COMMITMENT:
		/* A message that cannot be sent ends the link; the next link repeats it. */
		return server ? "fd|?l|ll" : "fd";
	default:
		return server ? "ll|lm|?l" : "mm";
	}
}

static const char *cell_due_of(const struct local *c)
{
	const struct op_row *r = is_op(c->kind) ? op_row(c) : NULL;

	return r && r->due ? r->due : due_of(c);
}

static char letter(const struct local_seen *m, unsigned i)
{
	static const char letters[] = { [FERRY_OUTCOME_MIGRATED] = 'm',	 [FERRY_OUTCOME_REFUSED] = 'r',
					[FERRY_OUTCOME_FELL_BACK] = 'f', [FERRY_OUTCOME_DISCARDED] = 'd',
					[FERRY_OUTCOME_IN_DOUBT] = '?',	 [FERRY_OUTCOME_LOST] = 'l' };

	return m->end[i].ended ? letters[m->end[i].res.outcome] : '-';
}

static bool among(const char *pair, const char *expect)
{
	for (; expect; expect = strchr(expect, '|') ? strchr(expect, '|') + 1 : NULL)
		if (!strncmp(pair, expect, 2))
			return true;
	return false;
}

void local_text(char buf[300], const struct local *c)
{
	char where[120] = "";

	if (c->want)
		site_text(where, c->kind, c->want);
	snprintf(buf, 300, "%s at the %s in %s: %s, %s, %s%s%s", c->dry ? "nothing" : kind_name(c->kind),
		 end_name(c->at_source), phase_name(c->phase), way_name(c->way), c->shared ? "memfd" : "anon",
		 c->mem ? "mem" : "tcp", c->want ? ", " : "", where);
}

/* ---- the judgement ---- */

static const char *owner_trouble(const struct local_seen *m, unsigned i, char outcome)
{
	enum ferry_owner due = strchr("ml", outcome) ? FERRY_OWNER_TARGET
			       : outcome == '?'	     ? FERRY_OWNER_UNKNOWN
						     : FERRY_OWNER_SOURCE;
	bool should = i ? outcome == 'm' : outcome == 'r' || outcome == 'f';

	if (m->end[i].res.owner != due)
		return i ? "the target names another owner" : "the source names another owner";
	if (m->end[i].runs != should)
		return i	? should ? "the VM does not run at the target" : "the VM runs at the target"
		       : should ? "the VM does not run at the source"
				: "the VM runs at the source";
	return NULL;
}

static bool late(const struct local *c)
{
	return c->phase == FERRY_PHASE_COMMITMENT || c->phase == FERRY_PHASE_ACTIVATION ||
	       (c->phase == FERRY_PHASE_POSTCOPY && c->way == WAY_SERVER);
}

/* Over mem the end that copies meets a real failure; it may be the other end. */
static bool speaker(const struct local *c, const struct local_seen *m)
{
	return c->mem && in_earnest(c->kind) ? !strstr(m->end[0].res.detail, "the target gave up")
					     : c->at_source;
}

/* ABORT has room for the first 300 bytes. */
static bool says(const struct ferry_result *r, const struct ferry_result *what)
{
	char text[301];

	snprintf(text, sizeof(text), "%s", what->detail);
	return strstr(r->detail, text);
}

/* Checks the sentences and the error of a failed migration. */
static void judge_words(char what[600], const struct local *c, const struct local_seen *m, bool told)
{
	bool at_source = speaker(c, m);
	const struct ferry_result *mine = &m->end[!at_source].res, *other = &m->end[at_source].res;
	const char *me = end_name(at_source), *peer = end_name(!at_source);
	int err = kind_errno(c->kind);

	if (mine->outcome == FERRY_OUTCOME_MIGRATED) /* it succeeded; only the other end does not know */
		return;
	if (!mine->error || (err && mine->error != -err))
		snprintf(what, 600, "the %s ends with error %d, %d was due", me, mine->error, -err);
	else if (!mine->detail[0])
		snprintf(what, 600, "the %s says nothing", me);
	else if (strstr(mine->detail, "link was lost") || strstr(mine->detail, "the link to the"))
		snprintf(what, 600, "the %s blames the link", me);
	else if (told && !says(other, mine))
		snprintf(what, 600, "the %s does not say what the %s says", peer, me);
	else if (told && !strstr(other->detail, "gave up") && !strstr(other->detail, "refused"))
		snprintf(what, 600, "the %s does not say who gave up", peer);
}

/* Checks a failure while a session is made and opened; the other end plays no part. */
static void judge_opening(char what[600], const struct local *c, const struct local_seen *m)
{
	unsigned i = !c->at_source;
	char where[120]; /* without memory for the session there is no sentence */

	if (m->end[i].opened) /* the library works without the call */
		return;
	site_text(where, c->kind, c->want);
	if (m->end[i].err != -kind_errno(c->kind))
		snprintf(what, 600, "opening it says %d, %d was due", m->end[i].err, -kind_errno(c->kind));
	else if (!m->end[i].res.detail[0] && !strstr(where, "make ("))
		snprintf(what, 600, "no sentence says why");
}

static void judge_outcome(char what[600], const struct local *c, const struct local_seen *m)
{
	char pair[3] = { letter(m, 0), letter(m, 1), 0 };
	const char *due = cell_due_of(c), *owner;
	/* Before there is a link no end can be told; after the decision neither may send ABORT. */
	bool told = c->phase >= FERRY_PHASE_RESERVATION && strchr("rf", pair[0]), whole = among(pair, "mm");

	for (unsigned i = 0; i < 2; i++)
		if ((owner = owner_trouble(m, i, pair[i]))) {
			snprintf(what, 600, "%s", owner);
			return;
		}
	/* After the decision a reconnect is allowed, because the message has to be sent again. */
	if (whole && !late(c) && (m->end[0].res.stats.reconnects || m->end[1].res.stats.reconnects))
		snprintf(what, 600, "the failure was taken for a lost link");
	else if (is_op(c->kind) && whole && !among(pair, due))
		snprintf(what, 600, "the op's failure changed nothing");
	else if (!whole && (c->dry || !among(pair, due)))
		snprintf(what, 600, "it came to %s, %s was due", pair, due);
	else if (!whole && (!late(c) || (c->at_source && !(c->mem && in_earnest(c->kind)))))
		judge_words(what, c, m, told);
}

void local_judge(char why[1400], const struct local *c, const struct local_seen *m, int died, bool *reached)
{
	bool opening = c->phase == FERRY_PHASE_IDLE;
	char what[600] = "";

	why[0] = 0;
	*reached = atomic_load(&m->inject.struck);
	/* A real failure is always caused; it was met only if the migration failed. */
	if (in_earnest(c->kind) && letter(m, 0) == 'm' && letter(m, 1) == 'm')
		*reached = false;
	if (died)
		snprintf(what, sizeof(what), "its process was killed by signal %d (%s)", died,
			 strsignal(died));
	else if (!m->over)
		snprintf(what, sizeof(what), "its process has not come to its end");
	else if (m->trouble[0])
		snprintf(what, sizeof(what), "%s", m->trouble);
	else if (opening && *reached)
		judge_opening(what, c, m);
	else if (*reached || c->dry)
		judge_outcome(what, c, m);
	if (!what[0] && m->left[0])
		snprintf(what, sizeof(what), "left behind: %s", m->left);
	if (!what[0] && *reached && !local_has_row(c, true))
		snprintf(what, sizeof(what), "it came about where it has no row");
	else if (!what[0] && in_earnest(c->kind) && !*reached && local_has_row(c, false))
		snprintf(what, sizeof(what), "it did not come about");
	if (what[0])
		snprintf(why, 1400, "%s; source: %s %d \"%.300s\"; target: %s %d \"%.300s\"", what,
			 m->end[0].ended ? ferry_outcome_name(m->end[0].res.outcome) : "-",
			 m->end[0].res.error, m->end[0].res.detail,
			 m->end[1].ended ? ferry_outcome_name(m->end[1].res.outcome) : "-",
			 m->end[1].res.error, m->end[1].res.detail);
}

/* ---- the document ---- */

static const char *outcome_word(char c)
{
	switch (c) {
	case 'm':
		return "migrated";
	case 'r':
		return "refused";
	case 'f':
		return "fell back";
	case 'd':
		return "discarded";
	case 'l':
		return "lost";
	default:
		return "**in doubt**";
	}
}

static void put_due(FILE *out, const char *due)
{
	for (const char *p = due; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		fprintf(out, p[0] == p[1] ? "%s%s" : "%s%s / %s", p == due ? " " : " or ", outcome_word(p[0]),
			outcome_word(p[1]));
	fprintf(out, " |");
}

static void table_of_phases(FILE *out)
{
	fprintf(out,
		"| in | the source fails | the target fails | the other end says so too |\n|---|---|---|---|\n");
	for (enum ferry_phase p = FERRY_PHASE_PRE_MIGRATION; p <= FERRY_PHASE_ACTIVATION; p++)
		for (int server = 0; server < 2; server++) {
			struct local c = { .phase = p,
					   .way = server ? WAY_SERVER : WAY_TENTATIVE,
					   .at_source = true };
			struct local t = c, o = c;

			t.at_source = false;
			o.way = WAY_TENTATIVE;
			if (server && !strcmp(due_of(&c), due_of(&o)))
				continue;
			fprintf(out, "| %s%s |", phase_name(p), server ? ", commit at switchover" : "");
			put_due(out, due_of(&c));
			put_due(out, due_of(&t));
			fprintf(out, " %s |\n",
				p < FERRY_PHASE_RESERVATION    ? "there may be no link"
				: p == FERRY_PHASE_COMMITMENT  ? "the target"
				: due_of(&c)[1] == 'd'	       ? "yes"
				: p == FERRY_PHASE_RESERVATION ? "yes"
							       : "the commit stands");
		}
}

static void table_of_kinds(FILE *out)
{
	fprintf(out, "| what fails | at the |");
	for (enum ferry_phase p = FERRY_PHASE_IDLE; p <= FERRY_PHASE_ACTIVATION; p++)
		fprintf(out, " %s |", phase_name(p));
	fprintf(out, "\n|---|---|---|---|---|---|---|---|---|---|\n");
	for (enum kind k = 0; k < OP_FAILS; k++)
		for (int source = 1; source >= 0; source--) {
			fprintf(out, "| %s | %s |", kind_name(k), end_name(source));
			for (enum ferry_phase p = FERRY_PHASE_IDLE; p <= FERRY_PHASE_ACTIVATION; p++) {
				const struct row *r = NULL;

				for (size_t i = 0; i < N(rows); i++)
					if (rows[i].kind == k && rows[i].at_source == source &&
					    rows[i].phase == p)
						r = &rows[i];
				if (r && r->where)
					fprintf(out, " %s", r->where);
				if (r && r->sometimes)
					fprintf(out, "%s *%s*", r->where ? ";" : "", r->sometimes);
				fprintf(out, r ? " |" : " - |");
			}
			fprintf(out, "\n");
		}
}

static void table_of_ops(FILE *out)
{
	fprintf(out, "| op | at the | in | way to finish | comes to |\n|---|---|---|---|---|\n");
	for (size_t i = 0; i < N(op_rows); i++) {
		const struct op_row *r = &op_rows[i];
		struct local c = { .phase = r->phase, .at_source = r->at_source, .way = WAY_TENTATIVE };

		fprintf(out, "| %s%s | %s | %s | %s |", fake_op_name(r->op),
			r->skip ? ", after the rounds" : "", end_name(r->at_source), phase_name(r->phase),
			r->where);
		put_due(out, r->due ? r->due : due_of(&c));
		fprintf(out, "\n");
	}
	fprintf(out, "| throttle | source | pre-copy | stop-and-copy |");
	put_due(out, "rd");
	fprintf(out, "\n");
}

void local_table(FILE *out)
{
	table_of_phases(out);
	fprintf(out, "\n");
	table_of_kinds(out);
	fprintf(out, "\n");
	table_of_ops(out);
}
