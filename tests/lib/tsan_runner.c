/* SPDX-License-Identifier: MIT */
/*
 * Criterion's own runner cannot start under ThreadSanitizer: its arena wants addresses that the sanitizer
 * keeps for itself. In that build this one takes its place: the same tests, from the same sections, each in a
 * process of its own. What the executable defines wins over what libcriterion defines.
 */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

#ifdef UNDER_TSAN
#include <criterion/criterion.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77
#define DEFAULT_TIMEOUT 300

/* The hooks before and after all tests, of programs that have some; nothing is reported to them. */
extern void (*__start_cr_pra[])(void *) __attribute__((weak)), (*__stop_cr_pra[])(void *) __attribute__((weak));
extern void (*__start_cr_poa[])(void *) __attribute__((weak)), (*__stop_cr_poa[])(void *) __attribute__((weak));
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
	fprintf(stderr, "%s:%u: %s\n", stats->file, stats->line, stats->message ? stats->message : "failed");
}

void criterion_abort_test(void)
{
	fflush(NULL);
	_exit(1);
}

void criterion_skip_test(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(SKIPPED);
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

static void run_child(const struct criterion_test *t)
{
	struct criterion_test_extra_data *suite = suite_of(t);
	double seconds = t->data->timeout > 0 ? t->data->timeout : suite && suite->timeout > 0 ? suite->timeout : 0;

	alarm(seconds > 0 ? (unsigned)seconds * 4 + 1 : DEFAULT_TIMEOUT); /* the sanitizer is slow */
	if (suite && suite->init)
		suite->init();
	if (t->data->init)
		t->data->init();
	t->test();
	if (t->data->fini)
		t->data->fini();
	if (suite && suite->fini)
		suite->fini();
	exit(atomic_load(&failed)); /* the sanitizer turns what it found into 66 */
}

/* 0: passed, 77: skipped, else failed */
static int run_test(const struct criterion_test *t)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return 1;
	if (!pid)
		run_child(t);
	if (waitpid(pid, &status, 0) != pid)
		return 1;
	if (WIFSIGNALED(status)) {
		if (WTERMSIG(status) == t->data->signal)
			return 0;
		fprintf(stderr, "killed by %s\n", strsignal(WTERMSIG(status)));
		return 1;
	}
	if (t->data->exit_code)
		return WEXITSTATUS(status) != t->data->exit_code;
	return t->data->signal ? 1 : WEXITSTATUS(status);
}

static void run_hooks(void (**hook)(void *), void (**end)(void *))
{
	for (; hook != end; hook++)
		if (*hook)
			(*hook)(NULL);
}

int main(void)
{
	struct criterion_test **t;
	int tests = 0, failures = 0, skipped = 0;

	run_hooks(__start_cr_pra, __stop_cr_pra);
	for (t = __start_cr_tst; t < __stop_cr_tst; t++) {
		int ret;

		if (!*t || (*t)->data->disabled)
			continue;
		tests++;
		ret = run_test(*t);
		skipped += ret == SKIPPED;
		failures += ret && ret != SKIPPED;
		printf("[%s] %s::%s\n", !ret ? "PASS" : ret == SKIPPED ? "SKIP" : "FAIL", (*t)->category, (*t)->name);
	}
	run_hooks(__start_cr_poa, __stop_cr_poa);
	printf("%d tests, %d failed, %d skipped (ThreadSanitizer)\n", tests, failures, skipped);
	return failures != 0;
}
#endif
