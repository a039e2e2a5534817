/* SPDX-License-Identifier: MIT */
/* The parsed command line. */
#ifndef BENCH_OPTIONS_H
#define BENCH_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <ferry/ferry.h>

enum command {
	CMD_RUN,
	CMD_SOURCE,
	CMD_TARGET,
	CMD_FLOOR,
	CMD_SWEEP,
	CMD_PLOT,
	CMD_DOCTOR,
	CMD_VERSION,
	CMD_HELP,
	CMD_COUNT
};

enum kind { KIND_ANON, KIND_MEMFD, KIND_HUGETLB, KIND_HUGETLB_MEMFD, KIND_COUNT };
enum vm_choice { VM_OWN, VM_QEMU, VM_COUNT };
enum victim { KILL_NOBODY, KILL_SOURCE, KILL_TARGET, KILL_LINK };
enum floor_when { FLOOR_ONCE, FLOOR_EACH, FLOOR_OFF };
enum thp { THP_AUTO, THP_ON, THP_OFF }; /* options_check() decides on auto */

/*
 * --kill WHO@PHASE[:MS]: on entering the phase, kill a process or cut the link (heal_ms 0: for good).
 * WHO@MESSAGE: instead of sending that message, or when it has arrived, before it is read.
 */
struct kill_drill {
	enum victim who;
	enum ferry_phase phase;
	const char *message; /* NULL: .phase says when */
	uint64_t heal_ms;
};

#define HOLDS 16 /* of a kind */

struct options {
	enum command command, about; /* about: the command to explain, CMD_HELP for all */
	const char *uri, *to, *listen, *json, *arbiter, *record, *out;
	const char *modes, *rates, *working_sets, *uris; /* sweep: lists; NULL: the single value */
	uint64_t memory, populate, working_set, dirty_rate, vcpus, seed;
	uint64_t kind, pattern, mode, commit_at, hold_action, floor, prealloc, landing, thp,
		dirty_tracking; /* indices into the choice tables */
	uint64_t downtime_us, switchover_limit_us, hold_limit_us, reconnect_us, timeout_us, precopy_limit_us,
		poll_us, run_on_us;
	uint64_t sample_us, report_port, rhythm_us;
	uint64_t max_rounds, channels, bandwidth, repeat, pull;
	uint64_t vmm; /* enum vm_choice */
	const char *qmp;
	const char *hold_net[HOLDS + 1], *hold_disk[HOLDS + 1]; /* end with NULL */
	char *const *qemu;					/* target: what follows --; NULL: nothing */
	const char *own_only;  /* the first option given that is about the bench's own guest; NULL: none */
	const char *qemu_only; /* likewise about a QEMU */
	struct kill_drill kill;
	char *const *files; /* plot: recordings to draw */
	unsigned nfiles;
	bool quiet;
	bool reconnect_set, report_port_set;
};

/* 0, or -EINVAL after one sentence on stderr with the option and its valid values. */
int options_parse(struct options *ret, int argc, char **argv);
/* Prints the help of one command, or of all for CMD_HELP. */
void options_help(FILE *out, enum command about);
/* Sets an option as "run --name text" does; sweep uses it for the elements of its lists. */
int options_set(struct options *o, const char *name, const char *text);
/* Checks that involve several options, and defaults that depend on other options. */
int options_check(struct options *o);
/* Copies element i of a comma-separated list into buf; false if there is none. */
bool list_element(const char *list, unsigned i, char *buf, size_t cap);
const char *command_name(enum command c);
const char *vmm_name(uint64_t vmm);
const char *kind_name(uint64_t kind);
const char *pattern_name(uint64_t pattern);
const char *commit_at_name(uint64_t commit_at);
/* Writes "target@post-copy" or "link@post-copy:200", or "" for none. */
const char *kill_text(char buf[64], const struct kill_drill *k);

#endif
