/* SPDX-License-Identifier: MIT */
#ifndef FERRY_SOURCE_H
#define FERRY_SOURCE_H

#include "ferry/ferry.h"

int source_init(struct ferry_session *s);
void source_destroy(struct ferry_session *s);

/* The stages' bodies, for the table in phase.c. */
int source_pre_migration(struct ferry_session *s, enum ferry_phase *next);
int source_reservation(struct ferry_session *s, enum ferry_phase *next);
int source_precopy(struct ferry_session *s, enum ferry_phase *next);
int source_stop_and_copy(struct ferry_session *s, enum ferry_phase *next);
int source_postcopy(struct ferry_session *s, enum ferry_phase *next);
int source_commitment(struct ferry_session *s, enum ferry_phase *next);
int source_activation(struct ferry_session *s, enum ferry_phase *next);

/* Until when the VM may stand still; DEADLINE_NONE: it runs. */
uint64_t source_blackout_until(const struct ferry_session *s);
/* 0, or -ETIME once it has: "and ..." in the sentence says what was waited for. */
int source_stood_still(struct ferry_session *s, const char *why);
/* Between two messages of many that main sends, also in the blackout: not 0 when there is a reason to send no more. */
int source_may_send(struct ferry_session *s);

/* How many pages a target that is PREPARED may lack. */
uint64_t source_missing_max(const struct ferry_session *s);

/* After a failed stage: the fallback, or what is left of it once the commit is decided. Fills the result. */
void source_fail(struct ferry_session *s, int err, struct ferry_result *res);

#endif
