// SPDX-License-Identifier: MIT
#include <errno.h>
#include <signal.h>

#include "runtime/link/link.h"
#include "session.h"

int thread_start(pthread_t *t, void *(*body)(void *arg), void *arg)
{
	sigset_t all, old;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(t, NULL, body, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

static void *worker_main(void *arg)
{
	struct crew_worker *w = arg;
	struct crew *c = w->crew;
	int err = c->job(c->s, w->i);
	int none = 0, lost = -EPIPE;

	if (err == -ETIMEDOUT)
		err = -EPIPE;
	/* The end of a data channel may overtake the peer's answer to our ABORT. */
	if (err == -EPIPE && !atomic_load(&c->s->last_words))
		c->s->link->ops->kill(c->s->link);
	if (err < 0 && !atomic_compare_exchange_strong(&c->err, &none, err) && err != -EPIPE)
		atomic_compare_exchange_strong(&c->err, &lost, err);
	atomic_fetch_sub(&c->running, 1);
	session_wake(c->s);
	return NULL;
}

int crew_start(struct crew *c, struct ferry_session *s, int (*job)(struct ferry_session *s, unsigned i), unsigned n)
{
	int err = 0;

	c->s = s;
	c->job = job;
	atomic_store(&c->err, 0);
	atomic_store(&c->running, n);
	for (c->n = 0; c->n < n && !err; c->n += !err) {
		struct crew_worker *w = &c->worker[c->n];

		w->crew = c;
		w->i = c->n;
		err = thread_start(&w->thread, worker_main, w);
	}
	if (!err)
		return 0;
	atomic_fetch_sub(&c->running, n - c->n);
	return fail_cure(&s->fail, CURE_THREAD, err, "worker %u of %u cannot be started", c->n + 1, n);
}

static int own_error(struct ferry_session *s, int err)
{
	return fail(&s->fail, err, "%s", link_why(s, err));
}

int crew_failed(struct crew *c)
{
	int err = atomic_load(&c->err);

	return err < 0 && err != -EPIPE ? own_error(c->s, err) : err;
}

int crew_join(struct crew *c)
{
	while (c->n)
		pthread_join(c->worker[--c->n].thread, NULL);
	return atomic_exchange(&c->err, 0);
}

int crew_stop(struct ferry_session *s)
{
	link_kill(s);
	return crew_join(&s->crew);
}

int crew_lost(struct ferry_session *s)
{
	int err = crew_stop(s);

	return err < 0 && err != -EPIPE ? own_error(s, err) : -EPIPE;
}
