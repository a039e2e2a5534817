// SPDX-License-Identifier: MIT
/* A hand-written peer: single messages, and a correct source or target up to a point. */
#include "peer.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void peer_raw(struct peer *p, const void *buf, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)buf, len };

	p->ctl->ops->send(p->ctl, &iov, 1); /* fails once the session has closed the link, as it may */
}

void peer_say(struct peer *p, enum wire_type t, const void *body, size_t len, const void *elems,
	      size_t elems_len)
{
	uint8_t msg[XPORT_MSG_MAX];
	struct wire_hdr h = wire_header(t, len + elems_len, p->seq++);

	cr_assert(sizeof(h) + len + elems_len <= sizeof(msg));
	memcpy(msg, &h, sizeof(h));
	if (len)
		memcpy(msg + sizeof(h), body, len);
	if (elems_len)
		memcpy(msg + sizeof(h) + len, elems, elems_len);
	peer_raw(p, msg, sizeof(h) + len + elems_len);
}

unsigned peer_hear(struct peer *p, void *body, size_t cap)
{
	uint8_t msg[XPORT_MSG_MAX];
	struct wire_hdr h;
	size_t len;
	int err;

	do {
		err = p->ctl->ops->recv(p->ctl, msg, sizeof(msg), &len, PEER_WAIT_US);
		cr_assert_neq(err, -EAGAIN, "the session says nothing and stays");
		if (err)
			return 0;
		memcpy(&h, msg, sizeof(h));
	} while (h.type == WIRE_PING);
	if (h.type == WIRE_ABORT || h.type == WIRE_REFUSED)
		snprintf(p->heard, sizeof(p->heard), "%.*s",
			 (int)(len - sizeof(h) - sizeof(struct wire_abort)),
			 (char *)msg + sizeof(h) + sizeof(struct wire_abort));
	if (body)
		memcpy(body, msg + sizeof(h), len - sizeof(h) < cap ? len - sizeof(h) : cap);
	return h.type;
}

void peer_hear_only(struct peer *p, enum wire_type t, void *body, size_t cap)
{
	unsigned got = peer_hear(p, body, cap);

	cr_assert_eq(got, t, "%s came, %s was due: %s", wire_name(got), wire_name(t), p->heard);
}

struct wire_hello peer_hello(const struct peer *p)
{
	struct wire_hello h = { .magic = WIRE_MAGIC,
				.version = WIRE_VERSION,
				.oldest = WIRE_VERSION_OLDEST,
				.features = WIRE_FEATURES,
				.page_shift = 12,
				.timeout_us = PEER_TIMEOUT_US,
				.reconnect_us = PEER_RECONNECT_US };

	memcpy(h.number, p->session, sizeof(h.number)); /* any number will do as long as it does not change */
	return h;
}

void peer_regions(const struct peer *p, struct wire_region r[FAKE_REGIONS])
{
	for (unsigned i = 0; i < FAKE_REGIONS; i++)
		r[i] = (struct wire_region){ .id = p->rig.src.region[i].id,
					     .page_shift = 12,
					     .flags = p->rig.src.region[i].flags,
					     .gpa = p->rig.src.region[i].gpa,
					     .len = p->rig.src.region[i].len };
}

uint64_t peer_no_needs(void)
{
	struct ferry_stream none;
	uint64_t sum;

	stream_init(&none);
	sum = stream_sum(&none);
	stream_destroy(&none);
	return sum;
}

void peer_say_map(struct peer *p, uint32_t claimed, const struct wire_region *r, size_t n)
{
	struct wire_map m = { .nregions = claimed, .needs_sum = peer_no_needs() };

	peer_say(p, WIRE_MAP, &m, sizeof(m), r, n * sizeof(*r));
}

void *peer_run_target(void *arg)
{
	struct peer *p = arg;

	p->rig.tgt.thread = pthread_self();
	p->rig.tres.size = sizeof(p->rig.tres);
	ferry_run(p->rig.tgt.session, &p->rig.tres);
	return NULL;
}

void peer_init(struct peer *p, const struct rig_kind *kind)
{
	memset(p, 0, sizeof(*p));
	memset(p->session, 0x42, sizeof(p->session));
	rig_init(&p->rig, kind);
}

void peer_connect(struct peer *p, const struct rig_kind *kind, enum peer_stage upto)
{
	peer_init(p, kind);
	peer_begin(p, kind, upto);
}

void peer_begin(struct peer *p, const struct rig_kind *kind, enum peer_stage upto)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->rig.tgt, .ops = &p->rig.tgt.ops };
	struct xport_link_id id = { .channels = 1 };
	struct wire_region r[FAKE_REGIONS];

	memcpy(id.session, p->session, sizeof(id.session));
	p->rig.tcfg.timeout_us = PEER_TIMEOUT_US;
	p->rig.tcfg.reconnect_us = PEER_RECONNECT_US;
	cr_assert_eq(ferry_target_new(&p->rig.tgt.session, &v, &p->rig.tcfg), 0);
	cr_assert_eq(ferry_open(p->rig.tgt.session, kind->uri), 0);
	cr_assert_eq(ferry_get_uri(p->rig.tgt.session, p->uri, sizeof(p->uri)), 0);
	cr_assert(!pthread_create(&p->thread, NULL, peer_run_target, p));
	p->param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(xport_connect(&p->link, p->uri, &id, &p->param, PEER_WAIT_US, &p->fail), 0, "%s",
		     fail_text(&p->fail));
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	if (upto >= GREETED) {
		SAY(p, WIRE_HELLO, peer_hello(p));
		peer_hear_only(p, WIRE_HELLO_ACK, NULL, 0);
	}
	if (upto >= RESERVED) {
		peer_regions(p, r);
		peer_say_map(p, FAKE_REGIONS, r, FAKE_REGIONS);
		peer_hear_only(p, WIRE_RESERVED, NULL, 0);
	}
}

void peer_connect_again(struct peer *p, uint32_t generation)
{
	struct xport_link_id id = { .generation = generation, .channels = 1 };

	p->link->ops->kill(p->link);
	p->link->ops->close(p->link);
	memcpy(id.session, p->session, sizeof(id.session));
	cr_assert_eq(xport_connect(&p->link, p->uri, &id, &p->param, PEER_WAIT_US, &p->fail), 0, "%s",
		     fail_text(&p->fail));
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	p->seq = 0;
}

/* The file behind the reserved memory must have its old length and zeros before its region. */
static void check_outside(const struct fakevm *vm)
{
	uint8_t before[3 * FAKE_PAGE];

	for (unsigned i = 0; i < FAKE_REGIONS && vm->shared && vm->region[i].hva; i++) {
		const struct ferry_region *r = &vm->region[i];

		cr_assert_eq(lseek(r->fd, 0, SEEK_END), (off_t)(r->fd_offset + r->len));
		cr_assert_eq(pread(r->fd, before, sizeof(before), 0), (ssize_t)sizeof(before));
		for (size_t k = 0; k < sizeof(before); k++)
			cr_assert_eq(before[k], 0);
	}
}

void peer_target_ends(struct peer *p, int err, const char *sentence, bool told)
{
	const struct ferry_result *res = &p->rig.tres;

	while (!p->heard[0] && peer_hear(p, NULL, 0))
		;
	p->link->ops->kill(p->link);
	pthread_join(p->thread, NULL);
	p->link->ops->close(p->link);
	ferry_free(p->rig.tgt.session);
	cr_assert_eq(res->error, err, "%d: %s", res->error, res->detail);
	rig_says(res->detail, sentence);
	if (told)
		rig_says(p->heard, sentence);
	cr_assert(res->outcome == FERRY_OUTCOME_REFUSED || res->outcome == FERRY_OUTCOME_DISCARDED, "%s",
		  ferry_outcome_name(res->outcome));
	cr_assert_eq(res->owner, FERRY_OWNER_SOURCE);
	cr_assert_eq(p->rig.tgt.calls[FAKE_DISCARD], p->rig.tgt.calls[FAKE_RESERVE]);
	cr_assert_eq(p->rig.tgt.calls[FAKE_ACTIVATE] + p->rig.tgt.calls[FAKE_RELEASE], 0);
	check_outside(&p->rig.tgt);
	free(p->ram);
	rig_free(&p->rig);
}

static void *run_source(void *arg)
{
	struct peer *p = arg;

	p->rig.src.thread = pthread_self();
	p->rig.sres.size = sizeof(p->rig.sres);
	ferry_run(p->rig.src.session, &p->rig.sres);
	return NULL;
}

void peer_start_source(struct peer *p, const char *uri)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->rig.src, .ops = &p->rig.src.ops,
			      .regions = p->rig.src.region, .nregions = FAKE_REGIONS };

	if (!p->rig.scfg.timeout_us)
		p->rig.scfg.timeout_us = PEER_TIMEOUT_US;
	if (!p->rig.scfg.reconnect_us)
		p->rig.scfg.reconnect_us = PEER_RECONNECT_US;
	p->param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(xport_listen(&p->listener, uri, &p->param, &p->fail), 0, "%s", fail_text(&p->fail));
	cr_assert_eq(p->listener->ops->uri(p->listener, p->uri, sizeof(p->uri)), 0);
	cr_assert_eq(ferry_source_new(&p->rig.src.session, &v, &p->rig.scfg), 0, "%s", p->rig.src.error_line);
	cr_assert_eq(ferry_open(p->rig.src.session, p->uri), 0);
	cr_assert(!pthread_create(&p->thread, NULL, run_source, p));
}

void peer_accept(struct peer *p)
{
	struct pollfd pfd = { .fd = p->listener->ops->fd(p->listener), .events = POLLIN };
	int err;

	while ((err = p->listener->ops->accept(p->listener, &p->link, &p->fail)) == -EAGAIN)
		cr_assert_gt(poll(&pfd, 1, PEER_WAIT_US / 1000), 0);
	cr_assert_eq(err, 0);
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	p->seq = 0;
}

struct wire_hello_ack peer_ack(void)
{
	struct wire_hello_ack a = { .magic = WIRE_MAGIC,
				    .version = WIRE_VERSION,
				    .oldest = WIRE_VERSION,
				    .features = WIRE_FEATURES,
				    .page_shift = 12,
				    .timeout_us = PEER_TIMEOUT_US };

	memset(a.number, 0x61, sizeof(a.number));
	return a;
}

void peer_expose(struct peer *p)
{
	struct xport_region r[FAKE_REGIONS];

	p->ram = aligned_alloc(FAKE_PAGE, FAKE_PAGES * FAKE_PAGE);
	for (unsigned i = 0; i < FAKE_REGIONS; i++)
		r[i] = (struct xport_region){ .id = p->rig.src.region[i].id,
					      .npages = p->rig.src.region[i].len / FAKE_PAGE,
					      .base = p->ram + fake_offset(i, 0) };
	cr_assert_eq(p->link->ops->expose(p->link, r, FAKE_REGIONS, XPORT_PEER_WRITE), 0);
}

void peer_hear_until(struct peer *p, enum wire_type t)
{
	unsigned got;

	while ((got = peer_hear(p, NULL, 0)) != t)
		cr_assert_neq(got, 0, "the source has hung up: %s", p->heard);
}
