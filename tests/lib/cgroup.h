/* SPDX-License-Identifier: MIT */
/* A cgroup of one controller for the process of a test, which it leaves again before it ends. Version 1 or 2. */
#ifndef TESTS_CGROUP_H
#define TESTS_CGROUP_H

#include <stdbool.h>

struct cgroup {
	char mount[64], dir[128];
	bool v2;
};

/* False: the machine has no such controller, or not for us. */
bool cgroup_make(struct cgroup *g, const char *controller);
bool cgroup_set(const struct cgroup *g, const char *v1_file, const char *v2_file, const char *value);
/* This process, with all its threads. */
bool cgroup_enter(const struct cgroup *g);
void cgroup_leave(struct cgroup *g);
/* The first number in a file of the cgroup; -1: there is none. */
long cgroup_number(const struct cgroup *g, const char *file);

#endif
