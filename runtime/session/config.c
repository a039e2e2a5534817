// SPDX-License-Identifier: MIT
/* Defaults, limits, and the sentences for values that are out of range. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "config.h"
#include "ferry/drill.h"
#include "runtime/base/cure.h"
#include "runtime/base/clock.h"
#include "runtime/base/fail.h"
#include "runtime/base/grow.h"
#include "transport/xport.h"
#include "runtime/link/wire.h"
#include "runtime/memory/pages.h"

static int bound(struct fail *f, const char *name, uint64_t v, uint64_t min, uint64_t max)
{
	if (v >= min && v <= max)
		return 0;
	return fail(f, -EINVAL, "config.%s is %" PRIu64 "; it takes %" PRIu64 " to %" PRIu64, name, v, min,
		    max);
}

static int check_limits(const struct ferry_config *c, struct fail *f)
{
	const struct {
		const char *name;
		uint64_t v, min, max;
	} row[] = {
		{ "mode", c->mode, 0, FERRY_MODE_POSTCOPY },
		{ "commit_at", c->commit_at, 0, FERRY_COMMIT_AT_SWITCHOVER },
		{ "at_hold_limit", c->at_hold_limit, 0, FERRY_HOLD_COMMIT },
		{ "channels", c->channels, 1, XPORT_CHANNELS_MAX },
		{ "max_rounds", c->max_rounds, 1, CONFIG_ROUNDS_MAX },
		{ "poll_us", c->poll_us, 0, CONFIG_POLL_US_MAX },
		{ "flags", c->flags, 0, FERRY_CONFIG_NO_RECONNECT | FERRY_CONFIG_DRILL },
		{ "downtime_us", c->downtime_us, 1, DURATION_US_MAX },
		{ "precopy_limit_us", c->precopy_limit_us, 0, DURATION_US_MAX },
		{ "hold_limit_us", c->hold_limit_us, 0, DURATION_US_MAX },
		{ "connect_us", c->connect_us, 1, DURATION_US_MAX },
		{ "reconnect_us", c->reconnect_us, 0, DURATION_US_MAX },
		{ "timeout_us", c->timeout_us, CONFIG_TIMEOUT_US_MIN, DURATION_US_MAX },
		{ "switchover_limit_us", c->switchover_limit_us, 1, DURATION_US_MAX },
		{ "landing", c->landing, 0, FERRY_LANDING_WAY_KERNEL },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		int err = bound(f, row[i].name, row[i].v, row[i].min, row[i].max);

		if (err < 0)
			return err;
	}
	return 0;
}

static void def32(uint32_t *v, uint32_t def)
{
	if (!*v)
		*v = def;
}

static void def64(uint64_t *v, uint64_t def)
{
	if (!*v)
		*v = def;
}

int config_load(struct ferry_config *ret, const struct ferry_config *cfg, struct fail *f)
{
	struct ferry_config c = { .size = sizeof(c) };
	int err;

	if (cfg && (err = struct_grow(&c, sizeof(c), cfg, "config", f)) < 0)
		return err;
	def32(&c.channels, 1);
	def32(&c.max_rounds, CONFIG_ROUNDS);
	def32(&c.poll_us, CONFIG_POLL_US);
	def64(&c.downtime_us, CONFIG_DOWNTIME_US);
	def64(&c.connect_us, CONFIG_CONNECT_US);
	def64(&c.timeout_us, CONFIG_TIMEOUT_US);
	def64(&c.switchover_limit_us, CONFIG_SWITCHOVER_LIMIT_US);
	def64(&c.reconnect_us, CONFIG_RECONNECT_US);
	if (!FERRY_DRILL && c.flags & FERRY_CONFIG_DRILL)
		return fail(f, -EOPNOTSUPP,
			    "fault injection (FERRY_CONFIG_DRILL) is not in this build of the library; configure it with "
			    "FERRY_DRILL=ON");
	if (c.flags & FERRY_CONFIG_NO_RECONNECT)
		c.reconnect_us = 0;
	if ((err = check_limits(&c, f)) < 0)
		return err;
	*ret = c;
	return 0;
}

int config_ops(struct ferry_ops *ret, const struct ferry_ops *ops, int is_source, struct fail *f)
{
	struct ferry_ops o;
	int err = ops ? struct_grow(&o, sizeof(o), ops, "ops", f)
		      : fail(f, -EINVAL, "vm.ops is NULL; point it at a struct ferry_ops");

	if (err < 0)
		return err;
	ret->log = o.log; /* a refusal below is logged there */
	const struct {
		const char *name;
		bool given, needed;
	} row[] = {
		{ "dirty_start", o.dirty_start, is_source },
		{ "dirty_stop", o.dirty_stop, is_source },
		{ "dirty_fetch", o.dirty_fetch, is_source },
		{ "save", o.save, is_source },
		{ "pause", o.pause, true },
		{ "resume", o.resume, true },
		{ "reserve", o.reserve, !is_source },
		{ "load", o.load, !is_source },
		{ "discard", o.discard, !is_source },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		if (row[i].needed && !row[i].given)
			return fail(f, -EINVAL, "ops.%s is NULL; a %s must have it", row[i].name,
				    is_source ? "source" : "target");
	if (!o.output_hold != !o.output_release)
		return fail(f, -EINVAL, "ops.output_%s is NULL; output_hold and output_release come together",
			    o.output_hold ? "release" : "hold");
	*ret = o;
	return 0;
}

/* Whether fields of a later version of the header are set: this version cannot do what they ask. */
static bool has_more(const struct ferry_region *r)
{
	uint32_t any = 0;

	for (size_t i = 0; i < sizeof(r->reserved) / sizeof(r->reserved[0]); i++)
		any |= r->reserved[i];
	return any;
}

static int check_foreign(const struct ferry_region *r, bool target, struct fail *f)
{
	if (!(r->flags & FERRY_REGION_FOREIGN))
		return r->uffd ? fail(f, -EINVAL,
				      "region %u has uffd %d and not FERRY_REGION_FOREIGN; zero the struct before you fill it, or set "
				      "the flag",
				      r->id, r->uffd)
			       : 0;
	if (!target)
		return fail(f, -EINVAL,
			    "region %u has FERRY_REGION_FOREIGN, which only the reserve op of a target may set; a source has "
			    "a mapping of its own",
			    r->id);
	if (!(r->flags & FERRY_REGION_SHARED) || r->uffd < -1)
		return fail(f, -EINVAL,
			    "region %u is mapped in another process with flags %#x and uffd %d; it must be shared memory "
			    "(%#x), and uffd that process's userfaultfd or -1",
			    r->id, r->flags, r->uffd, FERRY_REGION_SHARED | FERRY_REGION_FOREIGN);
	return 0;
}

static int check_region(const struct ferry_region *r, size_t i, bool target, struct fail *f)
{
	int err;

	unsigned long mask = (1ul << (r->page_shift & 31)) - 1;

	if (r->page_shift != PAGE_SHIFT && r->page_shift != HUGE_SHIFT)
		return fail(f, -EOPNOTSUPP,
			    "region %u has page_shift %u; set 12 for pages of 4 KiB (transparent huge pages too), 21 for "
			    "2 MiB of hugetlbfs",
			    r->id, r->page_shift);
	if ((err = check_foreign(r, target, f)) < 0)
		return err;
	if (r->flags & ~(FERRY_REGION_SHARED | FERRY_REGION_THP | FERRY_REGION_FOREIGN))
		return fail(f, -EOPNOTSUPP,
			    "region %u has flags %#x; set 0 for private anonymous memory, %#x for a memfd, and add %#x "
			    "for transparent huge pages",
			    r->id, r->flags, FERRY_REGION_SHARED, FERRY_REGION_THP);
	if (has_more(r))
		return fail(f, -EINVAL,
			    "region %u has something in its reserved fields; zero the struct before you fill it, or use a newer "
			    "version of the library",
			    r->id);
	if (r->flags & FERRY_REGION_THP && r->page_shift != PAGE_SHIFT)
		return fail(f, -EINVAL,
			    "region %u is to have transparent huge pages and is of hugetlbfs already (page_shift %u); "
			    "leave FERRY_REGION_THP out",
			    r->id, r->page_shift);
	if (!r->len || (r->len | r->gpa) & mask || r->len > WIRE_MEMORY_MAX || r->gpa > UINT64_MAX - r->len)
		return fail(f, -EINVAL,
			    "region %u (number %zu) is %#" PRIx64 " bytes at %#" PRIx64
			    "; both must be multiples of %lu, and the length not 0",
			    r->id, i, r->len, r->gpa, mask + 1);
	if (!r->hva || (uintptr_t)r->hva & mask)
		return fail(f, -EINVAL,
			    "region %u is mapped at %p; it needs an address that is a multiple of %lu", r->id,
			    r->hva, mask + 1);
	if ((r->flags & FERRY_REGION_SHARED) && (r->fd < 0 || r->fd_offset & mask))
		return fail(f, -EINVAL,
			    "region %u is shared memory with fd %d at offset %#" PRIx64
			    "; it needs a memfd and a multiple of %lu",
			    r->id, r->fd, r->fd_offset, mask + 1);
	return 0;
}

static int check_regions(const struct ferry_region *r, size_t n, bool target, struct fail *f)
{
	uint64_t total = 0;
	int err;

	if (!r || !n || n > WIRE_REGIONS_MAX)
		return fail(f, -EINVAL, "the VM has %zu regions; describe its RAM in 1 to %u", n,
			    WIRE_REGIONS_MAX);
	for (size_t i = 0; i < n; i++) {
		if ((err = check_region(&r[i], i, target, f)) < 0)
			return err;
		total += r[i].len;
		if (total > WIRE_MEMORY_MAX)
			return fail(f, -EINVAL,
				    "the regions add up to over %" PRIu64 " GiB; leave out what is not RAM",
				    WIRE_MEMORY_MAX >> 30);
		for (size_t k = 0; k < i; k++) {
			if (r[k].id == r[i].id)
				return fail(f, -EINVAL,
					    "two regions have id %u; it names a region on the link: make each unique",
					    r[i].id);
			if (r[k].gpa < r[i].gpa + r[i].len && r[i].gpa < r[k].gpa + r[k].len)
				return fail(f, -EINVAL,
					    "regions %u and %u overlap in guest physical memory; give each byte to one region",
					    r[k].id, r[i].id);
		}
	}
	return 0;
}

int config_regions(const struct ferry_region *r, size_t n, struct fail *f)
{
	return check_regions(r, n, false, f);
}

int config_reserved(const struct ferry_region *r, size_t n, struct fail *f)
{
	int err = check_regions(r, n, true, f);

	for (size_t i = 1; i < n && !err; i++)
		if ((r[i].flags ^ r[0].flags) & FERRY_REGION_FOREIGN || r[i].uffd != r[0].uffd)
			err = fail(f, -EINVAL,
				   "regions %u and %u are not of one process: all have FERRY_REGION_FOREIGN and the same uffd, or "
				   "none has (flags %#x and %#x, uffd %d and %d)",
				   r[0].id, r[i].id, r[0].flags, r[i].flags, r[0].uffd, r[i].uffd);
	return err;
}
