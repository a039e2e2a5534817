// SPDX-License-Identifier: MIT
/*
 * A huge page is not to be had: the host's pool is empty, or the cgroup may not have more. Each has its own cure, and none is
 * taken for a page that is there (Linux 6.18 says EEXIST for all three).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/mman.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "cgroup.h"
#include "hugepool.h"
#include "runtime/base/fail.h"
#include "runtime/memory/pages.h"
#include "runtime/memory/place.h"

#define UNITS UINT64_C(4)
#define UNIT (UINT64_C(1) << 21)
#define UNIT_PAGES 512u

HUGEPOOL(UNITS)

HUGEPOOL_END()

struct bed {
	struct ferry_region reg;
	struct place place;
	struct page_set missing;
	struct fail f;
};

/* Nothing is reserved: whether there is a page is found out when it arrives. */
static void make_bed(struct bed *b)
{
	const uint64_t npages = UNITS * UNIT_PAGES;

	memset(b, 0, sizeof(*b));
	b->reg = (struct ferry_region){ .id = 3, .len = UNITS * UNIT, .fd = -1, .page_shift = 21 };
	b->reg.hva = mmap(NULL, b->reg.len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_NORESERVE, -1, 0);
	cr_assert(b->reg.hva != MAP_FAILED);
	page_set_init(&b->missing, &npages, 1);
	cr_assert_eq(place_open(&b->place, &b->reg, 1, &(struct place_param){ 0 }, &b->f), 0, "%s",
		     fail_text(&b->f));
	cr_assert_eq(place_arm(&b->place, &b->f), 0, "%s", fail_text(&b->f));
	page_set_add_run(&b->missing, &(struct page_run){ .npages = UNIT_PAGES });
	place_expect(&b->place, &b->missing);
	memset(place_inbox(&b->place, 0), 7, UNIT);
}

static int arrive(struct bed *b)
{
	uint64_t done;

	return place_run(&b->place, &(struct page_run){ .npages = UNIT_PAGES }, NULL, true, &done, &b->f);
}

static void free_bed(struct bed *b)
{
	place_close(&b->place);
	munmap(b->reg.hva, b->reg.len);
	page_set_destroy(&b->missing);
}

static void says(struct bed *b, const char *cure, const char *other)
{
	cr_expect(strstr(fail_text(&b->f), cure) && !strstr(fail_text(&b->f), other), "%s", fail_text(&b->f));
}

Test(huge_limit, a_pool_that_is_empty)
{
	struct bed b;
	uint8_t *all;
	size_t n = 0;

	hugepool_or_skip((long)UNITS);
	make_bed(&b);
	/* The pool's last page is taken by somebody who reserves it. */
	all = mmap(NULL, UNIT << 14, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert(all != MAP_FAILED);
	all = (uint8_t *)(((uintptr_t)all + UNIT - 1) & ~(uintptr_t)(UNIT - 1));
	while (n < (1 << 14) - 1 && mmap(all + n * UNIT, UNIT, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | MAP_FIXED,
					 -1, 0) != MAP_FAILED)
		memset(all + n++ * UNIT, 1, 1);
	cr_assert_eq(arrive(&b), -ENOMEM);
	says(&b, "raise vm.nr_hugepages", "cgroup");
	/* A page that is clean, and zero, needs one too. */
	fail_reset(&b.f);
	cr_assert_eq(place_clean(&b.place, &(struct page_run){ .page = UNIT_PAGES, .npages = UNIT_PAGES },
				 &b.f),
		     -ENOMEM);
	says(&b, "raise vm.nr_hugepages", "cgroup");
	munmap(all, n * UNIT);
	free_bed(&b);
}

Test(huge_limit, a_cgroup_that_may_not_have_more)
{
	struct cgroup g;
	struct bed b;
	int err;

	hugepool_or_skip((long)UNITS);
	if (!cgroup_make(&g, "hugetlb"))
		cr_skip_test("there is no cgroup controller hugetlb here, or not for this user");
	make_bed(&b);
	cr_assert(cgroup_set(&g, "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max", "0"));
	cr_assert(cgroup_enter(&g));
	err = arrive(&b);
	cgroup_leave(&g);
	cr_assert_eq(err, -ENOMEM, "%d", err);
	says(&b, "hugetlb.2MB.max", "nr_hugepages");
	free_bed(&b);
}
