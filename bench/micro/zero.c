// SPDX-License-Identifier: MIT
/*
 * Measures how fast zero pages are detected, compared with plain reading of the same memory: one thread, a
 * buffer far larger than the caches, all of it zero, because only then the whole page is read.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "bench/cli/out.h"
#include "runtime/base/clock.h"
#include "runtime/memory/zero.h"

#define PAGE ((size_t)4096)
#define PASSES 9

static double now_s(void)
{
	return (double)now_ns() / 1e9;
}

#ifdef __clang__ /* which vectorises them at -O2 */
#define WIDE
#else
#define WIDE __attribute__((optimize("O3")))
#endif

/* Adds up every word in four sums, vectorised by the compiler. */
WIDE static uint64_t read_all(const uint64_t *p, size_t words)
{
	uint64_t sum[4] = { 0 };

	for (size_t i = 0; i < words; i += 4) {
		sum[0] += p[i];
		sum[1] += p[i + 1];
		sum[2] += p[i + 2];
		sum[3] += p[i + 3];
	}
	return sum[0] + sum[1] + sum[2] + sum[3];
}

static uint64_t zero_pages(const char *p, size_t len)
{
	uint64_t n = 0;

	for (size_t at = 0; at < len; at += PAGE)
		n += is_zero(p + at, PAGE);
	return n;
}

static int by_value(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(int argc, char **argv)
{
	size_t len = (size_t)(argc > 1 ? atol(argv[1]) : 1024) << 20;
	double read_s[PASSES], zero_s[PASSES], t;
	char *p;

	if (!len)
		return fprintf(stderr, "zero [MIB]\n"), 2;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || madvise(p, len, MADV_NOHUGEPAGE) || madvise(p, len, MADV_POPULATE_WRITE))
		return perror("zero: memory"), 1;
	for (unsigned i = 0; i < PASSES; i++) {
		t = now_s();
		if (read_all((const uint64_t *)p, len / 8))
			return 1;
		read_s[i] = now_s() - t;
		t = now_s();
		if (zero_pages(p, len) != len / PAGE)
			return 1;
		zero_s[i] = now_s() - t;
	}
	qsort(read_s, PASSES, sizeof(double), by_value);
	qsort(zero_s, PASSES, sizeof(double), by_value);
	printf("{\"bytes\":%zu,\"read_mb_s\":%.0f,\"zero_mb_s\":%.0f,\"ratio\":%.3f}\n", len,
	       (double)len / 1e6 / read_s[PASSES / 2], (double)len / 1e6 / zero_s[PASSES / 2],
	       read_s[PASSES / 2] / zero_s[PASSES / 2]);
	return out_close_stdout(0, 1);
}
