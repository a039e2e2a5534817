/* SPDX-License-Identifier: MIT */
/* Post-copy at the target: which page is fetched next, and by which worker. pull.c has the theory. */
#ifndef FERRY_PULL_H
#define FERRY_PULL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct fail;
struct ferry_region;
struct ferry_session;
struct page_set;
struct place;
struct pull;
struct stats;
struct xport_link;

/* What the pull works on. The caller keeps all of this until pull_free(). */
struct pull_param {
	struct place *place;
	struct page_set *missing;
	const struct page_set *poison; /* pages that must not be mapped as clean */
	const _Atomic bool *poisoned;  /* whether there are any */
	const struct ferry_region *regions;
	size_t nregions;
	unsigned channels;   /* data channels, one worker each */
	uint64_t timeout_us; /* a peer that is silent this long is lost */
	uint64_t poll_us;    /* worker 0 polls this long after the last fault */
	struct stats *stats;
	struct fail *fail;
	struct ferry_session *s;	       /* for wake and the probes only */
	void (*wake)(struct ferry_session *s); /* any thread: the last page was placed */
};

/* Bytes of staging memory for this many data channels. A device that pins memory pins it, too. */
size_t pull_staging_len(unsigned channels);
int pull_new(struct pull **ret, const struct pull_param *param);
struct iovec pull_staging(const struct pull *p); /* for gets that do not land in place */
void pull_free(struct pull *p);			 /* p may be NULL; no worker may run */
/*
 * Call this before the workers start, on the first link and after each reconnect. Pages that were asked for
 * and have not arrived are asked for again, faults first. bandwidth: bytes per second; 0: no limit.
 */
void pull_start(struct pull *p, struct xport_link *link, uint64_t bandwidth);
/*
 * Runs worker i, one per data channel: each does the background fetch of its channel, and worker 0 also
 * serves faults. 0: nothing is left to ask for, or pull_stop() was called. -EPIPE, -ETIMEDOUT: the link is
 * lost. Any other error is this end's own.
 */
int pull_work(struct pull *p, unsigned i);
/* After SWITCHOVER, before load: the missing pages are now the residue. */
void pull_residue(struct pull *p);
/* Starts the background fetch: the VM runs, and the source knows. Faults are served before that, too. */
void pull_release(struct pull *p);
/*
 * Call these around load, which may fault on missing pages. If the link is lost meanwhile, main cannot
 * reconnect, because it is blocked in that fault. So the memory is disarmed, load reads zeros and returns,
 * and pull_loaded() returns false: discard the VM. pull_loading() returns false if the link is lost already.
 */
bool pull_loading(struct pull *p);
bool pull_loaded(struct pull *p);
/* True when every page has been placed. */
bool pull_complete(const struct pull *p);
/* Makes the workers leave. Call it when the pull is complete or the link was killed. */
void pull_stop(struct pull *p);

#endif
