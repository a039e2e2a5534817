/* SPDX-License-Identifier: MIT */
/*
 * Inside the rdma transport. Who does what:
 *
 *	addr.c	a URI's options, addresses, devices
 *	cm.c	the connecting end: a link to one address
 *	knock.c	the connecting end: which of several addresses
 *	listen.c	the listener: connect requests, grouping into links
 *	qp.c	a connection's queue pair through its states
 *	link.c	the link object: made, killed, closed; what it needs of the device
 *	ctl.c	control channel: frames, credits; the service thread
 *	mr.c	registered memory: expose, lend, memlock
 *	io.c	data and urgent channels: put, fence, get, reap
 *	wait.c	their completions, and waiting for them
 *	pin.c	pin=lazy: memory keys by the chunk
 *
 * Theory. Each channel is an RC queue pair. Data moves one-sidedly: put is RDMA WRITE, get is RDMA READ; nobody
 * serves. The keys of what an end exposes go to the peer in a KEYS frame on the control channel, ahead of whatever
 * message follows the expose.
 *
 * When has a put landed? The completion of a WRITE says that the peer's device has acknowledged it, which is not yet
 * that the peer's memory holds it. A READ behind it on the same queue pair is executed after it, and its answer cannot
 * pass the written data on its way to memory. So fence() is a READ of eight bytes, and when it has completed every
 * earlier put of the channel can be seen by the peer's CPUs (and iWARP, whose WRITE completions say less, needs no
 * other way).
 *
 * The service thread, one a link, takes whatever comes on the control channel and from the connection manager: it
 * queues messages, returns credits, files keys, answers PIN and PROBE, and is the first to know that the peer is gone. It
 * also ends the link: after kill() it gives posted messages a moment to leave (last words), then disconnects.
 *
 * Memory. A device that still knows a page may write to it at any time. So: queue pairs are destroyed before memory is
 * deregistered, memory is deregistered before the call returns that takes it back, and keys belong to one link (its
 * protection domain) and to exactly the ranges exposed. A key that the peer refuses is a lie if the peer is alive
 * (PROBE), and the end of the peer if it is not: a process that dies loses its registrations first.
 *
 * Lock: l->lock for everything that more than one thread looks at; never held while waiting for the network.
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
#define XR_FLIGHT (16u << 20) /* bytes of puts under way: a slow link must not hide a cancel */
#define XR_RD_ATOMIC 16u      /* READs in flight on a queue pair, if the devices can */
#define XR_TX_SLOTS 48u
#define XR_TX_SPARE 24u /* of them for the service thread, which never waits for one */

enum xr_pin { XR_PIN_ALL, XR_PIN_LAZY, XR_PIN_ODP };

struct xr_options { /* of a URI */
	enum xr_pin pin;
	uint8_t mtu;   /* enum ibv_mtu */
	char dev[64];  /* "": whichever the address leads to */
	int gid;       /* index into the device's table, which gives the address to bind; -1: the first that fits */
};

/* One connection. */
struct xr_conn {
	struct xr_link *link;
	struct rdma_cm_id *id;
	struct ibv_qp *qp;
	_Atomic bool established;
	uint64_t board; /* the peer's */
	uint32_t board_key;
};

struct xr_mr {
	uint8_t *base;
	uint64_t len;
	int access, want; /* IBV_ACCESS_*; want -1: no more */
	bool lent;
	struct ibv_mr *mr;
};

struct xr_message {
	struct xr_message *next;
	size_t len, cap;
	unsigned frames; /* credits that taking it frees */
	uint8_t body[];
};

/* What the peer exposes; l->lock. */
struct xr_keys {
	struct xp_table table; /* base: the peer's address */
	uint32_t *rkey;
	unsigned chunk_shift;
	uint64_t seq; /* 0: nothing has come yet */
};

struct xr_get {
	unsigned n, i; /* runs; the next to be asked for */
	uint64_t off;  /* in it */
	struct page_run runs[XPORT_RUNS_MAX];
	void *dst[XPORT_RUNS_MAX];
};

struct xr_mark { /* one signalled work request, and those before it */
	unsigned wrs;
	uint64_t bytes;
	bool get; /* the oldest get in flight ends with it */
};

/* pin=lazy: chunks that this channel works in. */
struct xr_near { /* this end's */
	struct ibv_mr *mr;
	uint8_t *base;
	uint64_t len, used;
	bool landing;
};
struct xr_far { /* the peer's */
	uint32_t region, rkey;
	uint64_t chunk, used, keys_seq;
	bool valid;
};

struct xr_data {
	struct xport_chan chan;
	struct xr_link *link;
	struct xr_conn *conn;
	unsigned index; /* channels: the urgent one */
	bool urgent;
	int err; /* sticky */
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	int epfd, ready_fd;
	bool armed, stale; /* stale: completions were taken since it was armed */
	unsigned posted;   /* work requests that hold a place in the queue */
	uint64_t flying;   /* bytes under way */
	struct xr_mark mark[XR_MARKS];
	unsigned mark_head, nmark;
	uint64_t stamp_us; /* when anything completed last, or the first was posted */
	struct xp_gets gets;
	struct xr_get get[XPORT_GETS_MAX];
	unsigned nqueue; /* gets in flight that are not wholly posted: the newest */
	struct xr_near near[RDMA_PIN_SLOTS];
	struct xr_far far[RDMA_PIN_SLOTS];
	uint64_t clock; /* of used */
};

struct xr_link {
	struct xport_link link;
	struct xport_param param;
	struct xr_options opt;
	struct rdma_event_channel *events;
	struct ibv_context *ctx;
	struct ibv_device_attr attr;
	uint64_t max_msg;
	bool seals; /* a READ's success is to be believed when a later one has succeeded, too: io.c */
	struct ibv_pd *pd;
	unsigned nconns;
	struct xr_conn conn[XR_CONNS_MAX]; /* control, data, urgent */

	/* control */
	struct xport_chan ctl;
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	uint8_t *slots; /* to receive, then to send, then the board and where the peer's is read */
	size_t slots_len;
	struct ibv_mr *slots_mr, *board_mr;
	pthread_t service;
	bool serving;
	int wake_fd; /* for the service thread */
	int dead_fd; /* readable once the link is killed or gone */
	int have_fd; /* readable while recv may succeed */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	_Atomic bool killed;
	_Atomic int gone; /* 0, or -EPIPE or -EPROTO: the peer's end of it */
	struct xr_message *head, **tail;
	struct xr_message *part[2]; /* MSG and KEYS that are not whole */
	unsigned credits, owed;	    /* to send with; to give back */
	unsigned granted;	    /* the peer's, as it may know */
	uint64_t tx_free;	    /* a bit a slot */
	struct xr_keys keys;
	struct {
		bool asked, answered;
		struct rdma_pin pin;
	} pins[XPORT_CHANNELS_MAX + 1];
	unsigned probed;
	struct ibv_mr *pinned[XPORT_CHANNELS_MAX + 1][RDMA_PIN_SLOTS]; /* for the peer */

	/* own memory: changed by expose and lend only, while no transfer runs */
	struct xp_table table;
	struct iovec *lent;
	size_t nlent;
	struct xr_mr *mr;
	size_t nmr;

	struct xr_data *data[XPORT_CHANNELS_MAX + 1]; /* [channels]: urgent */
};

/* addr.c */
int xr_options(struct xr_options *ret, const struct uri *u, struct fail *f);
/* The address that dev and gid ask for, of the family of like, or any (NULL). */
int xr_source_addr(struct sockaddr_storage *ret, const struct xr_options *o, const struct sockaddr *like, struct fail *f);
/* An event that is there, or NULL and errno; to be acknowledged. */
struct rdma_cm_event *xr_event(struct rdma_event_channel *ch);
int xr_nonblock(int fd);

/* qp.c */
/* -ENOTCONN, without a sentence: the peer has given up. */
int xr_conn_open(struct xr_conn *c, struct ibv_cq *send, struct ibv_cq *recv, unsigned depth, unsigned recvs,
		 struct fail *f);
/* To ready-to-send, with what the connection manager knows of the peer. */
int xr_conn_ready(struct xr_conn *c, unsigned mtu, struct fail *f);
void xr_conn_break(struct xr_conn *c); /* nothing more is sent or received; any thread */
/* What a request or an accept says, at most what the peer offered (255: no limit known). */
void xr_conn_param(struct rdma_conn_param *ret, const struct xr_conn *c, unsigned initiator, unsigned responder);

/* link.c */
/* Everything but connections: ids are in conn[], which the link owns from here on, also on failure. */
int xr_link_new(struct xr_link **ret, const struct xport_link_id *id, struct rdma_event_channel *events,
		const struct xr_options *opt, const struct xport_param *p, struct fail *f);
/* conn[0] is bound to a device now: protection domain, queues, buffers. */
int xr_link_device(struct xr_link *l);
int xr_link_start(struct xr_link *l); /* the service thread, once all connections are on their way */
void xr_link_free(struct xr_link *l);
void xr_link_gone(struct xr_link *l, int err); /* any thread */
/*
 * What a verb's errno comes to: -EPIPE where it means that the link is lost, and why is kept, else -err with a sentence. A queue
 * pair that has failed takes no more requests (EINVAL), a device that goes says ENODEV or EIO.
 */
int xr_err(struct xr_link *l, const char *verb, int err);
/* Of a completion: whether the link is lost, or this end has made a mistake. */
bool xr_status_lost(enum ibv_wc_status status);
/* The peer's device refuses: a key that is none, or what belonged to a process that is being killed. */
bool xr_status_refused(enum ibv_wc_status status);
void xr_ring(int fd);
/* 0, or why no call of this link moves anything. */
static inline int xr_broken(struct xr_link *l)
{
	return atomic_load(&l->killed) ? -EPIPE : atomic_load(&l->gone);
}
uint8_t *xr_board(const struct xr_link *l); /* a page: RDMA_BOARD bytes for the peer, then as many a channel to read into */
int xr_can_odp(struct ibv_context *ctx);

/* ctl.c */
extern const struct xport_chan_ops xr_ctl_ops;
void *xr_service(void *arg);
int xr_ctl_recv_all(struct xr_link *l); /* posts all receive buffers */
/* A message or KEYS in as many frames as it takes; waits for credits. */
int xr_send_message(struct xr_link *l, enum rdma_frame_type type, const struct iovec *iov, int n);
/* One small frame, without waiting for credits. With the lock held. */
int xr_send_small(struct xr_link *l, enum rdma_frame_type type, const void *body, size_t len);
/* With the lock held: until something changes; false when end has passed. */
bool xr_wait(struct xr_link *l, uint64_t end);

/* mr.c */
int xr_expose(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access);
int xr_lend(struct xport_link *l, const struct iovec *mem, size_t n);
int xr_fits(struct xport_link *l, uint64_t bytes);
void xr_mr_free(struct xr_link *l);
/* Registers, or says in a sentence what is missing. */
int xr_mr_reg(struct xr_link *l, void *base, uint64_t len, int access, struct ibv_mr **ret, struct fail *f);
/* The key of exposed or, for landing, lent memory at addr; *span: bytes from there on that it holds. False: none. */
bool xr_mr_find(struct xr_link *l, const void *addr, bool landing, uint32_t *lkey, uint64_t *span);
/* pin=lazy: a chunk around addr within what is exposed or lent, not beyond its bounds. */
bool xr_mr_chunk(struct xr_link *l, const void *addr, bool landing, uint8_t **base, uint64_t *len);
int xr_mr_access(const struct xr_link *l, enum xport_access access, bool landing);
/* A KEYS message that is whole. -EPROTO with a sentence. With the lock held. */
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
int xr_take(struct xr_data *d); /* completions that are there: how many, or the error */
int xr_wait_cq(struct xr_data *d, uint64_t end); /* the same, waiting until end */
/* Until anything that is under way completes: 0, -ETIMEDOUT, -EPIPE. */
int xr_wait_some(struct xr_data *d);
int xr_data_fd(struct xport_chan *chan);

/* pin.c */
/* pin=lazy: the key of this end's memory at addr, and how much of it the key holds. */
int xr_near(struct xr_data *d, const void *addr, bool landing, uint32_t *lkey, uint64_t *span);
/* The same for the peer's memory, at off of region. */
int xr_far(struct xr_data *d, uint32_t region, uint64_t off, uint32_t *rkey, uint64_t *span);
void xr_pin_drop_near(struct xr_link *l); /* own memory has changed; no transfer runs */
void xr_pin_drop_far(struct xr_link *l);  /* what was pinned for the peer; with the lock held */
/* A peer's PIN: the answer goes out. With the lock held. */
int xr_pin_serve(struct xr_link *l, const struct rdma_pin *p);

#endif
