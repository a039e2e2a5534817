/* SPDX-License-Identifier: MIT */
/*
 * How long a link may be lost, and what is said when it does not come back. Losses with no progress between them are one
 * outage: link.h says what progress is. All calls are main's.
 */
#ifndef FERRY_OUTAGE_H
#define FERRY_OUTAGE_H

#include <stdint.h>

struct ferry_session;

#define OUTAGE_COMPARE_MTU "compare the MTU along the path (ping -M do -s 1472, 8972)"
#define OUTAGE_SHORT_ONES "; where short messages pass and long ones do not, " OUTAGE_COMPARE_MTU

/* How long a lost link may take to be back, in microseconds; 0: it is not waited for. */
uint64_t outage_window(const struct ferry_session *s);
/* A link is lost: until when (now_us() based) it may be back. Begins an outage, or goes on with one. */
uint64_t outage_until(struct ferry_session *s, uint64_t window);
/* It is not back: LINK_GONE, and the sentence. silent: for how long the peer had not been heard when the link was lost. */
int outage_final(struct ferry_session *s, uint64_t window, uint64_t silent);

#endif
