// SPDX-License-Identifier: MIT
/* What a region's memory is, by the kernel's account: real mappings of each kind. e2e/test_regions.c has
 * whole migrations. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugepool.h"
#include "runtime/base/fail.h"
#include "runtime/memory/mapping.h"

#define PAGE 4096u
#define LEN (16u * PAGE)
#define UNIT (2u << 20)
#define GIB (1ul << 30)

HUGEPOOL(4)
HUGEPOOL_END()

static struct ferry_region anonymous(uint32_t id)
{
	struct ferry_region r = { .id = id, .len = LEN, .fd = -1, .page_shift = 12 };

	r.hva = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(r.hva, MAP_FAILED);
	return r;
}

static struct ferry_region shared(uint32_t id)
{
	struct ferry_region r = {
		.id = id, .len = LEN, .page_shift = 12, .flags = FERRY_REGION_SHARED, .fd_offset = 2 * PAGE
	};

	r.fd = memfd_create("a (strange) name", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(r.fd, LEN + 2 * PAGE), 0);
	r.hva = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 2 * PAGE);
	cr_assert_neq(r.hva, MAP_FAILED);
	return r;
}

static void expect(const struct ferry_region *r, size_t n, bool target, int err, const char *says)
{
	struct fail f = { 0 };

	cr_expect_eq(mapping_check(r, n, target, &f), err, "%s", fail_text(&f));
	cr_expect(strstr(fail_text(&f), says), "\"%s\" does not say \"%s\"", fail_text(&f), says);
	cr_expect(strlen(fail_text(&f)) < FAIL_MAX - 1, "cut off: %s", fail_text(&f));
}

Test(mapping, plain_memory_of_both_kinds)
{
	struct ferry_region r[] = { shared(1), anonymous(2), shared(3), anonymous(4) };

	expect(r, 4, false, 0, "");
	expect(r, 4, true, 0, "");
}

/* A region may be many mappings, and a mapping many regions. */
Test(mapping, pieces)
{
	struct ferry_region r[3] = { anonymous(1), anonymous(2), shared(3) };
	uint8_t *p = r[0].hva;

	cr_assert_eq(madvise(p + PAGE, PAGE, MADV_DONTFORK), 0); /* splits it */
	cr_assert_eq(mprotect(p + 3 * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), 0);
	r[1] = r[0];
	r[1].id = 2;
	r[0].len = 2 * PAGE;
	r[1].hva = p + 2 * PAGE;
	r[1].len = LEN - 2 * PAGE;
	expect(r, 3, true, 0, "");
	cr_assert_eq(munmap(p + LEN - PAGE, PAGE), 0);
	expect(r, 3, true, -EINVAL, "nothing is mapped at ");
	expect(r, 1, true, 0, "");
}

Test(mapping, nothing_at_all)
{
	struct ferry_region r = anonymous(7);

	r.hva = (void *)(UINT64_C(1) << 46); /* nobody maps there unasked */
	munmap(r.hva, LEN);
	expect(&r, 1, false, -EINVAL,
	       "region 7 is 0x10000 bytes at 0x400000000000 and nothing is mapped at 0x400000000000");
}

Test(mapping, a_device)
{
	struct ferry_region r = shared(1);
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);

	cr_assert_geq(zero, 0);
	close(r.fd);
	r.fd = zero;
	expect(&r, 1, false, -EOPNOTSUPP, "is no regular file");
}

Test(mapping, files_of_shared_regions)
{
	struct ferry_region r = shared(5);
	char path[300];
	int fd = r.fd;

	r.fd = 9999;
	expect(&r, 1, false, -EBADF,
	       "fstatfs of fd 9999 of region 5: Bad file descriptor; pass the fd of the memfd");
	snprintf(path, sizeof(path), "%s/mapping-%d", FERRY_BINARY_DIR, (int)getpid());
	r.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	unlink(path);
	cr_assert_eq(ftruncate(r.fd, 2 * PAGE + LEN), 0);
	expect(&r, 1, false, -EOPNOTSUPP, "region 5 is a file on a disk");
	close(r.fd);
	r.fd = fd;
	cr_assert_eq(ftruncate(fd, LEN), 0);
	expect(&r, 1, false, -EINVAL, "region 5 is 0x10000 bytes of fd");
	r.fd_offset = UINT64_MAX & ~UINT64_C(4095);
	expect(&r, 1, false, -EINVAL, "region 5 is 0x10000 bytes of fd");
}

/* The same file by another descriptor is the same memory. */
Test(mapping, a_duplicate_descriptor)
{
	struct ferry_region r = shared(5);

	r.fd = dup(r.fd);
	expect(&r, 1, true, 0, "");
}

Test(mapping, a_source_needs_no_way_to_write_its_file)
{
	struct ferry_region r = shared(5);
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", r.fd);
	r.fd = open(path, O_RDONLY | O_CLOEXEC);
	expect(&r, 1, false, 0, "");
	expect(&r, 1, true, -EACCES, "is not open for reading and writing");
}

/* Two files on a tmpfs with room for one and a half; it is gone with them. */
static void on_one_tmpfs(struct ferry_region *r, const char *size)
{
	char dir[] = "/tmp/ferry-mapping-XXXXXX", path[80];
	bool mounted;

	cr_assert(mkdtemp(dir));
	mounted = !mount("ferry", dir, "tmpfs", 0, size);
	for (int i = 0; mounted && i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%d", dir, i);
		r[i] = (struct ferry_region){
			.id = i, .len = LEN, .page_shift = 12, .flags = FERRY_REGION_SHARED
		};
		r[i].fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (ftruncate(r[i].fd, LEN))
			mounted = false;
		r[i].hva = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, r[i].fd, 0);
	}
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	if (!mounted)
		cr_skip_test("a tmpfs of its own size takes root: %s", strerror(errno));
}

Test(mapping, files_share_the_room_of_their_tmpfs)
{
	struct ferry_region r[2];

	on_one_tmpfs(r, "size=96k");
	expect(&r[1], 1, true, 0, "");
	expect(r, 2, false, 0, "");
	expect(r, 2, true, -ENOSPC,
	       "region 0 and the others on its tmpfs take 128 KiB, of which 0 are allocated, and it has 96");
}

Test(mapping, allocated_beforehand_is_room_enough)
{
	struct ferry_region r[2];

	on_one_tmpfs(r, "size=64k");
	cr_assert_eq(fallocate(r[0].fd, 0, 0, LEN), 0, "%s", strerror(errno));
	expect(r, 1, true, 0, "");
	expect(r, 2, true, -ENOSPC, "take 128 KiB, of which 64 are allocated, and it has 0 KiB left");
}

static struct ferry_region huge(int flags)
{
	struct ferry_region r = { .id = 9, .len = UNIT, .fd = -1, .page_shift = 21 };

	hugepool_or_skip(2);
	r.hva = mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB | flags,
		     -1, 0);
	cr_assert_neq(r.hva, MAP_FAILED, "%s", strerror(errno));
	return r;
}

Test(mapping_huge, private_pages)
{
	struct ferry_region r = huge(MAP_PRIVATE);

	expect(&r, 1, false, 0, "");
	expect(&r, 1, true, 0, "");
	r.page_shift = 12;
	expect(&r, 1, false, -EINVAL, "is private anonymous memory of hugetlbfs");
}

/* Nothing of it is touched, so the pool of such pages may be empty. */
static struct ferry_region gigantic(int flags, int fd)
{
	struct ferry_region r = { .id = 9, .len = GIB, .fd = fd };

	r.hva = mmap(NULL, GIB, PROT_READ | PROT_WRITE, MAP_NORESERVE | flags, fd, 0);
	if (r.hva == MAP_FAILED)
		cr_skip_test("no pages of 1 GiB here: %s", strerror(errno));
	return r;
}

Test(mapping_huge, private_pages_of_a_gib)
{
	struct ferry_region r = gigantic(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_1GB, -1);

	for (r.page_shift = 12; r.page_shift <= 21; r.page_shift += 9)
		for (int target = 0; target <= 1; target++)
			expect(&r, 1, target, -EINVAL, "is private anonymous memory of hugetlbfs");
}

Test(mapping_huge, shared_pages_of_a_gib)
{
	int fd = memfd_create("gigantic", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_1GB);
	struct ferry_region r;

	if (fd < 0)
		cr_skip_test("no pages of 1 GiB here: %s", strerror(errno));
	cr_assert_eq(ftruncate(fd, GIB), 0);
	r = gigantic(MAP_SHARED, fd);
	r.flags = FERRY_REGION_SHARED;
	for (r.page_shift = 12; r.page_shift <= 21; r.page_shift += 9)
		for (int target = 0; target <= 1; target++)
			expect(&r, 1, target, -EOPNOTSUPP, "has pages of 1073741824 bytes, its page_shift");
}

Test(mapping_huge, shared_pages_without_a_file)
{
	struct ferry_region r = huge(MAP_SHARED);

	expect(&r, 1, false, -EINVAL, "is shared anonymous memory of hugetlbfs");
}

Test(mapping_huge, pages_that_nobody_promised)
{
	struct ferry_region r = huge(MAP_PRIVATE | MAP_NORESERVE);

	expect(&r, 1, false, 0, "");
	expect(&r, 1, true, -ENOMEM, "region 9 is mapped MAP_NORESERVE");
}

Test(mapping_huge, small_pages_called_huge)
{
	struct ferry_region r = { .id = 9, .len = UNIT, .fd = -1, .page_shift = 21 };
	uint8_t *p = mmap(NULL, 2 * UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	r.hva = p + (-(uintptr_t)p & (UNIT - 1));
	expect(&r, 1, false, -EINVAL,
	       "page_shift 21 takes MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB");
}

/* What holds the private pages of a file of huge pages back from counting as anonymous. */
Test(mapping_huge, private_mapping_of_a_file)
{
	struct ferry_region r = { .id = 9, .len = UNIT, .fd = -1, .page_shift = 21 };
	int fd;

	hugepool_or_skip(2);
	fd = memfd_create("anon_hugepage", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	cr_assert_eq(ftruncate(fd, UNIT), 0);
	r.hva = mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	cr_assert_neq(r.hva, MAP_FAILED);
	expect(&r, 1, false, -EINVAL, "is a private mapping of /memfd:anon_hugepage");
}
