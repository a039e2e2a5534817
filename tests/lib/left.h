/* SPDX-License-Identifier: MIT */
/* What this process has, counted before and after. */
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
		abort(); /* no count is no proof */
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
 * The threads of this process, once there are no more than due, or those that stay: the kernel wakes who joins a thread
 * before it takes that thread out of /proc, so a count just after a join may have one too many.
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
