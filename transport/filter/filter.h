/* SPDX-License-Identifier: MIT */
/*
 * What filters are made of. A filter stands on a listener, a link and its channels, and names in a struct filter only
 * the calls that it changes. Each object of a filter begins with one of the structs below and has a table of its own:
 * the filter's calls, and for all others forwarders to the inner object. So a call that is changed costs nothing more,
 * and a call that the inner object does not have is NULL in the filter's table, too.
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
	/* Of the filter's objects; each begins as zeros behind the struct above. */
	size_t listener_size, link_size, chan_size;
	struct xport_listener_ops listener; /* with accept: only the filter knows what its links are */
	struct xport_link_ops link;	    /* without chan */
	struct xport_chan_ops chan;
	/* Called once a channel, when its link is made. */
	void (*chan_init)(struct filter_chan *c, struct filter_link *l, enum xport_role role);
};

/* Both take the inner object over. NULL: no memory, fail() has been called, and the inner object is closed. */
struct filter_listener *filter_listener_new(const struct filter *filter, struct xport_listener *inner, struct fail *f);
struct filter_link *filter_link_new(const struct filter *filter, struct xport_link *inner, struct fail *f);
/* What close() is if the filter has none; else the last thing that the filter's does. */
void filter_link_close(struct xport_link *l);

#endif
