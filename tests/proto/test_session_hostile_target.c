// SPDX-License-Identifier: MIT
/*
 * A hand-written target that violates docs/protocol.md. Whatever it sends, the source's session must end soon
 * with an error and a sentence, and its VM continues, from the stop point if it was paused.
 */
#include <stdlib.h>
#include <unistd.h>

#include "peer.h"

/* The point up to which the target behaves correctly. */
enum target_stage { ACCEPTED, ACKNOWLEDGED, MAPPED, RESERVING, ROUND_DONE, SWITCHED };

static void begin_as(struct peer *p, void (*change)(struct rig *r))
{
	peer_init(p, RIG_MEM_ANON);
	change(&p->rig);
	peer_start_source(p, "mem:hostile");
	peer_accept(p);
}

static void stops_and_copies(struct rig *r)
{
	memset(r->src.writes, 0, sizeof(r->src.writes));
	r->scfg.mode = FERRY_MODE_STOP_AND_COPY;
}

static void begin(struct peer *p)
{
	begin_as(p, stops_and_copies);
}

/* The correct part. */
static void come_to_as(struct peer *p, void (*change)(struct rig *r), enum target_stage upto)
{
	begin_as(p, change);
	peer_hear_only(p, WIRE_HELLO, NULL, 0);
	if (upto >= ACKNOWLEDGED)
		SAY(p, WIRE_HELLO_ACK, peer_ack());
	if (upto >= MAPPED)
		peer_hear_until(p, WIRE_MAP);
	if (upto >= RESERVING) {
		peer_expose(p);
		SAY(p, WIRE_RESERVED, (struct wire_reserved){ .flags = WIRE_CAN_HOLD });
	}
	if (upto >= ROUND_DONE)
		peer_hear_until(p, WIRE_ROUND_END);
	if (upto >= SWITCHED) {
		SAY(p, WIRE_ROUND_ACK, (struct wire_round){ 0 });
		/* The guest wrote until its pause, so there is one more round. */
		peer_hear_until(p, WIRE_ROUND_END);
		SAY(p, WIRE_ROUND_ACK, (struct wire_round){ .round = 1 });
		peer_hear_until(p, WIRE_SWITCHOVER);
	}
}

static void come_to(struct peer *p, enum target_stage upto)
{
	come_to_as(p, stops_and_copies, upto);
}

/* The reason for programs must agree with the sentence for people. */
static enum ferry_reason reason_due(const struct ferry_result *r)
{
	if (strstr(r->detail, "the target refused") || strstr(r->detail, "the target gave up"))
		return FERRY_REASON_PEER;
	switch (r->error) {
	case -ECANCELED:
		return FERRY_REASON_CANCELED;
	case -ETIME:
		return FERRY_REASON_LIMIT;
	case -EPROTO:
	case -EPROTONOSUPPORT:
		return FERRY_REASON_PROTOCOL;
	case -EPIPE:
	case -ETIMEDOUT:
		return FERRY_REASON_LINK;
	default:
		return r->reason;
	}
}

static void source_goes_on(struct peer *p, int err, const char *sentence)
{
	const struct ferry_result *res = &p->rig.sres;
	bool paused = p->rig.src.calls[FAKE_PAUSE];

	p->link->ops->kill(p->link);
	pthread_join(p->thread, NULL);
	p->link->ops->close(p->link);
	p->listener->ops->close(p->listener);
	ferry_free(p->rig.src.session);
	cr_assert_eq(res->error, err, "%d: %s", res->error, res->detail);
	rig_says(res->detail, sentence);
	cr_assert_eq(res->owner, FERRY_OWNER_SOURCE);
	cr_assert_eq(res->reason, reason_due(res), "%s: %s", ferry_reason_name(res->reason), res->detail);
	paused = p->rig.src.calls[FAKE_PAUSE];
	cr_assert_eq(res->outcome, paused ? FERRY_OUTCOME_FELL_BACK : FERRY_OUTCOME_REFUSED, "%s",
		     ferry_outcome_name(res->outcome));
	cr_assert_eq(p->rig.src.calls[FAKE_RESUME], paused);
	cr_assert_eq(p->rig.src.calls[FAKE_RETIRE], 0);
	cr_assert_eq(p->rig.src.calls[FAKE_DIRTY_STOP], p->rig.src.calls[FAKE_DIRTY_START]);
	fakevm_run_on(&p->rig.src);
	fakevm_check_memory(&p->rig.src);
	free(p->ram);
	rig_free(&p->rig);
}

/* After its violation the target reads until the source closes the link. */
#define TARGET_DOES(name, upto, error, sentence)              \
	static void target_##name(struct peer *p);            \
	Test(hostile_target, name)                            \
	{                                                     \
		struct peer p;                                \
		come_to(&p, upto);                            \
		target_##name(&p);                            \
		while (!p.heard[0] && peer_hear(&p, NULL, 0)) \
			;                                     \
		source_goes_on(&p, error, sentence);          \
	}                                                     \
	static void target_##name(struct peer *p)

TARGET_DOES(acknowledges_with_another_magic, ACCEPTED, -EPROTO, "HELLO_ACK has magic 0x59525247")
{
	struct wire_hello_ack a = peer_ack();

	a.magic++;
	SAY(p, WIRE_HELLO_ACK, a);
}

TARGET_DOES(acknowledges_another_version, ACCEPTED, -EPROTONOSUPPORT,
	    "the target speaks protocol version 3, this source version 1; update the library at the source")
{
	struct wire_hello_ack a = peer_ack();

	a.version = a.oldest = 3;
	SAY(p, WIRE_HELLO_ACK, a);
}

TARGET_DOES(acknowledges_what_was_not_offered, ACCEPTED, -EPROTO,
	    "HELLO_ACK accepts features 0x8000000000000001; 0x1 were offered")
{
	struct wire_hello_ack a = peer_ack();

	a.features |= UINT64_C(1) << 63;
	SAY(p, WIRE_HELLO_ACK, a);
}

/* A later version: a longer HELLO_ACK, and optional messages before, between and after. */
TARGET_DOES(says_more_than_is_known, ACCEPTED, -ENOSPC, "the target refused: full")
{
	struct {
		struct wire_hello_ack a;
		uint8_t more[100];
	} ack;

	memset(&ack, 0xa5, sizeof(ack));
	ack.a = peer_ack();
	peer_say(p, WIRE_OPTIONAL, NULL, 0, NULL, 0);
	SAY(p, WIRE_HELLO_ACK, ack);
	peer_say(p, WIRE_OPTIONAL + 9, "news", 4, NULL, 0);
	peer_hear_until(p, WIRE_MAP);
	peer_say(p, 0xffff, "more", 4, NULL, 0);
	peer_say(p, WIRE_REFUSED, &(struct wire_abort){ .err = -ENOSPC }, sizeof(struct wire_abort), "full",
		 4);
}

TARGET_DOES(acknowledges_another_generation, ACCEPTED, -EPROTO, "generation 5")
{
	struct wire_hello_ack a = peer_ack();

	a.generation = 5;
	SAY(p, WIRE_HELLO_ACK, a);
}

TARGET_DOES(acknowledges_in_no_known_state, ACCEPTED, -EPROTO, "commit state 9")
{
	struct wire_hello_ack a = peer_ack();

	a.commit = 9;
	SAY(p, WIRE_HELLO_ACK, a);
}

TARGET_DOES(acknowledges_a_silence_of_a_day, ACCEPTED, -EINVAL,
	    "the target's timeout_us is 86400000 ms, more than 10 times as long as this source's")
{
	struct wire_hello_ack a = peer_ack();

	a.timeout_us = UINT64_C(86400000000);
	SAY(p, WIRE_HELLO_ACK, a);
}

TARGET_DOES(reserves_before_it_greets, ACCEPTED, -EPROTO,
	    "the peer sent RESERVED in pre-migration, where it has no place")
{
	SAY(p, WIRE_RESERVED, (struct wire_reserved){ 0 });
}

TARGET_DOES(greets_twice, ACKNOWLEDGED, -EPROTO,
	    "the peer sent HELLO_ACK in reservation, where it has no place")
{
	SAY(p, WIRE_HELLO_ACK, peer_ack());
}

TARGET_DOES(sends_what_sources_send, ACKNOWLEDGED, -EPROTO, "the peer sent MAP, which only the source sends")
{
	SAY(p, WIRE_MAP, (struct wire_map){ 0 });
}

TARGET_DOES(refuses_in_words_nobody_can_read, MAPPED, -ENOSPC, "the target refused: no?room?")
{
	struct wire_abort a = { .err = -ENOSPC };

	peer_say(p, WIRE_REFUSED, &a, sizeof(a), "no\x1broom\n", 8);
}

TARGET_DOES(refuses_without_an_error, MAPPED, -ECONNABORTED, "the target refused: fine")
{
	struct wire_abort a = { .err = 17 };

	peer_say(p, WIRE_REFUSED, &a, sizeof(a), "fine", 4);
}

TARGET_DOES(refuses_at_length, MAPPED, -EPROTO, "REFUSED has 401 bytes behind its 8")
{
	struct wire_abort a = { .err = -ENOSPC };
	char text[WIRE_TEXT_MAX + 1];

	memset(text, 'a', sizeof(text));
	peer_say(p, WIRE_REFUSED, &a, sizeof(a), text, sizeof(text));
}

TARGET_DOES(is_prepared_in_reservation, MAPPED, -EPROTO,
	    "the peer sent PREPARED in reservation, where it has no place")
{
	SAY(p, WIRE_PREPARED, (struct wire_count){ 0 });
}

TARGET_DOES(truncates_a_message, MAPPED, -EPROTO, "RESERVED has 4 bytes; it needs at least 8")
{
	peer_say(p, WIRE_RESERVED, "1234", 4, NULL, 0);
}

TARGET_DOES(offers_too_much, MAPPED, -EPROTO,
	    "RESERVED has 65537 bytes behind its 8; it takes at most 65536 times 1")
{
	static const char much[WIRE_OFFER_MAX + 1];
	struct wire_reserved r = { 0 };

	peer_say(p, WIRE_RESERVED, &r, sizeof(r), much, sizeof(much));
}

/* A source whose VMM has no op for the offer does not read it. */
TARGET_DOES(offers_what_nobody_asked_for, MAPPED, -ENOSPC, "the target gave up: full")
{
	struct wire_reserved r = { .flags = WIRE_CAN_HOLD };
	struct wire_abort a = { .err = -ENOSPC };

	peer_expose(p);
	peer_say(p, WIRE_RESERVED, &r, sizeof(r), "no section", 10);
	peer_hear_until(p, WIRE_ROUND_END);
	peer_say(p, WIRE_ABORT, &a, sizeof(a), "full", 4);
}

TARGET_DOES(refuses_in_pre_copy, ROUND_DONE, -EPROTO,
	    "the peer sent REFUSED in pre-copy, where it has no place")
{
	SAY(p, WIRE_REFUSED, (struct wire_abort){ .err = -ENOSPC });
}

TARGET_DOES(gives_up_in_pre_copy, ROUND_DONE, -ENOSPC, "the target gave up: full")
{
	struct wire_abort a = { .err = -ENOSPC };

	peer_say(p, WIRE_ABORT, &a, sizeof(a), "full", 4);
}

TARGET_DOES(acknowledges_another_round, ROUND_DONE, -EPROTO, "the target acknowledged round 7; 0 was due")
{
	SAY(p, WIRE_ROUND_ACK, (struct wire_round){ .round = 7 });
}

TARGET_DOES(is_armed_and_was_not_asked, ROUND_DONE, -EPROTO, "PREARMED")
{
	SAY(p, WIRE_PREARMED, (struct wire_count){ 0 });
}

TARGET_DOES(runs_in_pre_copy, ROUND_DONE, -EPROTO, "the peer sent RUNNING in pre-copy, where it has no place")
{
	SAY(p, WIRE_RUNNING, (struct wire_times){ 0 });
}

TARGET_DOES(owns_the_vm_in_pre_copy, ROUND_DONE, -EPROTO,
	    "the peer sent COMMITTED in pre-copy, where it has no place")
{
	SAY(p, WIRE_COMMITTED, (struct wire_times){ 0 });
}

TARGET_DOES(owns_the_vm_before_the_commit, SWITCHED, -EPROTO,
	    "the target sent COMMITTED where PREPARED was due")
{
	SAY(p, WIRE_COMMITTED, (struct wire_times){ 0 });
}

TARGET_DOES(completes_before_the_commit, SWITCHED, -EPROTO,
	    "the peer sent COMPLETE in commitment, where it has no place")
{
	SAY(p, WIRE_COMPLETE, (struct wire_times){ 0 });
}

TARGET_DOES(gives_up_after_the_switchover, SWITCHED, -EIO, "the target gave up: no disk")
{
	struct wire_abort a = { .err = -EIO };

	peer_say(p, WIRE_ABORT, &a, sizeof(a), "no disk", 7);
}

/* -- post-copy: the heartbeat continues, the main thread hangs -- */

#define BEAT_US 20000u

/* Twice the timeout, so that the peer's PINGs are not late on a busy machine. */
static void leaves_most_pages(struct rig *r)
{
	rig_postcopy(r, 0);
	r->scfg.timeout_us = 2 * PEER_TIMEOUT_US;
}

/* A hold limit of half a timeout; for a page the source waits four timeouts and a reconnect. */
static void holds_for_a_while(struct rig *r)
{
	leaves_most_pages(r);
	r->scfg.hold_limit_us = PEER_TIMEOUT_US;
}

/* Correct until it has sent RUNNING. *residue: the number of pages that it should fetch. */
static void come_to_postcopy(struct peer *p, void (*change)(struct rig *r), uint64_t *residue)
{
	struct wire_switchover w;
	struct wire_round round;
	struct wire_count n;
	uint8_t body[64];
	unsigned got;

	begin_as(p, change);
	peer_hear_only(p, WIRE_HELLO, NULL, 0);
	SAY(p, WIRE_HELLO_ACK, peer_ack());
	peer_hear_until(p, WIRE_MAP);
	peer_expose(p);
	SAY(p, WIRE_RESERVED, (struct wire_reserved){ .flags = WIRE_CAN_HOLD });
	while ((got = peer_hear(p, body, sizeof(body))) != WIRE_SWITCHOVER) {
		cr_assert_neq(got, 0, "the source has hung up: %s", p->heard);
		memcpy(&round, body, sizeof(round));
		memcpy(&n, body, sizeof(n));
		if (got == WIRE_ROUND_END)
			SAY(p, WIRE_ROUND_ACK, round);
		if (got == WIRE_PREARM)
			SAY(p, WIRE_PREARMED, n);
	}
	memcpy(&w, body, sizeof(w));
	*residue = w.residue;
	SAY(p, WIRE_RUNNING, (struct wire_times){ 0 });
}

/* Functions for pages_left of the nth PING. */
static uint64_t nothing(uint64_t residue, uint64_t nth)
{
	(void)residue;
	(void)nth;
	return 0;
}

static uint64_t up_and_down(uint64_t residue, uint64_t nth)
{
	return residue / 2 + nth % 2;
}

static uint64_t down_from_beyond(uint64_t residue, uint64_t nth)
{
	(void)residue;
	return UINT64_MAX - nth;
}

static uint64_t fewer(uint64_t residue, uint64_t nth)
{
	return nth < residue ? residue - nth : 1;
}

/* Sends these PINGs until the source gives up. cancel: cancel the source after the third. */
static void beat(struct peer *p, uint64_t (*left)(uint64_t residue, uint64_t nth), uint64_t residue,
		 bool cancel)
{
	uint8_t msg[XPORT_MSG_MAX];
	struct wire_hdr h = { 0 };
	uint64_t nth = 0;
	size_t len;
	int got;

	do {
		SAY(p, WIRE_PING, (struct wire_ping){ .pages_left = left(residue, nth++) });
		if (cancel && nth == 3)
			cr_assert_eq(ferry_cancel(p->rig.src.session), 0);
		got = p->ctl->ops->recv(p->ctl, msg, sizeof(msg), &len, BEAT_US);
		if (!got)
			memcpy(&h, msg, sizeof(h));
		cr_assert(got == 0 || got == -EAGAIN, "%d: the source hung up without a word", got);
		cr_assert_lt(nth * BEAT_US, PEER_WAIT_US, "the source waits for ever");
	} while (h.type != WIRE_ABORT);
}

static void hangs(void (*change)(struct rig *r), uint64_t (*left)(uint64_t residue, uint64_t nth),
		  bool cancel, int err, const char *sentence)
{
	struct peer p;
	uint64_t residue;

	come_to_postcopy(&p, change, &residue);
	cr_assert_gt(residue, 100);
	beat(&p, left, residue, cancel);
	source_goes_on(&p, err, sentence);
}

Test(hung_target, fetches_all_and_is_never_prepared)
{
	hangs(leaves_most_pages, nothing, false, -ETIME,
	      "the target is heard and has all pages, but has not said PREPARED for");
}

Test(hung_target, has_now_more_now_fewer_to_fetch)
{
	hangs(leaves_most_pages, up_and_down, false, -ETIME,
	      "the target is heard but has fetched no page for");
}

Test(hung_target, counts_down_from_more_than_there_is)
{
	hangs(leaves_most_pages, down_from_beyond, false, -ETIME,
	      "the target is heard but has fetched no page for");
}

Test(hung_target, forgets_the_hold_limit)
{
	hangs(holds_for_a_while, fewer, false, -ETIME, "has not ended the tentative run at that limit");
}

Test(hung_target, is_canceled)
{
	hangs(leaves_most_pages, fewer, true, -ECANCELED, "canceled by the embedder in post-copy");
}

Test(hostile_target, completes_in_post_copy_before_the_commit)
{
	struct peer p;
	uint64_t residue;

	come_to_postcopy(&p, leaves_most_pages, &residue);
	SAY(&p, WIRE_COMPLETE, (struct wire_times){ 0 });
	while (!p.heard[0] && peer_hear(&p, NULL, 0))
		;
	source_goes_on(&p, -EPROTO, "the target sent COMPLETE where PREPARED was due");
}

/* -- the downtime -- */

static void stands_still_for_a_while(struct rig *r)
{
	stops_and_copies(r);
	r->scfg.timeout_us = 2 * PEER_TIMEOUT_US;
	r->scfg.switchover_limit_us = 2 * PEER_TIMEOUT_US;
}

Test(hung_target, never_acknowledges_the_last_round)
{
	struct peer p;

	come_to_as(&p, stands_still_for_a_while, ROUND_DONE);
	SAY(&p, WIRE_ROUND_ACK, (struct wire_round){ 0 });
	peer_hear_until(&p, WIRE_ROUND_END);
	beat(&p, nothing, 0, false);
	source_goes_on(&p, -ETIME,
		       "and the last round has not ended: the link is too slow for it, or the target hangs");
}

Test(hung_target, never_is_prepared_in_the_downtime)
{
	struct peer p;

	come_to_as(&p, stands_still_for_a_while, SWITCHED);
	beat(&p, nothing, 0, false);
	source_goes_on(&p, -ETIME,
		       "and the target has not said PREPARED: it takes too long there to load it");
}

static void has_much_state(struct rig *r)
{
	stands_still_for_a_while(r);
	r->src.state_bytes = 8 << 20;
}

/* Each message is taken in time, but not all of them together. */
Test(hung_target, takes_the_state_by_the_drop)
{
	struct peer p;

	come_to_as(&p, has_much_state, ROUND_DONE);
	SAY(&p, WIRE_ROUND_ACK, (struct wire_round){ 0 });
	peer_hear_until(&p, WIRE_ROUND_END);
	SAY(&p, WIRE_ROUND_ACK, (struct wire_round){ .round = 1 });
	while (peer_hear(&p, NULL, 0) == WIRE_STATE)
		usleep(PEER_TIMEOUT_US / 4);
	source_goes_on(&p, -ETIME, "and the target takes what is sent too slowly");
}

/* -- silence -- */

/* Sends nothing more and keeps the link. */
static void silent(enum target_stage upto, int err, const char *sentence)
{
	struct peer p;

	come_to(&p, upto);
	while (peer_hear(&p, NULL, 0))
		;
	source_goes_on(&p, err, sentence);
}

Test(silent_target, in_pre_migration)
{
	struct peer p;

	begin(&p);
	cr_assert_eq(ferry_cancel(p.rig.src.session), 0); /* otherwise it would try for 10 s */
	source_goes_on(&p, -ECANCELED, "canceled by the embedder in pre-migration");
}

Test(silent_target, in_reservation)
{
	silent(MAPPED, -EPIPE, "was lost in reservation: nothing was heard of it for");
}

Test(silent_target, in_pre_copy)
{
	silent(ROUND_DONE, -EPIPE, "was lost in pre-copy");
}

Test(silent_target, after_the_switchover)
{
	silent(SWITCHED, -EPIPE, "was lost in commitment");
}
