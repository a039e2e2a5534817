/* SPDX-License-Identifier: MIT */
/*
 * Measures the floor. The sender plays the source: it has a full buffer, sends all of it, and answers
 * requests for its pages. The receiver plays the target: it measures and reports to the parent. Both warm
 * their memory before anything is timed. Waits for a socket are measured twice, by polling (with
 * sched_yield(), because more than two threads share two cores) and by sleeping; the better figure counts.
 * If it is asked for, the bare pull (pull.h) follows.
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
#include "bench/cli/util.h"
#include "transport/tcp/congestion.h"

#define PIECE (1u << 20)
#define PASSES FLOOR_PASSES

struct request {
	uint32_t op;	 /* enum op */
	uint32_t sleeps; /* how the peer waits for the next request: 0 polls, 1 sleeps */
	uint64_t page;	 /* the page to answer with */
};
_Static_assert(sizeof(struct request) == 16, "the request is 16 bytes");
enum op { ASK_PAGE, ASK_DONE };

struct tcp_peer {
	struct floor_peer peer;
	int sock;
};

struct report { /* receiver to parent */
	int err;
	char why[256];
	struct floor floor;
};

int floor_say(char *why, size_t cap, int err, const char *what)
{
	snprintf(why, cap, "%s: %s", what, strerror(-err));
	return err;
}

int floor_map(char **ret, uint64_t len, int memfd, char fill, char *why, size_t cap)
{
	int fd = -1;
	char *p;

	if (memfd) {
		fd = memfd_create("floor", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)len))
			return floor_say(why, cap, -errno, "memfd for the floor's buffer");
	}
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
	if (fd >= 0)
		close(fd);
	if (p == MAP_FAILED)
		return floor_say(why, cap, -errno, "memory for the floor's buffer");
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

static int fetch_page(struct floor_peer *p, uint64_t page, int sleeps, void *into)
{
	struct request req = { .op = ASK_PAGE, .sleeps = (uint32_t)sleeps, .page = page };
	int sock = ((struct tcp_peer *)p)->sock, err = write_full(sock, &req, sizeof(req));

	return err ? err : recv_all(sock, into, FLOOR_PAGE_SIZE, sleeps);
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* After each pass the sender sends its CPU time for it. */
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
	struct request req = { .op = ASK_PAGE, .sleeps = 1 };
	uint64_t npages = len / FLOOR_PAGE_SIZE;

	for (;;) {
		int err = recv_all(sock, &req, sizeof(req), (int)req.sleeps);

		if (err)
			return err;
		if (req.op == ASK_DONE)
			return 0;
		err = write_full(sock, mem + req.page % npages * FLOOR_PAGE_SIZE, FLOOR_PAGE_SIZE);
		if (err)
			return err;
	}
}

void floor_tune(int sock)
{
	int one = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	congestion_default(sock);
}

_Noreturn static void sender(const struct floor_ask *ask, const struct sockaddr *addr, socklen_t addr_len)
{
	int sock = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char why[256], *mem;

	if (sock < 0 || floor_map(&mem, ask->memory, ask->memfd, 0x5a, why, sizeof(why)))
		_exit(1);
	floor_tune(sock);
	if (connect(sock, addr, addr_len))
		_exit(1);
	if (sender_stream(sock, mem, ask->memory) || sender_answer(sock, mem, ask->memory))
		_exit(1);
	if (ask->pull.pages && floor_pull_serve(&ask->pull, addr, addr_len, mem))
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

static int round_trips(struct floor_peer *p, int sleeps, void *page, double *p50, double *p99)
{
	double us[FLOOR_ROUNDS];

	for (int i = -FLOOR_WARMUP; i < FLOOR_ROUNDS; i++) {
		uint64_t begin = clock_ns();
		int err = p->fetch(p, (uint64_t)(i + FLOOR_WARMUP) * 7919, sleeps, page);

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

int floor_round_trips(struct floor *f, struct floor_peer *p, void *page)
{
	double poll_p99 = 0, sleep_p99 = 0;
	int err = round_trips(p, 0, page, &f->rtt_poll_us, &poll_p99);

	if (!err)
		err = round_trips(p, 1, page, &f->rtt_sleep_us, &sleep_p99);
	f->rtt_us = f->rtt_poll_us < f->rtt_sleep_us ? f->rtt_poll_us : f->rtt_sleep_us;
	f->rtt_p99_us = f->rtt_poll_us < f->rtt_sleep_us ? poll_p99 : sleep_p99;
	return err;
}

static int receive(struct report *r, int listener, const struct floor_ask *ask)
{
	struct request done = { .op = ASK_DONE };
	struct tcp_peer peer = { .peer = { .fetch = fetch_page } };
	char page[FLOOR_PAGE_SIZE], *mem;
	int err;

	err = floor_map(&mem, ask->memory, ask->memfd, 1, r->why, sizeof(r->why));
	if (err)
		return err;
	peer.sock = accept(listener, NULL, NULL);
	if (peer.sock < 0)
		return floor_say(r->why, sizeof(r->why), -errno, "the floor's connection");
	floor_tune(peer.sock);
	err = receive_stream(&r->floor, peer.sock, mem, ask->memory);
	if (!err)
		err = floor_round_trips(&r->floor, &peer.peer, page);
	if (err)
		return floor_say(r->why, sizeof(r->why), err, "the floor's other end went away");
	err = floor_faults(&r->floor, &peer.peer, ask->memfd, r->why, sizeof(r->why));
	write_full(peer.sock, &done, sizeof(done));
	close(peer.sock);
	munmap(mem, ask->memory);
	if (!err && ask->pull.pages)
		err = floor_pull(&r->floor.pull, &ask->pull, listener, ask->memfd, r->why, sizeof(r->why));
	return err;
}

int floor_resolve(struct addrinfo **ret, const char *uri, char *why, size_t cap)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
	char text[512], host[256] = "", *rest, *colon;
	int gai;

	snprintf(text, sizeof(text), "%.*s", (int)strcspn(uri, "?"), uri);
	rest = strchr(text, ':') + 1;
	colon = strrchr(rest, ':');
	if (!colon || colon == rest || (size_t)(colon - rest) >= sizeof(host)) {
		snprintf(why, cap, "%s is not %.*s:HOST:PORT", uri, (int)(rest - text) - 1, text);
		return -EINVAL;
	}
	if (*rest == '[' && colon[-1] == ']')
		memcpy(host, rest + 1, (size_t)(colon - rest) - 2);
	else
		memcpy(host, rest, (size_t)(colon - rest));
	gai = getaddrinfo(host, colon + 1, &hints, ret);
	if (!gai)
		return 0;
	snprintf(why, cap, "%s: %s", uri, gai_strerror(gai));
	return -EINVAL;
}

static int listen_at(const char *uri, struct sockaddr_storage *addr, socklen_t *len, char *why, size_t cap)
{
	struct addrinfo *ai;
	int sock, one = 1, err = floor_resolve(&ai, uri, why, cap);

	if (err)
		return err;
	sock = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*len = sizeof(*addr);
	if (sock >= 0)
		setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (sock < 0 || bind(sock, ai->ai_addr, ai->ai_addrlen) || listen(sock, 32) ||
	    getsockname(sock, (struct sockaddr *)addr, len)) {
		err = floor_say(why, cap, -errno, uri);
		if (sock >= 0)
			close(sock);
		sock = err;
	}
	freeaddrinfo(ai);
	return sock;
}

/* The job of the two processes. */
struct job {
	const struct floor_ask *ask;
	int listener; /* tcp: where the receiver accepts */
	int ctl[2];   /* rdma: between receiver and sender */
	struct sockaddr_storage addr;
	socklen_t addr_len;
};

static int prepare(struct job *j, char *why, size_t cap)
{
	if (!strncmp(j->ask->uri, "rdma:", 5))
		return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, j->ctl)
			       ? floor_say(why, cap, -errno, "a socket pair")
			       : 0;
	j->listener = listen_at(j->ask->uri, &j->addr, &j->addr_len, why, cap);
	return j->listener < 0 ? j->listener : 0;
}

static void job_close(struct job *j)
{
	if (j->listener >= 0)
		close(j->listener);
	for (int i = 0; i < 2; i++)
		if (j->ctl[i] >= 0)
			close(j->ctl[i]);
}

_Noreturn static void receiver(struct job *j, int out)
{
	struct report r = { 0 };

	if (j->listener >= 0) {
		r.err = receive(&r, j->listener, j->ask);
	} else {
		close(j->ctl[1]); /* so that the sender's death ends the socket */
		r.err = floor_rdma_receive(&r.floor, j->ask->uri, j->ctl[0], j->ask->memory, j->ask->memfd,
					   r.why, sizeof(r.why));
	}
	write_full(out, &r, sizeof(r));
	_exit(0);
}

_Noreturn static void send_all(struct job *j)
{
	if (j->listener >= 0)
		sender(j->ask, (struct sockaddr *)&j->addr, j->addr_len);
	close(j->ctl[0]);
	_exit(floor_rdma_send(j->ctl[1], j->ask->memory, j->ask->memfd) ? 1 : 0);
}

int floor_measure(struct floor *ret, const struct floor_ask *ask, char *why, size_t cap)
{
	struct job j = { .ask = ask, .listener = -1, .ctl = { -1, -1 } };
	struct report r = { .err = -EIO, .why = "the floor's processes died" };
	int fds[2], err = prepare(&j, why, cap);
	pid_t in, out;

	if (err)
		return err;
	if (pipe(fds)) {
		job_close(&j);
		return floor_say(why, cap, -errno, "a pipe for the floor");
	}
	in = fork_child();
	if (!in)
		receiver(&j, fds[1]);
	out = in < 0 ? -1 : fork_child();
	if (!out) {
		close(fds[1]);
		send_all(&j);
	}
	close(fds[1]);
	job_close(&j);
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
