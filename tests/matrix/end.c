// SPDX-License-Identifier: MIT
/* One end of a cell in its own process; and the intruder, which makes a second connection. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "census.h"
#include "fakevm_int.h"
#include "inject.h"
#include "left.h"
#include "matrix.h"
#include "patience.h"
#include "transport/tcp/tcp_wire.h"

#define BANDWIDTH 64000000u /* so slow that a round takes a while and there are two rounds */
#define NEWER 1000u	    /* a generation that the source never reaches */
#define WAIT_US 1000u
#define WAIT_TIMES 30000u

struct end {
	const struct cell *c;
	struct common *m;
	int fd;
	bool source;
	struct world w;
	struct fakevm vm;
	bool victim;
	_Atomic bool armed, done;
	pthread_t watcher;
};

static const uint8_t session_id[16] = "kill-matrix-cell";

static void say(int fd, bool source, unsigned what, uint64_t n)
{
	struct record r = { .at_source = source, .what = (uint8_t)what, .n = n };

	if (write(fd, &r, sizeof(r)) != sizeof(r))
		_exit(3); /* the observer has exited */
}

static void tell(void *arg, bool at_source, enum world_what what, uint64_t n)
{
	say(((struct end *)arg)->fd, at_source, what, n);
}

/* ---- the fault ---- */

static void fault_text(char buf[64], const struct cell *c)
{
	static const char *const names[] = {
		[LOST_BACK] = "lost",
		[BEFORE_BACK] = "cut-before",
		[MIDDLE_BACK] = "cut-middle",
		[AFTER_BACK] = "cut-after",
		[LOST] = "lost",
		[BEFORE] = "cut-before",
		[MIDDLE] = "cut-middle",
		[AFTER] = "cut-after",
		[KILL_BEFORE] = "kill-before",
		[KILL_AFTER] = "kill-after",
		[STOP_BEFORE] = "stop-before",
		[STOP_AFTER] = "stop-after",
		[DUPLICATE] = "stop-before",
		[KILL_HEARD] = "kill-heard",
	};
	unsigned nth = c->fault == KILL_HEARD ? c->point->heard_nth : c->point->nth;
	int n = snprintf(buf, 64, "%s:%s@%u", names[c->fault], wire_name(c->point->type), nth ? nth : 1);

	if (c->fault <= AFTER_BACK || (c->stranger && c->fault < KILL_BEFORE)) /* a reconnect succeeds */
		snprintf(buf + n, 64 - (size_t)n, ":%d", BACK_MS);
}

static void on_phase(struct fakevm *vm, enum ferry_phase p)
{
	struct end *e = vm->arg;
	const struct point *at = e->c->point;
	enum ferry_phase arm = at->arm;
	char fault[64];

	if (e->c->fault == KILL_HEARD)
		arm = at->heard_arm ? at->heard_arm : FERRY_PHASE_PRE_MIGRATION;
	if (e->victim && p == arm && !e->armed) {
		fault_text(fault, e->c);
		if (ferry_drill(vm->session, fault))
			world_trouble(&e->w, "ferry_drill() refused %s", fault);
		atomic_store(&e->m->armed, 1);
		e->armed = true; /* last, because to the watcher a fault that is not pending has struck */
	}
	if (e->source && e->c->stranger && p == FERRY_PHASE_RESERVATION)
		inject_divert(e->m->stranger_uri, &e->m->diverted);
	if (e->source && ((p == FERRY_PHASE_PRECOPY && at->provoke == CANCEL_IN_PRECOPY) ||
			  (p == FERRY_PHASE_COMMITMENT && at->provoke == CANCEL_IN_COMMITMENT)))
		ferry_cancel(vm->session);
}

static bool struck(struct end *e)
{
	return e->armed && ferry_drill(e->vm.session, "pending") == 0;
}

/* The main thread may be inside an op, so another thread must notice the fault. */
static void *watch(void *arg)
{
	struct end *e = arg;

	while (!atomic_load(&e->done)) {
		if (struck(e))
			atomic_store(&e->m->struck, 1);
		usleep(WAIT_US);
	}
	return NULL;
}

static void on_op(struct fakevm *vm, enum fake_op op)
{
	struct end *e = vm->arg;

	if (op != FAKE_DIRTY_FETCH)
		return;
	if (e->c->point->provoke == WAIT_FOR_PING)
		for (unsigned i = 0; i < WAIT_TIMES && !atomic_load(&e->m->struck); i++)
			usleep(WAIT_US);
	if (vm->calls[op] == FAKE_REGIONS + 1) /* after the second round */
		ferry_switchover(vm->session);
}

/* The first end that asks decides. The record is in memory that both ends share. */
static int arbitrate(void *v, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct fakevm *vm = v;
	struct end *e = vm->arg;
	int record = 0;

	vm->calls[FAKE_ARBITER]++;
	if (memcmp(session, session_id, sizeof(session_id)))
		world_trouble(&e->w, "the arbiter was asked about another session");
	if (atomic_compare_exchange_strong(&e->m->record, &record, (int)want + 1))
		record = (int)want + 1;
	*is = (enum ferry_owner)(record - 1);
	return 0;
}

/* ---- a session ---- */

static void configure(struct end *e, struct ferry_config *cfg)
{
	enum provoke why = e->c->point->provoke;
	enum way way = e->c->way;

	*cfg = (struct ferry_config){ FERRY_CONFIG_INIT, .flags = FERRY_CONFIG_DRILL,
				      .timeout_us = TIMEOUT_US,
				      /* The time must be enough to meet a stranger several times. */
				      .reconnect_us = RECONNECT_US * (e->c->stranger ? patience() : 1),
				      .connect_us = e->source ? 2 * TIMEOUT_US : 3 * TIMEOUT_US,
				      /* Either, whatever would measure faster here. */
				      .landing = (e->c->point->type + e->c->fault) % 2
							 ? FERRY_LANDING_WAY_KERNEL
							 : FERRY_LANDING_WAY_MAPPING };
	if (why == LOAD_FAILS && !e->source) {
		e->vm.fail_op = FAKE_LOAD;
		e->vm.fail_nth = 1;
		e->vm.fail_err = -EIO;
	}
	if (why == TARGET_IS_TOO_SMALL)
		e->vm.memory_limit = 1 << 20;
	if (!e->source)
		return;
	memcpy(cfg->session, session_id, sizeof(cfg->session));
	cfg->mode = way == WAY_STOP ? FERRY_MODE_STOP_AND_COPY : FERRY_MODE_AUTO;
	cfg->commit_at = way == WAY_SERVER ? FERRY_COMMIT_AT_SWITCHOVER : FERRY_COMMIT_AT_COMPLETE;
	cfg->bandwidth = BANDWIDTH;
	cfg->downtime_us = 10000;
	cfg->hold_limit_us = why == HOLD_LIMIT ? 1 : 0;
	e->vm.writes[0] = 1000;
	e->vm.writes[1] = way == WAY_STOP ? 500 : 2 * FAKE_PAGES;
	e->vm.last_writes = 60;
}

/*
 * A loopback address of its own for each target: ports are given again soon, and a source that looks for a target that
 * is gone would meet another cell's.
 */
static int open_target(struct end *e)
{
	unsigned pid = (unsigned)getpid();
	char uri[64];

	snprintf(uri, sizeof(uri), "tcp:127.%u.%u.%u:0", 64 + (pid >> 16) % 64, pid >> 8 & 255, pid & 255);
	return ferry_open(e->vm.session, uri);
}

static int open_session(struct end *e)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &e->vm, .ops = &e->vm.ops };
	struct ferry_config cfg;
	int err;

	configure(e, &cfg);
	if (e->c->arbiter)
		e->vm.ops.arbiter = arbitrate;
	e->vm.phase_hook = on_phase;
	e->vm.arg = e;
	e->vm.thread = pthread_self();
	if (e->source) {
		e->vm.hook = on_op;
		v.regions = e->vm.region;
		v.nregions = FAKE_REGIONS;
		err = ferry_source_new(&e->vm.session, &v, &cfg);
		return err ? err : ferry_open(e->vm.session, e->m->uri);
	}
	err = ferry_target_new(&e->vm.session, &v, &cfg);
	if (!err)
		err = open_target(e);
	if (!err)
		err = ferry_get_uri(e->vm.session, e->m->uri, sizeof(e->m->uri));
	if (!err)
		say(e->fd, false, RECORD_LISTENS, 0);
	return err;
}

static void due(struct end *e, enum fake_op op, unsigned times)
{
	if (e->vm.calls[op] != times)
		world_trouble(&e->w, "%s was called %u times, %u were due (%s)", fake_op_name(op),
			      e->vm.calls[op], times, e->vm.ops_seen);
}

/* An end may ask at most once, and must not be in doubt if there is an arbiter. */
static void check_arbiter(struct end *e, enum ferry_outcome o)
{
	unsigned asked = e->vm.calls[FAKE_ARBITER];

	if (asked > 1)
		world_trouble(&e->w, "the arbiter was asked %u times", asked);
	if (e->c->arbiter && o == FERRY_OUTCOME_IN_DOUBT)
		world_trouble(&e->w, "in doubt, and there is an arbiter that answers");
}

static void check_source(struct end *e, enum ferry_outcome o)
{
	bool goes_on = o == FERRY_OUTCOME_REFUSED || o == FERRY_OUTCOME_FELL_BACK;

	due(e, FAKE_RETIRE, o == FERRY_OUTCOME_MIGRATED);
	due(e, FAKE_RESUME, o == FERRY_OUTCOME_FELL_BACK);
	due(e, FAKE_PAUSE, o != FERRY_OUTCOME_REFUSED);
	due(e, FAKE_DIRTY_STOP, e->vm.calls[FAKE_DIRTY_START]);
	if (!goes_on)
		return;
	fakevm_run_on(&e->vm);
	fakevm_check_memory(&e->vm);
}

static void check_target(struct end *e, enum ferry_outcome o)
{
	/* If the arbiter said lost, the target never owned the VM. */
	bool ours = o == FERRY_OUTCOME_MIGRATED || (o == FERRY_OUTCOME_LOST && !e->vm.calls[FAKE_ARBITER]);

	due(e, FAKE_ACTIVATE, ours);
	due(e, FAKE_RELEASE, ours ? e->vm.calls[FAKE_HOLD] : 0);
	due(e, FAKE_DISCARD,
	    o == FERRY_OUTCOME_MIGRATED || o == FERRY_OUTCOME_IN_DOUBT ? 0 : e->vm.calls[FAKE_RESERVE]);
	if (o != FERRY_OUTCOME_MIGRATED)
		return;
	fakevm_finish(&e->vm);
	fakevm_run_on(&e->vm);
	fakevm_check_memory(&e->vm);
}

static void migrate(struct end *e)
{
	struct ferry_result *res = &e->m->end[!e->source].res;
	bool watched = e->victim && e->c->point->provoke == WAIT_FOR_PING;

	res->size = sizeof(*res);
	if (open_session(e)) {
		world_trouble(&e->w, "the session could not begin: %s", e->vm.error_line);
		return;
	}
	if (watched && pthread_create(&e->watcher, NULL, watch, e))
		watched = false;
	ferry_run(e->vm.session, res);
	atomic_store(&e->done, true);
	if (watched)
		pthread_join(e->watcher, NULL);
	if (e->victim && struck(e))
		atomic_store(&e->m->struck, 1);
	check_arbiter(e, res->outcome);
	e->m->end[!e->source].ended = true;
	say(e->fd, e->source, RECORD_ENDED, 0);
	if (e->source)
		check_source(e, res->outcome);
	else
		check_target(e, res->outcome);
}

_Noreturn void end_main(const struct cell *c, struct common *m, int fd, bool source)
{
	struct end e = { .c = c,
			 .m = m,
			 .fd = fd,
			 .source = source,
			 .victim = struck_at_source(c->point, c->fault) == source };
	struct census was, is;
	bool shared = c->shared;

	take_census(&was, threads_now());
	world_init(&e.w);
	free(e.w.frozen);
	e.w.frozen = m->frozen;
	e.w.tell = tell;
	e.w.tell_arg = &e;
	if (source)
		fakevm_source(&e.vm, &e.w, shared);
	else
		fakevm_target(&e.vm, &e.w, shared);
	migrate(&e);
	ferry_free(e.vm.session);
	fakevm_destroy(&e.vm);
	take_census(&is, was.threads);
	compare(m->end[!source].left, sizeof(m->end[0].left), &was, &is);
	snprintf(m->end[!source].trouble, sizeof(m->end[0].trouble), "%s", e.w.trouble);
	memcpy(m->end[!source].ops, e.vm.ops_seen, sizeof(m->end[0].ops));
	e.w.frozen = NULL;
	world_destroy(&e.w);
	exit(0);
}

/* ---- the intruder ---- */

/* The HELLO of a reconnecting source, except for the number, which only the two ends know. */
static void claim(int fd, uint32_t generation)
{
	struct {
		struct tcp_msg frame;
		struct wire_hdr hdr;
		struct wire_hello hello;
	} __attribute__((packed)) say = {
		.frame = { .magic = TCP_MAGIC_MSG,
			   .len = sizeof(struct wire_hdr) + sizeof(struct wire_hello) },
		.hdr = wire_header(WIRE_HELLO, sizeof(struct wire_hello), 0),
		.hello = { .magic = WIRE_MAGIC,
			   .version = WIRE_VERSION,
			   .oldest = WIRE_VERSION_OLDEST,
			   .page_shift = 12,
			   .generation = generation,
			   .flags = WIRE_COMES_BACK,
			   .timeout_us = TIMEOUT_US,
			   .reconnect_us = RECONNECT_US },
	};

	if (send(fd, &say, sizeof(say), MSG_NOSIGNAL) < 0)
		return; /* the target has ended; its answer tells */
}

/* Connects to the target and sends a preamble. -1: failed; m->intruder has the reason. */
static int dial(struct common *m, uint32_t role, uint32_t generation)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	struct tcp_preamble pre = { .magic = TCP_MAGIC_PREAMBLE,
				    .version = TCP_WIRE_VERSION,
				    .role = role,
				    .channels = 1,
				    .generation = generation,
				    .attempt = (uint64_t)getpid() };
	const char *host = strchr(m->uri, ':') + 1, *port = strrchr(m->uri, ':');
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[INET_ADDRSTRLEN];

	memcpy(pre.session, session_id, sizeof(pre.session));
	snprintf(text, sizeof(text), "%.*s", (int)(port - host), host);
	to.sin_port = htons((uint16_t)atoi(port + 1));
	if (fd >= 0 && inet_pton(AF_INET, text, &to.sin_addr) == 1 &&
	    !connect(fd, (struct sockaddr *)&to, sizeof(to)) &&
	    send(fd, &pre, sizeof(pre), MSG_NOSIGNAL) == sizeof(pre))
		return fd;
	snprintf(m->intruder, sizeof(m->intruder), "it cannot be made to %.100s: %s", m->uri,
		 strerror(errno));
	if (fd >= 0)
		close(fd);
	return -1;
}

/*
 * Checks the target's answer to the second connection. The answer to the preamble is that the generation is
 * not newer, or that it is fine, and then REFUSED follows. A target that has ended does not answer. Before
 * the target has received the source's HELLO it has no session (early): it closes a mute connection after a
 * while, and tells a source that comes back that it knows nothing of the migration.
 */
static void hear_refusal(struct common *m, int fd, bool early)
{
	struct {
		struct tcp_answer answer;
		struct tcp_msg frame;
		struct wire_hdr hdr;
		struct wire_abort abort;
	} __attribute__((packed)) got = { 0 };
	ssize_t n = recv(fd, &got, sizeof(got), MSG_WAITALL);
	bool taken = n == (ssize_t)sizeof(got.answer) && got.answer.code == TCP_ANSWER_TAKEN;

	if (n <= (ssize_t)sizeof(got.answer) && !taken && !early) {
		m->answer = ANSWER_HUNG_UP;
		return;
	}
	m->answer = ANSWER_REFUSED;
	if (n <= (ssize_t)sizeof(got.answer))
		return;
	if (n < (ssize_t)sizeof(got))
		snprintf(m->intruder, sizeof(m->intruder), "%zd bytes were answered", n);
	else if (got.hdr.type != WIRE_REFUSED)
		snprintf(m->intruder, sizeof(m->intruder), "%s was answered", wire_name(got.hdr.type));
	else if (got.abort.err != (early ? -ESTALE : -EBUSY) && got.abort.err != -EBUSY)
		snprintf(m->intruder, sizeof(m->intruder), "REFUSED with error %d was answered",
			 got.abort.err);
}

_Noreturn void intruder_main(const struct cell *c, struct common *m, int fd)
{
	uint32_t generation = c->claims ? NEWER : 0;
	bool early = c->point->type == WIRE_HELLO || c->point->type == WIRE_HELLO_ACK;
	/* If the idle target must answer, the stopped source waits until the answer is there. */
	bool first = c->point->at_source && !early && !last_words(c->point->type);
	int conn[3];

	for (unsigned i = 0; i < 3; i++)
		conn[i] = dial(m, i, generation);
	if (c->claims && !m->intruder[0])
		claim(conn[0], generation);
	if (!first)
		say(fd, false, RECORD_INTRUDER_IN, 0);
	if (!m->intruder[0])
		hear_refusal(m, conn[0], early);
	if (first)
		say(fd, false, RECORD_INTRUDER_IN, 0);
	_exit(0);
}
