// SPDX-License-Identifier: MIT
/*
 * Checks that the memory of each region matches the region's description.
 *
 * One pass over /proc/self/maps (0.03 ms) gives permissions, sharing, file and offset, but not whether
 * another userfaultfd is still filling the memory. /proc/self/smaps does, but it walks every page table and
 * holds mmap_lock meanwhile, with the VM running: 13 ms per GiB of small pages, 130 on a busy machine. So
 * each mapping is probed first with a UFFDIO_COPY that cannot succeed, because its source is not readable:
 * ENOENT means that no userfaultfd has the mapping, anything else that one has. The probe takes 0.5 us,
 * changes nothing, and needs only a userfaultfd for faults of user mode, which every process may open. smaps
 * is read if a userfaultfd has the mapping, to tell memory that is being filled (um, ui) from memory that is
 * write-protected for tracking (uw); if no userfaultfd can be opened; and for private huge pages at the
 * target, to find MAP_NORESERVE (nr).
 */
#include "mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "pages.h"
#include "uffd.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/page.h"
#include "runtime/base/reach.h"

#define NAME_MAX_SAID 100 /* of a mapping's name in an error message */

struct vma {
	uint64_t start, end, offset, inode;
	dev_t dev;
	char perms[8];
	const char *name;  /* from maps only */
	const char *flags; /* from smaps only: " rd wr ... " */
};

struct file {
	struct stat st;
	struct statfs fs;
};

struct look {
	const struct ferry_region *r;
	struct file *file;  /* one per region */
	const uint32_t *at; /* indices of the regions, sorted by address */
	size_t n;
	bool target;
	bool flags_wanted; /* smaps must be read as well */
	dev_t huge;	   /* device of anonymous huge pages of 2 MiB; 0: unknown */
	int uffd;	   /* for uffd_has(), or -1 */
	void *unreadable;
	struct fail *f;
};

typedef int (*judge_fn)(struct look *k, uint32_t i, const struct vma *v);

static bool is_shared(const struct ferry_region *r)
{
	return r->flags & FERRY_REGION_SHARED;
}

static bool is_huge(const struct ferry_region *r)
{
	return r->page_shift == HUGE_SHIFT;
}

/* ---- files ---- */

static int check_file(const struct ferry_region *r, struct file *file, struct fail *f)
{
	unsigned long is = PAGE_BYTES, said = 1ul << r->page_shift;

	if (fstatfs(r->fd, &file->fs))
		return fail_cure(f, CURE_REGION_FD, -errno, "fstatfs of fd %d of region %u", r->fd, r->id);
	if (fstat(r->fd, &file->st))
		return fail_cure(f, CURE_REGION_FD, -errno, "fstat of fd %d of region %u", r->fd, r->id);
	if (!S_ISREG(file->st.st_mode) ||
	    (file->fs.f_type != TMPFS_MAGIC && file->fs.f_type != HUGETLBFS_MAGIC))
		return fail(f, -EOPNOTSUPP,
			    "fd %d of region %u is %s (file system type %#lx); guest RAM must be in memory: pass a memfd, or a file "
			    "on tmpfs or hugetlbfs",
			    r->fd, r->id, S_ISREG(file->st.st_mode) ? "a file on a disk" : "no regular file",
			    (unsigned long)file->fs.f_type);
	if (file->fs.f_type == HUGETLBFS_MAGIC)
		is = (unsigned long)file->fs.f_bsize;
	if (is != said)
		return fail(f, is == 1ul << HUGE_SHIFT || is == PAGE_BYTES ? -EINVAL : -EOPNOTSUPP,
			    "fd %d of region %u has pages of %lu bytes, its page_shift %u says %lu; 12 and 21 (MFD_HUGETLB | "
			    "MFD_HUGE_2MB) are what is moved",
			    r->fd, r->id, is, r->page_shift, said);
	if (r->fd_offset > INT64_MAX - r->len || (uint64_t)file->st.st_size < r->fd_offset + r->len)
		return fail(f, -EINVAL,
			    "region %u is %#" PRIx64 " bytes of fd %d from offset %#" PRIx64
			    ", and the file ends at %#" PRIx64 "; ftruncate() it to its whole length first",
			    r->id, r->len, r->fd, r->fd_offset, (uint64_t)file->st.st_size);
	return 0;
}

int mapping_files(const struct ferry_region *r, size_t n, struct fail *f)
{
	int err = 0;

	for (size_t i = 0; i < n && !err; i++) {
		struct file file;

		if (is_shared(&r[i]))
			err = check_file(&r[i], &file, f);
	}
	return err;
}

static bool same_file(const struct file *a, const struct file *b)
{
	return a->st.st_dev == b->st.st_dev && a->st.st_ino == b->st.st_ino;
}

/* The target lands pages through a second mapping of the file and makes pages zero by punching holes. */
static int check_writable(const struct ferry_region *r, struct fail *f)
{
	int mode = fcntl(r->fd, F_GETFL), seals = fcntl(r->fd, F_GET_SEALS);

	if (mode >= 0 && (mode & O_ACCMODE) != O_RDWR)
		return fail(f, -EACCES,
			    "fd %d of region %u is not open for reading and writing; pages arrive through it: open it O_RDWR",
			    r->fd, r->id);
	if (seals >= 0 && seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
		return fail(f, -EPERM,
			    "fd %d of region %u is sealed against writing (seals %#x); pages arrive through it: seal it when the "
			    "migration has ended",
			    r->fd, r->id, (unsigned)seals);
	return 0;
}

/* Checks all regions of one mount with a size limit, once: when called for the first of them. */
static int check_room(const struct look *k, size_t first)
{
	const struct file *file = k->file;
	uint64_t bytes = 0, there = 0, room;

	if (file[first].fs.f_type != TMPFS_MAGIC || !file[first].fs.f_blocks)
		return 0;
	for (size_t i = 0; i < k->n; i++) {
		bool seen = false;

		if (!is_shared(&k->r[i]) || file[i].st.st_dev != file[first].st.st_dev)
			continue;
		if (i < first)
			return 0;
		bytes += k->r[i].len;
		for (size_t j = first; j < i && !seen; j++)
			seen = is_shared(&k->r[j]) && same_file(&file[i], &file[j]);
		if (!seen)
			there += (uint64_t)file[i].st.st_blocks * 512;
	}
	room = file[first].fs.f_bavail * (uint64_t)file[first].fs.f_bsize;
	if (bytes <= there || bytes - there <= room)
		return 0;
	return fail(k->f, -ENOSPC,
		    "region %u and the others on its tmpfs take %" PRIu64 " KiB, of which %" PRIu64
		    " are allocated, and it has %" PRIu64
		    " KiB left; make it larger (mount -o remount,size=...) or use a memfd",
		    k->r[first].id, bytes >> 10, there >> 10, room >> 10);
}

static int check_files(struct look *k)
{
	int err = 0;

	for (size_t i = 0; i < k->n && !err; i++) {
		if (!is_shared(&k->r[i]))
			continue;
		err = check_file(&k->r[i], &k->file[i], k->f);
		for (size_t j = 0; j < i && !err; j++) {
			const struct ferry_region *a = &k->r[j], *b = &k->r[i];

			if (is_shared(a) && same_file(&k->file[i], &k->file[j]) &&
			    a->fd_offset < b->fd_offset + b->len && b->fd_offset < a->fd_offset + a->len)
				err = fail(k->f, -EINVAL,
					   "regions %u and %u overlap in their file, at offset %#" PRIx64
					   "; give each byte to one region",
					   a->id, b->id,
					   a->fd_offset > b->fd_offset ? a->fd_offset : b->fd_offset);
		}
		if (!err && k->target)
			err = check_writable(&k->r[i], k->f);
	}
	for (size_t i = 0; i < k->n && !err && k->target; i++)
		if (is_shared(&k->r[i]))
			err = check_room(k, i);
	return err;
}

/* ---- mappings ---- */

static void describe(char *buf, size_t cap, const struct vma *v)
{
	const char *kind = v->perms[3] == 's' ? "shared" : "private";

	if (!v->inode || !strcmp(v->name, "/dev/zero (deleted)"))
		snprintf(buf, cap, "%s anonymous memory", kind);
	else if (!strcmp(v->name, "/anon_hugepage (deleted)"))
		snprintf(buf, cap, "%s anonymous memory of hugetlbfs (device %x:%x)", kind, major(v->dev),
			 minor(v->dev));
	else
		snprintf(buf, cap, "a %s mapping of %.*s from offset %#" PRIx64, kind, NAME_MAX_SAID,
			 *v->name ? v->name : "a file without a name", v->offset);
}

static int refuse_kind(struct look *k, uint32_t i, const struct vma *v, uint64_t at)
{
	const struct ferry_region *r = &k->r[i];
	char found[NAME_MAX_SAID + 80], due[160];

	describe(found, sizeof(found), v);
	if (is_shared(r))
		snprintf(due, sizeof(due),
			 "FERRY_REGION_SHARED takes a MAP_SHARED mapping of fd %d, there from offset %#" PRIx64
			 " on",
			 r->fd, r->fd_offset + (at - (uintptr_t)r->hva));
	else if (is_huge(r))
		snprintf(due, sizeof(due),
			 "page_shift 21 takes MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB");
	else
		snprintf(due, sizeof(due),
			 "a region of page_shift 12 without FERRY_REGION_SHARED takes MAP_PRIVATE | MAP_ANONYMOUS");
	return fail(k->f, -EINVAL,
		    "region %u is %s at %#" PRIx64 "; %s: map it so, or describe it as what it is", r->id,
		    found, at, due);
}

/* Judges the part of the mapping v that lies in region i; it begins at address at. */
static int judge_kind(struct look *k, uint32_t i, const struct vma *v)
{
	const struct ferry_region *r = &k->r[i];
	const struct stat *st = &k->file[i].st;
	uint64_t hva = (uintptr_t)r->hva, at = v->start > hva ? v->start : hva;
	bool ok = v->perms[3] == (is_shared(r) ? 's' : 'p');

	if (v->perms[0] != 'r' || v->perms[1] != 'w')
		return fail(k->f, -EACCES,
			    "region %u is mapped %.3s at %#" PRIx64
			    "; guest RAM must be readable and writable (rw): map or mprotect() it "
			    "PROT_READ | PROT_WRITE",
			    r->id, v->perms, at);
	if (is_shared(r))
		ok = ok && v->dev == st->st_dev && v->inode == st->st_ino &&
		     v->offset + (at - v->start) == r->fd_offset + (at - hva);
	else if (is_huge(r))
		ok = ok && !strcmp(v->name, "/anon_hugepage (deleted)") && (!k->huge || v->dev == k->huge);
	else
		ok = ok && !v->inode;
	if (!ok)
		return refuse_kind(k, i, v, at);
	if (!k->flags_wanted)
		k->flags_wanted = (k->target && is_huge(r) && !is_shared(r)) || k->uffd < 0 ||
				  uffd_has(k->uffd, (void *)at, (size_t)1 << r->page_shift, k->unreadable);
	return 0;
}

static bool has_flag(const struct vma *v, const char *flag)
{
	return strstr(v->flags, flag);
}

static int judge_flags(struct look *k, uint32_t i, const struct vma *v)
{
	const struct ferry_region *r = &k->r[i];
	uint64_t hva = (uintptr_t)r->hva, at = v->start > hva ? v->start : hva;
	bool minor_faults = has_flag(v, " ui ");

	if (minor_faults || has_flag(v, " um "))
		return fail(k->f, -EBUSY,
			    "region %u is registered with another userfaultfd for %s faults at %#" PRIx64
			    " and may still be filled by it; guest RAM must be complete: fill it and unregister it there first (write "
			    "protection alone, as for tracking, is fine)",
			    r->id, minor_faults ? "minor" : "missing", at);
	if (k->target && is_huge(r) && !is_shared(r) && has_flag(v, " nr "))
		return fail(k->f, -ENOMEM,
			    "region %u is mapped MAP_NORESERVE at %#" PRIx64
			    "; huge pages must be promised, or one that arrives finds "
			    "none: map it without, and raise vm.nr_hugepages where that fails",
			    r->id, at);
	return 0;
}

static bool parse_vma(char *line, struct vma *v)
{
	struct vma m = *v;
	unsigned maj, min;
	int name = 0;

	/* Lines of smaps such as "Anonymous:" begin with hexadecimal digits, too. */
	if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64 " %n", &m.start, &m.end,
		   m.perms, &m.offset, &maj, &min, &m.inode, &name) != 7)
		return false;
	*v = m;
	v->dev = makedev(maj, min);
	line[strcspn(line, "\n")] = '\0';
	v->name = line + name;
	return true;
}

static int gap(struct look *k, uint32_t i, uint64_t at)
{
	const struct ferry_region *r = &k->r[i];

	return fail(k->f, -EINVAL,
		    "region %u is %#" PRIx64 " bytes at %p and nothing is mapped at %#" PRIx64
		    "; map all of it, or describe each piece "
		    "as a region",
		    r->id, r->len, r->hva, at);
}

/* *i: index into k->at of the current region; *due: its first byte that no mapping has covered yet. */
static int visit(struct look *k, const struct vma *v, judge_fn judge, size_t *i, uint64_t *due)
{
	while (*i < k->n) {
		const struct ferry_region *r = &k->r[k->at[*i]];
		uint64_t end = (uintptr_t)r->hva + r->len;
		int err;

		if (v->end <= *due)
			return 0;
		if (v->start > *due)
			return gap(k, k->at[*i], *due);
		err = judge(k, k->at[*i], v);
		if (err < 0)
			return err;
		if (v->end < end) {
			*due = v->end;
			return 0;
		}
		if (++*i < k->n)
			*due = (uintptr_t)k->r[k->at[*i]].hva;
	}
	return 0;
}

static int walk(struct look *k, const char *path, judge_fn judge)
{
	uint64_t due = (uintptr_t)k->r[k->at[0]].hva;
	bool flags = judge == judge_flags, known = false;
	FILE *in = fopen(path, "re");
	struct vma v = { 0 };
	char *line = NULL;
	size_t cap = 0, i = 0;
	int err = 0;

	if (!in)
		return fail_cure(k->f, CURE_POPULATED, -errno,
				 "%s, which tells whether guest RAM is what its regions say, cannot be read",
				 path);
	while (!err && i < k->n && getline(&line, &cap, in) > 0) {
		if (parse_vma(line, &v)) {
			known = true;
			if (!flags)
				err = visit(k, &v, judge, &i, &due);
		} else if (known && flags && !strncmp(line, "VmFlags:", 8)) {
			line[strcspn(line, "\n")] = ' ';
			v.flags = line + 8;
			err = visit(k, &v, judge, &i, &due);
		}
	}
	free(line);
	fclose(in);
	return !err && i < k->n ? gap(k, k->at[i], due) : err;
}

static int by_address(const void *a, const void *b, void *regions)
{
	const struct ferry_region *r = regions;
	uintptr_t x = (uintptr_t)r[*(const uint32_t *)a].hva, y = (uintptr_t)r[*(const uint32_t *)b].hva;

	return x < y ? -1 : x > y;
}

static int sort(struct look *k, uint32_t *at)
{
	for (uint32_t i = 0; i < k->n; i++)
		at[i] = i;
	qsort_r(at, k->n, sizeof(at[0]), by_address, (void *)k->r);
	for (size_t i = 1; i < k->n; i++) {
		const struct ferry_region *a = &k->r[at[i - 1]], *b = &k->r[at[i]];

		if ((uintptr_t)b->hva - (uintptr_t)a->hva < a->len)
			return fail(k->f, -EINVAL,
				    "regions %u and %u overlap in memory, at %p; give each byte to one region",
				    a->id, b->id, b->hva);
	}
	k->at = at;
	return 0;
}

/* The kernel keeps anonymous huge pages on an internal mount, one per size. Returns its device, or 0. */
static dev_t huge_device(void)
{
	int fd = memfd_create("ferry", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	struct stat st = { 0 };

	if (fd < 0)
		return 0;
	if (fstat(fd, &st))
		st.st_dev = 0;
	close(fd);
	return st.st_dev;
}

static int check_mappings(struct look *k)
{
	size_t len = (size_t)1 << HUGE_SHIFT;
	int err;

	if (k->r[0].flags & FERRY_REGION_FOREIGN) /* then all are */
		return 0;
	for (size_t i = 0; i < k->n && !k->huge; i++)
		if (is_huge(&k->r[i]))
			k->huge = huge_device();
	k->unreadable = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	k->uffd = k->unreadable == MAP_FAILED ? -1 : uffd_open_to_ask();
	err = walk(k, "/proc/self/maps", judge_kind);
	if (!err && k->flags_wanted)
		err = walk(k, "/proc/self/smaps", judge_flags);
	if (k->uffd >= 0)
		close(k->uffd);
	if (k->unreadable != MAP_FAILED)
		munmap(k->unreadable, len);
	return err;
}

int mapping_check(const struct ferry_region *r, size_t n, bool target, struct fail *f)
{
	struct look k = { .r = r, .n = n, .target = target, .uffd = -1, .f = f };
	uint32_t *at = calloc(n, sizeof(*at));
	int err = -ENOMEM;

	k.file = calloc(n, sizeof(*k.file));
	if (at && k.file)
		err = sort(&k, at);
	else
		fail(f, err, "no memory to look at %zu regions", n);
	if (!err)
		err = check_files(&k);
	if (!err)
		err = check_mappings(&k);
	free(k.file);
	free(at);
	return err;
}

int mapping_unreachable(const struct ferry_region *reg, const void *base, bool write, int err, struct fail *f)
{
	const uint8_t *bad = reach_find(base, reg->len, write);
	uint64_t off = bad ? (uint64_t)(bad - (const uint8_t *)base) : 0;

	return bad ? reach_fail(f, &(struct reach_page){ reg->id, off / PAGE_BYTES, reg->gpa + off, bad },
				write)
		   : err;
}
