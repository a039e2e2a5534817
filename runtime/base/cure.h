/* SPDX-License-Identifier: MIT */
/*
 * Cures: what to do about an errno. The cause of an errno depends on the operation, and so does the cure. All
 * cures stand in one table, so that no message advises running as root when the descriptors have run out.
 */
#ifndef FERRY_CURE_H
#define FERRY_CURE_H

#include <stdbool.h>

struct fail;

/* The operation that failed. */
enum cure {
	CURE_CALL,	    /* a system call that has no operation of its own below */
	CURE_THREAD,	    /* creating a thread */
	CURE_CONNECT,	    /* connecting to the peer */
	CURE_LISTEN,	    /* binding an address of this host */
	CURE_CONGESTION,    /* choosing a congestion control */
	CURE_PIPE,	    /* creating a pipe of 1 MiB */
	CURE_TRANSFER,	    /* sending and receiving messages and guest memory */
	CURE_UFFD_OPEN,	    /* opening a userfaultfd */
	CURE_UFFD_API,	    /* negotiating its features (UFFDIO_API) */
	CURE_UFFD_REGISTER, /* registering guest memory with it */
	CURE_PLACE,	    /* mapping a page that has arrived */
	CURE_HUGE_EMPTY,    /* taking a huge page; the host's pool has none */
	CURE_HUGE_LIMIT,    /* taking a huge page; the host's pool has some */
	CURE_REGION_FD,	    /* fstat() or fstatfs() of a region's fd */
	CURE_MAP,	    /* mmap() of a region's file, or of address space beside it */
	CURE_DROP,	    /* dropping pages from a mapping */
	CURE_PUNCH,	    /* punching a hole into a region's file */
	CURE_POPULATED,	    /* finding the pages that were ever touched */
	CURE_RDMA_OPEN,	    /* opening a device or the connection manager */
	CURE_RDMA_QUEUE,    /* creating queue pairs and completion queues */
	CURE_RDMA_REGISTER, /* registering guest memory with a device */
	CURE_LINK,	    /* creating a hard link in a directory that the user named */
	CURE_FILE,	    /* accessing a file in a directory that the user named */
	CURES
};

/* Advice such as "raise the limit of open files (ulimit -n)", or "" if there is none. Either sign of err. */
const char *cure(enum cure doing, int err);
/* True if err means that this process may not make the call. A call that only gains speed can be left out. */
bool cure_refused(int err);
/* As fail(); appends the errno's name and its cure to the sentence. err is negative. */
int fail_cure(struct fail *f, enum cure doing, int err, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
