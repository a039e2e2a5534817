// SPDX-License-Identifier: MIT
/*
 * HELLO and its answer, the first words on each link: who speaks, which migration it is, and, on a link that came back,
 * how far the target has got. Every field that the peer names is checked here.
 *
 * On a link that came back nothing is believed before the peer has shown the number of the first handshake. The source shows
 * its own first, and never the target's: who took the target's address learns nothing with which it could answer. What a
 * source hears before that number is not its target's, whatever it is, and leaves nothing but s->stranger.
 */
#include <errno.h>
#include <inttypes.h>

#include "runtime/session/config.h"
#include "hello.h"
#include "link.h"
#include "runtime/source/source.h"

static int check_duration(struct ferry_session *s, const char *what, uint64_t us, uint64_t min)
{
	if (us >= min && us <= CONFIG_TIME_US_MAX)
		return 0;
	return fail(&s->fail, -EPROTO, "the peer's %s is %" PRIu64 " us, which is out of range: %" PRIu64 " to %" PRIu64, what,
		    us, min, CONFIG_TIME_US_MAX);
}

/*
 * How long this end waits for the peer depends on times that the peer names, so those are bounded by its own. Refused, not
 * cut down: an end that gave up sooner than the other believes would not be there when the other comes back.
 */
static int check_ours(struct ferry_session *s, const char *what, uint64_t theirs, uint64_t ours)
{
	const char *peer = s->is_source ? "target" : "source";

	if (theirs <= ours * CONFIG_PEER_TIMES)
		return 0;
	return fail(&s->fail, -EINVAL, "the %s's %s is %" PRIu64 " ms, more than %u times as long as this %s's, %" PRIu64 " ms; lower it there or "
		    "raise it here", peer, what, theirs / 1000, CONFIG_PEER_TIMES, s->is_source ? "source" : "target", ours / 1000);
}

/* Takes as long however much of it is right. */
static bool same_number(const uint8_t a[WIRE_NUMBER], const uint8_t b[WIRE_NUMBER])
{
	uint8_t differs = 0;

	for (unsigned i = 0; i < WIRE_NUMBER; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

/* A message that may be longer than what is known of it. Its magic and version have been looked at. */
static int take_greeting(void *ret, size_t len, const struct wire_msg *m, struct fail *f)
{
	size_t has = sizeof(struct wire_greeting) + m->nelems;

	if (has < len)
		return fail(f, -EPROTO, "the peer's %s has %zu bytes; it needs at least %zu", wire_name(m->type), has, len);
	memcpy(ret, m->body, len);
	return 0;
}

static int check_versions(struct ferry_session *s, const struct wire_msg *m)
{
	const char *name = wire_name(m->type);
	struct wire_greeting g;

	memcpy(&g, m->body, sizeof(g));
	if (g.magic != WIRE_MAGIC)
		return fail(&s->fail, -EPROTO, "the peer's %s has magic %#x; %#x was due", name, g.magic, WIRE_MAGIC);
	if (g.version != WIRE_VERSION)
		return fail(&s->fail, -EPROTONOSUPPORT,
			    "the %s speaks protocol version %u, this %s version %u; use the same version of "
			    "the library on both hosts", s->is_source ? "target" : "source", g.version,
			    s->is_source ? "source" : "target", WIRE_VERSION);
	if (g.page_shift != 12)
		return fail(&s->fail, -EOPNOTSUPP, "the %s moves pages of 1 << %u bytes, this %s of 1 << 12; use one version of "
			    "the library at both ends", s->is_source ? "target" : "source", g.page_shift,
			    s->is_source ? "source" : "target");
	return 0;
}

static int check_hello_ack(struct ferry_session *s, const struct wire_hello_ack *ack)
{
	uint64_t most = ack->commit == COMMIT_OPEN ? 0 : source_missing_max(s);
	int err;

	if (ack->generation != s->generation || ack->commit > COMMIT_ABORTED)
		return fail(&s->fail, -EPROTO, "the target's HELLO_ACK has generation %u, commit state %u; %u and at most %d were due",
			    ack->generation, ack->commit, s->generation, COMMIT_ABORTED);
	if (ack->commit != COMMIT_OPEN && ack->commit != COMMIT_ABORTED && !s->src.switched)
		return fail(&s->fail, -EPROTO, "the target's HELLO_ACK has commit state %u before the switchover", ack->commit);
	if (ack->left > most)
		return fail(&s->fail, -EPROTO, "the target's HELLO_ACK counts %" PRIu64 " pages as missing; at most %" PRIu64
			    " can be", ack->left, most);
	err = check_duration(s, "HELLO_ACK.timeout_us", ack->timeout_us, CONFIG_TIMEOUT_US_MIN);
	return err ? err : check_ours(s, "timeout_us", ack->timeout_us, s->cfg.timeout_us);
}

/* The first one makes the target known; on later links it shows that it is that one. */
static int take_ack(struct ferry_session *s, struct wire_hello_ack *ack, const struct wire_msg *m)
{
	struct fail f = { 0 };
	int err;

	if (s->peer_known && (take_greeting(ack, sizeof(*ack), m, &f) < 0 || ack->magic != WIRE_MAGIC ||
			      ack->version != WIRE_VERSION || !same_number(ack->number, s->peer_number)))
		return link_stranger(s, "its HELLO_ACK does not show that it is");
	if ((err = check_versions(s, m)) < 0 || (err = take_greeting(ack, sizeof(*ack), m, &s->fail)) < 0 ||
	    (err = check_hello_ack(s, ack)) < 0)
		return err;
	if (!s->peer_known)
		memcpy(s->peer_number, ack->number, sizeof(s->peer_number));
	s->peer_known = true;
	explicit_bzero(ack->number, sizeof(ack->number));
	return 0;
}

/* A target that has given up says why, on the link on which it said that it has. */
static int given_up(struct ferry_session *s, uint64_t deadline_us)
{
	struct wire_msg m;
	int err = link_expect_in(s, 1u << WIRE_ABORT, &m, FERRY_PRE_MIGRATION, deadline_us);

	return err == -EPIPE ? fail(&s->fail, -ECONNABORTED, "the target has given up while the link was lost") : err;
}

int hello_source(struct ferry_session *s, uint64_t deadline_us)
{
	const struct ferry_config *c = &s->cfg;
	struct wire_hello h = { .magic = WIRE_MAGIC,
				.version = WIRE_VERSION,
				.page_shift = 12,
				.generation = s->generation,
				.mode = c->mode,
				.commit_at = c->commit_at,
				.at_hold_limit = (uint16_t)c->at_hold_limit,
				.flags = s->peer_known ? WIRE_COMES_BACK : 0,
				.hold_limit_us = c->hold_limit_us,
				.timeout_us = c->timeout_us,
				.reconnect_us = c->reconnect_us,
				.bandwidth = c->bandwidth };
	struct wire_hello_ack ack;
	struct wire_msg m;
	int err;

	memcpy(h.number, s->number, sizeof(h.number));
	if (s->peer_known) {
		err = link_ask(s, WIRE_HELLO, &h, sizeof(h), WIRE_HELLO_ACK, &m, deadline_us);
	} else {
		err = link_send(s, WIRE_HELLO, &h, sizeof(h), NULL, 0);
		if (!err)
			err = link_expect_in(s, 1u << WIRE_HELLO_ACK, &m, FERRY_PRE_MIGRATION, deadline_us);
	}
	explicit_bzero(&h, sizeof(h));
	if (err < 0 || (err = take_ack(s, &ack, &m)) < 0)
		return err;
	s->peer_commit = ack.commit;
	if (ack.commit == COMMIT_ABORTED)
		return given_up(s, deadline_us);
	if (ack.commit != COMMIT_OPEN)
		s->left = ack.left;
	atomic_store(&s->peer_timeout_us, ack.timeout_us);
	return 0;
}

static int check_hello(struct ferry_session *s, const struct wire_hello *h, const struct xport_link_id *id)
{
	int err;

	if (h->generation != id->generation)
		return fail(&s->fail, -EPROTO, "the peer's HELLO is of generation %u, its connection of %u", h->generation,
			    id->generation);
	if (h->flags & ~WIRE_HELLO_FLAGS)
		return fail(&s->fail, -EPROTO, "the peer's HELLO has flags %#x; %#x are known", h->flags, WIRE_HELLO_FLAGS);
	if (h->mode > FERRY_MODE_POSTCOPY || h->commit_at > FERRY_COMMIT_AT_SWITCHOVER ||
	    h->at_hold_limit > FERRY_HOLD_COMMIT)
		return fail(&s->fail, -EPROTO,
			    "the peer's HELLO asks for mode %u, commit at %u, hold action %u: out of range", h->mode,
			    h->commit_at, h->at_hold_limit);
	if ((err = check_duration(s, "HELLO.hold_limit_us", h->hold_limit_us, 0)) < 0 ||
	    (err = check_duration(s, "HELLO.timeout_us", h->timeout_us, CONFIG_TIMEOUT_US_MIN)) < 0 ||
	    (err = check_duration(s, "HELLO.reconnect_us", h->reconnect_us, 0)) < 0 ||
	    (err = check_ours(s, "timeout_us", h->timeout_us, s->cfg.timeout_us)) < 0)
		return err;
	/* A target that does not wait for a lost link is not asked to. */
	return s->cfg.reconnect_us ? check_ours(s, "reconnect_us", h->reconnect_us, s->cfg.reconnect_us) : 0;
}

bool hello_is_source(const struct ferry_session *s, const void *msg, size_t len, uint32_t seq,
		     const struct xport_link_id *id)
{
	struct fail f = { 0 };
	struct wire_hello h;
	struct wire_msg m;
	bool is;

	is = !wire_check(&m, msg, len, FROM_SOURCE, FERRY_PRE_MIGRATION, seq, &f) && m.type == WIRE_HELLO &&
	     !take_greeting(&h, sizeof(h), &m, &f) && h.magic == WIRE_MAGIC && h.version == WIRE_VERSION &&
	     h.page_shift == 12 && h.generation == id->generation && same_number(h.number, s->peer_number);
	explicit_bzero(&h, sizeof(h));
	return is;
}

/* A source that comes back to a target which died here before this one: it is told, and this end waits for its own. */
static int refuse_stale(struct ferry_session *s)
{
	static const char text[] = "this target was started anew and knows nothing of this migration";
	struct wire_abort a = { .err = -ESTALE };
	int err = link_send(s, WIRE_REFUSED, &a, sizeof(a), text, sizeof(text) - 1);

	if (!*s->stranger)
		session_log(s, 5, "a source came back to a target that was here before this one", "stale");
	strcpy(s->stranger, text);
	return err < 0 ? err : -EPIPE;
}

static int hear_hello(struct ferry_session *s, struct wire_hello *ret, uint64_t deadline_us)
{
	struct wire_msg m;
	int err = link_expect_in(s, 1u << WIRE_HELLO, &m, FERRY_PRE_MIGRATION, deadline_us);

	if (err < 0 || (err = check_versions(s, &m)) < 0)
		return err;
	return take_greeting(ret, sizeof(*ret), &m, &s->fail);
}

static int judge_hello(struct ferry_session *s, const struct wire_hello *h)
{
	int err;

	if (!s->peer_known && h->flags & WIRE_COMES_BACK) /* whatever else it says was meant for another */
		return refuse_stale(s);
	if ((err = check_hello(s, h, &s->link->id)) < 0)
		return err;
	if (s->peer_known && s->link->id.channels != s->channels)
		return fail(&s->fail, -EPROTO, "the source came back with %u data channels; it had %u",
			    s->link->id.channels, s->channels);
	return 0;
}

int hello_target(struct ferry_session *s, uint64_t deadline_us)
{
	struct wire_hello_ack ack = { .magic = WIRE_MAGIC,
				      .version = WIRE_VERSION,
				      .page_shift = 12,
				      .generation = s->link->id.generation,
				      .commit = commit_get(&s->commit),
				      .left = s->left,
				      .timeout_us = s->cfg.timeout_us };
	struct wire_hello h;
	int err = hear_hello(s, &h, deadline_us);

	if (!err)
		err = judge_hello(s, &h);
	if (err < 0) {
		explicit_bzero(&h, sizeof(h));
		return err;
	}
	s->channels = s->link->id.channels;
	s->generation = h.generation;
	s->tgt.hello = h;
	memcpy(s->session, s->link->id.session, sizeof(s->session));
	memcpy(s->peer_number, h.number, sizeof(s->peer_number));
	atomic_store(&s->peer_timeout_us, h.timeout_us);
	memcpy(ack.number, s->number, sizeof(ack.number));
	err = link_send(s, WIRE_HELLO_ACK, &ack, sizeof(ack), NULL, 0);
	explicit_bzero(&ack, sizeof(ack));
	explicit_bzero(&h, sizeof(h));
	s->peer_known = !err || s->peer_known;
	return err;
}
