/* SPDX-License-Identifier: MIT */
/* A real etcd of one member on a free local port, for one test; and a server that only pretends to be one. */
#ifndef TESTS_ETCD_SERVER_H
#define TESTS_ETCD_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct etcd_server {
	pid_t pid;
	char dir[64];
	char url[64]; /* http://127.0.0.1:PORT */
};

/* Returns when etcd has a leader. Skips the test if etcd is not installed. */
void etcd_start(struct etcd_server *e);
void etcd_freeze(const struct etcd_server *e, bool frozen); /* SIGSTOP, SIGCONT */
void etcd_stop(struct etcd_server *e);			    /* kills it and removes its data */
/* etcdctl with these arguments, without a shell: its exit code. */
int etcd_ctl(const struct etcd_server *e, const char *const *args);

/* Answers each request on its own port with these bytes and closes the connection, until the test ends. */
void etcd_pretend(char url[64], const char *answer);
/* A port that nobody listens on. */
void etcd_nobody(char url[64]);

#endif
