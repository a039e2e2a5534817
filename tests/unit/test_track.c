/* SPDX-License-Identifier: MIT */
/*
 * The tracker of ferry/track.h on memory of this process: exactly the written pages, for each kind of memory; nothing
 * that was never touched is marked; no write is lost to a fetch beside it. test_track_other has another process's memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugepool.h"
#include "left.h"
#include "refuse.h"
#include "ferry/track.h"
#include "runtime/base/page.h"
#include "runtime/base/uffd_abi.h"
#include "runtime/memory/populated.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define MOST 16384u /* pages of a region */
#define NEED 24	    /* huge pages */
#define RUNS 1024u  /* results that the tracker takes from the kernel at once */

HUGEPOOL(NEED)
HUGEPOOL_END()

enum kind { ANON, MEMFD, THP, HUGE, HUGE_MEMFD };

/* ---- memory ---- */

static unsigned unit_of(const struct ferry_region *r)
{
	return 1u << (r->page_shift - PAGE_SHIFT);
}

static uint64_t pages_of(const struct ferry_region *r)
{
	return r->len >> PAGE_SHIFT;
}

static volatile uint8_t *page_of(const struct ferry_region *r, uint64_t page)
{
	return (volatile uint8_t *)r->hva + (page << PAGE_SHIFT) + page % PAGE_BYTES;
}

/* Fresh memory in the middle of a larger mapping and file. */
static struct ferry_region ram(enum kind kind, uint32_t id, uint64_t pages)
{
	bool shared = kind == MEMFD || kind == HUGE_MEMFD, huge = kind == HUGE || kind == HUGE_MEMFD;
	struct ferry_region r = { .id = id,
				  .len = pages << PAGE_SHIFT,
				  .fd = -1,
				  .page_shift = huge ? HUGE_SHIFT : PAGE_SHIFT,
				  .flags = shared ? FERRY_REGION_SHARED : 0 };
	size_t edge = HUGE_BYTES, all = r.len + 2 * edge;
	uint8_t *at;

	cr_assert_leq(pages, MOST);
	if (huge)
		hugepool_or_skip(NEED);
	if (shared) {
		r.fd = memfd_create("ram", MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
		r.fd_offset = edge;
		cr_assert_eq(ftruncate(r.fd, (off_t)(edge + all)), 0);
	}
	at = mmap(NULL, all + edge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(at, MAP_FAILED);
	at += -(uintptr_t)at & (edge - 1);
	at = mmap(at, all, PROT_READ | PROT_WRITE,
		  MAP_FIXED | MAP_NORESERVE | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) |
			  (kind == HUGE ? MAP_HUGETLB | MAP_HUGE_2MB : 0),
		  r.fd, 0);
	cr_assert_neq(at, MAP_FAILED, "%s", strerror(errno));
	if (!huge)
		madvise(at, all, kind == THP ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	r.hva = at + edge;
	return r;
}

static struct ferry_track *new_track(const struct ferry_region *regions, size_t n)
{
	struct ferry_track *t;
	int err = ferry_track_new(&t, NULL);

	if (err == -EOPNOTSUPP)
		cr_skip_test("this kernel cannot track writes: it has no UFFD_FEATURE_WP_ASYNC");
	cr_assert_eq(err, 0, "%s", strerror(-err));
	for (size_t i = 0; i < n; i++) {
		struct ferry_track_range range = {
			FERRY_TRACK_RANGE_INIT,	   .region = regions[i].id,
			.flags = regions[i].flags, .addr = (uintptr_t)regions[i].hva,
			.len = regions[i].len,	   .page_shift = regions[i].page_shift,
			.fd = regions[i].fd,	   .fd_offset = regions[i].fd_offset
		};

		cr_assert_eq(ferry_track_add(t, &range), 0);
	}
	return t;
}

static struct ferry_track *started(const struct ferry_region *regions, size_t n)
{
	struct ferry_track *t = new_track(regions, n);
	int err = ferry_track_start(t);

	cr_assert_eq(err, 0, "%s", strerror(-err));
	return t;
}

/* ---- which pages ---- */

struct pages {
	uint8_t in[MOST];
};

static void fetch(struct ferry_track *t, const struct ferry_region *r, unsigned flags, struct pages *ret)
{
	uint64_t bits[MOST / 64 + 1] = { 0 };
	int err;

	bits[(pages_of(r) + 63) / 64] = UINT64_C(0x5a5a);
	err = ferry_track_fetch(t, r->id, bits, pages_of(r), flags);
	cr_assert_eq(err, 0, "%s", strerror(-err));
	cr_assert_eq(bits[(pages_of(r) + 63) / 64], UINT64_C(0x5a5a), "it writes beyond bits[]");
	memset(ret, 0, sizeof(*ret));
	for (uint64_t p = 0; p < (pages_of(r) + 63) / 64 * 64; p++) {
		bool set = bits[p / 64] >> (p % 64) & 1;

		cr_assert(!set || p < pages_of(r), "page %llu is none of the region's",
			  (unsigned long long)p);
		if (set)
			ret->in[p] = 1;
	}
}

static void same(const struct ferry_region *r, const struct pages *got, const struct pages *want,
		 const char *what)
{
	for (uint64_t p = 0; p < pages_of(r); p++)
		cr_assert_eq(got->in[p], want->in[p], "%s: page %llu of region %u: %d", what,
			     (unsigned long long)p, r->id, got->in[p]);
}

static void fetches(struct ferry_track *t, const struct ferry_region *r, const struct pages *want,
		    const char *what)
{
	struct pages got;

	fetch(t, r, 0, &got);
	same(r, &got, want, what);
}

static void nothing(struct ferry_track *t, const struct ferry_region *r, const char *what)
{
	fetches(t, r, &(struct pages){ 0 }, what);
}

/* Only this page, and with hugetlbfs the pages of its huge page. */
static void only(struct ferry_track *t, const struct ferry_region *r, uint64_t page, const char *what)
{
	struct pages want = { 0 };

	memset(want.in + page / unit_of(r) * unit_of(r), 1, unit_of(r));
	fetches(t, r, &want, what);
}

static void write_page(const struct ferry_region *r, uint64_t page, struct pages *into)
{
	*page_of(r, page) = (uint8_t)(page + 1);
	if (into)
		memset(into->in + page / unit_of(r) * unit_of(r), 1, unit_of(r));
}

static uint64_t draw(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

/* ---- nothing that was never touched ---- */

static void touch_some(const struct ferry_region *r, unsigned nth)
{
	uint64_t units = pages_of(r) / unit_of(r);

	for (uint64_t u = 0; u < units; u++)
		if (u < units / 3 ? u % 7 == nth : u == units - 1 - nth)
			*page_of(r, u * unit_of(r)) = 1;
}

static void populated(const struct ferry_region *r, struct pages *ret)
{
	const uint64_t npages = pages_of(r);
	uint64_t count = 0;
	struct page_set s;

	page_set_init(&s, &npages, 1);
	cr_assert_geq(populated_pages(&s, 0, r, &count), 0);
	for (uint64_t p = 0; p < npages; p++)
		ret->in[p] = page_set_test(&s, 0, p);
	page_set_destroy(&s);
}

static void resident(const struct ferry_region *r, struct pages *ret)
{
	cr_assert_eq(mincore(r->hva, r->len, ret->in), 0);
	for (uint64_t p = 0; p < pages_of(r); p++)
		ret->in[p] &= 1;
}

static void stays_untouched(enum kind kind, bool looks_first)
{
	struct ferry_region r = ram(kind, 3, kind == HUGE || kind == HUGE_MEMFD ? 12 * 512 : 16000);
	struct pages there, got;
	struct ferry_track *t;

	touch_some(&r, 1);
	resident(&r, &there);
	if (looks_first) {
		populated(&r, &got);
		same(&r, &got, &there, "populated before the start");
	}
	t = started(&r, 1);
	nothing(t, &r, "first fetch");
	populated(&r, &got);
	same(&r, &got, &there, "populated while tracking");
	nothing(t, &r, "a fetch after the look");
	touch_some(&r, 2);
	fetch(t, &r, 0, &got);
	for (uint64_t p = 0; p < pages_of(&r); p++)
		there.in[p] |= got.in[p];
	populated(&r, &got);
	same(&r, &got, &there, "populated after fresh pages");
	cr_assert_eq(ferry_track_stop(t), 0);
	populated(&r, &got);
	same(&r, &got, &there, "populated after the stop");
	resident(&r, &got);
	same(&r, &got, &there, "resident after the stop");
	ferry_track_free(t);
}

static void tracking_begins(enum kind kind)
{
	stays_untouched(kind, false);
}

static void looking_begins(enum kind kind)
{
	stays_untouched(kind, true);
}

#define EACH_KIND(name, fn)            \
	Test(track, name##_anonymous)  \
	{                              \
		fn(ANON);              \
	}                              \
	Test(track, name##_memfd)      \
	{                              \
		fn(MEMFD);             \
	}                              \
	Test(track, name##_huge)       \
	{                              \
		fn(HUGE);              \
	}                              \
	Test(track, name##_huge_memfd) \
	{                              \
		fn(HUGE_MEMFD);        \
	}

EACH_KIND(what_is_untouched_stays_so_if_tracking_begins, tracking_begins)
EACH_KIND(what_is_untouched_stays_so_if_looking_begins, looking_begins)

Test(track, what_is_untouched_stays_so_thp)
{
	stays_untouched(THP, false);
}

/* A marker takes a page-table entry; for so many pages of nothing they would be megabytes. */
static void costs_no_page_tables(enum kind kind)
{
	const uint64_t len = UINT64_C(4) << 30;
	struct ferry_region r = { .id = 1, .len = len, .fd = -1, .page_shift = PAGE_SHIFT };
	char line[256];
	long before = 0, after = 0;
	struct ferry_track *t;
	uint64_t *bits = calloc(len >> PAGE_SHIFT >> 6, 8);

	if (kind == MEMFD) {
		r.flags = FERRY_REGION_SHARED;
		r.fd = memfd_create("ram", MFD_CLOEXEC);
		cr_assert_eq(ftruncate(r.fd, (off_t)len), 0);
	}
	r.hva = mmap(NULL, len, PROT_READ | PROT_WRITE,
		     MAP_NORESERVE | (kind == MEMFD ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS), r.fd, 0);
	cr_assert_neq(r.hva, MAP_FAILED);
	for (int i = 0; i < 2; i++) {
		FILE *f = fopen("/proc/self/status", "re");

		while (fgets(line, sizeof(line), f))
			sscanf(line, "VmPTE: %ld", i ? &after : &before);
		fclose(f);
		if (i)
			break;
		t = started(&r, 1);
		cr_assert_eq(ferry_track_fetch(t, 1, bits, len >> PAGE_SHIFT, 0), 0);
	}
	cr_assert_lt(after, before + 1024, "%ld KiB of page tables, %ld before", after, before);
	ferry_track_free(t);
	free(bits);
}

Test(track, gibibytes_of_nothing_cost_no_page_tables_anonymous)
{
	costs_no_page_tables(ANON);
}

Test(track, gibibytes_of_nothing_cost_no_page_tables_memfd)
{
	costs_no_page_tables(MEMFD);
}

/* ---- exactly the written pages ---- */

/* Regions whose ends lie inside a word of the bitmap, random writes and reads, fresh pages among them. */
static void exact(enum kind a, enum kind b, enum kind c)
{
	const struct ferry_region r[] = { ram(a, 7, 3001), ram(b, 1, 5120), ram(c, 900, 777) };
	struct ferry_track *t;
	struct pages want[3];
	uint64_t seed = 42;

	for (int i = 0; i < 3; i++)
		for (uint64_t p = 0; p < pages_of(&r[i]) / 2; p++)
			write_page(&r[i], p, NULL);
	t = started(r, 3);
	for (int round = 0; round < 20; round++) {
		unsigned writes = round % 5 == 4 ? 0 : 10u << round % 5 * 2;

		memset(want, 0, sizeof(want));
		for (unsigned k = 0; k < writes; k++) {
			const struct ferry_region *at = &r[k % 3];

			write_page(at, draw(&seed) % pages_of(at), &want[k % 3]);
			(void)*page_of(at, draw(&seed) % (pages_of(at) / 2)); /* reading is not writing */
		}
		for (int i = 2; i >= 0; i--)
			fetches(t, &r[i], &want[i], "random writes");
	}
	ferry_track_free(t);
}

Test(track, exactly_what_was_written_anonymous)
{
	exact(ANON, ANON, ANON);
}

Test(track, exactly_what_was_written_memfd)
{
	exact(MEMFD, MEMFD, MEMFD);
}

Test(track, exactly_what_was_written_mixed)
{
	exact(MEMFD, ANON, MEMFD);
}

Test(track, exactly_what_was_written_huge)
{
	exact(ANON, HUGE, MEMFD);
}

Test(track, exactly_what_was_written_huge_memfd)
{
	exact(MEMFD, HUGE_MEMFD, ANON);
}

/* Each page that is written is reported once, whether it existed or not. */
static void fresh_and_old(enum kind kind)
{
	struct ferry_region r = ram(kind, 1, 6 * 512);
	struct ferry_track *t;

	write_page(&r, 700, NULL);
	t = started(&r, 1);
	write_page(&r, 2000, NULL);
	only(t, &r, 2000, "a page that was never touched");
	write_page(&r, 700, NULL);
	only(t, &r, 700, "a page that existed");
	write_page(&r, 2000, NULL);
	only(t, &r, 2000, "the fresh page again");
	write_page(&r, 2600, NULL);
	write_page(&r, 2600, NULL);
	only(t, &r, 2600, "fresh, after some fetches");
	nothing(t, &r, "no write");
	ferry_track_free(t);
}

EACH_KIND(fresh_pages_and_old_ones, fresh_and_old)

/* A huge page that the tracker has protected is exact to 4 KiB. */
Test(track, a_transparent_huge_page_is_exact)
{
	struct ferry_region r = ram(THP, 1, 8 * 512);
	struct pages there, got;
	struct ferry_track *t;

	write_page(&r, 512, NULL);
	resident(&r, &there);
	if (!there.in[1000])
		cr_skip_test("the kernel gives no transparent huge pages");
	t = started(&r, 1);
	write_page(&r, 1000, NULL);
	only(t, &r, 1000, "a page of a huge page");
	write_page(&r, 513, NULL);
	only(t, &r, 513, "another one");
	write_page(&r, 2 * 512 + 9, NULL);
	resident(&r, &there);
	fetch(t, &r, 0, &got);
	for (unsigned p = 2 * 512; p < 3 * 512; p++)
		cr_assert_eq(got.in[p], there.in[p], "page %u", p);
	nothing(t, &r, "no write");
	ferry_track_free(t);
}

/*
 * Every other page is a run of its own, and the kernel returns at most so many runs in a call: what lies behind them is
 * found, too, once each.
 */
static void many_runs(enum kind kind)
{
	struct ferry_region r = ram(kind, 1, 10 * RUNS + 13);
	struct ferry_track *t;

	memset(r.hva, 1, r.len);
	t = started(&r, 1);
	for (unsigned odd = 0; odd < 2; odd++) {
		struct pages want = { 0 };

		for (uint64_t p = odd; p < pages_of(&r); p += 2)
			write_page(&r, p, &want);
		fetches(t, &r, &want, odd ? "odd pages" : "even pages");
		memset(&want, 0, sizeof(want));
		for (uint64_t p = odd; p < pages_of(&r); p += 31) /* too far from each other for one call */
			write_page(&r, p, &want);
		fetches(t, &r, &want, "scattered pages");
		nothing(t, &r, "no write");
	}
	ferry_track_free(t);
}

Test(track, more_runs_than_fit_anonymous)
{
	many_runs(ANON);
}

Test(track, more_runs_than_fit_memfd)
{
	many_runs(MEMFD);
}

/* A region of two mappings that lie in the other order. */
Test(track, a_region_of_two_ranges)
{
	struct ferry_region whole = ram(ANON, 5, 300), half = whole;
	struct pages want = { 0 }, got;
	struct ferry_track *t = new_track(NULL, 0);
	struct ferry_track_range range = { FERRY_TRACK_RANGE_INIT, .region = 5, .page_shift = PAGE_SHIFT };

	range.addr = (uintptr_t)whole.hva;
	range.len = 100 << PAGE_SHIFT;
	range.first_page = 200;
	cr_assert_eq(ferry_track_add(t, &range), 0);
	range.addr += range.len;
	range.len = 200 << PAGE_SHIFT;
	range.first_page = 0;
	cr_assert_eq(ferry_track_add(t, &range), 0);
	cr_assert_eq(ferry_track_start(t), 0);
	for (unsigned p = 0; p < 300; p += 7) {
		write_page(&half, p, NULL);
		want.in[p < 100 ? p + 200 : p - 100] = 1;
	}
	fetch(t, &whole, 0, &got);
	same(&whole, &got, &want, "two ranges");
	ferry_track_free(t);
}

/* Bits that are set stay set: a VMM may have set them. */
Test(track, bits_that_are_set_stay)
{
	struct ferry_region r = ram(ANON, 1, 128);
	struct ferry_track *t = started(&r, 1);
	uint64_t bits[2] = { 1, UINT64_C(1) << 63 };

	write_page(&r, 3, NULL);
	cr_assert_eq(ferry_track_fetch(t, 1, bits, 128, 0), 0);
	cr_assert_eq(bits[0], 9);
	cr_assert_eq(bits[1], UINT64_C(1) << 63);
	ferry_track_free(t);
}

Test(track, the_last_fetch_protects_nothing)
{
	struct ferry_region r[] = { ram(ANON, 1, 100), ram(MEMFD, 2, 100) };
	struct ferry_track *t = started(r, 2);
	struct pages got;

	for (int i = 0; i < 2; i++) {
		write_page(&r[i], 42, NULL);
		for (int k = 0; k < 2; k++) {
			struct pages want = { 0 };

			want.in[42] = 1;
			fetch(t, &r[i], FERRY_DIRTY_LAST, &got);
			same(&r[i], &got, &want, "last");
		}
		only(t, &r[i], 42, "a fetch after it");
		nothing(t, &r[i], "no write");
	}
	ferry_track_free(t);
}

/* Written by a system call, and by another one from outside: not by a store of this program. */
static void by_the_kernel(enum kind kind)
{
	struct ferry_region r = ram(kind, 1, 100);
	struct ferry_track *t;
	uint8_t data[16] = { 1 };
	int fd[2];

	memset(r.hva, 1, r.len);
	cr_assert_eq(pipe(fd), 0);
	t = started(&r, 1);
	cr_assert_eq(write(fd[1], data, sizeof(data)), (ssize_t)sizeof(data));
	cr_assert_eq(read(fd[0], (void *)page_of(&r, 10), sizeof(data)), (ssize_t)sizeof(data));
	only(t, &r, 10, "read()");
	cr_assert_eq(process_vm_writev(getpid(), &(struct iovec){ data, 1 }, 1,
				       &(struct iovec){ (void *)page_of(&r, 20), 1 }, 1, 0),
		     1);
	only(t, &r, 20, "process_vm_writev()");
	ferry_track_free(t);
}

Test(track, writes_of_the_kernel_anonymous)
{
	by_the_kernel(ANON);
}

Test(track, writes_of_the_kernel_memfd)
{
	by_the_kernel(MEMFD);
}

/* ---- pages that come and go ---- */

Test(track, a_page_that_was_freed_is_found_when_it_is_written_again)
{
	struct ferry_region r = ram(ANON, 1, 100);
	struct ferry_track *t;
	struct pages got;

	memset(r.hva, 1, r.len);
	t = started(&r, 1);
	cr_assert_eq(madvise((uint8_t *)r.hva + (10 << PAGE_SHIFT), 3 << PAGE_SHIFT, MADV_DONTNEED), 0);
	write_page(&r, 10, NULL);
	cr_assert_eq(*page_of(&r, 11), 0);
	fetch(t, &r, 0, &got);
	cr_assert(got.in[10]);
	cr_assert(got.in[11], "it was full and is zero now, which a read has shown to the kernel");
	write_page(&r, 11, NULL);
	only(t, &r, 11, "a zero page that is written");
	write_page(&r, 12, NULL);
	only(t, &r, 12, "written one fetch later");
	ferry_track_free(t);
}

/* Reading maps the zero page, which is no write; writing it then is one. */
Test(track, the_zero_page_is_not_written_until_it_is)
{
	struct ferry_region r = ram(ANON, 1, 1000);
	struct ferry_track *t = started(&r, 1);
	struct pages got;

	for (uint64_t p = 0; p < 1000; p++)
		cr_assert_eq(*page_of(&r, p), 0);
	fetch(t, &r, 0, &got); /* a read for the first time may count */
	for (uint64_t p = 0; p < 1000; p++)
		cr_assert_eq(*page_of(&r, p), 0);
	nothing(t, &r, "read again");
	write_page(&r, 77, NULL);
	only(t, &r, 77, "written");
	ferry_track_free(t);
}

Test(track, the_huge_zero_page_is_not_written_until_it_is)
{
	struct ferry_region r = ram(THP, 1, 4 * 512);
	struct ferry_track *t = started(&r, 1);
	struct pages got;

	cr_assert_eq(*page_of(&r, 600), 0);
	fetch(t, &r, 0, &got);
	cr_assert_eq(*page_of(&r, 601), 0);
	nothing(t, &r, "read again");
	write_page(&r, 602, NULL);
	fetch(t, &r, 0, &got);
	cr_assert(got.in[602]);
	nothing(t, &r, "no write");
	ferry_track_free(t);
}

/* A mapping of a file may lose its entry, and the page is still there: what the kernel does on its own, done on demand. */
static void loses_entries(enum kind kind, int advice)
{
	struct ferry_region r = ram(kind, 1, 6 * 512);
	struct ferry_track *t;

	for (unsigned p = 0; p < 2 * 512; p++)
		write_page(&r, p, NULL);
	t = started(&r, 1);
	write_page(&r, 600, NULL);
	write_page(&r, 1100, NULL); /* fresh */
	cr_assert_eq(madvise(r.hva, r.len, advice), 0);
	{
		struct pages want = { 0 };

		memset(want.in + 600 / unit_of(&r) * unit_of(&r), 1, unit_of(&r));
		memset(want.in + 1100 / unit_of(&r) * unit_of(&r), 1, unit_of(&r));
		fetches(t, &r, &want, "written, and unmapped since");
	}
	nothing(t, &r, "reported already");
	cr_assert_eq(*page_of(&r, 600), (uint8_t)601);
	cr_assert_eq(*page_of(&r, 1), 2);
	cr_assert_eq(*page_of(&r, 1100), (uint8_t)1101);
	nothing(t, &r, "only read");
	cr_assert_eq(madvise(r.hva, r.len, advice), 0);
	nothing(t, &r, "clean, and unmapped");
	write_page(&r, 1100, NULL);
	only(t, &r, 1100, "written again");
	ferry_track_free(t);
}

Test(track, a_write_outlives_its_entry_memfd)
{
	loses_entries(MEMFD, MADV_DONTNEED);
}

Test(track, a_write_outlives_its_entry_memfd_paged_out)
{
	loses_entries(MEMFD, MADV_PAGEOUT);
}

Test(track, a_write_outlives_its_entry_huge_memfd)
{
	loses_entries(HUGE_MEMFD, MADV_DONTNEED);
}

/*
 * Huge pages in the page cache: the first write to one may count for all of it, because the kernel unmaps it to split it.
 * Then it is exact.
 */
Test(track, a_shared_transparent_huge_page)
{
	struct ferry_region r = ram(MEMFD, 1, 4 * 512);
	struct ferry_track *t;
	struct pages got;

	madvise(r.hva, r.len, MADV_HUGEPAGE);
	memset(r.hva, 1, r.len);
	if (madvise(r.hva, r.len, MADV_COLLAPSE))
		cr_skip_test("MADV_COLLAPSE: %s", strerror(errno));
	t = started(&r, 1);
	nothing(t, &r, "no write");
	write_page(&r, 600, NULL);
	fetch(t, &r, 0, &got);
	cr_assert(got.in[600]);
	for (unsigned p = 0; p < 4 * 512; p++)
		cr_assert(!got.in[p] || p / 512 == 1, "page %u is of another huge page", p);
	(void)*page_of(&r, 700);
	nothing(t, &r, "only read");
	write_page(&r, 601, NULL);
	only(t, &r, 601, "split");
	ferry_track_free(t);
}

Test(track, a_write_outlives_the_making_of_a_huge_page)
{
	struct ferry_region r = ram(MEMFD, 1, 4 * 512);
	struct ferry_track *t;
	struct pages got;

	memset(r.hva, 1, r.len);
	t = started(&r, 1);
	write_page(&r, 5, NULL);
	madvise(r.hva, r.len, MADV_HUGEPAGE);
	madvise(r.hva, r.len, MADV_COLLAPSE);
	fetch(t, &r, 0, &got);
	cr_assert(got.in[5]);
	ferry_track_free(t);
}

/* Data that was in the file before, as of a VM that was restored by write(): no write, though nobody has mapped it. */
Test(track, what_only_the_file_has_is_no_write)
{
	struct ferry_region r = ram(MEMFD, 1, 4000);
	uint8_t page[PAGE_BYTES] = { 1 };
	struct pages got;
	struct ferry_track *t;

	for (unsigned p = 0; p < 1500; p += 11) /* pages with an entry beside those without */
		write_page(&r, p, NULL);
	for (unsigned p = 0; p < 4000; p += p % 5 + 1)
		cr_assert_eq(pwrite(r.fd, page, sizeof(page), (off_t)(r.fd_offset + p * PAGE_BYTES)),
			     (ssize_t)PAGE_BYTES);
	t = started(&r, 1);
	nothing(t, &r, "it was there at the start");
	for (unsigned p = 0; p < 4000; p++)
		(void)*page_of(&r, p / 2);
	fetch(t, &r, 0, &got); /* a hole that is read becomes a page */
	nothing(t, &r, "read");
	write_page(&r, 1234, NULL);
	only(t, &r, 1234, "written");
	ferry_track_free(t);
}

Test(track, a_fresh_page_of_another_mapping_is_found)
{
	struct ferry_region r = ram(MEMFD, 1, 1000);
	uint8_t *other = mmap(NULL, r.len, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, (off_t)r.fd_offset);
	struct ferry_track *t = started(&r, 1);

	other[500 << PAGE_SHIFT] = 1;
	only(t, &r, 500, "by another mapping");
	nothing(t, &r, "reported already");
	ferry_track_free(t);
}

Test(track, a_hole_that_is_written_again_is_found)
{
	struct ferry_region r = ram(MEMFD, 1, 1000);
	struct ferry_track *t;

	memset(r.hva, 1, r.len);
	t = started(&r, 1);
	cr_assert_eq(madvise((uint8_t *)r.hva + (100 << PAGE_SHIFT), 10 << PAGE_SHIFT, MADV_REMOVE), 0);
	write_page(&r, 105, NULL);
	only(t, &r, 105, "in a hole");
	cr_assert_eq(lseek(r.fd, (off_t)(r.fd_offset + (100 << PAGE_SHIFT)), SEEK_DATA),
		     (off_t)(r.fd_offset + (105 << PAGE_SHIFT)), "the hole is filled");
	ferry_track_free(t);
}

Test(track, the_files_offset_stays)
{
	struct ferry_region r = ram(MEMFD, 1, 1000);
	struct ferry_track *t;

	cr_assert_eq(lseek(r.fd, 12345, SEEK_SET), 12345);
	t = started(&r, 1);
	nothing(t, &r, "nothing");
	cr_assert_eq(lseek(r.fd, 0, SEEK_CUR), 12345);
	ferry_track_free(t);
}

/* ---- fork ---- */

static void as_child(void (*fn)(const struct ferry_region *), const struct ferry_region *r, pid_t *pid,
		     int *end)
{
	int ready[2], leave[2];

	cr_assert(!pipe(ready) && !pipe(leave));
	*pid = fork();
	cr_assert_geq(*pid, 0);
	if (!*pid) {
		char c;

		fn(r);
		close(leave[1]);
		if (write(ready[1], "", 1) != 1 || read(leave[0], &c, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(leave[0]);
	*end = leave[1];
	cr_assert_eq(read(ready[0], &(char){ 0 }, 1), 1);
}

static void end_child(pid_t pid, int end)
{
	close(end);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

static void write_two(const struct ferry_region *r)
{
	write_page(r, 2, NULL);
	write_page(r, 2000, NULL);
}

/* A child has pages of its own and the parent's userfaultfd: neither must change what the parent sees. */
Test(track, a_child_changes_nothing)
{
	struct ferry_region r = ram(ANON, 1, 3000);
	struct ferry_track *t, *again;
	pid_t pid;
	int end;

	for (unsigned p = 0; p < 1000; p++)
		write_page(&r, p, NULL);
	t = started(&r, 1);
	write_page(&r, 10, NULL);
	as_child(write_two, &r, &pid, &end);
	only(t, &r, 10, "written before the fork");
	write_page(&r, 11, NULL);
	only(t, &r, 11, "copied on write");
	/* The child still holds the userfaultfd. */
	cr_assert_eq(ferry_track_stop(t), 0);
	again = started(&r, 1);
	write_page(&r, 12, NULL);
	only(again, &r, 12, "tracked anew");
	ferry_track_free(again);
	ferry_track_free(t);
	end_child(pid, end);
}

/* A daemon forks between new and start. */
Test(track, a_tracker_outlives_the_fork_of_a_daemon)
{
	struct ferry_region r = ram(ANON, 1, 100);
	struct ferry_track *t = new_track(&r, 1);
	int status;
	pid_t pid = fork();

	if (!pid) {
		uint64_t bits[2] = { 0 };

		if (ferry_track_start(t))
			_exit(1);
		write_page(&r, 70, NULL);
		if (ferry_track_fetch(t, 1, bits, 100, 0) || bits[0] || bits[1] != UINT64_C(1) << 6)
			_exit(2);
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0, "it ended with %x", status);
	ferry_track_free(t);
}

/* ---- refusals ---- */

static int try_range(struct ferry_track *t, struct ferry_track_range r)
{
	return ferry_track_add(t, &r);
}

Test(track, arguments_out_of_range)
{
	struct ferry_region mem = ram(ANON, 1, 100);
	const struct ferry_track_range good = { FERRY_TRACK_RANGE_INIT,	    .region = 1,
						.addr = (uintptr_t)mem.hva, .len = mem.len,
						.page_shift = PAGE_SHIFT,   .fd = -1 };
	struct ferry_track_param p = { FERRY_TRACK_PARAM_INIT };
	struct ferry_track *t = NULL, *kept = NULL;
	struct ferry_track_range r;
	uint64_t bits[2] = { 0 };
	struct {
		struct ferry_track_range range;
		uint64_t more[2];
	} newer = { .range = good };

	cr_assert_eq(ferry_track_new(NULL, NULL), -EINVAL);
	p.flags = 2;
	cr_assert_eq(ferry_track_new(&kept, &p), -EINVAL);
	p.flags = FERRY_TRACK_FOREIGN;
	p.uffd = -1;
	cr_assert_eq(ferry_track_new(&kept, &p), -EINVAL);
	p.uffd = 0;
	p.pagemap = -1;
	cr_assert_eq(ferry_track_new(&kept, &p), -EINVAL);
	p.size = 0;
	cr_assert_eq(ferry_track_new(&kept, &p), -EINVAL);
	cr_assert_null(kept);
	t = new_track(NULL, 0);
	cr_assert_eq(ferry_track_add(t, NULL), -EINVAL);
#define BAD(field, value)                                                     \
	do {                                                                  \
		r = good;                                                     \
		r.field = (value);                                            \
		cr_assert_eq(try_range(t, r), -EINVAL, #field " is " #value); \
	} while (0)
	BAD(size, 0);
	BAD(len, 0);
	BAD(len, 4095);
	BAD(len, UINT64_MAX - 4095);
	BAD(addr, good.addr + 1);
	BAD(addr, UINT64_MAX - 4095);
	BAD(first_page, UINT64_MAX);
	BAD(page_shift, 0);
	BAD(page_shift, 13);
	BAD(page_shift, HUGE_SHIFT);
	BAD(flags, FERRY_REGION_SHARED);
	BAD(flags, 8);
#undef BAD
	r = good;
	r.flags = FERRY_REGION_SHARED;
	r.fd = 0;
	r.fd_offset = 1;
	cr_assert_eq(try_range(t, r), -EINVAL);
	r.fd_offset = INT64_MAX & ~UINT64_C(4095);
	cr_assert_eq(try_range(t, r), -EINVAL);
	/* structs of other sizes */
	newer.range.size = sizeof(newer);
	newer.more[1] = 1;
	cr_assert_eq(ferry_track_add(t, &newer.range), -EINVAL);
	newer.more[1] = 0;
	cr_assert_eq(ferry_track_add(t, &newer.range), 0);
	cr_assert_eq(try_range(t, good), -EINVAL, "added before");
	r = good;
	r.addr += 99 << PAGE_SHIFT;
	cr_assert_eq(try_range(t, r), -EINVAL, "it overlaps");
	/* in a wrong order */
	cr_assert_eq(ferry_track_fetch(t, 1, bits, 100, 0), -EINVAL, "tracking is off");
	cr_assert_eq(ferry_track_stop(t), 0);
	cr_assert_eq(ferry_track_start(t), 0);
	cr_assert_eq(ferry_track_start(t), 0);
	r.addr = good.addr + mem.len;
	cr_assert_eq(try_range(t, r), -EBUSY);
	write_page(&mem, 1, NULL);
	cr_assert_eq(ferry_track_fetch(t, 2, bits, 100, 0), -EINVAL, "no such region");
	cr_assert_eq(ferry_track_fetch(t, 1, bits, 99, 0), -EINVAL, "bits[] is too small");
	cr_assert_eq(ferry_track_fetch(t, 1, NULL, 100, 0), -EINVAL);
	cr_assert_eq(bits[0] | bits[1], 0);
	only(t, &mem, 1, "the failed calls took nothing");
	cr_assert_eq(ferry_track_stop(t), 0);
	cr_assert_eq(ferry_track_stop(t), 0);
	ferry_track_free(t);
	ferry_track_free(NULL);
}

/* Memory of another tracker is refused, and stays that tracker's. */
Test(track, memory_that_another_one_tracks)
{
	struct ferry_region r[] = { ram(ANON, 1, 100), ram(ANON, 2, 100) };
	struct ferry_track *t = started(&r[1], 1), *second = new_track(r, 2);
	unsigned fds = entries("/proc/self/fd");

	cr_assert_eq(ferry_track_start(second), -EBUSY);
	cr_assert_eq(entries("/proc/self/fd"), fds);
	write_page(&r[1], 5, NULL);
	only(t, &r[1], 5, "tracked by the first");
	cr_assert_eq(ferry_track_stop(t), 0);
	cr_assert_eq(ferry_track_start(second), 0);
	write_page(&r[0], 6, NULL);
	only(second, &r[0], 6, "tracked by the second");
	ferry_track_free(second);
	ferry_track_free(t);
}

Test(track, memory_that_is_not_there)
{
	struct ferry_region r[] = { ram(ANON, 1, 100), ram(MEMFD, 2, 100) };
	struct ferry_track *t = new_track(r, 2);
	uint64_t bits[2];

	munmap(r[0].hva, r[0].len);
	cr_assert_lt(ferry_track_start(t), 0);
	cr_assert_neq(mmap(r[0].hva, r[0].len, PROT_READ | PROT_WRITE,
			   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		      MAP_FAILED);
	close(r[1].fd);
	cr_assert_lt(ferry_track_start(t), 0, "its file is closed");
	ferry_track_free(t);

	t = started(r, 1);
	cr_assert_neq(mmap((uint8_t *)r[0].hva + PAGE_BYTES, PAGE_BYTES, PROT_READ | PROT_WRITE,
			   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		      MAP_FAILED);
	cr_assert_eq(ferry_track_fetch(t, 1, bits, 100, 0), -EFAULT, "one page is mapped anew");
	ferry_track_stop(t);
	ferry_track_free(t);
}

Test(track, huge_pages_that_are_said_to_be_small)
{
	struct ferry_region r = ram(HUGE, 1, 2 * 512);
	struct ferry_track *t;

	r.page_shift = PAGE_SHIFT;
	r.len = 100 << PAGE_SHIFT;
	t = new_track(&r, 1);
	cr_assert_eq(ferry_track_start(t), -EINVAL);
	ferry_track_free(t);
}

/* The kernel, or a sandbox, refuses a call: new says so, not the first fetch. */
static void refused(const struct refused *what, size_t n, int as, int err)
{
	struct ferry_track *t = NULL;

	ferry_track_free(new_track(NULL, 0)); /* skips if the kernel really cannot */
	refuse_calls(what, n, as, true);
	cr_assert_eq(ferry_track_new(&t, NULL), err);
	cr_assert_null(t);
}

static const struct refused no_scan[] = { { SYS_ioctl, 2, (uint32_t)PAGEMAP_SCAN } },
			    no_uffd[] = { { SYS_userfaultfd, 0, 0 },
					  { SYS_ioctl, 2, (uint32_t)USERFAULTFD_IOC_NEW } },
			    no_api[] = { { SYS_ioctl, 2, (uint32_t)UFFDIO_API } },
			    no_open[] = { { SYS_openat, 3, O_RDONLY | O_CLOEXEC } },
			    no_call[] = { { SYS_userfaultfd, 0, 0 } };

Test(track_refused, the_scan_by_a_sandbox)
{
	refused(no_scan, 1, EPERM, -EPERM);
}

Test(track_refused, the_scan_by_an_old_kernel)
{
	refused(no_scan, 1, ENOTTY, -EOPNOTSUPP);
}

Test(track_refused, userfaultfd_by_a_sandbox)
{
	refused(no_uffd, 2, EACCES, -EPERM);
}

Test(track_refused, userfaultfd_by_a_kernel_without_it)
{
	refused(no_uffd, 2, ENOSYS, -EOPNOTSUPP);
}

Test(track_refused, its_features_by_an_old_kernel)
{
	refused(no_api, 1, EINVAL, -EOPNOTSUPP);
}

Test(track_refused, proc_by_a_sandbox)
{
	refused(no_open, 1, EACCES, -EPERM);
}

/* The device is another way to a userfaultfd. */
Test(track_refused, only_the_call)
{
	struct ferry_region r = ram(ANON, 1, 100);
	struct ferry_track *t;

	if (access("/dev/userfaultfd", R_OK | W_OK))
		cr_skip_test("there is no /dev/userfaultfd that can be used");
	refuse_calls(no_call, 1, EPERM, true);
	t = started(&r, 1);
	write_page(&r, 9, NULL);
	only(t, &r, 9, "by /dev/userfaultfd");
	ferry_track_free(t);
}

Test(track_refused, registering)
{
	struct ferry_region r = ram(ANON, 1, 100);
	struct ferry_track *t = new_track(&r, 1);
	unsigned fds = entries("/proc/self/fd");

	refuse_calls(&(struct refused){ SYS_ioctl, 2, (uint32_t)UFFDIO_REGISTER }, 1, EPERM, true);
	cr_assert_eq(ferry_track_start(t), -EPERM);
	cr_assert_eq(entries("/proc/self/fd"), fds);
	ferry_track_free(t);
}

Test(track, no_privilege_is_needed)
{
	struct ferry_region r = ram(MEMFD, 1, 100);
	struct ferry_track *t;

	if (!geteuid()) {
		cr_assert_eq(setresgid(65534, 65534, 65534), 0);
		cr_assert_eq(setresuid(65534, 65534, 65534), 0);
		prctl(PR_SET_DUMPABLE, 1); /* or /proc/self is still root's */
	}
	t = started(&r, 1);
	write_page(&r, 9, NULL);
	only(t, &r, 9, "without privilege");
	ferry_track_free(t);
}

Test(track, nothing_is_left_open)
{
	struct ferry_region r[] = { ram(ANON, 1, 100), ram(MEMFD, 2, 100) };
	unsigned fds = entries("/proc/self/fd");
	struct ferry_track *t;

	for (int i = 0; i < 3; i++) {
		t = started(r, 2);
		cr_assert_eq(ferry_track_stop(t), 0);
		cr_assert_eq(entries("/proc/self/fd"), fds);
		cr_assert_eq(ferry_track_start(t), 0);
		write_page(&r[i % 2], 50, NULL);
		only(t, &r[i % 2], 50, "after a restart");
		ferry_track_free(t); /* tracking is on */
		cr_assert_eq(entries("/proc/self/fd"), fds);
	}
}

/* ---- between two calls of the kernel ---- */

/* What happens around each call; made to happen by the linker's --wrap=ioctl. */
static void (*before_scan)(struct pm_scan_arg *arg);
static void (*before_protect)(struct uffdio_writeprotect *arg);
static int (*after_scan)(struct pm_scan_arg *arg, int n);

int __real_ioctl(int fd, unsigned long req, ...);
int __wrap_ioctl(int fd, unsigned long req, ...);
int __wrap_ioctl(int fd, unsigned long req, ...)
{
	va_list ap;
	void *arg;
	int n;

	va_start(ap, req);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (req == PAGEMAP_SCAN && before_scan)
		before_scan(arg);
	if (req == UFFDIO_WRITEPROTECT && before_protect)
		before_protect(arg);
	n = __real_ioctl(fd, req, arg);
	return req == PAGEMAP_SCAN && after_scan ? after_scan(arg, n) : n;
}

static struct ferry_region victim;

/* A page between two runs is written after the first scan: the second one protects it, and so must report it. */
static void write_the_gap(struct pm_scan_arg *arg)
{
	if (!(arg->flags & PM_SCAN_WP_MATCHING))
		return;
	write_page(&victim, 5, NULL);
	before_scan = NULL;
}

static void written_in_between(enum kind kind)
{
	struct pages first, second;
	struct ferry_track *t;

	victim = ram(kind, 1, 100);
	memset(victim.hva, 1, victim.len);
	t = started(&victim, 1);
	write_page(&victim, 4, NULL);
	write_page(&victim, 6, NULL);
	before_scan = write_the_gap;
	fetch(t, &victim, 0, &first);
	cr_assert_null(before_scan, "nothing was protected");
	cr_assert(first.in[4] && first.in[6]);
	fetch(t, &victim, 0, &second);
	cr_assert(first.in[5] || second.in[5], "a write between the two scans was lost");
	nothing(t, &victim, "no write");
	ferry_track_free(t);
}

Test(track, a_write_between_the_two_scans_anonymous)
{
	written_in_between(ANON);
}

Test(track, a_write_between_the_two_scans_memfd)
{
	written_in_between(MEMFD);
}

/*
 * Holes of a file between pages get markers. A page that is written just before its hole gets one is protected by that, so
 * it must be reported.
 */
static void write_the_hole(struct uffdio_writeprotect *arg)
{
	before_protect = NULL;
	cr_assert_leq(arg->range.start, (uintptr_t)victim.hva + (45 << PAGE_SHIFT));
	cr_assert_gt(arg->range.start + arg->range.len, (uintptr_t)victim.hva + (45 << PAGE_SHIFT));
	write_page(&victim, 45, NULL);
}

Test(track, a_write_just_before_its_hole_is_marked)
{
	struct pages first, second;
	struct ferry_track *t;

	victim = ram(MEMFD, 1, 100);
	memset(victim.hva, 1, victim.len);
	t = started(&victim, 1);
	for (unsigned p = 40; p < 50; p++) /* or the punched hole would have markers already */
		write_page(&victim, p, NULL);
	cr_assert_eq(madvise((uint8_t *)victim.hva + (40 << PAGE_SHIFT), 10 << PAGE_SHIFT, MADV_REMOVE), 0);
	before_protect = write_the_hole;
	fetch(t, &victim, 0, &first);
	cr_assert_null(before_protect, "the hole was not marked");
	fetch(t, &victim, 0, &second);
	cr_assert(first.in[45] || second.in[45], "the write was lost");
	nothing(t, &victim, "no write");
	write_page(&victim, 44, NULL);
	only(t, &victim, 44, "in the marked hole");
	ferry_track_free(t);
}

/* What was found by the first scan is reported, even if it is gone when it is to be protected. */
static void drop_all(struct pm_scan_arg *arg)
{
	if (!(arg->flags & PM_SCAN_WP_MATCHING))
		return;
	madvise(victim.hva, victim.len, MADV_DONTNEED);
	before_scan = NULL;
}

Test(track, a_page_that_goes_between_the_two_scans)
{
	struct ferry_track *t;

	victim = ram(ANON, 1, 100);
	memset(victim.hva, 1, victim.len);
	t = started(&victim, 1);
	write_page(&victim, 50, NULL);
	before_scan = drop_all;
	only(t, &victim, 50, "written, then freed");
	cr_assert_null(before_scan);
	nothing(t, &victim, "freed, not touched");
	write_page(&victim, 50, NULL);
	only(t, &victim, 50, "written again");
	ferry_track_free(t);
}

/* Only runs that were found are protected: a hypervisor drops its mappings of what is scanned with protection. */
static uint64_t protected_bytes;

static void count_protected(struct pm_scan_arg *arg)
{
	if (arg->flags & PM_SCAN_WP_MATCHING)
		protected_bytes += arg->end - arg->start;
}

Test(track, only_what_was_found_is_protected)
{
	struct ferry_track *t;

	victim = ram(ANON, 1, 10000);
	memset(victim.hva, 1, victim.len);
	t = started(&victim, 1);
	before_scan = count_protected;
	nothing(t, &victim, "no write");
	cr_assert_eq(protected_bytes, 0);
	write_page(&victim, 100, NULL);
	write_page(&victim, 9000, NULL);
	fetch(t, &victim, 0, &(struct pages){ 0 });
	cr_assert_eq(protected_bytes, 2 * PAGE_BYTES, "%llu bytes were scanned with protection",
		     (unsigned long long)protected_bytes);
	ferry_track_free(t);
}

static int interrupts; /* of the first scans, or of the second */

static int interrupt(struct pm_scan_arg *arg, int n)
{
	(void)n;
	if (interrupts != !!(arg->flags & PM_SCAN_WP_MATCHING))
		return n;
	after_scan = NULL; /* once */
	errno = EINTR;
	return -1;
}

Test(track, an_interrupted_scan_loses_nothing)
{
	struct ferry_track *t;
	struct pages got;

	victim = ram(ANON, 1, 100);
	memset(victim.hva, 1, victim.len);
	t = started(&victim, 1);
	for (interrupts = 0; interrupts < 2; interrupts++) {
		write_page(&victim, 4, NULL);
		write_page(&victim, 6, NULL);
		before_scan = write_the_gap;
		after_scan = interrupt;
		fetch(t, &victim, 0, &got);
		cr_assert(!after_scan && !before_scan);
		cr_assert(got.in[4] && got.in[5] && got.in[6]);
		nothing(t, &victim, "no write");
	}
	ferry_track_free(t);
}

static int stands_still(struct pm_scan_arg *arg, int n)
{
	arg->walk_end = arg->start;
	return n;
}

Test(track, a_scan_that_stands_still_ends)
{
	struct ferry_track *t;
	uint64_t bits[2] = { 0 };

	victim = ram(ANON, 1, 100);
	t = started(&victim, 1);
	after_scan = stands_still;
	cr_assert_eq(ferry_track_fetch(t, 1, bits, 100, 0), -EIO);
	after_scan = NULL;
	ferry_track_free(t);
}

/* ---- writers beside the fetches ---- */

#define WRITERS 3u
#define ROUNDS 150u
#define STAMPS 20000u /* of each writer, at least */

struct race {
	struct ferry_region r;
	_Atomic bool stop;
	struct writer {
		struct race *race;
		unsigned nth;
		_Atomic uint64_t done; /* all its stamps up to this one are in memory */
		pthread_t thread;
	} w[WRITERS];
};

static _Atomic uint64_t *stamp_of(const struct race *g, uint64_t page)
{
	return (_Atomic uint64_t *)((uint8_t *)g->r.hva + (page << PAGE_SHIFT));
}

/* Every page has one writer, and its writers' pages lie between each other. */
static void *stamps(void *arg)
{
	struct writer *w = arg;
	struct race *g = w->race;
	uint64_t seed = w->nth, own = pages_of(&g->r) / WRITERS;

	for (uint64_t n = 1; !atomic_load_explicit(&g->stop, memory_order_relaxed); n++) {
		uint64_t page = draw(&seed) % own * WRITERS + w->nth;

		atomic_store_explicit(stamp_of(g, page), n, memory_order_relaxed);
		atomic_store_explicit(&w->done, n, memory_order_release);
		if (n % 64 == 0) /* a page's stamp is seldom hidden by its next one */
			sched_yield();
	}
	return NULL;
}

/*
 * The source of a migration: after each fetch it copies the pages that are reported. Then each stamp that was complete
 * when the fetch began, and is still in its page, must be in the copy.
 */
static void check_round(struct race *g, struct ferry_track *t, uint64_t *copy, unsigned flags)
{
	uint64_t done[WRITERS], npages = pages_of(&g->r) / WRITERS * WRITERS;
	struct pages got;

	for (unsigned i = 0; i < WRITERS; i++)
		done[i] = atomic_load_explicit(&g->w[i].done, memory_order_acquire);
	fetch(t, &g->r, flags, &got);
	for (uint64_t p = 0; p < npages; p++) {
		uint64_t is = atomic_load_explicit(stamp_of(g, p), memory_order_relaxed);

		if (got.in[p])
			copy[p] = is;
		cr_assert(is > done[p % WRITERS] || copy[p] == is,
			  "page %llu has stamp %llu, complete before the fetch, and its copy %llu",
			  (unsigned long long)p, (unsigned long long)is, (unsigned long long)copy[p]);
	}
}

static bool have_run(struct race *g)
{
	for (unsigned i = 0; i < WRITERS; i++)
		if (atomic_load(&g->w[i].done) < STAMPS)
			return false;
	return true;
}

static void race(enum kind kind)
{
	static struct race g;
	static uint64_t copy[MOST];
	struct ferry_track *t;

	g.r = ram(kind, 1, kind == HUGE || kind == HUGE_MEMFD ? 4 * 512 : 6000);
	t = started(&g.r, 1);
	for (unsigned i = 0; i < WRITERS; i++) {
		g.w[i].race = &g;
		g.w[i].nth = i;
		cr_assert_eq(pthread_create(&g.w[i].thread, NULL, stamps, &g.w[i]), 0);
	}
	for (unsigned i = 0; i < ROUNDS || !have_run(&g); i++)
		check_round(&g, t, copy, 0);
	atomic_store(&g.stop, true);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(g.w[i].thread, NULL);
	check_round(&g, t, copy, FERRY_DIRTY_LAST);
	ferry_track_free(t);
}

EACH_KIND(no_write_is_lost_to_a_fetch, race)

Test(track, no_write_is_lost_to_a_fetch_thp)
{
	race(THP);
}
