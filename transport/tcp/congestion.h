/* SPDX-License-Identifier: MIT */
/*
 * Selects the congestion control of a migration's connections: the host's default, except BBR. BBR spaces
 * segments out by timers, which has no benefit within a data centre and halved the speed of a single
 * connection (docs/benchmarking.md). The bench's bare socket does the same; otherwise it would measure BBR.
 */
#ifndef FERRY_CONGESTION_H
#define FERRY_CONGESTION_H

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#ifndef TCP_CONGESTION
#define TCP_CONGESTION 13 /* from linux/tcp.h, which conflicts with netinet/tcp.h */
#endif

/* Returns as setsockopt() does. */
static inline int congestion_set(int fd, const char *name)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
}

static inline void congestion_default(int fd)
{
	char now[16] = "";
	socklen_t len = sizeof(now) - 1;

	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, now, &len) && !strncmp(now, "bbr", 3) &&
	    congestion_set(fd, "cubic"))
		congestion_set(fd, "reno"); /* any user may set it */
}

#endif
