/* SPDX-License-Identifier: MIT */
/*
 * The first exchange on a new link, by main: 0, -EPIPE (the link is lost, the deadline has passed, or its source is another
 * target's), -ESTALE at a source that comes back (its target is not there, link_stranger()), or what is wrong with the peer.
 */
#ifndef FERRY_HELLO_H
#define FERRY_HELLO_H

#include "runtime/session/session.h"

int hello_source(struct ferry_session *s, uint64_t deadline_us);
int hello_target(struct ferry_session *s, uint64_t deadline_us);
/*
 * Target: whether this first message (with number seq) of a connection with that id is the HELLO of the source that was here
 * before. Until it is, nothing that the connection says changes anything.
 */
bool hello_is_source(const struct ferry_session *s, const void *msg, size_t len, uint32_t seq,
		     const struct xport_link_id *id);

#endif
