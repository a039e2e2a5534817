/* SPDX-License-Identifier: MIT */
/* Page sizes, and runs of pages. Guest memory is counted in pages of 4 KiB, whatever page size maps it. */
#ifndef FERRY_PAGE_H
#define FERRY_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12u
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

/* The unit that hugetlbfs maps, and a transparent huge page. */
#define HUGE_SHIFT 21u
#define HUGE_PAGES (UINT64_C(1) << (HUGE_SHIFT - PAGE_SHIFT))
#define HUGE_BYTES ((size_t)1 << HUGE_SHIFT)

/* Page data on its way through a buffer (runtime/memory/place_land.c): fits into a core's cache. */
#define LANDING_BYTES ((size_t)256 << 10)

struct page_run {
	uint32_t region; /* index in the MAP message, at both ends; ids are for the embedder and messages */
	uint32_t npages;
	uint64_t page; /* first page, counted from the region's start */
};

#endif
