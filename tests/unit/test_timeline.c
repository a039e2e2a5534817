// SPDX-License-Identifier: MIT
/* Recordings read back: what is damaged is refused with its line, what is unknown is left aside, and progress
 * is true. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/picture/picture.h"
#include "bench/picture/timeline.h"

#define RUN "{\"type\":\"run\",\"format\":1}\n"
#define RESULT \
	"{\"type\":\"result\",\"result\":{\"downtime_us\":1500,\"downtime\":{\"save_us\":400},\"mode\":\"auto\"}}\n"

static int load(struct timelines *t, const char *text)
{
	char name[] = "/tmp/test-timeline-XXXXXX";
	int fd = mkstemp(name), err;

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	memset(t, 0, sizeof(*t));
	err = timelines_load(t, name);
	unlink(name);
	return err;
}

static void refused(const char *text, const char *why)
{
	struct timelines t;
	char said[512] = "";
	FILE *f;

	cr_redirect_stderr();
	cr_assert_lt(load(&t, text), 0, "%s", text);
	timelines_free(&t);
	fflush(stderr);
	f = cr_get_redirected_stderr();
	cr_assert_gt(fread(said, 1, sizeof(said) - 1, f), 0);
	cr_assert_not_null(strstr(said, why), "\"%s\" is not in: %s", why, said);
}

Test(timeline, a_whole_run_is_read)
{
	struct timelines t;

	cr_assert_eq(load(&t, RUN
			  "{\"type\":\"event\",\"end\":\"source\",\"t_us\":0,\"event\":\"phase\",\"phase\":\"pre-copy\"}\n"
			  "{\"type\":\"news\",\"of\":\"a later version\"}\n"
			  "{\"type\":\"faults\",\"end\":\"target\",\"buckets_ns\":[[16000,17000,3],[20000,21000,1]]}\n" RESULT),
		     0);
	cr_assert_eq(t.n, 1);
	cr_assert_eq(t.v[0].nbuckets, 2);
	cr_assert_float_eq(t.v[0].bucket[1].from_us, 20, 1e-9);
	cr_assert_float_eq(tl_phase_ms(&t.v[0], VMM_END_SOURCE, FERRY_PHASE_PRECOPY), 0, 1e-9);
	cr_assert_float_eq(tl_phase_ms(&t.v[0], VMM_END_TARGET, FERRY_PHASE_PRECOPY), -1, 1e-9);
	cr_assert_float_eq(tl_number(&t.v[0], "downtime.save_us"), 400, 1e-9);
	cr_assert_float_eq(tl_number(&t.v[0], "no.such"), 0, 1e-9);
	cr_assert_str_eq(tl_text(&t.v[0], "mode"), "auto");
	timelines_free(&t);
}

Test(timeline, runs_of_a_file_are_apart)
{
	struct timelines t;

	cr_assert_eq(load(&t, RUN RESULT RUN RESULT), 0);
	cr_assert_eq(t.n, 2);
	cr_assert_str_neq(t.v[0].name, t.v[1].name);
	timelines_free(&t);
}

Test(timeline, an_empty_file)
{
	refused("", "there is no run in it");
}

Test(timeline, no_json)
{
	refused("guest,bytes\n1,2\n", ":1: ");
}

Test(timeline, another_json)
{
	refused("{\"run\":1,\"command\":\"run\"}\n", "a line without a type");
}

Test(timeline, a_sample_before_any_run)
{
	refused("{\"type\":\"sample\",\"end\":\"source\",\"t_us\":1}\n",
		"does not begin with a line of type run");
}

Test(timeline, a_newer_format)
{
	refused("{\"type\":\"run\",\"format\":2}\n", "a format that this program does not know");
}

Test(timeline, a_run_that_was_cut_off)
{
	refused(RUN, "a run without a result");
}

Test(timeline, half_a_line)
{
	refused(RUN "{\"type\":\"sample\",\"end\":\"sou", ":2: ");
}

Test(timeline, a_third_end)
{
	refused(RUN "{\"type\":\"sample\",\"end\":\"middle\",\"t_us\":1}\n",
		"neither the source's nor the target's");
}

Test(timeline, time_that_goes_back)
{
	refused(RUN
		"{\"type\":\"sample\",\"end\":\"source\",\"t_us\":9}\n{\"type\":\"sample\",\"end\":\"source\",\"t_us\":8}\n",
		"older than the one before it");
}

Test(timeline, a_phase_that_is_none)
{
	refused(RUN
		"{\"type\":\"event\",\"end\":\"source\",\"t_us\":9,\"event\":\"phase\",\"phase\":\"noon\"}\n",
		"an event without a name or a phase");
}

Test(timeline, a_histogram_that_cannot_be)
{
	refused(RUN "{\"type\":\"faults\",\"buckets_ns\":[[5,5,1]]}\n", "an invalid histogram of faults");
}

Test(timeline, a_bucket_without_a_count)
{
	refused(RUN "{\"type\":\"faults\",\"buckets_ns\":[[5]]}\n", "an invalid histogram of faults");
}

Test(timeline, a_result_of_another_kind)
{
	refused(RUN "{\"type\":\"result\",\"result\":[1]}\n", "a result that is not an object");
}

#define SAMPLE(end, us, runs, stamps)                                                                      \
	"{\"type\":\"sample\",\"end\":\"" end "\",\"t_us\":" us ",\"running\":" runs ",\"stamps\":" stamps \
	",\"bytes\":" stamps "}\n"

Test(timeline, progress_is_spread_over_a_visit_but_not_over_a_stop)
{
	struct timelines t;
	const struct tl_end *e;

	cr_assert_eq(load(&t, RUN SAMPLE("source", "0", "true", "100") SAMPLE("source", "1000", "true", "100")
				      SAMPLE("source", "2000", "true", "200") SAMPLE("source", "3000",
										     "false", "200")
					      SAMPLE("source", "9000", "false", "200")
						      SAMPLE("source", "10000", "true", "300") RESULT),
		     0);
	e = &t.v[0].end[VMM_END_SOURCE];
	cr_assert_float_eq(tl_stamps(e, 0, 1), 50, 1e-6);
	cr_assert_float_eq(tl_stamps(e, 2, 9), 0, 1e-6);
	cr_assert_float_eq(tl_stamps(e, 9, 10), 100, 1e-6);
	cr_assert_float_eq(tl_stamps(e, -5, 50), 200, 1e-6);
	cr_assert_float_eq(tl_bytes(e, 0, 1), 0, 1e-6);
	cr_assert_float_eq(tl_bytes(e, 1, 1.5), 50, 1e-6);
	timelines_free(&t);
}

Test(timeline, what_came_with_the_state_is_no_progress)
{
	struct timelines t;
	const struct tl_end *e;

	cr_assert_eq(load(&t,
			  RUN SAMPLE("target", "0", "false", "0") SAMPLE("target", "1000", "false", "5000")
				  SAMPLE("target", "2000", "true", "5100") RESULT),
		     0);
	e = &t.v[0].end[VMM_END_TARGET];
	cr_assert_float_eq(tl_stamps(e, 0, 2), 100, 1e-6);
	cr_assert_float_eq(tl_stamps(e, 0, 1), 0, 1e-6);
	cr_assert_float_eq(tl_stamps(&t.v[0].end[VMM_END_SOURCE], 0, 2), 0, 1e-6);
	timelines_free(&t);
}

Test(timeline, how_long_a_vm_stood_that_went_on_at_the_source)
{
	struct timelines t;

	cr_assert_eq(load(&t, RUN
			  "{\"type\":\"event\",\"end\":\"source\",\"t_us\":2000,\"event\":\"phase\",\"phase\":"
			  "\"stop-and-copy\"}\n" SAMPLE("source", "1000", "true", "1")
				  SAMPLE("source", "3000", "false", "1") SAMPLE("source", "7000", "true", "2")
					  RESULT),
		     0);
	cr_assert_float_eq(tl_standstill_ms(&t.v[0]), 5, 1e-6);
	timelines_free(&t);
}

/* Absurd numbers: a picture steps through times, from one value to the next that a double has. */
static void sample_is_refused(const char *field, const char *value, const char *why)
{
	char text[300];

	snprintf(text, sizeof(text), RUN "{\"type\":\"sample\",\"end\":\"source\",%s\"%s\":%s}\n",
		 strcmp(field, "t_us") ? "\"t_us\":1," : "", field, value);
	refused(text, why);
}

Test(timeline, a_time_beyond_all_recordings)
{
	sample_is_refused("t_us", "1e16", "t_us is not a number from");
}

Test(timeline, a_time_long_before)
{
	sample_is_refused("t_us", "-1e300", "t_us is not a number from");
}

Test(timeline, a_counter_below_0)
{
	sample_is_refused("stamps", "-1", "stamps is not a number from 0");
}

Test(timeline, a_counter_beyond_all_counters)
{
	sample_is_refused("bytes", "1e300", "bytes is not a number from 0");
}

Test(timeline, a_counter_that_is_a_word)
{
	sample_is_refused("remaining", "\"many\"", "remaining is not a number from 0");
}

Test(timeline, a_phase_at_an_absurd_time)
{
	refused(RUN
		"{\"type\":\"event\",\"end\":\"source\",\"t_us\":4e18,\"event\":\"phase\",\"phase\":\"pre-copy\"}\n",
		"t_us is not a number from");
}

Test(timeline, buckets_out_of_order)
{
	refused(RUN "{\"type\":\"faults\",\"buckets_ns\":[[5,6,1],[3,4,1]]}\n",
		"an invalid histogram of faults");
}

Test(timeline, a_bucket_below_0)
{
	refused(RUN "{\"type\":\"faults\",\"buckets_ns\":[[-5,6,1]]}\n", "an invalid histogram of faults");
}

Test(timeline, a_result_with_an_absurd_number)
{
	refused(RUN "{\"type\":\"result\",\"result\":{\"downtime\":{\"save_us\":1e200}}}\n",
		"a result with an invalid number");
}

Test(timeline, a_line_that_nests_without_end)
{
	char text[2000] = RUN;

	memset(text + strlen(RUN), '[', 1500);
	refused(text, ":2: nested 1500 deep");
}

Test(timeline, a_line_of_megabytes)
{
	size_t len = strlen(RUN), all = len + (3u << 20);
	char *text = malloc(all + 1);

	cr_assert_not_null(text);
	memcpy(text, RUN, len);
	memset(text + len, ' ', all - len);
	text[all] = 0;
	refused(text, ":2: a line of more than");
	free(text);
}

Test(timeline, more_samples_than_a_recording_has)
{
	static const char sample[] = "{\"type\":\"sample\",\"end\":\"source\",\"t_us\":1}\n";
	size_t one = strlen(sample), at = strlen(RUN), n = (1u << 18) + 1;
	char *text = malloc(at + n * one + 1);

	cr_assert_not_null(text);
	strcpy(text, RUN);
	for (size_t i = 0; i < n; i++, at += one)
		memcpy(text + at, sample, one + 1);
	refused(text, "more samples than a recording has");
	free(text);
}

Test(timeline, more_runs_than_are_drawn)
{
	size_t at = 0, n = 4097;
	char *text = malloc(n * strlen(RUN RESULT) + 1);

	cr_assert_not_null(text);
	for (size_t i = 0; i < n; i++, at += strlen(RUN RESULT))
		strcpy(text + at, RUN RESULT);
	refused(text, "more runs than can be drawn together");
	free(text);
}

/* The first bucket of the histogram begins at 0: one bar, however far a step from there would not get. */
Test(timeline, a_picture_of_a_fault_of_no_time_ends)
{
	struct timelines t;
	char *script = NULL;
	size_t len;
	FILE *out;

	cr_assert_eq(load(&t, RUN
			  "{\"type\":\"faults\",\"end\":\"target\",\"buckets_ns\":[[0,1,3],[1,2,1],[40,42,2]]}\n" RESULT),
		     0);
	out = open_memstream(&script, &len);
	picture_run(out, &t.v[0]);
	fclose(out);
	cr_assert_not_null(strstr(script,
				  "$faults << EOD\n0.0005 0.0010 3\n0.0010 0.0020 1\n0.0400 0.0420 2\nEOD"),
			   "%s", strstr(script, "$faults"));
	cr_assert_not_null(strstr(script, "set xrange [0.0003:0.0588]"), "%s",
			   strstr(script, "set logscale"));
	free(script);
	timelines_free(&t);
}

/* Times as far apart as they may be: as many steps as always. */
Test(timeline, a_picture_of_the_longest_recording_ends)
{
	struct timelines t;
	char *script = NULL;
	size_t len;
	FILE *out;

	cr_assert_eq(load(&t, RUN
			  "{\"type\":\"event\",\"end\":\"source\",\"t_us\":-1.03e13,\"event\":\"phase\",\"phase\":\"pre-copy\"}\n"
			  "{\"type\":\"event\",\"end\":\"source\",\"t_us\":1.03e13,\"event\":\"phase\",\"phase\":\"done\"}\n" SAMPLE(
				  "source", "-1.03e13", "true", "1")
				  SAMPLE("source", "1.03e13", "true", "18446744073709551615e0") RESULT),
		     0);
	out = open_memstream(&script, &len);
	picture_run(out, &t.v[0]);
	fclose(out);
	cr_assert_lt(len, 200000);
	free(script);
	timelines_free(&t);
}
