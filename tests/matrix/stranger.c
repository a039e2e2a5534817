// SPDX-License-Identifier: MIT
/*
 * The program that answers a reconnecting source in the target's place: from the reservation on, the source's
 * connects lead here (inject_divert()). It is a process of its own that starts before the source and stays
 * until both ends have ended.
 *
 *	fresh	an honest target that was restarted on the port and knows nothing of the migration
 *	forger	answers each connection with the next of its lies, and continues with it if it is believed
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fakevm_int.h"
#include "matrix.h"
#include "runtime/base/fail.h"
#include "runtime/session/commit.h"
#include "transport/xport.h"

#define TICK_MS 5

enum lie { LIE_PREPARED, LIE_ABORT, LIE_ECHO, LIE_DECIDED, LIE_REFUSED, LIE_OPEN, LIE_ABORTED, LIES };

struct forger {
	struct common *m;
	struct xport_listener *listener;
	struct xport_link *link;
	struct xport_chan *ctl;
	uint32_t seq;
	struct wire_hello hello;
	uint8_t buf[XPORT_MSG_MAX];
};

static void say(struct forger *f, enum wire_type t, const void *body, size_t len)
{
	struct wire_hdr h = wire_header(t, len, f->seq++);
	struct iovec iov[2] = { { &h, sizeof(h) }, { (void *)(uintptr_t)body, len } };

	f->ctl->ops->send(f->ctl, iov, len ? 2 : 1); /* fails if the source has closed the link */
}

/* The type of the next message, its body in body. 0: the source has closed the link, or the cell is over. */
static unsigned hear(struct forger *f, void *body, size_t cap)
{
	struct wire_hdr h;
	size_t len;

	while (!atomic_load(&f->m->over)) {
		int err = f->ctl->ops->recv(f->ctl, f->buf, sizeof(f->buf), &len, TICK_MS * 1000);

		if (err == -EAGAIN)
			continue;
		if (err)
			return 0;
		memcpy(&h, f->buf, sizeof(h));
		if (h.type == WIRE_PING)
			continue;
		memset(body, 0, cap);
		memcpy(body, f->buf + sizeof(h), len - sizeof(h) < cap ? len - sizeof(h) : cap);
		return h.type;
	}
	return 0;
}

static void acknowledge(struct forger *f, enum commit_state commit, const uint8_t number[WIRE_NUMBER])
{
	struct wire_hello_ack ack = { .magic = WIRE_MAGIC,
				      .version = WIRE_VERSION,
				      .oldest = WIRE_VERSION,
				      .page_shift = 12,
				      .generation = f->hello.generation,
				      .commit = commit,
				      .timeout_us = TIMEOUT_US };

	memcpy(ack.number, number, sizeof(ack.number));
	say(f, WIRE_HELLO_ACK, &ack, sizeof(ack));
}

static void tell(struct forger *f, enum lie lie)
{
	static const enum commit_state states[LIES] = { [LIE_PREPARED] = COMMIT_PREPARED,
							[LIE_ECHO] = COMMIT_PREPARED,
							[LIE_DECIDED] = COMMIT_DECIDED,
							[LIE_OPEN] = COMMIT_OPEN,
							[LIE_ABORTED] = COMMIT_ABORTED };
	static const uint8_t none[WIRE_NUMBER];
	struct wire_abort abort = { .err = -EIO };

	if (lie != LIE_ABORT && lie != LIE_REFUSED)
		acknowledge(f, states[lie], lie == LIE_ECHO ? f->hello.number : none);
	if (lie == LIE_REFUSED)
		say(f, WIRE_REFUSED, &abort, sizeof(abort));
	if (lie == LIE_ABORT || lie == LIE_ABORTED)
		say(f, WIRE_ABORT, &abort, sizeof(abort));
}

/* Serves one connection until the source closes it. */
static void deceive(struct forger *f, enum lie lie)
{
	struct wire_times times = { 0 };
	unsigned heard;

	f->ctl = f->link->ops->chan(f->link, XPORT_CONTROL, 0);
	f->seq = 0;
	if (hear(f, &f->hello, sizeof(f->hello)) != WIRE_HELLO)
		return;
	f->m->asked++;
	if (!(f->hello.flags & WIRE_COMES_BACK))
		snprintf(f->m->intruder, sizeof(f->m->intruder),
			 "the source does not say that it comes back");
	tell(f, lie);
	while ((heard = hear(f, &f->hello, sizeof(f->hello))))
		if (heard == WIRE_COMMIT)
			say(f, WIRE_COMMITTED, &times, sizeof(times));
}

static void listens(int fd)
{
	struct record r = { .what = RECORD_STRANGER_LISTENS };

	if (write(fd, &r, sizeof(r)) != sizeof(r))
		_exit(3);
}

static void forger_main(struct common *m, int fd, const char *uri)
{
	static struct forger f;
	struct xport_param param = { .timeout_us = TIMEOUT_US };
	struct fail fail = { 0 };

	f.m = m;
	if (xport_listen(&f.listener, uri, &param, &fail) ||
	    f.listener->ops->uri(f.listener, m->stranger_uri, sizeof(m->stranger_uri))) {
		snprintf(m->intruder, sizeof(m->intruder), "the forger cannot listen: %s", fail_text(&fail));
		return;
	}
	listens(fd);
	while (!atomic_load(&m->over)) {
		struct pollfd p = { .fd = f.listener->ops->fd(f.listener), .events = POLLIN };

		poll(&p, 1, TICK_MS);
		if (f.listener->ops->accept(f.listener, &f.link, &fail))
			continue;
		deceive(&f, (enum lie)(m->asked % LIES));
		f.link->ops->close(f.link);
	}
}

/* ---- a restarted target ---- */

struct fresh {
	struct common *m;
	struct fakevm vm;
};

/* The VM of this target must not do anything. */
static void on_world(void *arg, bool at_source, enum world_what what, uint64_t n)
{
	struct common *m = arg;

	(void)at_source;
	(void)n;
	if (what == WORLD_RUNS || what == WORLD_RELEASED || what == WORLD_OUTPUT)
		snprintf(m->intruder, sizeof(m->intruder), "the fresh target's VM has run");
}

static void *cancel_when_over(void *arg)
{
	struct fresh *f = arg;

	while (!atomic_load(&f->m->over))
		poll(NULL, 0, TICK_MS);
	ferry_cancel(f->vm.session);
	return NULL;
}

static int open_fresh(struct fresh *f, const char *uri)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &f->vm, .ops = &f->vm.ops };
	struct ferry_config cfg = { FERRY_CONFIG_INIT, .timeout_us = TIMEOUT_US, .reconnect_us = RECONNECT_US,
				    .connect_us = 2 * CELL_LIMIT_US };
	int err = ferry_target_new(&f->vm.session, &v, &cfg);

	f->vm.thread = pthread_self();
	if (!err)
		err = ferry_open(f->vm.session, uri);
	return err ? err : ferry_get_uri(f->vm.session, f->m->stranger_uri, sizeof(f->m->stranger_uri));
}

static void fresh_main(struct common *m, int fd, const char *uri)
{
	struct fresh f = { .m = m };
	struct ferry_result res = { .size = sizeof(res) };
	struct world w;
	pthread_t t;

	world_init(&w);
	w.tell = on_world;
	w.tell_arg = m;
	fakevm_target(&f.vm, &w, false);
	if (open_fresh(&f, uri) || pthread_create(&t, NULL, cancel_when_over, &f)) {
		snprintf(m->intruder, sizeof(m->intruder), "the fresh target cannot begin: %.150s",
			 f.vm.error_line);
		return;
	}
	listens(fd);
	ferry_run(f.vm.session, &res);
	if (!atomic_load(&m->over) || res.error != -ECANCELED || f.vm.calls[FAKE_RESERVE])
		snprintf(m->intruder, sizeof(m->intruder),
			 "the fresh target did not listen on: %s, error %d: %.100s",
			 ferry_outcome_name(res.outcome), res.error, res.detail);
	pthread_join(t, NULL);
	ferry_free(f.vm.session);
}

_Noreturn void stranger_main(const struct cell *c, struct common *m, int fd)
{
	unsigned pid = (unsigned)getpid();
	char uri[64];

	snprintf(uri, sizeof(uri), "tcp:127.%u.%u.%u:0", 64 + (pid >> 16) % 64, pid >> 8 & 255, pid & 255);
	(c->stranger == FRESH ? fresh_main : forger_main)(m, fd, uri);
	_exit(0);
}
