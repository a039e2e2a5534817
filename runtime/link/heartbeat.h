/* SPDX-License-Identifier: MIT */
/* The heartbeat of one end: a thread that sends PINGs during ferry_run(). */
#ifndef FERRY_HEARTBEAT_H
#define FERRY_HEARTBEAT_H

#include "runtime/session/session.h"

int heartbeat_start(struct ferry_session *s);
void heartbeat_stop(struct ferry_session *s);
/* Send one PING now; a failure is ignored. Any thread. */
void heartbeat_send(struct ferry_session *s);

#endif
