/* SPDX-License-Identifier: MIT */
/* Functions that write seeds. */
#ifndef TESTS_FUZZ_SEEDS_H
#define TESTS_FUZZ_SEEDS_H

#include <stddef.h>

/* Write an input of that fuzzer: a, then b. */
void seed(const char *fuzzer, const void *a, size_t alen, const void *b, size_t blen);

void seeds_json(void); /* for exchange, recording and etcd */
void seeds_rdma(void);

#endif
