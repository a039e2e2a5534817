// SPDX-License-Identifier: MIT
/* What is said of a page of guest memory that cannot be reached. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "../../runtime/fail.h"
#include "../../runtime/reach.h"

static const char *why_gone(struct fail *f)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	cr_assert(!munmap(p, 4096));
	cr_assert_eq(reach_fail(f, &(struct reach_page){ .region = 3, .page = 7, .addr = p }, false), -EFAULT);
	return fail_text(f);
}

Test(reach, a_page_that_is_not_mapped)
{
	struct fail f = { 0 };

	cr_assert(strstr(why_gone(&f), "nothing is mapped there; guest RAM must stay mapped"), "%s", fail_text(&f));
}

/* Nothing is said that was not looked at. */
Test(reach, a_page_of_which_nothing_can_be_found_out)
{
	struct rlimit none = { 0, 0 };
	struct fail f = { 0 };

	cr_assert(!setrlimit(RLIMIT_NOFILE, &none));
	cr_assert(strstr(why_gone(&f), "/proc/self/maps cannot be read: Too many open files; raise the limit of open files"), "%s",
		  fail_text(&f));
}
