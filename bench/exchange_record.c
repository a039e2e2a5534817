/* SPDX-License-Identifier: MIT */
/* The other end's recording, moved onto this host's clock. */
#include <errno.h>
#include <stdlib.h>

#include "exchange.h"

#define SAMPLE_FIELDS 10u

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

static uint64_t at(const json_t *list, size_t i)
{
	return (uint64_t)json_integer_value(json_array_get(list, i));
}

static int take_samples(struct record_area *a, const json_t *list, int64_t offset_ns)
{
	uint64_t n = 0, last = 0;

	for (size_t i = 0; i < json_array_size(list) && n < RECORD_SAMPLES; i++) {
		const json_t *v = json_array_get(list, i);

		if (json_array_size(v) < SAMPLE_FIELDS || at(v, 8) > FERRY_FAILED || at(v, 0) <= last)
			return -EPROTO;
		last = at(v, 0);
		a->sample[n++] = (struct record_sample){
			.time_ns = last + (uint64_t)offset_ns,
			.stamps = at(v, 1),
			.bytes = at(v, 2),
			.remaining = at(v, 3),
			.dirty_rate = at(v, 4),
			.faults = at(v, 5),
			.faults_local = at(v, 6),
			.round = (uint32_t)at(v, 7),
			.phase = (uint16_t)at(v, 8),
			.running = at(v, 9) != 0,
		};
	}
	atomic_store(&a->n, n);
	return 0;
}

static int take_events(struct record *rec, enum vmm_end other, const json_t *list, int64_t offset_ns)
{
	for (size_t i = 0; i < json_array_size(list) && i < 65536; i++) {
		const json_t *v = json_array_get(list, i);
		struct ferry_event ev = { .size = sizeof(ev) };

		if (at(v, 1) > FERRY_EVENT_LINK || at(v, 2) > FERRY_FAILED)
			return -EPROTO;
		ev.type = (enum ferry_event_type)at(v, 1);
		ev.phase = (enum ferry_phase)at(v, 2);
		ev.round = (struct ferry_round){ .round = (uint32_t)at(v, 4),
						 .pages_sent = at(v, 5),
						 .bytes = at(v, 6),
						 .duration_us = at(v, 7),
						 .pages_dirty = at(v, 8) };
		record_event(rec, other, &ev, json_string_value(json_array_get(v, 3)),
			     at(v, 0) + (uint64_t)offset_ns);
	}
	return 0;
}

int peer_record_take(struct record *rec, enum vmm_end other, const json_t *o, int64_t offset_ns)
{
	struct record_area *a = rec->area[other];
	const json_t *buckets = json_object_get(o, "buckets");
	int err = take_samples(a, json_object_get(o, "samples"), offset_ns);
	uint64_t n = 0;

	if (!err)
		err = take_events(rec, other, json_object_get(o, "events"), offset_ns);
	for (size_t i = 0; i < json_array_size(buckets) && n < FERRY_FAULT_BUCKETS && !err; i++) {
		const json_t *b = json_array_get(buckets, i);

		a->bucket[n++] = (struct ferry_fault_bucket){ at(b, 0), at(b, 1), at(b, 2) };
	}
	atomic_store(&a->nbuckets, n);
	atomic_store(&a->taken, (uint64_t)json_integer_value(json_object_get(o, "taken")));
	atomic_store(&a->cpu_ns, (uint64_t)json_integer_value(json_object_get(o, "cpu_ns")));
	atomic_store(&a->period_ns, (uint64_t)json_integer_value(json_object_get(o, "period_ns")));
	return err;
}
