// SPDX-License-Identifier: MIT
/* Poisoned pages, and a handler that reports every SIGBUS and SIGSEGV outside the guest. */
#include "broken.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/memory/uffd.h"

static volatile sig_atomic_t calls;
static const pthread_t *guest;
static void (*volatile mend)(void);

bool broken_can_poison(void)
{
	int fd = uffd_open(UFFD_POISON, NULL);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

void broken_poison(void *addr, size_t len)
{
	int fd = uffd_open(UFFD_POISON, NULL);
	size_t done;

	cr_assert_geq(fd, 0, "%s", strerror(-fd));
	cr_assert_eq(uffd_register(fd, addr, len, false), 0);
	cr_assert(!madvise(addr, len, MADV_DONTNEED));
	cr_assert_eq(uffd_poison(fd, addr, len, &done), 0);
	cr_assert_eq(uffd_unregister(fd, addr, len), 0);
	close(fd);
}

void broken_heal(void *addr, size_t len)
{
	cr_assert(!madvise(addr, len, MADV_DONTNEED));
}

bool broken_is_poison(const void *addr)
{
	return madvise((void *)(uintptr_t)addr, 4096, MADV_POPULATE_READ) && errno == EHWPOISON;
}

static void handler(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)info;
	(void)context;
	if (guest && pthread_equal(pthread_self(), *guest) && mend) {
		mend();
		return;
	}
	calls++;
	signal(sig, SIG_DFL); /* the load is repeated, and its signal then ends the test */
}

void broken_watch(void)
{
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };

	calls = 0;
	guest = NULL;
	cr_assert(!sigaction(SIGBUS, &sa, NULL) && !sigaction(SIGSEGV, &sa, NULL));
}

void broken_guest(const pthread_t *thread, void (*repair)(void))
{
	guest = thread;
	mend = repair;
}

void broken_untouched(void)
{
	const int sig[] = { SIGBUS, SIGSEGV };
	struct sigaction is;

	cr_assert_eq(calls, 0);
	for (size_t i = 0; i < 2; i++) {
		cr_assert(!sigaction(sig[i], NULL, &is));
		cr_assert_eq(is.sa_sigaction, handler);
	}
}
