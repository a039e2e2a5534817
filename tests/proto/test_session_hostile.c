// SPDX-License-Identifier: MIT
/*
 * A hand-written source that violates docs/protocol.md. Whatever it sends, the target's session must end soon
 * with an error and a sentence, and discard the VM if it was reserved. Only the reserved memory may be
 * touched.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "peer.h"

#define EXTRA 64u /* pages that the peer claims to have after a region */

/* One violation by a source, over mem and tcp, with the expected error and sentence. */
#define SOURCE_RUN(name, upto, error, sentence)                    \
	static void source_##name(struct peer *p);                 \
	static void run_source_##name(const struct rig_kind *kind) \
	{                                                          \
		struct peer p;                                     \
		peer_connect(&p, kind, upto);                      \
		source_##name(&p);                                 \
		peer_target_ends(&p, error, sentence, true);       \
	}

#define SOURCE_DOES(name, upto, error, sentence)   \
	SOURCE_RUN(name, upto, error, sentence)    \
	Test(hostile_source, name##_mem)           \
	{                                          \
		run_source_##name(RIG_MEM_SHARED); \
	}                                          \
	Test(hostile_source, name##_tcp)           \
	{                                          \
		run_source_##name(RIG_TCP_ANON);   \
	}                                          \
	static void source_##name(struct peer *p)

/* Over tcp only, if the peer must be asked for memory and not answer: over mem the request ends at once. */
#define SOURCE_DOES_TCP(name, upto, error, sentence) \
	SOURCE_RUN(name, upto, error, sentence)      \
	Test(hostile_source, name##_tcp)             \
	{                                            \
		run_source_##name(RIG_TCP_ANON);     \
	}                                            \
	static void source_##name(struct peer *p)

/* -- the greeting -- */

SOURCE_DOES(begins_with_map, CONNECTED, -EPROTO, "the peer sent MAP in pre-migration, where it has no place")
{
	struct wire_region r[FAKE_REGIONS];

	peer_regions(p, r);
	peer_say_map(p, FAKE_REGIONS, r, FAKE_REGIONS);
}

SOURCE_DOES(has_another_magic, CONNECTED, -EPROTO, "HELLO has magic 0x1234567")
{
	struct wire_hello h = peer_hello(p);

	h.magic = 0x1234567;
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(speaks_version_0, CONNECTED, -EPROTONOSUPPORT,
	    "the source speaks protocol version 0, this target version 1; update the library at the source")
{
	struct wire_hello h = peer_hello(p);

	h.version = h.oldest = 0;
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(speaks_backwards, CONNECTED, -EPROTO, "HELLO has versions 3 to 1")
{
	struct wire_hello h = peer_hello(p);

	h.oldest = 3;
	SAY(p, WIRE_HELLO, h);
}

/* In another version only the first 8 bytes of HELLO count, whatever its length. */
SOURCE_DOES(
	speaks_later_versions_in_few_words, CONNECTED, -EPROTONOSUPPORT,
	"the source speaks protocol versions 3 to 4, this target version 1; update the library at the target")
{
	SAY(p, WIRE_HELLO, (struct wire_greeting){ .magic = WIRE_MAGIC, .version = 4, .oldest = 3 });
}

/* A later version says more: known fields are read, unknown features are not accepted. */
Test(later_source, is_understood)
{
	struct {
		struct wire_hello h;
		uint8_t more[40];
	} hello;
	struct wire_region r[FAKE_REGIONS];
	struct wire_hello_ack ack;
	struct peer p;

	peer_connect(&p, RIG_TCP_ANON, CONNECTED);
	memset(&hello, 0xa5, sizeof(hello));
	hello.h = peer_hello(&p);
	hello.h.version = WIRE_VERSION + 1;
	hello.h.features = UINT64_MAX;
	peer_say(&p, WIRE_OPTIONAL + 1, "what comes before HELLO", 23, NULL, 0);
	SAY(&p, WIRE_HELLO, hello);
	peer_hear_only(&p, WIRE_HELLO_ACK, &ack, sizeof(ack));
	cr_assert_eq(ack.version, WIRE_VERSION);
	cr_assert_eq(ack.oldest, WIRE_VERSION);
	cr_assert_eq(ack.features, WIRE_FEATURES);
	peer_say(&p, WIRE_OPTIONAL + 77, NULL, 0, NULL, 0);
	peer_regions(&p, r);
	peer_say_map(&p, FAKE_REGIONS, r, FAKE_REGIONS);
	peer_hear_only(&p, WIRE_RESERVED, NULL, 0);
	peer_say(&p, 0xffff, "and then", 8, NULL, 0);
	SAY(&p, WIRE_ABORT, (struct wire_abort){ .err = -ECANCELED });
	peer_target_ends(&p, -ECANCELED, "the source gave up", false);
}

/* A session keeps what its first handshake agreed on. */
Test(later_source, comes_back_with_other_features)
{
	struct wire_hello h;
	struct peer p;

	peer_connect(&p, RIG_TCP_ANON, RESERVED);
	peer_connect_again(&p, 1);
	h = peer_hello(&p);
	h.generation = 1;
	h.flags = WIRE_COMES_BACK;
	h.features = 0;
	SAY(&p, WIRE_HELLO, h);
	peer_target_ends(&p, -EPROTO,
			 "the source came back with protocol version 1, features 0; it had version 1, 0x1",
			 true);
}

/* A message before HELLO is checked as closely as any other: who gets it wrong is hung up on, and the target goes on waiting. */
Test(later_source, skips_a_number_before_its_hello)
{
	struct wire_hdr h = wire_header(WIRE_OPTIONAL + 1, 0, 1);
	struct peer p;

	peer_connect(&p, RIG_TCP_ANON, CONNECTED);
	peer_raw(&p, &h, sizeof(h));
	cr_assert_eq(peer_hear(&p, NULL, 0), 0);
	peer_connect_again(&p, 1);
	SAY(&p, WIRE_COMMIT, (struct wire_count){ 0 });
	peer_target_ends(&p, -EPROTO, "the peer sent COMMIT in pre-migration, where it has no place", true);
}

/* A message that only one end knows must not be announced. */
SOURCE_DOES(maps_with_a_feature_it_did_not_offer, CONNECTED, -EPROTO,
	    "MAP announces POISON, which its HELLO did not offer")
{
	struct wire_map m = { .nregions = FAKE_REGIONS,
			      .flags = WIRE_SOURCE_POISON,
			      .needs_sum = peer_no_needs() };
	struct wire_region r[FAKE_REGIONS];
	struct wire_hello h = peer_hello(p);
	struct wire_hello_ack ack;

	h.features &= ~WIRE_FEATURE_POISON;
	SAY(p, WIRE_HELLO, h);
	peer_hear_only(p, WIRE_HELLO_ACK, &ack, sizeof(ack));
	cr_assert_eq(ack.features, 0);
	peer_regions(p, r);
	peer_say(p, WIRE_MAP, &m, sizeof(m), r, sizeof(r));
}

SOURCE_DOES(greets_in_few_words, CONNECTED, -EPROTO, "HELLO has 79 bytes; it needs at least 80")
{
	struct wire_hello h = peer_hello(p);

	peer_say(p, WIRE_HELLO, &h, sizeof(h) - 1, NULL, 0);
}

SOURCE_DOES(greets_in_too_many_words, CONNECTED, -EPROTO,
	    "HELLO has 249 bytes behind its 8; it takes at most 248 times 1")
{
	struct wire_hello h = peer_hello(p);
	uint8_t more[WIRE_GREETING_MAX + 1 - sizeof(h)] = { 1 };

	peer_say(p, WIRE_HELLO, &h, sizeof(h), more, sizeof(more));
}

/* Appended fields of a later version have no effect. */
SOURCE_DOES(greets_in_more_words_than_are_known, CONNECTED, -EPROTO, "MAP has 8 bytes; it needs at least 24")
{
	struct wire_hello h = peer_hello(p);
	uint8_t more[WIRE_GREETING_MAX - sizeof(h)] = { 1 };

	peer_say(p, WIRE_HELLO, &h, sizeof(h), more, sizeof(more));
	peer_hear_only(p, WIRE_HELLO_ACK, NULL, 0);
	peer_say(p, WIRE_MAP, more, 8, NULL, 0);
}

SOURCE_DOES(has_huge_pages, CONNECTED, -EOPNOTSUPP, "the source moves pages of 1 << 21 bytes")
{
	struct wire_hello h = peer_hello(p);

	h.page_shift = 21;
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(greets_for_another_generation, CONNECTED, -EPROTO,
	    "HELLO is of generation 9, its connection of 0")
{
	struct wire_hello h = peer_hello(p);

	h.generation = 9;
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(asks_for_mode_9, CONNECTED, -EPROTO, "HELLO asks for mode 9")
{
	struct wire_hello h = peer_hello(p);

	h.mode = 9;
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(asks_to_wait_for_ever, CONNECTED, -EPROTO, "out of range")
{
	struct wire_hello h = peer_hello(p);

	h.reconnect_us = UINT64_MAX;
	SAY(p, WIRE_HELLO, h);
}

/* The target would have to wait that long for a lost link. */
SOURCE_DOES(asks_to_be_waited_for_for_a_day, CONNECTED, -EINVAL,
	    "the source's reconnect_us is 86400000 ms, more than 10 times as long as this target's")
{
	struct wire_hello h = peer_hello(p);

	h.reconnect_us = UINT64_C(86400000000);
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(asks_to_be_silent_for_a_day, CONNECTED, -EINVAL,
	    "the source's timeout_us is 86400000 ms, more than 10 times as long as this target's")
{
	struct wire_hello h = peer_hello(p);

	h.timeout_us = UINT64_C(86400000000);
	SAY(p, WIRE_HELLO, h);
}

SOURCE_DOES(greets_twice, GREETED, -EPROTO, "the peer sent HELLO in reservation, where it has no place")
{
	SAY(p, WIRE_HELLO, peer_hello(p));
}

/* -- the frame -- */

SOURCE_DOES(sends_nothing_at_all, GREETED, -EPROTO, "a message of 0 bytes")
{
	peer_raw(p, NULL, 0);
}

SOURCE_DOES(truncates_a_header, GREETED, -EPROTO, "a message of 8 bytes; a header has 16")
{
	struct wire_hdr h = wire_header(WIRE_PING, 0, p->seq);

	peer_raw(p, &h, 8);
}

SOURCE_DOES(truncates_a_message, GREETED, -EPROTO, "MAP says 24 bytes and has 0")
{
	struct wire_hdr h = wire_header(WIRE_MAP, sizeof(struct wire_map), p->seq);

	peer_raw(p, &h, sizeof(h));
}

SOURCE_DOES(sends_half_a_body, GREETED, -EPROTO, "MAP has 8 bytes; it needs at least 24")
{
	peer_say(p, WIRE_MAP, "12345678", 8, NULL, 0);
}

SOURCE_DOES(sends_half_an_element, GREETED, -EPROTO, "MAP has 5 bytes behind its 24")
{
	struct wire_map m = { .nregions = 1 };

	peer_say(p, WIRE_MAP, &m, sizeof(m), "12345", 5);
}

SOURCE_DOES(sends_too_many_elements, GREETED, -EPROTO, "it takes at most 1024 times 32")
{
	struct wire_region *r = calloc(1025, sizeof(*r));

	peer_say_map(p, 1025, r, 1025);
	free(r);
}

SOURCE_DOES(sends_type_99, GREETED, -EPROTO, "a message of unknown type 99")
{
	peer_say(p, (enum wire_type)99, NULL, 0, NULL, 0);
}

SOURCE_DOES(fills_reserved_fields, GREETED, -EPROTO, "in reserved fields")
{
	struct wire_hdr h = wire_header(WIRE_PING, 0, p->seq);

	h.zero2 = 7;
	peer_raw(p, &h, sizeof(h));
}

SOURCE_DOES(repeats_a_number, GREETED, -EPROTO, "is message 0 of its connection; 1 was due")
{
	p->seq = 0;
	SAY(p, WIRE_PING, (struct wire_ping){ 0 });
}

SOURCE_DOES(sends_what_targets_send, RESERVED, -EPROTO,
	    "the peer sent ROUND_ACK, which only the target sends")
{
	SAY(p, WIRE_ROUND_ACK, (struct wire_round){ 0 });
}

/* -- the map -- */

SOURCE_DOES(maps_no_region, GREETED, -EPROTO, "MAP says 0 regions and has 0")
{
	peer_say_map(p, 0, NULL, 0);
}

SOURCE_DOES(miscounts_its_regions, GREETED, -EPROTO, "MAP says 3 regions and has 2")
{
	struct wire_region r[FAKE_REGIONS];

	peer_regions(p, r);
	peer_say_map(p, 3, r, FAKE_REGIONS);
}

#define MAPS(name, error, sentence, change)                     \
	SOURCE_DOES(name, GREETED, error, sentence)             \
	{                                                       \
		struct wire_region r[FAKE_REGIONS];             \
		peer_regions(p, r);                             \
		change;                                         \
		peer_say_map(p, FAKE_REGIONS, r, FAKE_REGIONS); \
	}

MAPS(maps_overlapping_regions, -EINVAL, "overlap in guest physical memory", r[1].gpa = 0)
MAPS(maps_one_region_twice, -EINVAL, "two regions have id 10", r[1].id = r[0].id)
MAPS(maps_nothing, -EINVAL, "is 0 bytes at", r[0].len = 0)
MAPS(maps_part_of_a_page, -EINVAL, "both must be multiples of 4096", r[0].len = 4097)
MAPS(maps_too_much, -EINVAL, "region 10 (number 0) is 0x", r[0].len = UINT64_C(1) << 50)
MAPS(maps_beyond_the_end, -EINVAL, "region 13 (number 1)", r[1].gpa = UINT64_MAX & ~UINT64_C(4095))
MAPS(maps_gigantic_pages, -EOPNOTSUPP, "region 10 has page_shift 30", r[0].page_shift = 30)
MAPS(maps_pages_beyond_all, -EOPNOTSUPP, "region 10 has page_shift 4294967295", r[0].page_shift = UINT32_MAX)
MAPS(maps_part_of_a_huge_page, -EINVAL, "both must be multiples of 2097152", r[0].page_shift = 21)
MAPS(maps_huge_pages_twice, -EINVAL, "of hugetlbfs already", r[0].page_shift = 21; r[0].len = 2 << 20;
     r[0].flags = FERRY_REGION_THP)
MAPS(maps_unknown_flags, -EOPNOTSUPP, "has flags 0x8", r[1].flags |= 0x80)
MAPS(maps_another_machine, -ENOMEM, "reserve: the VMM answered -12", r[0].len += FAKE_PAGE)

SOURCE_DOES(miscounts_its_needs, GREETED, -EPROTO, "0 bytes of state with checksum")
{
	struct wire_map m = { .nregions = FAKE_REGIONS, .needs_len = 16, .needs_sum = peer_no_needs() };
	struct wire_region r[FAKE_REGIONS];

	peer_regions(p, r);
	peer_say(p, WIRE_MAP, &m, sizeof(m), r, sizeof(r));
}

static void flood(struct peer *p)
{
	uint8_t *chunk = calloc(1, WIRE_STATE_CHUNK);

	for (unsigned i = 0; i <= STREAM_MAX / WIRE_STATE_CHUNK; i++)
		peer_say(p, WIRE_STATE, NULL, 0, chunk, WIRE_STATE_CHUNK);
	free(chunk);
}

SOURCE_DOES(floods_with_needs, GREETED, -E2BIG, "the source sends more than 64 MiB of state")
{
	flood(p);
}

SOURCE_DOES(floods_with_state, RESERVED, -E2BIG, "the source sends more than 64 MiB of state")
{
	flood(p);
}

SOURCE_DOES(sends_oversized_state, RESERVED, -EPROTO, "STATE has 65537 bytes behind its 0")
{
	uint8_t *chunk = calloc(1, WIRE_STATE_CHUNK + 1);

	peer_say(p, WIRE_STATE, NULL, 0, chunk, WIRE_STATE_CHUNK + 1);
	free(chunk);
}

/* -- pre-copy -- */

static void zero(struct peer *p, uint32_t region, uint64_t page, uint32_t npages)
{
	struct page_run run = { .region = region, .page = page, .npages = npages };

	peer_say(p, WIRE_ZERO, NULL, 0, &run, sizeof(run));
}

SOURCE_DOES(zeroes_no_region, RESERVED, -EPROTO, "ZERO names region number 2; its map has 2")
{
	zero(p, 2, 0, 1);
}

SOURCE_DOES(zeroes_beyond_a_region, RESERVED, -EPROTO, "ZERO names pages 1499+2 of region 10")
{
	zero(p, 0, FAKE_PAGES0 - 1, 2);
}

SOURCE_DOES(zeroes_far_away, RESERVED, -EPROTO, "ZERO names pages 18446744073709551615+1 of region 10")
{
	zero(p, 0, UINT64_MAX, 1);
}

SOURCE_DOES(zeroes_no_pages, RESERVED, -EPROTO, "ZERO names pages 5+0 of region 13")
{
	zero(p, 1, 5, 0);
}

static void zero_all(struct peer *p, unsigned times)
{
	while (times--) {
		zero(p, 0, 0, FAKE_PAGES0);
		zero(p, 1, 0, FAKE_PAGES1);
	}
}

/* A page is named at most once per round, so the target clears at most all of its memory. */
SOURCE_DOES(zeroes_memory_twice_in_a_round, RESERVED, -EPROTO,
	    "ZEROs of one round name 3077 pages; all memory has 1577")
{
	for (uint32_t round = 0; round < 2; round++) {
		zero_all(p, 1);
		SAY(p, WIRE_ROUND_END, (struct wire_round){ .round = round });
		peer_hear_only(p, WIRE_ROUND_ACK, NULL, 0);
	}
	zero_all(p, 2);
}

static void residue(struct peer *p, uint32_t region, uint64_t first, uint64_t npages, uint64_t word,
		    size_t nwords)
{
	struct wire_residue h = { .region = region, .first = first, .npages = npages };
	uint64_t words[32] = { word };

	words[nwords ? nwords - 1 : 0] = word;
	peer_say(p, WIRE_RESIDUE, &h, sizeof(h), words, nwords * 8);
}

SOURCE_DOES(leaves_no_region, RESERVED, -EPROTO, "RESIDUE names region number 11; its map has 2")
{
	residue(p, 11, 0, 64, 1, 1);
}

SOURCE_DOES(leaves_pages_beyond_a_region, RESERVED, -EPROTO,
	    "RESIDUE names pages 64+64 in 1 words; region 13 has 77")
{
	residue(p, 1, 64, 64, 1, 1);
}

SOURCE_DOES(leaves_pages_far_away, RESERVED, -EPROTO, "region 13 has 77")
{
	residue(p, 1, UINT64_MAX & ~UINT64_C(63), 64, 1, 1);
}

SOURCE_DOES(leaves_a_crooked_bitmap, RESERVED, -EPROTO, "RESIDUE names pages 3+64")
{
	residue(p, 0, 3, 64, 1, 1);
}

SOURCE_DOES(leaves_fewer_words_than_pages, RESERVED, -EPROTO, "RESIDUE names pages 0+128 in 1 words")
{
	residue(p, 0, 0, 128, 1, 1);
}

SOURCE_DOES(leaves_bits_beyond_its_pages, RESERVED, -EPROTO, "RESIDUE sets bits beyond its 77 pages")
{
	residue(p, 1, 0, 77, UINT64_C(1) << 13, 2);
}

SOURCE_DOES(commits_in_pre_copy, RESERVED, -EPROTO, "the peer sent COMMIT in pre-copy, where it has no place")
{
	peer_say(p, WIRE_COMMIT, NULL, 0, NULL, 0);
}

SOURCE_DOES(says_goodbye_in_pre_copy, RESERVED, -EPROTO,
	    "the peer sent BYE in pre-copy, where it has no place")
{
	peer_say(p, WIRE_BYE, NULL, 0, NULL, 0);
}

SOURCE_DOES(maps_again, RESERVED, -EPROTO, "the peer sent MAP in pre-copy, where it has no place")
{
	struct wire_region r[FAKE_REGIONS];

	peer_regions(p, r);
	peer_say_map(p, FAKE_REGIONS, r, FAKE_REGIONS);
}

/* After our ABORT, read until the session closes. Its answer does not repeat our sentence. */
static void end_of_talk(struct peer *p, const char *words)
{
	while (peer_hear(p, NULL, 0))
		;
	strcpy(p->heard, words);
}

SOURCE_DOES(gives_up_in_words_nobody_can_read, RESERVED, -ENOSPC, "the source gave up: no?room?")
{
	struct wire_abort a = { .err = -ENOSPC };

	peer_say(p, WIRE_ABORT, &a, sizeof(a), "no\x1broom\n", 8);
	end_of_talk(p, "the source gave up: no?room?");
}

SOURCE_DOES(gives_up_without_an_error, RESERVED, -ECONNABORTED, "the source gave up: fine")
{
	struct wire_abort a = { .err = 17 };

	peer_say(p, WIRE_ABORT, &a, sizeof(a), "fine", 4);
	end_of_talk(p, "the source gave up: fine");
}

/* -- the switchover -- */

static void end_puts(struct peer *p)
{
	struct xport_chan *c = p->link->ops->chan(p->link, XPORT_DATA, 0);

	cr_assert_eq(c->ops->end(c), 0);
}

static struct wire_switchover switchover(void)
{
	return (struct wire_switchover){ .state_sum = peer_no_needs(),
					 .commit_at = FERRY_COMMIT_AT_COMPLETE };
}

SOURCE_DOES(miscounts_before_arming, RESERVED, -EPROTO, "PREARM counts 5 pages; its RESIDUEs named 1")
{
	residue(p, 0, 0, 64, 4, 1);
	end_puts(p);
	SAY(p, WIRE_PREARM, (struct wire_count){ .pages = 5 });
}

SOURCE_DOES(zeroes_after_arming, RESERVED, -EPROTO, "the source sent ZERO after PREARM")
{
	end_puts(p);
	SAY(p, WIRE_PREARM, (struct wire_count){ .pages = 0 });
	peer_hear_only(p, WIRE_PREARMED, NULL, 0);
	zero(p, 0, 0, 1);
}

SOURCE_DOES(miscounts_at_the_switchover, RESERVED, -EPROTO,
	    "SWITCHOVER leaves 9 pages and commits at 1; its RESIDUEs named 0")
{
	struct wire_switchover w = switchover();

	w.residue = 9;
	end_puts(p);
	SAY(p, WIRE_SWITCHOVER, w);
}

SOURCE_DOES(commits_at_some_other_time, RESERVED, -EPROTO, "leaves 0 pages and commits at 7")
{
	struct wire_switchover w = switchover();

	w.commit_at = 7;
	end_puts(p);
	SAY(p, WIRE_SWITCHOVER, w);
}

SOURCE_DOES(loses_some_state, RESERVED, -EPROTO, "3 bytes of state with checksum")
{
	struct wire_switchover w = switchover();

	w.state_len = 4;
	end_puts(p);
	peer_say(p, WIRE_STATE, NULL, 0, "abc", 3);
	SAY(p, WIRE_SWITCHOVER, w);
}

SOURCE_DOES(sends_state_that_is_none, RESERVED, -EPROTO, "device state is damaged")
{
	struct wire_switchover w = switchover();
	struct ferry_stream st;

	stream_init(&st);
	cr_assert_eq(stream_append(&st, "abc", 3), 0);
	w.state_len = 3;
	w.state_sum = stream_sum(&st);
	stream_destroy(&st);
	end_puts(p);
	peer_say(p, WIRE_STATE, NULL, 0, "abc", 3);
	SAY(p, WIRE_SWITCHOVER, w);
}

/* The target runs tentatively and pulls, and nobody serves: COMMIT comes before PREPARED. */
SOURCE_DOES_TCP(commits_before_prepared, RESERVED, -EPROTO,
		"the peer sent COMMIT in post-copy, where it has no place")
{
	struct xport_region r = { .id = 10, .npages = FAKE_PAGES0, .base = p->rig.src.region[0].hva };
	struct wire_switchover w = switchover();

	cr_assert_eq(p->link->ops->expose(p->link, &r, 1, XPORT_LOCAL), 0);
	residue(p, 0, 0, 64, 4, 1);
	end_puts(p);
	SAY(p, WIRE_PREARM, (struct wire_count){ .pages = 1 });
	peer_hear_only(p, WIRE_PREARMED, NULL, 0);
	w.residue = 1;
	SAY(p, WIRE_SWITCHOVER, w);
	peer_say(p, WIRE_COMMIT, NULL, 0, NULL, 0);
}

/* SWITCHOVER asks for a tentative run, with no residue, although RESERVED said that output cannot be held. */
RIG_PAIR(hostile_source, asks_for_a_run_that_cannot_be_held)
{
	struct peer p;

	peer_init(&p, kind);
	p.rig.tgt.ops.output_hold = p.rig.tgt.ops.output_release = NULL;
	peer_begin(&p, kind, RESERVED);
	end_puts(&p);
	SAY(&p, WIRE_PREARM, (struct wire_count){ .pages = 0 });
	peer_hear_only(&p, WIRE_PREARMED, NULL, 0);
	SAY(&p, WIRE_SWITCHOVER, switchover());
	peer_target_ends(&p, -EPROTO, "the source asks for a tentative run, and output cannot be held here",
			 true);
}

/* -- page data -- */

/* Puts from a region that is longer at the source than in the map. */
static void put_beyond(struct peer *p)
{
	struct xport_chan *c = p->link->ops->chan(p->link, XPORT_DATA, 0);
	struct xport_region r = { .id = 10, .npages = FAKE_PAGES0 + EXTRA };
	struct page_run run = { .region = 0, .page = FAKE_PAGES0 - 1, .npages = 2 };

	p->ram = aligned_alloc(FAKE_PAGE, r.npages * FAKE_PAGE);
	memset(p->ram, 0xee, r.npages * FAKE_PAGE);
	r.base = p->ram;
	cr_assert_eq(p->link->ops->expose(p->link, &r, 1, XPORT_LOCAL), 0);
	c->ops->put(c, &run, 1);
	c->ops->fence(c);
}

Test(hostile_source, puts_beyond_the_map)
{
	struct peer p;

	peer_connect(&p, RIG_TCP_SHARED, RESERVED);
	put_beyond(&p);
	peer_target_ends(&p, -EPROTO, "region 10, which has 1500", false);
}

/* -- silence -- */

/* Sends nothing more and keeps the link. */
static void stays_silent(const struct rig_kind *kind, enum peer_stage upto, const char *sentence, int err)
{
	struct peer p;

	peer_connect(&p, kind, upto);
	pthread_join(p.thread, NULL);
	cr_assert_eq(p.rig.tres.error, err, "%d: %s", p.rig.tres.error, p.rig.tres.detail);
	rig_says(p.rig.tres.detail, sentence);
	p.link->ops->close(p.link);
	ferry_free(p.rig.tgt.session);
	cr_assert_eq(p.rig.tgt.calls[FAKE_DISCARD], p.rig.tgt.calls[FAKE_RESERVE]);
	rig_free(&p.rig);
}

RIG_PAIR(silent_source, in_reservation)
{
	stays_silent(kind, GREETED, "was lost in reservation: nothing was heard of it for", -EPIPE);
}

RIG_PAIR(silent_source, in_pre_copy)
{
	stays_silent(kind, RESERVED, "was lost in pre-copy", -EPIPE);
}

/* Claims that its puts have ended but sends no end: the target must not wait for its workers for ever. */
static void never_ends_its_puts(bool prearm)
{
	struct peer p;

	peer_connect(&p, RIG_TCP_ANON, RESERVED);
	if (prearm)
		SAY(&p, WIRE_PREARM, (struct wire_count){ .pages = 0 });
	else
		SAY(&p, WIRE_SWITCHOVER, switchover());
	pthread_join(p.thread, NULL);
	cr_assert_eq(p.rig.tres.error, -EPIPE, "%d: %s", p.rig.tres.error, p.rig.tres.detail);
	p.link->ops->close(p.link);
	ferry_free(p.rig.tgt.session);
	cr_assert_eq(p.rig.tres.outcome, FERRY_OUTCOME_DISCARDED);
	cr_assert_eq(p.rig.tgt.calls[FAKE_DISCARD], 1);
	rig_free(&p.rig);
}

Test(hostile_source, arms_and_never_ends_its_puts)
{
	never_ends_its_puts(true);
}

Test(hostile_source, switches_and_never_ends_its_puts)
{
	never_ends_its_puts(false);
}
