// SPDX-License-Identifier: MIT
/* Builds and installs seccomp filters. */
#include "refuse.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The lower half of an argument on a little-endian machine. */
#define ARG(n) (offsetof(struct seccomp_data, args) + 8 * ((n)-1))
#define LOAD(at) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(at))
#define NR LOAD(offsetof(struct seccomp_data, nr))
#define UNLESS(v, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(v), 0, (skip))
#define RET(v) BPF_STMT(BPF_RET | BPF_K, (uint32_t)(v))
#define ROW_MAX 5u /* instructions per row */

static void install(struct sock_filter *code, size_t n, bool everybody)
{
	struct sock_fprog prog = { .len = (unsigned short)n, .filter = code };

	cr_assert(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	cr_assert_eq(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, everybody ? SECCOMP_FILTER_FLAG_TSYNC : 0,
			     &prog),
		     0, "seccomp: %s", strerror(errno));
}

void refuse_calls(const struct refused *r, size_t n, int err, bool everybody)
{
	struct sock_filter code[ROW_MAX * REFUSE_MAX + 1];
	size_t at = 0;

	cr_assert_leq(n, REFUSE_MAX);
	for (size_t i = 0; i < n; i++) {
		struct sock_filter whole[] = { NR, UNLESS(r[i].nr, 1), RET(SECCOMP_RET_ERRNO | err) };
		struct sock_filter some[] = { NR, UNLESS(r[i].nr, 3), LOAD(ARG(r[i].arg ? r[i].arg : 1)),
					      UNLESS(r[i].value, 1), RET(SECCOMP_RET_ERRNO | err) };
		size_t len = r[i].arg ? 5 : 3;

		memcpy(code + at, r[i].arg ? some : whole, len * sizeof(code[0]));
		at += len;
	}
	code[at++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	install(code, at, everybody);
}

void refuse_all_but(const int *nr, size_t n, int err)
{
	struct sock_filter code[2 * REFUSE_MAX + 2] = { NR };
	size_t at = 1;

	cr_assert_leq(n, REFUSE_MAX);
	for (size_t i = 0; i < n; i++) {
		code[at++] = (struct sock_filter)UNLESS(nr[i], 1);
		code[at++] = (struct sock_filter)RET(SECCOMP_RET_ALLOW);
	}
	code[at++] = (struct sock_filter)RET(SECCOMP_RET_ERRNO | err);
	install(code, at, false);
}
