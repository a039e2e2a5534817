/* SPDX-License-Identifier: MIT */
/*
 * userfaultfd, the calls of it that demand paging needs: Documentation/admin-guide/mm/userfaultfd.rst.
 * Never UFFD_USER_MODE_ONLY: a vCPU's access faults in kernel mode. All return 0 or -errno; -EEXIST (the page
 * is there already) is for the caller to judge.
 */
#ifndef FERRY_UFFD_H
#define FERRY_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fail;

/* What memory has to be served. */
#define UFFD_SHARED 1u
#define UFFD_HUGE 2u
#define UFFD_POISON 4u /* pages that the host has lost: Linux 6.6 */

/* A non-blocking descriptor with what the region kinds (UFFD_*) need, or -EPERM/-EOPNOTSUPP and what to do about it. */
int uffd_open(unsigned kinds, struct fail *f);
/* Faults on absent pages; shared: also on pages that are in the page cache but not mapped (minor). */
int uffd_register(int fd, void *addr, size_t len, bool shared);
/*
 * To ask who has a mapping: a descriptor that serves nothing, which needs no privilege; -errno. uffd_has() says whether any
 * userfaultfd has the mapping at addr. len: a page of it; unreadable: as much memory that nobody can read.
 */
int uffd_open_to_ask(void);
bool uffd_has(int fd, void *addr, size_t len, const void *unreadable);
int uffd_unregister(int fd, void *addr, size_t len);
/* Addresses of faults, at most max; the count, 0 when there is none now, or -errno. */
int uffd_read(int fd, uint64_t *addr, unsigned max);
/* *done: bytes resolved before the error, also on success. Who waits in the range is woken, if wake says so. */
int uffd_copy(int fd, void *dst, const void *src, size_t len, bool wake, size_t *done);
int uffd_continue(int fd, void *addr, size_t len, bool wake, size_t *done);
int uffd_zero(int fd, void *addr, size_t len, size_t *done); /* not huge pages: the kernel has none of zeros */
/* Who touches these pages, which are absent, gets SIGBUS as of a hardware error, for good: also when fd is closed. */
int uffd_poison(int fd, void *addr, size_t len, size_t *done);
int uffd_wake(int fd, void *addr, size_t len);

#endif
