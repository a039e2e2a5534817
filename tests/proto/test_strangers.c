// SPDX-License-Identifier: MIT
/*
 * Peers that connect and do not go on, or talk without end: nobody waits for them longer than his own limits say, and
 * whoever comes behind them is served.
 */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "peer.h"

#define CONNECT_US (500000u * patience())
#define FAR_US 3600000000u /* a limit that is not what ends the wait */
#define ENDS_S 60u	   /* a session that has a limit of CONNECT_US has ended by then, or never does */
#define PING_MS 20
#define MUTE 12u

struct talker {
	struct peer *p;
	int pause_ms; /* between two messages; 0: a flood */
	_Atomic bool stop;
	pthread_t thread;
};

static void *talk(void *arg)
{
	struct talker *t = arg;

	while (!atomic_load(&t->stop)) {
		SAY(t->p, WIRE_PING, (struct wire_ping){ 0 });
		if (t->pause_ms)
			poll(NULL, 0, t->pause_ms);
	}
	return NULL;
}

static void talk_begin(struct talker *t, struct peer *p, int pause_ms)
{
	*t = (struct talker){ .p = p, .pause_ms = pause_ms };
	cr_assert(!pthread_create(&t->thread, NULL, talk, t));
}

/* The session ends while the peer still talks. */
static void ends_meanwhile(struct peer *p, struct talker *t)
{
	struct timespec ts;
	int late;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += ENDS_S;
	late = pthread_timedjoin_np(p->thread, NULL, &ts);
	if (t) {
		atomic_store(&t->stop, true);
		p->link->ops->kill(p->link); /* a flood waits for room */
		pthread_join(t->thread, NULL);
	}
	cr_assert(!late, "the session has not ended");
}

/* ---- a real target ---- */

static void *run_target(void *arg)
{
	struct peer *p = arg;

	p->rig.tgt.thread = pthread_self();
	p->rig.tres.size = sizeof(p->rig.tres);
	ferry_run(p->rig.tgt.session, &p->rig.tres);
	return NULL;
}

static void start_target(struct peer *p, uint64_t connect_us, uint64_t timeout_us)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->rig.tgt, .ops = &p->rig.tgt.ops };

	p->rig.tcfg.connect_us = connect_us;
	p->rig.tcfg.timeout_us = timeout_us;
	p->rig.tcfg.reconnect_us = PEER_RECONNECT_US;
	p->param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(ferry_target(&p->rig.tgt.session, &v, &p->rig.tcfg), 0);
	cr_assert_eq(ferry_open(p->rig.tgt.session, p->rig.uri), 0);
	cr_assert_eq(ferry_get_uri(p->rig.tgt.session, p->rig.connect_to, sizeof(p->rig.connect_to)), 0);
	cr_assert(!pthread_create(&p->thread, NULL, run_target, p));
}

static struct xport_link *dial(struct peer *p, uint8_t session)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l;

	memset(id.session, session, sizeof(id.session));
	cr_assert_eq(xport_connect(&l, p->rig.connect_to, &id, &p->param, PEER_WAIT_US, &p->fail), 0, "%s", fail_text(&p->fail));
	return l;
}

static void target_freed(struct peer *p, int err, const char *sentence)
{
	const struct ferry_result *res = &p->rig.tres;

	if (p->link)
		p->link->ops->close(p->link);
	ferry_free(p->rig.tgt.session);
	cr_assert_eq(res->error, err, "%d: %s", res->error, res->detail);
	rig_says(res->detail, sentence);
	cr_assert_eq(p->rig.tgt.calls[FAKE_DISCARD], p->rig.tgt.calls[FAKE_RESERVE]);
	rig_free(&p->rig);
}

/* Says PING and nothing else, before any HELLO. */
static void pings_for_a_hello(const struct rig_kind *kind, int pause_ms)
{
	struct talker t;
	struct peer p;

	peer_init(&p, kind);
	start_target(&p, CONNECT_US, PEER_TIMEOUT_US);
	p.link = dial(&p, 1);
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	talk_begin(&t, &p, pause_ms);
	ends_meanwhile(&p, &t);
	target_freed(&p, -ETIMEDOUT, "no source connected to");
}

RIG_PAIR(target_is_not_held, by_a_ping_now_and_then)
{
	pings_for_a_hello(kind, PING_MS);
}

/* Many who are mute, each of whom could be waited for as long as a peer may be silent: a source behind them is served. */
RIG_PAIR(target_is_not_held, by_the_mute)
{
	struct xport_link *mute[MUTE];
	struct peer p;

	peer_init(&p, kind);
	start_target(&p, FAR_US, 4 * PEER_WAIT_US);
	for (unsigned i = 0; i < MUTE; i++)
		mute[i] = dial(&p, (uint8_t)(100 + i));
	p.link = dial(&p, p.session[0]);
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	SAY(&p, WIRE_PING, (struct wire_ping){ 0 }); /* which may come before a HELLO */
	SAY(&p, WIRE_HELLO, peer_hello(&p));
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	p.link->ops->kill(p.link);
	ends_meanwhile(&p, NULL);
	for (unsigned i = 0; i < MUTE; i++)
		mute[i]->ops->close(mute[i]);
	target_freed(&p, -EPIPE, "the link to the source was lost in reservation");
}

/* Those who hang up before they have said anything. */
RIG_PAIR(target_is_not_held, by_those_who_go)
{
	struct xport_link *l;
	struct peer p;

	peer_init(&p, kind);
	start_target(&p, CONNECT_US, 4 * PEER_WAIT_US);
	for (unsigned i = 0; i < MUTE; i++) {
		l = dial(&p, (uint8_t)(100 + i));
		l->ops->kill(l);
		l->ops->close(l);
	}
	ends_meanwhile(&p, NULL);
	target_freed(&p, -ETIMEDOUT, "no source connected to");
}

/* ---- a real source ---- */

static void *run_source(void *arg)
{
	struct peer *p = arg;

	p->rig.src.thread = pthread_self();
	p->rig.sres.size = sizeof(p->rig.sres);
	ferry_run(p->rig.src.session, &p->rig.sres);
	return NULL;
}

/* Its limits are far: a test sets the one that it is about before. */
static void source_init_far(struct peer *p)
{
	peer_init(p, RIG_TCP_ANON);
	memset(p->rig.src.writes, 0, sizeof(p->rig.src.writes));
	p->rig.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	p->rig.scfg.timeout_us = FAR_US;
	p->rig.scfg.connect_us = FAR_US;
	p->rig.scfg.reconnect_us = FAR_US;
	p->rig.scfg.blackout_limit_us = FAR_US;
}

static void accept_source(struct peer *p)
{
	struct pollfd pfd = { .fd = p->listener->ops->fd(p->listener), .events = POLLIN };
	int err;

	while ((err = p->listener->ops->accept(p->listener, &p->link, &p->fail)) == -EAGAIN)
		cr_assert_gt(poll(&pfd, 1, 60000), 0);
	cr_assert_eq(err, 0);
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	p->seq = 0;
	p->heard[0] = 0;
	peer_hear_only(p, WIRE_HELLO, NULL, 0);
}

static void start_source(struct peer *p)
{
	struct ferry_vm v = { FERRY_VM_INIT,
			      .vm = &p->rig.src,
			      .ops = &p->rig.src.ops,
			      .regions = p->rig.src.region,
			      .nregions = FAKE_REGIONS };

	p->param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(xport_listen(&p->listener, "tcp:127.0.0.1:0", &p->param, &p->fail), 0);
	cr_assert_eq(p->listener->ops->uri(p->listener, p->rig.connect_to, sizeof(p->rig.connect_to)), 0);
	cr_assert_eq(ferry_source(&p->rig.src.session, &v, &p->rig.scfg), 0);
	cr_assert_eq(ferry_open(p->rig.src.session, p->rig.connect_to), 0);
	cr_assert(!pthread_create(&p->thread, NULL, run_source, p));
	accept_source(p);
}

static void acknowledge(struct peer *p)
{
	SAY(p, WIRE_HELLO_ACK, (struct wire_hello_ack){ .magic = WIRE_MAGIC, .version = WIRE_VERSION, .page_shift = 12,
							.timeout_us = FAR_US });
}

static void hear_until(struct peer *p, enum wire_type t)
{
	unsigned got;

	while ((got = peer_hear(p, NULL, 0)) != t)
		cr_assert_neq(got, 0, "the source has hung up: %s", p->heard);
}

static void source_freed(struct peer *p, int err, const char *sentence)
{
	const struct ferry_result *res = &p->rig.sres;

	p->link->ops->close(p->link);
	p->listener->ops->close(p->listener);
	ferry_free(p->rig.src.session);
	cr_assert_eq(res->error, err, "%d: %s", res->error, res->detail);
	rig_says(res->detail, sentence);
	cr_assert_eq(res->owner, FERRY_SOURCE);
	cr_assert_eq(p->rig.src.calls[FAKE_RESUME], p->rig.src.calls[FAKE_PAUSE]);
	cr_assert_eq(p->rig.src.calls[FAKE_RETIRE], 0);
	rig_free(&p->rig);
}

static void pings_for_an_answer(int pause_ms)
{
	struct talker t;
	struct peer p;

	source_init_far(&p);
	p.rig.scfg.connect_us = CONNECT_US;
	start_source(&p);
	talk_begin(&t, &p, pause_ms);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ETIMEDOUT, "could not be reached");
}

Test(source_is_not_held, by_a_ping_now_and_then)
{
	pings_for_an_answer(PING_MS);
}

Test(source_is_not_held, by_an_aborted_target_that_does_not_say_why)
{
	struct talker t;
	struct peer p;

	source_init_far(&p);
	p.rig.scfg.connect_us = CONNECT_US;
	start_source(&p);
	SAY(&p, WIRE_HELLO_ACK, (struct wire_hello_ack){ .magic = WIRE_MAGIC, .version = WIRE_VERSION, .page_shift = 12,
							 .timeout_us = FAR_US, .commit = COMMIT_ABORTED });
	talk_begin(&t, &p, PING_MS);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ECONNABORTED, "the target has given up");
}

/* It has said ABORT, and the target neither answers nor hangs up. */
Test(source_is_not_held, when_its_last_words_are_not_answered)
{
	struct talker t;
	struct peer p;

	source_init_far(&p);
	start_source(&p);
	acknowledge(&p);
	hear_until(&p, WIRE_MAP);
	talk_begin(&t, &p, PING_MS);
	cr_assert_eq(ferry_cancel(p.rig.src.session), 0);
	hear_until(&p, WIRE_ABORT);
	cr_assert_eq(ferry_cancel(p.rig.src.session), -EALREADY);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ECANCELED, "canceled by the embedder in reservation");
}

static void cancel_in_precopy(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PRECOPY)
		ferry_cancel(vm->session);
}

/* The link was lost before its ABORT was heard; it connects again to say so, and meets who only pings. */
static void says_it_again(uint64_t reconnect_us, bool cancel)
{
	struct xport_link *first;
	struct talker t;
	struct peer p;

	source_init_far(&p);
	p.rig.scfg.reconnect_us = reconnect_us;
	p.rig.src.phase_hook = cancel_in_precopy;
	start_source(&p);
	acknowledge(&p);
	hear_until(&p, WIRE_MAP);
	SAY(&p, WIRE_RESERVED, (struct wire_reserved){ .flags = WIRE_CAN_HOLD });
	hear_until(&p, WIRE_ABORT);
	first = p.link;
	first->ops->kill(first);
	accept_source(&p);
	talk_begin(&t, &p, PING_MS);
	if (cancel)
		ferry_cancel(p.rig.src.session);
	ends_meanwhile(&p, &t);
	first->ops->close(first);
	source_freed(&p, -ECANCELED, "canceled by the embedder in");
}

Test(source_is_not_held, when_it_says_so_again_and_is_canceled)
{
	says_it_again(FAR_US, true);
}

Test(source_is_not_held, when_it_says_so_again)
{
	says_it_again(CONNECT_US, false);
}
