/* SPDX-License-Identifier: MIT */
/*
 * Where pages land at the target, for each kind of memory. No other code distinguishes the kinds.
 *
 *			before the switchover		post-copy
 *	anonymous	into the VM's mapping		staging, UFFDIO_COPY into it (missing mode)
 *	shared		into the page cache		the same, then UFFDIO_CONTINUE maps the page
 *							(minor mode)
 *	huge, anonymous	into the VM's mapping		gathered in our own memory, one UFFDIO_COPY of 2 MiB
 *	huge, shared	as shared			as shared, one UFFDIO_CONTINUE of 2 MiB
 *
 * "Into": a transport that copies receives the data in the mapping of the VM (of shared memory: in our second
 * one), or in a buffer, from where the kernel copies it; place_land.c chooses.
 *
 * Pages of hugetlbfs (place_huge.c) arrive in pieces of 4 KiB like all others, but the kernel maps 2 MiB or
 * nothing: the worker that brings the last missing piece maps the huge page.
 *
 * A page faults only if the VM's mapping does not have it. So the residual pages of anonymous memory are
 * dropped while the source still runs (place_drop() for each PREARM); the downtime drops only pages dirtied
 * since. The same holds for shared memory that the VMM has allocated: both its mappings are populated in the
 * reservation, so that clean pages cause no faults when the VM runs. Shared memory that is allocated as pages
 * arrive is not mapped for the VM: nothing must be dropped; place_clean() maps clean pages as they fault.
 *
 * Foreign memory is shared memory of a VM that is another process. Its mapping is never touched here: whatever it
 * has mapped is taken back in the reservation, by punching holes into the file, and only ioctls of the
 * userfaultfd, which belongs to that process, reach it later. Nobody but that process maps pages for the VM, so
 * place_data() and place_ahead() map the clean ones before they fault.
 */
#ifndef FERRY_PLACE_H
#define FERRY_PLACE_H

#include "pages.h"
#include "ferry/ferry.h"
#include "runtime/base/cure.h"
#include "runtime/base/reach.h"

struct fail;

struct place_region {
	const struct ferry_region *reg;
	uint8_t *vm;	/* the VM's mapping; foreign: an address in the other process */
	uint8_t *alias; /* shared: our second mapping; else NULL */
	uint8_t *inbox; /* post-copy: pages are received here, at their offset; NULL: received in buffers */
	uint64_t npages;
	bool shared, huge, foreign, registered;
	bool kernel;		/* by place_land(), not in the mapping */
	bool mapped;		/* pages may be mapped before the VM runs: the missing ones must be dropped */
	_Atomic uint16_t *owed; /* huge, post-copy: per huge page, the number of missing pieces */
};

struct place {
	struct place_region *r;
	size_t n;
	int uffd;     /* -1 until armed */
	bool foreign; /* all regions are */
	bool adopted; /* foreign: UFFDIO_API has been called */
	bool poisons; /* place_poison() may be called */
	bool pinned;  /* the transport has the pages pinned: they must not be dropped */
	struct reach reach;
	struct page_set *missing; /* place_expect()'s; NULL before */
	int advice;		  /* MADV_DONTNEED, or MADV_DONTNEED_LOCKED if the kernel has it */
	const uint8_t *zeros;	  /* 2 MiB of zeros, if any region is huge; takes no memory */
	struct ferry_landing landing[FERRY_LANDINGS]; /* one per kind of memory that the VM has */
	unsigned nlandings;			      /* 0 if one-sided */
};

/* Asked between two pieces of work that takes long for a large VM; an error of ask() ends that work. */
struct place_look {
	int (*ask)(void *arg);
	void *arg;
};

struct place_param {
	bool pinned;		       /* see struct place */
	bool one_sided;		       /* the source writes to our mapping: there is no choice */
	enum ferry_landing_way way;    /* FERRY_LANDING_WAY_AUTO: measure and choose */
	const struct place_look *look; /* may be NULL */
	/* Called if measuring is refused: err, negative. May be NULL. */
	void (*slower)(void *arg, enum cure doing, int err, const char *what);
	void *slower_arg;
};

/* param is used during the call only. */
int place_open(struct place *p, const struct ferry_region *regions, size_t n, const struct place_param *param,
	       struct fail *f);
/* Closes the userfaultfd; threads blocked in a fault resume. Call when no page is missing, or to give up. */
void place_disarm(struct place *p);
void place_close(struct place *p);
/* The base of the memory that the transport exposes to the source for region idx. */
void *place_landing(const struct place *p, uint32_t idx);

/* True if what arrives for region idx goes through place_land(). */
static inline bool place_by_kernel(const struct place *p, uint32_t idx)
{
	return p->r[idx].kernel;
}
/* Before PREARM, for regions of place_by_kernel(): copies the data of n runs into their pages. Any thread. */
int place_land(struct place *p, const struct page_run *runs, unsigned n, const void *data, struct fail *f);

/* Before the switchover: makes these pages read as zero. */
int place_zero(struct place *p, const struct page_run *run, struct fail *f);
/*
 * Before the switchover: makes every page of the set fault when the VM touches it. One call goes on from *at
 * for some tens of milliseconds. Returns 1 if pages may be left, 0 at the end.
 */
int place_drop(struct place *p, const struct page_set *set, struct page_cursor *at, struct fail *f);
/* After the last put, before load: these pages (whole huge pages) lose their data; access raises SIGBUS. */
int place_poison(struct place *p, const struct page_run *run, struct fail *f);
/* Tries every kernel call that post-copy needs, so that a refusal comes early, before pages arrive. */
int place_try(struct place *p, struct fail *f);
/* Opens p->uffd and registers all regions with it: their faults are read there. */
int place_arm(struct place *p, struct fail *f);

/* Post-copy: true if page data can be received in place_inbox(), false if it needs a buffer. */
static inline bool place_direct(const struct place *p, uint32_t idx)
{
	return p->r[idx].inbox;
}
/* True if the clean pages of region idx are in the page cache: several can be mapped at once. */
static inline bool place_shared(const struct place *p, uint32_t idx)
{
	return p->r[idx].shared;
}
/* The unit that is mapped, in pages. */
static inline uint32_t place_unit(const struct place *p, uint32_t idx)
{
	return p->r[idx].huge ? HUGE_PAGES : 1;
}
/* The base of the region's inbox. */
static inline uint8_t *place_inbox(const struct place *p, uint32_t idx)
{
	return p->r[idx].inbox;
}
/*
 * Call it when the missing set is complete, and on a new link, while no get is in flight; place_run() takes pages
 * out of the set, which must live until place_close(). If a huge page of private memory lacks a piece, all its
 * pieces are added to missing: it was dropped as a whole.
 */
void place_expect(struct place *p, struct page_set *missing);
/*
 * Maps pages that have arrived (in buf, or in the inbox if place_direct()) and removes exactly these from the
 * missing set; *done: their number. Without wake, threads blocked on them resume only at place_wake().
 */
int place_run(struct place *p, const struct page_run *run, const void *buf, bool wake, uint64_t *done,
	      struct fail *f);
/*
 * Maps pages (or whole huge pages) that are not in the residue. Of anonymous memory only one page at a time:
 * an absent one that a vCPU waits for.
 */
int place_clean(struct place *p, const struct page_run *run, struct fail *f);
/*
 * Foreign memory, armed: mapping clean pages ahead of their faults. place_data(): the next pages from *at on that
 * the file has, at most PLACE_DATA_MAX (whole huge pages); false: none is left, or the file does not tell.
 * place_ahead() maps the pages of a run of which none is missing; holes stay holes.
 */
#define PLACE_DATA_MAX 65536u
bool place_data(const struct place *p, struct page_cursor *at, struct page_run *ret);
int place_ahead(struct place *p, const struct page_run *run, struct fail *f);
/* Lets threads that are blocked on these pages, which are mapped already, retry. */
void place_wake(struct place *p, const struct page_run *run);
/* The unit that is mapped at an address: a page, or the 512 of a huge page. False: addr is in no region. */
bool place_find(const struct place *p, uint64_t addr, struct page_run *ret);

#endif
