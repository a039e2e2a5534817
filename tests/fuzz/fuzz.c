// SPDX-License-Identifier: MIT
/* Guarded memory, and counts of descriptors, threads and mappings. */
#include "fuzz.h"
#include "tests/lib/left.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GUARD (16 * FUZZ_PAGE)
#define BEFORE (3 * FUZZ_PAGE) /* canary pages of a memfd */
#define BEHIND (2 * FUZZ_PAGE)
#define CANARY 0xc3

static _Atomic long mappings;

void fuzz_broken(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "\n%s:%d: BROKEN PROMISE: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

/* The linker redirects the library's calls here (--wrap). */
void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
void *__real_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);
int __wrap_munmap(void *at, size_t len);
int __real_munmap(void *at, size_t len);

void *__wrap_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	void *p = __real_mmap(at, len, prot, flags, fd, off);

	if (p != MAP_FAILED && !(flags & MAP_FIXED))
		atomic_fetch_add(&mappings, 1);
	return p;
}

int __wrap_munmap(void *at, size_t len)
{
	int err = __real_munmap(at, len);

	if (!err)
		atomic_fetch_sub(&mappings, 1);
	return err;
}

struct fuzz_before fuzz_before(void)
{
	return (struct fuzz_before){ .fds = entries("/proc/self/fd"), .mappings = atomic_load(&mappings) };
}

void fuzz_left(const struct fuzz_before *b)
{
	static unsigned threads; /* of libFuzzer itself, counted after the first execution */
	unsigned now, fds = entries("/proc/self/fd");

	promise(fds == b->fds, "%u descriptors are open, %u were before", fds, b->fds);
	promise(atomic_load(&mappings) == b->mappings, "%ld mappings stay, %ld were there before",
		atomic_load(&mappings), b->mappings);
	if (!threads)
		threads = threads_now();
	now = threads_left(threads);
	promise(now <= threads, "%u threads stay, %u were there before", now, threads);
}

bool fuzz_mem_new(struct fuzz_mem *m, size_t len, bool shared)
{
	int flags = MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);

	*m = (struct fuzz_mem){ .len = len, .fd = -1, .around_len = len + 2 * GUARD };
	m->around = mmap(NULL, m->around_len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	promise(m->around != MAP_FAILED, "no address space for %zu bytes", m->around_len);
	if (shared) {
		uint8_t canary[BEFORE];

		m->fd = memfd_create("fuzz-ram", MFD_CLOEXEC);
		m->fd_offset = BEFORE;
		memset(canary, CANARY, sizeof(canary));
		if (m->fd < 0 || ftruncate(m->fd, (off_t)(BEFORE + len + BEHIND)) ||
		    pwrite(m->fd, canary, BEFORE, 0) != (ssize_t)BEFORE ||
		    pwrite(m->fd, canary, BEHIND, (off_t)(BEFORE + len)) != (ssize_t)BEHIND)
			broken("no memfd of %zu bytes", len);
	}
	m->at = mmap(m->around + GUARD, len, PROT_READ | PROT_WRITE, flags, m->fd, (off_t)m->fd_offset);
	promise(m->at != MAP_FAILED, "%zu bytes cannot be mapped", len);
	madvise(m->at, len, MADV_NOHUGEPAGE);
	return true;
}

void fuzz_mem_check(const struct fuzz_mem *m)
{
	uint8_t is[BEFORE];

	if (m->fd < 0)
		return;
	promise(lseek(m->fd, 0, SEEK_END) == (off_t)(BEFORE + m->len + BEHIND),
		"the memfd has another length");
	promise(pread(m->fd, is, BEFORE, 0) == (ssize_t)BEFORE, "the memfd cannot be read");
	for (size_t i = 0; i < BEFORE; i++)
		promise(is[i] == CANARY, "byte %zu before the region was written", i);
	promise(pread(m->fd, is, BEHIND, (off_t)(BEFORE + m->len)) == (ssize_t)BEHIND,
		"the memfd cannot be read");
	for (size_t i = 0; i < BEHIND; i++)
		promise(is[i] == CANARY, "byte %zu behind the region was written", i);
}

void fuzz_mem_free(struct fuzz_mem *m)
{
	if (m->at)
		munmap(m->around, m->around_len);
	if (m->at && m->fd >= 0)
		close(m->fd);
	*m = (struct fuzz_mem){ .fd = -1 };
}

void fuzz_fill(uint8_t *page, uint64_t which, uint64_t n)
{
	uint64_t v = (which * 1000003 + n + 1) * UINT64_C(0x9e3779b97f4a7c15) | UINT64_C(0x0101010101010101);

	for (size_t i = 0; i < FUZZ_PAGE; i += sizeof(v))
		memcpy(page + i, &v, sizeof(v));
}

void fuzz_take(struct fuzz_in *in, void *to, size_t len)
{
	size_t n = len < in->left ? len : in->left;

	memset(to, 0, len);
	if (n)
		memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}
