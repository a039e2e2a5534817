/* SPDX-License-Identifier: MIT */
/* Structs that grow by size, defaults, limits, and the sentences that say which was passed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "runtime/base/clock.h"
#include "runtime/base/fail.h"
#include "runtime/link/wire.h"
#include "runtime/session/config.h"

#define PAGE 4096u
#define HUGE (UINT64_C(2) << 20)

static int op(void *vm)
{
	(void)vm;
	return 0;
}

static int op_reserve(void *vm, struct ferry_region *r, size_t n, struct ferry_stream *needs)
{
	(void)vm, (void)r, (void)n, (void)needs;
	return 0;
}

static int op_fetch(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	(void)vm, (void)region, (void)bits, (void)npages, (void)flags;
	return 0;
}

static int op_stream(void *vm, struct ferry_stream *st)
{
	(void)vm, (void)st;
	return 0;
}

static struct ferry_ops all_ops(void)
{
	return (struct ferry_ops){ FERRY_OPS_INIT,   .reserve = op_reserve,   .dirty_start = op,
				   .dirty_stop = op, .dirty_fetch = op_fetch, .pause = op,
				   .resume = op,     .save = op_stream,	      .load = op_stream,
				   .discard = op };
}

/* The first size bytes of a struct, directly before a page that cannot be read. */
static void *at_the_edge(const void *data, size_t size)
{
	char *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq((void *)pages, MAP_FAILED);
	cr_assert_eq(mprotect(pages + PAGE, PAGE, PROT_NONE), 0);
	memcpy(pages + PAGE - size, data, size);
	memcpy(pages + PAGE - size, &size, sizeof(size));
	return pages + PAGE - size;
}

Test(config, no_configuration_means_the_defaults)
{
	struct ferry_config c, zero = { FERRY_CONFIG_INIT }, also;

	cr_assert_eq(config_load(&c, NULL, NULL), 0);
	cr_assert_eq(config_load(&also, &zero, NULL), 0);
	cr_assert_eq(memcmp(&c, &also, sizeof(c)), 0);
	cr_expect_eq(c.size, sizeof(c));
	cr_expect_eq(c.mode, FERRY_MODE_AUTO);
	cr_expect_eq(c.commit_at, FERRY_COMMIT_AT_DEFAULT);
	cr_expect_eq(c.channels, 1);
	cr_expect_eq(c.max_rounds, 30);
	cr_expect_eq(c.poll_us, 1000);
	cr_expect_eq(c.downtime_us, 300000);
	cr_expect_eq(c.precopy_limit_us, 0);
	cr_expect_eq(c.bandwidth, 0);
	cr_expect_eq(c.hold_limit_us, 0);
	cr_expect_eq(c.connect_us, 10000000);
	cr_expect_eq(c.reconnect_us, 5000000);
	cr_expect_eq(c.timeout_us, 3000000);
	cr_expect_eq(c.switchover_limit_us, 30000000);
}

Test(config, no_reconnect)
{
	struct ferry_config in = { FERRY_CONFIG_INIT, .flags = FERRY_CONFIG_NO_RECONNECT,
				   .reconnect_us = 77 },
			    c;

	cr_assert_eq(config_load(&c, &in, NULL), 0);
	cr_assert_eq(c.reconnect_us, 0);
}

Test(config, a_smaller_struct_lacks_what_came_later)
{
	struct ferry_config in = { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY,
				   .channels = 4,     .downtime_us = 1234,
				   .bandwidth = 999,  .timeout_us = 20000 };
	struct ferry_config c;
	size_t size;

	size = offsetof(struct ferry_config, bandwidth);
	cr_assert_eq(config_load(&c, at_the_edge(&in, size), NULL), 0);
	cr_expect(c.size == sizeof(c) && c.mode == FERRY_MODE_POSTCOPY && c.channels == 4 &&
		  c.downtime_us == 1234);
	cr_expect(c.bandwidth == 0 && c.timeout_us == 3000000);
	for (size = sizeof(size_t); size <= sizeof(in); size += 4)
		cr_assert_eq(config_load(&c, at_the_edge(&in, size), NULL), 0, "size %zu", size);
}

Test(config, a_larger_struct_is_taken_while_the_rest_is_zero)
{
	struct {
		struct ferry_config known;
		uint8_t later[40];
	} in = { .known = { .size = sizeof(in), .channels = 2 } };
	struct ferry_config c;
	struct fail f = { 0 };

	cr_assert_eq(config_load(&c, &in.known, &f), 0);
	cr_assert(c.size == sizeof(c) && c.channels == 2);
	in.later[39] = 1;
	cr_assert_eq(config_load(&c, &in.known, &f), -EINVAL);
	cr_assert(strstr(fail_text(&f), "config.size"), "%s", fail_text(&f));
	in.later[39] = 0;
	in.later[0] = 1;
	cr_assert_eq(config_load(&c, &in.known, NULL), -EINVAL);
}

Test(config, a_size_that_was_forgotten)
{
	struct ferry_config in = { .channels = 3 }, c = { .channels = 9 };
	struct fail f = { 0 };

	cr_assert_eq(config_load(&c, &in, &f), -EINVAL);
	cr_assert_str_eq(fail_text(&f), "config.size is 0; set it to sizeof(struct ferry_config)");
	cr_assert_eq(c.channels, 9, "an error leaves the output alone");
}

#define LIMIT(field, good, bad)                                                                     \
	do {                                                                                        \
		struct ferry_config in = { FERRY_CONFIG_INIT }, c;                                  \
		struct fail f = { 0 };                                                              \
		in.field = (good);                                                                  \
		cr_expect_eq(config_load(&c, &in, &f), 0, "%s: %s", #field, fail_text(&f));         \
		in.field = (bad);                                                                   \
		cr_expect_eq(config_load(&c, &in, &f), -EINVAL, "%s takes %s", #field, #bad);       \
		cr_expect(strstr(fail_text(&f), "config." #field " is "), "\"%s\"", fail_text(&f)); \
	} while (0)

Test(config, limits)
{
	LIMIT(mode, FERRY_MODE_POSTCOPY, 3);
	LIMIT(commit_at, FERRY_COMMIT_AT_SWITCHOVER, 3);
	LIMIT(at_hold_limit, FERRY_HOLD_COMMIT, 2);
	LIMIT(channels, 16, 17);
	LIMIT(max_rounds, 1000, 1001);
	LIMIT(poll_us, 10000, 10001);
	LIMIT(flags, 3, 4);
	LIMIT(downtime_us, DURATION_US_MAX, DURATION_US_MAX + 1);
	LIMIT(precopy_limit_us, DURATION_US_MAX, UINT64_MAX);
	LIMIT(hold_limit_us, 1, UINT64_MAX);
	LIMIT(connect_us, 1, UINT64_MAX);
	LIMIT(reconnect_us, 1, UINT64_MAX);
	LIMIT(timeout_us, 10000, 9999);
	LIMIT(timeout_us, 10000, UINT64_MAX);
	LIMIT(switchover_limit_us, 1, UINT64_MAX);
}

Test(config, a_limit_is_said_with_its_values)
{
	struct ferry_config in = { FERRY_CONFIG_INIT, .channels = 99 }, c;
	struct fail f = { 0 };

	config_load(&c, &in, &f);
	cr_assert_str_eq(fail_text(&f), "config.channels is 99; it takes 1 to 16");
}

#define WITHOUT(op_name, at_source, at_target)                                                        \
	do {                                                                                          \
		struct ferry_ops in = all_ops(), o;                                                   \
		struct fail f = { 0 };                                                                \
		in.op_name = NULL;                                                                    \
		cr_expect_eq(config_ops(&o, &in, 1, &f), at_source ? -EINVAL : 0, "%s", #op_name);    \
		cr_expect(!at_source || strstr(fail_text(&f), "ops." #op_name), "%s", fail_text(&f)); \
		fail_reset(&f);                                                                       \
		cr_expect_eq(config_ops(&o, &in, 0, &f), at_target ? -EINVAL : 0, "%s", #op_name);    \
		cr_expect(!at_target || strstr(fail_text(&f), "ops." #op_name), "%s", fail_text(&f)); \
	} while (0)

Test(config, the_ops_that_each_end_needs)
{
	WITHOUT(needs, false, false);
	WITHOUT(reserve, false, true);
	WITHOUT(dirty_start, true, false);
	WITHOUT(dirty_stop, true, false);
	WITHOUT(dirty_fetch, true, false);
	WITHOUT(throttle, false, false);
	WITHOUT(pause, true, true);
	WITHOUT(resume, true, true);
	WITHOUT(save, true, false);
	WITHOUT(load, false, true);
	WITHOUT(discard, false, true);
	WITHOUT(arbiter, false, false);
	WITHOUT(log, false, false);
	WITHOUT(offer, false, false);
	WITHOUT(offered, false, false);
}

Test(config, output_ops_come_together)
{
	struct ferry_ops in = all_ops(), o;
	struct fail f = { 0 };

	in.output_hold = op;
	cr_expect_eq(config_ops(&o, &in, 0, &f), -EINVAL);
	cr_expect(strstr(fail_text(&f), "output_release"), "%s", fail_text(&f));
	in.output_release = op;
	cr_expect_eq(config_ops(&o, &in, 0, NULL), 0);
	in.output_hold = NULL;
	cr_expect_eq(config_ops(&o, &in, 0, NULL), -EINVAL);
}

Test(config, ops_from_an_older_header)
{
	struct ferry_ops in = all_ops(), o;
	struct fail f = { 0 };

	in.arbiter = (void *)op;
	cr_assert_eq(config_ops(&o, at_the_edge(&in, offsetof(struct ferry_ops, arbiter)), 0, NULL), 0);
	cr_assert(!o.arbiter && o.discard == op && o.size == sizeof(o));
	cr_assert_eq(config_ops(&o, at_the_edge(&in, offsetof(struct ferry_ops, discard)), 0, &f), -EINVAL);
	cr_assert(strstr(fail_text(&f), "ops.discard"), "%s", fail_text(&f));
	cr_assert_eq(config_ops(&o, at_the_edge(&in, sizeof(size_t)), 1, NULL), -EINVAL);
	cr_assert_eq(config_ops(&o, NULL, 1, NULL), -EINVAL);
}

static struct ferry_region a_region(void)
{
	return (struct ferry_region){ .gpa = 16 * PAGE,
				      .len = 16 * PAGE,
				      .hva = (void *)(uintptr_t)(1024 * PAGE),
				      .fd = -1,
				      .id = 5,
				      .page_shift = 12 };
}

#define BAD_REGION(err, field, value)                                                      \
	do {                                                                               \
		struct ferry_region bad = a_region();                                      \
		struct fail f = { 0 };                                                     \
		bad.field = (value);                                                       \
		cr_expect_eq(config_regions(&bad, 1, &f), err, "%s = %s", #field, #value); \
		cr_expect(strstr(fail_text(&f), "region 5 "), "\"%s\"", fail_text(&f));    \
	} while (0)

Test(config, regions)
{
	struct ferry_region r = a_region();

	cr_expect_eq(config_regions(&r, 1, NULL), 0);
	cr_expect_eq(config_regions(&r, 0, NULL), -EINVAL);
	cr_expect_eq(config_regions(NULL, 1, NULL), -EINVAL);
	BAD_REGION(-EOPNOTSUPP, page_shift, 0);
	BAD_REGION(-EOPNOTSUPP, page_shift, 13);
	BAD_REGION(-EOPNOTSUPP, page_shift, 30);
	BAD_REGION(-EOPNOTSUPP, page_shift, 32 + 12);
	BAD_REGION(-EINVAL, page_shift, 21);
	BAD_REGION(-EOPNOTSUPP, flags, 8);
	BAD_REGION(-EINVAL, flags, FERRY_REGION_FOREIGN);
	BAD_REGION(-EINVAL, uffd, 3);
	BAD_REGION(-EINVAL, uffd, -1);
	BAD_REGION(-EINVAL, reserved[0], 1);
	BAD_REGION(-EINVAL, reserved[9], 1);
	BAD_REGION(-EINVAL, flags, FERRY_REGION_SHARED); /* with fd -1 */
	BAD_REGION(-EINVAL, len, 0);
	BAD_REGION(-EINVAL, len, PAGE + 1);
	BAD_REGION(-EINVAL, len, UINT64_MAX - 4095);
	BAD_REGION(-EINVAL, gpa, 1);
	BAD_REGION(-EINVAL, gpa, UINT64_MAX - 4095);
	BAD_REGION(-EINVAL, hva, NULL);
	BAD_REGION(-EINVAL, hva, (void *)1);
}

/* One that is right, spoilt in one way at a time. */
Test(config, regions_of_huge_pages)
{
	const struct ferry_region right = { .gpa = 4 * HUGE,
					    .len = 4 * HUGE,
					    .hva = (void *)(uintptr_t)(1024 * HUGE),
					    .fd = 3,
					    .fd_offset = HUGE,
					    .id = 5,
					    .page_shift = 21,
					    .flags = FERRY_REGION_SHARED };
	struct ferry_region r = right;

	cr_expect_eq(config_regions(&r, 1, NULL), 0);
	r.len += PAGE;
	cr_expect_eq(config_regions(&r, 1, NULL), -EINVAL);
	r = right;
	r.gpa += PAGE;
	cr_expect_eq(config_regions(&r, 1, NULL), -EINVAL);
	r = right;
	r.hva = (uint8_t *)r.hva + PAGE;
	cr_expect_eq(config_regions(&r, 1, NULL), -EINVAL);
	r = right;
	r.fd_offset += PAGE;
	cr_expect_eq(config_regions(&r, 1, NULL), -EINVAL);
	r = right;
	r.flags = FERRY_REGION_THP;
	cr_expect_eq(config_regions(&r, 1, NULL), -EINVAL);
}

/* Of another process, which only a target's VMM may say. */
Test(config, regions_of_another_process)
{
	struct ferry_region r[2] = { a_region(), a_region() };

	for (int i = 0; i < 2; i++) {
		r[i].flags = FERRY_REGION_SHARED | FERRY_REGION_FOREIGN;
		r[i].fd = 3;
		r[i].uffd = 0; /* a descriptor like any other */
	}
	r[1].id = 6;
	r[1].gpa = 64 * PAGE;
	cr_expect_eq(config_reserved(r, 2, NULL), 0);
	cr_expect_eq(config_regions(r, 2, NULL), -EINVAL);
	r[1].uffd = 5;
	cr_expect_eq(config_reserved(r, 2, NULL), -EINVAL, "two processes");
	r[0].uffd = r[1].uffd = -1;
	cr_expect_eq(config_reserved(r, 2, NULL), 0);
	r[0].uffd = r[1].uffd = -2;
	cr_expect_eq(config_reserved(r, 2, NULL), -EINVAL);
	r[0].uffd = r[1].uffd = 5;
	r[0].flags = FERRY_REGION_FOREIGN;
	cr_expect_eq(config_reserved(r, 2, NULL), -EINVAL, "private memory");
	r[0].flags = FERRY_REGION_SHARED;
	r[0].uffd = 0;
	cr_expect_eq(config_reserved(r, 2, NULL), -EINVAL, "one of them only");
	r[1].flags = FERRY_REGION_SHARED;
	r[1].uffd = 0;
	cr_expect_eq(config_reserved(r, 2, NULL), 0);
	r[0].uffd = 5;
	cr_expect_eq(config_reserved(r, 2, NULL), -EINVAL, "without the flag");
}

Test(config, regions_together)
{
	struct ferry_region r[2] = { a_region(), a_region() };
	struct fail f = { 0 };

	cr_expect_eq(config_regions(r, 2, &f), -EINVAL);
	cr_expect_str_eq(fail_text(&f),
			 "two regions have id 5; it names a region on the link: make each unique");
	r[1].id = 6;
	cr_expect_eq(config_regions(r, 2, NULL), -EINVAL, "they overlap");
	r[1].gpa = r[0].gpa + r[0].len;
	cr_expect_eq(config_regions(r, 2, NULL), 0);
	r[1].gpa -= PAGE;
	cr_expect_eq(config_regions(r, 2, NULL), -EINVAL);
	r[1].gpa = 0;
	cr_expect_eq(config_regions(r, 2, NULL), 0);
	r[1].gpa = WIRE_MEMORY_MAX;
	r[1].len = WIRE_MEMORY_MAX;
	cr_expect_eq(config_regions(r, 2, NULL), -EINVAL, "too much together");
}

Test(config, too_many_regions)
{
	struct ferry_region *r = calloc(WIRE_REGIONS_MAX + 1, sizeof(*r));

	for (uint32_t i = 0; i <= WIRE_REGIONS_MAX; i++) {
		r[i] = a_region();
		r[i].id = i;
		r[i].gpa = (uint64_t)i * r[i].len;
	}
	cr_expect_eq(config_regions(r, WIRE_REGIONS_MAX, NULL), 0);
	cr_expect_eq(config_regions(r, WIRE_REGIONS_MAX + 1, NULL), -EINVAL);
	free(r);
}
