/* SPDX-License-Identifier: MIT */
/*
 * Which congestion control a migration's connections have: the host's, but for BBR, which spaces segments out with a timer
 * each. Within a data centre that buys nothing and costs half the speed of a single connection (docs/benchmarking.md). The
 * bench's bare socket does the same, or it would measure BBR and not the machine.
 */
#ifndef FERRY_CONGESTION_H
#define FERRY_CONGESTION_H

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#ifndef TCP_CONGESTION
#define TCP_CONGESTION 13 /* linux/tcp.h, which does not go with netinet/tcp.h */
#endif

/* As setsockopt(). */
static inline int congestion_set(int fd, const char *name)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
}

static inline void congestion_default(int fd)
{
	char now[16] = "";
	socklen_t len = sizeof(now) - 1;

	if (!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, now, &len) && !strncmp(now, "bbr", 3) && congestion_set(fd, "cubic"))
		congestion_set(fd, "reno"); /* what every user may have */
}

#endif
