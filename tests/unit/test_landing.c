// SPDX-License-Identifier: MIT
/*
 * Where arriving pages land: measuring leaves memory as it was, the figures decide, what cannot be done by the
 * kernel is done by the mapping, and either way every byte is in its place.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "refuse.h"
#include "runtime/base/fail.h"
#include "runtime/memory/place_int.h"
#include "runtime/memory/populated.h"

#define PAGE ((size_t)4096)
#define HUGE ((size_t)2 << 20)
#define LEN (16 * HUGE)
#define PAGES (LEN / PAGE)

static const uint32_t kinds[] = { 0, FERRY_REGION_THP, FERRY_REGION_SHARED,
				  FERRY_REGION_SHARED | FERRY_REGION_THP };
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void map(struct ferry_region *r, uint32_t id, uint32_t flags, size_t len)
{
	uint8_t *space =
		mmap(NULL, len + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bool shared = flags & FERRY_REGION_SHARED;

	cr_assert_neq(space, MAP_FAILED);
	*r = (struct ferry_region){
		.id = id, .gpa = (uint64_t)id << 40, .len = len, .page_shift = 12, .flags = flags, .fd = -1
	};
	if (shared) {
		r->fd = memfd_create("landing", MFD_CLOEXEC);
		r->fd_offset = HUGE; /* not where the file begins */
		cr_assert_eq(ftruncate(r->fd, (off_t)(HUGE + len)), 0);
	}
	r->hva = mmap(space + (-(uintptr_t)space & (HUGE - 1)), len, PROT_READ | PROT_WRITE,
		      MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE), r->fd,
		      (off_t)r->fd_offset);
	cr_assert_neq(r->hva, MAP_FAILED);
	madvise(r->hva, len, flags & FERRY_REGION_THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static uint64_t populated(const struct ferry_region *r)
{
	uint64_t pages = r->len / PAGE, n = 0;
	struct page_set set;

	cr_assert_eq(page_set_init(&set, &pages, 1), 0);
	cr_assert_geq(populated_pages(&set, 0, r, &n), 0);
	page_set_destroy(&set);
	return n;
}

static bool is_zero(const struct ferry_region *r)
{
	const uint64_t *p = r->hva;

	for (size_t i = 0; i < r->len / sizeof(*p); i++)
		if (p[i])
			return false;
	return true;
}

static void open_way(struct place *p, const struct ferry_region *r, size_t n, enum ferry_landing_way way)
{
	struct fail f = { 0 };

	cr_assert_eq(place_open(p, r, n, &(struct place_param){ .way = way }, &f), 0, "%s", fail_text(&f));
}

Test(landing, measuring_touches_nothing_that_was_untouched)
{
	for (size_t k = 0; k < KINDS; k++) {
		struct ferry_region r;
		struct place p;

		map(&r, 1, kinds[k], LEN);
		open_way(&p, &r, 1, FERRY_LANDING_WAY_AUTO);
		cr_assert_eq(p.nlandings, 1);
		cr_assert_eq(p.landing[0].flags, kinds[k]);
		cr_assert(p.landing[0].mapping_ns && p.landing[0].kernel_ns, "kind %#x", kinds[k]);
		cr_assert_eq(populated(&r), 0, "kind %#x", kinds[k]);
		cr_assert(is_zero(&r));
		place_close(&p);
	}
}

/* What the VMM has allocated, to have it for certain, is still there. */
Test(landing, measuring_leaves_what_is_allocated)
{
	for (size_t k = 0; k < KINDS; k++) {
		struct ferry_region r;
		struct place p;

		map(&r, 1, kinds[k], LEN);
		cr_assert_eq(madvise(r.hva, r.len, MADV_POPULATE_WRITE), 0);
		open_way(&p, &r, 1, FERRY_LANDING_WAY_AUTO);
		cr_assert_eq(populated(&r), PAGES, "kind %#x", kinds[k]);
		cr_assert(is_zero(&r));
		place_close(&p);
	}
}

/* The same for pages that fallocate() has promised and nobody has filled yet. */
Test(landing, measuring_leaves_what_is_promised)
{
	struct stat before, after;
	struct ferry_region r;
	struct place p;

	map(&r, 1, FERRY_REGION_SHARED, LEN);
	cr_assert_eq(fallocate(r.fd, 0, (off_t)r.fd_offset, (off_t)r.len), 0);
	cr_assert_eq(fstat(r.fd, &before), 0);
	open_way(&p, &r, 1, FERRY_LANDING_WAY_AUTO);
	cr_assert_eq(fstat(r.fd, &after), 0);
	cr_assert_eq(after.st_blocks, before.st_blocks);
	place_close(&p);
}

Test(landing, the_figures_decide)
{
	for (size_t k = 0; k < KINDS; k++) {
		struct ferry_region r;
		struct place p;

		map(&r, 1, kinds[k], LEN);
		open_way(&p, &r, 1, FERRY_LANDING_WAY_AUTO);
		cr_assert_eq(p.landing[0].way,
			     (uint64_t)p.landing[0].kernel_ns * 10 < (uint64_t)p.landing[0].mapping_ns * 9
				     ? FERRY_LANDING_WAY_KERNEL
				     : FERRY_LANDING_WAY_MAPPING);
		cr_assert_eq(place_by_kernel(&p, 0), p.landing[0].way == FERRY_LANDING_WAY_KERNEL);
		place_close(&p);
		for (enum ferry_landing_way w = FERRY_LANDING_WAY_MAPPING; w <= FERRY_LANDING_WAY_KERNEL;
		     w++) {
			open_way(&p, &r, 1, w);
			cr_assert_eq(p.landing[0].way, w);
			cr_assert_eq(place_by_kernel(&p, 0), w == FERRY_LANDING_WAY_KERNEL);
			cr_assert_eq(p.landing[0].mapping_ns | p.landing[0].kernel_ns, 0);
			place_close(&p);
		}
	}
}

/* Each kind for itself: the region too small to be measured goes the way of the large one of its kind. */
Test(landing, one_way_per_kind)
{
	struct ferry_region r[6];
	struct place p;

	for (uint32_t k = 0; k < KINDS; k++)
		map(&r[k], k, kinds[k], LEN);
	map(&r[4], 4, 0, HUGE / 2);
	map(&r[5], 5, FERRY_REGION_SHARED, HUGE / 2);
	open_way(&p, r, 6, FERRY_LANDING_WAY_AUTO);
	cr_assert_eq(p.nlandings, 4);
	cr_assert_eq(place_by_kernel(&p, 4), place_by_kernel(&p, 0));
	cr_assert_eq(place_by_kernel(&p, 5), place_by_kernel(&p, 2));
	place_close(&p);
	/* With no other, nothing can be measured: as it always was. */
	open_way(&p, &r[4], 2, FERRY_LANDING_WAY_AUTO);
	cr_assert_eq(p.nlandings, 2);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(p.landing[i].way, FERRY_LANDING_WAY_MAPPING);
		cr_assert_eq(p.landing[i].mapping_ns | p.landing[i].kernel_ns, 0);
	}
	place_close(&p);
}

/* The source writes by itself. */
Test(landing, one_sided_transports_leave_no_choice)
{
	struct ferry_region r;
	struct fail f = { 0 };
	struct place p;

	map(&r, 1, FERRY_REGION_SHARED, LEN);
	cr_assert_eq(place_open(&p, &r, 1,
				&(struct place_param){ .one_sided = true, .way = FERRY_LANDING_WAY_KERNEL },
				&f),
		     0);
	cr_assert_eq(p.nlandings, 0);
	cr_assert(!place_by_kernel(&p, 0) && place_direct(&p, 0));
	place_close(&p);
}

/* pwrite() would write at the end of such a file, or be answered by SIGXFSZ. */
Test(landing, a_file_that_only_the_mapping_can_write)
{
	struct rlimit most = { LEN, LEN };
	struct ferry_region r[2];
	struct stat st;
	struct place p;

	map(&r[0], 1, FERRY_REGION_SHARED, LEN);
	map(&r[1], 2, FERRY_REGION_SHARED, LEN);
	cr_assert_eq(fcntl(r[0].fd, F_SETFL, O_APPEND), 0);
	open_way(&p, r, 2, FERRY_LANDING_WAY_KERNEL);
	cr_assert(!place_by_kernel(&p, 0) && place_direct(&p, 0));
	cr_assert(place_by_kernel(&p, 1) && !place_direct(&p, 1));
	cr_assert_eq(fstat(r[0].fd, &st), 0);
	cr_assert_eq(st.st_size, (off_t)(HUGE + LEN));
	place_close(&p);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &most), 0);
	open_way(&p, &r[1], 1, FERRY_LANDING_WAY_KERNEL);
	cr_assert(!place_by_kernel(&p, 0));
	cr_assert_eq(p.landing[0].way, FERRY_LANDING_WAY_MAPPING);
	place_close(&p);
}

struct told {
	int err;
	unsigned times;
};

static void slower(void *arg, enum cure doing, int err, const char *what)
{
	struct told *t = arg;

	(void)doing;
	t->err = err;
	t->times++;
	cr_assert(strstr(what, "land in the mapping"), "%s", what);
}

Test(landing, where_a_filter_refuses_to_measure)
{
	struct told told = { 0 };
	struct ferry_region r;
	struct fail f = { 0 };
	struct place p;

	map(&r, 1, FERRY_REGION_SHARED, LEN);
	refuse_calls(&(struct refused){ SYS_process_vm_readv }, 1, EPERM, true);
	cr_assert_eq(place_open(&p, &r, 1, &(struct place_param){ .slower = slower, .slower_arg = &told },
				&f),
		     0);
	cr_assert_eq(told.times, 1);
	cr_assert_eq(told.err, -EPERM);
	cr_assert_eq(p.landing[0].way, FERRY_LANDING_WAY_MAPPING);
	cr_assert_eq(populated(&r), 0);
	place_close(&p);
}

static void pattern(uint8_t *page, uint32_t region, uint64_t n)
{
	for (size_t i = 0; i < PAGE / 8; i++)
		((uint64_t *)page)[i] = (uint64_t)region << 56 ^ (n << 12 | i) * 0x9e3779b97f4a7c15ull;
}

/* Runs of all kinds in one piece; each page is where its number says, and no other was touched. */
Test(landing, every_page_in_its_place)
{
	struct page_run runs[64];
	struct ferry_region r[KINDS];
	uint8_t *data = malloc(64 * 7 * PAGE), page[PAGE];
	bool *landed[KINDS];
	struct fail f = { 0 };
	size_t at = 0;
	struct place p;

	for (uint32_t k = 0; k < KINDS; k++) {
		map(&r[k], k, kinds[k], LEN);
		landed[k] = calloc(PAGES, sizeof(bool));
	}
	open_way(&p, r, KINDS, FERRY_LANDING_WAY_KERNEL);
	for (uint32_t i = 0; i < 64; i++) {
		uint32_t k = i / 3 % KINDS;

		runs[i] = (struct page_run){ .region = k, .page = i * (PAGES / 64) + 5, .npages = 1 + i % 7 };
		if (i >= 60) /* the last pages of each region */
			runs[i] = (struct page_run){ .region = i - 60, .page = PAGES - 2, .npages = 2 };
		for (uint32_t n = 0; n < runs[i].npages; n++, at += PAGE) {
			pattern(data + at, runs[i].region, runs[i].page + n);
			landed[runs[i].region][runs[i].page + n] = true;
		}
	}
	cr_assert_eq(place_land(&p, runs, 64, data, &f), 0, "%s", fail_text(&f));
	for (uint32_t k = 0; k < KINDS; k++)
		for (uint64_t n = 0; n < PAGES; n++) {
			memset(page, 0, PAGE);
			if (landed[k][n])
				pattern(page, k, n);
			cr_assert(!memcmp((uint8_t *)r[k].hva + n * PAGE, page, PAGE), "region %u page %llu",
				  k, (unsigned long long)n);
		}
	place_close(&p);
	for (uint32_t k = 0; k < KINDS; k++)
		free(landed[k]);
	free(data);
}

/* Landing again replaces what was there: rounds do. */
Test(landing, the_last_version_counts)
{
	for (size_t k = 0; k < KINDS; k++) {
		struct page_run run = { .page = 700, .npages = 3 };
		uint8_t data[3 * PAGE];
		struct ferry_region r;
		struct fail f = { 0 };
		struct place p;

		map(&r, 0, kinds[k], LEN);
		open_way(&p, &r, 1, FERRY_LANDING_WAY_KERNEL);
		for (int round = 1; round < 4; round++) {
			memset(data, round, sizeof(data));
			cr_assert_eq(place_land(&p, &run, 1, data, &f), 0);
			cr_assert(!memcmp((uint8_t *)r.hva + 700 * PAGE, data, sizeof(data)));
		}
		place_close(&p);
	}
}

/* The sentence names the page of the many runs that it was. */
Test(landing, a_page_that_cannot_be_written)
{
	const struct page_run runs[] = { { .page = 3, .npages = 2 },
					 { .page = 900, .npages = 4 },
					 { .page = 2000, .npages = 1 } };
	uint8_t data[7 * PAGE];
	struct ferry_region r;
	struct fail f = { 0 };
	struct place p;

	memset(data, 1, sizeof(data));
	map(&r, 4, 0, LEN);
	open_way(&p, &r, 1, FERRY_LANDING_WAY_KERNEL);
	cr_assert_eq(munmap((uint8_t *)r.hva + 902 * PAGE, PAGE), 0);
	cr_assert_eq(place_land(&p, runs, 3, data, &f), -EFAULT);
	cr_assert(strstr(fail_text(&f), "page 902 of region 4") &&
			  strstr(fail_text(&f), "nothing is mapped there"),
		  "%s", fail_text(&f));
	place_close(&p);
}

/* It stays as short: otherwise what it held would be zero, and nobody would know. */
Test(landing, a_file_that_became_shorter)
{
	const struct page_run runs[] = { { .page = 3, .npages = 2 }, { .page = 900, .npages = 4 } };
	uint8_t data[6 * PAGE];
	struct ferry_region r;
	struct fail f = { 0 };
	struct place p;
	struct stat st;

	memset(data, 1, sizeof(data));
	map(&r, 4, FERRY_REGION_SHARED, LEN);
	open_way(&p, &r, 1, FERRY_LANDING_WAY_KERNEL);
	cr_assert_eq(ftruncate(r.fd, (off_t)(HUGE + 902 * PAGE)), 0);
	cr_assert_eq(place_land(&p, runs, 2, data, &f), -EFAULT);
	cr_assert(strstr(fail_text(&f), "page 902 of region 4") && strstr(fail_text(&f), "ends at byte"),
		  "%s", fail_text(&f));
	cr_assert_eq(fstat(r.fd, &st), 0);
	cr_assert_eq(st.st_size, (off_t)(HUGE + 902 * PAGE));
	place_close(&p);
}

Test(landing, a_file_system_that_is_full)
{
	const struct page_run run = { .page = 100, .npages = 32 };
	uint8_t *data = calloc(32, PAGE);
	char dir[] = "/tmp/landing-XXXXXX", path[64];
	struct ferry_region r;
	struct fail f = { 0 };
	struct place p;
	int err;

	cr_assert(mkdtemp(dir));
	if (syscall(SYS_mount, "tmpfs", dir, "tmpfs", 0ul, "size=64k"))
		cr_skip_test("mount: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/ram", dir);
	r = (struct ferry_region){ .id = 6, .len = LEN, .page_shift = 12, .flags = FERRY_REGION_SHARED };
	r.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(ftruncate(r.fd, (off_t)r.len), 0);
	r.hva = mmap(NULL, r.len, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0);
	cr_assert_neq(r.hva, MAP_FAILED);
	err = place_open(&p, &r, 1, &(struct place_param){ 0 }, &f); /* measuring fails: it does not matter */
	cr_assert_eq(err, 0, "%s", fail_text(&f));
	cr_assert_eq(p.landing[0].way, FERRY_LANDING_WAY_MAPPING);
	p.r[0].kernel = true;
	err = place_land(&p, &run, 1, data, &f);
	place_close(&p);
	close(r.fd);
	munmap(r.hva, r.len);
	cr_assert_eq(syscall(SYS_umount2, dir, 0), 0);
	rmdir(dir);
	free(data);
	cr_assert_eq(err, -EFAULT);
	cr_assert(strstr(fail_text(&f), "of region 6") && strstr(fail_text(&f), "full"), "%s", fail_text(&f));
}
