/* SPDX-License-Identifier: MIT */
/* The source's phases, for phase.c and ferry.c. */
#ifndef FERRY_SOURCE_H
#define FERRY_SOURCE_H

#include "ferry/ferry.h"

struct ferry_session;

int source_init(struct ferry_session *s);
void source_destroy(struct ferry_session *s);

/* The phases' bodies, for the table in phase.c. */
int source_reservation(struct ferry_session *s, enum ferry_phase *next);
int source_precopy(struct ferry_session *s, enum ferry_phase *next);
int source_stop_and_copy(struct ferry_session *s, enum ferry_phase *next);
int source_postcopy(struct ferry_session *s, enum ferry_phase *next);
int source_commitment(struct ferry_session *s, enum ferry_phase *next);
int source_activation(struct ferry_session *s, enum ferry_phase *next);

/* After a failed phase, its error recorded: falls back, or finds out who owns the VM. Fills *res. */
void source_fail(struct ferry_session *s, struct ferry_result *res);

#endif
