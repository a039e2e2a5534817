/* SPDX-License-Identifier: MIT */
/* A target's listener, once it is there. All calls are main's. */
#ifndef FERRY_LISTENER_H
#define FERRY_LISTENER_H

#include "runtime/session/session.h"

/* Listens on s->uri. */
int link_listen(struct ferry_session *s);
/*
 * Our source's newer connection replaces the link; anyone else is told that we are busy, most of them by the listener, which
 * takes nobody else once there is a session; some were in the lobby before. 1: there is one in s->link.pending;
 * 0: none; or what keeps this end from looking. What a stranger's connection meets is no cause of the live link's loss.
 */
int link_look(struct ferry_session *s);
/* The link of one who has spoken becomes the session's. */
void link_take_caller(struct ferry_session *s, struct caller *c);
/* It was not the source: main does not wait for its link to be closed. */
void link_part_caller(struct ferry_session *s);
/* Who was taken out of the lobby last: what the transport said of that link is forgotten, too. The link is closed. */
void link_forget_caller(struct ferry_session *s);

#endif
