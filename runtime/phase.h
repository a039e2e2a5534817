/* SPDX-License-Identifier: MIT */
/* The phases of a migration: their bodies, and what may follow each. */
#ifndef FERRY_PHASE_H
#define FERRY_PHASE_H

#include <stdbool.h>
#include <stdint.h>

#include "ferry/ferry.h"

struct ferry_session;

struct phase_row {
	const char *name;
	/* The phase's body at each end: 0, with *next set, or the error that ends the migration. */
	int (*source)(struct ferry_session *s, enum ferry_phase *next);
	int (*target)(struct ferry_session *s, enum ferry_phase *next);
	uint32_t next; /* bit p: phase p may follow */
};

const struct phase_row *phase_row(enum ferry_phase p);
bool phase_may_follow(enum ferry_phase from, enum ferry_phase to);
/* Enter a phase. Nothing else sets it: this asserts the arrow, stamps the time and emits the event. */
void phase_enter(struct ferry_session *s, enum ferry_phase to);
/* Run the bodies from IDLE on. 0: the next phase is DONE, which the caller enters. Else a body's error. */
int phase_walk(struct ferry_session *s);

#endif
