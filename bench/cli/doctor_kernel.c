/* SPDX-License-Identifier: MIT */
/* doctor: features of the kernel: KVM, userfaultfd, and the calls that make migration fast. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <ferry/track.h>

#include "doctor.h"
#include "kernel_abi.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* --- KVM --- */

static const char *kvm_module(void)
{
	char line[4096] = "";
	FILE *in = fopen("/proc/cpuinfo", "re");
	bool amd = false;

	while (in && fgets(line, sizeof(line), in))
		amd = amd || strstr(line, "AuthenticAMD") || strstr(line, "HygonGenuine");
	if (in)
		fclose(in);
	return amd ? "modprobe kvm-amd" : "modprobe kvm-intel";
}

static void probe_dirty(struct findings *f, int kvm)
{
	int manual = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	int ring = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING);

	if (ring <= 0)
		ring = ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
	if (manual > 0)
		found(f, "kvm dirty log", HEALTH_OK, NULL, "read and cleared apart");
	else
		found(f, "kvm dirty log", HEALTH_WITHOUT, NULL,
		      "read and cleared at once (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.0): each round costs more");
	if (ring > 0)
		found(f, "kvm dirty ring", HEALTH_OK, NULL, "up to %d entries a vCPU", ring / 16);
	else
		found(f, "kvm dirty ring", HEALTH_WITHOUT, NULL,
		      "not in this kernel (x86: Linux 5.11); the dirty log is used");
}

void probe_kvm(struct findings *f)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), err = errno;
	int version = kvm < 0 ? -1 : ioctl(kvm, KVM_GET_API_VERSION, 0);

	if (kvm < 0 && err == ENOENT)
		found(f, "kvm", HEALTH_MISSING, kvm_module(),
		      "there is no /dev/kvm: virtualization is off in the firmware, or its module is not loaded");
	else if (kvm < 0 && (err == EACCES || err == EPERM))
		found(f, "kvm", HEALTH_MISSING, "usermod -aG kvm $USER",
		      "/dev/kvm may not be opened by this user (%s)", strerror(err));
	else if (version != KVM_API_VERSION)
		found(f, "kvm", HEALTH_MISSING, kvm_module(), "/dev/kvm does not answer as KVM does (%s)",
		      kvm < 0 ? strerror(err) : "no KVM_API_VERSION 12");
	else
		found(f, "kvm", HEALTH_OK, NULL, "/dev/kvm, API version %d", version);
	if (version == KVM_API_VERSION)
		probe_dirty(f, kvm);
	if (kvm >= 0)
		close(kvm);
}

/* --- userfaultfd --- */

static int sysctl(const char *path)
{
	FILE *in = fopen(path, "re");
	int v = -1;

	if (in && fscanf(in, "%d", &v) != 1)
		v = -1;
	if (in)
		fclose(in);
	return v;
}

/* As the library does: not for user mode only, because KVM's own accesses fault, too. */
static int open_uffd(bool *device)
{
	int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), fd = -1;

	*device = false;
	if (dev >= 0) {
		fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		*device = fd >= 0;
		close(dev);
	}
	return fd >= 0 ? fd : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

static void probe_uffd_features(struct findings *f, int fd)
{
	struct uffdio_api api = { .api = UFFD_API };
	unsigned long long has;

	if (ioctl(fd, UFFDIO_API, &api)) {
		found(f, "userfaultfd features", HEALTH_MISSING, NULL, "UFFDIO_API: %s", strerror(errno));
		return;
	}
	has = api.features;
	if (has & UFFD_FEATURE_MINOR_SHMEM)
		found(f, "post-copy of memfd", HEALTH_OK, NULL, "minor faults of shared memory%s",
		      has & UFFD_FEATURE_MINOR_HUGETLBFS ? ", of huge pages too" : "");
	else
		found(f, "post-copy of memfd", HEALTH_WITHOUT, NULL,
		      "no minor faults of shared memory (Linux 5.14): post-copy works for anonymous memory only");
	if (has & UFFD_FEATURE_MOVE)
		found(f, "uffdio move", HEALTH_OK, NULL, "pages can be moved into place");
	else
		found(f, "uffdio move", HEALTH_WITHOUT, NULL,
		      "pages are copied into place (Linux 6.8 moves them)");
}

void probe_userfaultfd(struct findings *f)
{
	int allowed = sysctl("/proc/sys/vm/unprivileged_userfaultfd"), err, fd;
	bool device;

	fd = open_uffd(&device);
	err = errno;
	if (fd < 0) {
		found(f, "userfaultfd", HEALTH_MISSING,
		      err == ENOSYS			 ? "boot a kernel that has CONFIG_USERFAULTFD"
		      : access("/dev/userfaultfd", F_OK) ? "sysctl -w vm.unprivileged_userfaultfd=1"
							 : "setfacl -m u:$USER:rw /dev/userfaultfd",
		      "%s: no access to /dev/userfaultfd, no CAP_SYS_PTRACE, and vm.unprivileged_userfaultfd is %d; without it "
		      "only stop-and-copy",
		      strerror(err), allowed);
		return;
	}
	found(f, "userfaultfd", HEALTH_OK, NULL, "by %s; vm.unprivileged_userfaultfd is %d",
	      device	     ? "/dev/userfaultfd"
	      : allowed == 1 ? "the system call, which any user may call"
			     : "CAP_SYS_PTRACE",
	      allowed);
	probe_uffd_features(f, fd);
	close(fd);
}

/* --- the rest --- */

/* As transport/tcp/pages.c does: pass references to pages through a pipe of 1 MiB. */
static void probe_vmsplice(struct findings *f)
{
	struct iovec page = { .iov_base = f, .iov_len = 1 };
	const char *what = NULL, *mend = NULL;
	int fd[2] = { -1, -1 };

	if (pipe2(fd, O_CLOEXEC) < 0) {
		what = "pipe2";
	} else if (fcntl(fd[1], F_SETPIPE_SZ, 1 << 20) < 0) {
		what = "a pipe of 1 MiB";
		mend = "sysctl -w fs.pipe-max-size=1048576";
	} else if (vmsplice(fd[1], &page, 1, SPLICE_F_NONBLOCK) < 0) {
		what = "vmsplice";
	}
	if (!what)
		found(f, "zero-copy", HEALTH_OK, NULL,
		      "the tcp transport sends pages without a copy (vmsplice)");
	else
		found(f, "zero-copy", HEALTH_WITHOUT, mend, "%s: %s: the tcp transport copies what it sends",
		      what, strerror(errno));
	close(fd[0]);
	close(fd[1]);
}

static void probe_pagemap(struct findings *f, void *page)
{
	struct page_region at;
	struct pm_scan_arg arg = { .size = sizeof(arg),
				   .start = (unsigned long)page,
				   .end = (unsigned long)page + 4096,
				   .vec = (unsigned long)&at,
				   .vec_len = 1,
				   .category_anyof_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT };
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) >= 0)
		found(f, "pagemap scan", HEALTH_OK, NULL, "pages never touched are found at once");
	else
		found(f, "pagemap scan", fd < 0 ? HEALTH_MISSING : HEALTH_WITHOUT, NULL,
		      fd < 0 ? "/proc/self/pagemap cannot be opened (%s): is /proc mounted?"
			     : "%s (Linux 6.7): untouched pages are found by reading /proc/self/pagemap",
		      strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void probe_track(struct findings *f)
{
	struct ferry_track *track = NULL;
	int err = ferry_track_new(&track, NULL);

	if (!err)
		found(f, "dirty tracking", HEALTH_OK, NULL, "writes can be tracked without KVM");
	else
		found(f, "dirty tracking", HEALTH_WITHOUT, NULL,
		      "%s%s: writes are tracked by KVM only; without /dev/kvm there is no guest to migrate",
		      strerror(-err), err == -EOPNOTSUPP ? " (Linux 6.7)" : "");
	ferry_track_free(track);
}

static void probe_madvise(struct findings *f, void *page)
{
	struct iovec v = { .iov_base = page, .iov_len = 4096 };
	int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
	bool drops = self >= 0 && syscall(SYS_process_madvise, self, &v, 1, MADV_DONTNEED, 0) == 4096;

	if (drops)
		found(f, "process_madvise", HEALTH_OK, NULL, "drops many pages in one call");
	else
		found(f, "process_madvise", HEALTH_WITHOUT, NULL,
		      "cannot drop pages (%s; Linux 6.13 can): they are dropped one run at a time",
		      strerror(errno));
	if (self >= 0)
		close(self);
}

void probe_kernel(struct findings *f)
{
	void *page =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct utsname u = { 0 };

	uname(&u);
	found(f, "kernel", HEALTH_OK, NULL, "%s %s, %s", u.sysname, u.release, u.machine);
	probe_vmsplice(f);
	if (page == MAP_FAILED)
		return;
	probe_pagemap(f, page);
	probe_track(f);
	probe_madvise(f, page);
	munmap(page, 4096);
}
