/* SPDX-License-Identifier: MIT */
/*
 * Writes a recording as JSON lines: the run, events and samples in order of time, the faults, the cost of
 * sampling, the result. Times count from the start of the source's ferry_run(), or of the target's if there
 * is no source.
 */
#include "record.h"
#include "report.h"

static uint64_t origin_ns(const struct record *rec)
{
	uint64_t first = 0;

	for (size_t i = 0; i < rec->nevents; i++) {
		const struct record_event *e = &rec->event[i];

		if (e->event.type != FERRY_EVENT_PHASE)
			continue;
		if (e->end == VMM_END_SOURCE)
			return e->time_ns;
		if (!first)
			first = e->time_ns;
	}
	if (!first && atomic_load(&rec->area[VMM_END_SOURCE]->n))
		first = rec->area[VMM_END_SOURCE]->sample[0].time_ns;
	return first;
}

static void line_begin(FILE *out, const char *type, int end, uint64_t time_ns, uint64_t origin)
{
	fprintf(out, "{\"type\":\"%s\",\"end\":\"%s\",\"t_us\":%.1f,", type,
		end == VMM_END_SOURCE ? "source" : "target", (double)(int64_t)(time_ns - origin) / 1000);
}

static void write_event(FILE *out, const struct record_event *e, uint64_t origin)
{
	static const char *const names[] = { "phase", "round", "policy", "link" };
	const struct ferry_round *d = &e->event.round;

	line_begin(out, "event", (int)e->end, e->time_ns, origin);
	if (e->event.text)
		json_text(out, "text", e->event.text);
	if (e->event.type == FERRY_EVENT_ROUND)
		fprintf(out,
			"\"round\":%u,\"pages_sent\":%llu,\"bytes\":%llu,\"duration_us\":%llu,"
			"\"pages_dirty\":%llu,",
			d->round, (unsigned long long)d->pages_sent, (unsigned long long)d->bytes,
			(unsigned long long)d->duration_us, (unsigned long long)d->pages_dirty);
	fprintf(out, "\"event\":\"%s\",\"phase\":\"%s\"}\n", names[e->event.type & 3],
		ferry_phase_name(e->event.phase));
}

static void write_sample(FILE *out, int end, const struct record_sample *s, uint64_t origin)
{
	line_begin(out, "sample", end, s->time_ns, origin);
	fprintf(out,
		"\"phase\":\"%s\",\"running\":%s,\"stamps\":%llu,\"bytes\":%llu,\"remaining\":%llu,"
		"\"dirty_rate\":%llu,\"round\":%u,\"faults\":%llu,\"faults_local\":%llu}\n",
		ferry_phase_name((enum ferry_phase)s->phase), s->running ? "true" : "false",
		(unsigned long long)s->stamps, (unsigned long long)s->bytes, (unsigned long long)s->remaining,
		(unsigned long long)s->dirty_rate, s->round, (unsigned long long)s->faults,
		(unsigned long long)s->faults_local);
}

/* An event that is not later than a sample comes first. The end may have died during a write. */
static void write_end(FILE *out, const struct record *rec, int end, uint64_t origin)
{
	const struct record_area *a = rec->area[end];
	uint64_t n = atomic_load(&a->n), last = 0;
	size_t e = 0;

	for (uint64_t i = 0; i <= n && i <= RECORD_SAMPLES; i++) {
		const struct record_sample *s = i < n && i < RECORD_SAMPLES ? &a->sample[i] : NULL;

		for (; e < rec->nevents && (!s || rec->event[e].time_ns <= s->time_ns); e++) {
			if ((int)rec->event[e].end == end)
				write_event(out, &rec->event[e], origin);
		}
		if (!s || s->time_ns <= last)
			continue;
		last = s->time_ns;
		write_sample(out, end, s, origin);
	}
}

static void write_faults(FILE *out, int end, const struct record_area *a)
{
	uint64_t n = atomic_load(&a->nbuckets);

	if (!n)
		return;
	fprintf(out, "{\"type\":\"faults\",\"end\":\"%s\",\"buckets_ns\":[",
		end == VMM_END_SOURCE ? "source" : "target");
	for (uint64_t i = 0; i < n && i < FERRY_FAULT_BUCKETS; i++)
		fprintf(out, "%s[%llu,%llu,%llu]", i ? "," : "", (unsigned long long)a->bucket[i].from_ns,
			(unsigned long long)a->bucket[i].below_ns, (unsigned long long)a->bucket[i].count);
	fprintf(out, "]}\n");
}

static void write_cost(FILE *out, int end, const struct record_area *a)
{
	uint64_t taken = atomic_load(&a->taken), cpu = atomic_load(&a->cpu_ns);

	if (!taken)
		return;
	fprintf(out,
		"{\"type\":\"sampler\",\"end\":\"%s\",\"samples\":%llu,\"period_us\":%llu,\"cpu_us\":%llu}\n",
		end == VMM_END_SOURCE ? "source" : "target", (unsigned long long)taken,
		(unsigned long long)atomic_load(&a->period_ns) / 1000, (unsigned long long)cpu / 1000);
}

void record_write(FILE *out, const struct record *rec, const struct run_report *r)
{
	uint64_t origin = origin_ns(rec);

	fprintf(out, "{\"type\":\"run\",\"format\":1,\"version\":\"%s\",\"clock_ns\":%llu}\n",
		ferry_version(), (unsigned long long)origin);
	if (r->whole && r->clock_error_ns)
		fprintf(out, "{\"type\":\"clock\",\"offset_us\":%.1f,\"error_us\":%.1f}\n",
			(double)r->clock_offset_ns / 1000, (double)r->clock_error_ns / 1000);
	for (int end = 0; end < 2; end++)
		write_end(out, rec, end, origin);
	for (int end = 0; end < 2; end++) {
		write_faults(out, end, rec->area[end]);
		write_cost(out, end, rec->area[end]);
	}
	fprintf(out, "{\"type\":\"result\",\"result\":");
	report_json_object(out, r);
	fprintf(out, "}\n");
}
