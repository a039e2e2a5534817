/* SPDX-License-Identifier: MIT */
/*
 * Takes a userfaultfd of a running process that knows nothing of it. One of its threads is stopped by ptrace
 * and makes one system call; pidfd_getfd() fetches the descriptor; the thread's registers and signal mask are
 * as before, and a system call that was interrupted for it goes on as after SIGSTOP and SIGCONT (signal(7):
 * epoll_wait(), semop() and sigtimedwait() fail with EINTR). The thread stands for about a millisecond.
 *
 * Everything else acts on the descriptor: UFFDIO_API, _REGISTER, _CONTINUE and so on concern the memory of
 * the process that created it, whoever calls them.
 */
#ifndef BENCH_TAKE_H
#define BENCH_TAKE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * The process's own copy stays open. Then its faults wait even if this process dies, instead of being
 * answered with whatever its memory has.
 */
#define TAKE_KEEP 1u
/* Faults of user mode only: the process needs no privilege for it. Enough to track writes. */
#define TAKE_USER_MODE 2u
/*
 * Go on if the process has a seccomp filter that cannot be suspended (that needs CAP_SYS_ADMIN and a kernel with
 * CONFIG_CHECKPOINT_RESTORE). The filter of QEMU's -sandbox lets userfaultfd through; another one may kill the
 * process.
 */
#define TAKE_FILTERED 4u

struct take {
	int fd;	    /* non-blocking, close-on-exec; UFFDIO_API is still to be called */
	int theirs; /* TAKE_KEEP: its number in the process; else -1 */
	uint64_t stood_us;
};

/*
 * Needs CAP_SYS_PTRACE, or to be allowed to trace the process. Stops its main thread, or another one if that does
 * not stop in time. Returns 0, or a negative errno with a sentence in why: -ETIMEDOUT (no thread stopped within
 * timeout_us; the process is as it was), -ESRCH (it has exited), -EPERM,
 * -EOPNOTSUPP (32-bit code, or no system call instruction is found), or the error of the call in the process.
 * The limit holds until a thread stands. From then on there is none, because the thread must get its registers
 * back; it waits for nothing but a CPU. If this process is killed in that millisecond, the other may crash.
 *
 * Meanwhile no other thread of this process may wait for pid, nor for any child.
 */
int take_uffd(pid_t pid, unsigned flags, uint64_t timeout_us, struct take *ret, char *why, size_t cap);

#endif
