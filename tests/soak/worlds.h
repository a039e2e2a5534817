/* SPDX-License-Identifier: MIT */
/*
 * Migrations in worlds that nobody scripted. A round draws, from the seed and its own number alone, everything that a
 * migration depends on: the network between the two ends, the memory of each, what each end is not allowed or has too
 * little of, how the migration is configured, and what happens to it on the way. Two processes then migrate a guest
 * through the public API, each in a network namespace of its own, with tests/net/wire.c between them.
 *
 * What is demanded of each round:
 *	- each byte is right at the owner, or the migration was refused or fell back, with a sentence at both ends;
 *	- a migration that nothing disturbs migrates;
 *	- the two sentences tell the same story: one end names the cause and the other quotes it; both name the link
 *	  only where something was done to the link or to the peer;
 *	- never two owners, no output lost or repeated;
 *	- both ends return within the bound that follows from their configuration;
 *	- no descriptor, thread, mapping, file or process is left;
 *	- the world came about: a limit, filter or network that could not be made is a failure of the round.
 *
 *	world_draw.c	draws a world, and prints it
 *	world_net.c	the two namespaces and the wire between them
 *	world_guest.c	the VM: memory, a guest that writes it, the ops
 *	world_end.c	one end in its process: limits, filters, signals, ferry_run()
 *	world_judge.c	what a round must come to
 *	worlds.c	the rounds: forks the ends, strikes, waits, counts what is left
 */
#ifndef TESTS_WORLDS_H
#define TESTS_WORLDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <ferry/ferry.h>

#include "cgroup.h"

#define MIB (UINT64_C(1) << 20)
#define PAGE 4096u
#define GUEST_MAX (48 * MIB)
#define ADDRESS_A "10.98.0.1"
#define ADDRESS_B "10.98.0.2"
#define NAME_OF_B "vm-host" /* of which some addresses may be dead */

enum { SRC, TGT };

/* What this machine can be made to do; a part that is missing is said once, and drawn as nothing. */
struct parts {
	bool root, net, cgroup, swap, uffd;
};

struct network {
	unsigned delay_ms, jitter_ms,
		late_percent; /* one way; late: so many packets come jitter_ms after those behind them */
	unsigned loss_permille, rate_kb, mtu,
		dead; /* rate 0: as fast as it goes; dead: addresses that the name has in front */
};

/* What one end lives with. 0: nothing of the kind. */
struct lot {
	bool locked, thp, memlock;
	unsigned populated; /* percent: touched by the guest before (source), allocated by reserve (target) */
	unsigned tmpfs;	    /* the memory is in a tmpfs of so many percent of what it takes */
	unsigned tmpfs_fill;	  /* of which somebody else takes so many percent in pre-copy */
	unsigned cgroup;	  /* memory limit: so many percent of what this end takes at most */
	unsigned nofile, nproc;	  /* so many more than there are, counted from 1 */
	unsigned storm_us;	  /* a signal without SA_RESTART for each thread so often */
	unsigned punch;		  /* of so many writes one frees memory instead (source) */
	unsigned pageout;	  /* of so many writes one has memory swapped out */
	unsigned space;		  /* RLIMIT_AS: so many MiB more than what it has, and its guest takes */
	int refused, refused_err; /* index into the calls that can be refused, from 1 */
};

enum strike_what {
	STRIKE_NOTHING,
	STRIKE_KILL,
	STRIKE_STOP,
	STRIKE_CUT,
	STRIKE_HOLE,
	STRIKE_CANCEL,
	STRIKE_SWITCHOVER
};

struct strike {
	enum strike_what what;
	int end;		   /* KILL, STOP, CANCEL: whom; all: who has to be in the phase */
	enum ferry_phase phase;	   /* delay_ms after this end has entered it */
	unsigned delay_ms, for_ms; /* STOP, CUT, HOLE: 0: for good */
	unsigned times;		   /* CUT: so often, with three times as long between them */
};

struct world {
	uint64_t seed, round, bytes[2]; /* of its two regions */
	struct network net;
	struct lot lot[2];
	struct strike strike;
	bool shared, arbiter;
	unsigned writes; /* a second, by the source's guest */
	unsigned vcpus;	 /* threads of the guest at the target */
	enum ferry_mode mode;
	enum ferry_commit_at commit_at;
	enum ferry_hold hold_action;
	uint64_t channels, max_rounds, downtime_us, hold_limit_us, bandwidth;
	uint64_t timeout_us, reconnect_us, connect_us, precopy_limit_us,
		switchover_limit_us; /* reconnect 0: none */
};

void world_draw(struct world *w, const struct parts *parts, uint64_t seed, uint64_t round);
void world_print(FILE *out, const struct world *w);
uint64_t world_bound_us(const struct world *w);
/* How long an end may go on after the other, or the link, is gone for good. */
uint64_t world_alone_us(const struct world *w);
/* The bytes a second that this network gives to one TCP connection; 0: as many as the machine can. */
uint64_t network_rate(const struct network *n);
/* A system call that a filter may refuse; from 1, NULL behind the last. */
struct call {
	const char *name;
	int nr;
	unsigned arg;
	uint32_t value;
};
const struct call *world_call(int index);
const char *strike_name(enum strike_what what);

/* Where an end is; it waits in LISTENS, CENSUS and DONE until .go is as high. */
enum stage { STAGE_BEGINS, STAGE_CENSUS, STAGE_LISTENS, STAGE_RUNS, STAGE_DONE };
#define LOG_KEPT 6000u

/* Of each end, in memory that the processes of a round share. */
struct end_seen {
	_Atomic int stage, go, phase; /* go, cancel, switchover: written by the parent */
	_Atomic int cancel, switchover, fill;
	_Atomic bool runs, held;
	_Atomic uint64_t signals, phase_us[FERRY_PHASE_FAILED + 1];
	bool have_result;
	struct ferry_result res;
	char not_opened[FERRY_DETAIL_MAX + 100]; /* the session could not be made: its sentence */
	char unmade[300];			 /* what of the world could not be made */
	char trouble[400];			 /* what is wrong with the VM */
	char policy[FERRY_DETAIL_MAX];
	char log[LOG_KEPT]; /* the first lines */
	_Atomic unsigned log_used;
	/* the parent's */
	pid_t pid;
	bool ended, struck, filtered;
	int status;
	unsigned fds[2], threads[2], memfds[2], uffds[2]; /* before and after */
};

struct seen {
	char uri[200];
	_Atomic int record; /* the arbiter's: FERRY_OWNER_SOURCE + 1, FERRY_OWNER_TARGET + 1 */
	_Atomic uint64_t outputs;
	_Atomic bool alarm; /* two owners, or output twice */
	char alarm_text[200];
	bool struck, late; /* the strike has come about; the bound has passed */
	uint64_t ran_us, bound_us;
	struct end_seen end[2];
};

/* Beside it, also shared: what memory must hold. */
struct truth {
	uint8_t *now, *frozen; /* at the source, now and at its stop point; both GUEST_MAX bytes */
};

/* ---- world_net.c ---- */

struct net {
	char name[2][40];
	int ns[2];   /* descriptors of the namespaces */
	int in, out; /* the wire's */
	pid_t pid;
	char why[200];
};

bool net_up(struct net *n, const char *wire);
/* printf-like; false, with .why: the wire did not obey. */
bool net_wire(struct net *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool net_set(struct net *n, const struct network *k, uint64_t seed);
/* Packets that were carried and that vanished, in both directions. */
bool net_count(struct net *n, uint64_t *carried, uint64_t *vanished);
void net_down(struct net *n);

/* ---- world_guest.c ---- */

struct vm;
struct vm *vm_make(const struct world *w, struct seen *seen, const struct truth *truth, int end,
		   const char *dir);
const struct ferry_ops *vm_ops(const struct vm *vm);
const struct ferry_region *vm_regions(const struct vm *vm); /* source: two */
/* After ferry_run() and before ferry_free(): looks at the memory where this end owns the VM. */
void vm_check(struct vm *vm, enum ferry_outcome outcome);
/* After ferry_free(): the guest's threads end. */
void vm_end(struct vm *vm);

/* ---- world_end.c ---- */

struct round {
	const struct world *w;
	struct seen *seen;
	struct truth truth;
	struct net *net;	 /* NULL: loopback */
	const struct cgroup *cg; /* NULL: none */
	const char *dir;	 /* scratch */
};

_Noreturn void end_main(const struct round *r, int end);

/* ---- world_judge.c ---- */

/* Empty: as it must be. parts: of this machine. */
void world_judge(char *why, size_t cap, const struct round *r, const struct parts *parts);
/* "migrated / migrated", "killed / discarded". */
void outcomes_text(char buf[80], const struct seen *s);

#endif
