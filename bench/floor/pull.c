/* SPDX-License-Identifier: MIT */
/*
 * The target of the bare pull (pull.h).
 *
 * Two bitmaps, as in the library: a page is `missing` until it is placed, and in `todo` until somebody has
 * asked for it; who clears its bit there asks. One toucher means one fault at a time, the `awaited` page. Its
 * time ends when the page is mapped, whoever maps it; the wake-up comes after that. While an answer to a fault
 * is expected, the first puller leaves its data alone.
 *
 * Anonymous memory: a page arrives in a buffer and is placed by UFFDIO_COPY. A memfd: it arrives in its place
 * in the page cache, through a second mapping, and UFFDIO_CONTINUE maps it. Neighbours are placed by one call.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "pull.h"

#define DEPTH 3u	  /* gets in flight: one asked for, one being answered, one being placed */
#define PIECE (64u << 10) /* received and placed between two looks for a fault */
#define EXPECT_NS 50000u  /* but only for so long if a fault's answer is expected */
#define VISIT_NS 1000000u /* between two visits of the toucher, */
#define DEBT_NS 20000000u /* and how far it may be behind, as the VMM's guest */
#define PATIENCE_MS 20000 /* for the source's connections */
#define TOUCHED_WORD 1u	  /* word 0 tells the page */

struct get {
	struct pull_request q;
	size_t got;
	unsigned placed;
	char *buf; /* anonymous memory: PULL_BATCH pages */
};

struct puller {
	struct pull *p;
	int sock;
	bool first; /* handles the faults as well */
	struct get get[DEPTH];
	unsigned oldest, flying;
	uint64_t at;   /* the word of todo where it looks next */
	bool all_done; /* nothing is left to be asked for */
	struct pull_wait wait;
	int err;
	pthread_t thread;
};

struct pull {
	const struct floor_pull_ask *ask;
	uint64_t npages, nwords;
	_Atomic uint64_t *todo, *missing;
	_Atomic uint64_t left; /* missing pages */
	int memfd;
	char *vm, *inbox;	/* inbox: a memfd's second mapping */
	int uffd, urgent, over; /* over: an eventfd, readable when nothing is left or a puller has failed */
	_Atomic bool stop;
	pthread_barrier_t start;
	_Atomic uint64_t begin_ns, end_ns;

	_Atomic uint64_t awaited; /* page + 1, or 0 */
	_Atomic uint64_t since_ns;
	double *fault_us;
	_Atomic uint64_t nfaults, touched;
	bool urgent_flying;
	uint32_t urgent_page;
	size_t urgent_got;
	char *urgent_buf;

	struct puller puller[PULL_CHANNELS_MAX];
};

static bool has(const _Atomic uint64_t *set, uint64_t page)
{
	return atomic_load(&set[page / 64]) >> (page % 64) & 1;
}

/* Clears the bit; true if it was set. */
static bool take(_Atomic uint64_t *set, uint64_t page)
{
	uint64_t bit = UINT64_C(1) << (page % 64);

	return atomic_fetch_and(&set[page / 64], ~bit) & bit;
}

static void finish(struct pull *p)
{
	uint64_t one = 1;

	atomic_store(&p->stop, true);
	if (write(p->over, &one, sizeof(one)) < 0)
		return; /* it is readable already */
}

/* --- placing --- */

static int wake(const struct pull *p, uint64_t page)
{
	struct uffdio_range r = { (uintptr_t)p->vm + page * FLOOR_PAGE_SIZE, FLOOR_PAGE_SIZE };

	return ioctl(p->uffd, UFFDIO_WAKE, &r) ? -errno : 0;
}

/* If the toucher waits for one of these pages, which are here now: its time ends, and it goes on. */
static int settle(struct pull *p, uint64_t page, unsigned n)
{
	uint64_t awaited = atomic_load(&p->awaited), since, now;

	if (!awaited || awaited - 1 < page || awaited - 1 - page >= n)
		return 0;
	now = clock_ns();
	since = atomic_load(&p->since_ns);
	if (!atomic_compare_exchange_strong(&p->awaited, &awaited, 0))
		return 0;
	p->fault_us[atomic_fetch_add(&p->nfaults, 1)] = (double)(now - since) / 1000;
	return wake(p, awaited - 1);
}

static int place(struct pull *p, uint64_t page, unsigned n, const char *from)
{
	uint64_t at = (uintptr_t)p->vm + page * FLOOR_PAGE_SIZE, len = (uint64_t)n * FLOOR_PAGE_SIZE;
	struct uffdio_copy copy = {
		.dst = at, .src = (uintptr_t)from, .len = len, .mode = UFFDIO_COPY_MODE_DONTWAKE
	};
	struct uffdio_continue cont = { .range = { at, len }, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE };
	int err = p->memfd ? ioctl(p->uffd, UFFDIO_CONTINUE, &cont) : ioctl(p->uffd, UFFDIO_COPY, &copy);

	if (err)
		return -errno;
	for (unsigned i = 0; i < n; i++)
		take(p->missing, page + i);
	err = settle(p, page, n);
	if (atomic_fetch_sub(&p->left, n) == n) {
		atomic_store(&p->end_ns, clock_ns());
		finish(p);
	}
	return err;
}

static int place_arrived(struct pull *p, struct get *g)
{
	unsigned whole = (unsigned)(g->got / FLOOR_PAGE_SIZE);
	int err = 0;

	while (g->placed < whole && !err) {
		uint32_t page = g->q.page[g->placed];
		unsigned n = 1;

		while (g->placed + n < whole && g->q.page[g->placed + n] == page + n)
			n++;
		err = place(p, page, n, g->buf + (size_t)g->placed * FLOOR_PAGE_SIZE);
		g->placed += n;
	}
	return err;
}

/* --- the background fetch --- */

/* The lowest n bits that are set. */
static uint64_t lowest(uint64_t word, unsigned n)
{
	uint64_t rest = word;

	while (rest && n--)
		rest &= rest - 1;
	return word ^ rest;
}

/* Takes pages that nobody has asked for out of todo, from the puller's place on. */
static unsigned claim(struct puller *w, uint32_t *page)
{
	struct pull *p = w->p;
	unsigned n = 0;

	for (uint64_t words = 0; words <= p->nwords; words++) {
		uint64_t mine = lowest(atomic_load(&p->todo[w->at]), PULL_BATCH - n);

		if (mine)
			mine &= atomic_fetch_and(&p->todo[w->at], ~mine);
		for (; mine; mine &= mine - 1)
			page[n++] = (uint32_t)(w->at * 64) + (uint32_t)__builtin_ctzll(mine);
		if (n == PULL_BATCH)
			return n;
		w->at = w->at + 1 < p->nwords ? w->at + 1 : 0;
	}
	w->all_done = true;
	return n;
}

/* 1 if it has asked for pages, 0 if not. */
static int ask(struct puller *w)
{
	struct get *g = &w->get[(w->oldest + w->flying) % DEPTH];
	int err;

	if (w->all_done || w->flying == DEPTH)
		return 0;
	g->q.n = claim(w, g->q.page);
	if (!g->q.n)
		return 0;
	g->got = g->placed = 0;
	w->flying++;
	err = write_full(w->sock, &g->q, PULL_REQUEST_BYTES(g->q.n));
	return err ? err : 1;
}

/* Receives and places at most a piece of the oldest get: 1, or 0 if nothing has come. */
static int receive(struct puller *w)
{
	struct get *g = &w->get[w->oldest];
	size_t left = (size_t)g->q.n * FLOOR_PAGE_SIZE - g->got, len = left < PIECE ? left : PIECE;
	struct iovec iov[PULL_BATCH];
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 1 };
	ssize_t n;
	int err;

	if (!w->flying)
		return 0;
	if (w->p->memfd)
		msg.msg_iovlen = (size_t)pull_iov(iov, g->q.page, g->got, len, w->p->inbox);
	else
		iov[0] = (struct iovec){ g->buf + g->got, len };
	n = recvmsg(w->sock, &msg, MSG_DONTWAIT);
	if (n <= 0)
		return !n ? -EPIPE : errno == EAGAIN || errno == EINTR ? 0 : -errno;
	g->got += (size_t)n;
	if ((size_t)n == left) {
		w->oldest = (w->oldest + 1) % DEPTH;
		w->flying--;
	}
	err = place_arrived(w->p, g);
	return err ? err : 1;
}

/* --- faults --- */

static int take_fault(struct puller *w)
{
	struct pull_request q = { .n = 1 };
	struct pull *p = w->p;
	struct uffd_msg msg;
	ssize_t n = read(p->uffd, &msg, sizeof(msg));
	uint64_t page;
	int err;

	if (n != sizeof(msg))
		return n >= 0 || errno == EAGAIN || errno == EINTR ? 0 : -errno;
	atomic_store(&p->since_ns, clock_ns());
	page = (msg.arg.pagefault.address - (uintptr_t)p->vm) / FLOOR_PAGE_SIZE;
	if (!has(p->missing, page)) { /* placed since it was touched */
		err = wake(p, page);
		return err ? err : 1;
	}
	atomic_store(&p->awaited, page + 1);
	w->at = page / 64; /* the background fetch goes on from here */
	if (take(p->todo, page)) {
		q.page[0] = p->urgent_page = (uint32_t)page;
		p->urgent_got = 0;
		p->urgent_flying = true;
		err = write_full(p->urgent, &q, PULL_REQUEST_BYTES(1));
	} else { /* on its way, or placed by another puller before that saw awaited */
		err = has(p->missing, page) ? 0 : settle(p, page, 1);
	}
	return err ? err : 1;
}

static int take_answer(struct pull *p)
{
	char *into = p->memfd ? p->inbox + (uint64_t)p->urgent_page * FLOOR_PAGE_SIZE : p->urgent_buf;
	ssize_t n;
	int err;

	if (!p->urgent_flying)
		return 0;
	n = recv(p->urgent, into + p->urgent_got, FLOOR_PAGE_SIZE - p->urgent_got, MSG_DONTWAIT);
	if (n <= 0)
		return !n ? -EPIPE : errno == EAGAIN || errno == EINTR ? 0 : -errno;
	p->urgent_got += (size_t)n;
	if (p->urgent_got < FLOOR_PAGE_SIZE)
		return 1;
	p->urgent_flying = false;
	err = place(p, p->urgent_page, 1, into);
	return err ? err : 1;
}

static bool expects(const struct puller *w)
{
	return w->first && w->p->urgent_flying && clock_ns() - atomic_load(&w->p->since_ns) < EXPECT_NS;
}

static void await(struct puller *w)
{
	const struct pull *p = w->p;
	struct pollfd fds[4] = { { .fd = p->over, .events = POLLIN },
				 { .fd = w->flying ? w->sock : -1, .events = POLLIN },
				 { .fd = w->first ? p->uffd : -1, .events = POLLIN },
				 { .fd = w->first && p->urgent_flying ? p->urgent : -1, .events = POLLIN } };

	if (!pull_poll(&w->wait))
		poll(fds, 4, -1);
}

/* Faults first. 1 if there was something to do, 0 if not. */
static int step(struct puller *w)
{
	int did = 0, n = 0;

	if (w->first) {
		n = take_answer(w->p);
		did |= n;
		if (n >= 0)
			n = take_fault(w);
		did |= n;
	}
	if (n >= 0)
		n = ask(w);
	did |= n;
	if (n >= 0 && !expects(w))
		n = receive(w);
	return n < 0 ? n : did | n;
}

static void *pull_pages(void *arg)
{
	struct puller *w = arg;
	uint64_t never = 0;
	int did;

	pthread_barrier_wait(&w->p->start);
	atomic_compare_exchange_strong(&w->p->begin_ns, &never, clock_ns());
	while (!atomic_load(&w->p->stop)) {
		did = step(w);
		if (did < 0) {
			w->err = did;
			finish(w->p);
		} else if (did) {
			w->wait.work_ns = clock_ns();
		} else {
			await(w);
		}
	}
	return NULL;
}

/* --- the toucher --- */

static uint64_t scatter(uint64_t x)
{
	x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
	return x ^ (x >> 31);
}

/* Paced as the VMM's guest: a visit per millisecond, and what is more than DEBT_NS late is dropped. */
static void *touch(void *arg)
{
	struct pull *p = arg;
	uint64_t rate = p->ask->rate, n = 0, begin, next, owed;

	pthread_barrier_wait(&p->start);
	begin = next = clock_ns();
	while (!atomic_load(&p->stop)) {
		owed = (uint64_t)((double)(clock_ns() - begin) * (double)rate / 1e9);
		if (owed > n + rate * DEBT_NS / 1000000000)
			n = owed - rate * DEBT_NS / 1000000000;
		for (; n < owed && !atomic_load_explicit(&p->stop, memory_order_relaxed); n++) {
			uint64_t page = (uint64_t)(((unsigned __int128)scatter(n + 1) * p->npages) >> 64);

			((volatile uint64_t *)(p->vm + page * FLOOR_PAGE_SIZE))[TOUCHED_WORD] = n;
			atomic_fetch_add_explicit(&p->touched, 1, memory_order_relaxed);
		}
		next += VISIT_NS;
		if (next < clock_ns())
			next = clock_ns() + VISIT_NS;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME,
				&(struct timespec){ (time_t)(next / 1000000000), (long)(next % 1000000000) },
				NULL);
	}
	return NULL;
}

/* --- all of it --- */

static int map_area(struct pull *p, char *why, size_t cap)
{
	int fd = -1, flags = p->memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	uint64_t len = p->ask->spread;

	if (p->memfd) {
		fd = memfd_create("floor-pull", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, (off_t)len))
			return floor_say(why, cap, -errno, "a memfd for the floor's pull");
		p->inbox = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);
	}
	p->vm = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (p->vm == MAP_FAILED || p->inbox == MAP_FAILED)
		return floor_say(why, cap, -errno, "memory for the floor's pull");
	if (fd >= 0)
		close(fd);
	madvise(p->vm, len, MADV_NOHUGEPAGE);
	memset(p->vm, 1, len);
	if (p->inbox)
		memset(p->inbox, 1, len);
	return 0;
}

static int make_pull(struct pull *p, char *why, size_t cap)
{
	size_t staging = (size_t)PULL_BATCH * FLOOR_PAGE_SIZE, all = (p->ask->channels * DEPTH + 1) * staging;
	char *buf = aligned_alloc(FLOOR_PAGE_SIZE, all);

	p->todo = calloc(p->nwords, sizeof(*p->todo));
	p->missing = calloc(p->nwords, sizeof(*p->missing));
	p->fault_us = calloc(p->ask->pages, sizeof(*p->fault_us));
	p->over = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!buf || !p->todo || !p->missing || !p->fault_us || p->over < 0)
		return floor_say(why, cap, -ENOMEM, "the floor's pull");
	memset(buf, 1, all);
	memset(p->fault_us, 0, p->ask->pages * sizeof(*p->fault_us));
	for (unsigned i = 0; i < p->ask->channels; i++) {
		p->puller[i].p = p;
		p->puller[i].first = i == 0;
		p->puller[i].at = p->nwords * i / p->ask->channels;
		for (unsigned k = 0; k < DEPTH; k++, buf += staging)
			p->puller[i].get[k].buf = buf;
	}
	p->urgent_buf = buf;
	p->uffd = floor_uffd(p->memfd, why, cap);
	return p->uffd < 0 ? p->uffd : map_area(p, why, cap);
}

/* Each connection of the source names itself by a byte. */
static int accept_all(struct pull *p, int listener)
{
	for (unsigned i = 0; i <= p->ask->channels; i++) {
		struct pollfd fds = { .fd = listener, .events = POLLIN };
		unsigned char index = 0;
		int sock, err;

		if (poll(&fds, 1, PATIENCE_MS) <= 0)
			return -ETIMEDOUT;
		sock = accept(listener, NULL, NULL);
		if (sock < 0)
			return -errno;
		floor_tune(sock);
		err = read_full(sock, &index, 1);
		if (err || index > p->ask->channels)
			return err ? err : -EPROTO;
		if (index)
			p->puller[index - 1].sock = sock;
		else
			p->urgent = sock;
	}
	return 0;
}

/* Selection sampling (Knuth, The Art of Computer Programming 3.4.2, algorithm S); each time the same pages. */
static bool choose(const struct pull *p, uint64_t page, uint64_t *need)
{
	if (scatter(~page) % (p->npages - page) >= *need)
		return false;
	--*need;
	return true;
}

/* Makes the chosen pages missing. */
static int drop(struct pull *p)
{
	uint64_t need = p->ask->pages, n = 0;

	for (uint64_t page = 0; page <= p->npages; page++) {
		if (page < p->npages && choose(p, page, &need)) {
			p->todo[page / 64] |= UINT64_C(1) << (page % 64);
			p->missing[page / 64] |= UINT64_C(1) << (page % 64);
			if (p->inbox)
				*(uint64_t *)(p->inbox + page * FLOOR_PAGE_SIZE) = 0;
			n++;
			continue;
		}
		if (n && madvise(p->vm + (page - n) * FLOOR_PAGE_SIZE, n * FLOOR_PAGE_SIZE, MADV_DONTNEED))
			return -errno;
		n = 0;
	}
	return 0;
}

/* Whether each page that was missing has come. */
static bool right(const struct pull *p)
{
	uint64_t need = p->ask->pages;

	for (uint64_t page = 0; page < p->npages; page++)
		if (choose(p, page, &need) && *(uint64_t *)(p->vm + page * FLOOR_PAGE_SIZE) != ~page)
			return false;
	return true;
}

/* After an error the process ends, and the threads with it. */
static int run_threads(struct pull *p)
{
	struct uffdio_range all = { (uintptr_t)p->vm, p->npages * FLOOR_PAGE_SIZE };
	pthread_t toucher;
	int err = -pthread_barrier_init(&p->start, NULL, p->ask->channels + 1);

	if (!err)
		err = -pthread_create(&toucher, NULL, touch, p);
	for (unsigned i = 1; i < p->ask->channels && !err; i++)
		err = -pthread_create(&p->puller[i].thread, NULL, pull_pages, &p->puller[i]);
	if (err)
		return err;
	pull_pages(&p->puller[0]);
	for (unsigned i = 0; i < p->ask->channels; i++) {
		if (i)
			pthread_join(p->puller[i].thread, NULL);
		err = err ? err : p->puller[i].err;
	}
	/* The toucher may still wait for a page that is there. For a memfd, unregistering wakes nobody. */
	if ((ioctl(p->uffd, UFFDIO_UNREGISTER, &all) || ioctl(p->uffd, UFFDIO_WAKE, &all)) && !err)
		err = -errno;
	if (err)
		return err;
	pthread_join(toucher, NULL);
	pthread_barrier_destroy(&p->start);
	return 0;
}

static int measure(struct pull *p, struct floor_pull *ret)
{
	struct uffdio_register reg = { .range = { (uintptr_t)p->vm, p->npages * FLOOR_PAGE_SIZE },
				       .mode = p->memfd ? UFFDIO_REGISTER_MODE_MINOR
							: UFFDIO_REGISTER_MODE_MISSING };
	int err = ioctl(p->uffd, UFFDIO_REGISTER, &reg) ? -errno : drop(p);

	if (!err)
		err = run_threads(p);
	if (err)
		return err;
	sort_double(p->fault_us, p->nfaults);
	*ret = (struct floor_pull){
		.total_ms = (double)(p->end_ns - p->begin_ns) / 1e6,
		.fault_p50_us = quantile(p->fault_us, p->nfaults, 0.5),
		.fault_p99_us = quantile(p->fault_us, p->nfaults, 0.99),
		.faults = p->nfaults,
		.touched = p->touched,
	};
	return right(p) ? 0 : -EIO;
}

int floor_pull(struct floor_pull *ret, const struct floor_pull_ask *ask, int listener, int memfd, char *why,
	       size_t cap)
{
	struct pull *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return floor_say(why, cap, -ENOMEM, "the floor's pull");
	p->ask = ask;
	p->memfd = memfd;
	p->npages = ask->spread / FLOOR_PAGE_SIZE;
	p->nwords = (p->npages + 63) / 64;
	p->left = ask->pages;
	err = make_pull(p, why, cap);
	if (err)
		return err; /* the end of the process releases everything */
	err = accept_all(p, listener);
	if (!err)
		err = measure(p, ret);
	return err ? floor_say(why, cap, err, "the floor's pull") : 0;
}
