/* SPDX-License-Identifier: MIT */
/* The library's own threads. */
#ifndef FERRY_THREAD_H
#define FERRY_THREAD_H

#include <pthread.h>

/* Blocks all signals in the thread: they are for the embedder's threads (vCPU kicks). 0 or -EAGAIN. */
int thread_start(pthread_t *t, void *(*body)(void *arg), void *arg);

#endif
