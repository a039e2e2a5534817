/* SPDX-License-Identifier: MIT */
/* Which pages are populated, as the kernel shows it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ferry/ferry.h"
#include "runtime/memory/populated.h"

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

typedef int (*finder)(struct page_set *, uint32_t, const struct ferry_region *, uint64_t *);

static struct ferry_region anonymous(uint64_t len)
{
	struct ferry_region reg = { .len = len, .fd = -1, .page_shift = 12 };

	reg.hva = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(reg.hva, MAP_FAILED);
	madvise(reg.hva, len, MADV_NOHUGEPAGE); /* or one touch populates 512 pages */
	return reg;
}

static struct ferry_region memfd(uint64_t file_len, uint64_t offset, uint64_t len)
{
	struct ferry_region reg = {
		.len = len, .fd_offset = offset, .page_shift = 12, .flags = FERRY_REGION_SHARED
	};

	reg.fd = memfd_create("test", MFD_CLOEXEC);
	cr_assert_geq(reg.fd, 0);
	cr_assert_eq(ftruncate(reg.fd, file_len), 0);
	reg.hva = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, reg.fd, offset);
	cr_assert_neq(reg.hva, MAP_FAILED);
	madvise(reg.hva, len, MADV_NOHUGEPAGE);
	return reg;
}

static bool scan_is_there(const struct ferry_region *reg)
{
	const uint64_t npages = reg->len / PAGE;
	struct page_set s;
	uint64_t count;
	int err;

	page_set_init(&s, &npages, 1);
	err = populated_by_scan(&s, 0, reg, &count);
	page_set_destroy(&s);
	return err != -ENOTTY;
}

/* Touches pages in several patterns; the set must hold them and nothing else. */
static void sparse(finder find, const struct ferry_region *reg)
{
	const uint64_t npages[] = { 1, reg->len / PAGE };
	uint64_t count = 0, wanted = 0;
	struct page_set want, got;
	char *mem = reg->hva;

	page_set_init(&want, npages, 2);
	page_set_init(&got, npages, 2);
	for (uint64_t p = 0; p < npages[1]; p++) {
		bool touch = p < 1000 ? p % 2 : p < 3000 ? p % 7 < 3 : p >= 5000 && p < 7000;

		if (!touch && p != npages[1] - 1)
			continue;
		mem[p * PAGE + p % PAGE] = p % 2; /* zero too: touched is enough */
		page_set_add(&want, 1, p);
		wanted++;
	}
	cr_assert_eq(find(&got, 1, reg, &count), 0);
	cr_assert_eq(count, wanted, "%lu of %lu", (unsigned long)count, (unsigned long)wanted);
	page_set_subtract(&got, &want);
	cr_assert_eq(page_set_count(&got), 0);
	page_set_destroy(&want);
	page_set_destroy(&got);
}

Test(populated, sparse_anonymous_memory)
{
	struct ferry_region reg = anonymous(64 * MIB);

	sparse(populated_pages, &reg);
}

Test(populated, sparse_anonymous_memory_by_scan)
{
	struct ferry_region reg = anonymous(64 * MIB);

	if (!scan_is_there(&reg))
		cr_skip_test("this kernel has no PAGEMAP_SCAN");
	sparse(populated_by_scan, &reg);
}

Test(populated, sparse_anonymous_memory_by_pagemap)
{
	struct ferry_region reg = anonymous(64 * MIB);

	sparse(populated_by_pagemap, &reg);
}

Test(populated, sparse_memfd)
{
	struct ferry_region reg = memfd(64 * MIB, 0, 64 * MIB);

	sparse(populated_pages, &reg);
}

Test(populated, a_memfd_counts_only_within_the_region)
{
	struct ferry_region reg = memfd(64 * MIB, 8 * MIB, 40 * MIB);
	char *all = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, reg.fd, 0);

	memset(all, 1, 8 * MIB);
	memset(all + 48 * MIB, 1, 16 * MIB);
	sparse(populated_pages, &reg);
}

Test(populated, data_across_both_ends_of_the_region_is_cut)
{
	struct ferry_region reg = memfd(16 * MIB, 4 * MIB, 4 * MIB);
	const uint64_t npages = 4 * MIB / PAGE;
	char *all = mmap(NULL, 16 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, reg.fd, 0);
	struct page_set s;
	uint64_t count = 0;

	memset(all, 1, 16 * MIB);
	page_set_init(&s, &npages, 1);
	cr_assert_eq(populated_pages(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, npages);
	cr_assert_eq(page_set_count(&s), npages);
	page_set_destroy(&s);
}

Test(populated, the_embedders_file_offset_stays)
{
	struct ferry_region reg = memfd(16 * MIB, 0, 16 * MIB);

	cr_assert_eq(lseek(reg.fd, 12345, SEEK_SET), 12345);
	sparse(populated_pages, &reg);
	cr_assert_eq(lseek(reg.fd, 0, SEEK_CUR), 12345);
}

Test(populated, a_file_shorter_than_the_region)
{
	struct ferry_region reg = memfd(4 * MIB, 0, 4 * MIB);
	const uint64_t npages = 8 * MIB / PAGE;
	struct page_set s;
	uint64_t count = 77;

	memset(reg.hva, 1, 4 * MIB);
	reg.len = 8 * MIB;
	page_set_init(&s, &npages, 1);
	cr_assert_eq(populated_pages(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, 4 * MIB / PAGE);
	page_set_destroy(&s);
}

Test(populated, a_bad_region_is_an_error_and_leaves_the_count)
{
	struct ferry_region reg = {
		.len = 4 * MIB, .fd = 9999, .page_shift = 12, .flags = FERRY_REGION_SHARED
	};
	const uint64_t npages = 4 * MIB / PAGE;
	struct page_set s;
	uint64_t count = 77;

	page_set_init(&s, &npages, 1);
	cr_assert_lt(populated_pages(&s, 0, &reg, &count), 0);
	reg.fd_offset = UINT64_MAX - 4095;
	cr_assert_eq(populated_pages(&s, 0, &reg, &count), -EOVERFLOW);
	cr_assert_eq(count, 77);
	page_set_destroy(&s);
}

/* Pages of the mapping that begins there which are its own, by the kernel's account: the zero page is not among them. */
static uint64_t own_pages(const void *hva)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long long begin, end, kb, own = 0;
	bool here = false, found = false;
	char line[512];

	cr_assert_not_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx-%llx ", &begin, &end) == 2)
			found |= here = begin == (uintptr_t)hva;
		else if (here &&
			 (sscanf(line, "Anonymous: %llu", &kb) == 1 || sscanf(line, "Swap: %llu", &kb) == 1))
			own += kb;
	}
	fclose(f);
	cr_assert(found);
	return own * 1024 / PAGE;
}

/* A read maps the zero page where the kernel has one; where it allocates a page, that page is populated. */
Test(populated, a_page_that_was_only_read_is_populated_only_if_it_was_allocated)
{
	struct ferry_region all = anonymous(16 * MIB + 2 * PAGE), reg = all;
	const uint64_t npages = 16 * MIB / PAGE;
	volatile char *mem;
	struct page_set s;
	uint64_t count = 0;

	if (!scan_is_there(&reg))
		cr_skip_test("this kernel has no PAGEMAP_SCAN");
	reg.len = 16 * MIB;
	reg.hva = (char *)all.hva + PAGE; /* a mapping of its own: its neighbours are not accessible */
	mprotect(all.hva, PAGE, PROT_NONE);
	mprotect((char *)reg.hva + reg.len, PAGE, PROT_NONE);
	mem = reg.hva;
	for (uint64_t p = 0; p < npages; p++)
		cr_assert_eq(mem[p * PAGE], 0);
	mem[5 * PAGE] = 1;
	page_set_init(&s, &npages, 1);
	cr_assert_eq(populated_pages(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, own_pages(reg.hva), "%lu populated, %lu allocated", (unsigned long)count,
		     (unsigned long)own_pages(reg.hva));
	cr_assert_geq(count, 1);
	cr_assert(page_set_test(&s, 0, 5));
	cr_assert_eq(populated_pages(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, 0, "only pages that were not in the set count");
	page_set_destroy(&s);
}

Test(populated, looking_populates_nothing)
{
	struct ferry_region reg = anonymous(16 * MIB);
	const uint64_t npages = reg.len / PAGE;
	finder finders[] = { populated_pages, populated_by_pagemap };
	unsigned char resident[16 * MIB / PAGE];
	struct page_set s;
	uint64_t count;

	page_set_init(&s, &npages, 1);
	for (int i = 0; i < 4; i++) {
		cr_assert_eq(finders[i % 2](&s, 0, &reg, &count), 0);
		cr_assert_eq(count, 0);
	}
	cr_assert_eq(mincore(reg.hva, reg.len, resident), 0);
	for (uint64_t p = 0; p < npages; p++)
		cr_assert_not(resident[p] & 1);
	page_set_destroy(&s);
}

/* Mostly holes: what walks them page by page does it for minutes, or for ever. */
static void huge(struct ferry_region reg, finder find)
{
	const uint64_t npages = reg.len / PAGE;
	char *mem = reg.hva;
	struct page_set s;
	uint64_t count = 0;

	for (uint64_t gib = 0; gib < reg.len / GIB; gib++)
		mem[gib * GIB + gib * 5 * PAGE] = 1;
	page_set_init(&s, &npages, 1);
	cr_assert_eq(find(&s, 0, &reg, &count), 0);
	cr_assert_eq(count, reg.len / GIB);
	for (uint64_t gib = 0; gib < reg.len / GIB; gib++)
		cr_assert(page_set_test(&s, 0, (gib * GIB) / PAGE + gib * 5));
	page_set_destroy(&s);
}

Test(populated, sixty_four_gibibytes_of_sparse_anonymous_memory)
{
	huge(anonymous(64 * GIB), populated_pages);
}

Test(populated, sixty_four_gibibytes_by_pagemap)
{
	huge(anonymous(64 * GIB), populated_by_pagemap);
}

Test(populated, a_sparse_memfd_of_sixty_four_gibibytes)
{
	huge(memfd(64 * GIB, 0, 64 * GIB), populated_pages);
}
