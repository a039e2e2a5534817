/* SPDX-License-Identifier: MIT */
/*
 * Shared by all fuzzers: reports of broken promises, guarded memory, and a check of what an execution leaves
 * behind.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FUZZ_PAGE ((size_t)4096)

/* Report a broken promise and abort; libFuzzer then saves the input. */
#define broken(...) fuzz_broken(__FILE__, __LINE__, __VA_ARGS__)
#define promise(cond, ...)                   \
	do {                                 \
		if (!(cond))                 \
			broken(__VA_ARGS__); \
	} while (0)
void fuzz_broken(const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), noreturn));

/* Counts before an execution. fuzz_left() checks that there is no more of them, or of threads, after it. */
struct fuzz_before {
	unsigned fds;
	long mappings;
};
struct fuzz_before fuzz_before(void);
void fuzz_left(const struct fuzz_before *b);

/*
 * Memory whose surroundings must not be touched. It lies between pages without access. A memfd also has
 * canary pages before and after it; these and its length are checked afterwards.
 */
struct fuzz_mem {
	uint8_t *at; /* NULL: none */
	size_t len;
	int fd; /* -1: private */
	uint64_t fd_offset;
	uint8_t *around;
	size_t around_len;
};
bool fuzz_mem_new(struct fuzz_mem *m, size_t len, bool shared);
void fuzz_mem_check(const struct fuzz_mem *m);
void fuzz_mem_free(struct fuzz_mem *m);
/* The content of page n of memory number which: repeatable, different for each page, never 0. */
void fuzz_fill(uint8_t *page, uint64_t which, uint64_t n);

/* The rest of an input; after its end it reads as zeros. */
struct fuzz_in {
	const uint8_t *at;
	size_t left;
};
void fuzz_take(struct fuzz_in *in, void *to, size_t len);
static inline uint8_t fuzz_u8(struct fuzz_in *in)
{
	uint8_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}

/* libFuzzer's functions */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#endif
