// SPDX-License-Identifier: MIT
/*
 * HELLO and its answer, the first words on each link: who speaks, which migration it is, and, on a link that came back,
 * how far the target has got. Every field that the peer names is checked here.
 */
#include <errno.h>
#include <inttypes.h>

#include "config.h"
#include "hello.h"
#include "link.h"
#include "source.h"

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

static int check_hello_ack(struct ferry_session *s, const struct wire_hello_ack *ack)
{
	uint64_t most = ack->commit == COMMIT_OPEN ? 0 : source_missing_max(s);
	int err;

	if (ack->magic != WIRE_MAGIC)
		return fail(&s->fail, -EPROTO, "the peer's HELLO_ACK has magic %#x; %#x was due", ack->magic, WIRE_MAGIC);
	if (ack->version != WIRE_VERSION || ack->page_shift != 12 || ack->generation != s->generation ||
	    ack->commit > COMMIT_ABORTED)
		return fail(&s->fail, -EPROTO,
			    "the target's HELLO_ACK has version %u, page shift %u, generation %u, commit state %u; "
			    "%u, 12, %u and at most %d were due",
			    ack->version, ack->page_shift, ack->generation, ack->commit, WIRE_VERSION, s->generation,
			    COMMIT_ABORTED);
	if (ack->commit != COMMIT_OPEN && ack->commit != COMMIT_ABORTED && !s->src.switched)
		return fail(&s->fail, -EPROTO, "the target's HELLO_ACK has commit state %u before the switchover", ack->commit);
	if (ack->left > most)
		return fail(&s->fail, -EPROTO, "the target's HELLO_ACK counts %" PRIu64 " pages as missing; at most %" PRIu64
			    " can be", ack->left, most);
	err = check_duration(s, "HELLO_ACK.timeout_us", ack->timeout_us, CONFIG_TIMEOUT_US_MIN);
	return err ? err : check_ours(s, "timeout_us", ack->timeout_us, s->cfg.timeout_us);
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
				.at_hold_limit = c->at_hold_limit,
				.hold_limit_us = c->hold_limit_us,
				.timeout_us = c->timeout_us,
				.reconnect_us = c->reconnect_us,
				.bandwidth = c->bandwidth };
	struct wire_hello_ack ack;
	struct wire_msg m;
	int err;

	memcpy(h.session, s->session, sizeof(h.session));
	err = link_send(s, WIRE_HELLO, &h, sizeof(h), NULL, 0);
	if (!err)
		err = link_expect_in(s, 1u << WIRE_HELLO_ACK, &m, FERRY_PRE_MIGRATION, deadline_us);
	if (err < 0)
		return err;
	memcpy(&ack, m.body, sizeof(ack));
	if ((err = check_hello_ack(s, &ack)) < 0)
		return err;
	s->peer_commit = ack.commit;
	s->peer_known = true;
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

	if (h->magic != WIRE_MAGIC)
		return fail(&s->fail, -EPROTO, "the peer's HELLO has magic %#x; %#x was due", h->magic, WIRE_MAGIC);
	if (h->version != WIRE_VERSION)
		return fail(&s->fail, -EPROTONOSUPPORT,
			    "the source speaks protocol version %u, this target version %u; use the same libferry.so "
			    "major version on both hosts",
			    h->version, WIRE_VERSION);
	if (h->page_shift != 12)
		return fail(&s->fail, -EOPNOTSUPP, "the source moves pages of 1 << %u bytes, this target of 1 << 12; use one version of the "
			    "library at both ends",
			    h->page_shift);
	if (memcmp(h->session, id->session, sizeof(h->session)) || h->generation != id->generation)
		return fail(&s->fail, -EPROTO, "the peer's HELLO is for another session than its connection");
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
	struct wire_msg m;
	int err = link_expect_in(s, 1u << WIRE_HELLO, &m, FERRY_PRE_MIGRATION, deadline_us);

	if (err < 0)
		return err;
	memcpy(&h, m.body, sizeof(h));
	if ((err = check_hello(s, &h, &s->link->id)) < 0)
		return err;
	if (s->channels && s->link->id.channels != s->channels)
		return fail(&s->fail, -EPROTO, "the source came back with %u data channels; it had %u",
			    s->link->id.channels, s->channels);
	s->channels = s->link->id.channels;
	s->generation = h.generation;
	s->tgt.hello = h;
	memcpy(s->session, h.session, sizeof(s->session));
	atomic_store(&s->peer_timeout_us, h.timeout_us);
	return link_send(s, WIRE_HELLO_ACK, &ack, sizeof(ack), NULL, 0);
}
