/* SPDX-License-Identifier: MIT */
/* The target's phases, for phase.c and ferry.c. */
#ifndef FERRY_TARGET_H
#define FERRY_TARGET_H

#include "ferry/ferry.h"

struct ferry_session;

void target_destroy(struct ferry_session *s);

/* The phases' bodies, for the table in phase.c. */
int target_reservation(struct ferry_session *s, enum ferry_phase *next);
int target_precopy(struct ferry_session *s, enum ferry_phase *next);
int target_stop_and_copy(struct ferry_session *s, enum ferry_phase *next);
int target_postcopy(struct ferry_session *s, enum ferry_phase *next);
int target_commitment(struct ferry_session *s, enum ferry_phase *next);
int target_activation(struct ferry_session *s, enum ferry_phase *next);

/* After a failed phase, its error recorded: discards the VM; in doubt asks the arbiter first. Fills *res. */
void target_fail(struct ferry_session *s, struct ferry_result *res);

#endif
