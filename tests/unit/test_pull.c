// SPDX-License-Identifier: MIT
/*
 * The pull with a source that answers when the test says so, over real userfaultfd: no page is asked for twice, whoever wants
 * it; what no fault asks for comes all the same; and a fault whose page comes between two looks of its worker goes on.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "patience.h"
#include "runtime/base/fail.h"
#include "runtime/memory/place_int.h"
#include "runtime/target/pull_int.h"

#define N 1024u /* pages */
#define WAIT_S 20u
#define VCPUS 4u
#define CHANNELS_MAX 3u

/* A source's end of one channel. */
struct answers {
	struct xport_chan chan;
	struct source *src;
	bool held; /* no answer comes; src->lock */
	uint32_t tag[XPORT_GETS_MAX];
	unsigned n; /* asked for and not reaped; src->lock */
	_Atomic bool ended;
};

struct source {
	struct xport_link link;
	pthread_mutex_t lock;
	uint8_t *ram;
	unsigned asked[N]; /* how often, each page; lock */
	struct answers urgent, data[CHANNELS_MAX];
};

struct vcpu {
	struct target *t;
	pthread_t thread;
	unsigned page;
	_Atomic bool saw;
};

struct puller {
	struct pull *p;
	unsigned i;
	pthread_t thread;
	int err;
};

struct target {
	struct source src;
	struct ferry_region region;
	struct page_set missing, poison;
	_Atomic bool poisoned;
	struct place place;
	struct stats stats;
	struct fail fail;
	struct pull *pull;
	struct puller worker[CHANNELS_MAX];
	struct vcpu vcpu[VCPUS];
	unsigned vcpus;
};

/* ---- the source ---- */

static int answer_get(struct xport_chan *chan, const struct page_run *runs, void *const *dst, unsigned n,
		      uint32_t tag)
{
	struct answers *a = (struct answers *)chan;

	pthread_mutex_lock(&a->src->lock);
	for (unsigned i = 0; i < n; i++) {
		memcpy(dst[i], a->src->ram + runs[i].page * PAGE_BYTES, runs[i].npages * PAGE_BYTES);
		for (uint64_t page = runs[i].page; page < runs[i].page + runs[i].npages; page++)
			a->src->asked[page]++;
	}
	a->tag[a->n++] = tag;
	pthread_mutex_unlock(&a->src->lock);
	return 0;
}

static int answer_reap(struct xport_chan *chan, uint32_t *tags, unsigned max, uint64_t wait_us)
{
	struct answers *a = (struct answers *)chan;
	unsigned n = 0;

	if (wait_us) /* it is asked again */
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	pthread_mutex_lock(&a->src->lock);
	while (!a->held && a->n && n < max) {
		tags[n++] = a->tag[0];
		memmove(a->tag, a->tag + 1, --a->n * sizeof(a->tag[0]));
	}
	pthread_mutex_unlock(&a->src->lock);
	return n ? (int)n : -EAGAIN;
}

static int no_fd(struct xport_chan *chan)
{
	(void)chan;
	return -1;
}

static int answer_end(struct xport_chan *chan)
{
	atomic_store(&((struct answers *)chan)->ended, true);
	return 0;
}

static struct xport_chan *source_chan(struct xport_link *l, enum xport_role role, unsigned index)
{
	struct source *src = (struct source *)l;

	return role == XPORT_URGENT ? &src->urgent.chan : &src->data[index].chan;
}

static const struct xport_chan_ops answer_ops = { .get = answer_get,
						  .reap = answer_reap,
						  .fd = no_fd,
						  .end = answer_end };
static const struct xport_link_ops source_ops = { .chan = source_chan };

static void make_source(struct source *src, unsigned channels)
{
	*src = (struct source){ .link = { .ops = &source_ops, .id.channels = channels } };
	pthread_mutex_init(&src->lock, NULL);
	src->ram = malloc(N * PAGE_BYTES);
	for (unsigned i = 0; i < N; i++)
		memset(src->ram + i * PAGE_BYTES, 1 + (int)(i % 250), PAGE_BYTES);
	src->urgent = (struct answers){ .chan.ops = &answer_ops, .src = src };
	for (unsigned i = 0; i < CHANNELS_MAX; i++)
		src->data[i] = (struct answers){ .chan.ops = &answer_ops, .src = src };
}

static void hold(struct answers *a, bool held)
{
	pthread_mutex_lock(&a->src->lock);
	a->held = held;
	pthread_mutex_unlock(&a->src->lock);
}

static void hold_all(struct source *src, bool held)
{
	hold(&src->urgent, held);
	for (unsigned i = 0; i < CHANNELS_MAX; i++)
		hold(&src->data[i], held);
}

static unsigned asked(struct source *src, unsigned page)
{
	unsigned n;

	pthread_mutex_lock(&src->lock);
	n = src->asked[page];
	pthread_mutex_unlock(&src->lock);
	return n;
}

static unsigned asked_in_all(struct source *src)
{
	unsigned n = 0;

	for (unsigned page = 0; page < N; page++)
		n += asked(src, page);
	return n;
}

/* ---- the target ---- */

#define WAIT_FOR(condition)                                                        \
	do {                                                                       \
		unsigned tries_ = WAIT_S * 1000 * patience();                      \
		while (!(condition) && tries_--)                                   \
			nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); \
		cr_assert(condition, "this did not come: %s", #condition);         \
	} while (0)

static void woken(struct ferry_session *s)
{
	(void)s;
}

static void *pull_main(void *arg)
{
	struct puller *w = arg;

	w->err = pull_work(w->p, w->i);
	return NULL;
}

static void start(struct target *t)
{
	pull_start(t->pull, &t->src.link, 0);
	for (unsigned i = 0; i < t->src.link.id.channels; i++) {
		t->worker[i] = (struct puller){ .p = t->pull, .i = i };
		cr_assert_eq(pthread_create(&t->worker[i].thread, NULL, pull_main, &t->worker[i]), 0);
	}
}

static void stop(struct target *t)
{
	pull_stop(t->pull);
	for (unsigned i = 0; i < t->src.link.id.channels; i++) {
		pthread_join(t->worker[i].thread, NULL);
		cr_assert_eq(t->worker[i].err, 0, "worker %u: %d, %s", i, t->worker[i].err,
			     fail_text(&t->fail));
	}
}

/* Everything is missing, faults are served, and the sweep is not released. */
static void make_target(struct target *t, unsigned channels)
{
	const uint64_t n = N;
	const struct pull_param param = {
		.place = &t->place,
		.missing = &t->missing,
		.poison = &t->poison,
		.poisoned = &t->poisoned,
		.regions = &t->region,
		.nregions = 1,
		.channels = channels,
		.timeout_us = 3600000000u, /* an answer that is held is not a peer that is gone */
		.stats = &t->stats,
		.fail = &t->fail,
		.wake = woken
	};

	memset(t, 0, sizeof(*t));
	make_source(&t->src, channels);
	t->region = (struct ferry_region){ .len = N * PAGE_BYTES, .page_shift = 12, .fd = -1 };
	t->region.hva =
		mmap(NULL, N * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(t->region.hva, MAP_FAILED);
	cr_assert_eq(page_set_init(&t->missing, &n, 1), 0);
	page_set_add_run(&t->missing, &(struct page_run){ .npages = N });
	cr_assert_eq(place_open(&t->place, &t->region, 1, &(struct place_param){ 0 }, &t->fail), 0, "%s",
		     fail_text(&t->fail));
	if (place_arm(&t->place, &t->fail) < 0)
		cr_skip_test("%s", fail_text(&t->fail));
	cr_assert_eq(pull_new(&t->pull, &param), 0);
	pull_residue(t->pull);
	start(t);
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	volatile uint8_t *page = (uint8_t *)v->t->region.hva + v->page * PAGE_BYTES;

	atomic_store(&v->saw, *page == v->t->src.ram[v->page * PAGE_BYTES]);
	return NULL;
}

/* A vCPU that touches a page and waits for it: its fault has been served so far as it can be. */
static struct vcpu *touch(struct target *t, unsigned page)
{
	uint64_t before = atomic_load(&t->stats.faults);
	struct vcpu *v = &t->vcpu[t->vcpus++];

	cr_assert_leq(t->vcpus, VCPUS);
	v->t = t;
	v->page = page;
	cr_assert_eq(pthread_create(&v->thread, NULL, vcpu_main, v), 0);
	WAIT_FOR(atomic_load(&t->stats.faults) > before);
	return v;
}

static void complete(struct target *t)
{
	WAIT_FOR(pull_complete(t->pull));
	for (unsigned i = 0; i < t->vcpus; i++) {
		WAIT_FOR(atomic_load(&t->vcpu[i].saw));
		pthread_join(t->vcpu[i].thread, NULL);
	}
	stop(t);
	cr_assert_eq(page_set_count(&t->missing), 0);
	cr_assert(!memcmp(t->region.hva, t->src.ram, N * PAGE_BYTES));
}

static void free_target(struct target *t)
{
	pull_free(t->pull);
	place_close(&t->place);
	page_set_destroy(&t->missing);
	munmap(t->region.hva, N * PAGE_BYTES);
	free(t->src.ram);
}

static void each_asked_once(struct target *t)
{
	for (unsigned page = 0; page < N; page++)
		cr_assert_eq(t->src.asked[page], 1, "page %u was asked for %u times", page,
			     t->src.asked[page]);
}

static unsigned under_way(struct target *t, unsigned channel)
{
	unsigned n;

	pthread_mutex_lock(&t->src.lock);
	n = t->src.data[channel].n;
	pthread_mutex_unlock(&t->src.lock);
	return n;
}

/* ---- no page crosses twice ---- */

/* The sweep has asked for a page, then a vCPU wants it; two vCPUs want one; the sweep comes to what a vCPU has asked for. */
static void nobody_asks_twice(unsigned channels)
{
	struct target t;

	make_target(&t, channels);
	hold_all(&t.src, true);
	touch(&t, N - 1);
	WAIT_FOR(asked(&t.src, N - 1) == 1);
	touch(&t, N - 1);
	pull_release(t.pull);
	for (unsigned i = 0; i < channels; i++)
		WAIT_FOR(under_way(&t, i) > 0);
	cr_assert_eq(asked(&t.src, 0), 1,
		     "the sweep begins where the last fault was, and goes on from the beginning");
	touch(&t, 0);
	touch(&t, 1);
	hold_all(&t.src, false);
	complete(&t);
	each_asked_once(&t);
	free_target(&t);
}

Test(pull, asks_for_no_page_twice)
{
	nobody_asks_twice(1);
}

Test(pull, asks_for_no_page_twice_over_three_channels)
{
	nobody_asks_twice(3);
}

/* On a new link what was under way is asked for again, and what has come is not. */
Test(pull, asks_on_a_new_link_for_what_has_not_come)
{
	struct target t;

	make_target(&t, 1);
	touch(&t, 700); /* comes */
	WAIT_FOR(atomic_load(&t.vcpu[0].saw));
	hold_all(&t.src, true);
	touch(&t, 100);
	pull_release(t.pull);
	WAIT_FOR(under_way(&t, 0) > 0);
	stop(&t);
	memset(t.src.asked, 0, sizeof(t.src.asked));
	t.src.asked[700] = 1;
	t.src.urgent.n = t.src.data[0].n = 0;
	hold_all(&t.src, false);
	start(&t);
	complete(&t);
	each_asked_once(&t);
	free_target(&t);
}

/* ---- an idle guest ---- */

/* Its one fault sends the sweep to the end of memory: what lies before comes all the same, though nobody touches it. */
static void idle(unsigned channels)
{
	struct target t;

	make_target(&t, channels);
	touch(&t, N - 1);
	pull_release(t.pull);
	complete(&t);
	each_asked_once(&t);
	free_target(&t);
}

Test(pull, of_an_idle_guest_ends)
{
	idle(1);
}

Test(pull, of_an_idle_guest_ends_over_three_channels)
{
	idle(3);
}

/* Before its release the sweep asks for nothing, and a fault for its page alone. */
Test(pull, sweeps_nothing_before_the_vm_runs)
{
	struct target t;

	make_target(&t, 2);
	touch(&t, 5);
	WAIT_FOR(atomic_load(&t.vcpu[0].saw));
	cr_assert_eq(asked_in_all(&t.src), 1);
	pull_release(t.pull);
	complete(&t);
	each_asked_once(&t);
	free_target(&t);
}

/* ---- between two looks ---- */

/*
 * Linked with --wrap=page_set_claim. A fault's worker has seen that its page is missing, claims it, which fails, and looks again:
 * here it comes meanwhile, brought by another worker, before anybody was waiting for it.
 */
static struct {
	_Atomic(struct pull *) p;
	uint64_t page;
} meanwhile;

bool __real_page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);
bool __wrap_page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run);

bool __wrap_page_set_claim(struct page_set *s, struct page_cursor *at, uint32_t max, struct page_run *run)
{
	struct pull *p = atomic_load(&meanwhile.p);
	bool fault = p && s == &p->todo && at->page == meanwhile.page && at->end == meanwhile.page + 1;
	struct source *src = fault ? (struct source *)p->link : NULL;
	bool got = __real_page_set_claim(s, at, max, run);

	if (fault && !got) {
		atomic_store(&meanwhile.p, NULL);
		pull_placed(p, &(struct page_run){ .page = meanwhile.page, .npages = 1 },
			    src->ram + meanwhile.page * PAGE_BYTES, false);
	}
	return got;
}

Test(pull, wakes_a_fault_whose_page_came_between_two_looks)
{
	struct target t;
	struct vcpu *v;

	make_target(&t, 1);
	hold_all(&t.src, true);
	pull_release(t.pull);
	WAIT_FOR(under_way(&t, 0) > 0);
	cr_assert_eq(asked(&t.src, 0), 1);
	meanwhile.page = 0;
	atomic_store(&meanwhile.p, t.pull);
	v = touch(&t, 0);
	WAIT_FOR(atomic_load(&v->saw)); /* before the sweep's answer, which would wake it, too */
	cr_assert_null(atomic_load(&meanwhile.p));
	hold_all(&t.src, false);
	complete(&t);
	each_asked_once(&t);
	free_target(&t);
}
