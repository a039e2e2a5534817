/* SPDX-License-Identifier: MIT */
/*
 * Inside the tcp transport. Who does what:
 *
 *	listen.c	the listener: half-open connections, grouping into links
 *	dial.c	the connecting end
 *	link.c	the link object, kill
 *	sock.c	plain socket calls with bounded waits
 *	pages.c	page data onto a connection without a copy
 *	ctl.c	control channel: whole messages
 *	data.c	data and urgent channels, the end that puts and gets
 *	serve.c	data and urgent channels, the end that serves
 *
 * Sockets are O_NONBLOCK (splice() knows no MSG_DONTWAIT), and all waiting is poll(). kill() shuts the sockets down:
 * whatever waits on one wakes.
 */
#ifndef FERRY_TCP_H
#define FERRY_TCP_H

#include <stdatomic.h>

#include "tcp_wire.h"
#include "runtime/base/spin.h"
#include "transport/gets.h"
#include "transport/xport_int.h"

struct tcp_link;

/* Tells a slow transfer from one that stands still, by the connection's own byte counts. Zero to begin. */
struct tcp_watch {
	uint64_t since_us, bytes;
	bool sent_only;	 /* what comes is no sign that what is sent is taken */
	uint64_t end_us; /* not 0: however slowly it moves, it is over then */
};

/* Carries references to pages from vmsplice() to splice(); empty between two calls. */
struct tcp_pipe {
	enum { TCP_PIPE_NONE, TCP_PIPE_OPEN, TCP_PIPE_REFUSED } state;
	int in, out;
};

struct tcp_ctl {
	struct xport_chan chan;
	struct tcp_link *link;
	int fd;
	int tx_err, rx_err; /* sticky: a broken stream has no next message */
	struct tcp_msg rx_head;
	size_t rx_got; /* bytes of head and body that are here */
	uint64_t rx_stamp_us;
	uint8_t rx_body[XPORT_MSG_MAX];
};

struct tcp_get {
	unsigned n;
	uint64_t bytes;
	struct iovec iov[1 + XPORT_RUNS_MAX]; /* [0]: room for the head of its reply */
	struct page_run runs[XPORT_RUNS_MAX];
};

struct tcp_data {
	struct xport_chan chan;
	struct tcp_link *link;
	int fd;
	bool urgent;
	int err; /* sticky */
	struct spin spin;
	struct tcp_pipe pipe;

	/* The frame being sent. */
	struct {
		struct tcp_frame head;
		struct tcp_run more[XPORT_RUNS_MAX - TCP_RUNS_INLINE];
		struct iovec iov[2 + XPORT_RUNS_MAX];
	} tx;

	/* What arrives for the end that puts and gets; resumable, so that reap() need not wait. */
	struct {
		struct tcp_frame head;
		size_t got;
		struct iovec *at; /* where page data goes; NULL: collecting head */
		int n;
		uint64_t left;
		uint64_t stamp_us; /* last time that anything moved */
	} rx;
	struct xp_gets gets; /* replies come in their order */
	struct tcp_get get[XPORT_GETS_MAX];
	uint32_t fence_sent, fence_acked;

	struct tcp_data *beside; /* the urgent channel that this one's serve() looks after; NULL: none, or ended */
	void (*moved)(void *arg, uint64_t npages);
	void *moved_arg;

	/* The serving end's frame. */
	struct page_run runs[XPORT_RUNS_MAX];
	struct tcp_run more[XPORT_RUNS_MAX - TCP_RUNS_INLINE];
	struct iovec iov[1 + XPORT_RUNS_MAX];
};

struct tcp_link {
	struct xport_link link;
	struct xport_param param;
	struct xp_table table;
	_Atomic bool killed;
	_Atomic bool copying; /* it was said that page data is copied */
	struct tcp_ctl *ctl;
	struct tcp_data *data[XPORT_CHANNELS_MAX + 1]; /* [channels]: urgent */
};

/* fds: control, data, urgent; taken over, also on failure. */
int tcp_link_new(struct xport_link **ret, const struct xport_link_id *id, const int *fds,
		 const struct xport_param *p, struct fail *f);

int tcp_ctl_new(struct tcp_ctl **ret, struct tcp_link *l, int fd);
int tcp_tear(struct xport_link *l, const struct iovec *iov, int n); /* with FERRY_DRILL only */
int tcp_data_new(struct tcp_data **ret, struct tcp_link *l, int fd, bool urgent);
void tcp_data_free(struct tcp_data *c);
/* Takes all that has arrived for the end that puts and gets, without waiting. */
int tcp_data_take(struct tcp_data *c);
int tcp_pair(struct xport_chan *chan, struct xport_chan *urgent);
int tcp_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg);

/*
 * What errno err (of either sign) of call on fd comes to: -EPIPE or -ETIMEDOUT where it means that the link is lost, and why is
 * kept; else -err, with a sentence. After kill() always -EPIPE.
 */
int tcp_err(struct tcp_link *l, int fd, const char *call, int err);
/* The peer has closed fd's connection: -EPIPE. */
int tcp_closed(struct tcp_link *l, int fd);
/* Nothing has moved on fd for the link's timeout: -ETIMEDOUT. */
int tcp_silent(struct tcp_link *l, int fd);
/*
 * Sets up a socket that will connect or listen (accepted ones inherit it): 0, or a sentence when the URI asks for a
 * congestion control that cannot be had.
 */
int tcp_sock_tune(int fd, const struct uri *u, struct fail *f);
/* True when nothing has moved on fd for timeout_us, as far as w has seen. Call it every timeout_us / 4. */
bool tcp_watch_idle(struct tcp_watch *w, int fd, uint64_t timeout_us);
/* Until events may be there: 0, -ETIMEDOUT when nothing has moved for the link's timeout (w: {0} since it last did), or the error. */
int tcp_wait(struct tcp_link *l, int fd, short events, struct tcp_watch *w);
/*
 * All of iov (which is changed); -ETIMEDOUT when it stands still, -EPIPE. flags: MSG_MORE or 0. reader, if not NULL,
 * takes what arrives on the same connection meanwhile: a peer that must send before it reads on does not block this end.
 */
int tcp_send_all(struct tcp_link *l, int fd, struct iovec *iov, int n, int flags, struct tcp_data *reader);
/*
 * As tcp_send_all, for a message: whatever the peer sends meanwhile, -ETIMEDOUT when it takes nothing of it for the link's
 * timeout, or not all of it within XPORT_MSG_TIMEOUTS.
 */
int tcp_send_msg(struct tcp_link *l, int fd, struct iovec *iov, int n);
/* Waits for events on fd: 0, -EAGAIN after wait_us, -errno. */
int tcp_poll(int fd, short events, uint64_t wait_us);

void tcp_pipe_close(struct tcp_pipe *p);
/* All of iov (which is changed): exposed memory, which is read until the peer has it. As tcp_send_all. */
int tcp_send_pages(struct tcp_data *c, struct iovec *iov, int n);

#endif
