/* SPDX-License-Identifier: MIT */
/*
 * The bare machine. The sender plays the source: it owns a full buffer, sends all of it and answers
 * requests for pages of it. The receiver plays the target: it measures and reports to the parent. Both
 * warm their memory before anything is timed. Waiting for a socket is done twice, by polling (with
 * sched_yield, since two cores are shared by more than two threads) and by sleeping; the better counts.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "floor.h"
#include "util.h"

#define PIECE (1u << 20)
#define PASSES 3

struct report { /* receiver to parent */
	int err;
	char why[256];
	struct floor floor;
};

static int say(char *why, size_t cap, int err, const char *what)
{
	snprintf(why, cap, "%s: %s", what, strerror(-err));
	return err;
}

static int map_warm(char **ret, uint64_t len, int memfd, char fill, char *why, size_t cap)
{
	int fd = -1;
	char *p;

	if (memfd) {
		fd = memfd_create("floor", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)len))
			return say(why, cap, -errno, "memfd for the floor's buffer");
	}
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		return say(why, cap, -errno, "memory for the floor's buffer");
	memset(p, fill, len);
	*ret = p;
	return 0;
}

/* Like recv(MSG_WAITALL), polling or sleeping. */
static int recv_all(int sock, void *buf, size_t len, int sleeps)
{
	char *p = buf;

	while (len) {
		ssize_t n = recv(sock, p, len, sleeps ? MSG_WAITALL : MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN) {
			sched_yield();
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EPIPE;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int floor_ask(int sock, uint64_t page, int sleeps, void *into)
{
	struct floor_request req = { .op = FLOOR_PAGE, .sleeps = (uint32_t)sleeps, .page = page };
	int err = write_full(sock, &req, sizeof(req));

	return err ? err : recv_all(sock, into, FLOOR_PAGE_SIZE, sleeps);
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* Behind each pass comes what it has cost this process. */
static int sender_stream(int sock, const char *mem, uint64_t len)
{
	for (unsigned pass = 0; pass < PASSES; pass++) {
		uint64_t begin, cost;
		char go;
		int err = read_full(sock, &go, 1);

		begin = cpu_us();
		for (uint64_t at = 0; at < len && !err; at += PIECE)
			err = write_full(sock, mem + at, len - at < PIECE ? len - at : PIECE);
		cost = cpu_us() - begin;
		if (!err)
			err = write_full(sock, &cost, sizeof(cost));
		if (err)
			return err;
	}
	return 0;
}

static int sender_answer(int sock, const char *mem, uint64_t len)
{
	struct floor_request req = { .op = FLOOR_PAGE, .sleeps = 1 };
	uint64_t npages = len / FLOOR_PAGE_SIZE;

	for (;;) {
		int err = recv_all(sock, &req, sizeof(req), (int)req.sleeps);

		if (err)
			return err;
		if (req.op == FLOOR_DONE)
			return 0;
		err = write_full(sock, mem + req.page % npages * FLOOR_PAGE_SIZE, FLOOR_PAGE_SIZE);
		if (err)
			return err;
	}
}

_Noreturn static void sender(const struct sockaddr *addr, socklen_t addr_len, uint64_t memory, int memfd)
{
	int sock = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	char why[256], *mem;

	if (sock < 0 || map_warm(&mem, memory, memfd, 0x5a, why, sizeof(why)))
		_exit(1);
	if (connect(sock, addr, addr_len))
		_exit(1);
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (sender_stream(sock, mem, memory) || sender_answer(sock, mem, memory))
		_exit(1);
	_exit(0);
}

static int receive_stream(struct floor *f, int sock, char *mem, uint64_t len)
{
	double mb_s[PASSES], cpu_s[PASSES];

	for (unsigned pass = 0; pass < PASSES; pass++) {
		uint64_t begin = clock_ns(), cost = cpu_us(), sender;
		char go = 1;
		int err = write_full(sock, &go, 1);

		for (uint64_t at = 0; at < len && !err; at += PIECE)
			err = recv_all(sock, mem + at, len - at < PIECE ? len - at : PIECE, 1);
		if (err)
			return err;
		mb_s[pass] = (double)len * 1000.0 / (double)(clock_ns() - begin);
		cost = cpu_us() - cost;
		err = recv_all(sock, &sender, sizeof(sender), 1);
		if (err)
			return err;
		cpu_s[pass] = (double)(cost + sender) / 1e6 / ((double)len / (1 << 30));
	}
	sort_double(mb_s, PASSES);
	sort_double(cpu_s, PASSES);
	f->cpu_s_per_gib = cpu_s[PASSES / 2];
	f->throughput_mb_s = mb_s[PASSES / 2];
	return 0;
}

static int round_trips(int sock, int sleeps, double *p50, double *p99)
{
	char page[FLOOR_PAGE_SIZE];
	double us[FLOOR_ROUNDS];

	for (int i = -FLOOR_WARMUP; i < FLOOR_ROUNDS; i++) {
		uint64_t begin = clock_ns();
		int err = floor_ask(sock, (uint64_t)(i + FLOOR_WARMUP) * 7919, sleeps, page);

		if (err)
			return err;
		if (i >= 0)
			us[i] = (double)(clock_ns() - begin) / 1000;
	}
	sort_double(us, FLOOR_ROUNDS);
	*p50 = quantile(us, FLOOR_ROUNDS, 0.5);
	*p99 = quantile(us, FLOOR_ROUNDS, 0.99);
	return 0;
}

static int receive_faults(struct report *r, int sock, int memfd)
{
	struct floor hot = { 0 }, cold = { 0 };
	const struct floor *best;
	int err = floor_faults(&hot, sock, memfd, 0, r->why, sizeof(r->why));

	if (!err)
		err = floor_faults(&cold, sock, memfd, 1, r->why, sizeof(r->why));
	if (err)
		return err;
	best = hot.fault_p50_us <= cold.fault_p50_us ? &hot : &cold;
	r->floor.fault_p50_us = best->fault_p50_us;
	r->floor.fault_p99_us = best->fault_p99_us;
	r->floor.stall_p50_us = best->stall_p50_us;
	r->floor.stall_p99_us = best->stall_p99_us;
	return 0;
}

static int receive(struct report *r, int listener, uint64_t memory, int memfd)
{
	double poll_p99 = 0, sleep_p99 = 0;
	struct floor_request done = { .op = FLOOR_DONE };
	struct floor *f = &r->floor;
	int sock, err, one = 1;
	char *mem;

	err = map_warm(&mem, memory, memfd, 1, r->why, sizeof(r->why));
	if (err)
		return err;
	sock = accept(listener, NULL, NULL);
	if (sock < 0)
		return say(r->why, sizeof(r->why), -errno, "the floor's connection");
	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	err = receive_stream(f, sock, mem, memory);
	if (!err)
		err = round_trips(sock, 0, &f->rtt_poll_us, &poll_p99);
	if (!err)
		err = round_trips(sock, 1, &f->rtt_sleep_us, &sleep_p99);
	if (err)
		return say(r->why, sizeof(r->why), err, "the floor's other end went away");
	f->rtt_us = f->rtt_poll_us < f->rtt_sleep_us ? f->rtt_poll_us : f->rtt_sleep_us;
	f->rtt_p99_us = f->rtt_poll_us < f->rtt_sleep_us ? poll_p99 : sleep_p99;
	err = receive_faults(r, sock, memfd);
	write_full(sock, &done, sizeof(done));
	close(sock);
	return err;
}

static int listen_at(const char *uri, struct sockaddr_storage *addr, socklen_t *len, char *why, size_t cap)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV }, *ai;
	char text[512], host[256] = "", *rest, *colon;
	int sock, one = 1, gai;

	snprintf(text, sizeof(text), "%.*s", (int)strcspn(uri, "?"), uri);
	rest = strchr(text, ':') + 1;
	colon = strrchr(rest, ':');
	if (!colon || colon == rest || (size_t)(colon - rest) >= sizeof(host)) {
		snprintf(why, cap, "%s is not tcp:HOST:PORT", uri);
		return -EINVAL;
	}
	if (*rest == '[' && colon[-1] == ']')
		memcpy(host, rest + 1, (size_t)(colon - rest) - 2);
	else
		memcpy(host, rest, (size_t)(colon - rest));
	gai = getaddrinfo(host, colon + 1, &hints, &ai);
	if (gai) {
		snprintf(why, cap, "%s: %s", uri, gai_strerror(gai));
		return -EINVAL;
	}
	sock = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*len = sizeof(*addr);
	if (sock >= 0)
		setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sock < 0 || bind(sock, ai->ai_addr, ai->ai_addrlen) || listen(sock, 1) ||
	    getsockname(sock, (struct sockaddr *)addr, len)) {
		int err = say(why, cap, -errno, uri);

		if (sock >= 0)
			close(sock);
		sock = err;
	}
	freeaddrinfo(ai);
	return sock;
}

int floor_measure(struct floor *ret, const char *uri, uint64_t memory, int memfd, char *why, size_t cap)
{
	struct report r = { .err = -EIO, .why = "the floor's processes died" };
	struct sockaddr_storage addr;
	int listener, fds[2], err;
	socklen_t addr_len;
	pid_t in, out;

	listener = listen_at(uri, &addr, &addr_len, why, cap);
	if (listener < 0)
		return listener;
	if (pipe(fds)) {
		close(listener);
		return say(why, cap, -errno, "a pipe for the floor");
	}
	in = fork_child();
	if (!in) {
		r = (struct report){ 0 };
		r.err = receive(&r, listener, memory, memfd);
		write_full(fds[1], &r, sizeof(r));
		_exit(0);
	}
	out = in < 0 ? -1 : fork_child();
	if (!out) {
		close(fds[1]);
		sender((struct sockaddr *)&addr, addr_len, memory, memfd);
	}
	close(fds[1]);
	close(listener);
	err = out < 0 ? -EAGAIN : read_full(fds[0], &r, sizeof(r));
	close(fds[0]);
	if (in > 0)
		waitpid(in, NULL, 0);
	if (out > 0)
		waitpid(out, NULL, 0);
	if (!err)
		err = r.err;
	if (err)
		snprintf(why, cap, "%s", r.why);
	else
		*ret = r.floor;
	return err;
}
