/* SPDX-License-Identifier: MIT */
/* Real swap for the time of a test: a zram device of its own. The host's other pages stay where they are unless it lacks memory. */
#ifndef TESTS_SWAP_H
#define TESTS_SWAP_H

#include <stdbool.h>
#include <stddef.h>

struct swap {
	int keeper; /* -1: none. The process at its other end takes the swap away when this one closes it, or dies. */
	int pid;    /* that process */
};

/* False, and why: no root, or no zram. */
bool swap_on(struct swap *s, char why[200]);
void swap_off(struct swap *s);
/* Swaps memory of this process out: true when at least so many of its pages are not resident. Holes count. */
bool swap_out(void *mem, size_t len, size_t at_least);

#endif
