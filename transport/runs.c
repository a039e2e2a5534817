// SPDX-License-Identifier: MIT
/* Checks page runs against the exposed memory: the only place where a peer's numbers become addresses. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xport_int.h"
#include "runtime/base/fail.h"
#include "runtime/base/reach.h"

int xp_table_set(struct xp_table *t, const struct xport_region *r, size_t n, enum xport_access access)
{
	struct xport_region *copy = NULL;
	uint64_t bytes;
	size_t i;

	for (i = 0; i < n; i++) {
		if (__builtin_mul_overflow(r[i].npages, PAGE_BYTES, &bytes) ||
		    bytes > UINTPTR_MAX - (uintptr_t)r[i].base)
			return -EINVAL;
	}
	if (n) {
		copy = malloc(n * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, r, n * sizeof(*copy));
	}
	free(t->r);
	*t = (struct xp_table){ .r = copy, .n = n, .access = access };
	return 0;
}

void xp_table_clear(struct xp_table *t)
{
	free(t->r);
	*t = (struct xp_table){ .r = NULL };
}

int xp_runs_check(const struct xp_table *t, const struct page_run *runs, unsigned n, bool memory,
		  uint64_t *bytes, char why[XP_WHY_MAX])
{
	uint64_t sum = 0;
	unsigned i;

	if (!n || n > XPORT_RUNS_MAX) {
		snprintf(why, XP_WHY_MAX, "%u runs in one transfer, 1 to %u are allowed", n, XPORT_RUNS_MAX);
		return -EINVAL;
	}
	for (i = 0; i < n; i++) {
		const struct xport_region *r = xp_table_find(t, runs[i].region);

		if (!r) {
			snprintf(why, XP_WHY_MAX, "region number %u is not exposed here, %zu are",
				 runs[i].region, t->n);
			return -EINVAL;
		}
		if (memory && !r->base) {
			snprintf(why, XP_WHY_MAX, "the memory of region %u is not exposed here", r->id);
			return -EINVAL;
		}
		if (!runs[i].npages || runs[i].page >= r->npages ||
		    runs[i].npages > r->npages - runs[i].page) {
			snprintf(why, XP_WHY_MAX, "run of %u pages at page %llu of region %u, which has %llu",
				 runs[i].npages, (unsigned long long)runs[i].page, r->id,
				 (unsigned long long)r->npages);
			return -EINVAL;
		}
		/* npages < 2^32: the shift cannot overflow, and sum stays below 2^63 */
		sum += (uint64_t)runs[i].npages << PAGE_SHIFT;
		if (sum > XPORT_XFER_MAX) {
			snprintf(why, XP_WHY_MAX, "more than %u bytes in one transfer", XPORT_XFER_MAX);
			return -EINVAL;
		}
	}
	*bytes = sum;
	return 0;
}

void xp_runs_iov(const struct xp_table *t, const struct page_run *runs, unsigned n, struct iovec *iov)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		const struct xport_region *r = xp_table_find(t, runs[i].region);

		iov[i].iov_base = (void *)((uintptr_t)r->base + (runs[i].page << PAGE_SHIFT));
		iov[i].iov_len = (size_t)runs[i].npages << PAGE_SHIFT;
	}
}

int xp_unreachable(const struct xp_table *t, const struct page_run *runs, unsigned n, void *const *dst,
		   bool write, struct fail *f)
{
	for (unsigned i = 0; i < n; i++) {
		const struct xport_region *r = xp_table_find(t, runs[i].region);
		uint64_t off = runs[i].page << PAGE_SHIFT, len = (uint64_t)runs[i].npages << PAGE_SHIFT;
		const uint8_t *base = dst ? dst[i] : (const uint8_t *)r->base + off;
		const void *bad;

		bad = reach_find(base, len, write);
		if (!bad)
			continue;
		off += (uint64_t)((const uint8_t *)bad - base);
		return reach_fail(f, &(struct reach_page){ r->id, off >> PAGE_SHIFT, r->gpa + off, bad },
				  write);
	}
	return fail(f, -EFAULT,
		    "page %llu of region %u, or one of %u runs from there on, could not be %s and can be now; guest RAM must stay "
		    "mapped while it is migrated",
		    (unsigned long long)runs[0].page, t->r[runs[0].region].id, n, write ? "written" : "read");
}

uint64_t xp_runs_pages(const struct page_run *runs, unsigned n)
{
	uint64_t sum = 0;

	while (n--)
		sum += runs[n].npages;
	return sum;
}

unsigned xp_runs_cut(struct page_run **runs, unsigned *n, uint64_t max, struct page_run *part)
{
	unsigned k = 0;

	while (*n && max && k < XPORT_RUNS_MAX) {
		struct page_run *from = *runs, *to = &part[k++];

		*to = *from;
		if (to->npages > max)
			to->npages = (uint32_t)max;
		max -= to->npages;
		from->page += to->npages;
		from->npages -= to->npages;
		if (from->npages)
			break;
		(*runs)++;
		(*n)--;
	}
	return k;
}

void xp_iov_advance(struct iovec **iov, int *n, size_t done)
{
	while (*n && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (*n && done) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
}
