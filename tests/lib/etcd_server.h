/* SPDX-License-Identifier: MIT */
/* A real etcd of one member on a free port of this machine, for one test; and something that is none. */
#ifndef TESTS_ETCD_SERVER_H
#define TESTS_ETCD_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct etcd_server {
	pid_t pid;
	char dir[64];
	char url[64]; /* http://127.0.0.1:PORT */
};

/* Up and with a leader; skips the test where there is no etcd to run. */
void etcd_start(struct etcd_server *e);
void etcd_freeze(const struct etcd_server *e, bool frozen); /* SIGSTOP, SIGCONT */
void etcd_stop(struct etcd_server *e);			    /* killed; its data too */
/* etcdctl with these arguments, without a shell: its exit code. */
int etcd_ctl(const struct etcd_server *e, const char *const *args);

/* Answers every request on a port of its own with these bytes and hangs up; lives until the test ends. */
void etcd_pretend(char url[64], const char *answer);
/* A port that nobody listens on. */
void etcd_nobody(char url[64]);

#endif
