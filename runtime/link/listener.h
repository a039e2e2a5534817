/* SPDX-License-Identifier: MIT */
/* A target's listener. Called by main only. */
#ifndef FERRY_LISTENER_H
#define FERRY_LISTENER_H

#include "runtime/session/session.h"

/* Listen on s->uri, and write the chosen port into it. 0, or an error with its sentence. */
int link_listen(struct ferry_session *s);
/*
 * Handle the callers that have spoken: our source on a newer connection goes to s->link.pending and will
 * replace the link; others are refused as busy. (Once there is a session, the listener refuses most of them
 * itself.) 1: s->link.pending is set; 0: it is not; < 0: this end cannot accept. What happens on a stranger's
 * connection is never recorded as the cause of the live link's loss.
 */
int link_look(struct ferry_session *s);
/* Make a caller's link the session's. */
void link_take_caller(struct ferry_session *s, struct caller *c);
/* The current caller is not the source: give up its link. Main does not wait for the close. */
void link_part_caller(struct ferry_session *s);
/* Free the current or last caller, whose link is closed, with what the transport said of that link. */
void link_forget_caller(struct ferry_session *s);

#endif
