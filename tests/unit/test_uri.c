// SPDX-License-Identifier: MIT
/* How a URI is read, which transport it asks for, and what the first failure of several says. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/base/fail.h"
#include "transport/uri.h"
#include "transport/xport.h"

static void good(const char *text, const char *scheme, const char *host, unsigned port, unsigned nquery)
{
	struct fail f = { 0 };
	struct uri u;

	cr_assert_eq(uri_parse(&u, text, &f), 0, "%s: %s", text, fail_text(&f));
	cr_assert_str_eq(u.scheme, scheme);
	cr_assert_str_eq(u.host, host);
	cr_assert_eq(u.port, port);
	cr_assert_eq(u.nquery, nquery);
}

Test(uri, what_is_understood)
{
	good("tcp:localhost:4444", "tcp", "localhost", 4444, 0);
	good("tcp:127.0.0.1:0", "tcp", "127.0.0.1", 0, 0);
	good("tcp:[::1]:65535", "tcp", "::1", 65535, 0);
	good("tcp:[fe80::1%eth0]:1", "tcp", "fe80::1%eth0", 1, 0);
	good("tcp::7", "tcp", "", 7, 0);
	good("tcp:h:1?bandwidth=10M&latency=5ms", "tcp", "h", 1, 2);
	good("tcp:h:1?", "tcp", "h", 1, 0);
	good("mem:a-name", "mem", "a-name", 0, 0);
	good("mem:with:colon?latency=1", "mem", "with:colon", 0, 1);
	good("rdma:h:2", "rdma", "h", 2, 0);
}

Test(uri, what_is_refused_with_a_sentence)
{
	static const char *const bad[] = {
		"",
		"tcp",
		":",
		":h:1",
		"tcp:",
		"tcp:h",
		"tcp:h:",
		"tcp:h:x",
		"tcp:h:65536",
		"tcp:h:123456",
		"tcp:h:-1",
		"tcp:h:1 ",
		"tcp:h h:1",
		"tcp:::1:5",
		"tcp:[::1:5",
		"tcp:[::1]",
		"tcp:[::1]5",
		"tcp:[]:5",
		"mem:",
		"mem:?latency=1",
		"tcp:h:1?x",
		"tcp:h:1?=1",
		"tcp:h:1?a=1&a=2",
		"tcp:h:1?a=1&&b=2",
		"tcp:h:1?a=1&b=1&c=1&d=1&e=1&f=1&g=1&h=1&i=1",
		"averyveryverylongscheme:h:1",
		"tcp:h:1?averyveryverylongkey=1",
		"tcp:h:1?a=\n",
	};
	char host[600];
	struct uri u;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fail f = { 0 };

		cr_assert_eq(uri_parse(&u, bad[i], &f), -EINVAL, "%s", bad[i]);
		cr_assert_gt(strlen(fail_text(&f)), 10, "%s", bad[i]);
	}
	cr_assert_eq(uri_parse(&u, NULL, NULL), -EINVAL);
	memset(host, 'h', sizeof(host));
	memcpy(host, "tcp:", 4);
	strcpy(host + sizeof(host) - 3, ":1");
	cr_assert_eq(uri_parse(&u, host, NULL), -EINVAL);
}

Test(uri, a_failed_parse_leaves_the_result_alone)
{
	struct uri u = { .port = 77 };

	cr_assert_eq(uri_parse(&u, "tcp:h:99999", NULL), -EINVAL);
	cr_assert_eq(u.port, 77);
}

static void value(const char *v, int err, uint64_t expect)
{
	struct fail f = { 0 };
	struct uri u = { .nquery = 1 };
	uint64_t got = 1234;

	strcpy(u.query[0].key, "k");
	strcpy(u.query[0].value, v);
	cr_assert_eq(uri_query_u64(&u, "k", 5, &got, &f), err, "%s", v);
	cr_assert_eq(got, err ? 1234 : expect, "%s", v);
	cr_assert_eq(fail_err(&f), err);
}

Test(uri, values)
{
	struct uri u = { .nquery = 0 };
	uint64_t got;

	value("0", 0, 0);
	value("17", 0, 17);
	value("3k", 0, 3072);
	value("100M", 0, 100u << 20);
	value("2G", 0, 2ull << 30);
	value("250us", 0, 250);
	value("5ms", 0, 5000);
	value("2s", 0, 2000000);
	value("18446744073709551615", 0, UINT64_MAX);
	value("18446744073709551616", -EINVAL, 0);
	value("18446744073709551615k", -EINVAL, 0);
	value("", -EINVAL, 0);
	value("M", -EINVAL, 0);
	value("1x", -EINVAL, 0);
	value("-1", -EINVAL, 0);
	value("1 M", -EINVAL, 0);
	cr_assert_eq(uri_query_u64(&u, "k", 5, &got, NULL), 0);
	cr_assert_eq(got, 5);
	cr_assert_null(uri_query(&u, "k"));
}

static void refused(const char *uri, int err, const char *word)
{
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_link_id id = { .channels = 1 };
	struct xport_listener *l = NULL;
	struct xport_link *link = NULL;
	struct fail f = { 0 };

	cr_assert_eq(xport_listen(&l, uri, &p, &f), err, "%s", uri);
	cr_assert(strstr(fail_text(&f), word), "%s: %s", uri, fail_text(&f));
	cr_assert_eq(xport_connect(&link, uri, &id, &p, 1000, NULL), err, "%s", uri);
	cr_assert(!l && !link);
}

Test(registry, schemes_and_options)
{
	refused("smoke:signal", -EINVAL, "unknown scheme");
	refused("mem:x?colour=red", -EINVAL, "colour");
	refused("mem:x?bandwidth=fast", -EINVAL, "bandwidth");
	refused("mem:x?latency=11s", -EINVAL, "latency");
}

Test(registry, channels_are_bounded)
{
	struct xport_param p = { .timeout_us = 1000000 };
	struct xport_link_id none = { .channels = 0 }, many = { .channels = XPORT_CHANNELS_MAX + 1 };
	struct xport_link *link;

	cr_assert_eq(xport_connect(&link, "mem:x", &none, &p, 1000, NULL), -EINVAL);
	cr_assert_eq(xport_connect(&link, "mem:x", &many, &p, 1000, NULL), -EINVAL);
}

Test(fail, the_first_one_counts)
{
	struct fail f = { 0 };

	cr_assert_eq(fail_err(&f), 0);
	cr_assert_str_eq(fail_text(&f), "");
	cr_assert_eq(fail(&f, -EIO, "first %d", 1), -EIO);
	cr_assert_eq(fail(&f, -EPIPE, "second"), -EPIPE);
	cr_assert_eq(fail_err(&f), -EIO);
	cr_assert_str_eq(fail_text(&f), "first 1");
	fail_reset(&f);
	cr_assert_eq(fail_err(&f), 0);
	cr_assert_eq(fail(NULL, -EPIPE, "nobody listens"), -EPIPE);
}

Test(fail, what_is_forgiven_stays_for_whom_it_was_told)
{
	struct fail f = { 0 };
	const char *told;

	fail_forgive(&f); /* there is none: the next one counts */
	cr_assert_eq(fail(&f, -EPIPE, "no BYE came"), -EPIPE);
	told = fail_text(&f);
	fail_forgive(&f);
	cr_assert_eq(fail_err(&f), 0);
	cr_assert_str_eq(fail_text(&f), "");
	cr_assert_eq(fail(&f, -EIO, "later"), -EIO);
	cr_assert_eq(fail_err(&f), 0);
	cr_assert_str_eq(told, "no BYE came");
}
