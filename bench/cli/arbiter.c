/* SPDX-License-Identifier: MIT */
/* --arbiter: calls one of the library's arbiters, as the VMM's op. */
#include <errno.h>
#include <ferry/arbiter_file.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "arbiter.h"
#ifdef FERRY_HAVE_ETCD
#include <ferry/arbiter_etcd.h>
#endif

static const char *after(const char *uri, const char *scheme)
{
	size_t len = strlen(scheme);

	return strncmp(uri, scheme, len) ? NULL : uri + len;
}

#ifdef FERRY_HAVE_ETCD
static bool have_etcd(void)
{
	return true;
}

static int ask_etcd(const char *endpoints, const uint8_t session[16], enum ferry_owner want,
		    enum ferry_owner *is, char *why, size_t cap)
{
	struct ferry_arbiter_etcd a = { .size = sizeof(a), .endpoints = endpoints };

	return ferry_arbiter_etcd_ask(&a, session, want, is, why, cap);
}
#else
static bool have_etcd(void)
{
	return false;
}

static int ask_etcd(const char *endpoints, const uint8_t session[16], enum ferry_owner want,
		    enum ferry_owner *is, char *why, size_t cap)
{
	(void)endpoints, (void)session, (void)want, (void)is;
	snprintf(why, cap, "etcd is not in this build");
	return -EOPNOTSUPP;
}
#endif

int arbiter_check(const char *uri)
{
	const char *file = uri ? after(uri, "file:") : NULL, *etcd = uri ? after(uri, "etcd:") : NULL;

	if (!uri || (file && *file))
		return 0;
	if (etcd && (after(etcd, "http://") || after(etcd, "https://"))) {
		if (have_etcd())
			return 0;
		fprintf(stderr,
			"rdma-migrate: --arbiter %s: etcd is not in this build (it had no libcurl or jansson); "
			"take file:DIRECTORY.\n",
			uri);
		return -EINVAL;
	}
	fprintf(stderr, "rdma-migrate: --arbiter takes " ARBITER_TAKES ", not \"%s\".\n", uri);
	return -EINVAL;
}

int arbiter_ask(const char *uri, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is,
		char *why, size_t cap)
{
	struct ferry_arbiter_file a = { .size = sizeof(a), .dir = after(uri, "file:") };

	if (a.dir)
		return ferry_arbiter_file_ask(&a, session, want, is, why, cap);
	return ask_etcd(after(uri, "etcd:"), session, want, is, why, cap);
}

const char *session_text(char buf[33], const uint8_t session[16])
{
	for (unsigned i = 0; i < 16; i++)
		snprintf(buf + 2 * i, 3, "%02x", session[i]);
	return buf;
}
