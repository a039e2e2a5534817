// SPDX-License-Identifier: MIT
/* Regions that ask for transparent huge pages have them again when the target is done, and every byte is
 * right. */
#include <sys/mman.h>

#include "rig.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define MIB (UINT64_C(1) << 20)
/* Of the rig's regions two pieces are whole: the other ends share theirs with what lies beside them. */
#define WHOLE (4 * MIB)

#define THP_TESTS(name)                                      \
	static void thp_##name(const struct rig_kind *kind); \
	Test(thp, name##_tcp_anon)                           \
	{                                                    \
		thp_##name(RIG_TCP_THP_ANON);                \
	}                                                    \
	Test(thp, name##_mem_memfd)                          \
	{                                                    \
		thp_##name(RIG_MEM_THP_SHARED);              \
	}                                                    \
	static void thp_##name(const struct rig_kind *kind)

static void begin(struct rig *r, const struct rig_kind *kind)
{
	char *p = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t piece = ((uintptr_t)p + 2 * MIB - 1) & ~(uintptr_t)(2 * MIB - 1);

	cr_assert_neq(p, MAP_FAILED);
	*(volatile char *)piece = 1;
	if (madvise((void *)piece, 2 * MIB, MADV_COLLAPSE))
		cr_skip_test("this kernel collapses nothing: %s", strerror(errno));
	munmap(p, 4 * MIB);
	rig_init(r, kind);
}

THP_TESTS(is_there_again_after_post_copy)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	rig_run(&r);
	fakevm_finish(&r.tgt);
	rig_migrated(&r);
	cr_assert_lt(r.tres.thp_before, WHOLE, "the residue was dropped, or arrived in small pages");
	cr_assert_eq(r.tres.thp_after, WHOLE, "%d KiB, %d before", (int)(r.tres.thp_after >> 10),
		     (int)(r.tres.thp_before >> 10));
	cr_assert_gt(r.tres.collapse_us, 0);
	rig_free(&r);
}

THP_TESTS(is_there_after_stop_and_copy)
{
	struct rig r;

	begin(&r, kind);
	r.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.tres.thp_after, WHOLE, "%d KiB, %d before", (int)(r.tres.thp_after >> 10),
		     (int)(r.tres.thp_before >> 10));
	rig_free(&r);
}

static void cancel_when_done(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_DONE && ferry_cancel(vm->session) != -EALREADY)
		world_trouble(vm->w, "ferry_cancel() after the commit was taken");
}

/* The VM is the target's all the same. */
THP_TESTS(is_left_alone_when_canceled)
{
	struct rig r;

	begin(&r, kind);
	rig_postcopy(&r, 0);
	r.tgt.phase_hook = cancel_when_done;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.tres.thp_after, r.tres.thp_before);
	rig_free(&r);
}

Test(thp, is_not_made_where_nobody_asked)
{
	struct rig r;

	begin(&r, RIG_MEM_ANON);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert(!r.tres.thp_before && !r.tres.thp_after && !r.tres.collapse_us);
	cr_assert(!r.sres.thp_before);
	rig_free(&r);
}
