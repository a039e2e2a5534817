/* SPDX-License-Identifier: MIT */
/*
 * Real migrations of real guests, back to back from one long-lived parent, each drawn at random: memory, guest, way to
 * finish, limits, and who is killed or cut off when. A run is drawn from the seed and its own number alone, so any
 * one of them can be repeated by itself.
 */
#ifndef TESTS_SOAK_H
#define TESTS_SOAK_H

#include "bench/cli/report.h"

#define DRAW_ARGS 64
#define DRAW_TEXT 2048

/* As if typed: rdma-migrate run ... */
struct draw {
	char *argv[DRAW_ARGS];
	int argc;
	char text[DRAW_TEXT]; /* what argv points into */
	size_t used;
	uint64_t rng;
};

/* arbiter: the URI that half of the runs are given. */
void draw_run(struct draw *d, uint64_t seed, uint64_t number, uint64_t memory_max, const char *arbiter);
void draw_print(FILE *out, const struct draw *d);

/* What a run may come to: docs/failure-model.md, as it can be seen from outside. */
enum ending {
	END_TARGET = 1, /* the VM runs at the target */
	END_SOURCE = 2, /* at the source: refused or fell back */
	END_DEAD = 4,	/* with its host */
	END_DOUBT = 8,	/* in doubt, and there was no arbiter */
	END_LOST = 16	/* a page server was lost */
};
#define ENDINGS 5

unsigned expect_endings(const struct run_report *r); /* a set of them */
enum ending ending_of(const struct run_report *r);
const char *endings_text(char buf[100], unsigned set);

#endif
