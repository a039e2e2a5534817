/* SPDX-License-Identifier: MIT */
/*
 * Memory that cannot be accessed, and a check of who accessed it. A userfaultfd's poison marker replaces a
 * hardware error: the CPU and every system call react to it as to a real one.
 */
#ifndef TESTS_BROKEN_H
#define TESTS_BROKEN_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether the kernel can poison: Linux 6.6. */
bool broken_can_poison(void);
void broken_poison(void *addr, size_t len);
/* Drop the poison: a read of addr then finds zeros, or the data of the file. */
void broken_heal(void *addr, size_t len);
/* Whether a load of this page would raise SIGBUS for a hardware error. Async-signal-safe. */
bool broken_is_poison(const void *addr);

/*
 * Install the VMM's own handler of SIGBUS and SIGSEGV. In the guest's thread the handler calls repair() and
 * the load is repeated. A signal in any other thread is counted, and the test fails.
 */
void broken_watch(void);
void broken_guest(const pthread_t *thread, void (*repair)(void));
/* Assert that the handler is still installed and was never called outside the guest. */
void broken_untouched(void);

#endif
