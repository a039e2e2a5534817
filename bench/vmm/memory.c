/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: two regions, the low 16 MiB and the data, each with its own mapping; if shared, of one memfd.
 *
 * The mapping reserves pages of hugetlbfs: a guest either has all of them or does not start. Transparent huge
 * pages are requested by madvise(); if the page cache has small pages, they are collapsed.
 */
#include <errno.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stamp.h"
#include "vmm_int.h"

#define HUGE_SHIFT 21
#define HUGE_BYTES (1ul << HUGE_SHIFT)
#define PREALLOC_THREADS 16u

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static bool is_shared(const struct vmm *vm)
{
	return vm->cfg.kind & VMM_MEMFD;
}

static bool is_hugetlb(const struct vmm *vm)
{
	return vm->cfg.kind & VMM_HUGETLB;
}

/* Reserves address space for a region, aligned for huge pages. */
static void *aligned_space(uint64_t len)
{
	uint8_t *p =
		mmap(NULL, len + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t head;

	if (p == MAP_FAILED)
		return p;
	head = -(uintptr_t)p & (HUGE_BYTES - 1);
	if (head)
		munmap(p, head);
	munmap(p + head + len, HUGE_BYTES - head);
	return p + head;
}

static int map_region(struct vmm *vm, struct ferry_region *r)
{
	int flags = r->flags & FERRY_REGION_SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
	void *at = vm->cfg.thp ? aligned_space(r->len) : NULL, *p;

	if (at == MAP_FAILED)
		return -errno;
	flags |= at ? MAP_FIXED : 0;
	flags |= !is_hugetlb(vm) ? MAP_NORESERVE : is_shared(vm) ? 0 : MAP_HUGETLB | MAP_HUGE_2MB;
	p = mmap(at, r->len, PROT_READ | PROT_WRITE, flags, r->fd, (off_t)r->fd_offset);
	if (p == MAP_FAILED)
		return -errno;
	r->hva = p;
	/* Best effort. Without thp: no huge pages, which would fill the holes. */
	if (vm->cfg.thp || (!is_shared(vm) && !is_hugetlb(vm)))
		madvise(p, r->len, vm->cfg.thp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return 0;
}

static int new_memfd(struct vmm *vm)
{
	vm->memfd =
		memfd_create("guest-ram", MFD_CLOEXEC | (is_hugetlb(vm) ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
	if (vm->memfd < 0)
		return -errno;
	return ftruncate(vm->memfd, (off_t)vm->cfg.memory) < 0 ? -errno : 0;
}

struct share {
	pthread_t thread;
	uint8_t *at;
	size_t len;
	int err;
};

static void *populate(void *arg)
{
	struct share *s = arg;

	s->err = madvise(s->at, s->len, MADV_POPULATE_WRITE) < 0 ? -errno : 0;
	return NULL;
}

/* Each CPU allocates a share in whole huge pages, because clearing memory takes nearly all of the time. */
static int prealloc(const struct ferry_region *r)
{
	struct share s[PREALLOC_THREADS];
	uint8_t *at = r->hva, *end = at + r->len;
	cpu_set_t mine;
	unsigned n = 0, cpus = sched_getaffinity(0, sizeof(mine), &mine) ? 1 : (unsigned)CPU_COUNT(&mine);
	size_t each;
	int err = 0;

	if (cpus > PREALLOC_THREADS)
		cpus = PREALLOC_THREADS;
	each = (r->len / cpus + HUGE_BYTES) & ~(HUGE_BYTES - 1);
	for (; at < end; at += s[n++].len) {
		size_t left = (size_t)(end - at);

		s[n] = (struct share){ .at = at, .len = left < each ? left : each };
		if (pthread_create(&s[n].thread, NULL, populate, &s[n])) {
			s[n].len = left; /* no thread: the rest here */
			populate(&s[n]);
			err = s[n].err;
			break;
		}
	}
	for (unsigned i = 0; i < n; i++) {
		pthread_join(s[i].thread, NULL);
		err = s[i].err ? s[i].err : err;
	}
	return err;
}

/* The command that fixes it, for the sentence. */
static void say_hugetlb(const struct vmm *vm, int err, char *why, size_t cap)
{
	long total = 0, unused = 0;
	FILE *in = fopen("/proc/meminfo", "re");
	char line[128];

	while (in && fgets(line, sizeof(line), in)) {
		sscanf(line, "HugePages_Total: %ld", &total);
		sscanf(line, "HugePages_Free: %ld", &unused);
	}
	if (in)
		fclose(in);
	snprintf(why, cap,
		 "no %llu MiB of huge pages for the guest: %s; this host has %ld of 2 MiB, %ld of them free, some perhaps "
		 "reserved: sysctl -w vm.nr_hugepages=%llu",
		 (unsigned long long)vm->cfg.memory >> 20, strerror(-err), total, unused,
		 (unsigned long long)(vm->cfg.memory >> HUGE_SHIFT) + (unsigned long long)total);
}

int memory_new(struct vmm *vm, char *why, size_t cap)
{
	bool shared = is_shared(vm);
	uint64_t lens[NREGIONS] = { GUEST_LOW_LEN, vm->cfg.memory - GUEST_LOW_LEN };
	uint64_t gpas[NREGIONS] = { 0, GUEST_DATA_GPA }, at = 0;
	int err = shared ? new_memfd(vm) : 0;

	for (uint32_t i = 0; !err && i < NREGIONS; i++) {
		vm->regions[i] = (struct ferry_region){
			.gpa = gpas[i],
			.len = lens[i],
			.fd = vm->memfd,
			.fd_offset = shared ? at : 0,
			.id = i,
			.page_shift = is_hugetlb(vm) ? HUGE_SHIFT : PAGE_SHIFT,
			.flags = (shared ? FERRY_REGION_SHARED : 0) | (vm->cfg.thp ? FERRY_REGION_THP : 0),
		};
		at += lens[i];
		err = map_region(vm, &vm->regions[i]);
		if (!err && vm->cfg.prealloc)
			err = prealloc(&vm->regions[i]);
	}
	if (err && is_hugetlb(vm))
		say_hugetlb(vm, err, why, cap);
	else if (err)
		snprintf(why, cap, "no %llu MiB of %s memory for the guest: %s",
			 (unsigned long long)vm->cfg.memory >> 20, shared ? "memfd" : "anonymous",
			 strerror(-err));
	return err;
}

void memory_free(struct vmm *vm)
{
	for (uint32_t i = 0; i < NREGIONS; i++)
		if (vm->regions[i].hva)
			munmap(vm->regions[i].hva, vm->regions[i].len);
	memset(vm->regions, 0, sizeof(vm->regions));
	if (vm->memfd >= 0)
		close(vm->memfd);
	vm->memfd = -1;
}

void memory_abandon(struct vmm *vm)
{
	for (uint32_t i = 0; i < NREGIONS; i++)
		if (vm->regions[i].hva)
			mmap(vm->regions[i].hva, vm->regions[i].len, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

bool memory_is_populated(const struct vmm *vm, uint64_t page)
{
	const uint64_t low = GUEST_LOW_LEN >> PAGE_SHIFT;

	if (page < GUEST_IMAGE_END >> PAGE_SHIFT)
		return false;
	if (page >= low && page - low < vm->populated_ws)
		return true;
	return content_populated(vm->cfg.seed, page, vm->cfg.populate);
}

static void fill_page(uint64_t *p, uint64_t first)
{
	for (unsigned w = 0; w < PAGE_WORDS; w++)
		p[w] = first + w * CONTENT_STEP;
}

/* The image's zero pages stay holes. */
static void copy_image(const struct vmm *vm, const uint8_t *image)
{
	static const uint8_t zero[PAGE_BYTES];
	uint8_t *low = vm->regions[0].hva;

	for (size_t at = 0; at < GUEST_IMAGE_END; at += PAGE_BYTES)
		if (memcmp(image + at, zero, PAGE_BYTES))
			memcpy(low + at, image + at, PAGE_BYTES);
}

int memory_populate(struct vmm *vm)
{
	uint8_t *image = calloc(1, GUEST_IMAGE_END);
	uint64_t page = 0;

	if (!image)
		return -ENOMEM;
	image_build(vm, image);
	copy_image(vm, image);
	free(image);
	for (uint32_t i = 0; i < NREGIONS; i++) {
		uint64_t *p = vm->regions[i].hva;

		for (uint64_t n = region_pages(&vm->regions[i]); n; n--, page++, p += PAGE_WORDS)
			if (memory_is_populated(vm, page))
				fill_page(p, content_first(vm->cfg.seed, page));
		/* The page cache has small pages unless the host uses huge ones by itself. */
		if (vm->cfg.thp && is_shared(vm))
			madvise(vm->regions[i].hva, vm->regions[i].len, MADV_COLLAPSE);
	}
	return 0;
}
