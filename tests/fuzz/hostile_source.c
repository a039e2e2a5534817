// SPDX-License-Identifier: MIT
/* A hostile source against a whole target session. */
#include "hostile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/link/link.h"

#define SECTION_HEADER 16u
#define STATE_BYTES 40u

static bool residue(const struct hostile *h)
{
	return h->play.mode % 3 == FERRY_MODE_POSTCOPY;
}

static struct wire_hello hello(const struct hostile *h)
{
	struct ferry_config c;
	struct wire_hello m;

	hostile_config(h, &c);
	m = (struct wire_hello){ .magic = WIRE_MAGIC,
				 .version = WIRE_VERSION,
				 .oldest = WIRE_VERSION_OLDEST,
				 .features = WIRE_FEATURES,
				 .page_shift = 12,
				 .generation = h->generation,
				 .mode = c.mode,
				 .commit_at = c.commit_at,
				 .at_hold_limit = (uint16_t)c.at_hold_limit,
				 .hold_limit_us = c.hold_limit_us,
				 .timeout_us = hostile_pace.timeout_us,
				 .reconnect_us = c.flags & FERRY_CONFIG_NO_RECONNECT
							 ? 0
							 : hostile_pace.reconnect_us };
	memset(m.number, 0x51, sizeof(m.number));
	return m;
}

static size_t map(struct hostile *h, uint8_t *body)
{
	struct wire_map m = { .nregions = VM_REGIONS,
			      .flags = (h->play.flags & PLAY_ARBITER ? WIRE_SOURCE_ARBITER : 0) |
				       WIRE_SOURCE_POISON,
			      .needs_len = h->state.len,
			      .needs_sum = stream_sum(&h->state) };

	memcpy(body, &m, sizeof(m));
	for (unsigned i = 0; i < VM_REGIONS; i++) {
		struct wire_region r = { .id = i ? VM_ID1 : VM_ID0,
					 .page_shift = 12,
					 .flags = h->play.flags & PLAY_SHARED ? FERRY_REGION_SHARED : 0,
					 .gpa = i ? UINT64_C(1) << 32 : 0,
					 .len = (i ? VM_PAGES1 : VM_PAGES0) * FUZZ_PAGE };

		memcpy(body + sizeof(m) + i * sizeof(r), &r, sizeof(r));
	}
	return sizeof(m) + VM_REGIONS * sizeof(struct wire_region);
}

static uint64_t named(const struct hostile *h)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < VM_REGIONS; i++)
		n += (uint64_t)__builtin_popcountll(h->named[i][0]) +
		     (uint64_t)__builtin_popcountll(h->named[i][1]);
	return n;
}

/* Names every third page of region 0. */
static size_t residue_message(struct hostile *h, uint8_t *body)
{
	struct wire_residue m = { .region = 0, .npages = VM_PAGES0 };
	uint64_t words[2] = { UINT64_C(0x9249249249249249), 0x21 };

	for (unsigned i = 0; i < 2; i++)
		h->named[0][i] |= words[i];
	memcpy(body, &m, sizeof(m));
	memcpy(body + sizeof(m), words, sizeof(words));
	return sizeof(m) + sizeof(words);
}

static size_t state(uint8_t *body)
{
	const uint32_t head[4] = { 1, 1, STATE_BYTES, 0 }; /* id, version, length */

	memcpy(body, head, sizeof(head));
	memset(body + sizeof(head), 0x5a, STATE_BYTES);
	return sizeof(head) + STATE_BYTES;
}

static size_t fill(uint8_t *body, const void *m, size_t len)
{
	memcpy(body, m, len);
	return len;
}
#define FILL(body, ...) fill(body, &(__VA_ARGS__), sizeof(__VA_ARGS__))

static size_t body_of(struct hostile *h, enum wire_type t, uint8_t *body)
{
	struct wire_hello m;

	switch (t) {
	case WIRE_HELLO:
		m = hello(h);
		return fill(body, &m, sizeof(m));
	case WIRE_MAP:
		return map(h, body);
	case WIRE_STATE:
		return state(body);
	case WIRE_ZERO:
		return FILL(body, (struct page_run){ .region = 0, .page = 5, .npages = 2 });
	case WIRE_POISON:
		return FILL(body, (struct page_run){ .region = 0, .page = 5, .npages = 2 });
	case WIRE_ROUND_END:
		return FILL(body, (struct wire_round){ .round = h->round++ });
	case WIRE_RESIDUE:
		return residue_message(h, body);
	case WIRE_PREARM:
		return FILL(body, (struct wire_count){ .pages = named(h) });
	case WIRE_SWITCHOVER:
		return FILL(body,
			    (struct wire_switchover){ .residue = named(h),
						      .state_len = h->state.len,
						      .state_sum = stream_sum(&h->state),
						      .commit_at = h->play.flags & PLAY_SWITCHOVER
									   ? FERRY_COMMIT_AT_SWITCHOVER
									   : FERRY_COMMIT_AT_COMPLETE });
	case WIRE_ABORT:
		memcpy(body + sizeof(struct wire_abort), "full", 4);
		return FILL(body, (struct wire_abort){ .err = -ENOSPC }) + 4;
	case WIRE_PING:
		return FILL(body, (struct wire_ping){ .pages_left = 1 });
	default:
		return 0;
	}
}

static void say(struct hostile *h, enum wire_type t)
{
	uint8_t body[512];

	hostile_say(h, t, body, body_of(h, t, body));
}

static void round_of_puts(struct hostile *h)
{
	struct page_run runs[2] = { { 0, 30, 0 }, { 1, VM_PAGES1, 0 } };
	struct xport_chan *c = h->link ? h->link->ops->chan(h->link, XPORT_DATA, 0) : NULL;

	hostile_expose(h, XPORT_LOCAL);
	if (c) {
		c->ops->put(c, runs, 2);
		c->ops->fence(c);
	}
	say(h, WIRE_ROUND_END);
	hostile_hear_until(h, 1u << WIRE_ROUND_ACK);
}

static void arm(struct hostile *h)
{
	hostile_end_puts(h);
	if (!residue(h))
		return;
	say(h, WIRE_RESIDUE);
	say(h, WIRE_PREARM);
	hostile_hear_until(h, 1u << WIRE_PREARMED);
	hostile_expose(h, XPORT_PEER_READ);
}

static void switch_over(struct hostile *h)
{
	say(h, WIRE_STATE);
	say(h, WIRE_SWITCHOVER);
	if (hostile_hear_until(h, 1u << WIRE_RUNNING | 1u << WIRE_PREPARED) &&
	    wire_type_of(h->msg, h->heard_len) == WIRE_RUNNING)
		hostile_hear_until(h, 1u << WIRE_PREPARED);
}

static void turn(struct hostile *h)
{
	switch (h->turn++) {
	case 0:
		say(h, WIRE_HELLO);
		hostile_hear_until(h, 1u << WIRE_HELLO_ACK);
		break;
	case 1:
		say(h, WIRE_STATE);
		say(h, WIRE_MAP);
		hostile_hear_until(h, 1u << WIRE_RESERVED);
		break;
	case 2:
		round_of_puts(h);
		break;
	case 3:
		arm(h);
		break;
	case 4:
		switch_over(h);
		break;
	case 5:
		say(h, WIRE_COMMIT);
		hostile_hear_until(h, 1u << WIRE_COMMITTED);
		break;
	case 6:
		if (h->play.flags & PLAY_SWITCHOVER && residue(h))
			hostile_hear_until(h, 1u << WIRE_COMPLETE);
		say(h, WIRE_BYE);
		break;
	}
}

static void connect_to(struct hostile *h, unsigned more, bool other)
{
	struct xport_link_id id = { .channels = h->play.flags & PLAY_TWO ? 2 : 1 };

	hostile_drop(h);
	h->seq = 0;
	h->generation += more;
	h->state.len = 0;
	id.generation = h->generation;
	memset(id.session, other ? 0x43 : 0x42, sizeof(id.session));
	fail_reset(&h->fail);
	if (xport_connect(&h->link, h->uri, &id, &h->param, hostile_pace.turn_us, &h->fail) < 0) {
		h->link = NULL;
		return;
	}
	h->ctl = h->link->ops->chan(h->link, XPORT_CONTROL, 0);
}

static const struct hostile_role role = { turn, body_of, connect_to };

/* Without a COMMIT or the arbiter's word the target must not release output or run without holding it. */
static void judge(struct hostile *h)
{
	const struct ferry_result *r = &h->res;
	const struct vm *vm = &h->vm;
	bool may_own = h->said[WIRE_COMMIT] || vm->record == FERRY_OWNER_TARGET;
	const char *how = ferry_outcome_name(r->outcome);

	promise((r->error == 0) == (r->outcome == FERRY_OUTCOME_MIGRATED), "%s with error %d", how, r->error);
	promise(r->detail[0], "%s without a sentence", how);
	if (!may_own) {
		promise(!vm->calls[VM_RELEASE] && !vm->calls[VM_ACTIVATE] && !vm->ran_free,
			"%s: something was let out without COMMIT", how);
		promise(r->owner != FERRY_OWNER_TARGET, "%s: owner target without COMMIT", how);
	}
	promise(vm->calls[VM_RELEASE] <= vm->calls[VM_HOLD] && vm->calls[VM_ACTIVATE] <= 1,
		"%s: released %u of %u, activated %u", how, vm->calls[VM_RELEASE], vm->calls[VM_HOLD],
		vm->calls[VM_ACTIVATE]);
	promise(vm->calls[VM_RESERVE] <= 1 && vm->calls[VM_LOAD] <= 1 &&
			vm->calls[VM_DISCARD] <= vm->calls[VM_RESERVE],
		"%s: %u reserve, %u load, %u discard", how, vm->calls[VM_RESERVE], vm->calls[VM_LOAD],
		vm->calls[VM_DISCARD]);
	switch (r->outcome) {
	case FERRY_OUTCOME_MIGRATED:
		promise(r->owner == FERRY_OWNER_TARGET && vm->runs && !vm->held && vm->calls[VM_ACTIVATE],
			"migrated and not running");
		break;
	case FERRY_OUTCOME_REFUSED:
	case FERRY_OUTCOME_DISCARDED:
		promise(r->owner == FERRY_OWNER_SOURCE && !vm->runs &&
				vm->calls[VM_DISCARD] == vm->calls[VM_RESERVE],
			"%s: owner %s, %u discards of %u", how, ferry_owner_name(r->owner),
			vm->calls[VM_DISCARD], vm->calls[VM_RESERVE]);
		break;
	case FERRY_OUTCOME_IN_DOUBT:
		promise(r->owner == FERRY_OWNER_UNKNOWN && !vm->runs, "in doubt and running");
		break;
	case FERRY_OUTCOME_LOST:
		promise(r->owner == FERRY_OWNER_TARGET && !vm->runs, "lost and running");
		break;
	default:
		broken("a target that %s", how);
	}
}

void play_hostile_source(const uint8_t *data, size_t size, struct ferry_result *res)
{
	static const enum ferry_owner record[4] = { FERRY_OWNER_UNKNOWN, FERRY_OWNER_SOURCE,
						    FERRY_OWNER_TARGET, FERRY_OWNER_NONE };
	struct fuzz_before before = fuzz_before();
	struct ferry_vm v = { FERRY_VM_INIT };
	struct fuzz_in in = { data, size };
	struct ferry_config c;
	struct hostile *h = calloc(1, sizeof(*h));
	struct play play;

	fuzz_take(&in, &play, sizeof(play));
	hostile_up(h, true, &play);
	vm_target(&h->vm, play.flags & PLAY_HOLD, play.flags & PLAY_ARBITER);
	h->vm.record = record[play.writes >> 4 & 3];
	hostile_config(h, &c);
	v.vm = &h->vm;
	v.ops = &h->vm.ops;
	promise(!ferry_target_new(&h->session, &v, &c), "no target");
	snprintf(h->uri, sizeof(h->uri), "mem:fuzz");
	promise(!ferry_open(h->session, h->uri), "cannot listen: %s", ferry_get_detail(h->session));
	promise(!pthread_create(&h->thread, NULL, hostile_session, h), "no thread");
	hostile_play(h, &role, &in);
	if (h->link)
		h->link->ops->kill(h->link);
	pthread_join(h->thread, NULL);
	judge(h);
	vm_check(&h->vm);
	ferry_free(h->session);
	vm_check(&h->vm);
	vm_free(&h->vm);
	if (res)
		*res = h->res;
	hostile_down(h);
	free(h);
	fuzz_left(&before);
}
