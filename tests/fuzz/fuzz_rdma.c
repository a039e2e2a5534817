// SPDX-License-Identifier: MIT
/*
 * What arrives on the control connection of the rdma transport, without a device: the verbs that it takes are defined
 * here, so a link's own service thread runs over completions that the input makes. An input:
 *
 *	byte 0	bit 0, the runtime takes the messages that arrive; bit 1, memory is exposed in chunks, which the peer may have
 *		prepared; bit 2, a PIN of this end's is unanswered
 *	then	frames, each two bytes of length (little-endian, modulo RDMA_SLOT + 1) and so many bytes as they arrive; a length
 *		of 0xffff is a completion with an error, whose status is the next byte
 *
 * However they lie: the link ends with a sentence or goes on, no byte outside the buffers is touched, nothing but exposed
 * memory is registered, what waits here is bounded by the credits, and nothing stays when the link is closed.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../runtime/fail.h"
#include "../../transport/rdma.h"
#include "fuzz.h"

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

/* ---- the verbs ---- */

static int fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	const struct xr_link *l = dev.link;

	(void)qp, (void)bad;
	promise(wr->num_sge == 1 && wr->wr_id < NBUFFERS && dev.nfree < NBUFFERS, "a receive that has no place");
	promise(wr->sg_list->addr == (uintptr_t)(l->slots + wr->wr_id * RDMA_SLOT) && wr->sg_list->length == RDMA_SLOT,
		"a receive into %#llx", (unsigned long long)wr->sg_list->addr);
	for (unsigned i = 0; i < dev.nfree; i++)
		promise(dev.free[i] != wr->wr_id, "buffer %llu is posted twice", (unsigned long long)wr->wr_id);
	dev.free[dev.nfree++] = wr->wr_id;
	return 0;
}

static int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct rdma_frame h;

	(void)qp, (void)bad;
	promise(wr->opcode == IBV_WR_SEND && wr->num_sge == 1 && wr->sg_list->length >= sizeof(h) && wr->sg_list->length <= RDMA_SLOT,
		"a send of %u bytes", wr->sg_list->length);
	promise(dev.nsent < SENDS, "more sends than slots");
	memcpy(&h, (const void *)(uintptr_t)wr->sg_list->addr, sizeof(h));
	promise(le32toh(h.magic) == RDMA_MAGIC_FRAME && le32toh(h.len) == wr->sg_list->length - sizeof(h), "a frame that is none");
	promise(le16toh(h.credits) <= RDMA_CREDITS, "%u credits", le16toh(h.credits));
	dev.sent[dev.nsent++] = wr->wr_id;
	return 0;
}

/* One frame of the input into the buffer that was posted first. False: there is none any more. */
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
	while (got < n && dev.nsent) {
		wc[got++] = (struct ibv_wc){ .wr_id = dev.sent[0], .status = IBV_WC_SUCCESS, .opcode = IBV_WC_SEND };
		memmove(dev.sent, dev.sent + 1, --dev.nsent * sizeof(dev.sent[0]));
	}
	while (got < n && arrive(&wc[got]))
		got++;
	if (!got && !dev.over) {
		dev.over = true;
		xr_ring(dev.link->wake_fd); /* the link is looked at, and its user kills it */
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
	promise((uint8_t *)addr >= dev.memory && (uint8_t *)addr + len <= dev.memory + PAGES * FUZZ_PAGE && len,
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

int ibv_destroy_qp(struct ibv_qp *qp)
{
	(void)qp;
	return 0;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	(void)cq;
	return 0;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *ch)
{
	(void)ch;
	return 0;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	(void)pd;
	return 0;
}

int rdma_get_cm_event(struct rdma_event_channel *ch, struct rdma_cm_event **ev)
{
	(void)ch, (void)ev;
	errno = EAGAIN;
	return -1;
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	(void)id;
	return 0;
}

void rdma_destroy_event_channel(struct rdma_event_channel *ch)
{
	close(ch->fd);
	free(ch);
}

/* ---- a link over it ---- */

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

static void link_up(struct fail *f, uint8_t flags)
{
	struct xport_region r = { .id = REGION, .page_shift = 12, .npages = PAGES, .base = dev.memory };
	const struct xport_param param = { .timeout_us = 1000 };
	struct xport_link_id id = { .channels = 1 };
	struct xr_options opt = { .pin = flags & 2 ? XR_PIN_LAZY : XR_PIN_ALL, .gid = -1 };
	struct rdma_event_channel *ch = malloc(sizeof(*ch));
	struct xr_link *l;

	*ch = (struct rdma_event_channel){ .fd = eventfd(0, EFD_CLOEXEC) };
	promise(!xr_link_new(&l, &id, ch, &opt, &param, f), "no link: %s", fail_text(f));
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

/* As the runtime does: what is there, while the link is. */
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
	promise(l->credits <= RDMA_CREDITS && l->owed <= RDMA_CREDITS, "%u credits, %u owed", l->credits, l->owed);
	promise(frames <= RDMA_CREDITS, "%u frames wait, and %u is what may", frames, RDMA_CREDITS);
	pthread_mutex_unlock(&l->lock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_before before = fuzz_before();
	struct fail f = { 0 };
	uint8_t flags;

	if (!dev.memory)
		dev.memory = (uint8_t *)(uintptr_t)(UINT64_C(1) << 44); /* only its addresses are used */
	dev.in = (struct fuzz_in){ data, size };
	dev.nfree = dev.nsent = dev.mrs = 0;
	dev.over = false;
	flags = fuzz_u8(&dev.in);
	link_up(&f, flags);
	comp.fd = eventfd(0, EFD_CLOEXEC);
	promise(!xr_link_start(dev.link), "no service thread");
	while (!atomic_load(&dev.link->gone) && !dev.over) {
		struct pollfd p[2] = { { .fd = dev.link->have_fd, .events = POLLIN }, { .fd = dev.link->dead_fd, .events = POLLIN } };

		poll(p, 2, 1);
		if (flags & 1)
			take_messages(dev.link);
		held(dev.link);
	}
	if (atomic_load(&dev.link->gone) && atomic_load(&dev.link->gone) != -EPIPE)
		promise(fail_err(&f) == atomic_load(&dev.link->gone) && fail_text(&f)[0], "the link went without a sentence");
	dev.link->link.ops->close(&dev.link->link);
	close(comp.fd);
	fuzz_left(&before);
	return 0;
}

/* Frames whose magic number, length and rest are right get further. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	size_t at = 1;

	size = LLVMFuzzerMutate(data, size, max);
	if (seed % 4 == 0)
		return size;
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
