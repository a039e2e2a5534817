// SPDX-License-Identifier: MIT
/* What two hosts tell each other: a report arrives whole, and one that lies is refused and changes nothing.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdlib.h>
#include <string.h>

#include "exchange.h"

static void fill(struct run_report *r, struct options *o, enum vmm_end end)
{
	char source[] = "source", target[] = "target",
	     *argv[] = { "rdma-migrate", end ? target : source, "--to", "tcp:h:1" };

	cr_assert_eq(options_parse(o, end ? 2 : 4, argv), 0);
	memset(r, 0, sizeof(*r));
	r->o = o;
	strcpy(r->host[end], end ? "beta" : "alpha");
	observer_init(&r->observer, -1, end ? VMM_VCPUS_MAX : 1, !end);
	for (uint32_t n = 1; n <= 5; n++)
		observer_take(&r->observer,
			      &(struct vmm_output){ .number = n + 5 * (uint32_t)end, .end = (uint16_t)end });
	r->end[end].begun = r->end[end].have_result = true;
	r->end[end].result = (struct ferry_result){ .outcome = FERRY_MIGRATED, .owner = FERRY_TARGET };
	r->end[end].result.stats =
		(struct ferry_stats){ .pages_sent = 1000 + (uint64_t)end, .blackout.load_us = 33 };
	strcpy(r->mutator, "kvm-native");
}

static void source(struct run_report *r, struct options *o)
{
	fill(r, o, VMM_END_SOURCE);
	o->memory = 64 << 20;
	o->dirty_rate = 777;
	o->mode = FERRY_MODE_POSTCOPY;
	r->nrounds = r->npolicy = 1;
	r->rounds[0].bytes = 4096;
	strcpy(r->policy[0], "post-copy: it was asked for");
}

static void target(struct run_report *r, struct options *o)
{
	fill(r, o, VMM_END_TARGET);
	r->have_proof = r->ran_on = true;
	r->proof.pages_checked = 16384;
}

Test(exchange, both_ends_come_to_the_same)
{
	static struct run_report s, t;
	struct options so, to;
	json_t *from_source, *from_target;
	char why[256], *a = NULL, *b = NULL;
	size_t alen, blen;
	FILE *out;

	source(&s, &so);
	target(&t, &to);
	from_source = peer_report_make(&s, VMM_END_SOURCE, NULL);
	from_target = peer_report_make(&t, VMM_END_TARGET, NULL);
	cr_assert_eq(peer_report_take(&s, VMM_END_TARGET, from_target, why, sizeof(why)), 0);
	cr_assert_eq(peer_report_take(&t, VMM_END_SOURCE, from_source, why, sizeof(why)), 0);
	judge(&s);
	judge(&t);
	cr_assert_eq(s.verdict, VERDICT_OK, "%s", s.sentence);
	out = open_memstream(&a, &alen);
	report_table(out, &s);
	fclose(out);
	out = open_memstream(&b, &blen);
	report_table(out, &t);
	fclose(out);
	cr_assert_str_eq(a, b);
	cr_assert_not_null(strstr(a, "hosts       source alpha, target beta"));
	cr_assert_not_null(strstr(a, "777 pages/s"));
	cr_assert_not_null(strstr(a, "16,384 pages checked, 0 bad; 10 outputs seen, 0 missing, 0 repeated"));
	free(a);
	free(b);
	json_decref(from_source);
	json_decref(from_target);
}

Test(exchange, what_the_other_end_says_does_not_command_the_terminal)
{
	static struct run_report s, t;
	struct options so, to;
	char why[256];
	json_t *o;

	source(&s, &so);
	target(&t, &to);
	strcpy(s.policy[0], "\x1b[31mred");
	strcpy(s.host[VMM_END_SOURCE], "\x7f\r");
	o = peer_report_make(&s, VMM_END_SOURCE, NULL);
	cr_assert_eq(peer_report_take(&t, VMM_END_SOURCE, o, why, sizeof(why)), 0);
	cr_assert_str_eq(t.policy[0], "?[31mred");
	cr_assert_str_eq(t.host[VMM_END_SOURCE], "??");
	json_decref(o);
}

static void refused(const char *json)
{
	static struct run_report s, before;
	struct options so;
	char why[256] = "";
	json_t *o = json_loads(json, 0, NULL);

	cr_assert_not_null(o, "%s", json);
	source(&s, &so);
	before = s;
	cr_redirect_stderr();
	cr_assert_lt(peer_report_take(&s, VMM_END_TARGET, o, why, sizeof(why)), 0, "%s", json);
	cr_assert(why[0]);
	cr_assert_eq(memcmp(&s, &before, sizeof(s)), 0);
	json_decref(o);
}

Test(exchange, an_outcome_that_is_none)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":99,\"owner\":1,\"phase\":1}}");
}

Test(exchange, a_negative_owner)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":-1,\"phase\":1}}");
}

Test(exchange, a_result_without_a_stage)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1}}");
}

static void session_is_refused(const char *session)
{
	char json[256];

	snprintf(json, sizeof(json), "{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1,\"phase\":1%s%s%s}}",
		 session ? ",\"session\":\"" : "", session ? session : "", session ? "\"" : "");
	refused(json);
}

Test(exchange, a_session_that_is_no_name_of_one)
{
	session_is_refused(NULL);
	session_is_refused("");
	session_is_refused("0123456789abcdef0123456789abcde");
	session_is_refused("0123456789abcdef0123456789abcdef0");
	session_is_refused("0123456789abcdef0123456789abcdeg");
}

Test(exchange, a_guest_beyond_all_limits)
{
	refused("{\"end\":{},\"asked\":{\"memory\":\"9999G\"}}");
}

Test(exchange, a_drill_that_is_none)
{
	refused("{\"end\":{},\"asked\":{\"kill\":\"everybody@noon\"}}");
}

Test(exchange, nothing_at_all_is_an_end_that_could_tell_nothing)
{
	static struct run_report s;
	struct options so;
	char why[256];
	json_t *o = json_object();

	source(&s, &so);
	cr_assert_eq(peer_report_take(&s, VMM_END_TARGET, o, why, sizeof(why)), 0);
	judge(&s);
	cr_assert_eq(s.verdict, VERDICT_LOST, "%s", s.sentence);
	json_decref(o);
}

/* A recording: there and back, by another clock. */
Test(exchange, a_recording_arrives_on_this_hosts_clock)
{
	struct record *a = record_new(1000), *b = record_new(1000);
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE, .phase = FERRY_PRECOPY };
	json_t *o;

	cr_assert(a && b);
	for (uint64_t i = 0; i < 100; i++)
		a->area[1]->sample[i] =
			(struct record_sample){ .time_ns = 5000 + i, .stamps = i, .phase = 3 };
	atomic_store(&a->area[1]->n, 100);
	a->area[1]->bucket[0] = (struct ferry_fault_bucket){ 16, 17, 3 };
	atomic_store(&a->area[1]->nbuckets, 1);
	record_event(a, VMM_END_TARGET, &ev, "pre-copy", 5050);
	record_event(a, VMM_END_SOURCE, &ev, "another's", 1);
	o = peer_record_make(a, VMM_END_TARGET);
	cr_assert_eq(peer_record_take(b, VMM_END_TARGET, o, -4000), 0);
	cr_assert_eq(atomic_load(&b->area[1]->n), 100);
	cr_assert_eq(b->area[1]->sample[99].time_ns, 1099);
	cr_assert_eq(b->area[1]->sample[99].stamps, 99);
	cr_assert_eq(b->area[1]->bucket[0].count, 3);
	cr_assert_eq(b->nevents, 1);
	cr_assert_eq(b->event[0].time_ns, 1050);
	cr_assert_str_eq(b->event[0].event.text, "pre-copy");
	json_decref(o);
	record_free(a);
	record_free(b);
}

Test(exchange, a_recording_that_lies)
{
	static const char *const lies[] = {
		"{\"samples\":[[1,2]]}",
		"{\"samples\":[[5,0,0,0,0,0,0,0,1,1],[4,0,0,0,0,0,0,0,1,1]]}",
		"{\"samples\":[[5,0,0,0,0,0,0,0,4000,1]]}",
		"{\"events\":[[1,77,1,\"\"]]}",
		"{\"events\":[[1,0,-1,\"\"]]}",
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++) {
		struct record *rec = record_new(1000);
		json_t *o = json_loads(lies[i], 0, NULL);

		cr_assert(rec && o);
		cr_assert_lt(peer_record_take(rec, VMM_END_TARGET, o, 0), 0, "%s", lies[i]);
		json_decref(o);
		record_free(rec);
	}
}
