// SPDX-License-Identifier: MIT
/* The public functions: create, open, run, query and free one end of a migration. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "drill.h"
#include "phase.h"
#include "ferry/drill.h"
#include "runtime/base/grow.h"
#include "runtime/link/heartbeat.h"
#include "runtime/link/link.h"
#include "runtime/link/listener.h"
#include "runtime/link/lobby.h"
#include "runtime/memory/mapping.h"
#include "runtime/session/collapse.h"
#include "runtime/session/config.h"
#include "runtime/session/session.h"
#include "runtime/source/source.h"
#include "runtime/target/target.h"

static int draw(struct ferry_session *s, uint8_t number[16], const char *what)
{
	if (getrandom(number, 16, 0) == 16)
		return 0;
	return fail_cure(&s->fail, CURE_CALL, -errno, "getrandom for %s", what);
}

static int draw_numbers(struct ferry_session *s)
{
	static const uint8_t none[16];
	int err = draw(s, s->link.number, "the number that this end is known by");

	memcpy(s->session, s->cfg.session, sizeof(s->session));
	if (err < 0 || !s->is_source || memcmp(s->session, none, sizeof(none)))
		return err;
	return draw(s, s->session, "a session id");
}

static int take_regions(struct ferry_session *s, const struct ferry_vm *vm)
{
	int err = config_regions(vm->regions, vm->nregions, &s->fail);

	if (!err)
		err = mapping_files(vm->regions, vm->nregions, &s->fail);
	if (err < 0)
		return err;
	s->regions = malloc(vm->nregions * sizeof(*s->regions));
	if (!s->regions)
		return fail(&s->fail, -ENOMEM, "no memory for %zu regions", vm->nregions);
	memcpy(s->regions, vm->regions, vm->nregions * sizeof(*s->regions));
	s->nregions = vm->nregions;
	for (size_t i = 0; i < s->nregions; i++) {
		s->pages_total += s->regions[i].len >> PAGE_SHIFT;
		s->link.param.no_zerocopy |= s->regions[i].page_shift != PAGE_SHIFT;
	}
	return source_init(s);
}

static int open_fds(struct ferry_session *s)
{
	s->link.msg_buf = malloc(XPORT_MSG_MAX);
	if (!s->link.msg_buf)
		return fail_cure(&s->fail, CURE_CALL, -ENOMEM, "no memory for a session");
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd >= 0)
		s->link.heart_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->link.heart_fd >= 0)
		return 0;
	return fail_cure(&s->fail, CURE_CALL, -errno, "eventfd for a session");
}

static int set_up(struct ferry_session *s, const struct ferry_vm *vm, const struct ferry_config *cfg)
{
	struct ferry_vm v;
	int err;

	if (!vm)
		return fail(&s->fail, -EINVAL, "vm is NULL; pass a struct ferry_vm that describes the VM");
	if ((err = struct_grow(&v, sizeof(v), vm, "vm", &s->fail)) < 0)
		return err;
	s->vm = v.vm;
	if ((err = config_ops(&s->ops, v.ops, s->is_source, &s->fail)) < 0 ||
	    (err = config_load(&s->cfg, cfg, &s->fail)) < 0 || (err = draw_numbers(s)) < 0 ||
	    (err = open_fds(s)) < 0)
		return err;
	s->link.param = (struct xport_param){ .timeout_us = s->cfg.timeout_us,
					      .poll_us = s->cfg.poll_us,
					      .bandwidth = s->cfg.bandwidth,
					      .slower = session_slower,
					      .slower_arg = s,
					      .addrs = &s->link.addrs,
					      .woken = link_woken,
					      .woken_arg = s,
					      .wake_fd = s->wake_fd };
	if (s->cfg.flags & FERRY_CONFIG_DRILL && (err = drill_new(s)) < 0)
		return err;
	return s->is_source ? take_regions(s, &v) : 0;
}

static int make(struct ferry_session **ret, const struct ferry_vm *vm, const struct ferry_config *cfg,
		bool source)
{
	struct ferry_session *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	s->is_source = source;
	s->link.fail = &s->link.own_fail;
	s->wake_fd = -1;
	s->link.heart_fd = -1;
	s->tgt.place.uffd = -1;
	s->tgt.place.reach = REACH_NONE;
	s->src.reach = REACH_NONE;
	pthread_mutex_init(&s->link.send_lock, NULL);
	pthread_mutex_init(&s->view_lock, NULL);
	s->workers = (struct workers){ .s = s, .lost = link_worker_lost, .ended = session_wake };
	commit_init(&s->commit, source);
	err = set_up(s, vm, cfg);
	if (!err) {
		*ret = s;
		return 0;
	}
	session_log(s, 3, fail_text(&s->fail), "refused errno=%d", -err);
	ferry_free(s);
	return err;
}

FERRY_API int ferry_source_new(struct ferry_session **ret, const struct ferry_vm *vm,
			       const struct ferry_config *cfg)
{
	return make(ret, vm, cfg, true);
}

FERRY_API int ferry_target_new(struct ferry_session **ret, const struct ferry_vm *vm,
			       const struct ferry_config *cfg)
{
	return make(ret, vm, cfg, false);
}

FERRY_API int ferry_open(struct ferry_session *s, const char *uri)
{
	struct fail f = { 0 };
	struct uri u;
	int err;

	if (s->opened)
		return -EALREADY;
	if (!uri || strlen(uri) >= sizeof(s->uri))
		return fail(&s->fail, -EINVAL, "the URI is %s",
			    uri ? "longer than 511 bytes; shorten it"
				: "NULL; pass for example tcp:host:port");
	err = uri_parse(&u, uri, &f);
	if (err < 0)
		return fail(&s->fail, err, "%s", fail_text(&f));
	pthread_mutex_lock(&s->view_lock);
	strcpy(s->uri, uri);
	pthread_mutex_unlock(&s->view_lock);
	err = s->is_source ? 0 : link_listen(s);
	s->opened = !err;
	return err;
}

FERRY_API int ferry_get_uri(struct ferry_session *s, char *buf, size_t cap)
{
	int err = -ENOSPC;

	pthread_mutex_lock(&s->view_lock);
	if (strlen(s->uri) < cap) {
		strcpy(buf, s->uri);
		err = 0;
	}
	pthread_mutex_unlock(&s->view_lock);
	return err;
}

static enum ferry_reason reason_of(const struct ferry_session *s, int err)
{
	if (s->reason)
		return s->reason;
	if (err == -ECANCELED)
		return FERRY_REASON_CANCELED;
	if (err == -ETIME)
		return FERRY_REASON_LIMIT;
	if (err == -EPROTO || err == -EPROTONOSUPPORT)
		return FERRY_REASON_PROTOCOL;
	return xport_lost(err) ? FERRY_REASON_LINK : FERRY_REASON_HOST;
}

static void fill_result(struct ferry_session *s, struct ferry_result *r)
{
	r->reason = r->outcome == FERRY_OUTCOME_MIGRATED ? FERRY_REASON_MIGRATED
							 : reason_of(s, fail_err(&s->fail));
	if (r->reason == FERRY_REASON_OP)
		snprintf(r->op, sizeof(r->op), "%s", s->failed_op);
	r->phase = s->last_phase;
	r->error = r->outcome == FERRY_OUTCOME_MIGRATED ? 0 : fail_err(&s->fail);
	memcpy(r->session, s->session, sizeof(r->session));
	if (r->outcome == FERRY_OUTCOME_MIGRATED)
		snprintf(r->detail, sizeof(r->detail),
			 "migrated: %" PRIu64 " pages sent, %" PRIu64 " of them after the switchover",
			 atomic_load(&s->stats.pages), atomic_load(&s->stats.residue));
	else if (r->outcome == FERRY_OUTCOME_IN_DOUBT && s->arbiter_err)
		snprintf(r->detail, sizeof(r->detail), "%.400s; the arbiter gave no answer: %s",
			 fail_text(&s->fail), strerror(-s->arbiter_err));
	else
		snprintf(r->detail, sizeof(r->detail), "%s", fail_text(&s->fail));
	r->claim = r->outcome == FERRY_OUTCOME_IN_DOUBT ? commit_claim(&s->commit, s->residue) : r->owner;
	r->stats.size = sizeof(r->stats);
	ferry_get_stats(s, &r->stats);
}

static void run(struct ferry_session *s, struct ferry_result *r)
{
	int err;

	pthread_mutex_lock(&s->view_lock); /* another thread may be in ferry_get_stats() */
	s->started_us = now_us();
	pthread_mutex_unlock(&s->view_lock);
	err = s->opened ? heartbeat_start(s)
			: fail(&s->fail, -EINVAL,
			       "ferry_run() was called before ferry_open(): open a URI first");
	if (!err)
		err = phase_walk(s);
	r->outcome = FERRY_OUTCOME_MIGRATED;
	r->owner = FERRY_OWNER_TARGET;
	if (s->opened && err < 0) {
		if (!fail_err(&s->fail))
			fail(&s->fail, err, "%s failed: %s", ferry_phase_name(s->phase), strerror(-err));
		if (s->is_source)
			source_fail(s, r);
		else
			target_fail(s, r);
	} else if (err < 0) {
		r->outcome = FERRY_OUTCOME_REFUSED;
		r->owner = FERRY_OWNER_SOURCE;
	}
	heartbeat_stop(s);
	link_workers_stop(s);
	link_close(s);
	if (s->phase != FERRY_PHASE_IDLE)
		phase_enter(s, err < 0 ? FERRY_PHASE_FAILED : FERRY_PHASE_DONE);
}

/* The peer knows the outcome and the VM runs: what is done here delays nobody. */
static void huge_again(struct ferry_session *s, struct ferry_result *r)
{
	uint64_t begin = now_us();

	if (!collapse_wanted(s))
		return;
	r->thp_before = r->thp_after = collapse_count(s);
	if (r->outcome != FERRY_OUTCOME_MIGRATED || !s->tgt.place.n)
		return;
	collapse_regions(s);
	r->thp_after = collapse_count(s);
	r->collapse_us = now_us() - begin;
}

FERRY_API int ferry_run(struct ferry_session *s, struct ferry_result *res)
{
	struct ferry_result r = { .size = sizeof(r) };

	if (!res || res->size < sizeof(size_t))
		return -EINVAL;
	if (atomic_exchange(&s->ran, true))
		return -EALREADY;
	if (s->is_source)
		r.thp_before = r.thp_after = collapse_count(s);
	run(s, &r);
	fill_result(s, &r);
	if (!s->is_source)
		huge_again(s, &r);
	r.size = res->size;
	if (res->size < sizeof(r)) /* stats are last: as much of them as fits */
		r.stats.size = res->size > offsetof(struct ferry_result, stats)
				       ? res->size - offsetof(struct ferry_result, stats)
				       : 0;
	memcpy(res, &r, res->size < sizeof(r) ? res->size : sizeof(r));
	session_log(s, 5, r.detail, "end outcome=%s owner=%s errno=%d", ferry_outcome_name(r.outcome),
		    ferry_owner_name(r.owner), -r.error);
	return r.error;
}

FERRY_API int ferry_switchover(struct ferry_session *s)
{
	enum ferry_phase phase;

	if (!s->is_source)
		return -EINVAL;
	pthread_mutex_lock(&s->view_lock);
	phase = s->phase;
	pthread_mutex_unlock(&s->view_lock);
	if (phase > FERRY_PHASE_PRECOPY)
		return -EALREADY;
	atomic_store(&s->want_switchover, true);
	session_wake(s);
	return 0;
}

FERRY_API int ferry_cancel(struct ferry_session *s)
{
	bool open = commit_get(&s->commit) == COMMIT_OPEN;

	atomic_store(open ? &s->want_cancel : &s->hurry, true);
	session_wake(s);
	return open ? 0 : -EALREADY;
}

FERRY_API const char *ferry_get_detail(struct ferry_session *s)
{
	return fail_text(&s->fail);
}

FERRY_API void ferry_free(struct ferry_session *s)
{
	if (!s)
		return;
	heartbeat_stop(s);
	link_close(s);
	lobby_free(s->link.lobby);
	if (s->is_source)
		source_destroy(s);
	else
		target_destroy(s);
	stream_destroy(&s->stream);
	drill_free(s);
	xport_addrs_free(s->link.addrs);
	if (s->wake_fd >= 0)
		close(s->wake_fd);
	if (s->link.heart_fd >= 0)
		close(s->link.heart_fd);
	pthread_mutex_destroy(&s->link.send_lock);
	pthread_mutex_destroy(&s->view_lock);
	if (s->link.msg_buf)
		explicit_bzero(s->link.msg_buf, XPORT_MSG_MAX); /* secret numbers were in it */
	free(s->link.msg_buf);
	free(s->regions);
	explicit_bzero(s, sizeof(*s));
	free(s);
}

static uint64_t span(const struct ferry_session *s, enum ferry_phase from, uint64_t end)
{
	uint64_t a = s->phase_us[from];

	return a && end > a ? end - a : 0;
}

static void fill_times(struct ferry_session *s, struct ferry_stats *st)
{
	uint64_t now = now_us(), stop = s->phase_us[FERRY_PHASE_STOP_AND_COPY],
		 end = s->phase_us[FERRY_PHASE_DONE];

	if (!end)
		end = s->phase_us[FERRY_PHASE_FAILED];
	if (!end)
		end = now;
	st->elapsed_us = s->started_us ? end - s->started_us : 0;
	st->precopy_us = span(s, FERRY_PHASE_PRECOPY, stop ? stop : end);
	st->postcopy_us = span(s, FERRY_PHASE_POSTCOPY, end);
}

FERRY_API int ferry_get_stats(struct ferry_session *s, struct ferry_stats *st)
{
	const struct stats *c = &s->stats;
	struct ferry_stats r = { .size = st->size };
	uint64_t us = atomic_load(&c->round_us);

	if (st->size < sizeof(size_t))
		return -EINVAL;
	pthread_mutex_lock(&s->view_lock);
	r.phase = s->phase;
	r.downtime = c->downtime;
	memcpy(r.landing, c->landing, sizeof(r.landing));
	r.nlandings = c->nlandings;
	fill_times(s, &r);
	pthread_mutex_unlock(&s->view_lock);
	r.round = atomic_load(&c->round);
	r.reconnects = atomic_load(&c->reconnects);
	r.predicted_us = atomic_load(&c->predicted_us);
	r.bytes_sent = atomic_load(&c->bytes);
	r.pages_total = s->pages_total;
	r.pages_sent = atomic_load(&c->pages);
	r.pages_zero = atomic_load(&c->zero);
	r.pages_hole = atomic_load(&c->hole);
	r.pages_residue = atomic_load(&c->residue);
	r.pages_remaining = atomic_load(&c->remaining);
	r.dirty_rate = atomic_load(&c->dirty_rate);
	r.throughput = us ? (uint64_t)((unsigned __int128)atomic_load(&c->round_bytes) * 1000000 / us) : 0;
	r.faults_local = atomic_load(&c->faults_local);
	if (s->is_source) {
		r.faults = atomic_load(&c->peer_faults);
		r.fault_p50_ns = atomic_load(&c->fault_p50);
		r.fault_p99_ns = atomic_load(&c->fault_p99);
		r.fault_max_ns = atomic_load(&c->fault_max);
		r.fault_total_ns = atomic_load(&c->fault_total);
	} else {
		r.faults = atomic_load(&c->faults);
		r.fault_p50_ns = hist_quantile(&c->fault_ns, 500);
		r.fault_p99_ns = hist_quantile(&c->fault_ns, 990);
		r.fault_max_ns = atomic_load(&c->fault_ns.max);
		r.fault_total_ns = atomic_load(&c->fault_ns.sum);
	}
	_Static_assert(sizeof(r) == sizeof(struct ferry_stats), "copied up to the caller's size");
	memcpy(st, &r, st->size < sizeof(r) ? st->size : sizeof(r));
	return 0;
}

FERRY_API size_t ferry_get_faults(struct ferry_session *s, struct ferry_fault_bucket *buckets, size_t n)
{
	const struct hist *h = &s->stats.fault_ns;
	size_t found = 0;

	_Static_assert(HIST_BUCKETS == FERRY_FAULT_BUCKETS, "what the header promises to be enough");
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		uint32_t count = atomic_load_explicit(&h->bucket[i], memory_order_relaxed);

		if (!count)
			continue;
		if (found < n)
			buckets[found] = (struct ferry_fault_bucket){ .from_ns = hist_from(i),
								      .below_ns = hist_from(i + 1),
								      .count = count };
		found++;
	}
	return found;
}

static const char *name_of(const char *const *names, size_t n, unsigned v)
{
	return v < n ? names[v] : "?";
}

FERRY_API const char *ferry_phase_name(enum ferry_phase p)
{
	const struct phase_row *row = phase_row(p);

	return row ? row->name : "?";
}

FERRY_API const char *ferry_owner_name(enum ferry_owner o)
{
	static const char *const names[] = { "?", "source", "target", "none", "unknown" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FERRY_OWNER_UNKNOWN + 1, "a name an owner");
	return name_of(names, FERRY_OWNER_UNKNOWN + 1, o);
}

FERRY_API const char *ferry_outcome_name(enum ferry_outcome o)
{
	static const char *const names[] = { "?",	  "migrated", "refused", "fell-back",
					     "discarded", "in-doubt", "lost" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FERRY_OUTCOME_LOST + 1, "a name an outcome");
	return name_of(names, FERRY_OUTCOME_LOST + 1, o);
}

FERRY_API const char *ferry_mode_name(enum ferry_mode m)
{
	static const char *const names[] = { "auto", "stop-and-copy", "post-copy" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FERRY_MODE_POSTCOPY + 1, "a name a mode");
	return name_of(names, FERRY_MODE_POSTCOPY + 1, m);
}

FERRY_API const char *ferry_landing_name(enum ferry_landing_way w)
{
	static const char *const names[] = { "auto", "mapping", "kernel" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FERRY_LANDING_WAY_KERNEL + 1, "a name a way");
	return name_of(names, FERRY_LANDING_WAY_KERNEL + 1, w);
}

FERRY_API const char *ferry_reason_name(enum ferry_reason r)
{
	static const char *const names[] = { "?",     "migrated", "peer",     "link", "op",
					     "limit", "canceled", "protocol", "host" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FERRY_REASON_HOST + 1, "a name a reason");
	return name_of(names, FERRY_REASON_HOST + 1, r);
}

FERRY_API const char *ferry_message_name(unsigned number)
{
	return number && number < WIRE_TYPES ? wire_name((enum wire_type)number) : NULL;
}

#define STR2(x) #x
#define STR(x) STR2(x)

FERRY_API const char *ferry_version(void)
{
	return STR(FERRY_VERSION_MAJOR) "." STR(FERRY_VERSION_MINOR) ".0";
}

FERRY_API int ferry_has(const char *feature)
{
	static const struct {
		const char *name;
		int has;
	} features[] = {
		{ "rdma", FERRY_RDMA },
		{ "drill", FERRY_DRILL },
#ifdef FERRY_USDT
		{ "usdt", 1 },
#endif
	};

	for (size_t i = 0; feature && i < sizeof(features) / sizeof(features[0]); i++)
		if (!strcmp(feature, features[i].name))
			return features[i].has;
	return 0;
}

FERRY_API void ferry_init(void *st, size_t size)
{
	memset(st, 0, size);
	if (size >= sizeof(size))
		memcpy(st, &size, sizeof(size));
}
