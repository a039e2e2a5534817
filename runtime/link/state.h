/* SPDX-License-Identifier: MIT */
/*
 * What a session keeps about its link and its peer. Fields are main's unless their comment says otherwise.
 *
 * send_lock guards the control channel's sending side and which link is current: other threads send, too.
 */
#ifndef FERRY_LINK_STATE_H
#define FERRY_LINK_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "wire.h"
#include "runtime/base/fail.h"
#include "runtime/session/commit.h"
#include "transport/xport.h"

struct caller;
struct lobby;

struct link {
	/* the current one */
	pthread_mutex_t send_lock;
	struct xport_link *x;	/* NULL while there is none; changed under send_lock */
	struct xport_chan *ctl; /* its control channel; send_lock */
	/* The transport's errors on this link: own_fail, or its caller's. The session copies final ones. */
	struct fail own_fail, *fail;
	uint32_t send_seq; /* send_lock */
	uint32_t recv_seq;
	uint16_t version;  /* of the protocol */
	uint64_t features; /* WIRE_FEATURE_* that both ends know */
	uint32_t generation;
	uint32_t channels; /* data channels of the first link; later links have as many */
	uint64_t heard_us; /* when the peer was last heard */
	uint8_t *msg_buf;  /* the last message received */

	/* how the next one is made */
	struct xport_param param;
	struct xport_addrs *addrs;	  /* source: the target's addresses, from the first connect */
	struct lobby *lobby;		  /* target: the listener and its callers */
	struct caller *caller;		  /* target: the one whose link is or was the current one */
	const struct caller *first_words; /* caller, until its first message is read */
	struct caller *pending;		  /* target: our source on a newer generation, not yet current */
	uint64_t looked_us;		  /* when the listener was last looked at */

	/* how the last one is closed */
	struct xport_link *dying; /* being closed */
	pthread_t closer;
	bool closing; /* the closer must be joined */
	_Atomic bool closed;

	/* The outage: losses with no progress between them. See link_recover(). */
	struct {
		uint64_t since_us; /* 0: none yet */
		uint64_t progress; /* progress() when it began */
		uint64_t back_us;  /* when the link last came back, */
		unsigned back;	   /* and how often in this outage */
	} outage;
	char peer[XPORT_PEER_MAX];	  /* the other end of the current or the last link; "": unknown */
	char lost_why[FAIL_LOST_MAX];	  /* why the last link was lost; "": unknown */
	char stranger[2 * FAIL_LOST_MAX]; /* sentence about a stranger that answered or came; "": none */

	/* the peer */
	uint8_t number[WIRE_NUMBER], peer_number[WIRE_NUMBER]; /* secrets: never logged, wiped at the end */
	bool peer_known;	       /* a handshake has succeeded: peer_number is valid */
	enum commit_state peer_commit; /* source: the target's, as last heard */
	bool peer_gone;		       /* ABORT or REFUSED was heard or sent: do not send it again */
	bool peer_aborted;	       /* ABORT was heard: the peer has settled who owns the VM */
	_Atomic bool last_words;       /* ABORT or REFUSED is under way: only main ends the link */
	_Atomic uint64_t peer_timeout_us;

	/* the heartbeat */
	pthread_t heart;
	bool beating;
	_Atomic bool heart_stop;
	int heart_fd;
};

#endif
