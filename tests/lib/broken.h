/* SPDX-License-Identifier: MIT */
/*
 * Memory that cannot be touched, and who touched it. A userfaultfd's poison marker stands in for a hardware error: to
 * the CPU and to every system call it is one.
 */
#ifndef TESTS_BROKEN_H
#define TESTS_BROKEN_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* Linux 6.6 can. */
bool broken_can_poison(void);
void broken_poison(void *addr, size_t len);
/* Nothing is at addr any more: a page of zeros, or what the file has. */
void broken_heal(void *addr, size_t len);
/* Whether a load of this page would raise SIGBUS for a hardware error. Async-signal-safe. */
bool broken_is_poison(const void *addr);

/*
 * The VMM's own handler of SIGBUS and SIGSEGV. In the thread of the guest it is the guest's business: repair() is called, and
 * the load tried again. Anywhere else it counts, and the test fails.
 */
void broken_watch(void);
void broken_guest(const pthread_t *thread, void (*repair)(void));
/* The handler is still there and was never called outside the guest. */
void broken_untouched(void);

#endif
