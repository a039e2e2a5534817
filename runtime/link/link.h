/* SPDX-License-Identifier: MIT */
/*
 * The link of a session: first connection and reconnects; message.h has what goes over it.
 *
 * Everything here is called by main. -EPIPE means: the link is lost,
 * link_recover() may bring it back. Any other error ends the migration at this end.
 */
#ifndef FERRY_LINK_H
#define FERRY_LINK_H

#include "message.h"

/* The first connection and its HELLO, within connect_us. */
int link_first(struct ferry_session *s);
/*
 * After -EPIPE: ends what is left of the link (the workers must have been joined) and waits reconnect_us for a new
 * one. 0: it is there, and s->link.peer_commit says where the peer stands. LINK_GONE: for good, with a sentence.
 *
 * A link that comes back again and again and carries nothing is gone for good, too: losses with no progress between
 * them are one outage, which lasts reconnect_us and timeout_us at most. Progress is a phase entered, a round ended, at a target
 * pages that have come, at a source what it knows the target has got; or a link that stays for four times timeout_us.
 */
int link_recover(struct ferry_session *s);
void link_close(struct ferry_session *s);
/* No link that was lost knows our memory any more: waits for that, however long. The current one is not touched. */
void link_closed(struct ferry_session *s);

/*
 * link_say_failed() has not reached the peer, which may be connecting or waiting: says it over a new link, as long as the
 * peer may still be there. ferry_cancel() ends the wait. The workers must have been joined; the VM needs nothing any more.
 */
void link_tell_again(struct ferry_session *s);

#endif
