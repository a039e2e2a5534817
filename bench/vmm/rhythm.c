/* SPDX-License-Identifier: MIT */
/* Makes the guest write and rest in turn. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "rhythm.h"

struct rhythm {
	struct vmm *vmm;
	uint64_t rate, period_us;
	pthread_t thread;
	pthread_mutex_t lock; /* .done */
	pthread_cond_t cond;
	bool done;
};

static void *rhythm_main(void *arg)
{
	struct rhythm *r = arg;
	struct timespec ts;
	bool writes = true;

	pthread_mutex_lock(&r->lock);
	clock_gettime(CLOCK_MONOTONIC, &ts);
	while (!r->done) {
		uint64_t ns = (uint64_t)ts.tv_nsec + r->period_us % 1000000 * 1000;

		ts.tv_sec += (time_t)(r->period_us / 1000000 + ns / 1000000000);
		ts.tv_nsec = (long)(ns % 1000000000);
		while (!r->done && pthread_cond_timedwait(&r->cond, &r->lock, &ts) != ETIMEDOUT)
			;
		if (r->done)
			break;
		writes = !writes;
		vmm_set_rate(r->vmm, writes ? r->rate : 0);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

int rhythm_start(struct rhythm **ret, struct vmm *vmm, uint64_t rate, uint64_t period_us)
{
	pthread_condattr_t attr;
	struct rhythm *r;
	int err;

	*ret = NULL;
	if (!period_us)
		return 0;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	*r = (struct rhythm){ .vmm = vmm, .rate = rate, .period_us = period_us };
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->cond, &attr);
	pthread_condattr_destroy(&attr);
	err = -pthread_create(&r->thread, NULL, rhythm_main, r);
	if (err) {
		free(r);
		return err;
	}
	*ret = r;
	return 0;
}

void rhythm_stop(struct rhythm *r)
{
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->done = true;
	pthread_cond_signal(&r->cond);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	pthread_cond_destroy(&r->cond);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
