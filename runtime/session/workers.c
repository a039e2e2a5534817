// SPDX-License-Identifier: MIT
/* Workers: start them, join them, keep the first error. */
#include <errno.h>

#include "workers.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/thread.h"

static void *worker_main(void *arg)
{
	struct worker *me = arg;
	struct workers *w = me->workers;
	int err = w->job(w->s, me->i);
	int none = 0, lost = -EPIPE;

	if (err == -ETIMEDOUT)
		err = -EPIPE;
	if (err == -EPIPE)
		w->lost(w->s);
	if (err < 0 && !atomic_compare_exchange_strong(&w->err, &none, err) && err != -EPIPE)
		atomic_compare_exchange_strong(&w->err, &lost, err);
	atomic_fetch_sub(&w->running, 1);
	w->ended(w->s);
	return NULL;
}

int workers_start(struct workers *w, int (*job)(struct ferry_session *s, unsigned i), unsigned n,
		  struct fail *f)
{
	int err = 0;

	w->job = job;
	atomic_store(&w->err, 0);
	atomic_store(&w->running, n);
	for (w->n = 0; w->n < n && !err; w->n += !err) {
		struct worker *me = &w->worker[w->n];

		me->workers = w;
		me->i = w->n;
		err = thread_start(&me->thread, worker_main, me);
	}
	if (!err)
		return 0;
	atomic_fetch_sub(&w->running, n - w->n);
	return fail_cure(f, CURE_THREAD, err, "worker %u of %u cannot be started", w->n + 1, n);
}

int workers_err(const struct workers *w)
{
	return atomic_load(&w->err);
}

int workers_join(struct workers *w)
{
	while (w->n)
		pthread_join(w->worker[--w->n].thread, NULL);
	return atomic_exchange(&w->err, 0);
}
