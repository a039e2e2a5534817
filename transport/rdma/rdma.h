/* SPDX-License-Identifier: MIT */
/*
 * Internal header of the rdma transport. The files:
 *
 *	addr.c	a URI's options, addresses, devices
 *	cm.c	the connecting end: a link to one address
 *	knock.c	the connecting end: which of several addresses
 *	listen.c	the listener: connect requests, grouping into links
 *	qp.c	a connection's queue pair through its states
 *	link.c	the link object: made, killed, closed; its device resources
 *	ctl.c	control channel: frames, credits; the service thread
 *	mr.c	registered memory: expose, lend, memlock
 *	io.c	data and urgent channels: put, fence, get, reap
 *	wait.c	their completions, and waiting for them
 *	pin.c	pin=lazy: memory keys per chunk
 *
 * Theory. Each channel is an RC queue pair. Data moves one-sidedly: put is RDMA WRITE, get is RDMA READ, and
 * no thread serves. An end sends the keys of the memory that it exposes in a KEYS frame on the control
 * channel, ahead of the message that follows the expose.
 *
 * When has a put landed? The completion of a WRITE says that the peer's device has acknowledged it, not that
 * the data is in the peer's memory. A READ posted after it on the same queue pair is executed after it, and
 * its answer cannot overtake the written data on the way to memory. So fence() is a READ of eight bytes: once
 * it has completed, the peer's CPUs can see every earlier put of the channel. That also covers iWARP, whose
 * WRITE completions say less.
 *
 * Each link has one service thread. It handles what arrives on the control channel and from the connection
 * manager: it queues messages, returns credits, stores keys, answers PIN and PROBE, and is the first to
 * notice that the peer is gone. It also ends the link: after kill() it gives posted messages a moment to
 * leave, then disconnects.
 *
 * Memory. A device may write to a page at any time while the page is registered. So queue pairs are destroyed
 * before memory is deregistered, the call that takes memory back deregisters it before it returns, and keys
 * belong to one link (its protection domain) and to exactly the exposed ranges. If the peer's device refuses
 * a key, the peer broke the protocol if it still answers (PROBE), and is gone if it does not: a process that
 * is being killed loses its registrations first.
 *
 * Lock: l->lock protects everything that more than one thread uses; never hold it while waiting for the
 * network.
 */
#ifndef FERRY_RDMA_H
#define FERRY_RDMA_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#include "rdma_wire.h"
#include "transport/gets.h"
#include "transport/xport_int.h"

#define XR_CONNS_MAX (XPORT_CHANNELS_MAX + 2)
#define XR_DEPTH 512u	      /* work requests on a data queue pair */
#define XR_MARKS 128u	      /* signalled ones among them */
#define XR_FLIGHT (16u << 20) /* bytes of puts in flight; bounds how long a cancel waits on a slow link */
#define XR_RD_ATOMIC 16u      /* READs in flight on a queue pair, if the devices can */
#define XR_TX_SLOTS 48u
#define XR_TX_SPARE 24u /* reserved for the service thread, which never waits for a slot */

enum xr_pin { XR_PIN_ALL, XR_PIN_LAZY, XR_PIN_ODP };

struct xr_options { /* options of a URI */
	enum xr_pin pin;
	uint8_t mtu;  /* enum ibv_mtu */
	char dev[64]; /* "": the device that has the address */
	int gid;      /* GID index of the address to bind; -1: the first that fits */
};

struct xr_conn {
	struct xr_link *link;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	_Atomic bool established; /* it carries data: the peer's may arrive before the CM's event */
	bool cm_established;	  /* the CM's event has come; the service thread's */
	uint64_t board;		  /* the peer's board */
	uint32_t board_key;
};

struct xr_mr {
	uint8_t *base;
	uint64_t len;
	int access, want; /* IBV_ACCESS_*; want -1: deregister */
	bool lent;
	struct ibv_mr *mr;
};

struct xr_message {
	struct xr_message *next;
	size_t len, cap;
	unsigned frames; /* credits to return when it is taken */
	uint8_t body[];
};

/* The memory that the peer exposes; l->lock. */
struct xr_keys {
	struct xp_table table; /* base: the peer's address */
	uint32_t *rkey;
	unsigned chunk_shift;
	uint64_t seq; /* 0: no KEYS yet */
};

struct xr_get {
	unsigned n, i; /* number of runs; the next run to post */
	uint64_t off;  /* offset in that run */
	struct page_run runs[XPORT_RUNS_MAX];
	void *dst[XPORT_RUNS_MAX];
};

struct xr_mark { /* a signalled work request and the unsignalled ones before it */
	unsigned wrs;
	uint64_t bytes;
	bool get; /* its completion completes the oldest get in flight */
};

/* pin=lazy: the chunks that a channel has registered. */
struct xr_near { /* at this end */
	struct ibv_mr *mr;
	uint8_t *base;
	uint64_t len, used;
	bool landing;
};
struct xr_far { /* at the peer */
	uint32_t region, rkey;
	uint64_t chunk, used, keys_seq;
	bool valid;
};

struct xr_data {
	struct xport_chan chan;
	struct xr_link *link;
	struct xr_conn *conn;
	unsigned index; /* data: the channel's number; urgent: channels */
	bool urgent;
	int err; /* sticky */
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	int epfd, ready_fd;
	bool armed, stale; /* stale: completions were taken since arming */
	unsigned posted;   /* work requests that occupy the queue */
	uint64_t flying;   /* bytes in flight */
	struct xr_mark mark[XR_MARKS];
	unsigned mark_head, nmark;
	uint64_t stamp_us; /* last completion, or post to an idle queue */
	struct xp_gets gets;
	struct xr_get get[XPORT_GETS_MAX];
	unsigned nqueue; /* gets in flight that are not fully posted: the newest ones */
	struct xr_near near[RDMA_PIN_SLOTS];
	struct xr_far far[RDMA_PIN_SLOTS];
	uint64_t clock; /* stamps near[].used and far[].used */
};

struct xr_link {
	struct xport_link link;
	struct xport_param param;
	struct xr_options opt;
	struct rdma_event_channel *events;
	struct ibv_context *ctx;
	struct ibv_device_attr attr;
	uint64_t max_msg;
	bool confirm_reads; /* confirm each get's success by a later READ: io.c */
	struct ibv_pd *pd;
	unsigned nconns;
	struct xr_conn conn[XR_CONNS_MAX]; /* control, data, urgent */

	/* control */
	struct xport_chan ctl;
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	uint8_t *slots; /* receive slots, send slots, then the board page */
	size_t slots_len;
	struct ibv_mr *slots_mr, *board_mr;
	pthread_t service;
	bool serving;
	int wake_fd; /* wakes the service thread */
	int dead_fd; /* readable once the link is killed or gone */
	int have_fd; /* readable while recv may succeed */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	_Atomic bool killed;
	_Atomic int gone; /* 0, or -EPIPE, -EPROTO or another errno: why the link ended */
	struct xr_message *head, **tail;
	struct xr_message *part[2]; /* incomplete MSG and KEYS */
	unsigned credits, owed;	    /* frames we may send; credits to return */
	unsigned granted;	    /* frames that the peer may send */
	uint64_t tx_free;	    /* one bit per slot */
	struct xr_keys keys;
	struct {
		bool asked, answered;
		struct rdma_pin pin;
	} pins[XPORT_CHANNELS_MAX + 1];
	unsigned probed;
	struct ibv_mr *pinned[XPORT_CHANNELS_MAX + 1][RDMA_PIN_SLOTS]; /* registered for the peer's PIN */

	/* own memory: only expose and lend change it, while no transfer runs */
	struct xp_table table;
	struct iovec *lent;
	size_t nlent;
	struct xr_mr *mr;
	size_t nmr;

	struct xr_data *data[XPORT_CHANNELS_MAX + 1]; /* [channels]: urgent */
};

/* addr.c */
int xr_options(struct xr_options *ret, const struct uri *u, struct fail *f);
/* The address that dev= and gid= select, of like's family, or of any (NULL). */
int xr_source_addr(struct sockaddr_storage *ret, const struct xr_options *o, const struct sockaddr *like,
		   struct fail *f);
/* The next pending event, or NULL and errno; the caller acknowledges it. */
struct rdma_cm_event *xr_event(struct rdma_event_channel *ch);
int xr_nonblock(int fd);

/* qp.c */
/* Make the queue pair, state INIT. -ENOTCONN, without a sentence: the peer has given up. */
int xr_conn_open(struct xr_conn *c, struct ibv_cq *send, struct ibv_cq *recv, unsigned depth, unsigned recvs,
		 struct fail *f);
/* Move the queue pair to RTS with the connection manager's parameters; mtu: enum ibv_mtu, the most. */
int xr_conn_ready(struct xr_conn *c, unsigned mtu, struct fail *f);
void xr_conn_break(struct xr_conn *c); /* to the error state: stops all traffic; any thread */
/* Parameters of a connect or accept. initiator, responder: the peer's READ limits; 255: none known. */
void xr_conn_param(struct rdma_conn_param *ret, const struct xr_conn *c, unsigned initiator,
		   unsigned responder);

/* link.c */
/* Make a link without connections. It owns events, on failure too, and each id put into conn[]. */
int xr_link_new(struct xr_link **ret, const struct xport_link_id *id, struct rdma_event_channel *events,
		const struct xr_options *opt, const struct xport_param *p, struct fail *f);
/* Once conn[0] is bound to a device: make protection domain, queues, buffers. */
int xr_link_device(struct xr_link *l);
int xr_link_start(struct xr_link *l); /* start the service thread; all connections are requested */
void xr_link_free(struct xr_link *l);
void xr_link_gone(struct xr_link *l, int err); /* any thread */
/*
 * Convert a verb's errno: -EPIPE if it means that the link is lost, with the cause recorded, else -err with a
 * sentence. EINVAL counts as lost, because a failed queue pair refuses requests with it; so do ENODEV and
 * EIO: the device is gone.
 */
int xr_err(struct xr_conn *c, const char *verb, int err);
struct xr_name {
	char text[24];
};
struct xr_name xr_name(const struct xr_conn *c); /* of its channel, for sentences */
/* Whether a completion's status means a lost link (else: an error of this end). */
bool xr_status_lost(enum ibv_wc_status status);
/* The peer's device refused a key: an invalid one, or one of a process that is being killed. */
bool xr_status_refused(enum ibv_wc_status status);
void xr_ring(int fd);
/* 0, or the error that every call on this link returns. */
static inline int xr_broken(struct xr_link *l)
{
	return atomic_load(&l->killed) ? -EPIPE : atomic_load(&l->gone);
}
uint8_t *xr_board(const struct xr_link *l); /* a page; the peer reads its first bytes */
int xr_can_odp(struct ibv_context *ctx);

/* ctl.c */
extern const struct xport_chan_ops xr_ctl_ops;
void *xr_service(void *arg);
int xr_ctl_recv_all(struct xr_link *l); /* posts all receive buffers of the control channel */
/* Send a message or KEYS in as many frames as needed; waits for credits and send slots. */
int xr_send_message(struct xr_link *l, enum rdma_frame_type type, const struct iovec *iov, int n);
/* Send one small frame without waiting for credits. Lock held. */
int xr_send_small(struct xr_link *l, enum rdma_frame_type type, const void *body, size_t len);
/* Lock held: wait until something changes; false once end has passed. */
bool xr_wait(struct xr_link *l, uint64_t end);

/* mr.c */
int xr_expose(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access);
int xr_lend(struct xport_link *l, const struct iovec *mem, size_t n);
int xr_fits(struct xport_link *l, uint64_t bytes);
void xr_mr_free(struct xr_link *l);
/* Register memory. On failure the sentence says what is missing. */
int xr_mr_reg(struct xr_link *l, void *base, uint64_t len, int access, struct ibv_mr **ret, struct fail *f);
/* The key of exposed or (landing) lent memory at addr; *span: bytes from addr that it covers. False: none. */
bool xr_mr_find(struct xr_link *l, const void *addr, bool landing, uint32_t *lkey, uint64_t *span);
/* pin=lazy: the chunk around addr, within the exposed or lent range that contains addr. */
bool xr_mr_chunk(struct xr_link *l, const void *addr, bool landing, uint8_t **base, uint64_t *len);
int xr_mr_access(const struct xr_link *l, enum xport_access access, bool landing);
/* Handle a complete KEYS message. -EPROTO with a sentence. Lock held. */
int xr_keys_take(struct xr_link *l, const struct xr_message *m);

/* io.c */
int xr_data_new(struct xr_data **ret, struct xr_link *l, unsigned index, struct fail *f);
void xr_data_free(struct xr_data *d);

/* wait.c */
static inline int xr_data_broken(struct xr_data *d)
{
	int err = xr_broken(d->link);

	return err ? err : d->err;
}
int xr_take(struct xr_data *d);			 /* takes pending completions: how many, or the error */
int xr_wait_cq(struct xr_data *d, uint64_t end); /* the same, but waits until end for the first */
/* Wait until a request in flight completes: 0, -ETIMEDOUT, -EPIPE. */
int xr_wait_some(struct xr_data *d);
int xr_data_fd(struct xport_chan *chan);

/* pin.c */
/* pin=lazy: the key of this end's memory at addr; *span: bytes from addr that it covers. */
int xr_near(struct xr_data *d, const void *addr, bool landing, uint32_t *lkey, uint64_t *span);
/* The same for the peer's memory at off of region; asks the peer to register the chunk. */
int xr_far(struct xr_data *d, uint32_t region, uint64_t off, uint32_t *rkey, uint64_t *span);
void xr_pin_drop_near(struct xr_link *l); /* own memory has changed; no transfer runs */
void xr_pin_drop_far(struct xr_link *l);  /* drops registrations for the peer; lock held */
/* Handle the peer's PIN and send the answer. Lock held. */
int xr_pin_serve(struct xr_link *l, const struct rdma_pin *p);

#endif
