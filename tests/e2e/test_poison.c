// SPDX-License-Identifier: MIT
/*
 * Guest memory that cannot be read or written when it is its turn: hardware errors, files that become shorter, mappings
 * that the VMM changes, file systems without room. Whatever it is, at whichever end: no signal is raised, the page is named,
 * and the VM goes on at its owner.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "broken.h"
#include "rig.h"

#define BAD 7u /* the first page that the target's guest touches */

static void begin(struct rig *r, const struct rig_kind *kind)
{
	rig_init(r, kind);
	rig_impatient(r);
	broken_watch();
}

static void needs_poison(void)
{
	if (!broken_can_poison())
		cr_skip_test(
			"UFFDIO_POISON stands in for a hardware error here, and this kernel has none: Linux 6.6 has it");
}

static void dirty(struct fakevm *vm, unsigned region, uint64_t page)
{
	vm->dirty[region][page / 64] |= UINT64_C(1) << page % 64;
}

/* The guest of the source has what it had: a page that was lost is one that its guest would write again. */
static void heal(struct rig *r, unsigned region, uint64_t page)
{
	uint8_t *p = fake_page(&r->src, region, page);

	broken_heal(p, FAKE_PAGE);
	memcpy(p, r->src.shadow + fake_offset(region, page), FAKE_PAGE);
}

static void names(const struct ferry_result *res, unsigned id, uint64_t page, uint64_t gpa, const char *why)
{
	char text[100];

	snprintf(text, sizeof(text), "page %llu of region %u (guest address %#llx, mapped at 0x",
		 (unsigned long long)page, id, (unsigned long long)gpa);
	rig_says(res->detail, text);
	rig_says(res->detail, why);
}

RIG_TESTS(unreadable, a_hardware_error_is_named)
{
	struct rig r;

	needs_poison();
	begin(&r, kind);
	broken_poison(fake_page(&r.src, 0, BAD), FAKE_PAGE);
	rig_run(&r);
	broken_untouched();
	heal(&r, 0, BAD);
	rig_refused(&r);
	names(&r.sres, 10, BAD, BAD * FAKE_PAGE,
	      "cannot be read: the host's memory has a hardware error there");
	cr_assert_eq(r.sres.error, -EHWPOISON);
	rig_free(&r);
}

/* In the last round, the VM stopped. */
static void poisoned_at_the_pause(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_PAUSE)
		return;
	broken_poison(fake_page(vm, 1, 3), FAKE_PAGE);
	dirty(vm, 1, 3);
}

RIG_TESTS(unreadable, a_hardware_error_in_the_downtime)
{
	struct rig r;

	needs_poison();
	begin(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	r.src.last_writes = 0;
	r.src.hook = poisoned_at_the_pause;
	rig_run(&r);
	broken_untouched();
	heal(&r, 1, 3);
	rig_fell_back(&r);
	names(&r.sres, 13, 3, (UINT64_C(1) << 32) + 3 * FAKE_PAGE, "hardware error");
	rig_free(&r);
}

/* A page of the residue, when it is asked for. */
static void poisoned_at_the_save(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_PAUSE)
		dirty(vm, 0, BAD);
	if (op == FAKE_SAVE)
		broken_poison(fake_page(vm, 0, BAD), FAKE_PAGE);
}

RIG_TESTS(unreadable, a_hardware_error_in_the_residue)
{
	struct rig r;

	needs_poison();
	begin(&r, kind);
	rig_postcopy(&r, 0);
	r.src.hook = poisoned_at_the_save;
	rig_run(&r);
	broken_untouched();
	heal(&r, 0, BAD);
	rig_fell_back(&r);
	/* mem: the target's get reads the source's memory. */
	names(kind->uri[0] == 'm' ? &r.tres : &r.sres, 10, BAD, BAD * FAKE_PAGE,
	      "cannot be read: the host's memory has a hardware error");
	rig_free(&r);
}

static void no_access(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_FETCH || vm->calls[op] != 1)
		return;
	mprotect(fake_page(vm, 0, 1000), 4 * FAKE_PAGE, PROT_NONE);
	dirty(vm, 0, 1001);
}

RIG_TESTS(unreadable, a_mapping_without_access)
{
	struct rig r;

	begin(&r, kind);
	r.src.writes[0] = r.src.last_writes = 0;
	r.src.hook = no_access;
	rig_run(&r);
	broken_untouched();
	mprotect(fake_page(&r.src, 0, 1000), 4 * FAKE_PAGE, PROT_READ | PROT_WRITE);
	rig_source_owns(&r);
	names(&r.sres, 10, 1001, 1001 * FAKE_PAGE, "cannot be read: it is mapped ---");
	cr_assert_eq(r.sres.error, -EFAULT);
	rig_free(&r);
}

static void unmapped(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_FETCH || vm->calls[op] != 1)
		return;
	munmap(fake_page(vm, 0, 1000), 4 * FAKE_PAGE);
	dirty(vm, 0, 1003);
}

RIG_TESTS(unreadable, nothing_is_mapped)
{
	struct rig r;
	void *at;

	begin(&r, kind);
	r.src.writes[0] = r.src.last_writes = 0;
	r.src.hook = unmapped;
	at = fake_page(&r.src, 0, 1000);
	rig_run(&r);
	broken_untouched();
	cr_assert_eq(mmap(at, 4 * FAKE_PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
		     at);
	for (unsigned i = 1000; i < 1004; i++)
		heal(&r, 0, i);
	rig_source_owns(&r);
	names(&r.sres, 10, 1003, 1003 * FAKE_PAGE, "cannot be read: nothing is mapped there");
	rig_free(&r);
}

/* Of region 0 what lies behind this page. */
static void cut_file(const struct fakevm *vm, uint64_t pages)
{
	const struct ferry_region *r = &vm->region[0];

	cr_assert(!ftruncate(r->fd, (off_t)(r->fd_offset + pages * FAKE_PAGE)));
}

static void shorter(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_FETCH || vm->calls[op] != 1)
		return;
	cut_file(vm, 1400);
	dirty(vm, 0, 1450);
}

static void file_that_becomes_shorter(const struct rig_kind *kind)
{
	struct rig r;

	begin(&r, kind);
	r.src.writes[0] = r.src.last_writes = 0;
	r.src.hook = shorter;
	rig_run(&r);
	broken_untouched();
	cut_file(&r.src, FAKE_PAGES0);
	for (unsigned i = 1400; i < FAKE_PAGES0; i++)
		heal(&r, 0, i);
	rig_source_owns(&r);
	names(&r.sres, 10, 1450, 1450 * FAKE_PAGE, "cannot be read: the file behind it ends at byte");
	rig_free(&r);
}

Test(unreadable, a_file_that_becomes_shorter_mem)
{
	file_that_becomes_shorter(RIG_MEM_SHARED);
}

Test(unreadable, a_file_that_becomes_shorter_tcp)
{
	file_that_becomes_shorter(RIG_TCP_SHARED);
}

/* ---- at the target ---- */

static void shorter_at_the_target(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY)
		cut_file(vm, 600);
}

static void landing_in_a_file_that_becomes_shorter(const struct rig_kind *kind)
{
	struct rig r;

	begin(&r, kind);
	r.tgt.phase_hook = shorter_at_the_target;
	rig_run(&r);
	broken_untouched();
	rig_refused(&r);
	rig_says(kind->uri[0] == 'm' ? r.sres.detail : r.tres.detail,
		 "cannot be written: the file behind it ends at byte 2469888");
	rig_free(&r);
}

Test(unwritable, a_file_that_becomes_shorter_mem)
{
	landing_in_a_file_that_becomes_shorter(RIG_MEM_SHARED);
}

Test(unwritable, a_file_that_becomes_shorter_tcp)
{
	landing_in_a_file_that_becomes_shorter(RIG_TCP_SHARED);
}

static void poisoned_at_the_target(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY)
		broken_poison(fake_page(vm, 0, BAD), FAKE_PAGE);
}

static void landing_on_a_hardware_error(const struct rig_kind *kind)
{
	struct rig r;

	needs_poison();
	begin(&r, kind);
	r.tgt.phase_hook = poisoned_at_the_target;
	rig_run(&r);
	broken_untouched();
	rig_refused(&r);
	names(kind->uri[0] == 'm' ? &r.sres : &r.tres, 10, BAD, BAD * FAKE_PAGE,
	      "cannot be written: the host's memory has a hardware error there; use another host");
	rig_free(&r);
}

Test(unwritable, a_hardware_error_mem)
{
	landing_on_a_hardware_error(RIG_MEM_ANON);
}

Test(unwritable, a_hardware_error_tcp)
{
	landing_on_a_hardware_error(RIG_TCP_ANON);
}

/* A tmpfs of the target's own, which somebody else fills in the middle. */
static struct {
	int dir, filler;
	enum ferry_phase when;
	int (*reserve)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);
} fs;

#define FS_ROOM ((size_t)16 << 20)

static int reserve_in_tmpfs(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;
	int err = fs.reserve(v, regions, n, needs);

	for (size_t i = 0; !err && i < n; i++) {
		int fd = openat(fs.dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

		cr_assert(fd >= 0 && !ftruncate(fd, (off_t)(regions[i].fd_offset + regions[i].len)));
		cr_assert_neq(mmap(regions[i].hva, regions[i].len, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_FIXED, fd, (off_t)regions[i].fd_offset),
			      MAP_FAILED);
		close(regions[i].fd);
		regions[i].fd = fd;
		vm->region[i] = regions[i];
	}
	return err;
}

static void fill(struct fakevm *vm, enum ferry_phase p)
{
	static const uint8_t bytes[65536];

	(void)vm;
	if (p != fs.when)
		return;
	for (size_t i = 0; i < FS_ROOM / sizeof(bytes); i++)
		if (write(fs.filler, bytes, sizeof(bytes)) <= 0)
			break;
}

static void make_room(void)
{
	if (ftruncate(fs.filler, 0))
		_exit(1);
}

static void full_file_system(const struct rig_kind *kind, enum ferry_phase when)
{
	struct rig r;
	char room[20], path[] = "/tmp/ferry-poison-XXXXXX";

	if (geteuid())
		cr_skip_test("a tmpfs is mounted by root alone");
	begin(&r, kind);
	snprintf(room, sizeof(room), "size=%zu", FS_ROOM);
	cr_assert(mkdtemp(path) && !mount("ferry", path, "tmpfs", 0, room), "%s", strerror(errno));
	/* It lives as long as what is open in it: a test that fails leaves nothing behind. */
	fs.dir = open(path, O_DIRECTORY | O_CLOEXEC);
	cr_assert(!umount2(path, MNT_DETACH) && !rmdir(path) && fs.dir >= 0, "%s", strerror(errno));
	fs.filler = openat(fs.dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	cr_assert_geq(fs.filler, 0);
	fs.when = when;
	fs.reserve = r.tgt.ops.reserve;
	r.tgt.ops.reserve = reserve_in_tmpfs;
	r.tgt.phase_hook = fill;
	if (when == FERRY_PHASE_POSTCOPY) {
		rig_postcopy(&r,
			     32000000); /* the target's limit holds in pre-copy, too: not for longer than a timeout */
		broken_guest(&r.tgt.cpu, make_room);
	}
	rig_run(&r);
	broken_untouched();
	if (when == FERRY_PHASE_PRECOPY)
		rig_refused(&r);
	else
		rig_fell_back(&r);
	rig_says(when == FERRY_PHASE_PRECOPY && kind->uri[0] == 'm' ? r.sres.detail : r.tres.detail,
		 "cannot be written: the file system behind it is full");
	rig_free(&r);
	close(fs.filler);
	close(fs.dir);
}

Test(unwritable, a_full_file_system_mem)
{
	full_file_system(RIG_MEM_SHARED, FERRY_PHASE_PRECOPY);
}

Test(unwritable, a_full_file_system_tcp)
{
	full_file_system(RIG_TCP_SHARED, FERRY_PHASE_PRECOPY);
}

Test(unwritable, a_full_file_system_in_post_copy_mem)
{
	full_file_system(RIG_MEM_SHARED, FERRY_PHASE_POSTCOPY);
}

Test(unwritable, a_full_file_system_in_post_copy_tcp)
{
	full_file_system(RIG_TCP_SHARED, FERRY_PHASE_POSTCOPY);
}

/* ---- carried over ---- */

/* What each end's op was told, and the pages of the target that its guest has found poisoned. */
static struct {
	const struct rig *r;
	char source[200], target[200];
	int refuse_source, refuse_target;
	bool loaded;
	volatile unsigned touched;
} carried;

static int told(void *v, uint32_t region, uint64_t page, uint64_t npages)
{
	struct fakevm *vm = v;
	char *to = vm->is_source ? carried.source : carried.target;
	size_t len = strlen(to), at = region == 10 ? 0 : 1;

	if (!pthread_equal(pthread_self(), vm->thread))
		world_trouble(vm->w, "poison was not called on the thread inside ferry_run()");
	if (!vm->is_source && (vm->calls[FAKE_LOAD] || !broken_is_poison(fake_page(vm, (unsigned)at, page))))
		world_trouble(vm->w, "poison of page %llu was told after load, or is not poisoned",
			      (unsigned long long)page);
	snprintf(to + len, sizeof(carried.source) - len, "%s%u:%llu+%llu", len ? " " : "", region,
		 (unsigned long long)page, (unsigned long long)npages);
	return vm->is_source ? carried.refuse_source : carried.refuse_target;
}

static const struct {
	unsigned region;
	uint64_t page;
} lost[] = { { 0, BAD }, { 0, 600 }, { 0, 601 }, { 1, 76 } };
#define LOST (sizeof(lost) / sizeof(lost[0]))

/* The target's guest has met a page that is gone: as an operating system would, it takes a fresh one for it. */
static void guest_recovers(void)
{
	const struct rig *r = carried.r;

	for (size_t i = 0; i < LOST; i++) {
		uint8_t *p = fake_page(&r->tgt, lost[i].region, lost[i].page);

		if (broken_is_poison(p)) {
			madvise(p, FAKE_PAGE, MADV_DONTNEED);
			memcpy(p, r->world.frozen + fake_offset(lost[i].region, lost[i].page), FAKE_PAGE);
			carried.touched++;
		}
	}
}

static void begin_carried(struct rig *r, const struct rig_kind *kind)
{
	needs_poison();
	begin(r, kind);
	memset(&carried, 0, sizeof(carried));
	carried.r = r;
	r->src.ops.poison = r->tgt.ops.poison = told;
	broken_guest(&r->tgt.cpu, guest_recovers);
	for (size_t i = 0; i < LOST; i++)
		broken_poison(fake_page(&r->src, lost[i].region, lost[i].page), FAKE_PAGE);
}

/* The fake guest writes where it likes; here not at all, or it would die of its own. */
static void quiet_guest(struct rig *r)
{
	for (int i = 0; i < 8; i++)
		r->src.writes[i] = 0;
	r->src.last_writes = 0;
}

static void carried_over(struct rig *r)
{
	rig_run(r);
	broken_untouched();
	rig_migrated(r);
	cr_assert_str_eq(carried.source, "10:7+1 10:600+2 13:76+1");
	cr_assert_str_eq(carried.target, carried.source);
	cr_assert_eq(carried.touched, LOST);
	rig_free(r);
}

RIG_TESTS(carried, by_stop_and_copy)
{
	struct rig r;

	begin_carried(&r, kind);
	quiet_guest(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	carried_over(&r);
}

RIG_TESTS(carried, by_stop_and_copy_into_allocated_memory)
{
	struct rig r;

	begin_carried(&r, kind);
	quiet_guest(&r);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_allocate(&r);
	carried_over(&r);
}

/* Half of memory is dirty when the first round ends: of the poisoned pages some are named dirty, too. */
static void all_dirty(struct fakevm *vm, enum fake_op op)
{
	if (op == FAKE_DIRTY_FETCH && vm->calls[op] == 1)
		for (uint64_t page = 500; page < FAKE_PAGES0; page++)
			dirty(vm, 0, page);
	if (op == FAKE_PAUSE)
		for (uint64_t page = 0; page < 100; page++)
			dirty(vm, 0, page);
}

RIG_TESTS(carried, by_post_copy)
{
	struct rig r;

	begin_carried(&r, kind);
	rig_postcopy(&r, 0);
	quiet_guest(&r);
	r.src.hook = all_dirty;
	carried_over(&r);
}

RIG_TESTS(carried, by_post_copy_into_allocated_memory)
{
	struct rig r;

	begin_carried(&r, kind);
	rig_postcopy(&r, 0);
	quiet_guest(&r);
	rig_allocate(&r);
	r.src.hook = all_dirty;
	carried_over(&r);
}

RIG_TESTS(carried, by_commit_at_switchover_over_three_channels)
{
	struct rig r;

	begin_carried(&r, kind);
	rig_postcopy(&r, 0);
	quiet_guest(&r);
	r.scfg.channels = 3;
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	r.src.hook = all_dirty;
	carried_over(&r);
}

/* Pages that have crossed and are lost, and dirty, later: one before PREARM, one in the downtime. */
static void lost_later(struct fakevm *vm, enum fake_op op)
{
	bool now = op == FAKE_DIRTY_FETCH && vm->calls[op] == 1;

	for (size_t i = 0; i < LOST && (now || op == FAKE_PAUSE); i++) {
		if ((i < 3) != now)
			continue;
		broken_poison(fake_page(vm, lost[i].region, lost[i].page), FAKE_PAGE);
		dirty(vm, lost[i].region, lost[i].page);
	}
}

RIG_TESTS(carried, what_is_lost_after_it_has_crossed)
{
	struct rig r;

	begin_carried(&r, kind);
	quiet_guest(&r);
	for (size_t i = 0; i < LOST; i++)
		heal(&r, lost[i].region, lost[i].page);
	r.src.hook = lost_later;
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	carried_over(&r);
}

/*
 * The link is lost when the residue has been named: the target knows it as missing, and all of it is looked at and named again. A
 * page of it that has an error by then can no longer cross as poison.
 */
static void lost_with_the_link(struct fakevm *vm, enum fake_op op)
{
	bool second = vm->calls[op] == 1 + FAKE_REGIONS; /* region 0's */

	if (op != FAKE_DIRTY_FETCH || (vm->calls[op] != 1 && !second))
		return;
	for (uint64_t page = 100; page < 400; page++)
		dirty(vm, 0, page + second * 300);
	if (!second)
		return;
	broken_poison(fake_page(vm, 0, 200), FAKE_PAGE);
	if (ferry_drill(vm->session, "cut:50"))
		world_trouble(vm->w, "the link could not be cut");
}

RIG_TESTS(carried, not_what_has_been_named_before_a_reconnect)
{
	struct rig r;

	begin_carried(&r, kind);
	r.scfg.reconnect_us = r.tcfg.reconnect_us = 10000000;
	rig_postcopy(&r, 0);
	quiet_guest(&r);
	for (size_t i = 0; i < LOST; i++)
		heal(&r, lost[i].region, lost[i].page);
	r.src.hook = lost_with_the_link;
	rig_run(&r);
	broken_untouched();
	heal(&r, 0, 200);
	cr_assert_eq(r.sres.stats.reconnects, 1);
	rig_refused(&r);
	cr_assert_str_eq(carried.source, "");
	names(&r.sres, 10, 200, 200 * FAKE_PAGE, "cannot be read: the host's memory has a hardware error");
	rig_free(&r);
}

/* The last moment before the residue is looked at. */
static void (*fake_event)(void *vm, const struct ferry_event *ev);

static void cancel_with_the_verdict(void *v, const struct ferry_event *ev)
{
	struct fakevm *vm = v;

	fake_event(v, ev);
	if (ev->type == FERRY_EVENT_POLICY)
		ferry_cancel(vm->session);
}

RIG_PAIR(carried, not_when_canceled_before_the_residue_is_looked_at)
{
	struct rig r;

	begin_carried(&r, kind);
	rig_postcopy(&r, 0);
	quiet_guest(&r);
	fake_event = r.src.ops.event;
	r.src.ops.event = cancel_with_the_verdict;
	r.src.hook = all_dirty;
	rig_run(&r);
	broken_untouched();
	for (size_t i = 0; i < LOST; i++)
		heal(&r, lost[i].region, lost[i].page);
	rig_refused(&r);
	cr_assert_eq(r.sres.error, -ECANCELED);
	rig_says(r.sres.detail, "canceled by the embedder in pre-copy");
	rig_free(&r);
}

/* The guest was given fresh memory for it, in the middle. */
static void found_again(struct fakevm *vm, enum fake_op op)
{
	bool now = op == FAKE_DIRTY_FETCH && vm->calls[op] == 1;
	const size_t i = 1;
	uint8_t *p = fake_page(vm, lost[i].region, lost[i].page);

	if (!now)
		return;
	broken_heal(p, FAKE_PAGE);
	memcpy(p, vm->shadow + fake_offset(lost[i].region, lost[i].page), FAKE_PAGE);
	dirty(vm, lost[i].region, lost[i].page);
}

static void found_again_by(struct rig *r)
{
	quiet_guest(r);
	r->src.hook = found_again;
	rig_run(r);
	broken_untouched();
	rig_migrated(r);
	cr_assert_str_eq(carried.source, "10:7+1 10:600+2 13:76+1");
	cr_assert_str_eq(carried.target, "10:7+1 10:601+1 13:76+1");
	cr_assert_eq(carried.touched, LOST - 1);
	rig_free(r);
}

RIG_TESTS(carried, not_what_can_be_read_again)
{
	struct rig r;

	begin_carried(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	found_again_by(&r);
}

RIG_TESTS(carried, not_what_can_be_read_again_in_post_copy)
{
	struct rig r;

	begin_carried(&r, kind);
	rig_postcopy(&r, 0);
	found_again_by(&r);
}

static void not_carried(struct rig *r, bool paused, const char *source_says)
{
	quiet_guest(r);
	rig_run(r);
	broken_untouched();
	for (size_t i = 0; i < LOST; i++)
		heal(r, lost[i].region, lost[i].page);
	if (paused)
		rig_fell_back(r);
	else
		rig_refused(r);
	rig_says(r->sres.detail, source_says);
	rig_free(r);
}

RIG_PAIR(carried, not_where_the_source_refuses)
{
	struct rig r;

	begin_carried(&r, kind);
	carried.refuse_source = -EPERM;
	not_carried(&r, false, "poison: the VMM answered -1");
}

RIG_PAIR(carried, not_where_the_target_refuses)
{
	struct rig r;

	begin_carried(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	carried.refuse_target = -EPERM;
	not_carried(&r, true, "poison: the VMM answered -1");
}

RIG_PAIR(carried, not_without_the_op_at_the_target)
{
	struct rig r;

	begin_carried(&r, kind);
	r.tgt.ops.poison = NULL;
	not_carried(&r, false, "give both ends the op poison, and migrate over tcp");
}
