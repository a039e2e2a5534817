/* SPDX-License-Identifier: MIT */
/* One end of a run in its own process: the VM, the session, and the messages to the parent. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "end.h"
#include "arbiter.h"
#include "util.h"
#include "vm.h"
#include "ferry/drill.h"

#define STATS_EVERY_MS 100
#define DRILL_RECONNECT_US 1000000 /* after a fault for good a long wait is pointless */

struct end {
	enum vmm_end which;
	const struct options *o;
	int fd;
	const struct vm_kind *kind;
	void *vm;
	struct ferry_ops ops;
	struct ferry_session *session;
	struct sampler *sampler;
	bool drilled;
	uint64_t precopy_cpu_us, postcopy_cpu_us; /* CPU time of the process when the phase began; 0 before */
	uint64_t reserve_ns;			  /* when the reservation began; 0 before */
	uint64_t stamps;			  /* of the guest when pre-copy or post-copy began */
	struct end_cost cost;
	struct meet_offer offer;	/* target: its offer; port 0: none */
	char refusal[FERRY_DETAIL_MAX]; /* the library's sentence if it creates no session */
	pthread_t stats_thread;
	pthread_mutex_t lock; /* .done */
	pthread_cond_t cond;
	bool done;
};

int msg_send(int fd, const struct msg *m)
{
	ssize_t n;

	do
		n = send(fd, m, sizeof(*m), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*m) ? 0 : -EPIPE;
}

int msg_recv(int fd, struct msg *m, bool wait)
{
	ssize_t n;

	do
		n = recv(fd, m, sizeof(*m), wait ? 0 : MSG_DONTWAIT);
	/* A peer that has exited without reading all is reported once, before what it has sent. */
	while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n != sizeof(*m))
		return -EPIPE;
	m->text[sizeof(m->text) - 1] = 0;
	return 0;
}

static void set_text(struct msg *m, const char *text)
{
	snprintf(m->text, sizeof(m->text), "%s", text ? text : "");
}

_Noreturn static void give_up(struct end *e, const char *what, const char *why)
{
	struct msg m = { .type = MSG_ERROR };

	snprintf(m.text, sizeof(m.text), "%s: %.400s", what, why);
	msg_send(e->fd, &m);
	_exit(1);
}

/* Copies the sentence at the end of a log line: text="...", in which \" and \\ are escapes. */
static void log_text(char *buf, size_t cap, const char *line)
{
	const char *p = strstr(line, " text=\"");
	size_t n = 0;

	for (p = p ? p + 7 : ""; *p && *p != '"' && n + 1 < cap; p++)
		buf[n++] = *p == '\\' && p[1] ? *++p : *p;
	buf[n] = 0;
}

static void on_log(void *ctx, int level, const char *line)
{
	struct end *e = ctx;
	struct msg m = { .type = MSG_LOG, .number = level };

	set_text(&m, line);
	if (!e->session && level <= 3) /* no other thread logs at this time */
		log_text(e->refusal, sizeof(e->refusal), line);
	msg_send(e->fd, &m);
}

/* The library has fault injection: otherwise it had refused the session's flag with a sentence. */
static int inject(struct end *e, const char *fault)
{
#ifdef FERRY_HAVE_DRILL
	return ferry_drill(e->session, fault);
#else
	(void)e;
	(void)fault;
	return -EOPNOTSUPP;
#endif
}

static void drill(struct end *e)
{
	const struct kill_drill *k = &e->o->kill;
	char fault[32] = "cut";

	if (e->drilled)
		return;
	if (k->who == (e->which == VMM_END_SOURCE ? KILL_SOURCE : KILL_TARGET))
		raise(SIGKILL);
	if (k->who != KILL_LINK || e->which != VMM_END_SOURCE)
		return;
	e->drilled = true;
	if (k->heal_ms)
		snprintf(fault, sizeof(fault), "cut:%llu", (unsigned long long)k->heal_ms);
	if (inject(e, fault))
		on_log(e, 3, "the link could not be cut: ferry_drill() refused it");
}

/* Arms a fault at a message from the beginning, at the end that sends it or, for a kill, may read it. */
static void arm(struct end *e)
{
	const struct kill_drill *k = &e->o->kill;
	char fault[64];
	int n;

	if (!k->message || k->who == (e->which == VMM_END_SOURCE ? KILL_TARGET : KILL_SOURCE))
		return;
	n = snprintf(fault, sizeof(fault), "%s:%s", k->who == KILL_LINK ? "cut-before" : "kill-at",
		     k->message);
	if (k->heal_ms)
		snprintf(fault + n, sizeof(fault) - (size_t)n, ":%llu", (unsigned long long)k->heal_ms);
	e->drilled = !inject(e, fault);
	if (!e->drilled)
		on_log(e, 3, "the fault could not be armed: ferry_drill() refused it");
}

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static uint64_t stamps(const struct end *e)
{
	struct vmm_stats st;

	e->kind->get_stats(e->vm, &st);
	return st.stamps;
}

static void note_phase(struct end *e, enum ferry_phase entered, uint64_t now_ns)
{
	if (entered == FERRY_PHASE_RESERVATION)
		e->reserve_ns = now_ns;
	if (entered == FERRY_PHASE_PRECOPY) {
		e->cost.reserve_us = (now_ns - e->reserve_ns) / 1000;
		e->precopy_cpu_us = cpu_us();
		e->stamps = stamps(e);
	} else if (e->precopy_cpu_us && !e->cost.precopy_us) {
		e->cost.precopy_us = cpu_us() - e->precopy_cpu_us;
		e->cost.precopy_stamps = stamps(e) - e->stamps;
	}
	if (entered == FERRY_PHASE_POSTCOPY) {
		e->postcopy_cpu_us = cpu_us();
		e->stamps = stamps(e);
	} else if (e->postcopy_cpu_us && !e->cost.postcopy_us) {
		e->cost.postcopy_us = cpu_us() - e->postcopy_cpu_us;
		e->cost.stamps = stamps(e) - e->stamps;
	}
}

static uint64_t resident(const struct end *e)
{
	return e->kind->resident ? e->kind->resident(e->vm) : 0;
}

static const char *mutator(const struct end *e)
{
	return e->kind->mutator ? e->kind->mutator(e->vm) : "";
}

static void on_event(void *ctx, const struct ferry_event *ev)
{
	struct end *e = ctx;
	struct msg m = { .type = MSG_EVENT, .time_ns = clock_ns(), .event = *ev };

	set_text(&m, ev->text);
	m.event.text = NULL;
	msg_send(e->fd, &m);
	if (ev->type == FERRY_EVENT_PHASE)
		note_phase(e, ev->phase, m.time_ns);
	if (ev->type == FERRY_EVENT_PHASE && e->o->kill.who != KILL_NOBODY && ev->phase == e->o->kill.phase)
		drill(e);
}

static int on_doubt(void *ctx, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct end *e = ctx;
	char why[400] = "", name[33];
	int err = arbiter_ask(e->o->arbiter, session, want, is, why, sizeof(why));

	if (err < 0) {
		struct msg m = { .type = MSG_LOG, .number = 3 };

		snprintf(m.text, sizeof(m.text), "session %s: %s", session_text(name, session), why);
		msg_send(e->fd, &m);
	}
	return err;
}

static int on_offer(void *ctx, struct ferry_stream *out)
{
	struct end *e = ctx;
	struct msg m = { .type = MSG_OFFER, .offer = e->offer };
	int err = e->offer.port ? meet_offer_put(&e->offer, out) : 0;

	msg_send(e->fd, &m);
	return err;
}

static int on_offered(void *ctx, struct ferry_stream *in)
{
	struct end *e = ctx;
	struct msg m = { .type = MSG_OFFER };
	int err = meet_offer_take(&m.offer, in);

	if (!err)
		msg_send(e->fd, &m);
	return err;
}

static void *stats_main(void *arg)
{
	struct end *e = arg;
	struct timespec ts;

	pthread_mutex_lock(&e->lock);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	while (!e->done) {
		struct msg m = { .type = MSG_STATS, .stats = { .size = sizeof(m.stats) } };

		ts.tv_nsec += STATS_EVERY_MS * 1000000;
		if (ts.tv_nsec >= 1000000000) {
			ts.tv_nsec -= 1000000000;
			ts.tv_sec++;
		}
		if (pthread_cond_timedwait(&e->cond, &e->lock, &ts) == ETIMEDOUT &&
		    !ferry_get_stats(e->session, &m.stats))
			msg_send(e->fd, &m);
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

static void run_session(struct end *e)
{
	struct msg m = { .type = MSG_RESULT, .result = { .size = sizeof(m.result) } };
	bool watched = !e->o->quiet;
	pthread_condattr_t attr;
	uint64_t begin, end;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->cond, &attr);
	pthread_condattr_destroy(&attr);
	if (watched && pthread_create(&e->stats_thread, NULL, stats_main, e))
		watched = false;
	if (e->kind->begin(e->vm))
		on_log(e, 4, "no thread for --rhythm");
	if (e->which == VMM_END_SOURCE)
		e->cost.resident = resident(e);
	begin = cpu_us();
	ferry_run(e->session, &m.result);
	sampler_faults(e->sampler, e->session);
	end = cpu_us();
	e->kind->end(e->vm, &m.result);
	e->cost.run_us = end - begin;
	if (e->postcopy_cpu_us && !e->cost.postcopy_us)
		e->cost.postcopy_us = end - e->postcopy_cpu_us;
	if (e->which == VMM_END_TARGET)
		e->cost.resident = resident(e);
	else
		e->cost.stood_us = e->kind->stood_us(e->vm);
	if (e->kind->get_tracked)
		e->kind->get_tracked(e->vm, &e->cost.tracked);
	m.cpu = e->cost;
	pthread_mutex_lock(&e->lock);
	e->done = true;
	pthread_cond_signal(&e->cond);
	pthread_mutex_unlock(&e->lock);
	if (watched)
		pthread_join(e->stats_thread, NULL);
	m.number = e->o->kill.message && e->drilled && inject(e, "pending") == 0;
	set_text(&m, mutator(e));
	msg_send(e->fd, &m);
}

static void fill_config(struct ferry_config *cfg, const struct end *e)
{
	const struct options *o = e->o;

	*cfg = (struct ferry_config){
		FERRY_CONFIG_INIT,
		.mode = (enum ferry_mode)o->mode,
		.commit_at = (enum ferry_commit_at)o->commit_at,
		.at_hold_limit = (enum ferry_hold)o->hold_action,
		.channels = (uint32_t)o->channels,
		.max_rounds = (uint32_t)o->max_rounds,
		.poll_us = (uint32_t)o->poll_us,
		.landing = (enum ferry_landing_way)o->landing,
		.downtime_us = o->downtime_us,
		.precopy_limit_us = o->precopy_limit_us,
		.bandwidth = e->which == VMM_END_SOURCE ? o->bandwidth
							: 0, /* the source's limit holds for both ends */
		.hold_limit_us = o->hold_limit_us,
		.switchover_limit_us = o->switchover_limit_us,
		.reconnect_us = o->reconnect_us,
		.timeout_us = o->timeout_us,
	};
	if (o->reconnect_set && !o->reconnect_us)
		cfg->flags |= FERRY_CONFIG_NO_RECONNECT;
	if (!o->reconnect_set && o->kill.who != KILL_NOBODY && !o->kill.heal_ms)
		cfg->reconnect_us = DRILL_RECONNECT_US;
	if (o->kill.who == KILL_LINK || o->kill.message)
		cfg->flags |= FERRY_CONFIG_DRILL;
	if (o->command == CMD_TARGET)
		cfg->connect_us = 3600000000; /* a person types the other command */
}

static void new_vm(struct end *e, int observer_fd)
{
	const struct options *o = e->o;
	struct vm_ask ask = {
		.o = o,
		.end = e->which,
		.observer = observer_fd,
		.calls = { .ctx = e,
			   .event = on_event,
			   .log = on_log,
			   .arbiter = o->arbiter ? on_doubt : NULL,
			   .offer = o->command == CMD_TARGET ? on_offer : NULL,
			   .offered = o->command == CMD_SOURCE ? on_offered : NULL },
	};
	char why[FERRY_DETAIL_MAX] = "";
	int err;

	e->kind = vm_kind(o);
	err = e->kind->open(&e->vm, &ask, why, sizeof(why));
	if (err)
		give_up(e, "the VMM could not begin", why[0] ? why : strerror(-err));
}

static void new_session(struct end *e, const char *uri, struct msg *ready)
{
	struct ferry_vm vm;
	struct ferry_config cfg;
	char why[FERRY_DETAIL_MAX];
	int err;

	e->kind->describe(e->vm, &e->ops, &vm);
	fill_config(&cfg, e);
	err = e->which == VMM_END_SOURCE ? ferry_source_new(&e->session, &vm, &cfg)
					 : ferry_target_new(&e->session, &vm, &cfg);
	if (err)
		give_up(e, "the library could not create the session",
			e->refusal[0] ? e->refusal : strerror(-err));
	err = ferry_open(e->session, uri);
	if (!err && e->which == VMM_END_TARGET)
		err = ferry_get_uri(e->session, ready->text, sizeof(ready->text));
	if (err) {
		snprintf(why, sizeof(why), "%s", ferry_get_detail(e->session));
		give_up(e, uri, why[0] ? why : strerror(-err));
	}
}

static void prove(struct end *e)
{
	struct msg m = { .type = MSG_PROOF };

	m.number = e->kind->prove(e->vm, &m.proof);
	set_text(&m, mutator(e));
	msg_send(e->fd, &m);
}

_Noreturn void end_main(enum vmm_end which, const struct options *o, int fd, int observer_fd,
			struct record_area *area)
{
	struct end e = { .which = which, .o = o, .fd = fd };
	struct msg m, ready = { .type = MSG_READY };

	signal(SIGPIPE, SIG_IGN);
	new_vm(&e, observer_fd);
	if (sampler_start(&e.sampler, area, e.kind->get_stats, e.vm))
		on_log(&e, 4, "no thread to sample for --record");
	if (which == VMM_END_SOURCE)
		msg_send(fd, &ready);
	while (!msg_recv(fd, &m, true) && m.type != MSG_QUIT) {
		if (m.type == MSG_PROVE) {
			sampler_stop(e.sampler); /* the recording ends before the proof */
			e.sampler = NULL;
			prove(&e);
		} else if (m.type == MSG_GO && !e.session) {
			e.offer = m.offer;
			new_session(&e, m.text, &ready);
			sampler_watch(e.sampler, e.session);
			if (which == VMM_END_TARGET)
				msg_send(fd, &ready);
			arm(&e);
			run_session(&e);
		}
	}
	sampler_stop(e.sampler);
	ferry_free(e.session);
	e.kind->close(e.vm);
	exit(0);
}
