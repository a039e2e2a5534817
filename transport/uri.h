/* SPDX-License-Identifier: MIT */
/* Transport URIs: scheme:rest[?key=value&key=value]; for tcp and rdma, rest is host:port or [v6]:port. */
#ifndef FERRY_URI_H
#define FERRY_URI_H

#include <stddef.h>
#include <stdint.h>

struct fail;

#define URI_QUERY_MAX 8

struct uri {
	char scheme[16];
	char host[256]; /* tcp, rdma: without brackets, may be empty; mem: the name */
	uint16_t port;
	unsigned nquery;
	struct {
		char key[16], value[64];
	} query[URI_QUERY_MAX];
};

/* -EINVAL with a sentence that names the fault. The registry checks which keys a scheme takes. */
int uri_parse(struct uri *ret, const char *text, struct fail *f);
const char *uri_query(const struct uri *u, const char *key); /* NULL if the option is not given */
/*
 * A number with a suffix k, M, G (powers of 1024) or us, ms, s (in microseconds); def if not given. -EINVAL
 * with a sentence.
 */
int uri_query_u64(const struct uri *u, const char *key, uint64_t def, uint64_t *ret, struct fail *f);

#endif
