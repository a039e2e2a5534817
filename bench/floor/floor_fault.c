/* SPDX-License-Identifier: MIT */
/*
 * Resolves one userfault over the network in the simplest way: the handler reads the event, requests the page
 * from the peer and places it; anonymous memory by UFFDIO_COPY, a memfd through a second mapping and
 * UFFDIO_CONTINUE. The wake-up comes after the measured time, as in the library, because the woken thread may
 * take the handler's CPU. The toucher is this process's second thread and plays the vCPU.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "floor.h"
#include "bench/cli/util.h"

#define NPAGES (FLOOR_ROUNDS + FLOOR_WARMUP)
#define AREA ((size_t)NPAGES * FLOOR_PAGE_SIZE)

struct area {
	struct floor_peer *peer;
	int uffd, memfd, sleeps;
	char *vm;    /* the toucher faults here */
	char *alias; /* memfd: a second mapping of the same pages */
	char *staging;
	double stall_us[FLOOR_ROUNDS], fault_us[FLOOR_ROUNDS];
};

/* Without UFFD_USER_MODE_ONLY, as in the library, because KVM's own accesses must fault. */
int floor_uffd(int memfd, char *why, size_t cap)
{
	struct uffdio_api api = { .api = UFFD_API, .features = memfd ? UFFD_FEATURE_MINOR_SHMEM : 0 };
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
	}
	if (fd < 0)
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		int err = -errno;

		snprintf(why, cap,
			 "no userfaultfd (%s): run as root, or give access to /dev/userfaultfd, "
			 "or set sysctl vm.unprivileged_userfaultfd=1",
			 strerror(-err));
		return err;
	}
	if (ioctl(fd, UFFDIO_API, &api)) {
		int err = floor_say(why, cap, -errno, "userfaultfd for the floor");

		close(fd);
		return err;
	}
	return fd;
}

static int map_area(struct area *a, char *why, size_t cap)
{
	struct uffdio_register reg = { .mode = a->memfd ? UFFDIO_REGISTER_MODE_MINOR
							: UFFDIO_REGISTER_MODE_MISSING };
	int err, fd = -1, flags = a->memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;

	a->uffd = floor_uffd(a->memfd, why, cap);
	if (a->uffd < 0)
		return a->uffd;
	if (a->memfd) {
		fd = memfd_create("floor-faults", MFD_CLOEXEC);
		if (fd < 0 || ftruncate(fd, AREA))
			goto failed;
		a->alias = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (a->alias == MAP_FAILED)
			goto failed;
		memset(a->alias, 1, AREA);
	}
	a->vm = mmap(NULL, AREA, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (a->vm == MAP_FAILED)
		goto failed;
	madvise(a->vm, AREA, MADV_NOHUGEPAGE);
	a->staging = aligned_alloc(FLOOR_PAGE_SIZE, FLOOR_PAGE_SIZE);
	if (!a->staging)
		goto failed;
	memset(a->staging, 1, FLOOR_PAGE_SIZE);
	reg.range.start = (uintptr_t)a->vm;
	reg.range.len = AREA;
	if (ioctl(a->uffd, UFFDIO_REGISTER, &reg))
		goto failed;
	if (fd >= 0)
		close(fd);
	return 0;
failed:
	err = -errno;
	snprintf(why, cap, "memory under userfaultfd for the floor: %s", strerror(-err));
	return err;
}

static void *touch(void *arg)
{
	struct area *a = arg;

	for (int i = 0; i < NPAGES; i++) {
		volatile char *p =
			a->vm + (size_t)i * 1009 % NPAGES * FLOOR_PAGE_SIZE; /* 1009 is prime to NPAGES */
		uint64_t begin = clock_ns();

		(void)*p;
		if (i >= FLOOR_WARMUP)
			a->stall_us[i - FLOOR_WARMUP] = (double)(clock_ns() - begin) / 1000;
	}
	return NULL;
}

static int next_event(const struct area *a, struct uffd_msg *msg)
{
	for (;;) {
		struct pollfd p = { .fd = a->uffd, .events = POLLIN };
		ssize_t n = read(a->uffd, msg, sizeof(*msg));

		if (n == sizeof(*msg))
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		if (a->sleeps)
			poll(&p, 1, -1);
		else
			sched_yield();
	}
}

static int place(const struct area *a, uint64_t at)
{
	struct uffdio_copy copy = { .dst = at,
				    .src = (uintptr_t)a->staging,
				    .len = FLOOR_PAGE_SIZE,
				    .mode = UFFDIO_COPY_MODE_DONTWAKE };
	struct uffdio_continue cont = { .range = { .start = at, .len = FLOOR_PAGE_SIZE },
					.mode = UFFDIO_CONTINUE_MODE_DONTWAKE };
	int err = a->memfd ? ioctl(a->uffd, UFFDIO_CONTINUE, &cont) : ioctl(a->uffd, UFFDIO_COPY, &copy);

	return err ? -errno : 0;
}

static int handle(struct area *a)
{
	for (int i = 0; i < NPAGES; i++) {
		struct uffd_msg msg;
		uint64_t begin, at;
		int err = next_event(a, &msg);

		if (err)
			return err;
		begin = clock_ns();
		at = msg.arg.pagefault.address & ~(uint64_t)(FLOOR_PAGE_SIZE - 1);
		err = a->peer->fetch(a->peer, at / FLOOR_PAGE_SIZE, a->sleeps,
				     a->memfd ? a->alias + (at - (uintptr_t)a->vm) : a->staging);
		if (!err)
			err = place(a, at);
		if (err)
			return err;
		if (i >= FLOOR_WARMUP)
			a->fault_us[i - FLOOR_WARMUP] = (double)(clock_ns() - begin) / 1000;
		if (ioctl(a->uffd, UFFDIO_WAKE, &(struct uffdio_range){ at, FLOOR_PAGE_SIZE }))
			return -errno;
	}
	return 0;
}

static int lend(struct area *a)
{
	if (!a->peer->lend)
		return 0;
	return a->memfd ? a->peer->lend(a->peer, a->alias, AREA)
			: a->peer->lend(a->peer, a->staging, FLOOR_PAGE_SIZE);
}

static int one_way(struct floor *ret, struct floor_peer *p, int memfd, int sleeps, char *why, size_t cap)
{
	struct area *a = calloc(1, sizeof(*a));
	pthread_t toucher;
	int err;

	if (!a)
		return -ENOMEM;
	a->peer = p;
	a->memfd = memfd;
	a->sleeps = sleeps;
	err = map_area(a, why, cap);
	if (err)
		goto out;
	err = lend(a);
	if (err) {
		snprintf(why, cap, "memory for the floor's faults cannot be prepared: %s", strerror(-err));
		goto out;
	}
	err = -pthread_create(&toucher, NULL, touch, a);
	if (err)
		goto out;
	err = handle(a);
	if (err) { /* the toucher blocks for ever: it ends with this process */
		snprintf(why, cap, "a fault of the floor could not be resolved: %s", strerror(-err));
		return err;
	}
	pthread_join(toucher, NULL);
	sort_double(a->fault_us, FLOOR_ROUNDS);
	sort_double(a->stall_us, FLOOR_ROUNDS);
	ret->fault_p50_us = quantile(a->fault_us, FLOOR_ROUNDS, 0.5);
	ret->fault_p99_us = quantile(a->fault_us, FLOOR_ROUNDS, 0.99);
	ret->stall_p50_us = quantile(a->stall_us, FLOOR_ROUNDS, 0.5);
	ret->stall_p99_us = quantile(a->stall_us, FLOOR_ROUNDS, 0.99);
	if (p->lend)
		p->lend(p, NULL, 0);
	munmap(a->vm, AREA);
	if (a->alias)
		munmap(a->alias, AREA);
	close(a->uffd);
	free(a->staging);
out:
	free(a);
	return err;
}

int floor_faults(struct floor *f, struct floor_peer *p, int memfd, char *why, size_t cap)
{
	struct floor hot = { 0 }, cold = { 0 };
	const struct floor *best;
	int err = one_way(&hot, p, memfd, 0, why, cap);

	if (!err)
		err = one_way(&cold, p, memfd, 1, why, cap);
	if (err)
		return err;
	best = hot.fault_p50_us <= cold.fault_p50_us ? &hot : &cold;
	f->fault_p50_us = best->fault_p50_us;
	f->fault_p99_us = best->fault_p99_us;
	f->stall_p50_us = best->stall_p50_us;
	f->stall_p99_us = best->stall_p99_us;
	return 0;
}
