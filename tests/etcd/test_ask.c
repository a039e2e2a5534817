// SPDX-License-Identifier: MIT
/* The arbiter in etcd, over a real one: the first decides; away, frozen, locked, and something that is no etcd. */
#include <criterion/criterion.h>
#include <errno.h>
#include <ferry/arbiter_etcd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "etcd_server.h"

#define LONG 60000000u
#define SHORT 300000u

static const uint8_t session[16] = { 0xab, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff };
#define SESSION "ab0102030405060708090a0b0c0d0eff"

static struct ferry_arbiter_etcd at(const char *endpoints, uint64_t timeout_us)
{
	return (struct ferry_arbiter_etcd){ .size = sizeof(struct ferry_arbiter_etcd),
					    .endpoints = endpoints,
					    .timeout_us = timeout_us };
}

static void hears_from(const struct ferry_arbiter_etcd *a, enum ferry_owner want, enum ferry_owner due)
{
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[300] = "";

	cr_assert_eq(ferry_arbiter_etcd_ask(a, session, want, &is, why, sizeof(why)), 0, "%s", why);
	cr_assert_eq(is, due);
}

static void hears(const char *endpoints, enum ferry_owner want, enum ferry_owner due)
{
	struct ferry_arbiter_etcd a = at(endpoints, LONG);

	hears_from(&a, want, due);
}

static void fails_at(const struct ferry_arbiter_etcd *a, int err, const char *sentence)
{
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[400] = "";
	int got = ferry_arbiter_etcd_ask(a, session, FERRY_OWNER_TARGET, &is, why, sizeof(why));

	cr_assert_eq(got, err, "%d: %s", got, why);
	cr_assert(strstr(why, sentence), "\"%s\"", why);
	cr_assert_eq(is, FERRY_OWNER_UNKNOWN);
}

static void fails(const char *endpoints, uint64_t timeout_us, int err, const char *sentence)
{
	struct ferry_arbiter_etcd a = at(endpoints, timeout_us);

	fails_at(&a, err, sentence);
}

static int ctl3(const struct etcd_server *e, const char *a, const char *b, const char *c)
{
	const char *args[] = { a, b, c, NULL };

	return etcd_ctl(e, args);
}

Test(etcd, the_first_decides)
{
	struct etcd_server e;

	etcd_start(&e);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	hears(e.url, FERRY_OWNER_SOURCE, FERRY_OWNER_TARGET);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	etcd_stop(&e);
}

/* Where an operator looks for it, and how one is removed. */
Test(etcd, the_record_has_a_name)
{
	struct ferry_arbiter_etcd a;
	struct etcd_server e;

	etcd_start(&e);
	a = at(e.url, LONG);
	a.prefix = "site/migrations/";
	hears_from(&a, FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	cr_assert_eq(ctl3(&e, "del", "site/migrations/" SESSION, NULL), 0);
	hears_from(&a, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	cr_assert_eq(ctl3(&e, "put", "ferry/" SESSION, "nobody"), 0);
	fails(e.url, LONG, -EPROTO, "holds bm9ib2R5 (base64) for this migration, which is no owner");
	etcd_stop(&e);
}

struct racer {
	pthread_t thread;
	const char *url;
	enum ferry_owner want, is;
	int err;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	struct ferry_arbiter_etcd a = at(r->url, LONG);

	r->err = ferry_arbiter_etcd_ask(&a, session, r->want, &r->is, NULL, 0);
	return NULL;
}

Test(etcd, a_race_has_one_winner)
{
	struct etcd_server e;
	struct racer r[12];

	etcd_start(&e);
	for (unsigned turn = 0; turn < 5; turn++) {
		for (unsigned i = 0; i < 12; i++) {
			r[i] = (struct racer){ .url = e.url,
					       .want = (i + turn) & 1 ? FERRY_OWNER_TARGET
								      : FERRY_OWNER_SOURCE };
			pthread_create(&r[i].thread, NULL, race, &r[i]);
		}
		for (unsigned i = 0; i < 12; i++) {
			pthread_join(r[i].thread, NULL);
			cr_assert(!r[i].err && r[i].is == r[0].is);
		}
		cr_assert_eq(ctl3(&e, "del", "ferry/" SESSION, NULL), 0);
	}
	etcd_stop(&e);
}

Test(etcd, away)
{
	char url[64];

	etcd_nobody(url);
	fails(url, SHORT, -ECONNREFUSED, url);
}

Test(etcd, frozen)
{
	struct timespec from, to;
	struct etcd_server e;

	etcd_start(&e);
	etcd_freeze(&e, true);
	clock_gettime(CLOCK_MONOTONIC, &from);
	fails(e.url, SHORT, -ETIMEDOUT, e.url);
	clock_gettime(CLOCK_MONOTONIC, &to);
	cr_assert_leq(to.tv_sec - from.tv_sec, 30);
	/* What was asked before it froze may be recorded when it goes on; that, and nothing else, stands. */
	etcd_freeze(&e, false);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	etcd_stop(&e);
}

static void *thaw(void *arg)
{
	struct timespec ts = { .tv_nsec = 300000000 };

	nanosleep(&ts, NULL);
	etcd_freeze(arg, false);
	return NULL;
}

Test(etcd, slow)
{
	struct etcd_server e;
	pthread_t t;

	etcd_start(&e);
	etcd_freeze(&e, true);
	cr_assert(!pthread_create(&t, NULL, thaw, &e));
	hears(e.url, FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	pthread_join(t, NULL);
	etcd_stop(&e);
}

Test(etcd, one_member_of_three_is_enough)
{
	char nobody[64], pretender[64], all[400];
	struct etcd_server e, frozen;
	struct ferry_arbiter_etcd a;

	etcd_start(&e);
	etcd_start(&frozen);
	etcd_freeze(&frozen, true);
	etcd_nobody(nobody);
	etcd_pretend(pretender, "HTTP/1.0 503 Unavailable\r\n\r\n{\"error\":\"no leader\",\"code\":14}");
	snprintf(all, sizeof(all), "%s,%s/,%s,%s", nobody, frozen.url, pretender, e.url);
	a = at(all, 4000000);
	hears_from(&a, FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_SOURCE);
	etcd_stop(&frozen);
	etcd_stop(&e);
}

#define NO_LEADER "HTTP/1.0 503 Unavailable\r\n\r\n{\"error\":\"etcdserver: no leader\",\"code\":14}"

/* The last of several attempts has what time is left, and may end without an answer on a busy machine. */
static void fails_or(const char *endpoints, uint64_t timeout_us, int err, const char *sentence,
		     const char *other)
{
	struct ferry_arbiter_etcd a = at(endpoints, timeout_us);
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[400] = "";

	cr_assert_eq(ferry_arbiter_etcd_ask(&a, session, FERRY_OWNER_TARGET, &is, why, sizeof(why)), err,
		     "%s", why);
	cr_assert(strstr(why, sentence) || strstr(why, other), "\"%s\"", why);
}

Test(etcd, without_a_leader)
{
	char url[64];

	etcd_pretend(url, NO_LEADER);
	fails_or(url, SHORT, -ETIMEDOUT, "answered HTTP status 503: etcdserver: no leader", "timed out");
}

/* The time is over while there are members to be asked: that they may be asked again helps nobody then. */
Test(etcd, no_leader_and_no_time)
{
	char url[64], two[300];

	etcd_pretend(url, NO_LEADER);
	snprintf(two, sizeof(two), "%s,%s,%s,%s", url, url, url, url);
	for (uint64_t us = 1; us < 100000; us *= 3) {
		struct ferry_arbiter_etcd a = at(two, us);
		enum ferry_owner is = FERRY_OWNER_UNKNOWN;

		cr_assert_eq(ferry_arbiter_etcd_ask(&a, session, FERRY_OWNER_TARGET, &is, NULL, 0),
			     -ETIMEDOUT);
	}
}

#define OK "HTTP/1.0 200 OK\r\n\r\n"
#define RUBBISH(name, answer, sentence)              \
	Test(rubbish, name)                          \
	{                                            \
		char url[64];                        \
		etcd_pretend(url, answer);           \
		fails(url, LONG, -EPROTO, sentence); \
	}

RUBBISH(no_http, "220 mail.example ESMTP\r\n", "http")
RUBBISH(no_json, OK "<html>It works!</html>",
	"is no etcd: HTTP status 200 and 22 bytes that are no JSON object")
RUBBISH(half_a_json, OK "{\"succeeded\":true,\"responses\":[{", "no JSON object")
RUBBISH(a_list, OK "[]", "no JSON object")
RUBBISH(nothing, OK "", "0 bytes that are no JSON object")
RUBBISH(an_empty_object, OK "{}", "a transaction was answered without its result")
RUBBISH(success_without_a_result, OK "{\"succeeded\":true}", "without its result")
RUBBISH(success_twice, OK "{\"succeeded\":true,\"succeeded\":false,\"responses\":[{\"response_put\":{}}]}",
	"no JSON object")
RUBBISH(success_as_a_word, OK "{\"succeeded\":\"true\",\"responses\":[{\"response_put\":{}}]}",
	"without its result")
RUBBISH(another_key,
	OK "{\"responses\":[{\"response_range\":{\"kvs\":[{\"key\":\"Zm9v\",\"value\":\"c291cmNl\"}]}}]}",
	"without its result")
RUBBISH(nested_without_end, OK "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "nested 41 deep")
RUBBISH(a_command_for_the_terminal, "HTTP/1.0 404 Not Found\r\n\r\n{\"error\":\"\\u001b[31mred\"}",
	"404: ?[31mred")
RUBBISH(not_found, "HTTP/1.0 404 Not Found\r\n\r\n404 page not found", "answered HTTP status 404")
RUBBISH(elsewhere, "HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "answered HTTP status 302")

/* It would fit the bytes that are read, and take a megabyte and more of memory. */
Test(rubbish, of_many_small_values)
{
	char url[64], *answer = malloc(61000);
	size_t n = (size_t)sprintf(answer, OK "[{}");

	while (n < 60000)
		n += (size_t)sprintf(answer + n, ",{}");
	sprintf(answer + n, "]");
	etcd_pretend(url, answer);
	fails(url, LONG, -EPROTO, "of memory, and 1048576 are given");
	free(answer);
}

Test(rubbish, without_end)
{
	char url[64], *answer = malloc(200000);

	memset(answer, ' ', 199999);
	answer[199999] = 0;
	memcpy(answer, OK "{", strlen(OK "{"));
	etcd_pretend(url, answer);
	fails(url, LONG, -EPROTO, url);
	free(answer);
}

Test(etcd, with_a_password)
{
	struct ferry_arbiter_etcd a;
	struct etcd_server e;

	etcd_start(&e);
	cr_assert_eq(ctl3(&e, "user", "add", "root:secret"), 0);
	cr_assert_eq(ctl3(&e, "auth", "enable", NULL), 0);
	fails(e.url, LONG, -EPROTO, "answered HTTP status 400");
	a = at(e.url, LONG);
	a.user = "root";
	a.password = "wrong";
	fails_at(&a, -EACCES, "authentication failed");
	a.password = "secret";
	hears_from(&a, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	hears_from(&a, FERRY_OWNER_SOURCE, FERRY_OWNER_TARGET);
	etcd_stop(&e);
}

Test(etcd, the_environment_has_no_say)
{
	struct etcd_server e;
	char nobody[64];

	etcd_start(&e);
	etcd_nobody(nobody);
	setenv("http_proxy", nobody, 1);
	setenv("ALL_PROXY", nobody, 1);
	hears(e.url, FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	etcd_stop(&e);
}

Test(etcd, wrong_arguments)
{
	struct ferry_arbiter_etcd a = at(NULL, 0);
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char tiny[4] = "xyz", prefix[400];

	fails_at(&a, -EINVAL, "needs endpoints");
	fails("", LONG, -EINVAL, "etcd's endpoints are empty");
	fails("127.0.0.1:2379", LONG, -EINVAL, "not \"127.0.0.1:2379\"");
	fails("http://a:1,ftp://b:2", LONG, -EINVAL, "not \"ftp://b:2\"");
	fails("http://a:1", UINT64_MAX, -EINVAL, "a timeout of at most a day");
	a = at("http://127.0.0.1:1", LONG);
	a.user = "root";
	fails_at(&a, -EINVAL, "a user and a password together");
	a.user = NULL;
	memset(prefix, 'x', sizeof(prefix));
	prefix[399] = 0;
	a.prefix = prefix;
	fails_at(&a, -EINVAL, "longer than 256 bytes");
	a.prefix = NULL;
	cr_assert_eq(ferry_arbiter_etcd_ask(&a, session, FERRY_OWNER_UNKNOWN, &is, tiny, sizeof(tiny)),
		     -EINVAL);
	cr_assert_eq(strlen(tiny), 3);
	a.size = 4;
	fails_at(&a, -EINVAL, "arbiter_etcd.size is 4");
}
