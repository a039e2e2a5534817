/* SPDX-License-Identifier: MIT */
/*
 * Whether the memory behind each region is what the region says, by the kernel's own account:
 * /proc/self/maps, fstat() and fstatfs(). Everything else in runtime/ relies on it: a page that is not in the
 * page table is zero only where memory is private, anonymous and filled by nobody else, and a page that is
 * not in the file is zero only where hva is a shared mapping of that very file.
 */
#ifndef FERRY_MAPPING_H
#define FERRY_MAPPING_H

#include <stdbool.h>
#include <stddef.h>

#include "ferry/ferry.h"

struct fail;

/* The files of shared regions: their kind, page size and length. */
int mapping_files(const struct ferry_region *r, size_t n, struct fail *f);
/*
 * The files, and the mapping of every byte of every region. target: also what only the receiving end needs: a
 * file that can be written to and has room for its regions, huge pages that are promised. A negative errno
 * and a sentence with the region, the address, what was found, what was expected and what to do. Touches no
 * page.
 */
int mapping_check(const struct ferry_region *r, size_t n, bool target, struct fail *f);
/*
 * A call that wants all of a region, mapped at base, has said err: names the first page of it that cannot be read (or written),
 * if there is one. -EFAULT, or -EHWPOISON for a hardware error; else err.
 */
int mapping_unreachable(const struct ferry_region *reg, const void *base, bool write, int err, struct fail *f);

#endif
