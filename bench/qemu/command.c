// SPDX-License-Identifier: MIT
/*
 * Rewrites QEMU's command line. QEMU takes its options with one or two dashes, and the value of -object as
 * key=value,... (a comma in a value is doubled) or as JSON, which libvirt uses.
 */
#include "command.h"

#include <errno.h>
#include <jansson.h>
#include <libgen.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#define BACKEND "memory-backend-file"
#define ADDED 6

struct make {
	struct qemu_args *c;
	const char *dir;
	char *why;
	size_t cap;
};

static int fails(char *why, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fails(char *why, size_t cap, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, cap, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

bool command_option(const char *arg, const char *name)
{
	return arg[0] == '-' && !strcmp(arg + (arg[1] == '-' ? 2 : 1), name);
}

static bool is_backend(const char *value)
{
	size_t n = strlen(BACKEND);

	if (value[0] == '{')
		return strstr(value, "\"" BACKEND "\"");
	if (!strncmp(value, "qom-type=", 9))
		value += 9;
	return !strncmp(value, BACKEND, n) && (value[n] == ',' || !value[n]);
}

int command_check(char *const *args, char *why, size_t cap)
{
	bool ram = false;

	for (size_t i = 0; args[i]; i++) {
		if (command_option(args[i], "daemonize"))
			return fails(why, cap,
				     "a target's QEMU takes no %s, because rdma-migrate watches its process; leave it out, the QEMU "
				     "outlives rdma-migrate all the same",
				     args[i]);
		if (command_option(args[i], "incoming"))
			return fails(why, cap,
				     "a target's QEMU gets its -incoming from rdma-migrate; leave %s out",
				     args[i]);
		if (command_option(args[i], "loadvm"))
			return fails(why, cap, "a target's QEMU gets its VM from the source; leave %s out",
				     args[i]);
		ram |= command_option(args[i], "object") && args[i + 1] && is_backend(args[i + 1]);
	}
	return ram ? 0
		   : fails(why, cap,
			   "QEMU's command line has no RAM in a file; give both ends -machine memory-backend=ram -object "
			   "memory-backend-file,id=ram,share=on,mem-path=/dev/shm/NAME,size=SIZE");
}

/* ---- where the RAM is ---- */

/* A directory of hugetlbfs, or NULL: path is one, or is in one. */
static char *huge_dir(const char *path)
{
	char *copy = strdup(path), *dir = copy;
	struct statfs fs;

	if (copy && (statfs(path, &fs) || access(path, X_OK)))
		dir = dirname(copy);
	if (!copy || statfs(dir, &fs) || fs.f_type != HUGETLBFS_MAGIC) {
		free(copy);
		return NULL;
	}
	if (dir != copy)
		memmove(copy, dir, strlen(dir) + 1);
	return copy;
}

/* The new file for an old one; owned by the command. */
static const char *new_path(struct make *k, const char *old)
{
	struct qemu_args *c = k->c;
	char *huge = huge_dir(old), *path = NULL;
	const char *name = strrchr(k->dir, '/');

	if (c->nfile == QEMU_RAMS) {
		fails(k->why, k->cap, "QEMU's command line has more than %d memory backends", QEMU_RAMS);
	} else if (huge ? asprintf(&path, "%s/%s-%zu", huge, name ? name + 1 : k->dir, c->nfile) < 0
			: asprintf(&path, "%s/ram%zu", k->dir, c->nfile) < 0) {
		path = NULL;
		fails(k->why, k->cap, "no memory for QEMU's command line");
	} else {
		c->file[c->nfile++] = path;
	}
	free(huge);
	return path;
}

static char *rewrite_json(struct make *k, const char *value)
{
	json_error_t e;
	json_t *o = json_loads(value, 0, &e);
	const char *old = json_string_value(json_object_get(o, "mem-path")), *path = NULL;
	char *ret = NULL;

	if (!old)
		fails(k->why, k->cap, "-object %.100s has no mem-path%s%.100s", value, o ? "" : ": ",
		      o ? "" : e.text);
	else
		path = new_path(k, old);
	if (path) {
		json_object_set_new(o, "mem-path", json_string(path));
		ret = json_dumps(o, JSON_COMPACT);
	}
	json_decref(o);
	return ret;
}

/* The end of a value: the next comma that is not doubled. */
static const char *value_end(const char *p)
{
	for (; *p; p++) {
		if (*p != ',')
			continue;
		if (p[1] != ',')
			break;
		p++;
	}
	return p;
}

/* One key=value, whose commas are single now. */
static int put_key(json_t *o, char *text, const char *first)
{
	size_t n = strcspn(text, "=");

	if (first && !text[n])
		return json_object_set_new(o, first, json_string(text));
	if (!text[n])
		return -1;
	text[n] = 0;
	return json_object_set_new(o, text, json_string(text + n + 1));
}

json_t *command_keys(const char *value, const char *first)
{
	char *text = strdup(value);
	json_t *o = text ? json_object() : NULL;

	for (const char *at = value, *end; o && *at; at = *end ? end + 1 : end) {
		size_t n = 0;

		end = value_end(at);
		for (const char *p = at; p < end; p++) {
			text[n++] = *p;
			p += *p == ',';
		}
		text[n] = 0;
		if (put_key(o, text, at == value ? first : NULL)) {
			json_decref(o);
			o = NULL;
		}
	}
	free(text);
	return o;
}

static char *rewrite_keys(struct make *k, const char *value)
{
	const char *at = value, *end, *path;
	char *old = NULL, *ret = NULL;
	size_t n = 0;

	while (strncmp(at, "mem-path=", 9)) {
		at = value_end(at);
		if (!*at++) {
			fails(k->why, k->cap, "-object %.200s has no mem-path", value);
			return NULL;
		}
	}
	at += 9;
	end = value_end(at);
	old = strdup(at);
	for (const char *p = at; old && p < end; p++) {
		old[n++] = *p;
		p += *p == ',';
	}
	if (old)
		old[n] = 0;
	path = old ? new_path(k, old) : NULL;
	/* Our paths have no comma: dir is ours, and a directory of hugetlbfs with one is refused by QEMU in words. */
	if (path && asprintf(&ret, "%.*s%s%s", (int)(at - value), value, path, end) < 0)
		ret = NULL;
	free(old);
	return ret;
}

static int rewrite(struct make *k, const char *value, char **ret)
{
	char *made = value[0] == '{' ? rewrite_json(k, value) : rewrite_keys(k, value);

	if (!made)
		return -EINVAL;
	k->c->owned[k->c->nowned++] = made;
	*ret = made;
	return 0;
}

int command_make(struct qemu_args *c, char *const *args, const char *dir, const char *socket, char *why,
		 size_t cap)
{
	struct make k = { c, dir, why, cap };
	static char stop[] = "-S", qmp[] = "-qmp", incoming[] = "-incoming", defer[] = "defer";
	int err = command_check(args, why, cap);
	size_t n = 0;

	*c = (struct qemu_args){ 0 };
	if (err)
		return err;
	while (args[n])
		n++;
	c->args = calloc(n + ADDED, sizeof(*c->args));
	if (!c->args)
		return -ENOMEM;
	memcpy(c->args, args, n * sizeof(*args));
	for (size_t i = 0; i + 1 < n && !err; i++)
		if (command_option(args[i], "object") && is_backend(args[i + 1]))
			err = rewrite(&k, args[i + 1], &c->args[i + 1]);
	snprintf(c->extra, sizeof(c->extra), "unix:%s,server=on,wait=off", socket);
	c->args[n++] = stop;
	c->args[n++] = incoming;
	c->args[n++] = defer;
	c->args[n++] = qmp;
	c->args[n++] = c->extra;
	return err;
}

void command_free(struct qemu_args *c)
{
	for (size_t i = 0; i < c->nowned; i++)
		free(c->owned[i]);
	for (size_t i = 0; i < c->nfile; i++)
		free(c->file[i]);
	free(c->args);
	*c = (struct qemu_args){ 0 };
}
