/* SPDX-License-Identifier: MIT */
/*
 * Local failures on order. The linker sends the calls of this program to wrappers (--wrap, tests/CMakeLists.txt). A call
 * that comes from an end of the migration under test may be answered with an error; all others go through.
 *
 * A thread belongs to an end: the cell names its two threads, and a thread that the library makes inherits its
 * maker's end. Which calls of which end fail is an order, and it stands from the moment that its end enters a phase.
 * A call is known by its site: where it was made from, and whether by a worker.
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
	NO_MEMORY,	  /* malloc() and the like, once */
	NO_KERNEL_MEMORY, /* the kernel has none: for what userfaultfd maps, advice, page data on a socket */
	NO_SPACE,	  /* the file behind shared memory */
	FILE_FULL,	  /* the same in earnest: a tmpfs that something else has filled */
	BAD_PAGE,	  /* a page that no system call can reach */
	PAGE_GONE,	  /* the same in earnest: a page without access */
	NO_DESCRIPTOR,
	NO_THREAD,
	OP_FAILS,
	OP_SAYS_EPIPE, /* which inside the library is a lost link */
	THROTTLE_FAILS, /* an op that only a guest which does not converge is asked for */
	KINDS
};

/* Shared with the process that runs the matrix. */
struct inject {
	bool dry; /* nothing fails: what could is noted, by kind, phase and end */
	enum kind kind;
	bool at_source;
	uintptr_t want;		  /* the site whose call fails, and from then on each of its calls; of memory one alone */
	_Atomic unsigned skip;	  /* so many calls there come before it */
	_Atomic bool armed;	  /* the end is in its phase */
	_Atomic bool struck;
	_Atomic uint64_t struck_us;
	_Atomic uintptr_t page;	  /* BAD_PAGE: this one */
	_Atomic unsigned phase[2]; /* dry: of the source, the target */
	_Atomic uint64_t met[MET_MAX]; /* dry: met_key() */
};

/* What a dry run has met. */
struct met {
	enum kind kind;
	unsigned phase;
	bool at_source;
	uintptr_t site;
};
bool inject_met(const struct inject *x, unsigned i, struct met *ret); /* false: there is none in this place */

/* The order of this process. */
void inject_order(struct inject *x);
/* From now on this process's connections are made to there, tcp:ADDRESS:PORT, and counted once they are up or under way. */
void inject_divert(const char *uri, _Atomic unsigned *count);
/* This thread is the source's, or the target's; a thread that is nobody's meets no failure. */
void inject_thread(bool source);
void inject_thread_of_nobody(void);
/* This thread is inside the VMM, whose own calls are none of the library's. */
void inject_in_vmm(bool in);
/* An op is called: 0, or its answer. */
int inject_op(bool source, unsigned op);
/* The real failures are brought about by the cell. */
void inject_struck(void);

const char *kind_name(enum kind k);
int kind_errno(enum kind k); /* positive; 0: whatever the kernel says */
uintptr_t op_site(unsigned op); /* of an op */
/* What a site is for the reader. */
void site_text(char buf[120], enum kind kind, uintptr_t site);

#endif
