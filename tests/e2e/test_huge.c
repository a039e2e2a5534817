// SPDX-License-Identifier: MIT
/*
 * Huge pages of hugetlbfs, as a memfd and as private memory: every ending, every byte. The rig's guest checks
 * each page as it touches it, and a hole; the residue is pieces of 4 KiB, and of a memfd nothing else
 * crosses.
 */
#include <dirent.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broken.h"
#include "hugepool.h"
#include "rig.h"

#define POOL_PAGES 18

HUGEPOOL(POOL_PAGES)
HUGEPOOL_END()

#define HUGE_TESTS(suite, name)                                  \
	static void suite##_##name(const struct rig_kind *kind); \
	Test(suite, name##_mem_huge)                             \
	{                                                        \
		suite##_##name(RIG_MEM_HUGE_ANON);               \
	}                                                        \
	Test(suite, name##_mem_huge_memfd)                       \
	{                                                        \
		suite##_##name(RIG_MEM_HUGE_SHARED);             \
	}                                                        \
	Test(suite, name##_tcp_huge)                             \
	{                                                        \
		suite##_##name(RIG_TCP_HUGE_ANON);               \
	}                                                        \
	Test(suite, name##_tcp_huge_memfd)                       \
	{                                                        \
		suite##_##name(RIG_TCP_HUGE_SHARED);             \
	}                                                        \
	static void suite##_##name(const struct rig_kind *kind)

static void begin(struct rig *r, const struct rig_kind *kind)
{
	hugepool_or_skip(POOL_PAGES);
	rig_init(r, kind);
}

HUGE_TESTS(huge_stop_and_copy, moves_everything)
{
	struct rig r;

	begin(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_run(&r);
	rig_migrated(&r);
	/* Pieces of a huge page that were never written are read, as zeros, and do not cross; holes are not
	 * read. */
	cr_assert_eq(r.sres.stats.pages_hole, 512);
	cr_assert_eq(r.sres.stats.pages_total, FAKE_HUGE_PAGES0 + FAKE_HUGE_PAGES1);
	cr_assert_geq(r.sres.stats.pages_zero,
		      FAKE_HOLES + FAKE_ZEROS + 3 * 512 - FAKE_PAGES0 + 512 - FAKE_PAGES1 - 40);
	cr_assert_lt(r.sres.stats.bytes_sent, 2 * FAKE_PAGES * FAKE_PAGE);
	rig_free(&r);
}

HUGE_TESTS(huge_post_copy, moves_everything)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.sres.stats.pages_residue, FAKE_PAGES / 2);
	cr_assert_eq(r.tres.stats.pages_remaining, 0);
	rig_free(&r);
}

/* A few dirty pieces in each huge page: of a memfd they alone cross, of private memory all that was dropped.
 */
HUGE_TESTS(huge_post_copy, a_small_residue)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	for (int i = 0; i < 8; i++)
		r.src.writes[i] = 0;
	r.src.writes[0] = 30;
	r.src.last_writes = 10;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.sres.stats.pages_residue, 0);
	cr_assert_leq(r.sres.stats.pages_residue, 40);
	if (kind->shared)
		cr_assert_eq(r.tres.stats.pages_residue, r.sres.stats.pages_residue);
	else
		cr_assert(r.tres.stats.pages_residue % 512 == 0 && r.tres.stats.pages_residue <= 4 * 512);
	rig_free(&r);
}

HUGE_TESTS(huge_post_copy, faults_on_a_slow_link)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 32000000);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.tres.stats.faults, 0);
	cr_assert_gt(r.tres.stats.faults_local, 0);
	rig_free(&r);
}

/* What its VMM has touched faults all the same. */
HUGE_TESTS(huge_post_copy, into_allocated_memory)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 32000000);
	rig_allocate(&r);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_gt(r.tres.stats.faults, 0);
	rig_free(&r);
}

HUGE_TESTS(huge_post_copy, over_three_channels)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	r.scfg.channels = 3;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

HUGE_TESTS(huge_post_copy, commits_at_switchover)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
}

static void cut(struct fakevm *vm, enum ferry_phase p, const char *fault)
{
	if (p == FERRY_PHASE_POSTCOPY && ferry_drill(vm->session, fault))
		world_trouble(vm->w, "%s was refused", fault);
}

static void cut_for_a_moment(struct fakevm *vm, enum ferry_phase p)
{
	cut(vm, p, "cut:50");
}

static void cut_for_good(struct fakevm *vm, enum ferry_phase p)
{
	cut(vm, p, "cut");
}

/* Huge pages of which some pieces have come are asked for again. */
HUGE_TESTS(huge_post_copy, goes_on_after_a_lost_link)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 16000000);
	r.scfg.channels = 2;
	r.src.phase_hook = cut_for_a_moment;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_geq(r.tres.stats.reconnects, 1);
	rig_free(&r);
}

HUGE_TESTS(huge_post_copy, falls_back_when_the_link_is_lost_for_good)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 16000000);
	rig_impatient(&r);
	/* A fault is at most a quarter of this ahead of the limit, and four huge pages must not have come before the cut. */
	r.scfg.timeout_us *= 4;
	r.tcfg.timeout_us *= 4;
	r.src.phase_hook = cut_for_good;
	rig_run(&r);
	rig_fell_back(&r);
	rig_free(&r);
}

/* ---- references ---- */

static unsigned pipes(void)
{
	DIR *d = opendir("/proc/self/fd");
	char to[64] = "";
	struct dirent *e;
	unsigned n = 0;

	cr_assert(d);
	while ((e = readdir(d)))
		n += readlinkat(dirfd(d), e->d_name, to, sizeof(to)) > 5 && !memcmp(to, "pipe:", 5);
	closedir(d);
	return n;
}

static void count_pipes(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_STOP_AND_COPY)
		*(unsigned *)vm->arg = pipes();
}

/* How many pipes there are in the downtime, when pages have been sent, beyond those of before. */
static unsigned pipes_of(const struct rig_kind *kind)
{
	unsigned before = pipes(), in_downtime = 0;
	struct rig r;

	rig_init(&r, kind);
	r.src.phase_hook = count_pipes;
	r.src.arg = &in_downtime;
	rig_run(&r);
	rig_migrated(&r);
	rig_free(&r);
	return in_downtime - before;
}

/* References to pages go through a pipe; to those of hugetlbfs nobody keeps any (transport/xport.h, copies). */
Test(huge_references, only_to_others)
{
	hugepool_or_skip(POOL_PAGES);
	cr_assert_eq(pipes_of(RIG_TCP_HUGE_ANON), 0);
	cr_assert_eq(pipes_of(RIG_TCP_HUGE_SHARED), 0);
	cr_assert_gt(pipes_of(RIG_TCP_SHARED), 0, "does splice() work here? rdma-migrate doctor: zero-copy");
}

/* ---- refused ---- */

Test(huge_refused, a_length_that_is_no_multiple)
{
	struct rig r;

	begin(&r, RIG_MEM_HUGE_ANON);
	r.src.region[0].len -= FAKE_PAGE;
	cr_assert_eq(ferry_source_new(&r.src.session,
				      &(struct ferry_vm){ FERRY_VM_INIT, .vm = &r.src, .ops = &r.src.ops,
							  .regions = r.src.region, .nregions = 2 },
				      NULL),
		     -EINVAL);
	rig_says(r.src.error_line, "both must be multiples of 2097152");
	r.src.region[0].len += FAKE_PAGE;
	rig_free(&r);
}

Test(huge_refused, a_memfd_whose_pages_are_not_as_said)
{
	struct rig r;

	begin(&r, RIG_MEM_HUGE_SHARED);
	r.src.region[0].page_shift = 12;
	cr_assert_eq(ferry_source_new(&r.src.session,
				      &(struct ferry_vm){ FERRY_VM_INIT, .vm = &r.src, .ops = &r.src.ops,
							  .regions = r.src.region, .nregions = 2 },
				      NULL),
		     -EINVAL);
	rig_says(r.src.error_line, "has pages of 2097152 bytes, its page_shift 12 says 4096");
	rig_free(&r);
}

/* The target's VMM promises nothing (MAP_NORESERVE) and the pool is empty: refused, and the guest never
 * noticed. */
static int unreserved(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;

	(void)needs;
	vm->calls[FAKE_RESERVE]++;
	for (size_t i = 0; i < n; i++) {
		struct ferry_region *r = &regions[i];

		r->fd = memfd_create("unreserved", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
		if (r->fd < 0 || ftruncate(r->fd, (off_t)r->len))
			return -errno;
		r->hva = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->fd, 0);
		if (r->hva == MAP_FAILED)
			return -ENOMEM;
		vm->region[i] = *r;
	}
	return 0;
}

Test(huge_refused, where_the_pool_is_too_small)
{
	struct rig r;
	size_t most = (size_t)1 << 45;
	void *rest;

	begin(&r, RIG_TCP_HUGE_SHARED);
	/* Promise all that is left to somebody else. */
	do
		rest = mmap(NULL, most /= 2, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
	while (most > (4u << 20) || rest != MAP_FAILED);
	r.tgt.ops.reserve = unreserved;
	rig_run(&r);
	rig_refused(&r);
	rig_says(r.tres.detail, "takes 4 huge pages of 2 MiB and this host has");
	rig_says(r.sres.detail, "sysctl -w vm.nr_hugepages=");
	rig_free(&r);
}

/* ---- a huge page that the host has lost ---- */

#define HUGE ((size_t)2 << 20)
#define HUGE_LOST 512u /* its first page, of region 0 */

static const struct rig *the_rig;
static volatile unsigned met;

/* The guest takes fresh memory for it. */
static void guest_recovers(void)
{
	uint8_t *p = fake_page(&the_rig->tgt, 0, HUGE_LOST);

	met++;
	madvise(p, HUGE, MADV_DONTNEED);
	memcpy(p, the_rig->world.frozen + fake_offset(0, HUGE_LOST), HUGE);
}

static int lost_pages(void *v, uint32_t region, uint64_t page, uint64_t npages)
{
	struct fakevm *vm = v;
	bool *told = vm->arg;

	if (region != 10 || page != HUGE_LOST || npages != 512)
		world_trouble(vm->w, "poison of pages %llu+%llu of region %u", (unsigned long long)page,
			      (unsigned long long)npages, region);
	*told = true;
	return 0;
}

/* It has crossed, and its guest has written three pieces of it, when the host loses it. */
static void lost_after_the_first_round(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_FETCH || vm->calls[op] != 1)
		return;
	broken_poison(fake_page(vm, 0, HUGE_LOST), HUGE);
	for (uint64_t page = HUGE_LOST + 5; page < HUGE_LOST + 512; page += 200)
		vm->dirty[0][page / 64] |= UINT64_C(1) << page % 64;
}

static void carried(struct rig *r, bool postcopy, bool later)
{
	bool source = false, target = false;

	if (!broken_can_poison())
		cr_skip_test(
			"UFFDIO_POISON stands in for a hardware error here, and this kernel has none: Linux 6.6 has it");
	if (postcopy)
		rig_postcopy(r, 0);
	else
		r->scfg.mode = FERRY_MODE_STOP_AND_COPY;
	for (int i = 0; i < 8; i++)
		r->src.writes[i] = 0;
	r->src.last_writes = 0;
	r->src.ops.poison = r->tgt.ops.poison = lost_pages;
	r->src.arg = &source;
	r->tgt.arg = &target;
	the_rig = r;
	broken_watch();
	broken_guest(&r->tgt.cpu, guest_recovers);
	if (later)
		r->src.hook = lost_after_the_first_round;
	else
		broken_poison(fake_page(&r->src, 0, HUGE_LOST), HUGE);
	rig_run(r);
	broken_untouched();
	rig_migrated(r);
	cr_assert(source && target && met == 1, "%d %d %u", source, target, met);
	rig_free(r);
}

HUGE_TESTS(huge_stop_and_copy, a_lost_page_is_carried)
{
	struct rig r;

	begin(&r, kind);
	carried(&r, false, false);
}

HUGE_TESTS(huge_post_copy, a_lost_page_is_carried)
{
	struct rig r;

	begin(&r, kind);
	carried(&r, true, false);
}

HUGE_TESTS(huge_stop_and_copy, a_page_lost_later_is_carried)
{
	struct rig r;

	begin(&r, kind);
	carried(&r, false, true);
}

HUGE_TESTS(huge_post_copy, a_page_lost_later_is_carried)
{
	struct rig r;

	begin(&r, kind);
	carried(&r, true, true);
}

/*
 * Pieces of it have been named as residue when the link is lost, and it has an error when all is named again: the target cannot poison
 * what it will ask for.
 */
static void lost_with_the_link(struct fakevm *vm, enum fake_op op)
{
	bool second = vm->calls[op] == 1 + FAKE_REGIONS; /* region 0's */

	if (op != FAKE_DIRTY_FETCH || (vm->calls[op] != 1 && !second))
		return;
	vm->dirty[0][HUGE_LOST / 64] |= UINT64_C(1) << (1 + second);
	if (!second)
		return;
	for (size_t i = 0; i < 4; i++)
		vm->dirty[0][i] = ~UINT64_C(0);
	broken_poison(fake_page(vm, 0, HUGE_LOST), HUGE);
	if (ferry_drill(vm->session, "cut:50"))
		world_trouble(vm->w, "the link could not be cut");
}

HUGE_TESTS(huge_post_copy, a_page_of_the_residue_is_not_carried)
{
	bool source = false, target = false;
	struct rig r;

	begin(&r, kind);
	if (!broken_can_poison())
		cr_skip_test(
			"UFFDIO_POISON stands in for a hardware error here, and this kernel has none: Linux 6.6 has it");
	rig_postcopy(&r, 0);
	for (int i = 0; i < 8; i++)
		r.src.writes[i] = 0;
	r.src.last_writes = 0;
	r.src.ops.poison = r.tgt.ops.poison = lost_pages;
	r.src.arg = &source;
	r.tgt.arg = &target;
	r.src.hook = lost_with_the_link;
	broken_watch();
	rig_run(&r);
	broken_untouched();
	broken_heal(fake_page(&r.src, 0, HUGE_LOST), HUGE);
	memcpy(fake_page(&r.src, 0, HUGE_LOST), r.src.shadow + fake_offset(0, HUGE_LOST), HUGE);
	cr_assert_eq(r.sres.stats.reconnects, 1);
	rig_refused(&r);
	rig_says(r.sres.detail, "page 513 of region 10 (guest address 0x201000, mapped at 0x");
	rig_says(r.sres.detail, "cannot be read: the host's memory has a hardware error there");
	cr_assert(!source && !target);
	rig_free(&r);
}
