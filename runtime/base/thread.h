/* SPDX-License-Identifier: MIT */
/* Threads of the library's own. */
#ifndef FERRY_THREAD_H
#define FERRY_THREAD_H

#include <pthread.h>

/* All signals are blocked in it: they belong to the embedder's threads (vCPU kicks, SIGINT). 0 or -EAGAIN. */
int thread_start(pthread_t *t, void *(*body)(void *arg), void *arg);

#endif
