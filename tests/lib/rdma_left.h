/* SPDX-License-Identifier: MIT */
/* The RDMA objects that this process still holds. */
#ifndef TESTS_RDMA_LEFT_H
#define TESTS_RDMA_LEFT_H

#include <stddef.h>

/*
 * The number of objects of RDMA devices that this process holds, as the kernel counts them: protection
 * domains, completion queues, queue pairs, connection ids, registered memory. what gets their names and
 * counts. 0 if the kernel has no RDMA. -1 if it did not answer; what gets the reason.
 */
int rdma_left(char *what, size_t cap);

#endif
