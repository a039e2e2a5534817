// SPDX-License-Identifier: MIT
/*
 * A peer that comes back must show that it is the same one. Here the target is gone and another program is at
 * its address: a restarted target, or an impostor. Or a source comes that knows all that logs contain, but
 * not the number. The VM's fate must be the same as if nobody were there (docs/failure-model.md), and honest
 * peers must not be disturbed.
 */
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer.h"

#define ADDRESS "mem:comeback"
#define SILENCE_US (2000000u * patience())  /* no end here is silent for this long, except on purpose */
#define RECONNECT_US (300000u * patience()) /* by then someone has answered */
#define STRANGER "another program listens at " ADDRESS ": it is not the target of this migration"

/* The point at which an honest target dies. */
enum dies {
	IN_PRECOPY,
	IN_POSTCOPY,
	COMMIT_HEARD,
	COMMIT_HEARD_PAGES_MISSING,
	AS_OWNER_PAGES_MISSING,
	DEATHS
};

struct death {
	enum ferry_mode mode;
	enum ferry_commit_at commit_at;
	enum wire_type last; /* the last message that it receives; it does not answer */
	enum ferry_outcome outcome, arbitrated;
	enum ferry_owner owner;
};

static const struct death deaths[DEATHS] = {
	[IN_PRECOPY] = { FERRY_MODE_STOP_AND_COPY, 0, WIRE_ROUND_END, FERRY_OUTCOME_REFUSED,
			 FERRY_OUTCOME_REFUSED, FERRY_OWNER_SOURCE },
	[IN_POSTCOPY] = { FERRY_MODE_POSTCOPY, 0, WIRE_RUNNING, FERRY_OUTCOME_FELL_BACK,
			  FERRY_OUTCOME_FELL_BACK, FERRY_OWNER_SOURCE },
	[COMMIT_HEARD] = { FERRY_MODE_STOP_AND_COPY, 0, WIRE_COMMIT, FERRY_OUTCOME_IN_DOUBT,
			   FERRY_OUTCOME_MIGRATED, FERRY_OWNER_UNKNOWN },
	[COMMIT_HEARD_PAGES_MISSING] = { FERRY_MODE_POSTCOPY, FERRY_COMMIT_AT_SWITCHOVER, WIRE_COMMIT,
					 FERRY_OUTCOME_IN_DOUBT, FERRY_OUTCOME_LOST, FERRY_OWNER_UNKNOWN },
	[AS_OWNER_PAGES_MISSING] = { FERRY_MODE_POSTCOPY, FERRY_COMMIT_AT_SWITCHOVER, WIRE_COMMITTED,
				     FERRY_OUTCOME_LOST, FERRY_OUTCOME_LOST, FERRY_OWNER_TARGET },
};

/* One answer of a correct target. True: it was the last. */
static bool turn(struct peer *p, enum wire_type last)
{
	union {
		struct wire_round round;
		struct wire_count count;
		struct wire_switchover over;
	} body;
	enum wire_type got = peer_hear(p, &body, sizeof(body)), said = 0;

	cr_assert_neq(got, 0, "the source has hung up: %s", p->heard);
	if (got == last)
		return true;
	if (got == WIRE_HELLO) {
		SAY(p, WIRE_HELLO_ACK, peer_ack());
	} else if (got == WIRE_MAP) {
		peer_expose(p);
		SAY(p, WIRE_RESERVED,
		    (struct wire_reserved){ .flags = WIRE_CAN_HOLD |
						     (p->rig.src.ops.arbiter ? WIRE_TARGET_ARBITER : 0) });
	} else if (got == WIRE_ROUND_END) {
		SAY(p, WIRE_ROUND_ACK, body.round);
	} else if (got == WIRE_PREARM) {
		SAY(p, WIRE_PREARMED, body.count);
	} else if (got == WIRE_SWITCHOVER && body.over.residue &&
		   body.over.commit_at == FERRY_COMMIT_AT_COMPLETE) {
		SAY(p, said = WIRE_RUNNING, (struct wire_times){ 0 });
	} else if (got == WIRE_SWITCHOVER) {
		SAY(p, said = WIRE_PREPARED, (struct wire_count){ .pages = body.over.residue });
	} else if (got == WIRE_COMMIT) {
		SAY(p, said = WIRE_COMMITTED, (struct wire_times){ 0 });
	}
	return said == last;
}

static enum ferry_phase phase_of(struct peer *p)
{
	struct ferry_stats st = { .size = sizeof(st) };

	ferry_get_stats(p->rig.src.session, &st);
	return st.phase;
}

static bool ended(struct peer *p)
{
	return phase_of(p) == FERRY_PHASE_DONE || phase_of(p) == FERRY_PHASE_FAILED;
}

/* The source may read our message late, so keep sending PINGs until it has. */
static void await_postcopy(struct peer *p)
{
	while (phase_of(p) != FERRY_PHASE_POSTCOPY && !ended(p)) {
		SAY(p, WIRE_PING, (struct wire_ping){ 0 });
		poll(NULL, 0, 10);
	}
}

/* Starts a source whose target dies; the address is free then. */
static void start_with(struct peer *p, const struct death *d, bool arbiter, uint64_t reconnect_us)
{
	peer_init(p, RIG_MEM_ANON);
	p->rig.scfg.reconnect_us = reconnect_us;
	if (d->mode == FERRY_MODE_POSTCOPY)
		rig_postcopy(&p->rig, 0);
	p->rig.scfg.timeout_us = SILENCE_US;
	p->rig.scfg.mode = d->mode;
	p->rig.scfg.commit_at = d->commit_at;
	if (arbiter)
		p->rig.src.ops.arbiter = fake_arbiter;
	peer_start_source(p, ADDRESS);
	peer_accept(p);
	while (!turn(p, d->last))
		;
	if (d->last == WIRE_RUNNING || d->last == WIRE_COMMITTED)
		await_postcopy(p);
	p->link->ops->kill(p->link);
	p->link->ops->close(p->link);
	p->listener->ops->close(p->listener);
}

static void start(struct peer *p, const struct death *d, bool arbiter)
{
	start_with(p, d, arbiter, RECONNECT_US);
}

/* The result must be as if nobody had been there. says: part of the sentence, unless it is migrated. */
static void comes_to(struct peer *p, const struct death *d, bool arbiter, const char *says)
{
	const struct ferry_result *res = &p->rig.sres;
	const struct fakevm *vm = &p->rig.src;
	enum ferry_outcome due = arbiter ? d->arbitrated : d->outcome;
	bool back = due == FERRY_OUTCOME_FELL_BACK || due == FERRY_OUTCOME_REFUSED;

	ferry_free(p->rig.src.session);
	cr_expect_eq(res->outcome, due, "%s was due, %s came: %s", ferry_outcome_name(due),
		     ferry_outcome_name(res->outcome), res->detail);
	cr_expect_eq(res->owner, arbiter && d->owner == FERRY_OWNER_UNKNOWN ? FERRY_OWNER_TARGET : d->owner);
	cr_expect_eq(vm->calls[FAKE_RESUME], due == FERRY_OUTCOME_FELL_BACK);
	cr_expect_eq(vm->calls[FAKE_RETIRE], due == FERRY_OUTCOME_MIGRATED, "retired %u times",
		     vm->calls[FAKE_RETIRE]);
	cr_expect_eq(vm->calls[FAKE_ARBITER],
		     arbiter && d->outcome != FERRY_OUTCOME_REFUSED && d->outcome != FERRY_OUTCOME_LOST,
		     "the arbiter was asked %u times", vm->calls[FAKE_ARBITER]);
	cr_expect_eq(res->stats.reconnects, 0);
	if (due != FERRY_OUTCOME_MIGRATED)
		cr_expect(strstr(res->detail, says), "\"%s\" does not say \"%s\"", res->detail, says);
	if (back) {
		fakevm_run_on(&p->rig.src);
		fakevm_check_memory(&p->rig.src);
	}
	free(p->ram);
	rig_free(&p->rig);
}

/* ---- a target that was started anew ---- */

struct anew {
	struct rig rig;
	pthread_t target, source;
};

static void *run_anew_target(void *arg)
{
	struct anew *a = arg;

	a->rig.tgt.thread = pthread_self();
	a->rig.tres.size = sizeof(a->rig.tres);
	ferry_run(a->rig.tgt.session, &a->rig.tres);
	return NULL;
}

static void *run_anew_source(void *arg)
{
	struct anew *a = arg;

	a->rig.src.thread = pthread_self();
	a->rig.sres.size = sizeof(a->rig.sres);
	ferry_run(a->rig.src.session, &a->rig.sres);
	return NULL;
}

static void start_anew(struct anew *a)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &a->rig.tgt, .ops = &a->rig.tgt.ops };

	rig_init(&a->rig, RIG_MEM_ANON);
	a->rig.tcfg.connect_us = PEER_WAIT_US;
	cr_assert_eq(ferry_target_new(&a->rig.tgt.session, &v, &a->rig.tcfg), 0);
	cr_assert_eq(ferry_open(a->rig.tgt.session, ADDRESS), 0, "%s", ferry_get_detail(a->rig.tgt.session));
	cr_assert(!pthread_create(&a->target, NULL, run_anew_target, a));
}

/* The new target must still listen and take the VM of a new source. */
static void serves(struct anew *a)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &a->rig.src, .ops = &a->rig.src.ops,
			      .regions = a->rig.src.region, .nregions = FAKE_REGIONS };

	cr_assert_eq(ferry_source_new(&a->rig.src.session, &v, &a->rig.scfg), 0);
	cr_assert_eq(ferry_open(a->rig.src.session, ADDRESS), 0);
	cr_assert(!pthread_create(&a->source, NULL, run_anew_source, a));
	pthread_join(a->source, NULL);
	pthread_join(a->target, NULL);
	if (a->rig.tres.outcome == FERRY_OUTCOME_MIGRATED)
		fakevm_finish(&a->rig.tgt);
	ferry_free(a->rig.src.session);
	ferry_free(a->rig.tgt.session);
	rig_migrated(&a->rig);
	cr_expect_str_eq(a->rig.tgt.error_line, "");
	rig_free(&a->rig);
}

static void started_anew(enum dies when, bool arbiter)
{
	const struct death *d = &deaths[when];
	struct anew a;
	struct peer p;

	start(&p, d, arbiter);
	start_anew(&a);
	pthread_join(p.thread, NULL);
	comes_to(&p, d, arbiter,
		 STRANGER
		 " (it said REFUSED: this target was started anew and knows nothing of this migration)");
	serves(&a);
}

#define STARTED_ANEW(name, when)                                                  \
	Test(comeback, a_new_target_after_one_that_died_##name)                   \
	{                                                                         \
		started_anew(when, false);                                        \
	}                                                                         \
	Test(comeback, a_new_target_after_one_that_died_##name##_with_an_arbiter) \
	{                                                                         \
		started_anew(when, true);                                         \
	}

STARTED_ANEW(in_pre_copy, IN_PRECOPY)
STARTED_ANEW(in_post_copy, IN_POSTCOPY)
STARTED_ANEW(of_commit, COMMIT_HEARD)
STARTED_ANEW(of_commit_with_pages_missing, COMMIT_HEARD_PAGES_MISSING)
STARTED_ANEW(as_the_owner_with_pages_missing, AS_OWNER_PAGES_MISSING)

/* Stays in pre-copy until the other source has ended. */
static void hold_on(struct fakevm *vm, enum ferry_phase phase)
{
	struct rig *r = vm->arg;

	while (phase == FERRY_PHASE_PRECOPY && !ended(r->arg))
		poll(NULL, 0, 1);
}

/* Another source was first: the new target is busy. */
Test(comeback, a_new_target_that_serves_another_source)
{
	const struct death *d = &deaths[IN_POSTCOPY];
	struct anew a;
	struct peer p;

	start_with(&p, d, false, SILENCE_US);
	start_anew(&a);
	a.rig.arg = &p;
	a.rig.src.phase_hook = hold_on;
	serves(&a);
	pthread_join(p.thread, NULL);
	comes_to(&p, d, false, "busy with another migration");
}

/* ---- an impostor ---- */

enum lie {
	ACK_OPEN,
	ACK_PREPARED,
	ACK_DECIDED,
	ACK_ABORTED,
	ACK_ECHOED,
	ACK_ALMOST,
	ACK_SHORT,
	ACK_OF_ANOTHER_VERSION,
	ACK_TWO_LATE,
	ABORTS,
	REFUSES,
	COMMITS,
	TALKS_NONSENSE,
	SAYS_NOTHING,
	HANGS_UP
};

struct impostor {
	enum lie lie;
	struct xport_param param;
	struct xport_listener *listener;
	struct fail fail;
	struct peer at; /* only link, ctl and seq are used, for one connection */
	pthread_t thread;
	_Atomic bool stop;
	_Atomic unsigned answered;
};

static void say_words(struct peer *p, enum wire_type t, int err, const char *text)
{
	struct wire_abort a = { .err = err };

	peer_say(p, t, &a, sizeof(a), text, strlen(text));
}

static void lie(struct peer *p, enum lie what, const struct wire_hello *h)
{
	struct wire_hello_ack a = peer_ack();

	a.generation = h->generation;
	memset(a.number, 0x33, sizeof(a.number));
	if (what == ACK_PREPARED || what == ACK_DECIDED || what == ACK_ABORTED)
		a.commit = what == ACK_PREPARED	 ? COMMIT_PREPARED
			   : what == ACK_DECIDED ? COMMIT_DECIDED
						 : COMMIT_ABORTED;
	if (what == ACK_ECHOED)
		memcpy(a.number, h->number, sizeof(a.number));
	if (what == ACK_ALMOST) {
		a = peer_ack();
		a.generation = h->generation;
		a.commit = COMMIT_DECIDED;
		a.number[15] ^= 0x80;
	}
	if (what == ACK_OF_ANOTHER_VERSION) /* and the right number, which is not read then */
		memcpy(a.number, peer_ack().number, sizeof(a.number));
	if (what == ACK_OF_ANOTHER_VERSION)
		a.version = a.oldest = WIRE_VERSION + 1;
	if (what == ACK_TWO_LATE)
		SAY(p, WIRE_PREPARED, (struct wire_count){ 0 });
	if (what <= ACK_TWO_LATE)
		peer_say(p, WIRE_HELLO_ACK, &a, what == ACK_SHORT ? 32 : sizeof(a), NULL, 0);
	if (what == ACK_ABORTED || what == ABORTS)
		say_words(p, WIRE_ABORT, -ENOSPC, "I am not what I seem");
	if (what == REFUSES)
		say_words(p, WIRE_REFUSED, -ENOSPC, "I am not what I seem");
	if (what == COMMITS || what == ACK_DECIDED)
		SAY(p, WIRE_COMMITTED, (struct wire_times){ 0 });
	if (what == TALKS_NONSENSE)
		peer_raw(p, "GET / HTTP/1.1\r\n\r\n", 18);
}

static void answer(struct impostor *im)
{
	uint8_t msg[XPORT_MSG_MAX];
	struct wire_hello h;
	size_t len;
	int err;

	im->at.ctl = im->at.link->ops->chan(im->at.link, XPORT_CONTROL, 0);
	im->at.seq = 0;
	do
		err = im->at.ctl->ops->recv(im->at.ctl, msg, sizeof(msg), &len, PEER_WAIT_US);
	while (!err && wire_is_aside(wire_type_of(msg, len)));
	if (err)
		return;
	memcpy(&h, msg + sizeof(struct wire_hdr), sizeof(h));
	im->answered++;
	if (im->lie == HANGS_UP)
		im->at.link->ops->kill(im->at.link);
	else
		lie(&im->at, im->lie, &h);
}

static void part(struct impostor *im)
{
	if (!im->at.link)
		return;
	im->at.link->ops->kill(im->at.link);
	im->at.link->ops->close(im->at.link);
	im->at.link = NULL;
}

static void *impostor_main(void *arg)
{
	struct impostor *im = arg;

	while (!im->stop) {
		struct pollfd pfd = { .fd = im->listener->ops->fd(im->listener), .events = POLLIN };
		struct xport_link *l;

		if (poll(&pfd, 1, 10) <= 0 || im->listener->ops->accept(im->listener, &l, &im->fail))
			continue;
		part(im);
		im->at.link = l;
		answer(im);
	}
	part(im);
	im->listener->ops->close(im->listener);
	return NULL;
}

static void start_impostor(struct impostor *im, enum lie what)
{
	*im = (struct impostor){ .lie = what, .param = { .timeout_us = PEER_WAIT_US } };
	cr_assert_eq(xport_listen(&im->listener, ADDRESS, &im->param, &im->fail), 0, "%s",
		     fail_text(&im->fail));
	cr_assert(!pthread_create(&im->thread, NULL, impostor_main, im));
}

static void stop_impostor(struct impostor *im)
{
	im->stop = true;
	pthread_join(im->thread, NULL);
	cr_expect_gt(im->answered, 0, "nobody came to the impostor");
}

static void impostor(enum lie what, enum dies when, bool arbiter)
{
	bool mute = what == SAYS_NOTHING || what == HANGS_UP; /* a failed network looks the same */
	struct impostor im;
	struct peer p;

	start(&p, &deaths[when], arbiter);
	start_impostor(&im, what);
	pthread_join(p.thread, NULL);
	stop_impostor(&im);
	comes_to(&p, &deaths[when], arbiter, mute ? "did not come back within" : STRANGER);
}

/* Not for each lie: a source that has decided with pages missing waits long, until its target gave up. */
static bool with_arbiter(enum lie what, enum dies when)
{
	return when != COMMIT_HEARD_PAGES_MISSING || what == ACK_ABORTED || what == ABORTS || what == REFUSES;
}

#define IMPOSTOR(name, what)                                      \
	Test(comeback, an_impostor_that_##name)                   \
	{                                                         \
		for (enum dies when = 0; when < DEATHS; when++) { \
			impostor(what, when, false);              \
			if (with_arbiter(what, when))             \
				impostor(what, when, true);       \
		}                                                 \
	}

IMPOSTOR(acknowledges, ACK_OPEN)
IMPOSTOR(says_prepared, ACK_PREPARED)
IMPOSTOR(says_decided, ACK_DECIDED)
IMPOSTOR(says_aborted, ACK_ABORTED)
IMPOSTOR(shows_the_source_its_own_number, ACK_ECHOED)
IMPOSTOR(has_all_of_the_number_but_a_bit, ACK_ALMOST)
IMPOSTOR(acknowledges_in_few_words, ACK_SHORT)
IMPOSTOR(acknowledges_in_another_version, ACK_OF_ANOTHER_VERSION)
IMPOSTOR(says_prepared_first, ACK_TWO_LATE)
IMPOSTOR(aborts, ABORTS)
IMPOSTOR(refuses, REFUSES)
IMPOSTOR(commits, COMMITS)
IMPOSTOR(talks_nonsense, TALKS_NONSENSE)
IMPOSTOR(says_nothing, SAYS_NOTHING)
IMPOSTOR(hangs_up, HANGS_UP)

/* A cancel ends the wait for the true target, like any other wait. */
static void canceled_during(enum lie what)
{
	struct impostor im;
	struct peer p;

	peer_init(&p, RIG_MEM_ANON);
	rig_postcopy(&p.rig, 0);
	p.rig.scfg.timeout_us = SILENCE_US;
	p.rig.scfg.reconnect_us = PEER_WAIT_US;
	peer_start_source(&p, ADDRESS);
	peer_accept(&p);
	while (!turn(&p, WIRE_RUNNING))
		;
	await_postcopy(&p);
	p.link->ops->kill(p.link);
	p.link->ops->close(p.link);
	p.listener->ops->close(p.listener);
	start_impostor(&im, what);
	while (!im.answered && !ended(&p))
		poll(NULL, 0, 1);
	cr_assert_eq(ferry_cancel(p.rig.src.session), 0);
	while (!world_source_runs(&p.rig.world) && !ended(&p)) /* then skip the ABORT */
		poll(NULL, 0, 1);
	ferry_cancel(p.rig.src.session);
	pthread_join(p.thread, NULL);
	stop_impostor(&im);
	cr_assert_eq(p.rig.sres.error, -ECANCELED, "%s", p.rig.sres.detail);
	comes_to(&p, &deaths[IN_POSTCOPY], false, "canceled by the embedder in post-copy");
}

Test(comeback, a_cancel_while_an_impostor_is_mute)
{
	canceled_during(SAYS_NOTHING);
}

Test(comeback, a_cancel_while_an_impostor_lies)
{
	canceled_during(ACK_PREPARED);
}

/* A program that speaks another protocol at the target's port: its answer is not that of a transport. */
struct banner {
	int fd;
	pthread_t thread;
	_Atomic bool stop;
};

static void *banner_main(void *arg)
{
	static const char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
	struct banner *b = arg;

	while (!b->stop) {
		struct pollfd pfd = { .fd = b->fd, .events = POLLIN };
		char request[64];
		int fd;

		if (poll(&pfd, 1, 10) <= 0 || (fd = accept(b->fd, NULL, NULL)) < 0)
			continue;
		if (read(fd, request, sizeof(request)) > 0)
			(void)!write(fd, text, sizeof(text) - 1);
		close(fd);
	}
	return NULL;
}

static void start_banner(struct banner *b, const char *uri)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	a.sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1));
	*b = (struct banner){ .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0) };
	cr_assert(!setsockopt(b->fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)));
	cr_assert(!bind(b->fd, (struct sockaddr *)&a, sizeof(a)) && !listen(b->fd, 16));
	cr_assert(!pthread_create(&b->thread, NULL, banner_main, b));
}

static void *serve_puts(void *arg)
{
	struct xport_chan *c = arg;

	c->ops->serve(c, NULL, NULL);
	return NULL;
}

Test(comeback, a_program_that_is_no_target_at_all)
{
	pthread_t serving = 0;
	struct banner b;
	struct peer p;

	peer_init(&p, RIG_TCP_ANON);
	p.rig.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	p.rig.scfg.channels = 1;
	p.rig.scfg.timeout_us = SILENCE_US;
	p.rig.scfg.reconnect_us = RECONNECT_US;
	peer_start_source(&p, RIG_TCP);
	peer_accept(&p);
	while (!turn(&p, WIRE_ROUND_END)) {
		if (!p.ram || serving)
			continue;
		cr_assert(!pthread_create(&serving, NULL, serve_puts,
					  p.link->ops->chan(p.link, XPORT_DATA, 0)));
	}
	p.link->ops->kill(p.link);
	pthread_join(serving, NULL);
	p.link->ops->close(p.link);
	p.listener->ops->close(p.listener);
	start_banner(&b, p.uri);
	pthread_join(p.thread, NULL);
	b.stop = true;
	pthread_join(b.thread, NULL);
	close(b.fd);
	comes_to(&p, &deaths[IN_PRECOPY], false, "it is not the target of this migration (tcp:127.0.0.1:");
}

/* ---- a source of a target that was here before ---- */

static void connect_again(struct peer *p, uint32_t generation, uint16_t flags)
{
	struct xport_link_id id = { .channels = 1, .generation = generation };
	struct wire_hello h = peer_hello(p);

	p->link->ops->kill(p->link);
	p->link->ops->close(p->link);
	memcpy(id.session, p->session, sizeof(id.session));
	p->link = NULL;
	if (xport_connect(&p->link, p->uri, &id, &p->param, PEER_WAIT_US, &p->fail))
		return;
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	p->seq = 0;
	h.generation = generation;
	h.flags = flags;
	SAY(p, WIRE_HELLO, h);
}

/* Each attempt is told so. A source that was not here before is served, even with the same session. */
RIG_PAIR(comeback, a_stale_source_and_then_a_first_one)
{
	struct wire_abort a;
	struct peer p;

	peer_connect(&p, kind, CONNECTED);
	for (uint32_t i = 0; i < 5; i++) {
		connect_again(&p, 7 + i, WIRE_COMES_BACK);
		cr_assert_not_null(p.link, "%s", fail_text(&p.fail));
		peer_hear_only(&p, WIRE_REFUSED, &a, sizeof(a));
		cr_expect_eq(a.err, -ESTALE);
		rig_says(p.heard, "this target was started anew and knows nothing of this migration");
	}
	p.heard[0] = 0;
	connect_again(&p, 0, 0);
	cr_assert_not_null(p.link);
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	say_words(&p, WIRE_ABORT, -ENOSPC, "no room");
	peer_target_ends(&p, -ENOSPC, "the source gave up: no room", false);
}

/* They must not keep the target beyond its connect_us. */
Test(comeback, stale_sources_do_not_make_a_target_wait)
{
	uint32_t generation = 1;
	struct peer p;

	peer_init(&p, RIG_MEM_ANON);
	p.rig.tcfg.connect_us = PEER_TIMEOUT_US;
	peer_begin(&p, RIG_MEM_ANON, CONNECTED);
	do
		connect_again(&p, generation++, WIRE_COMES_BACK);
	while (p.link && peer_hear(&p, NULL, 0) == WIRE_REFUSED);
	pthread_join(p.thread, NULL);
	if (p.link)
		p.link->ops->close(p.link);
	ferry_free(p.rig.tgt.session);
	cr_expect_eq(p.rig.tres.error, -ETIMEDOUT, "%d: %s", p.rig.tres.error, p.rig.tres.detail);
	rig_says(p.rig.tres.detail, "no source connected");
	rig_free(&p.rig);
}

/* ---- a forged source ---- */

#define FORGERS 12u /* more than a target listens to at a time */

struct forgery {
	enum ferry_phase in;
	bool cut; /* the link is cut too: the source must come back past the waiting forgers */
	unsigned refused, n;
	struct xport_link *link[5 * FORGERS];
	struct xport_param param;
	struct fail fail;
	bool done;
};

enum forged { MUTE, ANOTHER_NUMBER, NO_NUMBER, GIVES_UP, NONSENSE };

static void forge(struct rig *r, struct forgery *f, enum forged what)
{
	struct xport_link_id id = { .generation = UINT32_MAX - f->n, .channels = 1 };
	struct peer p = { 0 };
	struct wire_hello h = peer_hello(&p);

	memcpy(id.session, r->scfg.session, sizeof(id.session));
	if (xport_connect(&p.link, r->connect_to, &id, &f->param, PEER_WAIT_US, &f->fail)) {
		world_trouble(&r->world, "a forged source cannot connect: %s", fail_text(&f->fail));
		return;
	}
	f->link[f->n++] = p.link;
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	h.generation = id.generation;
	h.flags = WIRE_COMES_BACK;
	memset(h.number, what == NO_NUMBER ? 0 : 0x77, sizeof(h.number));
	if (what == ANOTHER_NUMBER || what == NO_NUMBER)
		SAY(&p, WIRE_HELLO, h);
	else if (what == GIVES_UP)
		say_words(&p, WIRE_ABORT, -ENOSPC, "the VM is mine");
	else if (what == NONSENSE)
		peer_raw(&p, "GET / HTTP/1.1\r\n\r\n", 18);
	if (what != MUTE && peer_hear(&p, NULL, 0) == WIRE_REFUSED)
		f->refused++;
}

static void forge_all(struct fakevm *vm, enum ferry_phase phase)
{
	struct rig *r = vm->arg;
	struct forgery *f = r->arg;

	if (phase != f->in || f->done)
		return;
	f->done = true;
	for (unsigned i = 0; i < FORGERS; i++)
		for (enum forged what = MUTE; what <= NONSENSE; what++)
			forge(r, f, what);
	if (f->cut)
		ferry_drill(vm->session, "cut:100");
}

static void forged(const struct rig_kind *kind, enum ferry_phase in, bool cut)
{
	struct forgery f = { .in = in, .cut = cut, .param = { .timeout_us = PEER_WAIT_US } };
	struct rig r;

	rig_init(&r, kind);
	memset(r.scfg.session, 0x42, sizeof(r.scfg.session));
	r.arg = &f;
	r.src.phase_hook = forge_all;
	if (in == FERRY_PHASE_POSTCOPY)
		rig_postcopy(&r, 16000000);
	rig_run(&r);
	for (unsigned i = 0; i < f.n; i++) {
		f.link[i]->ops->kill(f.link[i]);
		f.link[i]->ops->close(f.link[i]);
	}
	rig_migrated(&r);
	cr_assert(f.done);
	cr_expect_eq(f.refused, 4 * FORGERS, "%u of them were refused", f.refused);
	cr_expect_eq(r.sres.stats.reconnects, cut, "source: %u", r.sres.stats.reconnects);
	cr_expect_eq(r.tres.stats.reconnects, cut, "target: %u", r.tres.stats.reconnects);
	cr_expect_str_eq(r.tgt.links, cut ? "the link is lost the link is back" : "");
	rig_free(&r);
}

RIG_PAIR(comeback, a_forged_source_in_pre_copy)
{
	forged(kind, FERRY_PHASE_PRECOPY, false);
}

RIG_PAIR(comeback, a_forged_source_in_post_copy)
{
	forged(kind, FERRY_PHASE_POSTCOPY, false);
}

RIG_PAIR(comeback, a_forged_source_before_the_source_comes_back)
{
	forged(kind, FERRY_PHASE_POSTCOPY, true);
}
