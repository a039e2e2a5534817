// SPDX-License-Identifier: MIT
/*
 * A run that arrives where one of its pages is mapped already, as when a link is lost between the mapping and its being known,
 * or two vCPUs wait for one page: the others are mapped all the same, what is there stays as it is, and whoever waits goes on.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "patience.h"
#include "runtime/base/fail.h"
#include "runtime/memory/place_int.h"
#include "runtime/memory/uffd.h"

#define N 16u
#define PAGE ((size_t)4096)
#define WAIT_S 30u

struct bench {
	struct ferry_region reg;
	struct place p;
	struct page_set missing;
	uint8_t *came;	      /* what the source sends */
	uint8_t expect[N];    /* the first byte of each page in the end */
	unsigned touched;     /* the page that the vCPU waits for */
	_Atomic unsigned saw; /* + 1; 0: it waits */
};

/* The kinds of memory that differ in how a page gets there. */
enum memory { ANON, MEMFD, MEMFD_BY_KERNEL };

static void begin(struct bench *b, enum memory memory)
{
	bool shared = memory != ANON;
	const uint64_t n = N;
	struct fail f = { 0 };

	*b = (struct bench){ .reg = { .id = 3, .len = N * PAGE, .page_shift = 12, .fd = -1 } };
	if (shared) {
		b->reg.flags = FERRY_REGION_SHARED;
		b->reg.fd = memfd_create("place", MFD_CLOEXEC);
		cr_assert_eq(ftruncate(b->reg.fd, (off_t)b->reg.len), 0);
	}
	b->reg.hva = mmap(NULL, b->reg.len, PROT_READ | PROT_WRITE,
			  shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, b->reg.fd, 0);
	cr_assert_neq(b->reg.hva, MAP_FAILED);
	b->came = malloc(N * PAGE);
	for (unsigned i = 0; i < N; i++) {
		b->expect[i] = (uint8_t)(100 + i);
		memset(b->came + i * PAGE, b->expect[i], PAGE);
	}
	cr_assert_eq(page_set_init(&b->missing, &n, 1), 0);
	page_set_add_run(&b->missing, &(struct page_run){ .npages = N });
	cr_assert_eq(place_open(&b->p, &b->reg, 1,
				&(struct place_param){ .way = memory == MEMFD_BY_KERNEL
								      ? FERRY_LANDING_WAY_KERNEL
								      : FERRY_LANDING_WAY_MAPPING },
				&f),
		     0, "%s", fail_text(&f));
	if (place_arm(&b->p, &f) < 0)
		cr_skip_test("%s", fail_text(&f));
	place_expect(&b->p, &b->missing);
}

/* As worker and transport do it: bytes into the inbox where pages are received in their place. */
static void arrive(struct bench *b, uint64_t page, uint32_t n, bool wake)
{
	const struct page_run run = { .page = page, .npages = n };
	struct fail f = { 0 };
	uint64_t done;

	if (place_direct(&b->p, 0))
		memcpy(place_inbox(&b->p, 0) + page * PAGE, b->came + page * PAGE, n * PAGE);
	cr_assert_eq(place_run(&b->p, &run, b->came + page * PAGE, wake, &done, &f), 0, "%s", fail_text(&f));
}

/* All is there: nothing waits any more, what was not mapped would read as zeros. */
static void end(struct bench *b)
{
	cr_assert_eq(page_set_count(&b->missing), 0);
	place_disarm(&b->p);
	for (unsigned i = 0; i < N; i++)
		for (size_t at = 0; at < PAGE; at++)
			cr_assert_eq(((uint8_t *)b->reg.hva)[i * PAGE + at], b->expect[i], "page %u byte %zu",
				     i, at);
	place_close(&b->p);
	page_set_destroy(&b->missing);
	munmap(b->reg.hva, b->reg.len);
	if (b->reg.fd >= 0)
		close(b->reg.fd);
	free(b->came);
}

static void *touch(void *arg)
{
	struct bench *b = arg;

	b->saw = ((volatile uint8_t *)b->reg.hva)[b->touched * PAGE] + 1;
	return NULL;
}

/* A vCPU that waits for the page: its fault has been read. */
static pthread_t wait_for_page(struct bench *b, unsigned page)
{
	uint64_t addr;
	pthread_t t;
	int n;

	b->touched = page;
	cr_assert_eq(pthread_create(&t, NULL, touch, b), 0);
	while ((n = uffd_read(b->p.uffd, &addr, 1)) == 0)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	cr_assert_eq(n, 1);
	cr_assert_eq(addr & ~(PAGE - 1), (uintptr_t)b->reg.hva + page * PAGE);
	return t;
}

static void goes_on(struct bench *b, pthread_t t)
{
	for (unsigned ms = 0; ms < WAIT_S * 1000 * patience() && !b->saw; ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	cr_assert_eq(b->saw, b->expect[b->touched] + 1u, "the vCPU saw %u", b->saw);
	pthread_join(t, NULL);
}

/* Each page of the run, the first and the last too, and several at once. */
static void some_are_there(enum memory memory)
{
	static const uint16_t there[] = { 1 << 5, 1 << 0, 1 << (N - 1), 0x0ff0, 0x5555, 0xaaaa, 0xffff };

	for (size_t k = 0; k < sizeof(there) / sizeof(there[0]); k++) {
		struct bench b;

		begin(&b, memory);
		for (unsigned i = 0; i < N; i++)
			if (there[k] >> i & 1)
				arrive(&b, i, 1, true);
		arrive(&b, 0, N, true);
		end(&b);
	}
}

Test(place, pages_that_are_there_keep_none_of_their_run_away)
{
	some_are_there(ANON);
}

Test(place, pages_that_are_there_keep_none_of_their_run_away_memfd)
{
	some_are_there(MEMFD);
}

Test(place, pages_that_are_there_keep_none_of_their_run_away_by_the_kernel)
{
	some_are_there(MEMFD_BY_KERNEL);
}

/* What the vCPU has written meanwhile is newer than what comes again. */
Test(place, a_page_that_is_there_keeps_what_was_written_to_it)
{
	struct bench b;

	begin(&b, ANON);
	arrive(&b, 5, 1, true);
	memset((uint8_t *)b.reg.hva + 5 * PAGE, 7, PAGE);
	b.expect[5] = 7;
	arrive(&b, 0, N, true);
	end(&b);
}

/* Mapped without a wake, as answers to faults are: the run that comes to it wakes who waits. */
static void wakes(enum memory memory)
{
	struct bench b;
	pthread_t t;

	begin(&b, memory);
	t = wait_for_page(&b, 5);
	arrive(&b, 5, 1, false);
	cr_assert_eq(b.saw, 0);
	arrive(&b, 0, N, true);
	goes_on(&b, t);
	end(&b);
}

Test(place, who_waits_for_a_page_that_is_there_is_woken)
{
	wakes(ANON);
}

Test(place, who_waits_for_a_page_that_is_there_is_woken_memfd)
{
	wakes(MEMFD);
}

Test(place, who_waits_for_a_page_that_is_there_is_woken_by_the_kernel)
{
	wakes(MEMFD_BY_KERNEL);
}

/* Without wake, who waits goes on at place_wake(), and not before. */
Test(place, who_waits_is_woken_apart_from_the_mapping)
{
	struct bench b;
	pthread_t t;

	begin(&b, ANON);
	t = wait_for_page(&b, 0);
	arrive(&b, 0, N, false);
	cr_assert_eq(b.saw, 0);
	place_wake(&b.p, &(struct page_run){ .npages = 1 });
	goes_on(&b, t);
	end(&b);
}
