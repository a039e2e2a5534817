// SPDX-License-Identifier: MIT
/*
 * The handshake on each link, HELLO and HELLO_ACK: who speaks, which migration it is and, after a reconnect,
 * how far the target has got.
 *
 * After a reconnect an end believes nothing until the peer has shown its number from the first handshake. The
 * source shows its own number first. It never sends the target's: a program that has taken the target's
 * address must not learn the number that it would have to answer with. Until that number arrives, whatever
 * the source hears comes from a stranger and changes nothing but s->link.stranger.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "handshake.h"
#include "hello.h"
#include "message.h"

/* The first link's version and features hold for the session: a reconnect must not change them. */
static int agree(struct ferry_session *s, uint16_t version, uint64_t features)
{
	if (s->link.peer_known && (version != s->link.version || features != s->link.features))
		return fail(&s->fail, -EPROTO,
			    "the %s came back with protocol version %u, features %#" PRIx64
			    "; it had version %u, %#" PRIx64,
			    s->is_source ? "target" : "source", version, features, s->link.version,
			    s->link.features);
	s->link.version = version;
	s->link.features = features;
	return 0;
}

/* The first HELLO_ACK brings the target's number; each later one must show the same number. */
static int take_ack(struct ferry_session *s, struct wire_hello_ack *ack, const struct wire_msg *m)
{
	struct fail none = { 0 }, *f = s->link.peer_known ? &none : &s->fail;
	uint16_t version = 0;
	int err = hello_version(m, &version, f);

	if (!err)
		err = hello_take(ack, sizeof(*ack), WIRE_HELLO_ACK_LEAST, m, f);
	if (s->link.peer_known && (err < 0 || !hello_same_number(ack->number, s->link.peer_number)))
		return link_stranger(s, "its HELLO_ACK does not show that it is");
	if (err < 0 || (err = hello_check_ack(s, ack)) < 0 || (err = agree(s, version, ack->features)) < 0)
		return err;
	if (!s->link.peer_known)
		memcpy(s->link.peer_number, ack->number, sizeof(s->link.peer_number));
	s->link.peer_known = true;
	return 0;
}

/* HELLO_ACK said aborted: the target now sends ABORT on this link, with the reason. */
static int given_up(struct ferry_session *s, uint64_t deadline_us)
{
	struct wire_msg m;
	int err = link_expect_in(s, 1u << WIRE_ABORT, &m, FERRY_PHASE_PRE_MIGRATION, deadline_us);

	if (err != -EPIPE)
		return err;
	session_reason(s, FERRY_REASON_PEER);
	return fail(&s->fail, -ECONNABORTED, "the target has given up while the link was lost");
}

int handshake_source(struct ferry_session *s, uint64_t deadline_us)
{
	const struct ferry_config *c = &s->cfg;
	struct wire_hello h = { .magic = WIRE_MAGIC,
				.version = WIRE_VERSION,
				.oldest = WIRE_VERSION_OLDEST,
				.features = WIRE_FEATURES,
				.generation = s->link.generation,
				.page_shift = PAGE_SHIFT,
				.mode = (uint16_t)c->mode,
				.commit_at = c->commit_at,
				.at_hold_limit = (uint16_t)c->at_hold_limit,
				.flags = s->link.peer_known ? WIRE_COMES_BACK : 0,
				.hold_limit_us = c->hold_limit_us,
				.timeout_us = c->timeout_us,
				.reconnect_us = c->reconnect_us,
				.bandwidth = c->bandwidth };
	struct wire_hello_ack ack = { 0 };
	struct wire_msg m;
	int err;

	memcpy(h.number, s->link.number, sizeof(h.number));
	if (s->link.peer_known) {
		err = link_ask(s, WIRE_HELLO, &h, sizeof(h), WIRE_HELLO_ACK, &m, deadline_us);
	} else {
		err = link_send(s, WIRE_HELLO, &h, sizeof(h), NULL, 0);
		if (!err)
			err = link_expect_in(s, 1u << WIRE_HELLO_ACK, &m, FERRY_PHASE_PRE_MIGRATION,
					     deadline_us);
	}
	explicit_bzero(&h, sizeof(h));
	if (!err)
		err = take_ack(s, &ack, &m);
	explicit_bzero(ack.number, sizeof(ack.number));
	if (err < 0)
		return err;
	s->link.peer_commit = ack.commit;
	if (ack.commit == COMMIT_ABORTED)
		return given_up(s, deadline_us);
	if (ack.commit != COMMIT_OPEN)
		s->residue = ack.left;
	atomic_store(&s->link.peer_timeout_us, ack.timeout_us);
	return 0;
}

/* A source reconnects, but to an earlier target at this address: tell it, and keep waiting for our own. */
static int refuse_stale(struct ferry_session *s)
{
	static const char text[] = "this target was started anew and knows nothing of this migration";
	struct wire_abort a = { .err = -ESTALE };
	int err = link_send(s, WIRE_REFUSED, &a, sizeof(a), text, sizeof(text) - 1);

	if (!*s->link.stranger)
		session_log(s, 5, "a source came back to a target that was here before this one", "stale");
	strcpy(s->link.stranger, text);
	return err < 0 ? err : -EPIPE;
}

static int hear_hello(struct ferry_session *s, struct wire_hello *ret, uint16_t *version,
		      uint64_t deadline_us)
{
	struct wire_msg m;
	int err = link_expect_in(s, 1u << WIRE_HELLO, &m, FERRY_PHASE_PRE_MIGRATION, deadline_us);

	if (err < 0 || (err = hello_version(&m, version, &s->fail)) < 0)
		return err;
	return hello_take(ret, sizeof(*ret), WIRE_HELLO_LEAST, &m, &s->fail);
}

static int judge_hello(struct ferry_session *s, const struct wire_hello *h, uint16_t version)
{
	int err;

	/* First: the other fields were meant for another target and must not be judged. */
	if (!s->link.peer_known && h->flags & WIRE_COMES_BACK)
		return refuse_stale(s);
	if ((err = hello_check(s, h, &s->link.x->id)) < 0)
		return err;
	if (s->link.peer_known && s->link.x->id.channels != s->link.channels)
		return fail(&s->fail, -EPROTO, "the source came back with %u data channels; it had %u",
			    s->link.x->id.channels, s->link.channels);
	return agree(s, version, h->features & WIRE_FEATURES);
}

int handshake_target(struct ferry_session *s, uint64_t deadline_us)
{
	struct wire_hello_ack ack = { .magic = WIRE_MAGIC,
				      .generation = s->link.x->id.generation,
				      .page_shift = PAGE_SHIFT,
				      .commit = (uint16_t)commit_get(&s->commit),
				      .left = s->residue,
				      .timeout_us = s->cfg.timeout_us };
	struct wire_hello h;
	uint16_t version;
	int err = hear_hello(s, &h, &version, deadline_us);

	if (!err)
		err = judge_hello(s, &h, version);
	if (err < 0) {
		explicit_bzero(&h, sizeof(h));
		return err;
	}
	s->link.channels = s->link.x->id.channels;
	s->link.generation = h.generation;
	s->tgt.hello = h;
	memcpy(s->session, s->link.x->id.session, sizeof(s->session));
	memcpy(s->link.peer_number, h.number, sizeof(s->link.peer_number));
	atomic_store(&s->link.peer_timeout_us, h.timeout_us);
	ack.version = ack.oldest = s->link.version;
	ack.features = s->link.features;
	memcpy(ack.number, s->link.number, sizeof(ack.number));
	err = link_send(s, WIRE_HELLO_ACK, &ack, sizeof(ack), NULL, 0);
	explicit_bzero(&ack, sizeof(ack));
	explicit_bzero(&h, sizeof(h));
	s->link.peer_known = !err || s->link.peer_known;
	return err;
}
