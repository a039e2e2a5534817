/* SPDX-License-Identifier: MIT */
/*
 * How this process's own CPU gets at guest memory.
 *
 * A load or a store can raise SIGBUS or SIGSEGV: the page has a hardware error, the file behind it has become shorter or its file
 * system is full, the VMM has changed the mapping. A library must not let a VMM die of that, nor may it take over its signal
 * handlers. So guest memory is copied, and filled, by calls that return an error instead; and it is read in place only right
 * after the kernel has said that it can be.
 */
#ifndef FERRY_REACH_H
#define FERRY_REACH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct fail;

/* Advice for many ranges of our own memory at once. */
struct reach {
	int self;	   /* pidfd, or -1 */
	bool vectored;	   /* process_madvise takes any advice here: Linux 6.13 */
	int pagemap, maps; /* of this process, for reach_readable(); or -1 */
};

/* What is not open. A zeroed struct is not: reach_close() would close descriptor 0. */
#define REACH_NONE ((struct reach){ .self = -1, .pagemap = -1, .maps = -1 })

/* reads: for reach_readable(), too, which is faster then. */
void reach_open(struct reach *r, bool reads);
void reach_close(struct reach *r);
/* madvise() of n ranges: 0, or -errno of the first that failed. */
int reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice);

/*
 * All of these ranges can be read now. Else -errno: -EHWPOISON a hardware error, -EFAULT the mapping, -ENOMEM nothing is
 * mapped; -EINVAL, -EPERM and -ENOSYS: the kernel, a filter, or this kind of memory leave it open.
 */
int reach_readable(const struct reach *r, const struct iovec *v, unsigned n);

/* Copies between this process's own memory: 0, -EFAULT: one of the two cannot be reached, -EPERM, -ENOSYS: a filter forbids it. */
int reach_copy(void *dst, const void *src, size_t len);
int reach_zero(void *dst, size_t len);

/* A page of guest memory, for a sentence about it. */
struct reach_page {
	uint32_t region;
	uint64_t page;
	uint64_t gpa;
	const void *addr;
};

/* Whether this page can be read (or written): -EHWPOISON, -EFAULT or -ENOMEM; 0: it can, or it cannot be told. */
int reach_page(const void *addr, bool write);
/* The first page of this memory that cannot; NULL: there is none. What was never touched is allocated by it. */
const void *reach_find(const void *base, size_t len, bool write);
/*
 * Says why the page could not be read (or written) a moment ago, and what to do. Returns -EHWPOISON for a hardware error,
 * else -EFAULT.
 */
int reach_fail(struct fail *f, const struct reach_page *p, bool write);

#endif
