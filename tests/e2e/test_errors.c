// SPDX-License-Identifier: MIT
/*
 * What a person reads when something is refused: whole sentences, each with what, where and how to mend it. A row
 * makes one end, spoils one thing, and compares all of the sentence and the errno.
 */
#include <stdio.h>

#include "rig.h"

enum at { AT_SOURCE, AT_TARGET, AT_OPEN, AT_OPEN_TARGET, AT_RUN };

struct row {
	const char *name;
	enum at at;
	void (*spoil)(struct rig *r);
	const char *uri; /* AT_OPEN, AT_RUN */
	int err;
	const char *sentence;
};

#define SPOIL(name, statement)          \
	static void name(struct rig *r) \
	{                               \
		statement;              \
	}

SPOIL(nothing, (void)r)
SPOIL(channels, r->scfg.channels = 17)
SPOIL(rounds, r->scfg.max_rounds = 1001)
SPOIL(timeout, r->scfg.timeout_us = 9999)
SPOIL(mode, r->scfg.mode = (enum ferry_mode)7)
SPOIL(flags, r->scfg.flags = 64)
SPOIL(config_size, r->scfg.size = 3)
SPOIL(no_save, r->src.ops.save = NULL)
SPOIL(no_reserve, r->tgt.ops.reserve = NULL)
SPOIL(no_release, r->tgt.ops.output_release = NULL)
SPOIL(no_hold, r->tgt.ops.output_hold = NULL)
SPOIL(gigantic, r->src.region[0].page_shift = 30)
SPOIL(huge, r->src.region[0].page_shift = 21)
SPOIL(huge_thp, r->src.region[0].page_shift = 21; r->src.region[0].flags = FERRY_REGION_THP)
SPOIL(odd_flags, r->src.region[0].flags = 10)
SPOIL(foreign_source, r->src.region[0].flags = FERRY_REGION_SHARED | FERRY_REGION_FOREIGN)
SPOIL(uffd_of_nobody, r->src.region[0].uffd = 3)
SPOIL(odd_length, r->src.region[0].len = 12345)
SPOIL(no_hva, r->src.region[1].hva = NULL)
SPOIL(no_fd, r->src.region[1].flags = FERRY_REGION_SHARED; r->src.region[1].fd = -1)
SPOIL(same_id, r->src.region[1].id = r->src.region[0].id)
SPOIL(overlap, r->src.region[1].gpa = FAKE_PAGE)
SPOIL(soon, r->scfg.connect_us = r->tcfg.connect_us = 200000)
SPOIL(cancel_first, ferry_cancel(r->src.session))

static const struct row rows[] = {
	{ "channels", AT_SOURCE, channels, NULL, -EINVAL, "config.channels is 17; it takes 1 to 16" },
	{ "rounds", AT_SOURCE, rounds, NULL, -EINVAL, "config.max_rounds is 1001; it takes 1 to 1000" },
	{ "timeout", AT_SOURCE, timeout, NULL, -EINVAL,
	  "config.timeout_us is 9999; it takes 10000 to 86400000000" },
	{ "mode", AT_SOURCE, mode, NULL, -EINVAL, "config.mode is 7; it takes 0 to 2" },
	{ "flags", AT_SOURCE, flags, NULL, -EINVAL, "config.flags is 64; it takes 0 to 3" },
	{ "size of config", AT_SOURCE, config_size, NULL, -EINVAL,
	  "config.size is 3; set it to sizeof(struct ferry_config)" },
	{ "no save", AT_SOURCE, no_save, NULL, -EINVAL, "ops.save is NULL; a source must have it" },
	{ "no reserve", AT_TARGET, no_reserve, NULL, -EINVAL, "ops.reserve is NULL; a target must have it" },
	{ "hold without release", AT_TARGET, no_release, NULL, -EINVAL,
	  "ops.output_release is NULL; output_hold and output_release come together" },
	{ "release without hold", AT_TARGET, no_hold, NULL, -EINVAL,
	  "ops.output_hold is NULL; output_hold and output_release come together" },
	{ "pages of 1 GiB", AT_SOURCE, gigantic, NULL, -EOPNOTSUPP,
	  "region 10 has page_shift 30; set 12 for pages of 4 KiB (transparent huge pages too), 21 for "
	  "2 MiB of hugetlbfs" },
	{ "huge pages that do not fit", AT_SOURCE, huge, NULL, -EINVAL,
	  "region 10 (number 0) is 0x5dc000 bytes at 0; both must be multiples of 2097152, and the length not 0" },
	{ "huge pages twice", AT_SOURCE, huge_thp, NULL, -EINVAL,
	  "region 10 is to have transparent huge pages and is of hugetlbfs already (page_shift 21); leave FERRY_REGION_THP "
	  "out" },
	{ "flags of a region", AT_SOURCE, odd_flags, NULL, -EOPNOTSUPP,
	  "region 10 has flags 0xa; set 0 for private anonymous memory, 0x1 for a memfd, and add 0x2 for transparent huge "
	  "pages" },
	{ "another process's memory at a source", AT_SOURCE, foreign_source, NULL, -EINVAL,
	  "region 10 has FERRY_REGION_FOREIGN, which only the reserve op of a target may set; a source has a mapping of its "
	  "own" },
	{ "a userfaultfd without the flag", AT_SOURCE, uffd_of_nobody, NULL, -EINVAL,
	  "region 10 has uffd 3 and not FERRY_REGION_FOREIGN; zero the struct before you fill it, or set the flag" },
	{ "length of a region", AT_SOURCE, odd_length, NULL, -EINVAL,
	  "region 10 (number 0) is 0x3039 bytes at 0; both must be multiples of 4096, and the length not 0" },
	{ "address of a region", AT_SOURCE, no_hva, NULL, -EINVAL,
	  "region 13 is mapped at (nil); it needs an address that is a multiple of 4096" },
	{ "shared without a memfd", AT_SOURCE, no_fd, NULL, -EINVAL,
	  "region 13 is shared memory with fd -1 at offset 0; it needs a memfd and a multiple of 4096" },
	{ "ids", AT_SOURCE, same_id, NULL, -EINVAL,
	  "two regions have id 10; it names a region on the link: make each unique" },
	{ "overlap", AT_SOURCE, overlap, NULL, -EINVAL,
	  "regions 10 and 13 overlap in guest physical memory; give each byte to one region" },
	{ "no URI", AT_OPEN, nothing, NULL, -EINVAL, "the URI is NULL; pass for example tcp:host:port" },
	{ "no scheme", AT_OPEN, nothing, "localhost", -EINVAL,
	  "URI \"localhost\": it does not begin with a scheme; write for example tcp:host:port" },
	{ "no port", AT_OPEN, nothing, "tcp:localhost", -EINVAL,
	  "URI \"tcp:localhost\": the port is missing; write tcp:host:port" },
	{ "port in letters", AT_OPEN, nothing, "tcp:localhost:http", -EINVAL,
	  "URI \"tcp:localhost:http\": port \"http\" is not a number; write tcp:host:port" },
	{ "port too large", AT_OPEN, nothing, "tcp:localhost:70000", -EINVAL,
	  "URI \"tcp:localhost:70000\": port 70000 is above 65535; take a smaller one" },
	{ "bare IPv6 address", AT_OPEN, nothing, "tcp:::1:7000", -EINVAL,
	  "URI \"tcp:::1:7000\": an IPv6 address is written [address]:port" },
	{ "option without a value", AT_OPEN, nothing, "tcp:localhost:1?fast", -EINVAL,
	  "URI \"tcp:localhost:1?fast\": option \"fast\" is not key=value, as in bandwidth=100M" },
	{ "option twice", AT_OPEN, nothing, "tcp:localhost:1?latency=1ms&latency=2ms", -EINVAL,
	  "URI \"tcp:localhost:1?latency=1ms&latency=2ms\": option latency is given twice; leave one out" },
	{ "unknown option", AT_OPEN_TARGET, nothing, "mem:errors?colour=red", -EINVAL,
	  "URI option \"colour\" is unknown; mem takes bandwidth and latency" },
	{ "no such congestion control", AT_OPEN_TARGET, nothing, "tcp:127.0.0.1:0?congestion=none", -ENOENT,
	  "URI option congestion=none: No such file or directory; this kernel offers those in "
	  "/proc/sys/net/ipv4/tcp_available_congestion_control" },
	{ "no such congestion control to connect with", AT_RUN, soon, "tcp:127.0.0.1:1?congestion=none",
	  -ETIMEDOUT,
	  "the target at tcp:127.0.0.1:1?congestion=none could not be reached for 200 ms: URI option congestion=none: No such file or "
	  "directory; this kernel offers those in /proc/sys/net/ipv4/tcp_available_congestion_control" },
	{ "address of another host", AT_OPEN_TARGET, nothing, "tcp:192.0.2.1:0", -EADDRNOTAVAIL,
	  "cannot listen on tcp:192.0.2.1:0: Cannot assign requested address; take an address of this host, or none for any" },
	{ "not opened", AT_RUN, nothing, NULL, -EINVAL,
	  "ferry_run() was called before ferry_open(): open a URI first" },
	{ "nobody in this process", AT_RUN, soon, "mem:nobody", -ETIMEDOUT,
	  "the target at mem:nobody could not be reached for 200 ms: cannot connect to mem:nobody: nobody listens there in "
	  "this process; open the target first" },
	{ "nobody at the port", AT_RUN, soon, "tcp:127.0.0.1:1", -ETIMEDOUT,
	  "the target at tcp:127.0.0.1:1 could not be reached for 200 ms: cannot connect to tcp:127.0.0.1:1: Connection "
	  "refused; start the target first" },
	{ "canceled", AT_RUN, cancel_first, "mem:nobody", -ECANCELED,
	  "canceled by the embedder in pre-migration" },
};

static int make_end(struct rig *r, bool source, struct ferry_session **ret)
{
	struct fakevm *f = source ? &r->src : &r->tgt;
	struct ferry_vm v = { FERRY_VM_INIT, .vm = f, .ops = &f->ops };

	if (source) {
		v.regions = r->src.region;
		v.nregions = FAKE_REGIONS;
	}
	return source ? ferry_source_new(ret, &v, &r->scfg) : ferry_target_new(ret, &v, &r->tcfg);
}

static int try_open(struct rig *r, const struct row *row, char *said, size_t cap)
{
	bool source = row->at == AT_OPEN;
	struct fakevm *f = source ? &r->src : &r->tgt;
	int err;

	cr_assert_eq(make_end(r, source, &f->session), 0);
	err = ferry_open(f->session, row->uri);
	snprintf(said, cap, "%s", ferry_get_detail(f->session));
	ferry_free(f->session);
	return err;
}

static int try_run(struct rig *r, const struct row *row, char *said, size_t cap)
{
	struct ferry_result res = { .size = sizeof(res) };
	int err;

	if (row->spoil != cancel_first)
		row->spoil(r);
	cr_assert_eq(make_end(r, true, &r->src.session), 0);
	if (row->spoil == cancel_first)
		row->spoil(r);
	if (row->uri)
		cr_assert_eq(ferry_open(r->src.session, row->uri), 0);
	err = ferry_run(r->src.session, &res);
	cr_expect_eq(res.owner, FERRY_OWNER_SOURCE, "%s: the VM stays where it is", row->name);
	snprintf(said, cap, "%s", res.detail);
	ferry_free(r->src.session);
	return err;
}

static int try_make(struct rig *r, const struct row *row, char *said, size_t cap)
{
	struct ferry_session *none = NULL;
	int err;

	row->spoil(r);
	err = make_end(r, row->at == AT_SOURCE, &none);
	cr_expect_null(none, "%s: a refusal leaves its output untouched", row->name);
	snprintf(said, cap, "%s", row->at == AT_SOURCE ? r->src.error_line : r->tgt.error_line);
	return err;
}

Test(errors, each_refusal_says_what_where_and_how_to_mend_it)
{
	const size_t n = sizeof(rows) / sizeof(rows[0]);

	cr_assert_geq(n, 25);
	for (size_t i = 0; i < n; i++) {
		const struct row *row = &rows[i];
		char said[600];
		struct rig r;
		int err;

		rig_init(&r, RIG_MEM_ANON);
		err = row->at == AT_RUN				     ? try_run(&r, row, said, sizeof(said))
		      : row->at == AT_SOURCE || row->at == AT_TARGET ? try_make(&r, row, said, sizeof(said))
								     : try_open(&r, row, said, sizeof(said));
		cr_expect_str_eq(said, row->sentence, "%s: it says \"%s\"", row->name, said);
		cr_expect_eq(err, row->err, "%s: it returns %d", row->name, err);
		rig_free(&r);
	}
}

/* What the target refuses, the source's result says too. */
static void refused_by_both(void (*spoil)(struct rig *r), const char *sentence)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	spoil(&r);
	rig_run(&r);
	rig_refused(&r);
	cr_expect_str_eq(r.sres.detail, sentence);
	rig_free(&r);
}

SPOIL(small_host, r->tgt.memory_limit = FAKE_PAGE)
SPOIL(other_cpu, r->tgt.cpuid = 0x1)
SPOIL(op_fails, r->src.fail_op = FAKE_DIRTY_START; r->src.fail_nth = 1; r->src.fail_err = -EIO)

Test(errors, a_host_that_is_too_small)
{
	refused_by_both(small_host, "the target refused: the VM needs 6308 KiB, this host has 4");
}

Test(errors, a_cpu_that_lacks_something)
{
	refused_by_both(other_cpu, "the target refused: the VM needs CPUID word 0x1234, this host has 0x1");
}

Test(errors, an_op_that_fails_is_named)
{
	refused_by_both(op_fails, "dirty_start: the VMM answered -5 (Input/output error)");
}
