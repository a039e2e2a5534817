/* SPDX-License-Identifier: MIT */
/* --arbiter: the library's arbiters, selected by a URI. */
#ifndef BENCH_ARBITER_H
#define BENCH_ARBITER_H

#include <ferry/ferry.h>

#define ARBITER_TAKES "file:DIRECTORY, or etcd:http://HOST:PORT with more after commas"

/* Checks the URI: 0 (NULL is fine), or -EINVAL after one sentence on stderr. */
int arbiter_check(const char *uri);
/* As ferry_ops.arbiter; on failure why holds a sentence. */
int arbiter_ask(const char *uri, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is,
		char *why, size_t cap);
/* The session in 32 hexadecimal digits, the name of its record at an arbiter. */
const char *session_text(char buf[33], const uint8_t session[16]);

#endif
