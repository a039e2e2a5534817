// SPDX-License-Identifier: MIT
/* Parser for transport URIs: scheme, host, port, options. */
#include "uri.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "runtime/base/fail.h"

static bool is_network(const char *scheme)
{
	return !strcmp(scheme, "tcp") || !strcmp(scheme, "rdma");
}

/* Copy text[0..len) if it fits and is printable without blanks. */
static bool take(char *dst, size_t cap, const char *text, size_t len)
{
	size_t i;

	if (len >= cap)
		return false;
	for (i = 0; i < len; i++) {
		if (!isgraph((unsigned char)text[i]))
			return false;
	}
	memcpy(dst, text, len);
	dst[len] = '\0';
	return true;
}

static int parse_port(struct uri *u, const char *s, size_t len, const char *text, struct fail *f)
{
	unsigned long port = 0;
	size_t i;

	if (!len || len > 5)
		return fail(f, -EINVAL, "URI \"%s\": the port is missing or too long; give 0 to 65535", text);
	for (i = 0; i < len; i++) {
		if (!isdigit((unsigned char)s[i]))
			return fail(f, -EINVAL,
				    "URI \"%s\": port \"%.*s\" is not a number; write %s:host:port", text,
				    (int)len, s, u->scheme);
		port = port * 10 + (unsigned long)(s[i] - '0');
	}
	if (port > 65535)
		return fail(f, -EINVAL, "URI \"%s\": port %lu is above 65535; take a smaller one", text,
			    port);
	u->port = (uint16_t)port;
	return 0;
}

static int parse_hostport(struct uri *u, const char *s, size_t len, const char *text, struct fail *f)
{
	const char *end, *colon;
	size_t hlen;

	if (len && s[0] == '[') {
		end = memchr(s, ']', len);
		if (!end || end + 1 >= s + len || end[1] != ':')
			return fail(f, -EINVAL, "URI \"%s\": an IPv6 address is written [address]:port",
				    text);
		s++;
		hlen = (size_t)(end - s);
		len -= 1;
		colon = end + 1;
		if (!hlen)
			return fail(f, -EINVAL,
				    "URI \"%s\": there is no address between the brackets; write [address]:port",
				    text);
	} else {
		colon = memchr(s, ':', len);
		if (!colon)
			return fail(f, -EINVAL, "URI \"%s\": the port is missing; write %s:host:port", text,
				    u->scheme);
		hlen = (size_t)(colon - s);
		if (memchr(colon + 1, ':', len - hlen - 1))
			return fail(f, -EINVAL, "URI \"%s\": an IPv6 address is written [address]:port",
				    text);
	}
	if (!take(u->host, sizeof(u->host), s, hlen))
		return fail(f, -EINVAL, "URI \"%s\": the host is too long or has blanks in it", text);
	return parse_port(u, colon + 1, (size_t)(s + len - colon - 1), text, f);
}

static int parse_query(struct uri *u, const char *s, const char *text, struct fail *f)
{
	while (*s) {
		size_t len = strcspn(s, "&");
		const char *eq = memchr(s, '=', len);

		if (u->nquery == URI_QUERY_MAX)
			return fail(f, -EINVAL, "URI \"%s\": more than %d options", text, URI_QUERY_MAX);
		if (!eq || eq == s)
			return fail(f, -EINVAL,
				    "URI \"%s\": option \"%.*s\" is not key=value, as in bandwidth=100M",
				    text, (int)len, s);
		if (!take(u->query[u->nquery].key, sizeof(u->query[0].key), s, (size_t)(eq - s)) ||
		    !take(u->query[u->nquery].value, sizeof(u->query[0].value), eq + 1,
			  (size_t)(s + len - eq - 1)))
			return fail(f, -EINVAL, "URI \"%s\": option \"%.*s\" is too long or has blanks in it",
				    text, (int)len, s);
		if (uri_query(u, u->query[u->nquery].key))
			return fail(f, -EINVAL, "URI \"%s\": option %s is given twice; leave one out", text,
				    u->query[u->nquery].key);
		u->nquery++;
		s += len;
		if (*s == '&')
			s++;
	}
	return 0;
}

int uri_parse(struct uri *ret, const char *text, struct fail *f)
{
	struct uri u = { .port = 0 };
	const char *rest, *query;
	size_t len;
	int err;

	if (!text)
		return fail(f, -EINVAL, "no URI is given; write for example tcp:host:port");
	len = strcspn(text, ":");
	if (!len || !text[len] || !take(u.scheme, sizeof(u.scheme), text, len))
		return fail(f, -EINVAL,
			    "URI \"%s\": it does not begin with a scheme; write for example tcp:host:port",
			    text);
	rest = text + len + 1;
	len = strcspn(rest, "?");
	query = rest[len] ? rest + len + 1 : "";
	if (is_network(u.scheme)) {
		err = parse_hostport(&u, rest, len, text, f);
		if (err)
			return err;
	} else if (!len || !take(u.host, sizeof(u.host), rest, len)) {
		return fail(f, -EINVAL,
			    "URI \"%s\": the name after %s: is missing, too long or has blanks in it", text,
			    u.scheme);
	}
	err = parse_query(&u, query, text, f);
	if (err)
		return err;
	*ret = u;
	return 0;
}

const char *uri_query(const struct uri *u, const char *key)
{
	unsigned i;

	for (i = 0; i < u->nquery; i++) {
		if (!strcmp(u->query[i].key, key))
			return u->query[i].value;
	}
	return NULL;
}

static const struct {
	const char *suffix;
	uint64_t factor;
} units[] = {
	{ "", 1 },	   { "k", 1u << 10 }, { "K", 1u << 10 }, { "M", 1u << 20 },
	{ "G", 1u << 30 }, { "us", 1 },	      { "ms", 1000 },	 { "s", 1000000 },
};

int uri_query_u64(const struct uri *u, const char *key, uint64_t def, uint64_t *ret, struct fail *f)
{
	const char *value = uri_query(u, key), *s;
	uint64_t v = 0;
	size_t i;

	if (!value) {
		*ret = def;
		return 0;
	}
	for (s = value; isdigit((unsigned char)*s); s++) {
		if (__builtin_mul_overflow(v, (uint64_t)10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return fail(f, -EINVAL,
				    "URI option %s=%s: the number is too large; take a smaller one", key,
				    value);
	}
	for (i = 0; s != value && i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(s, units[i].suffix))
			continue;
		if (__builtin_mul_overflow(v, units[i].factor, &v))
			return fail(f, -EINVAL,
				    "URI option %s=%s: the number is too large; take a smaller one", key,
				    value);
		*ret = v;
		return 0;
	}
	return fail(f, -EINVAL,
		    "URI option %s=%s: give a number, with k, M or G for bytes or us, ms or s for a time",
		    key, value);
}
