// SPDX-License-Identifier: MIT
/*
 * Memory that is not what its region says, at either end: a whole migration is tried, and it must be refused
 * before pre-copy begins, with the same sentence at both ends; or go through, byte for byte, where the memory
 * is only unusual.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/memfd.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "rig.h"
#include "runtime/base/uffd_abi.h"

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif

/* ---- how memory is spoiled; each test runs in a process of its own ---- */

static int held = -1; /* a userfaultfd, or a file that the memory is mapped from */
static int (*honest)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);
static void (*spoil_target)(struct ferry_region *r);

/* Other memory at the same place, with the same bytes in it. */
static void remap(struct ferry_region *r, int prot, int flags, int fd, uint64_t offset)
{
	uint8_t *copy = malloc(r->len);

	memcpy(copy, r->hva, r->len);
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, (off_t)offset),
		     r->hva, "%s", strerror(errno));
	memcpy(r->hva, copy, r->len);
	free(copy);
	if (!(prot & PROT_WRITE))
		cr_assert_eq(mprotect(r->hva, r->len, prot), 0);
}

static int file_with(const char *path, const struct ferry_region *r)
{
	int fd = path ? open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)
		      : memfd_create("other", MFD_CLOEXEC);

	cr_assert(fd >= 0, "%s: %s", path ? path : "memfd", strerror(errno));
	if (path)
		unlink(path);
	cr_assert_eq(ftruncate(fd, (off_t)(r->fd_offset + r->len)), 0);
	for (uint64_t at = 0; at < r->len; at += FAKE_PAGE)
		cr_assert_eq(pwrite(fd, (uint8_t *)r->hva + at, FAKE_PAGE, (off_t)(r->fd_offset + at)),
			     (ssize_t)FAKE_PAGE);
	return fd;
}

static const char *on_disk(void)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/regions-%d", FERRY_BINARY_DIR, (int)getpid());
	return path;
}

/* As a VMM does that restores a snapshot: what is not written yet is only in the file. */
static void private_of_file(struct ferry_region *r)
{
	held = file_with(on_disk(), r);
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, held,
			  (off_t)r->fd_offset),
		     r->hva);
}

static void private_of_memfd(struct ferry_region *r)
{
	held = file_with(NULL, r);
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, held,
			  (off_t)r->fd_offset),
		     r->hva);
}

static void private_of_its_memfd(struct ferry_region *r)
{
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, r->fd,
			  (off_t)r->fd_offset),
		     r->hva);
}

static void shared_anonymous(struct ferry_region *r)
{
	remap(r, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void of_another_memfd(struct ferry_region *r)
{
	held = file_with(NULL, r);
	remap(r, PROT_READ | PROT_WRITE, MAP_SHARED, held, r->fd_offset);
}

static void anonymous_as_shared(struct ferry_region *r)
{
	remap(r, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void wrong_offset(struct ferry_region *r)
{
	r->fd_offset -= FAKE_PAGE;
}

/* One page in the middle is the file's page of elsewhere. */
static void one_page_from_elsewhere(struct ferry_region *r)
{
	uint8_t copy[FAKE_PAGE], *at = (uint8_t *)r->hva + 9 * FAKE_PAGE;

	memcpy(copy, at, FAKE_PAGE);
	cr_assert_eq(mmap(at, FAKE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd, 0), at);
	memcpy(at, copy, FAKE_PAGE);
}

static void read_only(struct ferry_region *r)
{
	cr_assert_eq(mprotect((uint8_t *)r->hva + 5 * FAKE_PAGE, FAKE_PAGE, PROT_READ), 0);
}

static void not_accessible(struct ferry_region *r)
{
	cr_assert_eq(mprotect((uint8_t *)r->hva + 5 * FAKE_PAGE, FAKE_PAGE, PROT_NONE), 0);
}

/* Far below everything that is mapped: or the next mapping of this process would fill the gap. */
static void move_away(struct ferry_region *r)
{
	void *far = (void *)UINT64_C(0x7ea000000000);

	cr_assert_eq(mremap(r->hva, r->len, r->len, MREMAP_MAYMOVE | MREMAP_FIXED, far), far, "%s",
		     strerror(errno));
	r->hva = far;
}

static void gap_at_its_end(struct ferry_region *r)
{
	move_away(r);
	cr_assert_eq(munmap((uint8_t *)r->hva + r->len - FAKE_PAGE, FAKE_PAGE), 0);
}

static void gap_in_its_middle(struct ferry_region *r)
{
	move_away(r);
	cr_assert_eq(munmap((uint8_t *)r->hva + 7 * FAKE_PAGE, 3 * FAKE_PAGE), 0);
}

/* By the system call: the sanitizers make mlock() a word without meaning. */
static void locked(struct ferry_region *r)
{
	cr_assert_eq(syscall(SYS_mlock, r->hva, r->len), 0, "%s", strerror(errno));
}

static void on_a_disk(struct ferry_region *r)
{
	held = file_with(on_disk(), r);
	close(r->fd);
	r->fd = held;
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd,
			  (off_t)r->fd_offset),
		     r->hva);
}

static void too_short(struct ferry_region *r)
{
	cr_assert_eq(ftruncate(r->fd, (off_t)(r->fd_offset + r->len - FAKE_PAGE)), 0);
}

static void open_for_reading(struct ferry_region *r)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", r->fd);
	r->fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(r->fd, 0);
}

static void sealed(struct ferry_region *r)
{
	close(r->fd);
	r->fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	cr_assert_eq(ftruncate(r->fd, (off_t)(r->fd_offset + r->len)), 0);
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd,
			  (off_t)r->fd_offset),
		     r->hva);
	cr_assert_eq(fcntl(r->fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
}

/* A tmpfs of the test's own, where it may mount one; it is gone with its last user. */
static void on_a_tmpfs(struct ferry_region *r, const char *size)
{
	char dir[] = "/tmp/ferry-regions-XXXXXX", path[80];

	cr_assert(mkdtemp(dir));
	if (mount("ferry", dir, "tmpfs", 0, size)) {
		rmdir(dir);
		cr_skip_test("a tmpfs of its own size takes root: %s", strerror(errno));
	}
	snprintf(path, sizeof(path), "%s/ram", dir);
	close(r->fd);
	r->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	umount2(dir, MNT_DETACH);
	rmdir(dir);
	cr_assert_geq(r->fd, 0);
	cr_assert_eq(ftruncate(r->fd, (off_t)(r->fd_offset + r->len)), 0);
	cr_assert_eq(mmap(r->hva, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd,
			  (off_t)r->fd_offset),
		     r->hva);
}

static void on_a_small_tmpfs(struct ferry_region *r)
{
	on_a_tmpfs(r, "size=200k");
}

static void on_a_tmpfs_that_is_enough(struct ferry_region *r)
{
	on_a_tmpfs(r, "size=308k");
}

static void registered(struct ferry_region *r, uint64_t mode, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register reg = { .range = { (uintptr_t)r->hva, r->len }, .mode = mode };

	held = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (held < 0 || ioctl(held, UFFDIO_API, &api))
		cr_skip_test("no userfaultfd with features %#llx here: %s", (unsigned long long)features,
			     strerror(errno));
	cr_assert_eq(ioctl(held, UFFDIO_REGISTER, &reg), 0, "%s", strerror(errno));
}

static void being_filled(struct ferry_region *r)
{
	registered(r, UFFDIO_REGISTER_MODE_MISSING, 0);
}

static void being_mapped(struct ferry_region *r)
{
	registered(r, UFFDIO_REGISTER_MODE_MINOR, UFFD_FEATURE_MINOR_SHMEM);
}

static void filled_and_tracked(struct ferry_region *r)
{
	registered(r, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP, 0);
}

static void tracked(struct ferry_region *r)
{
	struct uffdio_writeprotect wp = { .range = { (uintptr_t)r->hva, r->len },
					  .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	registered(r, UFFDIO_REGISTER_MODE_WP,
		   UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	cr_assert_eq(ioctl(held, UFFDIO_WRITEPROTECT, &wp), 0, "%s", strerror(errno));
}

static void let_go(void)
{
	if (held >= 0)
		close(held);
	held = -1;
}

/* ---- both ends ---- */

static int reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;
	int err = honest(v, regions, n, needs);

	if (!err) {
		spoil_target(&regions[1]);
		vm->region[1] = regions[1];
	}
	return err;
}

static void at_target(struct rig *r, void (*spoil)(struct ferry_region *r))
{
	honest = r->tgt.ops.reserve;
	spoil_target = spoil;
	r->tgt.ops.reserve = reserve;
}

/* In the reservation, nothing moved, and both people read the same. */
static void refused(struct rig *r, int err, const char *says)
{
	rig_run(r);
	let_go();
	cr_assert(r->sres.outcome == FERRY_OUTCOME_REFUSED && r->tres.outcome == FERRY_OUTCOME_REFUSED,
		  "%s (%s), %s (%s)", ferry_outcome_name(r->sres.outcome), r->sres.detail,
		  ferry_outcome_name(r->tres.outcome), r->tres.detail);
	cr_assert_eq(r->sres.error, err, "%d: %s", r->sres.error, r->sres.detail);
	cr_assert(r->sres.phase == FERRY_PHASE_RESERVATION && !r->src.calls[FAKE_DIRTY_START]);
	rig_says(r->sres.detail, says);
	rig_says(r->tres.detail, says);
	rig_says(r->sres.detail, "region 13");
}

/* The source's memory is mended before it is looked at once more. */
static void source_refused(const struct rig_kind *kind, void (*spoil)(struct ferry_region *r), int err,
			   const char *says)
{
	struct ferry_region was;
	struct rig r;

	rig_init(&r, kind);
	was = r.src.region[1];
	spoil(&r.src.region[1]);
	refused(&r, err, says);
	was.hva = r.src.region[1].hva; /* it may have been moved */
	cr_assert_eq(mmap(was.hva, was.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			  -1, 0),
		     was.hva);
	memcpy(was.hva, r.src.shadow + fake_offset(1, 0), was.len);
	r.src.region[1] = was;
	rig_refused(&r);
	rig_free(&r);
}

static void target_refused(const struct rig_kind *kind, void (*spoil)(struct ferry_region *r), int err,
			   const char *says)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	at_target(&r, spoil);
	refused(&r, err, says);
	rig_refused(&r);
	rig_free(&r);
}

static void passes(const struct rig_kind *kind, void (*spoil)(struct ferry_region *r), bool target,
		   enum ferry_mode mode)
{
	struct rig r;

	rig_init(&r, kind);
	if (mode == FERRY_MODE_POSTCOPY)
		rig_postcopy(&r, 0);
	r.scfg.mode = mode;
	if (target)
		at_target(&r, spoil);
	else
		spoil(&r.src.region[1]);
	rig_run(&r);
	let_go();
	rig_migrated(&r);
	if (mode == FERRY_MODE_POSTCOPY)
		cr_assert(strstr(r.src.phases_seen, "post-copy"));
	rig_free(&r);
}

#define SOURCE_REFUSES(name, kind, err, says)          \
	Test(source_region, name)                      \
	{                                              \
		source_refused(kind, name, err, says); \
	}
#define TARGET_REFUSES(name, kind, err, says)          \
	Test(target_region, name)                      \
	{                                              \
		target_refused(kind, name, err, says); \
	}

SOURCE_REFUSES(private_of_file, RIG_TCP_ANON, -EINVAL, "is a private mapping of /")
SOURCE_REFUSES(private_of_memfd, RIG_MEM_ANON, -EINVAL, "is a private mapping of /memfd:other")
SOURCE_REFUSES(shared_anonymous, RIG_MEM_ANON, -EINVAL, "is shared anonymous memory at ")
SOURCE_REFUSES(of_another_memfd, RIG_MEM_SHARED, -EINVAL, "is a shared mapping of /memfd:other")
SOURCE_REFUSES(private_of_its_memfd, RIG_TCP_SHARED, -EINVAL, "takes a MAP_SHARED mapping of fd ")
SOURCE_REFUSES(anonymous_as_shared, RIG_MEM_SHARED, -EINVAL, "is private anonymous memory at ")
SOURCE_REFUSES(wrong_offset, RIG_MEM_SHARED, -EINVAL, "there from offset 0x2000 on")
SOURCE_REFUSES(one_page_from_elsewhere, RIG_MEM_SHARED, -EINVAL, "there from offset 0xc000 on")
SOURCE_REFUSES(read_only, RIG_MEM_ANON, -EACCES, "is mapped r-- at ")
SOURCE_REFUSES(not_accessible, RIG_MEM_SHARED, -EACCES, "is mapped --- at ")
SOURCE_REFUSES(gap_at_its_end, RIG_MEM_ANON, -EINVAL, "nothing is mapped at ")
SOURCE_REFUSES(gap_in_its_middle, RIG_TCP_SHARED, -EINVAL, "nothing is mapped at ")
SOURCE_REFUSES(being_filled, RIG_TCP_ANON, -EBUSY, "another userfaultfd for missing faults")
SOURCE_REFUSES(being_mapped, RIG_MEM_SHARED, -EBUSY, "another userfaultfd for minor faults")
SOURCE_REFUSES(filled_and_tracked, RIG_MEM_ANON, -EBUSY, "another userfaultfd for missing faults")

TARGET_REFUSES(private_of_file, RIG_TCP_ANON, -EINVAL, "is a private mapping of /")
TARGET_REFUSES(private_of_memfd, RIG_MEM_ANON, -EINVAL, "is a private mapping of /memfd:other")
TARGET_REFUSES(shared_anonymous, RIG_TCP_ANON, -EINVAL, "is shared anonymous memory at ")
TARGET_REFUSES(of_another_memfd, RIG_MEM_SHARED, -EINVAL, "is a shared mapping of /memfd:other")
TARGET_REFUSES(private_of_its_memfd, RIG_TCP_SHARED, -EINVAL, "takes a MAP_SHARED mapping of fd ")
TARGET_REFUSES(wrong_offset, RIG_MEM_SHARED, -EINVAL, "there from offset 0x2000 on")
TARGET_REFUSES(one_page_from_elsewhere, RIG_MEM_SHARED, -EINVAL, "there from offset 0xc000 on")
TARGET_REFUSES(read_only, RIG_MEM_ANON, -EACCES, "is mapped r-- at ")
TARGET_REFUSES(not_accessible, RIG_MEM_SHARED, -EACCES, "is mapped --- at ")
TARGET_REFUSES(gap_at_its_end, RIG_MEM_ANON, -EINVAL, "nothing is mapped at ")
TARGET_REFUSES(being_filled, RIG_MEM_ANON, -EBUSY, "another userfaultfd for missing faults")
TARGET_REFUSES(being_mapped, RIG_TCP_SHARED, -EBUSY, "another userfaultfd for minor faults")
TARGET_REFUSES(tracked, RIG_MEM_ANON, -EBUSY, "another userfaultfd has it (a tracker of writes too)")
TARGET_REFUSES(on_a_disk, RIG_TCP_SHARED, -EOPNOTSUPP, "is a file on a disk")
TARGET_REFUSES(too_short, RIG_MEM_SHARED, -EINVAL, "and the file ends at 0x4f000")
TARGET_REFUSES(open_for_reading, RIG_MEM_SHARED, -EACCES, "is not open for reading and writing")
TARGET_REFUSES(sealed, RIG_MEM_SHARED, -EPERM, "is sealed against writing")
TARGET_REFUSES(on_a_small_tmpfs, RIG_TCP_SHARED, -ENOSPC,
	       "take 308 KiB, of which 0 are allocated, and it has 200 KiB left")

Test(source_region, tracked_is_no_reason_to_refuse)
{
	passes(RIG_TCP_ANON, tracked, false, FERRY_MODE_POSTCOPY);
}

Test(source_region, tracked_memfd_is_no_reason_to_refuse)
{
	passes(RIG_MEM_SHARED, tracked, false, FERRY_MODE_STOP_AND_COPY);
}

Test(source_region, locked_is_no_reason_to_refuse)
{
	passes(RIG_TCP_ANON, locked, false, FERRY_MODE_POSTCOPY);
}

/* Its pages are there before any arrives, and cannot be dropped by plain MADV_DONTNEED. */
Test(target_region, locked_is_dropped_all_the_same)
{
	passes(RIG_TCP_ANON, locked, true, FERRY_MODE_POSTCOPY);
}

Test(target_region, locked_memfd_is_dropped_all_the_same)
{
	passes(RIG_MEM_SHARED, locked, true, FERRY_MODE_POSTCOPY);
}

Test(target_region, locked_takes_zero_pages)
{
	passes(RIG_MEM_ANON, locked, true, FERRY_MODE_STOP_AND_COPY);
}

static void lock_all_there_is_and_will_be(struct ferry_region *r)
{
	(void)r;
	cr_assert_eq(mlockall(MCL_CURRENT | MCL_FUTURE), 0, "%s", strerror(errno));
}

Test(target_region, a_process_that_locks_everything)
{
	passes(RIG_TCP_ANON, lock_all_there_is_and_will_be, true, FERRY_MODE_POSTCOPY);
}

Test(target_region, a_process_that_locks_everything_memfd)
{
	passes(RIG_TCP_SHARED, lock_all_there_is_and_will_be, true, FERRY_MODE_POSTCOPY);
}

/* As before Linux 5.18, where nothing drops locked memory. */
static void locked_on_an_old_kernel(struct ferry_region *r)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_DONTNEED_LOCKED, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	locked(r);
	cr_assert(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
		  !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}

Test(target_region, locked_on_an_old_kernel_anon)
{
	target_refused(RIG_TCP_ANON, locked_on_an_old_kernel, -EINVAL,
		       "before Linux 5.18 guest RAM at a target must be neither locked");
}

Test(target_region, locked_on_an_old_kernel_memfd)
{
	target_refused(RIG_MEM_SHARED, locked_on_an_old_kernel, -EINVAL,
		       "before Linux 5.18 guest RAM at a target must be neither locked");
}

Test(target_region, tmpfs_that_is_just_enough)
{
	passes(RIG_TCP_SHARED, on_a_tmpfs_that_is_enough, true, FERRY_MODE_POSTCOPY);
}

Test(target_region, tracked_is_fine_for_stop_and_copy)
{
	passes(RIG_MEM_ANON, tracked, true, FERRY_MODE_STOP_AND_COPY);
}

Test(source_region, overlap_in_memory)
{
	void *was;
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	was = r.src.region[1].hva;
	r.src.region[1].hva = (uint8_t *)r.src.region[0].hva + r.src.region[0].len - FAKE_PAGE;
	rig_run(&r);
	r.src.region[1].hva = was;
	rig_refused(&r);
	rig_says(r.sres.detail, "regions 10 and 13 overlap in memory");
	rig_says(r.tres.detail, "regions 10 and 13 overlap in memory");
	rig_free(&r);
}

Test(source_region, overlap_in_a_file)
{
	struct ferry_region was;
	struct rig r;

	rig_init(&r, RIG_MEM_SHARED);
	was = r.src.region[1];
	r.src.region[1].fd = r.src.region[0].fd;
	r.src.region[1].fd_offset = r.src.region[0].fd_offset + FAKE_PAGE;
	rig_run(&r);
	r.src.region[1] = was;
	rig_refused(&r);
	rig_says(r.sres.detail, "regions 10 and 13 overlap in their file, at offset 0x4000");
	rig_says(r.tres.detail, "regions 10 and 13 overlap in their file, at offset 0x4000");
	rig_free(&r);
}

/* A file that no longer is what ferry_source_new() saw. */
static void becomes_short(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_RESERVATION)
		too_short(&vm->region[1]);
}

Test(source_region, file_that_became_too_short)
{
	struct rig r;

	rig_init(&r, RIG_MEM_SHARED);
	r.src.phase_hook = becomes_short;
	refused(&r, -EINVAL, "and the file ends at 0x4f000");
	cr_assert_eq(ftruncate(r.src.region[1].fd, (off_t)(r.src.region[1].fd_offset + r.src.region[1].len)),
		     0);
	memcpy(r.src.region[1].hva, r.src.shadow + fake_offset(1, 0), r.src.region[1].len);
	rig_refused(&r);
	rig_free(&r);
}

/* ---- without userfaultfd, as in a container ---- */

static void forbid_userfaultfd(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_userfaultfd, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_ioctl, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, _IO(0xAA, 0x00), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	cr_assert(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
		  !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
	cr_assert(syscall(SYS_userfaultfd, 0) == -1 && errno == EPERM);
}

static void nothing(struct ferry_region *r)
{
	(void)r;
}

Test(no_userfaultfd, stop_and_copy_needs_none)
{
	forbid_userfaultfd();
	passes(RIG_TCP_ANON, nothing, true, FERRY_MODE_STOP_AND_COPY);
}

Test(no_userfaultfd, auto_does_without_post_copy)
{
	struct rig r;

	forbid_userfaultfd();
	rig_init(&r, RIG_TCP_SHARED);
	r.scfg.downtime_us = 1; /* or pre-copy might converge */
	for (size_t i = 0; i < sizeof(r.src.writes) / sizeof(r.src.writes[0]); i++)
		r.src.writes[i] = 2 * FAKE_PAGES;
	r.src.last_writes = 2 * FAKE_PAGES;
	rig_run(&r);
	cr_assert(!strstr(r.src.phases_seen, "post-copy") && !strstr(r.tgt.phases_seen, "post-copy"));
	rig_refused(&r);
	rig_says(r.src.policy, "gave up after");
	rig_free(&r);
}

Test(no_userfaultfd, auto_that_converges)
{
	forbid_userfaultfd();
	passes(RIG_MEM_SHARED, nothing, true, FERRY_MODE_AUTO);
}

static void switch_over(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY)
		ferry_switchover(vm->session);
}

Test(no_userfaultfd, switchover_on_request_is_stop_and_copy)
{
	struct rig r;

	forbid_userfaultfd();
	rig_init(&r, RIG_MEM_ANON);
	r.scfg.commit_at = FERRY_COMMIT_AT_SWITCHOVER;
	r.src.phase_hook = switch_over;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert(!strstr(r.src.phases_seen, "post-copy"), "%s", r.src.phases_seen);
	rig_says(r.src.policy, "stop-and-copy after 1 round: switchover was asked for");
	rig_free(&r);
}

Test(no_userfaultfd, post_copy_is_refused)
{
	struct rig r;

	forbid_userfaultfd();
	rig_init(&r, RIG_TCP_ANON);
	rig_postcopy(&r, 0);
	rig_run(&r);
	rig_refused(&r);
	cr_assert_eq(r.sres.phase, FERRY_PHASE_RESERVATION);
	rig_says(r.sres.detail, "userfaultfd cannot be opened");
	rig_says(r.tres.detail, "userfaultfd cannot be opened");
	rig_free(&r);
}

/* What another userfaultfd fills is found without a userfaultfd of one's own. */
Test(no_userfaultfd, memory_being_filled_is_found)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	being_filled(&r.src.region[1]);
	forbid_userfaultfd();
	refused(&r, -EBUSY, "another userfaultfd for missing faults");
	rig_refused(&r);
	rig_free(&r);
}
