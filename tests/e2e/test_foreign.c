// SPDX-License-Identifier: MIT
/*
 * A target whose VM is another process, which only knows that its RAM is a file: each way to finish, each kind of file,
 * every byte as that process reads it; a process that has touched its RAM before, that dies, and what is not so.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugepool.h"
#include "patience.h"
#include "rig.h"

#define POOL_PAGES 18
#define SLOW 16000000u /* bytes a second: post-copy then takes a third of a second */
/* Zero pages are holes of the target's file, unless the guest has written some. */
#define DATA_PAGES (FAKE_PAGES - FAKE_HOLES - FAKE_ZEROS)

HUGEPOOL(POOL_PAGES)
HUGEPOOL_END()

enum step { WAIT, MAP, MAPPED, GO, DONE };

/* Shared with the VM's process. */
struct shared {
	_Atomic int step;
	pid_t parent;
	struct {
		int fd; /* the parent's */
		uint64_t offset, len;
		uint8_t *at;
	} ram[FAKE_REGIONS];
	bool touches_first;
	int uffd;
	int err;
	uint8_t seen[FAKE_PAGES * FAKE_PAGE];
};

enum twist { NONE, ONE_REGION, NO_UFFD, NO_FLAG, NOT_SHARED, USED_UFFD, NO_USERFAULTFD, DEAD };

/* The test's side; rig.arg. */
struct vm {
	struct shared *sh;
	pid_t pid;
	int uffd;
	enum twist twist;
	bool idle;	 /* it runs and touches nothing */
	bool dies;	 /* as soon as it runs */
	const char *cut; /* the link, in post-copy */
	uint64_t mapped; /* pages that it had mapped at activate */
	uint64_t data;	 /* pages that its files had then */
	int (*reserve)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);
	int (*resume)(void *vm), (*discard)(void *vm), (*activate)(void *vm);
};

/* ---- the VM's process ---- */

static void map_ram(struct shared *sh)
{
	for (unsigned i = 0; i < FAKE_REGIONS; i++) {
		char path[60];
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", sh->parent, sh->ram[i].fd);
		fd = open(path, O_RDWR | O_CLOEXEC);
		sh->ram[i].at = mmap(NULL, sh->ram[i].len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
				     (off_t)sh->ram[i].offset);
		if (fd < 0 || sh->ram[i].at == MAP_FAILED) {
			sh->err = errno;
			return;
		}
		close(fd);
		for (uint64_t at = 0; sh->touches_first && at < sh->ram[i].len; at += FAKE_PAGE)
			((volatile uint8_t *)sh->ram[i].at)[at] = 1;
	}
	sh->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	sh->err = sh->uffd < 0 ? errno : 0;
}

/* In a scattered order; writes what it has read. */
static void touch_all(struct shared *sh)
{
	for (uint64_t i = 0, at = 7; i < FAKE_PAGES; i++, at = (at + 1000) % FAKE_PAGES) {
		unsigned region = at >= FAKE_PAGES0;
		uint8_t *page = sh->ram[region].at + (region ? at - FAKE_PAGES0 : at) * FAKE_PAGE;
		volatile uint8_t *byte = page + at % FAKE_PAGE;

		if (i % 2)
			*byte = *byte;
		memcpy(sh->seen + at * FAKE_PAGE, page, FAKE_PAGE);
	}
}

static void await_step(struct shared *sh, enum step step)
{
	while (atomic_load(&sh->step) < (int)step)
		usleep(1000);
}

static _Noreturn void be_the_vm(struct shared *sh)
{
	await_step(sh, MAP);
	map_ram(sh);
	atomic_store(&sh->step, MAPPED);
	await_step(sh, GO);
	touch_all(sh);
	atomic_store(&sh->step, DONE);
	for (;;)
		pause();
}

/* ---- the ops ---- */

static struct vm *vm_of(void *v)
{
	return ((struct rig *)((struct fakevm *)v)->arg)->arg;
}

static void kill_vm(struct vm *t)
{
	if (t->pid <= 0)
		return;
	kill(t->pid, SIGKILL);
	waitpid(t->pid, NULL, 0);
	t->pid = -1;
}

/* What the child has created, fetched: its number means nothing here. */
static int fetch_uffd(struct vm *t)
{
	int pidfd = (int)syscall(SYS_pidfd_open, t->pid, 0);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, t->sh->uffd, 0);

	if (pidfd >= 0)
		close(pidfd);
	return fd;
}

static void apply(struct vm *t, struct ferry_region *r, size_t n)
{
	struct uffdio_api api = { .api = UFFD_API };

	for (size_t i = 0; i < n; i++) {
		if (t->twist == NO_UFFD)
			r[i].uffd = -1;
		if (t->twist == NO_FLAG)
			r[i].flags &= ~FERRY_REGION_FOREIGN;
		if (t->twist == NO_USERFAULTFD)
			r[i].uffd = r[0].fd;
	}
	if (t->twist == ONE_REGION) {
		r[1].flags &= ~FERRY_REGION_FOREIGN;
		r[1].uffd = 0;
	}
	if (t->twist == USED_UFFD)
		ioctl(t->uffd, UFFDIO_API, &api);
	if (t->twist == DEAD)
		kill_vm(t);
}

static int reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct vm *t = vm_of(v);
	struct shared *sh = t->sh;
	int err = t->reserve(v, regions, n, needs);

	if (err)
		return err;
	for (size_t i = 0; i < n; i++) {
		sh->ram[i].fd = regions[i].fd;
		sh->ram[i].offset = regions[i].fd_offset;
		sh->ram[i].len = regions[i].len;
	}
	if (t->twist != NOT_SHARED) {
		atomic_store(&sh->step, MAP);
		await_step(sh, MAPPED);
		if (sh->err)
			return -sh->err;
		t->uffd = fetch_uffd(t);
		if (t->uffd < 0)
			return -errno;
	}
	for (size_t i = 0; i < n; i++) {
		if (t->twist != NOT_SHARED)
			regions[i].hva = sh->ram[i].at;
		regions[i].flags |= FERRY_REGION_FOREIGN;
		regions[i].uffd = t->uffd;
	}
	apply(t, regions, n);
	return 0;
}

static int resume(void *v)
{
	struct vm *t = vm_of(v);
	int err = t->resume(v);

	if (t->dies)
		kill_vm(t);
	else if (!t->idle)
		atomic_store(&t->sh->step, GO);
	return err;
}

static int discard(void *v)
{
	kill_vm(vm_of(v));
	return vm_of(v)->discard(v);
}

static uint64_t pages_mapped(const struct vm *t, uint64_t pages, const uint8_t *from)
{
	uint64_t n = 0, entry;
	char path[40];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	for (uint64_t i = 0; i < pages; i++)
		if (pread(fd, &entry, 8, (off_t)(((uintptr_t)from / FAKE_PAGE + i) * 8)) == 8)
			n += entry >> 63;
	close(fd);
	return n;
}

/* Every page is here; the VM has not been told yet that it may touch one, if it is idle. */
static int activate(void *v)
{
	struct vm *t = vm_of(v);
	struct stat st;

	for (unsigned i = 0; i < FAKE_REGIONS; i++)
		t->data += fstat(t->sh->ram[i].fd, &st) ? 0 : (uint64_t)st.st_blocks * 512 / FAKE_PAGE;
	t->mapped = pages_mapped(t, t->sh->ram[0].len / FAKE_PAGE, t->sh->ram[0].at) +
		    pages_mapped(t, t->sh->ram[1].len / FAKE_PAGE, t->sh->ram[1].at);
	return t->activate(v);
}

/* The source, when it knows that the VM runs at the target. */
static void cut_link(struct fakevm *v, enum ferry_phase p)
{
	struct vm *t = vm_of(v);

	if (p == FERRY_PHASE_POSTCOPY && t->cut && ferry_drill(v->session, t->cut))
		world_trouble(v->w, "ferry_drill(%s) failed", t->cut);
	if (p == FERRY_PHASE_POSTCOPY)
		t->cut = NULL;
}

/* The rig's own guest then looks at the file, and writes to it: this one must have ended before. */
static void finish(struct fakevm *v, enum ferry_phase p)
{
	struct vm *t = vm_of(v);

	if (p != FERRY_PHASE_DONE)
		return;
	if (t->idle)
		atomic_store(&t->sh->step, GO);
	await_step(t->sh, DONE);
}

/* ---- the rig ---- */

static void setup(struct rig *r, struct vm *t, const struct rig_kind *kind)
{
	int probe = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (probe < 0)
		cr_skip_test("userfaultfd cannot be opened: %s", strerror(errno));
	close(probe);
	t->sh = mmap(NULL, sizeof(*t->sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(t->sh, MAP_FAILED);
	t->sh->parent = getpid();
	t->uffd = -1;
	t->pid = fork();
	cr_assert_geq(t->pid, 0);
	if (!t->pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		be_the_vm(t->sh);
	}
	if (kind->huge) /* its lock is not the child's */
		hugepool_or_skip(POOL_PAGES);
	rig_init(r, kind);
	r->arg = t;
	r->tgt.idle = true;
	r->tgt.phase_hook = finish;
	r->src.phase_hook = cut_link;
	t->reserve = r->tgt.ops.reserve;
	t->resume = r->tgt.ops.resume;
	t->discard = r->tgt.ops.discard;
	t->activate = r->tgt.ops.activate;
	r->tgt.ops.reserve = reserve;
	r->tgt.ops.resume = resume;
	r->tgt.ops.discard = discard;
	r->tgt.ops.activate = activate;
}

static void end(struct rig *r, struct vm *t)
{
	kill_vm(t);
	if (t->uffd >= 0)
		close(t->uffd);
	rig_free(r);
	munmap(t->sh, sizeof(*t->sh));
}

static void migrated(struct rig *r, struct vm *t)
{
	rig_migrated(r);
	for (uint64_t at = 0; at < FAKE_PAGES; at++)
		cr_assert(!memcmp(t->sh->seen + at * FAKE_PAGE, r->world.frozen + at * FAKE_PAGE, FAKE_PAGE),
			  "page %llu reads wrong in the VM's process", (unsigned long long)at);
}

#define FOREIGN_TESTS(suite, name)                               \
	static void suite##_##name(const struct rig_kind *kind); \
	Test(suite, name##_mem)                                  \
	{                                                        \
		suite##_##name(RIG_MEM_SHARED);                  \
	}                                                        \
	Test(suite, name##_tcp)                                  \
	{                                                        \
		suite##_##name(RIG_TCP_SHARED);                  \
	}                                                        \
	Test(suite, name##_tcp_huge)                             \
	{                                                        \
		suite##_##name(RIG_TCP_HUGE_SHARED);             \
	}                                                        \
	static void suite##_##name(const struct rig_kind *kind)

FOREIGN_TESTS(foreign, stop_and_copy)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_run(&r);
	migrated(&r, &t);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, auto_mode)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	rig_run(&r);
	migrated(&r, &t);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, post_copy)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	rig_postcopy(&r, SLOW);
	rig_run(&r);
	migrated(&r, &t);
	cr_assert_gt(r.sres.stats.pages_residue, FAKE_PAGES / 2);
	cr_assert_gt(r.tres.stats.faults, 0);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, post_copy_committed_at_the_switchover)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	rig_postcopy(&r, SLOW);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	r.scfg.channels = 3;
	rig_run(&r);
	migrated(&r, &t);
	cr_assert_gt(r.tres.stats.faults, 0);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, post_copy_over_a_link_that_breaks)
{
	struct vm t = { .cut = "cut:100" };
	struct rig r;

	setup(&r, &t, kind);
	rig_postcopy(&r, SLOW);
	rig_run(&r);
	migrated(&r, &t);
	cr_assert_eq(r.tres.stats.reconnects, 1);
	end(&r, &t);
}

/* What it had mapped would not fault, and what it wrote would stay. */
FOREIGN_TESTS(foreign, memory_that_the_process_has_touched_is_taken_back)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	t.sh->touches_first = true;
	rig_postcopy(&r, 0);
	r.src.writes[0] = 600;
	rig_run(&r);
	migrated(&r, &t);
	end(&r, &t);
}

/* A guest that touches nothing finds every page mapped: clean ones do not fault one by one. */
FOREIGN_TESTS(foreign, clean_pages_are_mapped_before_they_fault)
{
	struct vm t = { .idle = true };
	struct rig r;

	setup(&r, &t, kind);
	rig_postcopy(&r, SLOW);
	r.src.writes[0] = 600;
	rig_run(&r);
	migrated(&r, &t);
	cr_assert_eq(r.tres.stats.faults, 0);
	cr_assert_eq(r.tres.stats.faults_local, 0);
	cr_assert_leq(r.sres.stats.pages_residue, 700);
	/*
	 * Clean pages beside the residue, and no hole, which costs nothing. How many depends on how long the
	 * residue took: before each of its gets, a piece of 32 is mapped.
	 */
	cr_assert_geq(t.data, DATA_PAGES);
	cr_assert(t.mapped >= r.tres.stats.pages_residue + 32 && t.mapped <= t.data,
		  "%llu pages are mapped, %llu have data", (unsigned long long)t.mapped,
		  (unsigned long long)t.data);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, landing_the_other_way)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, kind);
	r.tcfg.landing = kind->way == FERRY_LANDING_WAY_KERNEL ? FERRY_LANDING_WAY_MAPPING
							       : FERRY_LANDING_WAY_KERNEL;
	rig_postcopy(&r, 0);
	rig_run(&r);
	migrated(&r, &t);
	end(&r, &t);
}

/* Huge pages of the other process are not ours to make. */
Test(foreign, transparent_huge_pages_are_left_to_the_process)
{
	struct vm t = { 0 };
	struct rig r;

	setup(&r, &t, RIG_MEM_THP_SHARED);
	rig_postcopy(&r, 0);
	rig_run(&r);
	migrated(&r, &t);
	cr_assert(!r.tres.thp_before && !r.tres.thp_after && !r.tres.collapse_us);
	end(&r, &t);
}

FOREIGN_TESTS(foreign, a_vm_that_dies_in_post_copy_goes_on_at_the_source)
{
	struct vm t = { .dies = true };
	struct rig r;

	setup(&r, &t, kind);
	rig_postcopy(&r, SLOW);
	rig_run(&r);
	rig_fell_back(&r);
	rig_says(r.tres.detail, "the process that the memory is mapped in has exited");
	end(&r, &t);
}

/* ---- what is not so ---- */

static void refused(enum twist twist, bool shared, const char *says)
{
	struct vm t = { .twist = twist };
	struct rig r;

	setup(&r, &t, shared ? RIG_TCP_SHARED : RIG_TCP_ANON);
	rig_postcopy(&r, 0);
	rig_run(&r);
	rig_refused(&r);
	rig_says(r.tres.detail, says);
	rig_says(r.sres.detail, "refused");
	end(&r, &t);
}

Test(foreign, private_memory_is_refused)
{
	refused(NOT_SHARED, false, "it must be shared memory");
}

Test(foreign, all_regions_or_none)
{
	refused(ONE_REGION, true, "are not of one process");
}

Test(foreign, a_descriptor_without_the_flag_is_refused)
{
	refused(NO_FLAG, true, "and not FERRY_REGION_FOREIGN");
}

Test(foreign, a_descriptor_that_is_no_userfaultfd_is_refused)
{
	refused(NO_USERFAULTFD, true, "is no userfaultfd");
}

Test(foreign, a_userfaultfd_that_is_in_use_is_refused)
{
	refused(USED_UFFD, true, "somebody has called UFFDIO_API on it already");
}

Test(foreign, post_copy_without_a_userfaultfd_is_refused)
{
	refused(NO_UFFD, true, "hand one over in ferry_region.uffd");
}

Test(foreign, a_process_that_is_dead_already_is_refused)
{
	refused(DEAD, true, "the process that the memory is mapped in has exited");
}

/* It then ends by stop-and-copy, as on a target without userfaultfd. */
Test(foreign, without_a_userfaultfd_stop_and_copy_works)
{
	for (int i = 0; i < 2; i++) {
		struct vm t = { .twist = NO_UFFD };
		struct rig r;

		setup(&r, &t, RIG_TCP_SHARED);
		r.scfg.mode = i ? FERRY_MODE_STOP_AND_COPY : FERRY_MODE_AUTO;
		rig_run(&r);
		migrated(&r, &t);
		cr_assert_eq(r.sres.stats.pages_residue, 0);
		end(&r, &t);
	}
}

Test(foreign, a_source_has_a_mapping_of_its_own)
{
	struct ferry_session *s = NULL;
	struct rig r;

	rig_init(&r, RIG_TCP_SHARED);
	r.src.region[1].flags |= FERRY_REGION_FOREIGN;
	cr_assert_eq(ferry_source_new(&s,
				      &(struct ferry_vm){ FERRY_VM_INIT, .vm = &r.src, .ops = &r.src.ops,
							  .regions = r.src.region, .nregions = FAKE_REGIONS },
				      &r.scfg),
		     -EINVAL);
	rig_says(r.src.error_line, "which only the reserve op of a target may set");
	r.src.region[1].flags &= ~FERRY_REGION_FOREIGN;
	r.src.region[1].uffd = 3;
	cr_assert_eq(ferry_source_new(&s,
				      &(struct ferry_vm){ FERRY_VM_INIT, .vm = &r.src, .ops = &r.src.ops,
							  .regions = r.src.region, .nregions = FAKE_REGIONS },
				      &r.scfg),
		     -EINVAL);
	rig_says(r.src.error_line, "uffd 3 and not FERRY_REGION_FOREIGN");
	r.src.region[1].uffd = 0;
	rig_free(&r);
}
