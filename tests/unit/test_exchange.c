// SPDX-License-Identifier: MIT
/* What two hosts tell each other: a report arrives whole, and one that lies is refused and changes nothing.
 */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/cli/exchange.h"

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
	r->end[end].result =
		(struct ferry_result){ .outcome = FERRY_OUTCOME_MIGRATED, .owner = FERRY_OWNER_TARGET };
	r->end[end].result.stats =
		(struct ferry_stats){ .pages_sent = 1000 + (uint64_t)end, .downtime.load_us = 33 };
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
	o->vcpus = 2;
	r->end[VMM_END_SOURCE].cpu.tracked = (struct vmm_tracked){
		.by = VMM_TRACKING_RING, .fetch_ns = 1230000, .ring_full = 4, .pages = { 5678, 0 }
	};
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
	cr_assert_not_null(
		strstr(a, "by ring, fetched in 1.23 ms; full 4 times; pages of each vCPU: 5,678; 0"));
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
	strcpy(s.policy[0], "\x1b[31mred\xc2\x9b");
	strcpy(s.host[VMM_END_SOURCE], "\x7f\r");
	o = peer_report_make(&s, VMM_END_SOURCE, NULL);
	cr_assert_eq(peer_report_take(&t, VMM_END_SOURCE, o, why, sizeof(why)), 0);
	cr_assert_str_eq(t.policy[0], "?[31mred??");
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
	cr_assert(!strchr(why, 0x1b));
	cr_assert_eq(memcmp(&s, &before, sizeof(s)), 0);
	json_decref(o);
}

/* A number of each place that is none of a migration. */
Test(exchange, numbers_that_no_migration_has)
{
	static const char *const lies[] = {
		"{\"end\":{\"stats\":{\"downtime.total_us\":-1}}}",
		"{\"end\":{\"stats\":{\"elapsed_us\":9223372036854775807}}}",
		"{\"end\":{\"stats\":{\"round\":4294967296}}}",
		"{\"end\":{\"stats\":{\"faults\":1e3}}}",
		"{\"end\":{\"cpu\":{\"resident\":\"much\"}}}",
		"{\"end\":{\"cpu\":{\"tracked.by\":4}}}",
		"{\"end\":{\"vcpu_pages\":[1,-1]}}",
		"{\"end\":{\"vcpu_pages\":[\"many\"]}}",
		"{\"observer\":{\"streams\":[{\"seen\":-3}]}}",
		"{\"observer\":{\"handovers\":4294967297}}",
		"{\"observer\":{\"damaged\":-1}}",
		"{\"observer\":{\"streams\":[{\"seen\":5,\"missing\":0,\"repeated\":0,\"next\":0}]}}",
		"{\"observer\":{\"streams\":[{\"seen\":5,\"missing\":0,\"repeated\":6,\"next\":9}]}}",
		"{\"proof\":{\"pages_bad\":-1}}",
		"{\"proof\":{\"err\":1000000}}",
		"{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1,\"phase\":1,\"errno\":99999,"
		"\"session\":\"0123456789abcdef0123456789abcdef\"}}",
		"{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1,\"phase\":1,\"thp\":{\"thp_after\":-1},"
		"\"session\":\"0123456789abcdef0123456789abcdef\"}}",
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(*lies); i++)
		refused(lies[i]);
}

/* What is no option's value is quoted on this end's terminal. */
Test(exchange, what_the_other_end_was_asked_for_does_not_command_the_terminal)
{
	char said[4096] = "";

	refused("{\"asked\":{\"mode\":\"\\u001b[31mred\"}}");
	fflush(stderr);
	cr_assert_geq(fread(said, 1, sizeof(said) - 1, cr_get_redirected_stderr()), 0);
	cr_assert(!strchr(said, 0x1b), "%s", said);
}

Test(exchange, an_outcome_that_is_none)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":99,\"owner\":1,\"phase\":1}}");
}

Test(exchange, a_negative_owner)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":-1,\"phase\":1}}");
}

Test(exchange, a_result_without_a_phase)
{
	refused("{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1}}");
}

static void session_is_refused(const char *session)
{
	char json[256];

	snprintf(json, sizeof(json),
		 "{\"end\":{\"have_result\":true,\"outcome\":0,\"owner\":1,\"phase\":1%s%s%s}}",
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
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE, .phase = FERRY_PHASE_PRECOPY };
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
		"{\"events\":[[1,0,1,\"\",1,-1,0,0,0]]}",
		"{\"samples\":[[5,-1,0,0,0,0,0,0,1,1]]}",
		"{\"samples\":[[5,0,0,0,0,0,0,4294967296,1,1]]}",
		"{\"samples\":[[-5,0,0,0,0,0,0,0,1,1]]}",
		"{\"samples\":[[5,0,0,0,0,0,0,0,1,1],[1000000000000000000,0,0,0,0,0,0,0,1,1]]}",
		"{\"samples\":[[5,0,0,0,0,0,0,0,1,1]],\"events\":[[1000000000000000000,0,1,\"\"]]}",
		"{\"buckets\":[[5,5,1]]}",
		"{\"buckets\":[[5,6,1],[3,4,1]]}",
		"{\"buckets\":[[5,6]]}",
		"{\"period_ns\":-1}",
		"{\"taken\":9223372036854775807}",
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

/* A day beside a year: what is here says of which migration the other's are. */
Test(exchange, a_recording_of_another_time)
{
	struct record *rec = record_new(1000);
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE, .phase = FERRY_PHASE_PRECOPY };
	json_t *o = json_loads("{\"samples\":[[900000000000000000,0,0,0,0,0,0,0,1,1]]}", 0, NULL);

	cr_assert(rec && o);
	record_event(rec, VMM_END_SOURCE, &ev, NULL, 5000000);
	cr_assert_lt(peer_record_take(rec, VMM_END_TARGET, o, 0), 0);
	json_decref(o);
	record_free(rec);
}

/* --- the conversation: what a peer says that has got so far, however much it is --- */

static size_t jansson_now, jansson_most;

static void *counted(size_t n)
{
	void *p = malloc(n);

	jansson_now += malloc_usable_size(p);
	jansson_most = jansson_now > jansson_most ? jansson_now : jansson_most;
	return p;
}

static void given_back(void *p)
{
	jansson_now -= p ? malloc_usable_size(p) : 0;
	free(p);
}

struct liar {
	int fd;
	const char *begins, *again; /* then this, to so many bytes in all, and the end of a line */
	size_t all;
};

static bool tell(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(fd, text, len, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return false;
		text += n > 0 ? n : 0;
		len -= n > 0 ? (size_t)n : 0;
	}
	return true;
}

static void *lie(void *arg)
{
	const struct liar *l = arg;
	size_t one = strlen(l->again), n = 65536 / (one ? one : 1) * one;
	char *much = malloc(n + 1);
	bool heard = tell(l->fd, l->begins, strlen(l->begins));

	for (size_t i = 0; one && i < n; i += one)
		memcpy(much + i, l->again, one);
	for (size_t said = 0; heard && n && said < l->all; said += n)
		heard = tell(l->fd, much, n);
	if (heard)
		tell(l->fd, "\n", 1);
	shutdown(l->fd, SHUT_WR);
	free(much);
	return NULL;
}

#define HI "{\"hello\":\"rdma-migrate\",\"format\":2,\"session\":\"\",\"recording\":true}\n"
#define ASK "{\"ping\":1}\n"
#define ASK_4 ASK ASK ASK ASK
#define ASK_16 ASK_4 ASK_4 ASK_4 ASK_4

/* It hears why, takes nothing, and jansson at most so many bytes. */
static void ends(enum vmm_end own, const char *begins, const char *again, size_t all, bool recorded,
		 const char *why, size_t most)
{
	static struct run_report r;
	struct record *rec = recorded ? record_new(1000) : NULL;
	struct liar l = { .begins = begins, .again = again, .all = all };
	char said[2000] = "";
	struct meeting m;
	struct options o;
	pthread_t thread;
	int pair[2];

	if (own == VMM_END_SOURCE)
		source(&r, &o);
	else
		target(&r, &o);
	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	meet_init(&m, own);
	m.fd = pair[0];
	m.agreed = m.wanted = true;
	l.fd = pair[1];
	cr_redirect_stderr();
	json_set_alloc_funcs(counted, given_back);
	cr_assert(!pthread_create(&thread, NULL, lie, &l));
	cr_assert(!peer_exchange(&m, &r, rec));
	meet_end(&m); /* who speaks on hears that nobody listens */
	pthread_join(thread, NULL);
	close(pair[1]);
	record_free(rec);
	fflush(stderr);
	cr_assert_gt(fread(said, 1, sizeof(said) - 1, cr_get_redirected_stderr()), 0);
	cr_assert(strstr(said, why), "\"%s\" is not in: %s", why, said);
	cr_assert_leq(jansson_most, most);
	cr_assert(!r.whole);
}

Test(talk, megabytes_instead_of_a_hello)
{
	ends(VMM_END_TARGET, "[[]", ",[]", 60u << 20, true, "a line of its message is longer than 1024 bytes",
	     1u << 20);
}

Test(talk, megabytes_to_the_source)
{
	ends(VMM_END_SOURCE, "[[]", ",[]", 60u << 20, true, "a line of its message is longer than 1024 bytes",
	     1u << 20);
}

Test(talk, megabytes_instead_of_a_question)
{
	ends(VMM_END_TARGET, HI "[[]", ",[]", 60u << 20, true,
	     "a line of its message is longer than 1024 bytes", 1u << 20);
}

Test(talk, a_recording_that_nobody_asked_for)
{
	ends(VMM_END_TARGET, HI ASK_16 "[[]", ",[]", 60u << 20, false,
	     "a line of its message is longer than 1048576 bytes", 1u << 20);
}

Test(talk, a_recording_of_many_small_values)
{
	ends(VMM_END_TARGET, HI ASK_16 "[[]", ",[]", 60u << 20, true, "of memory, and 536870912 are given",
	     1u << 20);
}

Test(talk, a_line_without_end)
{
	ends(VMM_END_TARGET, HI ASK_16 "[[]", ",          ", 70u << 20, true,
	     "a line of its message is longer than 67108864 bytes", 1u << 20);
}

Test(talk, a_report_before_the_questions)
{
	ends(VMM_END_TARGET, HI ASK_4 "{\"report\":{}}", "", 0, false,
	     "queried the clock 4 times instead of 16", 1u << 20);
}

Test(talk, clocks_that_differ_by_ages)
{
	ends(VMM_END_TARGET,
	     HI ASK_16 "{\"report\":{},\"clock_offset_ns\":-9223372036854775807,\"clock_error_ns\":1}", "", 0,
	     false, "its clock_offset_ns is not a valid time", 1u << 20);
}

Test(talk, a_clock_that_is_wrong_by_less_than_nothing)
{
	ends(VMM_END_TARGET, HI ASK_16 "{\"report\":{},\"clock_offset_ns\":1,\"clock_error_ns\":-1}", "", 0,
	     false, "its clock_error_ns is not a valid time", 1u << 20);
}

Test(talk, a_clock_before_all_times)
{
	ends(VMM_END_SOURCE, HI "{\"clock_ns\":-9223372036854775807}", "", 0, false,
	     "its clock_ns is not a valid time", 1u << 20);
}

Test(talk, no_clock_at_all)
{
	ends(VMM_END_SOURCE, HI "{}", "", 0, false, "its clock_ns is not a valid time", 1u << 20);
}

Test(talk, a_number_that_no_migration_has_is_named)
{
	ends(VMM_END_TARGET,
	     HI ASK_16
	     "{\"report\":{\"end\":{\"stats\":{\"faults\":-1}}},\"clock_offset_ns\":1,\"clock_error_ns\":1}",
	     "", 0, false, "its report has a number faults that no end of a migration has", 1u << 20);
}

struct other_end {
	struct meeting *m;
	struct run_report *r;
	struct record *rec;
};

static void *other_end(void *arg)
{
	struct other_end *o = arg;

	peer_exchange(o->m, o->r, o->rec);
	return NULL;
}

/* The largest recording that an honest end sends. */
Test(talk, a_full_recording_fits)
{
	struct record *a = record_new(1000), *b = record_new(1000);
	struct ferry_event ev = { .type = FERRY_EVENT_PHASE, .phase = FERRY_PHASE_PRECOPY };
	static struct run_report s, t;
	struct options so, to;
	struct meeting m[2];
	struct other_end other = { &m[VMM_END_TARGET], &t, b };
	pthread_t thread;
	int pair[2];

	cr_assert(a && b);
	source(&s, &so);
	target(&t, &to);
	for (uint64_t i = 0; i < RECORD_SAMPLES; i++)
		a->area[0]->sample[i] = (struct record_sample){ .time_ns = (UINT64_C(1) << 50) + i,
								.stamps = UINT64_C(1) << 40,
								.bytes = UINT64_C(1) << 45,
								.remaining = UINT32_MAX,
								.dirty_rate = 1000000,
								.phase = 3,
								.running = 1 };
	atomic_store(&a->area[0]->n, RECORD_SAMPLES);
	record_event(a, VMM_END_SOURCE, &ev, "pre-copy", UINT64_C(1) << 50);
	cr_assert(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	for (int end = 0; end < 2; end++) {
		meet_init(&m[end], (enum vmm_end)end);
		m[end].fd = pair[end];
		m[end].agreed = m[end].wanted = true;
	}
	cr_assert(!pthread_create(&thread, NULL, other_end, &other));
	cr_assert(peer_exchange(&m[VMM_END_SOURCE], &s, a));
	pthread_join(thread, NULL);
	cr_assert(t.whole && s.whole);
	cr_assert_eq(atomic_load(&b->area[0]->n), RECORD_SAMPLES);
	cr_assert_eq(b->area[0]->sample[RECORD_SAMPLES - 1].remaining, UINT32_MAX);
	meet_end(&m[0]);
	meet_end(&m[1]);
	record_free(a);
	record_free(b);
}
