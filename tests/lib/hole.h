/* SPDX-License-Identifier: MIT */
/*
 * A black hole on this host: a socket that listens and whose queue is full, so that the kernel drops further SYNs to it without
 * a word.
 */
#ifndef TESTS_HOLE_H
#define TESTS_HOLE_H

struct hole {
	int lfd, fd[16];
	unsigned n, port;
};

void hole_dig(struct hole *h, const char *host, unsigned port); /* port 0: any; it is in h then */
void hole_fill(struct hole *h);

#endif
