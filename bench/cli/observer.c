/* SPDX-License-Identifier: MIT */
/* Checks the guest's output from outside: each number once and in order. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "observer.h"

void observer_init(struct observer *o, int fd, unsigned nstreams, bool whole)
{
	*o = (struct observer){ .fd = fd, .nstreams = nstreams, .last_end = -1 };
	for (unsigned i = 0; i < nstreams; i++)
		o->stream[i].next = whole ? 1 : 0;
}

void observer_take(struct observer *o, const struct vmm_output *rec)
{
	struct observer_stream *s;

	if (rec->stream >= o->nstreams || rec->end > VMM_END_TARGET) {
		o->damaged++;
		return;
	}
	if (o->last_end >= 0 && o->last_end != rec->end)
		o->handovers++;
	o->last_end = rec->end;
	s = &o->stream[rec->stream];
	s->seen++;
	if (!s->next)
		s->next = rec->number;
	if (rec->number < s->next) {
		s->repeated++;
		return;
	}
	s->missing += rec->number - s->next;
	s->next = rec->number + 1;
}

int observer_drain(struct observer *o)
{
	char buf[64 * sizeof(struct vmm_output)];

	for (;;) {
		ssize_t n = read(o->fd, buf, sizeof(buf));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 1 : -errno;
		if (n == 0)
			return 0;
		for (ssize_t done = 0; done < n;) {
			size_t want = sizeof(o->part) - o->part_len, have = (size_t)(n - done);
			size_t take = have < want ? have : want;

			memcpy((char *)&o->part + o->part_len, buf + done, take);
			o->part_len += take;
			done += (ssize_t)take;
			if (o->part_len < sizeof(o->part))
				break;
			o->part_len = 0;
			observer_take(o, &o->part);
		}
	}
}

void observer_join(struct observer *first, const struct observer *second)
{
	bool before = false, after = false;

	for (unsigned i = 0; i < second->nstreams && i < first->nstreams; i++) {
		struct observer_stream *a = &first->stream[i];
		const struct observer_stream *b = &second->stream[i];
		uint64_t begin = b->next - (b->seen - b->repeated) - b->missing;

		before = before || a->seen;
		after = after || b->seen;
		a->missing += b->missing;
		a->repeated += b->repeated;
		if (b->seen) {
			if (a->next && begin > a->next)
				a->missing += begin - a->next;
			if (a->next && begin < a->next)
				a->repeated += a->next - begin;
			a->next = b->next > a->next ? b->next : a->next;
		}
		a->seen += b->seen;
	}
	for (unsigned i = first->nstreams; i < second->nstreams; i++)
		first->damaged += second->stream[i].seen; /* of a vCPU that does not exist */
	first->damaged += second->damaged;
	first->handovers += second->handovers + (before && after);
}

void observer_total(const struct observer *o, uint64_t *seen, uint64_t *missing, uint64_t *repeated)
{
	*seen = *missing = *repeated = 0;
	for (unsigned i = 0; i < o->nstreams; i++) {
		*seen += o->stream[i].seen;
		*missing += o->stream[i].missing;
		*repeated += o->stream[i].repeated;
	}
}

uint64_t observer_least(const struct observer *o)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < o->nstreams; i++) {
		if (o->stream[i].seen < least)
			least = o->stream[i].seen;
	}
	return o->nstreams ? least : 0;
}
