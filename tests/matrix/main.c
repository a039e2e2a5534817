// SPDX-License-Identifier: MIT
/*
 * Runs the kill matrix. A slot is a running cell: two or three processes, a pipe, a piece of shared memory.
 * This process has no threads, so it may fork at any time.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "local.h"
#include "matrix.h"

#define JOBS_MAX 128u
#define JOBS 128u
#define YOUNG_MAX 20u /* cells before their fault: they work; the others mostly wait */
#define TICK_MS 4
#define CHILD_FD 3

enum who { SOURCE, TARGET, INTRUDER, WHO };

struct child {
	pid_t pid; /* 0: none, or ended */
	bool bad;  /* did not end by exit(0) */
};

struct slot {
	bool busy, stopped, young, killed, hung, sourced;
	const struct cell *cell;
	struct common *m;
	struct seen seen;
	struct child child[WHO];
	int fd[2];
	uint64_t begun_us;
};

struct tally {
	unsigned cells, failed;
};

struct matrix {
	struct cell *cell;
	size_t ncells, next, left;
	unsigned jobs;
	bool verbose;
	struct slot slot[JOBS_MAX];
	struct tally tally[WIRE_TYPES][2][2]; /* by message, sender (source, target), with an arbiter */
	unsigned cells, failed, absent;
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void cell_text(char buf[200], const struct cell *c)
{
	snprintf(buf, 200, "%s from the %s %s, %s%s, %s, %s%s", wire_name(c->point->type),
		 c->point->at_source ? "source" : "target", c->point->when, fault_name(c->fault),
		 c->claims ? " of a newer generation" : stranger_name(c->stranger), way_name(c->way),
		 c->shared ? "memfd" : "anon", c->arbiter ? ", an arbiter" : "");
}

/* ---- processes ---- */

static void spawn(struct slot *s, enum who who)
{
	pid_t parent = getpid(), pid = fork();

	s->child[who] = (struct child){ .pid = pid };
	s->sourced = s->sourced || who == SOURCE;
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || dup2(s->fd[1], CHILD_FD) < 0 || close_range(CHILD_FD + 1, ~0u, 0))
		_exit(2);
	if (who == INTRUDER && s->cell->stranger)
		stranger_main(s->cell, s->m, CHILD_FD);
	if (who == INTRUDER)
		intruder_main(s->cell, s->m, CHILD_FD);
	end_main(s->cell, s->m, CHILD_FD, who == SOURCE);
}

static void begin(struct matrix *x, struct slot *s)
{
	struct common *m = s->m;

	memset(m, 0, offsetof(struct common, frozen));
	*s = (struct slot){ .busy = true,
			    .young = true,
			    .m = m,
			    .cell = &x->cell[x->next++],
			    .seen = { .source_runs = true },
			    .begun_us = now() };
	if (pipe(s->fd)) {
		perror("pipe");
		exit(1);
	}
	fcntl(s->fd[0], F_SETFL, O_NONBLOCK);
	spawn(s, TARGET);
}

static enum who victim(const struct slot *s)
{
	return struck_at_source(s->cell->point, s->cell->fault) ? SOURCE : TARGET;
}

static void go_on(struct slot *s)
{
	if (s->stopped && s->child[victim(s)].pid)
		kill(s->child[victim(s)].pid, SIGCONT);
	s->stopped = false;
}

/* The victim has stopped itself at its message. */
static void on_stop(struct slot *s, enum who who)
{
	s->stopped = who == victim(s);
	atomic_store(&s->m->struck, 1);
	if (s->cell->fault == DUPLICATE)
		spawn(s, INTRUDER);
	else if (s->seen.ended[who == SOURCE])
		go_on(s);
}

static void on_exit_of(struct slot *s, enum who who, int status)
{
	bool by_fault = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && who == victim(s) &&
			s->cell->fault >= KILL_BEFORE && s->cell->fault <= KILL_HEARD;

	s->child[who].pid = 0;
	s->child[who].bad = !by_fault && !(WIFEXITED(status) && !WEXITSTATUS(status));
	if (!by_fault)
		return;
	s->killed = true;
	atomic_store(&s->m->struck, 1);
}

static void look_at_children(struct matrix *x)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
		for (unsigned i = 0; i < x->jobs; i++) {
			for (enum who w = 0; w < WHO; w++) {
				if (!x->slot[i].busy || x->slot[i].child[w].pid != pid)
					continue;
				if (WIFSTOPPED(status))
					on_stop(&x->slot[i], w);
				else
					on_exit_of(&x->slot[i], w, status);
			}
		}
	}
}

/* ---- records of the children ---- */

static void on_record(struct slot *s, const struct record *r)
{
	observe(&s->seen, r);
	if (r->what == RECORD_LISTENS)
		spawn(s, s->cell->stranger ? INTRUDER : SOURCE);
	if (r->what == RECORD_STRANGER_LISTENS)
		spawn(s, SOURCE);
	if (r->what == RECORD_INTRUDER_IN)
		go_on(s);
	/* The other end has ended, so every timeout has passed. */
	if (r->what == RECORD_ENDED && s->stopped && r->at_source != (victim(s) == SOURCE))
		go_on(s);
}

static void drain(struct slot *s)
{
	struct record r[256];
	ssize_t n;

	while ((n = read(s->fd[0], r, sizeof(r))) > 0)
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(r[0]); i++)
			on_record(s, &r[i]);
	if (atomic_load(&s->m->struck) || s->seen.ended[0] || s->seen.ended[1])
		s->young = false;
}

/* ---- the end of a cell ---- */

static void account(struct matrix *x, struct slot *s)
{
	static const char *const answers[] = { "", ", refused the second", ", hung up on the second" };
	const struct point *p = s->cell->point;
	struct tally *t = &x->tally[p->type][!p->at_source][s->cell->arbiter];
	char why[1200], text[200], pair[3];

	if (s->killed)
		observe_death(&s->seen, victim(s) == SOURCE);
	judge_cell(why, s->cell, &s->seen, s->m, s->killed);
	if (!why[0] && s->hung)
		snprintf(why, sizeof(why), "it did not end within %u s", CELL_LIMIT_US / 1000000);
	for (enum who w = 0; w < WHO && !why[0]; w++)
		if (s->child[w].bad)
			snprintf(why, sizeof(why), "process %d ended badly", w);
	if (p->absent)
		x->absent++;
	t->cells += !p->absent;
	x->cells += !p->absent;
	t->failed += !!why[0];
	x->failed += !!why[0];
	if (!why[0] && !x->verbose)
		return;
	cell_text(text, s->cell);
	outcome_pair(pair, s->cell, s->m, s->killed);
	printf("%s %s: %s (%.1f s%s; reconnects %u, %u; connections to a stranger %u, heard %u)\n",
	       why[0] ? "  bad" : "  fine", text, pair, (double)(now() - s->begun_us) / 1e6,
	       answers[s->m->answer], s->m->end[0].res.stats.reconnects, s->m->end[1].res.stats.reconnects,
	       s->m->diverted, s->m->asked);
	if (why[0])
		printf("       %s\n", why);
}

static bool over(const struct slot *s)
{
	return !s->child[SOURCE].pid && !s->child[TARGET].pid && !s->child[INTRUDER].pid;
}

/* The time of the cell is over: kill its remaining processes. */
static void end_hung(struct slot *s)
{
	if (s->hung || now() - s->begun_us < CELL_LIMIT_US)
		return;
	s->hung = true;
	for (enum who w = 0; w < WHO; w++)
		if (s->child[w].pid)
			kill(s->child[w].pid, SIGKILL);
}

static void tend(struct matrix *x, struct slot *s)
{
	drain(s);
	end_hung(s);
	if (!s->child[SOURCE].pid && !s->child[TARGET].pid && s->sourced)
		atomic_store(&s->m->over, 1);
	if (!over(s))
		return;
	drain(s);
	if (!over(s)) /* the last record of the target was that it listens, and started a source */
		return;
	account(x, s);
	close(s->fd[0]);
	close(s->fd[1]);
	s->busy = false;
	x->left--;
}

static void run(struct matrix *x)
{
	struct pollfd p[JOBS_MAX];

	for (x->left = x->ncells; x->left;) {
		unsigned n = 0, young = 0;

		for (unsigned i = 0; i < x->jobs; i++)
			young += x->slot[i].busy && x->slot[i].young;
		for (unsigned i = 0; i < x->jobs; i++) {
			struct slot *s = &x->slot[i];

			if (!s->busy && x->next < x->ncells && young < YOUNG_MAX) {
				begin(x, s);
				young++;
			}
			if (s->busy)
				p[n++] = (struct pollfd){ .fd = s->fd[0], .events = POLLIN };
		}
		poll(p, n, TICK_MS);
		look_at_children(x);
		for (unsigned i = 0; i < x->jobs; i++)
			if (x->slot[i].busy)
				tend(x, &x->slot[i]);
	}
}

/* ---- the cells to run ---- */

struct choice {
	const char *message, *way, *fault, *when;
	bool arbiter; /* only cells with an arbiter */
};

static bool chosen(const struct choice *ch, const struct cell *c)
{
	return (!ch->message || !strcmp(ch->message, wire_name(c->point->type))) &&
	       (!ch->way || strstr(way_name(c->way), ch->way)) &&
	       (!ch->fault || strstr(fault_name(c->fault), ch->fault) ||
		strstr(stranger_name(c->stranger), ch->fault)) &&
	       (!ch->when || strstr(c->point->when, ch->when)) && (!ch->arbiter || c->arbiter);
}

static void add(struct matrix *x, const struct choice *ch, struct cell c)
{
	for (int shared = 0; shared < 2; shared++) {
		c.shared = shared;
		if (chosen(ch, &c))
			x->cell[x->ncells++] = c;
	}
	/* The false claim to come back: one kind of memory is enough. */
	c.claims = c.fault == DUPLICATE;
	if (c.claims && chosen(ch, &c))
		x->cell[x->ncells++] = c;
	/* Doubt does not depend on the kind of memory. */
	c.arbiter = in_doubt(c.point, c.fault);
	if (c.arbiter && chosen(ch, &c))
		x->cell[x->ncells++] = c;
}

/*
 * A restarted target, or a forger, at each point where the target dies or the link is lost. Private memory
 * and memfds take turns, because the answers do not depend on the memory.
 */
static void add_strangers(struct matrix *x, const struct choice *ch, const struct point *p, enum way way)
{
	for (unsigned i = 0; i < 2 * (STRANGERS - 1); i++) {
		struct cell c = { .point = p,
				  .way = way,
				  .stranger = (enum stranger)(1 + i / 2),
				  .shared = (p - points + way + i / 2) & 1 };

		if (!stranger_fault(&c.fault, p, c.stranger, i & 1))
			continue;
		if (chosen(ch, &c))
			x->cell[x->ncells++] = c;
		c.arbiter = in_doubt(c.point, c.fault);
		if (c.arbiter && chosen(ch, &c))
			x->cell[x->ncells++] = c;
	}
}

/* By fault: cells that wait long come first, so that the run does not end with waiting. */
static void lay_out(struct matrix *x, const struct choice *ch)
{
	static const enum fault order[FAULTS] = { LOST,	      STOP_BEFORE, STOP_AFTER,	LOST_BACK,
						  BEFORE,     MIDDLE,	   AFTER,	KILL_BEFORE,
						  KILL_AFTER, KILL_HEARD,  BEFORE_BACK, MIDDLE_BACK,
						  AFTER_BACK, DUPLICATE };

	x->cell = calloc(npoints * WAYS * (FAULTS * 3 + STRANGERS * 4), sizeof(x->cell[0]));
	for (size_t i = 0; i < npoints; i++)
		for (enum way w = 0; w < WAYS; w++)
			if (points[i].ways & (1u << w))
				add_strangers(x, ch, &points[i], w);
	for (size_t f = 0; f < FAULTS; f++)
		for (size_t i = 0; i < npoints; i++)
			for (enum way w = 0; w < WAYS; w++)
				if (points[i].ways & (1u << w) &&
				    (points[i].absent ? order[f] == BEFORE
						      : expected(&points[i], order[f]) != NULL))
					add(x, ch,
					    (struct cell){
						    .point = &points[i], .way = w, .fault = order[f] });
	for (unsigned i = 0; i < x->jobs; i++) {
		x->slot[i].m = mmap(NULL, sizeof(struct common), PROT_READ | PROT_WRITE,
				    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (x->slot[i].m == MAP_FAILED)
			exit(1);
	}
}

static int report(const struct matrix *x, uint64_t us)
{
	for (unsigned t = 1; t < WIRE_TYPES; t++) {
		for (int i = 0; i < 4; i++) {
			const struct tally *y = &x->tally[t][i / 2][i % 2];
			const char *from = i / 2 ? "target" : "source",
				   *with = i % 2 ? ", doubt settled by an arbiter" : "";

			if (y->failed)
				printf("[FAIL] %s from the %s%s: %u of %u cells\n", wire_name(t), from, with,
				       y->failed, y->cells);
			else if (y->cells)
				printf("[PASS] %s from the %s%s: %u cells\n", wire_name(t), from, with,
				       y->cells);
		}
	}
	printf("matrix: %u cells in %.0f s, %u failed; %u more assert that a message is not sent\n", x->cells,
	       (double)us / 1e6, x->failed, x->absent);
	return x->failed != 0;
}

/* The document's table must equal the table by which cells are judged. */
static int check_table(const char *path, const char *begin, const char *end, void (*table)(FILE *out))
{
	char *due = NULL, *is = NULL, *from, *to;
	size_t due_len = 0, is_len = 0;
	FILE *f = open_memstream(&due, &due_len), *in = fopen(path, "r");
	bool same;

	table(f);
	fclose(f);
	if (!in || getdelim(&is, &is_len, 0, in) < 0)
		return printf("[FAIL] matrix table: %s: %s\n", path, strerror(errno)), 1;
	fclose(in);
	from = strstr(is, begin);
	from = from ? from + strlen(begin) : NULL;
	to = from ? strstr(from, end) : NULL;
	same = to && (size_t)(to - from) == due_len && !memcmp(from, due, due_len);
	if (same)
		printf("[PASS] matrix table: %s says what the matrix expects (%.*s)\n", path,
		       (int)strcspn(begin, "\n"), begin);
	else
		printf("[FAIL] matrix table: %s has another table than the matrix: put the output of matrix --table "
		       "behind %s",
		       path, begin);
	free(due);
	free(is);
	return !same;
}

static int check(const char *path)
{
	int bad = check_table(path, "<!-- matrix: begin -->\n", "<!-- matrix: end -->", points_table);

	return check_table(path, "<!-- local: begin -->\n", "<!-- local: end -->", local_table) || bad;
}

static int tables(void)
{
	points_table(stdout);
	printf("\n");
	local_table(stdout);
	return 0;
}

/* Turns off the C library's cache of stacks of ended threads: mappings could not be counted with it. */
static void no_stack_cache(char **argv)
{
	static const char want[] = "glibc.pthread.stack_cache_size=0:glibc.malloc.arena_max=1";
	const char *is = getenv("GLIBC_TUNABLES");

	if (is && strstr(is, want))
		return;
	setenv("GLIBC_TUNABLES", want, 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "jobs", 1, NULL, 'j' },     { "only", 1, NULL, 'o' },	 { "way", 1, NULL, 'w' },
		{ "fault", 1, NULL, 'f' },    { "when", 1, NULL, 'n' },	 { "verbose", 0, NULL, 'v' },
		{ "table", 0, NULL, 't' },    { "check", 1, NULL, 'c' }, { "arbiter", 0, NULL, 'a' },
		{ "messages", 0, NULL, 'm' }, { "local", 2, NULL, 'l' }, { "phase", 1, NULL, 's' },
		{ "end", 1, NULL, 'e' },      { "limit", 1, NULL, 'i' }, { 0 }
	};
	static struct matrix x = { .jobs = JOBS };
	struct local_choice lch = { .limit_s = LOCAL_LIMIT_S };
	bool messages = true, local = true;
	struct choice ch = { 0 };
	char missing[200];
	unsigned cells;
	uint64_t t;
	int o, bad = 0;

	no_stack_cache(argv);
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'j':
			x.jobs = lch.jobs = (unsigned)atoi(optarg);
			break;
		case 'o':
			ch.message = optarg;
			break;
		case 'w':
			ch.way = lch.way = optarg;
			break;
		case 'f':
			ch.fault = optarg;
			break;
		case 'n':
			ch.when = optarg;
			break;
		case 'v':
			x.verbose = lch.verbose = true;
			break;
		case 'm':
			local = false;
			break;
		case 'l':
			messages = false;
			local = true;
			lch.kind = optarg;
			break;
		case 's':
			lch.phase = optarg;
			break;
		case 'e':
			lch.end = optarg;
			break;
		case 'i':
			lch.limit_s = (unsigned)atoi(optarg);
			break;
		case 'a':
			ch.arbiter = true;
			break;
		case 't':
			return tables();
		case 'c':
			return check(optarg);
		default:
			return 2;
		}
	}
	if (!x.jobs || x.jobs > JOBS_MAX)
		return 2;
	if (points_missing(missing)) {
		printf("[FAIL] matrix: %s\n", missing);
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (local && !ch.message && !ch.fault && !ch.when && !ch.arbiter)
		bad = local_run(&lch, &cells) != 0;
	if (!messages)
		return bad;
	lay_out(&x, &ch);
	t = now();
	run(&x);
	free(x.cell);
	return report(&x, now() - t) || bad;
}
