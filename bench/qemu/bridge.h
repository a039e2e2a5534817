/* SPDX-License-Identifier: MIT */
/*
 * Either end of a migration of a stock QEMU: ferry's ops, done over QMP and from outside the process.
 *
 * Source: a QEMU that runs already, with its RAM in files that others can map (memory-backend-file, share=on) and a
 * monitor that is free. Target: a QEMU that waits for a state (-S -incoming defer), whose RAM files are ours.
 *
 * All ops run on one thread and end in bounded time, because QEMU may die, hang in a fault with its main loop's
 * lock held, or answer nonsense. After an error qemu->why is one sentence.
 */
#ifndef BENCH_QEMU_BRIDGE_H
#define BENCH_QEMU_BRIDGE_H

#include <ferry/ferry.h>
#include <ferry/track.h>
#include <stdbool.h>

#include "disk.h"
#include "qmp.h"
#include "ram.h"
#include "state.h"
#include "take.h"

#define QEMU_NETS 16

struct qemu {
	struct qmp q;
	bool opened;
	struct qemu_ram ram[QEMU_RAMS];
	size_t nram;
	struct ferry_region region[QEMU_RAMS]; /* source: id is the index in ram */
	uint64_t timeout_us;		       /* of each QMP call and each wait */
	char why[QMP_WHY];
	void (*each)(void *ctx,
		     const char *why); /* told every sentence, as there may be several; NULL: nobody */
	void *ctx;

	/* source */
	struct ferry_track *track;
	struct take tracker;
	int pagemap;
	struct state_reader state;
	bool capable; /* capabilities are set, and to be taken back */

	/* target */
	pid_t child; /* 0: not ours to reap */
	int pidfd;
	struct take faults;
	const char *hold_net[QEMU_NETS + 1]; /* ids of netdevs whose output is held; ends with NULL */
	struct qemu_disk disk[QEMU_DISKS];   /* whose writes are held */
	size_t ndisk;
	bool network; /* it has netdevs */
	bool owner;   /* activated: the overlays are parts of the disks */
};

/* What a target holds back during the tentative run; nothing: there is none. */
struct qemu_hold {
	const char *const *net;	      /* ids of netdevs, ends with NULL; or NULL */
	const struct qemu_disk *disk; /* node and overlay are set */
	size_t ndisk;
};

/* One thing that a running QEMU must fulfil to become a source; the last one stops it for about a millisecond. */
struct qemu_check {
	const char *name;
	/* why: what is wrong, "; ", and what mends it. If several things are, m->each is told all, and why has the last. */
	int (*check)(struct qemu *m);
};
extern const struct qemu_check qemu_checks[];
extern const size_t qemu_nchecks;

/* Only connects, so that the checks can be made one by one; wait: the socket may not be there yet. */
void qemu_init(struct qemu *m, uint64_t timeout_us);
int qemu_connect(struct qemu *m, const char *socket, bool wait);

/* Connects to a QEMU that runs, makes all checks; fills ram and region. qemu_close() it, after an error, too. */
int qemu_source_open(struct qemu *m, const char *socket, uint64_t timeout_us);
extern const struct ferry_ops qemu_source_ops;

/*
 * Connects to a QEMU that waits, and takes its userfaultfd. child: its pid if it is a child of this process, which may still be
 * starting; QEMU_STARTING: likewise, but another process's child; 0: it waits already. hold->net must outlive m.
 */
#define QEMU_STARTING ((pid_t)-1)
int qemu_target_open(struct qemu *m, const char *socket, pid_t child, const struct qemu_hold *hold,
		     uint64_t timeout_us);
/* The ops. Those that hold output are missing if nothing is held, or only disks of a VM that has a network. */
struct ferry_ops qemu_target_ops(const struct qemu *m);

/* After ferry_free(). A QEMU that owns its VM runs on. */
void qemu_close(struct qemu *m);

#endif
