// SPDX-License-Identifier: MIT
/* Finds the RAM of a running QEMU: its backends over QMP, their addresses in /proc/PID/maps. */
#include "ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

struct look {
	struct qmp *q;
	uint64_t timeout_us;
	char *why;
	size_t cap;
};

static int fails(const struct look *k, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int fails(const struct look *k, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->why, k->cap, fmt, ap);
	va_end(ap);
	return err;
}

static int qmp_failed(const struct look *k, int err)
{
	return fails(k, err, "%s", k->q->why);
}

/* A property of the backend, a new reference. */
static int property(const struct look *k, const struct qemu_ram *r, const char *name, json_t **ret)
{
	char path[80];
	int err;

	snprintf(path, sizeof(path), "/objects/%s", r->id);
	err = qmp_call(k->q, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", name),
		       k->timeout_us, ret);
	return err < 0 ? qmp_failed(k, err) : 0;
}

static int text_property(const struct look *k, const struct qemu_ram *r, const char *name, char *buf,
			 size_t cap)
{
	json_t *o = NULL;
	int err = property(k, r, name, &o);

	if (!err && (!json_is_string(o) || json_string_length(o) >= cap))
		err = fails(k, -EPROTO, "QEMU names no %s of its memory backend %s", name, r->id);
	if (!err)
		snprintf(buf, cap, "%s", json_string_value(o));
	json_decref(o);
	return err;
}

static int check_kind(const struct look *k, struct qemu_ram *r, bool shared)
{
	char type[40] = "";
	json_t *offset = NULL;
	int err = text_property(k, r, "type", type, sizeof(type));

	if (err < 0)
		return err;
	if (strcmp(type, "memory-backend-file"))
		return fails(k, -EOPNOTSUPP,
			     "memory backend %s of QEMU is a %s, whose RAM QEMU would put into the device state; use "
			     "memory-backend-file with share=on, on tmpfs or hugetlbfs",
			     r->id, type);
	if (!shared)
		return fails(k, -EOPNOTSUPP, "memory backend %s of QEMU is private memory; give it share=on",
			     r->id);
	err = text_property(k, r, "mem-path", r->path, sizeof(r->path));
	/* QEMU 8.1 has it; before, there is no offset. */
	if (!err && !property(k, r, "offset", &offset) && json_is_integer(offset))
		r->offset = (uint64_t)json_integer_value(offset);
	json_decref(offset);
	return err;
}

static int open_file(const struct look *k, struct qemu_ram *r, struct stat *st)
{
	struct statfs fs;

	r->fd = open(r->path, O_RDWR | O_CLOEXEC);
	if (r->fd < 0 || fstat(r->fd, st) || fstatfs(r->fd, &fs))
		return fails(k, -errno, "%s, the RAM of QEMU's memory backend %s, cannot be opened: %s",
			     r->path, r->id, strerror(errno));
	if (fs.f_type != TMPFS_MAGIC && fs.f_type != HUGETLBFS_MAGIC)
		return fails(k, -EOPNOTSUPP,
			     "%s, the RAM of QEMU's memory backend %s, is on a disk; it must be on tmpfs or hugetlbfs",
			     r->path, r->id);
	r->page_shift = fs.f_type == TMPFS_MAGIC ? 12 : (uint32_t)__builtin_ctzl((unsigned long)fs.f_bsize);
	return 0;
}

/* Adjacent mappings of one file count as one; QEMU has it mapped once. */
static int find_mapping(const struct look *k, struct qemu_ram *r, const struct stat *st)
{
	uint64_t at = 0, end = 0;
	char path[40], *line = NULL;
	size_t cap = 0;
	FILE *in;

	snprintf(path, sizeof(path), "/proc/%d/maps", k->q->pid);
	in = fopen(path, "re");
	if (!in)
		return fails(k, -errno, "%s cannot be read: %s", path, strerror(errno));
	while (end - at < r->len && getline(&line, &cap, in) > 0) {
		uint64_t start, stop, offset, inode;
		unsigned maj, min;
		char perms[8];

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64, &start, &stop,
			   perms, &offset, &maj, &min, &inode) != 7)
			continue;
		if (inode != st->st_ino || makedev(maj, min) != st->st_dev || perms[3] != 's')
			continue;
		if (start != end || offset != r->offset + (end - at)) {
			if (offset != r->offset)
				continue;
			at = start;
		}
		end = stop;
	}
	free(line);
	fclose(in);
	if (end - at < r->len)
		return fails(k, -ENOENT,
			     "process %d does not have %s, the RAM of memory backend %s, mapped as a whole",
			     k->q->pid, r->path, r->id);
	r->addr = at;
	return 0;
}

static int look_at(const struct look *k, const json_t *o, struct qemu_ram *r)
{
	const char *id = json_string_value(json_object_get(o, "id"));
	json_int_t size = json_integer_value(json_object_get(o, "size"));
	struct stat st;
	int err;

	if (!id || strlen(id) >= sizeof(r->id) || size <= 0 || !json_is_boolean(json_object_get(o, "share")))
		return fails(k, -EPROTO, "QEMU describes a memory backend without id, size or share");
	snprintf(r->id, sizeof(r->id), "%s", id);
	r->len = (uint64_t)size;
	err = check_kind(k, r, json_is_true(json_object_get(o, "share")));
	if (!err)
		err = open_file(k, r, &st);
	return err ? err : find_mapping(k, r, &st);
}

int ram_find(struct qmp *q, struct qemu_ram *ram, size_t *n, uint64_t timeout_us, char *why, size_t cap)
{
	const struct look k = { q, timeout_us, why, cap };
	json_t *all = NULL;
	int err = qmp_call(q, "query-memdev", NULL, timeout_us, &all);
	size_t count = json_array_size(all);

	*n = 0;
	if (err < 0)
		return qmp_failed(&k, err);
	if (!count)
		err = fails(&k, -EOPNOTSUPP,
			    "QEMU's RAM is in no file; start it with -machine memory-backend=ram -object "
			    "memory-backend-file,id=ram,share=on,mem-path=/dev/shm/NAME,size=SIZE");
	else if (count > QEMU_RAMS)
		err = fails(&k, -E2BIG, "QEMU has %zu memory backends; %d can be moved", count, QEMU_RAMS);
	for (size_t i = 0; i < count && !err; i++) {
		ram[i] = (struct qemu_ram){ .fd = -1 };
		*n = i + 1;
		err = look_at(&k, json_array_get(all, i), &ram[i]);
	}
	json_decref(all);
	return err;
}

void ram_close(struct qemu_ram *ram, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (ram[i].fd >= 0)
			close(ram[i].fd);
		ram[i].fd = -1;
	}
}
