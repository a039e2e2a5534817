// SPDX-License-Identifier: MIT
/* The session's current link: install it, end it, wait on it, and turn its losses into errors. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "current.h"

_Static_assert(WORKERS_MAX == XPORT_CHANNELS_MAX + 1, "as many as the most that are started");

const char *link_why(struct ferry_session *s, int err)
{
	return fail_err(s->link.fail) == err ? fail_text(s->link.fail) : strerror(-err);
}

struct link_peer link_peer(const struct ferry_session *s)
{
	struct link_peer p = { "" };

	if (*s->link.peer)
		snprintf(p.text, sizeof(p.text), " (%s)", s->link.peer);
	return p;
}

int link_transport_fail(struct ferry_session *s, int err)
{
	if (err == -EPIPE || err == -ETIMEDOUT)
		return -EPIPE;
	return fail(&s->fail, err, "%s", link_why(s, err));
}

static int workers_error(struct ferry_session *s, int err)
{
	return err < 0 && err != -EPIPE ? fail(&s->fail, err, "%s", link_why(s, err)) : err;
}

int link_workers_failed(struct ferry_session *s)
{
	return workers_error(s, workers_err(&s->workers));
}

int link_lost(struct ferry_session *s, int err)
{
	const char *why = fail_lost_text(s->link.fail);
	int worker;

	if (err != -EPIPE)
		return err;
	worker = link_workers_failed(s);
	if (worker < 0 && worker != -EPIPE)
		return worker;
	fail(&s->fail, err, "the link to the %s%s was lost in %s%s%s", s->is_source ? "target" : "source",
	     link_peer(s).text, ferry_phase_name(s->phase), *why ? ": " : "", why);
	return LINK_GONE;
}

int link_wait(struct ferry_session *s, int fd, int fd2, uint64_t deadline_us)
{
	struct pollfd p[3] = { { .fd = s->wake_fd, .events = POLLIN },
			       { .fd = fd, .events = POLLIN },
			       { .fd = fd2, .events = POLLIN } };
	uint64_t now = now_us(), left = deadline_us > now ? deadline_us - now : 0;
	struct timespec ts = { .tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000 * 1000) };
	uint64_t n;

	ppoll(p, 3, deadline_us == DEADLINE_NONE ? NULL : &ts, NULL);
	if (!(p[0].revents & POLLIN))
		return 0;
	if (read(s->wake_fd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return 0;
	return 1;
}

bool link_canceled(struct ferry_session *s)
{
	enum commit_state c = commit_get(&s->commit);

	return c == COMMIT_OPEN ? atomic_load(&s->want_cancel)
				: c == COMMIT_ABORTED && atomic_load(&s->hurry);
}

int link_cancel_error(struct ferry_session *s)
{
	return fail(&s->fail, -ECANCELED, "canceled by the embedder in %s", ferry_phase_name(s->phase));
}

/* xport_param.woken: the transport calls it during a connect, when wake_fd is readable. */
int link_woken(void *arg)
{
	struct ferry_session *s = arg;

	link_wait(s, -1, -1, 0);
	return link_canceled(s) ? link_cancel_error(s) : 0;
}

void link_install(struct ferry_session *s, struct xport_link *l)
{
	pthread_mutex_lock(&s->link.send_lock);
	s->link.x = l;
	s->link.ctl = l ? l->ops->chan(l, XPORT_CONTROL, 0) : NULL;
	if (l)
		memcpy(s->link.peer, l->peer, sizeof(s->link.peer));
	s->link.send_seq = 0;
	pthread_mutex_unlock(&s->link.send_lock);
	s->link.recv_seq = 0;
	s->link.first_words = NULL;
	s->link.heard_us = now_us();
}

void link_kill(struct ferry_session *s)
{
	if (s->link.x)
		s->link.x->ops->kill(s->link.x);
}

int link_workers_stop(struct ferry_session *s)
{
	link_kill(s);
	return workers_join(&s->workers);
}

int link_workers_lost(struct ferry_session *s)
{
	int err = workers_error(s, link_workers_stop(s));

	return err < 0 ? err : -EPIPE;
}

void link_worker_lost(struct ferry_session *s)
{
	/* A data channel may end before the answer to our ABORT arrives; a kill would lose it. */
	if (!atomic_load(&s->link.last_words))
		s->link.x->ops->kill(s->link.x);
}
