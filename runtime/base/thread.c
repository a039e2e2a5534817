// SPDX-License-Identifier: MIT
/* Starts the library's own threads. */
#include <signal.h>

#include "thread.h"

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
