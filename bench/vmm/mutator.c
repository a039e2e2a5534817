/* SPDX-License-Identifier: MIT */
/*
 * The guest's algorithm (guest.S) on a host thread, for hosts without KVM. Its registers are struct
 * host_regs.
 *
 * On a pause the thread finishes its current stamp. If the guest must be destroyed while the thread is
 * blocked on a userfault, a signal handler jumps out of the access. The signal carries the vCPU, so the
 * handler needs no global; may_leave says whether the thread may be interrupted there.
 */
#include "stamp.h"
#include "vmm_int.h"

void mutator_kick_handler(int sig, siginfo_t *info, void *context)
{
	struct vcpu *v = info->si_value.sival_ptr;

	(void)sig, (void)context;
	if (info->si_code == SI_QUEUE && v && v->may_leave && atomic_load(&v->vm->abandoned))
		siglongjmp(v->leave, 1);
}

static volatile uint64_t *my_page(const struct vcpu *v)
{
	return (volatile uint64_t *)((uint8_t *)v->vm->regions[0].hva + GUEST_VCPU + PAGE_BYTES * v->index);
}

/* Accesses RAM. Other threads read it at the same time, as with any guest, so no thread sanitizer here. */
__attribute__((no_sanitize("thread"))) static void touch(struct vcpu *v)
{
	volatile struct host_regs *h = &v->host;
	uint8_t *base = (uint8_t *)v->vm->regions[1].hva + PAGE_BYTES * v->index;
	const uint64_t stride = (uint64_t)PAGE_BYTES * v->vm->nvcpus, npages = h->npages;
	volatile uint64_t *page = my_page(v);
	uint64_t now = clock_ns();

	page[VCPU_SEQUENCE / 8] = h->sequence;
	page[VCPU_VISITS / 8] = page[VCPU_VISITS / 8] + 1;
	if (!h->tick_ns || now < h->tick_ns)
		h->tick_ns = now;
	while (now - h->tick_ns >= 1000000000u / TIMER_HZ) {
		page[VCPU_TICKS / 8] = page[VCPU_TICKS / 8] + 1;
		h->tick_ns += 1000000000u / TIMER_HZ;
	}
	while (h->sequence < h->until &&
	       atomic_load_explicit(&v->vm->want, memory_order_relaxed) == WANT_RUN) {
		uint64_t seq = h->sequence + 1, i = stamp_index(v->vm->cfg.pattern, seq, npages);

		((volatile uint64_t *)(base + i * stride))[stamp_word(i)] = seq;
		h->sequence = seq;
	}
}

void mutator_run(struct vcpu *v)
{
	while (atomic_load(&v->vm->want) == WANT_RUN) {
		uint32_t ask;

		if (v->host.sequence == v->host.until) {
			ask = vcpu_ask(v);
			if (ask >> GUEST_ASK_SLICE) {
				v->host.npages = ask & 0x7fffffff;
				continue;
			}
			if (ask >> GUEST_ASK_PRINT & 1)
				output_emit(&v->vm->out, (uint16_t)v->index, ++v->host.number);
			v->host.until += ask & ((UINT32_C(1) << GUEST_ASK_PRINT) - 1);
		}
		if (!sigsetjmp(v->leave, 1)) {
			v->may_leave = 1;
			/* A kick just before this has set it already. */
			if (!atomic_load(&v->vm->abandoned))
				touch(v);
		}
		v->may_leave = 0;
	}
}
