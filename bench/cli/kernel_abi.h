/* SPDX-License-Identifier: MIT */
/* Kernel interfaces younger than the distribution's headers (Linux 6.1), as in the kernel's uapi headers. */
#ifndef BENCH_CLI_KERNEL_ABI_H
#define BENCH_CLI_KERNEL_ABI_H

#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

/* linux/userfaultfd.h, Linux 6.8 */
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

/* linux/fs.h, Linux 6.7 */
#ifndef PAGEMAP_SCAN
#define PAGE_IS_PRESENT (1 << 3)
struct page_region {
	__u64 start, end, categories;
};
struct pm_scan_arg {
	__u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
	__u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#endif

#endif
