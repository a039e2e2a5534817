/* SPDX-License-Identifier: MIT */
/* A cgroup (version 1 or 2) of one controller for the process of a test, which leaves it before it ends. */
#ifndef TESTS_CGROUP_H
#define TESTS_CGROUP_H

#include <stdbool.h>

struct cgroup {
	char mount[64], dir[128];
	bool v2;
};

/* False: the machine has no such controller, or this process may not use it. */
bool cgroup_make(struct cgroup *g, const char *controller);
bool cgroup_set(const struct cgroup *g, const char *v1_file, const char *v2_file, const char *value);
/* Move this process, with all its threads, into the cgroup. */
bool cgroup_enter(const struct cgroup *g);
void cgroup_leave(struct cgroup *g);
/* The first number in a file of the cgroup, or -1. */
long cgroup_number(const struct cgroup *g, const char *file);

#endif
