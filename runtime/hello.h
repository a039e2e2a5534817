/* SPDX-License-Identifier: MIT */
/*
 * The first exchange on a new link, by main: 0, -EPIPE (the link is lost, or the deadline has passed), or what is wrong with
 * the peer.
 */
#ifndef FERRY_HELLO_H
#define FERRY_HELLO_H

#include "session.h"

int hello_source(struct ferry_session *s, uint64_t deadline_us);
int hello_target(struct ferry_session *s, uint64_t deadline_us);

#endif
