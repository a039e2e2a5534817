/* SPDX-License-Identifier: MIT */
/*
 * ferry: live migration of a running VM, as a library for KVM VMMs.
 *
 * One struct ferry_session is one end of one migration. The embedder describes its VM (regions and ops),
 * opens a URI and lends one thread to ferry_run(), which returns when the migration has ended at this end.
 * docs/embedding.md walks through an example; docs/protocol.md specifies the bytes on the link.
 *
 * Conventions. Functions return 0 or a negative errno and leave their outputs untouched on failure. Sizes are
 * in bytes, times in microseconds; a page is 4096 bytes. A function may be called by any thread if its
 * comment says "any thread"; otherwise only one thread at a time may call it for a given session. Sessions
 * share nothing.
 *
 * A struct that begins with .size can grow at its end in a later version. Set .size to sizeof, as the
 * FERRY_*_INIT macros and ferry_init() do. A field that is zero, or that lies beyond the caller's .size,
 * takes its default. A struct inside another struct or in an array grows into its reserved fields; they must
 * be zero.
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

/* The phases of Clark et al. (NSDI 2005), with post-copy between stop-and-copy and commitment. */
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

/*
 * The end that may run the VM, as far as this end knows. 0 is no owner: the result was never filled. NONE: the VM
 * is gone. The library never returns that, because only a program that sees both ends can tell.
 */
enum ferry_owner { FERRY_OWNER_SOURCE = 1, FERRY_OWNER_TARGET, FERRY_OWNER_NONE, FERRY_OWNER_UNKNOWN };

enum ferry_outcome {
	FERRY_OUTCOME_MIGRATED = 1, /* the target owns the VM */
	FERRY_OUTCOME_REFUSED,	    /* ended before the pause: the VM has run at the source all the time */
	FERRY_OUTCOME_FELL_BACK,    /* paused, perhaps run tentatively at the target, resumed at the source */
	FERRY_OUTCOME_DISCARDED,    /* target only: it has discarded the VM and does not own it */
	FERRY_OUTCOME_IN_DOUBT,	    /* this end cannot know who owns the VM: FERRY_OWNER_UNKNOWN */
	FERRY_OUTCOME_LOST	    /* the target owns the VM, but pages are missing or its resume failed */
};

enum ferry_mode {
	FERRY_MODE_AUTO,	  /* pre-copy; post-copy if pre-copy does not converge */
	FERRY_MODE_STOP_AND_COPY, /* pre-copy until the rest fits downtime_us, then pause and send it */
	FERRY_MODE_POSTCOPY	  /* pre-copy while each round halves the dirty set, then post-copy */
};

enum ferry_commit_at {
	FERRY_COMMIT_AT_DEFAULT,   /* as COMPLETE */
	FERRY_COMMIT_AT_COMPLETE,  /* the source can resume until the last page arrived; needs output_hold */
	FERRY_COMMIT_AT_SWITCHOVER /* classic post-copy: no return to the source once the target runs */
};

enum ferry_hold {
	FERRY_HOLD_FALLBACK, /* hold_limit_us passed: the VM resumes at the source */
	FERRY_HOLD_COMMIT    /* hold_limit_us passed: commit now; the source serves the missing pages */
};

/* fd mapped MAP_SHARED: a memfd, or a file on tmpfs or hugetlbfs. Without it: private anonymous memory. */
#define FERRY_REGION_SHARED 1u
/*
 * Backed by transparent huge pages. reserve sees the flag and calls madvise() for its mapping. After the
 * migration, while the VM runs, the target collapses the small pages (page_shift 12 only; docs/embedding.md).
 */
#define FERRY_REGION_THP 2u
/*
 * Set by the reserve op of a target only, with FERRY_REGION_SHARED: the VM is another process, such as a QEMU
 * that this program drives. hva is the address in that process and is never accessed here, and uffd is a
 * userfaultfd that it has created. All regions of a session are foreign and have the same uffd, or none is.
 */
#define FERRY_REGION_FOREIGN 4u

/*
 * One piece of guest RAM. Regions must not overlap in gpa, hva or their file; gpa, len, hva and fd_offset are
 * multiples of the page size. In the reservation both ends compare every region with /proc/self/maps and
 * fstat() and refuse the migration unless all of this holds:
 * - the whole region is mapped readable and writable;
 * - it is private anonymous memory, or a MAP_SHARED mapping of fd at fd_offset; fd is a memfd or a file on
 *   tmpfs or hugetlbfs, and the file is long enough;
 * - no other userfaultfd serves its missing or minor faults (write protection for tracking is fine);
 * - at the target: fd is open for writing and not sealed against writes; a tmpfs with a size limit has room
 *   for the whole region; private hugetlbfs memory is not mapped MAP_NORESERVE.
 *
 * The embedder promises the rest. While ferry_run() runs, mappings and file lengths do not change. madvise()
 * that frees pages (a balloon) counts as a write: dirty_fetch must report it. If another mapping writes a
 * shared fd, dirty_fetch must report that too.
 *
 * With FERRY_REGION_FOREIGN the library cannot look at the mapping of the other process. That the whole region
 * is a MAP_SHARED mapping of fd at fd_offset there, and that nothing over there touches it between reserve and
 * load, is the embedder's promise, too. What was touched before reserve returns is taken back: the library
 * punches the region out of its file.
 */
struct ferry_region {
	uint64_t gpa;	     /* guest physical address, bytes */
	uint64_t len;	     /* bytes */
	void *hva;	     /* the VM's own mapping of it, page aligned; FERRY_REGION_FOREIGN: over there */
	int fd;		     /* FERRY_REGION_SHARED: the file; else -1 */
	uint64_t fd_offset;  /* FERRY_REGION_SHARED: offset of the region in the file, bytes */
	uint32_t id;	     /* unique in the VM; identifies the region on the link */
	uint32_t page_shift; /* 12, or 21 for hugetlbfs pages of 2 MiB; others are refused */
	uint32_t flags;	     /* FERRY_REGION_* */
	/*
	 * FERRY_REGION_FOREIGN only, otherwise 0: a userfaultfd of the other process on which nobody has called
	 * UFFDIO_API; it stays the embedder's and must stay open until ferry_run() returns. -1: there is none, and
	 * post-copy is not possible.
	 */
	int uffd;
	uint32_t reserved[10];
};

struct ferry_round {
	uint32_t round; /* from 0; round 0 sends all populated pages */
	uint32_t reserved;
	uint64_t pages_sent; /* pages sent with data */
	uint64_t pages_zero; /* pages announced as zero */
	uint64_t bytes;	     /* page data */
	uint64_t duration_us;
	uint64_t pages_dirty; /* found dirty after this round; the next round sends them */
	uint64_t reserved2[4];
};

struct ferry_downtime {	     /* the downtime and its parts, microseconds; the parts sum up to total_us */
	uint64_t total_us;   /* from pause at the source until the vCPUs run at the target */
	uint64_t pause_us;   /* ops.pause */
	uint64_t fetch_us;   /* last ops.dirty_fetch */
	uint64_t residue_us; /* sending the last pages (less the overlap with save), or their bitmap */
	uint64_t save_us;    /* ops.save */
	uint64_t send_us;    /* device state and SWITCHOVER on the link, both ways */
	uint64_t arm_us;     /* target: drop the residual pages, arm userfaultfd */
	uint64_t load_us;    /* target: ops.load */
	uint64_t resume_us;  /* target: ops.resume */
	uint64_t reserved[7];
};

/* How page data that a transport copies gets into the target's memory. RDMA devices write by themselves. */
enum ferry_landing_way {
	FERRY_LANDING_WAY_AUTO,	   /* measure both in the reservation, use the faster one */
	FERRY_LANDING_WAY_MAPPING, /* received in the page: one copy, and a fault per page that is not mapped */
	FERRY_LANDING_WAY_KERNEL /* received in a buffer; a system call copies it into the page, without a fault */
};

/*
 * What a target uses for one kind of memory, and what it has measured in the reservation: nanoseconds for 4
 * KiB that land on a fresh page; or, if the reserve op has allocated the memory, on a mapped page, plus a
 * quarter of what mapping it costs in the reservation. 0 if it has not measured (the way was given; a region of
 * fewer than 2 MiB, or 10 MiB with THP; a refused system call).
 */
struct ferry_landing {
	uint32_t flags; /* the kind: FERRY_REGION_SHARED, FERRY_REGION_THP, both, or 0; never hugetlbfs */
	enum ferry_landing_way way;
	uint32_t mapping_ns, kernel_ns;
	uint32_t reserved[4];
};
#define FERRY_LANDINGS 4

struct ferry_stats {
	size_t size;
	enum ferry_phase phase;
	uint32_t round;
	uint32_t reconnects;
	uint32_t predicted_us; /* source: the downtime predicted at the end of pre-copy; 0 before */
	uint64_t elapsed_us;   /* since ferry_run() was called */
	uint64_t precopy_us;   /* time in pre-copy */
	uint64_t postcopy_us;  /* time in post-copy */
	uint64_t bytes_sent;   /* page data; source: put or served; target: landed or pulled */
	uint64_t pages_total;
	uint64_t pages_sent;	  /* pages that crossed with data */
	uint64_t pages_zero;	  /* pages announced as zero */
	uint64_t pages_hole;	  /* pages never populated: not read, not sent */
	uint64_t pages_remaining; /* pages still to send in this round, or still missing in post-copy */
	uint64_t pages_residue;	  /* pages left to post-copy at the switchover */
	uint64_t dirty_rate;	  /* pages per second, over the last round */
	uint64_t throughput;	  /* page data in pre-copy, bytes per second */
	uint64_t faults;	  /* userfaults that needed the peer */
	uint64_t faults_local;	  /* userfaults resolved without the peer */
	uint64_t fault_p50_ns, fault_p99_ns, fault_max_ns; /* of .faults: from event read until page placed */
	struct ferry_downtime downtime; /* source: filled when the target has reported that the VM runs */
	uint64_t fault_total_ns;	/* sum over .faults: how long vCPUs have waited for the link */
	struct ferry_landing landing[FERRY_LANDINGS]; /* target: the first nlandings; filled before pre-copy */
	uint32_t nlandings;			      /* kinds of memory that the VM has; 0 over rdma, mem */
	uint32_t reserved;
};

enum ferry_event_type {
	FERRY_EVENT_PHASE,  /* .phase was entered */
	FERRY_EVENT_ROUND,  /* source: .round has ended */
	FERRY_EVENT_POLICY, /* .text: the policy's verdict, one sentence */
	FERRY_EVENT_LINK    /* .text: the link is lost, with cause and address, or back */
};

struct ferry_event {
	size_t size;
	enum ferry_event_type type;
	enum ferry_phase phase;
	uint64_t time_us; /* since ferry_run() was called */
	const char *text; /* valid during the call; may be NULL */
	struct ferry_round round;
};

/*
 * The embedder's callbacks. All ops but log run on the thread inside ferry_run(), one at a time, and may
 * block. They return 0 or a negative errno; if an op fails, the migration ends and the VM continues at its
 * owner. ferry_source_new() and ferry_target_new() refuse a NULL op that is not marked optional.
 * docs/embedding.md has the whole contract.
 */
struct ferry_ops {
	size_t size;

	/* source, optional: write what the target must offer (CPUID, devices); its reserve checks it. */
	int (*needs)(void *vm, struct ferry_stream *out);
	/*
	 * target: allocate memory for n regions and fill hva, fd and fd_offset of each (and uffd, if it adds
	 * FERRY_REGION_FOREIGN to flags); the other fields are given. The memory must be fresh (read as
	 * zero). reserve may allocate its pages (MADV_POPULATE_WRITE; not of foreign regions), which makes
	 * pre-copy and the VM's first accesses faster; after reserve nothing may touch the memory until load.
	 * needs: the source's sections; to refuse, return ferry_stream_fail(needs, ...).
	 */
	int (*reserve)(void *vm, struct ferry_region *regions, size_t n, struct ferry_stream *needs);

	/* source: start and stop dirty tracking. After dirty_start returns, no write is missed. */
	int (*dirty_start)(void *vm);
	int (*dirty_stop)(void *vm);
	/*
	 * source: set in bits[] the pages of a region written since the last fetch. Page i is bit i%64 of
	 * word i/64; bits[] holds npages bits and is zeroed. A superset is fine, a missing bit corrupts
	 * memory. FERRY_DIRTY_LAST: the VM is paused and this is the last fetch, so tracking need not be
	 * re-armed.
	 */
	int (*dirty_fetch)(void *vm, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags);
	/*
	 * source, optional: slow the guest by this percentage (0: full speed). Called in pre-copy if the
	 * guest dirties memory faster than the link moves it and post-copy is not possible: with 20, 40, 60
	 * and 80, then the migration is given up; with 0 when the migration ends.
	 */
	int (*throttle)(void *vm, unsigned percent);

	/* both: stop the VM. On return no vCPU runs and no backend writes guest memory. */
	int (*pause)(void *vm);
	/* both: run the VM. At the source this is the fallback, from the stop point: it must not fail. */
	int (*resume)(void *vm);

	/* source: write all state but RAM; the VM is paused. target: read it; refuse an unknown section. */
	int (*save)(void *vm, struct ferry_stream *out);
	int (*load)(void *vm, struct ferry_stream *in);

	/*
	 * target, optional, both or neither: from output_hold until output_release nothing that the VM emits
	 * (packets, disk writes, console) leaves the host. output_release emits it in order; discard drops
	 * it. With these ops the VM can run at the target before the commit.
	 */
	int (*output_hold)(void *vm);
	int (*output_release)(void *vm);

	/* target, optional: this end owns the VM: take disk locks, announce it. Before output_release. */
	int (*activate)(void *vm);
	/* source, optional: destroy the VM. Called only after COMMITTED, or if the arbiter says target. */
	int (*retire)(void *vm);
	/*
	 * target: stop the vCPUs for good and drop the held output. A vCPU may be blocked on a fault: kick it
	 * by a signal. Destroy KVM objects and memory only after ferry_free(): KVM's workers may wait for
	 * faults that are released after this op, and closing a vCPU before that blocks for ever.
	 */
	int (*discard)(void *vm);

	/*
	 * Optional, both ends or neither: decide an in-doubt ending by a compare-and-swap outside both hosts.
	 * If nothing is recorded for session, record want; set *is to the recorded owner, FERRY_OWNER_SOURCE
	 * or FERRY_OWNER_TARGET. ferry/arbiter_file.h and ferry/arbiter_etcd.h implement it;
	 * docs/failure-model.md says when ferry calls it.
	 */
	int (*arbiter)(void *vm, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is);

	void (*event)(void *vm, const struct ferry_event *ev); /* optional; must not block for long */
	void (*log)(void *vm, int level, const char *line); /* optional; any thread; docs/observability.md */

	/*
	 * target, optional: write sections for the source's VMM, at most 64 KiB in all, such as the address
	 * of another channel or what this host supports. Called after reserve has succeeded.
	 */
	int (*offer)(void *vm, struct ferry_stream *out);
	/*
	 * source, optional: read the target's sections, before pre-copy; there are none if the target has no
	 * offer. To refuse, return ferry_stream_fail(in, ...). The peer wrote them: check every value.
	 */
	int (*offered)(void *vm, struct ferry_stream *in);

	/*
	 * Optional: carry pages that the source's host has lost to a hardware error over as poisoned pages.
	 * If either end lacks the op, the target runs a Linux before 6.6 or its regions are foreign, or the
	 * transport is rdma, such a page refuses the migration. page and npages count 4 KiB; where page_shift
	 * is 21 they are multiples of 512. Source: these pages cannot be read; return 0 to migrate without
	 * their bytes. The VM may run or be paused. If a page is replaced, dirty_fetch must report all of it.
	 * Target, before load: these pages are poisoned now; an access raises SIGBUS (for a vCPU BUS_MCEERR_AR), as at the source. The
	 * VMM adds them to its list of poisoned pages.
	 */
	int (*poison)(void *vm, uint32_t region, uint64_t page, uint64_t npages);
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
 * Zero selects the default, which the comment gives. The source decides mode, commit_at, at_hold_limit,
 * hold_limit_us and channels and sends them to the target, which ignores its own. Each end uses its own value
 * of the other fields, unless the comment names one end; bandwidth and reconnect_us of both ends count.
 */
struct ferry_config {
	size_t size;
	enum ferry_mode mode;
	enum ferry_commit_at commit_at;
	enum ferry_hold at_hold_limit;
	uint32_t channels;   /* data channels; default 1, at most 16 */
	uint32_t max_rounds; /* bound on the rounds of pre-copy; default 30, at most 1000 */
	/*
	 * target: poll this long after the last fault before sleeping; polling stops as soon as another
	 * thread wants the CPU. Default 1000, at most 10000.
	 */
	uint32_t poll_us;
	uint32_t flags; /* FERRY_CONFIG_* */
	uint32_t reserved;
	uint64_t downtime_us;	   /* the downtime to aim for; default 300000 */
	uint64_t precopy_limit_us; /* bound on the time in pre-copy; default: none */
	uint64_t bandwidth;	   /* limit on this end's page data, bytes per second; default: none */
	uint64_t hold_limit_us;	   /* longest tentative run, enforced by both ends; default: none */
	uint64_t connect_us;	   /* source: keep trying, target: wait for the source this long; 10 s */
	/* The handshake refuses a peer whose reconnect_us or timeout_us is more than 10 times this end's. */
	uint64_t reconnect_us; /* wait this long for a lost link; 5 s; FERRY_CONFIG_NO_RECONNECT: 0 */
	uint64_t timeout_us;   /* the link is lost after this long without a word; 3 s, at least 10 ms */
	uint8_t session[16];   /* source: id of the migration, for the arbiter; never reuse it; random */
	/*
	 * source: if the target has reported neither RUNNING nor PREPARED this long after the pause, the VM
	 * resumes here and ferry_run() returns -ETIME. Default 30 s.
	 */
	uint64_t switchover_limit_us;
	/*
	 * target: how pages land. A forced way that is not possible here (a system call is refused, the fd of
	 * shared memory has O_APPEND, the file is longer than RLIMIT_FSIZE) gives way to MAPPING.
	 */
	enum ferry_landing_way landing;
	uint32_t reserved2;
};

#define FERRY_CONFIG_NO_RECONNECT 1u
/* 2u: ferry/drill.h */

#define FERRY_DETAIL_MAX 512

/* Why the migration ended, for programs; ferry_result.detail is for people. */
enum ferry_reason {
	FERRY_REASON_MIGRATED = 1, /* success: the target owns the VM */
	FERRY_REASON_PEER,	   /* the peer refused or gave up: see detail, and the peer's own result */
	FERRY_REASON_LINK,	   /* the peer was not reached, or the link was lost and did not come back */
	FERRY_REASON_OP,	   /* an op of this end failed: .op has its name */
	FERRY_REASON_LIMIT,	   /* a limit of the configuration was reached */
	FERRY_REASON_CANCELED,	   /* ferry_cancel() was called */
	FERRY_REASON_PROTOCOL,	   /* the peer broke the protocol, or speaks another version of it */
	FERRY_REASON_HOST	   /* this host, or an argument: memory, a region, a system call, a URI */
};

struct ferry_result {
	size_t size;
	enum ferry_outcome outcome;
	enum ferry_owner owner;
	enum ferry_owner claim; /* in doubt: what this end may ask an arbiter to record; else as owner */
	enum ferry_phase phase; /* the last phase entered before DONE or FAILED */
	enum ferry_reason reason;
	int error;   /* 0, or the first error, a negative errno */
	char op[32]; /* FERRY_REASON_OP: the failed op's name, as in struct ferry_ops; else "" */
	uint8_t session[16];
	char detail[FERRY_DETAIL_MAX]; /* one sentence: what happened, with the values */
	/*
	 * Bytes of FERRY_REGION_THP regions that are mapped by huge pages (0 before Linux 6.7). Source: both
	 * are the value at the start of ferry_run(). Target: before and after MADV_COLLAPSE. collapse_us is
	 * the time that took; ferry_run() returns after it, and the VM already runs during it.
	 */
	uint64_t thp_before, thp_after, collapse_us;
	uint64_t reserved[12];
	struct ferry_stats stats; /* last: it grows at its end */
};

/*
 * Initialisers that set .size. In C and C++20 designated fields may follow, as in { FERRY_CONFIG_INIT,
 * .channels = 4 }. Before C++20 nothing may follow. In other languages call ferry_init().
 */
#if defined(__cplusplus) && __cplusplus < 202002L
#define FERRY_INIT_OF(type) sizeof(type)
#else
#define FERRY_INIT_OF(type) .size = sizeof(type)
#endif
#define FERRY_OPS_INIT FERRY_INIT_OF(struct ferry_ops)
#define FERRY_VM_INIT FERRY_INIT_OF(struct ferry_vm)
#define FERRY_CONFIG_INIT FERRY_INIT_OF(struct ferry_config)
/* Zero a struct of size bytes that begins with .size, and set .size. size is at least sizeof(size_t). */
void ferry_init(void *st, size_t size);

/*
 * Create one end of a migration. vm (with its regions) and cfg are copied; vm->ops must outlive the session;
 * cfg may be NULL. Errors: -EINVAL, -EOPNOTSUPP (the region's kind, or its fd is not memfd, tmpfs or
 * hugetlbfs), -EBADF (a region's fd), -ENOMEM, or the error of fstat(), fstatfs(), eventfd() or getrandom().
 * On failure *ret is not set, and ops->log gets the reason (level 3, text="...").
 */
int ferry_source_new(struct ferry_session **ret, const struct ferry_vm *vm, const struct ferry_config *cfg);
int ferry_target_new(struct ferry_session **ret, const struct ferry_vm *vm, const struct ferry_config *cfg);

/*
 * Set the address: "tcp:HOST:PORT", "tcp:[::1]:PORT", "rdma:HOST:PORT" or "mem:NAME" (both ends in one
 * process). A target listens from this call on; port 0 takes a free port. A source connects in ferry_run(),
 * so it must run after its target has opened. Once per session.
 */
int ferry_open(struct ferry_session *s, const char *uri);
/* Copy the session's URI, at a target with the chosen port. -ENOSPC if cap bytes are too few. Any thread. */
int ferry_get_uri(struct ferry_session *s, char *buf, size_t cap);

/*
 * Run the migration: blocks until it has ended at this end and calls the ops on this thread. Once per
 * session. Fills res on success and failure, and returns res->error, which is 0 only for
 * FERRY_OUTCOME_MIGRATED. -EINVAL (res->size is not set) and -EALREADY (called before) fill nothing.
 */
int ferry_run(struct ferry_session *s, struct ferry_result *res);

/*
 * Source, any thread: end pre-copy after the current round, however many pages are dirty. -EALREADY if the VM
 * was paused already, -EINVAL at a target.
 */
int ferry_switchover(struct ferry_session *s);
/*
 * Any thread: give up; the VM stays at the source or resumes there. -EALREADY if the commit was decided or
 * the migration was given up already. Then the call only shortens what ferry_run() does before it returns:
 * collapsing huge pages at a target, telling an unreachable peer at either end.
 */
int ferry_cancel(struct ferry_session *s);
/* Fill *st; the caller sets st->size. -EINVAL if it is not set. Any thread. */
int ferry_get_stats(struct ferry_session *s, struct ferry_stats *st);
/*
 * Target, any thread: histogram of the latency of the faults that needed the peer, from event read until page
 * placed. Fills at most n buckets, shortest latency first, empty ones left out, and returns how many are not
 * empty; FERRY_FAULT_BUCKETS is always enough. A bucket is at most 6.25 % wide. A source returns 0.
 */
struct ferry_fault_bucket {
	uint64_t from_ns, below_ns;
	uint64_t count;
	uint64_t reserved;
};
#define FERRY_FAULT_BUCKETS 640
size_t ferry_get_faults(struct ferry_session *s, struct ferry_fault_bucket *buckets, size_t n);
/* The sentence of the first error, or "" if there was none. Valid until ferry_free(). Any thread. */
const char *ferry_get_detail(struct ferry_session *s);
/* Free a session that is not inside ferry_run(). NULL is fine. */
void ferry_free(struct ferry_session *s);

/*
 * Device state, in sections. The embedder chooses id and version of each. A stream holds at most 64 MiB, 16
 * bytes of header per section included. Call these on the thread of the op, during the op.
 */
struct ferry_section {
	uint32_t id, version;
	const void *data; /* valid until the next call on the stream */
	size_t len;
	uint64_t reserved[2];
};
/* Append a section; data (len bytes) is copied. -E2BIG, -ENOMEM. */
int ferry_stream_put(struct ferry_stream *out, uint32_t id, uint32_t version, const void *data, size_t len);
/* 1: *sec is the next section; 0: end of the stream; -EPROTO: the stream is damaged. */
int ferry_stream_next(struct ferry_stream *in, struct ferry_section *sec);
/* Refuse: record the sentence, unless one is recorded already, and return err, a negative errno. */
int ferry_stream_fail(struct ferry_stream *st, int err, const char *fmt, ...)
#if defined(__GNUC__)
	__attribute__((format(printf, 3, 4)))
#endif
	;

const char *ferry_phase_name(enum ferry_phase p);	  /* "pre-copy" */
const char *ferry_owner_name(enum ferry_owner o);	  /* "source" */
const char *ferry_outcome_name(enum ferry_outcome o);	  /* "fell-back" */
const char *ferry_mode_name(enum ferry_mode m);		  /* "stop-and-copy" */
const char *ferry_reason_name(enum ferry_reason r);	  /* "peer" */
const char *ferry_landing_name(enum ferry_landing_way w); /* "kernel" */
const char *ferry_message_name(unsigned number);	  /* 16: "COMMIT"; NULL for an unknown message */
const char *ferry_version(void);			  /* "1.0.0" */
/* 1 if this build of the library has the feature ("rdma", "drill", "usdt"), else 0. */
int ferry_has(const char *feature);

#ifdef __cplusplus
}
#endif
#endif
