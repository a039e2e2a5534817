// SPDX-License-Identifier: MIT
/* What is advised fits the errno, whatever was being done; where nothing is known nothing is advised. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/cure.h"
#include "runtime/base/fail.h"

#define ERRNOS 134

static bool says(enum cure doing, int err, const char *part)
{
	return strstr(cure(doing, err), part) != NULL;
}

/* The errno alone tells what is short: no call's own advice may hide it. */
Test(cure, what_is_short_is_named_whatever_was_being_done)
{
	for (enum cure c = 0; c < CURES; c++) {
		cr_expect(says(c, EMFILE, "ulimit -n"), "%u: %s", c, cure(c, EMFILE));
		cr_expect(says(c, ENFILE, "fs.file-max"), "%u: %s", c, cure(c, ENFILE));
		cr_expect(*cure(c, ENOMEM), "%u has no word on memory", c);
		cr_expect(*cure(c, EPERM) && *cure(c, ENOSYS), "%u has no word on a refused call", c);
		cr_expect_eq(cure(c, -EMFILE), cure(c, EMFILE));
	}
}

/* Advice for another cause is worse than none. */
Test(cure, no_advice_belongs_to_another_cause)
{
	static const struct {
		const char *advice;
		int fits[10];
	} row[] = {
		{ "as root", { EPERM, EACCES } },
		{ "are for root", { EACCES } },
		{ "refuses", { EPERM, EACCES, ENOSYS } },
		{ "firewall",
		  { EHOSTUNREACH, EHOSTDOWN, ENETUNREACH, ENETDOWN, ENONET, ETIMEDOUT, EACCES, EPERM } },
		{ "route", { EHOSTUNREACH, EHOSTDOWN, ENETUNREACH, ENETDOWN, ENONET, ETIMEDOUT } },
		{ "start the target", { ECONNREFUSED } },
		{ "seccomp", { EPERM, EACCES, ENOSYS } },
		{ "ulimit -n", { EMFILE } },
		{ "ulimit -u", { EAGAIN } },
		{ "ulimit -l", { ENOMEM, EAGAIN } },
		{ "ulimit -v", { ENOMEM, EAGAIN } },
		{ "nr_hugepages", { ENOMEM, EFAULT } },
		{ "hugetlb.2MB.max", { ENOMEM, EFAULT } },
		{ "link-local", { EINVAL } },
		{ "must be a memfd", { EINVAL, EBADF, ENODEV, EOPNOTSUPP } },
		{ "must not be locked", { EINVAL } },
		{ "is full", { ENOSPC, EFAULT } },
		{ "modules of your device", { ENODEV, ENOENT, ENXIO } },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		for (enum cure c = 0; c < CURES; c++)
			for (int e = 1; e < ERRNOS; e++) {
				bool fits = false;

				for (size_t k = 0; k < 10; k++)
					fits |= row[i].fits[k] == e;
				cr_expect(fits || !says(c, e, row[i].advice), "%u, %s: %s", c, strerror(e),
					  cure(c, e));
			}
}

Test(cure, each_call_has_its_own_advice)
{
	static const struct {
		enum cure doing;
		int err;
		const char *part;
	} row[] = {
		{ CURE_THREAD, EAGAIN, "pids.max" },
		{ CURE_CONNECT, ECONNREFUSED, "start the target first" },
		{ CURE_CONNECT, EHOSTUNREACH, "route" },
		{ CURE_CONNECT, EINVAL, "%eth0" },
		{ CURE_CONNECT, EADDRNOTAVAIL, "ip_local_port_range" },
		{ CURE_LISTEN, EADDRINUSE, "another port" },
		{ CURE_LISTEN, EACCES, "1024" },
		{ CURE_LISTEN, EADDRNOTAVAIL, "address of this host" },
		{ CURE_TRANSFER, EFAULT, "unmapped" },
		{ CURE_TRANSFER, ENOBUFS, "tcp_mem" },
		{ CURE_UFFD_OPEN, EPERM, "unprivileged_userfaultfd" },
		{ CURE_UFFD_OPEN, ENOSYS, "CONFIG_USERFAULTFD" },
		{ CURE_UFFD_REGISTER, EBUSY, "another userfaultfd" },
		{ CURE_UFFD_REGISTER, EINVAL, "page_shift" },
		{ CURE_PLACE, EFAULT, "truncate" },
		{ CURE_HUGE_EMPTY, ENOMEM, "vm.nr_hugepages" },
		{ CURE_HUGE_LIMIT, ENOMEM, "hugetlb.2MB.max" },
		{ CURE_MAP, ENOMEM, "vm.max_map_count" },
		{ CURE_MAP, EACCES, "reading and writing" },
		{ CURE_DROP, EINVAL, "must be neither locked" },
		{ CURE_DROP, EPERM, "MADV_DONTNEED" },
		{ CURE_POPULATED, EACCES, "/proc/self/pagemap" },
		{ CURE_RDMA_OPEN, ENODEV, "rdma_ucm" },
		{ CURE_PLACE, ESRCH, "has exited" },
		{ CURE_UFFD_REGISTER, ESRCH, "has exited" },
		{ CURE_RDMA_REGISTER, ENOMEM, "LimitMEMLOCK" },
		{ CURE_FILE, EROFS, "writable" },
	};

	for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++)
		cr_expect(says(row[i].doing, row[i].err, row[i].part), "%u, %s: \"%s\" lacks \"%s\"",
			  row[i].doing, strerror(row[i].err), cure(row[i].doing, row[i].err), row[i].part);
}

Test(cure, an_errno_that_nobody_thought_of_has_no_advice)
{
	static const int odd[] = { ENOMSG,   EXDEV,	  ELOOP,   EDOM, EILSEQ,
				   ENOTUNIQ, EKEYREVOKED, ERFKILL, EIO,	 4095 };

	for (enum cure c = 0; c < CURES; c++)
		for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
			cr_expect_str_eq(cure(c, odd[i]), "", "%u, %s", c, strerror(odd[i]));
}

Test(cure, a_sentence_ends_with_the_errno_and_its_cure)
{
	char want[FAIL_MAX], many[600];
	struct fail f = { 0 };

	cr_assert_eq(fail_cure(&f, CURE_CONNECT, -EINVAL, "cannot connect to %s:%u", "tcp:fe80::1", 7),
		     -EINVAL);
	snprintf(want, sizeof(want), "cannot connect to tcp:fe80::1:7: %s; %s", strerror(EINVAL),
		 cure(CURE_CONNECT, EINVAL));
	cr_assert_str_eq(fail_text(&f), want);
	fail_reset(&f);
	fail_cure(&f, CURE_CALL, -EXDEV, "a thing");
	snprintf(want, sizeof(want), "a thing: %s", strerror(EXDEV));
	cr_assert_str_eq(fail_text(&f), want);
	cr_assert_eq(fail_err(&f), -EXDEV);
	/* What is too long loses its middle, not the cure. */
	fail_reset(&f);
	memset(many, 'x', sizeof(many) - 1);
	many[sizeof(many) - 1] = 0;
	fail_cure(&f, CURE_TRANSFER, -EFAULT, "%s", many);
	cr_assert(strstr(fail_text(&f), strerror(EFAULT)));
	cr_assert_str_eq(fail_text(&f) + strlen(fail_text(&f)) - strlen(cure(CURE_TRANSFER, EFAULT)),
			 cure(CURE_TRANSFER, EFAULT));
}
