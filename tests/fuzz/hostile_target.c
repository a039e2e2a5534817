// SPDX-License-Identifier: MIT
/* A hostile target against a whole source session. */
#include "hostile.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/link/link.h"

static size_t fill(uint8_t *body, const void *m, size_t len)
{
	memcpy(body, m, len);
	return len;
}
#define FILL(body, ...) fill(body, &(__VA_ARGS__), sizeof(__VA_ARGS__))

static uint64_t named(const struct hostile *h)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < VM_REGIONS; i++)
		n += (uint64_t)__builtin_popcountll(h->named[i][0]) +
		     (uint64_t)__builtin_popcountll(h->named[i][1]);
	return n;
}

static size_t offer(uint8_t *body)
{
	const uint32_t head[4] = { 1, 1, 3, 0 }; /* id, version, length */

	memcpy(body, head, sizeof(head));
	memcpy(body + sizeof(head), "abc", 3);
	return sizeof(head) + 3;
}

static size_t body_of(struct hostile *h, enum wire_type t, uint8_t *body)
{
	switch (t) {
	case WIRE_HELLO_ACK:
		return FILL(body,
			    (struct wire_hello_ack){ .magic = WIRE_MAGIC,
						     .version = WIRE_VERSION,
						     .oldest = WIRE_VERSION,
						     .features = WIRE_FEATURES,
						     .page_shift = 12,
						     .generation = h->generation,
						     .commit = h->said[WIRE_COMMITTED]	? COMMIT_DECIDED
							       : h->said[WIRE_PREPARED] ? COMMIT_PREPARED
											: COMMIT_OPEN,
						     .timeout_us = hostile_pace.timeout_us,
						     .left = h->left });
	case WIRE_RESERVED:
		return offer(body + sizeof(struct wire_reserved)) +
		       FILL(body,
			    (struct wire_reserved){
				    .flags = (h->play.flags & PLAY_HOLD ? WIRE_CAN_HOLD : 0) |
					     (h->play.flags & PLAY_ARBITER ? WIRE_TARGET_ARBITER : 0) });
	case WIRE_ROUND_ACK:
		return FILL(body, (struct wire_round){ .round = h->round });
	case WIRE_PREARMED:
		return FILL(body, (struct wire_count){ .pages = named(h) });
	case WIRE_PREPARED:
		return FILL(body, (struct wire_count){ .pages = h->left });
	case WIRE_RUNNING:
	case WIRE_COMMITTED:
	case WIRE_COMPLETE:
		return FILL(body, (struct wire_times){ .arm_us = 3, .load_us = 5, .resume_us = 7 });
	case WIRE_REFUSED:
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

static void *body(struct hostile *h)
{
	return h->msg + sizeof(struct wire_hdr);
}

/* Notes the pages that the source names in RESIDUE. */
static void note_residue(struct hostile *h)
{
	struct wire_residue r;
	size_t len = h->heard_len - sizeof(struct wire_hdr) - sizeof(r);
	uint64_t words[2] = { 0 };

	memcpy(&r, body(h), sizeof(r));
	promise(r.region < VM_REGIONS, "RESIDUE of region %u", r.region);
	promise(len <= sizeof(words), "RESIDUE of %zu bytes", len);
	memcpy(words, (uint8_t *)body(h) + sizeof(r), len);
	for (unsigned i = 0; i < 2 && r.first / 64 + i < 2; i++)
		h->named[r.region][r.first / 64 + i] |= words[i];
}

/* Gets all named pages one by one; the source is frozen. */
static void pull(struct hostile *h)
{
	struct xport_chan *c = h->link->ops->chan(h->link, XPORT_DATA, 0);
	uint32_t tag[XPORT_GETS_MAX];

	for (unsigned i = 0; i < VM_REGIONS; i++)
		for (uint64_t page = 0; page < 128; page++) {
			struct page_run run = { .region = i, .npages = 1, .page = page };
			void *dst = h->ram.at;

			if (!(h->named[i][page / 64] >> page % 64 & 1))
				continue;
			if (c->ops->get(c, &run, &dst, 1, 0))
				return;
			c->ops->reap(c, tag, XPORT_GETS_MAX, 0);
		}
}

static void switched(struct hostile *h)
{
	struct wire_switchover w;

	memcpy(&w, body(h), sizeof(w));
	promise(w.residue == named(h), "SWITCHOVER leaves %llu pages, RESIDUE named %llu",
		(unsigned long long)w.residue, (unsigned long long)named(h));
	if (w.commit_at == FERRY_COMMIT_AT_SWITCHOVER ||
	    (h->play.flags & PLAY_EARLY && h->play.flags & PLAY_LIMIT))
		h->left = w.residue;
	if (h->armed && w.commit_at == FERRY_COMMIT_AT_COMPLETE)
		say(h, WIRE_RUNNING);
	if (w.residue)
		pull(h);
	say(h, WIRE_PREPARED);
}

static void turn(struct hostile *h)
{
	struct wire_round round;

	switch (hostile_hear(h)) {
	case WIRE_HELLO:
		say(h, WIRE_HELLO_ACK);
		break;
	case WIRE_MAP:
		hostile_expose(h, XPORT_PEER_WRITE);
		say(h, WIRE_RESERVED);
		break;
	case WIRE_ROUND_END:
		memcpy(&round, body(h), sizeof(round));
		h->round = round.round;
		say(h, WIRE_ROUND_ACK);
		break;
	case WIRE_RESIDUE:
		note_residue(h);
		break;
	case WIRE_PREARM:
		h->armed = true;
		say(h, WIRE_PREARMED);
		break;
	case WIRE_SWITCHOVER:
		switched(h);
		break;
	case WIRE_COMMIT:
		say(h, WIRE_COMMITTED);
		if (h->left)
			say(h, WIRE_COMPLETE);
		break;
	case WIRE_ABORT:
		say(h, WIRE_ABORT);
		break;
	}
}

/* Accepts the next connection of the source, if it makes one. */
static void accept_source(struct hostile *h, unsigned more, bool other)
{
	struct pollfd p = { .fd = h->listener->ops->fd(h->listener), .events = POLLIN };
	struct xport_link *l;

	(void)more;
	(void)other;
	hostile_drop(h);
	h->seq = 0;
	while (h->listener->ops->accept(h->listener, &l, &h->fail))
		if (poll(&p, 1, (int)(hostile_pace.turn_us / 1000)) <= 0)
			return;
	h->link = l;
	h->generation = l->id.generation;
	h->ctl = l->ops->chan(l, XPORT_CONTROL, 0);
}

static const struct hostile_role role = { turn, body_of, accept_source };

/* A source that has not decided must run its VM; one that has decided must never run it again. */
static void judge(struct hostile *h)
{
	const struct ferry_result *r = &h->res;
	const struct vm *vm = &h->vm;
	bool decided = commit_get(&h->session->commit) == COMMIT_DECIDED;
	bool confirmed = h->said[WIRE_COMMITTED] || h->said_commit == COMMIT_DECIDED ||
			 vm->record == FERRY_OWNER_TARGET;
	const char *how = ferry_outcome_name(r->outcome);

	promise((r->error == 0) == (r->outcome == FERRY_OUTCOME_MIGRATED), "%s with error %d", how, r->error);
	promise(r->detail[0], "%s without a sentence", how);
	promise(vm->calls[VM_DIRTY_STOP] == vm->calls[VM_DIRTY_START],
		"%s: tracking was begun %u times, ended %u", how, vm->calls[VM_DIRTY_START],
		vm->calls[VM_DIRTY_STOP]);
	promise(vm->calls[VM_RETIRE] == (r->outcome == FERRY_OUTCOME_MIGRATED), "%s: retired %u times", how,
		vm->calls[VM_RETIRE]);
	promise(vm->calls[VM_RESUME] <= vm->calls[VM_PAUSE] && vm->calls[VM_PAUSE] <= 1,
		"%s: %u resumes of %u pauses", how, vm->calls[VM_RESUME], vm->calls[VM_PAUSE]);
	if (decided) {
		promise(h->said[WIRE_PREPARED] || h->said_commit >= COMMIT_PREPARED,
			"%s: decided without PREPARED", how);
		promise(!vm->calls[VM_RESUME] && !vm->runs && r->owner != FERRY_OWNER_SOURCE,
			"%s: decided, and owner %s", how, ferry_owner_name(r->owner));
		promise(r->outcome != FERRY_OUTCOME_MIGRATED || confirmed,
			"migrated, and nobody confirmed it");
		return;
	}
	if (h->play.flags & PLAY_ARBITER && r->owner != FERRY_OWNER_SOURCE) {
		promise(vm->calls[VM_ARBITER] && !vm->runs, "%s: owner %s without the arbiter", how,
			ferry_owner_name(r->owner));
		return;
	}
	promise(r->owner == FERRY_OWNER_SOURCE && vm->runs, "%s: not decided, owner %s, %s", how,
		ferry_owner_name(r->owner), vm->runs ? "runs" : "stands still");
	promise(r->outcome == (vm->calls[VM_PAUSE] ? FERRY_OUTCOME_FELL_BACK : FERRY_OUTCOME_REFUSED),
		"%s after %u pauses", how, vm->calls[VM_PAUSE]);
}

void play_hostile_target(const uint8_t *data, size_t size, struct ferry_result *res)
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
	hostile_up(h, false, &play);
	vm_source(&h->vm, play.flags & PLAY_SHARED, play.flags & PLAY_ARBITER);
	h->vm.record = record[play.writes >> 4 & 3];
	h->vm.writes = play.writes & 15;
	hostile_config(h, &c);
	v.vm = &h->vm;
	v.ops = &h->vm.ops;
	v.regions = h->vm.region;
	v.nregions = h->vm.nregions;
	promise(!xport_listen(&h->listener, "mem:fuzz", &h->param, &h->fail), "cannot listen: %s",
		fail_text(&h->fail));
	promise(!ferry_source_new(&h->session, &v, &c), "no source");
	promise(!ferry_open(h->session, "mem:fuzz"), "cannot open: %s", ferry_get_detail(h->session));
	promise(!pthread_create(&h->thread, NULL, hostile_session, h), "no thread");
	hostile_play(h, &role, &in);
	if (h->link)
		h->link->ops->kill(h->link);
	h->listener->ops->close(h->listener);
	pthread_join(h->thread, NULL);
	judge(h);
	vm_check(&h->vm);
	ferry_free(h->session);
	vm_free(&h->vm);
	if (res)
		*res = h->res;
	hostile_down(h);
	free(h);
	fuzz_left(&before);
}
