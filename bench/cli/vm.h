/* SPDX-License-Identifier: MIT */
/*
 * The VM that an end migrates: the bench's own guest, or that of a stock QEMU. An end asks for what it needs by this
 * table, and by .proves for what only a guest of our own has; it never asks which VMM it is.
 */
#ifndef BENCH_VM_H
#define BENCH_VM_H

#include "options.h"
#include "bench/vmm/vmm.h"

/* What the ops pass on to the end; arbiter, offer and offered may be NULL. */
struct vm_calls {
	void *ctx;
	void (*event)(void *ctx, const struct ferry_event *ev);
	void (*log)(void *ctx, int level, const char *line);
	int (*arbiter)(void *ctx, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);
	int (*offer)(void *ctx, struct ferry_stream *out);
	int (*offered)(void *ctx, struct ferry_stream *in);
};

struct vm_ask {
	const struct options *o;
	enum vmm_end end;
	int observer; /* where the guest's numbered outputs go */
	struct vm_calls calls;
};

struct vm_kind {
	/*
	 * The guest is ours and runs in the end's process: it numbers its outputs, its memory can be compared with what
	 * must be there, and its stamps, CPU time and memory are known. Otherwise the functions for these are NULL.
	 */
	bool proves;
	/* Where a source's VM is if the end's process has died, and how it runs again; NULL: it died, too. */
	const char *orphan;
	/* A source's VM runs on return. After an error why has one sentence. */
	int (*open)(void **ret, const struct vm_ask *ask, char *why, size_t cap);
	/* After ferry_free(). */
	void (*close)(void *vm);
	/* What the session is created with; *ops must outlive it. */
	void (*describe)(void *vm, struct ferry_ops *ops, struct ferry_vm *ret);
	/* ferry_run() is about to be called; it has returned. */
	int (*begin)(void *vm);
	void (*end)(void *vm, const struct ferry_result *result);
	void (*get_stats)(void *vm, struct vmm_stats *st); /* any thread; also where nothing is proved */
	uint64_t (*stood_us)(void *vm); /* source: from the last pause until it resumed here; 0: it did not */
	uint64_t (*resident)(void *vm); /* bytes */
	void (*get_tracked)(void *vm, struct vmm_tracked *ret);
	const char *(*mutator)(void *vm);
	int (*prove)(void *vm, struct vmm_proof *ret);
};

extern const struct vm_kind vm_own, vm_qemu;
const struct vm_kind *vm_kind(const struct options *o);

#endif
