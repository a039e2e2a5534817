/* SPDX-License-Identifier: MIT */
/*
 * One end of a migration in a process of its own. It exchanges messages with its parent over a SOCK_SEQPACKET
 * socket, one struct msg per packet. The parent never touches guest memory; if a child dies, the parent reads
 * the end of its socket.
 */
#ifndef BENCH_END_H
#define BENCH_END_H

#include "meet.h"
#include "options.h"
#include "record.h"
#include "bench/vmm/vmm.h"

enum msg_type {
	MSG_READY,  /* child: the guest runs (source); the target listens on the URI in .text */
	MSG_EVENT,  /* child: .event, its text in .text */
	MSG_STATS,  /* child: .stats, during ferry_run() */
	MSG_LOG,    /* child: the line in .text, its level in .number */
	MSG_RESULT, /* child: .result; .number is 1 if the fault at a message occurred; .text: the mutator */
	MSG_PROOF,  /* child: .proof; .number is vmm_proof()'s result; .text: the mutator */
	MSG_ERROR,  /* child: it could not begin; the sentence is in .text */
	MSG_OFFER,  /* child: the ends have agreed on the port for results; source: .offer */
	MSG_GO,	    /* parent: begin. .text: the URI to connect to or to listen on; target: .offer */
	MSG_PROVE,  /* parent: prove the memory */
	MSG_QUIT,   /* parent: exit */
};

/* CPU time of the process including its vCPUs, its memory, and what else the library does not report. */
struct end_cost {
	uint64_t run_us;	    /* inside ferry_run() */
	uint64_t precopy_us;	    /* of run_us, in pre-copy */
	uint64_t postcopy_us;	    /* of run_us, in post-copy */
	uint64_t reserve_us;	    /* time in the reservation, by the clock */
	uint64_t stamps;	    /* target: pages that the guest wrote in post-copy */
	uint64_t precopy_stamps;    /* source: pages that the guest wrote in pre-copy */
	uint64_t resident;	    /* bytes: the source's before ferry_run(), the target's after it */
	uint64_t stood_us;	    /* source: from the pause until the VM resumed there; 0: it did not */
	struct vmm_tracked tracked; /* source */
};

struct msg {
	enum msg_type type;
	int number;
	uint64_t time_ns; /* MSG_EVENT: its time, CLOCK_MONOTONIC */
	char text[FERRY_DETAIL_MAX];
	struct end_cost cpu; /* with MSG_RESULT */
	union {
		struct ferry_event event;
		struct ferry_stats stats;
		struct ferry_result result;
		struct vmm_proof proof;
		struct meet_offer offer;
	};
};

/* 0; -EAGAIN: no message and wait is false; -EPIPE: the peer is gone. */
int msg_send(int fd, const struct msg *m);
int msg_recv(int fd, struct msg *m, bool wait);

/* Runs the child and never returns. observer_fd takes the guest's output; area takes the samples, or is NULL. */
_Noreturn void end_main(enum vmm_end end, const struct options *o, int fd, int observer_fd,
			struct record_area *area);

#endif
