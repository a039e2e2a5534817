// SPDX-License-Identifier: MIT
/*
 * A wrong value in each field of each message, sent to a whole session by a peer that is correct otherwise
 * (tests/fuzz/hostile.c). The session must end with an error and a sentence that has the value. The peer's
 * play checks that nothing around the session's memory was touched and that the VM is at its owner.
 *
 * A message of wire.h that cannot be sent here, or a byte of its body without a row, fails the test. Some
 * fields cannot be wrong, because they are for display or because every value has a meaning. Their rows say
 * so, and the migration must succeed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/hostile.h"

#define HARMLESS NULL /* instead of a sentence: any value is accepted */
#define NATURAL (-1)
#define HOLD (PLAY_HOLD)
#define LATE (PLAY_SWITCHOVER)

/* How a message gets sent: by which end, in which play; after which turn if a correct peer never sends it. */
struct way {
	enum wire_type type;
	enum wire_from from;
	uint8_t flags, mode;
	int after;
	enum ferry_outcome outcome; /* expected if the message is malformed */
};

static const struct way ways[] = {
	{ WIRE_HELLO, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_HELLO_ACK, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_REFUSED, FROM_TARGET, HOLD, 2, 1, FERRY_OUTCOME_REFUSED },
	{ WIRE_MAP, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_RESERVED, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_ZERO, FROM_SOURCE, HOLD, 2, 3, FERRY_OUTCOME_DISCARDED },
	{ WIRE_POISON, FROM_SOURCE, HOLD, 2, 4, FERRY_OUTCOME_DISCARDED },
	{ WIRE_ROUND_END, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_DISCARDED },
	{ WIRE_ROUND_ACK, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_STATE, FROM_SOURCE, HOLD, 2, 4, FERRY_OUTCOME_DISCARDED },
	{ WIRE_RESIDUE, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_DISCARDED },
	{ WIRE_PREARM, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_DISCARDED },
	{ WIRE_PREARMED, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_REFUSED },
	{ WIRE_SWITCHOVER, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_DISCARDED },
	{ WIRE_RUNNING, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_FELL_BACK },
	{ WIRE_PREPARED, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_FELL_BACK },
	{ WIRE_COMMIT, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_IN_DOUBT },
	{ WIRE_COMMITTED, FROM_TARGET, HOLD, 2, NATURAL, FERRY_OUTCOME_IN_DOUBT },
	{ WIRE_COMPLETE, FROM_TARGET, LATE, 2, NATURAL, FERRY_OUTCOME_LOST },
	{ WIRE_BYE, FROM_SOURCE, HOLD, 2, NATURAL, FERRY_OUTCOME_MIGRATED },
	{ WIRE_ABORT, FROM_SOURCE, HOLD, 2, 3, FERRY_OUTCOME_DISCARDED },
	{ WIRE_ABORT, FROM_TARGET, HOLD, 2, 3, FERRY_OUTCOME_REFUSED },
	{ WIRE_PING, FROM_SOURCE, HOLD, 2, 3, FERRY_OUTCOME_DISCARDED },
	{ WIRE_PING, FROM_TARGET, HOLD, 2, 3, FERRY_OUTCOME_REFUSED },
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* Bytes [at, at + width) of the body of a message, and the result if they hold v. */
struct row {
	enum wire_type type;
	size_t at, width;
	uint64_t v;
	int err;
	const char *says;
};

#define F(s, m) offsetof(struct s, m), sizeof(((struct s *)0)->m)
#define E(s, e, m) sizeof(struct s) + offsetof(struct e, m), sizeof(((struct e *)0)->m)
#define MAX UINT64_MAX

static const struct row rows[] = {
	{ WIRE_HELLO, F(wire_hello, magic), 0x1234567, -EPROTO, "HELLO has magic 0x1234567" },
	{ WIRE_HELLO, F(wire_hello, version), 0, -EPROTO, "HELLO has versions 1 to 0" },
	{ WIRE_HELLO, F(wire_hello, version), 513, 0, HARMLESS }, /* 1 to 513, so 1 is used */
	{ WIRE_HELLO, F(wire_hello, oldest), 2, -EPROTO, "HELLO has versions 2 to 1" },
	{ WIRE_HELLO, F(wire_hello, oldest), 0, 0, HARMLESS },
	{ WIRE_HELLO, F(wire_hello, features), MAX, 0, HARMLESS }, /* unknown bits are not accepted */
	{ WIRE_HELLO, F(wire_hello, page_shift), 21, -EOPNOTSUPP, "pages of 1 << 21 bytes" },
	{ WIRE_HELLO, F(wire_hello, number), 1, 0, HARMLESS }, /* a first HELLO may have any number */
	{ WIRE_HELLO, F(wire_hello, generation), 7, -EPROTO,
	  "HELLO is of generation 7, its connection of 0" },
	{ WIRE_HELLO, F(wire_hello, mode), 3, -EPROTO, "asks for mode 3" },
	{ WIRE_HELLO, F(wire_hello, commit_at), 3, -EPROTO, "commit at 3" },
	{ WIRE_HELLO, F(wire_hello, at_hold_limit), 2, -EPROTO, "hold action 2" },
	{ WIRE_HELLO, F(wire_hello, flags), 2, -EPROTO, "HELLO has flags 0x2" },
	{ WIRE_HELLO, F(wire_hello, hold_limit_us), 86400000001, -EPROTO,
	  "HELLO.hold_limit_us is 86400000001 us" },
	{ WIRE_HELLO, F(wire_hello, timeout_us), 9999, -EPROTO, "HELLO.timeout_us is 9999 us" },
	{ WIRE_HELLO, F(wire_hello, timeout_us), MAX, -EPROTO,
	  "HELLO.timeout_us is 18446744073709551615 us" },
	{ WIRE_HELLO, F(wire_hello, reconnect_us), MAX, -EPROTO,
	  "HELLO.reconnect_us is 18446744073709551615 us" },
	{ WIRE_HELLO, F(wire_hello, bandwidth), MAX, 0, HARMLESS },

	{ WIRE_HELLO_ACK, F(wire_hello_ack, magic), 0x1234567, -EPROTO, "HELLO_ACK has magic 0x1234567" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, version), 3, -EPROTO, "HELLO_ACK has versions 1 to 3" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, oldest), 0, -EPROTO, "HELLO_ACK has versions 0 to 1" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, features), 1 << 5 | 1, -EPROTO,
	  "HELLO_ACK accepts features 0x21; 0x1 were offered" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, features), 0, 0, HARMLESS },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, page_shift), 16, -EOPNOTSUPP,
	  "the target moves pages of 1 << 16 bytes" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, generation), 5, -EPROTO, "generation 5" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, commit), 4, -EPROTO, "commit state 4" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, commit), COMMIT_PREPARED, -EPROTO,
	  "commit state 1 before the switchover" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, commit), COMMIT_DECIDED, -EPROTO,
	  "commit state 2 before the switchover" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, timeout_us), 9999, -EPROTO, "HELLO_ACK.timeout_us is 9999 us" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, timeout_us), MAX, -EPROTO,
	  "HELLO_ACK.timeout_us is 18446744073709551615 us" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, left), 1, -EPROTO,
	  "HELLO_ACK counts 1 pages as missing; at most 0" },
	{ WIRE_HELLO_ACK, F(wire_hello_ack, number), 1, 0, HARMLESS },

	{ WIRE_REFUSED, F(wire_abort, err), (uint32_t)-28, -ENOSPC, "the target refused" },
	{ WIRE_REFUSED, F(wire_abort, err), 17, -ECONNABORTED, "the target refused" }, /* not negative */
	{ WIRE_REFUSED, F(wire_abort, reserved), 9, -EPROTO, "REFUSED has 0x9 in a reserved field" },
	{ WIRE_REFUSED, sizeof(struct wire_abort), 1, 0x1b, -ENOSPC, "refused: ?ull" },

	{ WIRE_MAP, F(wire_map, nregions), 3, -EPROTO, "MAP says 3 regions and has 2" },
	{ WIRE_MAP, F(wire_map, flags), 6, -EPROTO, "MAP has flags 0x6" },
	{ WIRE_MAP, F(wire_map, needs_len), 57, -EPROTO, "the source sent 57 with" },
	{ WIRE_MAP, F(wire_map, needs_sum), 0xabcdef, -EPROTO, "with 0000000000abcdef" },
	{ WIRE_MAP, E(wire_map, wire_region, id), VM_ID1, -EINVAL, "two regions have id 13" },
	{ WIRE_MAP, E(wire_map, wire_region, page_shift), 13, -EOPNOTSUPP, "page_shift 13" },
	{ WIRE_MAP, E(wire_map, wire_region, page_shift), 21, -EINVAL, "both must be multiples of 2097152" },
	{ WIRE_MAP, E(wire_map, wire_region, flags), 0x82, -EOPNOTSUPP, "flags 0x82" },
	{ WIRE_MAP, E(wire_map, wire_region, flags), 5, -EINVAL,
	  "FERRY_REGION_FOREIGN, which only the reserve op" },
	{ WIRE_MAP, E(wire_map, wire_region, reserved), 5, -EPROTO, "MAP has 0x5 in a reserved field" },
	{ WIRE_MAP, E(wire_map, wire_region, gpa), 0x100000001000 - 1, -EINVAL, "at 0x100000000fff" },
	{ WIRE_MAP, E(wire_map, wire_region, len), MAX - 4095, -EINVAL, "is 0xfffffffffffff000 bytes" },

	{ WIRE_RESERVED, F(wire_reserved, flags), 9, -EPROTO,
	  "RESERVED does without post-copy, which is for mode auto" },
	{ WIRE_RESERVED, F(wire_reserved, flags), 17, -EPROTO, "RESERVED has flags 0x11" },
	{ WIRE_RESERVED, F(wire_reserved, flags), 5, -EPROTO,
	  "RESERVED accepts POISON, which MAP did not announce" },
	{ WIRE_RESERVED, F(wire_reserved, reserved), 8, -EPROTO, "RESERVED has 0x8 in a reserved field" },

	{ WIRE_RESERVED, sizeof(struct wire_reserved) + 8, 8, MAX, -EPROTO,
	  "says 18446744073709551615 bytes" }, /* the offer */
	{ WIRE_RESERVED, sizeof(struct wire_reserved) + 8, 8, 2, -EPROTO,
	  "1 bytes at offset 18 are no section header" },
	{ WIRE_RESERVED, sizeof(struct wire_reserved), 4, 9, -ENOTSUP, "offer 9 is unknown" },

	{ WIRE_ZERO, F(page_run, region), 2, -EPROTO, "ZERO names region number 2; its map has 2" },
	{ WIRE_ZERO, F(page_run, npages), 66, -EPROTO, "pages 5+66 of region 10" },
	{ WIRE_ZERO, F(page_run, npages), 0, -EPROTO, "pages 5+0 of region 10" },
	{ WIRE_ZERO, F(page_run, page), MAX, -EPROTO, "pages 18446744073709551615+2 of region 10" },

	{ WIRE_POISON, F(page_run, region), 99, -EPROTO, "POISON names region number 99; its map has 2" },
	{ WIRE_POISON, F(page_run, npages), 66, -EPROTO, "POISON names pages 5+66 of region 10" },
	{ WIRE_POISON, F(page_run, npages), 0, -EPROTO, "POISON names pages 5+0 of region 10" },
	{ WIRE_POISON, F(page_run, page), MAX, -EPROTO,
	  "POISON names pages 18446744073709551615+2 of region 10" },

	{ WIRE_ROUND_END, F(wire_round, round), 7, -EPROTO, "ROUND_END is of round 7; 0 was due" },
	{ WIRE_ROUND_END, F(wire_round, reserved), 1, -EPROTO, "ROUND_END has 0x1 in a reserved field" },
	{ WIRE_ROUND_ACK, F(wire_round, round), 7, -EPROTO, "acknowledged round 7; 0 was due" },
	{ WIRE_ROUND_ACK, F(wire_round, reserved), 1, -EPROTO, "ROUND_ACK has 0x1 in a reserved field" },

	{ WIRE_STATE, 8, 8, MAX, -EPROTO, "says 18446744073709551615 bytes" }, /* the length of a section */
	{ WIRE_STATE, 0, 1, 9, -EOPNOTSUPP, "section 9 is unknown" },

	{ WIRE_RESIDUE, F(wire_residue, region), 11, -EPROTO,
	  "RESIDUE names region number 11; its map has 2" },
	{ WIRE_RESIDUE, F(wire_residue, reserved), 2, -EPROTO, "RESIDUE has 0x2 in a reserved field" },
	{ WIRE_RESIDUE, F(wire_residue, first), 3, -EPROTO, "RESIDUE names pages 3+70" },
	{ WIRE_RESIDUE, F(wire_residue, npages), 71, -EPROTO, "RESIDUE names pages 0+71" },
	{ WIRE_RESIDUE, sizeof(struct wire_residue), 8, 0, -EPROTO,
	  "its RESIDUEs named 2" }, /* other bits than PREARM counted */
	{ WIRE_RESIDUE, sizeof(struct wire_residue) + 8, 8, 64, -EPROTO, "sets bits beyond its 70 pages" },

	{ WIRE_PREARM, F(wire_count, pages), 5, -EPROTO, "PREARM counts 5 pages" },
	{ WIRE_PREARMED, F(wire_count, pages), MAX, -EPROTO, "PREARMED counts 18446744073709551615 pages" },

	{ WIRE_SWITCHOVER, F(wire_switchover, residue), 9, -EPROTO, "SWITCHOVER leaves 9 pages" },
	{ WIRE_SWITCHOVER, F(wire_switchover, state_len), 4, -EPROTO, "the source sent 4 with" },
	{ WIRE_SWITCHOVER, F(wire_switchover, state_sum), 0xabcdef, -EPROTO, "with 0000000000abcdef" },
	{ WIRE_SWITCHOVER, F(wire_switchover, commit_at), 7, -EPROTO, "commits at 7" },
	{ WIRE_SWITCHOVER, F(wire_switchover, reserved), 3, -EPROTO,
	  "SWITCHOVER has 0x3 in a reserved field" },

	{ WIRE_PREPARED, F(wire_count, pages), 1, -EPROTO, "PREPARED counts 1 pages as missing; at most 0" },

	{ WIRE_ABORT, F(wire_abort, err), (uint32_t)-28, -ENOSPC, "gave up" },
	{ WIRE_ABORT, F(wire_abort, err), 17, -ECONNABORTED, "gave up" },
	{ WIRE_ABORT, F(wire_abort, reserved), 9, -EPROTO, "ABORT has 0x9 in a reserved field" },
	{ WIRE_ABORT, sizeof(struct wire_abort), 1, 0x1b, -ENOSPC, "gave up: ?ull" },

/* The measured times and the values of a PING are for display. */
#define TIMES(t)                                                                                         \
	{ t, F(wire_times, arm_us), MAX, 0, HARMLESS }, { t, F(wire_times, load_us), MAX, 0, HARMLESS }, \
		{ t, F(wire_times, resume_us), MAX, 0, HARMLESS },                                       \
		{ t, F(wire_times, faults), MAX, 0, HARMLESS },                                          \
		{ t, F(wire_times, fault_p50_ns), MAX, 0, HARMLESS },                                    \
		{ t, F(wire_times, fault_p99_ns), MAX, 0, HARMLESS },                                    \
		{ t, F(wire_times, fault_max_ns), MAX, 0, HARMLESS },                                    \
	{                                                                                                \
		t, F(wire_times, fault_total_ns), MAX, 0, HARMLESS                                       \
	}
	TIMES(WIRE_RUNNING),
	TIMES(WIRE_COMMITTED),
	TIMES(WIRE_COMPLETE),
	{ WIRE_PING, F(wire_ping, pages_left), MAX, 0, HARMLESS },
	{ WIRE_PING, F(wire_ping, faults), MAX, 0, HARMLESS },
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

struct kind {
	enum wire_type type;
	const char *name;
	enum wire_from from;
	size_t fixed, elem, max;
};
#define KIND(name, number, from, body, elem, max, phases) { number, #name, from, sizeof(body), elem, max },
static const struct kind kinds[] = { WIRE_MESSAGES(KIND) };
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const struct kind *kind_of(enum wire_type t)
{
	size_t i = 0;

	while (kinds[i].type != t)
		i++;
	return &kinds[i];
}

/* The bytes that rows must cover: fixed part and first element; of HELLO and HELLO_ACK the known fields. */
static size_t known_bytes(const struct kind *k)
{
	if (k->type == WIRE_HELLO)
		return sizeof(struct wire_hello);
	if (k->type == WIRE_HELLO_ACK)
		return sizeof(struct wire_hello_ack);
	return k->fixed + (k->max ? k->elem : 0);
}

/* Play one message with patches (wide values in pieces of at most 8 bytes). *res: the session's result. */
static void send_patched(const struct way *w, const struct play_step *patches, size_t n,
			 struct ferry_result *res)
{
	struct __attribute__((packed)) {
		struct play play;
		struct play_step step[PLAY_STEPS_MAX];
	} in = { { w->flags, w->after == NATURAL ? 0 : (uint8_t)w->after, w->mode, 5 }, { { 0 } } };
	size_t at = 0;

	for (; at < n; at++)
		in.step[at] = patches[at];
	if (w->after != NATURAL)
		in.step[at++] = (struct play_step){ .op = STEP_SAY, .type = (uint8_t)(w->type - 1) };
	for (; at < PLAY_STEPS_MAX; at++)
		in.step[at] = (struct play_step){ .op = STEP_DECENT };
	if (w->from == FROM_SOURCE)
		play_hostile_source((uint8_t *)&in, sizeof(in.play) + at * sizeof(in.step[0]), res);
	else
		play_hostile_target((uint8_t *)&in, sizeof(in.play) + at * sizeof(in.step[0]), res);
}

static void judge(const struct way *w, const struct ferry_result *res, int err, const char *says,
		  const char *what)
{
	const char *name = kind_of(w->type)->name;

	cr_expect_eq(res->error, err, "%s, %s: came to %d \"%s\", %d was due", name, what, res->error,
		     res->detail, err);
	cr_expect(!says || strstr(res->detail, says), "%s, %s: \"%s\" does not say \"%s\"", name, what,
		  res->detail, says);
}

/* Times that only a failing test reaches. */
static void patient(void)
{
	hostile_pace = (struct hostile_pace){ 5000000, 20000000, 10000000, 100000 };
}

Test(reject, each_message_can_be_sent_here, .init = patient)
{
	for (size_t k = 0; k < KINDS; k++) {
		unsigned from = 0;

		for (size_t i = 0; i < WAYS; i++)
			from |= ways[i].type == kinds[k].type ? ways[i].from : 0;
		cr_expect_eq(from, kinds[k].from, "%s is sent by %u and has ways for %u", kinds[k].name,
			     kinds[k].from, from);
	}
}

Test(reject, each_byte_of_each_message_has_a_row)
{
	for (size_t k = 0; k < KINDS; k++) {
		size_t len = known_bytes(&kinds[k]);
		bool *has = calloc(len + 1, sizeof(*has));

		for (size_t i = 0; i < ROWS; i++)
			for (size_t b = rows[i].at;
			     rows[i].type == kinds[k].type && b < rows[i].at + rows[i].width && b < len; b++)
				has[b] = true;
		for (size_t b = 0; b < len; b++)
			cr_expect(has[b], "byte %zu of %s has no row", b, kinds[k].name);
		free(has);
	}
}

static void one_row(const struct way *w, const struct row *r)
{
	struct play_step patch = {
		.op = STEP_PATCH, .type = (uint8_t)r->type, .at = (uint8_t)r->at, .v = r->v
	};
	struct ferry_result res;
	char what[100];

	patch.width = r->width >= 8 ? 3 : r->width == 4 ? 2 : r->width == 2 ? 1 : 0;
	snprintf(what, sizeof(what), "%#" PRIx64 " at byte %zu", r->v, r->at);
	send_patched(w, &patch, 1, &res);
	judge(w, &res, r->err, r->says, what);
	if (r->says)
		return;
	cr_expect_eq(res.outcome, FERRY_OUTCOME_MIGRATED, "%s, %s: %s", kind_of(w->type)->name, what,
		     ferry_outcome_name(res.outcome));
}

static void fields(enum wire_from from)
{
	for (size_t i = 0; i < ROWS; i++)
		for (size_t k = 0; k < WAYS; k++)
			if (ways[k].type == rows[i].type && ways[k].from == from)
				one_row(&ways[k], &rows[i]);
}

Test(reject, fields_that_sources_send, .init = patient)
{
	fields(FROM_SOURCE);
}

Test(reject, fields_that_targets_send, .init = patient)
{
	fields(FROM_TARGET);
}

/* The target's durations never exceed the downtime. */
Test(reject, durations_that_a_target_makes_up, .init = patient)
{
	struct play_step lies[3];
	struct ferry_result res;
	struct ferry_downtime b;

	for (unsigned i = 0; i < 3; i++)
		lies[i] = (struct play_step){ STEP_PATCH, .type = WIRE_RUNNING, .at = (uint8_t)(8 * i),
					      .width = 3, .v = MAX - i };
	send_patched(&ways[WIRE_RUNNING - 1], lies, 3, &res);
	b = res.stats.downtime;
	cr_assert_eq(res.outcome, FERRY_OUTCOME_MIGRATED);
	cr_assert_eq(b.total_us, b.pause_us + b.fetch_us + b.residue_us + b.save_us + b.send_us + b.arm_us +
					 b.load_us + b.resume_us);
	cr_assert_lt(b.total_us, UINT64_C(20000000));
}

static void headers(enum wire_from from)
{
	static const struct {
		uint8_t at, width;
		uint64_t v;
		const char *says;
	} field[] = {
		{ offsetof(struct wire_hdr, type), 1, 99, "a message of unknown type 99" },
		{ offsetof(struct wire_hdr, zero), 1, 0x123, "has 0x123, 0 in reserved fields" },
		{ offsetof(struct wire_hdr, len), 2, 4242, "says 4242 bytes and has" },
		{ offsetof(struct wire_hdr, seq), 2, 777, "is message 777 of its connection" },
		{ offsetof(struct wire_hdr, zero2), 2, 0x456, "has 0, 0x456 in reserved fields" },
	};

	for (size_t k = 0; k < WAYS; k++)
		for (size_t i = 0; ways[k].from == from && i < sizeof(field) / sizeof(field[0]); i++) {
			struct play_step p = {
				STEP_PATCH_HDR, (uint8_t)ways[k].type, field[i].at, field[i].width, 0,
				field[i].v
			};
			bool over = ways[k].outcome == FERRY_OUTCOME_MIGRATED; /* too late to do harm */
			struct ferry_result res;

			send_patched(&ways[k], &p, 1, &res);
			judge(&ways[k], &res, over ? 0 : -EPROTO, over ? NULL : field[i].says, "header");
			cr_expect_eq(res.outcome, ways[k].outcome, "%s, byte %u of the header: %s",
				     kind_of(ways[k].type)->name, field[i].at,
				     ferry_outcome_name(res.outcome));
		}
}

Test(reject, headers_that_sources_send, .init = patient)
{
	headers(FROM_SOURCE);
}

Test(reject, headers_that_targets_send, .init = patient)
{
	headers(FROM_TARGET);
}

/* PREARM on a lost connection, SWITCHOVER on the next without PREARM: no thread would serve the faults. */
Test(reject, switchover_after_a_reconnect_without_prearm, .init = patient)
{
	const struct play play = { PLAY_HOLD | PLAY_RECONNECT, 2, FERRY_MODE_STOP_AND_COPY, 0 };
	const struct play_step steps[] = { { STEP_END },
					   { STEP_SAY, .type = WIRE_PREARM - 1 },
					   { STEP_HEAR, .type = WIRE_PREARMED - 1 },
					   { STEP_CONNECT, .type = 1 },
					   { STEP_SAY, .type = WIRE_HELLO - 1 },
					   { STEP_HEAR, .type = WIRE_HELLO_ACK - 1 },
					   { STEP_END },
					   { STEP_SAY, .type = WIRE_SWITCHOVER - 1 },
					   { STEP_HEAR, .type = WIRE_PREPARED - 1 } };
	uint8_t in[sizeof(play) + sizeof(steps)];
	struct ferry_result res;

	memcpy(in, &play, sizeof(play));
	memcpy(in + sizeof(play), steps, sizeof(steps));
	play_hostile_source(in, sizeof(in), &res);
	cr_assert_eq(res.error, -EPROTO, "%d: %s", res.error, res.detail);
	cr_assert(strstr(res.detail, "and no PREARM came"), "%s", res.detail);
}
