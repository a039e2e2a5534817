/* SPDX-License-Identifier: MIT */
/*
 * Checks that the memory of each region matches the region's description, by /proc/self/maps, fstat() and
 * fstatfs(). The rest of runtime/ relies on this: a page that is not in the page table is zero only if the
 * memory is private, anonymous and not being filled by anybody; a page that is not in the file is zero only
 * if hva is a shared mapping of that file.
 */
#ifndef FERRY_MAPPING_H
#define FERRY_MAPPING_H

#include <stdbool.h>
#include <stddef.h>

#include "ferry/ferry.h"

struct fail;

/* Checks the files of shared regions: kind, page size and length. */
int mapping_files(const struct ferry_region *r, size_t n, struct fail *f);
/*
 * Checks the files, and the mapping of every byte of every region. target: checks also what only the
 * receiving end needs: files are writable and have room for their regions, huge pages are reserved. Returns a
 * negative errno, with a sentence: region, address, what was found and expected, and what to do. Touches no
 * page. Of foreign regions only the files can be checked.
 */
int mapping_check(const struct ferry_region *r, size_t n, bool target, struct fail *f);
/*
 * After a call on a whole region, mapped at base, has failed with err: names the first page that cannot be
 * read (or written). Returns -EFAULT, or -EHWPOISON for a hardware error; err if there is no such page.
 */
int mapping_unreachable(const struct ferry_region *reg, const void *base, bool write, int err,
			struct fail *f);

#endif
