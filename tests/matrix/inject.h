/* SPDX-License-Identifier: MIT */
/*
 * Injects local failures. The linker redirects calls of this program to wrappers (--wrap,
 * tests/CMakeLists.txt). A wrapper may return an error for a call that an end of the tested migration makes;
 * all other calls go through.
 *
 * Each thread belongs to an end: the cell names its two threads, and a thread that the library starts
 * inherits the end of the thread that started it. An order says which calls of which end fail; it takes
 * effect when that end enters a phase. A call is identified by its site: the address of the caller, and
 * whether the caller is a worker.
 */
#ifndef MATRIX_INJECT_H
#define MATRIX_INJECT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MET_MAX 4096u

/* What fails. */
enum kind {
	NO_MEMORY,	  /* malloc() and the like; one call fails */
	NO_KERNEL_MEMORY, /* in the kernel: for userfaultfd, advice, page data on a socket */
	NO_SPACE,	  /* for the file behind shared memory */
	FILE_FULL,	  /* the same as a real failure: another file has filled the tmpfs */
	BAD_PAGE,	  /* a page that no system call can reach */
	PAGE_GONE,	  /* the same as a real failure: a page without access */
	NO_DESCRIPTOR,
	NO_THREAD,
	OP_FAILS,
	OP_SAYS_EPIPE,	/* inside the library -EPIPE means a lost link */
	THROTTLE_FAILS, /* the op is called only if the guest does not converge */
	KINDS
};

/* Shared with the process that runs the matrix. */
struct inject {
	bool dry; /* no call fails: note which ones could, by kind, phase and end */
	enum kind kind;
	bool at_source;
	uintptr_t want;	       /* the site whose calls fail from then on (NO_MEMORY: one call) */
	_Atomic unsigned skip; /* calls at the site that succeed before */
	_Atomic bool armed;    /* the end is in its phase */
	_Atomic bool struck;
	_Atomic uint64_t struck_us;
	_Atomic uintptr_t page;	       /* BAD_PAGE: the page */
	_Atomic unsigned phase[2];     /* dry: source, target */
	_Atomic uint64_t met[MET_MAX]; /* dry: met_key() */
};

/* A site that a dry run has met. */
struct met {
	enum kind kind;
	unsigned phase;
	bool at_source;
	uintptr_t site;
};
bool inject_met(const struct inject *x, unsigned i, struct met *ret); /* false: entry i is empty */

/* Sets the order for this process. */
void inject_order(struct inject *x);
/* From now on this process connects to uri, tcp:ADDRESS:PORT, instead. *count: its connects up or pending. */
void inject_divert(const char *uri, _Atomic unsigned *count);
/* This thread belongs to the source or the target. Calls of a thread that belongs to no end never fail. */
void inject_thread(bool source);
void inject_thread_of_nobody(void);
/* This thread enters or leaves the VMM, whose calls must not fail. */
void inject_in_vmm(bool in);
/* Called for each op: 0, or the error that it must return. */
int inject_op(bool source, unsigned op);
/* The cell has caused a real failure itself. */
void inject_struck(void);

const char *kind_name(enum kind k);
int kind_errno(enum kind k);	/* positive; 0: any that the kernel returns */
uintptr_t op_site(unsigned op); /* the site of an op */
/* A description of a site. */
void site_text(char buf[120], enum kind kind, uintptr_t site);

#endif
