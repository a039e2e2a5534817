/* SPDX-License-Identifier: MIT */
/*
 * An arbiter in etcd 3.4 or newer: implements ferry_ops.arbiter for hosts that share an etcd cluster. It is a
 * library of its own, libferry-etcd (pkg-config ferry-etcd), because it links libcurl and jansson.
 *
 * The record of a migration is the key PREFIX plus the session in 32 hexadecimal digits; the value is
 * "source" or "target". One transaction creates it; etcd answers once a majority of the members has it. The
 * record stays: delete it (etcdctl del PREFIXsession) only after both ends have ended, and give it no lease.
 *
 *	static int my_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
 *	{
 *		struct ferry_arbiter_etcd a = { .size = sizeof(a), .endpoints = "https://etcd1:2379,https://etcd2:2379",
 *						.ca_file = "/etc/ferry/etcd-ca.pem" };
 *		char why[FERRY_DETAIL_MAX];
 *		int err = ferry_arbiter_etcd_ask(&a, session, want, is, why, sizeof(why));
 *
 *		if (err)
 *			my_log(vm, why);
 *		return err;
 *	}
 */
#ifndef FERRY_ARBITER_ETCD_H
#define FERRY_ARBITER_ETCD_H

#include <ferry/ferry.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ferry_arbiter_etcd {
	size_t size;
	const char *endpoints; /* members of one cluster, http:// or https://, separated by commas */
	const char *prefix;    /* of the keys; default "ferry/" */
	const char *ca_file;   /* PEM, who signed the members' certificates; default: the system's CAs */
	const char *cert_file; /* PEM, this host's certificate, if the cluster requires one; with key_file */
	const char *key_file;
	const char *user; /* if etcd's authentication is on; with password */
	const char *password;
	uint64_t timeout_us; /* bound on the whole call, all members together; default 3 s */
};

/*
 * If nothing is recorded for session, record want (FERRY_OWNER_SOURCE or FERRY_OWNER_TARGET). Set *is to the
 * recorded owner. Tries the members in turn until one answers or timeout_us has passed; ignores proxy
 * settings of the environment. Any thread. On failure *is is untouched and why (cap bytes) holds one
 * sentence: -EINVAL; -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH or -ECONNRESET (no member answered); -EACCES
 * (password, certificate or rights); -EPROTO (the server is not etcd, or the record is not ferry's); -ENOMEM.
 * A failed call may have recorded want: if you ask again, you get the owner that stands.
 */
int ferry_arbiter_etcd_ask(const struct ferry_arbiter_etcd *a, const uint8_t session[16],
			   enum ferry_owner want, enum ferry_owner *is, char *why, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
