// SPDX-License-Identifier: MIT
/*
 * Frames on the control connection of the rdma transport, and connect requests at its listener, without a
 * device. The verbs that both call are defined here: a link's own service thread takes completions that come
 * from the input, and the listener takes connect requests from it. An input:
 *
 *	byte 0	bit 0, the runtime takes the messages that arrive; bit 1, memory is exposed in chunks, which the peer may have
 *		prepared; bit 2, a PIN of this end's is unanswered; bit 3, the listener is meant
 *	then	frames, each two bytes of length (little-endian, modulo RDMA_SLOT + 1) and so many bytes as they arrive; a length
 *		of 0xffff is a completion with an error, whose status is the next byte
 *	or	events, each a byte (modulo 4: 3, an earlier request is given up; else a request) and of a request a byte of length
 *		and so much private data
 *
 * Whatever the input: the link continues or ends with a sentence; no byte outside the buffers is touched;
 * only exposed memory is registered; the frames that wait are bounded by the credits. Each request is
 * answered, no event is kept, an accepted link has all its connections, and nothing remains when everything
 * is closed.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "runtime/base/fail.h"
#include "transport/rdma/rdma.h"

#define NBUFFERS (RDMA_CREDITS + RDMA_SPARE)
#define PAGES 10240u /* 40 MiB: three chunks of 16 MiB */
#define REGION 10u
#define SENDS XR_TX_SLOTS

/* The device. */
static struct {
	struct fuzz_in in;
	struct xr_link *link;
	uint64_t free[NBUFFERS]; /* wr_ids of posted receives */
	unsigned nfree, most;
	uint64_t sent[SENDS];
	unsigned nsent;
	unsigned mrs;
	uint8_t *memory;
	bool over;
} dev;

/* The connection manager. */
static struct {
	struct fuzz_in in;
	struct rdma_event_channel *listener;
	struct rdma_cm_id *request[256]; /* requests without an answer; [0] is the listener */
	unsigned nrequests, nevents;
} cm;

/* ---- the verbs ---- */

static int fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	const struct xr_link *l = dev.link;

	(void)qp, (void)bad;
	if (!l)
		return 0;
	promise(wr->num_sge == 1 && wr->wr_id < NBUFFERS && dev.nfree < NBUFFERS,
		"a receive that has no place");
	promise(wr->sg_list->addr == (uintptr_t)(l->slots + wr->wr_id * RDMA_SLOT) &&
			wr->sg_list->length == RDMA_SLOT,
		"a receive into %#llx", (unsigned long long)wr->sg_list->addr);
	for (unsigned i = 0; i < dev.nfree; i++)
		promise(dev.free[i] != wr->wr_id, "buffer %llu is posted twice",
			(unsigned long long)wr->wr_id);
	dev.free[dev.nfree++] = wr->wr_id;
	return 0;
}

static int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct rdma_frame h;

	(void)qp, (void)bad;
	promise(wr->opcode == IBV_WR_SEND && wr->num_sge == 1 && wr->sg_list->length >= sizeof(h) &&
			wr->sg_list->length <= RDMA_SLOT,
		"a send of %u bytes", wr->sg_list->length);
	promise(dev.nsent < SENDS, "more sends than slots");
	memcpy(&h, (const void *)(uintptr_t)wr->sg_list->addr, sizeof(h));
	promise(le32toh(h.magic) == RDMA_MAGIC_FRAME && le32toh(h.len) == wr->sg_list->length - sizeof(h),
		"a frame that is none");
	promise(le16toh(h.credits) <= RDMA_CREDITS, "%u credits", le16toh(h.credits));
	dev.sent[dev.nsent++] = wr->wr_id;
	return 0;
}

/* Put one frame of the input into the buffer that was posted first. False: no input or no buffer is left. */
static bool arrive(struct ibv_wc *wc)
{
	uint16_t said;
	size_t len;

	if (!dev.in.left || !dev.nfree)
		return false;
	fuzz_take(&dev.in, &said, sizeof(said));
	*wc = (struct ibv_wc){ .wr_id = dev.free[0], .status = IBV_WC_SUCCESS, .opcode = IBV_WC_RECV };
	memmove(dev.free, dev.free + 1, --dev.nfree * sizeof(dev.free[0]));
	if (said == 0xffff) {
		wc->status = (enum ibv_wc_status)(fuzz_u8(&dev.in) % (IBV_WC_GENERAL_ERR + 1));
		return true;
	}
	len = le16toh(said) % (RDMA_SLOT + 1);
	wc->byte_len = (uint32_t)len;
	fuzz_take(&dev.in, dev.link->slots + wc->wr_id * RDMA_SLOT, len);
	return true;
}

static int fake_poll_cq(struct ibv_cq *cq, int n, struct ibv_wc *wc)
{
	int got = 0;

	(void)cq;
	if (!dev.link)
		return 0;
	while (got < n && dev.nsent) {
		wc[got++] = (struct ibv_wc){ .wr_id = dev.sent[0],
					     .status = IBV_WC_SUCCESS,
					     .opcode = IBV_WC_SEND };
		memmove(dev.sent, dev.sent + 1, --dev.nsent * sizeof(dev.sent[0]));
	}
	while (got < n && arrive(&wc[got]))
		got++;
	if (!got && !dev.over) {
		dev.over = true;
		xr_ring(dev.link->wake_fd); /* wakes the user, who kills the link */
	}
	return got;
}

static int fake_req_notify_cq(struct ibv_cq *cq, int solicited)
{
	(void)cq, (void)solicited;
	return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *ch, struct ibv_cq **cq, void **ctx)
{
	(void)ch, (void)cq, (void)ctx;
	errno = EAGAIN;
	return -1;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned n)
{
	(void)cq, (void)n;
}

#undef ibv_reg_mr
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t len, int access)
{
	struct ibv_mr *mr = calloc(1, sizeof(*mr));

	(void)pd, (void)access;
	promise(!dev.link || ((uint8_t *)addr >= dev.memory &&
			      (uint8_t *)addr + len <= dev.memory + PAGES * FUZZ_PAGE && len),
		"%zu bytes that are not exposed are registered", len);
	*mr = (struct ibv_mr){ .addr = addr, .length = len, .rkey = ++dev.mrs };
	return mr;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t len, uint64_t iova, unsigned access)
{
	(void)iova;
	return ibv_reg_mr(pd, addr, len, (int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	free(mr);
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	(void)qp, (void)attr, (void)mask;
	return 0;
}

static struct ibv_device device = { .name = "fuzz" };
static struct ibv_context context = { .device = &device,
				      .ops = { .poll_cq = fake_poll_cq,
					       .req_notify_cq = fake_req_notify_cq,
					       .post_send = fake_post_send,
					       .post_recv = fake_post_recv } };
static struct ibv_qp qp = { .context = &context };
static struct ibv_cq cq = { .context = &context };
static struct ibv_pd pd = { .context = &context };
static struct ibv_comp_channel comp = { .context = &context };

int ibv_destroy_qp(struct ibv_qp *p)
{
	if (p != &qp)
		free(p);
	return 0;
}

int ibv_destroy_cq(struct ibv_cq *p)
{
	if (p != &cq)
		free(p);
	return 0;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *ch)
{
	if (ch == &comp)
		return 0;
	close(ch->fd);
	free(ch);
	return 0;
}

int ibv_dealloc_pd(struct ibv_pd *p)
{
	(void)p;
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *ctx)
{
	(void)ctx;
	return &pd;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *ctx)
{
	struct ibv_comp_channel *ch = malloc(sizeof(*ch));

	*ch = (struct ibv_comp_channel){ .context = ctx, .fd = eventfd(0, EFD_CLOEXEC) };
	return ch;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *ctx, int n, void *arg, struct ibv_comp_channel *ch,
			     int vector)
{
	struct ibv_cq *p = calloc(1, sizeof(*p));

	(void)n, (void)arg, (void)vector;
	p->context = ctx;
	p->channel = ch;
	return p;
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *of, struct ibv_qp_init_attr *init)
{
	struct ibv_qp *p = calloc(1, sizeof(*p));

	(void)init;
	p->context = of->context;
	return p;
}

int ibv_query_device(struct ibv_context *ctx, struct ibv_device_attr *attr)
{
	(void)ctx;
	*attr = (struct ibv_device_attr){ .max_qp_rd_atom = 16, .max_qp_init_rd_atom = 16 };
	return 0;
}

#undef ibv_query_port
int ibv_query_port(struct ibv_context *ctx, uint8_t port, struct _compat_ibv_port_attr *attr)
{
	(void)ctx, (void)port, (void)attr;
	return 0;
}

/* ---- the connection manager ---- */

static void answered(const struct rdma_cm_id *id)
{
	for (unsigned i = 1; i < cm.nrequests; i++)
		if (cm.request[i] == id) {
			cm.request[i] = cm.request[--cm.nrequests];
			return;
		}
}

static struct rdma_cm_id *id_new(struct rdma_event_channel *ch)
{
	struct rdma_cm_id *id = calloc(1, sizeof(*id));

	id->verbs = &context;
	id->channel = ch;
	id->port_num = 1;
	cm.request[cm.nrequests++] = id;
	return id;
}

/* Events of the listener's channel come from the input; the other channels have none. */
int rdma_get_cm_event(struct rdma_event_channel *ch, struct rdma_cm_event **ret)
{
	struct rdma_cm_event *ev;
	uint8_t *data, kind, len;

	if (ch != cm.listener || !cm.in.left || cm.nrequests == sizeof(cm.request) / sizeof(*cm.request)) {
		errno = EAGAIN;
		return -1;
	}
	ev = calloc(1, sizeof(*ev));
	kind = fuzz_u8(&cm.in);
	cm.nevents++;
	*ret = ev;
	if (kind % 4 == 3) {
		ev->event = RDMA_CM_EVENT_DISCONNECTED;
		ev->id = cm.request[kind / 4 % cm.nrequests];
		return 0;
	}
	ev->event = RDMA_CM_EVENT_CONNECT_REQUEST;
	ev->id = id_new(ch);
	ev->listen_id = cm.request[0];
	len = fuzz_u8(&cm.in);
	data = len ? malloc(len) : NULL;
	if (data)
		fuzz_take(&cm.in, data, len);
	ev->param.conn = (struct rdma_conn_param){ .private_data = data,
						   .private_data_len = len,
						   .initiator_depth = kind };
	return 0;
}

int rdma_ack_cm_event(struct rdma_cm_event *ev)
{
	cm.nevents--;
	free((void *)(uintptr_t)ev->param.conn.private_data);
	free(ev);
	return 0;
}

static void answer_check(const void *data, size_t len, bool ok)
{
	struct rdma_answer a;

	promise(len == sizeof(a), "an answer of %zu bytes", len);
	memcpy(&a, data, sizeof(a));
	promise(le32toh(a.magic) == RDMA_MAGIC_ANSWER && (le32toh(a.code) == RDMA_ANSWER_OK) == ok &&
			le32toh(a.code) <= RDMA_ANSWER_HERE,
		"answer %u", le32toh(a.code));
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t len)
{
	(void)id;
	if (len)
		answer_check(data, len, false);
	return 0;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *p)
{
	(void)id;
	answer_check(p->private_data, p->private_data_len, true);
	return 0;
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *ch)
{
	answered(id);
	id->channel = ch;
	return 0;
}

int rdma_create_id(struct rdma_event_channel *ch, struct rdma_cm_id **ret, void *ctx, enum rdma_port_space ps)
{
	(void)ctx, (void)ps;
	cm.listener = ch;
	*ret = id_new(ch);
	return 0;
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	answered(id);
	if (id == cm.request[0])
		cm.nrequests = 0;
	free(id);
	return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *a)
{
	(void)id, (void)a;
	return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	(void)id, (void)backlog;
	return 0;
}

__be16 rdma_get_src_port(struct rdma_cm_id *id)
{
	(void)id;
	return htobe16(7000);
}

int rdma_init_qp_attr(struct rdma_cm_id *id, struct ibv_qp_attr *attr, int *mask)
{
	(void)id, (void)attr;
	*mask = IBV_QP_PATH_MTU | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
	return 0;
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	(void)id;
	return 0;
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct rdma_event_channel *ch = malloc(sizeof(*ch));

	*ch = (struct rdma_event_channel){ .fd = eventfd(0, EFD_CLOEXEC) };
	return ch;
}

void rdma_destroy_event_channel(struct rdma_event_channel *ch)
{
	close(ch->fd);
	free(ch);
}

/* ---- a link over it ---- */

static void link_up(struct fail *f, uint8_t flags)
{
	struct xport_region r = { .id = REGION, .npages = PAGES, .base = dev.memory };
	const struct xport_param param = { .timeout_us = 1000 };
	struct xport_link_id id = { .channels = 1 };
	struct xr_options opt = { .pin = flags & 2 ? XR_PIN_LAZY : XR_PIN_ALL, .gid = -1 };
	struct xr_link *l;

	promise(!xr_link_new(&l, &id, rdma_create_event_channel(), &opt, &param, f), "no link: %s",
		fail_text(f));
	dev.link = l;
	l->ctx = &context;
	l->pd = &pd;
	l->comp = &comp;
	l->cq = &cq;
	l->conn[0].qp = &qp;
	l->slots_mr = calloc(1, sizeof(*l->slots_mr));
	l->slots_len = (size_t)(NBUFFERS + XR_TX_SLOTS + 1) * RDMA_SLOT;
	l->slots = mmap(NULL, l->slots_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	promise(l->slots != MAP_FAILED && !xr_ctl_recv_all(l), "no buffers");
	promise(!xp_table_set(&l->table, &r, 1, XPORT_PEER_READ), "memory cannot be exposed");
	l->pins[0].asked = flags & 4;
}

/* Like the runtime: take all messages while the link exists. */
static void take_messages(struct xr_link *l)
{
	static uint8_t buf[XPORT_MSG_MAX];
	size_t len;
	int err;

	while (!(err = l->ctl.ops->recv(&l->ctl, buf, sizeof(buf), &len, 0)))
		promise(len <= sizeof(buf), "a message of %zu bytes", len);
	promise(err < 0 && err != -EMSGSIZE, "recv came to %d", err);
}

static void held(struct xr_link *l)
{
	unsigned frames = 0;

	pthread_mutex_lock(&l->lock);
	for (const struct xr_message *m = l->head; m; m = m->next)
		frames += m->frames;
	promise(l->credits <= RDMA_CREDITS && l->owed <= RDMA_CREDITS, "%u credits, %u owed", l->credits,
		l->owed);
	promise(frames <= RDMA_CREDITS, "%u frames wait, and %u is what may", frames, RDMA_CREDITS);
	pthread_mutex_unlock(&l->lock);
}

static void frames(uint8_t flags)
{
	struct fail f = { 0 };

	if (!dev.memory)
		dev.memory = (uint8_t *)(uintptr_t)(UINT64_C(1) << 44); /* only its addresses are used */
	link_up(&f, flags);
	comp.fd = eventfd(0, EFD_CLOEXEC);
	promise(!xr_link_start(dev.link), "no service thread");
	while (!atomic_load(&dev.link->gone) && !dev.over) {
		struct pollfd p[2] = { { .fd = dev.link->have_fd, .events = POLLIN },
				       { .fd = dev.link->dead_fd, .events = POLLIN } };

		poll(p, 2, 1);
		if (flags & 1)
			take_messages(dev.link);
		held(dev.link);
	}
	if (atomic_load(&dev.link->gone) && atomic_load(&dev.link->gone) != -EPIPE)
		promise(fail_err(&f) == atomic_load(&dev.link->gone) && fail_text(&f)[0],
			"the link went without a sentence");
	dev.link->link.ops->close(&dev.link->link);
	close(comp.fd);
}

static void requests(void)
{
	const struct xport_param param = { .timeout_us = 1000 };
	struct xport_listener *l;
	struct xport_link *link;
	struct fail f = { 0 };
	int err;

	promise(!xport_listen(&l, "rdma:127.0.0.1:7000", &param, &f), "no listener: %s", fail_text(&f));
	do {
		err = l->ops->accept(l, &link, &f);
		promise(!cm.nevents, "%u events are not acknowledged", cm.nevents);
		if (err) {
			promise(err == -EAGAIN, "accept came to %d: %s", err, fail_text(&f));
			continue;
		}
		promise(link->id.channels && link->id.channels <= XPORT_CHANNELS_MAX, "a link of %u channels",
			link->id.channels);
		link->ops->close(link);
	} while (!err || cm.in.left);
	l->ops->close(l);
	promise(!cm.nrequests, "%u requests have no answer", cm.nrequests);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_before before = fuzz_before();
	struct fuzz_in in = { data, size };
	uint8_t flags = fuzz_u8(&in);

	memset(&cm, 0, sizeof(cm));
	dev.nfree = dev.nsent = dev.mrs = 0;
	dev.over = false;
	dev.link = NULL;
	dev.in = cm.in = in;
	if (flags & 8)
		requests();
	else
		frames(flags);
	fuzz_left(&before);
	return 0;
}

static void mend_requests(uint8_t *data, size_t size)
{
	for (size_t at = 1; at + 2 + sizeof(struct rdma_preamble) <= size; at += 2 + data[at + 1]) {
		struct rdma_preamble p;

		if (data[at] % 4 == 3) {
			at--; /* this event has no length byte */
			continue;
		}
		if (data[at + 1] < sizeof(p))
			continue;
		memcpy(&p, data + at + 2, sizeof(p));
		p.magic = RDMA_MAGIC_PREAMBLE;
		p.version = RDMA_WIRE_VERSION;
		p.role %= 4;
		memcpy(data + at + 2, &p, sizeof(p));
	}
}

/* Correct magic number, length and rest, so that frames get further. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t at = 1;

	size = LLVMFuzzerMutate(data, size, max);
	if (seed % 4 == 0 || !size)
		return size;
	if (data[0] & 8) {
		mend_requests(data, size);
		return size;
	}
	while (at + 2 + sizeof(struct rdma_frame) <= size) {
		struct rdma_frame h;
		uint16_t len;

		memcpy(&len, data + at, sizeof(len));
		at += sizeof(len);
		if (len == 0xffff) {
			at++;
			continue;
		}
		len = (uint16_t)(len % (RDMA_SLOT + 1));
		if (len >= sizeof(h)) {
			memcpy(&h, data + at, sizeof(h));
			h.magic = RDMA_MAGIC_FRAME;
			h.len = len - (uint32_t)sizeof(h);
			h.type = (uint16_t)(h.type % (RDMA_PROBED + 2));
			if (seed % 8 < 4)
				h.credits = 0;
			if (seed % 16 < 8 || h.type > RDMA_KEYS)
				h.left = 0;
			memcpy(data + at, &h, sizeof(h));
		}
		at += len;
	}
	return size;
}
