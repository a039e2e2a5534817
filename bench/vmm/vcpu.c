/* SPDX-License-Identifier: MIT */
/*
 * The threads that run vCPUs, how they are stopped, and the pace of the guest.
 *
 * Stopping. want is changed under the lock, then every thread is kicked: by the condition, if it waits for
 * its pace; by immediate_exit, if it is about to enter KVM; by a signal, if it is inside KVM or a page fault.
 * The signal is repeated until the thread has acknowledged, because it may have come too early.
 *
 * A signal does not interrupt a kernel-mode access for the guest (KVM's emulator) that is blocked on a
 * userfault. If the guest is being destroyed, its memory is replaced under it.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm_int.h"

#define KICK_NS UINT64_C(1000000)     /* between two kicks */
#define ABANDON_NS UINT64_C(50000000) /* after this long a stuck thread loses its memory */

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	pthread_cond_timedwait(cond, lock, &t);
}

void vmm_fail(struct vmm *vm, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&vm->lock);
	if (!atomic_load(&vm->has_error)) {
		va_start(ap, fmt);
		vsnprintf(vm->error, sizeof(vm->error), fmt, ap);
		va_end(ap);
		atomic_store(&vm->has_error, true);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* --- threads --- */

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	struct vmm *vm = v->vm;

	pthread_mutex_lock(&vm->lock);
	for (;;) {
		v->parked = true;
		pthread_cond_broadcast(&vm->ack);
		while (atomic_load(&vm->want) == WANT_PARK ||
		       (v->dead && atomic_load(&vm->want) != WANT_EXIT))
			pthread_cond_wait(&vm->kick, &vm->lock);
		if (atomic_load(&vm->want) == WANT_EXIT)
			break;
		v->parked = false;
		if (vm->backend == BACKEND_KVM)
			machine_unkick(v);
		pthread_mutex_unlock(&vm->lock);
		if (vm->backend == BACKEND_KVM)
			machine_run(v);
		else
			mutator_run(v);
		pthread_mutex_lock(&vm->lock);
	}
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

/* The process's signal handler only interrupts system calls and, if asked, a host thread's fault. */
static int install_handler(void)
{
	struct sigaction sa = { .sa_sigaction = mutator_kick_handler, .sa_flags = SA_SIGINFO };

	sigemptyset(&sa.sa_mask);
	return sigaction(KICK_SIGNAL, &sa, NULL) < 0 ? -errno : 0;
}

int vcpus_start(struct vmm *vm)
{
	sigset_t pipe, old;
	int err = install_handler();

	if (err)
		return err;
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE); /* survive the end of the observer */
	pthread_sigmask(SIG_BLOCK, &pipe, &old);
	for (uint32_t i = 0; !err && i < vm->nvcpus; i++) {
		err = -pthread_create(&vm->vcpus[i].thread, NULL, vcpu_main, &vm->vcpus[i]);
		vm->vcpus[i].has_thread = !err;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

/* Lock held. Kicks the threads; true if one had not parked yet. */
static bool kick_all(struct vmm *vm)
{
	bool any = false;

	pthread_cond_broadcast(&vm->kick);
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (!v->has_thread || v->parked)
			continue;
		any = true;
		if (vm->backend == BACKEND_KVM)
			machine_kick(v);
		pthread_sigqueue(v->thread, KICK_SIGNAL, (union sigval){ .sival_ptr = v });
	}
	return any;
}

/* Lock held. */
static void park_all(struct vmm *vm, bool abandon)
{
	uint64_t stuck = clock_ns() + ABANDON_NS;

	atomic_store(&vm->want, WANT_PARK);
	while (kick_all(vm)) {
		wait_until(&vm->ack, &vm->lock, clock_ns() + KICK_NS);
		if (abandon && clock_ns() > stuck) {
			memory_abandon(vm);
			abandon = false;
		}
	}
}

void vcpus_pause(struct vmm *vm)
{
	pthread_mutex_lock(&vm->lock);
	park_all(vm, false);
	pthread_mutex_unlock(&vm->lock);
}

void vcpus_resume(struct vmm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->pace_generation++;
	atomic_store(&vm->ran, true);
	atomic_store(&vm->want, WANT_RUN);
	pthread_cond_broadcast(&vm->kick);
	pthread_mutex_unlock(&vm->lock);
}

void vcpus_stop(struct vmm *vm, bool abandon)
{
	pthread_mutex_lock(&vm->lock);
	atomic_store(&vm->abandoned, abandon);
	park_all(vm, abandon);
	atomic_store(&vm->want, WANT_EXIT);
	pthread_cond_broadcast(&vm->kick);
	pthread_mutex_unlock(&vm->lock);
	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		if (vm->vcpus[i].has_thread)
			pthread_join(vm->vcpus[i].thread, NULL);
		vm->vcpus[i].has_thread = false;
	}
	atomic_store(&vm->want, WANT_PARK);
}

/* --- the pace --- */

void vcpus_rate_changed(struct vmm *vm)
{
	vm->pace_generation++;
	pthread_cond_broadcast(&vm->kick);
}

void vcpu_slice_begins(struct vcpu *v, uint64_t npages)
{
	if (v->nepochs == EPOCHS_MAX) /* vmm_set_working_set() prevents this */
		return;
	v->epochs[v->nepochs++] = (struct epoch){ .after = atomic_load(&v->given), .npages = npages };
	v->slice = npages;
}

/* This vCPU's share of the rate, per second; UINT64_MAX: unpaced. */
static uint64_t my_rate(const struct vcpu *v)
{
	uint64_t rate = atomic_load(&v->vm->rate);

	if (rate == UINT64_MAX && !v->vm->throttle)
		return rate;
	if (rate > UINT64_C(1) << 40)
		rate = UINT64_C(1) << 40;
	rate = rate * (100 - v->vm->throttle) / 100;
	return rate / v->vm->nvcpus + (v->index < rate % v->vm->nvcpus);
}

/* The stamps that are due now; *when: the time at which the next one is due. */
static uint64_t stamps_due(struct vcpu *v, uint64_t now, uint64_t *when)
{
	uint64_t rate = my_rate(v), due, passed;

	*when = UINT64_MAX;
	if (v->pace_generation != v->vm->pace_generation) {
		v->pace_generation = v->vm->pace_generation;
		v->pace_from = now;
		v->pace_given = 0;
	}
	if (rate == UINT64_MAX)
		return v->most;
	if (!rate)
		return 0;
	passed = now - v->pace_from;
	due = (uint64_t)((unsigned __int128)passed * rate / 1000000000u);
	if (due > v->pace_given &&
	    due - v->pace_given > (unsigned __int128)rate * DEBT_NS / 1000000000u + v->most) {
		v->pace_from = now - VISIT_NS; /* it cannot keep up: restart the pacing */
		v->pace_given = 0;
		due = (uint64_t)((unsigned __int128)VISIT_NS * rate / 1000000000u);
	}
	due = due > v->pace_given ? due - v->pace_given : 0;
	*when = v->pace_from + (uint64_t)(((unsigned __int128)v->pace_given + 1) * 1000000000u / rate) + 1;
	return due < v->most ? due : v->most;
}

/*
 * Lock held. The guest's progress is visible outside only at the end of a visit. So if pages take long (write
 * protected, at the other end, or another thread has the core), a visit must have fewer of them.
 */
static void visit_ended(struct vcpu *v)
{
	if (!v->most)
		v->most = QUOTA_FIRST;
	else if (v->quota && clock_ns() - v->asked > 2 * VISIT_NS)
		v->most = v->quota / 2 > QUOTA_MIN ? v->quota / 2 : QUOTA_MIN;
	else if (v->quota == v->most)
		v->most = 2 * v->most < QUOTA_MAX ? 2 * v->most : QUOTA_MAX;
	v->quota = 0;
}

static uint32_t give(struct vcpu *v, uint64_t now, uint64_t quota, bool print)
{
	v->pace_given += quota;
	v->quota = quota;
	v->asked = now;
	v->next_visit = now + VISIT_NS;
	if (print)
		v->next_print = now + PRINT_NS;
	atomic_fetch_add(&v->given, quota);
	return (uint32_t)quota | (uint32_t)print << GUEST_ASK_PRINT;
}

/* Lock held. Whether the guest has an order now; otherwise *until is when to look again. */
static bool next_work(struct vcpu *v, uint32_t *ret, uint64_t *until)
{
	uint64_t slice = atomic_load(&v->vm->slice), now = clock_ns(), due, when;
	bool print;

	if (slice != v->slice) {
		vcpu_slice_begins(v, slice);
		*ret = UINT32_C(1) << GUEST_ASK_SLICE | (uint32_t)slice;
		return true;
	}
	if (!v->greeted) {
		v->greeted = true;
		*ret = give(v, now, FIRST_STAMPS, true);
		return true;
	}
	print = now >= v->next_print;
	due = stamps_due(v, now, &when);
	if (print || due == v->most || (due && now >= v->next_visit)) {
		*ret = give(v, now, due, print);
		return true;
	}
	if (when < v->next_visit)
		when = v->next_visit;
	*until = when < v->next_print ? when : v->next_print;
	return false;
}

uint32_t vcpu_ask(struct vcpu *v)
{
	struct vmm *vm = v->vm;
	uint64_t until;
	uint32_t ret = 0;

	pthread_mutex_lock(&vm->lock);
	atomic_store(&v->done, atomic_load(&v->given));
	atomic_fetch_add(&v->visits, 1);
	visit_ended(v);
	while (atomic_load(&vm->want) == WANT_RUN && !next_work(v, &ret, &until))
		wait_until(&vm->kick, &vm->lock, until);
	pthread_mutex_unlock(&vm->lock);
	return ret;
}
