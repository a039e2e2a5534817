// SPDX-License-Identifier: MIT
/*
 * The arbiter in etcd, over the JSON gateway of its version 3 API (the same port as its gRPC). A gRPC client
 * in C would need libraries many times this library's size. The gateway needs HTTP and JSON, for which every
 * distribution has a well-kept C library: libcurl (TLS, certificates, timeouts on every step) and jansson
 * (strict, small).
 *
 *	POST /v3/kv/txn		compare: the key was never created; success: put want; failure: read the value
 *	POST /v3/auth/authenticate	before it, if a user is given: a token for the next request
 *
 * Asking twice is harmless: the compare then fails on our own record, and reading it gives the same answer.
 * So a request without an answer is repeated at the next member until the timeout. No state is kept between
 * calls: a migration asks once, if at all.
 */
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "json_bound.h"
#include "ferry/arbiter_etcd.h"
#include "runtime/base/api.h"
#include "runtime/base/clock.h"

#define TIMEOUT_US 3000000u
#define TIMEOUT_US_MAX (UINT64_C(86400) * 1000000)
#define ATTEMPT_US_MIN 50000u /* a member gets at least this long, if so much is left */
#define PAUSE_US 50000u	      /* between two rounds over the members */
#define ANSWER_MAX (64u << 10)
#define ANSWER_MEMORY (1u << 20) /* memory for its values; see json_bound.h */
#define MEMBERS_MAX 16u
#define PREFIX_MAX 256u

struct ask {
	struct ferry_arbiter_etcd a;
	CURL *curl;
	char *members, *member[MEMBERS_MAX]; /* member[] points into members */
	unsigned nmembers;
	char key[4 * (PREFIX_MAX + 32) / 3 + 8]; /* base64 */
	enum ferry_owner want, is;
	uint64_t deadline_us;
	char *answer; /* of the current request */
	size_t answer_len, answer_cap;
	char *why;
	size_t cap;
};

/* The last sentence wins; earlier ones were about other members. Foreign text in it is made printable. */
static int say(struct ask *q, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int say(struct ask *q, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (q->cap)
		vsnprintf(q->why, q->cap, fmt, ap);
	va_end(ap);
	if (q->cap)
		json_printable(q->why);
	return err;
}

static void base64(char *to, const char *from)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(from);

	for (size_t i = 0; i < len; i += 3) {
		uint32_t v = (uint32_t)(uint8_t)from[i] << 16;

		if (i + 1 < len)
			v |= (uint32_t)(uint8_t)from[i + 1] << 8;
		if (i + 2 < len)
			v |= (uint8_t)from[i + 2];
		*to++ = digits[v >> 18];
		*to++ = digits[v >> 12 & 63];
		*to++ = i + 1 < len ? digits[v >> 6 & 63] : '=';
		*to++ = i + 2 < len ? digits[v & 63] : '=';
	}
	*to = 0;
}

/* "source" and "target" in base64 */
static const char *value(enum ferry_owner o)
{
	return o == FERRY_OWNER_SOURCE ? "c291cmNl" : "dGFyZ2V0";
}

/* ---- one request ---- */

static size_t on_answer(char *data, size_t one, size_t n, void *arg)
{
	struct ask *q = arg;
	char *p;

	if (n > ANSWER_MAX - q->answer_len)
		return 0;
	if (q->answer_len + n > q->answer_cap) {
		p = realloc(q->answer, q->answer_len + n);
		if (!p)
			return 0;
		q->answer = p;
		q->answer_cap = q->answer_len + n;
	}
	memcpy(q->answer + q->answer_len, data, n);
	q->answer_len += n;
	return n * one;
}

/* libcurl's TLS may write to a closed connection: block and consume SIGPIPE, keep the process's handler. */
static CURLcode perform(CURL *curl)
{
	struct timespec none = { 0 };
	sigset_t pipe, old, pending;
	bool was;
	CURLcode c;

	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe, &old);
	sigpending(&pending);
	was = sigismember(&pending, SIGPIPE);
	c = curl_easy_perform(curl);
	sigpending(&pending);
	if (!was && sigismember(&pending, SIGPIPE))
		sigtimedwait(&pipe, NULL, &none);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return c;
}

static int curl_errno(CURLcode c)
{
	switch (c) {
	case CURLE_COULDNT_CONNECT:
		return -ECONNREFUSED;
	case CURLE_COULDNT_RESOLVE_HOST:
		return -EHOSTUNREACH;
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	case CURLE_SEND_ERROR:
	case CURLE_RECV_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return -ECONNRESET;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CACERT_BADFILE:
		return -EACCES;
	default: /* not HTTP, or too long */
		return -EPROTO;
	}
}

/* Whether this member may still answer later, or another one instead. */
static bool may_come_right(int err)
{
	return err == -ECONNREFUSED || err == -EHOSTUNREACH || err == -ETIMEDOUT || err == -ECONNRESET ||
	       err == -EAGAIN;
}

static void set_options(struct ask *q, const char *url, const char *body, struct curl_slist *headers, long ms,
			char error[CURL_ERROR_SIZE])
{
	CURL *c = q->curl;

	curl_easy_reset(c);
	curl_easy_setopt(c, CURLOPT_URL, url);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_PROXY, ""); /* not even from the environment: no cache may answer */
	curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, ms);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, ms);
	curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_answer);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, q);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, error);
	if (q->a.ca_file)
		curl_easy_setopt(c, CURLOPT_CAINFO, q->a.ca_file);
	if (q->a.cert_file)
		curl_easy_setopt(c, CURLOPT_SSLCERT, q->a.cert_file);
	if (q->a.key_file)
		curl_easy_setopt(c, CURLOPT_SSLKEY, q->a.key_file);
}

/* Report etcd's error: {"error": "...", "code": n}. */
static int refused(struct ask *q, const char *member, long status, json_t *said)
{
	const char *text = json_string_value(json_object_get(said, "error"));
	json_int_t code = json_integer_value(json_object_get(said, "code"));
	int err = -EPROTO;

	if (status >= 500 || status == 429)
		err = -EAGAIN;
	/* gRPC's codes: 7 permission denied, 16 unauthenticated; a wrong password is 3, invalid argument. */
	if (status == 401 || status == 403 || code == 7 || code == 16 || (q->a.user && code == 3))
		err = -EACCES;
	return say(q, err, "etcd at %s answered HTTP status %ld%s%.200s", member, status, text ? ": " : "",
		   text ? text : "");
}

/* POST body to the member; *ret is the JSON object of the answer. limit_us: timeout. */
static int post(struct ask *q, const char *member, const char *path, json_t *body, const char *token,
		uint64_t limit_us, json_t **ret)
{
	static const struct json_bound bound = { .bytes = ANSWER_MAX, .memory = ANSWER_MEMORY };
	char url[600], error[CURL_ERROR_SIZE] = "", header[700], wrong[200] = "another value";
	struct curl_slist *headers = NULL, *more;
	char *text = json_dumps(body, JSON_COMPACT);
	long status = 0;
	CURLcode c;
	int err = 0;

	snprintf(url, sizeof(url), "%s%s", member, path);
	snprintf(header, sizeof(header), token ? "Authorization: %s" : "Content-Type: application/json",
		 token);
	headers = curl_slist_append(NULL, "Expect:");
	more = headers ? curl_slist_append(headers, header) : NULL;
	if (!text || !more) {
		err = say(q, -ENOMEM, "no memory to ask etcd at %s", member);
		goto out;
	}
	q->answer_len = 0;
	set_options(q, url, text, headers, (long)((limit_us + 999) / 1000), error);
	c = perform(q->curl);
	if (c != CURLE_OK) {
		err = say(q, curl_errno(c), "etcd at %s: %s", member, *error ? error : curl_easy_strerror(c));
		goto out;
	}
	curl_easy_getinfo(q->curl, CURLINFO_RESPONSE_CODE, &status);
	*ret = json_load_bounded(q->answer ? q->answer : "", q->answer_len, &bound, wrong, sizeof(wrong));
	if (status != 200)
		err = refused(q, member, status, *ret);
	else if (!json_is_object(*ret))
		err = say(q, -EPROTO,
			  "what answers at %s is no etcd: HTTP status 200 and %zu bytes that are no JSON object: %s",
			  member, q->answer_len, wrong);
	if (err) {
		json_decref(*ret);
		*ret = NULL;
	}
out:
	curl_slist_free_all(headers);
	free(text);
	return err;
}

/* ---- the transaction and its answer ---- */

static json_t *transaction(const struct ask *q)
{
	return json_pack("{s:[{s:s,s:s,s:s,s:s}],s:[{s:{s:s,s:s}}],s:[{s:{s:s}}]}", "compare", "target",
			 "CREATE", "key", q->key, "create_revision", "0", "result", "EQUAL", "success",
			 "request_put", "key", q->key, "value", value(q->want), "failure", "request_range",
			 "key", q->key);
}

/* Accept only what a real answer contains: the put, or the recorded value of our key. */
static int read_answer(struct ask *q, const char *member, json_t *answer)
{
	json_t *put = NULL, *kvs = NULL, *response = json_array_get(json_object_get(answer, "responses"), 0);
	const char *key, *found;

	if (json_is_true(json_object_get(answer, "succeeded"))) {
		put = json_object_get(response, "response_put");
		q->is = q->want;
		if (json_is_object(put))
			return 0;
	}
	kvs = json_array_get(json_object_get(json_object_get(response, "response_range"), "kvs"), 0);
	key = json_string_value(json_object_get(kvs, "key"));
	found = json_string_value(json_object_get(kvs, "value"));
	if (!key || !found || strcmp(key, q->key))
		return say(q, -EPROTO,
			   "what answers at %s is no etcd, or one that does not know version 3 of its API: a "
			   "transaction was answered without its result",
			   member);
	for (q->is = FERRY_OWNER_SOURCE; q->is <= FERRY_OWNER_TARGET; q->is++)
		if (!strcmp(found, value(q->is)))
			return 0;
	return say(q, -EPROTO,
		   "etcd at %s holds %.40s (base64) for this migration, which is no owner; find out who wrote it "
		   "before it is deleted",
		   member, found);
}

static int log_in(struct ask *q, const char *member, uint64_t limit_us, json_t **ret)
{
	json_t *body = json_pack("{s:s,s:s}", "name", q->a.user, "password", q->a.password);
	const char *token;
	int err = body ? post(q, member, "/v3/auth/authenticate", body, NULL, limit_us, ret)
		       : say(q, -EINVAL, "etcd's user and password must be UTF-8");

	json_decref(body);
	if (err)
		return err;
	token = json_string_value(json_object_get(*ret, "token"));
	if (token && strlen(token) < 600 && !strpbrk(token, "\r\n"))
		return 0;
	return say(q, -EPROTO, "what answers at %s is no etcd: it takes a password and gives no token",
		   member);
}

static int ask_member(struct ask *q, const char *member, uint64_t limit_us)
{
	json_t *body = transaction(q), *login = NULL, *answer = NULL;
	uint64_t until = now_us() + limit_us, now;
	int err = body ? 0 : say(q, -ENOMEM, "no memory to ask etcd at %s", member);

	if (!err && q->a.user)
		err = log_in(q, member, limit_us, &login);
	now = now_us();
	if (!err)
		err = post(q, member, "/v3/kv/txn", body, json_string_value(json_object_get(login, "token")),
			   until > now ? until - now : 1, &answer);
	if (!err)
		err = read_answer(q, member, answer);
	json_decref(body);
	json_decref(login);
	json_decref(answer);
	return err;
}

/* The time is over: return the last error. */
static int over(int err)
{
	return err == -EAGAIN ? -ETIMEDOUT : err;
}

/* Ask each member in turn, repeatedly while one of them may still answer, until the deadline. */
static int ask_all(struct ask *q)
{
	struct timespec pause = { .tv_nsec = PAUSE_US * 1000 };
	bool again = true;
	int err = 0;

	while (again) {
		again = false;
		for (unsigned i = 0; i < q->nmembers; i++) {
			uint64_t now = now_us(), left = q->deadline_us > now ? q->deadline_us - now : 0;
			uint64_t share = left / (q->nmembers - i);

			if (err && !left)
				return over(err);
			if (share < ATTEMPT_US_MIN)
				share = left < ATTEMPT_US_MIN ? left : ATTEMPT_US_MIN;
			err = ask_member(q, q->member[i], share ? share : 1);
			if (!err)
				return 0;
			again |= may_come_right(err);
		}
		if (now_us() + PAUSE_US >= q->deadline_us)
			break;
		if (again)
			nanosleep(&pause, NULL);
	}
	return over(err);
}

/* ---- checking the arguments ---- */

static int take_members(struct ask *q)
{
	char *save = NULL;

	q->members = strdup(q->a.endpoints);
	if (!q->members)
		return say(q, -ENOMEM, "no memory to ask etcd");
	for (char *m = strtok_r(q->members, ",", &save); m; m = strtok_r(NULL, ",", &save)) {
		size_t len = strlen(m);

		while (len && m[len - 1] == '/')
			m[--len] = 0;
		if ((strncmp(m, "http://", 7) && strncmp(m, "https://", 8)) || len > 500 ||
		    q->nmembers == MEMBERS_MAX)
			return say(q, -EINVAL,
				   "etcd's endpoints are up to %u times http://HOST:PORT or https://HOST:PORT with "
				   "commas between them, not \"%.100s\"",
				   MEMBERS_MAX, m);
		q->member[q->nmembers++] = m;
	}
	return q->nmembers ? 0 : say(q, -EINVAL, "etcd's endpoints are empty");
}

static int take_key(struct ask *q, const uint8_t session[16])
{
	const char *prefix = q->a.prefix ? q->a.prefix : "ferry/";
	char plain[PREFIX_MAX + 33];
	size_t len = strlen(prefix);

	if (len > PREFIX_MAX)
		return say(q, -EINVAL, "the prefix of etcd's keys is longer than %u bytes", PREFIX_MAX);
	memcpy(plain, prefix, len);
	for (unsigned i = 0; i < 16; i++)
		snprintf(plain + len + 2 * i, 3, "%02x", session[i]);
	base64(q->key, plain);
	return 0;
}

/* Copy the caller's struct, which may be older than ours, or newer if all fields unknown here are zero. */
static int take_struct(struct ask *q, const struct ferry_arbiter_etcd *a)
{
	size_t size = a->size;

	if (size < sizeof(size_t))
		return say(q, -EINVAL,
			   "arbiter_etcd.size is %zu; set it to sizeof(struct ferry_arbiter_etcd)", size);
	for (size_t i = sizeof(q->a); i < size; i++)
		if (((const uint8_t *)a)[i])
			return say(q, -EINVAL,
				   "arbiter_etcd.size is %zu and byte %zu is set; this library knows %zu bytes",
				   size, i, sizeof(q->a));
	memcpy(&q->a, a, size < sizeof(q->a) ? size : sizeof(q->a));
	if (!q->a.timeout_us)
		q->a.timeout_us = TIMEOUT_US;
	if (!q->a.endpoints || q->a.timeout_us > TIMEOUT_US_MAX || !q->a.user != !q->a.password)
		return say(q, -EINVAL,
			   "an arbiter in etcd needs endpoints, a timeout of at most a day, and a user and a "
			   "password together or not at all");
	return 0;
}

FERRY_API int ferry_arbiter_etcd_ask(const struct ferry_arbiter_etcd *a, const uint8_t session[16],
				     enum ferry_owner want, enum ferry_owner *is, char *why, size_t cap)
{
	struct ask q = { .want = want, .why = why, .cap = cap };
	int err = take_struct(&q, a);

	if (!err && want != FERRY_OWNER_SOURCE && want != FERRY_OWNER_TARGET)
		err = say(&q, -EINVAL, "an arbiter records source or target as the owner, not %d", (int)want);
	if (!err)
		err = take_members(&q);
	if (!err)
		err = take_key(&q, session);
	if (!err && !(q.curl = curl_easy_init()))
		err = say(&q, -ENOMEM, "libcurl cannot begin");
	if (!err) {
		q.deadline_us = now_us() + q.a.timeout_us;
		err = ask_all(&q);
	}
	if (!err)
		*is = q.is;
	curl_easy_cleanup(q.curl);
	free(q.answer);
	free(q.members);
	return err;
}
