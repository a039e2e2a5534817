// SPDX-License-Identifier: MIT
/* The table of cures: what to do about an errno, by the operation that failed. */
#include "cure.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "fail.h"

#define ROUTE "check the route to it and its firewall"
#define LINK_LOCAL \
	"a link-local address needs its interface, as in [fe80::1%eth0]:port; any other must be one of a host"
#define NO_PAGE                                                                                                        \
	"it was unmapped, or there is no page for it: its tmpfs is full, no huge page is free, or the cgroup's limit " \
	"of them is reached (hugetlb.2MB.max)"
#define CGROUP_HUGE                                                                                      \
	"huge pages are free, and this cgroup may not have more: raise its hugetlb.2MB.max (cgroup v1: " \
	"hugetlb.2MB.limit_in_bytes)"
#define LOAD_RDMA "load the modules of your device, rdma_ucm and ib_uverbs"
#define FILTERED "a seccomp filter or security policy refuses it"

/* clang-format off: rows of the table, as they stand in it */
#define BY_FILTER(doing, call)                                                              \
	{ doing, EPERM, "a seccomp filter or security policy refuses " call },              \
		{ doing, EACCES, "a seccomp filter or security policy refuses " call },     \
	{                                                                                   \
		doing, ENOSYS, "a seccomp filter refuses " call ", or this kernel lacks it" \
	}
/* clang-format on */
#define WHAT_MAX 320 /* limit of the text before the errno, so that the cure, which comes last, still fits */

struct row {
	enum cure doing;
	int err;
	const char *text;
};

/* The rows of CURE_CALL apply to every operation that has no row of its own for the errno. */
static const struct row table[] = {
	{ CURE_CALL, EMFILE, "raise the limit of open files (ulimit -n, LimitNOFILE=)" },
	{ CURE_CALL, ENFILE, "the whole host has too many files open: raise fs.file-max" },
	{ CURE_CALL, ENOMEM,
	  "the host or this cgroup (memory.max) has no memory left, or the address space is limited (ulimit -v)" },
	{ CURE_CALL, EPERM, FILTERED " (docs/embedding.md, System calls)" },
	{ CURE_CALL, EACCES, FILTERED " (docs/embedding.md, System calls)" },
	{ CURE_CALL, ENOSYS,
	  "a seccomp filter refuses it, or this kernel lacks it (docs/embedding.md, System calls)" },

	{ CURE_THREAD, EAGAIN,
	  "raise the limit of threads (ulimit -u, the cgroup's pids.max, kernel.threads-max), or of address space (ulimit -v)" },

	{ CURE_CONNECT, ECONNREFUSED, "start the target first" },
	{ CURE_CONNECT, EHOSTUNREACH, ROUTE },
	{ CURE_CONNECT, EHOSTDOWN, ROUTE },
	{ CURE_CONNECT, ENETUNREACH, ROUTE },
	{ CURE_CONNECT, ENETDOWN, ROUTE },
	{ CURE_CONNECT, ENONET, ROUTE },
	{ CURE_CONNECT, ETIMEDOUT, ROUTE },
	{ CURE_CONNECT, EINVAL, LINK_LOCAL },
	{ CURE_CONNECT, EADDRNOTAVAIL,
	  "no address of this host leads there, or all its ports are taken (net.ipv4.ip_local_port_range)" },
	{ CURE_CONNECT, EAFNOSUPPORT,
	  "this host has no such protocol: give an address of the other kind, IPv4 or IPv6" },
	{ CURE_CONNECT, EACCES,
	  "a firewall on the way refuses it, or a seccomp filter or security policy here" },
	{ CURE_CONNECT, EPERM, "a firewall, seccomp filter or security policy of this host refuses it" },

	{ CURE_LISTEN, EADDRINUSE, "take another port, or 0 for a free one" },
	{ CURE_LISTEN, EADDRNOTAVAIL, "take an address of this host, or none for any" },
	{ CURE_LISTEN, ENODEV, "take an address of this host, or none for any" },
	{ CURE_LISTEN, EINVAL, LINK_LOCAL },
	{ CURE_LISTEN, EACCES, "ports below 1024 are for root (net.ipv4.ip_unprivileged_port_start)" },
	{ CURE_LISTEN, EAFNOSUPPORT,
	  "this host has no such protocol: take an address of the other kind, IPv4 or IPv6" },

	{ CURE_CONGESTION, EPERM,
	  "this user may have those in /proc/sys/net/ipv4/tcp_allowed_congestion_control" },
	{ CURE_CONGESTION, ENOENT,
	  "this kernel offers those in /proc/sys/net/ipv4/tcp_available_congestion_control" },

	{ CURE_PIPE, EPERM,
	  "this user's pipes hold all that they may: raise fs.pipe-user-pages-soft and fs.pipe-max-size" },

	{ CURE_TRANSFER, EFAULT, NO_PAGE },
	{ CURE_TRANSFER, EHWPOISON, "the memory has a hardware error" },
	{ CURE_TRANSFER, ENOBUFS, "the host has no memory left for sockets (net.ipv4.tcp_mem)" },

	{ CURE_UFFD_OPEN, EPERM,
	  "run as root, or give access to /dev/userfaultfd, or set vm.unprivileged_userfaultfd=1; a seccomp "
	  "filter must let it through, too" },
	{ CURE_UFFD_OPEN, EACCES,
	  "run as root, or give access to /dev/userfaultfd; a seccomp filter must let it through, too" },
	{ CURE_UFFD_OPEN, ENOSYS,
	  "this kernel is built without it (CONFIG_USERFAULTFD), or a seccomp filter refuses it" },
	{ CURE_UFFD_API, EOPNOTSUPP, "Linux 5.14 has it" },
	BY_FILTER(CURE_UFFD_API, "the ioctl UFFDIO_API"),
	{ CURE_UFFD_REGISTER, EINVAL,
	  "guest RAM must be private anonymous memory or a memfd, of pages as its page_shift says" },
	{ CURE_UFFD_REGISTER, EBUSY,
	  "another userfaultfd has it (a tracker of writes too): unregister it there until the migration has ended" },
	{ CURE_UFFD_REGISTER, EPERM,
	  "its file must be open for writing and not sealed, and a seccomp filter let the ioctl UFFDIO_REGISTER through" },
	{ CURE_UFFD_REGISTER, EACCES,
	  "a seccomp filter or security policy refuses the ioctl UFFDIO_REGISTER" },
	{ CURE_UFFD_REGISTER, ENOSYS,
	  "a seccomp filter or security policy refuses the ioctl UFFDIO_REGISTER" },
	{ CURE_UFFD_REGISTER, ENOMEM,
	  "raise the limit of mappings (vm.max_map_count), or the memory of the host or cgroup" },

	{ CURE_UFFD_REGISTER, ESRCH, "the process that the memory is mapped in has exited" },
	{ CURE_PLACE, ESRCH, "the process that the memory is mapped in has exited" },
	{ CURE_PLACE, EFAULT,
	  "its page is gone: nobody may truncate the region's file or punch holes into it" },
	{ CURE_PLACE, ENOENT, "the region's mapping was changed: it must stay until ferry_run() returns" },
	{ CURE_PLACE, EINVAL, "the region's mapping was changed: it must stay until ferry_run() returns" },
	BY_FILTER(CURE_PLACE, "one of the ioctls UFFDIO_COPY, UFFDIO_CONTINUE and UFFDIO_ZEROPAGE"),
	{ CURE_PLACE, ENOSPC, "the region's file system is full" },
	{ CURE_HUGE_EMPTY, ENOMEM, "the host has no huge page left: raise vm.nr_hugepages" },
	{ CURE_HUGE_EMPTY, EFAULT, "the host has no huge page left: raise vm.nr_hugepages" },
	{ CURE_HUGE_LIMIT, ENOMEM, CGROUP_HUGE },
	{ CURE_HUGE_LIMIT, EFAULT, CGROUP_HUGE },

	{ CURE_MAP, ENOMEM,
	  "raise the limit of address space (ulimit -v) or of mappings (vm.max_map_count), or allow overcommitment" },
	{ CURE_MAP, EACCES, "the fd must be open for reading and writing" },
	{ CURE_MAP, EPERM,
	  "the fd must not be sealed against writing, and a seccomp filter or security policy let mmap through" },
	{ CURE_MAP, EBADF, "the fd must be a memfd" },
	{ CURE_MAP, ENODEV, "the fd must be a memfd" },
	{ CURE_MAP, EINVAL, "the fd must be a memfd, and offset and length multiples of its page size" },
	{ CURE_MAP, EAGAIN, "raise the limit of locked memory (ulimit -l): this process locks what it maps" },
	{ CURE_DROP, EINVAL,
	  "before Linux 5.18 guest RAM at a target must be neither locked (mlock, VFIO) nor private huge pages" },
	BY_FILTER(CURE_DROP, "madvise(MADV_DONTNEED and MADV_DONTNEED_LOCKED)"),
	{ CURE_PUNCH, EOPNOTSUPP, "the fd must be a memfd" },
	{ CURE_PUNCH, EPERM,
	  "the fd must not be sealed against writing, and a seccomp filter let fallocate through" },
	{ CURE_PUNCH, EACCES, "a seccomp filter or security policy refuses fallocate" },
	{ CURE_PUNCH, ENOSYS, "a seccomp filter or security policy refuses fallocate" },
	{ CURE_PUNCH, EBADF, "the fd must be open for reading and writing" },

	{ CURE_POPULATED, EACCES,
	  "/proc/self/pagemap and /proc/self/fd must be readable, and a seccomp filter let lseek and pread64 through" },
	{ CURE_POPULATED, EPERM, "a seccomp filter or security policy refuses openat, lseek or pread64" },
	{ CURE_POPULATED, ENOSYS, "a seccomp filter or security policy refuses openat, lseek or pread64" },
	{ CURE_POPULATED, ENOENT,
	  "/proc must be mounted, and the kernel have /proc/self/pagemap (CONFIG_PROC_PAGE_MONITOR)" },

	{ CURE_RDMA_OPEN, ENODEV, LOAD_RDMA },
	{ CURE_RDMA_OPEN, ENOENT, LOAD_RDMA },
	{ CURE_RDMA_OPEN, ENXIO, LOAD_RDMA },
	{ CURE_RDMA_OPEN, EACCES, "give this user access to /dev/infiniband" },
	{ CURE_RDMA_OPEN, EPERM,
	  "give this user access to /dev/infiniband, and let a seccomp filter pass its ioctls" },
	{ CURE_RDMA_QUEUE, ENOMEM,
	  "the device has none left, or the limit of locked memory is too low (ulimit -l, LimitMEMLOCK=)" },
	{ CURE_RDMA_QUEUE, EINVAL, "the device makes no queue of this kind or size: use tcp" },
	{ CURE_RDMA_QUEUE, EOPNOTSUPP, "the device makes no queue of this kind: use tcp" },
	{ CURE_RDMA_REGISTER, ENOMEM,
	  "raise the limit of locked memory (ulimit -l, LimitMEMLOCK=), or use pin=lazy" },
	{ CURE_RDMA_REGISTER, EFAULT, NO_PAGE },
	{ CURE_RDMA_REGISTER, EOPNOTSUPP, "the device cannot register this kind of memory: use tcp" },

	{ CURE_REGION_FD, EBADF, "pass the fd of the memfd that its memory is mapped from" },

	{ CURE_LINK, EPERM,
	  "take a directory of a file system that has them, or let a seccomp filter pass linkat" },
	{ CURE_LINK, EOPNOTSUPP, "take a directory of a file system that has them" },
	{ CURE_FILE, EACCES, "the user must be able to read and write there" },
	{ CURE_FILE, EPERM, "the user must be able to read and write there" },
	{ CURE_FILE, EROFS, "its file system must be writable" },
	{ CURE_FILE, ENOSPC, "its file system is full" },
	{ CURE_FILE, EDQUOT, "the user's quota there is used up" },
	{ CURE_FILE, ENOENT, "make the directory, the same one for both ends" },
	{ CURE_FILE, ENOTDIR, "give a directory, the same one for both ends" },
};

static const char *find(enum cure doing, int err)
{
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		if (table[i].doing == doing && table[i].err == err)
			return table[i].text;
	return NULL;
}

const char *cure(enum cure doing, int err)
{
	const char *text;

	if (err < 0)
		err = -err;
	text = find(doing, err);
	return text ? text : (text = find(CURE_CALL, err)) ? text : "";
}

bool cure_refused(int err)
{
	err = err < 0 ? -err : err;
	return err == EPERM || err == EACCES || err == ENOSYS;
}

int fail_cure(struct fail *f, enum cure doing, int err, const char *fmt, ...)
{
	char what[WHAT_MAX];
	const char *text = cure(doing, err);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	return fail(f, err, "%s: %s%s%s", what, strerror(-err), *text ? "; " : "", text);
}
