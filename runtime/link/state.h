/* SPDX-License-Identifier: MIT */
/*
 * What a session keeps about its link and about the peer at its other end. Main's, where nothing else is said.
 *
 * send_lock guards the sending side of the control channel, and which link is the current one: the heartbeat sends, too.
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
	struct xport_link *x;	 /* NULL while there is none; changed under send_lock */
	struct xport_chan *ctl;	 /* its control channel; send_lock */
	struct fail own_fail, *fail; /* what the transport says of it; a target's link has a caller's. What matters moves to the session's */
	uint32_t send_seq;	 /* send_lock */
	uint32_t recv_seq;
	uint16_t version;	 /* of the protocol */
	uint64_t features;	 /* WIRE_FEATURE_*: what both ends know */
	uint32_t generation;
	uint32_t channels;	 /* of the first link; a later one has as many */
	uint64_t heard_us;	 /* when the peer was last heard */
	uint8_t *msg_buf;	 /* the message that was received last */

	/* how the next one is made */
	struct xport_param param;
	struct xport_addrs *addrs;	  /* source: the target's, since it was looked for first */
	struct lobby *lobby;		  /* target: its listener, and who has come to it */
	struct caller *caller;		  /* target: whose link is the current one, or was the last one */
	const struct caller *first_words; /* the caller, until they are read */
	struct caller *pending;		  /* target: its source has come back, on a newer generation */
	uint64_t looked_us;		  /* when the listener was last looked at */

	/* how the last one is closed */
	struct xport_link *dying; /* the closer's */
	pthread_t closer;
	bool closing; /* the closer is to be joined */
	_Atomic bool closed;

	/* The outage, or the row of outages with no progress between them: see link_recover(). */
	struct {
		uint64_t since_us; /* 0: none yet */
		uint64_t progress; /* when it began */
		uint64_t back_us;  /* when the link was last back, */
		unsigned back;	   /* and how often since it began */
	} outage;
	char lost_why[FAIL_LOST_MAX];	  /* what the last link was lost of, "" where nobody said */
	char stranger[2 * FAIL_LOST_MAX]; /* who else came, or has answered in this outage; "": nobody */

	/* the peer */
	uint8_t number[WIRE_NUMBER], peer_number[WIRE_NUMBER]; /* secrets: in no log, no sentence, and wiped by ferry_free() */
	bool peer_known;	       /* a handshake has succeeded before: peer_number is the peer's */
	enum commit_state peer_commit; /* at the last handshake */
	bool peer_gone;		       /* ABORT or REFUSED was heard or sent: no need to say it again */
	bool peer_aborted;	       /* ABORT was heard: the peer has settled who owns the VM */
	_Atomic bool last_words;       /* being said: main alone ends the link */
	_Atomic uint64_t peer_timeout_us;

	/* the heartbeat */
	pthread_t heart;
	bool beating;
	_Atomic bool heart_stop;
	int heart_fd;
};

#endif
