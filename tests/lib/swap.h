/* SPDX-License-Identifier: MIT */
/*
 * Real swap for the time of a test, on a zram device of its own. Other pages of the host are not swapped out
 * unless memory is short.
 */
#ifndef TESTS_SWAP_H
#define TESTS_SWAP_H

#include <stdbool.h>
#include <stddef.h>

struct swap {
	int keeper; /* -1: none. The child at the other end removes the swap when this end is closed. */
	int pid;    /* of the child */
};

/* False: no root or no zram; why gets the reason. */
bool swap_on(struct swap *s, char why[200]);
void swap_off(struct swap *s);
/* Swap this memory out. True if at least at_least of its pages are not resident; holes count. */
bool swap_out(void *mem, size_t len, size_t at_least);

#endif
