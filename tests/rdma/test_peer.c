// SPDX-License-Identifier: MIT
/*
 * Peers that lie, over a real device: connect requests and answers that are not ours, frames that are none, memory keys
 * that are stale or for other memory. Each is refused with a sentence, the next honest peer gets its link, and nothing
 * of the device is left. In the soft-RoCE machine; the lying end is made of the transport's own parts.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "ends.h"
#include "peer.h"
#include "transport/rdma/rdma_dial.h"

/* A connection manager that fails is an error at once: no wait for it would end before the deadline. */
Test(peer, a_channel_that_fails)
{
	struct uri u = { .host = "peer", .port = 1 };
	struct fail f = { 0 };
	struct xport_param param = { 0 };
	struct xr_dialer d = { .u = &u, .param = &param, .f = &f };
	struct rdma_event_channel ch = { .fd = -1 };
	struct rdma_cm_event *ev;
	int err = xr_next_event(&ev, &ch, UINT64_MAX, &d);

	cr_assert(err < 0 && err != -EAGAIN && !ev, "%d", err);
	cr_assert(strstr(fail_text(&f), "rdma_get_cm_event"), "%s", fail_text(&f));
}

/* ---- connect requests ---- */

static void event(struct rdma_event_channel *ch, enum rdma_cm_event_type want)
{
	struct rdma_cm_event *ev;

	cr_assert(!rdma_get_cm_event(ch, &ev));
	cr_assert_eq(ev->event, want, "%s came, status %d", rdma_event_str(ev->event), ev->status);
	rdma_ack_cm_event(ev);
}

static struct rdma_cm_id *resolved(struct rdma_event_channel *ch, const char *uri)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1)) };
	struct rdma_cm_id *id;

	inet_pton(AF_INET, HOST, &to.sin_addr);
	cr_assert(!rdma_create_id(ch, &id, NULL, RDMA_PS_TCP));
	cr_assert(!rdma_resolve_addr(id, NULL, (struct sockaddr *)&to, 2000));
	event(ch, RDMA_CM_EVENT_ADDR_RESOLVED);
	cr_assert(!rdma_resolve_route(id, 2000));
	event(ch, RDMA_CM_EVENT_ROUTE_RESOLVED);
	return id;
}

static struct rdma_cm_id *ask(struct rdma_event_channel *ch, const char *uri, const void *data, uint8_t len)
{
	static uint32_t
		qp; /* one a request: the kernel refuses a second from the same by itself, for some time after the first */
	struct rdma_cm_id *id = resolved(ch, uri);
	struct rdma_conn_param p = { .private_data = data,
				     .private_data_len = len,
				     .responder_resources = 1,
				     .initiator_depth = 1,
				     .retry_count = 6,
				     .rnr_retry_count = 6 };

	qp = qp ? qp + 1 : ((uint32_t)getpid() << 8 & 0xffff00) + 1;
	p.qp_num = qp;
	cr_assert(!rdma_connect(id, &p));
	return id;
}

/* The listener goes on until the peer has its answer; what it says, as a code, or -1: nothing of ours. */
static int answer(struct ends *e, struct rdma_event_channel *ch)
{
	struct pollfd p[2] = { { .fd = ch->fd, .events = POLLIN },
			       { .fd = e->listener->ops->fd(e->listener), .events = POLLIN } };
	struct xport_link *l = NULL;
	struct rdma_cm_event *ev;
	struct rdma_answer a = { .magic = 0 };

	while (!p[0].revents) {
		cr_assert(poll(p, 2, 10000) > 0, "no answer");
		cr_assert_eq(e->listener->ops->accept(e->listener, &l, &e->fail), -EAGAIN, "%s",
			     fail_text(&e->fail));
	}
	cr_assert(!rdma_get_cm_event(ch, &ev));
	cr_assert_eq(ev->event, RDMA_CM_EVENT_REJECTED, "%s came", rdma_event_str(ev->event));
	if (ev->param.conn.private_data_len >= sizeof(a))
		memcpy(&a, ev->param.conn.private_data, sizeof(a));
	rdma_ack_cm_event(ev);
	return le32toh(a.magic) == RDMA_MAGIC_ANSWER ? (int)le32toh(a.code) : -1;
}

static struct rdma_preamble good(void)
{
	return (struct rdma_preamble){ .magic = htole32(RDMA_MAGIC_PREAMBLE),
				       .version = htole32(RDMA_WIRE_VERSION),
				       .channels = 1,
				       .mtu = IBV_MTU_1024 };
}

Test(peer, connect_requests_that_are_not_ours)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct rdma_preamble p[10];
	static const int want[10] = { -1,
				      RDMA_ANSWER_VERSION,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_MALFORMED,
				      RDMA_ANSWER_HERE };
	struct ends e;
	unsigned i;

	ends_listen(&e, "");
	for (i = 0; i < 10; i++)
		p[i] = good();
	memset(&p[0], 0xa5, sizeof(p[0]));
	p[1].version = htole32(99);
	p[2].role = RDMA_ROLE_KNOCK + 1;
	p[3].channels = 0;
	p[4].channels = XPORT_CHANNELS_MAX + 1;
	p[5].role = RDMA_ROLE_DATA;
	p[5].index = 1;
	p[6].mtu = 0;
	p[7].mtu = IBV_MTU_4096 + 1;
	p[8].index = 1; /* of the control channel there is one */
	p[9].role = RDMA_ROLE_KNOCK;
	for (i = 0; i < 10; i++) {
		struct rdma_cm_id *id = ask(ch, e.uri, &p[i], sizeof(p[i]));
		int code = answer(&e, ch);

		cr_expect_eq(code, want[i], "request %u: answer %d, not %d", i, code, want[i]);
		rdma_destroy_id(id);
	}
	rdma_destroy_event_channel(ch);
	cr_assert_eq(ends_join(&e), 0, "an honest peer: %s", fail_text(&e.a.fail));
	ends_stop(&e);
}

Test(peer, what_is_offered_and_not_known_is_not_accepted)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct rdma_cm_id *id[RDMA_ROLE_URGENT + 1];
	struct xport_link *l = NULL;
	unsigned answers = 0;
	struct pollfd fd[2];
	struct ends e;

	ends_listen(&e, "");
	for (uint8_t role = RDMA_ROLE_CONTROL; role <= RDMA_ROLE_URGENT; role++) {
		struct rdma_preamble p = good();

		p.role = role;
		p.offers = htole32(0x80000001);
		id[role] = ask(ch, e.uri, &p, sizeof(p));
	}
	fd[0] = (struct pollfd){ .fd = ch->fd, .events = POLLIN };
	fd[1] = (struct pollfd){ .fd = e.listener->ops->fd(e.listener), .events = POLLIN };
	while (answers <= RDMA_ROLE_URGENT) {
		struct rdma_answer a = { .magic = 0 };
		struct rdma_cm_event *ev;
		int err = -EAGAIN;

		cr_assert(poll(fd, 2, 10000) > 0, "no answer");
		if (!l)
			err = e.listener->ops->accept(e.listener, &l, &e.fail);
		cr_assert(!err || err == -EAGAIN, "%d: %s", err, fail_text(&e.fail));
		if (!fd[0].revents)
			continue;
		cr_assert(!rdma_get_cm_event(ch, &ev));
		cr_assert_eq(ev->event, RDMA_CM_EVENT_CONNECT_RESPONSE, "%s came", rdma_event_str(ev->event));
		cr_assert(ev->param.conn.private_data_len >= sizeof(a));
		memcpy(&a, ev->param.conn.private_data, sizeof(a));
		rdma_ack_cm_event(ev);
		cr_assert_eq(le32toh(a.code), RDMA_ANSWER_OK);
		cr_assert_eq(a.accepts, 0, "accepts %#x", le32toh(a.accepts));
		answers++;
	}
	if (l)
		l->ops->close(l);
	for (uint8_t role = RDMA_ROLE_CONTROL; role <= RDMA_ROLE_URGENT; role++)
		rdma_destroy_id(id[role]);
	rdma_destroy_event_channel(ch);
	ends_stop(&e);
}

Test(peer, the_same_connection_asked_for_twice)
{
	struct rdma_event_channel *ch = rdma_create_event_channel(), *other = rdma_create_event_channel();
	struct rdma_preamble p = good();
	struct rdma_cm_id *first, *second;
	int one, two;
	struct ends e;

	ends_listen(&e, "");
	first = ask(other, e.uri, &p, sizeof(p));
	second = ask(ch, e.uri, &p, sizeof(p));
	/* Whichever comes first waits for the rest of its link, and is told when that does not come. */
	one = answer(&e, ch);
	two = answer(&e, other);
	cr_assert((one == RDMA_ANSWER_MALFORMED && two == RDMA_ANSWER_LATE) ||
			  (one == RDMA_ANSWER_LATE && two == RDMA_ANSWER_MALFORMED),
		  "answers %d and %d", one, two);
	rdma_destroy_id(first);
	rdma_destroy_id(second);
	rdma_destroy_event_channel(ch);
	rdma_destroy_event_channel(other);
	ends_stop(&e);
}

Test(peer, who_asks_and_does_not_go_on_keeps_nobody_out)
{
	struct rdma_event_channel *ch[70];
	struct rdma_cm_id *id[70];
	struct ends e;
	unsigned i;

	ends_listen(&e, "");
	for (i = 0; i < 70; i++) {
		struct rdma_preamble p = good();
		struct xport_link *l = NULL;

		p.attempt = i;
		ch[i] = rdma_create_event_channel();
		id[i] = ask(ch[i], e.uri, &p, sizeof(p));
		if (i % 8 == 7)
			cr_assert_eq(e.listener->ops->accept(e.listener, &l, &e.fail), -EAGAIN);
	}
	cr_assert_eq(ends_join(&e), 0, "an honest peer: %s", fail_text(&e.a.fail));
	for (i = 0; i < 70; i++) {
		rdma_destroy_id(id[i]);
		rdma_destroy_event_channel(ch[i]);
	}
	ends_stop(&e);
}

Test(peer, who_is_not_of_the_session_gets_no_link)
{
	struct rdma_event_channel *ch = rdma_create_event_channel(), *other = rdma_create_event_channel();
	struct xport_link_id session = { .generation = 3 };
	struct rdma_preamble p = good();
	struct rdma_cm_id *id, *before;
	struct ends e;

	ends_listen(&e, "");
	p.role = RDMA_ROLE_CONTROL;
	before = ask(other, e.uri, &p, sizeof(p)); /* it may come before only() or after it */
	e.listener->ops->only(e.listener, &session);
	cr_assert_eq(answer(&e, other), RDMA_ANSWER_TAKEN);
	p.generation = htole32(3);
	id = ask(ch, e.uri, &p, sizeof(p));
	cr_assert_eq(answer(&e, ch), RDMA_ANSWER_TAKEN, "the same generation");
	rdma_destroy_id(id);
	p.generation = htole32(4);
	p.session[5] = 1;
	id = ask(ch, e.uri, &p, sizeof(p));
	cr_assert_eq(answer(&e, ch), RDMA_ANSWER_TAKEN, "another session");
	rdma_destroy_id(id);
	p.session[5] = 0;
	id = ask(ch, e.uri, &p, sizeof(p));
	cr_assert_eq(answer(&e, ch), RDMA_ANSWER_LATE, "its own, and the rest does not come");
	rdma_destroy_id(id);
	rdma_destroy_id(before);
	rdma_destroy_event_channel(ch);
	rdma_destroy_event_channel(other);
	ends_stop(&e);
}

/* ---- a session's port ---- */

/* All requests of a link, each of which is answered so: none is completed. */
static void ask_for_a_link(struct rdma_event_channel *ch, const char *uri, uint64_t attempt, bool taken,
			   struct rdma_cm_id **id)
{
	struct rdma_preamble p = good();

	p.attempt = attempt;
	memset(p.session, 0x77, sizeof(p.session));
	for (uint8_t role = RDMA_ROLE_CONTROL; role <= RDMA_ROLE_URGENT; role++) {
		p.role = role;
		id[role] = ask(ch, uri, &p, sizeof(p));
		if (taken)
			event(ch, RDMA_CM_EVENT_REJECTED);
	}
	for (unsigned n = 0; n < 3 && !taken; n++)
		event(ch, RDMA_CM_EVENT_CONNECT_RESPONSE);
}

/* A target that would wait for each of them as long as a source may be silent: the source behind them is served at once. */
Test(peer, who_does_not_complete_a_link_holds_no_session)
{
	struct rdma_event_channel *ch = rdma_create_event_channel();
	struct xport_link_id mine = { .channels = 1 };
	struct rdma_cm_id *id[3][3];
	struct peer p;
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p.rig.tgt, .ops = &p.rig.tgt.ops };

	peer_init(&p, RIG_TCP_ANON);
	p.rig.tcfg.timeout_us = 4 * PEER_WAIT_US;
	p.param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(ferry_target_new(&p.rig.tgt.session, &v, &p.rig.tcfg), 0);
	cr_assert_eq(ferry_open(p.rig.tgt.session, p.rig.uri), 0);
	cr_assert_eq(ferry_get_uri(p.rig.tgt.session, p.rig.connect_to, sizeof(p.rig.connect_to)), 0);
	cr_assert(!pthread_create(&p.thread, NULL, peer_run_target, &p));
	for (unsigned i = 0; i < 2; i++)
		ask_for_a_link(ch, p.rig.connect_to, i, false, id[i]);
	memcpy(mine.session, p.session, sizeof(mine.session));
	cr_assert_eq(xport_connect(&p.link, p.rig.connect_to, &mine, &p.param, PEER_WAIT_US, &p.fail), 0,
		     "%s", fail_text(&p.fail));
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	SAY(&p, WIRE_HELLO, peer_hello(&p));
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	/* From here on it costs no link to refuse one. */
	ask_for_a_link(ch, p.rig.connect_to, 2, true, id[2]);
	p.link->ops->close(p.link);
	pthread_join(p.thread, NULL);
	ferry_free(p.rig.tgt.session);
	cr_assert_eq(p.rig.tres.error, -EPIPE, "%s", p.rig.tres.detail);
	for (unsigned i = 0; i < 9; i++)
		rdma_destroy_id(id[i / 3][i % 3]);
	rdma_destroy_event_channel(ch);
	rig_free(&p.rig);
	ends_nothing_left();
}

/* ---- answers ---- */

struct foreign {
	struct rdma_event_channel *ch;
	struct rdma_cm_id *listener;
	const void *data;
	uint8_t len;
	bool accepts;
};

static void *foreign_listener(void *arg)
{
	struct foreign *f = arg;
	struct ibv_qp_init_attr init = { .qp_type = IBV_QPT_RC, .cap = { 1, 1, 1, 1, 0 } };
	struct rdma_cm_event *ev;
	struct rdma_cm_id *id[3];
	unsigned n = 0, i;

	while (n < (f->accepts ? 1 : 3) && !rdma_get_cm_event(f->ch, &ev)) {
		struct rdma_conn_param p = { .private_data = f->data, .private_data_len = f->len };

		if (ev->event == RDMA_CM_EVENT_CONNECT_REQUEST) {
			id[n++] = ev->id;
			if (!f->accepts)
				rdma_reject(ev->id, f->data, f->len);
			else if (rdma_create_qp(ev->id, NULL, &init) || rdma_accept(ev->id, &p))
				n = 0; /* asserted by what the connecting end sees */
		}
		rdma_ack_cm_event(ev);
	}
	for (i = 0; i < n; i++) {
		if (f->accepts)
			rdma_destroy_qp(id[i]);
		rdma_destroy_id(id[i]);
	}
	return NULL;
}

static void foreign_answer(bool accepts, const void *data, uint8_t len, int want, const char *says)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	struct foreign f = { .ch = rdma_create_event_channel(), .data = data, .len = len, .accepts = accepts };
	struct xport_link_id id = { .channels = 1 };
	struct xport_param p = { .timeout_us = 2000000 };
	struct xport_link *l = NULL;
	struct fail why = { 0 };
	pthread_t t;
	char uri[64];
	int err;

	inet_pton(AF_INET, HOST, &at.sin_addr);
	cr_assert(!rdma_create_id(f.ch, &f.listener, NULL, RDMA_PS_TCP));
	cr_assert(!rdma_bind_addr(f.listener, (struct sockaddr *)&at) && !rdma_listen(f.listener, 8));
	snprintf(uri, sizeof(uri), "rdma:%s:%u", HOST, ntohs(rdma_get_src_port(f.listener)));
	cr_assert(!pthread_create(&t, NULL, foreign_listener, &f));
	err = xport_connect(&l, uri, &id, &p, WAIT_US, &why);
	pthread_join(t, NULL);
	rdma_destroy_id(f.listener);
	rdma_destroy_event_channel(f.ch);
	cr_expect_eq(err, want, "%d: %s", err, fail_text(&why));
	ends_says(&why, says);
	ends_nothing_left();
}

Test(peer, answers_that_are_not_ours)
{
	struct rdma_answer a = { .magic = htole32(RDMA_MAGIC_ANSWER),
				 .version = htole32(77),
				 .code = htole32(RDMA_ANSWER_VERSION) };
	static const char text[64] = "SSH-2.0 and whatever else may listen on this port";

	foreign_answer(true, text, sizeof(text), -EPROTO, "not as a migration target does");
	foreign_answer(true, NULL, 0, -EPROTO, "not as a migration target does");
	foreign_answer(false, text, sizeof(text), -EPROTO, "not as a migration target does");
	foreign_answer(false, &a, sizeof(a), -EPROTO,
		       "speaks version 77 of the transport, this end version 1");
	a.code = htole32(RDMA_ANSWER_OK);
	a.mtu = htole32(9);
	foreign_answer(true, &a, sizeof(a), -EPROTO, "MTU code 9");
	a.accepts = htole32(4);
	foreign_answer(true, &a, sizeof(a), -EPROTO, "accepts 0x4, which was not offered");
}

/* ---- frames ---- */

static void send_raw(struct xr_link *l, const void *bytes, size_t len)
{
	struct ibv_sge sge = { .length = (uint32_t)len, .lkey = l->slots_mr->lkey };
	struct ibv_send_wr wr = { .wr_id = UINT64_C(1) << 32,
				  .sg_list = &sge,
				  .num_sge = 1,
				  .opcode = IBV_WR_SEND,
				  .send_flags = IBV_SEND_SIGNALED },
			   *bad;
	uint8_t *slot = l->slots + (size_t)(RDMA_CREDITS + RDMA_SPARE) * RDMA_SLOT;

	sge.addr = (uintptr_t)slot;
	pthread_mutex_lock(&l->lock);
	cr_assert(l->tx_free & 1);
	memcpy(slot, bytes, len);
	l->tx_free &= ~UINT64_C(1);
	cr_assert(!ibv_post_send(l->conn[0].qp, &wr, &bad));
	pthread_mutex_unlock(&l->lock);
}

/* a hears of it, and says. */
static void broken_at_a(struct ends *e, const char *says)
{
	uint8_t buf[256];
	size_t len;
	int err = e->a.ctl->ops->recv(e->a.ctl, buf, sizeof(buf), &len, WAIT_US);

	cr_assert_eq(err, -EPROTO, "%d: %s", err, fail_text(&e->a.fail));
	ends_says(&e->a.fail, says);
}

#define FRAME(t, l, f)                                                                     \
	{                                                                                  \
		.magic = htole32(RDMA_MAGIC_FRAME), .type = htole16(t), .len = htole32(l), \
		.left = htole32(f)                                                         \
	}

Test(peer, frames_that_are_none)
{
	const struct {
		struct rdma_frame h;
		size_t len; /* of what is sent */
		const char *says;
	} bad[] = {
		{ FRAME(RDMA_MSG, 0, 0), 3, "not a frame" },
		{ { .magic = 1 }, 16, "not a frame" },
		{ FRAME(RDMA_MSG, 8, 0), 16, "not a frame" },
		{ FRAME(99, 0, 0), 16, "no such type" },
		{ FRAME(RDMA_PROBE, 0, 4), 16, "only messages come in pieces" },
		{ FRAME(RDMA_MSG, 8, 0xffffffff), 24, "at most 128 KiB" },
		{ FRAME(RDMA_MSG, 0, 8), 16, "not as long as was said" },
		{ FRAME(RDMA_PIN, 8, 0), 24, "32 bytes" },
		{ FRAME(RDMA_PINNED, 32, 0), 48, "nobody asked for" },
		{ { .magic = htole32(RDMA_MAGIC_FRAME), .type = htole16(RDMA_CREDIT), .credits = htole16(1) },
		  16,
		  "more buffers are free than there are" },
	};
	uint8_t raw[64];
	struct ends e;
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memset(raw, 0, sizeof(raw));
		memcpy(raw, &bad[i].h, sizeof(bad[i].h));
		ends_start(&e, "");
		send_raw(ends_inside(&e.b), raw, bad[i].len);
		broken_at_a(&e, bad[i].says);
		ends_stop(&e);
	}
}

Test(peer, a_pin_of_a_channel_that_is_not_there)
{
	struct rdma_pin p = { .chan = htole32(2) };
	uint8_t raw[48];
	struct ends e;
	unsigned i;

	for (i = 0; i < 2; i++) {
		const struct rdma_frame h = FRAME(RDMA_PIN, 32, 0);

		memcpy(raw, &h, sizeof(h));
		memcpy(raw + 16, &p, sizeof(p));
		ends_start(&e, "?pin=lazy");
		send_raw(ends_inside(&e.b), raw, sizeof(raw));
		broken_at_a(&e, "a channel or a slot that is not there");
		ends_stop(&e);
		p = (struct rdma_pin){ .slot = htole32(RDMA_PIN_SLOTS) };
	}
}

/* The slot of send_raw() is free again. */
static void await_slot(struct xr_link *l)
{
	uint64_t end = now_us() + WAIT_US;

	pthread_mutex_lock(&l->lock);
	while (!(l->tx_free & 1) && xr_wait(l, end))
		;
	pthread_mutex_unlock(&l->lock);
}

/* All the credits that a peer has, and one: nobody takes the messages, so none was given back. */
Test(peer, more_messages_than_it_has_credits)
{
	const struct {
		const char *name;
		struct rdma_frame h;
	} sent[] = { { "whole", FRAME(RDMA_MSG, 0, 0) },
		     { "in pieces", FRAME(RDMA_MSG, 1, XPORT_MSG_MAX - 1) } };
	struct ends e;

	for (size_t k = 0; k < sizeof(sent) / sizeof(sent[0]); k++) {
		struct rdma_frame h = sent[k].h;
		uint8_t raw[sizeof(h) + 1] = { 0 };
		struct xr_link *a, *b;
		uint64_t end;
		int gone;

		ends_start(&e, "");
		a = ends_inside(&e.a);
		b = ends_inside(&e.b);
		for (unsigned i = 0; i <= RDMA_CREDITS; i++) {
			memcpy(raw, &h, sizeof(h));
			await_slot(b);
			send_raw(b, raw, sizeof(h) + le32toh(h.len));
			h.left = htole32(le32toh(h.left) - le32toh(h.len));
		}
		end = now_us() + WAIT_US;
		pthread_mutex_lock(&a->lock);
		while (!(gone = atomic_load(&a->gone)) && xr_wait(a, end))
			;
		pthread_mutex_unlock(&a->lock);
		cr_assert_eq(gone, -EPROTO, "%s: %d: %s", sent[k].name, gone, fail_text(&e.a.fail));
		ends_says(&e.a.fail, "more than it was given buffers for");
		ends_stop(&e);
	}
}

/* ---- keys ---- */

static void offer(struct xend *x, uint32_t access, unsigned chunk, const struct rdma_key *k, uint32_t n,
		  uint32_t says)
{
	struct rdma_keys h = { .access = htole32(access),
			       .nregions = htole32(says),
			       .chunk_shift = htole32(chunk) };
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)k, n * sizeof(*k) } };

	cr_assert_eq(xr_send_message(ends_inside(x), RDMA_KEYS, iov, 2), 0);
}

static struct rdma_key key_of(struct xend *x, uint32_t rkey)
{
	return (struct rdma_key){ .id = htole32(7),
				  .page_shift = htole32(12),
				  .npages = htole64(PAGES),
				  .addr = htole64((uintptr_t)x->ram),
				  .rkey = htole32(rkey),
				  .flags = htole32(1) };
}

static uint32_t rkey_of(struct xend *x)
{
	struct xr_link *l = ends_inside(x);
	size_t i;

	for (i = 0; i < l->nmr; i++)
		if (l->mr[i].base == x->ram)
			return l->mr[i].mr->rkey;
	cr_assert(false, "the region is not registered");
	return 0;
}

/* The keys' message has been taken. */
static void await_keys(struct xend *x, uint64_t seq)
{
	struct xr_link *l = ends_inside(x);
	uint64_t end = now_us() + WAIT_US;
	bool there = false;

	pthread_mutex_lock(&l->lock);
	while (!(there = l->keys.seq >= seq) && xr_wait(l, end))
		;
	pthread_mutex_unlock(&l->lock);
	cr_assert(there, "%s", fail_text(&x->fail));
}

static int put_and_fence(struct xend *x, uint64_t page, uint32_t npages)
{
	struct page_run run = { .region = REGION, .page = page, .npages = npages };
	int err = x->data->ops->put(x->data, &run, 1);

	return err ? err : x->data->ops->fence(x->data);
}

Test(peer, keys_that_are_none)
{
	struct rdma_key k = { .id = htole32(1), .page_shift = htole32(12), .npages = htole64(1) };
	struct rdma_key vast = { .id = htole32(1),
				 .page_shift = htole32(12),
				 .npages = htole64(UINT64_C(1) << 60) };
	struct ends e;

	ends_start(&e, "");
	offer(&e.b, XPORT_PEER_WRITE, 0, &k, 1, 2); /* says two, has one */
	broken_at_a(&e, "say 2 regions");
	ends_stop(&e);
	ends_start(&e, "");
	offer(&e.b, 8, 0, &k, 1, 1);
	broken_at_a(&e, "access 8");
	ends_stop(&e);
	ends_start(&e, "");
	offer(&e.b, XPORT_PEER_WRITE, 12, &k, 1, 1);
	broken_at_a(&e, "chunks of 1 << 12");
	ends_stop(&e);
	ends_start(&e, "");
	offer(&e.b, XPORT_PEER_WRITE, 0, &vast, 1, 1);
	broken_at_a(&e, "a size that no memory has");
	ends_stop(&e);
	k.page_shift = htole32(21);
	ends_start(&e, "");
	offer(&e.b, XPORT_PEER_WRITE, 0, &k, 1, 1);
	broken_at_a(&e, "pages of 1 << 21 bytes");
	ends_stop(&e);
}

/* What the map has and the peer's keys have not, or not so: refused before anything is posted. */
Test(peer, keys_outside_the_map)
{
	static const char *const says[] = { "the peer's region number 0 is 4711, here it is 7",
					    "does not expose", "does not expose for it" };
	struct ends e;
	unsigned i;

	for (i = 0; i < 3; i++) {
		struct rdma_key k;
		int err;

		ends_start(&e, "");
		cr_assert_eq(ends_expose(&e.a, XPORT_LOCAL), 0, "%s", fail_text(&e.a.fail));
		cr_assert_eq(ends_expose(&e.b, XPORT_PEER_WRITE), 0, "%s", fail_text(&e.b.fail));
		await_keys(&e.a, 1);
		k = key_of(&e.b, rkey_of(&e.b));
		k.id = htole32(i == 0 ? 4711 : 7);
		k.npages = htole64(i == 1 ? PAGES - 1 : PAGES);
		offer(&e.b, i == 2 ? XPORT_PEER_READ : XPORT_PEER_WRITE, 0, &k, 1, 1);
		await_keys(&e.a, 2);
		err = put_and_fence(&e.a, PAGES - 1, 1);
		cr_expect_eq(err, -EPROTO, "%u: %d: %s", i, err, fail_text(&e.a.fail));
		ends_says(&e.a.fail, says[i]);
		ends_stop(&e);
	}
}

/* The device itself refuses, and the peer is alive: it has lied. */
Test(peer, keys_that_are_stale_or_for_other_memory)
{
	struct ends e;
	unsigned i;

	for (i = 0; i < 3; i++) {
		struct xr_link *l;
		struct rdma_key k;
		int err;

		ends_start(&e, "");
		cr_assert_eq(ends_expose(&e.a, XPORT_LOCAL), 0, "%s", fail_text(&e.a.fail));
		cr_assert_eq(ends_expose(&e.b, i == 2 ? XPORT_PEER_READ : XPORT_PEER_WRITE), 0, "%s",
			     fail_text(&e.b.fail));
		await_keys(&e.a, 1);
		l = ends_inside(&e.b);
		k = key_of(&e.b, rkey_of(&e.b));
		if (i == 0) /* taken back, and not told */
			while (l->nmr)
				ibv_dereg_mr(l->mr[--l->nmr].mr);
		if (i == 1)
			k.addr = htole64((uintptr_t)e.b.ram + (1 << 20));
		offer(&e.b, XPORT_PEER_WRITE, 0, &k, 1, 1);
		await_keys(&e.a, 2);
		err = put_and_fence(&e.a, PAGES - 1, 1);
		cr_expect_eq(err, -EPROTO, "%u: %d: %s", i, err, fail_text(&e.a.fail));
		ends_says(&e.a.fail, "refuses the memory key that the peer gave");
		ends_stop(&e);
	}
}

/* pin=lazy: chunks that are not exposed are not pinned for anybody. */
Test(peer, a_pin_outside_what_is_exposed)
{
	static const struct {
		uint32_t region;
		uint64_t chunk;
		int err;
	} bad[] = { { 4711, 0, EACCES },
		    { REGION, 1, ERANGE },
		    { REGION, UINT64_MAX, ERANGE },
		    { REGION, 1ull << 40, ERANGE } };
	struct xr_link *b;
	struct ends e;
	size_t i;

	ends_start(&e, "?pin=lazy");
	cr_assert_eq(ends_expose(&e.a, XPORT_PEER_WRITE), 0, "%s", fail_text(&e.a.fail));
	b = ends_inside(&e.b);
	await_keys(&e.b, 1);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct rdma_pin p = { .region = htole32(bad[i].region), .chunk = htole64(bad[i].chunk) };
		uint64_t end = now_us() + WAIT_US;

		pthread_mutex_lock(&b->lock);
		b->pins[0].asked = true;
		b->pins[0].answered = false;
		cr_assert_eq(xr_send_small(b, RDMA_PIN, &p, sizeof(p)), 0);
		while (!b->pins[0].answered && xr_wait(b, end))
			;
		p = b->pins[0].pin;
		cr_assert(b->pins[0].answered);
		pthread_mutex_unlock(&b->lock);
		cr_expect_eq(le32toh(p.status), (uint32_t)bad[i].err, "%zu: %u", i, le32toh(p.status));
		cr_expect_eq(p.rkey, 0);
	}
	ends_stop(&e);
}
