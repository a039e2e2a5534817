/* SPDX-License-Identifier: MIT */
/*
 * A black hole on this host: a listening socket with a full queue. The kernel drops further SYNs to it and
 * answers nothing.
 */
#ifndef TESTS_HOLE_H
#define TESTS_HOLE_H

struct hole {
	int lfd, fd[16];
	unsigned n, port;
};

void hole_dig(struct hole *h, const char *host, unsigned port); /* port 0: any free one; h then has it */
void hole_fill(struct hole *h);

#endif
