// SPDX-License-Identifier: MIT
/* A zram device as swap, made and removed by a child process. */
#include "swap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SWAP_BYTES (UINT32_C(256) << 20)
#define PAGE 4096u

static bool put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool ok = fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value);

	if (fd >= 0)
		close(fd);
	return ok;
}

/*
 * Reading the file makes a device. -1: no zram, or no permission. Only one test has swap at a time, for the kernel
 * spreads pages over all swap that there is, and one test's swapoff would bring back the pages of another: the
 * lock ends with this process.
 */
static int add_device(void)
{
	int fd = open("/sys/class/zram-control/hot_add", O_RDONLY | O_CLOEXEC);
	char number[16] = "";

	if (fd < 0 || flock(fd, LOCK_EX) || read(fd, number, sizeof(number) - 1) <= 0)
		return -1;
	return atoi(number);
}

/* The header that mkswap writes: version 1, and the number of the last page. */
static bool write_header(const char *dev)
{
	uint32_t head[PAGE / 4] = { 0 };
	int fd = open(dev, O_WRONLY | O_CLOEXEC);
	bool ok;

	head[1024 / 4] = 1;
	head[1024 / 4 + 1] = SWAP_BYTES / PAGE - 1;
	memcpy((uint8_t *)head + PAGE - 10, "SWAPSPACE2", 10);
	ok = fd >= 0 && write(fd, head, sizeof(head)) == sizeof(head);
	if (fd >= 0)
		close(fd);
	return ok;
}

/* Returns "" or what failed. */
static const char *make(int n, char dev[32])
{
	char path[64], size[32];

	snprintf(dev, 32, "/dev/zram%d", n);
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", n);
	snprintf(size, sizeof(size), "%u", SWAP_BYTES);
	if (!put(path, size))
		return "its size cannot be set";
	for (int ms = 0; access(dev, W_OK) && ms < 5000; ms += 10) /* devtmpfs or udev makes the node */
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	if (!write_header(dev))
		return "it cannot be written";
	return swapon(dev, 0) ? "swapon is refused" : "";
}

/* The child: reports the result, waits until the parent closes its end, removes the swap and the device. */
static _Noreturn void keep(int fd)
{
	char dev[32] = "", number[16], c;
	int n = add_device();
	const char *why = n < 0 ? "no zram device can be made here" : make(n, dev);

	if (write(fd, why, strlen(why) + 1) > 0)
		while (!*why && read(fd, &c, 1) < 0 && errno == EINTR)
			;
	if (!*why)
		swapoff(dev);
	if (n >= 0) {
		snprintf(number, sizeof(number), "%d", n);
		put("/sys/class/zram-control/hot_remove", number);
	}
	_exit(0);
}

bool swap_on(struct swap *s, char why[200])
{
	ssize_t got;
	int fds[2];

	*s = (struct swap){ .keeper = -1 };
	snprintf(why, 200, "no socket pair: %s", strerror(errno));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds))
		return false;
	s->pid = fork();
	if (!s->pid) {
		close(fds[0]);
		keep(fds[1]);
	}
	close(fds[1]);
	s->keeper = fds[0];
	got = s->pid > 0 ? read(s->keeper, why, 199) : -1;
	why[got > 0 ? got : 0] = 0;
	if (got > 0 && !*why)
		return true;
	swap_off(s);
	return false;
}

void swap_off(struct swap *s)
{
	if (s->keeper < 0)
		return;
	close(s->keeper);
	s->keeper = -1;
	if (s->pid > 0)
		waitpid(s->pid, NULL, 0);
}

/* The pages that are not resident. (The page table has no swap entries for shared memory.) */
static size_t swapped(const uint8_t *mem, size_t len)
{
	unsigned char there;
	size_t n = 0;

	for (size_t at = 0; at < len; at += PAGE)
		n += !mincore((void *)(uintptr_t)(mem + at), PAGE, &there) && !(there & 1);
	return n;
}

/*
 * Runs on every CPU in turn. A page that was touched last on a CPU may wait in that CPU's batch for the LRU
 * list, and MADV_PAGEOUT does not find it there; the call flushes only the batch of the CPU on which it runs.
 */
static bool page_out(void *mem, size_t len)
{
	cpu_set_t may, one;
	bool ok;

	CPU_ZERO(&may);
	ok = !sched_getaffinity(0, sizeof(may), &may);

	for (int cpu = 0; ok && cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &may))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		ok = !sched_setaffinity(0, sizeof(one), &one) && !madvise(mem, len, MADV_PAGEOUT);
	}
	return !sched_setaffinity(0, sizeof(may), &may) && ok;
}

bool swap_out(void *mem, size_t len, size_t at_least)
{
	for (int tries = 0; tries < 50; tries++) {
		if (!page_out(mem, len))
			return false;
		if (swapped(mem, len) >= at_least)
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	return false;
}
