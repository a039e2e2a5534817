// SPDX-License-Identifier: MIT
/* The ops and the memory of the fake VM. */
#include "fakevm.h"

#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fakevm_int.h"

#define SECTION_CPU 1u
#define SECTION_BULK 2u
#define SECTION_NEEDS 3u

struct cpu_section {
	uint64_t next_out, rng;
};

struct needs_section {
	uint64_t bytes;
	uint32_t cpuid, reserved;
};

static const uint64_t region_pages[FAKE_REGIONS] = { FAKE_PAGES0, FAKE_PAGES1 };
static const uint64_t huge_region_pages[FAKE_REGIONS] = { FAKE_HUGE_PAGES0, FAKE_HUGE_PAGES1 };

uint64_t fake_region_pages(const struct fakevm *vm, unsigned region)
{
	return (vm->huge ? huge_region_pages : region_pages)[region];
}

const char *fake_op_name(enum fake_op op)
{
	static const char *const names[] = { "needs",	    "reserve",	   "dirty_start",    "dirty_stop",
					     "dirty_fetch", "pause",	   "resume",	     "save",
					     "load",	    "output_hold", "output_release", "activate",
					     "retire",	    "discard",	   "arbiter" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == FAKE_OPS, "a name an op");
	return op < FAKE_OPS ? names[op] : "?";
}

static void trace(char *to, const char *name)
{
	size_t len = strlen(to), n = strlen(name);

	if (len >= n && !strcmp(to + len - n, name))
		return;
	snprintf(to + len, FAKE_TRACE - len, "%s%s", len ? " " : "", name);
}

/* Called on entry of each op: record it and return the scripted failure, or 0. */
static int enter(struct fakevm *vm, enum fake_op op)
{
	if (!pthread_equal(pthread_self(), vm->thread))
		world_trouble(vm->w, "%s was not called on the thread inside ferry_run()", fake_op_name(op));
	trace(vm->ops_seen, fake_op_name(op));
	vm->calls[op]++;
	if (vm->hook)
		vm->hook(vm, op);
	if (vm->fail_nth && vm->fail_op == op && vm->calls[op] == vm->fail_nth)
		return vm->fail_err;
	return 0;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

void fake_fill(uint8_t *page, uint64_t seed)
{
	for (size_t i = 0; i < FAKE_PAGE; i += 8, seed++) {
		uint64_t v = mix(seed);

		memcpy(page + i, &v, 8);
	}
}

size_t fake_offset(unsigned region, uint64_t page)
{
	return ((region ? FAKE_PAGES0 : 0) + page) * FAKE_PAGE;
}

uint8_t *fake_page(const struct fakevm *vm, unsigned region, uint64_t page)
{
	return (uint8_t *)vm->region[region].hva + page * FAKE_PAGE;
}

/* ---- the source's guest ---- */

static void guest_write(struct fakevm *vm)
{
	uint64_t r = mix(vm->rng++), at = r % FAKE_PAGES;
	unsigned region = at >= FAKE_PAGES0;
	uint64_t page = region ? at - FAKE_PAGES0 : at;
	uint8_t *p = fake_page(vm, region, page);

	if (vm->spared == at + 1)
		return;
	if (r >> 60 == 0)
		memset(p, 0, FAKE_PAGE);
	else
		fake_fill(p, r);
	memcpy(vm->shadow + fake_offset(region, page), p, FAKE_PAGE);
	if (vm->tracking)
		vm->dirty[region][page / 64] |= UINT64_C(1) << page % 64;
}

void fake_guest_writes(struct fakevm *vm, uint64_t n)
{
	if (!vm->is_source)
		return;
	for (uint64_t i = 0; i < n; i++)
		guest_write(vm);
	fake_emit(vm);
}

static uint64_t writes_now(const struct fakevm *vm)
{
	size_t last = sizeof(vm->writes) / sizeof(vm->writes[0]) - 1;

	return vm->writes[vm->fetches < last ? vm->fetches : last];
}

static int op_dirty_start(void *v)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_DIRTY_START);

	vm->tracking = !err;
	return err;
}

static int op_dirty_stop(void *v)
{
	struct fakevm *vm = v;

	vm->tracking = false;
	return enter(vm, FAKE_DIRTY_STOP);
}

static int op_dirty_fetch(void *v, uint32_t id, uint64_t *bits, uint64_t npages, unsigned flags)
{
	struct fakevm *vm = v;
	unsigned region = id == vm->region[1].id;
	int err = enter(vm, FAKE_DIRTY_FETCH);
	bool runs = world_source_runs(vm->w);

	if (npages != fake_region_pages(vm, region) || id != vm->region[region].id)
		world_trouble(vm->w, "dirty_fetch of region %u with %llu pages", id,
			      (unsigned long long)npages);
	if (runs == !!(flags & FERRY_DIRTY_LAST))
		world_trouble(vm->w, "dirty_fetch with flags %u while the VM %s", flags,
			      runs ? "runs" : "is paused");
	if (region == 0 && runs)
		fake_guest_writes(vm, writes_now(vm) / 2);
	memcpy(bits, vm->dirty[region], (npages + 63) / 64 * 8);
	memset(vm->dirty[region], 0, (npages + 63) / 64 * 8);
	if (region == 1 && runs) {
		fake_guest_writes(vm, (writes_now(vm) + 1) / 2);
		vm->fetches++;
	}
	return err;
}

/* ---- ops of both ---- */

static int op_pause(void *v)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_PAUSE);

	if (vm->is_source)
		fake_guest_writes(vm, vm->last_writes);
	fake_set_running(vm, false);
	return err;
}

static int op_resume(void *v)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_RESUME);

	if (err)
		return err;
	fake_set_running(vm, true);
	if (vm->is_source)
		fake_emit(vm); /* no write: workers of a failed round may still read */
	return vm->is_source ? 0 : fake_start_cpu(vm);
}

static int op_needs(void *v, struct ferry_stream *out)
{
	struct fakevm *vm = v;
	struct needs_section n = { .bytes = FAKE_PAGES * FAKE_PAGE, .cpuid = vm->cpuid };
	int err = enter(vm, FAKE_NEEDS);

	return err ? err : ferry_stream_put(out, SECTION_NEEDS, 1, &n, sizeof(n));
}

static int op_save(void *v, struct ferry_stream *out)
{
	struct fakevm *vm = v;
	struct cpu_section c = { .next_out = vm->next_out, .rng = vm->rng };
	int err = enter(vm, FAKE_SAVE);
	uint8_t *bulk;

	if (world_source_runs(vm->w))
		world_trouble(vm->w, "save while the VM runs");
	pthread_mutex_lock(&vm->w->lock);
	memcpy(vm->w->frozen, vm->shadow, FAKE_PAGES * FAKE_PAGE);
	pthread_mutex_unlock(&vm->w->lock);
	if (!err)
		err = ferry_stream_put(out, SECTION_CPU, 1, &c, sizeof(c));
	bulk = malloc(vm->state_bytes + 1);
	if (!bulk)
		return -ENOMEM;
	for (size_t i = 0; i < vm->state_bytes; i++)
		bulk[i] = (uint8_t)mix(i);
	if (!err)
		err = ferry_stream_put(out, SECTION_BULK, 7, bulk, vm->state_bytes);
	free(bulk);
	return err;
}

static int load_section(struct fakevm *vm, struct ferry_stream *in, const struct ferry_section *sec)
{
	struct cpu_section c;

	if (sec->id == SECTION_CPU && sec->version == 1 && sec->len == sizeof(c)) {
		memcpy(&c, sec->data, sizeof(c));
		vm->next_out = c.next_out;
		vm->rng = c.rng;
		return 0;
	}
	if (sec->id != SECTION_BULK || sec->version != 7)
		return ferry_stream_fail(in, -EOPNOTSUPP, "section %u version %u is unknown", sec->id,
					 sec->version);
	for (size_t i = 0; i < sec->len; i++)
		if (((const uint8_t *)sec->data)[i] != (uint8_t)mix(i))
			return ferry_stream_fail(in, -EPROTO, "byte %zu of the bulk section is wrong", i);
	return 0;
}

static int op_load(void *v, struct ferry_stream *in)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_LOAD), got = 0;
	struct ferry_section sec;

	while (!err && (got = ferry_stream_next(in, &sec)) > 0)
		err = load_section(vm, in, &sec);
	return err ? err : got;
}

/* ---- the target's ---- */

/* Address space for transparent huge pages: it begins at a multiple of 2 MiB, with a margin around it. */
static void *huge_space(size_t len)
{
	uintptr_t p = (uintptr_t)mmap(NULL, len + (4 << 20), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return (void *)((p + (2 << 20)) & ~(uintptr_t)((2 << 20) - 1));
}

static void *map_memory(struct fakevm *vm, struct ferry_region *r)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | (vm->huge ? MAP_HUGETLB | MAP_HUGE_2MB : 0);

	r->fd = -1;
	if (vm->shared) {
		r->fd = memfd_create("fake-ram", MFD_CLOEXEC | (vm->huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
		r->fd_offset =
			3 * (UINT64_C(1)
			     << (vm->thp ? 21
					 : r->page_shift)); /* regions need not begin where their memfd does */
		if (r->fd < 0 || ftruncate(r->fd, (off_t)(r->fd_offset + r->len)))
			return NULL;
		flags = MAP_SHARED;
	}
	if (vm->thp)
		flags |= MAP_FIXED;
	r->hva = mmap(vm->thp ? huge_space(r->len) : NULL, r->len, PROT_READ | PROT_WRITE, flags, r->fd,
		      vm->shared ? (off_t)r->fd_offset : 0);
	if (r->hva == MAP_FAILED)
		r->hva = NULL;
	/* Without MADV_NOHUGEPAGE a huge page would fill the holes. */
	if (r->hva)
		madvise(r->hva, r->len, vm->thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return r->hva;
}

static int check_needs(struct fakevm *vm, struct ferry_stream *needs)
{
	struct needs_section n;
	struct ferry_section sec;
	int got;

	while ((got = ferry_stream_next(needs, &sec)) > 0) {
		if (sec.id != SECTION_NEEDS || sec.len != sizeof(n))
			return ferry_stream_fail(needs, -EOPNOTSUPP, "need %u is unknown", sec.id);
		memcpy(&n, sec.data, sizeof(n));
		if (n.cpuid != vm->cpuid)
			return ferry_stream_fail(needs, -ENOTSUP,
						 "the VM needs CPUID word %#x, this host has %#x", n.cpuid,
						 vm->cpuid);
		if (vm->memory_limit && n.bytes > vm->memory_limit)
			return ferry_stream_fail(needs, -ENOMEM, "the VM needs %llu KiB, this host has %llu",
						 (unsigned long long)n.bytes >> 10,
						 (unsigned long long)vm->memory_limit >> 10);
	}
	return got;
}

static int op_reserve(void *v, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_RESERVE);

	if (!err)
		err = check_needs(vm, needs);
	if (err)
		return err;
	if (n != FAKE_REGIONS)
		return ferry_stream_fail(needs, -EINVAL, "%zu regions, %u were due", n, FAKE_REGIONS);
	for (unsigned i = 0; i < FAKE_REGIONS; i++) {
		vm->shared = regions[i].flags & FERRY_REGION_SHARED;
		vm->huge = regions[i].page_shift == 21;
		vm->thp = regions[i].flags & FERRY_REGION_THP;
		if (regions[i].len != fake_region_pages(vm, i) * FAKE_PAGE || !map_memory(vm, &regions[i]))
			return -ENOMEM;
		vm->region[i] = regions[i];
	}
	return 0;
}

static int op_output_hold(void *v)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_HOLD);

	if (!err)
		fake_hold(vm);
	return err;
}

static int op_output_release(void *v)
{
	struct fakevm *vm = v;

	fake_release(vm);
	return enter(vm, FAKE_RELEASE);
}

static int op_activate(void *v)
{
	struct fakevm *vm = v;

	if (world_source_runs(vm->w))
		world_trouble(vm->w, "activate while the source runs");
	return enter(vm, FAKE_ACTIVATE);
}

static int op_retire(void *v)
{
	struct fakevm *vm = v;

	if (world_source_runs(vm->w))
		world_trouble(vm->w, "retire of a source that runs");
	return enter(vm, FAKE_RETIRE);
}

static int op_discard(void *v)
{
	struct fakevm *vm = v;

	fake_stop_cpu(vm);
	return enter(vm, FAKE_DISCARD);
}

/* ---- callbacks ---- */

/* "the link is lost: CAUSE (ADDRESS)", "the link is back" */
static void link_event(struct fakevm *vm, const char *text)
{
	size_t len = strcspn(text, ":(");
	char what[40];

	snprintf(what, sizeof(what), "%.*s", (int)(text[len] == '(' ? len - 1 : len), text);
	if (text[len] == ':')
		snprintf(vm->link_cause, sizeof(vm->link_cause), "%s", text + len + 2);
	trace(vm->links, what);
	if (vm->link_hook)
		vm->link_hook(vm, what);
}

static void op_event(void *v, const struct ferry_event *ev)
{
	struct fakevm *vm = v;

	if (ev->type == FERRY_EVENT_POLICY && ev->text)
		snprintf(vm->policy, sizeof(vm->policy), "%s", ev->text);
	if (ev->type == FERRY_EVENT_LINK)
		link_event(vm, ev->text);
	vm->rounds += ev->type == FERRY_EVENT_ROUND;
	if (ev->type != FERRY_EVENT_PHASE)
		return;
	trace(vm->phases_seen, ferry_phase_name(ev->phase));
	if (vm->phase_hook)
		vm->phase_hook(vm, ev->phase);
}

/* The end of the value at p, or NULL if there is none. A quoted value is copied to text (if not NULL). */
static const char *log_value(const char *p, char *text, size_t cap)
{
	size_t n = 0, len = strcspn(p, " \"");

	if (*p != '"')
		return len && p[len] != '"' ? p + len : NULL;
	for (p++; *p && *p != '"'; p++) {
		p += *p == '\\' && p[1];
		if (text && n + 1 < cap)
			text[n++] = *p;
	}
	if (text)
		text[n] = 0;
	return *p == '"' ? p + 1 : NULL;
}

/* Whether p is event=NAME KEY=VALUE ..; the quoted sentence is copied to text. */
static bool log_line(const char *p, char *text, size_t cap)
{
	bool first = true;

	text[0] = 0;
	for (;; p++, first = false) {
		size_t len = strspn(p, "abcdefghijklmnopqrstuvwxyz_");

		if (!len || p[len] != '=' || (first && strncmp(p, "event=", 6)))
			return false;
		p = log_value(p + len + 1, strncmp(p, "text=", 5) ? NULL : text, cap);
		if (!p || !*p)
			return p;
		if (*p != ' ')
			return false;
	}
}

static void op_log(void *v, int level, const char *line)
{
	char text[sizeof(((struct fakevm *)v)->error_line)];
	struct fakevm *vm = v;

	if (!log_line(line, text, sizeof(text)) || level < 2 || level > 6)
		world_trouble(vm->w, "a log line of level %d has not the form that is documented: %s", level,
			      line);
	if (level > 3)
		return;
	pthread_mutex_lock(&vm->w->lock);
	snprintf(vm->error_line, sizeof(vm->error_line), "%s", text[0] ? text : line);
	pthread_mutex_unlock(&vm->w->lock);
}

static int op_arbiter(void *v, const uint8_t session[16], enum ferry_owner want, enum ferry_owner *is)
{
	struct fakevm *vm = v;
	int err = enter(vm, FAKE_ARBITER);

	(void)session;
	pthread_mutex_lock(&vm->w->lock);
	if (!vm->w->decided)
		vm->w->record = want;
	vm->w->decided = true;
	*is = vm->w->record;
	pthread_mutex_unlock(&vm->w->lock);
	return err;
}

int (*const fake_arbiter)(void *vm, const uint8_t session[16], enum ferry_owner want,
			  enum ferry_owner *is) = op_arbiter;

/* ---- making them ---- */

void fakevm_source(struct fakevm *vm, struct world *w, unsigned kind)
{
	*vm = (struct fakevm){ .w = w,
			       .is_source = true,
			       .shared = kind & FAKE_SHARED,
			       .huge = kind & FAKE_HUGE,
			       .thp = kind & FAKE_THP,
			       .cpuid = 0x1234,
			       .state_bytes = 100000 };
	vm->ops = (struct ferry_ops){ FERRY_OPS_INIT,
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
	vm->shadow = calloc(FAKE_PAGES, FAKE_PAGE);
	for (unsigned i = 0; i < FAKE_REGIONS; i++) {
		struct ferry_region *r = &vm->region[i];

		*r = (struct ferry_region){ .id = 10 + 3 * i,
					    .gpa = i ? UINT64_C(1) << 32 : 0,
					    .len = fake_region_pages(vm, i) * FAKE_PAGE,
					    .page_shift = vm->huge ? 21 : 12,
					    .flags = (vm->shared ? FERRY_REGION_SHARED : 0) |
						     (vm->thp ? FERRY_REGION_THP : 0) };
		vm->dirty[i] = calloc((fake_region_pages(vm, i) + 63) / 64, 8);
		if (!map_memory(vm, r) || !vm->dirty[i] || !vm->shadow) {
			world_trouble(w, "no memory for the source: %s", strerror(errno));
			return;
		}
		for (uint64_t page = 0; page < region_pages[i]; page++) {
			if (!i && page >= FAKE_HOLE0 && page < FAKE_HOLE0 + FAKE_HOLES)
				continue;
			if (!i && page >= FAKE_HOLE0 + FAKE_HOLES &&
			    page < FAKE_HOLE0 + FAKE_HOLES + FAKE_ZEROS)
				memset(fake_page(vm, i, page), 0, FAKE_PAGE);
			else
				fake_fill(fake_page(vm, i, page), mix(fake_offset(i, page)));
			memcpy(vm->shadow + fake_offset(i, page), fake_page(vm, i, page), FAKE_PAGE);
		}
	}
	w->source_runs = true;
}

void fakevm_target(struct fakevm *vm, struct world *w, unsigned kind)
{
	*vm = (struct fakevm){
		.w = w, .shared = kind & FAKE_SHARED, .huge = kind & FAKE_HUGE, .cpuid = 0x1234
	};
	vm->ops = (struct ferry_ops){ FERRY_OPS_INIT,
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
	vm->own = calloc(FAKE_PAGES, 1);
}

void fakevm_destroy(struct fakevm *vm)
{
	fake_stop_cpu(vm);
	if (vm->cpu_started)
		pthread_join(vm->cpu, NULL);
	for (unsigned i = 0; i < FAKE_REGIONS; i++) {
		if (vm->region[i].hva)
			munmap(vm->region[i].hva, vm->region[i].len);
		if (vm->shared && vm->region[i].hva)
			close(vm->region[i].fd);
		free(vm->dirty[i]);
	}
	free(vm->shadow);
	free(vm->own);
}
