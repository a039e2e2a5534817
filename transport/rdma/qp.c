// SPDX-License-Identifier: MIT
/*
 * A connection's queue pair. It is made and moved through its states here and not by librdmacm, because we
 * choose path MTU and retries: a peer that does not answer is given up after about two seconds (ACK_TIMEOUT
 * times RETRIES). Seven retries would mean for ever on some devices.
 */
#include <errno.h>
#include <string.h>

#include "rdma.h"
#include "runtime/base/fail.h"

#define ACK_TIMEOUT 16u /* 4.096 us << 16: 0.27 s; a device may wait up to four times as long */
#define RETRIES 6u
#define RNR_TIMER 12u /* 0.64 ms */

int xr_conn_open(struct xr_conn *c, struct ibv_cq *send, struct ibv_cq *recv, unsigned depth, unsigned recvs,
		 struct fail *f)
{
	struct xr_link *l = c->link;
	struct ibv_qp_init_attr init = {
		.send_cq = send,
		.recv_cq = recv,
		.qp_type = IBV_QPT_RC,
		.cap = { .max_send_wr = depth, .max_recv_wr = recvs, .max_send_sge = 1, .max_recv_sge = 1 },
	};
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_INIT };
	int mask, err;

	c->qp = ibv_create_qp(l->pd, &init);
	if (!c->qp)
		return fail_cure(f, CURE_RDMA_QUEUE, -errno, "rdma: %s makes no queue pair of %u requests",
				 l->ctx->device->name, depth);
	if (rdma_init_qp_attr(c->id, &attr, &mask))
		return -ENOTCONN;
	attr.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
	err = ibv_modify_qp(c->qp, &attr, mask);
	return err ? fail_cure(f, CURE_RDMA_QUEUE, -err, "rdma: a queue pair cannot be initialised") : 0;
}

static unsigned at_most(unsigned v, unsigned max)
{
	return v < max ? v : max;
}

int xr_conn_ready(struct xr_conn *c, unsigned mtu, struct fail *f)
{
	const struct ibv_device_attr *dev = &c->link->attr;
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_RTR };
	int mask, err;

	if (rdma_init_qp_attr(c->id, &attr, &mask))
		return fail_cure(f, CURE_RDMA_QUEUE, -errno, "rdma: queue pair attributes");
	if (mask & IBV_QP_PATH_MTU)
		attr.path_mtu = at_most(attr.path_mtu, mtu);
	if (mask & IBV_QP_MAX_DEST_RD_ATOMIC)
		attr.max_dest_rd_atomic =
			(uint8_t)at_most(attr.max_dest_rd_atomic, (unsigned)dev->max_qp_rd_atom);
	if (mask & IBV_QP_MIN_RNR_TIMER)
		attr.min_rnr_timer = RNR_TIMER;
	err = ibv_modify_qp(c->qp, &attr, mask);
	if (err)
		return fail_cure(f, CURE_RDMA_QUEUE, -err,
				 "rdma: a queue pair cannot be made ready to receive");
	attr = (struct ibv_qp_attr){ .qp_state = IBV_QPS_RTS };
	if (rdma_init_qp_attr(c->id, &attr, &mask))
		return fail_cure(f, CURE_RDMA_QUEUE, -errno, "rdma: queue pair attributes");
	attr.timeout = ACK_TIMEOUT;
	attr.retry_cnt = RETRIES;
	attr.rnr_retry = RETRIES;
	attr.max_rd_atomic = (uint8_t)at_most(attr.max_rd_atomic, (unsigned)dev->max_qp_init_rd_atom);
	err = ibv_modify_qp(c->qp, &attr, mask);
	return err ? fail_cure(f, CURE_RDMA_QUEUE, -err, "rdma: a queue pair cannot be made ready to send")
		   : 0;
}

void xr_conn_break(struct xr_conn *c)
{
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	if (c->qp)
		ibv_modify_qp(c->qp, &attr, IBV_QP_STATE);
}

void xr_conn_param(struct rdma_conn_param *ret, const struct xr_conn *c, unsigned initiator,
		   unsigned responder)
{
	const struct ibv_device_attr *dev = &c->link->attr;

	*ret = (struct rdma_conn_param){
		.initiator_depth = (uint8_t)at_most(at_most(XR_RD_ATOMIC, initiator),
						    (unsigned)dev->max_qp_init_rd_atom),
		.responder_resources =
			(uint8_t)at_most(at_most(XR_RD_ATOMIC, responder), (unsigned)dev->max_qp_rd_atom),
		.flow_control = 1,
		.retry_count = RETRIES,
		.rnr_retry_count = RETRIES,
		.qp_num = c->qp->qp_num,
	};
}
