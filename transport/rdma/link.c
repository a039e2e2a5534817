// SPDX-License-Identifier: MIT
/* The link object of rdma: device resources, kill, close. rdma.h has the theory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"
#include "runtime/base/thread.h"
#include "transport/dial.h"

#define VENDOR_RXE 0xffffffu /* soft-RoCE; older kernels report 0 */

static struct xr_link *link_of(struct xport_link *l)
{
	return (struct xr_link *)l;
}

void xr_ring(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* the counter is full, so the fd is readable anyway */
}

uint8_t *xr_board(const struct xr_link *l)
{
	return l->slots + (size_t)(RDMA_CREDITS + RDMA_SPARE + XR_TX_SLOTS) * RDMA_SLOT;
}

static struct xport_chan *link_chan(struct xport_link *xl, enum xport_role role, unsigned index)
{
	struct xr_link *l = link_of(xl);

	switch (role) {
	case XPORT_CONTROL:
		return &l->ctl;
	case XPORT_DATA:
		return index < xl->id.channels ? &l->data[index]->chan : NULL;
	case XPORT_URGENT:
		return &l->data[xl->id.channels]->chan;
	}
	return NULL;
}

/* Wake every thread that waits on this link. */
static void wake_all(struct xr_link *l)
{
	xr_ring(l->wake_fd);
	xr_ring(l->dead_fd);
	xr_ring(l->have_fd);
	pthread_mutex_lock(&l->lock);
	pthread_cond_broadcast(&l->cond);
	pthread_mutex_unlock(&l->lock);
}

static void break_data(struct xr_link *l)
{
	unsigned i;

	for (i = 1; i < l->nconns; i++)
		xr_conn_break(&l->conn[i]);
}

void xr_link_gone(struct xr_link *l, int err)
{
	int none = 0;

	if (!atomic_compare_exchange_strong(&l->gone, &none, err))
		return;
	break_data(l);
	wake_all(l);
}

struct xr_name xr_name(const struct xr_conn *c)
{
	unsigned i = (unsigned)(c - c->link->conn);
	struct xr_name n = { "control channel" };

	if (i == c->link->nconns - 1)
		n = (struct xr_name){ "urgent channel" };
	else if (i)
		snprintf(n.text, sizeof(n.text), "data channel %u", i - 1);
	return n;
}

int xr_err(struct xr_conn *c, const char *verb, int err)
{
	struct xr_link *l = c->link;

	err = err < 0 ? -err : err;
	if (xr_broken(l))
		return xr_broken(l);
	if (xport_lost(err) || err == EINVAL || err == ENODEV || err == EIO)
		return fail_lost(l->link.fail, "%s: %s: %s", xr_name(c).text, verb, strerror(err));
	return fail_cure(l->link.fail, CURE_RDMA_QUEUE, -err, "rdma: %s", verb);
}

bool xr_status_lost(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_WR_FLUSH_ERR:      /* the queue pair failed earlier, or was taken down */
	case IBV_WC_RETRY_EXC_ERR:     /* the peer's host does not acknowledge */
	case IBV_WC_RNR_RETRY_EXC_ERR: /* its process posts no buffers */
	case IBV_WC_RESP_TIMEOUT_ERR:
	case IBV_WC_REM_ABORT_ERR:
	case IBV_WC_BAD_RESP_ERR:
	case IBV_WC_FATAL_ERR: /* a device has failed */
	case IBV_WC_GENERAL_ERR:
		return true;
	default:
		return false;
	}
}

bool xr_status_refused(enum ibv_wc_status status)
{
	return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ||
	       status == IBV_WC_REM_OP_ERR;
}

/* Sent messages may still leave: the service thread waits for that and then disconnects. */
static void link_kill(struct xport_link *xl)
{
	struct xr_link *l = link_of(xl);

	if (atomic_exchange(&l->killed, true))
		return;
	break_data(l);
	wake_all(l);
}

static void link_close(struct xport_link *xl)
{
	link_kill(xl);
	xr_link_free(link_of(xl));
}

static const struct xp_link_ops link_ops = {
	.ops = {
		.expose = xr_expose,
		.lend = xr_lend,
		.fits = xr_fits,
		.chan = link_chan,
		.kill = link_kill,
		.close = link_close,
	},
};

int xr_link_new(struct xr_link **ret, const struct xport_link_id *id, struct rdma_event_channel *events,
		const struct xr_options *opt, const struct xport_param *p, struct fail *f)
{
	struct xr_link *l = calloc(1, sizeof(*l));
	pthread_condattr_t attr;
	unsigned i;
	int err;

	if (!l) {
		rdma_destroy_event_channel(events);
		return fail(f, -ENOMEM, "rdma: no memory for a link");
	}
	l->link = (struct xport_link){ .ops = &link_ops.ops,
				       .caps = opt->pin == XR_PIN_ODP ? XPORT_ONE_SIDED
								      : XPORT_ONE_SIDED | XPORT_PINS,
				       .id = *id,
				       .fail = f };
	l->param = *p;
	l->opt = *opt;
	l->events = events;
	l->nconns = id->channels + 2;
	for (i = 0; i < l->nconns; i++)
		l->conn[i].link = l;
	l->ctl.ops = &xr_ctl_ops;
	l->tail = &l->head;
	l->credits = RDMA_CREDITS;
	l->granted = RDMA_CREDITS;
	l->tx_free = (UINT64_C(1) << XR_TX_SLOTS) - 1;
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->dead_fd = l->wake_fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->have_fd = l->dead_fd < 0 ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = -errno; /* errno of the first that failed */
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->cond, &attr);
	pthread_condattr_destroy(&attr);
	if (l->have_fd < 0) {
		xr_link_free(l);
		return fail_cure(f, CURE_CALL, err, "rdma: eventfd for a link");
	}
	*ret = l;
	return 0;
}

int xr_can_odp(struct ibv_context *ctx)
{
	const uint32_t need = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
	struct ibv_device_attr_ex x;

	if (ibv_query_device_ex(ctx, NULL, &x) || !(x.odp_caps.general_caps & IBV_ODP_SUPPORT) ||
	    (x.odp_caps.per_transport_caps.rc_odp_caps & need) != need)
		return -EOPNOTSUPP;
	return 0;
}

/* The control channel's buffers and the board, in one mapping. */
static int make_slots(struct xr_link *l)
{
	struct fail *f = l->link.fail;
	int err;

	l->slots_len = (size_t)(RDMA_CREDITS + RDMA_SPARE + XR_TX_SLOTS + 1) * RDMA_SLOT;
	l->slots = mmap(NULL, l->slots_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->slots == MAP_FAILED) {
		l->slots = NULL;
		return fail_cure(f, CURE_MAP, -errno, "rdma: no memory for a link's buffers");
	}
	err = xr_mr_reg(l, l->slots, l->slots_len, IBV_ACCESS_LOCAL_WRITE, &l->slots_mr, f);
	return err ? err : xr_mr_reg(l, xr_board(l), RDMA_BOARD, IBV_ACCESS_REMOTE_READ, &l->board_mr, f);
}

static int open_conns(struct xr_link *l)
{
	unsigned i, recvs = RDMA_CREDITS + RDMA_SPARE;
	int err;

	err = xr_conn_open(&l->conn[0], l->cq, l->cq, XR_TX_SLOTS, recvs, l->link.fail);
	if (!err)
		err = xr_ctl_recv_all(l);
	for (i = 0; i <= l->link.id.channels && !err; i++) {
		err = xr_data_new(&l->data[i], l, i, l->link.fail);
		if (!err)
			err = xr_conn_open(&l->conn[1 + i], l->data[i]->cq, l->data[i]->cq, XR_DEPTH, 1,
					   l->link.fail);
	}
	return err;
}

int xr_link_device(struct xr_link *l)
{
	struct rdma_cm_id *id = l->conn[0].id;
	struct fail *f = l->link.fail;
	struct ibv_port_attr port;
	int err;

	dial_text(l->link.peer, sizeof(l->link.peer), rdma_get_peer_addr(id));
	l->ctx = id->verbs;
	if (l->opt.dev[0] && strcmp(l->opt.dev, l->ctx->device->name))
		return fail(f, -ENODEV, "rdma: the address leads to device %s, and dev=%s was asked for",
			    l->ctx->device->name, l->opt.dev);
	err = ibv_query_device(l->ctx, &l->attr);
	if (!err)
		err = ibv_query_port(l->ctx, id->port_num, &port);
	if (err)
		return fail_cure(f, CURE_RDMA_OPEN, -err, "rdma: device %s does not say what it can",
				 l->ctx->device->name);
	l->confirm_reads = l->attr.vendor_id == VENDOR_RXE || !l->attr.vendor_id;
	l->max_msg = port.max_msg_sz ? port.max_msg_sz : 1u << 20;
	if (l->opt.pin == XR_PIN_ODP && xr_can_odp(l->ctx))
		return fail(f, -EOPNOTSUPP,
			    "rdma: device %s has no on-demand paging for reads and writes; use pin=all or "
			    "pin=lazy",
			    l->ctx->device->name);
	l->pd = ibv_alloc_pd(l->ctx);
	l->comp = ibv_create_comp_channel(l->ctx);
	if (!l->pd || !l->comp || xr_nonblock(l->comp->fd))
		return fail_cure(f, CURE_RDMA_QUEUE, -errno,
				 "rdma: device %s has no protection domain for us", l->ctx->device->name);
	l->cq = ibv_create_cq(l->ctx, RDMA_CREDITS + RDMA_SPARE + XR_TX_SLOTS + 8, NULL, l->comp, 0);
	if (!l->cq)
		return fail_cure(f, CURE_RDMA_QUEUE, -errno, "rdma: device %s makes no completion queue",
				 l->ctx->device->name);
	err = make_slots(l);
	return err ? err : open_conns(l);
}

int xr_link_start(struct xr_link *l)
{
	int err;

	err = thread_start(&l->service, xr_service, l);
	if (err)
		return fail_cure(l->link.fail, CURE_THREAD, err, "rdma: no thread for a link");
	l->serving = true;
	return 0;
}

static void free_messages(struct xr_link *l)
{
	struct xr_message *m;

	while ((m = l->head)) {
		l->head = m->next;
		free(m);
	}
	free(l->part[0]);
	free(l->part[1]);
}

/* Queue pairs first: after that no device accesses our memory. */
static void free_device(struct xr_link *l)
{
	unsigned i;

	for (i = 0; i < l->nconns; i++) {
		if (l->conn[i].qp)
			ibv_destroy_qp(l->conn[i].qp);
		if (l->conn[i].id)
			rdma_destroy_id(l->conn[i].id);
	}
	xr_mr_free(l);
	for (i = 0; i <= XPORT_CHANNELS_MAX; i++)
		xr_data_free(l->data[i]);
	if (l->board_mr)
		ibv_dereg_mr(l->board_mr);
	if (l->slots_mr)
		ibv_dereg_mr(l->slots_mr);
	if (l->slots)
		munmap(l->slots, l->slots_len);
	if (l->cq)
		ibv_destroy_cq(l->cq);
	if (l->comp)
		ibv_destroy_comp_channel(l->comp);
	if (l->pd)
		ibv_dealloc_pd(l->pd);
}

void xr_link_free(struct xr_link *l)
{
	atomic_store(&l->killed, true);
	if (l->serving) {
		xr_ring(l->wake_fd);
		pthread_join(l->service, NULL);
	}
	free_device(l);
	rdma_destroy_event_channel(l->events);
	free_messages(l);
	xp_table_clear(&l->table);
	xp_table_clear(&l->keys.table);
	free(l->keys.rkey);
	free(l->lent);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	if (l->dead_fd >= 0)
		close(l->dead_fd);
	if (l->have_fd >= 0)
		close(l->have_fd);
	pthread_cond_destroy(&l->cond);
	pthread_mutex_destroy(&l->lock);
	free(l);
}
