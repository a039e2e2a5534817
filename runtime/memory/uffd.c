// SPDX-License-Identifier: MIT
/* userfaultfd: opens it, and wraps its ioctls. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/uffd_abi.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

static int open_any(void)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd;

	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(dev);
		if (fd >= 0)
			return fd;
	}
	fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd >= 0 ? fd : -errno;
}

static uint64_t features(unsigned kinds)
{
	uint64_t f = kinds & UFFD_SHARED ? UFFD_FEATURE_MINOR_SHMEM : 0;

	if (kinds & UFFD_POISON)
		f |= UFFD_FEATURE_POISON;
	if (kinds & UFFD_HUGE)
		f |= UFFD_FEATURE_MISSING_HUGETLBFS |
		     (kinds & UFFD_SHARED ? UFFD_FEATURE_MINOR_HUGETLBFS : 0);
	return f;
}

static const char *what_for(unsigned kinds)
{
	return kinds & UFFD_POISON   ? "UFFDIO_POISON (Linux 6.6)"
	       : kinds & UFFD_HUGE   ? "faults on huge pages (CONFIG_HUGETLBFS)"
	       : kinds & UFFD_SHARED ? "minor faults on shared memory"
				     : "its first version";
}

int uffd_open(unsigned kinds, struct fail *f)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features(kinds) };
	int fd = open_any(), err;

	if (fd < 0)
		return fail_cure(f, CURE_UFFD_OPEN, fd, "userfaultfd cannot be opened");
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return fd;
	err = -errno;
	close(fd);
	return fail_cure(f, CURE_UFFD_API, err == -EINVAL ? -EOPNOTSUPP : err,
			 "userfaultfd does not offer %s", what_for(kinds));
}

int uffd_adopt(int fd, unsigned kinds, struct fail *f)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features(kinds) };
	int flags = fcntl(fd, F_GETFL);

	/* Poll does not work on a descriptor that blocks. */
	if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK)))
		return fail_cure(f, CURE_UFFD_API, -errno, "fd %d of the VM's process cannot be used", fd);
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return 0;
	if (errno == EINVAL)
		return fail(f, -EOPNOTSUPP,
			    "userfaultfd %d of the VM's process does not offer %s, or somebody has called UFFDIO_API on it "
			    "already: hand over a new one",
			    fd, what_for(kinds));
	return fail_cure(f, CURE_UFFD_API, -errno, "fd %d of the VM's process is no userfaultfd", fd);
}

int uffd_register(int fd, void *addr, size_t len, bool shared)
{
	struct uffdio_register r = { .range = { (uintptr_t)addr, len },
				     .mode = UFFDIO_REGISTER_MODE_MISSING |
					     (shared ? UFFDIO_REGISTER_MODE_MINOR : 0) };

	return ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

int uffd_open_to_ask(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY), err;

	if (fd < 0 && errno == EINVAL) /* before Linux 5.11 */
		fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) /* a sandbox may refuse the call but allow the device */
		fd = open_any();
	if (fd < 0)
		return fd;
	if (ioctl(fd, UFFDIO_API, &api) == 0)
		return fd;
	err = -errno;
	close(fd);
	return err;
}

/* The kernel checks the destination first: ENOENT if no userfaultfd has it. Nothing is ever copied. */
bool uffd_has(int fd, void *addr, size_t len, const void *unreadable)
{
	struct uffdio_copy c = { .dst = (uintptr_t)addr, .src = (uintptr_t)unreadable, .len = len };

	return !(ioctl(fd, UFFDIO_COPY, &c) < 0 && errno == ENOENT);
}

int uffd_unregister(int fd, void *addr, size_t len)
{
	struct uffdio_range r = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_UNREGISTER, &r) ? -errno : 0;
}

int uffd_read(int fd, uint64_t *addr, unsigned max)
{
	struct uffd_msg msg[16];
	ssize_t got;
	int n = 0;

	if (max > 16)
		max = 16;
	got = read(fd, msg, max * sizeof(msg[0]));
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)got / sizeof(msg[0]); i++)
		if (msg[i].event == UFFD_EVENT_PAGEFAULT)
			addr[n++] = msg[i].arg.pagefault.address;
	return n;
}

/* These ioctls report their progress; after -EAGAIN (the mm is changing) go on from there. */
int uffd_copy(int fd, void *dst, const void *src, size_t len, bool wake, size_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_copy c = { .dst = (uintptr_t)dst + *done,
					 .src = (uintptr_t)src + *done,
					 .len = len - *done,
					 .mode = wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE };
		int err = ioctl(fd, UFFDIO_COPY, &c) ? -errno : 0;

		if (c.copy > 0)
			*done += (size_t)c.copy;
		if (err && err != -EAGAIN)
			return err;
	}
	return 0;
}

int uffd_continue(int fd, void *addr, size_t len, bool wake, size_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_continue c = { .range = { (uintptr_t)addr + *done, len - *done },
					     .mode = wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE };
		int err = ioctl(fd, UFFDIO_CONTINUE, &c) ? -errno : 0;

		if (c.mapped > 0)
			*done += (size_t)c.mapped;
		if (err && err != -EAGAIN)
			return err;
	}
	return 0;
}

int uffd_zero(int fd, void *addr, size_t len, size_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_zeropage z = { .range = { (uintptr_t)addr + *done, len - *done } };
		int err = ioctl(fd, UFFDIO_ZEROPAGE, &z) ? -errno : 0;

		if (z.zeropage > 0)
			*done += (size_t)z.zeropage;
		if (err && err != -EAGAIN)
			return err;
	}
	return 0;
}

int uffd_poison(int fd, void *addr, size_t len, size_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_poison p = { .range = { (uintptr_t)addr + *done, len - *done } };
		int err = ioctl(fd, UFFDIO_POISON, &p) ? -errno : 0;

		if (p.updated > 0)
			*done += (size_t)p.updated;
		if (err && err != -EAGAIN)
			return err;
	}
	return 0;
}

int uffd_wake(int fd, void *addr, size_t len)
{
	struct uffdio_range r = { (uintptr_t)addr, len };

	return ioctl(fd, UFFDIO_WAKE, &r) ? -errno : 0;
}
