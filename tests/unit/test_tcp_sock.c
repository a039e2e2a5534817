// SPDX-License-Identifier: MIT
/* Which congestion control a connection gets. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/base/fail.h"
#include "transport/tcp/tcp.h"

/* A socket that had host's congestion control before it was tuned for text; what it has then. False: host's is not to be had. */
static bool tuned(char now[16], const char *host, const char *text)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct fail f = { .err = 0 };
	socklen_t len = 15;
	struct uri u;
	bool can;

	cr_assert(fd >= 0 && !uri_parse(&u, text, &f));
	memset(now, 0, 16);
	can = !setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, host, (socklen_t)strlen(host));
	if (can) {
		cr_assert_eq(tcp_sock_tune(fd, &u, &f), 0, "%s", fail_text(&f));
		cr_assert(!getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, now, &len));
	}
	close(fd);
	return can;
}

Test(tcp_sock, the_hosts_choice_stands)
{
	char now[16];

	cr_assert(tuned(now, "reno", "tcp:127.0.0.1:1"));
	cr_assert_str_eq(now, "reno");
}

Test(tcp_sock, but_for_bbr)
{
	char now[16];

	if (!tuned(now, "bbr", "tcp:127.0.0.1:1"))
		cr_skip_test("this kernel has no BBR, or not for this user");
	cr_assert(!strcmp(now, "cubic") || !strcmp(now, "reno"), "it has %s", now);
	cr_assert(tuned(now, "bbr", "tcp:127.0.0.1:1?congestion=bbr"));
	cr_assert_str_eq(now, "bbr");
}

Test(tcp_sock, what_is_asked_for_is_taken)
{
	char now[16];

	cr_assert(tuned(now, "reno", "tcp:127.0.0.1:1?congestion=reno"));
	cr_assert_str_eq(now, "reno");
}
