/* SPDX-License-Identifier: MIT */
/*
 * A VM for the session fuzzers: small, guarded on all sides, and quick to make.
 *
 * The source's guest writes only inside dirty_fetch and pause, and its shadow always has the correct content
 * of memory. The target's guest is a thread that touches every page to cause faults; a hostile source has
 * chosen the data that it reads.
 */
#ifndef TESTS_FUZZ_VM_H
#define TESTS_FUZZ_VM_H

#include <pthread.h>
#include <stdatomic.h>

#include <ferry/ferry.h>

#include "fuzz.h"

#define VM_REGIONS 2u	  /* regions of the source */
#define VM_REGIONS_MAX 8u /* that a target takes */
#define VM_PAGES0 70u	  /* not a multiple of 64, so the last word of a bitmap is not full */
#define VM_PAGES1 13u
#define VM_PAGES (VM_PAGES0 + VM_PAGES1)
#define VM_PAGES_MAX 200u /* that a target takes */
#define VM_ID0 10u
#define VM_ID1 13u

enum vm_op {
	VM_RESERVE,
	VM_DIRTY_START,
	VM_DIRTY_STOP,
	VM_PAUSE,
	VM_RESUME,
	VM_SAVE,
	VM_LOAD,
	VM_HOLD,
	VM_RELEASE,
	VM_ACTIVATE,
	VM_RETIRE,
	VM_DISCARD,
	VM_ARBITER,
	VM_OPS
};

struct vm {
	/* set by the fuzzer */
	bool is_source, shared;
	unsigned writes;	 /* pages that the source's guest writes in each of its first rounds */
	enum ferry_owner record; /* the arbiter's; FERRY_OWNER_UNKNOWN: none yet, FERRY_OWNER_NONE: no answer */

	struct ferry_ops ops;
	struct ferry_session *session;
	struct ferry_region region[VM_REGIONS_MAX];
	size_t nregions;
	struct fuzz_mem mem[VM_REGIONS_MAX];
	unsigned calls[VM_OPS];

	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool runs, held, stop; /* lock */
	bool ran_free;	       /* resumed at the target without holding output */
	uint8_t *shadow;       /* source; lock */
	uint64_t dirty[VM_REGIONS][2];
	unsigned fetches, writer;
	pthread_t cpu;
	bool cpu_started;
};

void vm_source(struct vm *vm, bool shared, bool arbiter);
void vm_target(struct vm *vm, bool hold, bool arbiter);
/* After ferry_free(). */
void vm_free(struct vm *vm);
/* Assert that nothing around its memory was written, and that the source's memory is correct. */
void vm_check(struct vm *vm);
/* A page of the source's shadow, or NULL if there is no such page. */
const uint8_t *vm_shadow(const struct vm *vm, uint32_t id, uint64_t page);
/* If the source's guest is paused, calls look, during which it cannot resume, and returns true. */
bool vm_frozen(struct vm *vm, void (*look)(void *arg), void *arg);

#endif
