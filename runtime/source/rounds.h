/* SPDX-License-Identifier: MIT */
/* One round: what is dirty goes over the data channels. */
#ifndef FERRY_BATCH_H
#define FERRY_BATCH_H

struct ferry_session;

/* Begins to send everything in src.dirty over the data channels, one worker a channel. */
int batch_start(struct ferry_session *s);
/*
 * Waits until all of it has landed (fence), zero runs included (ROUND_END, ROUND_ACK). -EPIPE: the link is lost; what
 * is not known to have landed is in src.dirty again.
 */
int batch_finish(struct ferry_session *s, unsigned round);

#endif
