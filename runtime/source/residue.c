// SPDX-License-Identifier: MIT
/* Names the residue to the target. */
#include <errno.h>

#include "source_int.h"
#include "runtime/link/link.h"

int residue_send(struct ferry_session *s, const struct page_set *set)
{
	for (uint32_t i = 0; i < s->nregions; i++) {
		const struct page_set_region *r = &set->r[i];
		uint64_t end;
		int err;

		for (uint64_t first = 0; first < r->npages; first = end) {
			struct page_cursor at = { .region = i, .page = first, .end = r->npages };
			struct wire_residue h = { .region = i };
			struct page_run run;

			if (!page_set_next(set, &at, 1, &run))
				break;
			h.first = run.page & ~UINT64_C(63);
			h.npages = r->npages - h.first < WIRE_RESIDUE_PAGES ? r->npages - h.first
									    : WIRE_RESIDUE_PAGES;
			end = h.first + h.npages;
			err = source_may_send(s);
			if (!err)
				err = link_send(s, WIRE_RESIDUE, &h, sizeof(h),
						(const void *)&r->words[h.first / 64],
						(h.npages + 63) / 64 * 8);
			if (err < 0)
				return err;
		}
	}
	return 0;
}
