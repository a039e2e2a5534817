/* SPDX-License-Identifier: MIT */
/* The phase table has the arrows that docs/protocol.md lists, all of them and no others. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "runtime/phase.h"

#define PHASES (FERRY_PHASE_FAILED + 1)

static int phase_named(const char *name)
{
	for (int p = 0; p < PHASES; p++) {
		if (!strcmp(phase_row(p)->name, name))
			return p;
	}
	return -1;
}

/* Fills arrows[from] with a bit for each "from -> to" line of the document; how many there are. */
static unsigned read_arrows(uint32_t *arrows)
{
	FILE *f = fopen(FERRY_SOURCE_DIR "/docs/protocol.md", "r");
	char line[512], from[64], to[64], rest;
	unsigned n = 0;

	cr_assert_not_null(f, "docs/protocol.md cannot be opened");
	while (fgets(line, sizeof(line), f)) {
		int a, b;

		if (sscanf(line, "%63[a-z-] -> %63[a-z-]%c", from, to, &rest) != 3 || rest != '\n')
			continue;
		a = phase_named(from);
		b = phase_named(to);
		cr_assert(a >= 0 && b >= 0, "docs/protocol.md names an unknown phase: %s", line);
		cr_assert_not(arrows[a] >> b & 1, "docs/protocol.md has this arrow twice: %s", line);
		arrows[a] |= 1u << b;
		n++;
	}
	fclose(f);
	return n;
}

Test(phase, the_table_is_the_document)
{
	uint32_t arrows[PHASES] = { 0 };

	cr_assert_geq(read_arrows(arrows), 10, "the arrows of docs/protocol.md were not found");
	for (int from = 0; from < PHASES; from++) {
		for (int to = 0; to < PHASES; to++)
			cr_expect_eq(phase_may_follow(from, to), arrows[from] >> to & 1,
				     "%s -> %s: the table says %d, docs/protocol.md %d",
				     phase_row(from)->name, phase_row(to)->name, phase_may_follow(from, to),
				     arrows[from] >> to & 1);
	}
}

Test(phase, every_phase_has_two_bodies_and_a_way_out)
{
	for (int p = 0; p < PHASES; p++) {
		const struct phase_row *row = phase_row(p);
		bool phase = p != FERRY_PHASE_IDLE && p != FERRY_PHASE_DONE && p != FERRY_PHASE_FAILED;

		cr_expect_eq(row->source != NULL, phase, "%s", row->name);
		cr_expect_eq(row->target != NULL, phase, "%s", row->name);
		cr_expect_eq(phase_may_follow(p, FERRY_PHASE_FAILED), phase, "%s", row->name);
		cr_expect_eq(row->next == 0, p == FERRY_PHASE_DONE || p == FERRY_PHASE_FAILED, "%s",
			     row->name);
	}
}

Test(phase, every_phase_can_be_reached_and_can_end)
{
	uint32_t reached = 1u << FERRY_PHASE_IDLE, ends = 1u << FERRY_PHASE_DONE;

	for (int again = 0; again < PHASES; again++) {
		for (int p = 0; p < PHASES; p++) {
			if (reached >> p & 1)
				reached |= phase_row(p)->next;
			if (phase_row(p)->next & ends)
				ends |= 1u << p;
		}
	}
	cr_expect_eq(reached, (1u << PHASES) - 1);
	cr_expect_eq(ends, (1u << PHASES) - 1 - (1u << FERRY_PHASE_FAILED));
}

Test(phase, the_commit_cannot_be_walked_around)
{
	cr_expect_not(phase_may_follow(FERRY_PHASE_STOP_AND_COPY, FERRY_PHASE_ACTIVATION));
	cr_expect_not(phase_may_follow(FERRY_PHASE_POSTCOPY, FERRY_PHASE_ACTIVATION));
	for (int p = 0; p < PHASES; p++)
		cr_expect_eq(phase_may_follow(p, FERRY_PHASE_ACTIVATION), p == FERRY_PHASE_COMMITMENT, "%s",
			     phase_row(p)->name);
}

Test(phase, names)
{
	static const char *const names[] = { "idle",	      "pre-migration", "reservation", "pre-copy",
					     "stop-and-copy", "post-copy",     "commitment",  "activation",
					     "done",	      "failed" };

	for (int p = 0; p < PHASES; p++) {
		cr_expect_str_eq(phase_row(p)->name, names[p]);
		cr_expect_str_eq(ferry_phase_name(p), names[p]);
	}
	cr_expect_null(phase_row(PHASES));
	cr_expect_null(phase_row(-1));
	cr_expect_not(phase_may_follow(PHASES, FERRY_PHASE_IDLE));
	cr_expect_not(phase_may_follow(FERRY_PHASE_IDLE, 77));
}
