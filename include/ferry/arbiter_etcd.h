/* SPDX-License-Identifier: MIT */
/*
 * An arbiter in etcd (version 3.4 or newer): ferry_ops.arbiter for hosts that share a cluster of it. A small library of
 * its own, libferry-etcd (pkg-config ferry-etcd), because it links libcurl and jansson, and libferry shall not.
 *
 * The record of a migration is the key PREFIX followed by its session in 32 hexadecimal digits; its value is "source"
 * or "target". It is made by one transaction, which etcd answers when a majority has it, and it stays: delete it
 * (etcdctl del PREFIXsession) when both ends have ended, never before, and give it no lease.
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
	const char *endpoints; /* http:// or https://, members of one cluster, with commas between them */
	const char *prefix;    /* of the keys; "ferry/" */
	const char *ca_file;   /* PEM; NULL: the system's */
	const char *cert_file; /* PEM, for a cluster that asks for a certificate; with key_file */
	const char *key_file;
	const char *user;      /* where etcd's authentication is on; with password */
	const char *password;
	uint64_t timeout_us;   /* for all of it, whichever members are away; 3 s */
};

/*
 * If nothing is recorded for session, records want (FERRY_OWNER_SOURCE or FERRY_OWNER_TARGET); *is is what is recorded then.
 * Any thread; proxies from the environment are not used. Members that are away, slow or without a leader are tried in
 * turn until timeout_us has passed. On failure *is is untouched and why, of cap bytes, holds one sentence: -EINVAL;
 * -ETIMEDOUT or -ECONNREFUSED when none has answered; -EACCES when it may not; -EPROTO when what answers is no etcd
 * or the record none of ours; -ENOMEM. A call that has failed may have recorded want nevertheless: asking again gives
 * the answer that stands.
 */
int ferry_arbiter_etcd_ask(const struct ferry_arbiter_etcd *a, const uint8_t session[16], enum ferry_owner want,
			   enum ferry_owner *is, char *why, size_t cap);

#ifdef __cplusplus
}
#endif
#endif
