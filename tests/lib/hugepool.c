// SPDX-License-Identifier: MIT
/* Raises the host's pool of huge pages for a test program, and restores it. */
#include "hugepool.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/file.h>
#include <time.h>

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static long added; /* by this process */

static long value(const char *path)
{
	FILE *in = fopen(path, "re");
	long n = -1;

	if (in && fscanf(in, "%ld", &n) != 1)
		n = -1;
	if (in)
		fclose(in);
	return n;
}

static void set(long n)
{
	FILE *out = fopen(POOL "nr_hugepages", "we");

	if (!out)
		return;
	fprintf(out, "%ld", n);
	fclose(out);
}

/* The count is below zero, which the file shows as a huge number: see copies in transport/xport.h. */
static bool broken(long promised)
{
	return promised == LONG_MAX;
}

/* Free and not reserved. */
static long available(void)
{
	long promised = value(POOL "resv_hugepages");

	return value(POOL "free_hugepages") - (broken(promised) ? 0 : promised);
}

/* Only one test at a time has the pool. The lock ends with its process. */
static void take_turn(void)
{
	int fd = open(POOL "nr_hugepages", O_RDONLY | O_CLOEXEC);

	cr_assert(fd >= 0 && !flock(fd, LOCK_EX));
}

/* Pages that only a descriptor held may be freed after the lock was released. */
static bool come_free(long pages)
{
	const struct timespec tick = { .tv_nsec = 10000000 };

	for (unsigned i = 0; i < 500 && available() < pages; i++)
		nanosleep(&tick, NULL);
	return available() >= pages;
}

void hugepool_raise(long pages)
{
	long total = value(POOL "nr_hugepages"), lack = pages - available();

	if (total < 0 || lack <= 0)
		return;
	set(total + lack);
	added = value(POOL "nr_hugepages") - total; /* the kernel may have found fewer */
}

void hugepool_restore(void)
{
	if (added > 0)
		set(value(POOL "nr_hugepages") - added);
	added = 0;
}

void hugepool_or_skip(long pages)
{
	long total = value(POOL "nr_hugepages");

	if (total < 0)
		cr_skip_test("this kernel has no huge pages of 2 MiB");
	take_turn();
	cr_assert(!broken(value(POOL "resv_hugepages")),
		  "the kernel counts fewer than 0 promised huge pages: somebody kept a reference to one");
	if (!come_free(pages))
		cr_skip_test("%ld huge pages are free and the test takes %ld: sysctl -w vm.nr_hugepages=%ld",
			     available(), pages, total + pages);
}
