// SPDX-License-Identifier: MIT
/* Poisoned pages at the target: pages that the source's host has lost. session/poison.h has the theory. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "target_int.h"
#include "runtime/link/link.h"
#include "runtime/session/poison.h"

#define LOOK_RUNS 64u /* small runs between two calls of link_still(); the op is called for each */

int poison_recv(struct ferry_session *s, const struct wire_msg *m)
{
	for (size_t i = 0; i < m->nelems; i++) {
		struct page_run run;
		uint32_t unit;
		int err;

		memcpy(&run, (const struct page_run *)m->elems + i, sizeof(run));
		err = target_check_run(s, "POISON", &run);
		if (err < 0)
			return err;
		unit = poison_unit(s, run.region, run.page).npages;
		if (run.page % unit || run.npages % unit)
			return fail(&s->fail, -EPROTO,
				    "the source's POISON names pages %" PRIu64
				    "+%u of region %u, which are no whole huge pages",
				    run.page, run.npages, s->regions[run.region].id);
		if (!s->tgt.place.poisons)
			return fail(&s->fail, -EPROTO,
				    "the source sent POISON, and this end has not said that it can");
		page_set_add_run(&s->tgt.poison, &run);
	}
	return 0;
}

int poison_install(struct ferry_session *s)
{
	struct page_cursor at = { 0 };
	struct page_run run;
	unsigned n = 0;
	int err = 0;

	while (!err && page_set_next(&s->tgt.poison, &at, PIECE_PAGES, &run)) {
		struct page_cursor in = { .region = run.region,
					  .page = run.page,
					  .end = run.page + run.npages };
		struct page_run both;

		if (page_set_next(&s->tgt.missing, &in, 1, &both))
			return fail(&s->fail, -EPROTO,
				    "the source's POISON and its RESIDUE both name page %" PRIu64
				    " of region %u",
				    both.page, s->regions[run.region].id);
		atomic_store(&s->tgt.poisoned, true);
		err = place_poison(&s->tgt.place, &run, &s->fail);
		if (!err)
			err = OP(s, poison, s->regions[run.region].id, run.page, run.npages);
		if (!err && (run.npages == PIECE_PAGES || ++n % LOOK_RUNS == 0))
			err = link_still(s);
	}
	return err;
}
