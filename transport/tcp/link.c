// SPDX-License-Identifier: MIT
/* The link object of tcp: exposed memory, kill, close. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"
#include "runtime/base/fail.h"
#include "transport/dial.h"

static struct tcp_link *link_of(struct xport_link *l)
{
	return (struct tcp_link *)l;
}

static int link_expose(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access)
{
	return xp_table_set(&link_of(l)->table, r, n, access);
}

/* The kernel copies, so any memory will do. */
static int link_lend(struct xport_link *l, const struct iovec *mem, size_t n)
{
	(void)l;
	(void)mem;
	(void)n;
	return 0;
}

static int link_fits(struct xport_link *l, uint64_t bytes)
{
	(void)l;
	(void)bytes;
	return 0;
}

static struct xport_chan *link_chan(struct xport_link *xl, enum xport_role role, unsigned index)
{
	struct tcp_link *l = link_of(xl);

	switch (role) {
	case XPORT_CONTROL:
		return &l->ctl->chan;
	case XPORT_DATA:
		return index < xl->id.channels ? &l->data[index]->chan : NULL;
	case XPORT_URGENT:
		return &l->data[xl->id.channels]->chan;
	}
	return NULL;
}

static void link_kill(struct xport_link *xl)
{
	struct tcp_link *l = link_of(xl);
	unsigned i;

	atomic_store(&l->killed, true);
	shutdown(l->ctl->fd, SHUT_RDWR);
	for (i = 0; i <= xl->id.channels; i++)
		shutdown(l->data[i]->fd, SHUT_RDWR);
}

static void link_free(struct tcp_link *l)
{
	unsigned i;

	for (i = 0; i <= XPORT_CHANNELS_MAX; i++)
		tcp_data_free(l->data[i]);
	if (l->ctl)
		close(l->ctl->fd);
	free(l->ctl);
	xp_table_clear(&l->table);
	free(l);
}

static void link_close(struct xport_link *xl)
{
	link_free(link_of(xl));
}

static const struct xp_link_ops link_ops = {
	.ops = {
		.expose = link_expose,
		.lend = link_lend,
		.fits = link_fits,
		.chan = link_chan,
		.kill = link_kill,
		.close = link_close,
	},
#if FERRY_DRILL
	.tear = tcp_tear,
#endif
};

int tcp_link_new(struct xport_link **ret, const struct xport_link_id *id, const int *fds,
		 const struct xport_param *p, struct fail *f)
{
	struct tcp_link *l = calloc(1, sizeof(*l));
	struct sockaddr_storage peer = { .ss_family = AF_UNSPEC };
	socklen_t len = sizeof(peer);
	unsigned i, taken = 0;
	int err = -ENOMEM;

	if (!l)
		goto out;
	/* kill() must not fail, because only it wakes blocked threads: test now that shutdown() works. */
	if (shutdown(-1, SHUT_RDWR) < 0 && errno != EBADF) {
		err = fail_cure(f, CURE_CALL, -errno, "tcp: shutdown");
		goto out;
	}
	l->link = (struct xport_link){ .ops = &link_ops.ops, .id = *id, .fail = f };
	getpeername(fds[0], (struct sockaddr *)&peer, &len);
	dial_text(l->link.peer, sizeof(l->link.peer), (struct sockaddr *)&peer);
	l->param = *p;
	err = tcp_ctl_new(&l->ctl, l, fds[0]);
	if (err)
		goto out;
	taken = 1;
	for (i = 0; i <= id->channels; i++) {
		err = tcp_data_new(&l->data[i], l, fds[1 + i], i == id->channels);
		if (err)
			goto out;
		taken++;
	}
	*ret = &l->link;
	return 0;
out:
	for (i = taken; i < id->channels + 2; i++)
		close(fds[i]);
	if (l)
		link_free(l);
	return err == -ENOMEM ? fail(f, err, "tcp: no memory for a link of %u channels", id->channels) : err;
}
