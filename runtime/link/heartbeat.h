/* SPDX-License-Identifier: MIT */
/* The heartbeat of one end, on a thread of its own while ferry_run() lasts. */
#ifndef FERRY_HEARTBEAT_H
#define FERRY_HEARTBEAT_H

#include "runtime/session/session.h"

int heartbeat_start(struct ferry_session *s);
void heartbeat_stop(struct ferry_session *s);
/* One PING now. */
void heartbeat_send(struct ferry_session *s);

#endif
