/* SPDX-License-Identifier: MIT */
/* Taking a recording of a run. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "record.h"
#include "util.h"

struct sampler {
	struct record_area *area;
	void (*get_stats)(void *vm, struct vmm_stats *st);
	void *vm;
	struct ferry_session *_Atomic session;
	_Atomic bool stop;
	pthread_t thread;
};

/* --- the parent --- */

static struct record_area *area_new(uint64_t period_us)
{
	struct record_area *a = mmap(NULL, sizeof(*a), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (a == MAP_FAILED)
		return NULL;
	atomic_store(&a->period_ns, period_us * 1000);
	return a;
}

struct record *record_new(uint64_t period_us)
{
	struct record *rec = calloc(1, sizeof(*rec));

	for (int end = 0; rec && end < 2; end++) {
		rec->area[end] = area_new(period_us);
		if (!rec->area[end]) {
			record_free(rec);
			return NULL;
		}
	}
	return rec;
}

void record_free(struct record *rec)
{
	if (!rec)
		return;
	for (int end = 0; end < 2; end++) {
		if (rec->area[end])
			munmap(rec->area[end], sizeof(*rec->area[end]));
	}
	for (size_t i = 0; i < rec->nevents; i++)
		free((void *)rec->event[i].event.text);
	free(rec->event);
	free(rec);
}

void record_event(struct record *rec, enum vmm_end end, const struct ferry_event *ev, const char *text,
		  uint64_t time_ns)
{
	struct record_event *e;

	if (!rec)
		return;
	if (rec->nevents == rec->cap) {
		size_t cap = rec->cap ? rec->cap * 2 : 64;

		e = reallocarray(rec->event, cap, sizeof(*e));
		if (!e)
			return; /* a gap in the recording is better than a failed migration */
		rec->event = e;
		rec->cap = cap;
	}
	e = &rec->event[rec->nevents++];
	*e = (struct record_event){ .time_ns = time_ns, .end = end, .event = *ev };
	e->event.text = text && *text ? strdup(text) : NULL;
}

/* --- the end --- */

static void take(struct sampler *s, struct record_sample *at)
{
	struct ferry_session *session = atomic_load(&s->session);
	struct ferry_stats st = { .size = sizeof(st) };
	struct vmm_stats v;

	if (session)
		ferry_get_stats(session, &st);
	s->get_stats(s->vm, &v);
	*at = (struct record_sample){
		.time_ns = clock_ns(),
		.stamps = v.stamps,
		.bytes = st.bytes_sent,
		.remaining = st.pages_remaining,
		.dirty_rate = st.dirty_rate,
		.faults = st.faults,
		.faults_local = st.faults_local,
		.round = st.round,
		.phase = (uint16_t)st.phase,
		.running = v.running && !v.gone,
	};
}

/* A very long migration is still recorded to its end, at half the resolution. */
static void thin_out(struct record_area *a)
{
	for (uint64_t i = 1; i < RECORD_SAMPLES / 2; i++)
		a->sample[i] = a->sample[i * 2];
	atomic_store(&a->n, RECORD_SAMPLES / 2);
	atomic_store(&a->period_ns, atomic_load(&a->period_ns) * 2);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void *sampler_main(void *arg)
{
	struct sampler *s = arg;
	struct record_area *a = s->area;
	uint64_t due = clock_ns();

	while (!atomic_load(&s->stop)) {
		uint64_t n = atomic_load(&a->n), now;
		struct timespec t;

		if (n == RECORD_SAMPLES) {
			thin_out(a);
			n = atomic_load(&a->n);
		}
		take(s, &a->sample[n]);
		atomic_store(&a->n, n + 1);
		atomic_store(&a->taken, atomic_load(&a->taken) + 1);
		atomic_store(&a->cpu_ns, cpu_ns());
		due += atomic_load(&a->period_ns);
		now = clock_ns();
		if (due < now) /* late: skip the missed samples */
			due = now;
		t = (struct timespec){ .tv_sec = (time_t)(due / 1000000000),
				       .tv_nsec = (long)(due % 1000000000) };
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
	}
	return NULL;
}

int sampler_start(struct sampler **ret, struct record_area *area,
		  void (*get_stats)(void *vm, struct vmm_stats *st), void *vm)
{
	struct sampler *s;
	int err;

	*ret = NULL;
	if (!area)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->area = area;
	s->get_stats = get_stats;
	s->vm = vm;
	err = -pthread_create(&s->thread, NULL, sampler_main, s);
	if (err) {
		free(s);
		return err;
	}
	*ret = s;
	return 0;
}

void sampler_watch(struct sampler *s, struct ferry_session *session)
{
	if (s)
		atomic_store(&s->session, session);
}

void sampler_faults(struct sampler *s, struct ferry_session *session)
{
	if (s)
		atomic_store(&s->area->nbuckets,
			     ferry_get_faults(session, s->area->bucket, FERRY_FAULT_BUCKETS));
}

void sampler_stop(struct sampler *s)
{
	if (!s)
		return;
	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	free(s);
}
