/* SPDX-License-Identifier: MIT */
/*
 * A VM without a CPU, for whole migrations inside one test process.
 *
 * A world is one guest and the two VMs that may be this guest. It sees both ends: whether both VMs run at
 * once (allowed only while the target's output is held), whether each numbered output comes out once and in
 * order, and what memory must hold from the stop point on. Any thread records a broken promise in .trouble;
 * the test asserts that it stayed empty.
 *
 * The source's guest writes inside dirty_fetch and pause, when the library does not read, so the same pages
 * are dirty in each run. It makes half of its writes before dirty_fetch returns the bitmap and half after
 * that; the latter are in memory during the next round and are reported after it. The target's guest is a
 * thread: it touches every page once in a scattered order, compares it with the source's page at the stop
 * point, writes some pages, and emits a number for each.
 */
#ifndef TESTS_FAKEVM_H
#define TESTS_FAKEVM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ferry/drill.h>
#include <ferry/ferry.h>

#define FAKE_REGIONS 2u
#define FAKE_PAGE ((size_t)4096)
#define FAKE_PAGES0 1500u
#define FAKE_PAGES1 77u
#define FAKE_PAGES (FAKE_PAGES0 + FAKE_PAGES1)
#define FAKE_HOLES \
	200u /* in region 0, from page FAKE_HOLE0 on: never touched unless the guest writes there */
#define FAKE_HOLE0 200u
#define FAKE_ZEROS 50u /* after the holes: touched, zero */
#define FAKE_TRACE 400u

/* The kind of memory. Regions of huge pages are longer: after the pages of other kinds comes a hole. */
#define FAKE_SHARED 1u
#define FAKE_HUGE 2u
#define FAKE_THP 4u
#define FAKE_HUGE_PAGES0 2048u
#define FAKE_HUGE_PAGES1 512u

enum fake_op {
	FAKE_NEEDS,
	FAKE_RESERVE,
	FAKE_DIRTY_START,
	FAKE_DIRTY_STOP,
	FAKE_DIRTY_FETCH,
	FAKE_PAUSE,
	FAKE_RESUME,
	FAKE_SAVE,
	FAKE_LOAD,
	FAKE_HOLD,
	FAKE_RELEASE,
	FAKE_ACTIVATE,
	FAKE_RETIRE,
	FAKE_DISCARD,
	FAKE_ARBITER,
	FAKE_OPS
};

struct fakevm;

/* What a VM reports to its world. VMs in two processes have a world each, which passes reports on (tell). */
enum world_what { WORLD_RUNS, WORLD_STOPS, WORLD_HOLDS, WORLD_RELEASED, WORLD_OUTPUT };

struct world {
	pthread_mutex_t lock; /* everything below, and the running state of both VMs */
	pthread_cond_t cond;
	char trouble[512];
	bool source_runs, target_runs, target_held;
	uint64_t seen;	 /* numbered outputs that came out: 0 .. seen - 1 */
	uint8_t *frozen; /* memory at the last stop of the source, all regions end to end */
	bool decided;	 /* the arbiter's record */
	enum ferry_owner record;
	void (*tell)(void *arg, bool at_source, enum world_what what, uint64_t n); /* lock held; or NULL */
	void *tell_arg;
};

struct fakevm {
	struct world *w;
	bool is_source, shared, huge, thp;
	struct ferry_ops ops;
	struct ferry_region region[FAKE_REGIONS];
	struct ferry_session *session;
	pthread_t thread; /* inside ferry_run() */
	void *arg;	  /* for the test */

	/* set by the test */
	uint64_t writes[8];   /* pages written at fetch 0, 1, ..; the last one repeats */
	uint64_t last_writes; /* pages written at pause */
	uint64_t spared; /* source: the guest never writes this page, counted from 1 through all regions; 0: none */
	uint64_t state_bytes; /* beside the small section */
	bool idle; /* target: the guest touches nothing until fakevm_finish(), however long post-copy lasts */
	uint32_t cpuid; /* target: the offered value; source: the needed one */
	uint64_t memory_limit;
	enum fake_op fail_op;
	unsigned fail_nth; /* 0: no op fails; 1: the first call does */
	int fail_err;
	void (*hook)(struct fakevm *vm, enum fake_op op); /* on entering an op, on ferry_run()'s thread */
	void (*phase_hook)(struct fakevm *vm, enum ferry_phase p);
	void (*link_hook)(struct fakevm *vm, const char *what); /* "the link is lost", "the link is back" */

	/* read by the test */
	unsigned calls[FAKE_OPS];
	char ops_seen[FAKE_TRACE];    /* names in order; a repeated name appears once */
	char phases_seen[FAKE_TRACE]; /* "pre-migration reservation ..." */
	char policy[512];	      /* the last policy event's sentence */
	char links[FAKE_TRACE];	      /* link events */
	char link_cause[200];	      /* of the last event that had a cause */
	char error_line[600];	      /* the sentence of the last log line of level 3 or lower */
	unsigned rounds;

	uint8_t *shadow; /* source: what its memory must hold */
	uint64_t *dirty[FAKE_REGIONS];
	uint64_t rng, fetches;
	bool tracking;
	uint64_t next_out, held_out;
	uint8_t *own; /* target: bytes, one a page: 1 = written by its guest */
	pthread_t cpu;
	bool cpu_started, cpu_runs, stop;
	uint64_t touched;
};

void world_init(struct world *w);
void world_destroy(struct world *w);
bool world_source_runs(struct world *w);
bool world_target_runs(struct world *w);
void world_trouble(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* kind: FAKE_*, or true for a memfd. */
void fakevm_source(struct fakevm *vm, struct world *w, unsigned kind);
void fakevm_target(struct fakevm *vm, struct world *w, unsigned kind);
/* Stops the target's guest, frees the memory. After ferry_free(), because the guest may wait for a page. */
void fakevm_destroy(struct fakevm *vm);
/* After a successful migration: waits until the target's guest has touched every page. */
void fakevm_finish(struct fakevm *vm);
/* Lets the guest run a little: it writes (at the source) and emits output. Trouble if it does not run. */
void fakevm_run_on(struct fakevm *vm);
/* Compares all memory with what it must hold; trouble if not. */
void fakevm_check_memory(struct fakevm *vm);
const char *fake_op_name(enum fake_op op);

#endif
