/* SPDX-License-Identifier: MIT */
/*
 * Dirty tracking of host threads. userfaultfd write protection in its asynchronous mode only drops the
 * protection of a page on a write fault. PAGEMAP_SCAN returns the pages that are no longer protected and
 * protects them again, atomically for each page.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel_abi.h"
#include "vmm_int.h"

#define RUNS 1024

struct tracker {
	int uffd, pagemap;
	struct ferry_region regions[NREGIONS];
	size_t n;
	struct page_region runs[RUNS];
};

/* Calls the kernel until the whole region is scanned; bits may be NULL. */
static int scan(struct tracker *t, const struct ferry_region *r, uint64_t *bits, uint64_t npages)
{
	uint64_t base = (uintptr_t)r->hva, at = base, end = base + r->len;

	while (at < end) {
		struct pm_scan_arg arg = {
			.size = sizeof(arg),
			.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
			.start = at,
			.end = end,
			.vec = (uintptr_t)t->runs,
			.vec_len = RUNS,
			.category_mask = PAGE_IS_WRITTEN,
			.return_mask = PAGE_IS_WRITTEN,
		};
		int n = ioctl(t->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0)
			return -errno;
		for (int i = 0; bits && i < n; i++)
			for (uint64_t p = (t->runs[i].start - base) >> PAGE_SHIFT;
			     p < (t->runs[i].end - base) >> PAGE_SHIFT && p < npages; p++)
				bits[p / 64] |= UINT64_C(1) << (p % 64);
		at = arg.walk_end;
	}
	return 0;
}

static int open_uffd(struct tracker *t)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			    UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC,
	};

	t->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (t->uffd < 0)
		return -errno;
	if (ioctl(t->uffd, UFFDIO_API, &api) < 0)
		return errno == EINVAL ? -EOPNOTSUPP : -errno;
	t->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	return t->pagemap < 0 ? -errno : 0;
}

static int protect(struct tracker *t, const struct ferry_region *r)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)r->hva, .len = r->len },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int err;

	if (ioctl(t->uffd, UFFDIO_REGISTER, &reg) < 0)
		return -errno;
	err = scan(t, r, NULL, 0);
	return err;
}

int tracker_new(struct tracker **ret, const struct ferry_region *regions, size_t n)
{
	struct tracker *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->uffd = t->pagemap = -1;
	t->n = n < NREGIONS ? n : NREGIONS;
	err = open_uffd(t);
	for (size_t i = 0; !err && i < t->n; i++) {
		t->regions[i] = regions[i];
		err = protect(t, &regions[i]);
	}
	if (err) {
		tracker_free(t);
		return err;
	}
	*ret = t;
	return 0;
}

int tracker_fetch(struct tracker *t, uint32_t region, uint64_t *bits, uint64_t npages)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->regions[i].id == region)
			return scan(t, &t->regions[i], bits, npages);
	return -EINVAL;
}

void tracker_free(struct tracker *t)
{
	if (!t)
		return;
	if (t->pagemap >= 0)
		close(t->pagemap);
	if (t->uffd >= 0)
		close(t->uffd); /* removes the protection */
	free(t);
}
