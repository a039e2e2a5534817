// SPDX-License-Identifier: MIT
/*
 * One end in its process. What it must do without is taken from it last, when its guest is there and just before the
 * library is called. A thread of its own, the hand, does what the parent asks for and sends the signals; it is there
 * from the start, so the parent's count before and after does not see it come or go.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "left.h"
#include "refuse.h"
#include "worlds.h"

#define LOOK_US 1000u
#define UID_OF_ITS_OWN 60000u
#define CGROUP_BESIDE (12 * MIB) /* what a process takes beside its guest */
#define MEMLOCK (64u << 10)

struct hand {
	const struct round *r;
	struct end_seen *me;
	int end;
	pthread_mutex_t lock;
	struct ferry_session *session; /* by the lock; NULL: not there */
	pthread_t thread;
	_Atomic bool stop, storm;
	DIR *tasks;
};

static _Atomic uint64_t *signals; /* a signal handler has no other way to it */

static void on_signal(int sig)
{
	(void)sig;
	atomic_fetch_add(signals, 1);
}

static void pause_us(uint64_t us)
{
	nanosleep(&(struct timespec){ .tv_sec = (time_t)(us / 1000000),
				      .tv_nsec = (long)(us % 1000000 * 1000) },
		  NULL);
}

/* The round ends here: the parent reads why. */
_Noreturn static void unmade(const struct round *r, int end, const char *what, int err)
{
	snprintf(r->seen->end[end].unmade, sizeof(r->seen->end[end].unmade), "%s: %s", what, strerror(err));
	_exit(9);
}

static void wait_for_parent(const struct round *r, int end, enum stage stage)
{
	struct end_seen *me = &r->seen->end[end];

	atomic_store(&me->stage, (int)stage);
	while (atomic_load(&me->go) < (int)stage)
		pause_us(LOOK_US);
}

/* ---- the hand ---- */

static void send_signals(struct hand *h)
{
	struct dirent *e;

	rewinddir(h->tasks);
	while ((e = readdir(h->tasks))) {
		pid_t tid = atoi(e->d_name);

		if (tid && tid != gettid())
			syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
	}
}

/* Takes the room of the tmpfs that the memory would have. */
static void fill_tmpfs(const struct round *r, int end)
{
	const struct world *w = r->w;
	uint64_t bytes = (w->bytes[0] + w->bytes[1]) / 100 * w->lot[end].tmpfs_fill / PAGE * PAGE;
	char path[200];
	int fd;

	snprintf(path, sizeof(path), "%s/%d/other", r->dir, end);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	for (uint64_t at = 0; fd >= 0 && at < bytes && !posix_fallocate(fd, (off_t)at, PAGE); at += PAGE)
		;
	if (fd >= 0)
		close(fd);
}

static void *hand_main(void *arg)
{
	struct hand *h = arg;
	const struct lot *l = &h->r->w->lot[h->end];

	while (!atomic_load(&h->stop)) {
		pthread_mutex_lock(&h->lock);
		if (h->session && atomic_exchange(&h->me->cancel, 0))
			ferry_cancel(h->session);
		if (h->session && atomic_exchange(&h->me->switchover, 0))
			ferry_switchover(h->session);
		pthread_mutex_unlock(&h->lock);
		if (atomic_exchange(&h->me->fill, 0))
			fill_tmpfs(h->r, h->end);
		if (l->storm_us && atomic_load(&h->storm))
			send_signals(h);
		pause_us(l->storm_us && l->storm_us < LOOK_US ? l->storm_us : LOOK_US);
	}
	return NULL;
}

static void hand_over(struct hand *h, struct ferry_session *s)
{
	pthread_mutex_lock(&h->lock);
	h->session = s;
	pthread_mutex_unlock(&h->lock);
}

static void begin_hand(struct hand *h)
{
	struct sigaction sa = { .sa_handler = on_signal }; /* no SA_RESTART */
	sigset_t one, old;

	signals = &h->me->signals;
	sigaction(SIGUSR1, &sa, NULL);
	h->tasks = opendir("/proc/self/task");
	sigemptyset(&one);
	sigaddset(&one, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &one, &old);
	if (!h->tasks || pthread_create(&h->thread, NULL, hand_main, h))
		unmade(h->r, h->end, "no thread for the hand", errno);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* ---- its place ---- */

static void write_file(const struct round *r, int end, const char *path, const char *text)
{
	FILE *f = fopen(path, "we");

	if (!f || fputs(text, f) < 0 || fclose(f))
		unmade(r, end, path, errno);
}

/* The name that the source looks up: dead addresses, then the target's, and nobody else is asked. */
static void name_the_target(const struct round *r)
{
	char hosts[400] = "127.0.0.1 localhost\n", from[200];

	for (unsigned i = 0; i < r->w->net.dead; i++)
		snprintf(hosts + strlen(hosts), sizeof(hosts) - strlen(hosts), "10.98.0.%u " NAME_OF_B "\n",
			 10 + i);
	snprintf(hosts + strlen(hosts), sizeof(hosts) - strlen(hosts), ADDRESS_B " " NAME_OF_B "\n");
	snprintf(from, sizeof(from), "%s/hosts", r->dir);
	write_file(r, SRC, from, hosts);
	if (mount(from, "/etc/hosts", NULL, MS_BIND, NULL))
		unmade(r, SRC, "mount /etc/hosts", errno);
	snprintf(from, sizeof(from), "%s/nsswitch", r->dir);
	write_file(r, SRC, from, "hosts: files\n");
	if (mount(from, "/etc/nsswitch.conf", NULL, MS_BIND, NULL))
		unmade(r, SRC, "mount /etc/nsswitch.conf", errno);
}

/* Mounts are this process's alone, and go with it. */
static void make_place(const struct round *r, int end, char *dir, size_t cap)
{
	const struct world *w = r->w;
	const struct lot *l = &w->lot[end];
	char options[60];

	snprintf(dir, cap, "%s/%d", r->dir, end);
	if (r->net && setns(r->net->ns[end], CLONE_NEWNET))
		unmade(r, end, "setns", errno);
	if (!r->net && !l->tmpfs)
		return;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		unmade(r, end, "a mount namespace", errno);
	if (r->net && end == SRC)
		name_the_target(r);
	snprintf(options, sizeof(options), "size=%llu,huge=never",
		 (unsigned long long)((w->bytes[0] + w->bytes[1]) / 100 * l->tmpfs));
	if (l->tmpfs && mount("tmpfs", dir, "tmpfs", 0, options))
		unmade(r, end, "a tmpfs", errno);
}

/* Before its memory is there, which would be counted elsewhere. */
static void enter_cgroup(const struct round *r, int end)
{
	const struct world *w = r->w;
	unsigned percent = w->lot[end].cgroup;
	uint64_t guest = w->bytes[0] + w->bytes[1], limit;
	char text[30];

	if (!percent)
		return;
	limit = (guest + CGROUP_BESIDE) / 100 * percent / PAGE * PAGE;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)limit);
	if (!cgroup_set(r->cg, "memory.limit_in_bytes", "memory.max", text) || !cgroup_enter(r->cg))
		unmade(r, end, "a memory cgroup", errno);
	if (cgroup_number(r->cg, r->cg->v2 ? "memory.max" : "memory.limit_in_bytes") != (long)limit)
		unmade(r, end, "the cgroup's limit is not what was set", EINVAL);
}

/* ---- what is taken from it ---- */

static void limit(const struct round *r, int end, __rlimit_resource_t what, rlim_t most)
{
	struct rlimit l;

	if (getrlimit(what, &l))
		unmade(r, end, "getrlimit", errno);
	l.rlim_cur = most;
	if (setrlimit(what, &l) || getrlimit(what, &l) || l.rlim_cur != most)
		unmade(r, end, "setrlimit", errno);
}

/* Of root nobody counts the threads: a user of its own, who may still have userfaultfds. */
static void drop_user(const struct round *r, int end)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct c[2] = { 0 };
	uid_t uid = UID_OF_ITS_OWN + (uid_t)(getpid() % 5000);

	c[0].effective = c[0].permitted = 1u << CAP_SYS_PTRACE;
	if (prctl(PR_SET_KEEPCAPS, 1) || setresuid(uid, uid, uid) || syscall(SYS_capset, &h, c) ||
	    prctl(PR_SET_DUMPABLE, 1))
		unmade(r, end, "a user of its own", errno);
}

/* Its address space: what is mapped, and at the target what its guest will take. */
static void limit_space(const struct round *r, int end)
{
	unsigned long long has = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f || fscanf(f, "%llu", &has) != 1)
		unmade(r, end, "/proc/self/statm", errno);
	fclose(f);
	/* map_region() takes more than the region for a moment. */
	if (end == TGT)
		has += (r->w->bytes[0] + r->w->bytes[1] + 4 * MIB) / PAGE;
	limit(r, end, RLIMIT_AS, has * PAGE + r->w->lot[end].space * MIB);
}

static void take_away(const struct round *r, int end)
{
	const struct lot *l = &r->w->lot[end];
	const struct call *c = world_call(l->refused);

	if (l->memlock)
		limit(r, end, RLIMIT_MEMLOCK, MEMLOCK);
	if (l->space)
		limit_space(r, end);
	if (l->nproc) {
		limit(r, end, RLIMIT_NPROC, threads_now() + l->nproc - 1);
		drop_user(r, end);
	}
	if (l->nofile)
		limit(r, end, RLIMIT_NOFILE, entries("/proc/self/fd") - 1 + l->nofile - 1);
	if (c)
		refuse_calls(&(struct refused){ c->nr, c->arg, c->value }, 1, l->refused_err, true);
}

/* ---- the session ---- */

static void configure(const struct world *w, int end, struct ferry_config *c)
{
	*c = (struct ferry_config){ FERRY_CONFIG_INIT,
				    .flags = w->reconnect_us ? 0 : FERRY_CONFIG_NO_RECONNECT,
				    .timeout_us = w->timeout_us, .reconnect_us = w->reconnect_us,
				    .connect_us = w->connect_us };
	if (end == TGT)
		return;
	c->mode = w->mode;
	c->commit_at = w->commit_at;
	c->at_hold_limit = w->hold_action;
	c->hold_limit_us = w->hold_limit_us;
	c->channels = (uint32_t)w->channels;
	c->max_rounds = (uint32_t)w->max_rounds;
	c->downtime_us = w->downtime_us;
	c->precopy_limit_us = w->precopy_limit_us;
	c->switchover_limit_us = w->switchover_limit_us;
	c->bandwidth = w->bandwidth;
}

/* ferry_source_new() and ferry_target_new() say why in the log alone. */
static int not_opened(struct end_seen *me, const char *call, int err, struct ferry_session *s)
{
	const char *text = strstr(me->log, "text=\"");

	snprintf(me->not_opened, sizeof(me->not_opened), "%s: %d (%s): %.400s", call, err, strerror(-err),
		 s	? ferry_get_detail(s)
		 : text ? text
			: "");
	return err;
}

static int open_session(const struct round *r, struct vm *vm, int end, struct ferry_session **s)
{
	struct end_seen *me = &r->seen->end[end];
	struct ferry_vm v = { FERRY_VM_INIT, .vm = vm, .ops = vm_ops(vm) };
	struct ferry_config cfg;
	int err;

	configure(r->w, end, &cfg);
	if (end == SRC) {
		v.regions = vm_regions(vm);
		v.nregions = 2;
	}
	err = end == SRC ? ferry_source_new(s, &v, &cfg) : ferry_target_new(s, &v, &cfg);
	if (err)
		return not_opened(me, end == SRC ? "ferry_source_new" : "ferry_target_new", err, NULL);
	err = ferry_open(*s, end == SRC ? r->seen->uri : r->net ? "tcp:0.0.0.0:7000" : "tcp:127.0.0.1:0");
	if (err)
		return not_opened(me, "ferry_open", err, *s);
	if (end == TGT && !r->net)
		return ferry_get_uri(*s, r->seen->uri, sizeof(r->seen->uri));
	return 0;
}

_Noreturn void end_main(const struct round *r, int end)
{
	struct end_seen *me = &r->seen->end[end];
	struct hand h = { .r = r, .me = me, .end = end, .lock = PTHREAD_MUTEX_INITIALIZER };
	struct ferry_session *s = NULL;
	char dir[200];
	struct vm *vm;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGINT, SIG_IGN); /* the parent ends it */
	make_place(r, end, dir, sizeof(dir));
	enter_cgroup(r, end);
	begin_hand(&h);
	vm = vm_make(r->w, r->seen, &r->truth, end, dir);
	if (!vm)
		unmade(r, end, "the VM", errno);
	wait_for_parent(r, end, STAGE_CENSUS);
	take_away(r, end);
	atomic_store(&h.storm, true);
	if (!open_session(r, vm, end, &s)) {
		hand_over(&h, s);
		wait_for_parent(r, end, STAGE_LISTENS);
		atomic_store(&me->stage, STAGE_RUNS);
		me->res.size = sizeof(me->res);
		ferry_run(s, &me->res);
		me->have_result = true;
		hand_over(&h, NULL);
		vm_check(vm, me->res.outcome);
	}
	atomic_store(&h.storm, false);
	ferry_free(s);
	vm_end(vm);
	wait_for_parent(r, end, STAGE_DONE);
	atomic_store(&h.stop, true);
	pthread_join(h.thread, NULL);
	_exit(0);
}
