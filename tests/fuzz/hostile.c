// SPDX-License-Identifier: MIT
/* A hostile peer: the set-up, the steps, and the messages that it sends and receives. */
#include "hostile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/link/link.h"

#define MOST_US 1000000u

#define RAM_PAGES 256u
#define BODY_MAX (XPORT_MSG_MAX - sizeof(struct wire_hdr))

struct hostile_pace hostile_pace = { 15000, 250000, 50000, 20000 };
void (*hostile_tap)(const void *msg, size_t len, bool from_source, enum ferry_phase phase);

void hostile_up(struct hostile *h, bool is_source, const struct play *play)
{
	*h = (struct hostile){ .is_source = is_source, .play = *play, .length = -1 };
	h->param = (struct xport_param){ .timeout_us = hostile_pace.timeout_us };
	h->deadline_us = now_us() + hostile_pace.patience_us;
	fuzz_mem_new(&h->ram, RAM_PAGES * FUZZ_PAGE, false);
	for (unsigned i = 0; i < RAM_PAGES; i++)
		fuzz_fill(h->ram.at + i * FUZZ_PAGE, 77, i);
	stream_init(&h->state);
}

void hostile_down(struct hostile *h)
{
	hostile_drop(h);
	stream_destroy(&h->state);
	fuzz_mem_free(&h->ram);
}

void hostile_drop(struct hostile *h)
{
	if (h->link) {
		h->link->ops->kill(h->link);
		h->link->ops->close(h->link);
	}
	h->link = NULL;
	h->ctl = NULL;
	h->over = false;
}

void *hostile_session(void *arg)
{
	struct hostile *h = arg;

	h->res.size = sizeof(h->res);
	ferry_run(h->session, &h->res);
	return NULL;
}

void hostile_config(const struct hostile *h, struct ferry_config *c)
{
	unsigned f = h->play.flags;

	*c = (struct ferry_config){ FERRY_CONFIG_INIT,
				    .mode = h->play.mode % 3,
				    .commit_at = f & PLAY_SWITCHOVER ? FERRY_COMMIT_AT_SWITCHOVER : 0,
				    .at_hold_limit = f & PLAY_EARLY ? FERRY_HOLD_COMMIT : FERRY_HOLD_FALLBACK,
				    .channels = f & PLAY_TWO ? 2 : 1,
				    .max_rounds = 5,
				    .flags = f & PLAY_RECONNECT ? 0 : FERRY_CONFIG_NO_RECONNECT,
				    .hold_limit_us = f & PLAY_LIMIT ? 5000 : 0,
				    .connect_us = hostile_pace.timeout_us,
				    .reconnect_us = hostile_pace.reconnect_us,
				    .timeout_us = hostile_pace.timeout_us };
}

static enum ferry_phase phase_of(struct hostile *h)
{
	struct ferry_stats st = { .size = sizeof(st) };

	ferry_get_stats(h->session, &st);
	return st.phase;
}

unsigned hostile_hear(struct hostile *h)
{
	uint64_t end = now_us() + hostile_pace.turn_us, now;

	if (end > h->deadline_us)
		end = h->deadline_us;
	while (h->ctl && (now = now_us()) < end) {
		unsigned t;

		if (h->ctl->ops->recv(h->ctl, h->msg, sizeof(h->msg), &h->heard_len, end - now))
			return 0;
		promise(h->heard_len >= sizeof(struct wire_hdr), "the session sent %zu bytes", h->heard_len);
		if (hostile_tap)
			hostile_tap(h->msg, h->heard_len, !h->is_source, FERRY_PHASE_IDLE);
		t = wire_type_of(h->msg, h->heard_len);
		h->over |= t == WIRE_REFUSED || t == WIRE_ABORT;
		if (t != WIRE_PING)
			return t;
	}
	return 0;
}

bool hostile_hear_until(struct hostile *h, uint32_t mask)
{
	unsigned t;

	while ((t = hostile_hear(h))) {
		if (mask & (1u << t))
			return true;
		if (h->over)
			break; /* no other message will come */
	}
	return false;
}

static void note_said(struct hostile *h, const uint8_t *msg, size_t len)
{
	unsigned t = wire_type_of(msg, len);
	struct wire_hello_ack ack;

	if (!t || t >= WIRE_TYPES)
		return;
	h->said[t]++;
	if (t == WIRE_HELLO_ACK && len >= sizeof(struct wire_hdr) + sizeof(ack)) {
		memcpy(&ack, msg + sizeof(struct wire_hdr), sizeof(ack));
		if (ack.commit > h->said_commit)
			h->said_commit = ack.commit;
	}
	if (t == WIRE_STATE)
		stream_append(&h->state, msg + sizeof(struct wire_hdr), len - sizeof(struct wire_hdr));
	if (t == WIRE_MAP)
		h->state.len = 0;
}

static void patch(const struct patch *p, uint8_t *to, size_t len)
{
	size_t width = (size_t)1 << p->width % 4;

	if (len < width)
		return;
	memcpy(to + p->at % (len - width + 1), &p->v, width);
}

/*
 * The source's HELLO says how long the target waits for a lost link. Durations that the protocol allows are
 * shortened, so that an execution ends.
 */
static void impatient(uint8_t *body, size_t len)
{
	const uint64_t day = UINT64_C(86400000000);
	struct wire_hello w;

	if (len < sizeof(w))
		return;
	memcpy(&w, body, sizeof(w));
	if (w.reconnect_us <= day && w.reconnect_us > MOST_US)
		w.reconnect_us = MOST_US;
	if (w.timeout_us <= day && w.timeout_us > MOST_US)
		w.timeout_us = MOST_US;
	memcpy(body, &w, sizeof(w));
}

void hostile_say(struct hostile *h, enum wire_type t, const void *body, size_t len)
{
	uint8_t *msg = calloc(1, XPORT_MSG_MAX), *b = msg + sizeof(struct wire_hdr);
	struct wire_hdr hdr;
	struct iovec iov;
	unsigned kept = 0;

	if (len)
		memcpy(b, body, len);
	if (h->length >= 0)
		len = (size_t)h->length % (BODY_MAX + 1);
	hdr = wire_header(t, len, h->seq++);
	for (unsigned i = 0; i < h->npatches; i++) {
		const struct patch *p = &h->patch[i];

		if (p->type && p->type != t)
			h->patch[kept++] = *p;
		else
			patch(p, p->header ? (uint8_t *)&hdr : b, p->header ? sizeof(hdr) : len);
	}
	h->npatches = kept;
	h->length = -1;
	if (hdr.type == WIRE_HELLO)
		impatient(b, len);
	memcpy(msg, &hdr, sizeof(hdr));
	iov = (struct iovec){ msg, sizeof(hdr) + len };
	if (h->ctl) {
		if (hostile_tap)
			hostile_tap(msg, iov.iov_len, h->is_source, phase_of(h));
		note_said(h, msg, iov.iov_len); /* before the session can receive it */
		h->ctl->ops->send(h->ctl, &iov, 1);
	}
	free(msg);
}

/* Three regions (the session has two), all longer than there, and all the same memory. */
void hostile_expose(struct hostile *h, enum xport_access access)
{
	struct xport_region r[3] = { { .id = VM_ID0 }, { .id = VM_ID1 }, { .id = 99 } };

	for (unsigned i = 0; i < 3; i++) {
		r[i].npages = RAM_PAGES;
		r[i].base = h->ram.at;
	}
	if (h->link)
		h->link->ops->expose(h->link, r, 3, access);
	if (h->link)
		h->link->ops->lend(h->link, &(struct iovec){ h->ram.at, h->ram.len }, 1);
}

void hostile_end_puts(struct hostile *h)
{
	for (unsigned i = 0; h->link && i < h->link->id.channels; i++) {
		struct xport_chan *c = h->link->ops->chan(h->link, XPORT_DATA, i);

		c->ops->end(c);
	}
}

static struct page_run run_of(const struct play_step *s)
{
	static const uint32_t regions[4] = { 0, 1, 2, 99 };

	return (struct page_run){ .region = regions[s->type % 4], .page = s->v, .npages = s->n };
}

static void put(struct xport_chan *c, const struct play_step *s)
{
	struct page_run run = run_of(s);

	c->ops->put(c, &run, 1);
}

struct taken {
	struct hostile *h;
	struct xport_chan *c;
	struct page_run run;
	int err;
};

static void get_now(void *arg)
{
	struct taken *t = arg;
	void *dst = t->h->ram.at;
	uint32_t tag[XPORT_GETS_MAX];

	t->err = t->c->ops->get(t->c, &t->run, &dst, 1, 0);
	if (t->err)
		return;
	t->c->ops->reap(t->c, tag, XPORT_GETS_MAX, 0);
	promise(t->run.npages && t->run.npages <= VM_PAGES, "%u pages came in one get", t->run.npages);
	for (uint32_t i = 0; i < t->run.npages; i++) {
		const uint8_t *page = vm_shadow(&t->h->vm, t->run.region, t->run.page + i);

		promise(page, "page %llu of region %u came and is not in the map",
			(unsigned long long)(t->run.page + i), t->run.region);
		promise(!memcmp(page, t->h->ram.at + i * FUZZ_PAGE, FUZZ_PAGE),
			"page %llu of region %u came and is another", (unsigned long long)(t->run.page + i),
			t->run.region);
	}
}

/* Pages of a paused source must be its memory; pages of a running one may be torn. */
static void get(struct hostile *h, struct xport_chan *c, const struct play_step *s)
{
	struct taken t = { .h = h, .c = c, .run = run_of(s) };
	void *dst = h->ram.at;
	uint32_t tag[XPORT_GETS_MAX];

	if (h->is_source) {
		promise(c->ops->get(c, &t.run, &dst, 1, 0) < 0, "a target has let its memory be read");
		return;
	}
	if (!vm_frozen(&h->vm, get_now, &t) && !c->ops->get(c, &t.run, &dst, 1, 0))
		c->ops->reap(c, tag, XPORT_GETS_MAX, 0);
}

static void step_data(struct hostile *h, const struct play_step *s)
{
	struct xport_chan *c;

	if (!h->link)
		return;
	c = h->link->ops->chan(h->link, XPORT_DATA, s->at % h->link->id.channels);
	switch (s->op % STEP_OPS) {
	case STEP_PUT:
		put(c, s);
		break;
	case STEP_GET:
		get(h, c, s);
		break;
	case STEP_FENCE:
		c->ops->fence(c);
		break;
	case STEP_END:
		hostile_end_puts(h);
		break;
	case STEP_EXPOSE:
		hostile_expose(h, s->type % 4);
		break;
	}
}

static void say_step(struct hostile *h, const struct hostile_role *role, enum wire_type t)
{
	uint8_t *body = calloc(1, BODY_MAX);
	size_t len = role->body(h, t, body);

	hostile_say(h, t, body, len);
	free(body);
}

/* After REFUSED or ABORT close the link instead. */
static void turn(struct hostile *h, const struct hostile_role *role)
{
	if (!h->over)
		role->turn(h);
	else if (h->link)
		h->link->ops->kill(h->link);
}

static void one_step(struct hostile *h, const struct hostile_role *role, const struct play_step *s)
{
	switch (s->op % STEP_OPS) {
	case STEP_DECENT:
		turn(h, role);
		break;
	case STEP_SAY:
		say_step(h, role, (enum wire_type)(1 + s->type % (WIRE_TYPES - 1)));
		break;
	case STEP_PATCH:
	case STEP_PATCH_HDR:
		if (h->npatches < PATCHES_MAX)
			h->patch[h->npatches++] = (struct patch){
				.header = s->op % STEP_OPS == STEP_PATCH_HDR,
				.type = s->type % WIRE_TYPES,
				.at = s->at,
				.width = s->width,
				.v = s->v,
			};
		break;
	case STEP_LENGTH:
		h->length = s->n;
		break;
	case STEP_HEAR:
		hostile_hear_until(h, 1u << (1 + s->type % (WIRE_TYPES - 1)));
		break;
	case STEP_KILL:
		if (h->link)
			h->link->ops->kill(h->link);
		break;
	case STEP_CONNECT:
		role->connect(h, s->type, s->at % 2);
		break;
	case STEP_CANCEL:
		ferry_cancel(h->session);
		break;
	case STEP_SWITCHOVER:
		ferry_switchover(h->session);
		break;
	case STEP_PING:
		hostile_say(h, WIRE_PING, &(struct wire_ping){ s->v, s->n }, sizeof(struct wire_ping));
		break;
	default:
		step_data(h, s);
		break;
	}
}

void hostile_play(struct hostile *h, const struct hostile_role *role, struct fuzz_in *in)
{
	struct play_step s;

	role->connect(h, 0, false);
	for (unsigned i = 0; i < h->play.turns % PLAY_STEPS_MAX && now_us() < h->deadline_us; i++)
		turn(h, role);
	for (unsigned i = 0; i < PLAY_STEPS_MAX && in->left && now_us() < h->deadline_us; i++) {
		fuzz_take(in, &s, sizeof(s));
		one_step(h, role, &s);
	}
}
