/* SPDX-License-Identifier: MIT */
/*
 * Both ends of a migration in this process, each in its own thread and with its own fake VM; and the checks
 * that hold after every migration. A test sets up a rig, changes what the test is about, runs the rig and
 * checks it.
 */
#ifndef TESTS_RIG_H
#define TESTS_RIG_H

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "fakevm.h"
#include "fakevm_int.h"

struct rig_kind {
	const char *uri;
	bool shared, huge, thp;
	enum ferry_landing_way way;
};

/* With RIG_RDMA the same programs run over RDMA, at the address of the soft-RoCE machine. */
#ifdef RIG_RDMA
#define RIG_TCP "rdma:10.9.0.1:0"
#define RIG_MEM "rdma:10.9.0.1:0?pin=lazy"
#else
#define RIG_TCP "tcp:127.0.0.1:0"
#define RIG_MEM "mem:rig"
#endif
/* By the kernel, whatever measures faster here; test_modes has the mapping. mem has no choice. */
#define RIG_MEM_ANON (&(struct rig_kind){ .uri = RIG_MEM })
#define RIG_MEM_SHARED (&(struct rig_kind){ .uri = RIG_MEM, .shared = true })
#define RIG_TCP_ANON (&(struct rig_kind){ .uri = RIG_TCP, .way = FERRY_LANDING_WAY_KERNEL })
#define RIG_TCP_SHARED (&(struct rig_kind){ .uri = RIG_TCP, .way = FERRY_LANDING_WAY_KERNEL, .shared = true })
#define RIG_MEM_HUGE_ANON (&(struct rig_kind){ .uri = RIG_MEM, .huge = true })
#define RIG_MEM_HUGE_SHARED (&(struct rig_kind){ .uri = RIG_MEM, .shared = true, .huge = true })
#define RIG_TCP_HUGE_ANON (&(struct rig_kind){ .uri = RIG_TCP, .huge = true })
#define RIG_TCP_HUGE_SHARED (&(struct rig_kind){ .uri = RIG_TCP, .shared = true, .huge = true })
#define RIG_MEM_THP_SHARED (&(struct rig_kind){ .uri = RIG_MEM, .shared = true, .thp = true })
#define RIG_TCP_THP_ANON (&(struct rig_kind){ .uri = RIG_TCP, .way = FERRY_LANDING_WAY_KERNEL, .thp = true })

/* One body, and a Test() for each transport and kind of memory. */
#define RIG_TESTS(suite, name)                                   \
	static void suite##_##name(const struct rig_kind *kind); \
	Test(suite, name##_mem_anon)                             \
	{                                                        \
		suite##_##name(RIG_MEM_ANON);                    \
	}                                                        \
	Test(suite, name##_mem_memfd)                            \
	{                                                        \
		suite##_##name(RIG_MEM_SHARED);                  \
	}                                                        \
	Test(suite, name##_tcp_anon)                             \
	{                                                        \
		suite##_##name(RIG_TCP_ANON);                    \
	}                                                        \
	Test(suite, name##_tcp_memfd)                            \
	{                                                        \
		suite##_##name(RIG_TCP_SHARED);                  \
	}                                                        \
	static void suite##_##name(const struct rig_kind *kind)

/* The same with two combinations, if transport and kind hardly matter. */
#define RIG_PAIR(suite, name)                                    \
	static void suite##_##name(const struct rig_kind *kind); \
	Test(suite, name##_mem_memfd)                            \
	{                                                        \
		suite##_##name(RIG_MEM_SHARED);                  \
	}                                                        \
	Test(suite, name##_tcp_anon)                             \
	{                                                        \
		suite##_##name(RIG_TCP_ANON);                    \
	}                                                        \
	static void suite##_##name(const struct rig_kind *kind)

struct rig {
	struct world world;
	struct fakevm src, tgt;
	struct ferry_config scfg, tcfg;
	const char *uri; /* the target's */
	char connect_to[200];
	struct ferry_result sres, tres;
	char throttled[64]; /* for the test: the calls of its throttle op */
	void *arg;	    /* for the test */
};

/* A guest that writes a little and converges; the default configuration, with fault injection allowed. */
void rig_init(struct rig *r, const struct rig_kind *kind);
/* Post-copy with most pages left to pull, at most bandwidth bytes per second (0: unlimited). */
void rig_postcopy(struct rig *r, uint64_t bandwidth);
/* Short timeouts: both ends notice a lost link soon and give up soon. */
void rig_impatient(struct rig *r);
/* The target's VMM allocates the reserved memory through its own mapping, half of the second region. */
void rig_allocate(struct rig *r);
/* Open both ends, run both to their end, free both sessions. */
void rig_run(struct rig *r);
void rig_free(struct rig *r);

/* Assert an outcome and all its consequences: who runs, which ops were called, memory, output. */
void rig_migrated(struct rig *r);
void rig_fell_back(struct rig *r);
void rig_refused(struct rig *r);
/* The same for whichever the source reports: refused if it was never paused, otherwise fell back. */
void rig_source_owns(struct rig *r);
/* Assert that the sentence contains part. */
void rig_says(const char *sentence, const char *part);
/* Assert that the world has recorded no trouble. */
void rig_no_trouble(struct rig *r);

#endif
