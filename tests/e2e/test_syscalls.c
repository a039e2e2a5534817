// SPDX-License-Identifier: MIT
/*
 * The list of system calls in docs/embedding.md, which embedders copy into their seccomp filters, held against what the kernel
 * sees. A filter hands each call of a migration to this test (SECCOMP_RET_USER_NOTIF), which lets it go on and writes down who
 * made it: the thread inside ferry_run(), or one of the library's. What the embedder's own ops call is left out.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "refuse.h"
#include "rig.h"

/* Sanitizers make calls of their own. */

#define CALLS 512
#define MAIN 1u
#define WORKERS 2u
#define RARE 4u
#define THREADS 64u

static const struct {
	const char *name;
	int nr;
} names[] = {
#define CALL(name)                \
	{                         \
#name, SYS_##name \
	}
	CALL(accept4),
	CALL(bind),
	CALL(brk),
	CALL(clone),
	CALL(clone3),
	CALL(close),
	CALL(connect),
	CALL(epoll_create1),
	CALL(epoll_ctl),
	CALL(eventfd2),
	CALL(exit),
	CALL(fallocate),
	CALL(fcntl),
	CALL(fstatfs),
	CALL(ftruncate),
	CALL(futex),
	CALL(getpeername),
	CALL(getpid),
	CALL(getrandom),
	CALL(getsockname),
	CALL(getsockopt),
	CALL(gettid),
	CALL(ioctl),
	CALL(listen),
	CALL(lseek),
	CALL(madvise),
	CALL(memfd_create),
	CALL(mincore),
	CALL(mmap),
	CALL(mprotect),
	CALL(mremap),
	CALL(munmap),
	CALL(nanosleep),
	CALL(clock_nanosleep),
	CALL(newfstatat),
	CALL(openat),
	CALL(pidfd_open),
	CALL(pipe2),
	CALL(ppoll),
	CALL(pread64),
	CALL(prlimit64),
	CALL(process_madvise),
	CALL(process_vm_readv),
	CALL(process_vm_writev),
	CALL(pwrite64),
	CALL(read),
	CALL(recvfrom),
	CALL(recvmsg),
	CALL(restart_syscall),
	CALL(rseq),
	CALL(rt_sigpending),
	CALL(rt_sigprocmask),
	CALL(rt_sigreturn),
	CALL(rt_sigtimedwait),
	CALL(sched_getaffinity),
	CALL(sched_yield),
	CALL(sendmsg),
	CALL(sendto),
	CALL(set_robust_list),
	CALL(setsockopt),
	CALL(shutdown),
	CALL(socket),
	CALL(splice),
	CALL(timerfd_create),
	CALL(timerfd_settime),
	CALL(userfaultfd),
	CALL(vmsplice),
	CALL(write),
#ifdef SYS_poll
	CALL(poll),
#endif
#ifdef SYS_statfs
	CALL(statfs),
#endif
};

static const char *name_of(int nr)
{
	static char number[16];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (names[i].nr == nr)
			return names[i].name;
	snprintf(number, sizeof(number), "%d", nr);
	return number;
}

/* ---- the list ---- */

static unsigned listed[CALLS]; /* MAIN, WORKERS, RARE; 0: not listed */

static void list_names(const char *cell, unsigned who)
{
	char name[40];
	int used;

	for (cell = strchr(cell, '`'); cell && sscanf(cell, "`%39[a-z0-9_]`%n", name, &used) == 1;
	     cell = strchr(cell + used, '`')) {
		bool known = false;

		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
			if (!strcmp(names[i].name, name)) {
				listed[names[i].nr] |= who;
				known = true;
			}
		cr_assert(known, "docs/embedding.md lists %s, which this test does not know", name);
	}
}

/* Rows as: | `a`, `b` | main, workers, rare | .. */
static void read_list(void)
{
	FILE *in = fopen(FERRY_SOURCE_DIR "/docs/embedding.md", "re");
	bool here = false;
	char line[1000], who[40];
	unsigned rows = 0;

	cr_assert(in);
	while (fgets(line, sizeof(line), in)) {
		char *cell;

		if (line[0] == '#')
			here = !strcmp(line, "## System calls\n");
		if (!here || strncmp(line, "| `", 3))
			continue;
		cell = strchr(line + 1, '|');
		cr_assert(cell && sscanf(cell, "| %39[a-z, ]|", who) == 1, "%s", line);
		*cell = 0;
		list_names(line, (strstr(who, "main") ? MAIN : 0) | (strstr(who, "workers") ? WORKERS : 0) |
					 (strstr(who, "rare") ? RARE : 0));
		rows++;
	}
	fclose(in);
	cr_assert_geq(rows, 5);
}

/* ---- what is called ---- */

static unsigned seen[CALLS];
static _Atomic int main_tid[2], in_op[2]; /* source, target */
static struct ferry_ops real[2];

static void enter_op(struct fakevm *vm)
{
	atomic_store(&in_op[!vm->is_source], (int)syscall(SYS_gettid));
}

static void leave_op(struct fakevm *vm)
{
	atomic_store(&in_op[!vm->is_source], 0);
}

#define WRAP(op, params, ...)                                                  \
	static int own_##op params                                             \
	{                                                                      \
		int err;                                                       \
                                                                               \
		enter_op(vm);                                                  \
		err = real[!((struct fakevm *)vm)->is_source].op(__VA_ARGS__); \
		leave_op(vm);                                                  \
		return err;                                                    \
	}
WRAP(dirty_start, (void *vm), vm)
WRAP(dirty_stop, (void *vm), vm)
WRAP(dirty_fetch, (void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags), vm, region,
     bits, npages, flags)
WRAP(pause, (void *vm), vm)
WRAP(resume, (void *vm), vm)
WRAP(save, (void *vm, struct ferry_stream *out), vm, out)
WRAP(needs, (void *vm, struct ferry_stream *out), vm, out)
WRAP(reserve, (void *vm, struct ferry_region *r, size_t n, struct ferry_stream *needs), vm, r, n, needs)
WRAP(load, (void *vm, struct ferry_stream *in), vm, in)
WRAP(output_hold, (void *vm), vm)
WRAP(output_release, (void *vm), vm)
WRAP(activate, (void *vm), vm)
WRAP(retire, (void *vm), vm)

static void leave_ops_out(struct fakevm *vm)
{
	struct ferry_ops *o = &vm->ops;

	real[!vm->is_source] = *o;
#define TAKE(op) o->op = o->op ? own_##op : NULL
	TAKE(dirty_start), TAKE(dirty_stop), TAKE(dirty_fetch), TAKE(pause), TAKE(resume), TAKE(save),
		TAKE(needs), TAKE(reserve);
	TAKE(load), TAKE(output_hold), TAKE(output_release), TAKE(activate), TAKE(retire);
}

/* Once in the life of an end, on the thread inside ferry_run(). */
static void learn_main(struct fakevm *vm, enum ferry_phase phase)
{
	(void)phase;
	atomic_store(&main_tid[!vm->is_source], (int)syscall(SYS_gettid));
}

struct watch {
	_Atomic int fd; /* of the filter; -1: not yet */
	_Atomic bool over;
	_Atomic int sandbox; /* the thread that makes both sessions, as an embedder's main does */
	struct rig *r;
	/* the watcher's */
	struct caller {
		int tid;
		bool calls[CALLS];
	} caller[THREADS];
	size_t n;
};

static void note(struct watch *w, const struct seccomp_notif *n)
{
	int tid = (int)n->pid;
	size_t i;

	if (tid == atomic_load(&in_op[0]) || tid == atomic_load(&in_op[1]) || n->data.nr < 0 ||
	    n->data.nr >= CALLS || n->data.nr == SYS_gettid) /* the test's */
		return;
	for (i = 0; i < w->n && w->caller[i].tid != tid; i++)
		;
	if (i == w->n && w->n < THREADS)
		w->caller[w->n++].tid = tid;
	if (i < THREADS)
		w->caller[i].calls[n->data.nr] = true;
}

/* Now it is known who was inside ferry_run(). */
static void sum_up(const struct watch *w)
{
	cr_assert_lt(w->n, THREADS);
	for (size_t i = 0; i < w->n; i++) {
		int tid = w->caller[i].tid;
		bool is_main = tid == w->sandbox || tid == main_tid[0] || tid == main_tid[1];

		for (int nr = 0; nr < CALLS; nr++)
			seen[nr] |= w->caller[i].calls[nr] ? (is_main ? MAIN : WORKERS) : 0;
	}
}

/* Outside the filter. */
static void *watcher(void *arg)
{
	struct watch *w = arg;

	while (!atomic_load(&w->over)) {
		struct seccomp_notif n = { 0 };
		struct seccomp_notif_resp resp = { .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE };
		struct pollfd p = { .fd = atomic_load(&w->fd), .events = POLLIN };

		if (p.fd < 0 || poll(&p, 1, 20) <= 0 || !(p.revents & POLLIN)) {
			if (p.fd < 0)
				usleep(1000);
			continue;
		}
		if (ioctl(p.fd, SECCOMP_IOCTL_NOTIF_RECV, &n) < 0)
			continue; /* whoever made it is gone */
		note(w, &n);
		resp.id = n.id;
		ioctl(p.fd, SECCOMP_IOCTL_NOTIF_SEND, &resp);
	}
	return NULL;
}

static int notify_all(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF) };
	struct sock_fprog prog = { .len = 1, .filter = code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog);
}

static void *watched(void *arg)
{
	struct watch *w = arg;

	atomic_store(&w->sandbox, (int)syscall(SYS_gettid));
	atomic_store(&w->fd, notify_all()); /* no call between: nobody would answer it */
	rig_run(w->r);
	return NULL;
}

static void migrate(const struct rig_kind *kind, enum ferry_mode mode, unsigned channels, enum fake_op fails)
{
	static struct watch w;
	pthread_t t, watching;
	struct rig r;

	memset(&w, 0, sizeof(w));
	w.fd = -1;
	rig_init(&r, kind);
	r.scfg.mode = mode;
	r.scfg.channels = channels;
	r.scfg.max_rounds = 2;
	r.src.writes[0] = 2 * FAKE_PAGES;
	r.src.phase_hook = r.tgt.phase_hook = learn_main;
	if (fails) {
		r.tgt.fail_op = fails;
		r.tgt.fail_nth = 1;
		r.tgt.fail_err = -EIO;
	}
	leave_ops_out(&r.src);
	leave_ops_out(&r.tgt);
	w.r = &r;
	cr_assert(!pthread_create(&watching, NULL, watcher, &w) && !pthread_create(&t, NULL, watched, &w));
	pthread_join(t, NULL);
	/* The VM that runs goes on below the same filter. */
	if (fails)
		rig_source_owns(&r);
	else
		rig_migrated(&r);
	rig_free(&r);
	atomic_store(&w.over, true);
	pthread_join(watching, NULL);
	close(w.fd);
	sum_up(&w);
}

/* The last two measure how pages land. */
static const struct rig_kind *const kinds[] = {
	RIG_TCP_ANON,
	RIG_TCP_SHARED,
	RIG_TCP_THP_ANON,
	RIG_MEM_SHARED,
	&(struct rig_kind){ .uri = RIG_TCP },
	&(struct rig_kind){ .uri = RIG_TCP, .shared = true },
};

Test(syscalls, the_list_is_what_the_kernel_sees, .timeout = 200)
{
	read_list();
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		migrate(kinds[k], FERRY_MODE_STOP_AND_COPY, 1, 0);
		migrate(kinds[k], FERRY_MODE_POSTCOPY, 2, 0);
		migrate(kinds[k], FERRY_MODE_POSTCOPY, 1, FAKE_LOAD);
	}
	for (int nr = 0; nr < CALLS; nr++) {
		unsigned beyond = seen[nr] & ~listed[nr],
			 never = listed[nr] && !seen[nr] && !(listed[nr] & RARE);

		cr_expect(!beyond, "%s is called by%s%s, and docs/embedding.md does not say so", name_of(nr),
			  beyond & MAIN ? " main" : "", beyond & WORKERS ? " workers" : "");
		cr_expect(!never, "docs/embedding.md lists %s, which nobody calls", name_of(nr));
	}
}

/* ---- with the list and nothing else ---- */

/* What the ops of a fake VM, and its guest, call beside. */
static const int ops_own[] = { SYS_memfd_create, SYS_ftruncate, SYS_nanosleep, SYS_clock_nanosleep,
			       SYS_gettid };

static void *allowed(void *arg)
{
	int nr[REFUSE_MAX];
	size_t n = 0;

	for (int i = 0; i < CALLS; i++)
		if (listed[i])
			nr[n++] = i;
	for (size_t i = 0; i < sizeof(ops_own) / sizeof(ops_own[0]); i++)
		nr[n++] = ops_own[i];
	refuse_all_but(nr, n, EPERM);
	rig_run(arg);
	return NULL;
}

static void migrate_allowed(const struct rig_kind *kind, enum ferry_mode mode)
{
	pthread_t t;
	struct rig r;

	read_list();
	rig_init(&r, kind);
	r.scfg.mode = mode;
	r.scfg.max_rounds = 2;
	r.scfg.channels = 2;
	r.src.writes[0] = 2 * FAKE_PAGES;
	cr_assert(!pthread_create(&t, NULL, allowed, &r));
	pthread_join(t, NULL);
	rig_migrated(&r);
	rig_free(&r);
}

Test(syscalls, the_list_is_enough_for_stop_and_copy_anon)
{
	migrate_allowed(RIG_TCP_ANON, FERRY_MODE_STOP_AND_COPY);
}
Test(syscalls, the_list_is_enough_for_stop_and_copy_memfd)
{
	migrate_allowed(RIG_TCP_SHARED, FERRY_MODE_STOP_AND_COPY);
}
Test(syscalls, the_list_is_enough_for_postcopy_anon)
{
	migrate_allowed(RIG_TCP_ANON, FERRY_MODE_POSTCOPY);
}
Test(syscalls, the_list_is_enough_for_postcopy_memfd)
{
	migrate_allowed(RIG_TCP_SHARED, FERRY_MODE_POSTCOPY);
}
Test(syscalls, the_list_is_enough_to_measure_how_pages_land)
{
	migrate_allowed(kinds[4], FERRY_MODE_STOP_AND_COPY);
	migrate_allowed(kinds[5], FERRY_MODE_STOP_AND_COPY);
}
Test(syscalls, the_list_is_enough_for_postcopy_mem)
{
	migrate_allowed(RIG_MEM_SHARED, FERRY_MODE_POSTCOPY);
}
