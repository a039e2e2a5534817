/* SPDX-License-Identifier: MIT */
/*
 * xport: what the runtime asks of a transport, and all it may know of one.
 *
 * Theory. A link is a set of channels between two ends: one control channel (whole messages both
 * ways), N data channels and one urgent channel (page runs). Page runs move one-sidedly: put() writes
 * runs of this end's memory into the same pages of the peer's, get() reads runs of the peer's memory
 * into given buffers. A device may do that without the peer's CPU (XPORT_ONE_SIDED); a transport that
 * cannot emulates it, and the peer's runtime lends it a thread a channel inside serve(). What the peer
 * may touch is what was exposed, with the access given, and nothing else: the serving end checks
 * every run before a byte moves. What this end's gets land in is lent first: a device writes there by itself.
 *
 *	source worker: put put put fence ... end   ->   target thread: serve (returns 0 after end)
 *	target thread: get reap get reap ... end   ->   source thread: serve (one for data 0 and urgent: pair)
 *
 * Threads. A channel is used by one thread at a time, except that send() on the control channel may run
 * beside recv() on it. kill() may be called from any thread at any time, twice too: every blocked or
 * later call on the link returns -EPIPE. close() after all threads have left.
 *
 * Results. 0 or: -EAGAIN (nothing within the time given), -EPIPE (the link is gone: cut, closed, killed, or one of
 * xport_lost(); why is in the link's fail_lost(); the runtime may reconnect), -ETIMEDOUT (no progress for the link's timeout; as bad as gone), -EPROTO
 * (the peer broke the rules; the sentence is in the link's struct fail; never reconnect), -EMSGSIZE,
 * -ENOMEM, -EFAULT or -EHWPOISON (exposed or lent memory cannot be read or written; the sentence names the page. No
 * signal is raised, whatever has become of it), or any other errno of a call that failed for a reason of this end's. Whoever
 * meets an error that is no lost link, or a failing listen/connect, first calls fail().
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

#define XPORT_MSG_MAX (128u << 10)  /* longest message on the control channel, bytes */
#define XPORT_MSG_TIMEOUTS 4u	    /* so many times the timeout it may take to be sent */
#define XPORT_RUNS_MAX 256u	    /* runs in one put or get */
#define XPORT_CHANNELS_MAX 16u
#define XPORT_XFER_MAX (4u << 20)   /* bytes of page data in one put or get */
#define XPORT_GETS_MAX 64u	    /* gets in flight on one channel: tags are 0..63 */

enum xport_cap {
	XPORT_ONE_SIDED = 1 << 0, /* put and get need no serve() at the peer (it returns 0 at once) */
	/*
	 * Exposed and lent pages are all allocated, and must not be discarded or moved until they are taken back: the
	 * device would go on with the old ones, and nobody would be told. May be copied from, written to, and mapped elsewhere.
	 */
	XPORT_PINS = 1 << 1,
};

enum xport_role { XPORT_CONTROL, XPORT_DATA, XPORT_URGENT };

enum xport_access { XPORT_LOCAL = 0, XPORT_PEER_READ = 1, XPORT_PEER_WRITE = 2 };

struct xport_region { /* a run names it by its place in the array that expose() was given, the same at both ends */
	uint32_t id; /* for sentences */
	uint32_t page_shift;
	uint64_t npages;
	uint64_t gpa; /* of the first page; for sentences */
	/*
	 * Where this end's put reads, and the peer's put lands or get reads. NULL: there is no memory to put from or to
	 * offer, but the region's pages may be named in a get.
	 */
	void *base;
};

struct xport_link_id { /* what a connecting end presents; the accepting end reads it off the link */
	uint8_t session[16];
	uint32_t generation; /* 0: first connection, then one more a reconnect */
	uint32_t channels;   /* data channels */
};

struct xport_param {
	uint64_t timeout_us; /* no progress for so long: -ETIMEDOUT */
	uint32_t poll_us;    /* serving an urgent channel: poll this long after a request before sleeping */
	uint64_t bandwidth;  /* shape: bytes a second over all data channels; 0: no limit */
	/*
	 * A put leaves no references to its memory with the kernel. For hugetlb pages, of which Linux (6.18) counts fewer than 0
	 * as reserved while a buffer refers to one that its owner gave back, and gives nobody any. A buffer that the peer has
	 * read may live on for minutes: the kernel frees it with the next traffic on the processor that it came from.
	 */
	bool copies;
	struct chaos *chaos; /* not NULL: the chaos filter goes on top */
	/*
	 * Something is refused here that is only for speed, and the transport goes on without: what is lost, and the errno,
	 * negative. Any thread. May be NULL.
	 */
	void (*slower)(void *arg, enum cure doing, int err, const char *what);
	void *slower_arg;
	/*
	 * Not NULL: the first connect keeps the peer's addresses here, and later ones ask no resolver. The peer is the host that was
	 * found first, whatever its name comes to mean, and a resolver that hangs cannot be interrupted. xport_addrs_free().
	 */
	struct xport_addrs **addrs;
	/* Not NULL: while a connect waits it is called whenever wake_fd is readable; not 0 ends the connect with that error. */
	int (*woken)(void *arg);
	void *woken_arg;
	int wake_fd;
};

/* The three kinds of object begin with their table, so that a filter can wrap any of them. */
struct xport_listener {
	const struct xport_listener_ops *ops;
};
struct xport_link {
	const struct xport_link_ops *ops;
	unsigned caps; /* enum xport_cap */
	struct xport_link_id id;
	uint64_t from; /* of an accepted link: tells the hosts that connect apart; 0: nobody knows */
	struct fail *fail;
};
struct xport_chan {
	const struct xport_chan_ops *ops;
};

struct xport_listener_ops {
	/*
	 * A whole link (all its channels have arrived), or -EAGAIN. Half-open connections are bounded and time out. One call takes
	 * a bounded number of those who have come; fd shows that there are more.
	 */
	int (*accept)(struct xport_listener *l, struct xport_link **ret, struct fail *f);
	int (*fd)(struct xport_listener *l); /* readable when accept() may have something to do */
	int (*uri)(struct xport_listener *l, char *buf, size_t cap);
	/*
	 * From here on links of this session alone are taken, with a newer generation. Anybody else is told -EBUSY as soon as he says
	 * who he is: no link is made for him.
	 */
	void (*only)(struct xport_listener *l, const struct xport_link_id *id);
	void (*close)(struct xport_listener *l);
};

struct xport_link_ops {
	/*
	 * The memory behind put, get and serve; replaces what was exposed before. No put, get or serve may run. On a new
	 * link the peer's puts and gets wait for the first expose (at most for the link's timeout). On return the peer
	 * can reach nothing that is not exposed now; n 0 takes all back, also after kill(). On failure nothing is exposed.
	 */
	int (*expose)(struct xport_link *l, const struct xport_region *r, size_t n, enum xport_access access);
	/*
	 * The memory that this end's gets land in; replaces what was lent before. No put, get or serve may run. The peer
	 * gets no access to it. What is lent and exposed both times stays prepared: lend first, then take back the exposure.
	 */
	int (*lend)(struct xport_link *l, const struct iovec *mem, size_t n);
	/* Whether so many bytes could be exposed, before anything is done for it: 0, or a sentence with what is needed. */
	int (*fits)(struct xport_link *l, uint64_t bytes);
	struct xport_chan *(*chan)(struct xport_link *l, enum xport_role role, unsigned index);
	void (*kill)(struct xport_link *l);
	void (*close)(struct xport_link *l);
};

struct xport_chan_ops {
	/*
	 * control: one whole message, at most XPORT_MSG_MAX bytes; gathered. Blocks up to the timeout while the peer takes nothing,
	 * whatever it sends, and up to four times the timeout in all.
	 */
	int (*send)(struct xport_chan *c, const struct iovec *iov, int n);
	/* control: the next whole message into buf, *len its length; -EAGAIN after wait_us (0: do not wait). */
	int (*recv)(struct xport_chan *c, void *buf, size_t cap, size_t *len, uint64_t wait_us);
	/*
	 * control: readable when recv may succeed. data and urgent: when reap may; asked for anew before each wait,
	 * because that is what arms it. -1: never readable, call reap.
	 */
	int (*fd)(struct xport_chan *c);

	/*
	 * data: runs of exposed local memory into the same pages of the peer's. Asynchronous: the memory may be
	 * read until the next fence (the pages may change meanwhile: they are then dirty and sent again); runs[]
	 * itself is the caller's again on return. A put whose data is put twice without a fence between has no
	 * defined winner.
	 */
	int (*put)(struct xport_chan *c, const struct page_run *runs, unsigned n);
	/* data: all earlier puts of this channel have landed in the peer's memory. */
	int (*fence)(struct xport_chan *c);

	/*
	 * data, urgent: runs of the peer's memory into dst[i] (one buffer a run, in lent memory); -EAGAIN: too many in
	 * flight.
	 */
	int (*get)(struct xport_chan *c, const struct page_run *runs, void *const *dst, unsigned n, uint32_t tag);
	/* Completed gets, in the order of get(): their tags, at most max; the count, or -EAGAIN after wait_us. */
	int (*reap)(struct xport_chan *c, uint32_t *tags, unsigned max, uint64_t wait_us);

	/* data, urgent: this end is done with its puts or gets: the peer's serve() returns 0. */
	int (*end)(struct xport_chan *c);
	/*
	 * data, urgent: do what the peer asks of the exposed memory until its end(): 0. moved, if not NULL, is
	 * called after each put that landed or get that was answered, with the pages that moved. Waits for the
	 * peer as long as it takes; only a transfer that stands still in its middle is -ETIMEDOUT.
	 */
	int (*serve)(struct xport_chan *c, void (*moved)(void *arg, uint64_t npages), void *arg);
	/*
	 * data: the next serve() of c serves urgent as well, on the same thread, and before whatever c asks: a small
	 * get does not wait for another thread to wake, nor for more than a piece of a large one. It returns after
	 * the end() of both.
	 */
	int (*pair)(struct xport_chan *c, struct xport_chan *urgent);
};

/* The registry: picks the transport by the URI's scheme, stacks shape and chaos as param and query ask. */
int xport_listen(struct xport_listener **ret, const char *uri, const struct xport_param *p, struct fail *f);
/*
 * One attempt, at most wait_us: to all addresses of the host as RFC 8305 has it, all connections of the link at once. It ends
 * earlier where nobody listens, and with -ETIMEDOUT where a peer that was there falls silent; another attempt, with another
 * generation, may go better. id->session etc. are presented to the peer.
 */
int xport_connect(struct xport_link **ret, const char *uri, const struct xport_link_id *id,
		  const struct xport_param *p, uint64_t wait_us, struct fail *f);
void xport_addrs_free(struct xport_addrs *a);

/* Whether an errno (of either sign) means that a connection, or the way to the peer, is gone; all others are errors of this end's. */
bool xport_lost(int err);

/* Faults for links made with param.chaos; see chaos_fault.c for what can be asked. */
/*
 * Outlives the links: a cut goes on through reconnects. type_of: what number the user gives a message, which begins
 * with these bytes; NULL: faults that name a type are refused.
 */
struct chaos *xport_chaos_new(unsigned (*type_of)(const void *msg, size_t len));
void xport_chaos_free(struct chaos *c);
int xport_chaos_fault(struct chaos *c, const char *fault); /* any thread; "pending" answers 1 or 0 */

#endif
