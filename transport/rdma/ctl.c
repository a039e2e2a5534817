// SPDX-License-Identifier: MIT
/*
 * The control channel of rdma, and the service thread that receives on it.
 *
 * A message is cut into frames. A frame is copied into a free send slot and posted at once, so send() does
 * not wait for its completion. The service thread copies received frames out of their buffers and reposts the
 * buffers, but returns a message's credits only when recv() has taken it, so RDMA_CREDITS bounds what is
 * queued here. The peer's credits are counted here too, because buffers are reposted regardless: a frame
 * without a credit is a protocol error.
 */
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"

#define TX UINT64_C(0x100000000) /* in wr_id: set for a send slot, clear for a receive buffer */
#define DRAIN_US 1000000u	 /* time for posted messages to leave after a kill */
#define DRAIN_POLLS 64u		 /* a peer that sends without end cannot starve the rest */

static struct xr_link *link_of(struct xport_chan *c)
{
	return (struct xr_link *)((char *)c - offsetof(struct xr_link, ctl));
}

static uint8_t *rx_slot(const struct xr_link *l, unsigned i)
{
	return l->slots + (size_t)i * RDMA_SLOT;
}

static uint8_t *tx_slot(const struct xr_link *l, unsigned i)
{
	return rx_slot(l, RDMA_CREDITS + RDMA_SPARE + i);
}

bool xr_wait(struct xr_link *l, uint64_t end)
{
	struct timespec ts = xp_timespec(end);

	return !pthread_cond_timedwait(&l->cond, &l->lock, &ts);
}

static int post_recv(struct xr_link *l, unsigned i)
{
	struct ibv_sge sge = { (uintptr_t)rx_slot(l, i), RDMA_SLOT, l->slots_mr->lkey };
	struct ibv_recv_wr wr = { .wr_id = i, .sg_list = &sge, .num_sge = 1 }, *bad;
	int err = ibv_post_recv(l->conn[0].qp, &wr, &bad);

	return err ? xr_err(&l->conn[0], "ibv_post_recv", err) : 0;
}

int xr_ctl_recv_all(struct xr_link *l)
{
	unsigned i;
	int err = 0;

	for (i = 0; i < RDMA_CREDITS + RDMA_SPARE && !err; i++)
		err = post_recv(l, i);
	return err;
}

/* ---- sending, with the lock held ---- */

static int post_frame(struct xr_link *l, struct rdma_frame h, struct iovec **iov, int *n, size_t len)
{
	unsigned i = (unsigned)__builtin_ctzll(l->tx_free);
	struct ibv_sge sge = { (uintptr_t)tx_slot(l, i), (uint32_t)(sizeof(h) + len), l->slots_mr->lkey };
	struct ibv_send_wr wr = { .wr_id = TX | i,
				  .sg_list = &sge,
				  .num_sge = 1,
				  .opcode = IBV_WR_SEND,
				  .send_flags = IBV_SEND_SIGNALED },
			   *bad;
	uint8_t *at = tx_slot(l, i) + sizeof(h);
	int err;

	h.magic = htole32(RDMA_MAGIC_FRAME);
	h.len = htole32((uint32_t)len);
	h.credits = htole16((uint16_t)l->owed);
	memcpy(tx_slot(l, i), &h, sizeof(h));
	while (len) {
		size_t k = (*iov)->iov_len < len ? (*iov)->iov_len : len;

		if (k)
			memcpy(at, (*iov)->iov_base, k);
		at += k;
		len -= k;
		xp_iov_advance(iov, n, k);
	}
	err = ibv_post_send(l->conn[0].qp, &wr, &bad);
	if (err)
		return xr_err(&l->conn[0], "ibv_post_send", err);
	l->granted += l->owed;
	l->owed = 0;
	l->tx_free &= ~(UINT64_C(1) << i);
	return 0;
}

int xr_send_small(struct xr_link *l, enum rdma_frame_type type, const void *body, size_t len)
{
	struct rdma_frame h = { .type = htole16((uint16_t)type) };
	struct iovec iov = { (void *)(uintptr_t)body, len }, *at = &iov;
	int n = 1;

	/* Few are ever in flight, so if no slot is free, the peer takes nothing. */
	return l->tx_free ? post_frame(l, h, &at, &n, len) : -EPIPE;
}

/* Wait for a send slot that is not the service thread's, and for a credit. */
static int wait_room(struct xr_link *l, uint64_t most_us)
{
	uint64_t end = sooner(deadline_after(now_us(), l->param.timeout_us), most_us);
	int err;

	for (;;) {
		err = xr_broken(l);
		if (err)
			return err;
		if (atomic_load(&l->conn[0].established) && l->credits &&
		    (unsigned)__builtin_popcountll(l->tx_free) > XR_TX_SPARE)
			return 0;
		if (!xr_wait(l, end))
			return -ETIMEDOUT;
	}
}

int xr_send_message(struct xr_link *l, enum rdma_frame_type type, const struct iovec *iov, int n)
{
	struct iovec copy[16], *at = copy;
	uint64_t most_us = deadline_after(now_us(), XPORT_MSG_TIMEOUTS * l->param.timeout_us);
	size_t left = 0, len;
	int i, err = 0;

	if (n < 0 || n > 16)
		return -EINVAL;
	for (i = 0; i < n; i++) {
		if (iov[i].iov_len > XPORT_MSG_MAX - left)
			return -EMSGSIZE;
		left += iov[i].iov_len;
		copy[i] = iov[i];
	}
	pthread_mutex_lock(&l->lock);
	do {
		struct rdma_frame h = { .type = htole16((uint16_t)type) };

		err = wait_room(l, most_us);
		if (err)
			break;
		len = left < RDMA_PAYLOAD ? left : RDMA_PAYLOAD;
		left -= len;
		h.left = htole32((uint32_t)left);
		err = post_frame(l, h, &at, &n, len);
		l->credits -= !err;
	} while (!err && left);
	pthread_mutex_unlock(&l->lock);
	return err;
}

static int ctl_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	return xr_send_message(link_of(chan), RDMA_MSG, iov, n);
}

/* Return credits with the next frame; send a CREDIT frame only once many have gathered. */
static void owe(struct xr_link *l, unsigned frames)
{
	l->owed += frames;
	if (l->owed >= RDMA_CREDITS / 4 && !xr_broken(l))
		xr_send_small(l, RDMA_CREDIT, NULL, 0);
}

/* ---- receiving ---- */

/* Keep have_fd readable while a message waits or the link is gone. */
static void settle_have(struct xr_link *l)
{
	uint64_t count;

	if (l->head || xr_broken(l))
		return;
	if (read(l->have_fd, &count, sizeof(count)) < 0)
		return; /* it was not readable */
	if (xr_broken(l))
		xr_ring(l->have_fd); /* the link went meanwhile */
}

static int take(struct xr_link *l, void *buf, size_t cap, size_t *len)
{
	struct xr_message *m = l->head;

	if (m->len > cap)
		return -EMSGSIZE;
	memcpy(buf, m->body, m->len);
	*len = m->len;
	l->head = m->next;
	if (!m->next)
		l->tail = &l->head;
	owe(l, m->frames);
	free(m);
	return 0;
}

static int ctl_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct xr_link *l = link_of(chan);
	uint64_t end = wait_us ? deadline_after(now_us(), wait_us) : 0;
	int err;

	pthread_mutex_lock(&l->lock);
	for (;;) {
		if (atomic_load(&l->killed))
			err = -EPIPE;
		else if (l->head)
			err = take(l, buf, cap, len);
		else if (atomic_load(&l->gone))
			err = atomic_load(&l->gone);
		else if (!wait_us || !xr_wait(l, end))
			err = -EAGAIN;
		else
			continue;
		break;
	}
	settle_have(l);
	pthread_mutex_unlock(&l->lock);
	return err;
}

static int ctl_fd(struct xport_chan *chan)
{
	return link_of(chan)->have_fd;
}

const struct xport_chan_ops xr_ctl_ops = { .send = ctl_send, .recv = ctl_recv, .fd = ctl_fd };

/* ---- the service thread ---- */

static int bad_frame(struct xr_link *l, const struct rdma_frame *h, size_t bytes, const char *why)
{
	return fail(l->link.fail, -EPROTO,
		    "rdma: the peer sent a frame of type %u, %u bytes and %u to come, in %zu: %s",
		    le16toh(h->type), le32toh(h->len), le32toh(h->left), bytes, why);
}

/* Add a piece to a MSG or KEYS; 1: complete, in *ret. */
static int gather(struct xr_link *l, const struct rdma_frame *h, const uint8_t *body, struct xr_message **ret)
{
	bool keys = le16toh(h->type) == RDMA_KEYS;
	uint32_t len = le32toh(h->len), left = le32toh(h->left);
	struct xr_message *m = l->part[keys];

	if (!m) {
		/* len is at most RDMA_PAYLOAD and left is checked first, so the sum cannot overflow. */
		if (left > XPORT_MSG_MAX || len + left > XPORT_MSG_MAX)
			return bad_frame(l, h, len, "a message is at most 128 KiB");
		m = malloc(sizeof(*m) + len + left);
		if (!m)
			return fail(l->link.fail, -ENOMEM, "rdma: no memory for a message of %u bytes",
				    len + left);
		*m = (struct xr_message){ .cap = len + left };
		l->part[keys] = m;
	}
	if (len + left != m->cap - m->len || (left && !len))
		return bad_frame(l, h, len, "a piece of a message is not as long as was said");
	memcpy(m->body + m->len, body, len);
	m->len += len;
	m->frames++;
	if (left)
		return 0;
	l->part[keys] = NULL;
	*ret = m;
	return 1;
}

static int message_frame(struct xr_link *l, const struct rdma_frame *h, const uint8_t *body)
{
	struct xr_message *m = NULL;
	int err;

	if (!l->granted)
		return bad_frame(l, h, le32toh(h->len), "more than it was given buffers for");
	l->granted--;
	err = gather(l, h, body, &m);
	if (err <= 0)
		return err;
	if (le16toh(h->type) == RDMA_KEYS) {
		err = xr_keys_take(l, m);
		owe(l, m->frames);
		free(m);
		return err;
	}
	*l->tail = m;
	l->tail = &m->next;
	xr_ring(l->have_fd);
	return 0;
}

static int pin_frame(struct xr_link *l, const struct rdma_frame *h, const uint8_t *body, size_t len)
{
	struct rdma_pin p;

	if (len != sizeof(p))
		return bad_frame(l, h, len, "a PIN is 32 bytes");
	memcpy(&p, body, sizeof(p));
	if (le32toh(p.chan) > l->link.id.channels || le32toh(p.slot) >= RDMA_PIN_SLOTS)
		return bad_frame(l, h, len, "a PIN of a channel or a slot that is not there");
	if (le16toh(h->type) == RDMA_PIN)
		return xr_pin_serve(l, &p);
	if (!l->pins[le32toh(p.chan)].asked)
		return bad_frame(l, h, len, "a PINNED that nobody asked for");
	l->pins[le32toh(p.chan)].pin = p;
	l->pins[le32toh(p.chan)].asked = false;
	l->pins[le32toh(p.chan)].answered = true;
	return 0;
}

static int obey(struct xr_link *l, const uint8_t *slot, size_t bytes)
{
	const uint8_t *body = slot + sizeof(struct rdma_frame);
	struct rdma_frame h = { .magic = 0 };
	unsigned type;

	memcpy(&h, slot, bytes < sizeof(h) ? bytes : sizeof(h));
	type = le16toh(h.type);
	if (bytes < sizeof(h) || le32toh(h.magic) != RDMA_MAGIC_FRAME || le32toh(h.len) != bytes - sizeof(h))
		return bad_frame(l, &h, bytes, "not a frame");
	if (le16toh(h.credits) > RDMA_CREDITS - l->credits)
		return bad_frame(l, &h, bytes, "more buffers are free than there are");
	l->credits += le16toh(h.credits);
	if (type != RDMA_MSG && type != RDMA_KEYS && h.left)
		return bad_frame(l, &h, bytes, "only messages come in pieces");
	switch (type) {
	case RDMA_MSG:
	case RDMA_KEYS:
		return message_frame(l, &h, body);
	case RDMA_PIN:
	case RDMA_PINNED:
		return pin_frame(l, &h, body, bytes - sizeof(h));
	case RDMA_PROBE:
		return xr_send_small(l, RDMA_PROBED, NULL, 0);
	case RDMA_PROBED:
		l->probed++;
		return 0;
	case RDMA_CREDIT:
		return 0;
	default:
		return bad_frame(l, &h, bytes, "no such type");
	}
}

static int completed(struct xr_link *l, const struct ibv_wc *wc)
{
	unsigned i = (unsigned)wc->wr_id;
	int err;

	/* SENDs carry no key, so a refusal means that the peer's buffers went with its process. */
	if (wc->status != IBV_WC_SUCCESS && (xr_status_lost(wc->status) || xr_status_refused(wc->status)))
		return fail_lost(l->link.fail, "%s: %s", xr_name(&l->conn[0]).text,
				 ibv_wc_status_str(wc->status));
	if (wc->status != IBV_WC_SUCCESS)
		return fail(l->link.fail, -EIO, "rdma: a message cannot be sent or received: %s",
			    ibv_wc_status_str(wc->status));
	if (wc->wr_id & TX) {
		l->tx_free |= UINT64_C(1) << i;
		return 0;
	}
	/* Data may arrive before the connection manager's ESTABLISHED event. */
	atomic_store(&l->conn[0].established, true);
	err = obey(l, rx_slot(l, i), wc->byte_len);
	return err ? err : post_recv(l, i);
}

/* Handle pending completions; 1: there may be more. */
static int drain(struct xr_link *l)
{
	unsigned polls = 0;
	struct ibv_wc wc[16];
	int n, i, err = 0;

	do {
		n = ibv_poll_cq(l->cq, 16, wc);
		if (n < 0)
			return xr_err(&l->conn[0], "ibv_poll_cq", EIO);
		pthread_mutex_lock(&l->lock);
		for (i = 0; i < n && !err; i++)
			err = completed(l, &wc[i]);
		if (n)
			pthread_cond_broadcast(&l->cond);
		pthread_mutex_unlock(&l->lock);
	} while (n && !err && ++polls < DRAIN_POLLS);
	return err ? err : n > 0;
}

/* Handle pending completions and arm the channel for the next. 1: do not wait, there may be more. */
static int drain_and_arm(struct xr_link *l)
{
	struct ibv_cq *cq;
	int err, armed;
	void *ctx;

	while (!ibv_get_cq_event(l->comp, &cq, &ctx))
		ibv_ack_cq_events(cq, 1);
	err = drain(l);
	if (!err && (armed = ibv_req_notify_cq(l->cq, 0)))
		err = xr_err(&l->conn[0], "ibv_req_notify_cq", armed);
	return err ? err : drain(l);
}

static int cm_events(struct xr_link *l)
{
	struct rdma_cm_event *ev;
	struct xr_conn *c;
	int err = 0;

	while ((ev = xr_event(l->events))) {
		c = ev->id->context;
		if (ev->event == RDMA_CM_EVENT_ESTABLISHED) {
			c->cm_established = true;
			atomic_store(&c->established, true);
			pthread_mutex_lock(&l->lock);
			pthread_cond_broadcast(&l->cond);
			pthread_mutex_unlock(&l->lock);
		} else if (ev->event != RDMA_CM_EVENT_TIMEWAIT_EXIT &&
			   ev->event != RDMA_CM_EVENT_ADDR_CHANGE) {
			/* disconnected, refused, or device removed: the link is over */
			err = fail_lost(l->link.fail, "%s: %s", xr_name(c).text, rdma_event_str(ev->event));
		}
		rdma_ack_cm_event(ev);
	}
	if (errno != EAGAIN && !err)
		err = fail_lost(l->link.fail, "rdma_get_cm_event: %s", strerror(errno));
	return err;
}

static bool tx_idle(struct xr_link *l)
{
	bool idle;

	pthread_mutex_lock(&l->lock);
	idle = l->tx_free == (UINT64_C(1) << XR_TX_SLOTS) - 1;
	pthread_mutex_unlock(&l->lock);
	return idle;
}

/*
 * Before the CM has heard the last packet of the connect, rdma_disconnect() sends nothing, and a peer that waits in a
 * receive would never learn that the link has ended.
 */
static void await_established(struct xr_link *l, uint64_t end)
{
	struct pollfd p = { .fd = l->events->fd, .events = POLLIN };
	uint64_t now;
	unsigned i = 0;

	while (i < l->nconns && !atomic_load(&l->gone) && !cm_events(l) && (now = now_us()) < end) {
		while (i < l->nconns && l->conn[i].cm_established)
			i++;
		if (i < l->nconns)
			poll(&p, 1, xp_poll_ms(end - now));
	}
}

/* End the link: give sent messages time to leave, then disconnect. */
static void part(struct xr_link *l)
{
	uint64_t end = now_us() + (l->param.timeout_us < DRAIN_US ? l->param.timeout_us : DRAIN_US), now;
	struct pollfd p = { .fd = l->comp->fd, .events = POLLIN };
	unsigned i;
	int more;

	while (!atomic_load(&l->gone) && (more = drain_and_arm(l)) >= 0 && !tx_idle(l) &&
	       (now = now_us()) < end)
		if (!more)
			poll(&p, 1, xp_poll_ms(end - now));
	await_established(l, end);
	for (i = 0; i < l->nconns; i++)
		rdma_disconnect(l->conn[i].id);
	xr_conn_break(&l->conn[0]);
}

void *xr_service(void *arg)
{
	struct xr_link *l = arg;
	struct pollfd p[3] = { { .fd = l->wake_fd, .events = POLLIN },
			       { .fd = l->comp->fd, .events = POLLIN },
			       { .fd = l->events->fd, .events = POLLIN } };
	int err = 0, over;

	while (!xr_broken(l)) {
		/*
		 * A peer disconnects only after its last messages were acknowledged. So check for that first,
		 * then drain: otherwise the last messages could be missed.
		 */
		over = cm_events(l);
		err = drain_and_arm(l);
		if (err > 0 && !over)
			continue;
		err = err < 0 ? err : over;
		if (err) {
			xr_link_gone(l, err == -ETIMEDOUT ? -EPIPE : err);
			break;
		}
		poll(p, 3, -1);
	}
	part(l);
	return NULL;
}
