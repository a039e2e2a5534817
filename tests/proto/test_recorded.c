// SPDX-License-Identifier: MIT
/*
 * Recorded peers: each end of this library against the bytes of each version that it must understand.
 * tests/proto/recorded/N has what both ends of a migration in version N of the protocol send; it never
 * changes. A new version of the protocol adds a directory; FERRY_RECORD=1
 * build/release/tests/proto/test_recorded writes it.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "recording.h"
#include "ferry/ferry.h"
#include "runtime/link/wire.h"

#define PAGE ((size_t)4096)
#define PAGES 64u
#define FILLED 32u /* the other pages are never touched */
#define LATE0 20u  /* post-copy: the first of the pages that pre-copy dirties and leaves as residue */
#define LATE 4u

struct end {
	uint8_t *ram;
	bool is_source;
	unsigned fetches;
	enum ferry_mode mode;
	struct ferry_session *session;
	struct ferry_result result;
	char uri[64];
	pthread_t thread;
};

/* The final content of a page of the VM. */
static uint8_t byte_of(enum ferry_mode mode, unsigned page)
{
	if (page >= FILLED)
		return 0;
	if (mode == FERRY_MODE_STOP_AND_COPY)
		return page == 3 ? 0 : (uint8_t)(page == 5 ? 0xee : page + 1);
	return (uint8_t)(page >= LATE0 && page < LATE0 + LATE ? page + 0x80 : page + 1);
}

static void write_page(struct end *e, unsigned page)
{
	memset(e->ram + page * PAGE, byte_of(e->mode, page), PAGE);
}

static int op_nothing(void *vm)
{
	return vm ? 0 : -EINVAL;
}

static int op_reserve(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct end *e = vm;

	if (n != 1 || regions[0].len != PAGES * PAGE || regions[0].gpa != 0x100000 || regions[0].id != 7)
		return ferry_stream_fail(needs, -EINVAL, "another map than was recorded");
	regions[0].hva = e->ram;
	regions[0].fd = -1;
	return 0;
}

static int op_dirty_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct end *e = vm;
	unsigned first = e->mode == FERRY_MODE_POSTCOPY ? LATE0 : flags & FERRY_DIRTY_LAST ? 5 : 3;
	unsigned n = e->mode == FERRY_MODE_POSTCOPY ? LATE : 1;

	if (region != 7 || npages != PAGES)
		return -EINVAL;
	for (unsigned i = first; i < first + n && (flags & FERRY_DIRTY_LAST || !e->fetches); i++) {
		write_page(e, i);
		bits[0] |= UINT64_C(1) << i;
	}
	e->fetches++;
	return 0;
}

static int op_save(void *vm, struct ferry_stream *out)
{
	return vm ? ferry_stream_put(out, 5, 2, "registers", 9) : -EINVAL;
}

static int op_load(void *vm, struct ferry_stream *in)
{
	struct ferry_section sec;

	if (ferry_stream_next(in, &sec) != 1 || sec.id != 5 || sec.version != 2 || sec.len != 9 ||
	    memcmp(sec.data, "registers", 9))
		return ferry_stream_fail(in, -EPROTO, "another state than was recorded");
	return op_nothing(vm);
}

static int op_offer(void *vm, struct ferry_stream *out)
{
	return vm ? ferry_stream_put(out, 9, 1, "a port", 6) : -EINVAL;
}

static int op_offered(void *vm, struct ferry_stream *in)
{
	struct ferry_section sec;

	return vm && ferry_stream_next(in, &sec) == 1 && sec.id == 9 && sec.len == 6 ? 0 : -EPROTO;
}

static void log_line(void *vm, int level, const char *line)
{
	if (vm && level <= 4)
		fprintf(stderr, "%s\n", line);
}

static const struct ferry_ops ops = {
	FERRY_OPS_INIT,
	.needs = op_save,
	.reserve = op_reserve,
	.dirty_start = op_nothing,
	.dirty_stop = op_nothing,
	.dirty_fetch = op_dirty_fetch,
	.pause = op_nothing,
	.resume = op_nothing,
	.save = op_save,
	.load = op_load,
	.output_hold = op_nothing,
	.output_release = op_nothing,
	.discard = op_nothing,
	.log = log_line,
	.offer = op_offer,
	.offered = op_offered,
};

/* The timeouts are so long that no PING is sent. */
static struct ferry_config config(enum ferry_mode mode)
{
	return (struct ferry_config){ FERRY_CONFIG_INIT,
				      .mode = mode,
				      .max_rounds = mode == FERRY_MODE_POSTCOPY,
				      .downtime_us = 3600000000,
				      .timeout_us = 3600000000,
				      .reconnect_us = 5000000,
				      .connect_us = 3600000000,
				      .switchover_limit_us = 3600000000 };
}

static void end_new(struct end *e, bool is_source, enum ferry_mode mode, const char *uri)
{
	struct ferry_config cfg = config(mode);
	struct ferry_region region = {
		.gpa = 0x100000, .len = PAGES * PAGE, .fd = -1, .id = 7, .page_shift = 12
	};
	struct ferry_vm vm = { FERRY_VM_INIT, .vm = e, .ops = &ops };

	*e = (struct end){ .is_source = is_source, .mode = mode, .result.size = sizeof(e->result) };
	e->ram = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(e->ram, MAP_FAILED);
	madvise(e->ram, PAGES * PAGE, MADV_NOHUGEPAGE); /* a huge page would fill untouched pages */
	region.hva = e->ram;
	if (is_source) {
		for (unsigned i = 0; i < FILLED; i++)
			memset(e->ram + i * PAGE, (int)i + 1, PAGE);
		vm.regions = &region;
		vm.nregions = 1;
		cr_assert_eq(ferry_source_new(&e->session, &vm, &cfg), 0);
	} else {
		cr_assert_eq(ferry_target_new(&e->session, &vm, &cfg), 0);
	}
	cr_assert_eq(ferry_open(e->session, uri), 0, "%s", ferry_get_detail(e->session));
	if (!is_source)
		cr_assert_eq(ferry_get_uri(e->session, e->uri, sizeof(e->uri)), 0);
}

static void *run(void *end)
{
	struct end *e = end;

	ferry_run(e->session, &e->result);
	return NULL;
}

static void end_start(struct end *e)
{
	cr_assert(!pthread_create(&e->thread, NULL, run, e));
}

static uint16_t port_of(const struct end *target)
{
	return (uint16_t)atoi(strrchr(target->uri, ':') + 1);
}

static void end_migrated(struct end *e)
{
	pthread_join(e->thread, NULL);
	cr_assert_eq(e->result.outcome, FERRY_OUTCOME_MIGRATED, "%s", e->result.detail);
	ferry_free(e->session);
	for (unsigned i = 0; i < PAGES; i++)
		for (size_t k = 0; k < PAGE; k++)
			cr_assert_eq(e->ram[i * PAGE + k], byte_of(e->mode, i), "page %u, byte %zu: %02x", i,
				     k, e->ram[i * PAGE + k]);
	munmap(e->ram, PAGES * PAGE);
}

static void path_of(char path[300], unsigned version, enum ferry_mode mode)
{
	snprintf(path, 300, FERRY_SOURCE_DIR "/tests/proto/recorded/%u/%s.txt", version,
		 ferry_mode_name(mode));
}

static void against_recorded_source(unsigned version, enum ferry_mode mode)
{
	struct recording r;
	struct end target;
	char path[300];

	path_of(path, version, mode);
	recording_read(&r, path);
	end_new(&target, false, mode, "tcp:127.0.0.1:0");
	end_start(&target);
	recording_play_source(&r, port_of(&target));
	end_migrated(&target);
	recording_free(&r);
}

static void against_recorded_target(unsigned version, enum ferry_mode mode)
{
	char path[300], uri[64];
	struct recording r;
	struct end source;
	uint16_t port;
	int listener = recording_listen(&port);

	path_of(path, version, mode);
	recording_read(&r, path);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", port);
	end_new(&source, true, mode, uri);
	end_start(&source);
	recording_play_target(&r, listener);
	end_migrated(&source);
	recording_free(&r);
}

/* Record a migration between two ends of this library. */
static void record(enum ferry_mode mode)
{
	char path[300], dir[300], uri[64], about[100];
	struct end source, target;
	struct recorder rec;
	struct recording was;
	uint16_t port;
	int listener = recording_listen(&port);

	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", port);
	end_new(&target, false, mode, "tcp:127.0.0.1:0");
	end_new(&source, true, mode, uri);
	recorder_start(&rec, listener, port_of(&target));
	end_start(&target);
	end_start(&source);
	end_migrated(&source);
	end_migrated(&target);
	recorder_join(&rec);
	path_of(path, WIRE_VERSION, mode);
	if (getenv("FERRY_RECORD")) {
		snprintf(dir, sizeof(dir), FERRY_SOURCE_DIR "/tests/proto/recorded/%u", WIRE_VERSION);
		mkdir(dir, 0777);
		snprintf(about, sizeof(about), "Version %u of the protocol: %s", WIRE_VERSION,
			 ferry_mode_name(mode));
		recording_write(&rec.recording, path, about);
	}
	recording_read(&was, path);
	cr_assert_eq(rec.recording.n, was.n, "%zu frames; %s has %zu", rec.recording.n, path, was.n);
	recording_free(&was);
	recording_free(&rec.recording);
}

Test(record, stop_and_copy)
{
	record(FERRY_MODE_STOP_AND_COPY);
}
Test(record, post_copy)
{
	record(FERRY_MODE_POSTCOPY);
}

#define RECORDED(version, name, mode)                    \
	Test(recorded_##version, name##_from_its_source) \
	{                                                \
		against_recorded_source(version, mode);  \
	}                                                \
	Test(recorded_##version, name##_to_its_target)   \
	{                                                \
		against_recorded_target(version, mode);  \
	}

RECORDED(1, stop_and_copy, FERRY_MODE_STOP_AND_COPY)
RECORDED(1, post_copy, FERRY_MODE_POSTCOPY)
