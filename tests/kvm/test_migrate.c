// SPDX-License-Identifier: MIT
/*
 * Real guests between two processes, as rdma-migrate runs them: after each ending every byte of RAM is replayed from
 * the guest's own sequence, and the numbered output is counted.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "hugepool.h"
#include "plainvm.h"
#include "bench/cli/run.h"

#define POOL_PAGES (2 * (64 / 2) + 8) /* two guests of 64 MiB, and some to spare */

HUGEPOOL(POOL_PAGES)
HUGEPOOL_END()

static void migrate(struct run_report *r, struct options *o, int argc, char **argv)
{
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		cr_skip_test("no /dev/kvm that can be used");
	cr_assert_eq(options_parse(o, argc, argv), 0);
	if (o->dirty_tracking == VMM_TRACKING_RING)
		plainvm_ring_or_skip();
	memset(r, 0, sizeof(*r));
	run_once(r, o, 1, NULL, NULL);
}

/* How much a guest writes during a short pre-copy is the scheduler's choice. */
static void tracked_as_asked(const struct run_report *r)
{
	const struct vmm_tracked *t = &r->end[VMM_END_SOURCE].cpu.tracked;
	bool ring = r->o->dirty_tracking == VMM_TRACKING_RING;

	cr_assert_eq(t->by, ring ? VMM_TRACKING_RING : VMM_TRACKING_LOG);
	cr_expect_gt(t->fetch_ns, 0);
	for (uint64_t i = ring ? r->o->vcpus : 0; i < VMM_VCPUS_MAX; i++)
		cr_expect_eq(t->pages[i], 0, "vCPU %llu", (unsigned long long)i);
}

static void clean(const struct run_report *r, const char *outcome, enum ferry_owner owner)
{
	cr_assert_str_eq(r->outcome, outcome, "%s: %s", r->outcome, r->sentence);
	cr_assert_eq(r->owner, owner, "%s", r->sentence);
	cr_assert(r->have_proof && !r->proof_err && r->ran_on, "%s", r->sentence);
	cr_assert_eq(r->proof.pages_bad, 0, "%s", r->proof.text);
	cr_assert_eq(r->proof.guest_errors, 0, "%s", r->proof.text);
	cr_assert_eq(r->proof.pages_checked, (64u << 20) / 4096);
	cr_assert_gt(r->proof.stamps, 0);
	cr_assert_eq(r->verdict, VERDICT_OK, "%s", r->sentence);
	tracked_as_asked(r);
}

#define ARGS                                                                                       \
	"rdma-migrate", "run", "--memory", "64M", "--working-set", "16M", "--dirty-rate", "20000", \
		"--quiet", "--floor", "off"

#define MIGRATES(name, ...)                                                \
	Test(migrate, name)                                                \
	{                                                                  \
		char *argv[] = { ARGS, __VA_ARGS__, NULL };                \
		struct run_report r;                                       \
		struct options o;                                          \
		migrate(&r, &o, sizeof(argv) / sizeof(argv[0]) - 1, argv); \
		clean(&r, "migrated", FERRY_OWNER_TARGET);                 \
	}

#define MIGRATES_HUGE(name, ...)                                           \
	Test(migrate_huge, name)                                           \
	{                                                                  \
		char *argv[] = { ARGS, __VA_ARGS__, NULL };                \
		struct run_report r;                                       \
		struct options o;                                          \
		hugepool_or_skip(POOL_PAGES);                              \
		migrate(&r, &o, sizeof(argv) / sizeof(argv[0]) - 1, argv); \
		clean(&r, "migrated", FERRY_OWNER_TARGET);                 \
	}

#define FALLS_BACK_HUGE(name, ...)                                         \
	Test(migrate_huge, name)                                           \
	{                                                                  \
		char *argv[] = { ARGS, __VA_ARGS__, NULL };                \
		struct run_report r;                                       \
		struct options o;                                          \
		hugepool_or_skip(POOL_PAGES);                              \
		migrate(&r, &o, sizeof(argv) / sizeof(argv[0]) - 1, argv); \
		clean(&r, "fell-back", FERRY_OWNER_SOURCE);                \
	}

#define FALLS_BACK(name, ...)                                              \
	Test(migrate, name)                                                \
	{                                                                  \
		char *argv[] = { ARGS, __VA_ARGS__, NULL };                \
		struct run_report r;                                       \
		struct options o;                                          \
		migrate(&r, &o, sizeof(argv) / sizeof(argv[0]) - 1, argv); \
		clean(&r, "fell-back", FERRY_OWNER_SOURCE);                \
	}

MIGRATES(stop_and_copy_anon, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind", "anon")
MIGRATES(stop_and_copy_memfd, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind", "memfd")
MIGRATES(post_copy_anon, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "anon")
MIGRATES(post_copy_memfd, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "memfd")
MIGRATES(post_copy_small_pages, "--mode", "post-copy", "--max-rounds", "1", "--thp", "off")
MIGRATES(post_copy_memfd_on_huge_pages, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "memfd",
	 "--thp", "on")
MIGRATES(commit_at_switchover_anon, "--mode", "post-copy", "--max-rounds", "1", "--commit-at", "switchover",
	 "--memory-kind", "anon")
MIGRATES(commit_at_switchover_memfd, "--mode", "post-copy", "--max-rounds", "1", "--commit-at", "switchover",
	 "--memory-kind", "memfd")
MIGRATES(post_copy_by_rounds, "--mode", "post-copy", "--memory-kind", "memfd")
MIGRATES(auto_mode_anon, "--mode", "auto", "--memory-kind", "anon")
MIGRATES(auto_mode_memfd, "--mode", "auto", "--memory-kind", "memfd")
MIGRATES(two_vcpus_post_copy_anon, "--vcpus", "2", "--mode", "post-copy", "--max-rounds", "1",
	 "--memory-kind", "anon")
MIGRATES(two_vcpus_post_copy_memfd, "--vcpus", "2", "--mode", "post-copy", "--max-rounds", "1",
	 "--memory-kind", "memfd")
MIGRATES(two_vcpus_stop_and_copy, "--vcpus", "2", "--mode", "stop-and-copy", "--downtime", "20s",
	 "--memory-kind", "anon")
MIGRATES(three_channels, "--channels", "3", "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
	 "memfd")

FALLS_BACK(target_killed_in_post_copy_anon, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
	   "anon", "--kill", "target@post-copy")
FALLS_BACK(target_killed_in_post_copy_memfd, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
	   "memfd", "--vcpus", "2", "--kill", "target@post-copy")
FALLS_BACK(link_cut_in_stop_and_copy, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind", "anon",
	   "--kill", "link@stop-and-copy")

#define RING "--dirty-tracking", "ring"
MIGRATES(ring_stop_and_copy, RING, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind", "anon")
MIGRATES(ring_post_copy, RING, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "anon")
MIGRATES(ring_two_vcpus_post_copy, RING, "--vcpus", "2", "--mode", "post-copy", "--max-rounds", "1",
	 "--memory-kind", "memfd")
MIGRATES(ring_of_a_guest_that_never_rests, RING, "--vcpus", "2", "--dirty-rate", "1000000", "--working-set",
	 "48M", "--max-rounds", "4", "--mode", "post-copy")
FALLS_BACK(ring_target_killed_in_post_copy, RING, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
	   "memfd", "--vcpus", "2", "--kill", "target@post-copy")
FALLS_BACK(ring_link_cut_in_stop_and_copy, RING, "--mode", "stop-and-copy", "--downtime", "20s", "--kill",
	   "link@stop-and-copy")

MIGRATES_HUGE(stop_and_copy, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind", "hugetlb")
MIGRATES_HUGE(stop_and_copy_memfd, "--mode", "stop-and-copy", "--downtime", "20s", "--memory-kind",
	      "hugetlb-memfd")
MIGRATES_HUGE(post_copy, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "hugetlb")
MIGRATES_HUGE(post_copy_memfd, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind", "hugetlb-memfd",
	      "--populate", "30")
MIGRATES_HUGE(two_vcpus_and_channels, "--vcpus", "2", "--channels", "2", "--mode", "post-copy",
	      "--max-rounds", "1", "--memory-kind", "hugetlb-memfd")
FALLS_BACK_HUGE(target_killed_in_post_copy, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
		"hugetlb", "--kill", "target@post-copy")
FALLS_BACK_HUGE(target_killed_in_post_copy_memfd, "--mode", "post-copy", "--max-rounds", "1", "--memory-kind",
		"hugetlb-memfd", "--kill", "target@post-copy")
