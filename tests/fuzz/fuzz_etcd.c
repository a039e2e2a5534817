// SPDX-License-Identifier: MIT
/*
 * The answers of etcd, or of another program at its port. Byte 0: bit 0, a user logs in first; bit 1, there
 * are two members; bit 2, which end asks. Bytes 1 to 4: how the first requests end (modulo 10: 0 to 5 an HTTP
 * status, 6 to 9 an error of the connection). Then one body per line. After the last one no request is
 * answered.
 *
 * An owner may come only from an answer that names it, or from this end's own record. Everything else must be
 * an error with a sentence.
 */
#include <curl/curl.h>
#include <errno.h>
#include <stdarg.h>

#include "mutate_json.h"
#include "told.h"
#include "ferry/arbiter_etcd.h"

#define HEAD 5u

static struct {
	uint8_t how[HEAD - 1];
	const uint8_t *at, *end;
	size_t (*take)(char *data, size_t one, size_t n, void *arg);
	void *arg;
	long status;
	const uint8_t *body;
	size_t len;
	unsigned requests;
} peer;

/* The linker redirects the library's calls here (--wrap): there is no network. */
CURLcode __wrap_curl_easy_setopt(CURL *c, CURLoption o, ...);
CURLcode __wrap_curl_easy_perform(CURL *c);
CURLcode __wrap_curl_easy_getinfo(CURL *c, CURLINFO i, ...);

CURLcode __wrap_curl_easy_setopt(CURL *c, CURLoption o, ...)
{
	va_list ap;

	(void)c;
	va_start(ap, o);
	if (o == CURLOPT_WRITEFUNCTION)
		peer.take = va_arg(ap, size_t(*)(char *, size_t, size_t, void *));
	else if (o == CURLOPT_WRITEDATA)
		peer.arg = va_arg(ap, void *);
	va_end(ap);
	return CURLE_OK;
}

CURLcode __wrap_curl_easy_getinfo(CURL *c, CURLINFO i, ...)
{
	va_list ap;

	(void)c;
	va_start(ap, i);
	if (i == CURLINFO_RESPONSE_CODE)
		*va_arg(ap, long *) = peer.status;
	va_end(ap);
	return CURLE_OK;
}

/* Deliver the body in two pieces, as a network may. */
CURLcode __wrap_curl_easy_perform(CURL *c)
{
	static const long statuses[] = { 200, 200, 401, 404, 429, 503 };
	static const CURLcode codes[] = { CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT, CURLE_RECV_ERROR,
					  CURLE_HTTP2 };
	const uint8_t *line = peer.at, *end;
	unsigned how = peer.requests < sizeof(peer.how) ? peer.how[peer.requests] % 10 : 0;
	size_t half;

	(void)c;
	peer.requests++;
	peer.len = 0;
	if (line == peer.end)
		return CURLE_COULDNT_CONNECT;
	end = memchr(line, '\n', (size_t)(peer.end - line));
	peer.at = end ? end + 1 : peer.end;
	end = end ? end : peer.end;
	if (how >= 6)
		return codes[how - 6];
	peer.status = statuses[how];
	peer.body = line;
	peer.len = (size_t)(end - line);
	half = peer.len / 2;
	for (size_t n = half; n <= peer.len && n; n = n == half && half < peer.len ? peer.len : 0) {
		size_t from = n == half ? 0 : half;
		char *piece = malloc(n - from + 1);
		bool taken;

		memcpy(piece, line + from, n - from);
		taken = n == from || peer.take(piece, 1, n - from, peer.arg) == n - from;
		free(piece);
		if (!taken)
			return CURLE_WRITE_ERROR;
	}
	return CURLE_OK;
}

static bool says(const char *what)
{
	return peer.len && memmem(peer.body, peer.len, what, strlen(what));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t session[16] = { 1, 2, 3 };
	struct fuzz_in in = { data, size };
	uint8_t flags = fuzz_u8(&in);
	enum ferry_owner want = flags & 4 ? FERRY_OWNER_TARGET : FERRY_OWNER_SOURCE, is = FERRY_OWNER_UNKNOWN;
	struct ferry_arbiter_etcd a = { .size = sizeof(a),
					.timeout_us = 1000,
					.endpoints = flags & 2 ? "http://one:1,http://two:2"
							       : "http://one:1" };
	char why[600] = "";
	int err;

	if (flags & 1)
		a.user = a.password = "me";
	fuzz_take(&in, peer.how, sizeof(peer.how));
	peer.at = in.at;
	peer.end = in.at + in.left;
	peer.requests = 0;
	err = ferry_arbiter_etcd_ask(&a, session, want, &is, why, sizeof(why));
	promise(peer.requests && peer.requests <= 8, "%u requests within a millisecond", peer.requests);
	if (err) {
		promise(err < 0 && why[0] && is == FERRY_OWNER_UNKNOWN, "error %d, owner %d: %s", err, is,
			why);
		told_check(why);
		return 0;
	}
	promise(is == FERRY_OWNER_SOURCE || is == FERRY_OWNER_TARGET, "owner %d", is);
	promise(peer.status == 200 && peer.len, "an owner out of nothing");
	/* Without escapes, which can hide a word, the answer must contain the owner. */
	if (!says("\\u"))
		promise((is == want && says("succeeded") && says("response_put")) ||
				says(is == FERRY_OWNER_SOURCE ? "c291cmNl" : "dGFyZ2V0"),
			"the owner is %d, and the answer was %.*s", is, (int)peer.len,
			(const char *)peer.body);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return mutate_json(data, size, max, HEAD, seed);
}
