// SPDX-License-Identifier: MIT
/* What a target's VMM tells the source's in the reservation: whole, bounded, before pre-copy; and who may refuse. */
#include "rig.h"

#define LARGEST (65536u - 16) /* beside the header of its section */

static struct {
	size_t len, got;
	unsigned offers, looks;
	bool same, early;
} seen;

static uint8_t byte(size_t i)
{
	return (uint8_t)(i * 7 + i / 256);
}

static int offer(void *v, struct ferry_stream *out)
{
	struct fakevm *vm = v;
	uint8_t *bytes = malloc(seen.len);
	int err;

	for (size_t i = 0; i < seen.len; i++)
		bytes[i] = byte(i);
	seen.offers++;
	seen.early = vm->calls[FAKE_RESERVE] == 1 && !vm->calls[FAKE_DISCARD];
	err = ferry_stream_put(out, 77, 3, bytes, seen.len);
	free(bytes);
	return err;
}

static int offered(void *v, struct ferry_stream *in)
{
	struct fakevm *vm = v;
	struct ferry_section sec;
	int got;

	seen.looks++;
	seen.same = true;
	seen.early = seen.early && !vm->calls[FAKE_DIRTY_START];
	while ((got = ferry_stream_next(in, &sec)) > 0) {
		seen.same = seen.same && sec.id == 77 && sec.version == 3;
		for (size_t i = 0; i < sec.len; i++)
			seen.same = seen.same && ((const uint8_t *)sec.data)[i] == byte(i);
		seen.got += sec.len;
	}
	return got;
}

static int declines(void *v, struct ferry_stream *in)
{
	(void)v;
	seen.looks++;
	return ferry_stream_fail(in, -EXDEV, "that host has no disk of ours");
}

static int fails(void *v, struct ferry_stream *st)
{
	(void)v, (void)st;
	return -EMFILE;
}

static int explains(void *v, struct ferry_stream *out)
{
	(void)v;
	return ferry_stream_fail(out, -EADDRINUSE, "port 7001 is taken");
}

static void begin(struct rig *r, const struct rig_kind *kind, size_t len)
{
	memset(&seen, 0, sizeof(seen));
	seen.len = len;
	rig_init(r, kind);
	r->tgt.ops.offer = offer;
	r->src.ops.offered = offered;
}

static void arrives(const struct rig_kind *kind, size_t len)
{
	struct rig r;

	begin(&r, kind, len);
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(seen.offers, 1);
	cr_assert_eq(seen.looks, 1);
	cr_assert_eq(seen.got, len);
	cr_assert(seen.same);
	cr_assert(seen.early, "after reserve and before pre-copy");
	rig_free(&r);
}

RIG_PAIR(offer, arrives)
{
	arrives(kind, 50);
}

RIG_PAIR(offer, the_largest_arrives)
{
	arrives(kind, LARGEST);
}

/* The sentence stands at the target, and reaches the source. */
static void refused(struct rig *r, int err, const char *sentence)
{
	rig_run(r);
	rig_refused(r);
	cr_assert_eq(r->tres.error, err);
	cr_assert_eq(r->sres.error, err);
	rig_says(r->tres.detail, sentence);
	rig_says(r->sres.detail, sentence);
	cr_assert_eq(r->src.calls[FAKE_DIRTY_START], 0);
	cr_assert_eq(r->tgt.calls[FAKE_DISCARD], 1);
	rig_free(r);
}

RIG_PAIR(offer, one_that_is_too_large_is_refused)
{
	struct rig r;

	begin(&r, kind, LARGEST + 1);
	refused(&r, -E2BIG, "offer: the VMM wrote 65537 bytes; RESERVED carries 65536");
	cr_assert_eq(seen.looks, 0);
}

RIG_PAIR(offer, the_source_may_decline)
{
	struct rig r;

	begin(&r, kind, 50);
	r.src.ops.offered = declines;
	refused(&r, -EXDEV, "that host has no disk of ours");
}

RIG_PAIR(offer, the_source_has_no_words)
{
	struct rig r;

	begin(&r, kind, 50);
	r.src.ops.offered = fails;
	refused(&r, -EMFILE, "offered: the VMM answered -24 (Too many open files)");
}

RIG_PAIR(offer, the_target_has_no_words)
{
	struct rig r;

	begin(&r, kind, 50);
	r.tgt.ops.offer = fails;
	refused(&r, -EMFILE, "offer: the VMM answered -24 (Too many open files)");
}

RIG_PAIR(offer, the_target_says_why_it_has_none)
{
	struct rig r;

	begin(&r, kind, 50);
	r.tgt.ops.offer = explains;
	refused(&r, -EADDRINUSE, "port 7001 is taken");
}

RIG_PAIR(offer, the_source_hears_that_there_is_none)
{
	struct rig r;

	begin(&r, kind, 0);
	r.tgt.ops.offer = NULL;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(seen.looks, 1);
	cr_assert_eq(seen.got, 0);
	rig_free(&r);
}

RIG_PAIR(offer, nobody_asks_for_it)
{
	struct rig r;

	begin(&r, kind, 50);
	r.src.ops.offered = NULL;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(seen.offers, 1);
	rig_free(&r);
}
