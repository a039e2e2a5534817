// SPDX-License-Identifier: MIT
/*
 * A round over a link that is lost at each put, fence and message of it in turn: what has not certainly landed is dirty again,
 * what has is not, and the next link brings all the rest. A page has landed when a fence behind its put was answered, a zero
 * page when ROUND_ACK was. And a round ends only when all that was put has landed.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rig.h"
#include "runtime/link/link.h"
#include "runtime/session/session.h"
#include "runtime/source/rounds.h"

#define N 20000u /* pages, of which every other one is dirty: more runs than the log of a channel holds */
#define CHANNELS_MAX 3u
#define NEVER UINT64_MAX

enum { NO, PUT, LANDED };

struct fake_chan {
	struct xport_chan chan;
	struct fake *fake;
};

struct fake {
	struct xport_link link;
	struct fake_chan ctl, data[CHANNELS_MAX];
	struct world *world;	   /* hears of trouble */
	pthread_mutex_t lock;	   /* all below */
	uint64_t fails_at, events; /* the link is lost at that put, fence or message */
	uint8_t state[N], by[N];   /* NO, PUT (on that channel), LANDED */
	uint8_t zeroed[N];	   /* NO, PUT: ZERO was sent; LANDED: and the round acknowledged */
	unsigned puts, fences, rounds;
	bool dead, acks;
	uint32_t round, seq;
	int evfd;
};

struct bench {
	struct rig rig;
	struct fake fake;
	struct ferry_region region;
	struct ferry_session *s;
	bool dirtied[N], zero[N];
};

/* ---- the link ---- */

static struct fake_chan *fake_of(struct xport_chan *c)
{
	return (struct fake_chan *)c;
}

/* Lock held. 0: the link is there. */
static int happens(struct fake *f)
{
	if (f->events++ == f->fails_at)
		f->dead = true;
	return f->dead ? -EPIPE : 0;
}

static void mark(uint8_t *pages, const struct page_run *run)
{
	memset(pages + run->page, PUT, run->npages);
}

static int fake_put(struct xport_chan *chan, const struct page_run *runs, unsigned n)
{
	struct fake_chan *c = fake_of(chan);
	struct fake *f = c->fake;
	int err;

	pthread_mutex_lock(&f->lock);
	err = happens(f);
	f->puts += !err;
	for (unsigned i = 0; i < n && !err; i++) {
		mark(f->state, &runs[i]);
		memset(f->by + runs[i].page, (int)(c - f->data), runs[i].npages);
	}
	pthread_mutex_unlock(&f->lock);
	return err;
}

static int fake_fence(struct xport_chan *chan)
{
	struct fake_chan *c = fake_of(chan);
	struct fake *f = c->fake;
	int err;

	pthread_mutex_lock(&f->lock);
	err = happens(f);
	f->fences += !err;
	for (unsigned page = 0; page < N && !err; page++)
		if (f->state[page] == PUT && f->by[page] == c - f->data)
			f->state[page] = LANDED;
	pthread_mutex_unlock(&f->lock);
	return err;
}

static void hear_round_end(struct fake *f, const struct iovec *iov)
{
	struct wire_round r;

	memcpy(&r, iov[1].iov_base, sizeof(r));
	f->round = r.round;
	f->acks = true;
	for (unsigned page = 0; page < N; page++)
		if (f->state[page] == PUT)
			world_trouble(f->world, "the round ended, and page %u was put and has not landed",
				      page);
	if (eventfd_write(f->evfd, 1))
		abort();
}

static int fake_send(struct xport_chan *chan, const struct iovec *iov, int n)
{
	struct fake *f = fake_of(chan)->fake;
	struct wire_hdr h;
	int err;

	memcpy(&h, iov[0].iov_base, sizeof(h));
	pthread_mutex_lock(&f->lock);
	err = happens(f);
	for (int i = 1; i < n && h.type == WIRE_ZERO && !err; i++)
		for (size_t k = 0; k < iov[i].iov_len / sizeof(struct page_run); k++)
			mark(f->zeroed, (struct page_run *)iov[i].iov_base + k);
	if (!err && h.type == WIRE_ROUND_END)
		hear_round_end(f, iov);
	pthread_mutex_unlock(&f->lock);
	return err;
}

/* Lock held: ROUND_ACK, which says that the zero pages are done too. */
static size_t acknowledge(struct fake *f, uint8_t *buf)
{
	struct wire_hdr h = wire_header(WIRE_ROUND_ACK, sizeof(struct wire_round), f->seq++);
	struct wire_round r = { .round = f->round };
	eventfd_t n;

	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), &r, sizeof(r));
	f->acks = false;
	f->rounds++;
	eventfd_read(f->evfd, &n);
	for (unsigned page = 0; page < N; page++)
		if (f->zeroed[page])
			f->zeroed[page] = LANDED;
	return sizeof(h) + sizeof(r);
}

static int fake_recv(struct xport_chan *chan, void *buf, size_t cap, size_t *len, uint64_t wait_us)
{
	struct fake *f = fake_of(chan)->fake;
	int err = -EAGAIN;

	(void)cap, (void)wait_us;
	pthread_mutex_lock(&f->lock);
	if (f->dead)
		err = -EPIPE;
	else if (f->acks && !(err = happens(f)))
		*len = acknowledge(f, buf);
	pthread_mutex_unlock(&f->lock);
	return err;
}

static int fake_fd(struct xport_chan *chan)
{
	return fake_of(chan)->fake->evfd;
}

static struct xport_chan *fake_chan(struct xport_link *l, enum xport_role role, unsigned index)
{
	struct fake *f = (struct fake *)l;

	return role == XPORT_CONTROL ? &f->ctl.chan : &f->data[index].chan;
}

static void fake_kill(struct xport_link *l)
{
	struct fake *f = (struct fake *)l;

	pthread_mutex_lock(&f->lock);
	f->dead = true;
	pthread_mutex_unlock(&f->lock);
}

static void fake_close(struct xport_link *l)
{
	(void)l;
}

static const struct xport_chan_ops chan_ops = { .put = fake_put,
						.fence = fake_fence,
						.send = fake_send,
						.recv = fake_recv,
						.fd = fake_fd };
static const struct xport_link_ops link_ops = { .chan = fake_chan, .kill = fake_kill, .close = fake_close };

/* A link of the session that is lost at its event number fails_at; what has landed before has. */
static void new_link(struct bench *b, uint64_t fails_at)
{
	struct ferry_session *s = b->s;
	struct fake *f = &b->fake;

	f->fails_at = fails_at;
	f->events = f->seq = 0;
	f->dead = f->acks = false;
	f->puts = f->fences = 0;
	for (unsigned page = 0; page < N; page++) { /* what was under way is lost with its link */
		f->state[page] = f->state[page] == LANDED ? LANDED : NO;
		f->zeroed[page] = f->zeroed[page] == LANDED ? LANDED : NO;
	}
	eventfd_read(f->evfd, &(eventfd_t){ 0 });
	s->link.x = &f->link;
	s->link.ctl = &f->ctl.chan;
	s->link.send_seq = s->link.recv_seq = 0;
	s->link.heard_us = now_us();
}

/* ---- the source ---- */

static void begin(struct bench *b, unsigned channels)
{
	struct ferry_vm v = { FERRY_VM_INIT, .vm = &b->rig.src, .ops = &b->rig.src.ops, .regions = &b->region,
			      .nregions = 1 };
	struct fake *f = &b->fake;

	memset(b, 0, sizeof(*b));
	rig_init(&b->rig, RIG_MEM_ANON);
	b->region = (struct ferry_region){ .id = 5, .len = N * FAKE_PAGE, .page_shift = 12, .fd = -1 };
	b->region.hva = mmap(NULL, b->region.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(b->region.hva, MAP_FAILED);
	madvise(b->region.hva, b->region.len, MADV_NOHUGEPAGE);
	v.regions = &b->region;
	b->rig.scfg.channels = channels;
	b->rig.scfg.timeout_us = 600000000;
	cr_assert_eq(ferry_source_new(&b->s, &v, &b->rig.scfg), 0, "%s", b->rig.src.error_line);
	b->s->phase = FERRY_PHASE_PRECOPY;
	f->link = (struct xport_link){ .ops = &link_ops, .id.channels = channels };
	f->world = &b->rig.world;
	f->ctl = (struct fake_chan){ { &chan_ops }, f };
	for (unsigned i = 0; i < CHANNELS_MAX; i++)
		f->data[i] = (struct fake_chan){ { &chan_ops }, f };
	pthread_mutex_init(&f->lock, NULL);
	f->evfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void end(struct bench *b)
{
	b->s->link.x = NULL;
	b->s->link.ctl = NULL;
	ferry_free(b->s);
	close(b->fake.evfd);
	munmap(b->region.hva, b->region.len);
	rig_free(&b->rig);
}

/* The guest writes every other page; every tenth of them it makes zero, where zero is true. */
static void guest_writes(struct bench *b, bool zero)
{
	memset(b->fake.state, NO, sizeof(b->fake.state));
	memset(b->fake.zeroed, NO, sizeof(b->fake.zeroed));
	for (unsigned page = 0; page < N; page += 2) {
		uint64_t *word = (uint64_t *)((uint8_t *)b->region.hva + page * FAKE_PAGE);

		b->dirtied[page] = true;
		b->zero[page] = zero && page % 20 == 0;
		*word = b->zero[page] ? 0 : page + 1;
		page_set_add(&b->s->src.dirty, 0, page);
	}
}

static int round_over(struct bench *b, unsigned round)
{
	int err = rounds_start(b->s);

	return err ? err : rounds_finish(b->s, round);
}

/* Which pages are to be sent again: those that were dirty and have not landed, and nothing else. */
static void dirty_is_what_has_not_landed(struct bench *b, uint64_t at)
{
	for (unsigned page = 0; page < N; page++) {
		bool landed = (b->zero[page] ? b->fake.zeroed : b->fake.state)[page] == LANDED;
		bool due = b->dirtied[page] && !landed, dirty = page_set_test(&b->s->src.dirty, 0, page);

		cr_assert_eq(dirty, due,
			     "page %u, %s, which has %slanded, is%s dirty after a loss at event %lu", page,
			     b->zero[page] ? "zero" : "not zero", landed ? "" : "not ", dirty ? "" : " not",
			     (unsigned long)at);
	}
}

static void all_has_landed(struct bench *b)
{
	dirty_is_what_has_not_landed(b, NEVER);
	cr_assert_eq(page_set_count(&b->s->src.dirty), 0);
}

/* ---- */

static void ends_with_a_fence(unsigned channels)
{
	struct bench *b = malloc(sizeof(*b));

	begin(b, channels);
	guest_writes(b, false);
	new_link(b, NEVER);
	cr_assert_eq(round_over(b, 0), 0);
	rig_no_trouble(&b->rig); /* or ROUND_END went out with something under way */
	cr_assert_eq(b->fake.rounds, 1);
	cr_assert_geq(b->fake.fences, channels);
	all_has_landed(b);
	end(b);
	free(b);
}

Test(rounds, a_round_ends_with_a_fence_on_each_channel)
{
	for (unsigned channels = 1; channels <= CHANNELS_MAX; channels++)
		ends_with_a_fence(channels);
}

/* The second pass over the same pages, some of which are zero now: they cross as ZERO, because the target holds something else. */
static void lost_at_each_event(unsigned channels)
{
	struct bench *b = malloc(sizeof(*b));
	uint64_t at = 0;
	int err = -EPIPE;

	begin(b, channels);
	guest_writes(b, false);
	new_link(b, NEVER);
	cr_assert_eq(round_over(b, 0), 0);
	for (unsigned round = 1; err; at++, round++) {
		guest_writes(b, true);
		new_link(b, at);
		err = round_over(b, round);
		cr_assert(err == 0 || err == -EPIPE, "%d: %s", err, fail_text(&b->s->fail));
		if (err)
			dirty_is_what_has_not_landed(b, at);
		else
			all_has_landed(b);
		if (!err)
			break;
		new_link(b, NEVER);
		cr_assert_eq(round_over(b, round), 0);
		all_has_landed(b);
	}
	cr_assert_gt(at, 40, "%lu puts, fences and messages", (unsigned long)at);
	cr_assert_geq(b->fake.fences, channels);
	/* What an earlier round has brought is not sent again when a later one, in which nothing is dirty, loses its link. */
	new_link(b, 0);
	cr_assert_eq(round_over(b, (unsigned)at + 1), -EPIPE);
	all_has_landed(b);
	end(b);
	free(b);
}

Test(rounds, what_a_lost_link_may_have_lost_is_sent_again)
{
	lost_at_each_event(1);
}

Test(rounds, what_a_lost_link_may_have_lost_is_sent_again_over_three_channels)
{
	lost_at_each_event(CHANNELS_MAX);
}

/* A log that is full has its fence in the middle of the round: what landed before it is not sent again. */
Test(rounds, what_a_fence_has_confirmed_is_not_sent_again)
{
	struct bench *b = malloc(sizeof(*b));
	uint64_t last;

	begin(b, 1);
	guest_writes(b, false);
	new_link(b, NEVER);
	cr_assert_eq(round_over(b, 0), 0);
	cr_assert_eq(b->fake.fences, 2, "%u fences: one when the log is full, one at the end",
		     b->fake.fences);
	last = b->fake.puts + b->fake.fences - 1; /* the last fence */
	guest_writes(b, false);
	new_link(b, last);
	cr_assert_eq(round_over(b, 1), -EPIPE);
	dirty_is_what_has_not_landed(b, last);
	cr_assert_lt(page_set_count(&b->s->src.dirty), N / 4);
	cr_assert_gt(page_set_count(&b->s->src.dirty), 0);
	end(b);
	free(b);
}
