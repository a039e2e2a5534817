/* SPDX-License-Identifier: MIT */
/* Transparent huge pages: how much of the regions that ask for them has them, and collapsing the rest. */
#ifndef FERRY_COLLAPSE_H
#define FERRY_COLLAPSE_H

#include <stdbool.h>
#include <stdint.h>

struct ferry_session;

bool collapse_wanted(const struct ferry_session *s); /* whether any region of ours has FERRY_REGION_THP */
/* Bytes of FERRY_REGION_THP regions that the VM's mapping has as huge pages; 0 before Linux 6.7. */
uint64_t collapse_count(const struct ferry_session *s);
/*
 * Target, when it owns the VM: collapse every 2 MiB of these regions that holds anything, one by one, while
 * the VM runs. ferry_cancel() ends it early. Best effort: a piece may stay in small pages.
 */
void collapse_regions(struct ferry_session *s);

#endif
