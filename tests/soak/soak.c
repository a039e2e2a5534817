// SPDX-License-Identifier: MIT
/* Runs the soak: one migration after another, what each leaves behind, and the summary. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "soak.h"
#include "tests/lib/left.h"
#include "bench/cli/run.h"
#include "bench/cli/util.h"

#define HANGS_S 300u /* a run takes a few seconds; an end that hangs is given up by run_once() after 120 */
#define RSS_SLACK_KB 16384u

struct soak {
	uint64_t seed, from, count, memory_max;
	char dir[64], arbiter[80]; /* its directory; as --arbiter takes it */
	uint64_t ok, by_ending[ENDINGS];
	uint64_t pages_bad, missing, repeated, leaks, arbitrated;
	uint64_t rss_kb; /* after the first runs */
	unsigned fds;
	bool own_shm;
	struct run_report report;
};

/* ---- what must not be left behind ---- */

static uint64_t rss_kb(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kb = 0;
	char line[200];

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "VmRSS: %llu", &kb) != 1)
		;
	if (f)
		fclose(f);
	return kb;
}

/* A /dev/shm of our own: what other programs of this machine leave there is not ours. False: not allowed to. */
static bool own_shm(void)
{
	return !unshare(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
}

/* This process adopts what its children leave behind, so it would be seen here. */
static void check_leaks(struct soak *s, char *why, size_t cap)
{
	unsigned fds = entries("/proc/self/fd"), threads = threads_left(1);
	uint64_t kb = rss_kb();
	pid_t child = waitpid(-1, NULL, WNOHANG);

	if (child >= 0)
		snprintf(why, cap, "a process is left behind (%d)", child);
	else if (fds != s->fds)
		snprintf(why, cap, "%u descriptors are open, %u before", fds, s->fds);
	else if (threads != 1)
		snprintf(why, cap, "the parent has %u threads", threads);
	else if (s->own_shm && entries("/dev/shm"))
		snprintf(why, cap, "something is left behind in /dev/shm");
	else if (s->rss_kb && kb > s->rss_kb + RSS_SLACK_KB)
		snprintf(why, cap, "the parent has grown from %" PRIu64 " to %" PRIu64 " KiB", s->rss_kb, kb);
	else
		return;
	s->leaks++;
}

/* ---- one run ---- */

static void on_alarm(int sig)
{
	static const char text[] = "[FAIL] soak: the run above hangs\n";

	(void)sig;
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(4);
	_exit(3); /* its children go with it */
}

static bool settled(const struct end_report *e)
{
	return !e->have_result || e->result.outcome != FERRY_OUTCOME_IN_DOUBT;
}

static void check_run(struct soak *s, char *why, size_t cap)
{
	const struct run_report *r = &s->report;
	enum ending is = ending_of(r);
	uint64_t seen, missing, repeated;
	unsigned due = expect_endings(r);
	char text[100], is_text[100];

	observer_total(&r->observer, &seen, &missing, &repeated);
	s->missing += missing;
	s->repeated += repeated;
	s->pages_bad += r->have_proof ? r->proof.pages_bad : 0;
	for (unsigned i = 0; i < ENDINGS; i++)
		s->by_ending[i] += is == 1u << i;
	s->arbitrated += r->o->arbiter && r->o->kill.phase >= FERRY_PHASE_COMMITMENT;
	if (r->verdict == VERDICT_PROOF || r->verdict == VERDICT_ENVIRONMENT)
		snprintf(why, cap, "%s", r->sentence);
	else if (!(due & is))
		snprintf(why, cap, "it ended %s, and %s was due: %.600s", endings_text(is_text, is),
			 endings_text(text, due), r->sentence);
	else if ((is == END_SOURCE || is == END_TARGET) && (!r->have_proof || !r->ran_on))
		snprintf(why, cap, "the owner's guest was not proved: %.600s", r->sentence);
	else if (r->o->arbiter && (!settled(&r->end[0]) || !settled(&r->end[1])))
		snprintf(why, cap, "an end is in doubt beside an arbiter: %.600s", r->sentence);
	else
		check_leaks(s, why, cap);
}

static bool run(struct soak *s, uint64_t number)
{
	struct run_report *r = &s->report;
	struct options o;
	char why[1200] = "", text[100];
	struct draw d;

	draw_run(&d, s->seed, number, s->memory_max, s->arbiter);
	printf("%" PRIu64 ": ", number);
	draw_print(stdout, &d);
	printf("\n");
	fflush(stdout);
	if (options_parse(&o, d.argc, d.argv)) {
		printf("[FAIL] soak::%" PRIu64 ": the command line above was refused\n", number);
		return false;
	}
	alarm(HANGS_S);
	run_once(r, &o, number, NULL, NULL);
	alarm(0);
	check_run(s, why, sizeof(why));
	if (why[0]) {
		printf("[FAIL] soak::%" PRIu64 ": %s (to repeat: tests/soak/run --seed %" PRIu64
		       " --from %" PRIu64 " --count 1)\n",
		       number, why, s->seed, number);
		report_json(stdout, r);
	} else {
		printf("[PASS] soak::%" PRIu64 ": %s, %s\n", number, r->outcome,
		       endings_text(text, ending_of(r)));
		s->ok++;
	}
	fflush(stdout);
	return !why[0];
}

/* ---- all of them ---- */

static int usage(void)
{
	fprintf(stderr, "usage: soak [--seed N] [--count N] [--from N] [--max-memory SIZE]\n");
	return 2;
}

static int parse(struct soak *s, int argc, char **argv)
{
	struct {
		const char *name;
		uint64_t *at;
		int (*parse)(const char *text, uint64_t *ret);
	} const rows[] = { { "--seed", &s->seed, parse_count },
			   { "--count", &s->count, parse_count },
			   { "--from", &s->from, parse_count },
			   { "--max-memory", &s->memory_max, parse_size } };

	for (int i = 1; i < argc; i += 2) {
		size_t k = 0;

		while (k < sizeof(rows) / sizeof(*rows) && strcmp(argv[i], rows[k].name))
			k++;
		if (k == sizeof(rows) / sizeof(*rows) || i + 1 == argc ||
		    rows[k].parse(argv[i + 1], rows[k].at))
			return usage();
	}
	return s->memory_max < 64u << 20 ? usage() : 0;
}

static void remove_records(const struct soak *s)
{
	DIR *d = opendir(s->dir);
	struct dirent *e;

	while (d && (e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(s->dir);
}

static void summary(const struct soak *s, uint64_t ns)
{
	printf("soak: seed %" PRIu64 ", %" PRIu64 " migrations in %" PRIu64 " s: %" PRIu64
	       " as they must be; %" PRIu64 " at the target, %" PRIu64 " at the source, %" PRIu64
	       " died with their host, %" PRIu64 " in doubt without an "
	       "arbiter, %" PRIu64 " lost page servers; %" PRIu64
	       " killed or cut at the commit beside an arbiter; %" PRIu64 " bad pages, %" PRIu64
	       " outputs missing, %" PRIu64 " repeated, %" PRIu64 " leaks, 0 hangs\n",
	       s->seed, s->count, ns / 1000000000, s->ok, s->by_ending[0], s->by_ending[1], s->by_ending[2],
	       s->by_ending[3], s->by_ending[4], s->arbitrated, s->pages_bad, s->missing, s->repeated,
	       s->leaks);
}

int main(int argc, char **argv)
{
	static struct soak s = { .from = 1, .count = 12, .memory_max = 1 << 30 };
	uint64_t begin = clock_ns();
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	s.seed = (uint64_t)ts.tv_nsec / 1000 + (uint64_t)getpid();
	if (parse(&s, argc, argv))
		return 2;
	snprintf(s.dir, sizeof(s.dir), "/tmp/ferry-soak.XXXXXX");
	if (!mkdtemp(s.dir)) {
		fprintf(stderr, "soak: %s: %s\n", s.dir, strerror(errno));
		return 2;
	}
	snprintf(s.arbiter, sizeof(s.arbiter), "file:%s", s.dir);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGALRM, on_alarm);
	s.own_shm = own_shm();
	if (!s.own_shm)
		printf("[SKIP] soak::/dev/shm: only root can have one of its own to look at\n");
	printf("soak: seed %" PRIu64 "\n", s.seed);
	s.fds = entries("/proc/self/fd");
	for (uint64_t i = s.from; i < s.from + s.count; i++) {
		run(&s, i);
		if (i == s.from + 4)
			s.rss_kb = rss_kb();
	}
	summary(&s, clock_ns() - begin);
	remove_records(&s);
	return s.ok == s.count ? 0 : 1;
}
