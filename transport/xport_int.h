/* SPDX-License-Identifier: MIT */
/* Internal to the transports and filters; the runtime includes xport.h only. */
#ifndef FERRY_XPORT_INT_H
#define FERRY_XPORT_INT_H

#include <stdbool.h>
#include <string.h>

#include "xport.h"
#include "runtime/base/clock.h"

#define XP_WHY_MAX 160

/* Every link's table: the contract's calls, and one that only the chaos filter uses. */
struct xp_link_ops {
	struct xport_link_ops ops; /* first: link->ops points to it */
#if FERRY_DRILL
	/* Optional: send half of a message on the control channel, then break the connection; -EPIPE. */
	int (*tear)(struct xport_link *l, const struct iovec *iov, int n);
#endif
};

static inline const struct xp_link_ops *xp_link_ops(const struct xport_link *l)
{
	return (const struct xp_link_ops *)l->ops;
}

/* The memory exposed on a link: a copy of expose()'s arguments. */
struct xp_table {
	struct xport_region *r;
	size_t n;
	enum xport_access access;
};

/* Which links a listener accepts: all of them, or only those of id's session with a newer generation. */
struct xp_only {
	bool set;
	struct xport_link_id id;
};

static inline bool xp_wanted(const struct xp_only *o, const uint8_t session[16], uint32_t generation)
{
	return !o->set ||
	       (!memcmp(o->id.session, session, sizeof(o->id.session)) && generation > o->id.generation);
}

/* Copy n regions into the table. -EINVAL if a size is impossible; -ENOMEM. On failure *t is unchanged. */
int xp_table_set(struct xp_table *t, const struct xport_region *r, size_t n, enum xport_access access);
void xp_table_clear(struct xp_table *t);
/* NULL: no region has that index. */
static inline const struct xport_region *xp_table_find(const struct xp_table *t, uint32_t region)
{
	return region < t->n ? &t->r[region] : NULL;
}

/*
 * Check that the runs lie within the table, are not empty, and have at most XPORT_XFER_MAX bytes in all:
 * *bytes. memory: their memory must be present here. Else -EINVAL and the reason in why. runs[] is not
 * trusted.
 */
int xp_runs_check(const struct xp_table *t, const struct page_run *runs, unsigned n, bool memory,
		  uint64_t *bytes, char why[XP_WHY_MAX]);
/* After xp_runs_check(): fill one iovec per run. */
void xp_runs_iov(const struct xp_table *t, const struct page_run *runs, unsigned n, struct iovec *iov);

/*
 * After a call reported that memory of these runs cannot be read (or written): fail() with the first such
 * page. dst: where each run lands; NULL: in the table. Returns -EFAULT, or -EHWPOISON for a hardware error.
 */
int xp_unreachable(const struct xp_table *t, const struct page_run *runs, unsigned n, void *const *dst,
		   bool write, struct fail *f);

/* Where a run that was checked lands: by a lander, or, if NULL, at its region's base. */
static inline const struct xport_lander *xp_lander(const struct xp_table *t, const struct page_run *run)
{
	return t->r[run->region].lander;
}
uint64_t xp_runs_pages(const struct page_run *runs, unsigned n);
/*
 * Move the first pages of *runs, at most max and at most XPORT_RUNS_MAX runs, to part. Returns how many runs
 * part has. Modifies a run of which a part is left.
 */
unsigned xp_runs_cut(struct page_run **runs, unsigned *n, uint64_t max, struct page_run *part);

/* Drop done bytes from the front of *iov; modifies the entries. */
void xp_iov_advance(struct iovec **iov, int *n, size_t done);

/* Microseconds to a poll(2) timeout, rounded up, at most a minute; callers check the clock again. */
static inline int xp_poll_ms(uint64_t us)
{
	return us > 60000000 ? 60000 : (int)((us + 999) / 1000);
}

static inline struct timespec xp_timespec(uint64_t us)
{
	return (struct timespec){ .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 };
}

int tcp_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f);
int tcp_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		const struct xport_param *p, uint64_t wait_us, struct fail *f);
int mem_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f);
int mem_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
		const struct xport_param *p, uint64_t wait_us, struct fail *f);
/* The rdma transport. Prefix xr_, because librdmacm has symbols rdma_listen and rdma_connect. */
int xr_listen(struct xport_listener **ret, const struct uri *u, const struct xport_param *p, struct fail *f);
int xr_connect(struct xport_link **ret, const struct uri *u, const struct xport_link_id *id,
	       const struct xport_param *p, uint64_t wait_us, struct fail *f);

struct shape_param {
	uint64_t bandwidth;  /* page data, bytes per second; 0: no limit */
	uint64_t latency_us; /* one way; 0: none */
};

/* A filter takes ownership of the inner object and closes it on failure. */
int shape_listener(struct xport_listener **ret, struct xport_listener *inner, const struct shape_param *p,
		   struct fail *f);
int shape_link(struct xport_link **ret, struct xport_link *inner, const struct shape_param *p,
	       struct fail *f);
int chaos_listener(struct xport_listener **ret, struct xport_listener *inner, struct chaos *c,
		   const struct xport_param *p, struct fail *f);
int chaos_link(struct xport_link **ret, struct xport_link *inner, struct chaos *c,
	       const struct xport_param *p, struct fail *f);
/* 0 if a connect may be tried, -ECONNREFUSED while the link is cut. */
int chaos_may_connect(struct chaos *c, struct fail *f);

#endif
