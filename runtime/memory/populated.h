/* SPDX-License-Identifier: MIT */
/* Which pages of a region were ever touched, found without touching any. */
#ifndef FERRY_POPULATED_H
#define FERRY_POPULATED_H

#include "pages.h"

struct ferry_region;

/*
 * Adds to set (region index idx) every page of reg that may hold something other than zero: shared memory by
 * SEEK_DATA/SEEK_HOLE on the memfd (hugetlbfs: by UFFDIO_CONTINUE), anonymous memory by PAGEMAP_SCAN (present or
 * swapped, not the zero page) or, before Linux 6.7, by /proc/self/pagemap. *count: pages of 4 KiB added. Reads no
 * page, but those of hugetlbfs where there is no userfaultfd. -errno; above 0: done in a slower way, because the quick one is
 * refused with this errno.
 *
 * What it leaves out is zero because mapping_check() has let the region pass: it is private, anonymous and filled by
 * nobody else, or a shared mapping of that very file.
 */
int populated_pages(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);

/* The ways it has. By pagemap the zero page cannot be told: pages that were only read are added too. */
int populated_by_seek(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_scan(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_pagemap(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_continue(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_read(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);

#endif
