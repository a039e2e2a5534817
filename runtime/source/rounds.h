/* SPDX-License-Identifier: MIT */
/* One round: sends the dirty pages over the data channels. */
#ifndef FERRY_ROUNDS_H
#define FERRY_ROUNDS_H

struct ferry_session;

/* Starts sending all of src.dirty over the data channels, one worker per channel. */
int rounds_start(struct ferry_session *s);
/*
 * Waits until everything has landed (fence), also the zero runs (ROUND_END, ROUND_ACK). If the link is lost,
 * returns -EPIPE; src.dirty then has the pages that may not have landed.
 */
int rounds_finish(struct ferry_session *s, unsigned round);

#endif
