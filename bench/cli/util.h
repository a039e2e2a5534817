/* SPDX-License-Identifier: MIT */
/* Small functions that the program's files share. */
#ifndef BENCH_UTIL_H
#define BENCH_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "bench/clock.h"

/* Transfers all bytes: 0, -EPIPE at the end of the stream, or a negative errno. */
int read_full(int fd, void *buf, size_t len);
int write_full(int fd, const void *buf, size_t len);

/* Sorts v in place. */
void sort_double(double *v, size_t n);
/* v is sorted, p is 0 to 1; returns 0 if n is 0. */
double quantile(const double *v, size_t n, double p);

/* "1,234,567" */
const char *grouped(char buf[32], uint64_t v);

/* "512M", "1G", "4096" (powers of 1024); "300ms", "2s", "500us" into microseconds: 0 or -EINVAL. */
int parse_size(const char *text, uint64_t *ret);
int parse_duration(const char *text, uint64_t *ret);
int parse_count(const char *text, uint64_t *ret);

/* As fork(), but the child is killed when its parent dies. */
pid_t fork_child(void);

#endif
