/* SPDX-License-Identifier: MIT */
/* Post-copy at the target: which page comes next, and who brings it. See pull.c for the theory. */
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

/* What the pull works on. Whoever makes it keeps all of this until pull_free(). */
struct pull_param {
	struct place *place;
	struct page_set *missing;
	const struct page_set *poison; /* pages that are never mapped as clean, */
	const _Atomic bool *poisoned;  /* and whether there are any */
	const struct ferry_region *regions;
	size_t nregions;
	unsigned channels;   /* data channels: a worker each */
	uint64_t timeout_us; /* a peer silent this long is a lost link */
	uint64_t poll_us;    /* worker 0 polls this long after the last fault */
	struct stats *stats;
	struct fail *fail;
	struct ferry_session *s; /* for wake and the probes; the pull does not look into it */
	void (*wake)(struct ferry_session *s); /* any thread: the last missing page has been placed */
};

/* Bytes that arriving pages wait in, of so many data channels; a device that pins memory pins them too. */
size_t pull_staging_len(unsigned channels);
int pull_new(struct pull **ret, const struct pull_param *param);
struct iovec pull_staging(const struct pull *p); /* where gets land that do not land in place */
void pull_free(struct pull *p); /* NULL is fine; no worker may run */
/*
 * Before the workers start, on the first link and after each reconnect: what had been asked for and did not come is
 * asked for again, faults first. bandwidth: bytes a second; 0: no limit.
 */
void pull_start(struct pull *p, struct xport_link *link, uint64_t bandwidth);
/*
 * What worker i does, of as many as there are data channels: worker 0 serves faults and sweeps the first data channel,
 * the others sweep one each. 0: nothing is left to ask for, or pull_stop() was called; -EPIPE or -ETIMEDOUT: the link is
 * lost; another error is this end's own.
 */
int pull_work(struct pull *p, unsigned i);
/* SWITCHOVER is here, before load: the missing pages are the residue now. */
void pull_residue(struct pull *p);
/* The sweep waits for this (the VM runs, and the source was told), faults are served at once. Again: nothing. */
void pull_release(struct pull *p);
/*
 * Around load, which may fault on missing pages. When the link is lost inside it the fault cannot be answered
 * (main, which would reconnect, is the one that waits), so the memory is disarmed: load returns, having read
 * zeros, and pull_loaded() is false: the VM must be discarded. pull_loading() is false when the link is lost already.
 */
bool pull_loading(struct pull *p);
bool pull_loaded(struct pull *p);
/* Every page has been placed. */
bool pull_complete(const struct pull *p);
/* The fault worker leaves (once complete, or the link is killed). */
void pull_stop(struct pull *p);

#endif
