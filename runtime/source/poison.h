/* SPDX-License-Identifier: MIT */
/* Pages that a hardware error has destroyed, at the source: session/poison.h has the theory. */
#ifndef FERRY_SOURCE_POISON_H
#define FERRY_SOURCE_POISON_H

#include "runtime/session/poison.h"

/* Worker: a page could not be read. 0: it crosses as poison; else the error, with its sentence. */
int poison_unreadable(struct ferry_session *s, uint32_t region, uint64_t page);
/* Worker: these pages have been read. */
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
/* Main, no worker about: the VMM is asked about what was met. */
int poison_ask(struct ferry_session *s);
/*
 * Main, source: takes out of set, which is to be named as residue, what is poisoned. all: each page of it is looked at, else only
 * those that were poisoned before.
 */
int poison_sift(struct ferry_session *s, struct page_set *set, bool all);
int poison_send(struct ferry_session *s);

#endif
