// SPDX-License-Identifier: MIT
/*
 * Two ways into a page for data that a transport copies.
 *
 *	mapping	The transport receives into the page. One copy. A page that is not in our page table yet
 *		costs a fault, and ten times as much on a host that is a VM itself and whose hypervisor
 *		shadows its page tables.
 *	kernel	The transport receives into a buffer that stays in the cache of its core, and a system call
 *		copies it into the page through the kernel's own mapping: pwrite() into a file,
 *		process_vm_writev() into anonymous memory. Two copies and no entry in our page table.
 *
 * Which of them is faster cannot be known beforehand. So, unless one is asked for, place_open() lands zeros both
 * ways, twice each, on the first pages of the largest region of each kind, and leaves these pages as they were:
 * absent, or present and zero. The way of a kind holds for pre-copy and, in a file, for post-copy, too.
 *
 * The first landing on a page allocates and maps it. Memory that the VMM has allocated is mapped at once after
 * the choice, in the reservation, where the VM does not wait for it and nothing becomes dirty. What this costs
 * therefore counts for less than what each page costs in pre-copy.
 *
 * Pages of hugetlbfs land in the mapping: one fault brings 2 MiB. So does all that a one-sided transport writes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "place_int.h"
#include "runtime/base/clock.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"

#define SAMPLES 4u     /* of LANDING_BYTES, each way, in turn; the fastest counts */
#define SAMPLES_THP 2u /* of 2 MiB */
#define AHEAD_SHARE 4u /* of the cost of mapping in the reservation, this part counts */
#define VEC 256u

/* ---- one piece, each way ---- */

/* The kernel writes through our mapping, as recv() does. */
static int fill(void *dst, const void *src, size_t len)
{
	struct iovec to = { dst, len }, from = { (void *)(uintptr_t)src, len };
	long done = syscall(SYS_process_vm_readv, (long)getpid(), &to, 1ul, &from, 1ul, 0ul);

	return done < 0 ? -errno : (size_t)done == len ? 0 : -EFAULT;
}

static int write_file(const struct place_region *r, size_t off, const uint8_t *from, size_t len)
{
	while (len) {
		ssize_t n = pwrite(r->reg->fd, from, len, (off_t)(r->reg->fd_offset + off));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		from += n;
		off += (size_t)n;
		len -= (size_t)n;
	}
	return 0;
}

static int write_vec(const struct iovec *to, unsigned n, const uint8_t *from, size_t len)
{
	struct iovec all = { (void *)(uintptr_t)from, len };
	long done = syscall(SYS_process_vm_writev, (long)getpid(), &all, 1ul, to, (unsigned long)n, 0ul);

	return done < 0 ? -errno : (size_t)done == len ? 0 : -EFAULT;
}

static int write_piece(const struct place_region *r, size_t off, const uint8_t *from, size_t len)
{
	struct iovec to = { r->vm + off, len };

	return r->shared ? write_file(r, off, from, len) : write_vec(&to, 1, from, len);
}

/* ---- the choice ---- */

/* The length of a shared region's file; 0 if the call is refused. */
static uint64_t file_size(const struct place_region *r)
{
	struct stat st;

	return fstat(r->reg->fd, &st) ? 0 : (uint64_t)st.st_size;
}

/* A file that appends ignores the offset of pwrite(); one beyond the limit would raise SIGXFSZ. */
static bool can_write(const struct place_region *r)
{
	struct rlimit most;

	return !r->shared ||
	       (file_size(r) && !(fcntl(r->reg->fd, F_GETFL) & O_APPEND) && !getrlimit(RLIMIT_FSIZE, &most) &&
		r->reg->fd_offset + r->reg->len <= most.rlim_cur);
}

static bool is_thp(const struct place_region *r)
{
	return r->reg->flags & FERRY_REGION_THP;
}

struct sample {
	const uint8_t *zeros; /* 2 MiB that "arrive": a link's data is in no cache of the core's own */
	uint8_t *box;
	uint64_t ns[2][2]; /* fastest sample: by the mapping, by the kernel; first landing, second one */
};

/* Land len bytes at off, by the mapping or by the kernel, for the first or the second time. */
static int land_sample(const struct place_region *r, size_t off, size_t len, bool kernel, bool again,
		       struct sample *s)
{
	uint8_t *map = r->shared ? r->alias : r->vm;
	const uint8_t *from = s->zeros + (off / len * 2 + again) * len % HUGE_BYTES;
	uint64_t begin = now_ns(), ns;
	int err = 0;

	if (!kernel)
		err = fill(map + off, from, len);
	for (size_t at = 0; kernel && at < len && !err; at += LANDING_BYTES) {
		err = fill(s->box, from + at, LANDING_BYTES);
		if (!err)
			err = write_piece(r, off + at, s->box, LANDING_BYTES);
	}
	ns = now_ns() - begin;
	if (ns < s->ns[kernel][again])
		s->ns[kernel][again] = ns;
	return err;
}

/* Nanoseconds per page. */
static uint32_t figure(const uint64_t ns[2], size_t len, bool allocated)
{
	uint64_t ahead = ns[0] > ns[1] ? ns[0] - ns[1] : 0;

	return (uint32_t)((ns[1] + ahead / (allocated ? AHEAD_SHARE : 1)) / (len >> PAGE_SHIFT));
}

/* What tells whether samples allocate: the file's blocks, or whether all pages are in the page table. */
static uint64_t allocated(const struct place_region *r, size_t off, size_t len)
{
	unsigned char there[SAMPLES_THP * 2 * HUGE_PAGES];
	uint64_t n = 0;
	struct stat st;

	if (r->shared)
		return fstat(r->reg->fd, &st) ? 0 : (uint64_t)st.st_blocks;
	if (mincore(r->vm + off, len, there))
		return 0;
	for (size_t i = 0; i < len >> PAGE_SHIFT; i++)
		n += there[i] & 1;
	return n;
}

/* Give back what the samples have allocated; without it, they cost a MiB or a few of the VM's memory. */
static void forget(const struct place *p, const struct place_region *r, size_t off, size_t len)
{
	if (r->shared)
		fallocate(r->reg->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(r->reg->fd_offset + off), (off_t)len);
	else
		madvise(r->vm + off, len, p->advice);
}

/* Fills in both figures; leaves them 0 if the region is too small, or if a call is refused: its error. */
static int measure(const struct place *p, const struct place_region *r, struct ferry_landing *l)
{
	size_t len = is_thp(r) ? HUGE_BYTES : LANDING_BYTES,
	       all = len * 2 * (is_thp(r) ? SAMPLES_THP : SAMPLES);
	size_t first = is_thp(r) ? -(uintptr_t)r->vm & (HUGE_BYTES - 1) : 0;
	struct sample s = { .ns = { { UINT64_MAX, UINT64_MAX }, { UINT64_MAX, UINT64_MAX } } };
	uint64_t before;
	bool fresh;
	uint8_t *mem;
	int err = 0;

	if (bytes(r->npages) < first + all)
		return 0;
	mem = mmap(NULL, HUGE_BYTES + LANDING_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (mem == MAP_FAILED)
		return -errno;
	s.zeros = mem + LANDING_BYTES;
	s.box = mem;
	before = allocated(r, first, all);
	for (size_t i = 0; i < all / len && !err; i++) {
		size_t at = first + i / 2 * 2 * len;

		err = land_sample(r, at, len, false, i % 2, &s);
		if (!err)
			err = land_sample(r, at + len, len, true, i % 2, &s);
	}
	fresh = allocated(r, first, all) > before;
	if (fresh)
		forget(p, r, first, all);
	munmap(mem, HUGE_BYTES + LANDING_BYTES);
	if (err)
		return err;
	l->mapping_ns = figure(s.ns[0], len, !fresh);
	l->kernel_ns = figure(s.ns[1], len, !fresh);
	return 0;
}

/* The largest region of a kind that this process may write to both ways. */
static struct place_region *largest(struct place *p, uint32_t kind)
{
	struct place_region *found = NULL;

	for (size_t i = 0; i < p->n; i++) {
		struct place_region *r = &p->r[i];

		if (!r->huge && (r->reg->flags & LANDING_KIND) == kind && can_write(r) &&
		    (!found || r->npages > found->npages))
			found = r;
	}
	return found;
}

static int choose(struct place *p, uint32_t kind, enum ferry_landing_way want, struct ferry_landing *l)
{
	struct place_region *r = largest(p, kind);
	int err = r && want == FERRY_LANDING_WAY_AUTO ? measure(p, r, l) : 0;

	l->flags = kind;
	l->way = want;
	/* The second copy takes time of the core, and room in its cache, that the figures do not show. */
	if (want == FERRY_LANDING_WAY_AUTO)
		l->way = (uint64_t)l->kernel_ns * 10 < (uint64_t)l->mapping_ns * 9
				 ? FERRY_LANDING_WAY_KERNEL
				 : FERRY_LANDING_WAY_MAPPING;
	if (!r || err)
		l->way = FERRY_LANDING_WAY_MAPPING;
	return err;
}

int landing_choose(struct place *p, enum ferry_landing_way want)
{
	static const uint32_t kinds[FERRY_LANDINGS] = { 0, FERRY_REGION_THP, FERRY_REGION_SHARED,
							LANDING_KIND };
	int err = 0;

	for (size_t k = 0; k < FERRY_LANDINGS; k++) {
		struct ferry_landing *l = &p->landing[p->nlandings];
		bool any = false;
		int e;

		for (size_t i = 0; i < p->n; i++)
			any |= !p->r[i].huge && (p->r[i].reg->flags & LANDING_KIND) == kinds[k];
		if (!any)
			continue;
		p->nlandings++;
		e = choose(p, kinds[k], want, l);
		err = err ? err : e;
		for (size_t i = 0; i < p->n && l->way == FERRY_LANDING_WAY_KERNEL; i++)
			p->r[i].kernel = !p->r[i].huge && can_write(&p->r[i]) &&
					 (p->r[i].reg->flags & LANDING_KIND) == kinds[k];
	}
	return err;
}

/* ---- landing ---- */

/* Names the first page of these runs that cannot be written; if all can be now, the first of them. */
static int cannot_land(struct place *p, const struct page_run *runs, unsigned n, int err, struct fail *f)
{
	const struct ferry_region *reg = p->r[runs[0].region].reg;

	for (unsigned i = 0; i < n; i++) {
		int why = place_unwritable(&p->r[runs[i].region], &runs[i], f);

		if (why)
			return why;
	}
	return fail_cure(f, CURE_PLACE, err,
			 "page %" PRIu64 " of region %u, or one of %u runs from there on, cannot be written",
			 runs[0].page, reg->id, n);
}

/*
 * If somebody has truncated the file, pwrite() would not fail but extend it again, and what the cut removed
 * would be zeros. So the file's size is asked first. *known, *size: the region asked last, and its file's size.
 */
static int land_file(const struct place_region *r, const struct page_run *run, const uint8_t *from,
		     const struct place_region **known, uint64_t *size)
{
	size_t off = bytes(run->page), len = bytes(run->npages);

	if (*known != r)
		*size = file_size(r);
	*known = r;
	return r->reg->fd_offset + off + len > *size ? -EFAULT : write_file(r, off, from, len);
}

/* Runs of anonymous memory, up to the first that is not: their number in *k, and 0 or the error. */
static int land_vec(struct place *p, const struct page_run *runs, unsigned n, const uint8_t *from,
		    unsigned *k, size_t *len)
{
	struct iovec to[VEC];

	*len = 0;
	for (*k = 0; *k < n && *k < VEC && !p->r[runs[*k].region].shared; ++*k) {
		const struct page_run *run = &runs[*k];

		to[*k] = (struct iovec){ p->r[run->region].vm + bytes(run->page), bytes(run->npages) };
		*len += bytes(run->npages);
	}
	return write_vec(to, *k, from, *len);
}

int place_land(struct place *p, const struct page_run *runs, unsigned n, const void *data, struct fail *f)
{
	const struct place_region *known = NULL;
	const uint8_t *from = data;
	uint64_t size = 0;
	int err = 0;

	for (unsigned k; n && !err; runs += k, n -= k) {
		const struct place_region *r = &p->r[runs->region];
		size_t len = bytes(runs->npages);

		k = 1;
		err = r->shared ? land_file(r, runs, from, &known, &size)
				: land_vec(p, runs, n, from, &k, &len);
		if (err < 0)
			return cannot_land(p, runs, k, err, f);
		from += len;
	}
	return 0;
}
