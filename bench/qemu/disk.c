// SPDX-License-Identifier: MIT
/* Holds the writes to disks: see disk.h. */
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bridge_int.h"
#include "command.h"
#include "runtime/arbiter/json_bound.h"

extern char **environ;

static unsigned number(const struct qemu *m, const struct qemu_disk *d)
{
	return (unsigned)(d - m->disk);
}

static const char *name(const struct qemu *m, const struct qemu_disk *d, const char *what, char buf[32])
{
	snprintf(buf, 32, "ferry-%s-%u", what, number(m, d));
	return buf;
}

int disk_make(struct qemu_disk *d, const char *text, char *why, size_t cap)
{
	size_t n = strcspn(text, "=");
	struct stat st;
	int fd;

	*d = (struct qemu_disk){ 0 };
	if (!n || n >= sizeof(d->node) || !text[n] || text[n + 1] != '/' ||
	    strlen(text + n + 1) >= sizeof(d->overlay)) {
		snprintf(why, cap,
			 "--hold-disk %.200s is not NODE=PATH; NODE has at most %zu characters, PATH begins with / and has at most %zu",
			 text, sizeof(d->node) - 1, sizeof(d->overlay) - 1);
		return -EINVAL;
	}
	memcpy(d->node, text, n);
	strcpy(d->overlay, text + n + 1);
	fd = open(d->overlay, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st)) {
		int err = -errno;

		snprintf(why, cap, "%s, for the writes to disk %s, cannot be made: %s", d->overlay, d->node,
			 strerror(errno));
		if (fd >= 0)
			close(fd);
		return err;
	}
	close(fd);
	d->dev = st.st_dev;
	d->ino = st.st_ino;
	d->made = true;
	return 0;
}

/* ---- the command line ---- */

static bool is_node(const struct blockdev *b, const char *node)
{
	const char *is = json_string_value(json_object_get(b->o, "node-name"));

	return is && !strcmp(is, node);
}

/* The -blockdev of that node; all: QEMU's arguments, each ended by a zero. */
static struct blockdev find_blockdev(const char *all, size_t len, const char *node)
{
	const char *end = all + len;

	for (const char *arg = all, *value; arg < end; arg = value) {
		struct blockdev b = { NULL, false };

		value = arg + strlen(arg) + 1;
		if (value >= end || !command_option(arg, "blockdev"))
			continue;
		b.keys = value[0] != '{';
		b.o = b.keys ? command_keys(value, "driver") : json_loads(value, 0, NULL);
		if (is_node(&b, node))
			return b;
		json_decref(b.o);
	}
	return (struct blockdev){ NULL, false };
}

static int read_command(struct qemu *m, char **all, size_t *len)
{
	char path[40];
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", m->q.pid);
	in = fopen(path, "re");
	*all = NULL;
	if (!in)
		return qemu_fails(m, -errno, "%s cannot be read: %s", path, strerror(errno));
	*len = 0;
	for (size_t n = 1; n;) {
		char *more = realloc(*all, *len + 4096 + 1);

		if (!more) {
			fclose(in);
			free(*all);
			return qemu_fails(m, -ENOMEM, "no memory for QEMU's command line");
		}
		*all = more;
		n = fread(*all + *len, 1, 4096, in);
		*len += n;
	}
	(*all)[*len] = 0;
	fclose(in);
	return 0;
}

static int find_options(struct qemu *m, struct qemu_disk *d)
{
	const char *file;
	char *all;
	size_t len = 0;
	int err = read_command(m, &all, &len);

	if (err)
		return err;
	d->format = find_blockdev(all, len, d->node);
	file = json_string_value(json_object_get(d->format.o, "file"));
	if (!d->format.o) {
		err = qemu_fails(m, -EINVAL,
				 "disk %s cannot be held: QEMU's command line has no -blockdev with that node-name; --hold-disk "
				 "takes the node that the device's drive= names",
				 d->node);
	} else if (file) {
		snprintf(d->file_node, sizeof(d->file_node), "%s", file);
		d->file = find_blockdev(all, len, d->file_node);
		if (!d->file.o || json_object_get(d->file.o, "file"))
			err = qemu_fails(m, -EOPNOTSUPP,
					 "disk %s cannot be held: its file %s is not a -blockdev of its own that has no "
					 "other below it",
					 d->node, d->file_node);
	}
	free(all);
	return err;
}

/* ---- nodes ---- */

static void put_quoted(FILE *out, const char *text, bool value)
{
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', out);
		fputc(*text, out);
		if (*text == ',' && value)
			fputc(',', out);
	}
}

/* QMP has no command that takes options as the command line does: their types are lost there. */
static int add_keys(struct qemu *m, json_t *o)
{
	json_t *said = NULL, *value;
	const char *key, *text;
	char *line = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&line, &len);
	int err;

	if (!out)
		return qemu_fails(m, -ENOMEM, "no memory for the options of a disk");
	fprintf(out, "drive_add -n 0 \"");
	json_object_foreach(o, key, value)
	{
		put_quoted(out, key, false);
		fputc('=', out);
		put_quoted(out, json_string_value(value), true);
		fputc(',', out);
	}
	if (fflush(out) || !len) {
		fclose(out);
		free(line);
		return qemu_fails(m, -ENOMEM, "no memory for the options of a disk");
	}
	fclose(out);
	line[len - 1] = '"'; /* instead of the last comma */
	err = qemu_ask(m, "human-monitor-command", json_pack("{s:s}", "command-line", line), &said);
	text = json_string_value(said);
	if (!err && (!text || *text)) {
		err = qemu_fails(m, -EREMOTEIO, "%.300s", text ? text : "QEMU says nothing of drive_add");
		json_printable(m->why);
	}
	json_decref(said);
	free(line);
	return err;
}

/* node: its name; file: that of the node below; NULL: as the command line says. base: read-only, no locks. */
static int add_node(struct qemu *m, const struct blockdev *b, const char *node, const char *file, bool base)
{
	json_t *o = json_copy(b->o);

	if (node)
		json_object_set_new(o, "node-name", json_string(node));
	if (file)
		json_object_set_new(o, "file", json_string(file));
	if (base) {
		json_object_set_new(o, "read-only", b->keys ? json_string("on") : json_true());
		json_object_set_new(o, "force-share", b->keys ? json_string("on") : json_true());
	}
	if (!b->keys)
		return qemu_ask(m, "blockdev-add", o, NULL);
	int err = add_keys(m, o);

	json_decref(o);
	return err;
}

static int del_node(struct qemu *m, const char *node)
{
	return qemu_ask(m, "blockdev-del", json_pack("{s:s}", "node-name", node), NULL);
}

/* backing NULL: none. */
static json_t *overlay_options(const struct qemu *m, const struct qemu_disk *d, const char *backing)
{
	char overlay[32], file[32];

	return json_pack("{s:s, s:s, s:s, s:s, s:s?}", "driver", "qcow2", "node-name",
			 name(m, d, "overlay", overlay), "file", name(m, d, "overlay-file", file), "discard",
			 "unmap", "backing", backing);
}

static int set_backing(struct qemu *m, const struct qemu_disk *d, const char *backing)
{
	return qemu_ask(m, "blockdev-reopen", json_pack("{s:[o]}", "options", overlay_options(m, d, backing)),
			NULL);
}

/* ---- the overlay's file ---- */

/* What QEMU says of the disk: "image" of query-block, a new reference. */
static int find_device(struct qemu *m, const struct qemu_disk *d, json_t **image)
{
	json_t *all = NULL, *disk;
	int err = qemu_ask(m, "query-block", NULL, &all);
	size_t i;

	*image = NULL;
	json_array_foreach(all, i, disk)
	{
		json_t *in = json_object_get(disk, "inserted");
		const char *node = json_string_value(json_object_get(in, "node-name"));

		if (!node || strcmp(node, d->node) || err || *image)
			continue;
		*image = json_incref(json_object_get(in, "image"));
		if (json_is_true(json_object_get(in, "ro")))
			err = qemu_fails(m, -EINVAL, "disk %s is read-only: leave out --hold-disk %s",
					 d->node, d->node);
	}
	json_decref(all);
	if (!err && !*image)
		err = qemu_fails(m, -EINVAL,
				 "disk %s cannot be held: no device of QEMU has this node as its drive",
				 d->node);
	return err;
}

/*
 * The overlay names the disk as its backing file, so that `qemu-img commit` can merge it if QEMU or the host fails before
 * disk_merge(). For that a name that is relative to QEMU's directory is made absolute.
 */
static int run_qemu_img(struct qemu *m, const char *overlay, json_t *image)
{
	json_t *size = json_object_get(image, "virtual-size");
	const char *name = json_string_value(json_object_get(image, "filename"));
	const char *format = json_string_value(json_object_get(image, "format"));
	char bytes[24], said[200] = "", link[40], disk[2 * PATH_MAX] = "";
	char *const args[] = {
		"qemu-img", "create", "-q", "-u", /* the disk is not opened: the source writes to it */
		"-f",	    "qcow2",  "-b", disk, "-F", (char *)(uintptr_t)format, (char *)(uintptr_t)overlay,
		bytes,	    NULL
	};
	posix_spawn_file_actions_t actions;
	int err, status = -1, fds[2];
	size_t len = 0;
	ssize_t n;
	pid_t pid;

	snprintf(link, sizeof(link), "/proc/%d/cwd", m->q.pid);
	if (name && name[0] != '/' && !strchr(name, ':')) {
		ssize_t len_dir = readlink(link, disk, PATH_MAX - 1);

		disk[len_dir > 0 ? len_dir : 0] = 0;
		strcat(disk, "/");
	}
	if (name)
		snprintf(disk + strlen(disk), sizeof(disk) - strlen(disk), "%s", name);
	if (!name || !format || !json_is_integer(size) || json_integer_value(size) <= 0)
		return qemu_fails(m, -EPROTO, "QEMU does not tell size, format and name of the disk for %s",
				  overlay);
	snprintf(bytes, sizeof(bytes), "%lld", (long long)json_integer_value(size));
	if (pipe2(fds, O_CLOEXEC))
		return qemu_fails(m, -errno, "no pipe for qemu-img: %s", strerror(errno));
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
	posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
	err = posix_spawnp(&pid, args[0], &actions, NULL, args, environ);
	posix_spawn_file_actions_destroy(&actions);
	close(fds[1]);
	while (!err &&
	       ((n = read(fds[0], said + len, sizeof(said) - 1 - len)) > 0 || (n < 0 && errno == EINTR)))
		len += n > 0 ? (size_t)n : 0;
	close(fds[0]);
	if (err)
		return qemu_fails(m, -err,
				  "qemu-img, which makes %s, cannot be executed: %s; install qemu-utils",
				  overlay, strerror(err));
	waitpid(pid, &status, 0);
	said[strcspn(said, "\r\n")] = 0;
	json_printable(said);
	return status ? qemu_fails(m, -EIO, "qemu-img cannot make %s: %s", overlay, said) : 0;
}

/* QEMU may run as another user. */
static int format_overlay(struct qemu *m, const struct qemu_disk *d, json_t *image)
{
	int err = run_qemu_img(m, d->overlay, image);
	char proc[40];
	struct stat st;

	snprintf(proc, sizeof(proc), "/proc/%d", m->q.pid);
	if (!err && (stat(proc, &st) || chown(d->overlay, st.st_uid, st.st_gid)))
		err = qemu_fails(m, -errno, "%s cannot be given to the user of QEMU: %s", d->overlay,
				 strerror(errno));
	return err;
}

/* ---- the three steps ---- */

static int lay(struct qemu *m, struct qemu_disk *d)
{
	char overlay[32], file[32], base[32], below[32];
	int err = qemu_ask(m, "blockdev-add",
			   json_pack("{s:s, s:s, s:s, s:s}", "driver", "file", "node-name",
				     name(m, d, "overlay-file", file), "filename", d->overlay, "discard",
				     "unmap"),
			   NULL);

	name(m, d, "overlay", overlay);
	name(m, d, "base", base);
	name(m, d, "base-file", below);
	if (!err)
		err = qemu_ask(m, "blockdev-add", overlay_options(m, d, NULL), NULL);
	if (!err && d->file.o)
		err = add_node(m, &d->file, below, NULL, true);
	if (!err)
		err = add_node(m, &d->format, base, d->file.o ? below : NULL, true);
	/* The device gets the overlay by a snapshot, which puts NODE below it: no other command exchanges its node. */
	if (!err)
		err = qemu_ask(m, "blockdev-snapshot",
			       json_pack("{s:s, s:s}", "node", d->node, "overlay", overlay), NULL);
	if (!err)
		err = set_backing(m, d, base);
	if (!err)
		err = del_node(m, d->node);
	if (!err && d->file.o)
		err = del_node(m, d->file_node);
	return err;
}

int disk_hold(struct qemu *m, struct qemu_disk *d)
{
	json_t *image;
	int err = find_device(m, d, &image);

	if (!err)
		err = find_options(m, d);
	if (!err)
		err = format_overlay(m, d, image);
	json_decref(image);
	return err ? err : lay(m, d);
}

int disk_take(struct qemu *m, struct qemu_disk *d)
{
	char base[32], below[32], why[QMP_WHY];
	int err = d->file.o ? add_node(m, &d->file, NULL, NULL, false) : 0;

	if (!err)
		err = add_node(m, &d->format, NULL, NULL, false);
	if (!err)
		err = set_backing(m, d, d->node);
	if (err) {
		snprintf(why, sizeof(why), "%s", m->why);
		del_node(m, d->node); /* or its lock may stay */
		if (d->file.o)
			del_node(m, d->file_node);
		return qemu_fails(m, err,
				  "%s is a part of disk %s from now on, because the disk cannot be opened for writing: %.150s; the VM "
				  "goes on with both",
				  d->overlay, d->node, why);
	}
	d->taken = true;
	del_node(m, name(m, d, "base", base));
	if (d->file.o)
		del_node(m, name(m, d, "base-file", below));
	return 0;
}

int disk_find(struct qemu *m, const char *name, bool begins, char node[32])
{
	json_t *all = NULL, *disk;
	int err = qemu_ask(m, "query-block", NULL, &all);
	size_t i;

	node[0] = 0;
	json_array_foreach(all, i, disk)
	{
		const json_t *in = json_object_get(disk, "inserted");
		const char *is = json_string_value(json_object_get(in, "node-name"));

		if (is && (begins ? !strncmp(is, name, strlen(name)) : !strcmp(is, name)))
			snprintf(node, 32, "%s", is);
	}
	json_decref(all);
	return err;
}

/* Until the job is gone; *error: a new reference to what QEMU says of it, a string, or NULL. */
static int await_job(struct qemu *m, const char *job, json_t **error)
{
	struct qmp_event e;
	bool over = false;
	int err = 0;

	while (!err && !over) {
		err = qmp_next(&m->q, DISK_STATUS_EVENT, clock_us() + m->timeout_us, &e);
		if (err == -ETIMEDOUT) /* it has much to do: QEMU still answers? */
			err = qemu_ask(m, "query-status", NULL, NULL);
		else if (!err) {
			const char *id = json_string_value(json_object_get(e.data, "id"));
			const char *is = json_string_value(json_object_get(e.data, "status"));

			if (id && is && !strcmp(id, job)) {
				over = !strcmp(is, "null");
				/* Refused if it has left that state meanwhile: it will come to it again, or ends. */
				if (!strcmp(is, "ready") &&
				    (err = qemu_ask(m, "job-complete", json_pack("{s:s}", "id", job),
						    NULL)) == -EREMOTEIO)
					err = 0;
			}
			json_decref(e.data);
		}
	}
	*error = NULL;
	while (!err && !*error && !qmp_next(&m->q, DISK_END_EVENT, 0, &e)) {
		const char *id = json_string_value(json_object_get(e.data, "device"));

		if (id && !strcmp(id, job))
			*error = json_incref(json_object_get(e.data, "error"));
		json_decref(e.data);
	}
	return err < 0 ? qemu_qmp_failed(m, err) : 0;
}

static int merge(struct qemu *m, struct qemu_disk *d)
{
	char overlay[32], job[32];
	json_t *error = NULL;
	int err;

	name(m, d, "merge", job);
	qmp_forget(&m->q, DISK_STATUS_EVENT);
	err = qemu_ask(m, "block-commit",
		       json_pack("{s:s, s:s, s:s}", "job-id", job, "device", name(m, d, "overlay", overlay),
				 "base-node", d->node),
		       NULL);
	if (!err)
		err = await_job(m, job, &error);
	if (!err && error) {
		err = qemu_fails(m, -EIO, "%.200s",
				 json_string_value(error) ? json_string_value(error) : "no reason");
		json_printable(m->why);
	}
	json_decref(error);
	return err;
}

int disk_merge(struct qemu *m, struct qemu_disk *d)
{
	char why[QMP_WHY], overlay[32], file[32], node[32];
	int err;

	if (!d->taken)
		return qemu_fails(m, -EBUSY,
				  "%s is a part of disk %s, which could not be opened for writing: keep it; when QEMU has ended, `qemu-img "
				  "commit` it before anybody else uses the disk",
				  d->overlay, d->node);
	err = merge(m, d);
	snprintf(why, sizeof(why), "%s", m->why);
	/* What QEMU answers too late it may do all the same: the device's node tells. */
	if ((err = disk_find(m, d->node, false, node) ? -EIO : node[0] ? 0 : err ? err : -EIO))
		return qemu_fails(m, err,
				  "%s is a part of disk %s as long as %s is the device's node, as query-block tells: it is not merged: "
				  "%.150s; block-commit that node, or, when QEMU has ended, `qemu-img commit` the file before anybody else "
				  "uses the disk",
				  d->overlay, d->node, name(m, d, "overlay", overlay), why);
	del_node(m, name(m, d, "overlay", overlay));
	del_node(m, name(m, d, "overlay-file", file));
	disk_drop(d);
	return 0;
}

/* Somebody may have removed it, and made another one of that name. */
void disk_drop(struct qemu_disk *d)
{
	struct stat st;

	if (d->made && !lstat(d->overlay, &st) && st.st_dev == d->dev && st.st_ino == d->ino)
		unlink(d->overlay);
	d->made = false;
}

void disk_close(struct qemu_disk *d)
{
	json_decref(d->format.o);
	json_decref(d->file.o);
	d->format.o = d->file.o = NULL;
}
