/* SPDX-License-Identifier: MIT */
/*
 * KEPT AS IT IS: ferry.h as programs were built with it before these fields were there: ops offer, offered and poison, the
 * configuration's switchover_limit_us, and fault_total_ns of the counters. tests/abi/grow.sh builds a program with it.
 */
/*
 * ferry: live migration of a running VM, as a library for KVM VMMs.
 *
 * One struct ferry_session is one end of one migration. The embedder describes its VM (regions and
 * ops), opens a URI and lends one thread to ferry_run(), which returns when the VM has one owner again.
 * docs/embedding.md walks through it; docs/protocol.md says what crosses the link.
 *
 * Conventions. Functions return 0 or a negative errno and leave their outputs untouched on failure.
 * Sizes are in bytes, times in microseconds, pages in units of 1 << page_shift bytes. Unless its text says "any
 * thread", a function is called by one thread at a time for a given session. Sessions share nothing.
 *
 * Structs that may grow begin with .size and grow at their end: set it to sizeof, as the FERRY_*_INIT macros and
 * ferry_init() do. A field that is zero, or that the caller's smaller struct does not have, takes its default. A struct
 * that stands inside another, or in an array, has fields called reserved to grow into: they are zero.
 */
#ifndef FERRY_FERRY_H
#define FERRY_FERRY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FERRY_VERSION_MAJOR 1
#define FERRY_VERSION_MINOR 0

struct ferry_session; /* one end of one migration */
struct ferry_stream;  /* device state: sections, in order */

/* The stages of Clark et al. (NSDI 2005), with post-copy between stop-and-copy and commitment. */
enum ferry_phase {
	FERRY_PHASE_IDLE,
	FERRY_PHASE_PRE_MIGRATION,
	FERRY_PHASE_RESERVATION,
	FERRY_PHASE_PRECOPY,
	FERRY_PHASE_STOP_AND_COPY,
	FERRY_PHASE_POSTCOPY,
	FERRY_PHASE_COMMITMENT,
	FERRY_PHASE_ACTIVATION,
	FERRY_PHASE_DONE,
	FERRY_PHASE_FAILED
};

/* Who may run the VM, as far as this end can know. 0 is nobody's: a result that was never filled names no owner. */
enum ferry_owner { FERRY_OWNER_SOURCE = 1, FERRY_OWNER_TARGET, FERRY_OWNER_NONE, FERRY_OWNER_UNKNOWN };

enum ferry_outcome {
	FERRY_OUTCOME_MIGRATED = 1, /* the target owns the VM */
	FERRY_OUTCOME_REFUSED,	 /* never left pre-copy: the VM was not stopped for a moment */
	FERRY_OUTCOME_FELL_BACK, /* stopped, perhaps run tentatively at the target, and resumed at the source */
	FERRY_OUTCOME_DISCARDED, /* target only: what had been received is gone, the VM is elsewhere or dead */
	FERRY_OUTCOME_IN_DOUBT,	 /* PREPARED and COMMIT did not both arrive: owner FERRY_OWNER_UNKNOWN */
	FERRY_OUTCOME_LOST	 /* commit at switchover only: the owner is left without some of its memory */
};

enum ferry_mode {
	FERRY_MODE_AUTO,	  /* pre-copy; post-copy where pre-copy does not converge */
	FERRY_MODE_STOP_AND_COPY, /* pre-copy until the residue fits downtime_us, then all of it */
	FERRY_MODE_POSTCOPY	  /* pre-copy while each round halves the dirty set, then demand paging; max_rounds 1: one pass */
};

enum ferry_commit_at {
	FERRY_COMMIT_AT_DEFAULT,	     /* COMPLETE where the target can hold output; see ferry_ops.output_hold */
	FERRY_COMMIT_AT_COMPLETE,    /* the source stays a fallback until the last page has arrived */
	FERRY_COMMIT_AT_SWITCHOVER   /* classic post-copy: no way back once the target runs */
};

enum ferry_hold_action {
	FERRY_HOLD_FALLBACK, /* hold_limit_us passed: go back to the source */
	FERRY_HOLD_COMMIT    /* hold_limit_us passed: commit early, the source becomes a page server */
};

#define FERRY_REGION_SHARED 1u /* fd mapped MAP_SHARED: a memfd, or a file on tmpfs or hugetlbfs; else private anonymous memory */
/*
 * Backed by transparent huge pages: reserve sees the flag and advises the kernel for its mapping, and at the end,
 * while the VM runs, the target collapses what arrived in small pages (page_shift 12 only; docs/embedding.md).
 */
#define FERRY_REGION_THP 2u

/*
 * One piece of guest RAM. Regions overlap neither in gpa nor in hva nor in their file; gpa, len, hva and fd_offset are
 * multiples of the page size. In the reservation both ends compare every region with the kernel's account of the
 * mapping and refuse what differs: all of it is mapped readable and writable; it is private anonymous memory, or a
 * MAP_SHARED mapping of fd at fd_offset, where fd is a memfd or a file on tmpfs or hugetlbfs and long enough; no other
 * userfaultfd serves its missing or minor faults (write protection for tracking is fine). At the target also: fd is
 * open for writing and not sealed against it, a tmpfs with a limit has room for all of it, private memory of hugetlbfs
 * is not mapped MAP_NORESERVE.
 *
 * What the kernel cannot tell is the embedder's promise: from ferry_run() until it returns the mappings and the length of
 * the file stay as they are (madvise() that frees, as a balloon's, is a write that dirty_fetch reports), and where fd is
 * shared, nobody fills it through another mapping except where dirty_fetch reports that too.
 */
struct ferry_region {
	uint64_t gpa;	     /* guest physical address, bytes */
	uint64_t len;	     /* bytes */
	void *hva;	     /* the VM's own mapping of it, page aligned */
	int fd;		     /* FERRY_REGION_SHARED: the memfd; else -1 */
	uint64_t fd_offset;  /* FERRY_REGION_SHARED: where in the memfd it begins, bytes */
	uint32_t id;	     /* unique in the VM; what names it on the link */
	uint32_t page_shift; /* 12; 21: MAP_HUGETLB or MFD_HUGETLB of 2 MiB; others are refused */
	uint32_t flags;	     /* FERRY_REGION_* */
	uint32_t reserved[11];
};

struct ferry_round {
	uint32_t round;		/* 0: all populated pages */
	uint32_t reserved;
	uint64_t pages_sent;	/* with data */
	uint64_t pages_zero;
	uint64_t bytes;		/* of page data */
	uint64_t duration_us;
	uint64_t pages_dirty;	/* found dirty after it: the next round */
	uint64_t reserved2[4];
};

struct ferry_downtime { /* microseconds; the items sum up to total_us */
	uint64_t total_us;	/* vCPUs stopped at one end until resumed at the other */
	uint64_t pause_us;
	uint64_t fetch_us;	/* last dirty_fetch */
	uint64_t residue_us;	/* stop-and-copy: sending it, as far as save did not hide it; post-copy: its bitmap */
	uint64_t save_us;
	uint64_t send_us;	/* state and switchover on the link, both ways */
	uint64_t arm_us;	/* target: drop the residual pages, arm userfaultfd */
	uint64_t load_us;	/* target */
	uint64_t resume_us;	/* target */
	uint64_t reserved[7];
};

struct ferry_stats {
	size_t size;
	enum ferry_phase phase;
	uint32_t round;
	uint32_t reconnects;
	uint32_t predicted_us;	 /* source: the downtime, as the policy expected it when it said to stop; 0: it has not */
	uint64_t elapsed_us;	 /* since ferry_run() */
	uint64_t precopy_us;
	uint64_t postcopy_us;
	uint64_t bytes_sent;	 /* source: page data put or served; target: landed or pulled */
	uint64_t pages_total;
	uint64_t pages_sent;	 /* pages that crossed with data */
	uint64_t pages_zero;	 /* crossed as runs */
	uint64_t pages_hole;	 /* never populated, never read */
	uint64_t pages_remaining; /* in this round, or of the residue */
	uint64_t pages_residue;	 /* left to post-copy at the switchover */
	uint64_t dirty_rate;	 /* pages a second, over the last round */
	uint64_t throughput;	 /* bytes a second of page data in pre-copy */
	uint64_t faults;	 /* userfaults that needed the peer */
	uint64_t faults_local;	 /* userfaults resolved without it */
	uint64_t fault_p50_ns, fault_p99_ns, fault_max_ns; /* of those over the link: event read until page placed */
	struct ferry_downtime downtime; /* source, once the target has run */
};

enum ferry_event_type {
	FERRY_EVENT_PHASE,  /* .phase has been entered */
	FERRY_EVENT_ROUND,  /* .round has ended (source) */
	FERRY_EVENT_POLICY, /* .text: the policy's sentence */
	FERRY_EVENT_LINK    /* .text: lost, or back */
};

struct ferry_event {
	size_t size;
	enum ferry_event_type type;
	enum ferry_phase phase;
	uint64_t time_us; /* since ferry_run() */
	const char *text; /* valid during the call; may be NULL */
	struct ferry_round round;
};

/*
 * What the embedder promises. All ops but log run on the thread inside ferry_run(), one at a time; an
 * op may block. They return 0 or a negative errno; a failed op ends the migration, and the VM goes on
 * at its owner. An op that is NULL and not marked optional is an error at ferry_source_new()/ferry_target_new().
 * docs/embedding.md has the whole contract.
 */
struct ferry_ops {
	size_t size;

	/* source, optional: what the target must offer (CPUID, devices), checked by its reserve. */
	int (*needs)(void *vm, struct ferry_stream *out);
	/*
	 * target: allocate memory for n regions and fill hva, fd and fd_offset of each; everything else is
	 * given. The memory must be fresh (reads as zero): it may be allocated beforehand (MADV_POPULATE_WRITE,
	 * which makes pre-copy and the VM's first touches faster), and after that nothing may touch it until load. needs: the
	 * source's sections; ferry_stream_fail() on it refuses with a sentence.
	 */
	int (*reserve)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);

	/* source: begin, end dirty tracking. After dirty_start returns no write is missed. */
	int (*dirty_start)(void *vm);
	int (*dirty_stop)(void *vm);
	/*
	 * source: set in bits[] the pages of a region written since the last fetch (page i is bit i%64 of
	 * word i/64; a superset is fine, a missing bit is not). bits[] comes zeroed. FERRY_DIRTY_LAST: the VM
	 * is paused and nothing will be fetched again, so tracking need not be re-armed.
	 */
	int (*dirty_fetch)(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags);
	/*
	 * source, optional: slow the guest by this percentage (0: full speed). Called in pre-copy when the guest outruns the
	 * link and there is no post-copy to go to: 20, 40, 60, 80, before the migration is given up; 0 in the end.
	 */
	int (*throttle)(void *vm, unsigned percent);

	/* both: on return no vCPU runs and no backend writes guest memory. */
	int (*pause)(void *vm);
	/* both: let it run. The source's fallback: the VM continues from its stop point, so it must not fail. */
	int (*resume)(void *vm);

	/* source: all state but RAM, while paused. target: take it; a section it cannot take is refused. */
	int (*save)(void *vm, struct ferry_stream *out);
	int (*load)(void *vm, struct ferry_stream *in);

	/*
	 * target, optional, both or neither: from output_hold on, nothing the VM emits leaves the host (packets,
	 * disk writes, console), until output_release lets it go in order. Having them is what allows the VM to
	 * run at the target before the commit; discard throws away what was held.
	 */
	int (*output_hold)(void *vm);
	int (*output_release)(void *vm);

	/* target, optional: the VM is ours: take disk locks, announce it on the network. Before output_release. */
	int (*activate)(void *vm);
	/* source, optional: the VM is gone from here: destroy it. Never called before COMMITTED. */
	int (*retire)(void *vm);
	/*
	 * target: stop the vCPUs for good; they may be blocked on a fault: kick them by a signal. What was held is
	 * thrown away. Destroy the KVM objects and the memory only after ferry_free(): faults that KVM's own workers
	 * wait for are let go after this op, and closing a vCPU before that would wait for ever.
	 */
	int (*discard)(void *vm);

	/*
	 * Optional, both ends or neither: settle an in-doubt ending by a compare-and-swap outside both hosts: if
	 * nothing is recorded for session, record want; *is is what is recorded then, FERRY_OWNER_SOURCE or FERRY_OWNER_TARGET.
	 * ferry/arbiter_file.h and ferry/arbiter_etcd.h are ready ones; docs/failure-model.md says when it is asked.
	 */
	int (*arbiter)(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);

	void (*event)(void *vm, const struct ferry_event *ev); /* optional; must not block for long */
	void (*log)(void *vm, int level, const char *line);    /* optional; any thread; docs/observability.md */
};

#define FERRY_DIRTY_LAST 1u

struct ferry_vm {
	size_t size;
	void *vm; /* handed to every op */
	const struct ferry_ops *ops;
	const struct ferry_region *regions; /* source: its RAM; target: NULL */
	size_t nregions;
};

/*
 * Zero is the default everywhere. The source decides mode, commit_at, at_hold_limit, hold_limit_us and channels, and tells the
 * target; a target may set them, and nothing comes of it. Each end has its own of all the others but where the text says
 * whose they are; of bandwidth and reconnect_us what both ends say counts.
 */
struct ferry_config {
	size_t size;
	enum ferry_mode mode;
	enum ferry_commit_at commit_at;
	enum ferry_hold_action at_hold_limit;
	uint32_t channels;	   /* data channels; 1, at most 16 */
	uint32_t max_rounds;	   /* 30; at most 1000 */
	uint32_t poll_us;	   /* busy-poll this long after the last fault, unless the core is wanted; 1000, at most 10000 */
	uint32_t flags;		   /* FERRY_CONFIG_* */
	uint32_t reserved;
	uint64_t downtime_us;	   /* aim for the downtime; 300000 */
	uint64_t precopy_limit_us; /* bound on pre-copy; 0: none but max_rounds */
	uint64_t bandwidth;	   /* bytes a second of page data that this end puts, gets or serves; 0: unlimited */
	uint64_t hold_limit_us;	   /* longest tentative run; 0: none. The source keeps it too, should the target not */
	uint64_t connect_us;	   /* source: to reach the target; target: to be reached; 10 s */
	/* A peer that asks for more than 10 times as long as this end does is refused by the handshake. */
	uint64_t reconnect_us;	   /* wait this long for a lost link; 5 s; FERRY_CONFIG_NO_RECONNECT: 0 */
	uint64_t timeout_us;	   /* a peer silent this long is a lost link; 3 s, at least 10 ms */
	uint8_t session[16];	   /* source: names the migration, for the arbiter; never twice the same; zero: random */
};

#define FERRY_CONFIG_NO_RECONNECT 1u
#define FERRY_CONFIG_DRILL 2u /* allow ferry_drill() */

#define FERRY_DETAIL_MAX 512

/* Whose doing the end is, for programs; detail is for people. */
enum ferry_reason {
	FERRY_REASON_MIGRATED = 1, /* nobody's: the target owns the VM */
	FERRY_REASON_PEER,	   /* the other end refused, or gave up: detail has its sentence, and its result its reason */
	FERRY_REASON_LINK,	   /* the peer could not be reached, or the link was lost and did not come back */
	FERRY_REASON_OP,	   /* an op of this VMM's failed: .op has its name */
	FERRY_REASON_LIMIT,	   /* a limit of the configuration was reached */
	FERRY_REASON_CANCELED,	   /* ferry_cancel() */
	FERRY_REASON_PROTOCOL,	   /* the peer does not keep to the protocol, or speaks another version of it */
	FERRY_REASON_HOST	   /* this host, or what ferry was given, cannot: memory, a region, a system call, a URI */
};

struct ferry_result {
	size_t size;
	enum ferry_outcome outcome;
	enum ferry_owner owner;
	enum ferry_owner claim; /* FERRY_OUTCOME_IN_DOUBT: what an arbiter may be asked for later, here; else as owner */
	enum ferry_phase phase; /* the last one entered before DONE or FAILED */
	enum ferry_reason reason;
	int error;		/* 0, or what went wrong first */
	char op[32];		/* FERRY_REASON_OP: which, as in struct ferry_ops; else "" */
	uint8_t session[16];
	char detail[FERRY_DETAIL_MAX]; /* one sentence: what happened, with the values */
	/*
	 * Of FERRY_REGION_THP regions, the bytes that the VM's mapping has as huge pages (0 before Linux 6.7). Source: when
	 * ferry_run() began, both. Target: before and after MADV_COLLAPSE, which took collapse_us; ferry_run() returns after
	 * it, and the VM runs meanwhile.
	 */
	uint64_t thp_before, thp_after, collapse_us;
	uint64_t reserved[12];
	struct ferry_stats stats; /* last: it grows at its end */
};

/*
 * For initialisers: in C the first of any number of designated fields, { FERRY_CONFIG_INIT, .channels = 4 }; in C++ the first
 * field alone. Where neither is to be had, ferry_init(&config, sizeof(config)) does the same.
 */
#ifdef __cplusplus
#define FERRY_INIT_OF(type) sizeof(type)
#else
#define FERRY_INIT_OF(type) .size = sizeof(type)
#endif
#define FERRY_OPS_INIT FERRY_INIT_OF(struct ferry_ops)
#define FERRY_VM_INIT FERRY_INIT_OF(struct ferry_vm)
#define FERRY_CONFIG_INIT FERRY_INIT_OF(struct ferry_config)
/* Any struct that begins with .size: all zero but that. */
void ferry_init(void *st, size_t size);

/*
 * One end of a migration. vm and cfg are copied (regions too), ops and what they point to must outlive the
 * session; cfg may be NULL. -EINVAL, -EOPNOTSUPP (region kind, or an fd that is no file in memory), -EBADF (a
 * region's fd), -ENOMEM, or the system's, of fstat(), fstatfs(), eventfd() or getrandom(); *ret is then untouched,
 * and the sentence goes to ops->log (level 3, text="...").
 */
int ferry_source_new(struct ferry_session **ret, const struct ferry_vm *vm, const struct ferry_config *cfg);
int ferry_target_new(struct ferry_session **ret, const struct ferry_vm *vm, const struct ferry_config *cfg);

/*
 * Source: where to connect, tried by ferry_run(). Target: listens from here on; port 0 takes a free one.
 * "tcp:HOST:PORT", "tcp:[::1]:PORT", "rdma:HOST:PORT", "mem:NAME" (both ends in one process). A source opens after
 * its target.
 */
int ferry_open(struct ferry_session *s, const char *uri);
/* The URI a target listens on, with the port that was chosen. -ENOSPC when cap is too small. Any thread. */
int ferry_get_uri(struct ferry_session *s, char *buf, size_t cap);

/*
 * The migration; blocks until it has ended at this end, calling the ops on this thread. Once a session.
 * Returns res->error. res is filled whatever happens; on FERRY_OUTCOME_MIGRATED the error is 0.
 */
int ferry_run(struct ferry_session *s, struct ferry_result *res);

/* Any thread, source: end pre-copy now, whatever is left. -EALREADY once stopped, -EINVAL at a target. */
int ferry_switchover(struct ferry_session *s);
/*
 * Any thread: give up; the VM stays at, or returns to, the source. -EALREADY once the commit is decided or the migration
 * has been given up: then it only cuts short what is left before ferry_run() returns: at a target collapsing transparent
 * huge pages, at either end telling a peer that is out of reach.
 */
int ferry_cancel(struct ferry_session *s);
/* Any thread, while the session lives. st->size set by the caller. */
int ferry_get_stats(struct ferry_session *s, struct ferry_stats *st);
/*
 * Any thread, target: how the faults that needed the peer spread, event read until page placed; a bucket's ends
 * are at most 6.25 % apart. Fills the buckets that are not empty, shortest first, at most n of them, and returns
 * how many there are; FERRY_FAULT_BUCKETS is always enough. A source has none.
 */
struct ferry_fault_bucket {
	uint64_t from_ns, below_ns;
	uint64_t count;
	uint64_t reserved;
};
#define FERRY_FAULT_BUCKETS 640
size_t ferry_get_faults(struct ferry_session *s, struct ferry_fault_bucket *buckets, size_t n);
/* Any thread: the first error's sentence so far, or "". The text lives as long as the session. */
const char *ferry_get_detail(struct ferry_session *s);
/*
 * Any thread, with FERRY_CONFIG_DRILL: break something on purpose. -EINVAL, -EPERM without the flag.
 *
 *	"cut", "cut:MS"		the link, for good or so that connections fail for MS milliseconds
 *	"stall:MS"		nothing moves for so long
 *	"mtu", "mtu:MS"		packets of full size are lost, for good or for MS milliseconds: page data and messages above 1,000
 *				bytes do not arrive, shorter ones do, and a link that was lost comes back
 *	"keep", "keep:MS"	a lost link is not closed: a device that does not let go, for good or for MS milliseconds
 *	"heal"			ends these
 *	"cut-before:MESSAGE"	the link is cut instead of sending the next message of that name (docs/protocol.md: "COMMIT");
 *	"cut-middle:", "cut-after:"	or in its middle, or when it is out
 *	"lost:MESSAGE"		it vanishes, and everything that follows on that link, both ways
 *	"kill-before:MESSAGE", "kill-after:", "stop-before:", "stop-after:"	SIGKILL or SIGSTOP for this process
 *	"kill-heard:MESSAGE"	SIGKILL when it has arrived; "kill-at:" that, or instead of sending it
 *	"pending"		asks: 1 while a fault waits for its message, else 0
 *
 * MESSAGE@N is the Nth from now on; :MS behind cut-* and lost is as for "cut". One fault waits at a time.
 */
int ferry_drill(struct ferry_session *s, const char *fault);
/* After ferry_run() has returned, or before it was called. NULL is fine. */
void ferry_free(struct ferry_session *s);

/* Device state. A section has an id and a version of the embedder's own; 64 MiB in all. */
struct ferry_section {
	uint32_t id, version;
	const void *data; /* valid until the next call on the stream */
	size_t len;
	uint64_t reserved[2];
};
int ferry_stream_put(struct ferry_stream *out, uint32_t id, uint32_t version, const void *data, size_t len);
/* 1: a section; 0: the end; negative: the stream is damaged. */
int ferry_stream_next(struct ferry_stream *in, struct ferry_section *sec);
/* Refuse: records the sentence (the first counts) and returns err, a negative errno. */
int ferry_stream_fail(struct ferry_stream *st, int err, const char *fmt, ...)
#if defined(__GNUC__)
	__attribute__((format(printf, 3, 4)))
#endif
	;

const char *ferry_phase_name(enum ferry_phase p);     /* "pre-copy" */
const char *ferry_owner_name(enum ferry_owner o);     /* "source" */
const char *ferry_outcome_name(enum ferry_outcome o); /* "fell-back" */
const char *ferry_mode_name(enum ferry_mode m);	      /* "stop-and-copy" */
const char *ferry_reason_name(enum ferry_reason r);   /* "peer" */
const char *ferry_message_name(unsigned number);      /* 16: "COMMIT"; NULL: docs/protocol.md has no such message */
const char *ferry_version(void);		      /* "1.0.0" */
/* 1: this build of the library has it: "rdma", "drill", "usdt". 0: it has not, or does not know the word. */
int ferry_has(const char *feature);

#ifdef __cplusplus
}
#endif
#endif
