/* SPDX-License-Identifier: MIT */
/* The command line of a target's QEMU, made from the source's. */
#ifndef BENCH_QEMU_COMMAND_H
#define BENCH_QEMU_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "ram.h"

struct qemu_args {
	char **args;		/* ends with NULL */
	char *owned[QEMU_RAMS]; /* those of args that were made here */
	size_t nowned;
	char *file[QEMU_RAMS]; /* the new files of the RAM, which QEMU will create */
	size_t nfile;
	char extra[200]; /* the value of -qmp */
};

/* Refuses, with a sentence in why, a command line that cannot become a target's. args ends with NULL. */
int command_check(char *const *args, char *why, size_t cap);
/*
 * Each mem-path becomes a file that does not exist yet: in dir, which is on tmpfs, or where the old one is on hugetlbfs,
 * beside it. Adds -S, -incoming defer, and a monitor at socket. Checks as above. command_free() it, after an error, too.
 */
int command_make(struct qemu_args *c, char *const *args, const char *dir, const char *socket, char *why,
		 size_t cap);
void command_free(struct qemu_args *c);

#endif
