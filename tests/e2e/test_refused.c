// SPDX-License-Identifier: MIT
/*
 * Migrations in a sandbox. A real seccomp filter refuses one system call to both ends, as EPERM and as ENOSYS. What is only for
 * speed is done without; any other call is named, with its errno, and the VM stays where it was. Nothing is ever blamed on the
 * network. And limits that are reached: descriptors, threads.
 */
#include <fcntl.h>
#include <linux/mman.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "refuse.h"
#include "rig.h"
#include "runtime/base/uffd_abi.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define USERFAULTFD_NEW _IO(0xAA, 0x00)

/* What both ends say of things that are slower. */
static struct {
	pthread_mutex_t lock;
	char text[2000];
	unsigned n;
} slower = { .lock = PTHREAD_MUTEX_INITIALIZER };
static void (*log_on)(void *vm, int level, const char *line);

static void listen_in(void *vm, int level, const char *line)
{
	size_t len;

	pthread_mutex_lock(&slower.lock);
	len = strlen(slower.text);
	if (!strncmp(line, "event=slower ", 13)) {
		snprintf(slower.text + len, sizeof(slower.text) - len, "%s\n", line);
		slower.n++;
	}
	pthread_mutex_unlock(&slower.lock);
	log_on(vm, level, line);
}

/* Whether the two ends can be made: 0, or the errno, and what was said. */
static int make_ends(struct rig *r, char *said, size_t cap)
{
	struct ferry_vm tv = { FERRY_VM_INIT, .vm = &r->tgt, .ops = &r->tgt.ops };
	struct ferry_vm sv = { FERRY_VM_INIT, .vm = &r->src, .ops = &r->src.ops, .regions = r->src.region,
			       .nregions = FAKE_REGIONS };
	struct ferry_session *t = NULL, *s = NULL;
	int err = ferry_target_new(&t, &tv, &r->tcfg);

	snprintf(said, cap, "%s", r->tgt.error_line);
	if (!err && (err = ferry_open(t, r->uri)))
		snprintf(said, cap, "%s", ferry_get_detail(t));
	if (!err && (err = ferry_source_new(&s, &sv, &r->scfg)))
		snprintf(said, cap, "%s", r->src.error_line);
	ferry_free(s);
	ferry_free(t);
	return err;
}

/* Named with its errno, and not taken for a network. */
static void named(const char *said, const char *call, int err)
{
	rig_says(said, call);
	rig_says(said, strerror(err));
	cr_expect(!strstr(said, "lost") && !strstr(said, "network"), "%s", said);
}

/* What must come of a call's refusal; where nothing is said either is right, as long as it is right. */
enum {
	GOES = 1,      /* it migrates */
	ANON_STOP = 2, /* it is refused: of anonymous memory by stop-and-copy, and so on */
	ANON_POST = 4,
	MEMFD_STOP = 8,
	MEMFD_POST = 16,
	ALL = ANON_STOP | ANON_POST | MEMFD_STOP | MEMFD_POST,
};

struct sandbox {
	struct rig *r;
	const struct refused *refused;
	size_t n;
	int err, made;
	char said[600];
};

/* The filter is this thread's and of those that it makes: not of the test's runner, which reports by system calls of its own. */
static void *in_sandbox(void *arg)
{
	struct sandbox *b = arg;

	refuse_calls(b->refused, b->n, b->err, false);
	b->made = make_ends(b->r, b->said, sizeof(b->said));
	if (!b->made)
		rig_run(b->r);
	return NULL;
}

/* call: how a sentence names it. */
static void migrate_without(const struct rig_kind *kind, enum ferry_mode mode, int err, unsigned flags,
			    const char *call, const struct refused *refused, size_t n)
{
	struct rig r;
	struct sandbox b = { .r = &r, .refused = refused, .n = n, .err = err };
	pthread_t t;

	rig_init(&r, kind);
	r.scfg.mode = mode;
	r.src.writes[0] = 2 * FAKE_PAGES; /* something is left for post-copy, and pages become zero again */
	r.scfg.max_rounds = 2;
	r.scfg.downtime_us = 60000000; /* on a busy machine, too, stop-and-copy is not refused for this */
	rig_impatient(&r);
	if (!(flags & GOES)) /* an end that is refused does not keep the other one waiting for so long */
		r.scfg.connect_us = r.tcfg.connect_us = 3000000;
	log_on = r.src.ops.log;
	r.src.ops.log = r.tgt.ops.log = listen_in;
	cr_assert(!pthread_create(&t, NULL, in_sandbox, &b));
	pthread_join(t, NULL);
	if (b.made) {
		cr_assert(!(flags & GOES), "%d: %s", b.made, b.said);
		named(b.said, call, err);
	} else if (r.sres.outcome == FERRY_OUTCOME_MIGRATED) {
		unsigned is = mode == FERRY_MODE_POSTCOPY ? (kind->shared ? MEMFD_POST : ANON_POST)
							  : (kind->shared ? MEMFD_STOP : ANON_STOP);

		cr_assert(!(flags & is), "it cannot have migrated without %s", call);
		rig_migrated(&r);
		if (flags & GOES && call && strstr(slower.text, call))
			named(slower.text, call, err);
	} else {
		cr_assert(!(flags & GOES), "\"%s\", \"%s\"", r.sres.detail, r.tres.detail);
		rig_source_owns(&r);
		/* Who met it names it. */
		named(strstr(r.sres.detail, strerror(err)) ? r.sres.detail : r.tres.detail, call, err);
	}
	rig_free(&r);
}

#define ONE(suite, name, how, mode, kind, flags, call, ...)                                             \
	Test(suite, name)                                                                               \
	{                                                                                               \
		static const struct refused calls[] = { __VA_ARGS__ };                                  \
		migrate_without(kind, mode, how, flags, call, calls, sizeof(calls) / sizeof(calls[0])); \
	}
#define WITHOUT(name, flags, call, ...)                                                                  \
	ONE(refused, name##_eperm_anon_stop, EPERM, FERRY_MODE_STOP_AND_COPY, RIG_TCP_ANON, flags, call, \
	    __VA_ARGS__)                                                                                 \
	ONE(refused, name##_enosys_memfd_stop, ENOSYS, FERRY_MODE_STOP_AND_COPY, RIG_TCP_SHARED, flags,  \
	    call, __VA_ARGS__)                                                                           \
	ONE(refused, name##_enosys_anon_post, ENOSYS, FERRY_MODE_POSTCOPY, RIG_TCP_ANON, flags, call,    \
	    __VA_ARGS__)                                                                                 \
	ONE(refused, name##_eperm_memfd_post, EPERM, FERRY_MODE_POSTCOPY, RIG_TCP_SHARED, flags, call,   \
	    __VA_ARGS__)                                                                                 \
	ONE(refused, name##_eacces_anon_post, EACCES, FERRY_MODE_POSTCOPY, RIG_TCP_ANON, flags, call,    \
	    __VA_ARGS__)

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#define MADVISE(advice)                        \
	{ SYS_madvise, 3, advice },            \
	{                                      \
		SYS_process_madvise, 4, advice \
	}
#define IOCTL(cmd)                            \
	{                                     \
		SYS_ioctl, 2, (uint32_t)(cmd) \
	}

/* Only for speed, or not used at all. */
WITHOUT(splice, GOES, "splice", { SYS_splice })
WITHOUT(vmsplice, GOES, "vmsplice", { SYS_vmsplice })
WITHOUT(both_splices_and_pipes, GOES, "pipe2", { SYS_splice }, { SYS_vmsplice }, { SYS_tee }, { SYS_pipe2 })
WITHOUT(pipe_size, GOES, "pipe", { SYS_fcntl, 2, F_SETPIPE_SZ })
WITHOUT(process_madvise, GOES, "process_madvise", { SYS_process_madvise })
WITHOUT(pidfd_open, GOES, "pidfd_open", { SYS_pidfd_open }, { SYS_pidfd_getfd })
WITHOUT(pagemap_scan, GOES, "PAGEMAP_SCAN", IOCTL(PAGEMAP_SCAN))
WITHOUT(populate, GOES, "POPULATE", MADVISE(MADV_POPULATE_READ), MADVISE(MADV_POPULATE_WRITE))
WITHOUT(huge_advice, GOES, NULL, MADVISE(MADV_COLLAPSE), MADVISE(MADV_HUGEPAGE), MADVISE(MADV_NOHUGEPAGE),
	MADVISE(MADV_REMOVE))
WITHOUT(what_is_not_used, GOES, NULL, { SYS_mlock }, { SYS_mlock2 }, { SYS_mlockall },
	{ SYS_sched_setaffinity }, { SYS_io_uring_setup }, { SYS_io_uring_enter }, { SYS_fork },
	{ SYS_execve }, { SYS_ptrace }, { SYS_bpf }, { SYS_perf_event_open })
WITHOUT(yielding, GOES, NULL, { SYS_sched_yield })

/* Without these there is no migration, or none of this kind. */
WITHOUT(userfaultfd, ANON_POST | MEMFD_POST, "userfaultfd", { SYS_userfaultfd }, IOCTL(USERFAULTFD_NEW))
WITHOUT(uffd_api, ANON_POST | MEMFD_POST, "userfaultfd", IOCTL(UFFDIO_API))
WITHOUT(uffd_register, ANON_POST | MEMFD_POST, "userfaultfd", IOCTL(UFFDIO_REGISTER))
WITHOUT(uffd_place, ANON_POST | MEMFD_POST, "UFFDIO_COPY", IOCTL(UFFDIO_COPY), IOCTL(UFFDIO_CONTINUE),
	IOCTL(UFFDIO_ZEROPAGE))
WITHOUT(dropping, ANON_STOP | ANON_POST, "MADV_DONTNEED", MADVISE(MADV_DONTNEED),
	MADVISE(MADV_DONTNEED_LOCKED))
WITHOUT(dropping_locked, GOES, "MADV_DONTNEED", MADVISE(MADV_DONTNEED_LOCKED))
WITHOUT(punching, MEMFD_STOP, "fallocate", { SYS_fallocate })
WITHOUT(eventfd, ALL, "eventfd", { SYS_eventfd2 })
WITHOUT(timerfd, ALL, "timerfd_create", { SYS_timerfd_create })
WITHOUT(epoll, ALL, "epoll_create1", { SYS_epoll_create1 })
WITHOUT(epoll_ctl, ALL, "epoll_ctl", { SYS_epoll_ctl })
WITHOUT(getrandom, ALL, "getrandom", { SYS_getrandom })
WITHOUT(socket, ALL, "socket", { SYS_socket })
WITHOUT(bind, ALL, "listen", { SYS_bind })
WITHOUT(connect, ALL, "connect", { SYS_connect })
WITHOUT(accept, ALL, "accept4", { SYS_accept4 })
WITHOUT(sendmsg, ALL, "sendmsg", { SYS_sendmsg })
WITHOUT(recvmsg, ALL, "recvmsg", { SYS_recvmsg })
WITHOUT(shutdown, ALL, "shutdown", { SYS_shutdown })
WITHOUT(fstatfs, MEMFD_STOP | MEMFD_POST, "fstatfs", { SYS_fstatfs })
WITHOUT(lseek, MEMFD_STOP | MEMFD_POST, "lseek", { SYS_lseek })

/* What is slower is said, once at each end that is. */
static void says_slower(const struct rig_kind *kind, enum ferry_mode mode, struct refused call,
			const char *what)
{
	migrate_without(kind, mode, EPERM, GOES, NULL, &call, 1);
	cr_assert_eq(slower.n, 1, "%u: %s", slower.n, slower.text);
	rig_says(slower.text, what);
	rig_says(slower.text, "Operation not permitted; a seccomp filter or security policy refuses it");
}

Test(slower, splice_is_said)
{
	says_slower(RIG_TCP_SHARED, FERRY_MODE_STOP_AND_COPY, (struct refused){ SYS_splice },
		    "page data is copied, splice is refused");
}

Test(slower, pagemap_scan_is_said)
{
	struct refused scan = IOCTL(PAGEMAP_SCAN);

	migrate_without(RIG_TCP_ANON, FERRY_MODE_POSTCOPY, EPERM, GOES, NULL, &scan, 1);
	rig_says(slower.text,
		 "the page table is read to find the pages in use, PAGEMAP_SCAN is refused: Operation not permitted");
}

Test(slower, collapsing_is_said)
{
	struct refused collapse = { SYS_madvise, 3, MADV_COLLAPSE };

	says_slower(RIG_TCP_THP_ANON, FERRY_MODE_POSTCOPY, collapse,
		    "memory stays in small pages, MADV_COLLAPSE is refused");
}

/* ---- at one end, in the middle ---- */

static const struct refused *later;
static enum fake_op later_op;
static int later_err;

/* On ferry_run()'s thread: what that thread does from here on, and those that it makes. */
static void refuse_later(struct fakevm *vm, enum fake_op op)
{
	if (op == later_op && vm->calls[op] == 1)
		refuse_calls(later, 1, later_err, false);
}

static void in_the_middle(struct rig *r, struct fakevm *at, enum fake_op op, const struct refused *call,
			  int err)
{
	r->scfg.mode = FERRY_MODE_POSTCOPY;
	r->scfg.max_rounds = 1;
	r->src.writes[0] = 2 * FAKE_PAGES;
	rig_impatient(r);
	later = call;
	later_op = op;
	later_err = err;
	at->hook = refuse_later;
	rig_run(r);
}

RIG_PAIR(refused_at_one_end, threads_of_the_source)
{
	static const struct refused clone3 = { SYS_clone3 };
	struct rig r;

	rig_init(&r, kind);
	in_the_middle(&r, &r.src, FAKE_DIRTY_START, &clone3, EAGAIN);
	rig_source_owns(&r);
	rig_says(r.sres.detail,
		 "worker 1 of 1 cannot be started: Resource temporarily unavailable; raise the limit of threads");
	rig_free(&r);
}

RIG_PAIR(refused_at_one_end, threads_of_the_target)
{
	static const struct refused clone3 = { SYS_clone3 };
	struct rig r;

	rig_init(&r, kind);
	in_the_middle(&r, &r.tgt, FAKE_RESERVE, &clone3, EAGAIN);
	rig_source_owns(&r);
	rig_says(r.tres.detail,
		 "worker 1 of 1 cannot be started: Resource temporarily unavailable; raise the limit of threads");
	rig_free(&r);
}

/* What the VMM has allocated is mapped in its VM before pages arrive, and a page that is missing must not stay so. */
RIG_PAIR(refused_at_one_end, seeking_of_a_target_whose_memory_is_allocated)
{
	static const struct refused seek = { SYS_lseek };
	struct rig r;

	rig_init(&r, kind);
	rig_allocate(&r);
	in_the_middle(&r, &r.tgt, FAKE_RESERVE, &seek, EPERM);
	rig_migrated(&r);
	rig_free(&r);
}

Test(refused_at_one_end, splice_of_the_source)
{
	static const struct refused splice = { SYS_splice };
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	in_the_middle(&r, &r.src, FAKE_DIRTY_START, &splice, ENOSYS);
	rig_migrated(&r);
	rig_free(&r);
}

Test(refused_at_one_end, sending_of_the_source)
{
	static const struct refused sendmsg = { SYS_sendmsg };
	struct rig r;

	rig_init(&r, RIG_TCP_ANON);
	in_the_middle(&r, &r.src, FAKE_DIRTY_START, &sendmsg, EPERM);
	rig_source_owns(&r);
	named(r.sres.detail, "sendmsg", EPERM);
	rig_free(&r);
}

/* ---- limits ---- */

static void few_descriptors(struct fakevm *vm, enum fake_op op)
{
	struct rlimit lim;
	int fd;

	if (op != later_op || vm->calls[op] != 1)
		return;
	cr_assert((fd = dup(0)) >= 0 && !getrlimit(RLIMIT_NOFILE, &lim));
	close(fd);
	lim.rlim_cur = (rlim_t)fd; /* the lowest one that is free: there is none left */
	cr_assert(!setrlimit(RLIMIT_NOFILE, &lim));
}

static void without_descriptors(struct rig *r, struct fakevm *at, enum fake_op op)
{
	struct rlimit was;

	cr_assert(!getrlimit(RLIMIT_NOFILE, &was));
	rig_impatient(r);
	r->scfg.mode = FERRY_MODE_POSTCOPY;
	r->scfg.max_rounds = 1;
	r->src.writes[0] = 2 * FAKE_PAGES;
	later_op = op;
	at->hook = few_descriptors;
	rig_run(r);
	cr_assert(!setrlimit(RLIMIT_NOFILE, &was));
}

RIG_PAIR(limits, no_descriptor_left_at_the_source)
{
	struct rig r;

	rig_init(&r, kind);
	without_descriptors(&r, &r.src, FAKE_DIRTY_START);
	rig_source_owns(&r);
	named(strstr(r.sres.detail, "open files") ? r.sres.detail : r.tres.detail,
	      "raise the limit of open files", EMFILE);
	rig_free(&r);
}

static struct cgroup pids;

static void no_more_threads(struct fakevm *vm, enum fake_op op)
{
	char now[16];

	if (op != later_op || vm->calls[op] != 1)
		return;
	snprintf(now, sizeof(now), "%ld", cgroup_number(&pids, "pids.current"));
	vm->w->trouble[0] = cgroup_set(&pids, "pids.max", "pids.max", now) ? 0 : 'x';
}

static void without_threads(struct rig *r, const struct rig_kind *kind, bool source)
{
	if (!cgroup_make(&pids, "pids"))
		cr_skip_test("there is no cgroup controller pids here, or not for this user");
	rig_init(r, kind);
	rig_impatient(r);
	r->scfg.mode = FERRY_MODE_POSTCOPY;
	r->scfg.max_rounds = 1;
	r->src.writes[0] = 2 * FAKE_PAGES;
	later_op = source ? FAKE_DIRTY_START : FAKE_RESERVE;
	(source ? &r->src : &r->tgt)->hook = no_more_threads;
	cr_assert(cgroup_enter(&pids));
	rig_run(r);
	cgroup_leave(&pids);
}

RIG_PAIR(limits, no_thread_left_at_the_source)
{
	struct rig r;

	without_threads(&r, kind, true);
	rig_source_owns(&r);
	named(strstr(r.sres.detail, "pids.max") ? r.sres.detail : r.tres.detail, "pids.max", EAGAIN);
	rig_free(&r);
}

RIG_PAIR(limits, no_thread_left_at_the_target)
{
	struct rig r;

	without_threads(&r, kind, false);
	rig_source_owns(&r);
	named(strstr(r.tres.detail, "pids.max") ? r.tres.detail : r.sres.detail, "pids.max", EAGAIN);
	rig_free(&r);
}

Test(limits, no_descriptor_for_a_session)
{
	struct rlimit lim, was;
	char said[600];
	struct rig r;
	int fd;

	for (int left = 0; left < 3; left++) {
		rig_init(&r, RIG_TCP_ANON);
		cr_assert(!getrlimit(RLIMIT_NOFILE, &was));
		cr_assert((fd = dup(0)) >= 0);
		close(fd);
		lim = was;
		lim.rlim_cur = (rlim_t)(fd + left);
		cr_assert(!setrlimit(RLIMIT_NOFILE, &lim));
		cr_assert_eq(make_ends(&r, said, sizeof(said)), -EMFILE, "%s", said);
		cr_assert(!setrlimit(RLIMIT_NOFILE, &was));
		named(said, "raise the limit of open files (ulimit -n", EMFILE);
		cr_expect(!strstr(said, "root") && !strstr(said, "permitted"), "%s", said);
		rig_free(&r);
	}
}
