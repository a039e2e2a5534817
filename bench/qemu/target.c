// SPDX-License-Identifier: MIT
/* The target: a QEMU that waits for a state, with RAM in files that this process has open, too. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bridge_int.h"

#define HELD_US UINT32_MAX /* the longest that filter-buffer takes: more than an hour of a tentative run */

#define ANNOUNCE_ROUNDS 5 /* QEMU's own default */

static const char *const capabilities[] = { "x-ignore-shared", "events", NULL };

/* ---- output ---- */

static int set_filter(struct qemu *m, const char *net, const char *status)
{
	char path[80];

	snprintf(path, sizeof(path), "/objects/ferry-hold-%s", net);
	return qemu_qmp_failed(m, qmp_call(&m->q, "qom-set",
					   json_pack("{s:s, s:s, s:s}", "path", path, "property", "status",
						     "value", status),
					   m->timeout_us, NULL));
}

/* Made switched off: its timer runs in the VM's time, which is another one before the load. */
static int add_filters(struct qemu *m)
{
	for (size_t i = 0; m->hold_net[i]; i++) {
		char id[70];
		int err;

		snprintf(id, sizeof(id), "ferry-hold-%s", m->hold_net[i]);
		err = qmp_call(&m->q, "object-add",
			       json_pack("{s:s, s:s, s:s, s:s, s:I, s:s}", "qom-type", "filter-buffer", "id",
					 id, "netdev", m->hold_net[i], "queue", "rx", "interval",
					 (json_int_t)HELD_US, "status", "off"),
			       m->timeout_us, NULL);
		if (err)
			return qemu_fails(m, err,
					  "netdev %.60s cannot be held: %.200s; --hold-net takes the id of a -netdev without vhost",
					  m->hold_net[i], m->q.why);
	}
	return 0;
}

void qemu_remove_filters(struct qemu *m)
{
	for (size_t i = 0; m->hold_net[i]; i++) {
		char id[70];

		snprintf(id, sizeof(id), "ferry-hold-%s", m->hold_net[i]);
		qmp_call(&m->q, "object-del", json_pack("{s:s}", "id", id), m->timeout_us, NULL);
	}
}

static int op_output_hold(void *vm)
{
	struct qemu *m = vm;
	int err = 0;

	for (size_t i = 0; m->hold_net[i] && !err; i++)
		err = set_filter(m, m->hold_net[i], "on");
	return err;
}

static int op_output_release(void *vm)
{
	struct qemu *m = vm;
	int err = 0;

	for (size_t i = 0; m->hold_net[i]; i++) {
		int e = set_filter(m, m->hold_net[i], "off");

		err = err ? err : e;
	}
	return err;
}

/* ---- disks ---- */

/* What a tentative run writes to a disk would be there after a fallback, too. */
static int check_disks(struct qemu *m)
{
	json_t *all = NULL, *disk;
	int err = qemu_ask(m, "query-block", NULL, &all);
	size_t i;

	json_array_foreach(all, i, disk)
	{
		const json_t *in = json_object_get(disk, "inserted");
		const char *qdev = json_string_value(json_object_get(disk, "qdev"));
		const char *node = json_string_value(json_object_get(in, "node-name"));
		bool held = false;

		for (size_t k = 0; node && k < m->ndisk; k++)
			held |= !strcmp(m->disk[k].node, node);
		if (!json_is_object(in) || json_is_true(json_object_get(in, "ro")) || held || err)
			continue;
		err = qemu_fails(m, -EOPNOTSUPP,
				 "disk %.60s (node %.60s) can be written, and its writes are not held back; hold it by --hold-disk NODE=PATH, for "
				 "which it must be a -blockdev, or hold nothing, and the VM runs here only after the commit",
				 qdev ? qdev : "without a name", node ? node : "unknown");
	}
	json_decref(all);
	return err;
}

static int hold_disks(struct qemu *m)
{
	int err = 0;

	for (size_t i = 0; i < m->ndisk && !err; i++)
		err = disk_hold(m, &m->disk[i]);
	return err;
}

static int take_disks(struct qemu *m)
{
	int err = 0;

	for (size_t i = 0; i < m->ndisk; i++) {
		int e = disk_take(m, &m->disk[i]);

		err = err ? err : e;
	}
	return err;
}

static void drop_disks(struct qemu *m)
{
	for (size_t i = 0; i < m->ndisk; i++)
		disk_drop(&m->disk[i]);
}

/* ---- the other ops ---- */

/* QEMU may name its backends in another order. */
static const struct qemu_ram *find_ram(const struct qemu *m, const char id[64])
{
	for (size_t i = 0; i < m->nram; i++)
		if (!strncmp(m->ram[i].id, id, sizeof(m->ram[i].id)))
			return &m->ram[i];
	return NULL;
}

static int check_needs(struct qemu *m, const struct ferry_region *regions, size_t n,
		       const struct qemu_needs *want, struct ferry_stream *needs)
{
	char machine[64];
	int err = qemu_machine(m, machine, sizeof(machine));

	if (err < 0)
		return ferry_stream_fail(needs, err, "%s", m->why);
	if (want->nram > QEMU_RAMS || n != want->nram || strnlen(want->machine, 64) == 64)
		return ferry_stream_fail(needs, -EPROTO, "the source's QEMU describes its RAM wrongly");
	if (strcmp(want->machine, machine))
		return ferry_stream_fail(needs, -EINVAL,
					 "the source's QEMU is a %s, this one a %s; give both the same -machine with its version",
					 want->machine, machine);
	if (want->nram != m->nram)
		return ferry_stream_fail(needs, -EINVAL,
					 "the source's QEMU has %u memory backends, this one %zu", want->nram,
					 m->nram);
	for (size_t i = 0; i < n; i++) {
		const struct qemu_ram *r = find_ram(m, want->ram[i].id);

		if (!r || want->ram[i].len != r->len || regions[i].id != i || regions[i].len != r->len ||
		    regions[i].page_shift != r->page_shift)
			return ferry_stream_fail(needs, -EINVAL,
						 "memory backend %.63s of the source has %llu bytes in pages of %u, and here %llu in pages of %u; "
						 "both QEMUs need the same",
						 want->ram[i].id, (unsigned long long)want->ram[i].len,
						 1u << (regions[i].page_shift & 31),
						 r ? (unsigned long long)r->len : 0ull,
						 r ? 1u << (r->page_shift & 31) : 0);
	}
	return 0;
}

static int op_reserve(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct qemu *m = vm;
	struct qemu_needs want;
	struct ferry_section sec;
	int err = ferry_stream_next(needs, &sec);

	if (err != 1 || sec.id != QEMU_SECTION_NEEDS || sec.version != 1 || sec.len != sizeof(want))
		return ferry_stream_fail(needs, -EINVAL,
					 "the source is no QEMU: start both ends with --vmm qemu");
	memcpy(&want, sec.data, sizeof(want));
	err = check_needs(m, regions, n, &want, needs);
	for (size_t i = 0; i < n && !err; i++) {
		const struct qemu_ram *r = find_ram(m, want.ram[i].id);

		regions[i].hva = (void *)(uintptr_t)r->addr;
		regions[i].fd = r->fd;
		regions[i].fd_offset = r->offset;
		regions[i].flags |= FERRY_REGION_FOREIGN;
		regions[i].uffd = m->faults.fd;
	}
	return err;
}

static int op_load(void *vm, struct ferry_stream *in)
{
	struct qemu *m = vm;
	struct ferry_section sec;
	uint8_t *buf = NULL;
	size_t len = 0;
	int err;

	while ((err = ferry_stream_next(in, &sec)) == 1) {
		uint8_t *more = sec.id == QEMU_SECTION_STATE && sec.len ? realloc(buf, len + sec.len) : NULL;

		if (!more) {
			free(buf);
			return ferry_stream_fail(in, sec.id == QEMU_SECTION_STATE ? -ENOMEM : -EINVAL,
						 "section %u of %zu bytes of the device state cannot be taken",
						 sec.id, sec.len);
		}
		memcpy(more + len, sec.data, sec.len);
		buf = more;
		len += sec.len;
	}
	if (!err)
		err = state_load(&m->q, buf, len, m->timeout_us);
	free(buf);
	return err ? ferry_stream_fail(in, err, "%s", m->q.why) : 0;
}

static int simple(struct qemu *m, const char *command)
{
	return qemu_qmp_failed(m, qmp_call(&m->q, command, NULL, m->timeout_us, NULL));
}

static int op_resume(void *vm)
{
	struct qemu *m = vm;

	return qemu_qmp_failed(m, state_run(&m->q, m->timeout_us));
}

/* Its main loop may wait for a fault, and answer nothing: the op fails by its deadline. */
static int op_pause(void *vm)
{
	return simple(vm, "stop");
}

static int op_activate(void *vm)
{
	struct qemu *m = vm;
	int err, announced;

	m->owner = true;
	err = take_disks(m);
	m->capable = true; /* the VM's next migration may be another one */
	qmp_call(&m->q, "migrate-set-parameters", json_pack("{s:i}", "announce-rounds", ANNOUNCE_ROUNDS),
		 m->timeout_us, NULL);
	announced = qmp_call(&m->q, "announce-self",
			     json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds",
				       ANNOUNCE_ROUNDS, "step", 50),
			     m->timeout_us, NULL);
	return err ? err : qemu_qmp_failed(m, announced);
}

/* Never `quit`: its threads may wait for faults with the lock of its main loop. */
static int op_discard(void *vm)
{
	struct qemu *m = vm;

	struct pollfd p = { .fd = m->pidfd, .events = POLLIN };

	if (m->pidfd >= 0 && !syscall(SYS_pidfd_send_signal, m->pidfd, SIGKILL, NULL, 0))
		poll(&p, 1, (int)(m->timeout_us / 1000)); /* until it can put out nothing any more */
	if (m->child > 0)
		waitpid(m->child, NULL, 0);
	m->child = 0;
	if (!m->owner)
		drop_disks(m);
	return 0;
}

struct ferry_ops qemu_target_ops(const struct qemu *m)
{
	struct ferry_ops ops = { FERRY_OPS_INIT,       .reserve = op_reserve, .load = op_load,
				 .resume = op_resume,  .pause = op_pause,     .activate = op_activate,
				 .discard = op_discard };

	if (m->hold_net[0] || (m->ndisk && !m->network)) {
		ops.output_hold = op_output_hold;
		ops.output_release = op_output_release;
	}
	return ops;
}

static int check_waits(struct qemu *m)
{
	char node[32];
	json_t *o = NULL;
	int err = qemu_ask(m, "query-status", NULL, &o);
	const char *status = json_string_value(json_object_get(o, "status"));

	if (!err && (!status || strcmp(status, "inmigrate")))
		err = qemu_fails(m, -EINVAL,
				 "QEMU at %s does not wait for a VM (status %.40s); start it with -S -incoming defer",
				 m->q.path, status ? status : "none");
	json_decref(o);
	if (!err)
		err = disk_find(m, DISK_OVERLAY, true, node);
	if (!err && node[0])
		err = qemu_fails(m, -EINVAL,
				 "QEMU at %s has a disk on %s, from an earlier attempt to bring a VM here; end it, and start it anew",
				 m->q.path, node);
	return err;
}

static int look_for_network(struct qemu *m)
{
	json_t *o = NULL;
	int err = qemu_netdevs(m, &o);
	const char *text = json_string_value(o);

	m->network = !text || *text;
	json_decref(o);
	return err;
}

int qemu_target_open(struct qemu *m, const char *socket, pid_t child, const struct qemu_hold *hold,
		     uint64_t timeout_us)
{
	int err;

	qemu_init(m, timeout_us);
	m->child = child;
	for (size_t i = 0; hold->net && hold->net[i] && i < QEMU_NETS; i++)
		m->hold_net[i] = hold->net[i];
	for (; m->ndisk < hold->ndisk && m->ndisk < QEMU_DISKS; m->ndisk++)
		m->disk[m->ndisk] = hold->disk[m->ndisk];
	err = qemu_connect(m, socket, child != 0);
	if (!err)
		err = check_waits(m);
	if (!err && (m->hold_net[0] || m->ndisk))
		err = check_disks(m);
	if (!err)
		err = look_for_network(m);
	if (!err)
		err = ram_find(&m->q, m->ram, &m->nram, timeout_us, m->why, sizeof(m->why));
	if (!err)
		err = qemu_qmp_failed(m, state_capabilities(&m->q, capabilities, true, timeout_us));
	/* The VM announces itself in activate, not when its state is loaded. */
	if (!err)
		err = qemu_qmp_failed(m,
				      qmp_call(&m->q, "migrate-set-parameters",
					       json_pack("{s:i}", "announce-rounds", 0), timeout_us, NULL));
	if (!err)
		err = add_filters(m);
	if (!err)
		err = take_uffd(m->q.pid, TAKE_KEEP | TAKE_FILTERED, timeout_us, &m->faults, m->why,
				sizeof(m->why));
	/* The last step: a QEMU whose disk is on an overlay must not be used for anything else. */
	if (!err && m->ndisk && (err = hold_disks(m)))
		op_discard(m);
	if (err)
		drop_disks(m);
	return err;
}
