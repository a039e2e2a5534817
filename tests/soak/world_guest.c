// SPDX-License-Identifier: MIT
/*
 * The VM of a round. Its source is a thread that writes pages, frees some, and emits numbered output; what memory must
 * hold is kept beside it, in memory that both processes share. A write is marked dirty only after it has been made:
 * whoever fetches the mark between the two reads the page once more. The target's guest is one or two threads that
 * touch every page in a scattered order, compare it with the source's at the stop point, write some, and emit output.
 *
 * One lock in each process: the guest holds it for a batch of writes, pause() for as long as it takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "rng.h"
#include "worlds.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#define HUGE_PAGE (2 * MIB)
#define REGIONS 2u
#define BATCH 16u	/* writes before the guest may be paused */
#define WRITE_EVERY 16u /* the target's guest writes one page in so many */
#define OWN_SEED UINT64_C(0x7777777700000000)
#define FREED_PAGES 16u /* at most, at once */
#define SECTION_CPU 1u
#define VCPUS_MAX 2u
#define FINISH_S 60u

struct vcpu {
	struct vm *vm;
	pthread_t thread;
	uint64_t from; /* it touches pages from, from + vcpus.. of the scattered order */
};

struct vm {
	const struct world *w;
	struct seen *seen;
	struct end_seen *me;
	const struct truth *truth;
	const char *dir; /* where the tmpfs is */
	int end;
	struct ferry_ops ops;
	struct ferry_region region[REGIONS];
	_Atomic uint64_t *dirty[REGIONS];
	uint8_t *own; /* target: 1: its guest has written the page */
	bool tracking;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool running, stop, started; /* by the lock; started: the target's guest has memory to touch */
	uint64_t rng, output, held;
	uint64_t touched;
	struct vcpu vcpu[VCPUS_MAX];
	unsigned nvcpus;
};

static void trouble(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void trouble(struct vm *vm, const char *fmt, ...)
{
	va_list ap;

	if (vm->me->trouble[0])
		return;
	va_start(ap, fmt);
	vsnprintf(vm->me->trouble, sizeof(vm->me->trouble), fmt, ap);
	va_end(ap);
}

/* Seen by both ends: the first counts. */
static void alarm_both(struct vm *vm, const char *what)
{
	if (!atomic_exchange(&vm->seen->alarm, true))
		snprintf(vm->seen->alarm_text, sizeof(vm->seen->alarm_text), "%s", what);
}

/* ---- memory ---- */

static uint64_t pages(const struct vm *vm)
{
	return (vm->w->bytes[0] + vm->w->bytes[1]) / PAGE;
}

/* A page, counted through both regions. */
static unsigned region_of(const struct vm *vm, uint64_t page)
{
	return page >= vm->w->bytes[0] / PAGE;
}

static uint64_t in_region(const struct vm *vm, uint64_t page)
{
	return region_of(vm, page) ? page - vm->w->bytes[0] / PAGE : page;
}

static uint8_t *at(const struct vm *vm, uint64_t page)
{
	return (uint8_t *)vm->region[region_of(vm, page)].hva + in_region(vm, page) * PAGE;
}

static void fill(uint8_t *page, uint64_t seed)
{
	for (size_t i = 0; i < PAGE; i += 8) {
		uint64_t v = rng_next(&seed);

		memcpy(page + i, &v, 8);
	}
}

static int open_file(const struct vm *vm, unsigned region)
{
	char path[200];
	int fd;

	if (!vm->w->lot[vm->end].tmpfs)
		return memfd_create("soak-ram", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "%s/ram%u", vm->dir, region);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd >= 0) {
		fchmod(fd, 0666); /* as a memfd is: an end whose user changes can still open it again */
		unlink(path);
	}
	return fd;
}

/* Where huge pages may be. */
static void *map(uint64_t len, int flags, int fd)
{
	uint8_t *space = mmap(NULL, len + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *p;

	if (space == MAP_FAILED)
		return NULL;
	p = (uint8_t *)(((uintptr_t)space + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
	if (p > space)
		munmap(space, (size_t)(p - space));
	if (p + len < space + len + HUGE_PAGE)
		munmap(p + len, (size_t)(space + HUGE_PAGE - p));
	p = mmap(p, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0);
	return p == MAP_FAILED ? NULL : p;
}

/* MLOCK_ONFAULT: what is a hole stays one. */
static int map_region(struct vm *vm, unsigned i)
{
	const struct lot *l = &vm->w->lot[vm->end];
	struct ferry_region *r = &vm->region[i];
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	r->fd = -1;
	r->fd_offset = 0;
	if (vm->w->shared) {
		r->fd = open_file(vm, i);
		flags = MAP_SHARED;
		if (r->fd < 0 || ftruncate(r->fd, (off_t)r->len))
			return -errno;
	}
	r->hva = map(r->len, flags, r->fd);
	if (!r->hva)
		return -ENOMEM;
	madvise(r->hva, r->len, l->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (l->locked && syscall(SYS_mlock2, r->hva, r->len, 1 /* MLOCK_ONFAULT */))
		return -errno;
	return 0;
}

static void unmap(struct vm *vm)
{
	for (unsigned i = 0; i < REGIONS; i++) {
		if (vm->region[i].hva)
			munmap(vm->region[i].hva, vm->region[i].len);
		if (vm->region[i].fd >= 0)
			close(vm->region[i].fd);
	}
}

/* ---- running, output: what both ends see ---- */

static void set_running(struct vm *vm, bool runs)
{
	struct end_seen *other = &vm->seen->end[!vm->end], *target = &vm->seen->end[TGT];

	vm->running = runs;
	atomic_store(&vm->me->runs, runs);
	if (runs && atomic_load(&other->runs) && !atomic_load(&target->held))
		alarm_both(vm, "both VMs run, and nothing holds the target's output");
	pthread_cond_broadcast(&vm->cond);
}

static void come_out(struct vm *vm, uint64_t n)
{
	uint64_t due = n;
	char text[150];

	if (atomic_compare_exchange_strong(&vm->seen->outputs, &due, n + 1))
		return;
	snprintf(text, sizeof(text), "output %llu came out at the %s where %llu was due",
		 (unsigned long long)n, vm->end == SRC ? "source" : "target", (unsigned long long)due);
	alarm_both(vm, text);
}

static void emit(struct vm *vm)
{
	uint64_t n = vm->output++;

	if (vm->end == TGT && atomic_load(&vm->me->held))
		vm->held++;
	else
		come_out(vm, n);
}

/* ---- the source's guest ---- */

static void mark(struct vm *vm, uint64_t page)
{
	unsigned r = region_of(vm, page);
	uint64_t i = in_region(vm, page);

	if (vm->tracking)
		atomic_fetch_or(&vm->dirty[r][i / 64], UINT64_C(1) << i % 64);
}

static void write_page(struct vm *vm, uint64_t page, uint64_t value)
{
	uint8_t *due = vm->truth->now + page * PAGE;

	if (value % 8)
		fill(due, value);
	else
		memset(due, 0, PAGE);
	memcpy(at(vm, page), due, PAGE);
	mark(vm, page);
}

/* As a balloon does: these pages are gone, and read as zero. */
static void free_pages(struct vm *vm, uint64_t page, uint64_t n)
{
	while (n && (page + n > pages(vm) || region_of(vm, page) != region_of(vm, page + n - 1)))
		n--;
	if (!n || vm->w->lot[vm->end].locked ||
	    madvise(at(vm, page), n * PAGE, vm->w->shared ? MADV_REMOVE : MADV_DONTNEED))
		return; /* a filter refuses it: then nothing is freed */
	memset(vm->truth->now + page * PAGE, 0, n * PAGE);
	for (uint64_t i = 0; i < n; i++)
		mark(vm, page + i);
}

static void guest_act(struct vm *vm)
{
	const struct lot *l = &vm->w->lot[SRC];
	uint64_t page = rng_below(&vm->rng, pages(vm));

	if (l->punch && rng_one_in(&vm->rng, l->punch))
		free_pages(vm, page, 1 + rng_below(&vm->rng, FREED_PAGES));
	else
		write_page(vm, page, rng_next(&vm->rng));
	if (l->pageout && rng_one_in(&vm->rng, l->pageout))
		madvise(at(vm, page), PAGE, MADV_PAGEOUT);
}

static void *source_main(void *arg)
{
	struct vcpu *c = arg;
	struct vm *vm = c->vm;
	unsigned writes = vm->w->writes, batch = writes / 100 < BATCH ? writes / 100 + 1 : BATCH;
	struct timespec pause = { .tv_nsec = 20000000 };

	if (writes)
		pause.tv_nsec = writes > batch ? 1000000000 / (long)writes * batch : 999999999;
	for (;;) {
		pthread_mutex_lock(&vm->lock);
		while (!vm->running && !vm->stop)
			pthread_cond_wait(&vm->cond, &vm->lock);
		if (vm->stop)
			break;
		for (unsigned i = 0; i < batch && writes; i++)
			guest_act(vm);
		emit(vm);
		pthread_mutex_unlock(&vm->lock);
		nanosleep(&pause, NULL);
	}
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

/* ---- the target's guest ---- */

static void own_page(uint8_t *to, uint64_t page)
{
	fill(to, OWN_SEED + page * PAGE);
}

static void check_page(struct vm *vm, uint64_t page, const char *when)
{
	const uint8_t *is = at(vm, page),
		      *due = (vm->end == SRC ? vm->truth->now : vm->truth->frozen) + page * PAGE;
	uint8_t own[PAGE];

	if (vm->own && vm->own[page]) {
		own_page(own, page);
		due = own;
	}
	for (size_t i = 0; i < PAGE; i++)
		if (is[i] != due[i]) {
			trouble(vm, "page %llu of region %u reads %#x at byte %zu %s, %#x was due",
				(unsigned long long)in_region(vm, page), region_of(vm, page), is[i], i, when,
				due[i]);
			return;
		}
}

static bool touch(struct vm *vm, uint64_t page)
{
	bool go;

	(void)*(volatile uint8_t *)at(vm, page); /* waits for the page, without the lock */
	pthread_mutex_lock(&vm->lock);
	while (!vm->running && !vm->stop)
		pthread_cond_wait(&vm->cond, &vm->lock);
	go = !vm->stop;
	if (go) {
		check_page(vm, page, "in the target's guest");
		if (page % WRITE_EVERY == 0) {
			own_page(at(vm, page), page);
			vm->own[page] = 1;
		}
		vm->touched++;
		emit(vm);
		pthread_cond_broadcast(&vm->cond);
	}
	pthread_mutex_unlock(&vm->lock);
	return go;
}

/* A step that shares no factor with n visits each page once. */
static uint64_t step_of(uint64_t n)
{
	uint64_t step = n * 5 / 8 | 1, a, b;

	for (;; step += 2) {
		for (a = step, b = n; b;) {
			uint64_t rest = a % b;

			a = b;
			b = rest;
		}
		if (a == 1)
			return step;
	}
}

static void *target_main(void *arg)
{
	struct vcpu *c = arg;
	struct vm *vm = c->vm;
	uint64_t n = pages(vm), step = step_of(n);
	bool go;

	pthread_mutex_lock(&vm->lock);
	while (!vm->started && !vm->stop)
		pthread_cond_wait(&vm->cond, &vm->lock);
	go = !vm->stop;
	pthread_mutex_unlock(&vm->lock);
	for (uint64_t i = c->from; go && i < n; i += vm->nvcpus)
		go = touch(vm, (7 + i * step) % n);
	return NULL;
}

/* ---- ops ---- */

static int op_needs(void *v, struct ferry_stream *out)
{
	struct vm *vm = v;

	return ferry_stream_put(out, SECTION_CPU, 1, vm->w->bytes, sizeof(vm->w->bytes));
}

static int op_reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct vm *vm = v;
	const struct lot *l = &vm->w->lot[TGT];
	int err = 0;

	if (n != REGIONS)
		return ferry_stream_fail(needs, -EINVAL, "%zu regions, %u were due", n, REGIONS);
	for (unsigned i = 0; i < REGIONS && !err; i++) {
		vm->region[i] = regions[i];
		vm->region[i].hva = NULL;
		err = map_region(vm, i);
		if (!err && l->populated) /* where there is no room for it, the library has to say so */
			madvise(vm->region[i].hva, vm->region[i].len * l->populated / 100 / PAGE * PAGE,
				MADV_POPULATE_WRITE);
		regions[i] = vm->region[i];
	}
	return err ? ferry_stream_fail(needs, err, "soak: no memory for the VM: %s", strerror(-err)) : 0;
}

static int op_dirty_start(void *v)
{
	struct vm *vm = v;

	pthread_mutex_lock(&vm->lock);
	vm->tracking = true;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_dirty_stop(void *v)
{
	struct vm *vm = v;

	pthread_mutex_lock(&vm->lock);
	vm->tracking = false;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* A guest writes until it is stopped, also where its thread has no turn between a fetch and the pause. */
static void write_now(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < BATCH && vm->running && vm->w->writes; i++)
		guest_act(vm);
	pthread_mutex_unlock(&vm->lock);
}

static int op_dirty_fetch(void *v, uint32_t id, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct vm *vm = v;
	unsigned r = id - vm->region[0].id;

	for (uint64_t i = 0; i < (npages + 63) / 64; i++)
		bits[i] = atomic_exchange(&vm->dirty[r][i], 0);
	if (!(flags & FERRY_DIRTY_LAST))
		write_now(vm);
	return 0;
}

static int op_pause(void *v)
{
	struct vm *vm = v;

	if (vm->end == SRC)
		write_now(vm);
	pthread_mutex_lock(&vm->lock);
	set_running(vm, false);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_resume(void *v)
{
	struct vm *vm = v;

	pthread_mutex_lock(&vm->lock);
	if (vm->stop)
		trouble(vm, "resume after discard");
	vm->started = true;
	set_running(vm, true);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_save(void *v, struct ferry_stream *out)
{
	struct vm *vm = v;

	if (vm->running)
		trouble(vm, "save while the VM runs");
	memcpy(vm->truth->frozen, vm->truth->now, pages(vm) * PAGE);
	return ferry_stream_put(out, SECTION_CPU, 1, &vm->output, sizeof(vm->output));
}

static int op_load(void *v, struct ferry_stream *in)
{
	struct vm *vm = v;
	struct ferry_section sec;
	int got = ferry_stream_next(in, &sec);

	if (got <= 0 || sec.id != SECTION_CPU || sec.len != sizeof(vm->output))
		return ferry_stream_fail(in, -EPROTO, "soak: the state is not what was saved");
	memcpy(&vm->output, sec.data, sizeof(vm->output));
	return 0;
}

static int op_output_hold(void *v)
{
	struct vm *vm = v;

	atomic_store(&vm->me->held, true);
	return 0;
}

static int op_output_release(void *v)
{
	struct vm *vm = v;

	pthread_mutex_lock(&vm->lock);
	if (atomic_load(&vm->seen->end[SRC].runs))
		alarm_both(vm, "output is let out at the target while the source runs");
	for (uint64_t i = 0; i < vm->held; i++)
		come_out(vm, vm->output - vm->held + i);
	vm->held = 0;
	atomic_store(&vm->me->held, false);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_activate(void *v)
{
	struct vm *vm = v;

	if (atomic_load(&vm->seen->end[SRC].runs))
		alarm_both(vm, "activate while the source runs");
	return 0;
}

static int op_retire(void *v)
{
	struct vm *vm = v;

	if (vm->running)
		trouble(vm, "retire of a VM that runs");
	return 0;
}

static int op_discard(void *v)
{
	struct vm *vm = v;

	pthread_mutex_lock(&vm->lock);
	vm->stop = true;
	vm->held = 0;
	set_running(vm, false);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int op_arbiter(void *v, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct vm *vm = v;
	int record = 0;

	(void)session;
	if (atomic_compare_exchange_strong(&vm->seen->record, &record, (int)want + 1))
		record = (int)want + 1;
	*is = (enum ferry_owner)(record - 1);
	return 0;
}

static void op_event(void *v, const struct ferry_event *ev)
{
	struct vm *vm = v;
	struct timespec t;

	if (ev->type == FERRY_EVENT_POLICY && ev->text)
		snprintf(vm->me->policy, sizeof(vm->me->policy), "%s", ev->text);
	if (ev->type != FERRY_EVENT_PHASE)
		return;
	clock_gettime(CLOCK_MONOTONIC, &t);
	atomic_store(&vm->me->phase_us[ev->phase], (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000);
	atomic_store(&vm->me->phase, (int)ev->phase);
}

static void op_log(void *v, int level, const char *line)
{
	struct vm *vm = v;
	unsigned len = (unsigned)strlen(line) + 1, from = atomic_fetch_add(&vm->me->log_used, len);

	if (level > 6 || from + len >= LOG_KEPT)
		return;
	memcpy(vm->me->log + from, line, len - 1);
	vm->me->log[from + len - 1] = '\n';
}

/* ---- making and ending it ---- */

static const struct ferry_ops source_ops = { FERRY_OPS_INIT,
					     .needs = op_needs,
					     .dirty_start = op_dirty_start,
					     .dirty_stop = op_dirty_stop,
					     .dirty_fetch = op_dirty_fetch,
					     .pause = op_pause,
					     .resume = op_resume,
					     .save = op_save,
					     .retire = op_retire,
					     .event = op_event,
					     .log = op_log };
static const struct ferry_ops target_ops = { FERRY_OPS_INIT,
					     .reserve = op_reserve,
					     .pause = op_pause,
					     .resume = op_resume,
					     .load = op_load,
					     .output_hold = op_output_hold,
					     .output_release = op_output_release,
					     .activate = op_activate,
					     .discard = op_discard,
					     .event = op_event,
					     .log = op_log };

static bool begin_source(struct vm *vm)
{
	uint64_t gpa = 0;

	for (unsigned i = 0; i < REGIONS; i++) {
		vm->region[i] = (struct ferry_region){ .id = 10 + i,
						       .gpa = gpa,
						       .len = vm->w->bytes[i],
						       .page_shift = 12,
						       .flags = vm->w->shared ? FERRY_REGION_SHARED : 0 };
		gpa += vm->w->bytes[i] + HUGE_PAGE;
		vm->dirty[i] = calloc((vm->w->bytes[i] / PAGE + 63) / 64, 8);
		if (!vm->dirty[i] || map_region(vm, i))
			return false;
	}
	for (uint64_t page = 0; page < pages(vm); page++) {
		memset(vm->truth->now + page * PAGE, 0, PAGE);
		if (rng_below(&vm->rng, 100) < vm->w->lot[SRC].populated)
			write_page(vm, page, rng_next(&vm->rng));
	}
	vm->running = true;
	atomic_store(&vm->me->runs, true);
	return true;
}

struct vm *vm_make(const struct world *w, struct seen *seen, const struct truth *truth, int end,
		   const char *dir)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	*vm = (struct vm){ .w = w,
			   .seen = seen,
			   .me = &seen->end[end],
			   .truth = truth,
			   .end = end,
			   .dir = dir,
			   .ops = end == SRC ? source_ops : target_ops,
			   .rng = rng_seed(w->seed ^ OWN_SEED, w->round),
			   .nvcpus = end == SRC ? 1 : w->vcpus };
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->cond, NULL);
	for (unsigned i = 0; i < REGIONS; i++)
		vm->region[i].fd = -1;
	if (w->arbiter)
		vm->ops.arbiter = op_arbiter;
	if (end == TGT && !(vm->own = calloc(pages(vm), 1)))
		return NULL;
	if (end == SRC && !begin_source(vm))
		return NULL;
	for (unsigned i = 0; i < vm->nvcpus; i++) {
		vm->vcpu[i] = (struct vcpu){ .vm = vm, .from = i };
		if (pthread_create(&vm->vcpu[i].thread, NULL, end == SRC ? source_main : target_main,
				   &vm->vcpu[i]))
			return NULL;
	}
	return vm;
}

const struct ferry_ops *vm_ops(const struct vm *vm)
{
	return &vm->ops;
}

const struct ferry_region *vm_regions(const struct vm *vm)
{
	return vm->region;
}

/* The guest that owns itself goes on: the source's still writes, the target's comes to its end. */
static void run_on(struct vm *vm)
{
	uint64_t due;
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += FINISH_S;
	pthread_mutex_lock(&vm->lock);
	if (!vm->running)
		trouble(vm, "the VM is owned here and does not run");
	due = vm->output + 3;
	if (vm->end == TGT)
		while (vm->touched < pages(vm) && !vm->me->trouble[0])
			if (pthread_cond_timedwait(&vm->cond, &vm->lock, &until) == ETIMEDOUT)
				trouble(vm,
					"the target's guest has touched %llu of %llu pages and gets no further",
					(unsigned long long)vm->touched, (unsigned long long)pages(vm));
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; vm->end == SRC && i < FINISH_S * 100 && !vm->me->trouble[0]; i++) {
		bool enough;

		pthread_mutex_lock(&vm->lock);
		enough = vm->output >= due;
		pthread_mutex_unlock(&vm->lock);
		if (enough)
			return;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
}

void vm_check(struct vm *vm, enum ferry_outcome outcome)
{
	bool owned = vm->end == SRC ? outcome == FERRY_OUTCOME_REFUSED || outcome == FERRY_OUTCOME_FELL_BACK
				    : outcome == FERRY_OUTCOME_MIGRATED;

	if (vm->running != owned)
		trouble(vm, "the VM %s after %s", vm->running ? "runs" : "does not run",
			ferry_outcome_name(outcome));
	if (!owned)
		return;
	run_on(vm);
	pthread_mutex_lock(&vm->lock);
	if (atomic_load(&vm->me->held))
		trouble(vm, "the output is still held");
	for (uint64_t page = 0; page < pages(vm) && !vm->me->trouble[0]; page++)
		check_page(vm, page, "at the owner in the end");
	pthread_mutex_unlock(&vm->lock);
}

void vm_end(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->stop = true;
	pthread_cond_broadcast(&vm->cond);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->nvcpus; i++)
		pthread_join(vm->vcpu[i].thread, NULL);
	if (vm->end == TGT)
		unmap(vm);
}
