/* SPDX-License-Identifier: MIT */
/*
 * The contract between the runtime and a transport; the runtime knows nothing else about a transport.
 *
 * Theory. A link joins two ends by one control channel (whole messages both ways), N data channels and one
 * urgent channel (page runs). Page runs move one-sidedly: put() writes runs of this end's memory into the
 * same pages of the peer's, get() reads runs of the peer's memory into given buffers. A device may do that
 * without the peer's CPU (XPORT_ONE_SIDED). A transport without such a device emulates it: the peer's runtime
 * then keeps a thread per channel inside serve(). The peer can reach only exposed memory, with the access
 * given: the serving end checks every run before a byte moves. The memory that gets land in must be lent
 * first, because a device writes into it directly.
 *
 *	source worker: put put put fence ... end   ->   target thread: serve (returns 0 after end)
 *	target thread: get reap get reap ... end   ->   source thread: serve (one for data 0 and urgent: pair)
 *
 * Threads. One thread at a time uses a channel, except that send() on the control channel may run beside
 * recv() on it. kill() may be called from any thread at any time, also twice: every blocked or later call on
 * the link then returns -EPIPE. Call close() after all threads have left.
 *
 * Results. 0, or:
 *
 *	-EAGAIN		nothing within the time given
 *	-EPIPE		the link is lost: cut, closed, killed, or by an errno of xport_lost(); the cause is in
 *			fail_lost_text(); the runtime may reconnect
 *	-ETIMEDOUT	no progress for the link's timeout; the link counts as lost
 *	-EPROTO		the peer broke the rules; the link's struct fail has the sentence; never reconnect
 *	-EFAULT		exposed or lent memory cannot be read or written; the sentence names the page, and no
 *			signal is raised; -EHWPOISON: the same, by a hardware error
 *	-EMSGSIZE, -ENOMEM, or the errno of a call that failed for a reason of this end
 *
 * A function that meets an error other than a lost link, or that fails to listen or connect, calls fail()
 * before it returns; -EMSGSIZE, -ENOMEM and -EINVAL may come without a sentence.
 */
#ifndef FERRY_XPORT_H
#define FERRY_XPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "uri.h"
#include "runtime/base/cure.h"
#include "runtime/base/page.h"

struct fail;
struct chaos;
struct xport_addrs;

#define XPORT_MSG_MAX (128u << 10) /* longest message on the control channel, bytes */
#define XPORT_MSG_TIMEOUTS 4u	   /* a message may take this many timeouts to be sent */
#define XPORT_RUNS_MAX 256u	   /* runs in one put or get */
#define XPORT_CHANNELS_MAX 16u
#define XPORT_XFER_MAX (4u << 20) /* bytes of page data in one put or get */
#define XPORT_GETS_MAX 64u	  /* gets in flight on one channel: tags are 0..63 */

enum xport_cap {
	XPORT_ONE_SIDED = 1 << 0, /* put and get need no serve() at the peer; there it returns 0 at once */
	/*
	 * All exposed and lent pages are allocated, and must not be discarded or moved until they are taken
	 * back: the device would go on using the old pages, and nothing would report it. They can be read,
	 * written, and mapped elsewhere.
	 */
	XPORT_PINS = 1 << 1,
};

#define XPORT_PEER_MAX 72 /* "[IPv6 address%scope]:port" */

enum xport_role { XPORT_CONTROL, XPORT_DATA, XPORT_URGENT };

enum xport_access { XPORT_LOCAL = 0, XPORT_PEER_READ = 1, XPORT_PEER_WRITE = 2 };

/*
 * Takes page data that the transport has received into a buffer of its own: the data of n runs, one after the
 * other, at most LANDING_BYTES. Called by the thread in serve(), for several channels at once. Returns 0, or
 * an error with its sentence, which serve() returns.
 */
struct xport_lander {
	int (*land)(void *arg, const struct page_run *runs, unsigned n, const void *data);
	void *arg;
};

struct xport_region { /* a run holds its index in the array given to expose(), the same at both ends */
	uint32_t id;  /* for sentences */
	uint64_t npages;
	uint64_t gpa; /* of the first page; for sentences */
	/*
	 * Where this end's put reads, the peer's put lands and the peer's get reads. NULL: there is no memory
	 * to put from or to offer, but this end's gets may name the region's pages.
	 */
	void *base;
	/*
	 * Not NULL: what the peer puts here is handed over, and not written to base. A one-sided transport
	 * ignores it, because the peer writes. It must stay as long as the exposure.
	 */
	const struct xport_lander *lander;
};

struct xport_link_id { /* presented by the connecting end; the accepting end reads it from the link */
	uint8_t session[16];
	uint32_t generation; /* 0: first connection; each reconnect adds one */
	uint32_t channels;   /* data channels */
};

struct xport_param {
	uint64_t timeout_us; /* -ETIMEDOUT after this long without progress */
	uint32_t poll_us;    /* serving an urgent channel: poll this long after a request, then sleep */
	uint64_t bandwidth;  /* shape: bytes per second over all data channels; 0: no limit */
	/*
	 * put() must copy, so that the kernel keeps no reference to the memory. Needed for hugetlbfs: Linux
	 * (6.18) underflows its count of reserved huge pages if a page is freed while an skb refers to it,
	 * and later allocations fail. An skb that the peer has read may live on for minutes: it is freed by
	 * the next traffic on the CPU that it came from.
	 */
	bool no_zerocopy;
	struct chaos *chaos; /* not NULL: put the chaos filter on top */
	/*
	 * Called when the host refuses something that only serves speed; the transport goes on without it.
	 * what: a phrase that names the loss; err: negative. Any thread. May be NULL.
	 */
	void (*slower)(void *arg, enum cure doing, int err, const char *what);
	void *slower_arg;
	/*
	 * Not NULL: the first connect stores the peer's addresses here, and later connects use them instead
	 * of the resolver. So the peer stays the same host even if its name changes, and a resolver that
	 * hangs, which nothing can interrupt, cannot delay a reconnect. Free with xport_addrs_free().
	 */
	struct xport_addrs **addrs;
	/*
	 * Not NULL: a waiting connect calls it while wake_fd is readable; nonzero ends the connect with that
	 * error.
	 */
	int (*woken)(void *arg);
	void *woken_arg;
	int wake_fd;
};

/* Each of the three kinds of object begins with its table, so that a filter can wrap any of them. */
struct xport_listener {
	const struct xport_listener_ops *ops;
};
struct xport_link {
	const struct xport_link_ops *ops;
	unsigned caps; /* enum xport_cap */
	struct xport_link_id id;
	uint64_t from;		   /* of an accepted link: tells connecting hosts apart; 0: unknown */
	char peer[XPORT_PEER_MAX]; /* the address at the other end of the control channel; "": unknown */
	struct fail *fail;
};
struct xport_chan {
	const struct xport_chan_ops *ops;
};

struct xport_listener_ops {
	/*
	 * A whole link (all its channels have arrived), or -EAGAIN. Half-open connections are bounded and
	 * time out. One call takes a bounded number of new connections; fd stays readable while there are
	 * more.
	 */
	int (*accept)(struct xport_listener *l, struct xport_link **ret, struct fail *f);
	int (*fd)(struct xport_listener *l); /* readable when accept() may have something to do */
	int (*uri)(struct xport_listener *l, char *buf, size_t cap);
	/*
	 * From now on accept only links of this session with a newer generation. Any other peer is told
	 * -EBUSY as soon as it has sent its id; no link is made for it.
	 */
	void (*only)(struct xport_listener *l, const struct xport_link_id *id);
	void (*close)(struct xport_listener *l);
};

struct xport_link_ops {
	/*
	 * Set the memory for put, get and serve, in place of what was exposed before. No put, get or serve
	 * may run meanwhile. On a new link the peer's puts and gets wait for the first expose, at most for
	 * the link's timeout. On return the peer can reach nothing that is not exposed now; n = 0 takes
	 * everything back, also after kill(). On failure nothing is exposed.
	 */
	int (*expose)(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access);
	/*
	 * Set the memory that this end's gets land in, in place of what was lent before. No put, get or serve
	 * may run meanwhile. The peer gets no access to it. Exposed memory that is lent before its exposure
	 * is taken back stays registered.
	 */
	int (*lend)(struct xport_link *l, const struct iovec *mem, size_t n);
	/* 0 if this many bytes could be exposed, else an error whose sentence says what is needed. */
	int (*fits)(struct xport_link *l, uint64_t bytes);
	struct xport_chan *(*chan)(struct xport_link *l, enum xport_role role, unsigned index);
	void (*kill)(struct xport_link *l);
	void (*close)(struct xport_link *l);
};

struct xport_chan_ops {
	/*
	 * control: send one whole message of at most XPORT_MSG_MAX bytes, gathered from iov. Blocks for up to
	 * the timeout while the peer takes nothing of it, whatever the peer sends, and up to
	 * XPORT_MSG_TIMEOUTS timeouts in all.
	 */
	int (*send)(struct xport_chan *c, const struct iovec *iov, int n);
	/*
	 * control: the next whole message into buf, its length into *len; -EAGAIN after wait_us (0: at once).
	 */
	int (*recv)(struct xport_chan *c, void *buf, size_t cap, size_t *len, uint64_t wait_us);
	/*
	 * control: readable when recv may succeed. data and urgent: readable when reap may; call fd anew
	 * before each wait, because the call arms the descriptor. -1: never readable, call reap instead.
	 */
	int (*fd)(struct xport_chan *c);

	/*
	 * data: write runs of exposed local memory into the same pages of the peer's. Asynchronous: the
	 * memory may be read until the next fence. A page may change meanwhile; it is then dirty and is sent
	 * again. runs[] is the caller's again on return. If a page is put twice without a fence in between,
	 * its content is undefined.
	 */
	int (*put)(struct xport_chan *c, const struct page_run *runs, unsigned n);
	/* data: wait until all earlier puts of this channel have landed in the peer's memory. */
	int (*fence)(struct xport_chan *c);

	/*
	 * data, urgent: read runs of the peer's memory into dst[i], one buffer per run, in lent memory.
	 * -EAGAIN: too many in flight.
	 */
	int (*get)(struct xport_chan *c, const struct page_run *runs, void *const *dst, unsigned n,
		   uint32_t tag);
	/*
	 * Stores the tags of at most max completed gets, in the order of get(): their count, or -EAGAIN after
	 * wait_us.
	 */
	int (*reap)(struct xport_chan *c, uint32_t *tags, unsigned max, uint64_t wait_us);

	/* data, urgent: this end has finished its puts or gets; the peer's serve() returns 0. */
	int (*end)(struct xport_chan *c);
	/*
	 * data, urgent: carry out the peer's requests on the exposed memory until its end(), then return 0.
	 * moved, if not NULL, is called with the number of pages after each put that landed and each get that
	 * was answered. Waits without limit for the next request; a transfer that stalls in the middle is
	 * -ETIMEDOUT.
	 */
	int (*serve)(struct xport_chan *c, void (*moved)(void *arg, uint64_t npages), void *arg);
	/*
	 * data: the next serve() of c serves urgent too, on the same thread, and before the requests of c. So
	 * a small get waits neither for another thread to wake nor for more than a piece of a large one. That
	 * serve() returns after the end() of both channels.
	 */
	int (*pair)(struct xport_chan *c, struct xport_chan *urgent);
};

/* The registry: picks the transport by the URI's scheme; stacks shape and chaos as query and param ask. */
int xport_listen(struct xport_listener **ret, const char *uri, const struct xport_param *p, struct fail *f);
/*
 * One attempt of at most wait_us: tries all addresses of the host as in RFC 8305, with all connections of the
 * link in flight at once. It fails earlier if nobody listens, and with -ETIMEDOUT if a peer that was there
 * falls silent; another attempt, with another generation, may succeed. id is presented to the peer.
 */
int xport_connect(struct xport_link **ret, const char *uri, const struct xport_link_id *id,
		  const struct xport_param *p, uint64_t wait_us, struct fail *f);
void xport_addrs_free(struct xport_addrs *a);

/* Whether an errno (of either sign) means a lost connection or path; any other is an error of this end. */
bool xport_lost(int err);

/* Fault injection for links made with param.chaos; chaos_fault.c lists the faults. */
/*
 * Outlives its links: a cut persists across reconnects. type_of: the user's number for the message that
 * begins with these bytes; NULL: faults that name a type are refused.
 */
struct chaos *xport_chaos_new(unsigned (*type_of)(const void *msg, size_t len));
void xport_chaos_free(struct chaos *c);
int xport_chaos_fault(struct chaos *c, const char *fault); /* any thread; "pending" returns 1 or 0 */

#endif
