// SPDX-License-Identifier: MIT
/*
 * A source names much memory in one message. The target is canceled while it handles the message, and must
 * stop after the current piece. The test watches the target's memory calls.
 */
#include "peer.h"
#include "runtime/base/reach.h"

#define PIECE 512u /* at most this many pages between two checks */

static struct {
	struct ferry_session *cancel; /* cancel it at the first advice for its memory */
	const uint8_t *base, *end;
	size_t pages;
} watch;

static _Thread_local bool in_vector; /* the vector has been counted already */

int __real_madvise(void *addr, size_t len, int advice);
int __wrap_madvise(void *addr, size_t len, int advice);
int __real_reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice);
int __wrap_reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice);

static void see(const void *addr, size_t len)
{
	if (!watch.cancel || (const uint8_t *)addr < watch.base || (const uint8_t *)addr >= watch.end)
		return;
	if (!watch.pages)
		ferry_cancel(watch.cancel);
	watch.pages += len / FAKE_PAGE;
}

int __wrap_madvise(void *addr, size_t len, int advice)
{
	if (!in_vector)
		see(addr, len);
	return __real_madvise(addr, len, advice);
}

int __wrap_reach_advise(const struct reach *r, const struct iovec *v, unsigned n, int advice)
{
	int err;

	for (unsigned i = 0; i < n; i++)
		see(v[i].iov_base, v[i].iov_len);
	in_vector = true;
	err = __real_reach_advise(r, v, n, advice);
	in_vector = false;
	return err;
}

static void watch_memory(const struct peer *p)
{
	watch.base = p->rig.tgt.region[0].hva;
	watch.end = watch.base + FAKE_PAGES0 * FAKE_PAGE;
	watch.cancel = p->rig.tgt.session;
}

static void canceled(struct peer *p)
{
	peer_target_ends(p, -ECANCELED, "canceled by the embedder in pre-copy", true);
	cr_assert_gt(watch.pages, 0);
	cr_assert_leq(watch.pages, PIECE, "%zu pages were touched", watch.pages);
}

Test(pieces, of_a_zero_run)
{
	struct page_run run = { .region = 0, .npages = FAKE_PAGES0 };
	struct peer p;

	peer_connect(&p, RIG_TCP_ANON, RESERVED);
	watch_memory(&p);
	peer_say(&p, WIRE_ZERO, NULL, 0, &run, sizeof(run));
	canceled(&p);
}

Test(pieces, of_many_zero_runs)
{
	struct page_run run[FAKE_PAGES0 / 4];
	struct peer p;

	for (unsigned i = 0; i < FAKE_PAGES0 / 4; i++)
		run[i] = (struct page_run){ .region = 0, .page = 4 * i, .npages = 4 };
	peer_connect(&p, RIG_TCP_ANON, RESERVED);
	watch_memory(&p);
	peer_say(&p, WIRE_ZERO, NULL, 0, run, sizeof(run));
	canceled(&p);
}

/* Every second page: half as many runs again as one call drops. */
Test(pieces, of_the_residue)
{
	uint64_t words[(FAKE_PAGES0 + 63) / 64];
	struct wire_residue h = { .region = 0, .npages = FAKE_PAGES0 };
	struct xport_chan *c;
	struct peer p;

	memset(words, 0x55, sizeof(words));
	words[FAKE_PAGES0 / 64] &= (UINT64_C(1) << FAKE_PAGES0 % 64) - 1;
	peer_connect(&p, RIG_TCP_ANON, RESERVED);
	c = p.link->ops->chan(p.link, XPORT_DATA, 0);
	peer_say(&p, WIRE_RESIDUE, &h, sizeof(h), words, sizeof(words));
	cr_assert_eq(c->ops->end(c), 0);
	watch_memory(&p);
	SAY(&p, WIRE_PREARM, (struct wire_count){ .pages = FAKE_PAGES0 / 2 });
	canceled(&p);
}

static unsigned poisoned;

static int op_poison(void *v, uint32_t region, uint64_t page, uint64_t npages)
{
	struct fakevm *vm = v;

	(void)region;
	(void)page;
	if (!poisoned)
		ferry_cancel(vm->session);
	poisoned += (unsigned)npages;
	return 0;
}

Test(pieces, of_poison)
{
	struct page_run run = { .region = 0, .npages = FAKE_PAGES0 };
	struct wire_map m = { .nregions = FAKE_REGIONS,
			      .flags = WIRE_SOURCE_POISON,
			      .needs_sum = peer_no_needs() };
	struct wire_switchover w = { .state_sum = peer_no_needs(), .commit_at = FERRY_COMMIT_AT_COMPLETE };
	struct wire_region r[FAKE_REGIONS];
	struct wire_reserved res;
	struct xport_chan *c;
	struct peer p;

	peer_init(&p, RIG_TCP_ANON);
	p.rig.tgt.ops.poison = op_poison;
	peer_begin(&p, RIG_TCP_ANON, GREETED);
	peer_regions(&p, r);
	peer_say(&p, WIRE_MAP, &m, sizeof(m), r, sizeof(r));
	peer_hear_only(&p, WIRE_RESERVED, &res, sizeof(res));
	if (!(res.flags & WIRE_TARGET_POISON))
		cr_skip_test("this kernel has no UFFDIO_POISON, or this user no userfaultfd");
	c = p.link->ops->chan(p.link, XPORT_DATA, 0);
	cr_assert_eq(c->ops->end(c), 0);
	peer_say(&p, WIRE_POISON, NULL, 0, &run, sizeof(run));
	SAY(&p, WIRE_SWITCHOVER, w);
	peer_target_ends(&p, -ECANCELED, "canceled by the embedder in stop-and-copy", true);
	cr_assert_eq(poisoned, PIECE, "%u pages were poisoned", poisoned);
}
