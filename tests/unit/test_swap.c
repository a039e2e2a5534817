// SPDX-License-Identifier: MIT
/*
 * Guest memory that is in swap, really: it is populated, whichever interface is asked, crosses whole, and the bench's proof does
 * not take it for missing. A page that was taken for a hole would be zeros at the target.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"
#include "swap.h"
#include "bench/vmm/vmm.h"
#include "ferry/track.h"
#include "runtime/memory/populated.h"

#define PAGES 4096u
#define PAGE ((size_t)4096)
#define EVERY 3u /* one page in so many is populated */

typedef int (*finder)(struct page_set *, uint32_t, const struct ferry_region *, uint64_t *);

static struct swap swap;

static void with_swap(void)
{
	char why[200];

	if (!swap_on(&swap, why))
		cr_skip_test("no swap: %s", why);
}

/* Before the memory that is in it has gone, swapoff would bring it back: the test's process is not there any more. */
static void without_swap(void)
{
	swap_off(&swap);
}

static struct ferry_region sparse(bool shared)
{
	struct ferry_region reg = { .id = 1, .len = PAGES * PAGE, .page_shift = 12, .fd = -1 };

	if (shared) {
		reg.flags = FERRY_REGION_SHARED;
		reg.fd = memfd_create("swapped", MFD_CLOEXEC);
		cr_assert_eq(ftruncate(reg.fd, (off_t)reg.len), 0);
	}
	reg.hva = mmap(NULL, reg.len, PROT_READ | PROT_WRITE,
		       shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, reg.fd, 0);
	cr_assert_neq(reg.hva, MAP_FAILED);
	madvise(reg.hva, reg.len, MADV_NOHUGEPAGE);
	for (unsigned page = 0; page < PAGES; page += EVERY)
		memset((uint8_t *)reg.hva + page * PAGE, (int)page | 1, PAGE);
	return reg;
}

static void finds(finder find, bool shared)
{
	struct ferry_region reg = sparse(shared);
	const uint64_t npages = PAGES;
	uint64_t count = 0;
	struct page_set s;
	int err;

	/* Of the holes none is resident either. */
	if (!swap_out(reg.hva, reg.len, PAGES - PAGES / EVERY / 10))
		cr_skip_test("the kernel does not swap these pages out");
	page_set_init(&s, &npages, 1);
	err = find(&s, 0, &reg, &count);
	if (err == -ENOTTY)
		cr_skip_test("this kernel has no PAGEMAP_SCAN");
	cr_assert_eq(err, 0);
	for (unsigned page = 0; page < PAGES; page++)
		cr_assert_eq(page_set_test(&s, 0, page), page % EVERY == 0, "page %u", page);
	cr_assert_eq(count, (PAGES + EVERY - 1) / EVERY);
	page_set_destroy(&s);
	munmap(reg.hva, reg.len);
	if (shared)
		close(reg.fd);
}

TestSuite(swap, .init = with_swap, .fini = without_swap);

Test(swap, of_anonymous_memory_is_populated)
{
	finds(populated_pages, false);
}

Test(swap, of_anonymous_memory_is_populated_by_scan)
{
	finds(populated_by_scan, false);
}

Test(swap, of_anonymous_memory_is_populated_by_pagemap)
{
	finds(populated_by_pagemap, false);
}

Test(swap, of_a_memfd_is_populated)
{
	finds(populated_pages, true);
}

/* ---- the tracker ---- */

static void swapped_out(const struct ferry_region *r)
{
	if (!swap_out(r->hva, r->len, PAGES - PAGES / EVERY / 10))
		cr_skip_test("the kernel does not swap these pages out");
}

static void must_find(struct ferry_track *t, int page, const char *what)
{
	uint64_t bits[PAGES / 64] = { 0 };

	cr_assert_eq(ferry_track_fetch(t, 1, bits, PAGES, 0), 0);
	for (int p = 0; p < (int)PAGES; p++)
		cr_assert_eq(bits[p / 64] >> (p % 64) & 1, p == page, "%s: page %d", what, p);
}

/* A write is found though its page was swapped out since; swapping alone, out and in, is no write. */
static void is_tracked(bool shared)
{
	struct ferry_region reg = sparse(shared);
	struct ferry_track_range range = { FERRY_TRACK_RANGE_INIT,
					   .region = 1,
					   .flags = reg.flags,
					   .addr = (uintptr_t)reg.hva,
					   .len = reg.len,
					   .page_shift = reg.page_shift,
					   .fd = reg.fd };
	volatile uint8_t *mem = reg.hva;
	struct ferry_track *t;

	if (ferry_track_new(&t, NULL))
		cr_skip_test("this kernel cannot track writes");
	cr_assert_eq(ferry_track_add(t, &range), 0);
	swapped_out(&reg);
	cr_assert_eq(ferry_track_start(t), 0);
	must_find(t, -1, "swapped out at the start");
	mem[30 * PAGE] = 1;
	must_find(t, 30, "written");
	mem[33 * PAGE] = 1;
	swapped_out(&reg);
	must_find(t, 33, "written, then swapped out");
	must_find(t, -1, "still swapped out");
	cr_assert_eq(mem[33 * PAGE], 1);
	cr_assert_eq(mem[36 * PAGE], 36 | 1);
	must_find(t, -1, "read");
	mem[31 * PAGE] = 1; /* fresh */
	swapped_out(&reg);
	must_find(t, 31, "fresh, then swapped out");
	mem[33 * PAGE] = 2;
	must_find(t, 33, "written again");
	ferry_track_free(t);
	munmap(reg.hva, reg.len);
	if (shared)
		close(reg.fd);
}

Test(swap, of_anonymous_memory_is_tracked)
{
	is_tracked(false);
}

Test(swap, of_a_memfd_is_tracked)
{
	is_tracked(true);
}

/* ---- a whole migration ---- */

static void out_at_start(struct fakevm *vm, enum fake_op op)
{
	if (op != FAKE_DIRTY_START)
		return;
	for (unsigned i = 0; i < FAKE_REGIONS; i++)
		if (!swap_out(vm->region[i].hva, vm->region[i].len, vm->region[i].len / PAGE * 9 / 10))
			world_trouble(vm->w, "region %u cannot be swapped out", i);
}

static void crosses(const struct rig_kind *kind, enum ferry_mode mode)
{
	struct rig r;

	rig_init(&r, kind);
	r.scfg.mode = mode;
	r.src.hook = out_at_start;
	r.src.writes[0] = 0; /* it must cross as it lies in swap */
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.sres.stats.pages_hole, FAKE_HOLES);
	rig_free(&r);
}

Test(swap, of_anonymous_memory_crosses)
{
	crosses(RIG_TCP_ANON, FERRY_MODE_STOP_AND_COPY);
}

Test(swap, of_a_memfd_crosses)
{
	crosses(RIG_MEM_SHARED, FERRY_MODE_POSTCOPY);
}

/* ---- the proof ---- */

static void is_proved(enum vmm_kind kind)
{
	struct vmm_config cfg = { .memory = 64 << 20,
				  .working_set = 16 << 20,
				  .seed = 42,
				  .kind = kind,
				  .populate = 50,
				  .vcpus = 1,
				  .host_threads = true,
				  .observer = -1 };
	const struct ferry_region *r;
	struct vmm_proof before, after;
	struct vmm *vm = NULL;
	char why[256] = "";

	cr_assert_eq(vmm_new_source(&vm, &cfg, why, sizeof(why)), 0, "%s", why);
	vmm_regions(vm, &r);
	for (int i = 0; i < 2;
	     i++) /* the first one looks at counters that the guest has not made yet, which makes their page */
		cr_assert_eq(vmm_proof(vm, &before), 0);
	cr_assert_str_eq(before.text, "");
	if (!swap_out(r[1].hva, r[1].len, r[1].len / PAGE * 9 / 10))
		cr_skip_test("the kernel does not swap these pages out");
	cr_assert_eq(vmm_proof(vm, &after), 0);
	cr_assert_str_eq(after.text, "");
	cr_assert_eq(after.pages_bad, 0);
	cr_assert_eq(after.pages_hole, before.pages_hole, "%llu holes, %llu before",
		     (unsigned long long)after.pages_hole, (unsigned long long)before.pages_hole);
	vmm_destroy(vm);
}

Test(swap, of_anonymous_memory_is_proved)
{
	is_proved(VMM_ANON);
}

Test(swap, of_a_memfd_is_proved)
{
	is_proved(VMM_MEMFD);
}
