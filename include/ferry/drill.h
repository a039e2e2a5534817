/* SPDX-License-Identifier: MIT */
/*
 * Fault injection, for rdma-migrate, ferry's tests and embedders' tests.
 *
 * This header is not part of the stable API. Its symbol has the version FERRY_PRIVATE; another release may
 * change or drop it. A build without FERRY_DRILL does not have it; ferry_has("drill") tells.
 */
#ifndef FERRY_DRILL_H
#define FERRY_DRILL_H

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ferry_config.flags: allow ferry_drill(). -EOPNOTSUPP from ferry_*_new() in a build without drill. */
#define FERRY_CONFIG_DRILL 2u

/*
 * Inject a fault at this end. Any thread. -EINVAL (unknown fault), -EPERM (the session lacks
 * FERRY_CONFIG_DRILL). MS is milliseconds; without it the fault lasts for good. MESSAGE is a name of
 * docs/protocol.md such as COMMIT.
 *
 *	cut, cut:MS		cut the link; until MS has passed new connections fail
 *	stall:MS		no data moves for MS
 *	mtu, mtu:MS		drop full-size packets: page data and messages above 1000 bytes do not arrive,
 *				shorter messages do, and a lost link can reconnect
 *	keep, keep:MS		closing a lost link blocks, as with a device that does not release it
 *	heal			end the faults above
 *	cut-before:MESSAGE	cut the link instead of sending the next MESSAGE
 *	cut-middle:MESSAGE	cut the link in the middle of MESSAGE
 *	cut-after:MESSAGE	cut the link after MESSAGE was sent
 *	lost:MESSAGE		drop MESSAGE and everything after it on that link, both ways
 *	kill-before:MESSAGE	SIGKILL this process instead of sending MESSAGE; kill-after: after sending it
 *	stop-before:MESSAGE	SIGSTOP this process before sending MESSAGE; stop-after: after sending it
 *	kill-heard:MESSAGE	SIGKILL this process when MESSAGE has arrived
 *	kill-at:MESSAGE		kill-before or kill-heard, whichever comes first
 *	pending			break nothing: return 1 if a fault is waiting for its message, else 0
 *
 * MESSAGE@N is the Nth such message from now on. cut-* and lost take :MS like cut. Only one fault can wait
 * for a message; a new one replaces it.
 */
int ferry_drill(struct ferry_session *s, const char *fault);

#ifdef __cplusplus
}
#endif
#endif
