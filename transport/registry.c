// SPDX-License-Identifier: MIT
/* The transport registry: a row per URI scheme; filters go on top, chaos above shape. */
#include <errno.h>
#include <string.h>

#include "xport_int.h"
#include "runtime/base/fail.h"

static const struct scheme {
	const char *name, *options; /* besides the filters' */
	int (*listen)(struct xport_listener **ret, const struct uri *u, const struct xport_param *p,
		      struct fail *f);
	int (*connect)(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		       const struct xport_param *p, uint64_t wait_us, struct fail *f);
} schemes[] = {
	{ "tcp", "congestion", tcp_listen, tcp_connect },
	{ "mem", "", mem_listen, mem_connect },
#if FERRY_RDMA
	{ "rdma", "pin dev gid mtu", xr_listen, xr_connect },
#else
	{ "rdma", "pin dev gid mtu", NULL, NULL }, /* so the refusal says that the build lacks it */
#endif
};

/*
 * The errnos that the kernel returns for a lost connection (reset, closed, retransmissions given up) and for
 * a lost path to the peer (ICMP and ICMPv6 errors, an interface or a route that has gone), at once or when
 * retransmission is given up. Any other errno concerns this end: a refused call, missing memory, a limit.
 */
bool xport_lost(int err)
{
	static const int lost[] = { EPIPE,     ECONNRESET,   ECONNABORTED, ECONNREFUSED, ENOTCONN,
				    ESHUTDOWN, ETIMEDOUT,    ENETDOWN,	   ENETUNREACH,	 ENETRESET,
				    EHOSTDOWN, EHOSTUNREACH, ENONET,	   ENOPROTOOPT };
	size_t i;

	for (i = 0; i < sizeof(lost) / sizeof(lost[0]); i++)
		if (lost[i] == err || -lost[i] == err)
			return true;
	return false;
}

/* Whether key is one of the words of list. */
static bool has_word(const char *list, const char *key)
{
	size_t len = strlen(key);
	const char *at;

	for (at = list; (at = strstr(at, key)); at += len)
		if ((at == list || at[-1] == ' ') && (!at[len] || at[len] == ' '))
			return true;
	return false;
}

static int pick(const struct scheme **ret, struct uri *u, const char *text, struct fail *f)
{
	size_t i;
	int err;

	err = uri_parse(u, text, f);
	if (err)
		return err;
	for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
		if (strcmp(schemes[i].name, u->scheme))
			continue;
		if (!schemes[i].listen)
			return fail(f, -EOPNOTSUPP, "URI \"%s\": %s is not in this build; use tcp:host:port",
				    text, u->scheme);
		*ret = &schemes[i];
		return 0;
	}
	return fail(f, -EINVAL, "URI \"%s\": unknown scheme \"%s\"; there are tcp, rdma and mem", text,
		    u->scheme);
}

/* Merge the URI's and the parameters' demands on the shape filter; the smaller bandwidth applies. */
static int shape_of(struct shape_param *ret, const struct scheme *scheme, const struct uri *u,
		    const struct xport_param *p, struct fail *f)
{
	uint64_t bandwidth, latency;
	unsigned i;
	int err;

	for (i = 0; i < u->nquery; i++) {
		if (!has_word("bandwidth latency", u->query[i].key) &&
		    !has_word(scheme->options, u->query[i].key))
			return fail(f, -EINVAL,
				    "URI option \"%s\" is unknown; %s takes bandwidth and latency%s%s",
				    u->query[i].key, u->scheme, scheme->options[0] ? ", and " : "",
				    scheme->options);
	}
	err = uri_query_u64(u, "bandwidth", 0, &bandwidth, f);
	if (!err)
		err = uri_query_u64(u, "latency", 0, &latency, f);
	if (err)
		return err;
	if (latency > 10000000)
		return fail(f, -EINVAL, "URI option latency=%s: more than 10 seconds",
			    uri_query(u, "latency"));
	if (p->bandwidth && (!bandwidth || p->bandwidth < bandwidth))
		bandwidth = p->bandwidth;
	*ret = (struct shape_param){ .bandwidth = bandwidth, .latency_us = latency };
	return 0;
}

int xport_listen(struct xport_listener **ret, const char *uri, const struct xport_param *p, struct fail *f)
{
	const struct scheme *scheme;
	struct xport_listener *l;
	struct shape_param shape;
	struct uri u;
	int err;

	err = pick(&scheme, &u, uri, f);
	if (!err)
		err = shape_of(&shape, scheme, &u, p, f);
	if (!err)
		err = scheme->listen(&l, &u, p, f);
	if (!err && (shape.bandwidth || shape.latency_us))
		err = shape_listener(&l, l, &shape, f);
	if (FERRY_DRILL && !err && p->chaos)
		err = chaos_listener(&l, l, p->chaos, p, f);
	if (!err)
		*ret = l;
	return err;
}

int xport_connect(struct xport_link **ret, const char *uri, const struct xport_link_id *id,
		  const struct xport_param *p, uint64_t wait_us, struct fail *f)
{
	const struct scheme *scheme;
	struct shape_param shape;
	struct xport_link *l;
	struct uri u;
	int err;

	err = pick(&scheme, &u, uri, f);
	if (err)
		return err;
	if (!id->channels || id->channels > XPORT_CHANNELS_MAX)
		return fail(f, -EINVAL, "%u data channels asked for; 1 to %u are possible", id->channels,
			    XPORT_CHANNELS_MAX);
	err = shape_of(&shape, scheme, &u, p, f);
	if (FERRY_DRILL && !err && p->chaos)
		err = chaos_may_connect(p->chaos, f);
	if (!err)
		err = scheme->connect(&l, &u, id, p, wait_us, f);
	if (!err && (shape.bandwidth || shape.latency_us))
		err = shape_link(&l, l, &shape, f);
	if (FERRY_DRILL && !err && p->chaos)
		err = chaos_link(&l, l, p->chaos, p, f);
	if (!err)
		*ret = l;
	return err;
}
