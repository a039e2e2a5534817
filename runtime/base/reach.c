// SPDX-License-Identifier: MIT
/* Reads and writes guest memory without raising a signal, and finds out why a page cannot be reached. */
#include "reach.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cure.h"
#include "fail.h"
#include "page.h"
#include "uffd_abi.h"

#define ZERO_VEC 256u
#define CALL_BYTES ((size_t)1 << 30) /* bytes per call: the kernel cuts a vector off at 2 GiB less a page */
#define FIND_BYTES ((size_t)2 << 20)
#define LONG_BYTES ((size_t)64 << 10) /* from this average length on, known_readable() pays off */

#ifndef MADV_POPULATE_READ /* Linux 5.14 */
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

/* Since Linux 6.13 a process can advise itself on a vector of ranges; before, each takes a madvise(). */
static bool probe_vectored(int self)
{
	void *p =
		self < 0 ? MAP_FAILED
			 : mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec v = { p, PAGE_BYTES };
	bool ok;

	if (p == MAP_FAILED)
		return false;
	ok = syscall(SYS_process_madvise, self, &v, 1, MADV_DONTNEED, 0) == (long)PAGE_BYTES;
	munmap(p, PAGE_BYTES);
	return ok;
}

void reach_open(struct reach *r, bool reads)
{
	r->self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	r->vectored = probe_vectored(r->self);
	r->pagemap = reads ? open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC) : -1;
	r->maps = reads ? open("/proc/self/maps", O_RDONLY | O_CLOEXEC) : -1;
}

void reach_close(struct reach *r)
{
	if (r->self >= 0)
		close(r->self);
	if (r->pagemap >= 0)
		close(r->pagemap);
	if (r->maps >= 0)
		close(r->maps);
	*r = REACH_NONE;
}

static int advise_each(const struct iovec *v, unsigned n, int advice)
{
	for (unsigned i = 0; i < n; i++)
		while (madvise(v[i].iov_base, v[i].iov_len, advice))
			if (errno != EINTR && errno != EAGAIN)
				return -errno;
	return 0;
}

int reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice)
{
	int err = 0;

	for (unsigned i = 0, k; i < n && !err; i += k) {
		size_t len = v[i].iov_len;

		for (k = 1; i + k < n && len < CALL_BYTES && v[i + k].iov_len <= CALL_BYTES - len; k++)
			len += v[i + k].iov_len;
		if (r->vectored && k > 1 &&
		    syscall(SYS_process_madvise, r->self, v + i, k, advice, 0) == (long)len)
			continue;
		err = advise_each(v + i, k, advice);
	}
	return err;
}

/* True if one mapping covers the range and is readable. Needs PROCMAP_QUERY (Linux 6.11). */
static bool may_read(const struct reach *r, uint64_t start, uint64_t end)
{
	struct procmap_query q = { .size = sizeof(q),
				   .query_flags = PROCMAP_QUERY_VMA_READABLE,
				   .query_addr = start };

	return !ioctl(r->maps, PROCMAP_QUERY, &q) && q.vma_start <= start && q.vma_end >= end;
}

/* True if all pages of the range are in the page table: none swapped out, poisoned, or only in the file. */
static bool is_present(const struct reach *r, uint64_t start, uint64_t end)
{
	struct page_region found = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = end,
		.vec = (uintptr_t)&found,
		.vec_len = 1,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};

	return ioctl(r->pagemap, PAGEMAP_SCAN, &arg) == 1 && found.start == start && found.end == end;
}

/*
 * A page can be read if its mapping is readable and it is in the page table; two calls per range tell.
 * MADV_POPULATE_READ, which also brings in absent pages, looks up each page by itself; it would raise the CPU
 * time of pre-copy by half.
 */
static bool known_readable(const struct reach *r, const struct iovec *v, unsigned n)
{
	size_t len = 0;

	if (r->pagemap < 0 || r->maps < 0)
		return false;
	for (unsigned i = 0; i < n; i++)
		len += v[i].iov_len;
	if (len / LONG_BYTES < n)
		return false;
	for (unsigned i = 0; i < n; i++) {
		uint64_t start = (uintptr_t)v[i].iov_base, end = start + v[i].iov_len;

		if (!may_read(r, start, end) || !is_present(r, start, end))
			return false;
	}
	return true;
}

int reach_readable(const struct reach *r, const struct iovec *v, unsigned n)
{
	return known_readable(r, v, n) ? 0 : reach_advise(r, v, n, MADV_POPULATE_READ);
}

/* Populates all pages that these bytes lie in. */
static int populate(const void *p, size_t len, bool write)
{
	uintptr_t first = (uintptr_t)p & ~(PAGE_BYTES - 1),
		  end = ((uintptr_t)p + len + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
	struct iovec v = { (void *)first, end - first };

	return reach_advise(&REACH_NONE, &v, 1, write ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
}

int reach_page(const void *addr, bool write)
{
	int err = populate(addr, 1, write);

	return err == -EINVAL || err == -EPERM || err == -ENOSYS ? 0 : err;
}

const void *reach_find(const void *base, size_t len, bool write)
{
	const uint8_t *p = base;

	for (size_t at = 0, piece; at < len; at += piece) {
		piece = len - at < FIND_BYTES ? len - at : FIND_BYTES;
		if (!populate(p + at, piece, write))
			continue;
		for (size_t in = 0; in < piece; in += PAGE_BYTES)
			if (reach_page(p + at + in, write))
				return p + at + in;
	}
	return NULL;
}

static int prove(const void *p, size_t len, bool write)
{
	int err = populate(p, len, write);

	return err == -EHWPOISON || err == -ENOMEM ? -EFAULT : err;
}

static bool forbidden(int err)
{
	return err == -EPERM || err == -ENOSYS;
}

/*
 * process_vm_writev() reads its local side like the buffer of a write(), and survives a memory error that
 * nobody has met before. Called by syscall(), because ThreadSanitizer checks what the C library's function
 * reads: the guest writes src meanwhile, on purpose (such a page is dirty and is sent again).
 */
static int copy_vec(void *dst, const struct iovec *src, unsigned n, size_t len)
{
	struct iovec to = { dst, len };
	long done = syscall(SYS_process_vm_writev, (long)getpid(), src, (unsigned long)n, &to, 1ul, 0ul);

	if (done < 0)
		return -errno;
	return (size_t)done == len ? 0 : -EFAULT;
}

int reach_copy(void *dst, const void *src, size_t len)
{
	struct iovec from = { (void *)(uintptr_t)src, len };
	int err = copy_vec(dst, &from, 1, len);

	if (!forbidden(err))
		return err;
	/* A filter forbids it: copy by the CPU, after the kernel has confirmed that both are reachable. */
	err = prove(src, len, false);
	if (!err)
		err = prove(dst, len, true);
	if (!err)
		memcpy(dst, src, len);
	return err;
}

int reach_zero(void *dst, size_t len)
{
	static const uint8_t zeros[PAGE_BYTES];
	struct iovec from[ZERO_VEC];
	int err = 0;

	for (size_t at = 0, n; at < len && !err; at += n) {
		uint8_t *to = (uint8_t *)dst + at;
		unsigned k = 0;

		for (n = 0; k < ZERO_VEC && at + n < len; n += from[k++].iov_len)
			from[k] = (struct iovec){ (void *)(uintptr_t)zeros,
						  len - at - n < PAGE_BYTES ? len - at - n : PAGE_BYTES };
		err = copy_vec(to, from, k, n);
		if (!forbidden(err))
			continue;
		err = prove(to, n, true);
		if (!err)
			memset(to, 0, n);
	}
	return err;
}

/* ---- why ---- */

struct mapping {
	uintptr_t start, end;
	char perms[5];
	uint64_t offset, inode;
};

/* Finds the line of /proc/self/maps that has addr: 1 if found, 0 if nothing is mapped there, else -errno. */
static int find_mapping(struct mapping *ret, uintptr_t addr)
{
	FILE *in = fopen("/proc/self/maps", "re");
	bool found = false;
	char *line = NULL;
	size_t cap = 0;
	int err;

	if (!in)
		return -errno;
	errno = 0;
	while (!found && getline(&line, &cap, in) > 0) {
		struct mapping m;

		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNx64 " %*s %" SCNu64, &m.start, &m.end,
			   m.perms, &m.offset, &m.inode) != 5)
			continue;
		found = addr >= m.start && addr < m.end;
		if (found)
			*ret = m;
	}
	err = found || feof(in) ? 0 : errno;
	free(line);
	fclose(in);
	return err ? -err : found;
}

/* Explains a failure on a page of a file; says less if not privileged to follow the link. */
static void why_file(char *why, size_t cap, const struct mapping *m, uintptr_t addr)
{
	uint64_t at = m->offset + (addr - m->start);
	char path[80];
	struct statfs fs;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIxPTR "-%" PRIxPTR, m->start, m->end);
	if (stat(path, &st))
		snprintf(why, cap,
			 "the file behind it is too short, or there is no room for it; keep it at its length, and make room");
	else if ((uint64_t)st.st_size <= at)
		snprintf(why, cap,
			 "the file behind it ends at byte %" PRIu64 ", before that page at %" PRIu64
			 "; leave it at its length",
			 (uint64_t)st.st_size, at);
	else if (!statfs(path, &fs) && fs.f_blocks && !fs.f_bavail)
		snprintf(why, cap,
			 "the file system behind it is full; make it larger than the VM, or raise vm.nr_hugepages where it is "
			 "hugetlbfs");
	else
		snprintf(why, cap,
			 "the file behind it does not give that page; look at the host's free memory and its log");
}

static void why_unreachable(char *why, size_t cap, const void *addr, bool write)
{
	struct mapping m;
	int found = find_mapping(&m, (uintptr_t)addr);

	if (found < 0)
		snprintf(why, cap, "why is not known, for /proc/self/maps cannot be read: %s%s%s",
			 strerror(-found), *cure(CURE_CALL, found) ? "; " : "", cure(CURE_CALL, found));
	else if (!found)
		snprintf(why, cap,
			 "nothing is mapped there; guest RAM must stay mapped while it is migrated");
	else if (m.perms[write] != "rw"[write])
		snprintf(why, cap, "it is mapped %s; guest RAM must stay %s while it is migrated", m.perms,
			 write ? "writable" : "readable");
	else if (m.inode)
		why_file(why, cap, &m, (uintptr_t)addr);
	else
		snprintf(why, cap,
			 "the kernel does not give that page; look at the host's free memory and its log");
}

int reach_fail(struct fail *f, const struct reach_page *p, bool write)
{
	int err = reach_page(p->addr, write) == -EHWPOISON ? -EHWPOISON : -EFAULT;
	char why[240];

	if (err != -EHWPOISON)
		why_unreachable(why, sizeof(why), p->addr, write);
	else if (write)
		snprintf(why, sizeof(why), "the host's memory has a hardware error there; use another host");
	else
		snprintf(why, sizeof(why),
			 "the host's memory has a hardware error there; give both ends the op poison, and migrate over tcp, "
			 "to go without that page; where both have it, it was met too late for that: migrate again");
	return fail(f, err,
		    "page %" PRIu64 " of region %u (guest address %#" PRIx64
		    ", mapped at %p) cannot be %s: %s",
		    p->page, p->region, p->gpa, p->addr, write ? "written" : "read", why);
}
