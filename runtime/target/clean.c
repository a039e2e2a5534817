// SPDX-License-Identifier: MIT
/*
 * Maps clean pages for the VM: those whose data is here, but which userfaultfd reports or would report.
 *
 * A fault on one maps its neighbours, too. Foreign memory has no page mapped when the VM starts, and each clean
 * one would fault: 0.2 us instead of 10 if they are mapped together. So worker 0 also maps them piece by piece
 * from the first to the last, whenever no fault waits.
 */
#include "pull_int.h"
#include "runtime/base/fail.h"

#define CLEAN_PAGES 512u /* clean neighbours mapped because of a fault */
#define CLEAN_PIECE 32u	 /* of them at once, so that a fault waits for no more */
#define AHEAD_LOOK 4096u /* pages of foreign memory that are looked at in one step */

/* UFFDIO_CONTINUE would replace the poison marker with an ordinary page. */
static bool poisoned(const struct pull *p, uint32_t region, uint64_t page)
{
	return atomic_load_explicit(p->param.poisoned, memory_order_acquire) &&
	       page_set_test(p->param.poison, region, page);
}

/* The clean pages around run, without a gap, within its aligned block of max pages. */
static struct page_run clean_around(struct pull *p, const struct page_run *run, uint64_t max)
{
	const struct page_set *missing = p->param.missing;
	uint64_t first = run->page, end = first + run->npages, low = first & ~(max - 1);
	uint64_t high = low + max;

	if (high > missing->r[run->region].npages)
		high = missing->r[run->region].npages;
	while (first > low && !page_set_test(missing, run->region, first - 1) &&
	       !poisoned(p, run->region, first - 1))
		first--;
	while (end < high && !page_set_test(missing, run->region, end) && !poisoned(p, run->region, end))
		end++;
	return (struct page_run){ .region = run->region, .page = first, .npages = (uint32_t)(end - first) };
}

/*
 * Anonymous memory that is clean and absent was never sent: map only the page, as its neighbours may be
 * present. Shared memory is in the page cache: map the piece around the page now, and the others when there
 * is nothing else to do. A huge page is mapped alone.
 */
int clean_fault(struct pull *p, const struct page_run *fault)
{
	struct page_run run = *fault;

	if (run.npages == 1 && place_shared(p->param.place, run.region)) {
		p->clean = clean_around(p, &run, CLEAN_PAGES);
		run = clean_around(p, &run, CLEAN_PIECE);
	}
	return place_clean(p->param.place, &run, p->param.fail);
}

int clean_step(struct pull *p)
{
	struct page_run run = p->clean;
	int err;

	if (!run.npages)
		return 0;
	if (run.npages > CLEAN_PIECE)
		run.npages = CLEAN_PIECE;
	err = place_clean(p->param.place, &run, p->param.fail);
	p->clean.page += run.npages;
	p->clean.npages -= run.npages;
	return err < 0 ? err : 1;
}

/*
 * Takes the next run of clean pages, at most CLEAN_PIECE, from the front of p->ahead. p->ahead loses all pages
 * that were looked at, the missing ones, too.
 */
static struct page_run next_ahead(struct pull *p)
{
	struct page_run *left = &p->ahead, run = { .region = left->region };
	uint32_t unit = place_unit(p->param.place, left->region), looked = 0;

	while (left->npages && looked < AHEAD_LOOK && (!run.npages || run.npages + unit <= CLEAN_PIECE)) {
		struct page_run one = { .region = left->region, .page = left->page, .npages = unit };

		if (pull_missing_any(p->param.missing, &one)) {
			if (run.npages)
				break;
		} else if (!run.npages) {
			run.page = one.page;
			run.npages = unit;
		} else {
			run.npages += unit;
		}
		looked += unit;
		left->page += unit;
		left->npages -= unit;
	}
	return run;
}

int clean_ahead(struct pull *p)
{
	struct page_run run;
	int err;

	if (p->ahead_ended || !atomic_load_explicit(&p->released, memory_order_relaxed))
		return 0;
	if (!p->ahead.npages && !place_data(p->param.place, &p->ahead_at, &p->ahead)) {
		p->ahead_ended = true;
		return 0;
	}
	run = next_ahead(p);
	err = run.npages ? place_ahead(p->param.place, &run, p->param.fail) : 0;
	return err < 0 ? err : 1;
}
