/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking without KVM: userfaultfd write protection in its asynchronous mode and PAGEMAP_SCAN
 * (Linux 6.7). It tracks memory of this process or of another one, whoever writes through that process's page
 * tables: its threads, KVM's vCPUs, system calls, vhost in the kernel. Optional, as ferry/kvm.h is: KVM's log
 * is cheaper where the VMM has it.
 *
 *	ops.dirty_start, dirty_stop, dirty_fetch   ferry_track_start, ferry_track_stop, ferry_track_fetch
 *
 * It touches no page and allocates none: the populated pages are the same before and after the start, however
 * one looks for them. Exact to 4 KiB, except that a page that is only read for the first time may count as
 * written, a first write to a transparent huge page of shared memory may count for the whole huge page, and
 * each write to a huge page of hugetlbfs does. Tracking splits transparent huge pages that are written.
 *
 * It does not see what passes the page tables by; the VMM must add these pages to bits[], or prevent it:
 * - writes through other mappings (vhost-user, other processes; each can have a tracker of its own) and by
 *   write() to the file, except to pages that this mapping never had;
 * - DMA of passed-through devices;
 * - pages that are freed (madvise(), fallocate(); a balloon) and not written again.
 *
 * Functions return 0 or a negative errno. Only one thread at a time may use a struct ferry_track; it may be
 * any thread, and the tracked threads may run. Objects share nothing. While tracking is on, no other
 * userfaultfd can have the memory, and mappings must not change. A child of fork() is not tracked.
 */
#ifndef FERRY_TRACK_H
#define FERRY_TRACK_H

#include <stddef.h>
#include <stdint.h>

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_track;

/* The memory is another process's: uffd and pagemap are given. */
#define FERRY_TRACK_FOREIGN 1u

struct ferry_track_param {
	size_t size;	/* FERRY_TRACK_PARAM_INIT sets it */
	uint32_t flags; /* FERRY_TRACK_* */
	/*
	 * FERRY_TRACK_FOREIGN only. Both stay the caller's and must outlive the object.
	 * uffd: a userfaultfd that the other process has created, handed over such as by pidfd_getfd() or
	 * SCM_RIGHTS. Either nobody has called UFFDIO_API on it, or with UFFD_FEATURE_WP_ASYNC. It may have
	 * been created with UFFD_USER_MODE_ONLY.
	 * pagemap: /proc/PID/pagemap of that process, open for reading.
	 */
	int uffd, pagemap;
	uint32_t reserved;
};
#define FERRY_TRACK_PARAM_INIT FERRY_INIT_OF(struct ferry_track_param)

/*
 * param: NULL for memory of this process; needs no privilege then. Tests what the kernel offers and what is
 * allowed. -EOPNOTSUPP (the kernel has no asynchronous write protection or no PAGEMAP_SCAN: before Linux 6.7,
 * or not configured), -EPERM (a sandbox refuses it), -EINVAL, -EBADF (a descriptor), -ENOMEM, -EMFILE, or the
 * error of opening /proc/self/pagemap.
 */
int ferry_track_new(struct ferry_track **ret, const struct ferry_track_param *param);
/* Stops tracking if it is on. NULL is fine. */
void ferry_track_free(struct ferry_track *t);

/* One mapping of a region, or of a part of it; several ranges may cover one region. */
struct ferry_track_range {
	size_t size;	     /* FERRY_TRACK_RANGE_INIT sets it */
	uint32_t region;     /* ferry_region.id */
	uint32_t flags;	     /* as ferry_region.flags: FERRY_REGION_SHARED is a mapping of fd */
	uint64_t addr, len;  /* in the process that is tracked; bytes, multiples of the page size */
	uint64_t first_page; /* offset of the range in the region, pages of 4096 bytes */
	uint32_t page_shift; /* 12, or 21 for hugetlbfs pages of 2 MiB */
	int fd;		     /* FERRY_REGION_SHARED: the file, open for reading; the caller's, as long as t */
	uint64_t fd_offset;  /* FERRY_REGION_SHARED: offset of the range in the file, bytes */
};
#define FERRY_TRACK_RANGE_INIT FERRY_INIT_OF(struct ferry_track_range)

/* -EINVAL (a value is out of range, or the range overlaps another), -EBUSY (tracking is on), -ENOMEM. */
int ferry_track_add(struct ferry_track *t, const struct ferry_track_range *range);

/*
 * Tracking of all ranges, as ferry_ops.dirty_start and dirty_stop. After ferry_track_start() returns, no
 * write is missed, and the first fetch returns only later writes. It takes about 15 ms per GiB that is
 * populated. A second start or stop does nothing. If start fails, tracking is off: -EBUSY (another
 * userfaultfd has the memory), -EINVAL (the memory is not mapped or not of this page size, uffd was set up
 * without UFFD_FEATURE_WP_ASYNC, or uffd and pagemap are of two processes), -EPERM (a sandbox refuses it, or
 * the file is sealed against writes), -ESRCH (the other process has exited), or the kernel's error. After
 * stop tracking is off, also if it fails with the kernel's first error; a process that has exited is no
 * error.
 */
int ferry_track_start(struct ferry_track *t);
int ferry_track_stop(struct ferry_track *t);
/*
 * As ferry_ops.dirty_fetch: set in bits[] (npages bits) the pages of the region written since the last fetch;
 * bits already set stay set. FERRY_DIRTY_LAST: nothing writes and this is the last fetch; the pages are not
 * protected again. It takes 1 to 2 ms per GiB that is populated (shared memory: 2 to 4 ms), and 0.2 us per
 * page found. -EINVAL (tracking is off, no range belongs to the region, or a range lies beyond npages),
 * -EFAULT (the memory is no longer mapped as it was at the start), -ESRCH (the other process has exited), or
 * the kernel's error. After an error later fetches may miss writes.
 */
int ferry_track_fetch(struct ferry_track *t, uint32_t region, uint64_t *bits, uint64_t npages,
		      unsigned flags);

#ifdef __cplusplus
}
#endif
#endif
