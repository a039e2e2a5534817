/* SPDX-License-Identifier: MIT */
/*
 * The link of a session: the first connection, reconnects, close. message.h has what crosses it. Called by
 * main only. -EPIPE: the link is lost, and link_recover() may bring it back. Any other error ends the
 * migration at this end.
 */
#ifndef FERRY_LINK_H
#define FERRY_LINK_H

#include "message.h"

/* Make the first connection and its handshake, within connect_us. */
int link_first(struct ferry_session *s);
/*
 * After -EPIPE, with the workers joined: close the link and wait for a new one (outage_window()). 0: it is
 * up; at a source s->link.peer_commit has the target's state. LINK_GONE: it is lost for good, with a
 * sentence.
 *
 * A link that comes back repeatedly but carries nothing is lost for good, too: losses without progress
 * between them are one outage, which lasts at most the window plus timeout_us. Progress is a phase entered or
 * a round ended; at a target, pages that arrived; at a source, pages that it knows the target has; or a link
 * that lasts more than four times timeout_us.
 */
int link_recover(struct ferry_session *s);
/* Close the current link and wait for that; at a target stop listening, too. */
void link_close(struct ferry_session *s);
/*
 * Wait, without limit, until the background close of the previous link is done; then no device can reach
 * guest memory through it. The current link is not touched.
 */
void link_wait_closed(struct ferry_session *s);

/*
 * After link_say_failed() did not reach the peer: say it over a new link, as long as the peer may still be
 * there. ferry_cancel() ends the wait. The workers must be joined, and the VM must need nothing any more.
 */
void link_tell_again(struct ferry_session *s);

#endif
