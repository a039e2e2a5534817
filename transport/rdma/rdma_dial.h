/* SPDX-License-Identifier: MIT */
/* The connecting end of rdma: cm.c makes a link, knock.c finds the address that answers. */
#ifndef FERRY_RDMA_DIAL_H
#define FERRY_RDMA_DIAL_H

#include "rdma.h"
#include "transport/dial.h"

#define XR_REJ_NO_LISTENER 8 /* the connection manager's reasons: nobody has this service */
#define XR_REJ_CONSUMER 28   /* the accepting program said so */

struct xr_dialer {
	const struct uri *u;
	const struct xport_param *param;
	struct fail *f;
	struct xr_options opt;
	uint64_t deadline;
	struct xport_addrs addrs;
};

/* *at: which of several addresses answers first. */
int xr_knock(unsigned *at, const struct xr_dialer *d);

/* An event channel that does not block, or NULL and a sentence. */
struct rdma_event_channel *xr_channel(struct fail *f);
/* The next event; *ret NULL and 0: none has come until then. To be acknowledged. An error of the channel has a sentence. */
int xr_next_event(struct rdma_cm_event **ret, struct rdma_event_channel *ch, uint64_t until, const struct xr_dialer *d);
/* A new id, whose address is being resolved. *ret is the caller's also on failure, unless NULL. */
int xr_begin(struct rdma_cm_id **ret, struct rdma_event_channel *ch, void *context, const struct dial_addr *to,
	     const struct xr_dialer *d);
int xr_route(struct rdma_cm_id *id, const struct xr_dialer *d);
int xr_address_errno(const struct rdma_cm_event *ev);

#endif
