// SPDX-License-Identifier: MIT
/* A cgroup for the process of a test: mount, create, enter, leave. */
#include "cgroup.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static bool put(const char *dir, const char *file, const char *value)
{
	char path[256];
	bool ok;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);
	if (fd >= 0)
		close(fd);
	return ok;
}

/* Only this process sees the mount; it disappears with the process. */
bool cgroup_make(struct cgroup *g, const char *controller)
{
	char enable[40];

	memset(g, 0, sizeof(*g));
	snprintf(g->mount, sizeof(g->mount), "/tmp/ferry-cgroup-XXXXXX");
	if (!mkdtemp(g->mount))
		return false;
	if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL))
		goto out;
	if (mount("none", g->mount, "cgroup", 0, controller)) {
		g->v2 = true;
		snprintf(enable, sizeof(enable), "+%s", controller);
		if (mount("none", g->mount, "cgroup2", 0, NULL))
			goto out;
		if (!put(g->mount, "cgroup.subtree_control", enable))
			goto unmount;
	}
	snprintf(g->dir, sizeof(g->dir), "%s/ferry-test-%d", g->mount, (int)getpid());
	if (!mkdir(g->dir, 0755))
		return true;
unmount:
	umount2(g->mount, MNT_DETACH);
out:
	rmdir(g->mount);
	return false;
}

bool cgroup_set(const struct cgroup *g, const char *v1_file, const char *v2_file, const char *value)
{
	return put(g->dir, g->v2 ? v2_file : v1_file, value);
}

bool cgroup_enter(const struct cgroup *g)
{
	return put(g->dir, "cgroup.procs", "0");
}

void cgroup_leave(struct cgroup *g)
{
	put(g->mount, "cgroup.procs", "0");
	rmdir(g->dir);
	umount2(g->mount, MNT_DETACH);
	rmdir(g->mount);
}

long cgroup_number(const struct cgroup *g, const char *file)
{
	char path[256];
	long n = -1;
	FILE *in;

	snprintf(path, sizeof(path), "%s/%s", g->dir, file);
	in = fopen(path, "re");
	if (in && fscanf(in, "%ld", &n) != 1)
		n = -1;
	if (in)
		fclose(in);
	return n;
}
