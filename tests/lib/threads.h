/* SPDX-License-Identifier: MIT */
/*
 * Whether a thread is left behind. The kernel wakes who joins a thread before it takes that thread out of /proc, so a
 * count just after a join may have one too many.
 */
#ifndef TESTS_LIB_THREADS_H
#define TESTS_LIB_THREADS_H

#include <dirent.h>
#include <time.h>

#define THREADS_LEAVE_MS 2000u

static inline unsigned threads_now(void)
{
	DIR *d = opendir("/proc/self/task");
	struct dirent *e;
	unsigned n = 0;

	while (d && (e = readdir(d)))
		n += e->d_name[0] != '.';
	if (d)
		closedir(d);
	return n;
}

/* The threads of this process, once there are no more than due, or those that stay. */
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
