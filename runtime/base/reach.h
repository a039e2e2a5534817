/* SPDX-License-Identifier: MIT */
/*
 * How this process's CPU accesses guest memory without signals.
 *
 * A load or a store can raise SIGBUS or SIGSEGV: the page has a hardware error, its file has become shorter,
 * the file system is full, or the VMM has changed the mapping. A library must not let the VMM die of that or
 * take over its signal handlers. So system calls, which return an error instead, copy and fill guest memory.
 * It is read in place only right after the kernel has confirmed that this works.
 */
#ifndef FERRY_REACH_H
#define FERRY_REACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct fail;

/* For madvise() of many ranges of this process at once, and for lookups in its page table. */
struct reach {
	int self;	   /* pidfd of this process, or -1 */
	bool vectored;	   /* process_madvise() takes any advice here (Linux 6.13) */
	int pagemap, maps; /* in /proc/self, for reach_readable(); or -1 */
};

/* Nothing is open. A zeroed struct does not mean that: reach_close() would close descriptor 0. */
#define REACH_NONE ((struct reach){ .self = -1, .pagemap = -1, .maps = -1 })

/* reads: also open what makes reach_readable() faster. */
void reach_open(struct reach *r, bool reads);
void reach_close(struct reach *r);
/* madvise() of n ranges. Returns 0, or -errno of the first range that failed. */
int reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice);

/*
 * 0: all n ranges can be read now. Otherwise -EHWPOISON: hardware error; -EFAULT: the mapping does not allow
 * it; -ENOMEM: nothing is mapped; -EINVAL, -EPERM, -ENOSYS: unknown (the kernel, a filter, or the kind of
 * memory).
 */
int reach_readable(const struct reach *r, const struct iovec *v, unsigned n);

/* Copy, clear our own memory. -EFAULT: not reachable; -EPERM, -ENOSYS: a filter forbids copy and check. */
int reach_copy(void *dst, const void *src, size_t len);
int reach_zero(void *dst, size_t len);

/* A page of guest memory, as reach_fail() names it. */
struct reach_page {
	uint32_t region;
	uint64_t page;
	uint64_t gpa;
	const void *addr;
};

/* Whether this page can be read (or written): 0: yes or unknown; else -EHWPOISON, -EFAULT or -ENOMEM. */
int reach_page(const void *addr, bool write);
/* The first page of this memory that cannot, or NULL. Allocates pages that were never touched. */
const void *reach_find(const void *base, size_t len, bool write);
/*
 * Records why this page could not be read (or written) a moment ago, and what to do. Returns -EHWPOISON for a
 * hardware error, else -EFAULT.
 */
int reach_fail(struct fail *f, const struct reach_page *p, bool write);

#endif
