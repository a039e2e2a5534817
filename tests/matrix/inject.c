// SPDX-License-Identifier: MIT
/* Makes calls of one end fail: the order, the dry run, and the wrappers. */
#include "inject.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fakevm.h"

#define PAGE ((uintptr_t)4096)
#define WORKER ((uintptr_t)1)	   /* bit 0 of a site; the rest is an offset in the program */
#define AN_OP ((uintptr_t)1 << 44) /* a site that is an op */

extern const char __executable_start[];

enum side { NOBODY, SOURCE_SIDE, TARGET_SIDE };

static struct inject *order;
static _Thread_local struct {
	enum side side;
	bool worker;
	unsigned vmm;
} me;

const char *kind_name(enum kind k)
{
	static const char *const names[] = { "no memory (ENOMEM)",
					     "no memory in the kernel (ENOMEM)",
					     "no space (ENOSPC)",
					     "a tmpfs that has filled up",
					     "a page out of reach (EFAULT)",
					     "a page without access",
					     "no descriptor (EMFILE)",
					     "no thread (EAGAIN)",
					     "an op fails (EIO)",
					     "an op says EPIPE",
					     "throttle fails (EIO)" };

	_Static_assert(sizeof(names) / sizeof(names[0]) == KINDS, "a name a kind");
	return names[k];
}

int kind_errno(enum kind k)
{
	static const int errs[] = { ENOMEM, ENOMEM, ENOSPC, 0, EFAULT, 0, EMFILE, EAGAIN, EIO, EPIPE, EIO };

	_Static_assert(sizeof(errs) / sizeof(errs[0]) == KINDS, "an error a kind");
	return errs[k];
}

void inject_order(struct inject *x)
{
	order = x;
}

void inject_thread(bool source)
{
	me.side = source ? SOURCE_SIDE : TARGET_SIDE;
	me.worker = false;
}

void inject_thread_of_nobody(void)
{
	me.side = NOBODY;
}

void inject_in_vmm(bool in)
{
	me.vmm += in ? 1 : -1;
}

uintptr_t op_site(unsigned op)
{
	return AN_OP | op;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* ---- dry runs ---- */

static void note(struct inject *x, enum kind kind, uintptr_t site)
{
	unsigned at_source = me.side == SOURCE_SIDE, phase = atomic_load(&x->phase[!at_source]);
	uint64_t key = (uint64_t)site << 12 | kind << 8 | at_source << 7 | phase << 1 | 1;

	for (uint64_t i = key * UINT64_C(0x9e3779b97f4a7c15) >> 52;; i = (i + 1) % MET_MAX) {
		uint64_t is = 0;

		if (phase >= FERRY_PHASE_DONE || atomic_compare_exchange_strong(&x->met[i], &is, key) ||
		    is == key)
			return;
	}
}

bool inject_met(const struct inject *x, unsigned i, struct met *ret)
{
	uint64_t key = atomic_load(&x->met[i]);

	*ret = (struct met){
		.kind = key >> 8 & 15, .phase = key >> 1 & 63, .at_source = key >> 7 & 1, .site = key >> 12
	};
	return key;
}

/* ---- which call fails ---- */

/* Whether this call, at the ordered site, fails. */
static bool strikes(struct inject *x)
{
	bool no = false;

	if (atomic_load(&x->struck))
		return x->kind != NO_MEMORY;
	if (!atomic_load(&x->armed))
		return false;
	if (atomic_load(&x->skip)) {
		atomic_fetch_sub(&x->skip, 1);
		return false;
	}
	if (!atomic_compare_exchange_strong(&x->struck, &no, true))
		return false;
	atomic_store(&x->struck_us, now());
	return true;
}

static bool ordered(const struct inject *x, unsigned kinds)
{
	return x && !x->dry && kinds & (1u << x->kind) &&
	       me.side == (x->at_source ? SOURCE_SIDE : TARGET_SIDE) && !me.vmm;
}

static int fails_at(unsigned kinds, uintptr_t site)
{
	struct inject *x = order;

	for (enum kind k = 0; x && x->dry && me.side != NOBODY && !me.vmm && k < KINDS; k++)
		if (kinds & (1u << k))
			note(x, k, site);
	return ordered(x, kinds) && x->want == site && strikes(x) ? kind_errno(x->kind) : 0;
}

/* The error that a call from this address gets, or 0. */
static int fails(unsigned kinds, const void *from)
{
	return fails_at(kinds,
			(uintptr_t)((const char *)from - __executable_start) << 1 | (me.worker ? WORKER : 0));
}

int inject_op(bool source, unsigned op)
{
	enum side side = me.side;
	unsigned vmm = me.vmm;
	int err;

	me.side = source ? SOURCE_SIDE : TARGET_SIDE;
	me.vmm = 0;
	err = -fails_at(1u << OP_FAILS | 1u << OP_SAYS_EPIPE | 1u << THROTTLE_FAILS, AN_OP | op);
	me.side = side;
	me.vmm = vmm;
	return err;
}

void inject_struck(void)
{
	atomic_store(&order->struck_us, now());
	atomic_store(&order->struck, true);
}

void site_text(char buf[120], enum kind kind, uintptr_t site)
{
	char cmd[200], exe[100] = "", func[60] = "?", line[100] = "?", *base;
	FILE *f;

	if (site & AN_OP) {
		snprintf(buf, 120, "%s",
			 kind == THROTTLE_FAILS ? "throttle" : fake_op_name((enum fake_op)(site & ~AN_OP)));
		return;
	}
	if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
		exe[0] = 0;
	snprintf(cmd, sizeof(cmd), "addr2line -f -e '%s' %#lx 2>/dev/null", exe,
		 (unsigned long)(site >> 1) - 1);
	f = popen(cmd, "r");
	if (f && fgets(func, sizeof(func), f) && fgets(line, sizeof(line), f)) {
		func[strcspn(func, "\n")] = 0;
		line[strcspn(line, "\n ")] = 0;
	}
	if (f)
		pclose(f);
	base = strrchr(line, '/');
	snprintf(buf, 120, "%.50s (%.30s)%s", func, base ? base + 1 : line,
		 site & WORKER ? ", a worker" : "");
}

/* ---- page data ---- */

/* Only guest memory is transferred in whole, aligned pages. */
static uintptr_t page_of(const struct iovec *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (v[i].iov_len >= PAGE && !((uintptr_t)v[i].iov_base & (PAGE - 1)))
			return (uintptr_t)v[i].iov_base;
	return 0;
}

static bool holds(const struct iovec *v, size_t n, uintptr_t page)
{
	for (size_t i = 0; i < n; i++)
		if (page - (uintptr_t)v[i].iov_base < v[i].iov_len)
			return true;
	return false;
}

/* A transfer of page data. A page that is out of reach fails for every caller of its end. */
static int page_fails(const struct iovec *v, size_t n, const void *from)
{
	struct inject *x = order;
	uintptr_t page = page_of(v, n), none = 0;

	if (ordered(x, 1u << BAD_PAGE) && atomic_load(&x->page))
		return holds(v, n, atomic_load(&x->page)) ? EFAULT : 0;
	if (!page)
		return 0;
	if (!fails(1u << BAD_PAGE | 1u << NO_KERNEL_MEMORY, from))
		return 0;
	if (x->kind == BAD_PAGE)
		atomic_compare_exchange_strong(&x->page, &none, page);
	return kind_errno(x->kind);
}

/* ---- the wrappers ---- */

#define MEMORY (1u << NO_MEMORY)
#define KERNEL (1u << NO_KERNEL_MEMORY)
#define SPACE (1u << NO_SPACE)
#define DESCRIPTOR (1u << NO_DESCRIPTOR)
#define FROM __builtin_return_address(0)

/* A function that the linker calls in place of another one. */
#define WRAP(type, name, ...)            \
	type __real_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__); \
	type __wrap_##name(__VA_ARGS__)
#define FAIL_IF(err, ret)             \
	do {                          \
		int err_ = (err);     \
		if (err_) {           \
			errno = err_; \
			return ret;   \
		}                     \
	} while (0)

WRAP(void *, malloc, size_t n)
{
	FAIL_IF(fails(MEMORY, FROM), NULL);
	return __real_malloc(n);
}

WRAP(void *, calloc, size_t n, size_t size)
{
	FAIL_IF(fails(MEMORY, FROM), NULL);
	return __real_calloc(n, size);
}

WRAP(void *, realloc, void *p, size_t n)
{
	FAIL_IF(fails(MEMORY, FROM), NULL);
	return __real_realloc(p, n);
}

WRAP(void *, aligned_alloc, size_t align, size_t n)
{
	FAIL_IF(fails(MEMORY, FROM), NULL);
	return __real_aligned_alloc(align, n);
}

WRAP(void *, mmap, void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	FAIL_IF(fails(MEMORY, FROM), MAP_FAILED);
	return __real_mmap(at, len, prot, flags, fd, off);
}

WRAP(int, madvise, void *at, size_t len, int advice)
{
	FAIL_IF(fails(KERNEL, FROM), -1);
	return __real_madvise(at, len, advice);
}

WRAP(int, fallocate, int fd, int mode, off_t off, off_t len)
{
	FAIL_IF(fails(SPACE, FROM), -1);
	return __real_fallocate(fd, mode, off, len);
}

WRAP(ssize_t, pwrite, int fd, const void *buf, size_t n, off_t off)
{
	struct iovec v = { (void *)(uintptr_t)buf, n };

	FAIL_IF(fails(SPACE, FROM), -1);
	FAIL_IF(page_fails(&v, 1, FROM), -1);
	return __real_pwrite(fd, buf, n, off);
}

WRAP(ssize_t, pwritev, int fd, const struct iovec *v, int n, off_t off)
{
	FAIL_IF(fails(SPACE, FROM), -1);
	FAIL_IF(page_fails(v, (size_t)n, FROM), -1);
	return __real_pwritev(fd, v, n, off);
}

int __real_ioctl(int fd, unsigned long req, ...);
int __wrap_ioctl(int fd, unsigned long req, ...);
int __wrap_ioctl(int fd, unsigned long req, ...)
{
	void *arg;
	va_list ap;

	va_start(ap, req);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (req == UFFDIO_COPY || req == UFFDIO_CONTINUE || req == UFFDIO_ZEROPAGE || req == UFFDIO_REGISTER)
		FAIL_IF(fails(KERNEL, FROM), -1);
	if (req == UFFDIO_COPY || req == UFFDIO_ZEROPAGE)
		FAIL_IF(fails(SPACE, FROM), -1);
	if (req == _IO(0xAA, 0x00)) /* of /dev/userfaultfd: makes a new descriptor */
		FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_ioctl(fd, req, arg);
}

WRAP(int, socket, int domain, int type, int protocol)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_socket(domain, type, protocol);
}

WRAP(int, accept4, int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_accept4(fd, addr, len, flags);
}

static struct {
	struct sockaddr_in to;
	_Atomic unsigned *count;
	_Atomic bool on;
} divert;

void inject_divert(const char *uri, _Atomic unsigned *count)
{
	const char *host = strchr(uri, ':') + 1, *port = strrchr(uri, ':');
	char text[INET_ADDRSTRLEN];

	snprintf(text, sizeof(text), "%.*s", (int)(port - host), host);
	divert.to =
		(struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port + 1)) };
	if (inet_pton(AF_INET, text, &divert.to.sin_addr) != 1)
		abort();
	divert.count = count;
	atomic_store(&divert.on, true);
}

WRAP(int, connect, int fd, const struct sockaddr *to, socklen_t len)
{
	int err;

	if (!atomic_load(&divert.on) || to->sa_family != AF_INET)
		return __real_connect(fd, to, len);
	err = __real_connect(fd, (const struct sockaddr *)&divert.to, sizeof(divert.to));
	if (!err || errno == EINPROGRESS)
		atomic_fetch_add(divert.count, 1);
	return err;
}

WRAP(int, eventfd, unsigned count, int flags)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_eventfd(count, flags);
}

WRAP(int, epoll_create1, int flags)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_epoll_create1(flags);
}

WRAP(int, timerfd_create, int clock, int flags)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_timerfd_create(clock, flags);
}

WRAP(int, pipe2, int fds[2], int flags)
{
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_pipe2(fds, flags);
}

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
	mode_t mode;
	va_list ap;

	va_start(ap, flags);
	mode = va_arg(ap, mode_t);
	va_end(ap);
	FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	return __real_open(path, flags, mode);
}

long __real_syscall(long nr, ...);
long __wrap_syscall(long nr, ...);
long __wrap_syscall(long nr, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, nr);
	for (unsigned i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (nr == SYS_pidfd_open || nr == SYS_userfaultfd)
		FAIL_IF(fails(DESCRIPTOR, FROM), -1);
	if (nr == SYS_process_madvise)
		FAIL_IF(fails(KERNEL, FROM), -1);
	if (nr == SYS_process_vm_writev) { /* to this process itself: a copy that raises no signal */
		FAIL_IF(page_fails((const struct iovec *)a[1], (size_t)a[2], FROM), -1);
		FAIL_IF(page_fails((const struct iovec *)a[3], (size_t)a[4], FROM), -1);
	}
	return __real_syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

WRAP(ssize_t, sendmsg, int fd, const struct msghdr *msg, int flags)
{
	FAIL_IF(page_fails(msg->msg_iov, msg->msg_iovlen, FROM), -1);
	return __real_sendmsg(fd, msg, flags);
}

WRAP(ssize_t, recvmsg, int fd, struct msghdr *msg, int flags)
{
	FAIL_IF(page_fails(msg->msg_iov, msg->msg_iovlen, FROM), -1);
	return __real_recvmsg(fd, msg, flags);
}

WRAP(ssize_t, vmsplice, int fd, const struct iovec *v, size_t n, unsigned flags)
{
	FAIL_IF(page_fails(v, n, FROM), -1);
	return __real_vmsplice(fd, v, n, flags);
}

/* ---- threads ---- */

struct start {
	void *(*body)(void *arg);
	void *arg;
	enum side side;
};

static void *begin(void *v)
{
	struct start s = *(struct start *)v;

	free(v);
	me.side = s.side;
	me.worker = true;
	return s.body(s.arg);
}

WRAP(int, pthread_create, pthread_t *t, const pthread_attr_t *attr, void *(*body)(void *arg), void *arg)
{
	int err = fails(1u << NO_THREAD, FROM);
	struct start *s;

	if (err)
		return err;
	if (!order || me.side == NOBODY)
		return __real_pthread_create(t, attr, body, arg);
	s = __real_malloc(sizeof(*s));
	if (!s)
		return EAGAIN;
	*s = (struct start){ .body = body, .arg = arg, .side = me.vmm ? NOBODY : me.side };
	err = __real_pthread_create(t, attr, begin, s);
	if (err)
		free(s);
	return err;
}
