/* SPDX-License-Identifier: MIT */
/* Counts what this process has (descriptors, threads), to compare before and after. */
#ifndef TESTS_LIB_LEFT_H
#define TESTS_LIB_LEFT_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_LEAVE_MS 2000u

/* The entries of a directory, without . and .. */
static inline unsigned entries(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	unsigned n = 0;

	if (!d) {
		perror(path);
		abort(); /* without a count the test would prove nothing */
	}
	while ((e = readdir(d)))
		n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
	closedir(d);
	return n;
}

static inline unsigned threads_now(void)
{
	return entries("/proc/self/task");
}

/*
 * The number of threads of this process. Waits up to THREADS_LEAVE_MS until there are at most due: the kernel
 * wakes the joining thread before it removes the joined one from /proc, so a count right after a join may be
 * one too high.
 */
static inline unsigned threads_left(unsigned due)
{
	unsigned n = threads_now();

	for (unsigned ms = 0; n > due && ms < THREADS_LEAVE_MS; ms++) {
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
		n = threads_now();
	}
	return n;
}

#endif
