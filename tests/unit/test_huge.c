// SPDX-License-Identifier: MIT
/* Huge pages of hugetlbfs below the protocol: which are there, and how pieces of 4 KiB become mapped ones. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hugepool.h"
#include "refuse.h"
#include "runtime/base/fail.h"
#include "runtime/base/uffd_abi.h"
#include "runtime/memory/mapping.h"
#include "runtime/memory/place.h"
#include "runtime/memory/populated.h"
#include "runtime/memory/uffd.h"

#define PAGE 4096u
#define UNIT (UINT64_C(2) << 20)
#define UNITS 8u
#define NPAGES (UNITS * HUGE_PAGES)
#define NEED 12

HUGEPOOL(NEED)
HUGEPOOL_END()

static struct ferry_region region(bool shared)
{
	struct ferry_region r = {
		.len = UNITS * UNIT, .fd = -1, .page_shift = 21, .flags = shared ? FERRY_REGION_SHARED : 0
	};
	int flags = shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB;

	hugepool_or_skip(NEED);
	if (shared) {
		r.fd = memfd_create("test", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
		r.fd_offset = 3 * UNIT;
		cr_assert_geq(r.fd, 0, "%s", strerror(errno));
		cr_assert_eq(ftruncate(r.fd, (off_t)(r.fd_offset + r.len)), 0);
	}
	r.hva = mmap(NULL, r.len, PROT_READ | PROT_WRITE, flags, r.fd, (off_t)r.fd_offset);
	cr_assert_neq(r.hva, MAP_FAILED, "%s", strerror(errno));
	return r;
}

/* ---- which are there ---- */

typedef int (*finder)(struct page_set *, uint32_t, const struct ferry_region *, uint64_t *);

/* Units 1, 4 and 5 hold something; unit 1 of them was never touched through the VM's mapping. */
static void finds(finder find, bool shared)
{
	struct ferry_region r = region(shared);
	const uint64_t npages = NPAGES;
	uint8_t *other =
		shared ? mmap(NULL, r.len, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, (off_t)r.fd_offset)
		       : r.hva;
	uint64_t count = 0;
	struct page_set s;

	other[UNIT + 5] = 1;
	((uint8_t *)r.hva)[4 * UNIT] = 1;
	((uint8_t *)r.hva)[6 * UNIT - 1] = 1;
	page_set_init(&s, &npages, 1);
	cr_assert_eq(find(&s, 0, &r, &count), 0);
	cr_assert_eq(count, 3 * HUGE_PAGES);
	for (uint64_t u = 0; u < UNITS; u++)
		cr_assert_eq(page_set_test(&s, 0, u * HUGE_PAGES + 7), u == 1 || u == 4 || u == 5,
			     "huge page %d", (int)u);
	/* Looking has made none. */
	count = 0;
	page_set_clear(&s);
	cr_assert_eq(find(&s, 0, &r, &count), 0);
	cr_assert_eq(count, 3 * HUGE_PAGES);
	page_set_destroy(&s);
}

Test(huge_populated, memfd)
{
	finds(populated_pages, true);
}

Test(huge_populated, memfd_by_continue)
{
	finds(populated_by_continue, true);
}

Test(huge_populated, memfd_by_read)
{
	finds(populated_by_read, true);
}

/* Nobody can break a huge page on demand: a filter says what the kernel says of one, and says it of all. */
static void finds_what_is_lost(finder find, const struct refused *r, int err)
{
	const uint64_t npages = NPAGES;
	struct ferry_region reg = region(true);
	struct page_set s;
	uint64_t count = 0;

	page_set_init(&s, &npages, 1);
	refuse_calls(r, 1, err, false);
	cr_assert_eq(find(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, NPAGES);
	cr_assert_eq(page_set_count(&s), NPAGES);
	page_set_destroy(&s);
	munmap(reg.hva, reg.len);
	close(reg.fd);
}

Test(huge_populated, what_the_host_has_lost_by_continue)
{
	finds_what_is_lost(populated_by_continue,
			   &(struct refused){ SYS_ioctl, 2, (uint32_t)UFFDIO_CONTINUE }, EIO);
}

Test(huge_populated, what_the_host_has_lost_by_continue_as_poison)
{
	finds_what_is_lost(populated_by_continue,
			   &(struct refused){ SYS_ioctl, 2, (uint32_t)UFFDIO_CONTINUE }, EHWPOISON);
}

Test(huge_populated, what_the_host_has_lost_by_read)
{
	finds_what_is_lost(populated_by_read, &(struct refused){ SYS_pread64, 0, 0 }, EIO);
}

Test(huge_populated, anonymous)
{
	finds(populated_pages, false);
}

Test(huge_populated, anonymous_by_pagemap)
{
	finds(populated_by_pagemap, false);
}

/* ---- placing ---- */

struct bed {
	struct ferry_region reg;
	struct place place;
	struct page_set missing;
	struct fail f;
};

static void pattern(uint8_t *page, uint64_t n)
{
	for (unsigned i = 0; i < PAGE / 8; i++)
		((uint64_t *)page)[i] = (n << 32 | i) + 1;
}

static void expect_pattern(const uint8_t *page, uint64_t n)
{
	for (unsigned i = 0; i < PAGE / 8; i++)
		cr_assert_eq(((const uint64_t *)page)[i], (n << 32 | i) + 1, "page %d, word %u", (int)n, i);
}

/* All of unit 2 and 3 has landed in pre-copy, armed. */
static void make_bed(struct bed *b, bool shared)
{
	const uint64_t npages = NPAGES;

	memset(b, 0, sizeof(*b));
	b->reg = region(shared);
	page_set_init(&b->missing, &npages, 1);
	cr_assert_eq(place_open(&b->place, &b->reg, 1, &(struct place_param){ 0 }, &b->f), 0, "%s",
		     fail_text(&b->f));
	cr_assert(place_direct(&b->place, 0));
	for (uint64_t p = 2 * HUGE_PAGES; p < 4 * HUGE_PAGES; p++)
		pattern((uint8_t *)place_landing(&b->place, 0) + p * PAGE, p);
	cr_assert_eq(place_arm(&b->place, &b->f), 0, "%s", fail_text(&b->f));
}

static void lose(struct bed *b, uint64_t page, uint32_t n)
{
	page_set_add_run(&b->missing, &(struct page_run){ .page = page, .npages = n });
}

static void drop(struct bed *b)
{
	struct page_cursor at = { 0 };
	int err;

	while ((err = place_drop(&b->place, &b->missing, &at, &b->f)) == 1)
		;
	cr_assert_eq(err, 0, "%s", fail_text(&b->f));
	place_expect(&b->place, &b->missing);
}

/* So many pages have arrived; what that took out of missing. */
static uint64_t arrive(struct bed *b, uint64_t page, uint32_t n)
{
	uint64_t done = 77;

	for (uint64_t p = page; p < page + n; p++)
		pattern(place_inbox(&b->place, 0) + p * PAGE, p);
	cr_assert_eq(place_run(&b->place, &(struct page_run){ .page = page, .npages = n }, NULL, true, &done,
			       &b->f),
		     0, "%s", fail_text(&b->f));
	return done;
}

static bool is_mapped(const struct bed *b, uint64_t unit)
{
	unsigned char in;

	/* Of hugetlbfs mincore() tells whether this mapping has it. */
	cr_assert_eq(mincore((uint8_t *)b->reg.hva + unit * UNIT, PAGE, &in), 0);
	return in & 1;
}

static void free_bed(struct bed *b)
{
	place_close(&b->place);
	page_set_destroy(&b->missing);
	munmap(b->reg.hva, b->reg.len);
	if (b->reg.fd >= 0)
		close(b->reg.fd);
}

Test(huge_place, a_memfd_lacks_only_its_dirty_pieces)
{
	struct bed b;

	make_bed(&b, true);
	lose(&b, 2 * HUGE_PAGES + 5, 1);
	lose(&b, 2 * HUGE_PAGES + 500, 30); /* into unit 3 */
	drop(&b);
	cr_assert_eq(page_set_count(&b.missing), 31);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES + 5, 1), 0);
	cr_assert(!is_mapped(&b, 2));
	cr_assert_eq(page_set_count(&b.missing), 31, "what is not mapped is missing");
	/* A run that ends in the next huge page completes both. */
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES + 500, 30), 31);
	cr_assert(is_mapped(&b, 2) && is_mapped(&b, 3));
	cr_assert_eq(page_set_count(&b.missing), 0);
	for (uint64_t p = 2 * HUGE_PAGES; p < 4 * HUGE_PAGES; p++)
		expect_pattern((uint8_t *)b.reg.hva + p * PAGE, p);
	free_bed(&b);
}

Test(huge_place, private_memory_lacks_whole_huge_pages)
{
	struct bed b;

	make_bed(&b, false);
	cr_assert(is_mapped(&b, 2) && is_mapped(&b, 3));
	lose(&b, 2 * HUGE_PAGES + 5, 1);
	lose(&b, 2 * HUGE_PAGES + 77, 3);
	drop(&b);
	cr_assert(!is_mapped(&b, 2), "dropped with its clean pieces");
	cr_assert(is_mapped(&b, 3));
	cr_assert_eq(page_set_count(&b.missing), HUGE_PAGES);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES + 100, HUGE_PAGES - 100), 0);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES, 99), 0);
	cr_assert(!is_mapped(&b, 2));
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES + 99, 1), HUGE_PAGES);
	cr_assert(is_mapped(&b, 2));
	for (uint64_t p = 2 * HUGE_PAGES; p < 4 * HUGE_PAGES; p++)
		expect_pattern((uint8_t *)b.reg.hva + p * PAGE, p);
	free_bed(&b);
}

static void begins_anew(bool shared)
{
	struct bed b;
	uint64_t due;

	make_bed(&b, shared);
	lose(&b, 2 * HUGE_PAGES, 4);
	drop(&b);
	due = page_set_count(&b.missing);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES, 2), 0);
	place_expect(&b.place, &b.missing); /* a new link: all of it is asked for again */
	cr_assert_eq(page_set_count(&b.missing), due);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES + 2, (uint32_t)due - 2), 0);
	cr_assert_eq(arrive(&b, 2 * HUGE_PAGES, 2), due);
	free_bed(&b);
}

Test(huge_place, pieces_are_counted_anew_on_a_new_link_memfd)
{
	begins_anew(true);
}

Test(huge_place, pieces_are_counted_anew_on_a_new_link_private)
{
	begins_anew(false);
}

static void clean(bool shared)
{
	const struct page_run hole = { .page = 6 * HUGE_PAGES, .npages = HUGE_PAGES };
	const struct page_run there = { .page = 3 * HUGE_PAGES, .npages = HUGE_PAGES };
	struct bed b;

	make_bed(&b, shared);
	place_expect(&b.place, &b.missing);
	cr_assert_eq(place_clean(&b.place, &hole, &b.f), 0, "%s", fail_text(&b.f));
	cr_assert_eq(place_clean(&b.place, &hole, &b.f), 0, "twice: %s", fail_text(&b.f));
	cr_assert_eq(place_clean(&b.place, &there, &b.f), 0, "%s", fail_text(&b.f));
	for (size_t i = 0; i < UNIT; i++)
		cr_assert_eq(((uint8_t *)b.reg.hva)[6 * UNIT + i], 0);
	for (uint64_t p = 3 * HUGE_PAGES; p < 4 * HUGE_PAGES; p++)
		expect_pattern((uint8_t *)b.reg.hva + p * PAGE, p);
	free_bed(&b);
}

Test(huge_place, a_clean_fault_maps_the_whole_or_zeros_memfd)
{
	clean(true);
}

Test(huge_place, a_clean_fault_maps_the_whole_or_zeros_private)
{
	clean(false);
}

/* Before the switchover; the neighbours keep what they have. */
static void zeros(bool shared)
{
	const struct page_run run = { .page = 2 * HUGE_PAGES + 510, .npages = 5 };
	struct bed b;
	const uint8_t *mem;

	make_bed(&b, shared);
	cr_assert_eq(place_zero(&b.place, &run, &b.f), 0, "%s", fail_text(&b.f));
	mem = place_landing(&b.place, 0);
	for (uint64_t p = 2 * HUGE_PAGES; p < 4 * HUGE_PAGES; p++) {
		if (p < run.page || p >= run.page + run.npages)
			expect_pattern(mem + p * PAGE, p);
		else
			for (unsigned i = 0; i < PAGE; i++)
				cr_assert_eq(mem[p * PAGE + i], 0);
	}
	free_bed(&b);
}

Test(huge_place, pieces_become_zero_memfd)
{
	zeros(true);
}

Test(huge_place, pieces_become_zero_private)
{
	zeros(false);
}

Test(huge_place, a_fault_anywhere_means_the_huge_page)
{
	struct page_run run;
	struct bed b;

	make_bed(&b, true);
	cr_assert(place_find(&b.place, (uintptr_t)b.reg.hva + 3 * UNIT + 12345, &run));
	cr_assert(run.region == 0 && run.page == 3 * HUGE_PAGES && run.npages == HUGE_PAGES);
	cr_assert(!place_find(&b.place, (uintptr_t)b.reg.hva + b.reg.len, &run));
	free_bed(&b);
}

Test(huge_place, private_huge_pages_are_not_for_a_device_that_pins)
{
	struct ferry_region r = region(false);
	struct fail f = { 0 };
	struct place p;

	cr_assert_eq(place_open(&p, &r, 1, &(struct place_param){ .pinned = true }, &f), -EOPNOTSUPP);
	cr_assert(strstr(fail_text(&f), "make it a memfd"), "%s", fail_text(&f));
}

Test(huge_files, must_have_pages_as_said)
{
	struct ferry_region r = region(true);
	struct fail f = { 0 };

	cr_assert_eq(mapping_files(&r, 1, NULL), 0);
	r.page_shift = 12;
	cr_assert_eq(mapping_files(&r, 1, &f), -EINVAL);
	cr_assert(strstr(fail_text(&f), "has pages of 2097152 bytes, its page_shift 12 says 4096"), "%s",
		  fail_text(&f));
	fail_reset(&f);
	r.fd = memfd_create("small", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(r.fd, (off_t)(r.fd_offset + r.len)), 0);
	cr_assert_eq(mapping_files(&r, 1, NULL), 0);
	r.page_shift = 21;
	cr_assert_eq(mapping_files(&r, 1, &f), -EINVAL);
	cr_assert(strstr(fail_text(&f), "has pages of 4096 bytes, its page_shift 21 says 2097152"), "%s",
		  fail_text(&f));
	r.fd = 9999;
	cr_assert_eq(mapping_files(&r, 1, NULL), -EBADF);
}
