// SPDX-License-Identifier: MIT
/*
 * Pulls the residue.
 *
 * Two sets decide everything: `missing` (pages whose data is not here) and `todo` (missing pages that nobody
 * has asked for). Taking a page out of `todo` claims it: only this worker asks for it, so no page crosses
 * twice. Placing the page takes it out of `missing`.
 *
 *	a fault		not missing: the page is clean; map it and its neighbours, which are here (clean.c)
 *			in todo: claim it, get it on the urgent channel
 *			otherwise it is in flight, and placing it wakes the vCPU
 *	background	claim the next runs of todo, keep a few gets in flight on each data channel, place
 *	fetch		what arrives (sweep.c)
 *
 * Worker 0 serves the faults and does the background fetch of the first data channel, in one loop that polls
 * while faults are recent and nobody else wants its core (spin.h). So a fault costs no thread switch at this
 * end, and the page that follows it no wake-up. Each further data channel has a worker of its own. The
 * background fetch goes on from the last fault: a guest that walks through memory needs those pages next.
 *
 * Placing a page wakes the vCPUs blocked on it, whoever places it. After a lost link the workers have left;
 * `todo` becomes `missing` again, and faults whose answers were in flight are asked for first.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "pull_int.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/probe.h"
#include "runtime/memory/uffd.h"

#define NO_FD_NS 50000u	     /* poll interval if a channel has no descriptor (shape's latency) */
#define EXPECT_NS 50000u     /* the background fetch pauses this long for a fault's answer */
#define LIMIT_LOOK_US 10000u /* longest sleep of a worker that waits for the rate limit */
#define SLICE_RUNS 6u	     /* runs that worker 0 places between two looks for faults and answers */
#define SLICE_PAGES 16u	     /* pages, likewise */

/* LOAD_NOW: main is in load, where its faults must not outlive the link. LOAD_DEAD: nobody serves faults. */
enum { LOAD_NO, LOAD_NOW, LOAD_DEAD };

static uint8_t *urgent_buf(struct pull *p, unsigned i)
{
	return p->staging + i * PAGE_BYTES;
}

size_t pull_staging_len(unsigned channels)
{
	return (URGENT_MAX + channels * SWEEP_DEPTH_MAX * SWEEP_PAGES) * PAGE_BYTES;
}

int pull_new(struct pull **ret, const struct pull_param *param)
{
	uint64_t *n = calloc(param->nregions, sizeof(*n));
	struct pull *p = calloc(1, sizeof(*p));
	int err = -ENOMEM;

	if (!n || !p)
		goto out;
	for (size_t i = 0; i < param->nregions; i++)
		n[i] = param->regions[i].len >> PAGE_SHIFT;
	p->param = *param;
	p->ahead_ended = !param->place->foreign;
	p->want = calloc(URGENT_MAX, sizeof(p->want[0]));
	p->staging_len = pull_staging_len(param->channels);
	p->staging = mmap(NULL, p->staging_len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p->staging == MAP_FAILED)
		p->staging = NULL;
	if (!p->want || !p->staging)
		goto out;
	p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->stop_fd >= 0)
		p->go_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = p->stop_fd < 0 || p->go_fd < 0 ? -errno : page_set_init(&p->todo, n, param->nregions);
out:
	free(n);
	if (!err) {
		*ret = p;
		return 0;
	}
	pull_free(p);
	return fail_cure(param->fail, CURE_CALL, err, "no memory or descriptors for post-copy");
}

struct iovec pull_staging(const struct pull *p)
{
	return (struct iovec){ p->staging, p->staging_len };
}

void pull_free(struct pull *p)
{
	if (!p)
		return;
	page_set_destroy(&p->todo);
	if (p->staging)
		munmap(p->staging, p->staging_len);
	if (p->stop_fd > 0)
		close(p->stop_fd);
	if (p->go_fd > 0)
		close(p->go_fd);
	free(p->want);
	free(p);
}

void pull_residue(struct pull *p)
{
	place_expect(p->param.place, p->param.missing);
	atomic_store(&p->left, page_set_count(p->param.missing));
	atomic_store(&p->param.stats->residue, atomic_load(&p->left));
	atomic_store(&p->param.stats->remaining, atomic_load(&p->left));
	page_set_merge(&p->todo, p->param.missing);
}

bool pull_loading(struct pull *p)
{
	int no = LOAD_NO;

	return atomic_compare_exchange_strong(&p->loading, &no, LOAD_NOW);
}

bool pull_loaded(struct pull *p)
{
	int now = LOAD_NOW;

	return atomic_compare_exchange_strong(&p->loading, &now, LOAD_NO);
}

bool pull_complete(const struct pull *p)
{
	return atomic_load(&p->left) == 0;
}

static void ring(int fd)
{
	uint64_t one = 1;

	/* This fails only if the counter is full, and then the fd is readable anyway. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

void pull_stop(struct pull *p)
{
	atomic_store(&p->stop, true);
	ring(p->stop_fd);
	ring(p->go_fd);
}

void pull_release(struct pull *p)
{
	if (atomic_exchange(&p->released, true))
		return;
	ring(p->go_fd);
	ring(p->stop_fd);
}

int pull_placed(struct pull *p, const struct page_run *run, const void *buf, bool wake)
{
	struct stats *stats = p->param.stats;
	uint64_t before, done;
	int err = place_run(p->param.place, run, buf, wake, &done, p->param.fail);

	if (err < 0)
		return err;
	count(&stats->bytes, (uint64_t)run->npages << PAGE_SHIFT);
	count(&stats->pages, run->npages);
	atomic_fetch_sub_explicit(&stats->remaining, done, memory_order_relaxed);
	before = atomic_fetch_sub(&p->left, done);
	if (done && before == done)
		p->param.wake(p->param.s);
	return 0;
}

/* ---- faults ---- */

/* Claims the parts of the slot's page that nobody has asked for; false if there are none. */
static bool claim_urgent(struct pull *p, struct urgent_slot *u)
{
	struct page_cursor at = { .region = u->run.region,
				  .page = u->run.page,
				  .end = u->run.page + u->run.npages };
	struct page_run *want = p->want[u - p->slot];

	u->n = 0;
	while (u->n < URGENT_RUNS && page_set_claim(&p->todo, &at, u->run.npages, &want[u->n]))
		u->n++;
	return u->n;
}

static int ask_urgent(struct pull *p, struct xport_chan *c, unsigned i)
{
	struct place *pl = p->param.place;
	void *dst[URGENT_RUNS];

	for (unsigned k = 0; k < p->slot[i].n; k++) {
		const struct page_run *run = &p->want[i][k];

		dst[k] = place_direct(pl, run->region) ? place_inbox(pl, run->region) + run->page * PAGE_BYTES
						       : urgent_buf(p, i);
		PROBE5(pull, p->param.s, p->param.regions[run->region].id, run->page, run->npages, 1);
		pace_charge(&p->pace, run->npages * PAGE_BYTES); /* delays the background fetch */
	}
	return c->ops->get(c, p->want[i], dst, p->slot[i].n, i);
}

static struct urgent_slot *free_slot(struct urgent_slot *slot)
{
	for (unsigned i = 0; i < URGENT_MAX; i++)
		if (!slot[i].used)
			return &slot[i];
	return NULL;
}

/* Keeps a fault on a page that is in flight already, to count it when the page has been placed. */
static void fall_behind(struct pull *p, const struct urgent_slot *fault)
{
	struct urgent_slot *u = free_slot(p->behind);

	if (u)
		*u = *fault;
	if (u)
		u->used = true;
}

static int one_fault(struct pull *p, struct xport_chan *c, uint64_t addr, uint64_t now)
{
	const struct pull_param *with = &p->param;
	struct urgent_slot *u;
	struct page_run run;

	if (!place_find(with->place, addr, &run))
		return fail(with->fail, -EFAULT,
			    "userfaultfd reports a fault at %#llx, which is in no region",
			    (unsigned long long)addr);
	if (!pull_missing_any(with->missing, &run)) {
		count(&with->stats->faults_local, 1);
		return clean_fault(p, &run);
	}
	count(&with->stats->faults, 1);
	atomic_store_explicit(&p->hint, ((uint64_t)run.region << 48 | run.page) + 1, memory_order_relaxed);
	u = free_slot(p->slot);
	*u = (struct urgent_slot){ .run = run, .since_ns = now, .asked_ns = now };
	if (!claim_urgent(p, u)) {
		/* In flight, or placed since pull_missing_any() looked: then nobody else would wake the vCPU. */
		if (!pull_missing_any(with->missing, &run))
			place_wake(with->place, &run);
		else
			fall_behind(p, u);
		return 0;
	}
	u->used = true;
	p->expect_ns = now + EXPECT_NS;
	return ask_urgent(p, c, (unsigned)(u - p->slot));
}

static void fault_placed(struct pull *p, const struct urgent_slot *u)
{
	uint64_t ns = now_ns() - u->since_ns;

	hist_add(&p->param.stats->fault_ns, ns);
	PROBE4(fault, p->param.s, p->param.regions[u->run.region].id, u->run.page, ns);
}

static int reap_urgent(struct pull *p, struct xport_chan *c)
{
	uint32_t tag[URGENT_MAX];
	int n = c->ops->reap(c, tag, URGENT_MAX, 0);

	if (n == -EAGAIN)
		return 0;
	for (int k = 0; k < n; k++) {
		unsigned i = tag[k] % URGENT_MAX;
		struct urgent_slot *u = &p->slot[i];
		int err = 0;

		for (unsigned r = 0; r < u->n && !err; r++)
			err = pull_placed(p, &p->want[i][r], urgent_buf(p, i), false);
		if (err < 0)
			return err;
		u->used = false;
		if (pull_missing_any(p->param.missing, &u->run)) {
			fall_behind(p, u);
			continue;
		}
		fault_placed(p, u);
		/* Wake after everything else: the woken vCPU may take this very CPU. */
		place_wake(p->param.place, &u->run);
		p->expect_ns = 0;
	}
	return n;
}

/* Faults may exceed the bandwidth limit, but only up to this debt; then they wait, too. */
static bool over_limit(const struct pull *p)
{
	return pace_debt(&p->pace) > PACE_AHEAD_US;
}

static int read_faults(struct pull *p, struct xport_chan *c)
{
	uint64_t addr[16], now;
	unsigned room = 0;
	int n, err = 0;

	for (unsigned i = 0; i < URGENT_MAX && room < 16; i++)
		room += !p->slot[i].used;
	if (!room || over_limit(p))
		return 0;
	n = uffd_read(p->param.place->uffd, addr, room);
	if (n < 0)
		return fail_cure(p->param.fail, CURE_CALL, n, "userfaultfd cannot be read");
	now = now_ns();
	/* Handle all of them, even after an error: an event that was read is not delivered again. */
	for (int i = 0; i < n; i++) {
		int e = one_fault(p, c, addr[i], now);

		err = err ? err : e;
	}
	return err ? err : n;
}

/* Counts the faults in `behind` whose pages have been placed. */
static void settle_behind(struct pull *p)
{
	for (unsigned i = 0; i < URGENT_MAX; i++) {
		struct urgent_slot *u = &p->behind[i];

		if (!u->used || pull_missing_any(p->param.missing, &u->run))
			continue;
		fault_placed(p, u);
		u->used = false;
	}
}

/* A peer that answers nothing for timeout_us is lost. Main may not notice: it can be blocked in load. */
static int check_patience(struct pull *p, const struct sweep *w)
{
	uint64_t now = now_ns(), limit = p->param.timeout_us * 1000;

	for (unsigned i = 0; i < URGENT_MAX; i++)
		if (p->slot[i].used && now - p->slot[i].asked_ns > limit)
			return -ETIMEDOUT;
	return w->flying && now / 1000 - w->moved_us > p->param.timeout_us ? -ETIMEDOUT : 0;
}

/* ---- the workers ---- */

/* Worker 0's part of the background fetch, without waiting. Returns how many gets moved, or an error. */
static int sweep_step(struct pull *p, struct sweep *w)
{
	uint64_t due;
	int asked;

	if (w->ended || !atomic_load_explicit(&p->released, memory_order_relaxed))
		return 0;
	due = pace_debt(&p->pace);
	asked = due ? 0 : sweep_ask(p, w, 1);
	if (asked < 0 || asked > 0)
		return asked;
	if (!w->flying)
		return due ? 0 : sweep_end(w);
	return sweep_reap(w, 0);
}

/* One pass over answers, faults and the background fetch. Returns how much was done, or an error. */
static int look_around(struct pull *p, struct xport_chan *c, struct sweep *w)
{
	int done = 0, n;

	if ((n = reap_urgent(p, c)) < 0)
		return n;
	done += n;
	if ((n = read_faults(p, c)) < 0)
		return n;
	done += n;
	if ((n = sweep_place(p, w, SLICE_RUNS, SLICE_PAGES)) < 0)
		return n;
	if (n)
		settle_behind(p);
	done += n;
	if (w->ncame)
		return done;
	/* A fault's answer that is expected now has priority: it must find this thread polling. */
	if (p->expect_ns && now_ns() < p->expect_ns)
		return done;
	p->expect_ns = 0;
	if ((n = clean_step(p)) < 0)
		return n;
	done += n;
	if ((n = clean_ahead(p)) < 0)
		return n;
	done += n;
	n = sweep_step(p, w);
	return n < 0 ? n : done + n;
}

/* The background fetch waits for the expected answer to a fault, but not past expect_ns. */
static struct timespec wait_ns(const struct pull *p, uint64_t patience_ns)
{
	uint64_t now = now_ns(), ns = patience_ns, due = pace_debt(&p->pace) * 1000, expect;

	/* If faults wait for the limit, look at them again when the debt is small enough. */
	if (due > PACE_AHEAD_US * 1000)
		due -= PACE_AHEAD_US * 1000;
	if (due && due < ns)
		ns = due;
	expect = p->expect_ns > now ? p->expect_ns - now : 0;
	if (p->expect_ns && expect < ns)
		ns = expect;
	return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

static int serve_faults(struct pull *p, struct xport_chan *c, struct sweep *w)
{
	struct pollfd fds[4] = { { .fd = p->param.place->uffd, .events = POLLIN },
				 { .events = POLLIN },
				 { .events = POLLIN },
				 { .fd = p->stop_fd, .events = POLLIN } };
	uint64_t hot = now_ns(), poll_ns = p->param.poll_us * 1000;
	uint64_t patience_ns = p->param.timeout_us * 250 + 1000000, woken;
	struct timespec wait;
	int n;

	while (!atomic_load_explicit(&p->stop, memory_order_relaxed)) {
		n = look_around(p, c, w);
		if (n < 0)
			return n;
		if (n > 0) {
			hot = now_ns();
			continue;
		}
		if (now_ns() - hot < poll_ns && spin_on(&p->spin))
			continue;
		fds[1].fd = c->ops->fd(c);
		fds[2].fd = w->c->ops->fd(w->c);
		fds[0].events = over_limit(p) ? 0 : POLLIN;
		fds[2].events = p->expect_ns ? 0 : POLLIN;
		wait = wait_ns(p, fds[1].fd < 0 || fds[2].fd < 0 ? NO_FD_NS : patience_ns);
		n = ppoll(fds, 4, &wait, NULL);
		if (n < 0 && errno != EINTR)
			return fail_cure(p->param.fail, CURE_CALL, -errno, "waiting for faults failed");
		settle_behind(p);
		if (!n && (n = check_patience(p, w)) < 0)
			return n;
		if (fds[3].revents && read(p->stop_fd, &woken, sizeof(woken)) < 0 && errno != EAGAIN)
			return fail_cure(p->param.fail, CURE_CALL, -errno, "an eventfd cannot be read");
	}
	return 0;
}

static int first_worker(struct pull *p)
{
	struct xport_chan *c = p->link->ops->chan(p->link, XPORT_URGENT, 0);
	struct sweep w = { .c = p->link->ops->chan(p->link, XPORT_DATA, 0) };
	int err = 0, n, end;

	for (unsigned i = 0; i < URGENT_MAX && !err; i++) {
		if (!p->slot[i].used)
			continue;
		p->slot[i].asked_ns = now_ns();
		err = ask_urgent(p, c, i);
	}
	if (!err)
		err = serve_faults(p, c, &w);
	/* Place what has arrived: it may be the last missing page, even if the link is gone. */
	n = sweep_place(p, &w, UINT_MAX, UINT32_MAX);
	if (n < 0 && !err)
		err = n;
	if (atomic_exchange(&p->loading, LOAD_DEAD) == LOAD_NOW)
		place_disarm(p->param.place);
	if (err < 0)
		return err;
	end = c->ops->end(c);
	if (!end && !w.ended)
		end = sweep_end(&w);
	return end < 0 && !pull_complete(p) ? end : 0;
}

static int sweep_worker(struct pull *p, unsigned chan)
{
	struct sweep w = { .c = p->link->ops->chan(p->link, XPORT_DATA, chan), .chan = chan };
	struct pollfd go = { .fd = p->go_fd, .events = POLLIN };
	uint64_t timeout = p->param.timeout_us, due;
	int n;

	while (!atomic_load(&p->released) && !atomic_load(&p->stop))
		poll(&go, 1, -1);
	while (!atomic_load(&p->stop)) {
		due = pace_debt(&p->pace);
		n = due ? 0 : sweep_ask(p, &w, SWEEP_DEPTH_MAX);
		if (n < 0)
			return n;
		if (!w.flying && !due)
			break;
		if (!w.flying)
			usleep(due < LIMIT_LOOK_US ? (useconds_t)due : LIMIT_LOOK_US);
		n = sweep_reap(&w, due && due < timeout ? due : timeout);
		if (n > 0)
			n = sweep_place(p, &w, UINT_MAX, UINT32_MAX);
		if (n < 0 || (!n && w.flying && now_us() - w.moved_us > timeout))
			return n < 0 ? n : -ETIMEDOUT;
	}
	return sweep_end(&w);
}

int pull_work(struct pull *p, unsigned i)
{
	int err = i == 0 ? first_worker(p) : sweep_worker(p, i);

	/* A worker that waits for pull_release() does not watch the link: stop it. */
	if (err == -EPIPE || err == -ETIMEDOUT)
		pull_stop(p);
	return err;
}

void pull_start(struct pull *p, struct xport_link *link, uint64_t bandwidth)
{
	uint64_t n;

	p->link = link;
	atomic_store(&p->stop, false);
	atomic_store(&p->loading, LOAD_NO);
	while (read(p->stop_fd, &n, sizeof(n)) > 0)
		;
	p->pace.bandwidth = bandwidth;
	/* The peer names a limit, too. At any limit, a fault waits no longer than for a peer that is gone. */
	p->pace.debt_max_us = p->param.timeout_us / 4;
	page_set_clear(&p->todo);
	if (!pull_complete(p)) /* on a new link */
		place_expect(p->param.place, p->param.missing);
	page_set_merge(&p->todo, p->param.missing);
	for (unsigned i = 0; i < URGENT_MAX; i++)
		if (p->slot[i].used)
			claim_urgent(p, &p->slot[i]);
}
