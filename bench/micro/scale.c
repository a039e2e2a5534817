// SPDX-License-Identifier: MIT
/*
 * Measures the bookkeeping of a huge guest: the source's rounds, as source/precopy.c and rounds.c make them,
 * over a transport that moves no data, and a sparse region of 1 TiB. The remaining cost is finding dirty
 * pages, checking them for zero, building runs, and the memory for all that.
 *
 * The region maps the same 64 MiB of data again and again, so a small machine can populate all of it; the
 * zero check reads the first words of a page from the cache.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/cli/out.h"
#include "runtime/link/link.h"
#include "runtime/memory/populated.h"
#include "runtime/phase.h"
#include "runtime/session/session.h"
#include "runtime/source/rounds.h"
#include "runtime/source/source_int.h"

#define PIECE (UINT64_C(64) << 20) /* the data */
#define TIB (UINT64_C(1) << 40)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* The pages that the guest has written since the last fetch. */
enum pattern { NOTHING, FEW, SCATTERED, RUNS, ALL };

struct bench {
	struct ferry_session *s;
	struct ferry_region region;
	enum pattern pattern;
	uint64_t op_ns; /* time in dirty_fetch, which is the VMM's cost */
	/* the null transport */
	struct xport_link link;
	struct xport_chan ctl, data;
	int event;
	uint32_t answered, round;
	uint64_t puts, runs, put_pages;
};

/* --- a transport without data: puts land at once, and the target acknowledges every round --- */

static struct bench *of_ctl(struct xport_chan *c)
{
	return (struct bench *)((char *)c - offsetof(struct bench, ctl));
}

static int null_send(struct xport_chan *c, const struct iovec *iov, int n)
{
	struct wire_hdr h;

	memcpy(&h, iov[0].iov_base, sizeof(h));
	if (h.type != WIRE_ROUND_END || n < 2)
		return 0;
	memcpy(&of_ctl(c)->round, iov[1].iov_base, sizeof(uint32_t));
	return eventfd_write(of_ctl(c)->event, 1) ? -EPIPE : 0;
}

static int null_recv(struct xport_chan *c, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct wire_round r = { .round = of_ctl(c)->round };
	struct wire_hdr h;
	eventfd_t n;

	(void)wait_us;
	if (eventfd_read(of_ctl(c)->event, &n) || cap < sizeof(h) + sizeof(r))
		return -EAGAIN;
	h = wire_header(WIRE_ROUND_ACK, sizeof(r), of_ctl(c)->answered++);
	memcpy(buf, &h, sizeof(h));
	memcpy((char *)buf + sizeof(h), &r, sizeof(r));
	*len = sizeof(h) + sizeof(r);
	return 0;
}

static int null_fd(struct xport_chan *c)
{
	return of_ctl(c)->event;
}

static int null_put(struct xport_chan *c, const struct page_run *runs, unsigned n)
{
	struct bench *b = (struct bench *)((char *)c - offsetof(struct bench, data));

	b->puts++;
	b->runs += n;
	for (unsigned i = 0; i < n; i++)
		b->put_pages += runs[i].npages;
	return 0;
}

static int null_fence(struct xport_chan *c)
{
	(void)c;
	return 0;
}

static struct xport_chan *null_chan(struct xport_link *l, enum xport_role role, unsigned index)
{
	struct bench *b = (struct bench *)((char *)l - offsetof(struct bench, link));

	(void)index;
	return role == XPORT_CONTROL ? &b->ctl : &b->data;
}

static void null_end(struct xport_link *l)
{
	(void)l;
}

static const struct xport_link_ops link_ops = { .chan = null_chan, .kill = null_end, .close = null_end };
static const struct xport_chan_ops ctl_ops = { .send = null_send, .recv = null_recv, .fd = null_fd };
static const struct xport_chan_ops data_ops = { .put = null_put, .fence = null_fence };

/* --- the VM --- */

static int op_dirty_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct bench *b = vm;
	uint64_t words = npages / 64, begin = now_ns();

	(void)region, (void)flags;
	for (uint64_t w = 0; w < words && b->pattern == SCATTERED; w++)
		bits[w] = UINT64_C(1) << (w * 2654435761u >> 7 & 63);
	for (uint64_t w = 0; w < words && b->pattern == FEW; w += 64)
		bits[w] = 2;
	for (uint64_t w = 0; w < words && b->pattern == RUNS; w += 64)
		bits[w] = UINT64_MAX;
	if (b->pattern == ALL)
		memset(bits, 0xff, words * 8);
	b->op_ns += now_ns() - begin;
	return 0;
}

static int op_nothing(void *vm)
{
	(void)vm;
	return 0;
}

static int op_save(void *vm, struct ferry_stream *out)
{
	(void)vm, (void)out;
	return 0;
}

static const struct ferry_ops ops = { FERRY_OPS_INIT,		.dirty_start = op_nothing,
				      .dirty_stop = op_nothing, .dirty_fetch = op_dirty_fetch,
				      .pause = op_nothing,	.resume = op_nothing,
				      .save = op_save };

/* Maps 1 TiB (or less) of the same 64 MiB; only the first populated bytes exist, the rest are holes. */
static int map_region(struct bench *b, uint64_t len, uint64_t populated)
{
	char *p = mmap(NULL, len + PIECE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd = memfd_create("data", MFD_CLOEXEC);

	if (p == MAP_FAILED || fd < 0 || ftruncate(fd, (off_t)PIECE))
		return -errno;
	p = (char *)(((uintptr_t)p + PIECE - 1) & ~(uintptr_t)(PIECE - 1));
	for (uint64_t at = 0; at < populated; at += PIECE) {
		if (mmap(p + at, PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			return -errno;
		if (at)
			continue;
		memset(p, 0x5a, PIECE);
		if (madvise(p, PIECE, MADV_COLLAPSE)) /* otherwise a TiB needs 2 GiB of page tables */
			fprintf(stderr, "scale: no huge page for the data (%s): page tables will be large\n",
				strerror(errno));
	}
	if (populated < len &&
	    mmap(p + populated, len - populated, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return -errno;
	close(fd);
	b->region = (struct ferry_region){ .len = len, .hva = p, .fd = -1, .page_shift = 12 };
	return 0;
}

/* Anonymous memory of this process in bytes: the tracking data is the only large part of it. */
static uint64_t anonymous(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	unsigned long long kb = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "RssAnon: %llu", &kb) != 1)
		;
	if (f)
		fclose(f);
	return kb << 10;
}

static int open_session(struct bench *b)
{
	struct ferry_vm vm = { FERRY_VM_INIT, .vm = b, .ops = &ops, .regions = &b->region, .nregions = 1 };
	struct ferry_session *s;
	int err = ferry_source_new(&b->s, &vm, NULL);

	if (err)
		return err;
	s = b->s;
	b->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	b->link = (struct xport_link){ .ops = &link_ops, .id.channels = 1 };
	b->ctl.ops = &ctl_ops;
	b->data.ops = &data_ops;
	s->link.x = &b->link;
	s->link.ctl = &b->ctl;
	s->cfg.timeout_us = UINT64_C(3600) * 1000000;
	s->link.heard_us = now_us();
	for (enum ferry_phase p = FERRY_PHASE_PRE_MIGRATION; p <= FERRY_PHASE_PRECOPY; p++)
		phase_enter(s, p);
	return 0;
}

/* Runs one round and returns its time without the VMM's op. */
static int one_round(struct bench *b, enum pattern pattern, const char *name)
{
	uint64_t t0 = now_ns(), fresh, fetched, ns;
	int err;

	b->pattern = pattern;
	b->op_ns = b->put_pages = b->runs = 0;
	err = source_fetch(b->s, &b->s->src.dirty, 0, &fresh);
	fetched = now_ns() - t0;
	if (!err)
		err = rounds_start(b->s);
	if (!err)
		err = rounds_finish(b->s, b->s->src.nrounds++);
	ns = now_ns() - t0 - b->op_ns;
	if (err || b->put_pages != fresh)
		return err ? err : -EIO;
	printf("{\"round\":\"%s\",\"pages\":%" PRIu64 ",\"runs\":%" PRIu64 ",\"ms\":%.2f,\"fetch_ms\":%.2f,",
	       name, fresh, b->runs, (double)ns / 1e6, (double)(fetched - b->op_ns) / 1e6);
	if (fresh)
		printf("\"ns_per_page\":%.1f,", (double)ns / (double)fresh);
	printf("\"ns_per_page_of_ram\":%.4f,\"metadata_mib\":%.1f}\n",
	       (double)ns / ((double)b->region.len / 4096), (double)anonymous() / (1 << 20));
	fflush(stdout);
	return 0;
}

/* Round 0 of a guest that consists almost only of holes. */
static int first_pass(struct bench *b)
{
	uint64_t t0 = now_ns(), n, found;
	int err = populated_pages(&b->s->src.dirty, 0, &b->region, &n);

	found = now_ns() - t0;
	if (!err)
		err = rounds_start(b->s);
	if (!err)
		err = rounds_finish(b->s, b->s->src.nrounds++);
	if (!err)
		printf("{\"round\":\"first of a sparse guest\",\"pages\":%" PRIu64
		       ",\"find_ms\":%.2f,\"ms\":%.2f,\"metadata_mib\":%.1f}\n",
		       n, (double)found / 1e6, (double)(now_ns() - t0) / 1e6,
		       (double)anonymous() / (1 << 20));
	return err;
}

/*
 * The downtime of post-copy, with the walks over sets in source/switchover.c: one page of 64 is residue, one
 * of 4096 was written since.
 */
static int downtime(struct bench *b)
{
	struct source_state *src = &b->s->src;
	uint64_t t0, fresh, fetched;
	int err;

	b->pattern = SCATTERED;
	err = source_fetch(b->s, &src->residue, 0, &fresh);
	b->pattern = FEW;
	b->op_ns = 0;
	t0 = now_ns();
	if (!err)
		err = source_fetch(b->s, &src->dirty, FERRY_DIRTY_LAST, &fresh);
	fetched = now_ns() - t0 - b->op_ns;
	page_set_subtract(&src->dirty, &src->residue);
	page_set_merge(&src->residue, &src->dirty);
	if (!err)
		err = residue_send(b->s, &src->dirty);
	if (err)
		return err;
	printf("{\"downtime\":\"residue of 1/64, 1/4096 since\",\"pages\":%" PRIu64
	       ",\"ms\":%.2f,\"fetch_ms\":%.2f,"
	       "\"metadata_mib\":%.1f}\n",
	       page_set_count(&src->residue), (double)(now_ns() - t0 - b->op_ns) / 1e6, (double)fetched / 1e6,
	       (double)anonymous() / (1 << 20));
	return 0;
}

static void close_session(struct bench *b)
{
	b->s->link.x = NULL;
	b->s->link.ctl = NULL;
	phase_enter(b->s, FERRY_PHASE_FAILED);
	ferry_free(b->s);
	close(b->event);
	munmap(b->region.hva, b->region.len);
	memset(b, 0, sizeof(*b));
}

/* The target's sets for a residue: named, missing, to be requested. */
static int target_sets(uint64_t npages, uint64_t stride)
{
	struct page_set named = { 0 }, missing = { 0 }, todo = { 0 };
	uint64_t before = anonymous(), t0;
	int err = page_set_init(&named, &npages, 1);

	if (!err)
		err = page_set_init(&missing, &npages, 1);
	if (!err)
		err = page_set_init(&todo, &npages, 1);
	for (uint64_t p = 0; p < npages && !err; p += stride)
		page_set_add(&named, 0, p);
	t0 = now_ns();
	if (!err) {
		page_set_move(&missing, &named);
		page_set_merge(&todo, &missing);
		printf("{\"target\":\"residue of 1/%" PRIu64 "\",\"ms\":%.2f,\"metadata_mib\":%.1f}\n",
		       stride, (double)(now_ns() - t0) / 1e6, (double)(anonymous() - before) / (1 << 20));
	}
	page_set_destroy(&named);
	page_set_destroy(&missing);
	page_set_destroy(&todo);
	return err;
}

static int sparse(struct bench *b, uint64_t len)
{
	int err = map_region(b, len, UINT64_C(1) << 30);

	if (!err)
		err = open_session(b);
	if (!err)
		err = first_pass(b);
	if (!err)
		err = one_round(b, NOTHING, "empty, after a sparse first");
	if (!err)
		close_session(b);
	return err;
}

static int full(struct bench *b, uint64_t len)
{
	static const struct {
		enum pattern pattern;
		const char *name;
	} rounds[] = { { ALL, "everything" },
		       { NOTHING, "empty" },
		       { SCATTERED, "one page of 64, scattered" },
		       { RUNS, "one page of 64, in runs of 64" },
		       { ALL, "everything, again" },
		       { NOTHING, "empty, again" } };
	int err = map_region(b, len, len);

	if (!err)
		err = open_session(b);
	for (size_t i = 0; i < sizeof(rounds) / sizeof(*rounds) && !err; i++)
		err = one_round(b, rounds[i].pattern, rounds[i].name);
	if (!err)
		err = downtime(b);
	if (!err)
		close_session(b);
	return err;
}

int main(int argc, char **argv)
{
	uint64_t len = argc > 1 ? (uint64_t)atoll(argv[1]) << 30 : TIB;
	struct bench *b = calloc(1, sizeof(*b));
	int err;

	if (!b || !len || len % PIECE)
		return fprintf(stderr,
			       "scale [GIB]\n  measures the bookkeeping of a guest of 1024 GiB, or GIB\n"),
		       2;
	printf("{\"bytes\":%" PRIu64 ",\"metadata_mib\":%.1f}\n", len, (double)anonymous() / (1 << 20));
	err = sparse(b, len);
	if (!err)
		err = full(b, len);
	if (!err)
		err = target_sets(len / 4096, 64);
	if (!err)
		err = target_sets(len / 4096, 4096);
	if (err)
		fprintf(stderr, "scale: %s\n", strerror(-err));
	free(b);
	return out_close_stdout(err ? 1 : 0, 1);
}
