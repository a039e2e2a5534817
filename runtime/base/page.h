/* SPDX-License-Identifier: MIT */
/* Sizes of pages, and a run of them. Everything here counts guest memory in pages of 4 KiB, whatever maps it. */
#ifndef FERRY_PAGE_H
#define FERRY_PAGE_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_SHIFT 12u
#define PAGE_BYTES ((size_t)1 << PAGE_SHIFT)

/* hugetlbfs, and transparent huge pages: what is mapped as one piece. */
#define HUGE_SHIFT 21u
#define HUGE_PAGES (UINT64_C(1) << (HUGE_SHIFT - PAGE_SHIFT))
#define HUGE_BYTES ((size_t)1 << HUGE_SHIFT)

struct page_run {
	uint32_t region; /* its index in the MAP, at both ends and on the wire; ids are for the embedder and for sentences */
	uint32_t npages;
	uint64_t page; /* first, within the region */
};

#endif
