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

struct floor {
	double throughput_mb_s;		   /* memory to memory, 1 MiB pieces, median of 3 passes */
	double cpu_s_per_gib;		   /* of both processes, median of the same; sockets only */
	double rtt_us, rtt_p99_us;	   /* 16-byte request, 4 KiB answer; rdma: a READ of 4 KiB */
	double fault_p50_us, fault_p99_us; /* event read until page placed, with that round trip inside */
	double stall_p50_us, stall_p99_us; /* the wait of the faulting thread */
	double rtt_sleep_us, rtt_poll_us;  /* medians of both ways of waiting; rtt_us is the better one */
	struct floor_write write[FLOOR_SIZES];
	uint32_t nwrites; /* 0: sockets */
};

/* 0, or a negative errno with one sentence in why. uri: tcp:HOST:PORT or rdma:HOST:PORT, on this machine. */
int floor_measure(struct floor *ret, const char *uri, uint64_t memory, int memfd, char *why, size_t cap);

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

/* floor_rdma.c; fails with a sentence if the build has no RDMA. */
int floor_rdma_receive(struct floor *f, const char *uri, int ctl, uint64_t memory, int memfd, char *why,
		       size_t cap);
int floor_rdma_send(int ctl, uint64_t memory, int memfd);

#endif
