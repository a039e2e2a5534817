// SPDX-License-Identifier: MIT
/*
 * Transparent huge pages at the target: collapse what the migration has left in small pages.
 *
 * Memory arrives page by page: dropping the residue split the huge pages, and a page cache that was filled
 * through our second mapping may never have had any. MADV_COLLAPSE copies 2 MiB into one huge page and maps
 * it. That takes 1 to 6 ms per piece, in which vCPUs that need the piece wait. So it comes last, when the VM
 * has one owner and runs.
 *
 * Only pieces that hold something are collapsed; holes stay holes. For shared memory the file is asked: the VM
 * may have mapped only what it touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "collapse.h"
#include "runtime/base/uffd_abi.h"
#include "runtime/memory/populated.h"
#include "runtime/session/poison.h"

#define PIECE (UINT64_C(1) << HUGE_SHIFT)
#define SCAN_VEC 64u
#define PAUSE_US 1000u /* before a busy piece is tried again; doubles each time */
#define PAUSE_MAX_US 128000u
#define PATIENCE_US 1000000u /* all pauses together: pinned pages stay busy for good */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/*
 * Find at most n ranges of present pages, huge ones or small ones. Returns how many, or an errno; *walked is
 * where the scan ended.
 */
static int scan(int fd, uint64_t begin, uint64_t end, bool huge, struct page_region *v, unsigned n,
		uint64_t *walked)
{
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .start = begin,
				   .end = end,
				   .vec = (uintptr_t)v,
				   .vec_len = n,
				   .category_inverted = PAGE_IS_PFNZERO | (huge ? 0 : PAGE_IS_HUGE),
				   .category_mask = PAGE_IS_PRESENT | PAGE_IS_PFNZERO | PAGE_IS_HUGE,
				   .return_mask = PAGE_IS_PRESENT };
	int got = ioctl(fd, PAGEMAP_SCAN, &arg);

	if (got < 0)
		return -errno;
	if (arg.walk_end <= begin)
		return -EIO;
	*walked = arg.walk_end;
	return got;
}

static uint64_t huge_bytes(int fd, const struct ferry_region *r)
{
	uint64_t at = (uintptr_t)r->hva, end = at + r->len, sum = 0;
	struct page_region v[SCAN_VEC];

	while (at < end) {
		int n = scan(fd, at, end, true, v, SCAN_VEC, &at);

		if (n < 0)
			return 0;
		for (int i = 0; i < n; i++)
			sum += v[i].end - v[i].start;
	}
	return sum;
}

static int open_pagemap(void)
{
	return open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
}

/* Page tables of another process are out of reach here. */
static bool is_ours(const struct ferry_region *r)
{
	return (r->flags & (FERRY_REGION_THP | FERRY_REGION_FOREIGN)) == FERRY_REGION_THP;
}

bool collapse_wanted(const struct ferry_session *s)
{
	for (size_t i = 0; i < s->nregions; i++)
		if (is_ours(&s->regions[i]))
			return true;
	return false;
}

uint64_t collapse_count(const struct ferry_session *s)
{
	uint64_t sum = 0;
	int fd = -1;

	for (size_t i = 0; i < s->nregions; i++) {
		if (!is_ours(&s->regions[i]))
			continue;
		if (fd < 0 && (fd = open_pagemap()) < 0)
			break;
		sum += huge_bytes(fd, &s->regions[i]);
	}
	if (fd >= 0)
		close(fd);
	return sum;
}

static uint64_t next_small(int fd, uint64_t at, uint64_t end, int *err)
{
	while (at < end) {
		struct page_region v;
		int n = scan(fd, at, end, false, &v, 1, &at);

		if (n > 0)
			return v.start;
		if (n < 0) {
			*err = n;
			break;
		}
	}
	return end;
}

static uint64_t next_data(int fd, const struct place_region *r, uint64_t at, uint64_t end, int *err)
{
	uint64_t base = (uintptr_t)r->vm - r->reg->fd_offset;
	off_t data = lseek(fd, (off_t)(at - base), SEEK_DATA);

	if (data < 0 && errno != ENXIO)
		*err = -errno;
	return data < 0 || base + (uint64_t)data > end ? end : base + (uint64_t)data;
}

/*
 * The next piece of the VM's mapping from at on to collapse. fd: of the pagemap, or of the shared region's
 * file. end: there is none, or the search failed: *err.
 */
static uint64_t next_piece(int fd, const struct place_region *r, uint64_t at, uint64_t end, int *err)
{
	uint64_t found = at >= end   ? end
			 : r->shared ? next_data(fd, r, at, end, err)
				     : next_small(fd, at, end, err);

	return found < end ? found & ~(PIECE - 1) : end;
}

/*
 * EAGAIN: a page of the piece was locked, pinned or being faulted in. Retry right here: the page cache may
 * already be collapsed and only the mapping not, and then no later scan would find the piece.
 */
static int collapse_piece(const struct ferry_session *s, uint64_t at, uint64_t *patience_us)
{
	uint64_t pause = PAUSE_US;
	int err;

	while ((err = madvise((void *)at, PIECE, MADV_COLLAPSE) ? errno : 0) == EAGAIN &&
	       pause <= PAUSE_MAX_US && pause <= *patience_us && !atomic_load(&s->hurry)) {
		usleep((useconds_t)pause); /* the VM runs on and releases its pages */
		*patience_us -= pause;
		pause *= 2;
	}
	return err;
}

/* 0, or the errno of a call that is refused; *call names it. */
static int collapse_region(struct ferry_session *s, int fd, const struct place_region *r,
			   uint64_t *patience_us, const char **call)
{
	uint64_t vm = (uintptr_t)r->vm, end = (vm + r->reg->len) & ~(PIECE - 1),
		 at = (vm + PIECE - 1) & ~(PIECE - 1);
	int err = 0;

	*call = r->shared ? "SEEK_DATA" : "PAGEMAP_SCAN";
	for (; (at = next_piece(fd, r, at, end, &err)) < end && !atomic_load(&s->hurry); at += PIECE) {
		if (poison_in(s, (uint32_t)(r - s->tgt.place.r), (at - vm) >> PAGE_SHIFT,
			      PIECE >> PAGE_SHIFT))
			continue;
		err = collapse_piece(s, at, patience_us);
		*call = "MADV_COLLAPSE";
		/* EINVAL: its madvise() flags or its alignment forbid collapsing any piece of this region. */
		if (err == EINVAL || cure_refused(err))
			break;
		err = 0;
	}
	return cure_refused(err) ? -abs(err) : 0;
}

void collapse_regions(struct ferry_session *s)
{
	const struct place *p = &s->tgt.place;
	uint64_t patience_us = PATIENCE_US;
	const char *call = NULL;
	int err = 0;
	char what[80];

	for (size_t i = 0; !err && i < p->n && !atomic_load(&s->hurry); i++) {
		int fd;

		if (!is_ours(&s->regions[i]))
			continue;
		fd = p->r[i].shared ? populated_reopen(p->r[i].reg) : open_pagemap();
		if (fd < 0)
			break;
		err = collapse_region(s, fd, &p->r[i], &patience_us, &call);
		close(fd);
	}
	if (err) {
		snprintf(what, sizeof(what), "memory stays in small pages, %s is refused", call);
		session_slower(s, CURE_CALL, err, what);
	}
}
