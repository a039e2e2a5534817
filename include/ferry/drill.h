/* SPDX-License-Identifier: MIT */
/*
 * Fault injection: how rdma-migrate and ferry's own tests break a migration on purpose, and how an embedder may.
 *
 * This header is no part of what libferry promises: its symbol has the version FERRY_PRIVATE, another release may have it
 * otherwise or not at all, and a build without FERRY_DRILL has none of it. ferry_has("drill") asks.
 */
#ifndef FERRY_DRILL_H
#define FERRY_DRILL_H

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FERRY_CONFIG_DRILL 2u /* config.flags: allow ferry_drill(); -EOPNOTSUPP where the build has none */

/*
 * Any thread: break something on purpose. -EINVAL, -EPERM without the flag.
 *
 *	"cut", "cut:MS"		the link, for good or so that connections fail for MS milliseconds
 *	"stall:MS"		nothing moves for so long
 *	"mtu", "mtu:MS"		packets of full size are lost, for good or for MS milliseconds: page data and messages above 1,000
 *				bytes do not arrive, shorter ones do, and a link that was lost comes back
 *	"keep", "keep:MS"	a lost link is not closed: a device that does not let go, for good or for MS milliseconds
 *	"heal"			ends these
 *	"cut-before:MESSAGE"	the link is cut instead of sending the next message of that name (docs/protocol.md: "COMMIT");
 *	"cut-middle:", "cut-after:"	or in its middle, or when it is out
 *	"lost:MESSAGE"		it vanishes, and everything that follows on that link, both ways
 *	"kill-before:MESSAGE", "kill-after:", "stop-before:", "stop-after:"	SIGKILL or SIGSTOP for this process
 *	"kill-heard:MESSAGE"	SIGKILL when it has arrived; "kill-at:" that, or instead of sending it
 *	"pending"		asks: 1 while a fault waits for its message, else 0
 *
 * MESSAGE@N is the Nth from now on; :MS behind cut-* and lost is as for "cut". One fault waits at a time.
 */
int ferry_drill(struct ferry_session *s, const char *fault);

#ifdef __cplusplus
}
#endif
#endif
