/* SPDX-License-Identifier: MIT */
/*
 * The parent of a migration. It forks the ends before it has any thread, never touches guest memory, and
 * observes the guest's output. It goes through these steps; a condition ends each step:
 *
 *	the guest runs (outputs seen) -> target listens -> source connects -> both ends have reported or died
 *	-> the owner's guest has run on -> proof at the owner -> both quit -> the pipe of outputs ends
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "run.h"
#include "end.h"
#include "exchange.h"
#include "util.h"
#include "vm.h"

#define FIRST_OUTPUTS 3 /* outputs of each stream before the migration begins */
#define SECOND 1000000000ull
#define START_LIMIT (60 * SECOND)  /* until the guest's first outputs */
#define OTHER_LIMIT (120 * SECOND) /* after one end has ended, until the other must */
#define SPEAK_LIMIT (10 * SECOND)  /* until the owner's guest prints again */
#define NEVER UINT64_MAX

struct child {
	pid_t pid; /* 0: none */
	int fd;	   /* -1: closed */
	bool ready, ended;
	char uri[FERRY_DETAIL_MAX];
};

struct run {
	struct run_report *r;
	struct record *record;	/* NULL: no recording */
	struct meeting meeting; /* two machines: the connection to the other */
	int meet_err;		/* why results cannot be exchanged */
	struct child child[2];	/* enum vmm_end */
	bool observer_open;
	bool tty;
	bool proof_told;
	bool reserved;		       /* an end has entered the reservation, so both were connected */
	uint64_t ended_at, settled_at; /* ns: when the first end had ended, when both had */
	uint64_t seen_at_settled[VMM_VCPUS_MAX];
};

static const char *end_name(int end)
{
	return end == VMM_END_SOURCE ? "source" : "target";
}

static void lose(struct run *x, int end)
{
	struct child *c = &x->child[end];

	if (c->fd < 0)
		return;
	close(c->fd);
	c->fd = -1;
	c->ended = true;
}

static void take_event(struct run *x, int end, const struct msg *m)
{
	struct run_report *r = x->r;
	const struct kill_drill *k = &r->o->kill;

	record_event(x->record, (enum vmm_end)end, &m->event, m->text, m->time_ns);
	switch (m->event.type) {
	case FERRY_EVENT_PHASE:
		if (k->who != KILL_NOBODY && m->event.phase == k->phase)
			r->end[end].drilled = true;
		if (m->event.phase <= FERRY_PHASE_ACTIVATION && m->event.phase > r->end[end].last)
			r->end[end].last = m->event.phase;
		x->reserved = x->reserved || m->event.phase == FERRY_PHASE_RESERVATION;
		break;
	case FERRY_EVENT_ROUND:
		if (end == VMM_END_SOURCE && r->nrounds < ROUNDS_KEPT)
			r->rounds[r->nrounds++] = m->event.round;
		break;
	case FERRY_EVENT_POLICY:
		if (end == VMM_END_SOURCE && r->npolicy < POLICY_KEPT)
			snprintf(r->policy[r->npolicy++], sizeof(r->policy[0]), "%s", m->text);
		break;
	case FERRY_EVENT_LINK:
		break;
	}
}

static void note(struct run *x, int end, const char *text)
{
	if (x->r->o->quiet)
		return;
	if (x->tty)
		report_progress_end(stderr);
	fprintf(stderr, "%s: %s\n", end_name(end), text);
}

static void take_stats(struct end_report *e, const struct ferry_stats *st)
{
	if (st->elapsed_us > e->live.elapsed_us)
		e->live_mb_s = (double)(st->bytes_sent - e->live.bytes_sent) /
			       (double)(st->elapsed_us - e->live.elapsed_us);
	e->live = *st;
}

static void take_msg(struct run *x, int end, const struct msg *m)
{
	struct run_report *r = x->r;
	struct child *c = &x->child[end];

	switch (m->type) {
	case MSG_READY:
		c->ready = true;
		r->end[end].begun = true;
		snprintf(c->uri, sizeof(c->uri), "%s", m->text);
		break;
	case MSG_EVENT:
		take_event(x, end, m);
		break;
	case MSG_STATS:
		take_stats(&r->end[end], &m->stats);
		if (x->tty)
			report_progress(stderr, r);
		break;
	case MSG_LOG:
		if (m->number <= 4)
			note(x, end, m->text);
		break;
	case MSG_RESULT:
		r->end[end].have_result = true;
		r->end[end].result = m->result;
		r->end[end].drilled |= m->number != 0;
		r->end[end].cpu = m->cpu;
		c->ended = true;
		if (m->text[0] &&
		    (end == VMM_END_SOURCE || !r->mutator[0])) /* the end that had the VM knows */
			snprintf(r->mutator, sizeof(r->mutator), "%.15s", m->text);
		break;
	case MSG_PROOF:
		r->have_proof = true;
		r->proof = m->proof;
		r->proof_err = m->number;
		snprintf(r->mutator, sizeof(r->mutator), "%.15s", m->text);
		x->proof_told = true;
		break;
	case MSG_OFFER:
		meet_agree(&x->meeting, &m->offer);
		break;
	case MSG_ERROR:
		snprintf(r->end[end].error, sizeof(r->end[end].error), "%s", m->text);
		lose(x, end);
		break;
	default:
		lose(x, end);
	}
}

static void take_child(struct run *x, int end)
{
	struct child *c = &x->child[end];

	while (c->fd >= 0) {
		struct msg m;
		int err = msg_recv(c->fd, &m, false);

		if (err == -EAGAIN)
			return;
		if (err)
			lose(x, end);
		else
			take_msg(x, end, &m);
	}
}

/* Handles outputs and messages; waits for them at most until the given time. */
static void pump(struct run *x, uint64_t until)
{
	uint64_t now = clock_ns();
	int wait;
	struct pollfd p[3 + MEET_FDS] = {
		{ .fd = x->child[0].fd, .events = POLLIN },
		{ .fd = x->child[1].fd, .events = POLLIN },
		{ .fd = x->observer_open ? x->r->observer.fd : -1, .events = POLLIN },
	};

	meet_poll(&x->meeting, p + 3, &until);
	wait = until == NEVER ? -1 : until <= now ? 0 : (int)((until - now + 999999) / 1000000);
	if (poll(p, 3 + MEET_FDS, wait) < 0)
		return;
	meet_step(&x->meeting, p + 3);
	if (p[2].revents && observer_drain(&x->r->observer) <= 0)
		x->observer_open = false;
	for (int end = 0; end < 2; end++) {
		if (p[end].revents)
			take_child(x, end);
	}
}

/* 0, or -ETIMEDOUT. The condition also gets the time. */
static int wait_until(struct run *x, bool (*cond)(struct run *x), uint64_t limit_ns)
{
	uint64_t until = limit_ns == NEVER ? NEVER : clock_ns() + limit_ns;

	while (!cond(x)) {
		if (clock_ns() >= until)
			return -ETIMEDOUT;
		pump(x, until < clock_ns() + SECOND / 20 ? until : clock_ns() + SECOND / 20);
	}
	return 0;
}

static bool source_runs(struct run *x)
{
	struct child *c = &x->child[VMM_END_SOURCE];

	return c->fd < 0 ||
	       (c->ready && (!vm_kind(x->r->o)->proves || observer_least(&x->r->observer) >= FIRST_OUTPUTS));
}

static bool target_listens(struct run *x)
{
	struct child *c = &x->child[VMM_END_TARGET];

	return c->fd < 0 || c->ready;
}

static bool both_ended(struct run *x)
{
	bool s = x->child[VMM_END_SOURCE].ended, t = x->child[VMM_END_TARGET].ended;

	/* Of one end alone the other one is on another host, and may begin whenever it likes. */
	if (x->r->whole && (s || t) && !x->ended_at)
		x->ended_at = clock_ns();
	return (s && t) || (x->ended_at && clock_ns() - x->ended_at > OTHER_LIMIT);
}

/* The guest has run long enough, and every stream that ever printed has printed again. */
static bool ran_on(struct run *x)
{
	struct observer *o = &x->r->observer;
	bool spoke = false;

	if (clock_ns() - x->settled_at < x->r->o->run_on_us * 1000)
		return false;
	for (unsigned i = 0; i < o->nstreams; i++) {
		if (x->r->o->command == CMD_TARGET && !o->stream[i].seen)
			continue;
		if (o->stream[i].seen == x->seen_at_settled[i])
			return false;
		spoke = true;
	}
	return spoke;
}

static bool proof_made(struct run *x)
{
	return x->proof_told || (x->child[0].fd < 0 && x->child[1].fd < 0);
}

static bool outputs_over(struct run *x)
{
	return !x->observer_open && x->child[0].fd < 0 && x->child[1].fd < 0;
}

static void fail_begin(struct run *x, int end, const char *what)
{
	struct end_report *e = &x->r->end[end];

	if (!e->error[0])
		snprintf(e->error, sizeof(e->error), "%s", what);
}

static void spawn(struct run *x, int end, int pipe_fds[2])
{
	struct child *c = &x->child[end];
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds)) {
		fail_begin(x, end, "no socket pair for a child process");
		return;
	}
	c->pid = fork_child();
	if (!c->pid) {
		close(fds[0]);
		close(pipe_fds[0]);
		if (x->child[!end].fd >= 0) /* otherwise the end of its socket would never come */
			close(x->child[!end].fd);
		end_main((enum vmm_end)end, x->r->o, fds[1], pipe_fds[1],
			 x->record ? x->record->area[end] : NULL);
	}
	close(fds[1]);
	c->fd = fds[0];
	c->ended = false;
	if (c->pid < 0) {
		fail_begin(x, end, "no child process");
		lose(x, end);
	}
}

static void tell(struct run *x, int end, enum msg_type type, const char *text)
{
	struct msg m = { .type = type, .offer = x->meeting.offer };

	snprintf(m.text, sizeof(m.text), "%s", text);
	if (x->child[end].fd >= 0 && msg_send(x->child[end].fd, &m))
		take_child(x, end);
}

/* Appends the query of --uri, so that a slow link is slow in both directions. */
static void add_query(char *uri, size_t cap, const char *asked)
{
	const char *query = strchr(asked, '?');

	if (query && !strchr(uri, '?'))
		snprintf(uri + strlen(uri), cap - strlen(uri), "%s", query);
}

/* Before the VM moves: if --report-port cannot be opened, the run does not begin. */
static bool prepare_meeting(struct run *x)
{
	const struct options *o = x->r->o;
	char why[256];
	int err = 0;

	if (o->report_port_set && !o->report_port)
		return true;
	if (o->command == CMD_SOURCE)
		meet_resolve(&x->meeting, o->to);
	else if (o->command == CMD_TARGET)
		err = meet_listen(&x->meeting, o->listen, (uint16_t)o->report_port);
	if (!err)
		return true;
	if (o->report_port_set) {
		snprintf(why, sizeof(why),
			 "port %u for the results cannot be opened: %s; give another --report-port, or leave the option out for a free port",
			 (unsigned)o->report_port, strerror(-err));
		fail_begin(x, VMM_END_TARGET, why);
		return false;
	}
	x->meet_err = err; /* the migration may fail for the same reason, with a better sentence */
	return true;
}

static void say_listening(const struct run *x, const char *uri)
{
	fprintf(stderr, "listening on %s\n", uri); /* printed first, so that a script can read it */
	if (x->meet_err)
		fprintf(stderr,
			"rdma-migrate: no results will be exchanged, because no port can be opened for them: %s.\n",
			strerror(-x->meet_err));
}

/* Starts both ends, until they are in ferry_run(). false: an end could not begin. */
static bool begin(struct run *x)
{
	const struct options *o = x->r->o;
	const char *uri = o->to;

	if (!prepare_meeting(x))
		return false;

	if (o->command != CMD_TARGET) {
		if (wait_until(x, source_runs, START_LIMIT))
			fail_begin(x, VMM_END_SOURCE, "the guest printed nothing within 60 s");
		else if (x->child[VMM_END_SOURCE].fd < 0)
			fail_begin(x, VMM_END_SOURCE, "its process died");
		if (x->r->end[VMM_END_SOURCE].error[0])
			return false;
	}
	if (o->command != CMD_SOURCE) {
		tell(x, VMM_END_TARGET, MSG_GO, o->command == CMD_TARGET ? o->listen : o->uri);
		wait_until(x, target_listens, NEVER);
		if (x->child[VMM_END_TARGET].fd < 0 && !x->child[VMM_END_TARGET].ready)
			fail_begin(x, VMM_END_TARGET, "its process died");
		if (o->command == CMD_RUN)
			add_query(x->child[VMM_END_TARGET].uri, sizeof(x->child[0].uri), o->uri);
		uri = x->child[VMM_END_TARGET].uri;
		if (o->command == CMD_TARGET && !x->r->end[VMM_END_TARGET].error[0])
			say_listening(x, uri);
		if (x->r->end[VMM_END_TARGET].error[0])
			return false;
	}
	if (o->command != CMD_TARGET)
		tell(x, VMM_END_SOURCE, MSG_GO, uri);
	return true;
}

/* The end that owns the VM and still has it, or -1: a target that lost its page server discarded the VM. */
static int owner_end(const struct run *x)
{
	const struct end_report *s = &x->r->end[VMM_END_SOURCE], *t = &x->r->end[VMM_END_TARGET];

	if (s->have_result && s->result.owner == FERRY_OWNER_SOURCE)
		return VMM_END_SOURCE;
	return t->have_result && t->result.owner == FERRY_OWNER_TARGET &&
			       t->result.outcome != FERRY_OUTCOME_LOST
		       ? VMM_END_TARGET
		       : -1;
}

static void prove(struct run *x)
{
	int end = owner_end(x);

	if (end < 0 || x->child[end].fd < 0 || !vm_kind(x->r->o)->proves)
		return;
	x->settled_at = clock_ns();
	for (unsigned i = 0; i < x->r->observer.nstreams; i++)
		x->seen_at_settled[i] = x->r->observer.stream[i].seen;
	x->r->ran_on = !wait_until(x, ran_on, SPEAK_LIMIT + x->r->o->run_on_us * 1000);
	tell(x, end, MSG_PROVE, "");
	wait_until(x, proof_made, NEVER);
}

static void finish(struct run *x)
{
	for (int end = 0; end < 2; end++) {
		if (x->ended_at && !x->child[end].ended) { /* the other end ended two minutes ago */
			x->r->end[end].hung = true;
			kill(x->child[end].pid, SIGKILL);
		}
		tell(x, end, MSG_QUIT, "");
	}
	if (wait_until(x, outputs_over, OTHER_LIMIT)) {
		for (int end = 0; end < 2; end++) {
			if (x->child[end].fd >= 0)
				kill(x->child[end].pid, SIGKILL);
		}
		wait_until(x, outputs_over, OTHER_LIMIT);
	}
	for (int end = 0; end < 2; end++) {
		lose(x, end);
		if (x->child[end].pid > 0)
			waitpid(x->child[end].pid, NULL, 0);
	}
}

/* How many streams of numbered outputs there are; a target learns later which of them print. */
static unsigned streams(const struct options *o)
{
	if (!vm_kind(o)->proves)
		return 0;
	return o->command == CMD_TARGET ? VMM_VCPUS_MAX : (unsigned)o->vcpus;
}

static void run(struct run_report *r, const struct options *o, struct record *record)
{
	struct run x = { .r = r,
			 .record = record,
			 .child = { { .fd = -1, .ended = true }, { .fd = -1, .ended = true } } };
	int fds[2];

	meet_init(&x.meeting, o->command == CMD_TARGET ? VMM_END_TARGET : VMM_END_SOURCE);
	if (pipe2(fds, O_CLOEXEC)) {
		fail_begin(&x, VMM_END_SOURCE, "no pipe for the guest's output");
		judge(r);
		return;
	}
	observer_init(&r->observer, fds[0], streams(o), o->command != CMD_TARGET);
	x.observer_open = true;
	x.tty = !o->quiet && isatty(STDERR_FILENO);
	if (o->command != CMD_TARGET)
		spawn(&x, VMM_END_SOURCE, fds);
	if (o->command != CMD_SOURCE)
		spawn(&x, VMM_END_TARGET, fds);
	close(fds[1]);
	fcntl(fds[0], F_SETFL, O_NONBLOCK); /* this affects the read end only: writers still block */
	if (begin(&x)) {
		wait_until(&x, both_ended, NEVER);
		prove(&x);
	}
	finish(&x);
	if (x.tty)
		report_progress_end(stderr);
	close(fds[0]);
	if (x.reserved)
		peer_exchange(&x.meeting, r, record);
	meet_end(&x.meeting);
	judge(r);
}

void run_once(struct run_report *r, const struct options *o, uint64_t number, const struct floor *floor,
	      struct out *recording)
{
	struct record *record = recording ? record_new(o->sample_us) : NULL;

	*r = (struct run_report){
		.o = o, .number = number, .have_floor = floor, .whole = o->command == CMD_RUN
	};
	for (int end = 0; end < 2; end++) {
		if (r->whole || (end == VMM_END_TARGET) == (o->command == CMD_TARGET))
			gethostname(r->host[end], sizeof(r->host[end]) - 1);
	}
	if (floor)
		r->floor = *floor;
	run(r, o, record);
	if (recording && !record)
		out_fail(recording, -ENOMEM);
	if (recording && record)
		record_write(out_file(recording), record, r);
	if (recording)
		out_whole(recording);
	record_free(record);
}

int run_floor(struct floor *f, const struct options *o)
{
	struct floor_ask ask = {
		.uri = o->uri,
		.memory = o->memory,
		.memfd = o->kind == KIND_MEMFD || o->kind == KIND_HUGETLB_MEMFD,
		.pull = { .pages = o->pull,
			  .spread = o->working_set,
			  .rate = o->dirty_rate,
			  .channels = o->channels ? (unsigned)o->channels : 1 },
	};
	char why[256];
	int err = floor_measure(f, &ask, why, sizeof(why));

	if (err)
		fprintf(stderr, "rdma-migrate: the floor could not be measured: %s.\n", why);
	return err;
}
