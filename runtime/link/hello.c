// SPDX-License-Identifier: MIT
/* Checks of HELLO and HELLO_ACK: every field that the peer sets. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "hello.h"
#include "runtime/session/config.h"
#include "runtime/session/missing.h"

#define VERSIONS_MAX 32u

static int check_duration(struct ferry_session *s, const char *what, uint64_t us, uint64_t min)
{
	if (us >= min && us <= DURATION_US_MAX)
		return 0;
	return fail(&s->fail, -EPROTO,
		    "the peer's %s is %" PRIu64 " us, which is out of range: %" PRIu64 " to %" PRIu64, what,
		    us, min, DURATION_US_MAX);
}

/*
 * How long this end waits for the peer depends on times that the peer sends, so they are bounded by multiples
 * of its own. A larger time is refused, not cut down: an end that gave up sooner than the peer believes would
 * be gone when the peer comes back.
 */
static int check_ours(struct ferry_session *s, const char *what, uint64_t theirs, uint64_t ours)
{
	const char *peer = s->is_source ? "target" : "source";

	if (theirs <= ours * CONFIG_PEER_TIMES)
		return 0;
	return fail(&s->fail, -EINVAL,
		    "the %s's %s is %" PRIu64 " ms, more than %u times as long as this %s's, %" PRIu64
		    " ms; lower it there or "
		    "raise it here",
		    peer, what, theirs / 1000, CONFIG_PEER_TIMES, s->is_source ? "source" : "target",
		    ours / 1000);
}

bool hello_same_number(const uint8_t a[WIRE_NUMBER], const uint8_t b[WIRE_NUMBER])
{
	uint8_t differs = 0;

	for (unsigned i = 0; i < WIRE_NUMBER; i++)
		differs |= a[i] ^ b[i];
	return !differs;
}

int hello_take(void *ret, size_t len, size_t least, const struct wire_msg *m, struct fail *f)
{
	size_t has = sizeof(struct wire_greeting) + m->nelems;

	if (has < least)
		return fail(f, -EPROTO, "the peer's %s has %zu bytes; it needs at least %zu",
			    wire_name(m->type), has, least);
	memset(ret, 0, len);
	memcpy(ret, m->body, has < len ? has : len);
	return 0;
}

static int check_magic(const struct wire_msg *m, struct wire_greeting *ret, struct fail *f)
{
	memcpy(ret, m->body, sizeof(*ret));
	if (ret->magic != WIRE_MAGIC)
		return fail(f, -EPROTO, "the peer's %s has magic %#x; %#x was due", wire_name(m->type),
			    ret->magic, WIRE_MAGIC);
	if (ret->oldest > ret->version || (m->type == WIRE_HELLO_ACK && ret->oldest != ret->version))
		return fail(f, -EPROTO, "the peer's %s has versions %u to %u", wire_name(m->type),
			    ret->oldest, ret->version);
	return 0;
}

/* "version 3", "versions 3 to 4" */
static const char *versions(char buf[VERSIONS_MAX], unsigned oldest, unsigned newest)
{
	if (oldest == newest)
		snprintf(buf, VERSIONS_MAX, "version %u", newest);
	else
		snprintf(buf, VERSIONS_MAX, "versions %u to %u", oldest, newest);
	return buf;
}

int hello_version(const struct wire_msg *m, uint16_t *ret, struct fail *f)
{
	bool from_target = m->type == WIRE_HELLO_ACK;
	char theirs[VERSIONS_MAX], ours[VERSIONS_MAX];
	struct wire_greeting g;
	int err = check_magic(m, &g, f);

	if (err < 0)
		return err;
	if (g.version < WIRE_VERSION_OLDEST || g.oldest > WIRE_VERSION)
		return fail(f, -EPROTONOSUPPORT,
			    "the %s speaks protocol %s, this %s %s; update the library at the %s",
			    from_target ? "target" : "source", versions(theirs, g.oldest, g.version),
			    from_target ? "source" : "target",
			    versions(ours, WIRE_VERSION_OLDEST, WIRE_VERSION),
			    (g.version < WIRE_VERSION_OLDEST) == from_target ? "target" : "source");
	*ret = g.version < WIRE_VERSION ? g.version : WIRE_VERSION;
	return 0;
}

static int check_page_shift(struct ferry_session *s, uint16_t shift)
{
	if (shift == PAGE_SHIFT)
		return 0;
	session_reason(s, FERRY_REASON_PROTOCOL);
	return fail(&s->fail, -EOPNOTSUPP,
		    "the %s moves pages of 1 << %u bytes, this %s of 1 << 12; use one version of "
		    "the library at both ends",
		    s->is_source ? "target" : "source", shift, s->is_source ? "source" : "target");
}

int hello_check_ack(struct ferry_session *s, const struct wire_hello_ack *ack)
{
	uint64_t most = ack->commit == COMMIT_OPEN ? 0 : missing_max(s);
	int err = check_page_shift(s, ack->page_shift);

	if (err < 0)
		return err;
	if (ack->features & ~WIRE_FEATURES)
		return fail(&s->fail, -EPROTO,
			    "the target's HELLO_ACK accepts features %#" PRIx64 "; %#" PRIx64 " were offered",
			    ack->features, WIRE_FEATURES);
	if (ack->generation != s->link.generation || ack->commit > COMMIT_ABORTED)
		return fail(&s->fail, -EPROTO,
			    "the target's HELLO_ACK has generation %u, commit state %u; %u and at most %d were due",
			    ack->generation, ack->commit, s->link.generation, COMMIT_ABORTED);
	if (ack->commit != COMMIT_OPEN && ack->commit != COMMIT_ABORTED && !s->src.switched)
		return fail(&s->fail, -EPROTO,
			    "the target's HELLO_ACK has commit state %u before the switchover", ack->commit);
	if (ack->left > most)
		return fail(&s->fail, -EPROTO,
			    "the target's HELLO_ACK counts %" PRIu64 " pages as missing; at most %" PRIu64
			    " can be",
			    ack->left, most);
	err = check_duration(s, "HELLO_ACK.timeout_us", ack->timeout_us, CONFIG_TIMEOUT_US_MIN);
	return err ? err : check_ours(s, "timeout_us", ack->timeout_us, s->cfg.timeout_us);
}

int hello_check(struct ferry_session *s, const struct wire_hello *h, const struct xport_link_id *id)
{
	int err = check_page_shift(s, h->page_shift);

	if (err < 0)
		return err;
	if (h->generation != id->generation)
		return fail(&s->fail, -EPROTO, "the peer's HELLO is of generation %u, its connection of %u",
			    h->generation, id->generation);
	if (h->flags & ~WIRE_HELLO_FLAGS)
		return fail(&s->fail, -EPROTO, "the peer's HELLO has flags %#x; %#x are known", h->flags,
			    WIRE_HELLO_FLAGS);
	if (h->mode > FERRY_MODE_POSTCOPY || h->commit_at > FERRY_COMMIT_AT_SWITCHOVER ||
	    h->at_hold_limit > FERRY_HOLD_COMMIT)
		return fail(&s->fail, -EPROTO,
			    "the peer's HELLO asks for mode %u, commit at %u, hold action %u: out of range",
			    h->mode, h->commit_at, h->at_hold_limit);
	if ((err = check_duration(s, "HELLO.hold_limit_us", h->hold_limit_us, 0)) < 0 ||
	    (err = check_duration(s, "HELLO.timeout_us", h->timeout_us, CONFIG_TIMEOUT_US_MIN)) < 0 ||
	    (err = check_duration(s, "HELLO.reconnect_us", h->reconnect_us, 0)) < 0 ||
	    (err = check_ours(s, "timeout_us", h->timeout_us, s->cfg.timeout_us)) < 0)
		return err;
	/* With reconnect_us 0 this target waits for no lost link, so the source's value does not matter. */
	return s->cfg.reconnect_us ? check_ours(s, "reconnect_us", h->reconnect_us, s->cfg.reconnect_us) : 0;
}

bool hello_is_source(const struct ferry_session *s, const void *msg, size_t len, uint32_t seq,
		     const struct xport_link_id *id)
{
	struct fail f = { 0 };
	struct wire_hello h;
	struct wire_msg m;
	uint16_t version;
	bool is;

	is = !wire_check(&m, msg, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, seq, &f) &&
	     m.type == WIRE_HELLO && !hello_version(&m, &version, &f) &&
	     !hello_take(&h, sizeof(h), WIRE_HELLO_LEAST, &m, &f) && h.page_shift == PAGE_SHIFT &&
	     h.generation == id->generation && hello_same_number(h.number, s->link.peer_number);
	explicit_bzero(&h, sizeof(h));
	return is;
}
