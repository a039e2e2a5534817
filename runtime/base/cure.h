/* SPDX-License-Identifier: MIT */
/*
 * What to do about an errno. One errno has many causes, and the same call fails for many reasons: the cure depends on both. All
 * cures stand in one table, so that no sentence advises root to somebody who has run out of descriptors.
 */
#ifndef FERRY_CURE_H
#define FERRY_CURE_H

#include <stdbool.h>

struct fail;

/* What was being done. */
enum cure {
	CURE_CALL,	    /* a system call that has no row of its own */
	CURE_THREAD,	    /* making a thread */
	CURE_CONNECT,	    /* connecting to the peer */
	CURE_LISTEN,	    /* binding an address of this host */
	CURE_CONGESTION,    /* choosing a congestion control */
	CURE_PIPE,	    /* a pipe of 1 MiB */
	CURE_TRANSFER,	    /* sending and receiving messages and guest memory */
	CURE_UFFD_OPEN,	    /* a userfaultfd */
	CURE_UFFD_API,	    /* asking it for features */
	CURE_UFFD_REGISTER, /* guest memory with it */
	CURE_PLACE,	    /* mapping a page that has arrived */
	CURE_HUGE_EMPTY,    /* taking a huge page; the host's pool has none */
	CURE_HUGE_LIMIT,    /* taking a huge page; the host's pool has some */
	CURE_REGION_FD,	    /* asking a region's fd what it is */
	CURE_MAP,	    /* mmap() of a region's file, or of address space beside it */
	CURE_DROP,	    /* dropping pages of a mapping */
	CURE_PUNCH,	    /* punching a hole into a region's file */
	CURE_POPULATED,	    /* finding the pages that were ever touched */
	CURE_RDMA_OPEN,	    /* a device or the connection manager */
	CURE_RDMA_QUEUE,    /* queue pairs, completion queues */
	CURE_RDMA_REGISTER, /* guest memory with a device */
	CURE_LINK,	    /* a hard link in a directory that the user named */
	CURE_FILE,	    /* a file in a directory that the user named */
	CURES
};

/* As "raise the limit of open files (ulimit -n)"; "" when nothing better than the name of the errno is known. Either sign. */
const char *cure(enum cure doing, int err);
/* A call that this kernel has and this process may not make: what is only for speed is then done without. Either sign. */
bool cure_refused(int err);
/* As fail(): the sentence ends with the errno's name and its cure. err: negative. */
int fail_cure(struct fail *f, enum cure doing, int err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
