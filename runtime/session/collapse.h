/* SPDX-License-Identifier: MIT */
/* Transparent huge pages: how much of the regions that ask for them is backed so, and making it so again. */
#ifndef FERRY_COLLAPSE_H
#define FERRY_COLLAPSE_H

#include <stdbool.h>
#include <stdint.h>

struct ferry_session;

bool collapse_wanted(const struct ferry_session *s); /* there are such regions */
/* Bytes of FERRY_REGION_THP regions that the VM's mapping has as huge pages; 0 where the kernel cannot tell
 * (6.7 can). */
uint64_t collapse_count(const struct ferry_session *s);
/*
 * Target, once the VM is its own: collapses every 2 MiB of these regions that hold anything, one by one,
 * while the VM runs. Ends early when ferry_cancel() asks for it. Only speed is lost where a piece cannot be
 * collapsed.
 */
void collapse_regions(struct ferry_session *s);

#endif
