/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking by userfaultfd write protection for ferry's dirty ops: the object and what it holds.
 *
 * The descriptors of this process are opened by ferry_track_start(), not before: userfaultfd and pagemap stay
 * those of the process that opened them, and a VMM may fork() in between to become a daemon. For the same
 * reason stop unregisters the memory: a child may hold a copy of the userfaultfd, so closing it does nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/api.h"
#include "runtime/base/grow.h"
#include "runtime/base/page.h"
#include "track_int.h"

/* A sandbox answers with EACCES, too, and a kernel that lacks the call with ENOSYS or ENOTTY. */
static int refused(int err)
{
	if (err == EACCES)
		return -EPERM;
	return err == ENOSYS || err == ENOTTY ? -EOPNOTSUPP : -err;
}

/*
 * UFFD_USER_MODE_ONLY needs no privilege. It concerns faults that are reported, and asynchronous write
 * protection reports none, so writes of KVM and of system calls are tracked all the same.
 */
static int open_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY), err = errno,
	    dev;

	if (fd >= 0)
		return fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC); /* a sandbox may allow only this */
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	return fd >= 0 ? fd : refused(err);
}

static int shake_hands(int uffd, bool foreign)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC,
	};
	struct uffdio_range anywhere = { .start = UINT64_C(1) << 30, .len = PAGE_BYTES };

	if (!ioctl(uffd, UFFDIO_API, &api))
		return 0;
	if (errno == ENOTTY)
		return -EINVAL; /* not a userfaultfd */
	if (errno != EINVAL)
		return refused(errno);
	/* The kernel lacks a feature, or somebody did this before: only then other calls work. */
	if (!foreign)
		return -EOPNOTSUPP;
	if (!ioctl(uffd, UFFDIO_WAKE, &anywhere))
		return 0;
	return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static int open_own(struct ferry_track *t)
{
	int err;

	t->uffd = open_uffd();
	if (t->uffd < 0)
		return t->uffd;
	err = shake_hands(t->uffd, false);
	if (err)
		return err;
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return t->pagemap < 0 ? refused(errno) : 0;
}

static void close_own(struct ferry_track *t)
{
	if (!t->foreign && t->uffd >= 0)
		close(t->uffd);
	if (!t->foreign && t->pagemap >= 0)
		close(t->pagemap);
	t->uffd = t->pagemap = -1;
}

static int open_both(struct ferry_track *t)
{
	if (!t->foreign)
		return open_own(t);
	t->uffd = t->given_uffd;
	t->pagemap = t->given_pagemap;
	return shake_hands(t->uffd, true);
}

/* Whether the kernel has what tracking needs, and we may use it. */
static int probe(struct ferry_track *t)
{
	struct pm_scan_arg nothing = { .size = sizeof(nothing), .vec = (uintptr_t)t->runs, .vec_len = 1 };
	int err = open_both(t);

	if (!err && ioctl(t->pagemap, PAGEMAP_SCAN, &nothing) < 0)
		err = refused(errno);
	close_own(t);
	return err;
}

FERRY_API int ferry_track_new(struct ferry_track **ret, const struct ferry_track_param *param)
{
	struct ferry_track_param p = { 0 };
	struct ferry_track *t;
	int err;

	if (!ret || (param && struct_grow(&p, sizeof(p), param, "track_param", NULL)))
		return -EINVAL;
	if (p.flags & ~FERRY_TRACK_FOREIGN)
		return -EINVAL;
	if (p.flags & FERRY_TRACK_FOREIGN && (p.uffd < 0 || p.pagemap < 0))
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->foreign = p.flags & FERRY_TRACK_FOREIGN;
	t->given_uffd = p.uffd;
	t->given_pagemap = p.pagemap;
	t->uffd = t->pagemap = -1;
	err = probe(t);
	if (err)
		free(t);
	else
		*ret = t;
	return err;
}

FERRY_API void ferry_track_free(struct ferry_track *t)
{
	if (!t)
		return;
	ferry_track_stop(t);
	free(t->ranges);
	free(t->files);
	free(t);
}

static bool adds_up(uint64_t a, uint64_t b, uint64_t limit)
{
	return a <= limit && b <= limit - a;
}

static int check_range(const struct ferry_track *t, const struct ferry_track_range *r)
{
	uint64_t page = UINT64_C(1) << (r->page_shift & 63);

	if (r->page_shift != PAGE_SHIFT && r->page_shift != HUGE_SHIFT)
		return -EINVAL;
	if (!r->len || (r->addr | r->len) & (page - 1) || !adds_up(r->addr, r->len, INT64_MAX))
		return -EINVAL;
	if (!adds_up(r->first_page, r->len >> PAGE_SHIFT, INT64_MAX) ||
	    r->flags & ~(FERRY_REGION_SHARED | FERRY_REGION_THP))
		return -EINVAL;
	if (r->flags & FERRY_REGION_SHARED &&
	    (r->fd < 0 || r->fd_offset & (page - 1) || !adds_up(r->fd_offset, r->len, INT64_MAX)))
		return -EINVAL;
	for (size_t i = 0; i < t->nranges; i++)
		if (r->addr < t->ranges[i].addr + t->ranges[i].len && t->ranges[i].addr < r->addr + r->len)
			return -EINVAL;
	return t->on ? -EBUSY : 0;
}

FERRY_API int ferry_track_add(struct ferry_track *t, const struct ferry_track_range *range)
{
	struct ferry_track_range r, *ranges;
	int *files, err;

	if (!range || struct_grow(&r, sizeof(r), range, "track_range", NULL))
		return -EINVAL;
	err = check_range(t, &r);
	if (err)
		return err;
	ranges = realloc(t->ranges, (t->nranges + 1) * sizeof(*ranges));
	if (!ranges)
		return -ENOMEM;
	t->ranges = ranges;
	files = realloc(t->files, (t->nranges + 1) * sizeof(*files));
	if (!files)
		return -ENOMEM;
	t->files = files;
	ranges[t->nranges] = r;
	files[t->nranges++] = -1;
	return 0;
}

/* Opens the file anew: SEEK_DATA moves the offset, which all duplicates of the caller's fd share. */
static int open_file(struct ferry_track *t, size_t i)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", t->ranges[i].fd);
	t->files[i] = open(path, O_RDONLY | O_CLOEXEC);
	return t->files[i] < 0 ? -errno : 0;
}

/*
 * Without page tables a scan finds nothing, as if nothing was written. A read of pagemap ends at once then.
 * Nobody has to ask this of our own process.
 */
static int check_alive(const struct ferry_track *t)
{
	uint64_t entry;
	ssize_t n = t->foreign ? pread(t->pagemap, &entry, sizeof(entry), 0) : (ssize_t)sizeof(entry);

	return n == sizeof(entry) ? 0 : n < 0 ? -errno : -ESRCH;
}

static int start_range(struct ferry_track *t, size_t i)
{
	const struct ferry_track_range *r = &t->ranges[i];
	struct uffdio_register reg = { .range = { r->addr, r->len }, .mode = UFFDIO_REGISTER_MODE_WP };
	int err = r->flags & FERRY_REGION_SHARED ? open_file(t, i) : 0;

	if (err)
		return err;
	if (ioctl(t->uffd, UFFDIO_REGISTER, &reg))
		return refused(errno);
	t->nregistered = i + 1;
	err = track_sees(t, r->addr);
	return err ? err : track_look(t, i, NULL, true);
}

FERRY_API int ferry_track_start(struct ferry_track *t)
{
	int err;

	if (t->on)
		return 0;
	t->on = true; /* set now, so that stop undoes a partial start */
	err = open_both(t);
	if (!err)
		err = check_alive(t);
	for (size_t i = 0; !err && i < t->nranges; i++)
		err = start_range(t, i);
	if (err)
		ferry_track_stop(t);
	return err;
}

FERRY_API int ferry_track_stop(struct ferry_track *t)
{
	int first = 0;
	bool gone;

	if (!t->on)
		return 0;
	gone = check_alive(t) == -ESRCH;
	for (size_t i = 0; i < t->nranges; i++) {
		struct uffdio_range range = { t->ranges[i].addr, t->ranges[i].len };

		/* Only what is ours: unregistering takes the memory from any userfaultfd. */
		if (i < t->nregistered && !gone && ioctl(t->uffd, UFFDIO_UNREGISTER, &range) && !first)
			first = -errno;
		if (t->files[i] >= 0)
			close(t->files[i]);
		t->files[i] = -1;
	}
	t->nregistered = 0;
	close_own(t);
	t->on = false;
	return first;
}

FERRY_API int ferry_track_fetch(struct ferry_track *t, uint32_t region, uint64_t *bits, uint64_t npages,
				unsigned flags)
{
	bool found = false;
	int err = 0;

	if (!bits)
		return -EINVAL;
	for (size_t i = 0; !err && t->on && i < t->nranges; i++) {
		const struct ferry_track_range *r = &t->ranges[i];

		if (r->region != region)
			continue;
		found = true;
		if (!adds_up(r->first_page, r->len >> PAGE_SHIFT, npages))
			return -EINVAL;
		err = track_look(t, i, bits, !(flags & FERRY_DIRTY_LAST));
		if (!err)
			err = check_alive(t);
	}
	return found ? err : -EINVAL;
}
