/* SPDX-License-Identifier: MIT */
/*
 * The guest's output. A record leaves at once or, during a hold, is queued: nothing of it is visible outside
 * until the release emits it in order; the discard drops it.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "vmm_int.h"

_Static_assert(sizeof(struct vmm_output) == 16, "one write, whole: less than PIPE_BUF");

void output_init(struct vmm_out *o, int fd, enum vmm_end end)
{
	pthread_mutex_init(&o->lock, NULL);
	o->fd = fd;
	o->end = (uint16_t)end;
}

void output_destroy(struct vmm_out *o)
{
	free(o->held);
	pthread_mutex_destroy(&o->lock);
}

/* Lock held. If the observer is gone, the guest goes on. */
static void leave(struct vmm_out *o, struct vmm_output *rec)
{
	if (o->fd < 0)
		return;
	rec->time_ns = clock_ns();
	while (write(o->fd, rec, sizeof(*rec)) < 0 && errno == EINTR)
		;
}

/* Lock held. */
static void queue(struct vmm_out *o, const struct vmm_output *rec)
{
	if (o->nheld == o->cap) {
		size_t cap = o->cap ? 2 * o->cap : 1024;
		struct vmm_output *held = realloc(o->held, cap * sizeof(*held));

		if (!held)
			abort(); /* a lost output would be blamed on the library */
		o->held = held;
		o->cap = cap;
	}
	o->held[o->nheld++] = *rec;
}

void output_emit(struct vmm_out *o, uint16_t stream, uint32_t number)
{
	struct vmm_output rec = { .number = number, .stream = stream, .end = o->end };

	pthread_mutex_lock(&o->lock);
	if (o->holding)
		queue(o, &rec);
	else
		leave(o, &rec);
	atomic_fetch_add(&o->count, 1);
	pthread_mutex_unlock(&o->lock);
}

void output_hold(struct vmm_out *o)
{
	pthread_mutex_lock(&o->lock);
	o->holding = true;
	pthread_mutex_unlock(&o->lock);
}

void output_release(struct vmm_out *o)
{
	pthread_mutex_lock(&o->lock);
	for (size_t i = 0; i < o->nheld; i++)
		leave(o, &o->held[i]);
	o->nheld = 0;
	o->holding = false;
	pthread_mutex_unlock(&o->lock);
}

void output_discard(struct vmm_out *o)
{
	pthread_mutex_lock(&o->lock);
	o->nheld = 0;
	pthread_mutex_unlock(&o->lock);
}

uint64_t output_held(struct vmm_out *o)
{
	uint64_t n;

	pthread_mutex_lock(&o->lock);
	n = o->nheld;
	pthread_mutex_unlock(&o->lock);
	return n;
}
