// SPDX-License-Identifier: MIT
/* Both ends of a cell with a local failure, each in a thread of this process. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "census.h"
#include "fakevm_int.h"
#include "left.h"
#include "local.h"

#define BANDWIDTH 64000000u /* so slow that there are two rounds and post-copy lasts a while */
#define CHANNELS 2u
#define SPARED 700u				  /* a page that the source's guest never writes by itself */
#define SPARED_HOLE (FAKE_HOLE0 + FAKE_HOLES / 2) /* the same, not allocated at first */
#define TMPFS_SIZE "16m"
#define DAWDLE_US 700000u /* longer than the interval of PINGs */
#define DAWDLE_IN_ALL_US 4000000u

struct pair {
	const struct local *c;
	struct local_seen *m;
	struct world w;
	struct fakevm vm[2]; /* source, target */
	struct ferry_result *res[2];
	char uri[200];
	int tmpfs;		     /* FILE_FULL */
	uint64_t paused_us, runs_us; /* time of the pause at the source; of the last resume */
	_Atomic uint64_t dawdled_us;
};

static int (*fake_reserve)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);
static int (*fake_resume)(void *vm);

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- real failures ---- */

/* A small tmpfs that is mounted nowhere, or -errno. */
static int make_tmpfs(void)
{
	int fs = fsopen("tmpfs", FSOPEN_CLOEXEC), mnt;

	if (fs < 0 && errno == EPERM && !unshare(CLONE_NEWUSER | CLONE_NEWNS))
		fs = fsopen("tmpfs", FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;
	mnt = fsconfig(fs, FSCONFIG_SET_STRING, "size", TMPFS_SIZE, 0) ||
			      fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0)
		      ? -1
		      : fsmount(fs, FSMOUNT_CLOEXEC, 0);
	if (mnt < 0)
		mnt = -errno;
	close(fs);
	return mnt;
}

/* The regions' memory becomes files on it. */
static int on_tmpfs(struct pair *p, struct ferry_region *r, unsigned i)
{
	char name[20];
	int fd;

	snprintf(name, sizeof(name), "ram%u", i);
	fd = openat(p->tmpfs, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)(r->fd_offset + r->len)) ||
	    mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)r->fd_offset) !=
		    r->hva)
		return -errno;
	close(r->fd);
	r->fd = fd;
	p->vm[1].region[i] = *r;
	return 0;
}

static int reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;
	struct pair *p = vm->arg;
	int err;

	inject_in_vmm(true);
	err = fake_reserve(v, regions, n, needs);
	for (unsigned i = 0; i < n && !err && p->c->kind == FILE_FULL; i++)
		err = on_tmpfs(p, &regions[i], i);
	inject_in_vmm(false);
	return err;
}

/* Takes all free space, while pages are still arriving. */
static void fill_tmpfs(struct pair *p)
{
	int fd = openat(p->tmpfs, "filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct statvfs st = { 0 };
	off_t len = 0;

	while (fd >= 0 && !fstatvfs(fd, &st) && st.f_bavail)
		if (!fallocate(fd, 0, len, (off_t)(st.f_bavail * st.f_bsize)))
			len += (off_t)(st.f_bavail * st.f_bsize);
		else if (errno != ENOSPC)
			break;
	if (fd < 0 || st.f_bavail)
		world_trouble(&p->w, "the tmpfs cannot be filled: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	inject_struck();
}

/* Frees the space: the guest thread may be blocked in a fault, which the kernel must be able to resolve. */
static void empty_tmpfs(struct pair *p)
{
	if (unlinkat(p->tmpfs, "filler", 0) && errno != ENOENT)
		world_trouble(&p->w, "the tmpfs cannot be emptied: %s", strerror(errno));
}

/* The guest writes a page that the target's file has not allocated. */
static void write_hole(struct fakevm *vm)
{
	uint8_t *page = fake_page(vm, 0, SPARED_HOLE);

	fake_fill(page, SPARED_HOLE);
	memcpy(vm->shadow + fake_offset(0, SPARED_HOLE), page, FAKE_PAGE);
	vm->dirty[0][SPARED_HOLE / 64] |= UINT64_C(1) << SPARED_HOLE % 64;
}

static void protect_page(struct pair *p, int prot)
{
	if (mprotect(fake_page(&p->vm[0], 0, SPARED), FAKE_PAGE, prot))
		world_trouble(&p->w, "mprotect: %s", strerror(errno));
}

/* ---- the phase ---- */

static void enter_phase(struct pair *p)
{
	inject_in_vmm(true);
	switch (p->c->kind) {
	case FILE_FULL:
		fill_tmpfs(p);
		break;
	case PAGE_GONE:
		protect_page(p, PROT_NONE);
		inject_struck();
		break;
	default:
		atomic_store(&p->m->inject.armed, true);
	}
	inject_in_vmm(false);
}

/*
 * Whether a worker or the heartbeat reaches its site while its end is in the phase is a race. If an earlier
 * run has lost it (tries), the ends wait for the failure in each op and on entering each phase, as long as it
 * is armed.
 */
static void dawdle(struct pair *p)
{
	struct inject *x = &p->m->inject;
	uint64_t begun = now();

	if (!p->c->tries)
		return;
	while (atomic_load(&x->armed) && !atomic_load(&x->struck) && now() - begun < DAWDLE_US &&
	       atomic_load(&p->dawdled_us) < DAWDLE_IN_ALL_US)
		usleep(1000);
	atomic_fetch_add(&p->dawdled_us, now() - begun);
}

/*
 * The phase in which the failure is caused. A full tmpfs and a lost page must be there before post-copy's
 * first get, because the page that needs space, or is lost, might otherwise have crossed already. Before it
 * no get or read meets them.
 */
static enum ferry_phase begins(const struct local *c)
{
	if (c->phase != FERRY_PHASE_POSTCOPY || (c->kind != FILE_FULL && c->kind != PAGE_GONE))
		return c->phase;
	if (c->way != WAY_SERVER)
		return FERRY_PHASE_STOP_AND_COPY;
	return c->at_source ? FERRY_PHASE_COMMITMENT : FERRY_PHASE_ACTIVATION;
}

static void on_phase(struct fakevm *vm, enum ferry_phase phase)
{
	struct pair *p = vm->arg;

	atomic_store(&p->m->inject.phase[!vm->is_source], phase);
	if (p->c->dry)
		return;
	if (vm->is_source == p->c->at_source && phase == begins(p->c))
		enter_phase(p);
	else if (vm->is_source == p->c->at_source)
		atomic_store(&p->m->inject.armed, false);
	dawdle(p);
}

static void on_op(struct fakevm *vm, enum fake_op op)
{
	struct pair *p = vm->arg;
	int err = inject_op(vm->is_source, op);

	if (err) {
		vm->fail_op = op;
		vm->fail_nth = vm->calls[op];
		vm->fail_err = err;
	}
	if (op == FAKE_PAUSE && vm->is_source)
		p->paused_us = now();
	if (op == FAKE_PAUSE && vm->is_source && p->c->kind == FILE_FULL)
		write_hole(vm);
	dawdle(p);
	if (op == FAKE_RESUME)
		p->runs_us = now();
	if (op == FAKE_DISCARD && p->c->kind == FILE_FULL)
		empty_tmpfs(p);
	if (op != FAKE_DIRTY_FETCH)
		return;
	if (p->c->kind == PAGE_GONE) /* dirty in each round, and in the residue */
		vm->dirty[0][SPARED / 64] |= UINT64_C(1) << SPARED % 64;
	if (vm->calls[op] == FAKE_REGIONS + 1 && p->c->kind != THROTTLE_FAILS) /* after the second round */
		ferry_switchover(vm->session);
}

static int resume(void *v)
{
	int err;

	inject_in_vmm(true);
	err = fake_resume(v);
	inject_in_vmm(false);
	dawdle(((struct fakevm *)v)->arg);
	return err;
}

static int throttle(void *v, unsigned percent)
{
	struct fakevm *vm = v;

	for (unsigned i = 0; i < 8; i++)
		vm->writes[i] = percent < 60 ? 1000 : 0;
	return percent ? inject_op(true, FAKE_OPS) : 0;
}

/* ---- the sessions ---- */

/* After the decision the ends wait for a lost link, and no ABORT can be sent. */
static bool late(const struct local *c)
{
	return c->phase == FERRY_PHASE_COMMITMENT || c->phase == FERRY_PHASE_ACTIVATION ||
	       (c->phase == FERRY_PHASE_POSTCOPY && c->way == WAY_SERVER);
}

static void configure(struct pair *p, bool source, struct ferry_config *cfg)
{
	const struct local *c = p->c;
	bool alone = !c->dry && (c->phase == FERRY_PHASE_IDLE || c->phase == FERRY_PHASE_PRE_MIGRATION);
	struct fakevm *vm = &p->vm[!source];

	/* Measuring could choose another way in each run, with other calls that fail. */
	*cfg = (struct ferry_config){ FERRY_CONFIG_INIT, .landing = FERRY_LANDING_WAY_MAPPING,
				      .timeout_us = TIMEOUT_US,
				      .reconnect_us = late(c) ? RECONNECT_US : RECONNECT_FAR_US,
				      .connect_us = alone ? TIMEOUT_US : RECONNECT_FAR_US };
	if (!source)
		return;
	cfg->mode = c->way == WAY_STOP ? FERRY_MODE_STOP_AND_COPY : FERRY_MODE_AUTO;
	cfg->commit_at = c->way == WAY_SERVER ? FERRY_COMMIT_AT_SWITCHOVER : FERRY_COMMIT_AT_COMPLETE;
	cfg->bandwidth = BANDWIDTH;
	cfg->channels = CHANNELS;
	cfg->downtime_us = c->kind == THROTTLE_FAILS ? 1000 : 10000;
	vm->writes[0] = 1000;
	vm->writes[1] = c->way == WAY_STOP ? 500 : 2 * FAKE_PAGES;
	vm->last_writes = 60;
	for (unsigned i = 0; i < 8 && c->kind == THROTTLE_FAILS; i++)
		vm->writes[i] = 1000;
	vm->ops.throttle = c->kind == THROTTLE_FAILS ? throttle : NULL;
}

static int open_source(struct pair *p)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->vm[0], .ops = &p->vm[0].ops,
			      .regions = p->vm[0].region, .nregions = FAKE_REGIONS };
	struct ferry_config cfg;
	int err;

	configure(p, true, &cfg);
	err = ferry_source_new(&p->vm[0].session, &v, &cfg);
	return err ? err : ferry_open(p->vm[0].session, p->uri);
}

/* Addresses as in end.c. */
static int open_target(struct pair *p)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->vm[1], .ops = &p->vm[1].ops };
	unsigned pid = (unsigned)getpid();
	struct ferry_config cfg;
	char uri[64] = "mem:cell";
	int err;

	if (!p->c->mem)
		snprintf(uri, sizeof(uri), "tcp:127.%u.%u.%u:0", 128 + (pid >> 16) % 64, pid >> 8 & 255,
			 pid & 255);
	configure(p, false, &cfg);
	err = ferry_target_new(&p->vm[1].session, &v, &cfg);
	if (!err)
		err = ferry_open(p->vm[1].session, uri);
	return err ? err : ferry_get_uri(p->vm[1].session, p->uri, sizeof(p->uri));
}

static bool open_end(struct pair *p, bool source)
{
	struct fakevm *vm = &p->vm[!source];
	int err;

	inject_thread(source);
	if (!p->c->dry && p->c->phase == FERRY_PHASE_IDLE && p->c->at_source == source)
		enter_phase(p);
	err = source ? open_source(p) : open_target(p);
	atomic_store(&p->m->inject.armed, false);
	inject_thread_of_nobody();
	p->m->end[!source].err = err;
	p->m->end[!source].opened = !err;
	if (err)
		snprintf(p->res[!source]->detail, sizeof(p->res[0]->detail), "%s",
			 vm->session ? ferry_get_detail(vm->session) : vm->error_line);
	return !err;
}

static void run(struct pair *p, bool source)
{
	struct fakevm *vm = &p->vm[!source];

	inject_thread(source);
	vm->thread = pthread_self();
	/* Calls that ferry_run() makes before its first phase count for pre-migration. */
	atomic_store(&p->m->inject.phase[!source], FERRY_PHASE_PRE_MIGRATION);
	if (!p->c->dry && p->c->phase == FERRY_PHASE_PRE_MIGRATION && p->c->at_source == source)
		enter_phase(p);
	p->res[!source]->size = sizeof(*p->res[0]);
	ferry_run(vm->session, p->res[!source]);
	p->m->end[!source].ended = true;
	inject_thread_of_nobody();
}

static void *run_source(void *arg)
{
	run(arg, true);
	return NULL;
}

static void *run_target(void *arg)
{
	run(arg, false);
	return NULL;
}

static void make_vms(struct pair *p)
{
	world_init(&p->w);
	fakevm_source(&p->vm[0], &p->w, p->c->shared);
	fakevm_target(&p->vm[1], &p->w, p->c->shared);
	fake_reserve = p->vm[1].ops.reserve;
	fake_resume = p->vm[1].ops.resume;
	p->vm[1].ops.reserve = reserve;
	p->vm[1].ops.resume = resume;
	p->vm[0].spared = p->c->kind == PAGE_GONE   ? SPARED + 1
			  : p->c->kind == FILE_FULL ? SPARED_HOLE + 1
						    : 0;
	for (unsigned i = 0; i < 2; i++) {
		p->res[i] = &p->m->end[i].res;
		p->vm[i].arg = p;
		p->vm[i].hook = on_op;
		p->vm[i].phase_hook = on_phase;
	}
}

/* ---- checks at the end ---- */

static void due(struct pair *p, unsigned i, enum fake_op op, unsigned least, unsigned most)
{
	unsigned is = p->vm[i].calls[op];

	if (is < least || is > most)
		world_trouble(&p->w, "%s was called %u times at the %s, %u to %u were due (%s)",
			      fake_op_name(op), is, i ? "target" : "source", least, most, p->vm[i].ops_seen);
}

static void check_source(struct pair *p)
{
	enum ferry_outcome o = p->res[0]->outcome;
	const struct fakevm *vm = &p->vm[0];

	due(p, 0, FAKE_RETIRE, o == FERRY_OUTCOME_MIGRATED, o == FERRY_OUTCOME_MIGRATED);
	due(p, 0, FAKE_RESUME, o == FERRY_OUTCOME_FELL_BACK, o == FERRY_OUTCOME_FELL_BACK);
	due(p, 0, FAKE_PAUSE, o != FERRY_OUTCOME_REFUSED, o != FERRY_OUTCOME_REFUSED);
	/* If dirty_start failed, dirty_stop need not be called. */
	due(p, 0, FAKE_DIRTY_STOP, vm->calls[FAKE_DIRTY_START] && o != FERRY_OUTCOME_REFUSED,
	    vm->calls[FAKE_DIRTY_START]);
	if (o != FERRY_OUTCOME_FELL_BACK && o != FERRY_OUTCOME_REFUSED)
		return;
	fakevm_run_on(&p->vm[0]);
	fakevm_check_memory(&p->vm[0]);
}

static void check_target(struct pair *p)
{
	enum ferry_outcome o = p->res[1]->outcome;
	bool ours = o == FERRY_OUTCOME_MIGRATED || o == FERRY_OUTCOME_LOST;
	struct fakevm *vm = &p->vm[1];
	unsigned given_up =
		o == FERRY_OUTCOME_MIGRATED || o == FERRY_OUTCOME_IN_DOUBT ? 0 : vm->calls[FAKE_RESERVE];

	due(p, 1, FAKE_ACTIVATE, ours, ours);
	due(p, 1, FAKE_RELEASE, ours ? vm->calls[FAKE_HOLD] : 0, ours ? vm->calls[FAKE_HOLD] : 0);
	due(p, 1, FAKE_DISCARD, given_up, given_up);
	if (o != FERRY_OUTCOME_MIGRATED)
		return;
	fakevm_finish(vm);
	fakevm_run_on(vm);
	fakevm_check_memory(vm);
}

static void note_still(struct pair *p)
{
	uint64_t since = atomic_load(&p->m->inject.struck_us);

	if (since < p->paused_us)
		since = p->paused_us;
	if (p->paused_us && p->runs_us > since)
		p->m->still_us = p->runs_us - since;
}

static void check(struct pair *p)
{
	if (p->c->kind == PAGE_GONE)
		protect_page(p, PROT_READ | PROT_WRITE);
	note_still(p);
	check_source(p);
	check_target(p);
	for (unsigned i = 0; i < 2; i++) {
		p->m->end[i].runs = i ? world_target_runs(&p->w) : world_source_runs(&p->w);
		memcpy(p->m->end[i].ops, p->vm[i].ops_seen, sizeof(p->m->end[i].ops));
	}
	p->m->held = p->w.target_held;
}

static void migrate(struct pair *p)
{
	pthread_t s, t;

	if (!open_end(p, false) || !open_end(p, true))
		return;
	if (pthread_create(&t, NULL, run_target, p) || pthread_create(&s, NULL, run_source, p))
		abort();
	pthread_join(s, NULL);
	pthread_join(t, NULL);
	check(p);
}

_Noreturn void local_main(const struct local *c, struct local_seen *m)
{
	struct pair p = { .c = c, .m = m, .tmpfs = -1 };
	struct census was, is;

	m->inject.dry = c->dry;
	m->inject.kind = c->kind;
	m->inject.at_source = c->at_source;
	m->inject.want = c->want;
	m->inject.skip = c->skip;
	inject_order(&m->inject);
	if (c->kind == FILE_FULL && (p.tmpfs = make_tmpfs()) < 0) {
		snprintf(m->cannot, sizeof(m->cannot),
			 "a tmpfs cannot be made: %s; run as root, or allow user namespaces",
			 strerror(-p.tmpfs));
		exit(0);
	}
	take_census(&was, threads_now());
	make_vms(&p);
	migrate(&p);
	ferry_free(p.vm[0].session);
	ferry_free(p.vm[1].session);
	fakevm_destroy(&p.vm[1]);
	fakevm_destroy(&p.vm[0]);
	snprintf(m->trouble, sizeof(m->trouble), "%s", p.w.trouble);
	world_destroy(&p.w);
	take_census(&is, was.threads);
	compare(m->left, sizeof(m->left), &was, &is);
	m->over = true;
	exit(0);
}
