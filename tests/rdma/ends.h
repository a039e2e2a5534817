/* SPDX-License-Identifier: MIT */
/* Both ends of one link over the machine's device, with memory; and what must be gone afterwards. */
#ifndef TESTS_RDMA_ENDS_H
#define TESTS_RDMA_ENDS_H

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/fail.h"
#include "transport/rdma/rdma.h"

#define HOST "10.9.0.1"
#define PAGE 4096u
#define REGION 0u /* in the order of expose() */
#define PAGES 512u
#define OTHER_PAGES 16u
#define WAIT_US 5000000u

struct xend {
	struct xport_link *link;
	struct xport_chan *ctl, *data, *urgent;
	struct fail fail;
	uint8_t *ram; /* PAGES of REGION, then OTHER_PAGES of the second one */
};

struct ends {
	struct xport_param param;
	struct xport_listener *listener;
	struct fail fail;
	char uri[400];
	struct xend a, b; /* a connected, b accepted */
};

void ends_listen(struct ends *e, const char *query);
/* A whole link or an error of either end, which must not have left anything. */
int ends_join(struct ends *e);
void ends_start(struct ends *e, const char *query); /* both of these, and they must succeed */
void ends_stop(struct ends *e);			    /* closes, and nothing of the device may be left */

struct xr_link *ends_inside(struct xend *x);
int ends_expose(struct xend *x, enum xport_access access);
void ends_nothing_left(void);
/* The sentence that f has contains says. */
void ends_says(struct fail *f, const char *says);

#endif
