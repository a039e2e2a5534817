/* SPDX-License-Identifier: MIT */
/*
 * One end of a migration in a process of its own, and how it talks with its parent: a SOCK_SEQPACKET
 * socket, one struct msg a packet. The parent never touches guest memory; a child that dies is seen as
 * the end of its socket.
 */
#ifndef BENCH_END_H
#define BENCH_END_H

#include "meet.h"
#include "options.h"
#include "record.h"
#include "bench/vmm/vmm.h"

enum msg_type {
	MSG_READY,  /* child: the guest runs (source); .text is the URI that it listens on (target) */
	MSG_EVENT,  /* child: .event, its text in .text */
	MSG_STATS,  /* child: .stats, while ferry_run() runs */
	MSG_LOG,    /* child: .text, .number is the level */
	MSG_RESULT, /* child: .result; .number: the drill at a message has struck; .text is the mutator's name so far */
	MSG_PROOF,  /* child: .proof, .number is vmm_proof()'s result; .text the mutator's name */
	MSG_ERROR,  /* child: could not begin; .text */
	MSG_OFFER,  /* child: the ends have agreed where to tell the results; source: .offer */
	MSG_GO,	    /* parent: begin; .text is the URI (source: to connect to; target: to listen on, and .offer) */
	MSG_PROVE,  /* parent */
	MSG_QUIT,   /* parent */
};

/* CPU time of the whole process, its vCPUs too, memory, and what its guest waited. */
struct end_cost {
	uint64_t run_us;      /* inside ferry_run() */
	uint64_t precopy_us;  /* of it, in pre-copy */
	uint64_t postcopy_us; /* of it, in post-copy */
	uint64_t resident;    /* bytes: the source's before ferry_run(), the target's after it */
	uint64_t stood_us;    /* the source: from the pause until the VM went on there; 0: it did not */
};

struct msg {
	enum msg_type type;
	int number;
	uint64_t time_ns; /* MSG_EVENT: when, CLOCK_MONOTONIC */
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

/* 0, -EAGAIN (nothing there, with wait false), -EPIPE (the other side has gone). */
int msg_send(int fd, const struct msg *m);
int msg_recv(int fd, struct msg *m, bool wait);

/* The child's whole life; never returns. observer_fd: where its guest's output goes; area: samples, or NULL. */
_Noreturn void end_main(enum vmm_end end, const struct options *o, int fd, int observer_fd,
			struct record_area *area);

#endif
