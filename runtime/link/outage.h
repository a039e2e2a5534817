/* SPDX-License-Identifier: MIT */
/*
 * How long a lost link is waited for, and the error if it does not come back. Losses without progress between
 * them are one outage; link_recover() in link.h defines progress. Called by main only.
 */
#ifndef FERRY_OUTAGE_H
#define FERRY_OUTAGE_H

#include <stdint.h>

struct ferry_session;

#define OUTAGE_COMPARE_MTU "compare the MTU along the path (ping -M do -s 1472, 8972)"
#define OUTAGE_SHORT_ONES "; where short messages pass and long ones do not, " OUTAGE_COMPARE_MTU

/* How long a lost link is waited for, in microseconds; 0: not at all. */
uint64_t outage_window(const struct ferry_session *s);
/* A link was lost: the time (now_us() based) by which it must be back. Begins an outage or continues one. */
uint64_t outage_until(struct ferry_session *s, uint64_t window);
/* The link did not come back: record why, return LINK_GONE. silent: us without a word before the loss. */
int outage_final(struct ferry_session *s, uint64_t window, uint64_t silent);

#endif
