// SPDX-License-Identifier: MIT
/* The phases of a migration as one table. docs/protocol.md has the same arrows; a test compares them. */
#include <assert.h>
#include <errno.h>

#include "phase.h"
#include "runtime/base/probe.h"
#include "runtime/session/endpoint.h"
#include "runtime/source/source.h"
#include "runtime/target/target.h"

#define TO(phase) (1u << FERRY_PHASE_##phase)

static const struct phase_row rows[] = {
	[FERRY_PHASE_IDLE] = { "idle", NULL, NULL, TO(PRE_MIGRATION) },
	[FERRY_PHASE_PRE_MIGRATION] = { "pre-migration", endpoint_pre_migration, endpoint_pre_migration,
					TO(RESERVATION) | TO(FAILED) },
	[FERRY_PHASE_RESERVATION] = { "reservation", source_reservation, target_reservation,
				      TO(PRECOPY) | TO(FAILED) },
	[FERRY_PHASE_PRECOPY] = { "pre-copy", source_precopy, target_precopy,
				  TO(STOP_AND_COPY) | TO(FAILED) },
	[FERRY_PHASE_STOP_AND_COPY] = { "stop-and-copy", source_stop_and_copy, target_stop_and_copy,
					TO(POSTCOPY) | TO(COMMITMENT) | TO(FAILED) },
	[FERRY_PHASE_POSTCOPY] = { "post-copy", source_postcopy, target_postcopy,
				   TO(COMMITMENT) | TO(DONE) | TO(FAILED) },
	[FERRY_PHASE_COMMITMENT] = { "commitment", source_commitment, target_commitment,
				     TO(ACTIVATION) | TO(FAILED) },
	[FERRY_PHASE_ACTIVATION] = { "activation", source_activation, target_activation,
				     TO(DONE) | TO(POSTCOPY) | TO(FAILED) },
	[FERRY_PHASE_DONE] = { "done", NULL, NULL, 0 },
	[FERRY_PHASE_FAILED] = { "failed", NULL, NULL, 0 },
};
_Static_assert(sizeof(rows) / sizeof(rows[0]) == FERRY_PHASE_FAILED + 1, "a row a phase");

const struct phase_row *phase_row(enum ferry_phase p)
{
	return p <= FERRY_PHASE_FAILED ? &rows[p] : NULL;
}

bool phase_may_follow(enum ferry_phase from, enum ferry_phase to)
{
	return from <= FERRY_PHASE_FAILED && to <= FERRY_PHASE_FAILED && rows[from].next & (1u << to);
}

void phase_enter(struct ferry_session *s, enum ferry_phase to)
{
	assert(phase_may_follow(s->phase, to));
	pthread_mutex_lock(&s->view_lock);
	if (to < FERRY_PHASE_DONE)
		s->last_phase = to;
	s->phase = to;
	s->phase_us[to] = now_us();
	count(&s->stats.steps, 1);
	pthread_mutex_unlock(&s->view_lock);
	session_log(s, 6, NULL, "phase name=%s", rows[to].name);
	PROBE4(phase, s, s->is_source, to, rows[to].name);
	session_event(s, FERRY_EVENT_PHASE, rows[to].name, NULL);
}

int phase_walk(struct ferry_session *s)
{
	enum ferry_phase next = FERRY_PHASE_PRE_MIGRATION;

	while (next != FERRY_PHASE_DONE) {
		const struct phase_row *row = &rows[next];
		int err;

		phase_enter(s, next);
		err = s->is_source ? row->source(s, &next) : row->target(s, &next);
		if (err < 0)
			return err;
	}
	return 0;
}
