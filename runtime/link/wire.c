// SPDX-License-Identifier: MIT
/* The check of every message that arrives on the control channel. */
#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "wire.h"
#include "runtime/base/fail.h"
#include "transport/xport.h"

#define IN(phase) (1u << FERRY_PHASE_##phase)

struct wire_kind {
	const char *name;
	enum wire_from from;
	uint32_t fixed, elem, max_elems;
	uint32_t phases;
};

#define WIRE_KIND(name, number, from, body, elem, max, phases) \
	[number] = { #name, from, sizeof(body), elem, max, phases },
static const struct wire_kind kinds[] = { WIRE_MESSAGES(WIRE_KIND) };
_Static_assert(sizeof(kinds) / sizeof(kinds[0]) == WIRE_TYPES, "a row a message");

#define WIRE_FITS(name, number, from, body, elem, max, phases)                                           \
	_Static_assert(sizeof(struct wire_hdr) + sizeof(body) + (size_t)(elem) * (max) <= XPORT_MSG_MAX, \
		       #name " fits one message");
WIRE_MESSAGES(WIRE_FITS)

/* Offset of the reserved field in the fixed part and in each element; 0: none. */
static const struct {
	uint8_t body, elem;
} reserved_at[WIRE_TYPES] = {
	[WIRE_REFUSED] = { offsetof(struct wire_abort, reserved) },
	[WIRE_MAP] = { 0, offsetof(struct wire_region, reserved) },
	[WIRE_RESERVED] = { offsetof(struct wire_reserved, reserved) },
	[WIRE_ROUND_END] = { offsetof(struct wire_round, reserved) },
	[WIRE_ROUND_ACK] = { offsetof(struct wire_round, reserved) },
	[WIRE_RESIDUE] = { offsetof(struct wire_residue, reserved) },
	[WIRE_SWITCHOVER] = { offsetof(struct wire_switchover, reserved) },
	[WIRE_ABORT] = { offsetof(struct wire_abort, reserved) },
};

const char *wire_name(enum wire_type t)
{
	return t > 0 && t < WIRE_TYPES ? kinds[t].name : "?";
}

enum wire_type wire_by_name(const char *name, size_t len)
{
	for (unsigned t = 1; t < WIRE_TYPES; t++)
		if (strlen(kinds[t].name) == len && !memcmp(kinds[t].name, name, len))
			return (enum wire_type)t;
	return 0;
}

enum wire_from wire_from(enum wire_type t)
{
	return kinds[t].from;
}

unsigned wire_type_of(const void *msg, size_t len)
{
	struct wire_hdr h;

	if (len < sizeof(h))
		return 0;
	memcpy(&h, msg, sizeof(h));
	return h.type;
}

static bool is_unknown_option(unsigned type)
{
	return type & WIRE_OPTIONAL; /* none is known yet */
}

bool wire_is_aside(unsigned type)
{
	return type == WIRE_PING || is_unknown_option(type);
}

void wire_text(const struct wire_msg *m, char *text)
{
	size_t i;

	for (i = 0; i < m->nelems; i++) {
		text[i] = ((const char *)m->elems)[i];
		if (!isprint((unsigned char)text[i]))
			text[i] = '?';
	}
	text[i] = 0;
}

struct wire_hdr wire_header(enum wire_type t, size_t len, uint32_t seq)
{
	return (struct wire_hdr){ .type = (uint16_t)t, .len = (uint32_t)len, .seq = seq };
}

static int check_reserved(const struct wire_kind *k, const uint8_t *body, size_t nelems, struct fail *f)
{
	unsigned at = reserved_at[k - kinds].body, in_elem = reserved_at[k - kinds].elem;
	uint32_t v = 0;

	if (at)
		memcpy(&v, body + at, sizeof(v));
	for (size_t i = 0; in_elem && !v && i < nelems; i++)
		memcpy(&v, body + k->fixed + i * k->elem + in_elem, sizeof(v));
	return v ? fail(f, -EPROTO, "the peer's %s has %#x in a reserved field", k->name, v) : 0;
}

static int check_body(struct wire_msg *ret, const struct wire_kind *k, const uint8_t *body, size_t len,
		      struct fail *f)
{
	size_t tail;

	if (len < k->fixed)
		return fail(f, -EPROTO, "the peer's %s has %zu bytes; it needs at least %u", k->name, len,
			    k->fixed);
	tail = len - k->fixed;
	if (tail % k->elem || tail / k->elem > k->max_elems)
		return fail(f, -EPROTO,
			    "the peer's %s has %zu bytes behind its %u; it takes at most %u times %u",
			    k->name, tail, k->fixed, k->max_elems, k->elem);
	ret->type = (enum wire_type)(k - kinds);
	ret->body = body;
	ret->elems = body + k->fixed;
	ret->nelems = tail / k->elem;
	return check_reserved(k, body, ret->nelems, f);
}

int wire_check(struct wire_msg *ret, const void *buf, size_t len, enum wire_from from, enum ferry_phase phase,
	       uint32_t seq, struct fail *f)
{
	const struct wire_kind *k;
	const char *name;
	struct wire_hdr h;

	if (len < sizeof(h))
		return fail(f, -EPROTO, "the peer sent a message of %zu bytes; a header has %zu", len,
			    sizeof(h));
	memcpy(&h, buf, sizeof(h));
	if (!is_unknown_option(h.type) && (h.type == 0 || h.type >= WIRE_TYPES))
		return fail(f, -EPROTO, "the peer sent a message of unknown type %u", h.type);
	name = wire_name(h.type);
	if (h.len != len - sizeof(h))
		return fail(f, -EPROTO, "the peer's %s says %u bytes and has %zu", name, h.len,
			    len - sizeof(h));
	if (h.zero || h.zero2)
		return fail(f, -EPROTO, "the peer's %s has %#x, %#x in reserved fields", name, h.zero,
			    h.zero2);
	if (h.seq != seq)
		return fail(f, -EPROTO, "the peer's %s is message %u of its connection; %u was due", name,
			    h.seq, seq);
	if (is_unknown_option(h.type)) {
		*ret = (struct wire_msg){ 0 };
		return 0;
	}
	k = &kinds[h.type];
	if (!(k->from & from))
		return fail(f, -EPROTO, "the peer sent %s, which only the %s sends", k->name,
			    k->from == FROM_SOURCE ? "source" : "target");
	if (!(k->phases & (1u << phase)))
		return fail(f, -EPROTO, "the peer sent %s in %s, where it has no place", k->name,
			    ferry_phase_name(phase));
	return check_body(ret, k, (const uint8_t *)buf + sizeof(h), len - sizeof(h), f);
}
