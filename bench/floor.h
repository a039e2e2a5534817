/* SPDX-License-Identifier: MIT */
/*
 * What this machine gives without the library: two forked processes, warm buffers as large as the guest's
 * RAM and of the same kind, plain blocking sockets, one userfaultfd. The yardstick beside every figure.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include <stddef.h>
#include <stdint.h>

struct floor {
	double throughput_mb_s;		   /* memory to memory, 1 MiB pieces, median of 3 passes */
	double cpu_s_per_gib;		   /* of both processes, median of the same */
	double rtt_us, rtt_p99_us;	   /* 16-byte request, 4 KiB answer */
	double fault_p50_us, fault_p99_us; /* event read until page placed, with that round trip inside */
	double stall_p50_us, stall_p99_us; /* what the faulting thread waited */
	double rtt_sleep_us, rtt_poll_us;  /* medians of both ways of waiting; rtt_us is the better one */
};

/* 0, or a negative errno with one sentence in why. uri: tcp:HOST:PORT, on this machine. */
int floor_measure(struct floor *ret, const char *uri, uint64_t memory, int memfd, char *why, size_t cap);

/* floor_fault.c: the target's side of the faults, over sock to a peer that answers floor requests. */
struct floor_request {
	uint32_t op;	 /* enum floor_op */
	uint32_t sleeps; /* how the peer is to wait for the next request: 0: polls, 1: sleeps */
	uint64_t page;	 /* to answer with */
};
_Static_assert(sizeof(struct floor_request) == 16, "the request is 16 bytes");
enum floor_op { FLOOR_PAGE, FLOOR_DONE };

#define FLOOR_ROUNDS 2000
#define FLOOR_WARMUP 200
#define FLOOR_PAGE_SIZE 4096u

/* One request and its answer into page[FLOOR_PAGE_SIZE], waiting as sleeps says. */
int floor_ask(int sock, uint64_t page, int sleeps, void *into);
/* FLOOR_ROUNDS faults; the quantiles into ret's fault_ and stall_ fields. */
int floor_faults(struct floor *ret, int sock, int memfd, int sleeps, char *why, size_t cap);

#endif
