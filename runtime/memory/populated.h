/* SPDX-License-Identifier: MIT */
/* Finds the pages of a region that were ever touched, without touching any. */
#ifndef FERRY_POPULATED_H
#define FERRY_POPULATED_H

#include "pages.h"

struct ferry_region;

/*
 * Adds to set (region index idx) every page of reg that may be other than zero. Shared memory: by SEEK_DATA
 * and SEEK_HOLE (hugetlbfs: UFFDIO_CONTINUE). Anonymous memory: by PAGEMAP_SCAN (present or swapped, not the
 * zero page) or, before Linux 6.7, /proc/self/pagemap. *count: added pages of 4 KiB. Reads no page, except on
 * hugetlbfs without userfaultfd. Returns -errno, or the errno, above 0, with which the quick way was refused,
 * if a slower way succeeded.
 *
 * Pages left out are zero because mapping_check() has accepted the region: its memory is private, anonymous
 * and not being filled by anybody, or a shared mapping of that file.
 */
int populated_pages(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);

/*
 * Opens the region's file again: SEEK_DATA moves the offset, which all duplicates of the embedder's fd share.
 * Returns the descriptor, or -errno.
 */
int populated_reopen(const struct ferry_region *reg);

/* The single ways. pagemap does not show the zero page: with it, pages that were only read are added too. */
int populated_by_seek(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_scan(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_pagemap(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);
int populated_by_continue(struct page_set *set, uint32_t idx, const struct ferry_region *reg,
			  uint64_t *count);
int populated_by_read(struct page_set *set, uint32_t idx, const struct ferry_region *reg, uint64_t *count);

#endif
