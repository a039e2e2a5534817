// SPDX-License-Identifier: MIT
/*
 * Counts the objects of RDMA devices that this process holds, from the kernel's own list (as "rdma resource
 * show" prints it), by netlink: a dump of the devices, then a dump per device and kind of object. Entries
 * with this process id count.
 */
#include "rdma_left.h"

#include <errno.h>
#include <linux/netlink.h>
#include <rdma/rdma_netlink.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEVICES_MAX 16

/* The next attribute in a body of which *rest bytes remain; NULL at its end. */
static const struct nlattr *next_attr(const uint8_t **at, size_t *rest)
{
	const struct nlattr *a = (const struct nlattr *)*at;
	size_t len;

	if (*rest < sizeof(*a) || a->nla_len < sizeof(*a) || a->nla_len > *rest)
		return NULL;
	len = NLA_ALIGN((size_t)a->nla_len);
	len = len < *rest ? len : *rest;
	*at += len;
	*rest -= len;
	return a;
}

static const struct nlattr *find_attr(const void *body, size_t rest, unsigned type)
{
	const uint8_t *at = body;
	const struct nlattr *a;

	while ((a = next_attr(&at, &rest)))
		if ((a->nla_type & NLA_TYPE_MASK) == type)
			return a;
	return NULL;
}

static const void *attr_body(const struct nlattr *a)
{
	return (const uint8_t *)a + NLA_HDRLEN;
}

static uint32_t attr_u32(const struct nlattr *a)
{
	uint32_t v = 0;

	if (a && a->nla_len >= NLA_HDRLEN + sizeof(v))
		memcpy(&v, attr_body(a), sizeof(v));
	return v;
}

static int ask(int sock, unsigned cmd, const uint32_t *device)
{
	struct {
		struct nlmsghdr h;
		struct nlattr a;
		uint32_t index;
	} m = { .h = { .nlmsg_type = RDMA_NL_GET_TYPE(RDMA_NL_NLDEV, cmd),
		       .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.a = { .nla_len = NLA_HDRLEN + 4, .nla_type = RDMA_NLDEV_ATTR_DEV_INDEX } };

	m.index = device ? *device : 0;
	m.h.nlmsg_len = device ? sizeof(m) : sizeof(m.h);
	return send(sock, &m, m.h.nlmsg_len, 0) < 0 ? -errno : 0;
}

/* Read all messages of a dump's answer; each() gets their attributes. */
static int hear(int sock, void (*each)(void *arg, const void *attrs, size_t len), void *arg)
{
	static __thread uint8_t buf[65536] __attribute__((aligned(8)));

	for (;;) {
		ssize_t n = recv(sock, buf, sizeof(buf), 0);
		const struct nlmsghdr *h = (const struct nlmsghdr *)buf;
		int rest = (int)n;

		if (n < 0)
			return -errno;
		for (; NLMSG_OK(h, (unsigned)rest); h = NLMSG_NEXT(h, rest)) {
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
			each(arg, NLMSG_DATA(h), h->nlmsg_len - NLMSG_HDRLEN);
		}
	}
}

struct devices {
	uint32_t index[DEVICES_MAX];
	unsigned n;
};

static void add_device(void *arg, const void *attrs, size_t len)
{
	const struct nlattr *a = find_attr(attrs, len, RDMA_NLDEV_ATTR_DEV_INDEX);
	struct devices *d = arg;

	if (a && d->n < DEVICES_MAX)
		d->index[d->n++] = attr_u32(a);
}

static const struct kind {
	const char *name;
	unsigned cmd, table;
} kinds[] = {
	{ "PD", RDMA_NLDEV_CMD_RES_PD_GET, RDMA_NLDEV_ATTR_RES_PD },
	{ "CQ", RDMA_NLDEV_CMD_RES_CQ_GET, RDMA_NLDEV_ATTR_RES_CQ },
	{ "QP", RDMA_NLDEV_CMD_RES_QP_GET, RDMA_NLDEV_ATTR_RES_QP },
	{ "CM_ID", RDMA_NLDEV_CMD_RES_CM_ID_GET, RDMA_NLDEV_ATTR_RES_CM_ID },
	{ "MR", RDMA_NLDEV_CMD_RES_MR_GET, RDMA_NLDEV_ATTR_RES_MR },
};

struct counting {
	const struct kind *kind;
	unsigned n;
};

static void count_mine(void *arg, const void *attrs, size_t len)
{
	struct counting *c = arg;
	const struct nlattr *table = find_attr(attrs, len, c->kind->table), *entry;
	const uint8_t *at = table ? attr_body(table) : NULL;
	size_t rest = table ? table->nla_len - NLA_HDRLEN : 0;

	while ((entry = next_attr(&at, &rest)))
		if (attr_u32(find_attr(attr_body(entry), entry->nla_len - NLA_HDRLEN,
				       RDMA_NLDEV_ATTR_RES_PID)) == (uint32_t)getpid())
			c->n++;
}

int rdma_left(char *what, size_t cap)
{
	int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_RDMA), err;
	struct devices d = { .n = 0 };
	unsigned i, k, all = 0;

	what[0] = 0;
	if (sock < 0)
		return 0;
	err = ask(sock, RDMA_NLDEV_CMD_GET, NULL);
	if (!err)
		err = hear(sock, add_device, &d);
	for (k = 0; k < sizeof(kinds) / sizeof(kinds[0]) && !err; k++) {
		struct counting c = { .kind = &kinds[k] };
		size_t used = strlen(what);

		for (i = 0; i < d.n && !err; i++) {
			err = ask(sock, c.kind->cmd, &d.index[i]);
			if (!err)
				err = hear(sock, count_mine, &c);
		}
		if (c.n)
			snprintf(what + used, cap - used, "%s%u %s", used ? ", " : "", c.n, c.kind->name);
		all += c.n;
	}
	close(sock);
	if (!err)
		return (int)all;
	snprintf(what, cap, "the kernel does not list RDMA objects: %s", strerror(-err));
	return -1;
}
