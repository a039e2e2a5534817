/* SPDX-License-Identifier: MIT */
/* Poisoned pages at the source: a hardware error has destroyed them. session/poison.h has the theory. */
#ifndef FERRY_SOURCE_POISON_H
#define FERRY_SOURCE_POISON_H

#include "runtime/session/poison.h"

/* Call this if a page could not be read. 0: it crosses as poison; else the error, which is recorded. */
int poison_unreadable(struct ferry_session *s, uint32_t region, uint64_t page);
/* Call this when pages have been read: they are no longer poisoned. */
static inline void poison_read(struct ferry_session *s, const struct page_run *run)
{
	struct page_run first, last;

	if (!s->src.poisoned)
		return;
	first = poison_unit(s, run->region, run->page);
	last = poison_unit(s, run->region, run->page + run->npages - 1);
	first.npages = (uint32_t)(last.page + last.npages - first.page);
	page_set_del_run(&s->src.poison, &first);
}
/* Main, while no worker runs: asks the VMM about the pages that were found lost. */
int poison_ask(struct ferry_session *s);
/*
 * Main: removes poisoned pages from set, which is about to be named as residue. all: looks at each page of
 * set, otherwise only at those that were poisoned before.
 */
int poison_sift(struct ferry_session *s, struct page_set *set, bool all);
int poison_send(struct ferry_session *s);

#endif
