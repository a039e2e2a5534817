/* SPDX-License-Identifier: MIT */
/*
 * Finds written pages in page tables.
 *
 * Theory. A page is clean if its page-table entry has userfaultfd's write-protection bit. In asynchronous
 * mode the kernel clears the bit at the first write and raises no event; the bit moves to the swap entry and
 * back with the page. PAGEMAP_SCAN finds entries without the bit, and with PM_SCAN_WP_MATCHING it sets the
 * bit in the same step, so that no write is lost.
 *
 * - A page that was never touched has no entry. It is left so: a protected absent entry would be a marker,
 *   which looks like a swapped page to everyone who looks for populated pages. The first write makes an entry
 *   without the bit.
 * - A protecting scan makes KVM drop its mappings of the whole range that is scanned. So a first scan only
 *   looks, and a second one protects the runs found. Runs with a small gap between them are protected in one
 *   call; a page in the gap may have been written since the first scan, so the second scan's results count,
 *   too.
 * - Entries of shared memory can go away while the data stays in the file: reclaim, khugepaged, splitting a
 *   huge page, MADV_DONTNEED. A protected entry leaves a marker, one without the bit leaves nothing, and the
 *   write would be forgotten. So a page without an entry counts as written if the file has data there, and it
 *   gets a marker. Holes of the file that are shorter than a page table get markers, too, or the file would
 *   be asked about each of them in each fetch. In shared memory nobody looks for populated pages in the page
 *   table, and the markers take no memory: the table is there for the pages beside them.
 * - A write to a protected huge page of anonymous memory splits it, and its other pages stay protected. Of
 *   shared memory it removes the protection of all of it. The start protects it as a whole, so that reading
 *   it costs nothing. If it is found written, it is protected page by page, for which the kernel splits it.
 */
#include <errno.h>
#include <unistd.h>

#include "runtime/base/page.h"
#include "track_int.h"

/* A call costs as much as looking at hundreds of entries; KVM drops its mappings of the gap. */
#define GAP_BYTES (64u * PAGE_BYTES)
#define TABLE_BYTES HUGE_BYTES /* what a page table maps */

#define EXISTS (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)

/*
 * A query of PAGEMAP_SCAN. A page matches if, after flipping the categories in inverted, it has all of mask
 * and, if any is not 0, at least one of any. ret: the categories to report.
 */
struct wanted {
	uint64_t inverted, mask, any, ret;
};
static const struct wanted written_pages = { .mask = PAGE_IS_WRITTEN, .any = EXISTS, .ret = PAGE_IS_WRITTEN },
			   written_by_size = { .mask = PAGE_IS_WRITTEN, .any = EXISTS, .ret = PAGE_IS_HUGE },
			   absent_pages = { .inverted = EXISTS, .mask = EXISTS };

struct look {
	struct ferry_track *t;
	const struct ferry_track_range *r;
	int file;	/* of shared memory; else -1 */
	uint64_t *bits; /* NULL: tracking starts, and what was written before does not matter */
	bool protect;
};

/* One PAGEMAP_SCAN of [at, end). Returns the number of runs; *next is where it ended, at after an error. */
static int scan(struct ferry_track *t, uint64_t at, uint64_t end, uint64_t flags, const struct wanted *w,
		struct page_region *runs, uint64_t *next)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = flags | PM_SCAN_CHECK_WPASYNC,
		.start = at,
		.end = end,
		.vec = (uintptr_t)runs,
		.vec_len = TRACK_RUNS,
		.category_inverted = w->inverted,
		.category_mask = w->mask,
		.category_anyof_mask = w->any,
		.return_mask = w->ret,
	};
	int n = ioctl(t->pagemap, PAGEMAP_SCAN, &arg);

	*next = at;
	if (n < 0) /* EPERM: a mapping in [at, end) is not tracked */
		return errno == EPERM ? -EFAULT : -errno;
	if (arg.walk_end <= at) /* no progress: the loop would never end */
		return -EIO;
	*next = arg.walk_end;
	return n;
}

int track_sees(struct ferry_track *t, uint64_t addr)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = addr,
		.end = addr + PAGE_BYTES,
		.vec = (uintptr_t)t->runs,
		.vec_len = 1,
		.category_mask = PAGE_IS_WPALLOWED,
		.return_mask = PAGE_IS_WPALLOWED,
	};
	int n = ioctl(t->pagemap, PAGEMAP_SCAN, &arg);

	return n < 0 ? -errno : n ? 0 : -EINVAL;
}

static void report(const struct look *l, uint64_t at, uint64_t end)
{
	uint64_t page = l->r->first_page + ((at - l->r->addr) >> PAGE_SHIFT), n = (end - at) >> PAGE_SHIFT;

	while (l->bits && n) {
		uint64_t shift = page % 64, here = n < 64 - shift ? n : 64 - shift;

		l->bits[page / 64] |= UINT64_MAX >> (64 - here) << shift;
		page += here;
		n -= here;
	}
}

/* Protects the written pages of [at, end), and reports them. */
static int protect_written(const struct look *l, uint64_t at, uint64_t end)
{
	uint64_t next;

	while (at < end) {
		int n = scan(l->t, at, end, PM_SCAN_WP_MATCHING, &written_pages, l->t->again, &next);

		if (n == -EINTR) { /* it may have protected pages that it did not return */
			report(l, at, end);
			continue;
		}
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++)
			report(l, l->t->again[i].start, l->t->again[i].end);
		at = next;
	}
	return 0;
}

/* Protects all of [at, end), and leaves markers where there is no entry. Reports nothing. */
static int protect_all(const struct look *l, uint64_t at, uint64_t end)
{
	struct uffdio_writeprotect wp = { .range = { at, end - at }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	while (at < end && ioctl(l->t->uffd, UFFDIO_WRITEPROTECT, &wp))
		if (errno != EAGAIN) /* the process's mappings are changing */
			return errno == ENOENT ? -EFAULT : -errno;
	return 0;
}

/* A transparent huge page of shared memory that was written since the start. */
static bool wants_splitting(const struct look *l, const struct page_region *run)
{
	return l->bits && run->categories & PAGE_IS_HUGE;
}

/* Reports the n runs that the first scan has found, and protects them. */
static int take_written(const struct look *l, int n)
{
	uint64_t from = 0, to = 0; /* still to be protected */
	int err = 0;

	for (int i = 0; !err && i < n; i++) {
		const struct page_region *run = &l->t->runs[i];

		report(l, run->start, run->end);
		if (!l->protect)
			continue;
		if (wants_splitting(l, run)) {
			err = protect_all(l, run->start, run->end);
			continue;
		}
		if (run->start - to > GAP_BYTES) {
			err = protect_written(l, from, to);
			from = run->start;
		}
		to = run->end;
	}
	return err ? err : protect_written(l, from, to);
}

/* Reports the pages of [at, end), which have no entry, if the file has data there. */
static int take_data(const struct look *l, uint64_t at, uint64_t end, bool protect)
{
	uint64_t to_offset = l->r->fd_offset - l->r->addr;

	while (at < end) {
		off_t data = lseek(l->file, (off_t)(at + to_offset), SEEK_DATA), hole;
		uint64_t until;
		int err;

		if (data < 0)
			return errno == ENXIO ? 0 : -errno; /* ENXIO: a hole up to the end of the file */
		at = (uint64_t)data - to_offset;
		if (at >= end)
			return 0;
		hole = lseek(l->file, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		until = (uint64_t)hole - to_offset;
		if (until > end)
			until = end;
		report(l, at, until);
		err = protect ? protect_all(l, at, until) : 0;
		if (err)
			return err;
		at = until;
	}
	return 0;
}

/* Takes the n runs without entries that the scan has found. */
static int take_absent(const struct look *l, int n)
{
	uint64_t from = 0, to = 0; /* at the start: short runs and what is between them, in one call */
	int err = 0;

	for (int i = 0; !err && i < n; i++) {
		const struct page_region *run = &l->t->runs[i];

		if (run->end - run->start >= TABLE_BYTES) {
			err = take_data(l, run->start, run->end, l->protect);
		} else if (l->bits) {
			/* Protect first: a page that is written in between has data, and is reported. */
			err = l->protect ? protect_all(l, run->start, run->end) : 0;
			if (!err)
				err = take_data(l, run->start, run->end, false);
		} else {
			if (run->start - to >= TABLE_BYTES) {
				err = protect_all(l, from, to);
				from = run->start;
			}
			to = run->end;
		}
	}
	return err ? err : protect_all(l, from, to);
}

static int look_for(const struct look *l, const struct wanted *w, int (*take)(const struct look *, int))
{
	uint64_t next;
	int err = 0;

	for (uint64_t at = l->r->addr, end = at + l->r->len; !err && at < end; at = next) {
		int n = scan(l->t, at, end, 0, w, l->t->runs, &next);

		if (n != -EINTR)
			err = n < 0 ? n : take(l, n);
	}
	return err;
}

int track_look(struct ferry_track *t, size_t i, uint64_t *bits, bool protect)
{
	const struct ferry_track_range *r = &t->ranges[i];
	const struct look l = { .t = t, .r = r, .file = t->files[i], .bits = bits, .protect = protect };
	bool may_split = l.file >= 0 && r->page_shift == PAGE_SHIFT;
	int err = look_for(&l, may_split ? &written_by_size : &written_pages, take_written);

	/* In this order: an entry that goes in between is either found now or absent then. */
	return err || l.file < 0 ? err : look_for(&l, &absent_pages, take_absent);
}
