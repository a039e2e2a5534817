/* SPDX-License-Identifier: MIT */
/* scheme:rest[?key=value&key=value]; for network schemes rest is host:port or [v6]:port. */
#ifndef FERRY_URI_H
#define FERRY_URI_H

#include <stddef.h>
#include <stdint.h>

struct fail;

#define URI_QUERY_MAX 8

struct uri {
	char scheme[16];
	char host[256]; /* network: without brackets, may be empty; mem: the name */
	uint16_t port;
	unsigned nquery;
	struct {
		char key[16], value[64];
	} query[URI_QUERY_MAX];
};

/* -EINVAL with a sentence that names what is wrong. Which keys a scheme takes is the registry's to check. */
int uri_parse(struct uri *ret, const char *text, struct fail *f);
const char *uri_query(const struct uri *u, const char *key); /* NULL: not given */
/* A value with k, M, G (powers of 1024 for bytes) or us, ms, s; -EINVAL with a sentence. */
int uri_query_u64(const struct uri *u, const char *key, uint64_t def, uint64_t *ret, struct fail *f);

#endif
