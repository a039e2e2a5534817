/* SPDX-License-Identifier: MIT */
/*
 * The base of all filters. A filter wraps a listener, a link and its channels; its struct filter has only the
 * calls that it changes. Each object of a filter begins with one of the structs below and has its own table:
 * the filter's calls, and for all others functions that forward to the inner object. If the inner object
 * lacks a call, it is NULL in the filter's table, too.
 */
#ifndef FERRY_FILTER_H
#define FERRY_FILTER_H

#include "transport/xport_int.h"

struct filter_chan {
	struct xport_chan chan;
	struct xport_chan *inner;
	struct xport_chan_ops ops;
};

struct filter_link {
	struct xport_link link;
	struct xport_link *inner;
	struct xp_link_ops ops;
	const struct filter *filter;
	char *chans; /* control, urgent, then data; filter->chan_size bytes each */
};

struct filter_listener {
	struct xport_listener listener;
	struct xport_listener *inner;
	struct xport_listener_ops ops;
};

struct filter {
	const char *name;
	/* Sizes of the filter's objects; each begins with the struct above, the rest starts as zeros. */
	size_t listener_size, link_size, chan_size;
	struct xport_listener_ops listener; /* accept is required: it makes the filter's links */
	struct xport_link_ops link;	    /* chan is not used */
	struct xport_chan_ops chan;
	/* Called once per channel, when its link is made. */
	void (*chan_init)(struct filter_chan *c, struct filter_link *l, enum xport_role role);
};

/* Both take over the inner object. NULL: no memory; fail() was called and the inner object is closed. */
struct filter_listener *filter_listener_new(const struct filter *filter, struct xport_listener *inner,
					    struct fail *f);
struct filter_link *filter_link_new(const struct filter *filter, struct xport_link *inner, struct fail *f);
/* The default close(); a filter with its own close calls this last. */
void filter_link_close(struct xport_link *l);

#endif
