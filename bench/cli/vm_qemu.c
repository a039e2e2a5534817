// SPDX-License-Identifier: MIT
/* A stock QEMU (bench/qemu) as the VM of an end. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"
#include "vm.h"
#include "bench/qemu/bridge.h"
#include "bench/qemu/launch.h"

#define ANSWERS_US UINT64_C(30000000) /* as long as a switchover may take by default */
#define NOTICE 4

struct boarded {
	struct qemu m; /* first: it is what bench/qemu's ops get */
	struct vm_ask ask;
	struct launch launch; /* target: .keeper is -1 if QEMU was there */
	struct ferry_ops inner;
	uint64_t paused_ns, stood_us;
	_Atomic bool running;
};

static uint64_t timeout_us(const struct options *o)
{
	return o->switchover_limit_us ? o->switchover_limit_us : ANSWERS_US;
}

/* ---- ops: those of bench/qemu, and what the end is told ---- */

static int op_pause(void *vm)
{
	struct boarded *b = vm;

	b->paused_ns = clock_ns();
	b->running = false;
	return b->inner.pause(vm);
}

static int op_resume(void *vm)
{
	struct boarded *b = vm;
	int err = b->inner.resume(vm);

	if (!err && b->paused_ns)
		b->stood_us = (clock_ns() - b->paused_ns) / 1000;
	b->running = !err;
	return err;
}

static void op_event(void *vm, const struct ferry_event *ev)
{
	struct boarded *b = vm;

	if (ev->type == FERRY_EVENT_PHASE && ev->phase == FERRY_PHASE_COMMITMENT)
		launch_tell(&b->launch, LAUNCH_STOP);
	if (ev->type == FERRY_EVENT_PHASE && ev->phase == FERRY_PHASE_ACTIVATION)
		launch_tell(&b->launch, LAUNCH_KEEP);
	b->ask.calls.event(b->ask.calls.ctx, ev);
}

static void op_log(void *vm, int level, const char *line)
{
	struct boarded *b = vm;

	b->ask.calls.log(b->ask.calls.ctx, level, line);
}

static int op_arbiter(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct boarded *b = vm;

	return b->ask.calls.arbiter(b->ask.calls.ctx, session, want, is);
}

static int op_offer(void *vm, struct ferry_stream *out)
{
	struct boarded *b = vm;

	return b->ask.calls.offer(b->ask.calls.ctx, out);
}

static int op_offered(void *vm, struct ferry_stream *in)
{
	struct boarded *b = vm;

	return b->ask.calls.offered(b->ask.calls.ctx, in);
}

static void tell(struct boarded *b, const char *line)
{
	b->ask.calls.log(b->ask.calls.ctx, NOTICE, line);
}

/* Of the VM's disks, which somebody must mend: said with --quiet, too. */
static void complain(const struct boarded *b)
{
	fprintf(stderr, "rdma-migrate: %s.\n", b->m.why);
}

static int op_activate(void *vm)
{
	struct boarded *b = vm;
	int err = b->inner.activate(vm);

	if (err)
		complain(b);
	return err;
}

static void qemu_describe(void *vm, struct ferry_ops *ops, struct ferry_vm *ret)
{
	struct boarded *b = vm;

	b->inner = b->ask.end == VMM_END_SOURCE ? qemu_source_ops : qemu_target_ops(&b->m);
	*ops = b->inner;
	ops->pause = op_pause;
	ops->resume = op_resume;
	ops->activate = b->inner.activate ? op_activate : NULL;
	ops->event = op_event;
	ops->log = op_log;
	ops->arbiter = b->ask.calls.arbiter ? op_arbiter : NULL;
	ops->offer = b->ask.calls.offer ? op_offer : NULL;
	ops->offered = b->ask.calls.offered ? op_offered : NULL;
	*ret = (struct ferry_vm){ FERRY_VM_INIT, .vm = b, .ops = ops };
	if (b->ask.end == VMM_END_SOURCE) {
		ret->regions = b->m.region;
		ret->nregions = b->m.nram;
	}
}

/* ---- the end ---- */

static void drop_overlays(struct launch *l)
{
	for (size_t i = 0; i < l->ndisk; i++)
		disk_drop(&l->disk[i]);
}

static int open_target(struct boarded *b, char *why, size_t cap)
{
	const struct options *o = b->ask.o;
	struct launch *l = &b->launch;
	struct qemu_hold hold = { .net = o->hold_net, .disk = l->disk };
	uint64_t limit_us = timeout_us(o);
	int err = 0;

	for (; !err && o->hold_disk[l->ndisk] && l->ndisk < QEMU_DISKS; l->ndisk++)
		err = disk_make(&l->disk[l->ndisk], o->hold_disk[l->ndisk], why, cap);
	if (!err && o->qemu)
		err = launch_qemu(l, o->qemu, limit_us, why, cap);
	if (err) {
		drop_overlays(l);
		return err;
	}
	hold.ndisk = l->ndisk;
	err = qemu_target_open(&b->m, o->qemu ? l->socket : o->qmp, o->qemu ? QEMU_STARTING : 0, &hold,
			       limit_us);
	/* QEMU's own reason is better than that of a connection that it has closed. */
	if (err && (b->m.q.fd >= 0 || !launch_ended(l, limit_us, why, cap)))
		snprintf(why, cap, "%s", b->m.why);
	if (err) {
		launch_close(l);
		qemu_close(&b->m);
	}
	return err;
}

static int open_source(struct boarded *b, char *why, size_t cap)
{
	int err = qemu_source_open(&b->m, b->ask.o->qmp, timeout_us(b->ask.o));

	if (err) {
		snprintf(why, cap, "%s", b->m.why);
		qemu_close(&b->m);
	}
	b->running = !err;
	return err;
}

static int qemu_open(void **ret, const struct vm_ask *ask, char *why, size_t cap)
{
	struct boarded *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->ask = *ask;
	b->launch.keeper = -1;
	err = ask->end == VMM_END_SOURCE ? open_source(b, why, cap) : open_target(b, why, cap);
	if (err)
		free(b);
	else
		*ret = b;
	return err;
}

static int qemu_begin(void *vm)
{
	(void)vm;
	return 0;
}

static void merge_disks(struct boarded *b)
{
	char line[300];

	for (size_t i = 0; i < b->m.ndisk; i++) {
		struct qemu_disk *d = &b->m.disk[i];

		if (disk_merge(&b->m, d)) {
			complain(b);
			continue;
		}
		snprintf(line, sizeof(line),
			 "what the VM has written to disk %s since the switchover is merged into it",
			 d->node);
		tell(b, line);
	}
}

/* Whether this end's QEMU is the VM's owner, or may be. */
static void qemu_end(void *vm, const struct ferry_result *result)
{
	struct boarded *b = vm;
	char line[200];
	bool lost = result->outcome == FERRY_OUTCOME_LOST || result->owner == FERRY_OWNER_SOURCE ||
		    result->owner == FERRY_OWNER_NONE;

	if ((b->launch.keeper >= 0 || b->m.ndisk) && lost)
		b->inner.discard(&b->m);			      /* a keeper removes its files */
	for (size_t i = 0; i < b->m.ndisk && lost && b->m.owner; i++) /* a VM that starts anew needs it */
		fprintf(stderr,
			"rdma-migrate: %s is a part of disk %s: `qemu-img commit` it before anybody else uses the disk.\n",
			b->m.disk[i].overlay, b->m.disk[i].node);
	if (!lost && result->owner == FERRY_OWNER_TARGET)
		merge_disks(b);
	if (b->launch.keeper < 0 || lost)
		return;
	launch_tell(&b->launch, LAUNCH_KEEP);
	snprintf(line, sizeof(line), "QEMU is process %d, its monitor is at %s, what it prints in %s",
		 b->m.q.pid, b->launch.socket, b->launch.log);
	tell(b, line);
}

static void qemu_end_of_vm(void *vm)
{
	struct boarded *b = vm;

	if (!b)
		return;
	qemu_close(&b->m);
	launch_close(&b->launch);
	free(b);
}

static void qemu_get_stats(void *vm, struct vmm_stats *st)
{
	const struct boarded *b = vm;

	*st = (struct vmm_stats){ .running = b->running };
}

static uint64_t qemu_stood_us(void *vm)
{
	const struct boarded *b = vm;

	return b->stood_us;
}

const struct vm_kind vm_qemu = {
	.orphan =
		"its QEMU has the VM: if query-status there says finish-migrate, migrate_cancel lets the VM run again, "
		"and after postmigrate cont does",
	.open = qemu_open,
	.close = qemu_end_of_vm,
	.describe = qemu_describe,
	.begin = qemu_begin,
	.end = qemu_end,
	.get_stats = qemu_get_stats,
	.stood_us = qemu_stood_us,
};
