// SPDX-License-Identifier: MIT
/* The two ends of an RDMA link, joined and taken apart. */
#include "ends.h"

#include <poll.h>
#include <stdio.h>

#include "rdma_left.h"

void ends_nothing_left(void)
{
	char what[200];
	int n = rdma_left(what, sizeof(what));

	cr_assert_eq(n, 0, "left of the device: %s", what);
}

void ends_says(struct fail *f, const char *says)
{
	cr_assert(strstr(fail_text(f), says), "\"%s\" does not say \"%s\"", fail_text(f), says);
}

struct xr_link *ends_inside(struct xend *x)
{
	return (struct xr_link *)x->link;
}

int ends_expose(struct xend *x, enum xport_access access)
{
	struct xport_region r[] = {
		{ .id = 7, .npages = PAGES, .base = x->ram },
		{ .id = 9, .npages = OTHER_PAGES, .base = x->ram + PAGES * PAGE },
	};

	return x->link->ops->expose(x->link, r, 2, access);
}

void ends_listen(struct ends *e, const char *query)
{
	char uri[300];

	memset(e, 0, sizeof(*e));
	e->param = (struct xport_param){ .timeout_us = 3000000, .poll_us = 50 };
	snprintf(uri, sizeof(uri), "rdma:%s:0%s", HOST, query);
	cr_assert_eq(xport_listen(&e->listener, uri, &e->param, &e->fail), 0, "%s", fail_text(&e->fail));
	cr_assert_eq(e->listener->ops->uri(e->listener, uri, sizeof(uri)), 0);
	snprintf(e->uri, sizeof(e->uri), "%.200s%s", uri, query);
}

struct connecting {
	struct ends *e;
	int err;
};

static void *connect_thread(void *arg)
{
	struct connecting *c = arg;
	struct xport_link_id id = { .channels = 1, .session = "one of ours" };

	c->err = xport_connect(&c->e->a.link, c->e->uri, &id, &c->e->param, WAIT_US, &c->e->a.fail);
	return NULL;
}

static void ready(struct xend *x)
{
	x->ctl = x->link->ops->chan(x->link, XPORT_CONTROL, 0);
	x->data = x->link->ops->chan(x->link, XPORT_DATA, 0);
	x->urgent = x->link->ops->chan(x->link, XPORT_URGENT, 0);
	x->ram = aligned_alloc(PAGE, (PAGES + OTHER_PAGES) * PAGE);
	cr_assert(x->ctl && x->data && x->urgent && x->ram);
	memset(x->ram, 0x11, (PAGES + OTHER_PAGES) * PAGE);
}

int ends_join(struct ends *e)
{
	struct pollfd p = { .fd = e->listener->ops->fd(e->listener), .events = POLLIN };
	struct connecting c = { .e = e };
	pthread_t t;
	int err;

	cr_assert(!pthread_create(&t, NULL, connect_thread, &c));
	while ((err = e->listener->ops->accept(e->listener, &e->b.link, &e->b.fail)) == -EAGAIN &&
	       poll(&p, 1, 10000) > 0)
		;
	pthread_join(t, NULL);
	if (!err && !c.err) {
		ready(&e->a);
		ready(&e->b);
	}
	return err ? err : c.err;
}

void ends_start(struct ends *e, const char *query)
{
	ends_listen(e, query);
	cr_assert_eq(ends_join(e), 0, "%s; %s", fail_text(&e->a.fail), fail_text(&e->b.fail));
}

void ends_stop(struct ends *e)
{
	if (e->a.link)
		e->a.link->ops->close(e->a.link);
	if (e->b.link)
		e->b.link->ops->close(e->b.link);
	e->listener->ops->close(e->listener);
	free(e->a.ram);
	free(e->b.ram);
	ends_nothing_left();
}
