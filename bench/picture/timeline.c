/* SPDX-License-Identifier: MIT */
/*
 * Reads recordings. jansson parses: it validates its input and is in every distribution. Lines of an unknown
 * type are ignored, so that the format can grow; everything else must be as documented.
 *
 * A file is not trusted. A line is bounded before it is parsed, a run has no more samples than a recording
 * can have, and each number is checked for its range before it is used: pictures step through times, and if a
 * step is lost in the rounding of a large number, the loop never ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timeline.h"
#include "bench/cli/record.h"
#include "runtime/arbiter/json_bound.h"

#define FORMAT 1
#define RUNS_MAX 4096u
#define TIME_MAX_US (4e-3 * RECORD_SPAN_NS) /* from the beginning; longer than any recording */
#define COUNT_MAX 0x1p64

const char *const tl_item_names[TL_ITEMS] = { "pause", "fetch", "residue", "save",
					      "send",  "arm",	"load",	   "resume" };

struct reader {
	struct timelines *all;
	struct timeline *t; /* the current run; NULL before the first */
	const char *file;
	size_t line;
	unsigned runs;
};

static int bad(const struct reader *rd, const char *what)
{
	fprintf(stderr, "rdma-migrate: %s:%zu: %s; it takes what --record wrote (docs/recording.md).\n",
		rd->file, rd->line, what);
	return -EINVAL;
}

static double number(const json_t *o, const char *name)
{
	return json_number_value(json_object_get(o, name));
}

/* Reads a number; a missing field is 0. */
static int range(const struct reader *rd, const json_t *o, const char *name, double min, double max,
		 double *ret)
{
	const json_t *v = json_object_get(o, name);
	char what[160];

	*ret = json_number_value(v);
	if (!v || (json_is_number(v) && *ret >= min && *ret <= max))
		return 0;
	snprintf(what, sizeof(what), "%s is not a number from %.0f to %.0f", name, min, max);
	return bad(rd, what);
}

static int time_of(const struct reader *rd, const json_t *o, double *ms)
{
	double us;
	int err = range(rd, o, "t_us", -TIME_MAX_US, TIME_MAX_US, &us);

	*ms = us / 1000;
	return err;
}

static int counter(const struct reader *rd, const json_t *o, const char *name, double *ret)
{
	return range(rd, o, name, 0, COUNT_MAX, ret);
}

static int end_of(const json_t *o)
{
	const char *end = json_string_value(json_object_get(o, "end"));

	if (!end)
		return -1;
	return !strcmp(end, "source") ? VMM_END_SOURCE : !strcmp(end, "target") ? VMM_END_TARGET : -1;
}

static int phase_of(const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "phase"));

	for (enum ferry_phase p = FERRY_PHASE_IDLE; name && p <= FERRY_PHASE_FAILED; p++) {
		if (!strcmp(name, ferry_phase_name(p)))
			return (int)p;
	}
	return -1;
}

static int take_run(struct reader *rd, const json_t *o)
{
	struct timeline *v;

	if (number(o, "format") != FORMAT)
		return bad(rd, "a recording of a format that this program does not know");
	if (rd->all->n == RUNS_MAX)
		return bad(rd, "more runs than can be drawn together; give fewer");
	if (rd->all->n == rd->all->cap) {
		size_t cap = rd->all->cap ? rd->all->cap * 2 : 4;

		v = reallocarray(rd->all->v, cap, sizeof(*v));
		if (!v)
			return -ENOMEM;
		rd->all->v = v;
		rd->all->cap = cap;
	}
	rd->t = &rd->all->v[rd->all->n++];
	memset(rd->t, 0, sizeof(*rd->t));
	rd->runs++;
	snprintf(rd->t->name, sizeof(rd->t->name), rd->runs > 1 ? "%.200s:%u" : "%.200s", rd->file, rd->runs);
	return 0;
}

static int take_sample(struct reader *rd, const json_t *o, struct tl_end *e)
{
	struct tl_sample s = { .running = json_is_true(json_object_get(o, "running")) };

	if (!json_is_number(json_object_get(o, "t_us")))
		return bad(rd, "a sample without a time");
	if (time_of(rd, o, &s.ms) || counter(rd, o, "stamps", &s.stamps) ||
	    counter(rd, o, "bytes", &s.bytes) || counter(rd, o, "remaining", &s.remaining) ||
	    counter(rd, o, "faults", &s.faults))
		return -EINVAL;
	if (e->n == RECORD_SAMPLES)
		return bad(rd, "more samples than a recording has");
	if (e->n && s.ms < e->sample[e->n - 1].ms)
		return bad(rd, "a sample that is older than the one before it");
	if (e->n == e->cap) {
		size_t cap = e->cap ? e->cap * 2 : 1024;
		struct tl_sample *v = reallocarray(e->sample, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		e->sample = v;
		e->cap = cap;
	}
	e->sample[e->n++] = s;
	return 0;
}

static int take_event(struct reader *rd, const json_t *o, struct tl_end *e)
{
	const char *what = json_string_value(json_object_get(o, "event"));
	struct tl_phase phase;
	int which = phase_of(o);

	if (!what || which < 0)
		return bad(rd, "an event without a name or a phase");
	phase.phase = (enum ferry_phase)which;
	if (time_of(rd, o, &phase.ms))
		return -EINVAL;
	if (strcmp(what, "phase") || e->nphases == sizeof(e->phase) / sizeof(*e->phase))
		return 0;
	e->phase[e->nphases++] = phase;
	return 0;
}

static int take_faults(struct reader *rd, const json_t *o)
{
	const json_t *list = json_object_get(o, "buckets_ns"), *b;
	struct timeline *t = rd->t;
	double before = 0;
	size_t i;

	t->nbuckets = 0;
	json_array_foreach(list, i, b)
	{
		struct tl_bucket v = { .from_us = json_number_value(json_array_get(b, 0)) / 1000,
				       .below_us = json_number_value(json_array_get(b, 1)) / 1000,
				       .count = json_number_value(json_array_get(b, 2)) };

		if (v.from_us < before || v.from_us >= v.below_us || v.below_us > TIME_MAX_US ||
		    v.count < 1 || v.count > COUNT_MAX || t->nbuckets == FERRY_FAULT_BUCKETS)
			return bad(rd, "an invalid histogram of faults");
		before = v.below_us;
		t->bucket[t->nbuckets++] = v;
	}
	return 0;
}

/* Checks every number in the value, at any depth; the parser bounds the nesting. */
static bool numbers_can_be(json_t *v)
{
	const char *name;
	json_t *child;
	size_t i;

	json_array_foreach(v, i, child) if (!numbers_can_be(child)) return false;
	json_object_foreach(v, name, child) if (!numbers_can_be(child)) return false;
	return !json_is_number(v) ||
	       (json_number_value(v) >= -COUNT_MAX && json_number_value(v) <= COUNT_MAX);
}

static int take_result(struct reader *rd, const json_t *o)
{
	json_t *result = json_object_get(o, "result");

	if (!json_is_object(result))
		return bad(rd, "a result that is not an object");
	if (!numbers_can_be(result))
		return bad(rd, "a result with an invalid number");
	json_decref(rd->t->result);
	rd->t->result = json_incref(result);
	return 0;
}

static int take_line(struct reader *rd, const json_t *o)
{
	const char *type = json_string_value(json_object_get(o, "type"));
	struct tl_end *e;

	if (!type)
		return bad(rd, "a line without a type");
	if (!strcmp(type, "run"))
		return take_run(rd, o);
	if (!rd->t)
		return bad(rd, "this is not a recording: it does not begin with a line of type run");
	if (!strcmp(type, "faults"))
		return take_faults(rd, o);
	if (!strcmp(type, "result"))
		return take_result(rd, o);
	if (strcmp(type, "sample") && strcmp(type, "event") && strcmp(type, "sampler"))
		return 0;
	if (end_of(o) < 0)
		return bad(rd, "neither the source's nor the target's");
	e = &rd->t->end[end_of(o)];
	if (!strcmp(type, "sample"))
		return take_sample(rd, o, e);
	if (!strcmp(type, "event"))
		return take_event(rd, o, e);
	return counter(rd, o, "samples", &e->samples_taken) || counter(rd, o, "period_us", &e->period_us) ||
			       counter(rd, o, "cpu_us", &e->cpu_us)
		       ? -EINVAL
		       : 0;
}

/*
 * The guest's counter changes at the end of a visit, which takes long if the guest waits for a page. So the
 * change is spread over the visit, but never over a time in which the guest was stopped. The curve begins
 * when the guest came to this end.
 */
static int find_progress(struct tl_end *e)
{
	const struct tl_sample *s = e->sample;
	size_t n = 0;

	e->progress = calloc(2 * e->n + 1, sizeof(*e->progress));
	if (!e->progress)
		return -ENOMEM;
	for (size_t i = 0; i < e->n; i++) {
		bool moved = i && s[i].stamps != s[i - 1].stamps;

		if (s[i].stamps <= 0)
			continue;
		if (moved && !s[i - 1].running && s[i - 1].stamps > 0)
			e->progress[n++] = (struct tl_point){ s[i - 1].ms, s[i - 1].stamps };
		if (!n || moved || i + 1 == e->n || s[i].running != s[i - 1].running)
			e->progress[n++] = (struct tl_point){ s[i].ms, s[i].stamps };
	}
	e->nprogress = n;
	return 0;
}

/* 1: a line of at most max bytes, with its newline if it has one; 0: end of the file. */
static int next_line(FILE *in, char **line, size_t *cap, size_t max, size_t *len)
{
	int c = 0;

	for (*len = 0; c != '\n' && (c = getc_unlocked(in)) != EOF;) {
		if (*len == *cap) {
			size_t more = *cap ? *cap * 2 : 4096;
			char *p = *len >= max ? NULL : realloc(*line, more);

			if (!p)
				return *len >= max ? -E2BIG : -ENOMEM;
			*line = p;
			*cap = more;
		}
		(*line)[(*len)++] = (char)c;
	}
	return *len > 0;
}

static int read_lines(struct reader *rd, FILE *in)
{
	/* The longest line is a result with all kept rounds. */
	static const struct json_bound a_line = { .bytes = 1u << 20, .memory = 16u << 20 };
	size_t cap = 0, len;
	char *line = NULL;
	int err = 0, got;

	while (!err && (got = next_line(in, &line, &cap, a_line.bytes, &len))) {
		char why[200] = "this is no object";
		json_t *o = NULL;

		rd->line++;
		if (got == -E2BIG)
			snprintf(why, sizeof(why), "a line of more than the %zu bytes that are read",
				 a_line.bytes);
		else if (got > 0)
			o = json_load_bounded(line, len, &a_line, why, sizeof(why));
		err = got == -ENOMEM ? got : json_is_object(o) ? take_line(rd, o) : bad(rd, why);
		json_decref(o);
	}
	if (!err && ferror(in))
		err = -EIO;
	free(line);
	return err;
}

int timelines_load(struct timelines *t, const char *file)
{
	struct reader rd = { .all = t, .file = file };
	FILE *in = fopen(file, "re");
	size_t before = t->n;
	int err = in ? read_lines(&rd, in) : -errno;

	if (!in || err == -ENOMEM || err == -EIO)
		fprintf(stderr, "rdma-migrate: %s: %s.\n", file, strerror(-err));
	if (in)
		fclose(in);
	if (!err && !rd.runs)
		err = bad(&rd, "there is no run in it");
	for (size_t i = before; !err && i < t->n; i++) {
		if (!t->v[i].result)
			err = bad(&rd, "a run without a result: it was cut off");
		for (int end = 0; end < 2 && !err; end++)
			err = find_progress(&t->v[i].end[end]);
	}
	return err;
}

void timelines_free(struct timelines *t)
{
	for (size_t i = 0; i < t->n; i++) {
		for (int end = 0; end < 2; end++) {
			free(t->v[i].end[end].sample);
			free(t->v[i].end[end].progress);
		}
		json_decref(t->v[i].result);
	}
	free(t->v);
	*t = (struct timelines){ 0 };
}

/* --- queries --- */

double tl_number(const struct timeline *t, const char *path)
{
	const json_t *o = t->result;
	char name[64];

	while (strchr(path, '.')) {
		size_t len = strcspn(path, ".");

		snprintf(name, sizeof(name), "%.*s", (int)len, path);
		o = json_object_get(o, name);
		path += len + 1;
	}
	return number(o, path);
}

const char *tl_text(const struct timeline *t, const char *name)
{
	const char *text = json_string_value(json_object_get(t->result, name));

	return text ? text : "";
}

double tl_item_us(const struct timeline *t, unsigned item)
{
	char path[64];

	snprintf(path, sizeof(path), "downtime.%s_us", tl_item_names[item]);
	return tl_number(t, path);
}

double tl_phase_ms(const struct timeline *t, enum vmm_end end, enum ferry_phase phase)
{
	const struct tl_end *e = &t->end[end];

	for (unsigned i = 0; i < e->nphases; i++) {
		if (e->phase[i].phase == phase)
			return e->phase[i].ms;
	}
	return -1;
}

enum vmm_end tl_main_end(const struct timeline *t)
{
	return t->end[VMM_END_SOURCE].nphases ? VMM_END_SOURCE : VMM_END_TARGET;
}

double tl_standstill_ms(const struct timeline *t)
{
	const struct tl_end *e = &t->end[VMM_END_SOURCE];
	double stop = tl_phase_ms(t, VMM_END_SOURCE, FERRY_PHASE_STOP_AND_COPY);
	bool stood = false;

	for (size_t i = 0; i < e->n && stop >= 0; i++) {
		if (e->sample[i].ms < stop)
			continue;
		if (stood && e->sample[i].running)
			return e->sample[i].ms - stop;
		stood = stood || !e->sample[i].running;
	}
	return 0;
}

void tl_span(const struct timeline *t, double *from, double *to)
{
	const struct tl_end *e = &t->end[tl_main_end(t)];
	double first = 0, last = 1, over, seen = -1;

	if (e->nphases) {
		first = e->phase[0].ms;
		last = e->phase[e->nphases - 1].ms;
	}
	over = (last - first) / 12 + 2;
	*from = first - over;
	*to = last + over;
	for (int end = 0; end < 2; end++) {
		if (t->end[end].n && t->end[end].sample[t->end[end].n - 1].ms > seen)
			seen = t->end[end].sample[t->end[end].n - 1].ms;
	}
	if (seen > last && seen < *to)
		*to = seen;
}

/* The index of the last of n times, stride bytes apart, that is not later than ms; 0 if all are later. */
static size_t last_at(const void *first, size_t n, size_t stride, double ms)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (*(const double *)((const char *)first + mid * stride) > ms)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo ? lo - 1 : 0;
}

static double between(double ms, double at, double a, double next, double b)
{
	if (ms <= at || next <= at)
		return a;
	return ms >= next ? b : a + (b - a) * (ms - at) / (next - at);
}

static double stamps_at(const struct tl_end *e, double ms)
{
	size_t i = last_at(e->progress, e->nprogress, sizeof(*e->progress), ms);
	const struct tl_point *a = &e->progress[i], *b = i + 1 < e->nprogress ? a + 1 : a;

	return between(ms, a->ms, a->stamps, b->ms, b->stamps);
}

double tl_stamps(const struct tl_end *e, double from, double to)
{
	return e->nprogress ? stamps_at(e, to) - stamps_at(e, from) : 0;
}

static double bytes_at(const struct tl_end *e, double ms)
{
	size_t i = last_at(e->sample, e->n, sizeof(*e->sample), ms);
	const struct tl_sample *a = &e->sample[i], *b = i + 1 < e->n ? a + 1 : a;

	return between(ms, a->ms, a->bytes, b->ms, b->bytes);
}

double tl_bytes(const struct tl_end *e, double from, double to)
{
	return e->n ? bytes_at(e, to) - bytes_at(e, from) : 0;
}
