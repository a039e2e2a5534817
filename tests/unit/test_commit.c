// SPDX-License-Identifier: MIT
/* Who owns the VM: every call in every state at either end, against the arrows that commit.h and commit.c promise. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "runtime/session/commit.h"
#include "runtime/session/arbitrate.h"
#include "runtime/session/session.h"

#define STATES (COMMIT_ABORTED + 1)
#define NO (-1)

struct call {
	const char *name;
	bool (*call)(struct commit *c);
	int source[STATES],
		target[STATES]; /* the state it leads to from OPEN, PREPARED, DECIDED, ABORTED; NO: false */
};

static const struct call calls[] = {
	{ "decide", commit_decide, { COMMIT_DECIDED, NO, NO, NO }, { NO, NO, NO, NO } },
	{ "abort",
	  commit_abort,
	  { COMMIT_ABORTED, COMMIT_ABORTED, NO, COMMIT_ABORTED },
	  { COMMIT_ABORTED, COMMIT_ABORTED, NO, COMMIT_ABORTED } },
	{ "revoke", commit_revoke, { NO, NO, COMMIT_ABORTED, NO }, { NO, NO, NO, NO } },
	{ "prepare", commit_prepare, { NO, NO, NO, NO }, { COMMIT_PREPARED, COMMIT_PREPARED, NO, NO } },
	{ "confirm", commit_confirm, { NO, NO, NO, NO }, { NO, COMMIT_DECIDED, COMMIT_DECIDED, NO } },
};

static struct commit in_state(bool source, int state)
{
	struct commit c;

	commit_init(&c, source);
	atomic_store(&c.state, state);
	return c;
}

Test(commit, begins_open)
{
	for (int source = 0; source < 2; source++) {
		struct commit c = { .state = COMMIT_ABORTED };

		commit_init(&c, source);
		cr_expect_eq(commit_get(&c), COMMIT_OPEN);
	}
}

Test(commit, each_call_takes_its_arrows_and_no_other)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		for (int source = 0; source < 2; source++) {
			for (int from = 0; from < STATES; from++) {
				struct commit c = in_state(source, from);
				int to = source ? calls[i].source[from] : calls[i].target[from];
				bool went = calls[i].call(&c);

				cr_expect_eq(went, to != NO, "%s at the %s in state %d says %d",
					     calls[i].name, source ? "source" : "target", from, went);
				cr_expect_eq((int)commit_get(&c), to == NO ? from : to,
					     "%s at the %s leads from state %d to %d", calls[i].name,
					     source ? "source" : "target", from, (int)commit_get(&c));
			}
		}
	}
}

/* A target that lacks pages could not run alone; a source that has decided may have been heard. */
Test(commit, what_an_end_in_doubt_may_claim)
{
	struct commit c = in_state(false, COMMIT_PREPARED);

	cr_expect_eq(commit_claim(&c, 0), FERRY_OWNER_TARGET);
	cr_expect_eq(commit_claim(&c, 1), FERRY_OWNER_SOURCE);
	c = in_state(true, COMMIT_DECIDED);
	cr_expect_eq(commit_claim(&c, 0), FERRY_OWNER_TARGET);
	cr_expect_eq(commit_claim(&c, 1), FERRY_OWNER_TARGET);
	c = in_state(true, COMMIT_OPEN);
	cr_expect_eq(commit_claim(&c, 0), FERRY_OWNER_SOURCE);
	c = in_state(true, COMMIT_ABORTED);
	cr_expect_eq(commit_claim(&c, 1), FERRY_OWNER_SOURCE);
}

/* ---- the arbiter's answers ---- */

struct answer {
	int err;
	enum ferry_owner is;
};

static int answer(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	const struct answer *a = vm;

	(void)session;
	cr_expect_eq(want, FERRY_OWNER_TARGET);
	*is = a->is;
	return a->err;
}

static int arbitrated(struct answer a, bool has, enum ferry_owner *is)
{
	struct ferry_session *s = calloc(1, sizeof(*s));
	int err;

	cr_assert_not_null(s);
	s->vm = &a;
	s->ops.arbiter = has ? answer : NULL;
	err = arbitrate(s, FERRY_OWNER_TARGET, is);
	cr_expect_eq(s->arbiter_err, err, "%d is kept for the result, %d was returned", s->arbiter_err, err);
	free(s);
	return err;
}

Test(commit, no_answer_of_an_arbiter_names_an_owner_but_a_good_one)
{
	static const struct {
		struct answer a;
		int err;
		enum ferry_owner is;
	} row[] = {
		{ { 0, FERRY_OWNER_SOURCE }, 0, FERRY_OWNER_SOURCE },
		{ { 0, FERRY_OWNER_TARGET }, 0, FERRY_OWNER_TARGET },
		{ { 1, FERRY_OWNER_TARGET }, 0, FERRY_OWNER_TARGET },
		{ { -ETIMEDOUT, FERRY_OWNER_TARGET }, -ETIMEDOUT, FERRY_OWNER_UNKNOWN },
		{ { -EIO, FERRY_OWNER_SOURCE }, -EIO, FERRY_OWNER_UNKNOWN },
		{ { 0, FERRY_OWNER_UNKNOWN }, -EPROTO, FERRY_OWNER_UNKNOWN },
		{ { 0, FERRY_OWNER_NONE }, -EPROTO, FERRY_OWNER_UNKNOWN },
		{ { 0, (enum ferry_owner)77 }, -EPROTO, FERRY_OWNER_UNKNOWN },
	};
	enum ferry_owner is;

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
		is = FERRY_OWNER_SOURCE;
		cr_expect_eq(arbitrated(row[i].a, true, &is), row[i].err, "row %zu", i);
		cr_expect_eq(is, row[i].is, "row %zu: %d", i, is);
	}
	is = FERRY_OWNER_TARGET;
	cr_expect_eq(arbitrated((struct answer){ 0, FERRY_OWNER_TARGET }, false, &is), 0);
	cr_expect_eq(is, FERRY_OWNER_UNKNOWN, "without an arbiter: %d", is);
}
