// SPDX-License-Identifier: MIT
/*
 * Fault injection: the faults of the chaos filter, and when they strike. xport_chaos_fault() takes:
 *
 *	cut		kills every link now; connect and accept fail for good
 *	cut:MS		the same, but connections succeed again after MS milliseconds
 *	stall:MS	for MS milliseconds no call of this end moves data: a put, fence, get or send waits
 *			and returns -ETIMEDOUT after the link's timeout, a recv or reap finds nothing, a serve
 *			stops after its current request
 *	mtu, mtu:MS	packets of full size are lost, as on a path whose MTU is smaller than its ends assume:
 *			short messages cross, a long one is lost as in "lost", and calls that move pages wait
 *			as in a stall
 *	keep		close() waits, as if the device did not release the memory
 *	keep:MS		the same, for MS milliseconds
 *	heal		ends a cut, a stall, an mtu and a keep
 *	pending		injects nothing: returns 1 while a fault waits for its message, else 0
 *
 * Faults that wait for the Nth message sent on a control channel from now on, N >= 1:
 *
 *	cut@N		the message is not sent and the link is cut
 *	cut@N:MS	the same, healing after MS milliseconds
 *	short@N		only the first half is sent, as if it were the whole
 *	corrupt@N	its middle byte is inverted
 *
 * Faults that wait for a message of type T (a number that type_of returns), or for the Nth of that type
 * (T@N):
 *
 *	cut-before:T	it is not sent and the link is cut
 *	cut-middle:T	half is sent, then the connection breaks
 *	cut-after:T	it is sent, then the link is cut
 *	lost:T		it and all later traffic of the link, both ways, are lost; neither end is told
 *	kill-at:T	SIGKILL to this process instead of sending it, or on receiving it
 *	kill-heard:T	SIGKILL to this process on receiving it
 *	kill-before:T	SIGKILL to this process instead of sending it; kill-after:T after sending it
 *	stop-before:T	SIGSTOP to this process, which sends it once continued; stop-after:T after sending it
 *
 * The first four take :MS as cut does; without it no connection ever succeeds again.
 *
 * One waiting fault is armed at a time; a new one replaces it. A struct chaos outlives its links. It may
 * serve both ends in one process; N then counts the messages of both.
 */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "chaos.h"
#include "runtime/base/fail.h"

#define FOR_GOOD UINT64_MAX /* milliseconds */
#define MS_MAX 86400000u
#define COUNT_MAX 1000000000u
#define SMALL_PACKET 1000u /* a message up to this size crosses whatever the path MTU */

struct chaos *xport_chaos_new(unsigned (*type_of)(const void *msg, size_t len))
{
	struct chaos *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;

	if (!c)
		return NULL;
	c->type_of = type_of;
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->cond, &attr);
	pthread_condattr_destroy(&attr);
	return c;
}

void xport_chaos_free(struct chaos *c)
{
	if (!c)
		return;
	pthread_cond_destroy(&c->cond);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static uint64_t ends_at(uint64_t ms)
{
	return ms == FOR_GOOD ? UINT64_MAX : now_us() + ms * 1000;
}

/* With the lock held. */
static void no_connections(struct chaos *c, uint64_t ms)
{
	c->cut_until_us = ends_at(ms);
}

/* With the lock held. */
static void cut(struct chaos *c, uint64_t ms)
{
	struct chaos_link *l;

	no_connections(c, ms);
	for (l = c->links; l; l = l->next) {
		l->killed = true;
		l->base.inner->ops->kill(l->base.inner);
	}
	pthread_cond_broadcast(&c->cond);
}

/* What may or must follow a fault's name. */
enum takes {
	TAKES_MS = 1,	 /* :MS may be there */
	TAKES_COUNT = 2, /* @N may be there */
	TAKES_TYPE = 4,	 /* :T must be there, then @N may */
	NEEDS_MS = 8,
	NEEDS_COUNT = 16,
	HEARD = 32,   /* also counts received messages */
	NOT_SENT = 64 /* does not count sent messages */
};

static const struct fault_row {
	const char *name;
	enum strike strike;
	unsigned takes;
	size_t until; /* offset in struct chaos of the fault's end time; 0: none */
} rows[] = {
	{ "cut", STRIKE_CUT, TAKES_MS | TAKES_COUNT, 0 },
	{ "stall", STRIKE_NONE, TAKES_MS | NEEDS_MS, offsetof(struct chaos, stall_until_us) },
	{ "mtu", STRIKE_NONE, TAKES_MS, offsetof(struct chaos, mtu_until_us) },
	{ "keep", STRIKE_NONE, TAKES_MS, offsetof(struct chaos, keep_until_us) },
	{ "heal", STRIKE_NONE, 0, 0 },
	{ "pending", STRIKE_NONE, 0, 0 },
	{ "short", STRIKE_SHORT, TAKES_COUNT | NEEDS_COUNT, 0 },
	{ "corrupt", STRIKE_CORRUPT, TAKES_COUNT | NEEDS_COUNT, 0 },
	{ "cut-before", STRIKE_CUT, TAKES_TYPE | TAKES_MS, 0 },
	{ "cut-middle", STRIKE_TEAR, TAKES_TYPE | TAKES_MS, 0 },
	{ "cut-after", STRIKE_CUT_AFTER, TAKES_TYPE | TAKES_MS, 0 },
	{ "lost", STRIKE_LOST, TAKES_TYPE | TAKES_MS, 0 },
	{ "kill-at", STRIKE_KILL, TAKES_TYPE | HEARD, 0 },
	{ "kill-heard", STRIKE_KILL, TAKES_TYPE | HEARD | NOT_SENT, 0 },
	{ "kill-before", STRIKE_KILL, TAKES_TYPE, 0 },
	{ "kill-after", STRIKE_KILL_AFTER, TAKES_TYPE, 0 },
	{ "stop-before", STRIKE_STOP, TAKES_TYPE, 0 },
	{ "stop-after", STRIKE_STOP_AFTER, TAKES_TYPE, 0 },
};

struct asked {
	const struct fault_row *row;
	uint64_t type, at, ms;
};

/* Parse a decimal number at *s, at most max; advances *s past it. */
static bool number(const char **s, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;

	if (!isdigit((unsigned char)**s))
		return false;
	for (; isdigit((unsigned char)**s); (*s)++) {
		v = v * 10 + (uint64_t)(**s - '0');
		if (v > max)
			return false;
	}
	*ret = v;
	return true;
}

static int parse(struct asked *ret, const char *fault)
{
	size_t len = strcspn(fault, "@:"), i;
	struct asked a = { .ms = FOR_GOOD };
	const char *s = fault + len;
	unsigned takes;

	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (strlen(rows[i].name) == len && !memcmp(rows[i].name, fault, len))
			a.row = &rows[i];
	}
	if (!a.row)
		return -EINVAL;
	takes = a.row->takes;
	if (takes & TAKES_TYPE) {
		if (*s != ':' || (s++, !number(&s, UINT16_MAX, &a.type)) || !a.type)
			return -EINVAL;
		takes |= TAKES_COUNT;
		a.at = 1;
	}
	if (*s == '@' && (s++, !(takes & TAKES_COUNT) || !number(&s, COUNT_MAX, &a.at) || !a.at))
		return -EINVAL;
	if (*s == ':' && (s++, !(takes & TAKES_MS) || !number(&s, MS_MAX, &a.ms)))
		return -EINVAL;
	if (*s || (takes & NEEDS_COUNT && !a.at) || (takes & NEEDS_MS && a.ms == FOR_GOOD))
		return -EINVAL;
	*ret = a;
	return 0;
}

int xport_chaos_fault(struct chaos *c, const char *fault)
{
	struct asked a;
	int err = parse(&a, fault);

	if (err < 0 || (a.type && !c->type_of))
		return -EINVAL;
	pthread_mutex_lock(&c->lock);
	if (a.at) {
		c->armed = a.row->strike;
		c->type = (unsigned)a.type;
		c->heard = a.row->takes & HEARD;
		c->sent = !(a.row->takes & NOT_SENT);
		c->countdown = a.at;
		c->armed_ms = a.ms;
	} else if (a.row->strike == STRIKE_CUT) {
		cut(c, a.ms);
	} else if (a.row->until) {
		*(uint64_t *)((char *)c + a.row->until) = ends_at(a.ms);
	} else if (!strcmp(a.row->name, "pending")) {
		err = c->armed != STRIKE_NONE || c->striking;
	} else {
		c->cut_until_us = c->stall_until_us = c->mtu_until_us = c->keep_until_us = 0;
		pthread_cond_broadcast(&c->cond);
	}
	pthread_mutex_unlock(&c->lock);
	return err;
}

bool chaos_is_cut(struct chaos *c)
{
	bool yes;

	pthread_mutex_lock(&c->lock);
	yes = c->cut_until_us > now_us();
	pthread_mutex_unlock(&c->lock);
	return yes;
}

int chaos_may_connect(struct chaos *c, struct fail *f)
{
	return chaos_is_cut(c) ? fail(f, -ECONNREFUSED, "chaos: the link is cut") : 0;
}

/* Wait, with the lock held, until something changes or until until_us. */
static void wait_until(struct chaos *c, uint64_t until_us)
{
	struct timespec ts;

	if (until_us == UINT64_MAX) {
		pthread_cond_wait(&c->cond, &c->lock);
		return;
	}
	ts = xp_timespec(until_us);
	pthread_cond_timedwait(&c->cond, &c->lock, &ts);
}

/* When the stall ends; 0: none. Lock held. */
static uint64_t stalled_until(const struct chaos_link *l, bool pages)
{
	const struct chaos *c = l->chaos;

	if (l->hole)
		return UINT64_MAX;
	return pages && c->mtu_until_us > c->stall_until_us ? c->mtu_until_us : c->stall_until_us;
}

int chaos_stalled(struct chaos_link *l, bool pages, uint64_t wait_us, int late)
{
	uint64_t now, until, end = 0;
	struct chaos *c = l->chaos;
	int err = 0;

	pthread_mutex_lock(&c->lock);
	while (!l->killed && (until = stalled_until(l, pages))) {
		now = now_us();
		if (until <= now)
			break;
		if (!end)
			end = deadline_after(now, wait_us);
		if (now >= end) {
			err = late;
			break;
		}
		wait_until(c, until < end ? until : end);
	}
	if (l->killed)
		err = -EPIPE;
	pthread_mutex_unlock(&c->lock);
	return err;
}

void chaos_kept(struct chaos *c)
{
	pthread_mutex_lock(&c->lock);
	while (c->keep_until_us > now_us())
		wait_until(c, c->keep_until_us);
	pthread_mutex_unlock(&c->lock);
}

bool chaos_is_hole(struct chaos_link *l)
{
	bool yes;

	pthread_mutex_lock(&l->chaos->lock);
	yes = l->hole && !l->killed;
	pthread_mutex_unlock(&l->chaos->lock);
	return yes;
}

/* With the lock held. */
static bool counts(struct chaos *c, const struct iovec *iov, int n)
{
	if (!c->armed)
		return false;
	return !c->type || (n > 0 && c->type_of(iov[0].iov_base, iov[0].iov_len) == c->type);
}

/* With the lock held. */
static bool too_long(const struct chaos *c, const struct iovec *iov, int n)
{
	size_t len = 0;

	for (int i = 0; i < n; i++)
		len += iov[i].iov_len;
	return len > SMALL_PACKET && c->mtu_until_us > now_us();
}

enum strike chaos_strike(struct chaos_link *l, const struct iovec *iov, int n)
{
	enum strike what = STRIKE_NONE;
	struct chaos *c = l->chaos;

	pthread_mutex_lock(&c->lock);
	if (too_long(c, iov, n)) {
		what = STRIKE_LOST;
		l->hole = true;
	} else if (c->sent && counts(c, iov, n) && !--c->countdown) {
		what = c->armed;
		c->armed = STRIKE_NONE;
		c->striking = what == STRIKE_CUT_AFTER || what == STRIKE_TEAR;
		if (what == STRIKE_CUT)
			cut(c, c->armed_ms);
		if (what == STRIKE_LOST) {
			l->hole = true;
			no_connections(c, c->armed_ms);
		}
	}
	pthread_mutex_unlock(&c->lock);
	/* raise() stops this thread at once, before it does anything else */
	if (what == STRIKE_KILL || what == STRIKE_STOP)
		raise(what == STRIKE_KILL ? SIGKILL : SIGSTOP);
	return what;
}

void chaos_heard(struct chaos *c, const void *msg, size_t len)
{
	struct iovec iov = { (void *)(uintptr_t)msg, len };
	bool now;

	pthread_mutex_lock(&c->lock);
	now = c->heard && counts(c, &iov, 1) && !--c->countdown;
	pthread_mutex_unlock(&c->lock);
	if (now)
		raise(SIGKILL);
}

void chaos_after(struct chaos *c, enum strike what)
{
	if (what == STRIKE_CUT_AFTER || what == STRIKE_TEAR) {
		pthread_mutex_lock(&c->lock);
		cut(c, c->armed_ms);
		c->striking = false;
		pthread_mutex_unlock(&c->lock);
	}
	if (what == STRIKE_KILL_AFTER || what == STRIKE_STOP_AFTER)
		raise(what == STRIKE_KILL_AFTER ? SIGKILL : SIGSTOP);
}
