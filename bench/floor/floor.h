/* SPDX-License-Identifier: MIT */
/*
 * The floor: what this machine achieves without the library. Two forked processes with warm buffers as large
 * as the guest's RAM and of the same kind, and one userfaultfd; over plain blocking sockets, or over the bare
 * RDMA device. Every figure is compared with it.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <stddef.h>
#include <stdint.h>

#define FLOOR_SIZES 4

struct floor_write { /* rdma: WRITEs of one size, back to back */
	uint32_t size;
	double mb_s;
};

/* The bare pull (pull.h): what to measure, and what came out. */
struct floor_pull_ask {
	uint64_t pages;	   /* that are missing; 0: do not measure it */
	uint64_t spread;   /* bytes of memory that they are scattered over */
	uint64_t rate;	   /* pages of it that the toucher writes per second */
	unsigned channels; /* data connections, 1 to 16 */
};

struct floor_pull {
	double total_ms;		   /* until the last page is placed */
	double fault_p50_us, fault_p99_us; /* event read until page placed; 0 without faults */
	uint64_t faults, touched;	   /* of the toucher */
};

struct floor {
	double throughput_mb_s;		   /* memory to memory, 1 MiB pieces, median of 3 passes */
	double cpu_s_per_gib;		   /* of both processes, median of the same; sockets only */
	double rtt_us, rtt_p99_us;	   /* 16-byte request, 4 KiB answer; rdma: a READ of 4 KiB */
	double fault_p50_us, fault_p99_us; /* event read until page placed, with that round trip inside */
	double stall_p50_us, stall_p99_us; /* the wait of the faulting thread */
	double rtt_sleep_us, rtt_poll_us;  /* medians of both ways of waiting; rtt_us is the better one */
	struct floor_write write[FLOOR_SIZES];
	uint32_t nwrites;	/* 0: sockets */
	struct floor_pull pull; /* if asked */
};

struct floor_ask {
	const char *uri; /* tcp:HOST:PORT or rdma:HOST:PORT, on this machine */
	uint64_t memory; /* bytes of each buffer, at least pull.spread */
	int memfd;
	struct floor_pull_ask pull; /* sockets only */
};

/* 0, or a negative errno with one sentence in why. */
int floor_measure(struct floor *ret, const struct floor_ask *ask, char *why, size_t cap);

/* --- internal to bench/floor --- */

#define FLOOR_ROUNDS 2000
#define FLOOR_WARMUP 200
#define FLOOR_PAGE_SIZE 4096u
#define FLOOR_PASSES 3

/* The source of pages. */
struct floor_peer {
	/* Reads one page of the peer's memory into page[FLOOR_PAGE_SIZE], waiting by sleep or by polling. */
	int (*fetch)(struct floor_peer *p, uint64_t page, int sleeps, void *into);
	/* Called before the first fetch into the buffer; NULL: not needed. */
	int (*lend)(struct floor_peer *p, void *mem, size_t len);
};

int floor_say(char *why, size_t cap, int err, const char *what);
int floor_map(char **ret, uint64_t len, int memfd, char fill, char *why, size_t cap);
/* The address of "rdma:HOST:PORT?..."; free it by freeaddrinfo(). */
struct addrinfo;
int floor_resolve(struct addrinfo **ret, const char *uri, char *why, size_t cap);

/* Measures round trips and faults, with both ways of waiting; the better one counts. */
int floor_round_trips(struct floor *f, struct floor_peer *p, void *page);
int floor_faults(struct floor *f, struct floor_peer *p, int memfd, char *why, size_t cap);

/* Sets the socket up as the tcp transport does. */
void floor_tune(int sock);
/* A userfaultfd that catches faults on absent pages or, for a memfd, on pages that are not mapped. */
int floor_uffd(int memfd, char *why, size_t cap);

/* pull.c, pull_serve.c: the two ends of the bare pull; the source connects to the listener. */
struct sockaddr;
int floor_pull(struct floor_pull *ret, const struct floor_pull_ask *ask, int listener, int memfd, char *why,
	       size_t cap);
int floor_pull_serve(const struct floor_pull_ask *ask, const struct sockaddr *addr, unsigned len, char *mem);

/* floor_rdma.c; fails with a sentence if the build has no RDMA. */
int floor_rdma_receive(struct floor *f, const char *uri, int ctl, uint64_t memory, int memfd, char *why,
		       size_t cap);
int floor_rdma_send(int ctl, uint64_t memory, int memfd);

#endif
