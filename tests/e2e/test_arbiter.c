// SPDX-License-Identifier: MIT
/* Doubt, with an arbiter at both ends, at one, and with one that does not answer. */
#include <dirent.h>
#include <ferry/arbiter_file.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "doubt.h"

/* ---- on a directory ---- */

static char dir[64]; /* each test is a process of its own */

static int ask_file(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct ferry_arbiter_file a = { .size = sizeof(a), .dir = dir, .timeout_us = 60000000 };
	char why[300] = "";
	int err = ferry_arbiter_file_ask(&a, session, want, is, why, sizeof(why));

	cr_assert_eq(err, 0, "%s", why);
	return err;
}

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/ferry-doubt.XXXXXX");
	cr_assert(mkdtemp(dir));
}

static void remove_dir(void)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while ((e = readdir(d)))
		unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	rmdir(dir);
}

TestSuite(settled_by_a_file, .init = make_dir, .fini = remove_dir);

#define BY_FILE(...) DOUBT_TEST(settled_by_a_file, ask_file, __VA_ARGS__)
DOUBT_ROWS(BY_FILE)

/* The source decides when the last page has come behind a PREPARED that counted it as missing; then COMMIT is lost. */
static void lose_commit_when_pulled(struct fakevm *vm, enum ferry_phase p)
{
	struct rig *r = vm->arg;
	struct ferry_stats st = { .size = sizeof(st) };
	int err;

	if (p != FERRY_PHASE_COMMITMENT)
		return;
	do {
		usleep(1000);
		err = ferry_get_stats(r->tgt.session, &st);
	} while (!err && st.phase <= FERRY_PHASE_COMMITMENT &&
		 (st.phase < FERRY_PHASE_COMMITMENT || st.pages_remaining));
	if (!err)
		err = ferry_drill(r->src.session, "lost:COMMIT");
	if (err)
		world_trouble(vm->w, "COMMIT is not lost: %d", err);
}

/* Now this target could run alone, so it asks for itself. The source, which cannot know, says lost. */
Test(settled_by_a_file, all_pages_came_behind_prepared)
{
	struct doubt d;
	struct rig *r = &d.rig;

	doubt_init(&d, RIG_TCP_SHARED, DOUBT_HOLD_LIMIT, "lost", "COMMIT", false, ask_file);
	r->src.phase_hook = lose_commit_when_pulled;
	rig_run(r);
	rig_no_trouble(r);
	cr_assert_eq(r->tres.outcome, FERRY_OUTCOME_MIGRATED, "%s: %s", ferry_outcome_name(r->tres.outcome),
		     r->tres.detail);
	cr_assert_eq(r->sres.outcome, FERRY_OUTCOME_LOST, "%s: %s", ferry_outcome_name(r->sres.outcome),
		     r->sres.detail);
	cr_assert_eq(r->sres.owner, FERRY_OWNER_TARGET);
	cr_assert(!world_source_runs(&r->world) && world_target_runs(&r->world));
	cr_assert_eq(r->src.calls[FAKE_RESUME] + r->src.calls[FAKE_RETIRE], 0);
	fakevm_finish(&r->tgt);
	fakevm_check_memory(&r->tgt);
	rig_free(r);
}

/* ---- not asked ---- */

/* While two ends can talk they need nobody: neither in a migration, nor in a fallback before the switchover. */
RIG_PAIR(not_asked, in_a_migration)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.src.ops.arbiter = r.tgt.ops.arbiter = fake_arbiter;
	rig_run(&r);
	rig_migrated(&r);
	cr_assert_eq(r.src.calls[FAKE_ARBITER] + r.tgt.calls[FAKE_ARBITER], 0);
	rig_free(&r);
}

RIG_PAIR(not_asked, before_the_switchover)
{
	struct rig r;

	rig_init(&r, kind);
	r.src.ops.arbiter = r.tgt.ops.arbiter = fake_arbiter;
	r.src.fail_op = FAKE_SAVE;
	r.src.fail_nth = 1;
	r.src.fail_err = -EIO;
	rig_run(&r);
	rig_fell_back(&r);
	cr_assert_eq(r.src.calls[FAKE_ARBITER] + r.tgt.calls[FAKE_ARBITER], 0);
	rig_free(&r);
}

/* What a target has given up by its own word needs no arbiter, which may be out of reach. */
RIG_PAIR(not_asked, when_the_target_gives_up)
{
	struct rig r;

	rig_init(&r, kind);
	rig_postcopy(&r, 0);
	r.src.ops.arbiter = r.tgt.ops.arbiter = fake_arbiter;
	r.tgt.fail_op = FAKE_RESUME;
	r.tgt.fail_nth = 1;
	r.tgt.fail_err = -EIO;
	rig_run(&r);
	rig_fell_back(&r);
	cr_assert_eq(r.src.calls[FAKE_ARBITER] + r.tgt.calls[FAKE_ARBITER], 0);
	rig_free(&r);
}

/* ---- an arbiter at one end ---- */

static void alone(const struct rig_kind *kind, bool at_source)
{
	struct rig r;

	rig_init(&r, kind);
	(at_source ? &r.src : &r.tgt)->ops.arbiter = fake_arbiter;
	rig_run(&r);
	rig_refused(&r);
	cr_assert(r.sres.error == -EINVAL && r.tres.error == -EINVAL);
	rig_says(r.tres.detail,
		 at_source ? "only the source has an arbiter: give both ends the same one, or neither"
			   : "only the target has an arbiter: give both ends the same one, or neither");
	rig_says(r.sres.detail, r.tres.detail);
	cr_assert_eq(r.tgt.calls[FAKE_RESERVE], 0);
	rig_free(&r);
}

RIG_PAIR(alone, the_source)
{
	alone(kind, true);
}

RIG_PAIR(alone, the_target)
{
	alone(kind, false);
}

/* ---- no answer ---- */

static int no_answer(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	(void)session, (void)want, (void)is;
	return -ETIMEDOUT;
}

static int rubbish(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	(void)session, (void)want;
	*is = FERRY_OWNER_NONE;
	return 0;
}

static void stays(const struct ferry_result *res, enum ferry_owner claim, const char *sentence)
{
	cr_assert_eq(res->outcome, FERRY_OUTCOME_IN_DOUBT, "%s: %s", ferry_outcome_name(res->outcome),
		     res->detail);
	cr_assert_eq(res->owner, FERRY_OWNER_UNKNOWN);
	cr_assert_eq(res->claim, claim, "%s", ferry_owner_name(res->claim));
	rig_says(res->detail, sentence);
}

/* Nobody runs, nothing is thrown away; what each end may ask for later can have one answer only. */
static void stays_in_doubt(const struct rig_kind *kind, enum doubt_way way, const char *message,
			   bool by_target, doubt_ask ask, enum ferry_owner source, enum ferry_owner target)
{
	const char *sentence = ask == rubbish ? "the arbiter gave no answer: Protocol error"
					      : "the arbiter gave no answer: Connection timed out";
	struct doubt d;
	struct rig *r = &d.rig;

	doubt_init(&d, kind, way, "cut-before", message, by_target, ask);
	rig_run(r);
	stays(&r->sres, source, sentence);
	stays(&r->tres, target, sentence);
	cr_assert(!world_source_runs(&r->world) && !world_target_runs(&r->world));
	cr_assert_eq(r->src.calls[FAKE_RESUME] + r->src.calls[FAKE_RETIRE], 0);
	cr_assert_eq(r->tgt.calls[FAKE_DISCARD] + r->tgt.calls[FAKE_RELEASE] + r->tgt.calls[FAKE_ACTIVATE],
		     0);
	rig_free(r);
}

RIG_PAIR(no_answer, to_a_lost_prepared)
{
	stays_in_doubt(kind, DOUBT_TENTATIVE, "PREPARED", true, no_answer, FERRY_OWNER_SOURCE,
		       FERRY_OWNER_TARGET);
}

RIG_PAIR(no_answer, to_a_lost_commit)
{
	stays_in_doubt(kind, DOUBT_TENTATIVE, "COMMIT", false, no_answer, FERRY_OWNER_TARGET,
		       FERRY_OWNER_TARGET);
}

RIG_PAIR(no_answer, to_a_lost_prepared_with_pages_missing)
{
	stays_in_doubt(kind, DOUBT_SWITCHOVER, "PREPARED", true, no_answer, FERRY_OWNER_SOURCE,
		       FERRY_OWNER_SOURCE);
}

RIG_PAIR(no_answer, to_a_lost_commit_with_pages_missing)
{
	stays_in_doubt(kind, DOUBT_HOLD_LIMIT, "COMMIT", false, no_answer, FERRY_OWNER_TARGET,
		       FERRY_OWNER_SOURCE);
}

RIG_PAIR(no_answer, but_rubbish)
{
	stays_in_doubt(kind, DOUBT_STOP_AND_COPY, "COMMIT", false, rubbish, FERRY_OWNER_TARGET,
		       FERRY_OWNER_TARGET);
}

/* One end reaches it, the other does not: the one goes on by its answer, the other stands still. */
static unsigned asked;
static int first_only(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	(void)session;
	*is = want;
	return __atomic_fetch_add(&asked, 1, __ATOMIC_SEQ_CST) ? -EHOSTUNREACH : 0;
}

RIG_PAIR(no_answer, to_the_second_who_asks)
{
	struct doubt d;
	struct rig *r = &d.rig;

	asked = 0;
	doubt_init(&d, kind, DOUBT_TENTATIVE, "cut-before", "PREPARED", true, first_only);
	rig_run(r);
	cr_assert_eq(r->sres.outcome, FERRY_OUTCOME_FELL_BACK, "%s", r->sres.detail);
	stays(&r->tres, FERRY_OWNER_TARGET, "the arbiter gave no answer: No route to host");
	cr_assert(world_source_runs(&r->world) && !world_target_runs(&r->world));
	fakevm_run_on(&r->src);
	fakevm_check_memory(&r->src);
	rig_free(r);
}

/* ---- what only the arbiter can say ---- */

static int target_first(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	(void)session, (void)want;
	*is = FERRY_OWNER_TARGET;
	return 0;
}

/* A source that comes late: the target has taken the VM over. */
RIG_PAIR(overruled, a_source_that_would_resume)
{
	struct doubt d;
	struct rig *r = &d.rig;

	doubt_init(&d, kind, DOUBT_TENTATIVE, "cut-before", "PREPARED", true, target_first);
	rig_run(r);
	rig_migrated(r);
	cr_assert_str_eq(strstr(r->src.ops_seen, "save"), "save dirty_stop retire");
	rig_free(r);
}

static int source_first(const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	(void)session, (void)want;
	*is = FERRY_OWNER_SOURCE;
	return 0;
}

/* With nothing missing no target gives up: a record of SOURCE is none of ours, and the source never resumes. */
RIG_PAIR(overruled, not_a_source_that_has_decided_with_nothing_missing)
{
	struct doubt d;
	struct rig *r = &d.rig;

	doubt_init(&d, kind, DOUBT_TENTATIVE, "cut-before", "COMMITTED", true, source_first);
	rig_run(r);
	cr_assert_eq(r->sres.outcome, FERRY_OUTCOME_IN_DOUBT, "%s: %s", ferry_outcome_name(r->sres.outcome),
		     r->sres.detail);
	cr_assert_eq(r->tres.outcome, FERRY_OUTCOME_MIGRATED);
	cr_assert(!world_source_runs(&r->world) && world_target_runs(&r->world));
	rig_free(r);
}
