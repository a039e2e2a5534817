/* SPDX-License-Identifier: MIT */
#ifndef FERRY_BATCH_H
#define FERRY_BATCH_H

struct ferry_session;

/*
 * Sends everything in src.dirty over the data channels, one worker a channel, and returns when all of it has
 * landed (fence), zero runs included (ROUND_END, ROUND_ACK). -EPIPE: the link is lost; what is not known to
 * have landed is in src.dirty again.
 */
int batch_send_dirty(struct ferry_session *s, unsigned round);

#endif
