// SPDX-License-Identifier: MIT
#include <errno.h>
#include <inttypes.h>

#include "runtime/link/link.h"
#include "residue.h"
#include "runtime/source/source.h"

int residue_send(struct ferry_session *s, const struct page_set *set)
{
	for (uint32_t i = 0; i < s->nregions; i++) {
		const struct page_set_region *r = &set->r[i];
		uint64_t end;
		int err;

		for (uint64_t first = 0; first < r->npages; first = end) {
			struct page_cursor at = { .region = i, .page = first, .end = r->npages };
			struct wire_residue h = { .region = s->regions[i].id };
			struct page_run run;

			if (!page_set_next(set, &at, 1, &run))
				break;
			h.first = run.page & ~UINT64_C(63);
			h.npages = r->npages - h.first < WIRE_RESIDUE_PAGES ? r->npages - h.first : WIRE_RESIDUE_PAGES;
			end = h.first + h.npages;
			err = source_may_send(s);
			if (!err)
				err = link_send(s, WIRE_RESIDUE, &h, sizeof(h), (const void *)&r->words[h.first / 64],
						(h.npages + 63) / 64 * 8);
			if (err < 0)
				return err;
		}
	}
	return 0;
}

int residue_recv(struct ferry_session *s, const struct wire_msg *m, struct page_set *set)
{
	struct wire_residue h;
	struct page_set_region *r;
	uint64_t nwords;
	int idx;

	memcpy(&h, m->body, sizeof(h));
	idx = region_index(s, h.region);
	if (idx < 0)
		return fail(&s->fail, -EPROTO, "the source's RESIDUE names region %u, which is not in its map", h.region);
	r = &set->r[idx];
	if (h.first % 64 || h.first >= r->npages || !h.npages || h.npages > r->npages - h.first ||
	    m->nelems != (h.npages + 63) / 64)
		return fail(&s->fail, -EPROTO, "the source's RESIDUE names pages %" PRIu64 "+%" PRIu64 " in %zu words; region %u "
			    "has %" PRIu64, h.first, h.npages, m->nelems, h.region, r->npages);
	nwords = m->nelems;
	for (uint64_t i = 0; i < nwords; i++) {
		uint64_t w;

		memcpy(&w, (const uint8_t *)m->elems + i * 8, 8);
		if (i == nwords - 1 && h.npages % 64 && w >> (h.npages % 64))
			return fail(&s->fail, -EPROTO, "the source's RESIDUE sets bits beyond its %" PRIu64 " pages", h.npages);
		if (w)
			page_set_add_word(set, (uint32_t)idx, h.first + i * 64, w);
	}
	return 0;
}
