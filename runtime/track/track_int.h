/* SPDX-License-Identifier: MIT */
/* Internal header of runtime/track: the object behind include/ferry/track.h. */
#ifndef FERRY_TRACK_INT_H
#define FERRY_TRACK_INT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/track.h>

#include "runtime/base/uffd_abi.h"

#define TRACK_RUNS 1024u /* results per scan */

struct ferry_track {
	bool foreign, on;
	int given_uffd, given_pagemap;
	int uffd, pagemap; /* while tracking is on */
	struct ferry_track_range *ranges;
	int *files; /* per range, while tracking is on: FERRY_REGION_SHARED: its file, opened anew; else -1 */
	size_t nranges, nregistered;
	struct page_region runs[TRACK_RUNS], again[TRACK_RUNS]; /* results of the first and second scan */
};

/*
 * Finds the pages of range i that were written since the last call. bits: as ferry_track_fetch(), or NULL.
 * protect: writes after this call are found by the next one.
 */
int track_look(struct ferry_track *t, size_t i, uint64_t *bits, bool protect);
/* 0 if the page at addr is tracked by uffd and shown by pagemap. */
int track_sees(struct ferry_track *t, uint64_t addr);

#endif
