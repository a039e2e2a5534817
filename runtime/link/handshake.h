/* SPDX-License-Identifier: MIT */
/*
 * The first exchange on a new link, by main: 0, -EPIPE (the link is lost, the deadline has passed, or its source is another
 * target's), -ESTALE at a source that comes back (its target is not there, link_stranger()), or what is wrong with the peer.
 */
#ifndef FERRY_HANDSHAKE_H
#define FERRY_HANDSHAKE_H

#include "runtime/session/session.h"

int handshake_source(struct ferry_session *s, uint64_t deadline_us);
int handshake_target(struct ferry_session *s, uint64_t deadline_us);

#endif
