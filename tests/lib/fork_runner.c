/* SPDX-License-Identifier: MIT */
/*
 * Runs the tests of a Criterion program, each in a forked process. It finds them in the same ELF sections as
 * Criterion's own runner. That runner cannot start under ThreadSanitizer, because its arena needs addresses
 * that the sanitizer reserves, and it starts the program anew for each test, which costs more than most tests
 * if page faults are slow. The functions defined here replace those of libcriterion, because the linker
 * prefers the executable's symbols.
 *
 * A test that hangs is killed and named, and the next one runs. The limit is far above the time that any test
 * takes on a slow, busy machine.
 *
 *	PROGRAM [--jobs N] [--filter SUITE/NAME] [--list] [--verbose]	patterns as in the shell
 */
#include <criterion/criterion.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "patience.h"

#define SKIPPED 77
#define HANGS_S 300u
#define JOBS_MAX 16

/* Hooks before and after all tests, if the program has any. They get no report. */
extern void (*__start_cr_pra[])(void *) __attribute__((weak)),
	(*__stop_cr_pra[])(void *)__attribute__((weak));
extern void (*__start_cr_poa[])(void *) __attribute__((weak)),
	(*__stop_cr_poa[])(void *)__attribute__((weak));
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)), *__stop_cr_sts[] __attribute__((weak));

static _Atomic int failed; /* of the one test this process runs */

void criterion_internal_test_setup(void)
{
}

void criterion_internal_test_main(void (*fn)(void))
{
	fn();
}

void criterion_internal_test_teardown(void)
{
}

void cri_asserts_passed_incr(void)
{
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
	if (stats->passed)
		return;
	atomic_store(&failed, 1);
	printf("%s:%u: %s\n", stats->file, stats->line,
	       stats->message ? stats->message : "failed"); /* a test may redirect stderr */
	fflush(stdout);
}

/* Exit without the sanitizers: their report on an aborted test (a leaked thread) would hide the cause. */
static _Noreturn void leave(int status)
{
	fflush(NULL);
	syscall(SYS_exit_group, status);
	abort();
}

void criterion_abort_test(void)
{
	leave(1);
}

void criterion_skip_test(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	leave(SKIPPED);
}

static struct criterion_test_extra_data *suite_of(const struct criterion_test *t)
{
	struct criterion_suite **s;

	for (s = __start_cr_sts; s && s < __stop_cr_sts; s++) {
		if (*s && !strcmp((*s)->name, t->category))
			return (*s)->data;
	}
	return NULL;
}

/* In seconds */
static unsigned limit(const struct criterion_test *t)
{
	return (t->data->timeout > 0 ? (unsigned)t->data->timeout : HANGS_S) * patience();
}

static void run_child(const struct criterion_test *t)
{
	struct criterion_test_extra_data *suite = suite_of(t);

	alarm(limit(t));
	if (suite && suite->init)
		suite->init();
	if (t->data->init)
		t->data->init();
	t->test();
	if (t->data->fini)
		t->data->fini();
	if (suite && suite->fini)
		suite->fini();
	exit(atomic_load(&failed)); /* if the sanitizer has findings, it makes this 66 */
}

struct job {
	pid_t pid; /* 0: none */
	const struct criterion_test *test;
	struct timespec begin;
};

struct run {
	const char *pattern;
	bool lists;
	unsigned jobs;
	struct job job[JOBS_MAX];
	int tests, failures, skipped;
};

static void start_test(struct job *j, const struct criterion_test *t)
{
	fflush(NULL);
	j->test = t;
	clock_gettime(CLOCK_MONOTONIC, &j->begin);
	j->pid = fork();
	if (!j->pid)
		run_child(t);
}

/* 0: passed; 77: skipped; otherwise failed */
static int verdict(const struct criterion_test *t, int status)
{
	if (WIFSIGNALED(status)) {
		if (WTERMSIG(status) == t->data->signal)
			return 0;
		if (WTERMSIG(status) == SIGALRM)
			printf("%s::%s did not end within %u s\n", t->category, t->name, limit(t));
		else
			printf("%s::%s was killed by %s\n", t->category, t->name,
			       strsignal(WTERMSIG(status)));
		return 1;
	}
	if (t->data->exit_code)
		return WEXITSTATUS(status) != t->data->exit_code;
	return t->data->signal ? 1 : WEXITSTATUS(status);
}

static void report(struct run *r, const struct job *j, int ret)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	r->skipped += ret == SKIPPED;
	r->failures += ret && ret != SKIPPED;
	printf("[%s] %s::%s: (%.2fs)\n",
	       !ret		? "PASS"
	       : ret == SKIPPED ? "SKIP"
				: "FAIL",
	       j->test->category, j->test->name,
	       (double)(now.tv_sec - j->begin.tv_sec) + (double)(now.tv_nsec - j->begin.tv_nsec) / 1e9);
}

/* Waits until a test ends and frees its slot. False: no test runs. */
static bool reap(struct run *r)
{
	int status;
	pid_t pid = wait(&status);
	unsigned i;

	for (i = 0; pid > 0 && i < r->jobs; i++) {
		if (r->job[i].pid != pid)
			continue;
		report(r, &r->job[i], verdict(r->job[i].test, status));
		r->job[i].pid = 0;
	}
	return pid > 0;
}

static void run_test(struct run *r, const struct criterion_test *t)
{
	unsigned i;

	for (;;) {
		for (i = 0; i < r->jobs && r->job[i].pid; i++)
			;
		if (i < r->jobs)
			break;
		reap(r);
	}
	r->tests++;
	start_test(&r->job[i], t);
	if (r->job[i].pid < 0) {
		r->job[i].pid = 0;
		report(r, &r->job[i], 1);
	}
}

static void run_hooks(void (**hook)(void *), void (**end)(void *))
{
	for (; hook != end; hook++)
		if (*hook)
			(*hook)(NULL);
}

static int usage(const char *program)
{
	fprintf(stderr, "%s [--jobs N] [--filter SUITE/NAME] [--list] [--verbose]\n", program);
	return 2;
}

static int parse(struct run *r, int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list"))
			r->lists = true;
		else if (!strcmp(argv[i], "--jobs") && i + 1 < argc)
			r->jobs = (unsigned)atoi(argv[++i]);
		else if (!strcmp(argv[i], "--filter") && i + 1 < argc)
			r->pattern = argv[++i];
		else if (strcmp(argv[i], "--verbose"))
			return usage(argv[0]);
	}
	return r->jobs < 1 || r->jobs > JOBS_MAX ? usage(argv[0]) : 0;
}

int main(int argc, char **argv)
{
	struct run r = { .pattern = "*/*", .jobs = 1 };
	struct criterion_test **t;

	if (parse(&r, argc, argv))
		return 2;
	if (!r.lists)
		run_hooks(__start_cr_pra, __stop_cr_pra);
	for (t = __start_cr_tst; t < __stop_cr_tst; t++) {
		char name[256];

		if (!*t || (*t)->data->disabled)
			continue;
		snprintf(name, sizeof(name), "%s/%s", (*t)->category, (*t)->name);
		if (fnmatch(r.pattern, name, 0))
			continue;
		if (r.lists)
			puts(name);
		else
			run_test(&r, *t);
	}
	while (reap(&r))
		;
	if (!r.lists)
		run_hooks(__start_cr_poa, __stop_cr_poa);
	if (!r.lists)
		printf("%d tests, %d failed, %d skipped\n", r.tests, r.failures, r.skipped);
	return r.failures != 0;
}
