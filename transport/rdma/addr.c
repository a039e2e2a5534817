// SPDX-License-Identifier: MIT
/*
 * URI options of rdma, and the address that a device and an index of its GID table select. The connection
 * manager chooses the device by that address, and its RoCE v2 entry if there is one.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "rdma.h"
#include "runtime/base/fail.h"

static int option_pin(struct xr_options *o, const char *v, struct fail *f)
{
	static const char *const names[] = { "all", "lazy", "odp" };
	unsigned i;

	_Static_assert(sizeof(names) / sizeof(names[0]) == XR_PIN_ODP + 1, "a name a way to pin");
	for (i = 0; v && i <= XR_PIN_ODP; i++) {
		if (!strcmp(v, names[i])) {
			o->pin = (enum xr_pin)i;
			return 0;
		}
	}
	return v ? fail(f, -EINVAL, "URI option pin=%s: it is all, lazy or odp", v) : 0;
}

int xr_options(struct xr_options *ret, const struct uri *u, struct fail *f)
{
	struct xr_options o = { .pin = XR_PIN_ALL, .mtu = IBV_MTU_4096, .gid = -1 };
	const char *dev = uri_query(u, "dev");
	uint64_t mtu, gid;
	int err;

	err = option_pin(&o, uri_query(u, "pin"), f);
	if (!err)
		err = uri_query_u64(u, "mtu", 4096, &mtu, f);
	if (!err)
		err = uri_query_u64(u, "gid", UINT64_MAX, &gid, f);
	if (err)
		return err;
	if (mtu < 256 || mtu > 4096 || mtu & (mtu - 1))
		return fail(f, -EINVAL, "URI option mtu=%s: it is 256, 512, 1024, 2048 or 4096",
			    uri_query(u, "mtu"));
	for (o.mtu = IBV_MTU_256; 128u << o.mtu < mtu; o.mtu++)
		;
	if (uri_query(u, "gid")) {
		if (!dev || gid > 65535)
			return fail(f, -EINVAL,
				    "URI option gid=%s: an index into the table of the device that dev= names",
				    uri_query(u, "gid"));
		o.gid = (int)gid;
	}
	if (dev && (!dev[0] || strlen(dev) >= sizeof(o.dev)))
		return fail(f, -EINVAL,
			    "URI option dev=%s: it is the name of a device, as in /sys/class/infiniband",
			    dev);
	if (dev)
		memcpy(o.dev, dev, strlen(dev) + 1);
	*ret = o;
	return 0;
}

static bool address_of(struct sockaddr_storage *ret, const struct ibv_gid_entry *e)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;

	memset(ret, 0, sizeof(*ret));
	if (!memcmp(e->gid.raw, mapped, sizeof(mapped))) {
		v4->sin_family = AF_INET;
		memcpy(&v4->sin_addr, e->gid.raw + 12, 4);
		return true;
	}
	v6->sin6_family = AF_INET6;
	memcpy(&v6->sin6_addr, e->gid.raw, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
		v6->sin6_scope_id = e->ndev_ifindex;
	return !IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

/* Find entry gid; if gid is negative, the first RoCE v2 or InfiniBand entry of the family (0: any). */
static bool search(struct sockaddr_storage *ret, struct ibv_context *ctx, int gid, int family)
{
	struct ibv_gid_entry *e = calloc(1024, sizeof(*e));
	struct sockaddr_storage a;
	bool found = false;
	ssize_t n, i;

	n = e ? ibv_query_gid_table(ctx, e, 1024, 0) : 0;
	for (i = 0; i < n && !found; i++) {
		if (gid >= 0 ? (int)e[i].gid_index != gid : e[i].gid_type == IBV_GID_TYPE_ROCE_V1)
			continue;
		if (!address_of(&a, &e[i]) || (family && a.ss_family != family))
			continue;
		if (gid < 0 && a.ss_family == AF_INET6 &&
		    IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)&a)->sin6_addr))
			continue;
		*ret = a;
		found = true;
	}
	free(e);
	return found;
}

int xr_source_addr(struct sockaddr_storage *ret, const struct xr_options *o, const struct sockaddr *like,
		   struct fail *f)
{
	struct ibv_context **list;
	bool known = false, found = false;
	int n = 0, i;

	list = rdma_get_devices(&n);
	for (i = 0; i < n && !found; i++) {
		if (strcmp(list[i]->device->name, o->dev))
			continue;
		known = true;
		found = search(ret, list[i], o->gid, like ? like->sa_family : 0);
	}
	if (list)
		rdma_free_devices(list);
	if (found)
		return 0;
	if (!known)
		return fail(f, -ENODEV,
			    "there is no RDMA device \"%s\" here; /sys/class/infiniband lists what there is",
			    o->dev);
	return fail(f, -EADDRNOTAVAIL, "RDMA device %s has no %s address%s to use", o->dev,
		    !like			 ? "IP"
		    : like->sa_family == AF_INET ? "IPv4"
						 : "IPv6",
		    o->gid >= 0 ? " at that index of its GID table" : "");
}

int xr_nonblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}
