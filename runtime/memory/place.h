/* SPDX-License-Identifier: MIT */
/*
 * Where pages land at the target, for each kind of memory; nothing else knows the kinds apart.
 *
 *			before the switchover		post-copy
 *	anonymous	into the VM's mapping		staging, UFFDIO_COPY into it (missing mode)
 *	shared		into the page cache, through	the same, then UFFDIO_CONTINUE maps the page
 *			our second mapping		(minor mode)
 *	huge, anonymous	into the VM's mapping		gathered in memory of our own, one UFFDIO_COPY of 2 MiB
 *	huge, shared	as shared			as shared, one UFFDIO_CONTINUE of 2 MiB
 *
 * Pages of hugetlbfs (place_huge.c) arrive in pieces of 4 KiB like all others, but the kernel maps 2 MiB or nothing:
 * whoever brings the last missing piece maps the whole.
 *
 * What is to fault must be in no mapping of the VM's. Of anonymous memory the residual pages are dropped; that happens
 * while the source still runs (place_drop for each PREARM), and in the downtime only for what was dirtied since. So it is of
 * shared memory that the VMM has allocated: both mappings of it are filled in the reservation, for a VM that finds its clean
 * pages mapped has no faults but for the residue. The VM's mapping of what is allocated as it arrives is not touched: nothing to
 * drop, and its clean pages are mapped as they fault (place_clean).
 */
#ifndef FERRY_PLACE_H
#define FERRY_PLACE_H

#include "pages.h"
#include "ferry/ferry.h"
#include "runtime/base/reach.h"

struct fail;

struct place_region {
	const struct ferry_region *reg;
	uint8_t *vm;	/* the VM's mapping */
	uint8_t *alias; /* shared: our own second mapping; else NULL */
	uint8_t *inbox; /* post-copy: where pages are received in their place; NULL: in buffers */
	uint64_t npages;
	bool shared, huge, registered;
	bool mapped; /* the VM's mapping may have pages before the VM runs: what is missing must be dropped from it */
	_Atomic uint16_t *owed; /* huge, post-copy: for each huge page, the pieces of it that have not arrived */
};

struct place {
	struct place_region *r;
	size_t n;
	int uffd;	/* -1 until armed */
	bool poisons;	/* place_poison() will be called, perhaps */
	bool pinned;	/* pages must not be discarded: the transport holds them */
	struct reach reach;
	int advice;	/* MADV_DONTNEED, or what drops locked memory too */
	const uint8_t *zeros; /* 2 MiB, where any region is huge; not backed by memory */
};

/* Asked between two pieces of work that takes long with much memory: its error ends that work. */
struct place_look {
	int (*ask)(void *arg);
	void *arg;
};

/* look: NULL where nobody can end it. */
int place_open(struct place *p, const struct ferry_region *regions, size_t n, bool pinned, const struct place_look *look,
	       struct fail *f);
/* Nothing is missing any more: the VM's faults are the kernel's again, and who waits on one goes on. */
void place_disarm(struct place *p);
void place_close(struct place *p);
/* Where region idx is written from outside: the base of its landing memory. */
void *place_landing(const struct place *p, uint32_t idx);

/* Before the switchover: these pages read as zero again. */
int place_zero(struct place *p, const struct page_run *run, struct fail *f);
/*
 * Before the switchover: every page of the set will fault when the VM touches it. From *at on, as much as takes some tens of
 * milliseconds; 1: there may be more.
 */
int place_drop(struct place *p, const struct page_set *set, struct page_cursor *at, struct fail *f);
/* Between the last put and load: who touches these pages, whole huge ones, gets SIGBUS, for good. What they held is gone. */
int place_poison(struct place *p, const struct page_run *run, struct fail *f);
/* Everything that post-copy will ask of the kernel is asked once. Before pages arrive; needs userfaultfd. */
int place_try(struct place *p, struct fail *f);
/* Faults in all regions come to p->uffd. */
int place_arm(struct place *p, struct fail *f);

/* Post-copy: whether a page's bytes may be received straight into place_inbox(), or need a buffer first. */
static inline bool place_direct(const struct place *p, uint32_t idx)
{
	return p->r[idx].inbox;
}
/* The base of it. */
static inline uint8_t *place_inbox(const struct place *p, uint32_t idx)
{
	return p->r[idx].inbox;
}
/*
 * The residue is complete, or is asked for again on a new link, and nothing of it is under way. A huge page of private
 * memory that lacks a piece then lacks all of them: what it held was dropped with it.
 */
void place_expect(struct place *p, struct page_set *missing);
/*
 * The pages' bytes are there (buf, or the inbox where that is direct): map what is whole by them and take it, and
 * nothing else, out of missing; *done: so many pages. Without wake, who waits goes on at place_wake().
 */
int place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, struct page_set *missing,
	      uint64_t *done, struct fail *f);
/*
 * Pages, or whole huge pages, that are not of the residue: map them as they are. Of anonymous memory one, absent, with
 * a vCPU waiting for it.
 */
int place_clean(struct place *p, const struct page_run *run, struct fail *f);
/* Who waits for these pages tries again: they are there already. */
void place_wake(struct place *p, const struct page_run *run);
/* What is mapped at once at an address: a page, or a huge page's 512. False: the address is in no region. */
bool place_find(const struct place *p, uint64_t addr, struct page_run *ret);

#endif
