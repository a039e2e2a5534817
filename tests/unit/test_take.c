// SPDX-License-Identifier: MIT
/*
 * A userfaultfd is taken from a process again and again while it sleeps, waits, computes, or is sent signals: it notices
 * nothing, and the descriptor serves its faults. What cannot be traced, or is not to be, says so and lives on.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/qemu/take.h"

#define LONG UINT64_C(200000000) /* nothing here takes so long */
#define SHORT UINT64_C(200000)	 /* what is waited for never comes */
#define TAKES 40
#define NAP_NS 5000000L
#define PAGES 4u
#define PAGE ((size_t)4096)

/* Shared by the test and its victim. */
struct shared {
	_Atomic bool ready, stop;
	_Atomic uint32_t rounds, signals, word;
	char wrong[200]; /* what the victim has found */
};

static struct shared *sh;
static uint8_t *ram; /* at the same address in both */
static int to_victim[2];
static char why[400];
static uint64_t due_sum;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---- victims: each does one round of what it does, and says what it finds wrong ---- */

typedef void (*victim_fn)(void);

static void wrong(const char *what, long value)
{
	if (!sh->wrong[0])
		snprintf(sh->wrong, sizeof(sh->wrong), "%s: %ld", what, value);
}

static void has_slept(const char *what, int ret, int due, uint64_t since)
{
	uint64_t took = now_ns() - since;

	if (ret != due)
		wrong(what, ret < 0 ? -errno : ret);
	if (took < NAP_NS)
		wrong(what, (long)took);
}

static void in_ppoll(void)
{
	struct timespec nap = { .tv_nsec = NAP_NS };
	uint64_t since = now_ns();
	sigset_t mask;

	sigfillset(&mask);
	has_slept("ppoll", ppoll(NULL, 0, &nap, &mask), 0, since);
}

static void in_nanosleep(void)
{
	uint64_t since = now_ns();

	has_slept("nanosleep", nanosleep(&(struct timespec){ .tv_nsec = NAP_NS }, NULL), 0, since);
}

static void in_futex(void)
{
	uint64_t since = now_ns();
	long ret = syscall(SYS_futex, &sh->word, FUTEX_WAIT, 0, &(struct timespec){ .tv_nsec = NAP_NS }, NULL,
			   0);

	if (ret != -1 || errno != ETIMEDOUT)
		wrong("futex", ret ? -errno : ret);
	has_slept("futex", 0, 0, since);
}

static void in_read(void)
{
	static uint8_t due;
	uint8_t c;
	ssize_t n = read(to_victim[0], &c, 1);

	if (n != 1 || c != due++)
		wrong("read", n == 1 ? c : -errno);
}

/* Every register is in use, those of floating point too. */
static uint64_t sum(void)
{
	uint64_t a = 1, b = 2, c = 3, d = 4, e = 5, f = 6;
	double x = 1, y = 2, z = 3;

	for (unsigned i = 0; i < 200000; i++) {
		a = a * 6364136223846793005u + b;
		b ^= c + (a >> 7);
		c = c * 3 + d;
		d += e ^ (f << 3);
		e = e * 5 + 1;
		f -= a ^ i;
		x = x * 0.5 + y;
		y = y * 0.25 + z;
		z = z * 0.125 + 1;
	}
	return a ^ b ^ c ^ d ^ e ^ f ^ (uint64_t)(x * 1e6) ^ (uint64_t)(y * 1e6) ^ (uint64_t)(z * 1e6);
}

static void in_a_loop(void)
{
	uint64_t is = sum();

	if (is != due_sum)
		wrong("the sum of a loop", (long)is);
}

static void count_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(&sh->signals, 1);
}

/* Sleeps, and is sent signals: each comes once, and a sleep ends early only by one. */
static void with_signals(void)
{
	struct timespec nap = { .tv_nsec = NAP_NS };
	uint32_t before = atomic_load(&sh->signals);
	int ret = atomic_load(&sh->rounds) % 2 ? nanosleep(&nap, NULL) : ppoll(NULL, 0, &nap, NULL);

	if (ret && (errno != EINTR || atomic_load(&sh->signals) == before))
		wrong("a sleep with signals", ret < 0 ? -errno : ret);
}

/* SIGUSR1 is only let through while it waits. */
static void in_sigsuspend(void)
{
	uint32_t before = atomic_load(&sh->signals);
	sigset_t none;

	sigemptyset(&none);
	if (sigsuspend(&none) != -1 || errno != EINTR || atomic_load(&sh->signals) == before)
		wrong("sigsuspend", -errno);
}

static unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n;
}

static unsigned descriptors(void)
{
	return entries("/proc/self/fd");
}

static unsigned threads_of(pid_t pid)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return entries(path) - 2; /* without . and .. */
}

static void *another_thread(void *body)
{
	while (!atomic_load(&sh->stop))
		((victim_fn)body)();
	return NULL;
}

static _Noreturn void live(victim_fn body, bool threads)
{
	struct sigaction sa = { .sa_handler = count_signal };
	unsigned had = descriptors();
	pthread_t t[4];

	sigaction(SIGRTMIN, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	for (unsigned i = 0; threads && i < 4; i++)
		pthread_create(&t[i], NULL, another_thread, i % 2 ? (void *)in_ppoll : (void *)in_a_loop);
	atomic_store(&sh->ready, true);
	while (!atomic_load(&sh->stop)) {
		body();
		atomic_fetch_add(&sh->rounds, 1);
	}
	for (unsigned i = 0; threads && i < 4; i++)
		pthread_join(t[i], NULL);
	if (descriptors() != had)
		wrong("descriptors left", (long)descriptors() - (long)had);
	_exit(sh->wrong[0] != 0);
}

/* ---- the test's side ---- */

static void share(void)
{
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert(sh != MAP_FAILED && ram != MAP_FAILED && !pipe(to_victim));
}

static void await_flag(_Atomic bool *flag)
{
	while (!atomic_load(flag))
		usleep(1000);
}

static pid_t start(victim_fn body, bool threads)
{
	sigset_t usr1;
	pid_t pid;

	share();
	due_sum = sum();
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pid = fork();
	cr_assert(pid >= 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigprocmask(SIG_BLOCK, &usr1, NULL);
		live(body, threads);
	}
	await_flag(&sh->ready);
	return pid;
}

static void ends_well(pid_t pid)
{
	int status;

	atomic_store(&sh->stop, true);
	if (write(to_victim[1], "", 1) < 0 || kill(pid, SIGUSR1))
		cr_assert_fail("the victim cannot be stopped");
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status), "the victim was killed by %d", WTERMSIG(status));
	cr_assert_str_eq(sh->wrong, "");
	cr_assert_eq(WEXITSTATUS(status), 0);
}

static struct take takes(pid_t pid, unsigned flags)
{
	struct take t = { .fd = -1 };

	cr_assert_eq(take_uffd(pid, flags | TAKE_USER_MODE, LONG, &t, why, sizeof(why)), 0, "%s", why);
	return t;
}

static void api(int fd)
{
	struct uffdio_api a = { .api = UFFD_API };

	cr_assert_eq(ioctl(fd, UFFDIO_API, &a), 0, "UFFDIO_API: %s", strerror(errno));
}

/* It goes on for some rounds between two takes. */
static void take_often(pid_t pid, void (*between)(pid_t pid, int i))
{
	for (int i = 0; i < TAKES; i++) {
		uint32_t before = atomic_load(&sh->rounds);
		struct take t = takes(pid, 0);

		api(t.fd);
		close(t.fd);
		if (between)
			between(pid, i);
		while (i % 4 == 0 && atomic_load(&sh->rounds) == before && !sh->wrong[0])
			usleep(1000);
	}
}

static void unnoticed(victim_fn body, bool threads, void (*between)(pid_t pid, int i))
{
	pid_t pid = start(body, threads);

	take_often(pid, between);
	ends_well(pid);
}

Test(take, from_ppoll)
{
	unnoticed(in_ppoll, false, NULL);
}

Test(take, from_nanosleep)
{
	unnoticed(in_nanosleep, false, NULL);
}

Test(take, from_futex)
{
	unnoticed(in_futex, false, NULL);
}

Test(take, from_a_loop)
{
	unnoticed(in_a_loop, false, NULL);
}

static void feed(pid_t pid, int i)
{
	uint8_t c = (uint8_t)i;

	(void)pid;
	cr_assert_eq(write(to_victim[1], &c, 1), 1);
}

Test(take, from_read)
{
	pid_t pid = start(in_read, false);
	int status;

	take_often(pid, feed);
	atomic_store(&sh->stop, true);
	feed(pid, TAKES);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_str_eq(sh->wrong, "");
	cr_assert_eq(status, 0);
}

static _Atomic bool sent_all;

static void *send_all_the_time(void *pid)
{
	for (int i = 0; i < 2000; i++) {
		while (sigqueue((pid_t)(intptr_t)pid, SIGRTMIN, (union sigval){ 0 }))
			usleep(1000); /* the queue is full */
		if (i % 16 == 0)
			usleep(500);
	}
	atomic_store(&sent_all, true);
	return NULL;
}

/* ThreadSanitizer holds one signal of each number until it runs the handler, and drops those that come meanwhile. */
#ifdef __SANITIZE_THREAD__
#define DROPS_SIGNALS true
#else
#define DROPS_SIGNALS false
#endif

/* Each signal is delivered once, also those that come while the process stands. */
Test(take, while_signals_arrive)
{
	pthread_t t;
	pid_t pid;

	if (DROPS_SIGNALS)
		cr_skip_test("ThreadSanitizer drops queued signals");
	pid = start(with_signals, false);
	cr_assert_eq(pthread_create(&t, NULL, send_all_the_time, (void *)(intptr_t)pid), 0);
	for (int i = 0; i < TAKES || !atomic_load(&sent_all); i++)
		close(takes(pid, 0).fd);
	pthread_join(t, NULL);
	while (atomic_load(&sh->signals) < 2000 && !sh->wrong[0])
		usleep(1000);
	atomic_store(&sh->stop, true);
	cr_assert_eq(waitpid(pid, &(int){ 0 }, 0), pid);
	cr_assert_str_eq(sh->wrong, "");
	cr_assert_eq(atomic_load(&sh->signals), 2000);
}

static void let_through(pid_t pid, int i)
{
	(void)i;
	cr_assert_eq(kill(pid, SIGUSR1), 0);
}

Test(take, from_sigsuspend)
{
	unnoticed(in_sigsuspend, false, let_through);
}

Test(take, from_a_process_with_threads)
{
	unnoticed(in_nanosleep, true, NULL);
}

Test(take, from_a_stopped_process)
{
	pid_t pid = start(in_nanosleep, false);
	uint32_t before;
	int status;

	cr_assert_eq(kill(pid, SIGSTOP), 0);
	cr_assert_eq(waitpid(pid, &status, WUNTRACED), pid);
	cr_assert(WIFSTOPPED(status));
	before = atomic_load(&sh->rounds);
	for (int i = 0; i < 5; i++)
		close(takes(pid, 0).fd);
	cr_assert_leq(atomic_load(&sh->rounds), before);
	cr_assert_eq(kill(pid, SIGCONT), 0);
	while (atomic_load(&sh->rounds) == before)
		usleep(1000);
	ends_well(pid);
}

/* ---- the descriptor ---- */

static void touch(void)
{
	uint32_t n = atomic_load(&sh->rounds);

	if (n < PAGES && ((volatile uint8_t *)ram)[n * PAGE] != n + 1)
		wrong("a page", ram[n * PAGE]);
	if (n >= PAGES)
		in_nanosleep();
}

static void wait_to_touch(void)
{
	while (!atomic_load(&sh->word))
		usleep(1000);
	touch();
}

static void serve(int fd, unsigned page)
{
	struct uffdio_copy c = { .len = PAGE };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint8_t data[2 * PAGE], *at = data + (-(uintptr_t)data & (PAGE - 1));
	struct uffd_msg m;

	cr_assert_eq(poll(&p, 1, -1), 1);
	cr_assert_eq(read(fd, &m, sizeof(m)), (ssize_t)sizeof(m));
	cr_assert_eq(m.event, UFFD_EVENT_PAGEFAULT);
	cr_assert_eq(m.arg.pagefault.address & ~(PAGE - 1), (uintptr_t)ram + page * PAGE);
	memset(at, (int)page + 1, PAGE);
	c.dst = (uintptr_t)ram + page * PAGE;
	c.src = (uintptr_t)at;
	cr_assert_eq(ioctl(fd, UFFDIO_COPY, &c), 0, "UFFDIO_COPY: %s", strerror(errno));
}

/* What keeps the faults is the process's own copy: ours is lost on the way, and another is fetched. */
Test(take, serves_the_faults_of_the_process)
{
	pid_t pid = start(wait_to_touch, false);
	struct take t = takes(pid, TAKE_KEEP);
	struct uffdio_register r = { .range = { (uintptr_t)ram, PAGES * PAGE },
				     .mode = UFFDIO_REGISTER_MODE_MISSING };
	char path[60], is[60] = "";
	int pidfd;

	api(t.fd);
	cr_assert_eq(ioctl(t.fd, UFFDIO_REGISTER, &r), 0, "UFFDIO_REGISTER: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, t.theirs);
	cr_assert(readlink(path, is, sizeof(is) - 1) > 0 && strstr(is, "userfaultfd"), "%s is %s", path, is);
	atomic_store(&sh->word, 1);
	for (unsigned i = 0; i < PAGES; i++) {
		serve(t.fd, i);
		if (i != 1)
			continue;
		close(t.fd);
		pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
		t.fd = (int)syscall(SYS_pidfd_getfd, pidfd, t.theirs, 0);
		cr_assert_geq(t.fd, 0);
		close(pidfd);
	}
	while (atomic_load(&sh->rounds) < PAGES && !sh->wrong[0])
		usleep(1000);
	cr_assert_str_eq(sh->wrong, "");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

/* ---- what cannot be taken from ---- */

static void refuses(pid_t pid, unsigned flags, uint64_t timeout_us, int err, const char *says)
{
	struct take t = { .fd = -7 };

	cr_assert_eq(take_uffd(pid, flags | TAKE_USER_MODE, timeout_us, &t, why, sizeof(why)), err, "%s",
		     why);
	cr_assert(strstr(why, says), "\"%s\" does not say \"%s\"", why, says);
	cr_assert_eq(t.fd, -7);
}

Test(take, from_nobody)
{
	pid_t pid = fork();

	if (!pid)
		_exit(0);
	cr_assert_eq(waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
	refuses(pid, 0, LONG, -ESRCH, "has exited");
	waitpid(pid, NULL, 0);
	refuses(pid, 0, LONG, -ESRCH, "has exited");
}

Test(take, from_a_process_that_is_traced)
{
	pid_t pid = start(in_nanosleep, false), debugger = fork();

	if (!debugger) {
		atomic_store(&sh->word, ptrace(PTRACE_SEIZE, pid, 0, 0) ? 2 : 1);
		pause();
	}
	while (!atomic_load(&sh->word))
		usleep(1000);
	if (atomic_load(&sh->word) != 1)
		cr_skip_test("another child cannot be traced here");
	refuses(pid, 0, LONG, -EPERM, "no other tracer");
	kill(debugger, SIGKILL);
	waitpid(debugger, NULL, 0);
	ends_well(pid);
}

/* A thread that waits as in vfork() cannot be stopped before its child has gone. */
static void hangs(void)
{
	char c;
	pid_t child;

	atomic_store(&sh->word, 1);
	child = (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, 0);
	if (!child) {
		while (read(to_victim[0], &c, 1) != 1)
			;
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static pid_t start_hanging(bool threads)
{
	pid_t pid = start(hangs, threads);

	while (!atomic_load(&sh->word))
		usleep(1000);
	return pid;
}

Test(take, from_a_process_that_hangs_in_the_kernel_ends_by_the_deadline)
{
	pid_t pid = start_hanging(false);
	struct take t;

	if (threads_of(pid) > 1) {
		ends_well(pid); /* its child would stay */
		cr_skip_test("a sanitizer's own thread can always be stopped");
	}
	/* Until it is there, it can be taken from. */
	while (!take_uffd(pid, TAKE_USER_MODE, SHORT, &t, why, sizeof(why)))
		close(t.fd);
	refuses(pid, 0, SHORT, -ETIMEDOUT, "does not stop");
	ends_well(pid);
}

Test(take, from_another_thread_if_the_main_thread_hangs)
{
	pid_t pid = start_hanging(true);

	for (int i = 0; i < 3; i++) {
		struct take t = { 0 };

		cr_assert_eq(take_uffd(pid, TAKE_USER_MODE, 20 * SHORT, &t, why, sizeof(why)), 0, "%s", why);
		api(t.fd);
		close(t.fd);
	}
	ends_well(pid);
}

/* ---- seccomp ---- */

static uint32_t filter_action;

static void filtered(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, filter_action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(f) / sizeof(f[0]), f };

	if (!atomic_load(&sh->rounds) &&
	    (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog)))
		wrong("seccomp", -errno);
	in_nanosleep();
}

static pid_t start_filtered(uint32_t action)
{
	pid_t pid;

	filter_action = action;
	pid = start(filtered, false);
	while (!atomic_load(&sh->rounds) && !sh->wrong[0])
		usleep(1000);
	return pid;
}

/* Whether a tracer can suspend filters here. */
static bool can_suspend(pid_t pid)
{
	bool can = !ptrace(PTRACE_SEIZE, pid, 0, (void *)(uintptr_t)(1 << 21));

	if (can) {
		ptrace(PTRACE_INTERRUPT, pid, 0, 0);
		waitpid(pid, NULL, __WALL);
		ptrace(PTRACE_DETACH, pid, 0, 0);
	}
	return can;
}

Test(take, under_a_filter_that_would_kill)
{
	pid_t pid = start_filtered(SECCOMP_RET_KILL_PROCESS);

	if (can_suspend(pid))
		take_often(pid, NULL);
	else
		refuses(pid, 0, LONG, -EPERM, "seccomp filter, which may kill it");
	ends_well(pid);
}

static void lose_sys_admin(void)
{
	struct {
		uint32_t version;
		int pid;
	} head = { 0x20080522, 0 };
	struct {
		uint32_t effective, permitted, inheritable;
	} set[2];

	cr_assert_eq(syscall(SYS_capget, &head, set), 0);
	set[0].effective &= ~(1u << 21);
	set[0].permitted &= ~(1u << 21);
	cr_assert_eq(syscall(SYS_capset, &head, set), 0);
}

Test(take, under_a_filter_that_cannot_be_suspended)
{
	pid_t pid;

	lose_sys_admin();
	pid = start_filtered(SECCOMP_RET_ERRNO | EPERM);
	refuses(pid, 0, LONG, -EPERM, "seccomp filter, which may kill it");
	refuses(pid, TAKE_FILTERED, LONG, -EPERM, "may not create a userfaultfd");
	ends_well(pid);
}

Test(take, under_a_filter_that_lets_it_through)
{
	pid_t pid;

	lose_sys_admin();
	pid = start_filtered(SECCOMP_RET_ALLOW);
	close(takes(pid, TAKE_FILTERED).fd);
	ends_well(pid);
}

Test(take, under_a_filter_that_kills)
{
	pid_t pid;

	lose_sys_admin();
	pid = start_filtered(SECCOMP_RET_KILL_PROCESS);
	refuses(pid, TAKE_FILTERED, LONG, -ESRCH, "has exited");
}
