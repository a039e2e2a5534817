// SPDX-License-Identifier: MIT
/* How many pages a target can lack, as its source counts them. */
#include "missing.h"

uint64_t missing_most(const struct ferry_session *s)
{
	uint64_t most = s->src.residue_pages;

	/* A private huge page that lacks one piece lacks all: the target has dropped what it held of it. */
	for (size_t i = 0; most && i < s->nregions; i++)
		if (s->regions[i].page_shift != PAGE_SHIFT && !(s->regions[i].flags & FERRY_REGION_SHARED))
			most += s->regions[i].len >> PAGE_SHIFT;
	return most;
}

uint64_t missing_max(const struct ferry_session *s)
{
	bool early = s->cfg.at_hold_limit == FERRY_HOLD_COMMIT && s->cfg.hold_limit_us;

	return early || s->cfg.commit_at == FERRY_COMMIT_AT_SWITCHOVER ? missing_most(s) : 0;
}
