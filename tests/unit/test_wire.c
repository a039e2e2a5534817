/* SPDX-License-Identifier: MIT */
/* Every message of runtime/link/wire.h at and beyond each of its limits; nothing else may come through wire_check(). */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/fail.h"
#include "runtime/link/wire.h"
#include "transport/xport.h"

#define IN(phase) (1u << FERRY_PHASE_##phase)
#define PHASES (FERRY_PHASE_FAILED + 1)

struct kind {
	const char *name;
	unsigned number, from;
	size_t fixed, elem, max;
	uint32_t phases;
};

#define KIND(name, number, from, body, elem, max, phases) \
	{ #name, number, from, sizeof(body), elem, max, phases },
static const struct kind kinds[] = { WIRE_MESSAGES(KIND) };
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

struct message {
	struct wire_hdr hdr;
	uint8_t bytes[XPORT_MSG_MAX];
};

static struct message *message(const struct kind *k, size_t len, uint32_t seq)
{
	struct message *m = calloc(1, sizeof(*m));

	m->hdr = wire_header(k->number, len, seq);
	return m;
}

static enum ferry_phase first_phase(const struct kind *k)
{
	return __builtin_ctz(k->phases);
}

static enum wire_from a_sender(const struct kind *k)
{
	return k->from & FROM_SOURCE ? FROM_SOURCE : FROM_TARGET;
}

/* What wire_check says about a message of this kind with len bytes behind its header. */
static int check(const struct kind *k, size_t len, struct wire_msg *ret, struct message **keep)
{
	struct message *m = message(k, len, 0);
	struct fail f = { 0 };
	int err = wire_check(ret, m, sizeof(m->hdr) + len, a_sender(k), first_phase(k), 0, &f);

	cr_assert_eq(err, fail_err(&f), "%s: an error needs its sentence", k->name);
	if (keep)
		*keep = m;
	else
		free(m);
	return err;
}

Test(wire, numbers_and_names_do_not_change)
{
	static const char *const names[] = { "?",	 "HELLO",  "HELLO_ACK", "REFUSED",    "MAP",
					     "RESERVED", "ZERO",   "ROUND_END", "ROUND_ACK",  "STATE",
					     "RESIDUE",	 "PREARM", "PREARMED",	"SWITCHOVER", "RUNNING",
					     "PREPARED", "COMMIT", "COMMITTED", "COMPLETE",   "BYE",
					     "ABORT",	 "PING",   "POISON" };
	const size_t known = sizeof(names) / sizeof(names[0]);

	cr_assert_geq(WIRE_TYPES, known);
	for (size_t i = 0; i < known; i++)
		cr_expect_str_eq(wire_name(i), names[i]);
	for (size_t i = 0; i < KINDS; i++)
		cr_expect_str_eq(wire_name(kinds[i].number), kinds[i].name);
	cr_expect_str_eq(wire_name(WIRE_TYPES), "?");
	cr_expect_str_eq(wire_name(-1), "?");
}

Test(wire, each_message_comes_through_at_its_limits)
{
	for (size_t i = 0; i < KINDS; i++) {
		const struct kind *k = &kinds[i];
		struct wire_msg msg = { 0 };
		struct message *m;

		cr_assert_eq(check(k, k->fixed, &msg, &m), 0, "%s without elements", k->name);
		cr_assert(msg.type == k->number && msg.nelems == 0 && msg.body == m->bytes);
		free(m);
		cr_assert_eq(check(k, k->fixed + k->elem * k->max, &msg, &m), 0, "%s with all elements",
			     k->name);
		cr_assert(msg.nelems == k->max && msg.elems == m->bytes + k->fixed);
		free(m);
	}
}

Test(wire, each_length_beyond_a_limit_is_refused)
{
	for (size_t i = 0; i < KINDS; i++) {
		const struct kind *k = &kinds[i];
		struct wire_msg msg = { 0 };

		for (size_t len = 0; len < k->fixed; len++)
			cr_assert_eq(check(k, len, &msg, NULL), -EPROTO, "%s of %zu", k->name, len);
		cr_assert_eq(check(k, k->fixed + k->elem * (k->max + 1), &msg, NULL), -EPROTO, "%s", k->name);
		for (size_t odd = 1; k->max && odd < k->elem; odd++)
			cr_assert_eq(check(k, k->fixed + k->elem + odd, &msg, NULL), -EPROTO, "%s", k->name);
	}
}

/* In the fixed part, and in whichever element. */
Test(wire, reserved_fields_are_zero)
{
	static const struct {
		enum wire_type type;
		size_t at, len;
	} field[] = {
		{ WIRE_REFUSED, offsetof(struct wire_abort, reserved), 8 },
		{ WIRE_MAP, sizeof(struct wire_map) + offsetof(struct wire_region, reserved), 24 + 3 * 32 },
		{ WIRE_MAP, sizeof(struct wire_map) + 2 * 32 + offsetof(struct wire_region, reserved),
		  24 + 3 * 32 },
		{ WIRE_RESERVED, offsetof(struct wire_reserved, reserved), 8 },
		{ WIRE_ROUND_END, offsetof(struct wire_round, reserved), 8 },
		{ WIRE_ROUND_ACK, offsetof(struct wire_round, reserved), 8 },
		{ WIRE_RESIDUE, offsetof(struct wire_residue, reserved), 24 + 8 },
		{ WIRE_SWITCHOVER, offsetof(struct wire_switchover, reserved), 32 },
		{ WIRE_ABORT, offsetof(struct wire_abort, reserved), 8 },
	};

	for (size_t i = 0; i < sizeof(field) / sizeof(field[0]); i++)
		for (size_t b = 0; b < 32; b++) {
			const struct kind *k = &kinds[field[i].type - 1];
			struct message *m = message(k, field[i].len, 0);
			size_t len = sizeof(m->hdr) + field[i].len;
			struct fail f = { 0 };
			struct wire_msg msg;

			cr_assert_eq(wire_check(&msg, m, len, a_sender(k), first_phase(k), 0, &f), 0, "%s",
				     k->name);
			m->bytes[field[i].at + b / 8] = (uint8_t)(1 << b % 8);
			cr_assert_eq(wire_check(&msg, m, len, a_sender(k), first_phase(k), 0, &f), -EPROTO,
				     "%s, bit %zu", k->name, b);
			cr_assert(strstr(fail_text(&f), "in a reserved field"), "%s", fail_text(&f));
			free(m);
		}
}

Test(wire, each_message_has_its_sender_and_its_phases)
{
	for (size_t i = 0; i < KINDS; i++) {
		const struct kind *k = &kinds[i];
		struct message *m = message(k, k->fixed, 0);

		for (int from = FROM_SOURCE; from <= FROM_TARGET; from++) {
			for (int phase = 0; phase < PHASES; phase++) {
				bool good = (k->from & from) && (k->phases >> phase & 1);
				struct fail f = { 0 };
				struct wire_msg msg;
				int err = wire_check(&msg, m, sizeof(m->hdr) + k->fixed, from, phase, 0, &f);

				cr_expect_eq(err, good ? 0 : -EPROTO, "%s from %d in %s", k->name, from,
					     ferry_phase_name(phase));
			}
		}
		free(m);
	}
}

Test(wire, header)
{
	const struct kind *k = &kinds[0];
	struct message *m = message(k, k->fixed, 7);
	size_t len = sizeof(m->hdr) + k->fixed;
	struct wire_msg msg;

	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL), 0);
	for (size_t cut = 0; cut < len; cut++)
		cr_assert_eq(wire_check(&msg, m, cut, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL),
			     -EPROTO);
	cr_assert_eq(wire_check(&msg, m, len + 1, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL), -EPROTO);
	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 8, NULL), -EPROTO);
	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 6, NULL), -EPROTO);
	m->hdr.zero = 1;
	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL), -EPROTO);
	m->hdr.zero = 0;
	m->hdr.zero2 = 0x80000000;
	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL), -EPROTO);
	m->hdr.zero2 = 0;
	m->hdr.len = UINT32_MAX;
	cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7, NULL), -EPROTO);
	m->hdr.len = k->fixed;
	for (unsigned type = 0; type <= UINT16_MAX; type++) {
		m->hdr.type = type;
		if (type == 0 || (type >= WIRE_TYPES && !(type & WIRE_OPTIONAL)))
			cr_assert_eq(wire_check(&msg, m, len, FROM_SOURCE, FERRY_PHASE_PRE_MIGRATION, 7,
						NULL),
				     -EPROTO);
		cr_assert_eq(wire_is_aside(type), type == WIRE_PING || type >= WIRE_OPTIONAL, "type %u",
			     type);
	}
	free(m);
}

/* Of a message that may be skipped no more is looked at than its header, and as closely as any. */
Test(wire, optional_types_that_are_not_known)
{
	for (unsigned type = WIRE_OPTIONAL; type <= UINT16_MAX; type += 127) {
		struct message *m = calloc(1, sizeof(*m));
		struct fail f = { 0 };
		struct wire_msg msg;

		for (size_t len = 0; len < 100; len += 9) {
			m->hdr = wire_header(type, len, 7);
			memset(m->bytes, 0xa5, sizeof(m->bytes));
			for (unsigned phase = 0; phase < PHASES; phase++) {
				msg.type = WIRE_BYE;
				cr_assert_eq(wire_check(&msg, m, sizeof(m->hdr) + len, FROM_TARGET, phase, 7,
							&f),
					     0);
				cr_assert_eq(msg.type, 0);
			}
			cr_assert_eq(wire_check(&msg, m, sizeof(m->hdr) + len, FROM_TARGET, 1, 8, &f),
				     -EPROTO);
			fail_reset(&f);
			cr_assert_eq(wire_check(&msg, m, sizeof(m->hdr) + len + 1, FROM_TARGET, 1, 7, &f),
				     -EPROTO);
			fail_reset(&f);
			m->hdr.zero2 = 1;
			cr_assert_eq(wire_check(&msg, m, sizeof(m->hdr) + len, FROM_TARGET, 1, 7, &f),
				     -EPROTO);
			fail_reset(&f);
		}
		free(m);
	}
}

/* Neither more nor less, and whether or not what is there would do by itself. */
Test(wire, the_header_says_as_much_as_is_there)
{
	for (size_t i = 0; i < KINDS; i++) {
		const struct kind *k = &kinds[i];
		size_t len = k->fixed + (k->max ? k->elem : 0),
		       says[] = { k->fixed, len + k->elem, len - 1, len + 1, 0 };

		for (size_t n = 0; n < sizeof(says) / sizeof(says[0]); n++) {
			struct message *m = message(k, says[n], 0);
			struct wire_msg msg;

			cr_expect_eq(wire_check(&msg, m, sizeof(m->hdr) + len, a_sender(k), first_phase(k), 0,
						NULL),
				     says[n] == len ? 0 : -EPROTO, "%s of %zu bytes says %zu", k->name, len,
				     says[n]);
			free(m);
		}
	}
}

Test(wire, sentences_have_the_values)
{
	struct wire_hdr h = wire_header(WIRE_COMMIT, 0, 3);
	struct fail f = { 0 };
	struct wire_msg msg;

	wire_check(&msg, &h, sizeof(h), FROM_TARGET, FERRY_PHASE_COMMITMENT, 3, &f);
	cr_expect_str_eq(fail_text(&f), "the peer sent COMMIT, which only the source sends");
	fail_reset(&f);
	wire_check(&msg, &h, sizeof(h), FROM_SOURCE, FERRY_PHASE_PRECOPY, 3, &f);
	cr_expect_str_eq(fail_text(&f), "the peer sent COMMIT in pre-copy, where it has no place");
	fail_reset(&f);
	wire_check(&msg, &h, sizeof(h), FROM_SOURCE, FERRY_PHASE_COMMITMENT, 4, &f);
	cr_expect_str_eq(fail_text(&f), "the peer's COMMIT is message 3 of its connection; 4 was due");
	fail_reset(&f);
	wire_check(&msg, &h, 15, FROM_SOURCE, FERRY_PHASE_COMMITMENT, 3, &f);
	cr_expect_str_eq(fail_text(&f), "the peer sent a message of 15 bytes; a header has 16");
}

/* Random messages, half of them nearly right: what comes through has lengths within its buffer. */
Test(wire, random_messages)
{
	uint64_t seed = 88172645463325252u;
	struct message *m = calloc(1, sizeof(*m));

	for (int i = 0; i < 200000; i++) {
		struct wire_msg msg;
		size_t len, body;

		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		body = seed % 3 ? (seed >> 8) % 128 : (seed >> 8) % (XPORT_MSG_MAX - 16);
		len = sizeof(m->hdr) + body;
		m->hdr = wire_header((seed >> 32) % 30, seed >> 40 & 1 ? body : seed >> 33, seed >> 41 & 1);
		if (wire_check(&msg, m, len, 1 + (seed >> 42 & 1), (seed >> 43) % PHASES, 0, NULL) < 0)
			continue;
		cr_assert(msg.type > 0 && msg.type < WIRE_TYPES);
		cr_assert((const uint8_t *)msg.body == m->bytes);
		cr_assert((const uint8_t *)msg.elems >= m->bytes &&
			  (const uint8_t *)msg.elems <= m->bytes + body);
	}
	free(m);
}

Test(wire, each_name_is_one_message)
{
	struct wire_hdr h;

	for (unsigned t = 1; t < WIRE_TYPES; t++) {
		const char *name = wire_name((enum wire_type)t);

		cr_assert_eq(wire_by_name(name, strlen(name)), t, "%s", name);
		h = wire_header((enum wire_type)t, 0, 0);
		cr_assert_eq(wire_type_of(&h, sizeof(h)), t);
	}
	cr_assert_eq(wire_by_name("commit", 6), 0);
	cr_assert_eq(wire_by_name("COMMITTED", 6), WIRE_COMMIT);
	cr_assert_eq(wire_type_of(&h, sizeof(h) - 1), 0);
}
