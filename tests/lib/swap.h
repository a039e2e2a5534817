/* SPDX-License-Identifier: MIT */
/* Real swap for the time of a test: a zram device of its own. The host's other pages stay where they are unless it lacks memory. */
#ifndef TESTS_SWAP_H
#define TESTS_SWAP_H

#include <stdbool.h>
#include <stddef.h>

struct swap {
	int keeper; /* -1: none. Whoever holds the other end takes the swap away when this is closed, or its process dies. */
	int pid;
};

/* False, and why: no root, or no zram. */
bool swap_on(struct swap *s, char why[200]);
void swap_off(struct swap *s);
/* Swaps out the memory of this process; false where the kernel would not, pages that are in swap then: at least so many. */
bool swap_out(void *mem, size_t len, size_t at_least);

#endif
