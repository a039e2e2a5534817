/* SPDX-License-Identifier: MIT */
/*
 * Internal header of the tcp transport. The files:
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
 * Sockets are O_NONBLOCK, because splice() has no MSG_DONTWAIT, and every wait is a poll(). kill() shuts the
 * sockets down, which wakes every thread that waits on one.
 */
#ifndef FERRY_TCP_H
#define FERRY_TCP_H

#include <stdatomic.h>

#include "tcp_wire.h"
#include "runtime/base/spin.h"
#include "transport/gets.h"
#include "transport/xport_int.h"

struct tcp_link;

/* Tells a slow transfer from a stalled one by the connection's own byte counts. Initialize with zeros. */
struct tcp_watch {
	uint64_t since_us, bytes;
	bool sent_only;	 /* ignore received bytes: they do not show that the peer takes ours */
	uint64_t end_us; /* not 0: give up at this time, even if bytes still move */
};

/* Carries page references from vmsplice() to splice(); empty between two calls of tcp_send_pages(). */
struct tcp_pipe {
	enum { TCP_PIPE_NONE, TCP_PIPE_OPEN, TCP_PIPE_REFUSED } state;
	int in, out;
};

struct tcp_ctl {
	struct xport_chan chan;
	struct tcp_link *link;
	int fd;
	int tx_err, rx_err; /* sticky: after an error the stream has no message boundary */
	struct tcp_msg rx_head;
	size_t rx_got; /* bytes of head and body received */
	uint64_t rx_stamp_us;
	uint8_t rx_body[XPORT_MSG_MAX];
};

struct tcp_get {
	unsigned n;
	uint64_t bytes;
	struct iovec iov[1 + XPORT_RUNS_MAX]; /* [0]: for the reply's head */
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

	/* What the putting and getting end receives; resumable, so that reap() need not block. */
	struct {
		struct tcp_frame head;
		size_t got;
		struct iovec *at; /* destination of page data; NULL: collecting head */
		int n;
		uint64_t left;
		uint64_t stamp_us; /* when the current silence began; 0: bytes have moved */
	} rx;
	struct xp_gets gets; /* replies arrive in this order */
	struct tcp_get get[XPORT_GETS_MAX];
	uint32_t fence_sent, fence_acked;

	struct tcp_data *beside; /* urgent channel that this one's serve() serves too; NULL: none, or ended */
	void (*moved)(void *arg, uint64_t npages);
	void *moved_arg;

	/* The serving end's frame. */
	struct page_run runs[XPORT_RUNS_MAX];
	struct tcp_run more[XPORT_RUNS_MAX - TCP_RUNS_INLINE];
	struct iovec iov[1 + XPORT_RUNS_MAX];
	uint8_t *box; /* LANDING_BYTES for a lander; NULL: none was needed yet */
};

struct tcp_link {
	struct xport_link link;
	struct xport_param param;
	struct xp_table table;
	_Atomic bool killed;
	_Atomic bool copying; /* param.slower was told that page data is copied */
	struct tcp_ctl *ctl;
	struct tcp_data *data[XPORT_CHANNELS_MAX + 1]; /* [channels]: urgent */
};

/* fds: control, data, urgent; owned by the link, closed on failure too. */
int tcp_link_new(struct xport_link **ret, const struct xport_link_id *id, const int *fds,
		 const struct xport_param *p, struct fail *f);

int tcp_ctl_new(struct tcp_ctl **ret, struct tcp_link *l, int fd);
int tcp_tear(struct xport_link *l, const struct iovec *iov, int n);
int tcp_data_new(struct tcp_data **ret, struct tcp_link *l, int fd, bool urgent);
void tcp_data_free(struct tcp_data *c);
/* Receive, without waiting, all that has arrived for the putting and getting end. */
int tcp_data_take(struct tcp_data *c);
int tcp_pair(struct xport_chan *chan, struct xport_chan *urgent);
int tcp_serve(struct xport_chan *chan, void (*moved)(void *arg, uint64_t npages), void *arg);

/*
 * Convert errno err (of either sign) of `call` on fd. Returns -EPIPE or -ETIMEDOUT if it means that the link
 * is lost, and records the cause; -EFAULT for guest memory; else -err, with a sentence. After kill() always
 * -EPIPE.
 */
int tcp_err(struct tcp_link *l, int fd, const char *call, int err);
/* Record that the peer closed fd's connection; returns -EPIPE. */
int tcp_closed(struct tcp_link *l, int fd);
/* Record that nothing moved on fd for the link's timeout; returns -ETIMEDOUT. */
int tcp_silent(struct tcp_link *l, int fd);
/*
 * Set up a socket before connect or listen (accepted ones inherit it): 0, or an error and a sentence if the
 * URI asks for a congestion control that cannot be set.
 */
int tcp_sock_tune(int fd, const struct uri *u, struct fail *f);
/* True if nothing moved on fd for timeout_us, as seen by w. Call it every timeout_us / 4. */
bool tcp_watch_idle(struct tcp_watch *w, int fd, uint64_t timeout_us);
/*
 * Wait until events may be there: 0, -ETIMEDOUT if nothing moved for the link's timeout, or the error. Zero
 * *w whenever bytes have moved.
 */
int tcp_wait(struct tcp_link *l, int fd, short events, struct tcp_watch *w);
/*
 * Send all of iov, which it modifies. -ETIMEDOUT if it stalls, -EPIPE. flags: MSG_MORE or 0. reader, if not
 * NULL, receives on the same connection meanwhile; otherwise a peer that must send before it reads on blocks
 * this end.
 */
int tcp_send_all(struct tcp_link *l, int fd, struct iovec *iov, int n, int flags, struct tcp_data *reader);
/*
 * As tcp_send_all(), for a message: -ETIMEDOUT if the peer takes nothing of it for the link's timeout,
 * whatever the peer sends, or not all of it within XPORT_MSG_TIMEOUTS timeouts.
 */
int tcp_send_msg(struct tcp_link *l, int fd, struct iovec *iov, int n);
/* Wait for events on fd: 0, -EAGAIN after wait_us, -errno. */
int tcp_poll(int fd, short events, uint64_t wait_us);

void tcp_pipe_close(struct tcp_pipe *p);
/* As tcp_send_all(), for exposed memory, which is read until the peer has it. */
int tcp_send_pages(struct tcp_data *c, struct iovec *iov, int n);

#endif
