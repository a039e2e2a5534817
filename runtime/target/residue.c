// SPDX-License-Identifier: MIT
/* Reads the residue from the source's RESIDUE messages. */
#include <errno.h>
#include <inttypes.h>

#include "target_int.h"

int residue_recv(struct ferry_session *s, const struct wire_msg *m, struct page_set *set)
{
	struct wire_residue h;
	struct page_set_region *r;
	uint64_t nwords;

	memcpy(&h, m->body, sizeof(h));
	if (h.region >= s->nregions)
		return fail(&s->fail, -EPROTO, "the source's RESIDUE names region number %u; its map has %zu",
			    h.region, s->nregions);
	r = &set->r[h.region];
	if (h.first % 64 || h.first >= r->npages || !h.npages || h.npages > r->npages - h.first ||
	    m->nelems != (h.npages + 63) / 64)
		return fail(&s->fail, -EPROTO,
			    "the source's RESIDUE names pages %" PRIu64 "+%" PRIu64
			    " in %zu words; region %u "
			    "has %" PRIu64,
			    h.first, h.npages, m->nelems, s->regions[h.region].id, r->npages);
	nwords = m->nelems;
	for (uint64_t i = 0; i < nwords; i++) {
		uint64_t w;

		memcpy(&w, (const uint8_t *)m->elems + i * 8, 8);
		if (i == nwords - 1 && h.npages % 64 && w >> (h.npages % 64))
			return fail(&s->fail, -EPROTO,
				    "the source's RESIDUE sets bits beyond its %" PRIu64 " pages", h.npages);
		if (w)
			page_set_add_word(set, h.region, h.first + i * 64, w);
	}
	return 0;
}
