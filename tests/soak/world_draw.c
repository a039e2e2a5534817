// SPDX-License-Identifier: MIT
/* What a round's world is, drawn from the seed and its number, and in words. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "patience.h"
#include "rng.h"
#include "worlds.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#define SEGMENT 1400u /* bytes of a TCP segment */
#define CARRIED_S 3u  /* memory is as large as the network carries in about so long */

static const struct call calls[] = {
	{ "userfaultfd", SYS_userfaultfd, 0, 0 },
	{ "splice", SYS_splice, 0, 0 },
	{ "vmsplice", SYS_vmsplice, 0, 0 },
	{ "pipe2", SYS_pipe2, 0, 0 },
	{ "fallocate", SYS_fallocate, 0, 0 },
	{ "eventfd2", SYS_eventfd2, 0, 0 },
	{ "getrandom", SYS_getrandom, 0, 0 },
	{ "fstatfs", SYS_fstatfs, 0, 0 },
	{ "lseek", SYS_lseek, 0, 0 },
	{ "process_madvise", SYS_process_madvise, 0, 0 },
	{ "pidfd_open", SYS_pidfd_open, 0, 0 },
	{ "process_vm_writev", SYS_process_vm_writev, 0, 0 },
	{ "epoll_create1", SYS_epoll_create1, 0, 0 },
	{ "timerfd_create", SYS_timerfd_create, 0, 0 },
	{ "clone3", SYS_clone3, 0, 0 },
	{ "sendmsg", SYS_sendmsg, 0, 0 },
	{ "recvmsg", SYS_recvmsg, 0, 0 },
	{ "setsockopt", SYS_setsockopt, 0, 0 },
	{ "fcntl", SYS_fcntl, 0, 0 },
	{ "mincore", SYS_mincore, 0, 0 },
	{ "pread64", SYS_pread64, 0, 0 },
	{ "socket", SYS_socket, 0, 0 },
	{ "accept4", SYS_accept4, 0, 0 },
	{ "shutdown", SYS_shutdown, 0, 0 },
	{ "madvise", SYS_madvise, 3, MADV_DONTNEED },
	{ "madvise", SYS_madvise, 3, MADV_POPULATE_READ },
	{ "madvise", SYS_madvise, 3, MADV_POPULATE_WRITE },
};

const struct call *world_call(int index)
{
	return index > 0 && (size_t)index <= sizeof(calls) / sizeof(*calls) ? &calls[index - 1] : NULL;
}

const char *strike_name(enum strike_what what)
{
	static const char *const names[] = {
		"nothing", "kill", "stop", "cut", "hole", "cancel", "switchover"
	};

	return names[what];
}

/* Mathis et al. 1997: what loss and a round trip leave of a TCP connection. */
uint64_t network_rate(const struct network *n)
{
	double rtt_s = (2.0 * n->delay_ms + n->jitter_ms + 1) / 1000, loss = n->loss_permille / 1000.0;
	double most = n->rate_kb * 1000.0;

	/* A late packet looks like a lost one now and then. */
	loss += n->jitter_ms ? n->late_percent / 100.0 / 10 : 0;
	if (loss > 0) {
		double tcp = SEGMENT * 1.22 / (rtt_s * sqrt(loss));

		most = most <= 0 || tcp < most ? tcp : most;
	}
	return (uint64_t)most;
}

#define OF(rng, ...)         \
	((const unsigned[]){ \
		__VA_ARGS__ }[rng_below(rng, sizeof((const unsigned[]){ __VA_ARGS__ }) / sizeof(unsigned))])

static void draw_network(struct network *n, uint64_t *rng)
{
	n->delay_ms = OF(rng, 0, 0, 0, 1, 5, 20, 75, 150);
	if (rng_one_in(rng, 3)) {
		n->jitter_ms = OF(rng, 1, 5, 30);
		n->late_percent = OF(rng, 1, 10, 50);
	}
	if (rng_one_in(rng, 3))
		n->loss_permille = OF(rng, 1, 5, 10, 30, 80);
	if (rng_one_in(rng, 3))
		n->rate_kb = OF(rng, 500, 2000, 10000, 60000);
	n->mtu = OF(rng, 1500, 1500, 576, 1280, 9000);
	if (rng_one_in(rng, 4))
		n->dead = OF(rng, 1, 2, 4);
}

static void draw_memory(struct world *w, uint64_t *rng)
{
	uint64_t most = GUEST_MAX, rate = network_rate(&w->net), size;

	if (rate && rate * CARRIED_S < most)
		most = rate * CARRIED_S;
	if (most < MIB / 2)
		most = MIB / 2;
	size = (most / 4 + rng_below(rng, most * 3 / 4)) / PAGE * PAGE;
	w->bytes[1] = (1 + rng_below(rng, size / PAGE / 4)) * PAGE;
	w->bytes[0] = size - w->bytes[1];
	w->shared = rng_one_in(rng, 2);
	w->writes = OF(rng, 0, 100, 2000, 20000);
	if (rate && w->writes > rate / PAGE / 2 + 1)
		w->writes = (unsigned)(rate / PAGE / 2) + 1;
	w->vcpus = 1 + (unsigned)rng_below(rng, 2);
	for (int i = 0; i < 2; i++) {
		struct lot *l = &w->lot[i];

		l->locked = rng_one_in(rng, 10);
		l->thp = rng_one_in(rng, 5);
		l->populated = OF(rng, 0, 30, 70, 100);
		l->tmpfs = rng_one_in(rng, 3) ? 110 + (unsigned)rng_below(rng, 100) : 0;
		l->pageout = rng_one_in(rng, 4) ? 50 : 0;
	}
	w->lot[SRC].punch = rng_one_in(rng, 2) ? OF(rng, 5, 50, 500) : 0;
}

static void draw_hardship(struct lot *l, uint64_t *rng, int end)
{
	l->storm_us = rng_one_in(rng, 3) ? OF(rng, 200, 1000, 20000) : 0;
	l->memlock = rng_one_in(rng, 6);
	if (!rng_one_in(rng, 4))
		return;
	switch (rng_below(rng, 6)) {
	case 0:
		l->nofile = 1 + (unsigned)rng_below(rng, 24);
		break;
	case 1:
		l->nproc = 1 + (unsigned)rng_below(rng, 8);
		break;
	case 2:
		l->cgroup = end == TGT ? OF(rng, 30, 70, 100, 130) : OF(rng, 100, 130);
		break;
	case 3:
		l->tmpfs = end == TGT ? OF(rng, 40, 90, 102, 150) : 105;
		l->tmpfs_fill = end == TGT ? OF(rng, 0, 60, 100) : 0;
		break;
	case 4:
		l->space = OF(rng, 1, 4, 20, 80);
		break;
	case 5:
		l->refused = 1 + (int)rng_below(rng, sizeof(calls) / sizeof(*calls));
		l->refused_err = (int)OF(rng, EPERM, ENOSYS, EACCES);
		break;
	}
}

static void draw_config(struct world *w, uint64_t *rng)
{
	unsigned p = patience();

	w->mode = (enum ferry_mode)OF(rng, FERRY_MODE_AUTO, FERRY_MODE_STOP_AND_COPY, FERRY_MODE_POSTCOPY,
				      FERRY_MODE_POSTCOPY);
	w->commit_at = (enum ferry_commit_at)OF(rng, FERRY_COMMIT_AT_DEFAULT, FERRY_COMMIT_AT_COMPLETE,
						FERRY_COMMIT_AT_SWITCHOVER);
	w->channels = OF(rng, 1, 1, 2, 4, 9);
	w->max_rounds = OF(rng, 1, 2, 5, 30);
	w->downtime_us = OF(rng, 10000, 100000, 300000, 2000000);
	if (rng_one_in(rng, 6))
		w->hold_limit_us = OF(rng, 20000, 300000, 2000000);
	w->hold_action = rng_one_in(rng, 2) ? FERRY_HOLD_COMMIT : FERRY_HOLD_FALLBACK;
	w->bandwidth = rng_one_in(rng, 5) ? OF(rng, 8, 30, 100) * 1000000u : 0;
	w->arbiter = rng_one_in(rng, 2);
	w->timeout_us = p * OF(rng, 2000000, 2000000, 3000000);
	w->reconnect_us = rng_one_in(rng, 8) ? 0 : p * OF(rng, 1000000, 3000000);
	w->connect_us = p * 4000000;
	w->precopy_limit_us = p * OF(rng, 3000000, 6000000);
	w->switchover_limit_us = p * 8000000;
}

static void draw_strike(struct strike *k, uint64_t *rng)
{
	static const enum ferry_phase phases[] = { FERRY_PHASE_PRE_MIGRATION, FERRY_PHASE_RESERVATION,
						   FERRY_PHASE_PRECOPY,	      FERRY_PHASE_PRECOPY,
						   FERRY_PHASE_PRECOPY,	      FERRY_PHASE_STOP_AND_COPY,
						   FERRY_PHASE_POSTCOPY,      FERRY_PHASE_POSTCOPY,
						   FERRY_PHASE_COMMITMENT,    FERRY_PHASE_ACTIVATION };

	k->what = (enum strike_what)OF(rng, STRIKE_NOTHING, STRIKE_NOTHING, STRIKE_NOTHING, STRIKE_NOTHING,
				       STRIKE_KILL, STRIKE_STOP, STRIKE_CUT, STRIKE_CUT, STRIKE_HOLE,
				       STRIKE_CANCEL, STRIKE_SWITCHOVER);
	k->end = (int)rng_below(rng, 2);
	k->phase = phases[rng_below(rng, sizeof(phases) / sizeof(*phases))];
	k->delay_ms = OF(rng, 0, 0, 5, 50, 400);
	k->for_ms = OF(rng, 100, 1000, 2500, 0);
	k->times = k->for_ms ? OF(rng, 1, 1, 2, 5) : 1;
	if (k->what == STRIKE_SWITCHOVER) {
		k->end = SRC;
		k->phase = FERRY_PHASE_PRECOPY;
	}
}

/* Everything was drawn: what this machine lacks changes nothing else. */
static void without(struct world *w, const struct parts *parts)
{
	for (int i = 0; i < 2; i++) {
		struct lot *l = &w->lot[i];

		l->cgroup = parts->cgroup ? l->cgroup : 0;
		l->pageout = parts->swap ? l->pageout : 0;
		l->nproc = parts->root ? l->nproc : 0;
		l->tmpfs = parts->root && w->shared ? l->tmpfs : 0;
		l->tmpfs_fill = l->tmpfs ? l->tmpfs_fill : 0;
		l->locked = l->locked && parts->root && !l->tmpfs && !l->nproc && !l->cgroup;
	}
	if (parts->net)
		return;
	w->net = (struct network){ 0 };
	if (w->strike.what == STRIKE_CUT || w->strike.what == STRIKE_HOLE)
		w->strike.what = STRIKE_NOTHING;
}

void world_draw(struct world *w, const struct parts *parts, uint64_t seed, uint64_t round)
{
	uint64_t rng = rng_seed(seed, round);

	*w = (struct world){ .seed = seed, .round = round };
	draw_network(&w->net, &rng);
	draw_memory(w, &rng);
	draw_hardship(&w->lot[SRC], &rng, SRC);
	draw_hardship(&w->lot[TGT], &rng, TGT);
	draw_config(w, &rng);
	draw_strike(&w->strike, &rng);
	without(w, parts);
}

/*
 * What each phase may take by its own limit, and the memory three times over: a round that the limit of pre-copy finds
 * under way, one more in the downtime or in post-copy, and what loss makes slower than the formula says.
 */
uint64_t world_bound_us(const struct world *w)
{
	uint64_t rate = network_rate(&w->net), size = w->bytes[0] + w->bytes[1];
	uint64_t away = w->reconnect_us + 2 * w->timeout_us;

	if (!rate || rate > 4 * MIB)
		rate = 4 * MIB; /* a busy machine */
	return w->connect_us + w->precopy_limit_us + w->switchover_limit_us + 4 * away + w->hold_limit_us +
	       4 * size * 1000000 / rate + patience() * UINT64_C(20000000);
}

uint64_t world_alone_us(const struct world *w)
{
	/* A source that has decided, with an arbiter, lets a target that lacks pages give up first. */
	return w->reconnect_us + 6 * w->timeout_us + w->connect_us + patience() * UINT64_C(5000000);
}

/* ---- said ---- */

static void print_lot(FILE *out, const struct lot *l, const char *name, int end)
{
	const struct call *c = world_call(l->refused);

	fprintf(out, "; %s: %u %% %s", name, l->populated, end == SRC ? "touched" : "allocated");
	if (l->tmpfs)
		fprintf(out, ", on a tmpfs of %u %%", l->tmpfs);
	if (l->tmpfs_fill)
		fprintf(out, " that somebody fills by %u %%", l->tmpfs_fill);
	fprintf(out, "%s%s%s", l->locked ? ", locked" : "", l->thp ? ", huge pages" : "",
		l->memlock ? ", RLIMIT_MEMLOCK 64k" : "");
	if (l->cgroup)
		fprintf(out, ", a cgroup of %u %%", l->cgroup);
	if (l->nofile)
		fprintf(out, ", %u more descriptors", l->nofile - 1);
	if (l->space)
		fprintf(out, ", RLIMIT_AS of %u MiB more", l->space);
	if (l->nproc)
		fprintf(out, ", %u more threads", l->nproc - 1);
	if (c)
		fprintf(out, ", %s%s refused (%s)", c->name,
			c->value == MADV_DONTNEED ? " DONTNEED"
			: c->arg		  ? " POPULATE"
						  : "",
			strerrorname_np(l->refused_err));
	if (l->storm_us)
		fprintf(out, ", EINTR each %u us", l->storm_us);
	if (l->punch)
		fprintf(out, ", one write in %u frees", l->punch);
	if (l->pageout)
		fprintf(out, ", one write in %u swaps out", l->pageout);
}

static void print_strike(FILE *out, const struct strike *k)
{
	static const char *const ends[] = { "source", "target" };

	if (k->what == STRIKE_NOTHING)
		return;
	fprintf(out, "; %s", strike_name(k->what));
	if (k->what == STRIKE_KILL || k->what == STRIKE_STOP || k->what == STRIKE_CANCEL)
		fprintf(out, " the %s", ends[k->end]);
	fprintf(out, " %u ms into the %s's %s", k->delay_ms, ends[k->end], ferry_phase_name(k->phase));
	if (k->what == STRIKE_STOP || k->what == STRIKE_CUT || k->what == STRIKE_HOLE)
		fprintf(out, k->for_ms ? " for %u ms" : " for good", k->for_ms);
	if (k->what == STRIKE_CUT && k->times > 1)
		fprintf(out, ", %u times", k->times);
}

void world_print(FILE *out, const struct world *w)
{
	static const char *const commits[] = { "by default", "at completion", "at switchover" };
	const struct network *n = &w->net;

	fprintf(out, "delay %u ms", n->delay_ms);
	if (n->jitter_ms)
		fprintf(out, ", %u %% of packets late by %u ms", n->late_percent, n->jitter_ms);
	if (n->loss_permille)
		fprintf(out, ", loss %u.%u %%", n->loss_permille / 10, n->loss_permille % 10);
	if (n->rate_kb)
		fprintf(out, ", %u kB/s", n->rate_kb);
	if (n->mtu)
		fprintf(out, ", MTU %u", n->mtu);
	if (n->dead)
		fprintf(out, ", %u dead addresses", n->dead);
	fprintf(out, "; %s %" PRIu64 "+%" PRIu64 " KiB, %u writes/s, %u vCPUs",
		w->shared ? "shared" : "private", w->bytes[0] / 1024, w->bytes[1] / 1024, w->writes,
		w->vcpus);
	print_lot(out, &w->lot[SRC], "source", SRC);
	print_lot(out, &w->lot[TGT], "target", TGT);
	fprintf(out, "; %s, commit %s, %" PRIu64 " channels, %" PRIu64 " rounds, downtime %" PRIu64 " ms",
		ferry_mode_name(w->mode), commits[w->commit_at], w->channels, w->max_rounds,
		w->downtime_us / 1000);
	if (w->hold_limit_us)
		fprintf(out, ", hold %" PRIu64 " ms then %s", w->hold_limit_us / 1000,
			w->hold_action == FERRY_HOLD_COMMIT ? "commit" : "fall back");
	if (w->bandwidth)
		fprintf(out, ", bandwidth %" PRIu64 " MB/s", w->bandwidth / 1000000);
	fprintf(out, ", timeout %" PRIu64 " ms, reconnect %" PRIu64 " ms%s", w->timeout_us / 1000,
		w->reconnect_us / 1000, w->arbiter ? ", arbiter" : "");
	print_strike(out, &w->strike);
}
