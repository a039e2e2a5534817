// SPDX-License-Identifier: MIT
/* Places arriving pages in guest memory: anonymous memory and memfds. place_huge.c does hugetlbfs. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "place_int.h"
#include "uffd.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"

#define DROP_VEC 512u
#define MAP_BYTES ((off_t)256 << 20) /* populated between two calls of look->ask() */
#define DROP_PAGES 65536u	     /* per call of place_drop() */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

/* MADV_DONTNEED_LOCKED (Linux 5.18) also drops locked memory. */
static int drop_advice(void)
{
	void *page = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	bool has;

	if (page == MAP_FAILED)
		return MADV_DONTNEED;
	has = !madvise(page, PAGE_BYTES, MADV_DONTNEED_LOCKED);
	munmap(page, PAGE_BYTES);
	return has ? MADV_DONTNEED_LOCKED : MADV_DONTNEED;
}

/*
 * Maps the pages that the VMM has allocated already, in both mappings and in one go. Otherwise each costs a
 * fault here when it arrives (unless it lands by the kernel), and one in the VM when it runs. Foreign memory
 * has nothing allocated: take_back().
 */
static int map_allocated(struct place_region *r, const struct place_look *look)
{
	off_t base = (off_t)r->reg->fd_offset, end = base + (off_t)r->reg->len, from = base, to;
	int err = 0;

	while (from < end && !err) {
		from = lseek(r->reg->fd, from, SEEK_DATA);
		if (from < 0 && errno != ENXIO)
			r->mapped = true; /* refused: the VM may have pages mapped */
		if (from < 0 || from >= end)
			break;
		to = lseek(r->reg->fd, from, SEEK_HOLE);
		if (to < 0 || to > end)
			to = end;
		if (to > from + MAP_BYTES)
			to = from + MAP_BYTES;
		r->mapped = true;
		/* Populating only gains speed: ignore the error. */
		if ((!r->kernel &&
		     madvise(r->alias + (from - base), (size_t)(to - from), MADV_POPULATE_WRITE)) ||
		    madvise(r->vm + (from - base), (size_t)(to - from), MADV_POPULATE_WRITE))
			break;
		from = to;
		err = look ? look->ask(look->arg) : 0;
	}
	return err;
}

/*
 * What the other process has touched is mapped there, and a missing page of it would not fault. Holes unmap it
 * in every process, and the memory must be fresh anyway.
 */
static int take_back(const struct place_region *r, struct fail *f)
{
	if (!fallocate(r->reg->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->reg->fd_offset,
		       (off_t)r->reg->len))
		return 0;
	return fail_cure(f, CURE_PUNCH, -errno,
			 "what the VM's process has mapped of region %u cannot be taken back", r->reg->id);
}

static int open_region(struct place_region *r, const struct ferry_region *reg, bool pinned, struct fail *f)
{
	int err;

	*r = (struct place_region){ .reg = reg,
				    .vm = reg->hva,
				    .npages = reg->len >> PAGE_SHIFT,
				    .shared = reg->flags & FERRY_REGION_SHARED,
				    .foreign = reg->flags & FERRY_REGION_FOREIGN,
				    .huge = reg->page_shift == HUGE_SHIFT };
	r->mapped = !r->shared;
	if (r->foreign && (err = take_back(r, f)) < 0)
		return err;
	if (r->huge)
		return huge_open(r, pinned, f);
	if (!r->shared)
		return 0;
	r->alias = mmap(NULL, reg->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, reg->fd,
			(off_t)reg->fd_offset);
	if (r->alias != MAP_FAILED) {
		r->inbox = r->alias;
		return 0;
	}
	r->alias = NULL;
	return fail_cure(f, CURE_MAP, -errno,
			 "region %u cannot be mapped a second time (%" PRIu64 " bytes of fd %d)", reg->id,
			 reg->len, reg->fd);
}

/* Tries to drop where that can fail. This costs one page of memory that was allocated beforehand. */
static int try_drop(const struct place *p, const struct place_region *r, struct fail *f)
{
	if (!madvise(r->vm, r->huge ? HUGE_BYTES : PAGE_BYTES, p->advice))
		return 0;
	return fail_cure(f, CURE_DROP, -errno, "memory of region %u at %p cannot be dropped", r->reg->id,
			 (void *)r->vm);
}

/* Chooses where pages land; then what is allocated is mapped, as that way needs it. */
static int open_landing(struct place *p, const struct place_param *param)
{
	int err = param->one_sided ? 0 : landing_choose(p, param->way);

	if (err < 0 && param->slower)
		param->slower(param->slower_arg, CURE_CALL, err,
			      "pages land in the mapping, the faster way cannot be measured");
	err = 0;
	for (size_t i = 0; i < p->n && !err; i++) {
		struct place_region *r = &p->r[i];

		if (!r->shared || r->huge)
			continue;
		if (r->kernel)
			r->inbox = NULL;
		if (!r->foreign)
			err = map_allocated(r, param->look);
	}
	return err;
}

int place_open(struct place *p, const struct ferry_region *regions, size_t n, const struct place_param *param,
	       struct fail *f)
{
	int err = 0;

	*p = (struct place){ .uffd = -1,
			     .reach = REACH_NONE,
			     .pinned = param->pinned,
			     .foreign = regions[0].flags & FERRY_REGION_FOREIGN };
	p->r = calloc(n, sizeof(p->r[0]));
	if (!p->r)
		return fail(f, -ENOMEM, "no memory for %zu regions", n);
	reach_open(&p->reach, false);
	p->advice = drop_advice();
	while (p->n < n && !err) {
		err = open_region(&p->r[p->n], &regions[p->n], param->pinned, f);
		p->n++; /* place_close() must also free what a failed region has */
	}
	if (!err)
		err = open_landing(p, param);
	/* place_zero() drops pages in every mode, so try it now. */
	for (size_t i = 0; i < n && !err && p->advice == MADV_DONTNEED; i++)
		if (!p->r[i].huge && p->r[i].mapped)
			err = try_drop(p, &p->r[i], f);
	if (!err)
		err = huge_ready(p, f);
	if (err < 0)
		place_close(p);
	return err;
}

void place_disarm(struct place *p)
{
	for (size_t i = 0; i < p->n; i++) {
		if (p->r[i].registered)
			uffd_unregister(p->uffd, p->r[i].vm, bytes(p->r[i].npages));
		p->r[i].registered = false;
	}
	if (p->uffd >= 0 && !p->foreign)
		close(p->uffd);
	p->uffd = -1;
}

void place_close(struct place *p)
{
	place_disarm(p);
	for (size_t i = 0; i < p->n; i++) {
		struct place_region *r = &p->r[i];

		if (r->inbox && r->inbox != r->alias)
			munmap(r->inbox, bytes(r->npages));
		if (r->alias)
			munmap(r->alias, bytes(r->npages));
		free(r->owed);
	}
	if (p->zeros)
		munmap((void *)p->zeros, HUGE_BYTES);
	reach_close(&p->reach);
	free(p->r);
	*p = (struct place){ .uffd = -1, .reach = REACH_NONE };
}

void *place_landing(const struct place *p, uint32_t idx)
{
	return p->r[idx].shared ? p->r[idx].alias : p->r[idx].vm;
}

int place_unwritable(const struct place_region *r, const struct page_run *run, struct fail *f)
{
	const uint8_t *base = r->shared ? r->alias : r->vm;
	const uint8_t *bad = reach_find(base + bytes(run->page), bytes(run->npages), true);
	uint64_t off = bad ? (uint64_t)(bad - base) : 0;

	return bad ? reach_fail(f,
				&(struct reach_page){ r->reg->id, off >> PAGE_SHIFT, r->reg->gpa + off, bad },
				true)
		   : 0;
}

static int cannot_zero(const struct place_region *r, const struct page_run *run, int err, struct fail *f)
{
	int why = err == EFAULT ? place_unwritable(r, run, f) : 0;

	return why ? why
		   : fail_cure(f, r->shared ? CURE_PUNCH : CURE_DROP, -err,
			       "pages %" PRIu64 "+%u of region %u cannot be made zero", run->page,
			       run->npages, r->reg->id);
}

int place_zero(struct place *p, const struct page_run *run, struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	size_t off = bytes(run->page), len = bytes(run->npages);
	int err;

	/* Keep the huge page: if it went back to the host, there might be none when it is written again. */
	if (p->pinned || r->huge) {
		err = reach_zero((uint8_t *)place_landing(p, run->region) + off, len);
		return err ? cannot_zero(r, run, -err, f) : 0;
	}
	err = r->shared ? fallocate(r->reg->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				    (off_t)(r->reg->fd_offset + off), (off_t)len)
			: madvise(r->vm + off, len, p->advice);
	return err ? cannot_zero(r, run, errno, f) : 0;
}

int place_drop(struct place *p, const struct page_set *set, struct page_cursor *at, struct fail *f)
{
	struct iovec v[DROP_VEC];
	struct page_run run;
	uint64_t pages = 0;
	unsigned n = 0;
	int err;

	while (n < DROP_VEC && pages < DROP_PAGES && page_set_next(set, at, DROP_PAGES, &run)) {
		struct place_region *r = &p->r[run.region];

		if (!r->mapped)
			continue;
		if (r->huge) /* drop the whole huge page; the walk continues after it */
			huge_around(&run, at);
		v[n++] = (struct iovec){ r->vm + bytes(run.page), bytes(run.npages) };
		pages += run.npages;
	}
	if (!n)
		return 0;
	err = reach_advise(&p->reach, v, n, p->advice);
	if (err < 0)
		return fail_cure(f, CURE_DROP, err, "the residual pages cannot be dropped");
	return n == DROP_VEC || pages >= DROP_PAGES;
}

/* Works before and after place_arm(): a poison marker stays when its range is unregistered. */
static int poison_range(struct place *p, const struct place_region *r, uint8_t *at, size_t len,
			struct fail *f)
{
	int fd = p->uffd >= 0 ? p->uffd : uffd_open(place_kinds(p), f), err;
	size_t done;

	if (fd < 0)
		return fd;
	err = fd == p->uffd ? 0 : uffd_register(fd, at, len, r->shared);
	if (!err)
		err = uffd_poison(fd, at, len, &done);
	if (fd != p->uffd)
		close(fd); /* unregisters the range */
	return err < 0 ? fail_cure(f, CURE_UFFD_REGISTER, err,
				   "a page of region %u that is lost at the source cannot be poisoned",
				   r->reg->id)
		       : 0;
}

int place_poison(struct place *p, const struct page_run *run, struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	size_t off = bytes(run->page), len = bytes(run->npages);
	int err;

	/* Write the page: the VM's next migration would skip a hole of the file and miss the marker. */
	if (r->shared && (err = reach_zero(r->alias + off, len)) < 0)
		return cannot_zero(r, run, -err, f);
	if (madvise(r->vm + off, len, p->advice))
		return fail_cure(f, CURE_DROP, -errno,
				 "pages %" PRIu64
				 "+%u of region %u, which are lost at the source, cannot be dropped",
				 run->page, run->npages, r->reg->id);
	return poison_range(p, r, r->vm + off, len, f);
}

unsigned place_kinds(const struct place *p)
{
	unsigned kinds = p->poisons ? UFFD_POISON : 0;

	for (size_t i = 0; i < p->n; i++)
		kinds |= (p->r[i].shared ? UFFD_SHARED : 0) | (p->r[i].huge ? UFFD_HUGE : 0);
	return kinds;
}

/* A descriptor with the features for all regions. Only one's own is to be closed. */
static int get_uffd(struct place *p, struct fail *f)
{
	int fd, err;

	if (!p->foreign)
		return uffd_open(place_kinds(p), f);
	fd = p->r[0].reg->uffd;
	if (fd < 0)
		return fail(f, -EOPNOTSUPP,
			    "the regions are mapped in another process, and it has given no userfaultfd, which post-copy needs: "
			    "hand one over in ferry_region.uffd");
	err = p->adopted ? 0 : uffd_adopt(fd, place_kinds(p), f);
	p->adopted = !err;
	return err ? err : fd;
}

static int register_region(int fd, const struct place_region *r, struct fail *f)
{
	int err = uffd_register(fd, r->vm, bytes(r->npages), r->shared);
	size_t done;

	if (!err)
		return 0;
	/* One error for no memory and for a process that has exited; another call tells. */
	if (err == -ENOMEM && r->foreign && uffd_zero(fd, r->vm, PAGE_BYTES, &done) == -ESRCH)
		err = -ESRCH;
	return fail_cure(f, CURE_UFFD_REGISTER, err, "userfaultfd does not take region %u, %zu bytes at %p",
			 r->reg->id, bytes(r->npages), (void *)r->vm);
}

int place_try(struct place *p, struct fail *f)
{
	int fd = get_uffd(p, f), err = 0;
	size_t n = 0;

	if (fd < 0)
		return fd;
	for (; n < p->n && !err; n += !err) {
		if (p->r[n].huge && !p->r[n].shared)
			err = try_drop(p, &p->r[n], f);
		if (!err)
			err = register_region(fd, &p->r[n], f);
	}
	for (size_t i = 0; i < n && p->foreign; i++)
		uffd_unregister(fd, p->r[i].vm, bytes(p->r[i].npages));
	if (!p->foreign)
		close(fd); /* unregisters all regions */
	return err;
}

int place_arm(struct place *p, struct fail *f)
{
	int err;

	if (p->uffd >= 0)
		return 0;
	err = get_uffd(p, f);
	if (err < 0)
		return err;
	p->uffd = err;
	for (size_t i = 0; i < p->n; i++) {
		err = register_region(p->uffd, &p->r[i], f);
		if (err < 0)
			return err;
		p->r[i].registered = true;
	}
	return 0;
}

int place_resolve(struct place *p, const struct place_region *r, uint8_t *dst, const uint8_t *src, size_t len,
		  bool wake)
{
	size_t at = 0, done, page = r->huge ? HUGE_BYTES : PAGE_BYTES;

	while (at < len) {
		int err = r->shared ? uffd_continue(p->uffd, dst + at, len - at, wake, &done)
				    : uffd_copy(p->uffd, dst + at, src + at, len - at, wake, &done);

		at += done;
		if (!err)
			break;
		if (err == -EEXIST && r->huge && !r->foreign)
			err = huge_exists(dst + at);
		if (err && err != -EEXIST)
			return err;
		uffd_wake(p->uffd, dst + at, page);
		at += page;
	}
	return 0;
}

/* UFFDIO_CONTINUE fails with EFAULT at a hole of the file: map a zero page there. */
static int step_clean(int fd, uint8_t *dst, size_t len, size_t *done)
{
	int err = uffd_continue(fd, dst, len, true, done);
	size_t one;

	if (err != -EFAULT)
		return err;
	err = uffd_zero(fd, dst + *done, PAGE_BYTES, &one);
	*done += one;
	return err ? err : *done < len ? -EAGAIN : 0;
}

int place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, uint64_t *done,
	      struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	int err;

	if (r->huge)
		return huge_run(p, run, wake, done, f);
	if (r->shared && r->kernel && (err = place_land(p, run, 1, buf, f)) < 0)
		return err;
	err = place_resolve(p, r, r->vm + bytes(run->page), buf, bytes(run->npages), wake);
	if (!err) {
		*done = page_set_del_run(p->missing, run);
		return 0;
	}
	return fail_cure(f, CURE_PLACE, err,
			 "pages %" PRIu64 "+%u of region %u have arrived and cannot be mapped", run->page,
			 run->npages, r->reg->id);
}

int place_clean(struct place *p, const struct page_run *run, struct fail *f)
{
	struct place_region *r = &p->r[run->region];
	size_t len = bytes(run->npages), at = 0, done;
	uint8_t *dst = r->vm + bytes(run->page);
	int err;

	if (r->huge)
		return huge_clean(p, run, f);
	if (!r->shared) {
		/* An absent clean page of anonymous memory was never sent, so it reads as zero. */
		err = uffd_zero(p->uffd, dst, PAGE_BYTES, &done);
		if (err == -EEXIST)
			err = uffd_wake(p->uffd, dst, PAGE_BYTES);
		return err ? fail_cure(f, CURE_PLACE, err, "a zero page cannot be mapped") : 0;
	}
	while (at < len) {
		err = step_clean(p->uffd, dst + at, len - at, &done);
		at += done;
		if (!err)
			break;
		if (err == -EEXIST) {
			uffd_wake(p->uffd, dst + at, PAGE_BYTES);
			at += PAGE_BYTES;
		} else if (err != -EAGAIN) {
			int why = place_unwritable(r, run, f);

			return why ? why
				   : fail_cure(f, CURE_PLACE, err,
					       "clean pages %" PRIu64 "+%u of region %u cannot be mapped",
					       run->page, run->npages, r->reg->id);
		}
	}
	return 0;
}

bool place_data(const struct place *p, struct page_cursor *at, struct page_run *ret)
{
	for (; at->region < p->n; *at = (struct page_cursor){ .region = at->region + 1 }) {
		const struct place_region *r = &p->r[at->region];
		off_t base = (off_t)r->reg->fd_offset, end = base + (off_t)r->reg->len;
		off_t from = base + (off_t)bytes(at->page), to;

		if (from < end && !r->huge) /* hugetlbfs does not tell; place_ahead() finds its holes */
			from = lseek(r->reg->fd, from, SEEK_DATA);
		if (from < 0 && errno != ENXIO)
			return false;
		if (from < 0 || from >= end)
			continue;
		to = r->huge ? end : lseek(r->reg->fd, from, SEEK_HOLE);
		if (to < 0)
			return false;
		if (to > end)
			to = end;
		if (to > from + (off_t)bytes(PLACE_DATA_MAX))
			to = from + (off_t)bytes(PLACE_DATA_MAX);
		*ret = (struct page_run){ .region = at->region,
					  .page = (uint64_t)(from - base) >> PAGE_SHIFT,
					  .npages = (uint32_t)((uint64_t)(to - from) >> PAGE_SHIFT) };
		at->page = ret->page + ret->npages;
		return true;
	}
	return false;
}

int place_ahead(struct place *p, const struct page_run *run, struct fail *f)
{
	const struct place_region *r = &p->r[run->region];
	size_t len = bytes(run->npages), at = 0, done, page = r->huge ? HUGE_BYTES : PAGE_BYTES;
	uint8_t *dst = r->vm + bytes(run->page);

	while (at < len) {
		int err = uffd_continue(p->uffd, dst + at, len - at, true, &done);

		at += done;
		if (!err)
			break;
		if (err != -EEXIST && err != -EFAULT) /* mapped already, or a hole */
			return fail_cure(f, CURE_PLACE, err,
					 "clean pages %" PRIu64 "+%u of region %u cannot be mapped",
					 run->page, run->npages, r->reg->id);
		at += page;
	}
	return 0;
}

void place_wake(struct place *p, const struct page_run *run)
{
	uffd_wake(p->uffd, p->r[run->region].vm + bytes(run->page), bytes(run->npages));
}

bool place_find(const struct place *p, uint64_t addr, struct page_run *ret)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct place_region *r = &p->r[i];
		uint64_t off = addr - (uintptr_t)r->vm, pages = r->huge ? HUGE_PAGES : 1;

		if (off < bytes(r->npages)) {
			*ret = (struct page_run){ .region = (uint32_t)i,
						  .page = (off >> PAGE_SHIFT) & ~(pages - 1),
						  .npages = (uint32_t)pages };
			return true;
		}
	}
	return false;
}
