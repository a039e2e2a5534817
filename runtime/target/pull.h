/* SPDX-License-Identifier: MIT */
/* Post-copy at the target: what comes next, and who brings it. See pull.c for the theory. */
#ifndef FERRY_PULL_H
#define FERRY_PULL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct ferry_session;
struct pull;

/* Bytes that arriving pages wait in, of so many data channels; a device that pins memory pins them too. */
size_t pull_staging_len(unsigned channels);
int pull_new(struct pull **ret, struct ferry_session *s);
struct iovec pull_staging(const struct pull *p); /* where gets land that do not land in place */
void pull_free(struct pull *p); /* NULL is fine; no worker may run */
/*
 * The workers of post-copy: worker 0 serves faults and sweeps the first data channel, the others one each. Starts anew after a reconnect: what had been
 * asked for and did not come is asked for again, faults first. Workers end when nothing is missing (main is
 * woken) or with -EPIPE.
 */
int pull_start(struct ferry_session *s);
/* SWITCHOVER is here, before load: tgt.missing is the residue now. */
void pull_residue(struct pull *p);
/* The sweep waits for this (the VM runs, and the source was told), faults are served at once. Again: nothing. */
void pull_release(struct ferry_session *s);
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
