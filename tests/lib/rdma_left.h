/* SPDX-License-Identifier: MIT */
#ifndef TESTS_RDMA_LEFT_H
#define TESTS_RDMA_LEFT_H

#include <stddef.h>

/*
 * How many objects of RDMA devices this process holds, as the kernel counts them: protection domains, completion
 * queues, queue pairs, connection ids, registered memory; their names and counts in what. 0 where the kernel knows no
 * RDMA. -1: it did not answer, and why is in what.
 */
int rdma_left(char *what, size_t cap);

#endif
