// SPDX-License-Identifier: MIT
/*
 * Pages of hugetlbfs in post-copy.
 *
 * The residue of a huge page is its dirty pieces of 4 KiB, and it crosses as such, but the kernel maps 2 MiB
 * or nothing. So pieces are received at their offset in the inbox (the page cache of a memfd, or our own
 * memory beside private memory). Each region counts how many pieces each huge page lacks; the worker whose
 * piece makes that zero maps the huge page. No other worker can do so, and before that nobody sees any of it.
 * Only then do its pages leave the missing set: a page that is not missing is mapped, or was never sent.
 *
 *	memfd		The clean pieces are in the page cache: only the dirty ones are pulled.
 *	private		To make the huge page fault, it was dropped with its clean pieces: all 512 are pulled.
 *			Keeping the clean pieces would take a copy of 2 MiB per huge page, also in downtime,
 *			and up to as much memory again as the guest has (cost: docs/benchmarking.md).
 *
 * After a lost link, pieces that had arrived may be pulled again: the counts start again from missing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "place_int.h"
#include "uffd.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"

static long pool(const char *name)
{
	char path[100];
	long n = -1;
	FILE *in;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-2048kB/%s", name);
	in = fopen(path, "re");
	if (in && fscanf(in, "%ld", &n) != 1)
		n = -1;
	if (in)
		fclose(in);
	return n;
}

/* No huge page: the host's pool is empty, or the cgroup is at its limit. One errno: the pool tells. */
static enum cure cure_of(int err)
{
	if (err != -ENOMEM && err != -EFAULT)
		return CURE_PLACE;
	return pool("free_hugepages") > 0 ? CURE_HUGE_LIMIT : CURE_HUGE_EMPTY;
}

/* Without MAP_NORESERVE the huge pages are reserved: none is lacking in the middle of a migration. */
static int map_alias(struct place_region *r, struct fail *f)
{
	const struct ferry_region *reg = r->reg;
	long total = pool("nr_hugepages"), want = (long)(reg->len >> HUGE_SHIFT);
	int err;

	r->alias = mmap(NULL, reg->len, PROT_READ | PROT_WRITE, MAP_SHARED, reg->fd, (off_t)reg->fd_offset);
	if (r->alias != MAP_FAILED) {
		r->inbox = r->alias;
		/* The VMM may have touched its mapping, to allocate. Pages mapped there would not fault. */
		if (r->foreign || !madvise(r->vm, reg->len, MADV_DONTNEED))
			return 0;
		return fail_cure(f, CURE_DROP, -errno,
				 "what is mapped of region %u, which is of huge pages, cannot be dropped",
				 reg->id);
	}
	err = -errno;
	r->alias = NULL;
	if (err != -ENOMEM)
		return fail_cure(f, CURE_MAP, err,
				 "region %u cannot be mapped a second time (%" PRIu64 " bytes of fd %d)",
				 reg->id, reg->len, reg->fd);
	return fail(f, err,
		    "region %u takes %ld huge pages of 2 MiB and this host has %ld, %ld of them free and %ld of these promised: "
		    "sysctl -w vm.nr_hugepages=%ld",
		    reg->id, want, total, pool("free_hugepages"), pool("resv_hugepages"), total + want);
}

static int map_inbox(struct place_region *r, struct fail *f)
{
	size_t len = bytes(r->npages), head;
	uint8_t *p = mmap(NULL, len + HUGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return fail_cure(f, CURE_MAP, -errno, "no address space for %zu bytes beside region %u", len,
				 r->reg->id);
	head = -(uintptr_t)p & (HUGE_BYTES - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + len, HUGE_BYTES - head);
	r->inbox = p + head;
	/* Best effort: the memory is filled and freed in units of 2 MiB. */
	madvise(r->inbox, len, MADV_HUGEPAGE);
	return 0;
}

int huge_open(struct place_region *r, bool pinned, struct fail *f)
{
	if (pinned && !r->shared)
		return fail(f, -EOPNOTSUPP,
			    "region %u is private memory of huge pages, which a device that pins memory would hold "
			    "twice in post-copy; make it a memfd (MFD_HUGETLB), or migrate over a transport that does not pin memory",
			    r->reg->id);
	r->owed = calloc(r->npages / HUGE_PAGES, sizeof(r->owed[0]));
	if (!r->owed)
		return fail(f, -ENOMEM, "no memory to count the huge pages of region %u", r->reg->id);
	return r->shared ? map_alias(r, f) : map_inbox(r, f);
}

int huge_ready(struct place *p, struct fail *f)
{
	if (!(place_kinds(p) & UFFD_HUGE))
		return 0;
	p->zeros = mmap(NULL, HUGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->zeros != MAP_FAILED)
		return 0;
	p->zeros = NULL;
	return fail_cure(f, CURE_MAP, -errno, "no address space for 2 MiB");
}

int huge_exists(void *addr)
{
	unsigned char there;

	if (mincore(addr, PAGE_BYTES, &there))
		return -errno;
	return there & 1 ? 0 : -ENOMEM;
}

void huge_around(struct page_run *run, struct page_cursor *at)
{
	uint64_t first = run->page & ~(HUGE_PAGES - 1);
	uint64_t end = (run->page + run->npages + HUGE_PAGES - 1) & ~(HUGE_PAGES - 1);

	run->page = first;
	run->npages = (uint32_t)(end - first);
	at->page = end;
}

void place_expect(struct place *p, struct page_set *missing)
{
	p->missing = missing;
	for (uint32_t i = 0; i < p->n; i++) {
		struct place_region *r = &p->r[i];
		struct page_cursor at = { .region = i, .end = r->npages };
		struct page_run run;

		if (!r->huge)
			continue;
		memset((void *)r->owed, 0, r->npages / HUGE_PAGES * sizeof(r->owed[0]));
		while (page_set_next(missing, &at, UINT32_MAX, &run)) {
			if (!r->shared) {
				huge_around(&run, &at);
				page_set_add_run(missing, &run);
			}
			for (uint32_t n; run.npages; run.page += n, run.npages -= n) {
				n = (uint32_t)(HUGE_PAGES - run.page % HUGE_PAGES);
				n = n < run.npages ? n : run.npages;
				atomic_fetch_add_explicit(&r->owed[run.page / HUGE_PAGES], n,
							  memory_order_relaxed);
			}
		}
	}
}

/* The huge page is complete. For each, only one thread gets here. */
static int map_whole(struct place *p, struct place_region *r, uint64_t unit, bool wake)
{
	uint8_t *from = r->inbox + unit * HUGE_BYTES;
	int err = place_resolve(p, r, r->vm + unit * HUGE_BYTES, from, HUGE_BYTES, wake);

	if (!err && !r->shared)
		madvise(from, HUGE_BYTES, MADV_DONTNEED);
	return err;
}

int huge_run(struct place *p, const struct page_run *run, bool wake, uint64_t *done, struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	uint64_t page = run->page, end = page + run->npages;

	*done = 0;
	while (page < end) {
		uint64_t unit = page / HUGE_PAGES, next = (unit + 1) * HUGE_PAGES;
		uint16_t n = (uint16_t)((next < end ? next : end) - page);
		struct page_run whole = { .region = run->region,
					  .page = unit * HUGE_PAGES,
					  .npages = HUGE_PAGES };
		int err;

		page += n;
		if (atomic_fetch_sub(&r->owed[unit], n) != n)
			continue;
		err = map_whole(p, r, unit, wake);
		if (err < 0)
			return fail_cure(f, cure_of(err), err,
					 "the huge page at page %" PRIu64
					 " of region %u has arrived and cannot be mapped",
					 whole.page, r->reg->id);
		*done += page_set_del_run(p->missing, &whole);
	}
	return 0;
}

/*
 * As huge_clean(), for memory of another process. A hole is filled through our own mapping and then mapped with
 * UFFDIO_CONTINUE, not with UFFDIO_COPY: its EEXIST may also mean that no huge page is left, and which of the
 * two it is can be seen in our own page tables only.
 */
static int foreign_clean(struct place *p, const struct place_region *r, size_t off)
{
	size_t done;
	int err = uffd_continue(p->uffd, r->vm + off, HUGE_BYTES, true, &done);

	if (err == -EFAULT && !(err = reach_zero(r->alias + off, PAGE_BYTES)))
		err = uffd_continue(p->uffd, r->vm + off, HUGE_BYTES, true, &done);
	return err == -EEXIST ? uffd_wake(p->uffd, r->vm + off, HUGE_BYTES) : err;
}

/* An absent clean huge page is in the page cache, or it is a hole, which reads as zero. */
int huge_clean(struct place *p, const struct page_run *run, struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	uint8_t *dst = r->vm + bytes(run->page);
	size_t len = bytes(run->npages), at, done;

	for (at = 0; at < len; at += HUGE_BYTES) {
		int err = r->foreign  ? foreign_clean(p, r, bytes(run->page) + at)
			  : r->shared ? uffd_continue(p->uffd, dst + at, HUGE_BYTES, true, &done)
				      : -EFAULT;

		if (err == -EFAULT && !r->foreign)
			err = uffd_copy(p->uffd, dst + at, p->zeros, HUGE_BYTES, true, &done);
		if (err == -EEXIST && !(err = huge_exists(dst + at)))
			err = uffd_wake(p->uffd, dst + at, HUGE_BYTES);
		if (err < 0)
			return fail_cure(f, cure_of(err), err,
					 "a clean huge page of region %u cannot be mapped", r->reg->id);
	}
	return 0;
}
