/* SPDX-License-Identifier: MIT */
#ifndef FERRY_TARGET_H
#define FERRY_TARGET_H

#include <stdbool.h>

#include "ferry/ferry.h"
#include "runtime/memory/pages.h"
#include "runtime/link/wire.h"

struct ferry_session;

/* A peer names runs of up to all memory: what main does to so many pages is one piece, and then it looks up (link_still()). */
#define PIECE_PAGES HUGE_PAGES

void target_destroy(struct ferry_session *s);

/* target/precopy.c and target/switchover.c share these. */
int target_check_state(struct ferry_session *s, uint64_t len, uint64_t sum);
int target_expose(struct ferry_session *s, enum xport_access access);
int target_lend(struct ferry_session *s, bool all);
int target_drop_named(struct ferry_session *s);
int target_puts_ended(struct ferry_session *s); /* joins the crew that lands puts; -EPIPE: they do not end */
int target_crew_lost(struct ferry_session *s);	/* crew_lost(), wherever the workers wait */
void target_await_bye(struct ferry_session *s, enum wire_type again);

/* The stages' bodies, for the table in phase.c. */
int target_pre_migration(struct ferry_session *s, enum ferry_phase *next);
int target_reservation(struct ferry_session *s, enum ferry_phase *next);
int target_precopy(struct ferry_session *s, enum ferry_phase *next);
int target_stop_and_copy(struct ferry_session *s, enum ferry_phase *next);
int target_postcopy(struct ferry_session *s, enum ferry_phase *next);
int target_commitment(struct ferry_session *s, enum ferry_phase *next);
int target_activation(struct ferry_session *s, enum ferry_phase *next);

/* After a failed stage: forget the VM, or, in doubt, keep it paused and let the arbiter say. Fills the result. */
void target_fail(struct ferry_session *s, int err, struct ferry_result *res);

#endif
