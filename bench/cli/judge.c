/* SPDX-License-Identifier: MIT */
/*
 * The verdict on a run, from the reports of both ends (one may have died), the observer's counts and the
 * proof. The observer counts more than anything that an end reports about itself.
 */
#include <stdio.h>
#include <string.h>

#include "report.h"
#include "vm.h"

static const struct ferry_result *result_of(const struct run_report *r, enum vmm_end end)
{
	return r->end[end].have_result ? &r->end[end].result : NULL;
}

const struct ferry_stats *source_stats(const struct run_report *r)
{
	const struct ferry_result *s = result_of(r, VMM_END_SOURCE);

	return s ? &s->stats : &r->end[VMM_END_SOURCE].live;
}

const struct ferry_stats *target_stats(const struct run_report *r)
{
	const struct ferry_result *t = result_of(r, VMM_END_TARGET);

	return t ? &t->stats : &r->end[VMM_END_TARGET].live;
}

/* Page data per second in pre-copy, from the sums over the rounds. */
double throughput_mb_s(const struct run_report *r)
{
	uint64_t bytes = 0, us = 0;

	for (unsigned i = 0; i < r->nrounds; i++) {
		bytes += r->rounds[i].bytes;
		us += r->rounds[i].duration_us;
	}
	if (us)
		return (double)bytes / (double)us;
	return (double)source_stats(r)->throughput / 1e6;
}

int only_end(const struct run_report *r)
{
	return r->whole ? -1 : r->o->command == CMD_TARGET ? VMM_END_TARGET : VMM_END_SOURCE;
}

/*
 * Only one end is known, and it died without a result: conclude from its last phase. A target sends PREPARED,
 * and a source COMMIT, only in commitment; an arbiter may decide without them.
 */
static void settle_dead(struct run_report *r, int end)
{
	enum ferry_phase last = r->end[end].last;
	bool arbiter = r->o->arbiter != NULL;

	r->outcome = ferry_outcome_name(FERRY_OUTCOME_IN_DOUBT);
	r->owner = FERRY_OWNER_UNKNOWN;
	if (end == VMM_END_TARGET && last < FERRY_PHASE_COMMITMENT) {
		r->outcome = ferry_outcome_name(FERRY_OUTCOME_DISCARDED);
		r->owner = FERRY_OWNER_SOURCE;
	} else if (end == VMM_END_TARGET
			   ? last == FERRY_PHASE_ACTIVATION && !arbiter
			   : last < (arbiter ? FERRY_PHASE_STOP_AND_COPY : FERRY_PHASE_COMMITMENT)) {
		bool lives = end == VMM_END_SOURCE && vm_kind(r->o)->orphan;

		r->outcome = ferry_outcome_name(lives ? FERRY_OUTCOME_FELL_BACK : FERRY_OUTCOME_LOST);
		r->owner = lives ? FERRY_OWNER_SOURCE : FERRY_OWNER_NONE;
	}
}

/* Combines the two results: the end that knows the owner counts more than one that is in doubt. */
static void settle(struct run_report *r)
{
	const struct ferry_result *s = result_of(r, VMM_END_SOURCE), *t = result_of(r, VMM_END_TARGET);
	const struct ferry_result *says = s ? s : t;

	if (only_end(r) >= 0 && !says) {
		settle_dead(r, only_end(r));
		return;
	}
	r->outcome = "lost";
	r->owner = FERRY_OWNER_NONE;
	if (!says)
		return;
	r->owner = says->owner;
	if (s && t && s->owner == FERRY_OWNER_UNKNOWN && t->owner != FERRY_OWNER_UNKNOWN)
		says = t; /* the target knows */
	r->outcome = ferry_outcome_name(says->outcome);
	r->owner = says->owner;
	/* A dead owner owns nothing, if its VM was in its process. */
	if (r->whole && !vm_kind(r->o)->orphan &&
	    ((r->owner == FERRY_OWNER_SOURCE && !s) || (r->owner == FERRY_OWNER_TARGET && !t)))
		r->owner = FERRY_OWNER_NONE;
}

static bool two_owners(const struct run_report *r)
{
	const struct ferry_result *s = result_of(r, VMM_END_SOURCE), *t = result_of(r, VMM_END_TARGET);

	/* Two hosts have two observers, so the order is unknown: any output of the target counts. */
	return (s && t && s->owner == FERRY_OWNER_SOURCE && t->owner == FERRY_OWNER_TARGET) ||
	       r->observer.handovers > 1 ||
	       (r->o->command != CMD_RUN && r->whole && s && s->owner == FERRY_OWNER_SOURCE &&
		r->observer.handovers);
}

static const char *detail(const struct run_report *r)
{
	const struct ferry_result *s = result_of(r, VMM_END_SOURCE), *t = result_of(r, VMM_END_TARGET);

	for (int end = 0; end < 2; end++) {
		if (r->end[end].hung)
			return end == VMM_END_SOURCE
				       ? "the source had not ended two minutes after the target, and was killed"
				       : "the target had not ended two minutes after the source, and was killed";
	}
	if (s && s->detail[0])
		return s->detail;
	return t ? t->detail : "";
}

static bool proof_clean(const struct run_report *r, char *why, size_t cap)
{
	uint64_t seen, missing, repeated;

	observer_total(&r->observer, &seen, &missing, &repeated);
	if (two_owners(r))
		snprintf(why, cap, "two owners at a time: the speaker changed %u times",
			 r->observer.handovers);
	else if (missing || repeated || r->observer.damaged)
		snprintf(why, cap, "of %llu outputs %llu were missing, %llu repeated and %llu damaged",
			 (unsigned long long)(seen + missing), (unsigned long long)missing,
			 (unsigned long long)repeated, (unsigned long long)r->observer.damaged);
	else if (r->have_proof && r->proof_err)
		snprintf(why, cap, "the proof could not be made: %s", r->proof.text);
	else if (r->have_proof && (r->proof.pages_bad || r->proof.guest_errors))
		snprintf(why, cap, "%llu of %llu pages bad, %llu errors in the guest: %s",
			 (unsigned long long)r->proof.pages_bad, (unsigned long long)r->proof.pages_checked,
			 (unsigned long long)r->proof.guest_errors, r->proof.text);
	else if (r->have_proof && !r->ran_on)
		snprintf(why, cap, "the guest did not run on at its owner");
	else
		return true;
	return false;
}

/* The end that must own the VM after the fault of --kill; FERRY_OWNER_UNKNOWN: either may. */
static enum ferry_owner expected_owner(const struct run_report *r)
{
	const struct kill_drill *k = &r->o->kill;

	if (k->message) /* docs/failure-model.md has a row for each */
		return FERRY_OWNER_UNKNOWN;
	/* No end waits for a link during the downtime: the VM resumes at the source. */
	if (k->who == KILL_LINK && k->phase == FERRY_PHASE_STOP_AND_COPY)
		return FERRY_OWNER_SOURCE;
	if (k->who == KILL_NOBODY || (k->who == KILL_LINK && k->heal_ms))
		return FERRY_OWNER_TARGET;
	if (k->phase >= FERRY_PHASE_COMMITMENT ||
	    (k->phase == FERRY_PHASE_POSTCOPY && r->o->commit_at == FERRY_COMMIT_AT_SWITCHOVER))
		return FERRY_OWNER_UNKNOWN;
	return k->who == KILL_SOURCE && !vm_kind(r->o)->orphan ? FERRY_OWNER_NONE : FERRY_OWNER_SOURCE;
}

static bool drill_took_place(const struct run_report *r)
{
	const struct kill_drill *k = &r->o->kill;

	if (k->who == KILL_NOBODY)
		return true;
	if (k->message && k->who == KILL_LINK)
		return r->end[VMM_END_SOURCE].drilled || r->end[VMM_END_TARGET].drilled;
	if (k->message) /* a killed process reports nothing */
		return !r->end[k->who == KILL_TARGET ? VMM_END_TARGET : VMM_END_SOURCE].have_result;
	return r->end[k->who == KILL_TARGET ? VMM_END_TARGET : VMM_END_SOURCE].drilled;
}

static void say(struct run_report *r, enum verdict v, const char *text, const char *more)
{
	r->verdict = v;
	snprintf(r->sentence, sizeof(r->sentence), "%s%s%s", text, *more ? ": " : ".", more);
}

/* Where the VM is, as far as this program can know. */
static void where(const struct run_report *r, char *text, size_t cap)
{
	static const char *const by_owner[] = {
		[FERRY_OWNER_SOURCE] = "The VM went on at the source",
		[FERRY_OWNER_TARGET] = "The VM runs at the target",
		[FERRY_OWNER_NONE] = "The VM died with its host",
		[FERRY_OWNER_UNKNOWN] = "Who owns the VM is in doubt",
	};
	int only = only_end(r);
	const char *end = only == VMM_END_TARGET ? "target" : "source", *phase;

	snprintf(text, cap, "%s", by_owner[r->owner]);
	if (only != VMM_END_TARGET && r->owner == FERRY_OWNER_SOURCE && !result_of(r, VMM_END_SOURCE)) {
		snprintf(text, cap, "The source's process died, and %s", vm_kind(r->o)->orphan);
		return;
	}
	if (only < 0)
		return;
	if (result_of(r, (enum vmm_end)only)) {
		if (only == VMM_END_TARGET &&
		    r->owner == FERRY_OWNER_SOURCE) /* a target alone knows no more */
			snprintf(text, cap, "The VM is not here");
		if (only == VMM_END_SOURCE && r->owner == FERRY_OWNER_TARGET)
			snprintf(text, cap, "The VM is the target's");
		return;
	}
	phase = ferry_phase_name(r->end[only].last);
	if (r->owner == FERRY_OWNER_NONE)
		snprintf(text, cap, "The VM died with the %s's process, in %s", end, phase);
	else if (r->owner == FERRY_OWNER_SOURCE)
		snprintf(text, cap,
			 "The target's process died in %s, before the VM could be its own: it is the source's",
			 phase);
	else
		snprintf(text, cap, "The %s's process died in %s; which end has the VM cannot be known here",
			 end, phase);
}

static void judge_owner(struct run_report *r)
{
	const struct kill_drill *k = &r->o->kill;
	enum ferry_owner expected = expected_owner(r);
	bool died_alone = only_end(r) >= 0 && !result_of(r, (enum vmm_end)only_end(r));
	char at[384], text[512], drill[64];

	where(r, at, sizeof(at));
	snprintf(text, sizeof(text), "%s", at);
	if (k->who != KILL_NOBODY && drill_took_place(r))
		snprintf(text, sizeof(text), "%s%s after %s", at, k->message ? "" : ", as it must",
			 kill_text(drill, k));
	if (r->owner == FERRY_OWNER_UNKNOWN ||
	    (!strcmp(r->outcome, ferry_outcome_name(FERRY_OUTCOME_LOST)) && !died_alone))
		say(r, VERDICT_LOST, at, detail(r));
	else if (!drill_took_place(r))
		say(r, VERDICT_NOT_AS_ASKED,
		    k->message ? "The message that --kill names was never sent"
			       : "The phase that --kill names was never entered",
		    detail(r));
	else if (expected == FERRY_OWNER_UNKNOWN || r->owner == expected)
		say(r, VERDICT_OK, text, r->owner == FERRY_OWNER_TARGET ? "" : detail(r));
	else if (r->owner == FERRY_OWNER_NONE)
		say(r, VERDICT_LOST, at, detail(r));
	else
		say(r, VERDICT_NOT_AS_ASKED, at, detail(r));
}

void judge(struct run_report *r)
{
	char why[384];

	settle(r);
	for (int end = 0; end < 2; end++) {
		if (!r->end[end].error[0])
			continue;
		r->outcome = ferry_outcome_name(FERRY_OUTCOME_REFUSED);
		say(r, VERDICT_ENVIRONMENT,
		    end == VMM_END_SOURCE ? "The source could not begin" : "The target could not begin",
		    r->end[end].error);
		return;
	}
	judge_owner(r);
	if (!proof_clean(r, why, sizeof(why)))
		say(r, VERDICT_PROOF, "The proof failed", why);
	else if (vm_kind(r->o)->proves && !r->have_proof && r->verdict == VERDICT_OK &&
		 r->owner <= FERRY_OWNER_TARGET && r->whole)
		say(r, VERDICT_LOST, "The VM's owner died before the proof", detail(r));
}
