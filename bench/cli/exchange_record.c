/* SPDX-License-Identifier: MIT */
/* The peer's recording, converted to this host's clock. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "exchange.h"

#define SAMPLE_FIELDS 10u
#define BUCKET_FIELDS 3u
#define EVENTS_MAX 65536u
#define TEXT_MAX 1024u /* of an event's text */

static json_t *make_sample(const struct record_sample *s)
{
	return json_pack("[IIIIIIIiii]", (json_int_t)s->time_ns, (json_int_t)s->stamps, (json_int_t)s->bytes,
			 (json_int_t)s->remaining, (json_int_t)s->dirty_rate, (json_int_t)s->faults,
			 (json_int_t)s->faults_local, (int)s->round, (int)s->phase, (int)s->running);
}

static json_t *make_event(const struct record_event *e)
{
	const struct ferry_round *d = &e->event.round;

	return json_pack("[IiisiIIII]", (json_int_t)e->time_ns, (int)e->event.type, (int)e->event.phase,
			 e->event.text ? e->event.text : "", (int)d->round, (json_int_t)d->pages_sent,
			 (json_int_t)d->bytes, (json_int_t)d->duration_us, (json_int_t)d->pages_dirty);
}

json_t *peer_record_make(const struct record *rec, enum vmm_end own)
{
	const struct record_area *a = rec->area[own];
	uint64_t n = atomic_load(&a->n), nbuckets = atomic_load(&a->nbuckets), last = 0;
	json_t *samples = json_array(), *events = json_array(), *buckets = json_array();

	for (uint64_t i = 0; i < n && i < RECORD_SAMPLES; i++) {
		if (a->sample[i].time_ns <= last)
			continue;
		last = a->sample[i].time_ns;
		json_array_append_new(samples, make_sample(&a->sample[i]));
	}
	for (size_t i = 0; i < rec->nevents; i++) {
		if (rec->event[i].end == own)
			json_array_append_new(events, make_event(&rec->event[i]));
	}
	for (uint64_t i = 0; i < nbuckets && i < FERRY_FAULT_BUCKETS; i++)
		json_array_append_new(buckets, json_pack("[III]", (json_int_t)a->bucket[i].from_ns,
							 (json_int_t)a->bucket[i].below_ns,
							 (json_int_t)a->bucket[i].count));
	return json_pack("{s:o,s:o,s:o,s:I,s:I,s:I}", "samples", samples, "events", events, "buckets",
			 buckets, "taken", (json_int_t)atomic_load(&a->taken), "cpu_ns",
			 (json_int_t)atomic_load(&a->cpu_ns), "period_ns",
			 (json_int_t)atomic_load(&a->period_ns));
}

/* State of the reader. */
struct taking {
	struct record *rec;
	enum vmm_end other;
	int64_t offset_ns;
	uint64_t near; /* all times are within RECORD_SPAN_NS of it; 0 before the first */
	int err;
};

static uint64_t number(struct taking *t, const json_t *v, uint64_t max)
{
	json_int_t n = json_integer_value(v);

	if (v && (!json_is_integer(v) || n < 0 || (uint64_t)n > max))
		t->err = -EPROTO;
	return t->err ? 0 : (uint64_t)n;
}

static uint64_t at(struct taking *t, const json_t *list, size_t i)
{
	return number(t, json_array_get(list, i), PEER_NUMBER_MAX);
}

/* Reads a time, on this host's clock and close to the others: one outlier would ruin the picture's axis. */
static uint64_t time_at(struct taking *t, const json_t *list, size_t i)
{
	int64_t here = (int64_t)at(t, list, i) + t->offset_ns;

	if (here <= 0 || (t->near && llabs(here - (int64_t)t->near) > RECORD_SPAN_NS))
		t->err = -EPROTO;
	if (!t->near && !t->err)
		t->near = (uint64_t)here;
	return t->err ? 0 : (uint64_t)here;
}

static int take_samples(struct taking *t, struct record_area *a, const json_t *list)
{
	uint64_t n = 0, last = 0;

	for (size_t i = 0; i < json_array_size(list) && n < RECORD_SAMPLES; i++) {
		const json_t *v = json_array_get(list, i);
		struct record_sample s = {
			.time_ns = time_at(t, v, 0),
			.stamps = at(t, v, 1),
			.bytes = at(t, v, 2),
			.remaining = at(t, v, 3),
			.dirty_rate = at(t, v, 4),
			.faults = at(t, v, 5),
			.faults_local = at(t, v, 6),
			.round = (uint32_t)number(t, json_array_get(v, 7), UINT32_MAX),
			.phase = (uint16_t)number(t, json_array_get(v, 8), FERRY_PHASE_FAILED),
			.running = at(t, v, 9) != 0,
		};

		if (t->err || json_array_size(v) < SAMPLE_FIELDS || s.time_ns <= last)
			return -EPROTO;
		last = s.time_ns;
		a->sample[n++] = s;
	}
	atomic_store(&a->n, n);
	return 0;
}

static int take_events(struct taking *t, const json_t *list)
{
	for (size_t i = 0; i < json_array_size(list) && i < EVENTS_MAX; i++) {
		const json_t *v = json_array_get(list, i);
		const char *text = json_string_value(json_array_get(v, 3));
		struct ferry_event ev = { .size = sizeof(ev) };
		uint64_t time = time_at(t, v, 0);

		ev.type = (enum ferry_event_type)number(t, json_array_get(v, 1), FERRY_EVENT_LINK);
		ev.phase = (enum ferry_phase)number(t, json_array_get(v, 2), FERRY_PHASE_FAILED);
		ev.round =
			(struct ferry_round){ .round = (uint32_t)number(t, json_array_get(v, 4), UINT32_MAX),
					      .pages_sent = at(t, v, 5),
					      .bytes = at(t, v, 6),
					      .duration_us = at(t, v, 7),
					      .pages_dirty = at(t, v, 8) };
		if (t->err || (text && strlen(text) > TEXT_MAX))
			return -EPROTO;
		record_event(t->rec, t->other, &ev, text, time);
	}
	return 0;
}

static int take_buckets(struct taking *t, struct record_area *a, const json_t *list)
{
	uint64_t n = 0, below = 0;

	for (size_t i = 0; i < json_array_size(list) && n < FERRY_FAULT_BUCKETS; i++) {
		const json_t *v = json_array_get(list, i);
		struct ferry_fault_bucket b = { at(t, v, 0), at(t, v, 1), at(t, v, 2) };

		if (t->err || json_array_size(v) != BUCKET_FIELDS || b.from_ns < below ||
		    b.below_ns <= b.from_ns || !b.count)
			return -EPROTO;
		below = b.below_ns;
		a->bucket[n++] = b;
	}
	atomic_store(&a->nbuckets, n);
	return 0;
}

/* The time of this host's first record; 0: it has none. */
static uint64_t first_here(const struct record *rec, enum vmm_end own)
{
	if (atomic_load(&rec->area[own]->n))
		return rec->area[own]->sample[0].time_ns;
	for (size_t i = 0; i < rec->nevents; i++) {
		if (rec->event[i].end == own)
			return rec->event[i].time_ns;
	}
	return 0;
}

int peer_record_take(struct record *rec, enum vmm_end other, const json_t *o, int64_t offset_ns)
{
	struct record_area *a = rec->area[other];
	struct taking t = { .rec = rec,
			    .other = other,
			    .offset_ns = offset_ns,
			    .near = first_here(rec, (enum vmm_end) !other) };
	int err = take_samples(&t, a, json_object_get(o, "samples"));
	uint64_t taken, cpu_ns, period_ns;

	if (!err)
		err = take_events(&t, json_object_get(o, "events"));
	if (!err)
		err = take_buckets(&t, a, json_object_get(o, "buckets"));
	taken = number(&t, json_object_get(o, "taken"), PEER_NUMBER_MAX);
	cpu_ns = number(&t, json_object_get(o, "cpu_ns"), PEER_NUMBER_MAX);
	period_ns = number(&t, json_object_get(o, "period_ns"), PEER_NUMBER_MAX);
	if (err || t.err)
		return -EPROTO;
	atomic_store(&a->taken, taken);
	atomic_store(&a->cpu_ns, cpu_ns);
	atomic_store(&a->period_ns, period_ns);
	return 0;
}
