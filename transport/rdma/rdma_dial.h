/* SPDX-License-Identifier: MIT */
/* The connecting end of rdma: cm.c connects to one address, knock.c finds the address that answers. */
#ifndef FERRY_RDMA_DIAL_H
#define FERRY_RDMA_DIAL_H

#include "rdma.h"
#include "transport/dial.h"

#define XR_REJ_NO_LISTENER 8 /* reject reasons of the connection manager: no listener */
#define XR_REJ_CONSUMER 28   /* rejected by the accepting program */

struct xr_dialer {
	const struct uri *u;
	const struct xport_param *param;
	struct fail *f;
	struct xr_options opt;
	uint64_t deadline;
	struct xport_addrs addrs;
};

/* Find which of several addresses answers first: *at. */
int xr_knock(unsigned *at, const struct xr_dialer *d);

/* A non-blocking event channel, or NULL and a sentence. */
struct rdma_event_channel *xr_channel(struct fail *f);
/* The next event, for the caller to acknowledge; *ret NULL and 0: none until then. Errors have a sentence. */
int xr_next_event(struct rdma_cm_event **ret, struct rdma_event_channel *ch, uint64_t until,
		  const struct xr_dialer *d);
/* Make an id and start to resolve its address. The caller owns *ret, on failure too, unless it is NULL. */
int xr_begin(struct rdma_cm_id **ret, struct rdma_event_channel *ch, void *context,
	     const struct dial_addr *to, const struct xr_dialer *d);
int xr_route(struct rdma_cm_id *id, const struct xr_dialer *d);
int xr_address_errno(const struct rdma_cm_event *ev);

#endif
