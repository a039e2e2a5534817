// SPDX-License-Identifier: MIT
/*
 * Peers that connect and do not continue, or send without end. No end may wait for them longer than its own
 * limits allow, and peers that connect after them must be served.
 */
#include <endian.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "peer.h"
#include "transport/tcp/tcp_wire.h"

#define CONNECT_US (500000u * patience())
#define FAR_US 3600000000u /* a limit that must not be reached */
#define ENDS_S 60u	   /* after this time a session with a limit of CONNECT_US counts as hanging */
#define BATCH 1000u
#define FLOODED (1u << 20)			 /* bytes sent; the session is busy with them then */
#define FLOOD_TIMEOUT_US (3000000u * patience()) /* how long an ABORT waits for its answer */
#define PING_MS 20
#define MUTE 12u
#define TRIES 20u

struct talker {
	struct peer *p;
	_Atomic bool stop;
	_Atomic unsigned said;
	pthread_t thread;
	enum wire_type type; /* of a flood */
	size_t len;
	uint8_t body[32];
};

static void *ping_now_and_then(void *arg)
{
	struct talker *t = arg;

	while (!atomic_load(&t->stop)) {
		SAY(t->p, WIRE_PING, (struct wire_ping){ 0 });
		poll(NULL, 0, PING_MS);
	}
	return NULL;
}

static void pings_begin(struct talker *t, struct peer *p)
{
	*t = (struct talker){ .p = p };
	cr_assert(!pthread_create(&t->thread, NULL, ping_now_and_then, t));
}

/* Many messages in one write, so that a session that reads them one by one never reaches the end. (tcp) */
static size_t fill_batch(struct talker *t, uint8_t *buf)
{
	size_t at = 0;

	for (unsigned i = 0; i < BATCH; i++) {
		struct wire_hdr h = wire_header(t->type, t->len, t->p->seq++);
		struct tcp_msg m = { .magic = htole32(TCP_MAGIC_MSG),
				     .len = htole32((uint32_t)(sizeof(h) + t->len)) };

		memcpy(buf + at, &m, sizeof(m));
		memcpy(buf + at + sizeof(m), &h, sizeof(h));
		memcpy(buf + at + sizeof(m) + sizeof(h), t->body, t->len);
		at += sizeof(m) + sizeof(h) + t->len;
	}
	return at;
}

static void *flood(void *arg)
{
	struct talker *t = arg;
	struct pollfd p = { .fd = t->p->ctl->ops->fd(t->p->ctl), .events = POLLOUT };
	uint8_t *buf = malloc(BATCH * (sizeof(struct tcp_msg) + sizeof(struct wire_hdr) + sizeof(t->body)));
	size_t len = 0, at = 0;
	ssize_t n;

	while (!atomic_load(&t->stop)) {
		if (at == len) {
			len = fill_batch(t, buf);
			at = 0;
		}
		poll(&p, 1, PING_MS);
		n = send(p.fd, buf + at, len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN)
			break; /* the session has closed the link */
		at += n > 0 ? (size_t)n : 0;
		atomic_fetch_add(&t->said, n > 0 ? (unsigned)n : 0);
	}
	free(buf);
	return NULL;
}

static void flood_begin(struct talker *t, struct peer *p, enum wire_type type, const void *body, size_t len)
{
	*t = (struct talker){ .p = p, .type = type, .len = len };
	memcpy(t->body, body, len);
	cr_assert(!pthread_create(&t->thread, NULL, flood, t));
}

static void flood_of_pings(struct talker *t, struct peer *p)
{
	flood_begin(t, p, WIRE_PING, &(struct wire_ping){ 0 }, sizeof(struct wire_ping));
}

/* The session must end while the peer is still sending. */
static void ends_meanwhile(struct peer *p, struct talker *t)
{
	struct timespec ts;
	int late;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += ENDS_S;
	late = pthread_timedjoin_np(p->thread, NULL, &ts);
	if (t) {
		atomic_store(&t->stop, true);
		p->link->ops->kill(p->link); /* ends a send that waits for room */
		pthread_join(t->thread, NULL);
	}
	cr_assert(!late, "the session has not ended");
}

/* ---- a real target ---- */

static void start_target(struct peer *p, uint64_t connect_us, uint64_t timeout_us)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &p->rig.tgt, .ops = &p->rig.tgt.ops };

	p->rig.tcfg.connect_us = connect_us;
	p->rig.tcfg.timeout_us = timeout_us;
	p->rig.tcfg.reconnect_us = PEER_RECONNECT_US;
	p->param = (struct xport_param){ .timeout_us = PEER_WAIT_US };
	cr_assert_eq(ferry_target_new(&p->rig.tgt.session, &v, &p->rig.tcfg), 0);
	cr_assert_eq(ferry_open(p->rig.tgt.session, p->rig.uri), 0);
	cr_assert_eq(ferry_get_uri(p->rig.tgt.session, p->rig.connect_to, sizeof(p->rig.connect_to)), 0);
	cr_assert(!pthread_create(&p->thread, NULL, peer_run_target, p));
}

static struct xport_link *dial(struct peer *p, uint8_t session)
{
	struct xport_link_id id = { .channels = 1 };
	struct xport_link *l;
	int err = 0;

	memset(id.session, session, sizeof(id.session));
	/* On a busy machine an attempt may time out because nothing moves for a while: repeat it. */
	for (unsigned n = 0; n < TRIES && (err = xport_connect(&l, p->rig.connect_to, &id, &p->param,
							       PEER_WAIT_US, &p->fail));
	     n++) {
		cr_assert_eq(err, -ETIMEDOUT, "%s", fail_text(&p->fail));
		fail_reset(&p->fail);
	}
	cr_assert(!err, "no link in %u attempts", TRIES);
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

/* Sends only PINGs and no HELLO. */
static void pings_for_a_hello(const struct rig_kind *kind, void (*begin)(struct talker *t, struct peer *p))
{
	struct talker t;
	struct peer p;

	peer_init(&p, kind);
	start_target(&p, CONNECT_US, PEER_TIMEOUT_US);
	p.link = dial(&p, 1);
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	begin(&t, &p);
	ends_meanwhile(&p, &t);
	target_freed(&p, -ETIMEDOUT, "no source connected to");
}

RIG_PAIR(target_is_not_held, by_a_ping_now_and_then)
{
	pings_for_a_hello(kind, pings_begin);
}

/* Many mute peers come first; a timeout for each would take too long. A source after them is served. */
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
	SAY(&p, WIRE_PING, (struct wire_ping){ 0 }); /* a PING may come before HELLO */
	SAY(&p, WIRE_HELLO, peer_hello(&p));
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	p.link->ops->kill(p.link);
	ends_meanwhile(&p, NULL);
	for (unsigned i = 0; i < MUTE; i++)
		mute[i]->ops->close(mute[i]);
	target_freed(&p, -EPIPE, "was lost in reservation");
}

/* The target closes a mute link after its timeout_us and then serves a source. */
RIG_PAIR(target_is_not_held, but_hangs_up_on_the_mute)
{
	struct xport_link *mute;
	struct xport_chan *c;
	struct peer p;
	uint8_t buf[64];
	size_t len;

	peer_init(&p, kind);
	start_target(&p, FAR_US, PEER_TIMEOUT_US);
	mute = dial(&p, 100);
	c = mute->ops->chan(mute, XPORT_CONTROL, 0);
	cr_assert_eq(c->ops->recv(c, buf, sizeof(buf), &len, PEER_WAIT_US), -EPIPE);
	mute->ops->close(mute);
	p.link = dial(&p, p.session[0]);
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	SAY(&p, WIRE_HELLO, peer_hello(&p));
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	p.link->ops->kill(p.link);
	ends_meanwhile(&p, NULL);
	target_freed(&p, -EPIPE, "was lost in reservation");
}

/* A hand-made mute link of one channel, from another address of this host. */
static void dial_from_elsewhere(struct peer *p, uint8_t session, int fd[3])
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)atoi(strrchr(p->rig.connect_to, ':') + 1)),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_in mine = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1) };
	struct tcp_answer answer;

	for (unsigned i = 0; i < 3; i++) {
		struct tcp_preamble pre = { .magic = htole32(TCP_MAGIC_PREAMBLE),
					    .version = htole32(TCP_WIRE_VERSION),
					    .role = htole32(i),
					    .channels = htole32(1) };

		memset(pre.session, session, sizeof(pre.session));
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		cr_assert(!bind(fd[i], (struct sockaddr *)&mine, sizeof(mine)));
		cr_assert(!connect(fd[i], (struct sockaddr *)&to, sizeof(to)));
		cr_assert_eq(send(fd[i], &pre, sizeof(pre), MSG_NOSIGNAL), (ssize_t)sizeof(pre));
		cr_assert_eq(recv(fd[i], &answer, sizeof(answer), MSG_WAITALL), (ssize_t)sizeof(answer));
		cr_assert_eq(answer.code, htole32(TCP_ANSWER_OK));
	}
}

/* More mute links from one host than the target listens to: they replace each other, not a slow source. */
Test(target_in_a_flood, of_mute_links_from_one_host)
{
	int fd[2 * MUTE][3];
	struct peer p;

	peer_init(&p, RIG_TCP_ANON);
	start_target(&p, FAR_US, 4 * PEER_WAIT_US);
	for (unsigned i = 0; i < 2 * MUTE; i++) {
		if (i == MUTE)
			p.link = dial(&p, p.session[0]);
		dial_from_elsewhere(&p, (uint8_t)(100 + i), fd[i]);
	}
	p.ctl = p.link->ops->chan(p.link, XPORT_CONTROL, 0);
	SAY(&p, WIRE_HELLO, peer_hello(&p));
	peer_hear_only(&p, WIRE_HELLO_ACK, NULL, 0);
	p.link->ops->kill(p.link);
	ends_meanwhile(&p, NULL);
	for (unsigned i = 0; i < 6 * MUTE; i++)
		close(fd[i / 3][i % 3]);
	target_freed(&p, -EPIPE, "was lost in reservation");
}

/* Peers that close the link before they have sent anything. */
RIG_PAIR(target_is_not_held, by_those_who_go)
{
	struct xport_link *l;
	struct peer p;

	peer_init(&p, kind);
	start_target(&p, FAR_US, 4 * PEER_WAIT_US);
	for (unsigned i = 0; i < MUTE; i++) {
		l = dial(&p, (uint8_t)(100 + i));
		l->ops->kill(l);
		l->ops->close(l);
	}
	cr_assert_eq(ferry_cancel(p.rig.tgt.session), 0);
	ends_meanwhile(&p, NULL);
	target_freed(&p, -ECANCELED, "canceled by the embedder in pre-migration");
}

Test(target_in_a_flood, before_hello)
{
	pings_for_a_hello(RIG_TCP_ANON, flood_of_pings);
}

/* Correct up to RESERVED. */
static void reserve_target(struct peer *p, const struct rig_kind *kind, uint64_t hold_limit_us)
{
	struct wire_region r[FAKE_REGIONS];
	struct wire_hello h;

	peer_init(p, kind);
	start_target(p, FAR_US, FLOOD_TIMEOUT_US);
	p->link = dial(p, p->session[0]);
	p->ctl = p->link->ops->chan(p->link, XPORT_CONTROL, 0);
	h = peer_hello(p);
	h.hold_limit_us = hold_limit_us;
	SAY(p, WIRE_HELLO, h);
	peer_hear_only(p, WIRE_HELLO_ACK, NULL, 0);
	peer_regions(p, r);
	peer_say_map(p, FAKE_REGIONS, r, FAKE_REGIONS);
	peer_hear_only(p, WIRE_RESERVED, NULL, 0);
}

static void canceled_in_a_flood(enum wire_type type, const void *body, size_t len)
{
	struct talker t;
	struct peer p;

	reserve_target(&p, RIG_TCP_ANON, 0);
	flood_begin(&t, &p, type, body, len);
	while (atomic_load(&t.said) < FLOODED)
		poll(NULL, 0, 1);
	cr_assert_eq(ferry_cancel(p.rig.tgt.session), 0);
	ends_meanwhile(&p, &t);
	target_freed(&p, -ECANCELED, "canceled by the embedder in pre-copy");
}

Test(target_in_a_flood, of_pings)
{
	canceled_in_a_flood(WIRE_PING, &(struct wire_ping){ 0 }, sizeof(struct wire_ping));
}

/* Not ZERO: a flood of them ends by itself, because a round cannot name more pages than there are. */
Test(target_in_a_flood, of_messages)
{
	struct {
		struct wire_residue named;
		uint64_t word;
	} residue = { .named = { .region = 0, .npages = 64 }, .word = 4 };

	canceled_in_a_flood(WIRE_RESIDUE, &residue, sizeof(residue));
}

static void end_puts(struct peer *p)
{
	struct xport_chan *c = p->link->ops->chan(p->link, XPORT_DATA, 0);

	cr_assert_eq(c->ops->end(c), 0);
}

/* The target runs tentatively with its output held; the missing page does not come. */
Test(target_in_a_flood, beyond_its_hold_limit)
{
	struct wire_switchover w = { .residue = 1,
				     .state_sum = peer_no_needs(),
				     .commit_at = FERRY_COMMIT_AT_COMPLETE };
	struct wire_residue named = { .region = 0, .npages = 64 };
	struct xport_region r = { .id = 10, .npages = FAKE_PAGES0 };
	uint64_t word = 4;
	struct talker t;
	struct peer p;

	reserve_target(&p, RIG_TCP_ANON, CONNECT_US);
	r.base = p.rig.src.region[0].hva;
	cr_assert_eq(p.link->ops->expose(p.link, &r, 1, XPORT_LOCAL), 0);
	peer_say(&p, WIRE_RESIDUE, &named, sizeof(named), &word, sizeof(word));
	end_puts(&p);
	SAY(&p, WIRE_PREARM, (struct wire_count){ .pages = 1 });
	peer_hear_only(&p, WIRE_PREARMED, NULL, 0);
	SAY(&p, WIRE_SWITCHOVER, w);
	peer_hear_only(&p, WIRE_RUNNING, NULL, 0);
	flood_of_pings(&t, &p);
	ends_meanwhile(&p, &t);
	target_freed(&p, -ETIME, "post-copy lasted longer than output may be held");
}

/* The target owns the VM; the source never sends BYE. */
RIG_PAIR(target_is_not_held, by_pings_for_a_goodbye)
{
	struct wire_switchover w = { .state_sum = peer_no_needs(), .commit_at = FERRY_COMMIT_AT_COMPLETE };
	struct talker t;
	struct peer p;

	reserve_target(&p, kind, 0);
	end_puts(&p);
	SAY(&p, WIRE_SWITCHOVER, w);
	peer_hear_only(&p, WIRE_PREPARED, NULL, 0);
	peer_say(&p, WIRE_COMMIT, NULL, 0, NULL, 0);
	peer_hear_only(&p, WIRE_COMMITTED, NULL, 0);
	pings_begin(&t, &p);
	ends_meanwhile(&p, &t);
	p.link->ops->close(p.link);
	ferry_free(p.rig.tgt.session);
	cr_assert_eq(p.rig.tres.outcome, FERRY_OUTCOME_MIGRATED, "%s", p.rig.tres.detail);
	p.rig.world.trouble[0] = 0; /* expected: a guest without state, whose source was never paused */
	rig_free(&p.rig);
}

/* ---- a real source ---- */

/* Its limits are far away, except for one that the test has set before. */
static void source_init_far(struct peer *p, const struct rig_kind *kind)
{
	peer_init(p, kind);
	memset(p->rig.src.writes, 0, sizeof(p->rig.src.writes));
	p->rig.scfg.mode = FERRY_MODE_STOP_AND_COPY;
	p->rig.scfg.timeout_us = FAR_US;
	p->rig.scfg.connect_us = FAR_US;
	p->rig.scfg.reconnect_us = FAR_US;
	p->rig.scfg.switchover_limit_us = FAR_US;
}

static void accept_source(struct peer *p)
{
	peer_accept(p);
	p->heard[0] = 0;
	peer_hear_only(p, WIRE_HELLO, NULL, 0);
}

static void start_source(struct peer *p)
{
	peer_start_source(p, p->rig.uri);
	accept_source(p);
}

static void acknowledge(struct peer *p)
{
	SAY(p, WIRE_HELLO_ACK,
	    (struct wire_hello_ack){ .magic = WIRE_MAGIC,
				     .version = WIRE_VERSION,
				     .oldest = WIRE_VERSION,
				     .page_shift = 12,
				     .timeout_us = p->rig.scfg.timeout_us });
}

static void source_freed(struct peer *p, int err, const char *sentence)
{
	const struct ferry_result *res = &p->rig.sres;

	p->link->ops->close(p->link);
	p->listener->ops->close(p->listener);
	ferry_free(p->rig.src.session);
	cr_assert_eq(res->error, err, "%d: %s", res->error, res->detail);
	rig_says(res->detail, sentence);
	cr_assert_eq(res->owner, FERRY_OWNER_SOURCE);
	cr_assert_eq(p->rig.src.calls[FAKE_RESUME], p->rig.src.calls[FAKE_PAUSE]);
	cr_assert_eq(p->rig.src.calls[FAKE_RETIRE], 0);
	rig_free(&p->rig);
}

static void pings_for_an_answer(void (*begin)(struct talker *t, struct peer *p))
{
	struct talker t;
	struct peer p;

	source_init_far(&p, RIG_TCP_ANON);
	p.rig.scfg.connect_us = CONNECT_US;
	start_source(&p);
	begin(&t, &p);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ETIMEDOUT, "could not be reached");
}

Test(source_is_not_held, by_a_ping_now_and_then)
{
	pings_for_an_answer(pings_begin);
}

Test(source_is_not_held, by_an_aborted_target_that_does_not_say_why)
{
	struct talker t;
	struct peer p;

	source_init_far(&p, RIG_TCP_ANON);
	p.rig.scfg.connect_us = CONNECT_US;
	start_source(&p);
	SAY(&p, WIRE_HELLO_ACK,
	    (struct wire_hello_ack){ .magic = WIRE_MAGIC,
				     .version = WIRE_VERSION,
				     .oldest = WIRE_VERSION,
				     .page_shift = 12,
				     .timeout_us = FAR_US,
				     .commit = COMMIT_ABORTED });
	pings_begin(&t, &p);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ECONNABORTED, "the target has given up");
}

/* The source has sent ABORT; the target neither answers nor closes the link. */
Test(source_is_not_held, when_its_last_words_are_not_answered)
{
	struct talker t;
	struct peer p;

	source_init_far(&p, RIG_TCP_ANON);
	start_source(&p);
	acknowledge(&p);
	peer_hear_until(&p, WIRE_MAP);
	pings_begin(&t, &p);
	cr_assert_eq(ferry_cancel(p.rig.src.session), 0);
	peer_hear_until(&p, WIRE_ABORT);
	cr_assert_eq(ferry_cancel(p.rig.src.session), -EALREADY);
	ends_meanwhile(&p, &t);
	source_freed(&p, -ECANCELED, "canceled by the embedder in reservation");
}

static void cancel_in_precopy(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY)
		ferry_cancel(vm->session);
}

/* The ABORT was lost with the link; the source connects again to repeat it, and the peer only sends PINGs. */
static void says_it_again(uint64_t reconnect_us, bool cancel)
{
	struct xport_link *first;
	struct talker t;
	struct peer p;

	source_init_far(&p, RIG_TCP_ANON);
	p.rig.scfg.reconnect_us = reconnect_us;
	p.rig.src.phase_hook = cancel_in_precopy;
	start_source(&p);
	acknowledge(&p);
	peer_hear_until(&p, WIRE_MAP);
	SAY(&p, WIRE_RESERVED, (struct wire_reserved){ .flags = WIRE_CAN_HOLD });
	peer_hear_until(&p, WIRE_ABORT);
	first = p.link;
	first->ops->kill(first);
	accept_source(&p);
	pings_begin(&t, &p);
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

Test(source_in_a_flood, before_the_answer)
{
	pings_for_an_answer(flood_of_pings);
}

static void expose_for_puts(struct peer *p)
{
	struct xport_region r[FAKE_REGIONS];

	p->ram = aligned_alloc(FAKE_PAGE, FAKE_PAGES * FAKE_PAGE);
	for (unsigned i = 0; i < FAKE_REGIONS; i++)
		r[i] = (struct xport_region){ .id = p->rig.src.region[i].id,
					      .npages = p->rig.src.region[i].len / FAKE_PAGE,
					      .base = p->ram + fake_offset(i, 0) };
	cr_assert_eq(p->link->ops->expose(p->link, r, FAKE_REGIONS, XPORT_PEER_WRITE), 0);
}

static void *serve(void *arg)
{
	struct peer *p = arg;
	struct xport_chan *c = p->link->ops->chan(p->link, XPORT_DATA, 0);

	c->ops->serve(c, NULL, NULL);
	return NULL;
}

/* The VM is paused, and the target sends anything but PREPARED. */
Test(source_in_a_flood, in_the_downtime)
{
	struct talker t;
	pthread_t land;
	struct peer p;

	source_init_far(&p, RIG_TCP_ANON);
	p.rig.scfg.timeout_us = FLOOD_TIMEOUT_US;
	p.rig.scfg.reconnect_us = PEER_RECONNECT_US;
	p.rig.scfg.switchover_limit_us = CONNECT_US;
	p.rig.scfg.channels = 1;
	start_source(&p);
	acknowledge(&p);
	peer_hear_until(&p, WIRE_MAP);
	expose_for_puts(&p);
	cr_assert(!pthread_create(&land, NULL, serve, &p));
	SAY(&p, WIRE_RESERVED, (struct wire_reserved){ .flags = WIRE_CAN_HOLD });
	for (unsigned round = 0; round < 2; round++) {
		peer_hear_until(&p, WIRE_ROUND_END);
		SAY(&p, WIRE_ROUND_ACK, (struct wire_round){ .round = round });
	}
	peer_hear_until(&p, WIRE_SWITCHOVER);
	flood_of_pings(&t, &p);
	ends_meanwhile(&p, &t);
	pthread_join(land, NULL);
	free(p.ram);
	source_freed(&p, -ETIME, "the target has not said PREPARED");
}
