// SPDX-License-Identifier: MIT
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

/* Below zero, which the file shows as a huge number: see copies in transport/xport.h. */
static bool broken(long promised)
{
	return promised == LONG_MAX;
}

/* Free and not promised to anybody. */
static long available(void)
{
	long promised = value(POOL "resv_hugepages");

	return value(POOL "free_hugepages") - (broken(promised) ? 0 : promised);
}

/* One test at a time has the pool: the lock goes with its process. */
static void take_turn(void)
{
	int fd = open(POOL "nr_hugepages", O_RDONLY | O_CLOEXEC);

	cr_assert(fd >= 0 && !flock(fd, LOCK_EX));
}

/* Memory that only a descriptor holds may be given back after the lock. */
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
	added = value(POOL "nr_hugepages") - total; /* the kernel gives what it finds */
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
