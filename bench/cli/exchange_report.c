/* SPDX-License-Identifier: MIT */
/*
 * A report: the sender's options, its end's result, its observer's counts, and its proof if it made one. The
 * reader checks every enum and range, cuts texts and makes them printable. It reads into a copy, so a refused
 * report changes nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arbiter.h"
#include "exchange.h"
#include "runtime/arbiter/json_bound.h"

struct field {
	const char *name;
	size_t at;
	bool narrow; /* uint32_t; otherwise uint64_t */
};

#define WIDE(type, f)                               \
	{                                           \
#f, offsetof(struct type, f), false \
	}
#define NARROW(type, f)                            \
	{                                          \
#f, offsetof(struct type, f), true \
	}

static const struct field stats_fields[] = {
	NARROW(ferry_stats, round),
	NARROW(ferry_stats, reconnects),
	NARROW(ferry_stats, predicted_us),
	WIDE(ferry_stats, elapsed_us),
	WIDE(ferry_stats, precopy_us),
	WIDE(ferry_stats, postcopy_us),
	WIDE(ferry_stats, bytes_sent),
	WIDE(ferry_stats, pages_total),
	WIDE(ferry_stats, pages_sent),
	WIDE(ferry_stats, pages_zero),
	WIDE(ferry_stats, pages_hole),
	WIDE(ferry_stats, pages_remaining),
	WIDE(ferry_stats, pages_residue),
	WIDE(ferry_stats, dirty_rate),
	WIDE(ferry_stats, throughput),
	WIDE(ferry_stats, faults),
	WIDE(ferry_stats, faults_local),
	WIDE(ferry_stats, fault_p50_ns),
	WIDE(ferry_stats, fault_p99_ns),
	WIDE(ferry_stats, fault_max_ns),
	WIDE(ferry_stats, fault_total_ns),
	WIDE(ferry_stats, downtime.total_us),
	WIDE(ferry_stats, downtime.pause_us),
	WIDE(ferry_stats, downtime.fetch_us),
	WIDE(ferry_stats, downtime.residue_us),
	WIDE(ferry_stats, downtime.save_us),
	WIDE(ferry_stats, downtime.send_us),
	WIDE(ferry_stats, downtime.arm_us),
	WIDE(ferry_stats, downtime.load_us),
	WIDE(ferry_stats, downtime.resume_us),
	NARROW(ferry_stats, nlandings), /* all RAM of this VMM is of one kind */
	NARROW(ferry_stats, landing[0].way),
	NARROW(ferry_stats, landing[0].mapping_ns),
	NARROW(ferry_stats, landing[0].kernel_ns),
};

_Static_assert(sizeof(enum ferry_landing_way) == sizeof(uint32_t), "a narrow field");

static const struct field thp_fields[] = {
	WIDE(ferry_result, thp_before),
	WIDE(ferry_result, thp_after),
	WIDE(ferry_result, collapse_us),
};

static const struct field round_fields[] = {
	NARROW(ferry_round, round), WIDE(ferry_round, pages_sent),  WIDE(ferry_round, pages_zero),
	WIDE(ferry_round, bytes),   WIDE(ferry_round, duration_us), WIDE(ferry_round, pages_dirty),
};

static const struct field proof_fields[] = {
	WIDE(vmm_proof, pages_checked), WIDE(vmm_proof, pages_bad), WIDE(vmm_proof, pages_hole),
	WIDE(vmm_proof, stamps),	WIDE(vmm_proof, ticks),	    WIDE(vmm_proof, guest_errors),
};

static const struct field cpu_fields[] = { WIDE(end_cost, run_us),	     WIDE(end_cost, precopy_us),
					   WIDE(end_cost, postcopy_us),	     WIDE(end_cost, resident),
					   WIDE(end_cost, reserve_us),	     WIDE(end_cost, stamps),
					   WIDE(end_cost, stood_us),	     WIDE(end_cost, precopy_stamps),
					   NARROW(end_cost, tracked.by),     WIDE(end_cost, tracked.fetch_ns),
					   WIDE(end_cost, tracked.ring_full) };

_Static_assert(sizeof(enum vmm_tracking) == sizeof(uint32_t), "a narrow field");

static const struct field stream_fields[] = {
	WIDE(observer_stream, seen),
	WIDE(observer_stream, missing),
	WIDE(observer_stream, repeated),
	NARROW(observer_stream, next),
};

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static json_t *make_fields(const void *from, const struct field *f, size_t n)
{
	json_t *o = json_object();

	for (size_t i = 0; i < n; i++) {
		const char *at = (const char *)from + f[i].at;
		uint64_t v = f[i].narrow ? *(const uint32_t *)at : *(const uint64_t *)at;

		json_object_set_new(o, f[i].name, json_integer((json_int_t)v));
	}
	return o;
}

/* State of the reader, and the first invalid value. */
struct taking {
	char *why;
	size_t cap;
	int err;
};

static void refuse(struct taking *t, const char *name, const char *what)
{
	if (!t->err)
		snprintf(t->why, t->cap, "its report has %s %s that no end of a migration has", what, name);
	t->err = -EPROTO;
}

/* Reads a number from min to max; a missing field is 0. */
static int64_t take_number(struct taking *t, const json_t *o, const char *name, int64_t min, int64_t max)
{
	const json_t *v = json_object_get(o, name);
	json_int_t n = json_integer_value(v);

	if (!v)
		return 0;
	if (json_is_integer(v) && n >= min && n <= max)
		return n;
	refuse(t, name, "a number");
	return 0;
}

static void take_fields(struct taking *t, void *into, const struct field *f, size_t n, const json_t *o)
{
	for (size_t i = 0; i < n; i++) {
		char *at = (char *)into + f[i].at;
		uint64_t v = (uint64_t)take_number(t, o, f[i].name, 0,
						   f[i].narrow ? UINT32_MAX : (int64_t)PEER_NUMBER_MAX);

		if (f[i].narrow)
			*(uint32_t *)at = (uint32_t)v;
		else
			*(uint64_t *)at = v;
	}
}

/* Copies a text: cut to size, without control characters. */
static void printable(char *into, size_t cap, const char *text)
{
	snprintf(into, cap, "%s", text ? text : "");
	json_printable(into);
}

static void take_text(char *into, size_t cap, const json_t *o, const char *name)
{
	printable(into, cap, json_string_value(json_object_get(o, name)));
}

/* --- the options, checked by the table of options --- */

static void set_number(json_t *o, const char *name, uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
	json_object_set_new(o, name, json_string(text));
}

static json_t *make_asked(const struct options *o, enum vmm_end own)
{
	json_t *a = json_object();
	char kill[64];

	if (*kill_text(kill, &o->kill))
		json_object_set_new(a, "kill", json_string(kill));
	if (own == VMM_END_TARGET)
		return a;
	set_number(a, "memory", o->memory);
	set_number(a, "working-set", o->working_set);
	set_number(a, "dirty-rate", o->dirty_rate);
	set_number(a, "populate", o->populate);
	set_number(a, "vcpus", o->vcpus);
	set_number(a, "seed", o->seed);
	set_number(a, "channels", o->channels ? o->channels : 1);
	set_number(a, "bandwidth", o->bandwidth);
	json_object_set_new(a, "thp", json_string(o->thp == THP_ON ? "on" : "off"));
	json_object_set_new(a, "memory-kind", json_string(kind_name(o->kind)));
	json_object_set_new(a, "pattern", json_string(pattern_name(o->pattern)));
	json_object_set_new(a, "mode", json_string(ferry_mode_name((enum ferry_mode)o->mode)));
	json_object_set_new(a, "commit-at", json_string(commit_at_name(o->commit_at)));
	return a;
}

/* The table of options quotes a value that it refuses, so only a short word may reach it. */
static void take_asked(struct taking *t, struct options *o, const json_t *a)
{
	static const char *const names[] = { "memory",	  "working-set", "dirty-rate", "populate",    "vcpus",
					     "seed",	  "channels",	 "bandwidth",  "memory-kind", "mode",
					     "commit-at", "kill",	 "thp",	       "pattern" };

	for (size_t i = 0; i < COUNT(names); i++) {
		const char *text = json_string_value(json_object_get(a, names[i]));
		char word[64];

		if (!text)
			continue;
		printable(word, sizeof(word), text);
		if (strcmp(word, text) || options_set(o, names[i], word))
			refuse(t, names[i], "a");
	}
}

/* --- the end --- */

/* Of each vCPU; zeros at the end are left out. */
static json_t *make_counts(const uint64_t *pages, size_t n)
{
	json_t *list = json_array();

	while (n && !pages[n - 1])
		n--;
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_integer((json_int_t)pages[i]));
	return list;
}

static void take_counts(struct taking *t, uint64_t *pages, size_t n, const json_t *list)
{
	for (size_t i = 0; i < n && i < json_array_size(list); i++) {
		const json_t *v = json_array_get(list, i);
		json_int_t count = json_integer_value(v);

		if (!json_is_integer(v) || count < 0 || count > (json_int_t)PEER_NUMBER_MAX)
			refuse(t, "vcpu_pages", "a number");
		else
			pages[i] = (uint64_t)count;
	}
}

static json_t *make_end(const struct run_report *r, enum vmm_end own)
{
	const struct end_report *e = &r->end[own];
	json_t *o = json_object();
	char session[33];

	json_object_set_new(o, "begun", json_boolean(e->begun));
	json_object_set_new(o, "drilled", json_boolean(e->drilled));
	json_object_set_new(o, "error", json_string(e->error));
	json_object_set_new(o, "cpu", make_fields(&e->cpu, cpu_fields, COUNT(cpu_fields)));
	json_object_set_new(o, "vcpu_pages", make_counts(e->cpu.tracked.pages, VMM_VCPUS_MAX));
	json_object_set_new(o, "have_result", json_boolean(e->have_result));
	json_object_set_new(o, "stats",
			    make_fields(e->have_result ? &e->result.stats : &e->live, stats_fields,
					COUNT(stats_fields)));
	if (!e->have_result)
		return o;
	json_object_set_new(o, "outcome", json_integer(e->result.outcome));
	json_object_set_new(o, "owner", json_integer(e->result.owner));
	json_object_set_new(o, "phase", json_integer(e->result.phase));
	json_object_set_new(o, "errno", json_integer(e->result.error));
	json_object_set_new(o, "detail", json_string(e->result.detail));
	json_object_set_new(o, "session", json_string(session_text(session, e->result.session)));
	json_object_set_new(o, "thp", make_fields(&e->result, thp_fields, COUNT(thp_fields)));
	return o;
}

static int take_enum(struct taking *t, const json_t *o, const char *name, int min, int max)
{
	if (!json_object_get(o, name))
		refuse(t, name, "no");
	return (int)take_number(t, o, name, min, max);
}

static void take_session(struct taking *t, uint8_t session[16], const json_t *o)
{
	const char *hex = json_string_value(json_object_get(o, "session"));

	if (!hex || strlen(hex) != 32 || strspn(hex, "0123456789abcdef") != 32) {
		refuse(t, "session", "a");
		return;
	}
	for (unsigned i = 0; i < 16; i++)
		sscanf(hex + 2 * i, "%2hhx", &session[i]);
}

static int take_errno(struct taking *t, const json_t *o, const char *name)
{
	return (int)take_number(t, o, name, -4095, 4095);
}

static void take_end(struct taking *t, struct end_report *e, const json_t *o)
{
	*e = (struct end_report){ .begun = json_is_true(json_object_get(o, "begun")),
				  .drilled = json_is_true(json_object_get(o, "drilled")),
				  .have_result = json_is_true(json_object_get(o, "have_result")) };
	take_text(e->error, sizeof(e->error), o, "error");
	take_fields(t, &e->cpu, cpu_fields, COUNT(cpu_fields), json_object_get(o, "cpu"));
	if (e->cpu.tracked.by > VMM_TRACKING_PAGEMAP)
		refuse(t, "tracked.by", "a number");
	take_counts(t, e->cpu.tracked.pages, VMM_VCPUS_MAX, json_object_get(o, "vcpu_pages"));
	take_fields(t, &e->live, stats_fields, COUNT(stats_fields), json_object_get(o, "stats"));
	if (e->live.nlandings > FERRY_LANDINGS || e->live.landing[0].way > FERRY_LANDING_WAY_KERNEL)
		refuse(t, "landing", "a");
	if (!e->have_result)
		return;
	e->result = (struct ferry_result){
		.size = sizeof(e->result),
		.outcome = (enum ferry_outcome)take_enum(t, o, "outcome", FERRY_OUTCOME_MIGRATED,
							 FERRY_OUTCOME_LOST),
		.owner = (enum ferry_owner)take_enum(t, o, "owner", FERRY_OWNER_SOURCE, FERRY_OWNER_UNKNOWN),
		.phase = (enum ferry_phase)take_enum(t, o, "phase", FERRY_PHASE_IDLE, FERRY_PHASE_FAILED),
		.stats = e->live
	};
	e->result.error = take_errno(t, o, "errno");
	take_text(e->result.detail, sizeof(e->result.detail), o, "detail");
	take_fields(t, &e->result, thp_fields, COUNT(thp_fields), json_object_get(o, "thp"));
	take_session(t, e->result.session, o);
}

/* --- the observer's counts --- */

static json_t *make_observer(const struct observer *ob)
{
	json_t *o = json_object(), *list = json_array();

	for (unsigned i = 0; i < ob->nstreams; i++)
		json_array_append_new(list, make_fields(&ob->stream[i], stream_fields, COUNT(stream_fields)));
	json_object_set_new(o, "streams", list);
	json_object_set_new(o, "handovers", json_integer(ob->handovers));
	json_object_set_new(o, "damaged", json_integer((json_int_t)ob->damaged));
	return o;
}

static void take_observer(struct taking *t, struct observer *ob, const json_t *o)
{
	const json_t *list = json_object_get(o, "streams");

	*ob = (struct observer){ .fd = -1, .last_end = -1 };
	for (size_t i = 0; i < json_array_size(list) && i < VMM_VCPUS_MAX; i++) {
		struct observer_stream *st = &ob->stream[ob->nstreams++];

		take_fields(t, st, stream_fields, COUNT(stream_fields), json_array_get(list, i));
		/* Each number before .next was seen or is missing; observer_join() relies on it. */
		if (st->repeated > st->seen || st->seen - st->repeated + st->missing > st->next)
			refuse(t, "next", "a number");
	}
	ob->handovers = (unsigned)take_number(t, o, "handovers", 0, INT32_MAX);
	ob->damaged = (uint64_t)take_number(t, o, "damaged", 0, (int64_t)PEER_NUMBER_MAX);
}

/* --- the whole report --- */

static json_t *make_rounds(const struct run_report *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->nrounds; i++)
		json_array_append_new(list, make_fields(&r->rounds[i], round_fields, COUNT(round_fields)));
	return list;
}

static json_t *make_policy(const struct run_report *r)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < r->npolicy; i++)
		json_array_append_new(list, json_string(r->policy[i]));
	return list;
}

static json_t *make_proof(const struct run_report *r)
{
	json_t *o = make_fields(&r->proof, proof_fields, COUNT(proof_fields));

	json_object_set_new(o, "text", json_string(r->proof.text));
	json_object_set_new(o, "err", json_integer(r->proof_err));
	json_object_set_new(o, "ran_on", json_boolean(r->ran_on));
	return o;
}

json_t *peer_report_make(const struct run_report *r, enum vmm_end own, const struct record *record)
{
	json_t *o = json_object();

	json_object_set_new(o, "host", json_string(r->host[own]));
	json_object_set_new(o, "asked", make_asked(r->o, own));
	json_object_set_new(o, "end", make_end(r, own));
	json_object_set_new(o, "mutator", json_string(r->mutator));
	json_object_set_new(o, "observer", make_observer(&r->observer));
	if (own == VMM_END_SOURCE) {
		json_object_set_new(o, "rounds", make_rounds(r));
		json_object_set_new(o, "policy", make_policy(r));
	}
	if (r->have_proof)
		json_object_set_new(o, "proof", make_proof(r));
	if (record)
		json_object_set_new(o, "recording", peer_record_make(record, own));
	return o;
}

static void take_rounds(struct taking *t, struct run_report *r, const json_t *o)
{
	const json_t *rounds = json_object_get(o, "rounds"), *policy = json_object_get(o, "policy");

	for (r->nrounds = 0; r->nrounds < json_array_size(rounds) && r->nrounds < ROUNDS_KEPT; r->nrounds++)
		take_fields(t, &r->rounds[r->nrounds], round_fields, COUNT(round_fields),
			    json_array_get(rounds, r->nrounds));
	for (r->npolicy = 0; r->npolicy < json_array_size(policy) && r->npolicy < POLICY_KEPT; r->npolicy++)
		printable(r->policy[r->npolicy], sizeof(r->policy[0]),
			  json_string_value(json_array_get(policy, r->npolicy)));
}

static void take_proof(struct taking *t, struct run_report *r, const json_t *o)
{
	if (!json_is_object(o) || r->have_proof)
		return;
	r->have_proof = true;
	take_fields(t, &r->proof, proof_fields, COUNT(proof_fields), o);
	take_text(r->proof.text, sizeof(r->proof.text), o, "text");
	r->proof_err = take_errno(t, o, "err");
	r->ran_on = json_is_true(json_object_get(o, "ran_on"));
}

static void take_all(struct taking *t, struct run_report *r, enum vmm_end other, const json_t *o)
{
	struct observer ob;

	r->asked = *r->o;
	take_end(t, &r->end[other], json_object_get(o, "end"));
	take_asked(t, &r->asked, json_object_get(o, "asked"));
	take_text(r->host[other], sizeof(r->host[other]), o, "host");
	take_observer(t, &ob, json_object_get(o, "observer"));
	if (other == VMM_END_SOURCE) {
		take_rounds(t, r, o);
		observer_join(&ob, &r->observer);
		r->observer = ob;
	} else {
		observer_join(&r->observer, &ob);
	}
	take_proof(t, r, json_object_get(o, "proof"));
	if (json_is_object(json_object_get(o, "proof")) || !r->mutator[0])
		take_text(r->mutator, sizeof(r->mutator), o, "mutator");
	r->whole = true;
}

int peer_report_take(struct run_report *r, enum vmm_end other, const json_t *o, char *why, size_t cap)
{
	struct taking t = { .why = why, .cap = cap };
	struct run_report *n;

	if (!json_is_object(o)) {
		snprintf(why, cap, "its report is no object");
		return -EPROTO;
	}
	n = malloc(sizeof(*n));
	if (!n)
		return -ENOMEM;
	*n = *r;
	take_all(&t, n, other, o);
	if (!t.err) {
		*r = *n;
		r->o = &r->asked;
	}
	free(n);
	return t.err;
}
