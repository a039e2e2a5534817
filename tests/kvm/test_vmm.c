/* SPDX-License-Identifier: MIT */
/*
 * The bench's VMM by itself: what its proof accepts and what it does not. Suite vmm: on KVM. Suite threads: what needs
 * none, its guest being threads of the host; these run on each machine.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/userfaultfd.h>

#include <ferry/kvm.h>

#include "plainvm.h"
#include "bench/vmm/stamp.h"
#include "bench/vmm/vmm_int.h"
#include "runtime/link/stream.h"

#define MIB (1ull << 20)
#define WORKING_SET (32 * MIB)
#define MEMORY (128 * MIB)
#define STANDS_US 60000000u /* a guest that does nothing for so long does nothing */

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Waits until the guest has made n more stamps; a guest that does not is a failure. */
static void run_stamps(struct vmm *vm, uint64_t n)
{
	struct vmm_stats st;
	uint64_t until, give_up = now_us() + STANDS_US;

	vmm_get_stats(vm, &st);
	until = st.stamps + n;
	do {
		usleep(1000);
		vmm_get_stats(vm, &st);
		cr_assert_lt(now_us(), give_up, "%llu stamps of %llu: %s", (unsigned long long)st.stamps,
			     (unsigned long long)until, vmm_error(vm));
	} while (st.stamps < until);
}

/* Waits until each vCPU has certainly made n stamps past after[]. */
static void run_past(struct vmm *vm, uint32_t vcpus, const uint64_t *after, uint64_t n)
{
	for (uint32_t i = 0; i < vcpus; i++) {
		uint64_t done, given;

		do {
			run_stamps(vm, 1);
			vmm_stamps(vm, i, &done, &given);
		} while (done < after[i] + n);
	}
}

static struct vmm_config config(bool host, enum vmm_kind kind, uint32_t vcpus)
{
	return (struct vmm_config){ .memory = MEMORY,
				    .working_set = WORKING_SET,
				    .dirty_rate = 50000,
				    .seed = 42,
				    .kind = kind,
				    .populate = 50,
				    .vcpus = vcpus,
				    .host_threads = host,
				    .observer = -1 };
}

static bool is_native(struct vmm *vm)
{
	return !strcmp(vmm_mutator(vm), "kvm-native") || !strcmp(vmm_mutator(vm), "kvm-nested");
}

static struct vmm *source(const struct vmm_config *cfg)
{
	struct vmm *vm = NULL;
	char why[256] = "";

	if (!cfg->host_threads && access("/dev/kvm", R_OK | W_OK) < 0)
		cr_skip_test("no /dev/kvm that can be used");
	cr_assert_eq(vmm_new_source(&vm, cfg, why, sizeof(why)), 0, "%s", why);
	return vm;
}

static struct vmm_proof proof(struct vmm *vm)
{
	struct vmm_proof p;
	int err = vmm_proof(vm, &p);

	cr_assert_eq(err, 0, "%s: %s", strerror(-err), vmm_error(vm));
	return p;
}

static struct vmm_proof clean_proof(struct vmm *vm)
{
	struct vmm_proof p = proof(vm);

	cr_assert_eq(p.pages_bad, 0, "%llu bad: %s", (unsigned long long)p.pages_bad, p.text);
	cr_assert_eq(p.guest_errors, 0, "%s", p.text);
	cr_assert_str_eq(p.text, "");
	cr_assert_eq(p.pages_checked, MEMORY >> 12);
	return p;
}

/* --- dirty tracking --- */

static bool has_bit(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> (page % 64) & 1;
}

/* What finds the written pages: the VMM's ops or, where it is not NULL, a tracker of the test's own. */
struct dirty {
	struct vmm *vm;
	struct ferry_track *track;
};

static struct ferry_track *new_track(struct vmm *vm)
{
	const struct ferry_region *r;
	uint32_t n = vmm_regions(vm, &r);
	struct ferry_track *t;

	if (ferry_track_new(&t, NULL))
		cr_skip_test("this kernel cannot track writes");
	for (uint32_t i = 0; i < n; i++) {
		struct ferry_track_range range = { FERRY_TRACK_RANGE_INIT, .region = r[i].id,
						   .flags = r[i].flags,	   .addr = (uintptr_t)r[i].hva,
						   .len = r[i].len,	   .page_shift = r[i].page_shift,
						   .fd = r[i].fd,	   .fd_offset = r[i].fd_offset };

		cr_assert_eq(ferry_track_add(t, &range), 0);
	}
	return t;
}

static void dirty_start(const struct dirty *d)
{
	cr_assert_eq(d->track ? ferry_track_start(d->track) : vmm_ops()->dirty_start(d->vm), 0);
}

static void dirty_stop(const struct dirty *d)
{
	cr_assert_eq(d->track ? ferry_track_stop(d->track) : vmm_ops()->dirty_stop(d->vm), 0);
}

static void dirty_fetch(const struct dirty *d, uint32_t region, uint64_t *bits, uint64_t npages,
			unsigned flags)
{
	cr_assert_eq(d->track ? ferry_track_fetch(d->track, region, bits, npages, flags)
			      : vmm_ops()->dirty_fetch(d->vm, region, bits, npages, flags),
		     0);
}

/* Pages certainly written between two fetches must be in the second. */
static void check_fetch(const struct dirty *d, uint32_t vcpus, uint64_t *after, unsigned flags)
{
	const struct ferry_region *r;
	struct vmm *vm = d->vm;
	uint64_t done[VMM_VCPUS_MAX], given, missing = 0, expected = 0;
	uint64_t *bits;

	vmm_regions(vm, &r);
	for (uint32_t i = 0; i < vcpus; i++)
		vmm_stamps(vm, i, &done[i], &given);
	for (uint32_t region = 0; region < 2; region++) {
		uint64_t npages = r[region].len >> 12;

		bits = calloc((npages + 63) / 64, 8);
		dirty_fetch(d, region, bits, npages, flags);
		for (uint32_t i = 0; region && i < vcpus; i++)
			for (uint64_t seq = after[i] + 1; seq <= done[i]; seq++, expected++)
				missing += !has_bit(bits, vmm_stamp_page(vm, i, seq));
		free(bits);
	}
	for (uint32_t i = 0; i < vcpus; i++)
		vmm_stamps(vm, i, &done[i], &after[i]);
	cr_expect_eq(missing, 0, "%llu of %llu", (unsigned long long)missing, (unsigned long long)expected);
	cr_expect_gt(expected, 100);
}

static void dirty_tracking_of(const struct vmm_config *cfg, bool by_track)
{
	const struct ferry_ops *ops = vmm_ops();
	uint32_t vcpus = cfg->vcpus;
	struct vmm *vm = source(cfg);
	struct dirty d = { .vm = vm, .track = by_track ? new_track(vm) : NULL };
	uint64_t after[VMM_VCPUS_MAX], done;

	vmm_start(vm);
	run_stamps(vm, 5000);
	dirty_start(&d);
	for (uint32_t i = 0; i < vcpus; i++)
		vmm_stamps(vm, i, &done, &after[i]);
	for (int i = 0; i < 5; i++) {
		run_past(vm, vcpus, after, 1000);
		check_fetch(&d, vcpus, after, 0);
	}
	run_past(vm, vcpus, after, 1000);
	cr_assert_eq(ops->pause(vm), 0);
	check_fetch(&d, vcpus, after, FERRY_DIRTY_LAST);
	dirty_stop(&d);
	cr_assert_eq(ops->resume(vm), 0);
	clean_proof(vm);
	/* a second migration of the same VM */
	dirty_start(&d);
	for (uint32_t i = 0; i < vcpus; i++)
		vmm_stamps(vm, i, &done, &after[i]);
	run_past(vm, vcpus, after, 1000);
	check_fetch(&d, vcpus, after, 0);
	dirty_stop(&d);
	ferry_track_free(d.track);
	if (!cfg->host_threads)
		cr_expect(is_native(vm), "%s", vmm_mutator(vm));
	vmm_destroy(vm);
}

static void dirty_tracking(bool host, enum vmm_kind kind, uint32_t vcpus, bool by_track)
{
	struct vmm_config cfg = config(host, kind, vcpus);

	dirty_tracking_of(&cfg, by_track);
}

static void dirty_rings(enum vmm_kind kind, uint32_t vcpus)
{
	struct vmm_config cfg = config(false, kind, vcpus);

	plainvm_ring_or_skip();
	cfg.tracking = VMM_TRACKING_RING;
	dirty_tracking_of(&cfg, false);
}

Test(vmm, dirty_log_misses_no_write)
{
	dirty_tracking(false, VMM_ANON, 1, false);
}

Test(vmm, dirty_log_misses_no_write_memfd_two_vcpus)
{
	dirty_tracking(false, VMM_MEMFD, 2, false);
}

Test(vmm, dirty_rings_miss_no_write)
{
	dirty_rings(VMM_ANON, 1);
}

Test(vmm, dirty_rings_miss_no_write_memfd_two_vcpus)
{
	dirty_rings(VMM_MEMFD, 2);
}

Test(threads, kvm_cannot_track_them)
{
	for (enum vmm_tracking t = VMM_TRACKING_LOG; t <= VMM_TRACKING_RING; t++) {
		struct vmm_config cfg = config(true, VMM_ANON, 1);
		struct vmm *vm = NULL;
		char why[256] = "";

		cfg.tracking = t;
		cr_expect_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), -EINVAL);
		cr_expect_null(vm);
		cr_expect(strstr(why, t == VMM_TRACKING_LOG ? "KVM's dirty log does not see: use auto"
							    : "KVM's dirty ring does not see: use auto"),
			  "%s", why);
	}
}

Test(threads, tracker_misses_no_write)
{
	dirty_tracking(true, VMM_ANON, 1, false);
}

Test(threads, tracker_misses_no_write_memfd_two_threads)
{
	dirty_tracking(true, VMM_MEMFD, 2, false);
}

/*
 * The tracker on a guest that KVM runs, which writes through page tables of its own: an embedder may use it in place of KVM's
 * log, and for another process's VM there is nothing else.
 */
Test(vmm, tracker_misses_no_write_of_a_vcpu)
{
	dirty_tracking(false, VMM_ANON, 1, true);
}

Test(vmm, tracker_misses_no_write_of_a_vcpu_memfd_two_vcpus)
{
	dirty_tracking(false, VMM_MEMFD, 2, true);
}

/* --- which pages come next --- */

/* The guest's arithmetic is the proof's, on a slice that is no power of two as well. */
static void guest_follows(bool host, enum vmm_pattern pattern)
{
	struct vmm_config cfg = config(host, VMM_MEMFD, 2);
	struct vmm *vm;

	cfg.pattern = pattern;
	cfg.working_set = 2 * 4096 * 3001;
	vm = source(&cfg);
	vmm_start(vm);
	run_stamps(vm, 10000);
	clean_proof(vm);
	cr_assert_eq(vmm_set_working_set(vm, WORKING_SET), 0);
	run_stamps(vm, 10000);
	clean_proof(vm);
	vmm_destroy(vm);
}

Test(vmm, dirties_one_page_after_the_other)
{
	guest_follows(false, VMM_SEQUENTIAL);
}

Test(threads, dirty_one_page_after_the_other)
{
	guest_follows(true, VMM_SEQUENTIAL);
}

Test(vmm, dirties_few_pages_often)
{
	guest_follows(false, VMM_ZIPF);
}

Test(threads, dirty_few_pages_often)
{
	guest_follows(true, VMM_ZIPF);
}

/* Rank 1 is an octave of its own; every page has a rank, and the lower half of the ranks all but one octave. */
Test(threads, zipf_is_one)
{
	enum { N = 5000, STAMPS = 2000000, OCTAVES = 13 };
	static uint32_t hits[N];
	uint64_t met = 0, lower = 0;

	for (uint64_t seq = 1; seq <= STAMPS; seq++) {
		uint64_t at = stamp_index(PATTERN_ZIPF, seq, N);

		cr_assert_lt(at, N);
		met += !hits[at]++;
	}
	cr_expect_eq(met, N, "%llu of %d pages", (unsigned long long)met, N);
	cr_expect_float_eq(hits[STAMP_SCATTER % N] * 1.0 / STAMPS, 1.0 / OCTAVES, 0.01);
	for (uint64_t rank = 1; rank < 1 << (OCTAVES - 1); rank++)
		lower += hits[rank * STAMP_SCATTER % N];
	cr_expect_geq(lower * 1.0 / STAMPS, 1 - 1.0 / OCTAVES - 0.01);
}

/* A fetch right after the start returns only what has been written since: next to nothing of an idle guest.
 */
Test(vmm, dirty_log_starts_clean)
{
	struct vmm_config cfg = config(false, VMM_ANON, 1);
	const struct ferry_ops *ops = vmm_ops();
	const struct ferry_region *r;
	struct vmm *vm;
	uint64_t bits[MEMORY >> 18] = { 0 }, set = 0;

	cfg.dirty_rate = 0;
	vm = source(&cfg);
	vmm_start(vm);
	run_stamps(vm, 4000);
	cr_assert_eq(ops->dirty_start(vm), 0);
	vmm_regions(vm, &r);
	cr_assert_eq(ops->dirty_fetch(vm, 1, bits, r[1].len >> 12, 0), 0);
	for (size_t i = 0; i < sizeof(bits) / 8; i++)
		set += (uint64_t)__builtin_popcountll(bits[i]);
	cr_expect_eq(set, 0, "%llu pages", (unsigned long long)set);
	vmm_destroy(vm);
}

/* --- the proof --- */

/* One byte is changed behind the guest's back: the proof must find that page. */
static void flip(struct vmm *vm, uint32_t region, uint64_t page, size_t at)
{
	const struct ferry_region *r;
	struct vmm_proof p;
	uint8_t *byte;

	vmm_regions(vm, &r);
	byte = (uint8_t *)r[region].hva + (page << 12) + at;
	*byte ^= 0x10;
	p = proof(vm);
	cr_expect_eq(p.pages_bad, 1, "region %u page %llu: %llu bad", region, (unsigned long long)page,
		     (unsigned long long)p.pages_bad);
	cr_expect_eq(p.bad_region, region);
	cr_expect_eq(p.bad_page, page);
	cr_expect_str_not_empty(p.text);
	*byte ^= 0x10;
}

/* A page beyond the working set that is, or is not, there. */
static uint64_t find_page(struct vmm *vm, bool populated)
{
	const struct ferry_region *r;
	uint64_t entry, page;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	vmm_regions(vm, &r);
	for (page = WORKING_SET >> 12; page < r[1].len >> 12; page++) {
		cr_assert_eq(pread(fd, &entry, 8, (off_t)((((uintptr_t)r[1].hva >> 12) + page) * 8)), 8);
		if (!!(entry >> 63) == populated)
			break;
	}
	close(fd);
	cr_assert_lt(page, r[1].len >> 12);
	return page;
}

static void one_is_bad(struct vmm *vm, uint64_t page, const char *says)
{
	struct vmm_proof p = proof(vm);

	cr_expect_eq(p.pages_bad, 1, "page %llu: %llu bad", (unsigned long long)page,
		     (unsigned long long)p.pages_bad);
	cr_expect_eq(p.bad_region, 1);
	cr_expect_eq(p.bad_page, page);
	cr_expect(strstr(p.text, says), "%s", p.text);
}

static uint64_t *stamp_at(struct vmm *vm, uint64_t page)
{
	const struct ferry_region *r;

	vmm_regions(vm, &r);
	return (uint64_t *)r[1].hva + page * PAGE_WORDS + stamp_word(page); /* one vCPU: its slice is all */
}

/* The last stamp of a page that had another before; *ret: that one. */
static uint64_t stamped_twice(struct vmm *vm, uint64_t *ret)
{
	uint64_t seq, given, before, page;

	vmm_stamps(vm, 0, &seq, &given);
	for (; seq; seq--) {
		page = vmm_stamp_page(vm, 0, seq);
		for (before = seq - 1; before && vmm_stamp_page(vm, 0, before) != page; before--)
			;
		if (before && *stamp_at(vm, page) == seq)
			break;
	}
	cr_assert_gt(seq, 0, "no page was stamped twice");
	*ret = before;
	return seq;
}

/* A write that was lost: the page holds the stamp before, or none; and one that is made later. */
static void finds_lost_writes(struct vmm *vm)
{
	uint64_t before, seq = stamped_twice(vm, &before), page = vmm_stamp_page(vm, 0, seq),
			 *stamp = stamp_at(vm, page);

	*stamp = before;
	one_is_bad(vm, page, "not what was written to it");
	*stamp = stamp_word(page) ? stamp[-1] + CONTENT_STEP : stamp[1] - CONTENT_STEP;
	one_is_bad(vm, page, "not what was written to it");
	*stamp = seq + 1;
	one_is_bad(vm, page, "not what was written to it");
	*stamp = seq;
}

/* A page that was dropped reads as zeros; it is found missing by not being there, without a look at it. */
static void finds_missing(struct vmm *vm, uint64_t page)
{
	const struct ferry_region *r;
	uint8_t was[4096], *p;

	vmm_regions(vm, &r);
	p = (uint8_t *)r[1].hva + (page << 12);
	memcpy(was, p, sizeof(was));
	if (r[1].flags & FERRY_REGION_SHARED)
		cr_assert_eq(fallocate(r[1].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				       (off_t)(r[1].fd_offset + (page << 12)), 4096),
			     0);
	else
		cr_assert_eq(madvise(p, sizeof(was), MADV_DONTNEED), 0);
	one_is_bad(vm, page, "missing");
	memcpy(p, was, sizeof(was));
}

static void proof_finds(bool host, enum vmm_kind kind)
{
	struct vmm_config cfg = config(host, kind, 1);
	struct vmm *vm = source(&cfg);
	uint64_t done, given, hole;
	struct vmm_proof p;

	vmm_start(vm);
	run_stamps(vm, 10000);
	cr_assert_eq(vmm_pause(vm), 0);
	p = clean_proof(vm);
	hole = find_page(vm, false);
	cr_expect_gt(p.pages_hole, 0);
	vmm_stamps(vm, 0, &done, &given);
	flip(vm, 1, vmm_stamp_page(vm, 0, done), 0);
	flip(vm, 1, vmm_stamp_page(vm, 0, done), 4095);
	flip(vm, 1, find_page(vm, true), 1234);
	flip(vm, 0, 0x300000 >> 12, 4095);
	flip(vm, 0, 0x8000 >> 12, 10);	/* code */
	flip(vm, 0, 0x100000 >> 12, 0); /* page tables */
	finds_lost_writes(vm);
	finds_missing(vm, vmm_stamp_page(vm, 0, done));
	finds_missing(vm, find_page(vm, true));
	cr_expect_eq(clean_proof(vm).pages_hole, p.pages_hole + (p.pages_hole == 0));
	flip(vm, 1, hole, 77);
	cr_expect_eq(clean_proof(vm).pages_hole, p.pages_hole - 1);
	cr_assert_eq(vmm_resume(vm), 0);
	run_stamps(vm, 1000);
	vmm_destroy(vm);
}

Test(vmm, proof_finds_any_change)
{
	proof_finds(false, VMM_ANON);
}

Test(vmm, proof_finds_any_change_memfd)
{
	proof_finds(false, VMM_MEMFD);
}

Test(threads, proof_finds_any_change)
{
	proof_finds(true, VMM_ANON);
}

Test(threads, proof_finds_any_change_memfd)
{
	proof_finds(true, VMM_MEMFD);
}

Test(vmm, pauses_and_resumes)
{
	struct vmm_config cfg = config(false, VMM_ANON, 2);
	struct vmm *vm = source(&cfg);

	cr_assert_eq(vmm_pause(vm), 0);
	vmm_start(vm);
	for (int i = 0; i < 20; i++) {
		struct vmm_stats before, after;

		run_stamps(vm, 500);
		cr_assert_eq(vmm_pause(vm), 0);
		vmm_get_stats(vm, &before);
		usleep(3000); /* a guest that still ran would stamp some hundred pages */
		vmm_get_stats(vm, &after);
		cr_assert_eq(before.stamps, after.stamps);
		cr_assert_eq(before.outputs, after.outputs);
		cr_assert_not(after.running);
		if (i % 5 == 0)
			clean_proof(vm);
		cr_assert_eq(vmm_resume(vm), 0);
	}
	clean_proof(vm);
	vmm_destroy(vm);
}

static void changes(bool host)
{
	struct vmm_config cfg = config(host, VMM_ANON, 2);
	struct vmm *vm = source(&cfg);
	static const uint64_t sets[] = { 8, 64, 1, 96, 32, 100 };

	vmm_start(vm);
	for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
		run_stamps(vm, 2000);
		cr_assert_eq(vmm_set_working_set(vm, sets[i] * MIB), 0);
		vmm_set_rate(vm, i % 2 ? 200000 : 20000);
		if (i == 3)
			clean_proof(vm);
	}
	run_stamps(vm, 50000);
	clean_proof(vm);
	cr_expect_eq(vmm_set_working_set(vm, MEMORY), -EINVAL);
	cr_expect_eq(vmm_set_working_set(vm, 4096), -EINVAL);
	vmm_destroy(vm);
}

Test(vmm, working_set_and_rate_change_while_it_runs)
{
	changes(false);
}

Test(threads, working_set_and_rate_change_while_they_run)
{
	changes(true);
}

Test(threads, refuses_a_config_with_a_sentence)
{
	struct vmm_config cfg = config(true, VMM_ANON, 1);
	struct vmm *vm = NULL;
	char why[256] = "";

	cfg.memory = 16 * MIB;
	cr_expect_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), -EINVAL);
	cr_expect_str_not_empty(why);
	cfg.memory = MEMORY;
	cfg.working_set = MEMORY;
	cr_expect_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), -EINVAL);
	cfg.working_set = WORKING_SET;
	cfg.populate = 101;
	cr_expect_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), -EINVAL);
	cfg.populate = 100;
	cfg.pattern = VMM_ZIPF + 1;
	cr_expect_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), -EINVAL);
	cr_expect_null(vm);
}

/* --- output --- */

static void expect_outputs(int fd, uint32_t *next, uint16_t end)
{
	struct vmm_output rec;

	while (read(fd, &rec, sizeof(rec)) == sizeof(rec)) {
		cr_assert_eq(rec.number, ++*next);
		cr_assert_eq(rec.stream, 0);
		cr_assert_eq(rec.end, end);
	}
}

static void run_outputs(struct vmm *vm, uint64_t n)
{
	struct vmm_stats st;
	uint64_t until, give_up = now_us() + STANDS_US;

	vmm_get_stats(vm, &st);
	until = st.outputs + n;
	do {
		usleep(1000);
		vmm_get_stats(vm, &st);
		cr_assert_lt(now_us(), give_up);
	} while (st.outputs < until);
}

Test(vmm, output_is_numbered_held_and_released)
{
	struct vmm_config cfg = config(false, VMM_ANON, 1);
	const struct ferry_ops *ops = vmm_ops();
	struct vmm_stats st;
	struct vmm *vm;
	uint32_t next = 0;
	int fds[2];

	cr_assert_eq(pipe2(fds, O_NONBLOCK | O_CLOEXEC), 0);
	cfg.observer = fds[1];
	cfg.end = VMM_END_TARGET;
	vm = source(&cfg);
	vmm_start(vm);
	run_outputs(vm, 2);
	expect_outputs(fds[0], &next, VMM_END_TARGET);
	cr_expect_gt(next, 1);
	cr_assert_eq(ops->output_hold(vm), 0);
	expect_outputs(fds[0], &next, VMM_END_TARGET);
	run_outputs(vm, 3);
	vmm_get_stats(vm, &st);
	cr_expect_geq(st.held, 3);
	cr_expect_eq(read(fds[0], &st, 1), -1);
	cr_assert_eq(ops->output_release(vm), 0);
	run_outputs(vm, 2);
	vmm_pause(vm);
	expect_outputs(fds[0], &next, VMM_END_TARGET);
	vmm_get_stats(vm, &st);
	cr_expect_eq(next, st.outputs);
	vmm_destroy(vm);
}

/* --- another VM takes over --- */

static void copy_ram(struct vmm *from, struct vmm *to)
{
	static const uint8_t zero[4096];
	const struct ferry_region *f, *t;

	vmm_regions(from, &f);
	vmm_regions(to, &t);
	for (int i = 0; i < 2; i++)
		for (uint64_t at = 0; at < f[i].len; at += 4096)
			if (memcmp((uint8_t *)f[i].hva + at, zero, 4096))
				memcpy((uint8_t *)t[i].hva + at, (uint8_t *)f[i].hva + at, 4096);
}

/* What ferry does between needs and reserve; the target's answer. */
static int reserve(struct vmm *from, struct vmm *to, struct ferry_stream *needs, uint32_t page_shift)
{
	const struct ferry_region *r;
	struct ferry_region regions[2];

	stream_init(needs);
	cr_assert_eq(vmm_ops()->needs(from, needs), 0, "%s", fail_text(&needs->fail));
	vmm_regions(from, &r);
	memcpy(regions, r, sizeof(regions));
	for (int i = 0; i < 2; i++) {
		regions[i].hva = NULL;
		regions[i].fd = -1;
		regions[i].page_shift = page_shift;
	}
	return vmm_ops()->reserve(to, regions, 2, needs);
}

static struct vmm *target(uint64_t limit, bool host)
{
	struct vmm_config cfg = {
		.observer = -1, .end = VMM_END_TARGET, .memory_limit = limit, .host_threads = host
	};
	struct vmm *vm = NULL;
	char why[256] = "";

	cr_assert_eq(vmm_new_target(&vm, &cfg, why, sizeof(why)), 0, "%s", why);
	return vm;
}

static struct vmm *move(struct vmm *from, bool with_ram)
{
	struct vmm *to = target(0, false);
	struct ferry_stream st;

	cr_assert_eq(reserve(from, to, &st, 12), 0, "%s", fail_text(&st.fail));
	stream_destroy(&st);
	cr_assert_eq(vmm_ops()->pause(from), 0);
	stream_init(&st);
	cr_assert_eq(vmm_ops()->save(from, &st), 0, "%s", fail_text(&st.fail));
	if (with_ram)
		copy_ram(from, to);
	cr_assert_eq(vmm_ops()->load(to, &st), 0, "%s", fail_text(&st.fail));
	stream_destroy(&st);
	return to;
}

static void move_twice(bool host, enum vmm_kind kind, uint32_t vcpus)
{
	struct vmm_config cfg = config(host, kind, vcpus);
	struct vmm *vm = source(&cfg);
	struct vmm_proof before, after;

	vmm_start(vm);
	for (int i = 0; i < 2; i++) {
		struct vmm *to;

		run_stamps(vm, 10000);
		vmm_set_working_set(vm, (uint64_t)(16 + 8 * i) * MIB);
		run_stamps(vm, 2000);
		to = move(vm, true);
		before = clean_proof(vm);
		vmm_destroy(vm);
		vm = to;
		after = clean_proof(vm);
		cr_expect_eq(before.stamps, after.stamps);
		cr_expect_eq(before.ticks, after.ticks);
		cr_assert_eq(vmm_ops()->resume(vm), 0);
		run_stamps(vm, 10000);
		after = clean_proof(vm);
		cr_expect_gt(after.stamps, before.stamps);
		cr_expect_gt(after.ticks, before.ticks + 2);
	}
	cr_expect(host ? !strcmp(vmm_mutator(vm), "host-thread") : is_native(vm), "%s", vmm_mutator(vm));
	vmm_destroy(vm);
}

Test(vmm, state_moves_into_another_vm)
{
	move_twice(false, VMM_ANON, 1);
}

Test(vmm, state_moves_into_another_vm_two_vcpus)
{
	move_twice(false, VMM_MEMFD, 2);
}

Test(threads, state_moves_into_another_vm)
{
	move_twice(true, VMM_ANON, 2);
}

/* Registers that do not arrive: the guest notices, and the proof says so. */
static uint64_t errors_with_xsave_byte(size_t at, bool *has)
{
	struct vmm_config cfg = config(false, VMM_ANON, 1);
	struct vmm *from = source(&cfg), *to = target(0, false);
	struct ferry_stream st, out;
	struct ferry_section sec;
	uint64_t errors;

	vmm_start(from);
	run_stamps(from, 5000);
	cr_assert_eq(reserve(from, to, &st, 12), 0, "%s", fail_text(&st.fail));
	stream_destroy(&st);
	stream_init(&st);
	stream_init(&out);
	cr_assert_eq(vmm_pause(from), 0);
	cr_assert_eq(vmm_ops()->save(from, &st), 0);
	while (ferry_stream_next(&st, &sec) == 1) {
		uint8_t *copy = malloc(sec.len);

		memcpy(copy, sec.data, sec.len);
		if (sec.id == FERRY_KVM_SECTION_XSAVE) {
			*has = copy[8 + at];
			copy[8 + at] ^= 1;
		}
		cr_assert_eq(ferry_stream_put(&out, sec.id, sec.version, copy, sec.len), 0);
		free(copy);
	}
	copy_ram(from, to);
	cr_assert_eq(vmm_ops()->load(to, &out), 0, "%s", fail_text(&out.fail));
	cr_assert_eq(vmm_resume(to), 0);
	run_stamps(to, 5000);
	errors = proof(to).guest_errors;
	stream_destroy(&st);
	stream_destroy(&out);
	vmm_destroy(from);
	vmm_destroy(to);
	return errors;
}

Test(vmm, lost_registers_are_noticed)
{
	bool has;

	cr_expect_eq(errors_with_xsave_byte(160 + 16 * 5, &has), 1); /* xmm5 */
	cr_assert(has);
	if (errors_with_xsave_byte(576 + 16 * 6, &has) != 1) /* the upper half of ymm6 */
		cr_assert_not(has, "AVX is in use and not checked");
}

Test(threads, target_refuses_with_a_sentence)
{
	struct vmm_config cfg = config(true, VMM_ANON, 1);
	struct vmm *from = source(&cfg), *to = target(64 * MIB, false);
	struct ferry_stream st;

	cr_expect_eq(reserve(from, to, &st, 12), -ENOMEM);
	cr_expect_str_eq(fail_text(&st.fail), "the source needs 128 MiB, this host grants 64 MiB");
	stream_destroy(&st);
	vmm_destroy(to);

	to = target(0, false);
	cr_expect_eq(reserve(from, to, &st, 30), -EOPNOTSUPP);
	cr_expect_str_not_empty(fail_text(&st.fail));
	stream_destroy(&st);
	vmm_destroy(to);
	vmm_destroy(from);
}

Test(vmm, target_without_kvm_refuses_a_kvm_guest)
{
	struct vmm_config cfg = config(false, VMM_ANON, 1);
	struct vmm *from = source(&cfg), *to = target(0, true);
	struct ferry_stream st;

	cr_expect_eq(reserve(from, to, &st, 12), -EOPNOTSUPP);
	cr_expect_str_not_empty(fail_text(&st.fail));
	stream_destroy(&st);
	vmm_destroy(to);
	vmm_destroy(from);
}

/* --- discard --- */

/* The target waits for pages that will never come: discarding it must not. */
static void discard_stuck(bool host, uint32_t stuck_region)
{
	struct vmm_config cfg = config(host, VMM_ANON, 2);
	struct vmm *from = source(&cfg), *to;
	struct uffdio_api api = { .api = UFFD_API };
	const struct ferry_region *r;
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		cr_skip_test("no permission for userfaultfd");
	vmm_start(from);
	run_stamps(from, 5000);
	to = move(from, false);
	if (stuck_region == 1)
		copy_ram(from, to);
	vmm_regions(to, &r);
	if (stuck_region == 1)
		cr_assert_eq(madvise(r[1].hva, r[1].len, MADV_DONTNEED), 0);
	cr_assert_eq(ioctl(uffd, UFFDIO_API, &api), 0);
	for (uint32_t i = stuck_region; i < 2; i++) {
		struct uffdio_register reg = { .range = { (uintptr_t)r[i].hva, r[i].len },
					       .mode = UFFDIO_REGISTER_MODE_MISSING };

		cr_assert_eq(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	}
	vmm_ops()->output_hold(to);
	cr_assert_eq(vmm_ops()->resume(to), 0);
	cr_assert_eq(poll(&(struct pollfd){ .fd = uffd, .events = POLLIN }, 1, STANDS_US / 1000), 1,
		     "no vCPU ran into it");
	cr_assert_eq(vmm_ops()->discard(to), 0);
	vmm_destroy(to);
	close(uffd);
	/* and the source goes on */
	cr_assert_eq(vmm_ops()->resume(from), 0);
	run_stamps(from, 5000);
	clean_proof(from);
	vmm_destroy(from);
}

Test(vmm, discard_does_not_wait_for_pages)
{
	discard_stuck(false, 1);
}

Test(vmm, discard_does_not_wait_for_page_tables)
{
	discard_stuck(false, 0);
}

Test(threads, discard_does_not_wait_for_pages)
{
	discard_stuck(true, 1);
}

Test(threads, retired_guest_is_gone)
{
	struct vmm_config cfg = config(true, VMM_ANON, 1);
	struct vmm *vm = source(&cfg);
	struct vmm_stats st;
	struct vmm_proof p;

	vmm_start(vm);
	run_stamps(vm, 1000);
	cr_expect_eq(vmm_ops()->retire(vm), 0);
	vmm_get_stats(vm, &st);
	cr_expect(st.gone);
	cr_expect_eq(vmm_proof(vm, &p), -ENOENT);
	cr_expect_eq(vmm_resume(vm), -ENOENT);
	vmm_destroy(vm);
}
