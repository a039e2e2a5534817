/* SPDX-License-Identifier: MIT */
/*
 * Measures the bare RDMA device, in the layout of a migration. The sender plays the source: it WRITEs its
 * memory to the receiver's, 4 KiB to 4 MiB at a time, with enough in flight to keep the device busy. Then the
 * receiver, as the target, READs 4 KiB at a time from the sender's memory, alone and to resolve userfaults.
 * They use one queue pair, set up by librdmacm, and a socket for addresses, keys and taking turns.
 *
 * READs land in the page cache through the second mapping of a memfd, or otherwise in a buffer.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "floor.h"
#include "bench/cli/util.h"

#ifdef FERRY_HAVE_RDMA
#include <fcntl.h>
#include <rdma/rdma_cma.h>
#include <sys/socket.h>

#define DEPTH 128u
#define WINDOW (16u << 20)
#define PASS_BYTES (64ull << 20) /* at most this much per pass, */
#define PASS_NS 1000000000ull	 /* and at most this long */
#define PATIENCE_MS 20000

static const uint32_t sizes[FLOOR_SIZES] = { 4096, 65536, 1 << 20, 4 << 20 };

struct card { /* the memory that an end exposes */
	uint64_t addr, len;
	uint32_t rkey, reserved;
};

struct end {
	struct floor_peer peer; /* receiver */
	int ctl;
	struct rdma_event_channel *events;
	struct rdma_cm_id *listener, *id;
	struct ibv_comp_channel *comp;
	struct ibv_cq *cq;
	struct ibv_mr *mr, *lent;
	struct card theirs;
};

static int next_event(struct end *e, enum rdma_cm_event_type want, struct rdma_cm_id **ret)
{
	struct pollfd p[2] = { { .fd = e->events->fd, .events = POLLIN }, { .fd = e->ctl, .events = 0 } };
	struct rdma_cm_event *ev;
	int err;

	if (poll(p, 2, PATIENCE_MS) <= 0 || !p[0].revents)
		return -ETIMEDOUT;
	if (rdma_get_cm_event(e->events, &ev))
		return -errno;
	err = ev->event == want ? 0 : ev->status < 0 ? ev->status : -ECONNREFUSED;
	if (!err && ret)
		*ret = ev->id;
	rdma_ack_cm_event(ev);
	return err;
}

static int make_queues(struct end *e, char *mem, uint64_t memory)
{
	struct ibv_qp_init_attr init = {
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = DEPTH, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 }
	};

	e->comp = ibv_create_comp_channel(e->id->verbs);
	e->cq = e->comp ? ibv_create_cq(e->id->verbs, DEPTH + 2, NULL, e->comp, 0) : NULL;
	init.send_cq = init.recv_cq = e->cq;
	if (!e->cq || fcntl(e->comp->fd, F_SETFL, O_NONBLOCK) || rdma_create_qp(e->id, NULL, &init))
		return -errno;
	e->mr = ibv_reg_mr(e->id->pd, mem, memory,
			   IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
	return e->mr ? 0 : -errno;
}

static int exchange_cards(struct end *e)
{
	struct card mine = { .addr = (uintptr_t)e->mr->addr, .len = e->mr->length, .rkey = e->mr->rkey };
	int err = write_full(e->ctl, &mine, sizeof(mine));

	return err ? err : read_full(e->ctl, &e->theirs, sizeof(e->theirs));
}

/* The end of the process releases the rest; only the queue pair must go before the memory. */
static void take_down(struct end *e)
{
	if (e->id && e->id->qp)
		rdma_destroy_qp(e->id);
	if (e->lent)
		ibv_dereg_mr(e->lent);
	if (e->mr)
		ibv_dereg_mr(e->mr);
}

/* Waits for at least one completion: their number, or an error. */
static int complete(struct end *e, int sleeps)
{
	struct pollfd p = { .fd = e->comp->fd, .events = POLLIN };
	uint64_t end = clock_ns() + PATIENCE_MS * 1000000ull;
	struct ibv_wc wc[16];
	struct ibv_cq *cq;
	void *ctx;
	int n;

	while (!(n = ibv_poll_cq(e->cq, 16, wc)) && clock_ns() < end) {
		if (!sleeps) {
			sched_yield();
			continue;
		}
		while (!ibv_get_cq_event(e->comp, &cq, &ctx))
			ibv_ack_cq_events(cq, 1);
		if (ibv_req_notify_cq(e->cq, 0))
			return -EIO;
		n = ibv_poll_cq(e->cq, 16, wc);
		if (n)
			break;
		poll(&p, 1, PATIENCE_MS);
	}
	for (int i = 0; i < n; i++)
		if (wc[i].status != IBV_WC_SUCCESS)
			return -EPIPE;
	return n ? n : -ETIMEDOUT;
}

static int post(struct end *e, enum ibv_wr_opcode op, void *local, uint32_t lkey, uint64_t off, uint32_t len)
{
	struct ibv_sge sge = { (uintptr_t)local, len, lkey };
	struct ibv_send_wr wr = { .sg_list = &sge,
				  .num_sge = 1,
				  .opcode = op,
				  .send_flags = IBV_SEND_SIGNALED,
				  .wr.rdma = { .remote_addr = e->theirs.addr + off,
					       .rkey = e->theirs.rkey } },
			   *bad;

	return -ibv_post_send(e->id->qp, &wr, &bad);
}

/* --- the sender --- */

static int write_pass(struct end *e, uint32_t size, int sleeps, double *mb_s)
{
	uint64_t begin = clock_ns(), at = 0, moved = 0,
		 limit = e->mr->length < PASS_BYTES ? e->mr->length : PASS_BYTES;
	uint32_t window = WINDOW / size < DEPTH ? WINDOW / size : DEPTH, flying = 0;
	bool over = false;

	while (!over || flying) {
		int n;

		while (!over && flying < window) {
			int err = post(e, IBV_WR_RDMA_WRITE, (char *)e->mr->addr + at, e->mr->lkey, at, size);

			if (err)
				return err;
			flying++;
			at += size;
			over = at + size > limit || clock_ns() - begin > PASS_NS;
		}
		n = complete(e, sleeps);
		if (n < 0)
			return n;
		flying -= (uint32_t)n;
		moved += (uint64_t)n * size;
	}
	*mb_s = (double)moved * 1000.0 / (double)(clock_ns() - begin);
	return 0;
}

/* Polling or sleeping, whichever has the better median: with two cores polling may be slower. */
static int write_sizes(struct end *e, struct floor_write *w)
{
	double mb_s[2][FLOOR_SIZES][FLOOR_PASSES];

	for (unsigned pass = 0; pass < FLOOR_PASSES; pass++)
		for (unsigned i = 0; i < FLOOR_SIZES; i++)
			for (int sleeps = 0; sleeps < 2; sleeps++) {
				int err = write_pass(e, sizes[i], sleeps, &mb_s[sleeps][i][pass]);

				if (err)
					return err;
			}
	for (unsigned i = 0; i < FLOOR_SIZES; i++) {
		double *polled = mb_s[0][i], *slept = mb_s[1][i];

		sort_double(polled, FLOOR_PASSES);
		sort_double(slept, FLOOR_PASSES);
		w[i].size = sizes[i];
		w[i].mb_s = polled[FLOOR_PASSES / 2] > slept[FLOOR_PASSES / 2] ? polled[FLOOR_PASSES / 2]
									       : slept[FLOOR_PASSES / 2];
	}
	return 0;
}

int floor_rdma_send(int ctl, uint64_t memory, int memfd)
{
	struct rdma_conn_param param = { .responder_resources = RDMA_MAX_RESP_RES,
					 .initiator_depth = RDMA_MAX_INIT_DEPTH,
					 .retry_count = 6,
					 .rnr_retry_count = 6 };
	struct floor_write w[FLOOR_SIZES] = { { 0 } };
	struct sockaddr_storage to;
	struct end e = { .ctl = ctl };
	char why[256], *mem, done;
	int err = floor_map(&mem, memory, memfd, 0x5a, why, sizeof(why));

	if (!err)
		err = read_full(ctl, &to, sizeof(to));
	if (!err) {
		e.events = rdma_create_event_channel();
		if (!e.events || rdma_create_id(e.events, &e.id, NULL, RDMA_PS_TCP) ||
		    rdma_resolve_addr(e.id, NULL, (struct sockaddr *)&to, PATIENCE_MS))
			return -errno;
		err = next_event(&e, RDMA_CM_EVENT_ADDR_RESOLVED, NULL);
	}
	if (!err)
		err = rdma_resolve_route(e.id, PATIENCE_MS)
			      ? -errno
			      : next_event(&e, RDMA_CM_EVENT_ROUTE_RESOLVED, NULL);
	if (!err)
		err = make_queues(&e, mem, memory);
	if (!err)
		err = rdma_connect(e.id, &param) ? -errno : next_event(&e, RDMA_CM_EVENT_ESTABLISHED, NULL);
	if (!err)
		err = exchange_cards(&e);
	if (!err)
		err = write_sizes(&e, w);
	if (!err)
		err = write_full(ctl, w, sizeof(w));
	if (!err)
		read_full(ctl, &done, 1); /* until then the receiver READs this memory */
	take_down(&e);
	return err;
}

/* --- the receiver --- */

static int fetch(struct floor_peer *p, uint64_t page, int sleeps, void *into)
{
	struct end *e = (struct end *)p;
	uint64_t npages = e->theirs.len / FLOOR_PAGE_SIZE;
	int n = post(e, IBV_WR_RDMA_READ, into, e->lent->lkey, page % npages * FLOOR_PAGE_SIZE,
		     FLOOR_PAGE_SIZE);

	if (!n)
		n = complete(e, sleeps);
	return n < 0 ? n : 0;
}

static int lend(struct floor_peer *p, void *mem, size_t len)
{
	struct end *e = (struct end *)p;

	if (e->lent)
		ibv_dereg_mr(e->lent);
	e->lent = mem ? ibv_reg_mr(e->id->pd, mem, len, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE)
		      : NULL;
	return mem && !e->lent ? -errno : 0;
}

static int listen_at(struct end *e, const char *uri, char *why, size_t cap)
{
	struct sockaddr_storage at = { 0 };
	const struct sockaddr *bound;
	struct addrinfo *ai;
	int err = floor_resolve(&ai, uri, why, cap);

	if (err)
		return err;
	e->events = rdma_create_event_channel();
	if (!e->events || rdma_create_id(e->events, &e->listener, NULL, RDMA_PS_TCP) ||
	    rdma_bind_addr(e->listener, ai->ai_addr) || rdma_listen(e->listener, 1))
		err = floor_say(why, cap, -errno, uri);
	freeaddrinfo(ai);
	if (err)
		return err;
	if (!e->listener->verbs) {
		snprintf(why, cap, "%s: no RDMA device has this address", uri);
		return -EADDRNOTAVAIL;
	}
	bound = rdma_get_local_addr(e->listener);
	memcpy(&at, bound,
	       bound->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
	return write_full(e->ctl, &at, sizeof(at));
}

static int measure(struct end *e, struct floor *f, int memfd, char *why, size_t cap)
{
	char page[FLOOR_PAGE_SIZE];
	int err = read_full(e->ctl, f->write, sizeof(f->write));

	if (err)
		return floor_say(why, cap, err, "the floor's other end went away");
	f->nwrites = FLOOR_SIZES;
	f->throughput_mb_s = f->write[2].mb_s;
	err = lend(&e->peer, page, sizeof(page));
	if (!err)
		err = floor_round_trips(f, &e->peer, page);
	if (err)
		return floor_say(why, cap, err, "READs of 4 KiB");
	lend(&e->peer, NULL, 0);
	return floor_faults(f, &e->peer, memfd, why, cap);
}

int floor_rdma_receive(struct floor *f, const char *uri, int ctl, uint64_t memory, int memfd, char *why,
		       size_t cap)
{
	struct rdma_conn_param param = { .responder_resources = RDMA_MAX_RESP_RES,
					 .initiator_depth = RDMA_MAX_INIT_DEPTH,
					 .rnr_retry_count = 6 };
	struct end e = { .peer = { .fetch = fetch, .lend = lend }, .ctl = ctl };
	char *mem;
	int err = floor_map(&mem, memory, memfd, 1, why, cap);

	if (!err)
		err = listen_at(&e, uri, why, cap);
	if (err)
		return err;
	err = next_event(&e, RDMA_CM_EVENT_CONNECT_REQUEST, &e.id);
	if (!err)
		err = make_queues(&e, mem, memory);
	if (!err)
		err = rdma_accept(e.id, &param) ? -errno : next_event(&e, RDMA_CM_EVENT_ESTABLISHED, NULL);
	if (!err)
		err = exchange_cards(&e);
	if (err)
		return floor_say(why, cap, err, "the floor's connection");
	err = measure(&e, f, memfd, why, cap);
	write_full(ctl, "", 1);
	take_down(&e);
	return err;
}

#else

int floor_rdma_receive(struct floor *f, const char *uri, int ctl, uint64_t memory, int memfd, char *why,
		       size_t cap)
{
	(void)f, (void)ctl, (void)memory, (void)memfd;
	snprintf(why, cap, "%s: RDMA is not in this build; build with -DFERRY_RDMA=ON, or use tcp:HOST:PORT",
		 uri);
	return -EOPNOTSUPP;
}

int floor_rdma_send(int ctl, uint64_t memory, int memfd)
{
	(void)ctl, (void)memory, (void)memfd;
	return -EOPNOTSUPP;
}
#endif
