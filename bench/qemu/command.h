/* SPDX-License-Identifier: MIT */
/* The command line of a target's QEMU, made from the source's. */
#ifndef BENCH_QEMU_COMMAND_H
#define BENCH_QEMU_COMMAND_H

#include <jansson.h>
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

/* True if arg is this option, which QEMU takes with one or two dashes. */
bool command_option(const char *arg, const char *name);
/*
 * The value key=value,... of an option as a flat object of strings; a comma in a value is doubled. A first word without = is the
 * value of key first. NULL: no memory, or no such value.
 */
json_t *command_keys(const char *value, const char *first);

#endif
