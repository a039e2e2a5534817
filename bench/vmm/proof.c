/* SPDX-License-Identifier: MIT */
/*
 * The proof: computes what every byte of RAM must be, and compares.
 *
 * Theory. A page is a hole, generated content (stamp.h), or part of the image. At most one word of it is
 * stamped, because all stamps of a page go to the same word: it has the number of the page's last stamp. To
 * find that, each vCPU's sequence is walked backwards from its end until every page of its slice was met.
 * That takes about n ln n steps for n random pages (zipf: times ln n), however long the guest has run. If the
 * working set was changed, each epoch is walked within its own slice, the last first.
 *
 * /proc/self/pagemap, or SEEK_DATA on the memfd, finds the holes before they are read, so the proof does not
 * populate them. For SEEK_DATA a memfd of hugetlbfs is all data: there the proof populates holes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stamp.h"
#include "vmm_int.h"

#define BATCH 8192 /* pages per query */
#define PM_PRESENT (UINT64_C(1) << 63)
#define PM_SWAPPED (UINT64_C(1) << 62)

struct proof {
	struct vmm *vm;
	struct vmm_proof *ret;
	uint64_t *last; /* per data page: number of its last stamp, or 0 */
	uint64_t nlast;
	uint8_t *image;
	int pagemap;
	off_t data, hole; /* the memfd's extent of the last query */
};

static void say(struct proof *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct proof *p, const char *fmt, ...)
{
	va_list ap;

	if (p->ret->text[0])
		return;
	va_start(ap, fmt);
	vsnprintf(p->ret->text, sizeof(p->ret->text), fmt, ap);
	va_end(ap);
}

/* --- the replay --- */

static uint64_t slot_of(const struct vcpu *v, uint64_t index)
{
	return index * v->vm->nvcpus + v->index;
}

static void replay_vcpu(struct proof *p, const struct vcpu *v, uint64_t sequence)
{
	uint64_t seq = sequence;

	for (uint32_t e = v->nepochs; e-- > 0 && seq;) {
		const struct epoch *epoch = &v->epochs[e];
		uint64_t left = 0;

		for (uint64_t i = 0; i < epoch->npages; i++)
			left += !p->last[slot_of(v, i)];
		for (; seq > epoch->after && left; seq--) {
			uint64_t *last =
				&p->last[slot_of(v, stamp_index(v->vm->cfg.pattern, seq, epoch->npages))];

			if (!*last) {
				*last = seq;
				left--;
			}
		}
		if (seq > epoch->after)
			seq = epoch->after;
	}
}

static int replay(struct proof *p)
{
	struct vmm *vm = p->vm;

	for (uint32_t i = 0; i < vm->nvcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];
		uint64_t sequence = v->host.sequence;
		int err = vm->backend == BACKEND_KVM ? machine_sequence(v, &sequence) : 0;

		if (err)
			return err;
		if (sequence > atomic_load(&v->given))
			say(p, "vCPU %u has made %llu stamps, %llu were requested", i,
			    (unsigned long long)sequence, (unsigned long long)atomic_load(&v->given));
		p->ret->stamps += sequence;
		replay_vcpu(p, v, sequence);
	}
	return 0;
}

/* --- which pages are present --- */

/* For each page: whether a read would not populate it. */
static int present_anon(struct proof *p, const struct ferry_region *r, uint64_t first, uint64_t n,
			uint64_t *entries)
{
	off_t at = (off_t)((((uintptr_t)r->hva >> PAGE_SHIFT) + first) * 8);

	if (pread(p->pagemap, entries, n * 8, at) != (ssize_t)(n * 8))
		return -EIO;
	for (uint64_t i = 0; i < n; i++)
		entries[i] = !!(entries[i] & (PM_PRESENT | PM_SWAPPED));
	return 0;
}

/* Finds the next extent with data that ends after at; at the end of the file an empty one. */
static int find_extent(struct proof *p, const struct ferry_region *r, off_t at)
{
	if (at < p->hole)
		return 0;
	p->data = lseek(r->fd, at, SEEK_DATA);
	if (p->data < 0 && errno == ENXIO) {
		p->data = p->hole = INT64_MAX;
		return 0;
	}
	p->hole = p->data < 0 ? -1 : lseek(r->fd, p->data, SEEK_HOLE);
	return p->hole < 0 ? -errno : 0;
}

static int present_shared(struct proof *p, const struct ferry_region *r, uint64_t first, uint64_t n,
			  uint64_t *entries)
{
	off_t at = (off_t)(r->fd_offset + (first << PAGE_SHIFT));

	for (uint64_t i = 0; i < n; i++, at += PAGE_BYTES) {
		int err = find_extent(p, r, at);

		if (err)
			return err;
		entries[i] = at >= p->data;
	}
	return 0;
}

/* --- comparing --- */

static bool matches(const uint64_t *p, uint64_t first, uint64_t step, uint64_t from, uint64_t to)
{
	uint64_t diff = 0;

	for (uint64_t w = from; w < to; w++)
		diff |= p[w] ^ (first + w * step);
	return !diff;
}

static bool page_is_right(struct proof *p, uint32_t region, uint64_t page, const uint64_t *data)
{
	uint64_t global = page + (region ? GUEST_LOW_LEN >> PAGE_SHIFT : 0), first = 0, step = 0, stamp = 0,
		 word;

	if (!region && page < GUEST_IMAGE_END >> PAGE_SHIFT)
		return image_is_live(p->vm, page) ||
		       !memcmp(data, p->image + (page << PAGE_SHIFT), PAGE_BYTES);
	if (memory_is_populated(p->vm, global)) {
		first = content_first(p->vm->cfg.seed, global);
		step = CONTENT_STEP;
	}
	if (region && page < p->nlast)
		stamp = p->last[page];
	if (!stamp)
		return matches(data, first, step, 0, PAGE_WORDS);
	word = stamp_word(page / p->vm->nvcpus);
	return data[word] == stamp && matches(data, first, step, 0, word) &&
	       matches(data, first, step, word + 1, PAGE_WORDS);
}

/* A hole reads as zero: checks that this is right. */
static bool hole_is_right(struct proof *p, uint32_t region, uint64_t page)
{
	static const uint64_t zero[PAGE_WORDS];

	return page_is_right(p, region, page, zero);
}

static int check_region(struct proof *p, uint32_t region, uint64_t *entries)
{
	const struct ferry_region *r = &p->vm->regions[region];
	uint64_t npages = region_pages(r);

	for (uint64_t first = 0; first < npages; first += BATCH) {
		uint64_t n = npages - first < BATCH ? npages - first : BATCH;
		int err = r->flags & FERRY_REGION_SHARED ? present_shared(p, r, first, n, entries)
							 : present_anon(p, r, first, n, entries);

		if (err)
			return err;
		for (uint64_t i = 0; i < n; i++) {
			const uint64_t *data = (const uint64_t *)r->hva + (first + i) * PAGE_WORDS;
			bool right = entries[i] ? page_is_right(p, region, first + i, data)
						: hole_is_right(p, region, first + i);

			p->ret->pages_checked++;
			p->ret->pages_hole += !entries[i];
			if (right)
				continue;
			if (!p->ret->pages_bad++) {
				p->ret->bad_region = region;
				p->ret->bad_page = first + i;
				say(p, "page %llu of region %u is %s", (unsigned long long)(first + i),
				    region, entries[i] ? "not what was written to it" : "missing");
			}
		}
	}
	return 0;
}

static void check_counters(struct proof *p)
{
	const uint8_t *low = p->vm->regions[0].hva;

	for (uint32_t i = 0; i < p->vm->nvcpus; i++) {
		const uint64_t *page = (const uint64_t *)(low + GUEST_VCPU + (size_t)PAGE_BYTES * i);
		uint64_t back = page[VCPU_TSC_BACK / 8], sse = page[VCPU_SSE_BAD / 8],
			 avx = page[VCPU_AVX_BAD / 8];

		p->ret->ticks += page[VCPU_TICKS / 8];
		p->ret->guest_errors += back + sse + avx;
		if (back | sse | avx)
			say(p, "vCPU %u saw its clock go back %llu times, SSE change %llu and AVX %llu times",
			    i, (unsigned long long)back, (unsigned long long)sse, (unsigned long long)avx);
	}
}

static int prove(struct proof *p)
{
	uint64_t *entries = malloc(BATCH * sizeof(*entries));
	int err;

	p->image = calloc(1, GUEST_IMAGE_END);
	p->nlast = data_pages(p->vm);
	p->last = calloc(p->nlast, sizeof(*p->last));
	p->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	err = p->pagemap < 0 ? -errno : !entries || !p->image || !p->last ? -ENOMEM : replay(p);
	if (!err)
		image_build(p->vm, p->image);
	for (uint32_t i = 0; !err && i < NREGIONS; i++)
		err = check_region(p, i, entries);
	if (!err)
		check_counters(p);
	if (p->pagemap >= 0)
		close(p->pagemap);
	free(p->last);
	free(p->image);
	free(entries);
	return err;
}

int vmm_proof(struct vmm *vm, struct vmm_proof *ret)
{
	struct vmm_proof result = { 0 };
	struct proof p = { .vm = vm, .ret = &result, .pagemap = -1 };
	bool running = atomic_load(&vm->want) == WANT_RUN;
	uint64_t began = clock_ns();
	int err;

	if (!vm->built || atomic_load(&vm->gone))
		return -ENOENT;
	if (atomic_load(&vm->has_error))
		return -EIO;
	vcpus_pause(vm);
	err = prove(&p);
	if (running)
		vcpus_resume(vm);
	if (err)
		return err;
	result.duration_us = (clock_ns() - began) / 1000;
	*ret = result;
	return 0;
}
