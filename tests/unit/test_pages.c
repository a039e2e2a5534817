/* SPDX-License-Identifier: MIT */
/* Sets of pages: one at a time, by runs, by words, and with several threads at once. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/memory/pages.h"

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

Test(pages, one_page_at_a_time)
{
	const uint64_t npages[] = { 1, 64, 65, 1000 };
	const struct page_run last = { .region = 3, .page = 999, .npages = 1 };
	struct page_set s;

	cr_assert_eq(page_set_init(&s, npages, 4), 0);
	for (uint32_t r = 0; r < 4; r++) {
		for (uint64_t p = 0; p < npages[r]; p++) {
			cr_assert_not(page_set_test(&s, r, p));
			cr_assert(page_set_add(&s, r, p));
			cr_assert_not(page_set_add(&s, r, p));
			cr_assert(page_set_test(&s, r, p));
		}
	}
	cr_assert_eq(page_set_count(&s), 1130);
	cr_assert_eq(page_set_del_run(&s, &last), 1);
	cr_assert_eq(page_set_del_run(&s, &last), 0);
	cr_assert_eq(page_set_count(&s), 1129);
	page_set_clear(&s);
	cr_assert_eq(page_set_count(&s), 0);
	page_set_destroy(&s);
	page_set_destroy(&s);
}

Test(pages, no_regions_and_empty_regions)
{
	const uint64_t npages[] = { 0, 3, 0 };
	struct page_cursor at = { 0 };
	struct page_set s;
	struct page_run run;

	cr_assert_eq(page_set_init(&s, NULL, 0), 0);
	cr_assert_eq(page_set_count(&s), 0);
	cr_assert_not(page_set_claim(&s, &at, 8, &run));
	page_set_destroy(&s);

	cr_assert_eq(page_set_init(&s, npages, 3), 0);
	page_set_add(&s, 1, 2);
	cr_assert(page_set_claim(&s, &at, 8, &run));
	cr_assert(run.region == 1 && run.page == 2 && run.npages == 1);
	cr_assert_not(page_set_claim(&s, &at, 8, &run));
	cr_assert_eq(at.region, 3);
	page_set_destroy(&s);
}

Test(pages, runs_cross_words_and_count_only_changes)
{
	const uint64_t npages = 1000;
	struct page_run run = { .page = 60, .npages = 140 }, got;
	struct page_cursor at = { 0 };
	struct page_set s;

	page_set_init(&s, &npages, 1);
	page_set_add(&s, 0, 100);
	cr_assert_eq(page_set_add_run(&s, &run), 139);
	cr_assert_eq(page_set_add_run(&s, &run), 0);
	cr_assert_not(page_set_test(&s, 0, 59));
	cr_assert_not(page_set_test(&s, 0, 200));

	cr_assert(page_set_next(&s, &at, 1000, &got));
	cr_assert(got.page == 60 && got.npages == 140);
	cr_assert_not(page_set_next(&s, &at, 1000, &got));

	at = (struct page_cursor){ 0 };
	cr_assert(page_set_claim(&s, &at, 100, &got));
	cr_assert(got.page == 60 && got.npages == 100 && at.page == 160);
	cr_assert(page_set_claim(&s, &at, 100, &got));
	cr_assert(got.page == 160 && got.npages == 40);
	cr_assert_eq(page_set_count(&s), 0);

	run = (struct page_run){ .page = 0, .npages = 1000 };
	cr_assert_eq(page_set_add_run(&s, &run), 1000);
	run = (struct page_run){ .page = 1, .npages = 998 };
	cr_assert_eq(page_set_del_run(&s, &run), 998);
	cr_assert_eq(page_set_count(&s), 2);
	run = (struct page_run){ .page = 1000, .npages = 0 };
	cr_assert_eq(page_set_add_run(&s, &run), 0);
	page_set_destroy(&s);
}

Test(pages, merge_and_subtract)
{
	const uint64_t npages[] = { 200, 300 };
	struct page_set a, b;

	page_set_init(&a, npages, 2);
	page_set_init(&b, npages, 2);
	page_set_add_run(&a, &(struct page_run){ .region = 0, .page = 0, .npages = 100 });
	page_set_add_run(&b, &(struct page_run){ .region = 0, .page = 50, .npages = 100 });
	page_set_add_run(&b, &(struct page_run){ .region = 1, .page = 299, .npages = 1 });
	cr_assert_eq(page_set_merge(&a, &b), 51);
	cr_assert_eq(page_set_count(&a), 151);
	cr_assert_eq(page_set_count(&b), 101);
	page_set_subtract(&a, &b);
	cr_assert_eq(page_set_count(&a), 50);
	cr_assert(page_set_test(&a, 0, 49) && !page_set_test(&a, 0, 50) && !page_set_test(&a, 1, 299));
	page_set_destroy(&a);
	page_set_destroy(&b);
}

Test(pages, a_walk_with_an_end_stops_there)
{
	const uint64_t npages[] = { 500, 500 };
	struct page_cursor at;
	struct page_set s;
	struct page_run run;

	page_set_init(&s, npages, 2);
	page_set_add_run(&s, &(struct page_run){ .region = 0, .page = 0, .npages = 500 });
	page_set_add_run(&s, &(struct page_run){ .region = 1, .page = 0, .npages = 500 });

	at = (struct page_cursor){ .page = 100, .end = 130 };
	cr_assert(page_set_next(&s, &at, 1000, &run) && run.page == 100 && run.npages == 30);
	cr_assert_not(page_set_next(&s, &at, 1000, &run));
	cr_assert(at.region == 0 && at.page == 130);

	at = (struct page_cursor){ .page = 100, .end = 200 };
	cr_assert(page_set_claim(&s, &at, 70, &run) && run.page == 100 && run.npages == 70);
	cr_assert(page_set_claim(&s, &at, 70, &run) && run.page == 170 && run.npages == 30);
	cr_assert_not(page_set_claim(&s, &at, 70, &run));
	cr_assert_eq(page_set_count(&s), 900);

	at = (struct page_cursor){ .region = 1, .page = 490, .end = 9999 };
	cr_assert(page_set_claim(&s, &at, 70, &run) && run.page == 490 && run.npages == 10);
	cr_assert_not(page_set_claim(&s, &at, 70, &run));
	page_set_destroy(&s);
}

Test(pages, words_set_from_outside_are_cut_to_the_region)
{
	const uint64_t npages[] = { 64, 100 };
	struct page_set s;
	uint64_t *words;

	page_set_init(&s, npages, 2);
	words = page_set_words(&s, 1);
	words[0] = 0xf0;
	words[1] = UINT64_MAX;
	cr_assert_eq(page_set_trim(&s, 1), 4 + 36);
	cr_assert_eq(page_set_count(&s), 40);
	page_set_words(&s, 0)[0] = UINT64_MAX;
	cr_assert_eq(page_set_trim(&s, 0), 64);
	cr_assert_eq(page_set_trim(&s, 1), 40);
	cr_assert_eq(page_set_count(&s), 104);
	page_set_destroy(&s);
}

Test(pages, a_moved_set_is_empty_and_counts_what_was_new)
{
	const uint64_t npages[] = { 100, 1 << 24 };
	struct page_set a, b;

	page_set_init(&a, npages, 2);
	page_set_init(&b, npages, 2);
	page_set_add(&a, 0, 7);
	page_set_add(&b, 0, 7);
	page_set_add(&b, 0, 99);
	page_set_add_run(&b, &(struct page_run){ .region = 1, .page = 5, .npages = (1 << 24) - 5 });
	cr_assert_eq(page_set_move(&a, &b), 1 + (1 << 24) - 5);
	cr_assert_eq(page_set_count(&a), 2 + (1 << 24) - 5);
	cr_assert_eq(page_set_count(&b), 0);
	/* Its memory was given back; the set is as good as new. */
	page_set_add(&b, 1, 1 << 20);
	cr_assert_eq(page_set_move(&a, &b), 0);
	page_set_clear(&a);
	cr_assert_eq(page_set_count(&a), 0);
	page_set_add(&a, 1, 3);
	cr_assert(page_set_test(&a, 1, 3) && page_set_count(&a) == 1);
	page_set_destroy(&a);
	page_set_destroy(&b);
}

/* Walks against a plain array of bytes. */
Test(pages, walks_agree_with_a_model)
{
	enum { N = 777 };
	const uint64_t npages = N;
	uint64_t seed = 0x1234567;

	for (int i = 0; i < 300; i++) {
		unsigned density = random_next(&seed) % 101;
		uint32_t max = 1 + random_next(&seed) % 200;
		bool in[N];
		struct page_cursor at = { 0 };
		struct page_run run;
		struct page_set s;
		uint64_t page = 0;

		page_set_init(&s, &npages, 1);
		for (uint64_t p = 0; p < N; p++) {
			in[p] = random_next(&seed) % 100 < density;
			if (in[p])
				page_set_add(&s, 0, p);
		}
		while (i % 2 ? page_set_claim(&s, &at, max, &run) : page_set_next(&s, &at, max, &run)) {
			cr_assert(run.npages >= 1 && run.npages <= max);
			for (; page < run.page; page++)
				cr_assert_not(in[page]);
			for (; page < run.page + run.npages; page++)
				cr_assert(in[page]);
			cr_assert(run.npages == max || page == N || !in[page], "the run ended too early");
		}
		for (; page < N; page++)
			cr_assert_not(in[page]);
		if (i % 2)
			cr_assert_eq(page_set_count(&s), 0);
		page_set_destroy(&s);
	}
}

/* Every way to set and to clear, on sets of many groups of words, against one byte a page. */
#define GROUPS_PAGES (3 * 64 * 4096 + 4096 * 5 + 77)

struct model {
	struct page_set set;
	uint8_t *in;
};

static struct page_run some_run(uint64_t *seed)
{
	uint64_t page = random_next(seed) % GROUPS_PAGES, most = random_next(seed) % 8 ? 3 : 9000;
	uint64_t n = 1 + random_next(seed) % most;

	return (struct page_run){ .page = page,
				  .npages = (uint32_t)(n < GROUPS_PAGES - page ? n : GROUPS_PAGES - page) };
}

static void change(struct model *m, uint64_t *seed)
{
	struct page_run run = some_run(seed);
	uint64_t word = run.page & ~UINT64_C(63), how = random_next(seed) % 6, bits = 0;
	struct page_cursor at = { .page = run.page };

	if (how == 3 || how == 4)
		bits = random_next(seed) & random_next(seed);
	if (word + 64 > GROUPS_PAGES)
		bits &= (UINT64_C(1) << (GROUPS_PAGES - word)) - 1;
	switch (how) {
	case 0:
		cr_assert_eq(page_set_add(&m->set, 0, run.page), !m->in[run.page]);
		m->in[run.page] = 1;
		break;
	case 1:
		page_set_add_run(&m->set, &run);
		memset(m->in + run.page, 1, run.npages);
		break;
	case 2:
		page_set_del_run(&m->set, &run);
		memset(m->in + run.page, 0, run.npages);
		break;
	case 3:
		page_set_add_word(&m->set, 0, word, bits);
		break;
	case 4:
		page_set_words(&m->set, 0)[word / 64] |= bits;
		page_set_trim(&m->set, 0);
		break;
	default:
		if (page_set_claim(&m->set, &at, 50, &run))
			memset(m->in + run.page, 0, run.npages);
	}
	for (uint64_t i = 0; i < 64 && word + i < GROUPS_PAGES; i++)
		m->in[word + i] |= bits >> i & 1;
}

static void changed(struct model *m, uint64_t *seed)
{
	for (unsigned k = 0; k < 40; k++)
		change(m, seed);
}

static void same(const struct model *m)
{
	struct page_cursor at = { 0 };
	struct page_run run;
	uint64_t page = 0, count = 0;

	while (page_set_next(&m->set, &at, UINT32_MAX, &run)) {
		for (; page < run.page; page++)
			cr_assert_eq(m->in[page], 0, "page %llu", (unsigned long long)page);
		for (; page < run.page + run.npages; page++, count++)
			cr_assert_eq(m->in[page], 1, "page %llu", (unsigned long long)page);
	}
	for (; page < GROUPS_PAGES; page++)
		cr_assert_eq(m->in[page], 0, "page %llu", (unsigned long long)page);
	cr_assert_eq(page_set_count(&m->set), count);
}

Test(pages, sets_of_many_groups_agree_with_a_model)
{
	const uint64_t npages = GROUPS_PAGES;
	struct model m[2];
	uint64_t seed = 0x9876543;

	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(page_set_init(&m[i].set, &npages, 1), 0);
		cr_assert_not_null(m[i].in = calloc(1, npages));
	}
	for (unsigned round = 0; round < 200; round++) {
		uint64_t added = 0;

		changed(&m[0], &seed);
		changed(&m[1], &seed);
		for (uint64_t p = 0; p < npages; p++)
			added += m[1].in[p] & ~m[0].in[p];
		page_set_tidy(&m[random_next(&seed) % 2].set);
		switch (random_next(&seed) % 4) {
		case 0:
			cr_assert_eq(page_set_merge(&m[0].set, &m[1].set), added);
			for (uint64_t p = 0; p < npages; p++)
				m[0].in[p] |= m[1].in[p];
			break;
		case 1:
			page_set_subtract(&m[0].set, &m[1].set);
			for (uint64_t p = 0; p < npages; p++)
				m[0].in[p] &= !m[1].in[p];
			break;
		case 2:
			cr_assert_eq(page_set_move(&m[0].set, &m[1].set), added);
			for (uint64_t p = 0; p < npages; p++)
				m[0].in[p] |= m[1].in[p];
			memset(m[1].in, 0, npages);
			break;
		default:
			page_set_clear(&m[1].set);
			memset(m[1].in, 0, npages);
		}
		same(&m[0]);
		same(&m[1]);
	}
	for (unsigned i = 0; i < 2; i++) {
		page_set_destroy(&m[i].set);
		free(m[i].in);
	}
}

/* What looks at every word is at it for an hour. */
Test(pages, a_sparse_tebibyte_is_cheap)
{
	const uint64_t npages = UINT64_C(1) << 28;
	struct page_run run;
	struct page_set s;

	cr_assert_eq(page_set_init(&s, &npages, 1), 0);
	for (unsigned i = 0; i < 1000; i++) {
		struct page_cursor at = { 0 };

		page_set_add(&s, 0, npages - 1);
		page_set_add(&s, 0, npages / 2);
		cr_assert(page_set_next(&s, &at, 100, &run) && run.page == npages / 2);
		cr_assert(page_set_next(&s, &at, 100, &run) && run.page == npages - 1 && run.npages == 1);
		cr_assert_not(page_set_next(&s, &at, 100, &run));
		cr_assert_eq(page_set_count(&s), 2);
		page_set_clear(&s);
		cr_assert_eq(page_set_count(&s), 0);
	}
	page_set_destroy(&s);
}

/* So many runs that a walk which begins anew for each is at it for hours. */
Test(pages, a_walk_in_short_runs_is_linear)
{
	const uint64_t npages = UINT64_C(1) << 25;
	struct page_cursor at = { 0 };
	struct page_run run;
	struct page_set s;
	uint64_t seen = 0;

	page_set_init(&s, &npages, 1);
	page_set_add_run(&s, &(struct page_run){ .npages = npages });
	while (page_set_next(&s, &at, 16, &run))
		seen += run.npages;
	at = (struct page_cursor){ 0 };
	while (page_set_claim(&s, &at, 16, &run))
		seen += run.npages;
	cr_assert_eq(seen, 2 * npages);
	page_set_destroy(&s);
}

#define THREADS 4
#define SHARED_PAGES 5000u
#define ROUNDS 300

struct shared {
	struct page_set set;
	_Atomic uint32_t added[SHARED_PAGES], claimed[SHARED_PAGES];
	_Atomic int holders[SHARED_PAGES]; /* of a claimed page: never more than one */
	_Atomic uint64_t wrong;
};

struct worker {
	struct shared *sh;
	uint64_t seed;
};

static void claim_some(struct shared *sh, uint64_t *seed, struct page_run *run, bool *have)
{
	struct page_cursor at = { .page = random_next(seed) % SHARED_PAGES };

	*have = page_set_claim(&sh->set, &at, 1 + random_next(seed) % 150, run);
	for (uint64_t p = run->page; *have && p < run->page + run->npages; p++) {
		atomic_fetch_add(&sh->claimed[p], 1);
		if (atomic_fetch_add(&sh->holders[p], 1) != 0)
			atomic_fetch_add(&sh->wrong, 1);
	}
}

/* Claims runs and gives them back in pieces: a page is held by one thread or is in the set, never both. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct shared *sh = w->sh;

	for (int i = 0; i < ROUNDS; i++) {
		struct page_run run = { 0 }, piece;
		uint64_t p, end;
		bool have;

		claim_some(sh, &w->seed, &run, &have);
		if (!have)
			continue;
		for (p = run.page, end = run.page + run.npages; p < end; p += piece.npages) {
			piece = (struct page_run){ .page = p, .npages = 1 + random_next(&w->seed) % 90 };
			if (piece.npages > end - p)
				piece.npages = end - p;
			for (uint64_t q = p; q < p + piece.npages; q++) {
				atomic_fetch_sub(&sh->holders[q], 1);
				atomic_fetch_add(&sh->added[q], 1);
			}
			if (page_set_add_run(&sh->set, &piece) != piece.npages)
				atomic_fetch_add(&sh->wrong, 1);
		}
	}
	return NULL;
}

Test(pages, threads_claim_each_page_as_often_as_it_was_added)
{
	const uint64_t npages = SHARED_PAGES;
	struct shared *sh = calloc(1, sizeof(*sh));
	struct worker workers[THREADS];
	pthread_t threads[THREADS];
	struct page_cursor at = { 0 };
	struct page_run run;

	cr_assert_eq(page_set_init(&sh->set, &npages, 1), 0);
	for (uint64_t p = 0; p < SHARED_PAGES; p++) {
		page_set_add(&sh->set, 0, p);
		sh->added[p] = 1;
	}
	for (int i = 0; i < THREADS; i++) {
		workers[i] = (struct worker){ .sh = sh, .seed = 88172645463325252u + i };
		cr_assert_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);

	cr_assert_eq(sh->wrong, 0);
	cr_assert_eq(page_set_count(&sh->set), SHARED_PAGES);
	while (page_set_claim(&sh->set, &at, 1000, &run)) {
		for (uint64_t p = run.page; p < run.page + run.npages; p++)
			sh->claimed[p]++;
	}
	for (uint64_t p = 0; p < SHARED_PAGES; p++)
		cr_assert_eq(sh->added[p], sh->claimed[p], "page %lu", (unsigned long)p);
	page_set_destroy(&sh->set);
	free(sh);
}

/* ---- every change is one step, whoever comes in between ---- */

/*
 * The words are write-protected: a change faults at its first write, when it has read what it wants to read. The handler
 * changes the word as another thread would, and the write is tried again. A compare-and-swap then fails and looks again, any
 * other atomic change works on what is there now; a load and a store undo what came between them, each time.
 */
static struct {
	volatile uint64_t *word;
	size_t len;
	uint64_t takes, adds;
	unsigned came;
} other;

__attribute__((no_sanitize("thread"))) static void come_between(int sig)
{
	(void)sig;
	mprotect((void *)other.word, other.len, PROT_READ | PROT_WRITE);
	*other.word = (*other.word & ~other.takes) | other.adds;
	other.came++;
}

#define BETWEEN_PAGES (UINT64_C(1) << 15) /* a page of words */

/* A set with these bits in its first word. */
static struct page_set set_of(uint64_t bits)
{
	const uint64_t npages = BETWEEN_PAGES;
	struct page_set s;

	cr_assert_eq(page_set_init(&s, &npages, 1), 0);
	page_set_add_word(&s, 0, 0, bits);
	return s;
}

static void expect_between(struct page_set *s, uint64_t takes, uint64_t adds)
{
	struct sigaction act = { .sa_handler = come_between };

	sigemptyset(&act.sa_mask);
	cr_assert_eq(sigaction(SIGSEGV, &act, NULL), 0);
	other.word = (volatile uint64_t *)s->r[0].words;
	other.len = BETWEEN_PAGES / 8;
	other.takes = takes;
	other.adds = adds;
	other.came = 0;
	cr_assert_eq(mprotect((void *)other.word, other.len, PROT_READ), 0);
}

static void came_between(void)
{
	signal(SIGSEGV, SIG_DFL);
	cr_assert_eq(other.came, 1, "%u times", other.came);
}

static uint64_t bits_of(const struct page_run *run)
{
	return run->npages ? ~UINT64_C(0) >> (64 - run->npages) << run->page : 0;
}

/* What one thread has claimed no other has, and nothing is lost. */
Test(pages, a_claim_takes_nothing_that_another_took_meanwhile)
{
	static const uint64_t takes[] = { 0xff00, 0x00ff, 0xffff, 0x0001, 0x8000, 0x0ff0, 0 };
	const uint64_t bits = 0xffff;

	for (size_t i = 0; i < sizeof(takes) / sizeof(takes[0]); i++)
		for (uint64_t adds = 0; adds <= 0xf0000; adds += 0xf0000) {
			struct page_set s = set_of(bits);
			struct page_cursor at = { 0 };
			struct page_run run = { 0 };
			uint64_t taken, left;
			bool have;

			expect_between(&s, takes[i], adds);
			have = page_set_claim(&s, &at, 64, &run);
			came_between();
			taken = bits_of(&run);
			left = page_set_words(&s, 0)[0];
			cr_assert_eq(have, !!taken);
			cr_assert_eq(taken & takes[i], 0, "%#lx of what was taken already",
				     (unsigned long)(taken & takes[i]));
			cr_assert_eq(taken & left, 0);
			cr_assert_eq(taken | left, (bits & ~takes[i]) | adds);
			page_set_destroy(&s);
		}
}

static void add_one(struct page_set *s)
{
	page_set_add(s, 0, 5);
}

static void add_word(struct page_set *s)
{
	page_set_add_word(s, 0, 0, UINT64_C(1) << 5);
}

static void add_run(struct page_set *s)
{
	page_set_add_run(s, &(struct page_run){ .page = 5, .npages = 1 });
}

static void del_run(struct page_set *s)
{
	page_set_del_run(s, &(struct page_run){ .page = 5, .npages = 1 });
}

static void merge(struct page_set *s)
{
	struct page_set more = set_of(UINT64_C(1) << 5);

	page_set_merge(s, &more);
	page_set_destroy(&more);
}

static void subtract(struct page_set *s)
{
	struct page_set less = set_of(UINT64_C(1) << 5);

	page_set_subtract(s, &less);
	page_set_destroy(&less);
}

Test(pages, a_change_undoes_nothing_that_another_did_meanwhile)
{
	static const struct {
		const char *name;
		void (*change)(struct page_set *s);
		bool adds;
	} rows[] = {
		{ "add", add_one, true },     { "add_word", add_word, true },
		{ "add_run", add_run, true }, { "del_run", del_run, false },
		{ "merge", merge, true },     { "subtract", subtract, false },
	};
	const uint64_t bits = 0xff, takes = 0x81, adds = 0x300, own = UINT64_C(1) << 5;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct page_set s = set_of(rows[i].adds ? bits & ~own : bits);
		uint64_t due = (bits & ~takes) | adds;

		expect_between(&s, takes, adds);
		rows[i].change(&s);
		came_between();
		cr_expect_eq(page_set_words(&s, 0)[0], rows[i].adds ? due : due & ~own, "%s: %#lx",
			     rows[i].name, (unsigned long)page_set_words(&s, 0)[0]);
		page_set_destroy(&s);
	}
}

/* ---- nothing behind the bitmap is looked at ---- */

/* A set whose last word lies at the end of a page, before one that cannot be read. */
static struct page_set set_before_a_wall(uint64_t npages)
{
	size_t len = npages / 8, room = (len + 4095) & ~(size_t)4095;
	uint8_t *mem = mmap(NULL, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct page_set s;

	cr_assert_neq(mem, MAP_FAILED);
	cr_assert_eq(mprotect(mem + room, 4096, PROT_NONE), 0);
	cr_assert_eq(page_set_init(&s, &npages, 1), 0);
	munmap((void *)s.r[0].words, room);
	s.r[0].words = (_Atomic uint64_t *)(mem + room - len);
	return s;
}

static void look_everywhere(struct page_set *s, uint64_t npages)
{
	struct page_cursor at = { 0 };
	struct page_run run;

	cr_assert_eq(page_set_trim(s, 0), 0);
	cr_assert_eq(page_set_count(s), 0);
	cr_assert(!page_set_next(s, &at, 64, &run));
	at = (struct page_cursor){ 0 };
	cr_assert_eq(page_set_add_run(s, &(struct page_run){ .npages = (uint32_t)npages }), npages);
	cr_assert(page_set_next(s, &at, UINT32_MAX, &run));
	cr_assert_eq(run.npages, npages);
	cr_assert_eq(page_set_del_run(s, &run), npages);
	page_set_words(s, 0)[npages / 64 - 1] = UINT64_C(1) << 63;
	cr_assert_eq(page_set_trim(s, 0), 1);
	cr_assert_eq(page_set_count(s), 1);
	at = (struct page_cursor){ 0 };
	cr_assert(page_set_claim(s, &at, UINT32_MAX, &run));
	cr_assert_eq(run.page, npages - 1);
	cr_assert_eq(run.npages, 1);
	cr_assert(!page_set_claim(s, &at, UINT32_MAX, &run));
	page_set_tidy(s);
	page_set_clear(s);
}

/* Of 128 MiB of memory the bitmap is a page: then the word behind it is somebody else's, or nobody's. */
Test(pages, nothing_behind_the_bitmap_is_looked_at)
{
	const uint64_t whole = 128 << 8; /* 128 MiB */
	const uint64_t sizes[] = { whole,      2 * whole,     3 * whole, 64,	  8 * 64,  9 * 64,
				   15 * 64,    16 * 64,	      17 * 64,	 64 * 64, 65 * 64, whole - 64,
				   whole + 64, whole + 8 * 64 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct page_set s = set_before_a_wall(sizes[i]);

		look_everywhere(&s, sizes[i]);
		s.r[0].words = NULL; /* with its wall it goes with the test */
		page_set_destroy(&s);
	}
}
