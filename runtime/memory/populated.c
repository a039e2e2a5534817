/* SPDX-License-Identifier: MIT */
/* Finds the pages that were ever touched. */
#include "populated.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "uffd.h"
#include "zero.h"
#include "ferry/ferry.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/uffd_abi.h"

#define SCAN_REGIONS 512
#define PAGEMAP_ENTRIES 16384
#define PAGEMAP_PRESENT (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED (UINT64_C(1) << 62)

static uint64_t add_pages(struct page_set *set, uint32_t idx, uint64_t page, uint64_t npages)
{
	uint64_t added = 0;

	while (npages) {
		struct page_run run = { .region = idx, .page = page };

		run.npages = npages < UINT32_MAX ? npages : UINT32_MAX;
		added += page_set_add_run(set, &run);
		page += run.npages;
		npages -= run.npages;
	}
	return added;
}

int populated_reopen(const struct ferry_region *reg)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", reg->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int populated_by_seek(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	uint64_t page_size = UINT64_C(1) << PAGE_SHIFT, added = 0, begin = reg->fd_offset, end;
	off_t data, hole;
	int fd, err = 0;

	if (__builtin_add_overflow(begin, reg->len, &end) || end > INT64_MAX)
		return -EOVERFLOW;
	fd = populated_reopen(reg);
	if (fd < 0)
		return fd;

	for (data = begin; (uint64_t)data < end; data = hole) {
		uint64_t first, last;

		data = lseek(fd, data, SEEK_DATA);
		if (data < 0) {
			err = errno == ENXIO ? 0 : -errno; /* ENXIO: a hole up to the end of the file */
			break;
		}
		if ((uint64_t)data >= end)
			break;
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0) {
			err = -errno;
			break;
		}
		first = (data - begin) / page_size;
		last = (((uint64_t)hole < end ? (uint64_t)hole : end) - begin + page_size - 1) / page_size;
		added += add_pages(set, idx, first, last - first);
	}
	close(fd);
	if (!err)
		*count = added;
	return err;
}

int populated_by_scan(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	struct page_region *found;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)reg->hva,
		.end = (uintptr_t)reg->hva + reg->len,
		.vec_len = SCAN_REGIONS,
		.category_inverted = PAGE_IS_PFNZERO,
		.category_mask = PAGE_IS_PFNZERO,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
	};
	uint64_t base = arg.start, added = 0;
	int fd, n, err = 0;

	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	found = calloc(SCAN_REGIONS, sizeof(*found));
	if (!found) {
		close(fd);
		return -ENOMEM;
	}
	arg.vec = (uintptr_t)found;

	while (arg.start < arg.end) {
		n = ioctl(fd, PAGEMAP_SCAN, &arg);
		if (n < 0) {
			err = -errno;
			break;
		}
		for (int i = 0; i < n; i++)
			added += add_pages(set, idx, (found[i].start - base) >> PAGE_SHIFT,
					   (found[i].end - found[i].start) >> PAGE_SHIFT);
		if (arg.walk_end <= arg.start) { /* no progress: the loop would never end */
			err = -EIO;
			break;
		}
		arg.start = arg.walk_end;
	}
	free(found);
	close(fd);
	if (!err)
		*count = added;
	return err;
}

int populated_by_pagemap(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	uint64_t npages = reg->len >> PAGE_SHIFT, at = 0, added = 0;
	uint64_t first = (uintptr_t)reg->hva >> PAGE_SHIFT;
	uint64_t *entries;
	int fd, err = 0;

	fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	entries = malloc(PAGEMAP_ENTRIES * sizeof(*entries));
	if (!entries) {
		close(fd);
		return -ENOMEM;
	}

	while (at < npages) {
		uint64_t want = npages - at < PAGEMAP_ENTRIES ? npages - at : PAGEMAP_ENTRIES, i, run;
		ssize_t got = pread(fd, entries, want * sizeof(*entries), (first + at) * sizeof(*entries));

		if (got < (ssize_t)sizeof(*entries)) {
			err = got < 0 ? -errno : -EIO;
			break;
		}
		got /= sizeof(*entries);
		for (i = 0; i < (uint64_t)got; i += run + 1) {
			for (run = 0; i + run < (uint64_t)got; run++) {
				if (!(entries[i + run] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
					break;
			}
			if (run)
				added += add_pages(set, idx, at + i, run);
		}
		at += got;
	}
	free(entries);
	close(fd);
	if (!err)
		*count = added;
	return err;
}

/*
 * True if a huge page of the file has a hardware error. It counts as populated; the code that sends it
 * handles the error. A read() that meets the error returns what comes before it, or EIO.
 */
static bool is_lost(int err)
{
	return err == -EIO || err == -EHWPOISON;
}

/*
 * SEEK_DATA takes all of a hugetlbfs file for data. But UFFDIO_CONTINUE, through a mapping of our own, maps
 * only pages that are in the page cache and stops at each hole.
 */
int populated_by_continue(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	uint8_t *map = mmap(NULL, reg->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, reg->fd,
			    (off_t)reg->fd_offset);
	uint64_t at = 0, added = 0;
	struct fail f = { 0 };
	int fd, err;

	if (map == MAP_FAILED)
		return -errno;
	fd = uffd_open(UFFD_SHARED | UFFD_HUGE, &f);
	err = fd < 0 ? fd : uffd_register(fd, map, reg->len, true);
	while (!err && at < reg->len) {
		size_t done;

		err = uffd_continue(fd, map + at, reg->len - at, false, &done);
		added += add_pages(set, idx, at >> PAGE_SHIFT, done >> PAGE_SHIFT);
		at += done;
		if (is_lost(err))
			added += add_pages(set, idx, at >> PAGE_SHIFT, HUGE_PAGES);
		if (is_lost(err) || err == -EFAULT) { /* EFAULT: a hole */
			at += UINT64_C(1) << HUGE_SHIFT;
			err = 0;
		}
	}
	if (fd >= 0)
		close(fd);
	munmap(map, reg->len);
	if (!err)
		*count = added;
	return err;
}

/* Without userfaultfd: reads all pages. A read() of a hole returns zeros and allocates no page. */
int populated_by_read(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	size_t unit = (size_t)1 << HUGE_SHIFT;
	uint8_t *buf = aligned_alloc(PAGE_BYTES, unit);
	uint64_t added = 0;
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t at = 0; !err && at < reg->len; at += unit) {
		ssize_t got = pread(reg->fd, buf, unit, (off_t)(reg->fd_offset + at));

		bool lost = got < 0 ? is_lost(-errno) : got && got < (ssize_t)unit;

		if (got != (ssize_t)unit && !lost)
			err = got < 0 ? -errno : -EIO;
		else if (lost || !is_zero(buf, unit))
			added += add_pages(set, idx, at >> PAGE_SHIFT, unit >> PAGE_SHIFT);
	}
	free(buf);
	if (!err)
		*count = added;
	return err;
}

/*
 * The quick way failed with err. If the kernel lacks it (absent) or a filter refuses it, the slower one is taken,
 * and its error returned; or, if it worked after a refusal, the refused call's errno, positive. Else err.
 */
static int or_else(int err, bool absent,
		   int (*slower)(struct page_set *, uint32_t, const struct ferry_region *, uint64_t *),
		   struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	int then;

	if (!absent && !cure_refused(err))
		return err;
	then = slower(set, idx, reg, count);
	return then || absent ? then : -err;
}

int populated_pages(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count)
{
	int err;

	if (reg->flags & FERRY_REGION_SHARED && reg->page_shift == HUGE_SHIFT) {
		err = populated_by_continue(set, idx, reg, count);
		return err ? or_else(err, err == -EOPNOTSUPP, populated_by_read, set, idx, reg, count) : 0;
	}
	if (reg->flags & FERRY_REGION_SHARED)
		return populated_by_seek(set, idx, reg, count);
	err = populated_by_scan(set, idx, reg, count); /* ENOTTY before Linux 6.7 */
	return err ? or_else(err, err == -ENOTTY, populated_by_pagemap, set, idx, reg, count) : 0;
}
