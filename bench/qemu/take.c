// SPDX-License-Identifier: MIT
/*
 * Makes a thread of another process call userfaultfd().
 *
 *	SEIZE, INTERRUPT	the thread stops inside get_signal(), between two of its instructions. If a
 *				system call was interrupted, rax has -ERESTART*, and the kernel decides about the
 *				restart after get_signal(): from the registers that we restore.
 *	SYSCALL, SYSCALL	it runs a `syscall` instruction that its memory has anyway (where it stands, else in
 *				the vdso or a library), into the call and out of it. All signals are blocked:
 *				none is delivered at registers that are not its own.
 *	INTERRUPT, CONT		back into get_signal(): only after it does the kernel look whether a call is to be
 *				restarted. Elsewhere user space could see -514.
 *	SETREGS, DETACH		the old registers and the old signal mask.
 *
 * The tracer is a thread made for it: when it exits, the kernel detaches even a tracee that never stopped.
 */
#include "take.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/clock.h"

#define LOOK_US 20u /* first pause between two looks at the tracee; doubles */
#define LOOK_MAX_US 1000u
#define NO_LIMIT UINT64_MAX
#define CODE_64 0x33 /* the code segment of 64-bit programs */
#define SCAN_BYTES ((size_t)64 << 10)

/* glibc's header lacks them. */
#define EVENT_STOP 128
#define GET_RSEQ 0x420f
#define SUSPEND_SECCOMP (1 << 21)
struct rseq_where {
	uint64_t rseq_abi;
	uint32_t rseq_abi_size, signature, flags, pad;
};
struct rseq_section {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

struct tracer {
	pid_t pid, tid;
	unsigned flags;
	uint64_t until_us; /* CLOCK_MONOTONIC */
	struct take *ret;
	char *why;
	size_t cap;
	int err;
	int mem;      /* /proc/PID/mem */
	bool mangled; /* the registers are not the thread's own: no limit until they are */
};

static int fails(const struct tracer *t, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fails(const struct tracer *t, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->why, t->cap, fmt, ap);
	va_end(ap);
	return err;
}

static int gone(const struct tracer *t)
{
	return fails(t, -ESRCH, "process %d has exited", t->pid);
}

/* A zombie is still there, but nothing can be done with it. */
static bool has_exited(pid_t pid)
{
	char path[40], line[512] = "", *state;
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	in = fopen(path, "re");
	if (!in)
		return true;
	state = fgets(line, sizeof(line), in) ? strrchr(line, ')') : NULL;
	fclose(in);
	return !state || strspn(state, ") ") != 2 || strchr("ZX", state[2]);
}

static long trace(const struct tracer *t, int request, void *addr, void *data)
{
	return ptrace((enum __ptrace_request)request, t->tid, addr, data) < 0 ? -errno : 0;
}

static int refused(const struct tracer *t, const char *what, long err)
{
	return err == -ESRCH ? gone(t)
			     : fails(t, (int)err, "thread %d of process %d cannot be traced: %s: %s", t->tid,
				     t->pid, what, strerror((int)-err));
}

/* The next stop of the thread: its wait status, or an error. */
static int await_stop(const struct tracer *t)
{
	uint64_t pause_us = LOOK_US;

	for (;;) {
		int status = 0;
		pid_t got = waitpid(t->tid, &status, __WALL | WNOHANG);

		if (got == t->tid)
			return WIFSTOPPED(status) ? status : gone(t);
		if (got < 0 && errno != EINTR)
			return gone(t);
		if (!t->mangled && clock_us() >= t->until_us)
			return fails(t, -ETIMEDOUT,
				     "thread %d of process %d does not stop: it hangs in the kernel, or gets no CPU",
				     t->tid, t->pid);
		usleep((useconds_t)pause_us);
		pause_us = pause_us * 2 < LOOK_MAX_US ? pause_us * 2 : LOOK_MAX_US;
	}
}

static bool is_interrupt(int status)
{
	return status >> 16 == EVENT_STOP;
}

static bool is_syscall(int status)
{
	return status >> 16 == 0 && WSTOPSIG(status) == (SIGTRAP | 0x80);
}

/* Goes on by request until it stops as expected; a signal that it stops for before is delivered. */
static int run_until(const struct tracer *t, int request, bool (*expected)(int status))
{
	int signal = 0;

	for (;;) {
		long err = trace(t, request, NULL, (void *)(intptr_t)signal);
		int status = err ? refused(t, "going on", err) : await_stop(t);

		if (status < 0)
			return status;
		if (expected(status))
			return 0;
		signal = status >> 16 ? 0 : WSTOPSIG(status);
	}
}

/* ---- where a system call can be made ---- */

static bool is_code(const struct tracer *t, uint64_t at)
{
	uint8_t b[2];

	return pread(t->mem, b, 2, (off_t)at) == 2 && b[0] == 0x0f && b[1] == 0x05;
}

static uint64_t scan(const struct tracer *t, uint64_t at, uint64_t end)
{
	uint8_t *b = malloc(SCAN_BYTES), *found = NULL;
	ssize_t n;

	while (b && !found && at < end) {
		n = pread(t->mem, b, end - at < SCAN_BYTES ? end - at : SCAN_BYTES, (off_t)at);
		if (n < 2)
			break;
		found = memmem(b, (size_t)n, "\x0f\x05", 2);
		at += found ? (uint64_t)(found - b)
			    : (uint64_t)n - (n > 2); /* it may lie across two pieces */
	}
	free(b);
	return found ? at : 0;
}

/* The vdso first, which every process has; then any code. */
static uint64_t find_code(const struct tracer *t)
{
	char path[40], *line = NULL;
	uint64_t found = 0;
	size_t cap = 0;

	snprintf(path, sizeof(path), "/proc/%d/maps", t->pid);
	for (int vdso = 1; vdso >= 0 && !found; vdso--) {
		FILE *in = fopen(path, "re");

		while (in && !found && getline(&line, &cap, in) > 0) {
			uint64_t start, end;
			char perms[8];

			if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, perms) == 3 &&
			    perms[2] == 'x' && start < INT64_MAX && (strstr(line, "[vdso]") != NULL) == vdso)
				found = scan(t, start, end);
		}
		if (in)
			fclose(in);
	}
	free(line);
	return found;
}

/* ---- the call ---- */

/*
 * Whether the thread stands in a restartable sequence: moving it away would hide from the kernel that it must
 * be aborted. A system call is never in one.
 */
static bool in_rseq(const struct tracer *t, uint64_t ip)
{
	struct rseq_where w = { 0 };
	struct rseq_section s;
	uint64_t at;

	if (ptrace((enum __ptrace_request)GET_RSEQ, t->tid, sizeof(w), &w) < 0 || !w.rseq_abi)
		return false;
	if (pread(t->mem, &at, sizeof(at), (off_t)w.rseq_abi + 8) != sizeof(at) || !at ||
	    pread(t->mem, &s, sizeof(s), (off_t)at) != sizeof(s))
		return false;
	return ip - s.start < s.length;
}

/* The thread is stopped. *result: what the call returned. */
static int call(struct tracer *t, const struct user_regs_struct *own, uint64_t code, long nr, long arg,
		long *result)
{
	struct user_regs_struct r = *own;
	long err;
	int e;

	r.rip = code;
	r.rax = (unsigned long long)nr;
	r.orig_rax = (unsigned long long)-1; /* nothing is to be restarted */
	r.rdi = (unsigned long long)arg;
	err = trace(t, PTRACE_SETREGS, NULL, &r);
	if (err)
		return refused(t, "setting registers", err);
	t->mangled = true;
	e = run_until(t, PTRACE_SYSCALL, is_syscall); /* into it */
	if (!e)
		e = run_until(t, PTRACE_SYSCALL, is_syscall); /* and out of it */
	if (e < 0)
		return e;
	err = trace(t, PTRACE_GETREGS, NULL, &r);
	*result = (long)r.rax;
	return err ? refused(t, "reading registers", err) : 0;
}

static int fetch(const struct tracer *t, int theirs)
{
	int pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0), fd, err;

	fd = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	err = -errno;
	if (pidfd >= 0)
		close(pidfd);
	return fd >= 0 ? fd
		       : fails(t, err, "the userfaultfd of process %d cannot be fetched: pidfd_getfd: %s",
			       t->pid, strerror(-err));
}

static int not_created(const struct tracer *t, long err)
{
	if (err == -EPERM || err == -EACCES)
		return fails(t, (int)err,
			     "process %d may not create a userfaultfd (%s): run it as root or with CAP_SYS_PTRACE, or "
			     "set vm.unprivileged_userfaultfd=1; a seccomp filter must let it through, too",
			     t->pid, strerror((int)-err));
	return fails(t, err < 0 && err > -4096 ? (int)err : -EIO,
		     "process %d cannot create a userfaultfd: %s%s", t->pid,
		     err < 0 && err > -4096 ? strerror((int)-err) : "nonsense is returned",
		     err == -ENOSYS
			     ? "; its kernel is built without CONFIG_USERFAULTFD, or a seccomp filter refuses it"
			     : "");
}

/* The calls themselves. The registers are restored by the caller. */
static int create(struct tracer *t, const struct user_regs_struct *own, uint64_t code)
{
	long mode = O_CLOEXEC | O_NONBLOCK | (t->flags & TAKE_USER_MODE ? UFFD_USER_MODE_ONLY : 0), n = 0,
	     closed;
	int err = call(t, own, code, SYS_userfaultfd, mode, &n), fd;

	if (!err && n < 0)
		err = not_created(t, n);
	if (err < 0)
		return err;
	fd = fetch(t, (int)n);
	if (fd < 0 || !(t->flags & TAKE_KEEP)) {
		err = call(t, own, code, SYS_close, n, &closed);
		if (err < 0 && fd >= 0)
			close(fd);
		if (err < 0)
			return err;
	}
	if (fd < 0)
		return fd;
	t->ret->fd = fd;
	t->ret->theirs = t->flags & TAKE_KEEP ? (int)n : -1;
	return 0;
}

/* Back into get_signal(), where the kernel decides about a restart after we have left. */
static int restore(struct tracer *t, const struct user_regs_struct *own, const uint64_t *mask)
{
	long err = trace(t, PTRACE_INTERRUPT, NULL, NULL);
	int e = err ? refused(t, "interrupting", err) : run_until(t, PTRACE_CONT, is_interrupt);

	if (e < 0)
		return e;
	err = trace(t, PTRACE_SETREGS, NULL, (void *)(uintptr_t)own);
	if (!err)
		err = trace(t, PTRACE_SETSIGMASK, (void *)sizeof(*mask), (void *)(uintptr_t)mask);
	t->mangled = false;
	return err ? refused(t, "restoring registers", err) : 0;
}

/* 1: it stands where it must not be moved from. */
static int use(struct tracer *t)
{
	uint64_t mask, none = ~UINT64_C(0), code;
	struct user_regs_struct own;
	long err = trace(t, PTRACE_GETREGS, NULL, &own);
	int e, back;

	if (!err)
		err = trace(t, PTRACE_GETSIGMASK, (void *)sizeof(mask), &mask);
	if (err)
		return refused(t, "reading registers", err);
	if (own.cs != CODE_64)
		return fails(t, -EOPNOTSUPP,
			     "process %d runs 32-bit code; only 64-bit programs can be taken from", t->pid);
	if (in_rseq(t, own.rip))
		return 1;
	code = is_code(t, own.rip - 2) ? own.rip - 2 : find_code(t);
	if (!code)
		return fails(t, -EOPNOTSUPP, "process %d has no system call instruction that can be found",
			     t->pid);
	err = trace(t, PTRACE_SETSIGMASK, (void *)sizeof(none), &none);
	if (err)
		return refused(t, "blocking signals", err);
	e = create(t, &own, code);
	back = e == -ESRCH ? 0 : restore(t, &own, &mask);
	if (e || !back)
		return e;
	close(t->ret->fd);
	t->ret->fd = -1;
	return back;
}

/* ---- stopping it ---- */

/* 1: yes; 0: no filter, or it is suspended while we trace. */
static int filtered(const struct tracer *t, long suspended)
{
	char path[64], *line = NULL;
	int mode = 0;
	size_t cap = 0;
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", t->pid, t->tid);
	in = fopen(path, "re");
	while (in && getline(&line, &cap, in) > 0)
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	free(line);
	if (in)
		fclose(in);
	return mode && suspended;
}

static int seize(const struct tracer *t)
{
	long err = trace(t, PTRACE_SEIZE, NULL, (void *)PTRACE_O_TRACESYSGOOD), suspended;

	if (err == -EPERM && has_exited(t->pid))
		return gone(t);
	if (err == -EPERM)
		return fails(t, -EPERM,
			     "process %d may not be traced: that takes root or CAP_SYS_PTRACE, no other tracer (a debugger), and "
			     "a security policy that allows it (kernel.yama.ptrace_scope)",
			     t->pid);
	if (err)
		return refused(t, "PTRACE_SEIZE", err);
	err = trace(t, PTRACE_INTERRUPT, NULL, NULL);
	if (err)
		return refused(t, "interrupting", err);
	for (int status = await_stop(t); !is_interrupt(status); status = await_stop(t)) {
		if (status < 0)
			return status;
		/* A signal came first: it is delivered, and the interruption is still due. */
		err = trace(t, PTRACE_CONT, NULL, (void *)(intptr_t)WSTOPSIG(status));
		if (err)
			return refused(t, "going on", err);
	}
	suspended = trace(t, PTRACE_SETOPTIONS, NULL,
			  (void *)(uintptr_t)(PTRACE_O_TRACESYSGOOD | SUSPEND_SECCOMP));
	if (filtered(t, suspended) && !(t->flags & TAKE_FILTERED))
		return fails(t, -EPERM,
			     "process %d has a seccomp filter, which may kill it for a system call, and it cannot be suspended "
			     "(%s): that takes CAP_SYS_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE",
			     t->pid, strerror((int)-suspended));
	return 0;
}

static int attempt(struct tracer *t)
{
	uint64_t begin = clock_us();
	int err = seize(t);

	if (!err)
		err = use(t);
	trace(t, PTRACE_DETACH, NULL, NULL);
	t->ret->stood_us = clock_us() - begin;
	return err;
}

static void *trace_thread(void *arg)
{
	struct tracer *t = arg;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/mem", t->pid);
	t->mem = open(path, O_RDONLY | O_CLOEXEC);
	if (t->mem < 0) {
		t->err = errno == ENOENT || errno == ESRCH
				 ? gone(t)
				 : fails(t, -errno, "the memory of process %d cannot be read: %s", t->pid,
					 strerror(errno));
		return NULL;
	}
	while ((t->err = attempt(t)) == 1 && clock_us() < t->until_us)
		usleep(LOOK_MAX_US);
	if (t->err == 1)
		t->err =
			fails(t, -ETIMEDOUT,
			      "thread %d of process %d is in a restartable sequence whenever it is looked at",
			      t->tid, t->pid);
	close(t->mem);
	return NULL;
}

static int try_thread(struct tracer *t, pid_t tid, uint64_t until_us)
{
	pthread_t thread;
	int err;

	t->tid = tid;
	t->until_us = until_us;
	t->mangled = false;
	err = pthread_create(&thread, NULL, trace_thread, t);
	if (err)
		return fails(t, -err, "no thread to trace process %d: %s", t->pid, strerror(err));
	pthread_join(thread, NULL);
	return t->err;
}

int take_uffd(pid_t pid, unsigned flags, uint64_t timeout_us, struct take *ret, char *why, size_t cap)
{
	struct take got = { .fd = -1, .theirs = -1 };
	struct tracer t = { .pid = pid, .flags = flags, .ret = &got, .why = why, .cap = cap };
	uint64_t until_us = clock_us() + timeout_us;
	struct dirent *d;
	char path[40];
	int err = try_thread(&t, pid, clock_us() + timeout_us / 2);
	DIR *tasks;

	/* The main thread may hang in the kernel: any thread has the same memory. */
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = err == -ETIMEDOUT ? opendir(path) : NULL;
	while (err == -ETIMEDOUT && clock_us() < until_us && tasks && (d = readdir(tasks))) {
		pid_t tid = atoi(d->d_name);

		if (tid > 0 && tid != pid)
			err = try_thread(&t, tid, clock_us() + (until_us - clock_us()) / 2);
	}
	if (tasks)
		closedir(tasks);
	if (!err)
		*ret = got;
	return err;
}
