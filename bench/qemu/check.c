// SPDX-License-Identifier: MIT
/*
 * What a running QEMU must fulfil to become a source. A sentence says what is wrong and, after "; ", what mends it:
 * rdma-migrate doctor prints the two apart.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "bridge_int.h"

static int check_runs(struct qemu *m)
{
	json_t *o = NULL;
	int err = qemu_ask(m, "query-status", NULL, &o);
	const char *status = json_string_value(json_object_get(o, "status"));

	if (!err && (!status || strcmp(status, "running")))
		err = qemu_fails(m, -EBUSY, "the VM of QEMU at %s is not running: %.40s; `cont` it first",
				 m->q.path, status ? status : "no status");
	json_decref(o);
	return err;
}

/* What QEMU itself says against a migration. */
static int check_blockers(struct qemu *m)
{
	json_t *o = NULL, *reason;
	int err = qemu_ask(m, "query-migrate", NULL, &o);
	size_t i;

	json_array_foreach(json_object_get(o, "blocked-reasons"), i, reason)
	{
		const char *text = json_string_value(reason);

		err = qemu_fails(m, -EBUSY, "QEMU refuses to be migrated: %.300s",
				 text ? text : "it does not say why");
	}
	json_decref(o);
	return err;
}

static int check_block_jobs(struct qemu *m)
{
	json_t *jobs = NULL, *job;
	int err = qemu_ask(m, "query-block-jobs", NULL, &jobs);
	size_t i;

	json_array_foreach(jobs, i, job)
	{
		const char *id = json_string_value(json_object_get(job, "device"));
		const char *type = json_string_value(json_object_get(job, "type"));

		err = qemu_fails(m, -EBUSY,
				 "block job %.60s of QEMU (%.40s) runs; wait for its end, or block-job-cancel it",
				 id ? id : "without a name", type ? type : "of no type");
	}
	json_decref(jobs);
	return err;
}

/* The next target would take the disk without it. */
static int check_overlays(struct qemu *m)
{
	char node[32];
	int err = disk_find(m, DISK_OVERLAY, true, node);

	if (!err && node[0])
		err = qemu_fails(m, -EBUSY,
				 "a disk of QEMU is still on %s, the overlay of an earlier migration; end the VM, `qemu-img "
				 "commit` the overlay's file, and start the VM anew",
				 node);
	return err;
}

/* ---- devices ---- */

/* What a device's type begins with, and why it cannot board. */
static const struct {
	const char *type, *why;
} strangers[] = {
	{ "vfio-", "writes the guest's memory by DMA, which nothing tracks" },
	{ "vhost-user-", "has the guest's memory mapped in another process, whose writes are not tracked" },
	{ "vhost-vdpa-", "writes the guest's memory by DMA, which nothing tracks" },
	{ "virtio-balloon", "takes pages from the guest's memory, unseen, at either end" },
	{ "virtio-mem", "takes pages from the guest's memory, unseen, at either end" },
	{ "virtio-pmem", "has memory that is not the guest's RAM, and is not moved" },
};

/* The children of a QOM path are the devices given by -device and device_add. */
static int check_children(struct qemu *m, const char *path)
{
	json_t *all = NULL, *child;
	int err = qemu_ask(m, "qom-list", json_pack("{s:s}", "path", path), &all);
	size_t i;

	json_array_foreach(all, i, child)
	{
		const char *type = json_string_value(json_object_get(child, "type"));
		const char *name = json_string_value(json_object_get(child, "name"));

		if (!name || !type || strncmp(type, "child<", 6))
			continue;
		for (size_t k = 0; k < sizeof(strangers) / sizeof(strangers[0]); k++)
			if (!strncmp(type + 6, strangers[k].type, strlen(strangers[k].type)))
				err = qemu_fails(m, -EOPNOTSUPP,
						 "device %.60s of QEMU (%.40s) %s; device_del it, or start the VM without it",
						 name, type + 6, strangers[k].why);
	}
	json_decref(all);
	return err;
}

static int check_devices(struct qemu *m)
{
	int named = check_children(m, "/machine/peripheral");
	int anonymous = check_children(m, "/machine/peripheral-anon");

	return named ? named : anonymous;
}

/* No command of QMP lists the netdevs with their backends. */
int qemu_netdevs(struct qemu *m, json_t **text)
{
	return qemu_ask(m, "human-monitor-command", json_pack("{s:s}", "command-line", "info network"), text);
}

static int check_network(struct qemu *m)
{
	json_t *o = NULL;
	int err = qemu_netdevs(m, &o);
	const char *text = json_string_value(o);

	if (text && (strstr(text, "type=vhost-user") || strstr(text, "type=vhost-vdpa")))
		err = qemu_fails(m, -EOPNOTSUPP,
				 "a netdev of QEMU is vhost-user or vhost-vdpa, whose writes to the guest's memory are not tracked; "
				 "use -netdev tap or another that QEMU itself runs");
	json_decref(o);
	return err;
}

static int check_memory(struct qemu *m)
{
	int err = ram_find(&m->q, m->ram, &m->nram, m->timeout_us, m->why, sizeof(m->why));

	return err ? err : qemu_map_ram(m);
}

const struct qemu_check qemu_checks[] = {
	{ "VM", check_runs },
	{ "migration", check_blockers },
	{ "block jobs", check_block_jobs },
	{ "overlays", check_overlays },
	{ "devices", check_devices },
	{ "network", check_network },
	{ "memory", check_memory },
	{ "write tracking", qemu_open_tracker },
};
const size_t qemu_nchecks = sizeof(qemu_checks) / sizeof(qemu_checks[0]);
