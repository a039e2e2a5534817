/* SPDX-License-Identifier: MIT */
#ifndef TESTS_FUZZ_SEEDS_H
#define TESTS_FUZZ_SEEDS_H

#include <stddef.h>

/* An input of that fuzzer: a, then b. */
void seed(const char *fuzzer, const void *a, size_t alen, const void *b, size_t blen);

void seeds_json(void); /* exchange, recording, etcd */
void seeds_rdma(void);

#endif
