/* SPDX-License-Identifier: MIT */
/* Counts what a cell leaves behind in its process. */
#ifndef MATRIX_CENSUS_H
#define MATRIX_CENSUS_H

#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "left.h"

#define HEAP_KEPT 32768u /* bytes that the C library keeps for names and streams after their first use */

struct census {
	unsigned fds, threads, memfds, files, maps; /* files: anonymous inodes, such as userfaultfds */
	size_t heap;				    /* bytes that malloc() has allocated */
};

/* threads_due: the number of threads without those that are just ending */
static inline void take_census(struct census *c, unsigned threads_due)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[600];

	*c = (struct census){ .fds = entries("/proc/self/fd"), .threads = threads_left(threads_due) };
	while (f && fgets(line, sizeof(line), f)) {
		c->maps += !strstr(line, "[heap]");
		c->memfds += !!strstr(line, "memfd:");
		c->files += !!strstr(line, "anon_inode");
	}
	if (f)
		fclose(f);
	c->heap = mallinfo2().uordblks + mallinfo2().hblkhd;
}

static inline void compare(char *left, size_t cap, const struct census *was, const struct census *is)
{
	bool same = is->fds == was->fds && is->threads == was->threads && is->memfds == was->memfds &&
		    is->files == was->files && is->maps == was->maps && is->heap <= was->heap + HEAP_KEPT;

	if (!same)
		snprintf(left, cap,
			 "descriptors %u, %u before; threads %u, %u; mappings %u, %u (memfd %u, %u; anon_inode %u, %u); "
			 "heap %zu, %zu",
			 is->fds, was->fds, is->threads, was->threads, is->maps, was->maps, is->memfds,
			 was->memfds, is->files, was->files, is->heap, was->heap);
}

#endif
