// SPDX-License-Identifier: MIT
/* The listener of mem, and how two ends find each other; mem.h has the theory. */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "mem.h"
#include "runtime/base/fail.h"

#define WAKE_US 20000u

struct mem_listener {
	struct xport_listener listener;
	struct xport_param param;
	struct xp_only only;
	int fd;
	char uri[270];
};

/* Take the pair that one datagram offers; NULL if there is none. */
static struct pair *take_offer(int fd)
{
	char control[CMSG_SPACE(sizeof(struct ucred))];
	struct pair *p;
	struct iovec iov = { .iov_base = &p, .iov_len = sizeof(p) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cm;
	struct ucred cred;
	ssize_t n;

	for (;;) {
		msg.msg_control = control;
		msg.msg_controllen = sizeof(control);
		n = recvmsg(fd, &msg, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return NULL;
		cm = CMSG_FIRSTHDR(&msg);
		if (n != (ssize_t)sizeof(p) || !cm || cm->cmsg_level != SOL_SOCKET ||
		    cm->cmsg_type != SCM_CREDENTIALS)
			continue; /* not from mem_connect() */
		memcpy(&cred, CMSG_DATA(cm), sizeof(cred));
		if (cred.pid == getpid())
			return p;
	}
}

/* Set the state of an offer; false if the connecting end has withdrawn it. */
static bool settle(struct pair *p, enum pair_state state)
{
	bool ok;

	pthread_mutex_lock(&p->lock);
	ok = p->state == PAIR_OFFERED;
	if (ok)
		p->state = state;
	pthread_cond_broadcast(&p->cond);
	pthread_mutex_unlock(&p->lock);
	return ok;
}

static int listener_accept(struct xport_listener *xl, struct xport_link **ret, struct fail *f)
{
	struct mem_listener *l = (struct mem_listener *)xl;
	struct mem_link *link;
	struct pair *p;

	if (mem_link_new(&link, &l->param))
		return fail(f, -ENOMEM, "%s: no memory for a link", l->uri);
	while ((p = take_offer(l->fd))) {
		if (!xp_wanted(&l->only, p->id.session, p->id.generation)) {
			settle(p, PAIR_TAKEN);
		} else if (settle(p, PAIR_ACCEPTED)) {
			mem_link_join(link, p, 1, f);
			*ret = &link->link;
			return 0;
		}
		mem_pair_put(p);
	}
	free(link);
	return -EAGAIN;
}

static int listener_fd(struct xport_listener *l)
{
	return ((struct mem_listener *)l)->fd;
}

static int listener_uri(struct xport_listener *xl, char *buf, size_t cap)
{
	struct mem_listener *l = (struct mem_listener *)xl;

	if (strlen(l->uri) >= cap)
		return -ENOSPC;
	memcpy(buf, l->uri, strlen(l->uri) + 1);
	return 0;
}

static void listener_only(struct xport_listener *xl, const struct xport_link_id *id)
{
	((struct mem_listener *)xl)->only = (struct xp_only){ .set = true, .id = *id };
}

static void listener_close(struct xport_listener *xl)
{
	struct mem_listener *l = (struct mem_listener *)xl;
	struct pair *p;

	shutdown(l->fd, SHUT_RD); /* from now on sending to it fails */
	while ((p = take_offer(l->fd))) {
		settle(p, PAIR_REFUSED);
		mem_pair_put(p);
	}
	close(l->fd);
	free(l);
}

static const struct xport_listener_ops listener_ops = {
	.accept = listener_accept,
	.fd = listener_fd,
	.uri = listener_uri,
	.only = listener_only,
	.close = listener_close,
};

static int name_addr(struct sockaddr_un *addr, socklen_t *len, const struct uri *u, struct fail *f)
{
	int n;

	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	n = snprintf(addr->sun_path + 1, sizeof(addr->sun_path) - 1, "ferry-mem.%d.%s", (int)getpid(),
		     u->host);
	if (n >= (int)sizeof(addr->sun_path) - 1)
		return fail(f, -EINVAL, "mem:%s: the name is too long; 64 characters are fine", u->host);
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
	return 0;
}

int mem_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f)
{
	struct mem_listener *l;
	struct sockaddr_un addr;
	socklen_t len;
	int err, one = 1;

	err = name_addr(&addr, &len, u, f);
	if (err)
		return err;
	l = calloc(1, sizeof(*l));
	if (!l)
		return fail(f, -ENOMEM, "mem: no memory for a listener");
	l->listener.ops = &listener_ops;
	l->param = *p;
	snprintf(l->uri, sizeof(l->uri), "mem:%s", u->host);
	l->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || setsockopt(l->fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0 ||
	    bind(l->fd, (struct sockaddr *)&addr, len) < 0) {
		err = fail(f, -errno, "cannot listen on %s: %s", l->uri, strerror(errno));
		if (l->fd >= 0)
			close(l->fd);
		free(l);
		return err;
	}
	*ret = &l->listener;
	return 0;
}

static int offer(struct pair *p, const struct sockaddr_un *addr, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err = 0;

	if (fd < 0)
		return -errno;
	if (sendto(fd, &p, sizeof(p), MSG_NOSIGNAL, (const struct sockaddr *)addr, len) < 0)
		err = -errno;
	close(fd);
	return err;
}

/*
 * Wait until the offer is taken: 0, or woken()'s error. A condition variable cannot wait for a descriptor, so
 * wake_fd is polled every WAKE_US.
 */
static int await_taken(struct pair *p, uint64_t end, const struct xport_param *param)
{
	struct pollfd wake = { .fd = param->woken ? param->wake_fd : -1, .events = POLLIN };
	uint64_t now;
	int err;

	while (p->state == PAIR_OFFERED && (now = now_us()) < end) {
		mem_pair_wait(p, now + WAKE_US < end ? now + WAKE_US : end);
		if (poll(&wake, 1, 0) <= 0)
			continue;
		pthread_mutex_unlock(&p->lock);
		err = param->woken(param->woken_arg);
		pthread_mutex_lock(&p->lock);
		if (err)
			return err;
	}
	return 0;
}

int mem_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		const struct xport_param *param, uint64_t wait_us, struct fail *f)
{
	uint64_t end = deadline_after(now_us(), wait_us);
	struct sockaddr_un addr;
	enum pair_state state;
	struct mem_link *l;
	struct pair *p;
	socklen_t len;
	int err;

	err = name_addr(&addr, &len, u, f);
	if (err)
		return err;
	err = mem_link_new(&l, param);
	if (err)
		return fail(f, err, "mem: no memory for a link");
	err = mem_pair_new(&p, id);
	if (err) {
		free(l);
		return fail(f, err, "mem:%s: no memory or descriptors for a link", u->host);
	}
	err = offer(p, &addr, len);
	if (err) {
		mem_pair_put(p); /* the datagram's reference */
		if (err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS)
			err = fail(f, err, "mem:%s: no memory or descriptors for a link", u->host);
		else
			err = fail(f, -ECONNREFUSED, "cannot connect to mem:%s: %s", u->host,
				   err == -EAGAIN
					   ? "too many are waiting"
					   : "nobody listens there in this process; open the target first");
		goto out;
	}
	pthread_mutex_lock(&p->lock);
	err = await_taken(p, end, param);
	if (p->state == PAIR_OFFERED)
		p->state = PAIR_WITHDRAWN;
	state = p->state;
	pthread_mutex_unlock(&p->lock);
	if (state == PAIR_ACCEPTED) {
		mem_link_join(l, p, 0, f);
		*ret = &l->link;
		return 0;
	}
	if (!err && state == PAIR_TAKEN)
		err = fail(f, -EBUSY, "mem:%s is busy with another migration", u->host);
	else if (!err)
		err = state == PAIR_REFUSED ? fail(f, -ECONNREFUSED, "mem:%s stopped listening", u->host)
					    : fail(f, -ETIMEDOUT, "mem:%s did not accept in time", u->host);
out:
	mem_pair_put(p);
	free(l);
	return err;
}
