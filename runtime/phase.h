/* SPDX-License-Identifier: MIT */
/* The phases and what may follow each. */
#ifndef FERRY_PHASE_H
#define FERRY_PHASE_H

#include <stdbool.h>
#include <stdint.h>

#include "ferry/ferry.h"

struct ferry_session;

struct phase_row {
	const char *name;
	/* The phase's body at each end: 0 with *next set, or the error that ends the migration. */
	int (*source)(struct ferry_session *s, enum ferry_phase *next);
	int (*target)(struct ferry_session *s, enum ferry_phase *next);
	uint32_t next; /* bit p: phase p may follow */
};

const struct phase_row *phase_row(enum ferry_phase p);
bool phase_may_follow(enum ferry_phase from, enum ferry_phase to);
/* The one setter: asserts the arrow, stamps the time, emits the event. */
void phase_enter(struct ferry_session *s, enum ferry_phase to);
/* Walks the table from IDLE; 0 when DONE is reached, else what the failing body returned. */
int phase_walk(struct ferry_session *s);

#endif
