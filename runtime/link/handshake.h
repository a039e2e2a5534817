/* SPDX-License-Identifier: MIT */
/*
 * The handshake on a new link, HELLO and HELLO_ACK. Called by main. Results: 0; -EPIPE: the link is lost, the
 * deadline has passed, or the source belongs to another target; -ESTALE, at a source after a reconnect:
 * another program answers (link_stranger()). Any other error ends the migration, with its sentence.
 */
#ifndef FERRY_HANDSHAKE_H
#define FERRY_HANDSHAKE_H

#include "runtime/session/session.h"

int handshake_source(struct ferry_session *s, uint64_t deadline_us);
int handshake_target(struct ferry_session *s, uint64_t deadline_us);

#endif
