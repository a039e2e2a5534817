// SPDX-License-Identifier: MIT
/* A listening socket with a full queue. */
#include "hole.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

/* Whether the queue is full: a new connection then stays in progress. */
static bool is_full(struct hole *h, const struct sockaddr_in *at)
{
	struct pollfd p = { .events = POLLOUT };

	cr_assert_lt(h->n, sizeof(h->fd) / sizeof(h->fd[0]), "the kernel queues without end");
	p.fd = h->fd[h->n++] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	cr_assert(!connect(p.fd, (const struct sockaddr *)at, sizeof(*at)) || errno == EINPROGRESS);
	return poll(&p, 1, 100) == 0;
}

void hole_dig(struct hole *h, const char *host, unsigned port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	socklen_t len = sizeof(at);

	*h = (struct hole){ .lfd = socket(AF_INET, SOCK_STREAM, 0) };
	cr_assert_eq(inet_pton(AF_INET, host, &at.sin_addr), 1);
	cr_assert(!bind(h->lfd, (struct sockaddr *)&at, sizeof(at)) && !listen(h->lfd, 0));
	cr_assert(!getsockname(h->lfd, (struct sockaddr *)&at, &len));
	h->port = ntohs(at.sin_port);
	while (!is_full(h, &at))
		;
}

void hole_fill(struct hole *h)
{
	while (h->n)
		close(h->fd[--h->n]);
	close(h->lfd);
}
