/* SPDX-License-Identifier: MIT */
/*
 * The calls of userfaultfd that demand paging needs (Documentation/admin-guide/mm/userfaultfd.rst). No
 * UFFD_USER_MODE_ONLY: a vCPU's access faults in kernel mode. Functions return 0 or -errno; -EEXIST means
 * that the page is mapped already, and the caller decides what that means.
 */
#ifndef FERRY_UFFD_H
#define FERRY_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fail;

/* What the memory and the migration need. */
#define UFFD_SHARED 1u
#define UFFD_HUGE 2u
#define UFFD_POISON 4u /* UFFDIO_POISON for lost pages: Linux 6.6 */

/* A non-blocking descriptor with the features for kinds (UFFD_*), or -errno with a sentence on what to do. */
int uffd_open(unsigned kinds, struct fail *f);
/*
 * Sets up a descriptor that somebody else has created, perhaps in another process: calls UFFDIO_API and makes
 * it non-blocking. That is possible once.
 */
int uffd_adopt(int fd, unsigned kinds, struct fail *f);
/* Catches faults on absent pages and, if shared, on pages in the page cache that are not mapped (minor). */
int uffd_register(int fd, void *addr, size_t len, bool shared);
/*
 * uffd_open_to_ask(): a descriptor for uffd_has() only, without privilege, or -errno. uffd_has(): whether any
 * userfaultfd has the mapping at addr. len: its page size; unreadable: as many bytes without read access.
 */
int uffd_open_to_ask(void);
bool uffd_has(int fd, void *addr, size_t len, const void *unreadable);
int uffd_unregister(int fd, void *addr, size_t len);
/* Reads up to max fault addresses. Returns their number, 0 if there is none now, or -errno. */
int uffd_read(int fd, uint64_t *addr, unsigned max);
/* *done: bytes resolved, also after an error. With wake, threads blocked on these pages resume. */
int uffd_copy(int fd, void *dst, const void *src, size_t len, bool wake, size_t *done);
int uffd_continue(int fd, void *addr, size_t len, bool wake, size_t *done);
int uffd_zero(int fd, void *addr, size_t len, size_t *done); /* not huge pages: hugetlbfs has no zero page */
/* Access to these pages, which must be absent, raises SIGBUS (hardware error), even after fd is closed. */
int uffd_poison(int fd, void *addr, size_t len, size_t *done);
int uffd_wake(int fd, void *addr, size_t len);

#endif
