/* SPDX-License-Identifier: MIT */
/* The tracker of ferry/track.h on memory of another process, which hands its userfaultfd over. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "left.h"
#include "ferry/track.h"
#include "runtime/base/page.h"
#include "runtime/base/uffd_abi.h"

#define PAGES 3000u

/* Another process with memory, which does what it is told on a socket. */
struct other {
	pid_t pid;
	int socket;	   /* ours */
	int uffd, pagemap; /* of the process */
	uint8_t *at;	   /* there, and also a mapping of ours unless it is private */
	int fd;		   /* the memory's; -1: private */
};

enum order { WRITE = 1, READ };

static void send_fd(int socket, int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} u = { 0 };
	struct iovec v = { "", 1 };
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u.space)
	};

	u.head.cmsg_level = SOL_SOCKET;
	u.head.cmsg_type = SCM_RIGHTS;
	u.head.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&u.head), &fd, sizeof(fd));
	if (sendmsg(socket, &m, 0) != 1)
		_exit(1);
}

static int receive_fd(int socket)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} u = { 0 };
	char c;
	struct iovec v = { &c, 1 };
	struct msghdr m = {
		.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u.space)
	};
	int fd;

	cr_assert_eq(recvmsg(socket, &m, MSG_CMSG_CLOEXEC), 1);
	cr_assert_eq(m.msg_controllen, sizeof(u.space));
	memcpy(&fd, CMSG_DATA(&u.head), sizeof(fd));
	return fd;
}

static volatile uint8_t *page_at(uint8_t *at, uint32_t page)
{
	return at + ((size_t)page << PAGE_SHIFT);
}

static _Noreturn void live(int socket, uint8_t *at)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	uint32_t order[2];

	if (uffd < 0)
		_exit(1);
	send_fd(socket, uffd);
	close(uffd);
	while (read(socket, order, sizeof(order)) == sizeof(order)) {
		if (order[0] == WRITE)
			++*page_at(at, order[1]);
		else
			(void)*page_at(at, order[1]);
		if (write(socket, "", 1) != 1)
			break;
	}
	_exit(0);
}

static void tell(const struct other *o, enum order what, uint32_t page)
{
	const uint32_t order[2] = { what, page };

	cr_assert_eq(write(o->socket, order, sizeof(order)), (ssize_t)sizeof(order));
	cr_assert_eq(read(o->socket, &(char){ 0 }, 1), 1);
}

static void begin(struct other *o, bool shared)
{
	char path[64];
	int pair[2];

	o->fd = -1;
	if (shared) {
		o->fd = memfd_create("ram", MFD_CLOEXEC);
		cr_assert_eq(ftruncate(o->fd, PAGES << PAGE_SHIFT), 0);
	}
	o->at = mmap(NULL, PAGES << PAGE_SHIFT, PROT_READ | PROT_WRITE,
		     shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, o->fd, 0);
	cr_assert_neq(o->at, MAP_FAILED);
	madvise(o->at, PAGES << PAGE_SHIFT, MADV_NOHUGEPAGE);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	o->pid = fork();
	cr_assert_geq(o->pid, 0);
	if (!o->pid) {
		close(pair[0]);
		live(pair[1], o->at);
	}
	close(pair[1]);
	o->socket = pair[0];
	o->uffd = receive_fd(o->socket);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)o->pid);
	o->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_geq(o->pagemap, 0, "%s: %s", path, strerror(errno));
}

static void end(struct other *o)
{
	close(o->socket);
	cr_assert_eq(waitpid(o->pid, NULL, 0), o->pid);
	close(o->uffd);
	close(o->pagemap);
	if (o->fd >= 0)
		close(o->fd);
	munmap(o->at, PAGES << PAGE_SHIFT);
}

static int try_track(const struct other *o, int uffd, int pagemap, struct ferry_track **ret)
{
	struct ferry_track_param p = { FERRY_TRACK_PARAM_INIT, .flags = FERRY_TRACK_FOREIGN, .uffd = uffd,
				       .pagemap = pagemap };
	struct ferry_track_range range = { FERRY_TRACK_RANGE_INIT,
					   .region = 4,
					   .flags = o->fd >= 0 ? FERRY_REGION_SHARED : 0,
					   .addr = (uintptr_t)o->at,
					   .len = PAGES << PAGE_SHIFT,
					   .page_shift = PAGE_SHIFT,
					   .fd = o->fd };
	int err = ferry_track_new(ret, &p);

	if (err == -EOPNOTSUPP) {
		end((struct other *)o);
		cr_skip_test("this kernel cannot track writes: it has no UFFD_FEATURE_WP_ASYNC");
	}
	if (!err)
		cr_assert_eq(ferry_track_add(*ret, &range), 0);
	return err;
}

static struct ferry_track *track(const struct other *o)
{
	struct ferry_track *t;
	int err = try_track(o, o->uffd, o->pagemap, &t);

	cr_assert_eq(err, 0, "%s", strerror(-err));
	err = ferry_track_start(t);
	cr_assert_eq(err, 0, "%s", strerror(-err));
	return t;
}

static void exactly(struct ferry_track *t, const uint8_t *want, const char *what)
{
	uint64_t bits[PAGES / 64 + 1] = { 0 };
	int err = ferry_track_fetch(t, 4, bits, PAGES, 0);

	cr_assert_eq(err, 0, "%s", strerror(-err));
	for (unsigned p = 0; p < PAGES; p++)
		cr_assert_eq(bits[p / 64] >> (p % 64) & 1, want[p], "%s: page %u", what, p);
}

static void writes_there(bool shared)
{
	static const uint8_t none[PAGES];
	struct ferry_track *t;
	struct other o;

	begin(&o, shared);
	for (unsigned p = 0; p < 1000; p++)
		tell(&o, WRITE, p);
	t = track(&o);
	exactly(t, none, "after the start");
	for (unsigned round = 1; round < 6; round++) {
		uint8_t want[PAGES] = { 0 };

		for (unsigned p = round; p < PAGES; p += 97 * round) {
			tell(&o, WRITE, p);
			want[p] = 1;
		}
		tell(&o, READ, 7);
		if (!shared) /* a page of the same address here is another page */
			*page_at(o.at, 11 + round) = 1;
		exactly(t, want, "written there");
	}
	exactly(t, none, "no write");
	ferry_track_free(t);
	/* the same descriptors once more: a second migration */
	t = track(&o);
	{
		uint8_t want[PAGES] = { [42] = 1 };

		tell(&o, WRITE, 42);
		exactly(t, want, "a second tracker");
	}
	cr_assert_eq(ferry_track_stop(t), 0);
	ferry_track_free(t);
	end(&o);
}

Test(track_other, exactly_what_it_has_written_anonymous)
{
	writes_there(false);
}

Test(track_other, exactly_what_it_has_written_memfd)
{
	writes_there(true);
}

/* Both ends of a shared mapping tracked, each by a tracker of its own: together they see all writes. */
Test(track_other, a_shared_mapping_and_its_twin)
{
	struct ferry_track_range range = { FERRY_TRACK_RANGE_INIT, .region = 4, .flags = FERRY_REGION_SHARED,
					   .len = PAGES << PAGE_SHIFT, .page_shift = PAGE_SHIFT };
	uint8_t want[PAGES] = { [3] = 1, [4] = 1 };
	uint64_t bits[PAGES / 64 + 1] = { 0 };
	struct ferry_track *there, *here;
	struct other o;

	begin(&o, true);
	memset(o.at, 1, PAGES << PAGE_SHIFT);
	there = track(&o);
	cr_assert_eq(ferry_track_new(&here, NULL), 0);
	range.addr = (uintptr_t)o.at;
	range.fd = o.fd;
	cr_assert_eq(ferry_track_add(here, &range), 0);
	cr_assert_eq(ferry_track_start(here), 0);
	tell(&o, WRITE, 3);
	*page_at(o.at, 4) = 9;
	cr_assert_eq(ferry_track_fetch(there, 4, bits, PAGES, 0), 0);
	cr_assert_eq(ferry_track_fetch(here, 4, bits, PAGES, 0), 0);
	for (unsigned p = 0; p < PAGES; p++)
		cr_assert_eq(bits[p / 64] >> (p % 64) & 1, want[p], "page %u", p);
	ferry_track_free(here);
	ferry_track_free(there);
	end(&o);
}

/* An empty page table would say that nothing was written. */
static void a_dead_process(bool shared)
{
	unsigned fds = entries("/proc/self/fd");
	uint64_t bits[PAGES / 64 + 1] = { 0 };
	struct ferry_track *t;
	struct other o;

	begin(&o, shared);
	t = track(&o);
	tell(&o, WRITE, 1);
	kill(o.pid, SIGKILL);
	cr_assert_eq(waitid(P_PID, (id_t)o.pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
	cr_assert_eq(ferry_track_fetch(t, 4, bits, PAGES, 0), -ESRCH);
	cr_assert_eq(ferry_track_fetch(t, 4, bits, PAGES, FERRY_DIRTY_LAST), -ESRCH);
	cr_assert_eq(ferry_track_stop(t), 0);
	cr_assert_eq(ferry_track_start(t), -ESRCH);
	ferry_track_free(t);
	end(&o);
	cr_assert_eq(entries("/proc/self/fd"), fds);
}

Test(track_other, that_has_died_anonymous)
{
	a_dead_process(false);
}

Test(track_other, that_has_died_memfd)
{
	a_dead_process(true);
}

Test(track_other, descriptors_that_do_not_fit)
{
	int own = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api plain = { .api = UFFD_API };
	struct ferry_track *t = NULL;
	struct other o;

	begin(&o, false);
	cr_assert_eq(try_track(&o, null, o.pagemap, &t), -EINVAL, "no userfaultfd");
	cr_assert_eq(try_track(&o, 9999, o.pagemap, &t), -EBADF);
	cr_assert_eq(try_track(&o, o.uffd, 9999, &t), -EBADF);
	cr_assert_null(t);
	/* it shows another process, where nobody tracks this memory */
	cr_assert_eq(try_track(&o, o.uffd, own, &t), 0);
	cr_assert_eq(ferry_track_start(t), -EINVAL);
	ferry_track_free(t);
	/* set up for something else: with it, writers would wait for ever */
	cr_assert_eq(ioctl(uffd, UFFDIO_API, &plain), 0);
	cr_assert_eq(try_track(&o, uffd, own, &t), 0);
	cr_assert_eq(ferry_track_start(t), -EINVAL);
	*page_at(o.at, 1) = 1;
	ferry_track_free(t);
	close(uffd);
	close(own);
	close(null);
	end(&o);
}
