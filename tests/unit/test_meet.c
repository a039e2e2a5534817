// SPDX-License-Identifier: MIT
/* How two machines find each other for their results: real sockets, strangers at each side, addresses that are dead. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/cli/meet.h"
#include "bench/cli/util.h"
#include "runtime/link/stream.h"

#define MS UINT64_C(1000000)
#define LONG (20000 * MS) /* in vain only */

static struct meeting source, target;

static void listens(void)
{
	meet_init(&target, VMM_END_TARGET);
	meet_init(&source, VMM_END_SOURCE);
	cr_assert_eq(meet_listen(&target, "tcp:127.0.0.1:7000?bandwidth=1M", 0), 0);
	meet_agree(&target, &target.offer);
	meet_resolve(&source, "tcp:127.0.0.1:7000");
}

static void turn(struct meeting *m)
{
	struct pollfd v[MEET_FDS];
	uint64_t until = 0;

	meet_poll(m, v, &until);
	poll(v, MEET_FDS, 1);
	meet_step(m, v);
}

/* Both take turns, as two programs would. */
static void meets(void)
{
	uint64_t until = clock_ns() + LONG;
	char c = 'x';

	while ((source.fd < 0 || target.fd < 0) && clock_ns() < until) {
		turn(&source);
		turn(&target);
	}
	cr_assert_geq(source.fd, 0);
	cr_assert_geq(target.fd, 0);
	cr_assert_eq(send(source.fd, &c, 1, 0), 1);
	c = 0;
	cr_assert_eq(poll(&(struct pollfd){ .fd = target.fd, .events = POLLIN }, 1, 10000), 1);
	cr_assert_eq(recv(target.fd, &c, 1, 0), 1);
	cr_assert_eq(c, 'x', "what comes is the source's");
}

static int stranger(const void *says, size_t len)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons(target.offer.port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_eq(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	if (len)
		cr_assert_eq(send(fd, says, len, MSG_NOSIGNAL), (ssize_t)len);
	return fd;
}

static void done(void)
{
	meet_end(&source);
	meet_end(&target);
}

Test(meet, both_find_each_other, .fini = done)
{
	listens();
	meet_agree(&source, &target.offer);
	meets();
	cr_assert_eq(target.strangers, 0);
	cr_assert_eq(target.listener, -1, "nobody else is wanted");
}

Test(meet, the_source_comes_before_anybody_looks, .fini = done)
{
	listens();
	meet_agree(&source, &target.offer);
	for (int i = 0; i < 20; i++)
		turn(&source);
	meets();
}

Test(meet, one_who_hangs_up, .fini = done)
{
	listens();
	close(stranger("", 0));
	for (int i = 0; i < 5; i++)
		turn(&target);
	meet_agree(&source, &target.offer);
	meets();
	cr_assert_eq(target.strangers, 1);
}

Test(meet, fifty_mute_ones, .fini = done)
{
	int fd[50];

	listens();
	for (int i = 0; i < 50; i++) {
		fd[i] = stranger("", 0);
		turn(&target);
	}
	meet_agree(&source, &target.offer);
	meets();
	for (int i = 0; i < 50; i++)
		close(fd[i]);
}

/* They come faster than anybody is looked at, before and after the source. */
Test(meet, three_hundred_at_once, .fini = done)
{
	int fd[300];

	listens();
	for (int i = 0; i < 150; i++)
		fd[i] = stranger("", 0);
	meet_agree(&source, &target.offer);
	turn(&source);
	turn(&source);
	for (int i = 150; i < 300; i++)
		fd[i] = stranger("", 0);
	meets();
	for (int i = 0; i < 300; i++)
		close(fd[i]);
}

Test(meet, those_that_say_something, .fini = done)
{
	static const char much[100000];
	uint8_t near[MEET_HALF];
	int fd[5];

	listens();
	memcpy(near, target.offer.source, sizeof(near));
	near[MEET_HALF - 1] ^= 1;
	fd[0] = stranger("GET / HTTP/1.1\r\n\r\n", 18);
	fd[1] = stranger(near, sizeof(near));
	fd[2] = stranger(target.offer.source, MEET_HALF - 1); /* all but one byte, and then nothing */
	fd[3] = stranger(target.offer.target, MEET_HALF);
	fd[4] = stranger(much, sizeof(much));
	for (int i = 0; i < 10; i++)
		turn(&target);
	cr_assert_lt(target.fd, 0);
	cr_assert_eq(target.strangers, 4);
	meet_agree(&source, &target.offer);
	meets();
	for (int i = 0; i < 5; i++)
		close(fd[i]);
}

Test(meet, what_comes_in_pieces_is_taken, .fini = done)
{
	int fd;

	listens();
	for (size_t i = 0; i < MEET_HALF; i++) {
		if (!i)
			fd = stranger(target.offer.source, 1);
		else
			cr_assert_eq(send(fd, target.offer.source + i, 1, 0), 1);
		turn(&target);
		turn(&target);
	}
	cr_assert_geq(target.fd, 0);
	close(fd);
}

Test(meet, without_a_source_the_target_says_when_it_gave_up, .fini = done)
{
	listens();
	cr_assert_eq(meet_wait(&target, clock_ns() + 50 * MS), -ETIMEDOUT);
}

/* Another program has the port of a target that has gone, and would take the results. */
Test(meet, a_stranger_in_the_targets_place_is_not_believed, .fini = done)
{
	struct meet_offer liar;

	listens();
	liar = target.offer;
	target.offer.target[3] ^= 4;
	meet_agree(&source, &liar);
	for (uint64_t until = clock_ns() + 100 * MS; clock_ns() < until;) {
		turn(&source);
		turn(&target);
	}
	cr_assert_lt(source.fd, 0);
	cr_assert_eq(source.err, -EKEYREJECTED);
}

Test(meet, nobody_is_there_any_more, .fini = done)
{
	listens();
	meet_agree(&source, &target.offer);
	close(target.listener);
	target.listener = -1;
	cr_assert_eq(meet_wait(&source, clock_ns() + 100 * MS), -ECONNREFUSED);
}

/* In front of the address that works. */
static void first_address(const char *host)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST }, *a;

	cr_assert_eq(getaddrinfo(host, "1", &hints, &a), 0);
	a->ai_next = source.list;
	source.list = a;
}

Test(meet, a_first_address_that_refuses, .fini = done)
{
	listens();
	first_address("127.0.0.2");
	first_address("::1");
	meet_agree(&source, &target.offer);
	meets();
}

/* SYNs to a queue that is full are dropped. */
Test(meet, a_first_address_that_is_a_black_hole, .fini = done)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	int hole = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fill[4];
	uint64_t began;

	listens();
	at.sin_port = htons(target.offer.port);
	at.sin_addr.s_addr = inet_addr("127.0.0.2");
	cr_assert_eq(bind(hole, (struct sockaddr *)&at, sizeof(at)), 0);
	cr_assert_eq(listen(hole, 0), 0);
	for (int i = 0; i < 4; i++) {
		fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		connect(fill[i], (struct sockaddr *)&at, sizeof(at));
	}
	first_address("127.0.0.2");
	meet_agree(&source, &target.offer);
	began = clock_ns();
	meets();
	cr_assert_geq(clock_ns() - began, 200 * MS, "the hole was one");
	for (int i = 0; i < 4; i++)
		close(fill[i]);
	close(hole);
}

Test(meet, a_host_that_has_no_address, .fini = done)
{
	listens();
	meet_end(&source);
	meet_resolve(&source, "tcp:[fe80::1%no-such-device]:7000");
	meet_agree(&source, &target.offer);
	cr_assert_eq(meet_wait(&source, clock_ns() + LONG), -EHOSTUNREACH);
}

Test(meet, a_port_that_is_taken, .fini = done)
{
	struct meeting second;

	listens();
	meet_init(&second, VMM_END_TARGET);
	cr_assert_eq(meet_listen(&second, "tcp:127.0.0.1:7000", target.offer.port), -EADDRINUSE);
	meet_end(&second);
}

/* It cannot let anybody in, and does not look at its listener for a while, which would be ready all the time. */
Test(meet, a_target_without_descriptors_looks_again_soon, .fini = done)
{
	struct rlimit had, none;
	struct pollfd v[MEET_FDS];
	uint64_t until = 0;

	listens();
	meet_agree(&source, &target.offer);
	turn(&source);
	meet_poll(&target, v, &until);
	cr_assert_eq(poll(v, MEET_FDS, 10000), 1);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &had), 0);
	none = (struct rlimit){ .rlim_max = had.rlim_max };
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	meet_step(&target, v);
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &had), 0);
	cr_assert_gt(target.next_at, 0);
	until = clock_ns() + LONG;
	meet_poll(&target, v, &until);
	cr_assert(v[0].fd >= 0 || until == target.next_at, "it sleeps longer than it has to");
	meets();
}

/* Its first port was the migration's own, and there is no second one. */
Test(meet, what_cannot_be_served_is_not_offered, .fini = done)
{
	const struct meet_offer none = { 0 };
	struct meeting second;
	char uri[40];

	listens();
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", target.offer.port);
	meet_end(&target);
	meet_init(&second, VMM_END_TARGET);
	cr_assert_lt(meet_listen(&second, uri, target.offer.port), 0);
	cr_assert_eq(memcmp(&second.offer, &none, sizeof(none)), 0);
	cr_assert_eq(second.listener, -1);
	cr_assert(!second.wanted);
	meet_end(&second);
}

Test(meet, each_target_draws_bytes_of_its_own, .fini = done)
{
	struct meeting second;

	listens();
	meet_init(&second, VMM_END_TARGET);
	cr_assert_eq(meet_listen(&second, "tcp:127.0.0.1:7000", 0), 0);
	cr_assert_neq(memcmp(second.offer.source, target.offer.source, MEET_HALF), 0);
	cr_assert_neq(memcmp(second.offer.target, target.offer.target, MEET_HALF), 0);
	cr_assert_neq(memcmp(target.offer.source, target.offer.target, MEET_HALF), 0);
	meet_end(&second);
}

/* --- the offer --- */

static int take(struct meet_offer *ret, uint32_t id, uint32_t version, size_t len)
{
	static const uint8_t bytes[100] = { 1, 2, 3 };
	struct ferry_stream st;
	int err;

	stream_init(&st);
	cr_assert_eq(ferry_stream_put(&st, id, version, bytes, len), 0);
	err = meet_offer_take(ret, &st);
	stream_destroy(&st);
	return err;
}

Test(meet, an_offer_arrives)
{
	struct meet_offer o = { .port = 0xabcd }, got;
	struct ferry_stream st;

	memset(o.source, 7, MEET_HALF);
	memset(o.target, 9, MEET_HALF);
	stream_init(&st);
	cr_assert_eq(meet_offer_put(&o, &st), 0);
	cr_assert_eq(meet_offer_take(&got, &st), 0);
	stream_destroy(&st);
	cr_assert_eq(got.port, o.port);
	cr_assert_eq(memcmp(got.source, o.source, MEET_HALF), 0);
	cr_assert_eq(memcmp(got.target, o.target, MEET_HALF), 0);
}

Test(meet, an_offer_that_nobody_knows_is_none)
{
	struct meet_offer o;

	cr_assert_eq(take(&o, 0x54505254, 1, 34), 0);
	cr_assert_eq(o.port, 0x201, "the one that is known");
	cr_assert_eq(take(&o, 0x54505254, 2, 34), 0);
	cr_assert_eq(o.port, 0);
	cr_assert_eq(take(&o, 0x54505254, 1, 33), 0);
	cr_assert_eq(o.port, 0);
	cr_assert_eq(take(&o, 0x54505254, 1, 35), 0);
	cr_assert_eq(o.port, 0);
	cr_assert_eq(take(&o, 4, 1, 34), 0);
	cr_assert_eq(o.port, 0);
}

Test(meet, hosts_and_ports)
{
	static const struct {
		const char *uri, *host;
		int port;
	} row[] = {
		{ "tcp:10.0.0.2:7000", "10.0.0.2", 7000 },
		{ "tcp:10.0.0.2:7000?bandwidth=1M", "10.0.0.2", 7000 },
		{ "rdma:[fd00::2]:1", "fd00::2", 1 },
		{ "tcp:[::1]:0?latency=1ms&x=a:b", "::1", 0 },
		{ "tcp::7000", "", 7000 },
		{ "tcp:host:65535", "host", 65535 },
		{ "tcp:host:65536", NULL, 0 },
		{ "tcp:host", NULL, 0 },
		{ "tcp:host:", NULL, 0 },
		{ "tcp", NULL, 0 },
		{ "", NULL, 0 },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(*row); i++) {
		char host[256] = "";
		uint16_t port = 0;
		int err = meet_split(row[i].uri, host, &port);

		cr_expect_eq(err, row[i].host ? 0 : -EINVAL, "%s: %d", row[i].uri, err);
		cr_expect(!row[i].host || (!strcmp(host, row[i].host) && port == row[i].port), "%s: %s, %u",
			  row[i].uri, host, port);
	}
}
