// SPDX-License-Identifier: MIT
/* What a result says for programs: whose doing the end was, and which op's. */
#include "rig.h"

static void says(const struct ferry_result *r, enum ferry_reason reason, const char *op)
{
	cr_expect_eq(r->reason, reason, "%s, %s was due: %s", ferry_reason_name(r->reason),
		     ferry_reason_name(reason), r->detail);
	cr_expect_str_eq(r->op, op);
}

Test(reason, migrated)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	rig_run(&r);
	rig_migrated(&r);
	says(&r.sres, FERRY_REASON_MIGRATED, "");
	says(&r.tres, FERRY_REASON_MIGRATED, "");
	rig_free(&r);
}

/* The end whose op fails knows which; the other that it was told. */
static void op_fails(bool at_source, enum fake_op op, int err)
{
	struct fakevm *vm;
	struct rig r;

	rig_init(&r, RIG_TCP_SHARED);
	vm = at_source ? &r.src : &r.tgt;
	vm->fail_op = op;
	vm->fail_nth = 1;
	vm->fail_err = err;
	rig_run(&r);
	says(at_source ? &r.sres : &r.tres, FERRY_REASON_OP, fake_op_name(op));
	says(at_source ? &r.tres : &r.sres, FERRY_REASON_PEER, "");
	rig_free(&r);
}

Test(reason, an_op_at_the_source)
{
	op_fails(true, FAKE_SAVE, -EIO);
}

/* It says EPIPE, which inside is a lost link. */
Test(reason, an_op_at_the_target)
{
	op_fails(false, FAKE_LOAD, -EPIPE);
}

Test(reason, the_target_refuses)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	r.tgt.memory_limit = FAKE_PAGE;
	rig_run(&r);
	says(&r.sres, FERRY_REASON_PEER, "");
	says(&r.tres, FERRY_REASON_OP, "reserve");
	rig_free(&r);
}

static void cancel_in_precopy(struct fakevm *vm, enum ferry_phase p)
{
	if (p == FERRY_PHASE_PRECOPY)
		ferry_cancel(vm->session);
}

Test(reason, canceled)
{
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	r.src.phase_hook = cancel_in_precopy;
	rig_run(&r);
	says(&r.sres, FERRY_REASON_CANCELED, "");
	says(&r.tres, FERRY_REASON_PEER, "");
	rig_free(&r);
}

/* What ferry was given cannot be done here. */
Test(reason, this_host)
{
	struct ferry_result res = { .size = sizeof(res) };
	struct ferry_vm v = { FERRY_VM_INIT };
	struct rig r;

	rig_init(&r, RIG_MEM_ANON);
	v.vm = &r.src;
	v.ops = &r.src.ops;
	v.regions = r.src.region;
	v.nregions = FAKE_REGIONS;
	cr_assert_eq(ferry_source_new(&r.src.session, &v, &r.scfg), 0);
	cr_assert_eq(ferry_open(r.src.session, "pigeon:loft"), 0);
	cr_assert_eq(ferry_run(r.src.session, &res), -EINVAL);
	says(&res, FERRY_REASON_HOST, "");
	cr_expect_eq(res.outcome, FERRY_OUTCOME_REFUSED);
	ferry_free(r.src.session);
	rig_free(&r);
}

/* The link, a limit and the protocol: proto/test_session_hostile_target. */
Test(reason, names_and_features)
{
	cr_expect_str_eq(ferry_reason_name(FERRY_REASON_HOST), "host");
	cr_expect_str_eq(ferry_reason_name((enum ferry_reason)0), "?");
	cr_expect_str_eq(ferry_owner_name((enum ferry_owner)0), "?");
	cr_expect_str_eq(ferry_outcome_name((enum ferry_outcome)0), "?");
	cr_expect_eq(ferry_has("drill"), 1);
	cr_expect_eq(ferry_has("rdma"), FERRY_RDMA);
	cr_expect_eq(ferry_has("teleport"), 0);
	cr_expect_eq(ferry_has(NULL), 0);
}
