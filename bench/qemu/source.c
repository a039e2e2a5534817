// SPDX-License-Identifier: MIT
/* The source: a QEMU that runs already. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bridge_int.h"

#define SECTION_BYTES ((size_t)1 << 20)

static const char *const capabilities[] = { "x-ignore-shared", "events", "pause-before-switchover", NULL };

int qemu_fails(struct qemu *m, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(m->why, sizeof(m->why), fmt, ap);
	va_end(ap);
	if (m->each)
		m->each(m->ctx, m->why);
	return err;
}

/* An op over QMP has failed: the monitor knows why. */
int qemu_qmp_failed(struct qemu *m, int err)
{
	return err < 0 ? qemu_fails(m, err, "%s", m->q.why) : err;
}

int qemu_ask(struct qemu *m, const char *command, json_t *args, json_t **ret)
{
	return qemu_qmp_failed(m, qmp_call(&m->q, command, args, m->timeout_us, ret));
}

int qemu_machine(struct qemu *m, char *buf, size_t cap)
{
	json_t *o = NULL;
	int err = qemu_ask(m, "qom-get", json_pack("{s:s, s:s}", "path", "/machine", "property", "type"), &o);

	if (!err && !json_is_string(o))
		err = qemu_fails(m, -EPROTO, "QEMU does not name its machine type");
	else if (!err)
		snprintf(buf, cap, "%s", json_string_value(o));
	json_decref(o);
	return err;
}

/* ---- ops ---- */

static int op_needs(void *vm, struct ferry_stream *out)
{
	struct qemu *m = vm;
	struct qemu_needs n = { .major = m->q.major, .minor = m->q.minor, .nram = (uint32_t)m->nram };
	int err = qemu_machine(m, n.machine, sizeof(n.machine));

	for (size_t i = 0; i < m->nram; i++) {
		memcpy(n.ram[i].id, m->ram[i].id, sizeof(n.ram[i].id));
		n.ram[i].len = m->ram[i].len;
	}
	return err ? ferry_stream_fail(out, err, "%s", m->why)
		   : ferry_stream_put(out, QEMU_SECTION_NEEDS, 1, &n, sizeof(n));
}

static int op_dirty_start(void *vm)
{
	struct qemu *m = vm;

	return ferry_track_start(m->track);
}

static int op_dirty_stop(void *vm)
{
	struct qemu *m = vm;

	return ferry_track_stop(m->track);
}

static int op_dirty_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct qemu *m = vm;

	return ferry_track_fetch(m->track, region, bits, npages, flags);
}

static int op_pause(void *vm)
{
	struct qemu *m = vm;

	return qemu_qmp_failed(m, state_stop(&m->q, &m->state, m->timeout_us));
}

static int op_save(void *vm, struct ferry_stream *out)
{
	struct qemu *m = vm;
	int err = state_save(&m->q, &m->state, m->timeout_us);

	if (err)
		return ferry_stream_fail(out, err, "%s", m->q.why);
	for (size_t at = 0; at < m->state.len && !err; at += SECTION_BYTES) {
		size_t n = m->state.len - at < SECTION_BYTES ? m->state.len - at : SECTION_BYTES;

		err = ferry_stream_put(out, QEMU_SECTION_STATE, 1, m->state.buf + at, n);
	}
	return err;
}

static int op_resume(void *vm)
{
	struct qemu *m = vm;
	int err = qemu_qmp_failed(m, state_resume(&m->q, m->timeout_us));

	state_free(&m->state);
	return err;
}

/* The target owns the VM. A QEMU that does not quit could only be resumed by mistake. */
static int op_retire(void *vm)
{
	struct qemu *m = vm;

	if (qmp_call(&m->q, "quit", NULL, m->timeout_us, NULL))
		syscall(SYS_pidfd_send_signal, m->pidfd, SIGKILL, NULL, 0);
	m->capable = false;
	return 0;
}

const struct ferry_ops qemu_source_ops = { FERRY_OPS_INIT,
					   .needs = op_needs,
					   .dirty_start = op_dirty_start,
					   .dirty_stop = op_dirty_stop,
					   .dirty_fetch = op_dirty_fetch,
					   .pause = op_pause,
					   .save = op_save,
					   .resume = op_resume,
					   .retire = op_retire };

/* ---- opening ---- */

int qemu_map_ram(struct qemu *m)
{
	uint64_t gpa = 0;

	for (size_t i = 0; i < m->nram; i++) {
		struct qemu_ram *r = &m->ram[i];
		void *hva = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, (off_t)r->offset);

		if (hva == MAP_FAILED)
			return qemu_fails(m, -errno, "%s, %llu bytes of RAM, cannot be mapped: %s", r->path,
					  (unsigned long long)r->len, strerror(errno));
		/* Addresses of the guest are QEMU's affair; these only must not overlap. */
		m->region[i] = (struct ferry_region){ .id = (uint32_t)i,
						      .gpa = gpa,
						      .len = r->len,
						      .hva = hva,
						      .fd = r->fd,
						      .fd_offset = r->offset,
						      .page_shift = r->page_shift,
						      .flags = FERRY_REGION_SHARED };
		gpa += (r->len + ((UINT64_C(1) << 30) - 1)) >> 30 << 30;
	}
	return 0;
}

int qemu_open_tracker(struct qemu *m)
{
	struct ferry_track_param param = { FERRY_TRACK_PARAM_INIT, .flags = FERRY_TRACK_FOREIGN };
	char path[40];
	int err;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", m->q.pid);
	m->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (m->pagemap < 0)
		return qemu_fails(m, -errno, "%s cannot be read: %s; run rdma-migrate as root", path,
				  strerror(errno));
	err = take_uffd(m->q.pid, TAKE_FILTERED, m->timeout_us, &m->tracker, m->why, sizeof(m->why));
	if (err < 0)
		return err;
	param.uffd = m->tracker.fd;
	param.pagemap = m->pagemap;
	err = ferry_track_new(&m->track, &param);
	for (size_t i = 0; i < m->nram && !err; i++) {
		const struct qemu_ram *r = &m->ram[i];

		err = ferry_track_add(m->track, &(struct ferry_track_range){
							FERRY_TRACK_RANGE_INIT, .region = (uint32_t)i,
							.flags = FERRY_REGION_SHARED, .addr = r->addr,
							.len = r->len, .page_shift = r->page_shift,
							.fd = r->fd, .fd_offset = r->offset });
	}
	return err ? qemu_fails(m, err, "writes of QEMU cannot be tracked: %s", strerror(-err)) : 0;
}

void qemu_init(struct qemu *m, uint64_t timeout_us)
{
	*m = (struct qemu){ .timeout_us = timeout_us,
			    .pagemap = -1,
			    .pidfd = -1,
			    .tracker.fd = -1,
			    .faults.fd = -1,
			    .state.fd = -1 };
}

int qemu_connect(struct qemu *m, const char *socket, bool wait)
{
	static const char *const events[] = { STATE_EVENT, DISK_STATUS_EVENT, DISK_END_EVENT, NULL };
	int err = qmp_open(&m->q, socket, events, wait, m->timeout_us);

	m->opened = true;
	if (err < 0)
		return qemu_qmp_failed(m, err);
	m->pidfd = (int)syscall(SYS_pidfd_open, m->q.pid, 0);
	if (m->pidfd < 0)
		return qemu_fails(m, -errno, "process %d, of the monitor at %s, cannot be opened: %s",
				  m->q.pid, socket, strerror(errno));
	return 0;
}

int qemu_source_open(struct qemu *m, const char *socket, uint64_t timeout_us)
{
	int err;

	qemu_init(m, timeout_us);
	err = qemu_connect(m, socket, false);
	for (size_t i = 0; i < qemu_nchecks && !err; i++)
		err = qemu_checks[i].check(m);
	if (!err)
		err = qemu_qmp_failed(m, state_capabilities(&m->q, capabilities, true, timeout_us));
	m->capable = !err;
	return err;
}

/* The VM's next migration may be another one. */
static void restore(struct qemu *m)
{
	state_capabilities(&m->q, capabilities, false, m->timeout_us);
	if (m->hold_net[0])
		qemu_remove_filters(m);
}

void qemu_close(struct qemu *m)
{
	if (m->capable)
		restore(m);
	ferry_track_free(m->track);
	state_free(&m->state);
	for (size_t i = 0; i < m->nram; i++)
		if (m->region[i].hva)
			munmap(m->region[i].hva, m->region[i].len);
	ram_close(m->ram, m->nram);
	for (size_t i = 0; i < m->ndisk; i++)
		disk_close(&m->disk[i]);
	if (m->opened)
		qmp_close(&m->q);
	if (m->tracker.fd >= 0)
		close(m->tracker.fd);
	if (m->faults.fd >= 0)
		close(m->faults.fd);
	if (m->pagemap >= 0)
		close(m->pagemap);
	if (m->pidfd >= 0)
		close(m->pidfd);
}
