// SPDX-License-Identifier: MIT
/*
 * Completions of the rdma data and urgent channels, and waiting for them.
 *
 * fd() arms the completion channel only before a sleep, so a polling thread pays nothing for it. One more
 * poll after arming finds what completed in between.
 */
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "rdma.h"
#include "runtime/base/fail.h"

#define PROBE_US 2000000u /* a live peer answers in this time */

/* Whether the peer's service thread answers: a process being killed loses its registrations first. */
static bool peer_lives(struct xr_link *l)
{
	uint64_t end = now_us() + (l->param.timeout_us < PROBE_US ? l->param.timeout_us : PROBE_US);
	unsigned before;
	bool lives;

	pthread_mutex_lock(&l->lock);
	before = l->probed;
	lives = !xr_broken(l) && !xr_send_small(l, RDMA_PROBE, NULL, 0);
	while (lives && l->probed == before && !xr_broken(l) && xr_wait(l, end))
		;
	lives = l->probed != before;
	pthread_mutex_unlock(&l->lock);
	return lives;
}

static int judge(struct xr_data *d, const struct ibv_wc *wc)
{
	const char *status = ibv_wc_status_str(wc->status);
	struct xr_link *l = d->link;
	int err = xr_broken(l);

	if (err)
		return err;
	if (xr_status_refused(wc->status) && peer_lives(l))
		return fail(l->link.fail, -EPROTO,
			    "rdma: the peer's device refuses the memory key that the peer gave (%s): it "
			    "was taken back, or is for other memory",
			    status);
	if (xr_status_refused(wc->status) || xr_status_lost(wc->status))
		return fail_lost(l->link.fail, "%s: %s", xr_name(d->conn).text, status);
	switch (wc->status) {
	case IBV_WC_LOC_PROT_ERR:
	case IBV_WC_LOC_LEN_ERR:
	case IBV_WC_LOC_QP_OP_ERR:
		return fail(l->link.fail, -EFAULT,
			    "rdma: this end's memory cannot be reached (%s); was it unmapped?", status);
	default:
		return fail(l->link.fail, -EIO, "rdma: a transfer has failed: %s", status);
	}
}

static void completed(struct xr_data *d)
{
	struct xr_mark *m = &d->mark[d->mark_head];

	d->mark_head = (d->mark_head + 1) % XR_MARKS;
	d->nmark--;
	d->posted -= m->wrs;
	d->flying -= m->bytes;
	if (m->get)
		xp_gets_done(&d->gets);
}

int xr_take(struct xr_data *d)
{
	struct ibv_wc wc[16];
	int n = ibv_poll_cq(d->cq, 16, wc), i;

	for (i = 0; i < n && !d->err; i++) {
		if (wc[i].status != IBV_WC_SUCCESS)
			d->err = judge(d, &wc[i]);
		else
			completed(d);
	}
	if (n < 0)
		d->err = xr_err(d->conn, "ibv_poll_cq", EIO);
	if (n > 0) {
		d->stale = true;
		d->stamp_us = now_us();
	}
	return d->err ? d->err : n;
}

/* Arm the channel: the next completion makes it readable. Then look for one once more, as xr_take(). */
static int arm(struct xr_data *d)
{
	struct ibv_cq *cq;
	void *ctx;
	int err;

	if (!d->armed || d->stale) {
		while (!ibv_get_cq_event(d->comp, &cq, &ctx))
			ibv_ack_cq_events(cq, 1);
		err = ibv_req_notify_cq(d->cq, 0);
		if (err)
			d->err = xr_err(d->conn, "ibv_req_notify_cq", err);
		d->armed = true;
		d->stale = false;
	}
	return xr_take(d);
}

int xr_data_fd(struct xport_chan *chan)
{
	struct xr_data *d = (struct xr_data *)chan;
	uint64_t count;

	if (read(d->ready_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return -1;
	if (xr_data_broken(d) || arm(d) || d->gets.ndone)
		xr_ring(d->ready_fd);
	return d->epfd;
}

int xr_wait_cq(struct xr_data *d, uint64_t end)
{
	struct pollfd p = { .fd = d->epfd, .events = POLLIN };
	uint64_t now, count;
	int n;

	n = xr_data_broken(d);
	if (!n)
		n = xr_take(d);
	if (n)
		return n;
	now = now_us();
	n = arm(d);
	if (n || now >= end)
		return n;
	poll(&p, 1, xp_poll_ms(end - now));
	if (read(d->ready_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return -EIO;
	n = xr_data_broken(d);
	return n ? n : xr_take(d);
}

int xr_wait_some(struct xr_data *d)
{
	uint64_t end = deadline_after(d->stamp_us, d->link->param.timeout_us);
	int n;

	while (!(n = xr_wait_cq(d, end)))
		if (now_us() >= end) {
			fail_lost(d->link->link.fail, "%s: nothing has moved for %llu ms",
				  xr_name(d->conn).text,
				  (unsigned long long)d->link->param.timeout_us / 1000);
			d->err = -ETIMEDOUT;
			return -ETIMEDOUT;
		}
	return n < 0 ? n : 0;
}
