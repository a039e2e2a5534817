// SPDX-License-Identifier: MIT
/* How the world watches the two VMs, and the thread that is the target's guest. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fakevm_int.h"

#define WRITE_EVERY 16u /* the target's guest writes one page in 16 */
#define OWN_SEED UINT64_C(0x7777777700000000)

void world_init(struct world *w)
{
	*w = (struct world){ .frozen = calloc(FAKE_PAGES, FAKE_PAGE) };
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->cond, NULL);
}

void world_destroy(struct world *w)
{
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->cond);
	free(w->frozen);
}

/* Records only the first trouble. Lock held. */
static void trouble_locked(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void trouble_locked(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (w->trouble[0])
		return;
	va_start(ap, fmt);
	vsnprintf(w->trouble, sizeof(w->trouble), fmt, ap);
	va_end(ap);
}

void world_trouble(struct world *w, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&w->lock);
	trouble_locked(w, "%s", text);
	pthread_mutex_unlock(&w->lock);
}

static bool look(struct world *w, const bool *what)
{
	bool is;

	pthread_mutex_lock(&w->lock);
	is = *what;
	pthread_mutex_unlock(&w->lock);
	return is;
}

bool world_source_runs(struct world *w)
{
	return look(w, &w->source_runs);
}

bool world_target_runs(struct world *w)
{
	return look(w, &w->target_runs);
}

static void hand_on(const struct fakevm *vm, enum world_what what, uint64_t n)
{
	if (vm->w->tell)
		vm->w->tell(vm->w->tell_arg, vm->is_source, what, n);
}

void fake_set_running(struct fakevm *vm, bool runs)
{
	struct world *w = vm->w;

	pthread_mutex_lock(&w->lock);
	*(vm->is_source ? &w->source_runs : &w->target_runs) = runs;
	if (w->source_runs && w->target_runs && !w->target_held)
		trouble_locked(w, "both VMs run, by resume at the %s", vm->is_source ? "source" : "target");
	if (runs && vm->stop)
		trouble_locked(w, "resume after discard");
	hand_on(vm, runs ? WORLD_RUNS : WORLD_STOPS, 0);
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

void fake_hold(struct fakevm *vm)
{
	struct world *w = vm->w;

	pthread_mutex_lock(&w->lock);
	if (w->target_runs)
		trouble_locked(w, "output_hold while the target runs already");
	w->target_held = true;
	hand_on(vm, WORLD_HOLDS, 0);
	pthread_mutex_unlock(&w->lock);
}

static void come_out(struct fakevm *vm, uint64_t n)
{
	struct world *w = vm->w;

	hand_on(vm, WORLD_OUTPUT, n);
	if (!w->tell && n != w->seen)
		trouble_locked(w, "output %llu came out at the %s where %llu was due", (unsigned long long)n,
			       vm->is_source ? "source" : "target", (unsigned long long)w->seen);
	w->seen = n + 1;
}

void fake_release(struct fakevm *vm)
{
	struct world *w = vm->w;

	pthread_mutex_lock(&w->lock);
	if (w->source_runs)
		trouble_locked(w, "output_release while the source runs");
	hand_on(vm, WORLD_RELEASED, 0);
	for (uint64_t i = 0; i < vm->held_out; i++)
		come_out(vm, vm->next_out - vm->held_out + i);
	vm->held_out = 0;
	w->target_held = false;
	pthread_mutex_unlock(&w->lock);
}

/* Lock held. */
static void emit_locked(struct fakevm *vm)
{
	struct world *w = vm->w;
	uint64_t n = vm->next_out++;

	if (!(vm->is_source ? w->source_runs : w->target_runs))
		trouble_locked(w, "the %s emits and does not run", vm->is_source ? "source" : "target");
	if (!vm->is_source && w->target_held)
		vm->held_out++;
	else
		come_out(vm, n);
}

void fake_emit(struct fakevm *vm)
{
	pthread_mutex_lock(&vm->w->lock);
	emit_locked(vm);
	pthread_mutex_unlock(&vm->w->lock);
}

/* ---- the target's guest ---- */

static void check_page(struct fakevm *vm, unsigned region, uint64_t page)
{
	const uint8_t *is = fake_page(vm, region, page), *due = vm->w->frozen + fake_offset(region, page);

	for (size_t i = 0; i < FAKE_PAGE; i++)
		if (is[i] != due[i]) {
			trouble_locked(vm->w,
				       "page %llu of region %u reads %#x at byte %zu in the target, %#x was due",
				       (unsigned long long)page, region, is[i], i, due[i]);
			return;
		}
}

static void own_page(uint8_t *to, uint64_t at)
{
	fake_fill(to, OWN_SEED + at * FAKE_PAGE);
}

/* False: the guest is stopped. */
static bool step(struct fakevm *vm, uint64_t at)
{
	unsigned region = at >= FAKE_PAGES0;
	uint64_t page = region ? at - FAKE_PAGES0 : at;
	volatile const uint8_t *p = fake_page(vm, region, page);
	struct world *w = vm->w;
	bool go;

	(void)*p; /* may fault and wait for the page, so not under the lock */
	pthread_mutex_lock(&w->lock);
	while (!w->target_runs && !vm->stop)
		pthread_cond_wait(&w->cond, &w->lock);
	go = !vm->stop;
	if (go) {
		check_page(vm, region, page);
		if (at % WRITE_EVERY == 0) {
			own_page(fake_page(vm, region, page), at);
			vm->own[at] = 1;
		}
		vm->touched++;
		emit_locked(vm);
		if (vm->touched == FAKE_PAGES)
			pthread_cond_broadcast(&w->cond);
	}
	pthread_mutex_unlock(&w->lock);
	return go;
}

/* The last huge page was never touched; this read allocates it. */
static bool hole_is_zero(struct fakevm *vm)
{
	const uint64_t *p = (const uint64_t *)fake_page(vm, 0, FAKE_HUGE_PAGES0 - 512);

	for (size_t i = 0; i < 512 * FAKE_PAGE / 8; i++)
		if (p[i]) {
			world_trouble(vm->w, "a hole of huge pages reads %#llx", (unsigned long long)p[i]);
			return false;
		}
	return true;
}

static void *cpu_main(void *arg)
{
	struct fakevm *vm = arg;

	pthread_mutex_lock(&vm->w->lock);
	vm->cpu_runs = true;
	pthread_cond_broadcast(&vm->w->cond);
	while (vm->idle && !vm->stop)
		pthread_cond_wait(&vm->w->cond, &vm->w->lock);
	pthread_mutex_unlock(&vm->w->lock);
	if (vm->huge && !hole_is_zero(vm))
		return NULL;
	/* FAKE_PAGES is 19 * 83: a step of 1000 visits every page. */
	for (uint64_t i = 0, at = 7; i < FAKE_PAGES; i++, at = (at + 1000) % FAKE_PAGES)
		if (!step(vm, at))
			break;
	return NULL;
}

int fake_start_cpu(struct fakevm *vm)
{
	if (vm->cpu_started)
		return 0;
	if (pthread_create(&vm->cpu, NULL, cpu_main, vm))
		return -EAGAIN;
	vm->cpu_started = true;
	/* A thread that has not started yet would find the memory complete and cause no fault. */
	pthread_mutex_lock(&vm->w->lock);
	while (!vm->cpu_runs)
		pthread_cond_wait(&vm->w->cond, &vm->w->lock);
	pthread_mutex_unlock(&vm->w->lock);
	return 0;
}

void fake_stop_cpu(struct fakevm *vm)
{
	struct world *w = vm->w;

	pthread_mutex_lock(&w->lock);
	vm->stop = true;
	if (!vm->is_source) {
		w->target_runs = false;
		vm->held_out = 0;
		hand_on(vm, WORLD_STOPS, 0);
	}
	pthread_cond_broadcast(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

/* ---- after the migration ---- */

void fakevm_finish(struct fakevm *vm)
{
	struct world *w = vm->w;

	pthread_mutex_lock(&w->lock);
	if (!vm->cpu_started)
		trouble_locked(w, "the target's guest was never started");
	vm->idle = false;
	pthread_cond_broadcast(&w->cond);
	while (vm->cpu_started && vm->touched < FAKE_PAGES && !w->trouble[0])
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

void fakevm_run_on(struct fakevm *vm)
{
	if (vm->is_source)
		fake_guest_writes(vm, 3);
	for (int i = 0; i < 3; i++)
		fake_emit(vm);
	pthread_mutex_lock(&vm->w->lock);
	if (!vm->is_source && vm->w->target_held)
		trouble_locked(vm->w, "the target's output is still held");
	pthread_mutex_unlock(&vm->w->lock);
}

/* Pages that no guest writes must be zero. */
static void check_rest(struct fakevm *vm, unsigned region, uint64_t from)
{
	for (uint64_t page = from; page < fake_region_pages(vm, region); page++) {
		const uint64_t *p = (const uint64_t *)fake_page(vm, region, page);

		for (size_t i = 0; i < FAKE_PAGE / 8; i++)
			if (p[i]) {
				world_trouble(vm->w,
					      "page %llu of region %u, which nobody wrote, is not zero in the end",
					      (unsigned long long)page, region);
				return;
			}
	}
}

void fakevm_check_memory(struct fakevm *vm)
{
	const uint8_t *due = vm->is_source ? vm->shadow : vm->w->frozen;
	uint8_t own[FAKE_PAGE];

	for (uint64_t at = 0; at < FAKE_PAGES; at++) {
		unsigned region = at >= FAKE_PAGES0;
		const uint8_t *is = fake_page(vm, region, region ? at - FAKE_PAGES0 : at);
		const uint8_t *want = due + at * FAKE_PAGE;

		if (!vm->is_source && vm->own[at]) {
			own_page(own, at);
			want = own;
		}
		if (memcmp(is, want, FAKE_PAGE))
			world_trouble(vm->w, "page %llu of the %s's memory is wrong in the end",
				      (unsigned long long)at, vm->is_source ? "source" : "target");
	}
	check_rest(vm, 0, FAKE_PAGES0);
	check_rest(vm, 1, FAKE_PAGES1);
}
