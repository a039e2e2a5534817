// SPDX-License-Identifier: MIT
/*
 * Measures how many faults a target resolves when many threads fault at once. Two processes over loopback
 * TCP; the "VM" has no device state, and its vCPUs are plain threads. From the resume at the target on, each
 * touches every page of its share of the memory in a random order. All pages are residue, and the background
 * fetch runs as usual.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <ferry/ferry.h>

#include "bench/cli/out.h"
#include "runtime/base/clock.h"

#define PAGE ((size_t)4096)
#define THREADS_MAX 64u
#define STALL_NS 2000u /* a touch that took longer hit a missing page */

struct toucher {
	struct vm *vm;
	unsigned index;
	uint64_t stalls, stall_ns;
	pthread_t thread;
};

struct vm {
	struct ferry_region region;
	unsigned nthreads;
	bool shared;
	uint64_t began_ns, ended_ns;
	atomic_uint left;
	struct toucher toucher[THREADS_MAX];
};

static int map_ram(struct vm *vm, struct ferry_region *r)
{
	int flags = vm->shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	if (vm->shared) {
		r->fd = memfd_create("ram", MFD_CLOEXEC);
		if (r->fd < 0 || ftruncate(r->fd, (off_t)r->len))
			return -errno;
	}
	r->hva = mmap(NULL, r->len, PROT_READ | PROT_WRITE, flags, r->fd, 0);
	if (r->hva == MAP_FAILED)
		return -errno;
	madvise(r->hva, r->len, MADV_NOHUGEPAGE);
	vm->region = *r;
	return 0;
}

static int op_nothing(void *vm)
{
	(void)vm;
	return 0;
}

static int op_reserve(void *arg, struct ferry_region *regions, size_t n, struct ferry_stream *needs)
{
	(void)needs;
	return n == 1 ? map_ram(arg, &regions[0]) : -EINVAL;
}

/* Everything is residue. */
static int op_dirty_fetch(void *arg, uint32_t region, uint64_t *bits, uint64_t npages, unsigned flags)
{
	(void)arg, (void)region, (void)flags;
	memset(bits, 0xff, npages / 64 * 8);
	return 0;
}

static int op_save(void *arg, struct ferry_stream *out)
{
	(void)arg;
	return ferry_stream_put(out, 1, 1, "state", 5);
}

static int op_load(void *arg, struct ferry_stream *in)
{
	struct ferry_section sec;
	int err;

	(void)arg;
	while ((err = ferry_stream_next(in, &sec)) == 1)
		;
	return err;
}

static void *touch(void *arg)
{
	struct toucher *t = arg;
	uint64_t npages = t->vm->region.len / PAGE, n = npages / t->vm->nthreads, first = n * t->index;
	volatile char *ram = t->vm->region.hva;

	/* n is a power of two, so this multiplier and increment visit each page once (Hull and Dobell). */
	for (uint64_t i = 0, x = t->index; i < n; i++, x = (x * 1664525 + 1013904223) & (n - 1)) {
		uint64_t begin = now_ns(), took;

		(void)ram[(first + (x & (n - 1))) * PAGE];
		took = now_ns() - begin;
		if (took >= STALL_NS) {
			t->stalls++;
			t->stall_ns += took;
		}
	}
	if (atomic_fetch_sub(&t->vm->left, 1) == 1)
		t->vm->ended_ns = now_ns();
	return NULL;
}

static int op_resume(void *arg)
{
	struct vm *vm = arg;

	vm->began_ns = now_ns();
	atomic_store(&vm->left, vm->nthreads);
	for (unsigned i = 0; i < vm->nthreads; i++) {
		vm->toucher[i] = (struct toucher){ .vm = vm, .index = i };
		if (pthread_create(&vm->toucher[i].thread, NULL, touch, &vm->toucher[i]))
			exit(1); /* fewer threads would measure something else */
	}
	return 0;
}

static void on_log(void *arg, int level, const char *line)
{
	(void)arg;
	if (level <= 4)
		fprintf(stderr, "faults: %s\n", line);
}

static const struct ferry_ops source_ops = { FERRY_OPS_INIT,	       .dirty_start = op_nothing,
					     .dirty_stop = op_nothing, .dirty_fetch = op_dirty_fetch,
					     .pause = op_nothing,      .resume = op_nothing,
					     .save = op_save,	       .log = on_log };
static const struct ferry_ops target_ops = {
	FERRY_OPS_INIT,	 .reserve = op_reserve,	    .pause = op_nothing,	  .resume = op_resume,
	.load = op_load, .output_hold = op_nothing, .output_release = op_nothing, .discard = op_nothing,
	.log = on_log
};

_Noreturn static void source(int sock, struct vm *vm, uint64_t len)
{
	struct ferry_region r = {
		.len = len, .fd = -1, .page_shift = 12, .flags = vm->shared ? FERRY_REGION_SHARED : 0
	};
	struct ferry_config cfg = { FERRY_CONFIG_INIT, .mode = FERRY_MODE_POSTCOPY, .max_rounds = 1 };
	struct ferry_result res = { .size = sizeof(res) };
	struct ferry_session *s;
	char uri[256];

	if (map_ram(vm, &r))
		_exit(1);
	for (uint64_t i = 0; i < len / PAGE; i++)
		((uint64_t *)r.hva)[i * (PAGE / 8)] = i + 1;
	if (read(sock, uri, sizeof(uri)) != sizeof(uri))
		_exit(1);
	if (ferry_source_new(&s,
			     &(struct ferry_vm){ FERRY_VM_INIT, .vm = vm, .ops = &source_ops, .regions = &r,
						 .nregions = 1 },
			     &cfg) ||
	    ferry_open(s, uri) || ferry_run(s, &res))
		_exit(1);
	ferry_free(s);
	_exit(0);
}

/* Checks the content of every page. */
static bool proved(const struct vm *vm)
{
	for (uint64_t i = 0; i < vm->region.len / PAGE; i++)
		if (((const uint64_t *)vm->region.hva)[i * (PAGE / 8)] != i + 1)
			return false;
	return true;
}

_Noreturn static void target(int sock, struct vm *vm)
{
	struct ferry_result res = { .size = sizeof(res) };
	uint64_t stalls = 0, stall_ns = 0;
	struct ferry_session *s;
	char uri[256] = "";
	double seconds;

	if (ferry_target_new(&s, &(struct ferry_vm){ FERRY_VM_INIT, .vm = vm, .ops = &target_ops }, NULL) ||
	    ferry_open(s, "tcp:127.0.0.1:0") || ferry_get_uri(s, uri, sizeof(uri)))
		_exit(1);
	if (write(sock, uri, sizeof(uri)) != sizeof(uri) || ferry_run(s, &res))
		_exit(1);
	for (unsigned i = 0; i < vm->nthreads; i++) {
		pthread_join(vm->toucher[i].thread, NULL);
		stalls += vm->toucher[i].stalls;
		stall_ns += vm->toucher[i].stall_ns;
	}
	if (!proved(vm))
		_exit(1);
	seconds = (double)(vm->ended_ns - vm->began_ns) / 1e9;
	printf("{\"threads\":%u,\"memory_kind\":\"%s\",\"pages\":%llu,\"seconds\":%.4f,\"faults\":%llu,\"faults_local\":%llu,"
	       "\"stalls\":%llu,\"stall_mean_us\":%.2f,\"fault_p50_us\":%.2f,\"fault_p99_us\":%.2f,"
	       "\"resolved_per_s\":%.0f,\"pages_per_s\":%.0f}\n",
	       vm->nthreads, vm->shared ? "memfd" : "anon", (unsigned long long)(vm->region.len / PAGE),
	       seconds, (unsigned long long)res.stats.faults, (unsigned long long)res.stats.faults_local,
	       (unsigned long long)stalls, stalls ? (double)stall_ns / 1000 / (double)stalls : 0,
	       (double)res.stats.fault_p50_ns / 1000, (double)res.stats.fault_p99_ns / 1000,
	       (double)(res.stats.faults + res.stats.faults_local) / seconds,
	       (double)(vm->region.len / PAGE) / seconds);
	_exit(out_close_stdout(0, 1));
}

static int usage(void)
{
	fprintf(stderr,
		"faults THREADS anon|memfd [MIB]\n  THREADS: a power of two up to %u; MIB: one, 256 when not given\n",
		THREADS_MAX);
	return 2;
}

int main(int argc, char **argv)
{
	unsigned threads = argc > 2 ? (unsigned)atoi(argv[1]) : 0;
	uint64_t mib = argc > 3 ? (uint64_t)atoi(argv[3]) : 256;
	struct vm *vm = calloc(1, sizeof(*vm));
	int fds[2], status[2];
	pid_t pid[2];

	if (!vm || argc < 3 || !threads || threads > THREADS_MAX || threads & (threads - 1) || !mib ||
	    mib & (mib - 1))
		return usage();
	vm->nthreads = threads;
	vm->shared = !strcmp(argv[2], "memfd");
	if ((!vm->shared && strcmp(argv[2], "anon")) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return usage();
	for (int i = 0; i < 2; i++) {
		pid[i] = fork();
		if (!pid[i] && i)
			target(fds[1], vm);
		if (!pid[i])
			source(fds[0], vm, mib << 20);
	}
	for (int i = 0; i < 2; i++)
		if (pid[i] < 0 || waitpid(pid[i], &status[i], 0) != pid[i] || status[i])
			return fprintf(stderr, "faults: the %s failed\n", i ? "target" : "source"), 1;
	return 0;
}
