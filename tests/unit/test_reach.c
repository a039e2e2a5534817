// SPDX-License-Identifier: MIT
/* Whether memory can be read is told without a signal, in long and in short ranges; and what is said where it cannot. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/base/fail.h"
#include "runtime/base/reach.h"

#define PAGE ((size_t)4096)
#define PAGES 256u

/* All of it in one range, and each page in one of its own. */
static void expect(const uint8_t *mem, int err)
{
	struct iovec whole = { (void *)(uintptr_t)mem, PAGES * PAGE }, each[PAGES];
	struct reach r;

	for (unsigned i = 0; i < PAGES; i++)
		each[i] = (struct iovec){ (void *)(uintptr_t)(mem + i * PAGE), PAGE };
	for (int reads = 0; reads < 2; reads++) {
		reach_open(&r, reads);
		cr_expect_eq(reach_readable(&r, &whole, 1), err, "one range, reads %d", reads);
		cr_expect_eq(reach_readable(&r, each, PAGES), err, "a range a page, reads %d", reads);
		reach_close(&r);
	}
}

static uint8_t *touched(int flags, int fd)
{
	uint8_t *mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	cr_assert_neq(mem, MAP_FAILED);
	for (unsigned i = 0; i < PAGES; i++)
		mem[i * PAGE] = 1;
	return mem;
}

static uint8_t *memfd(int *fd)
{
	*fd = memfd_create("reach", MFD_CLOEXEC);
	cr_assert_geq(*fd, 0);
	cr_assert_eq(ftruncate(*fd, PAGES * PAGE), 0);
	return touched(MAP_SHARED, *fd);
}

Test(readable, what_is_there)
{
	int fd;

	expect(touched(MAP_PRIVATE | MAP_ANONYMOUS, -1), 0);
	expect(memfd(&fd), 0);
}

/* In the file, and not in the page table. */
Test(readable, what_another_mapping_has_written)
{
	uint8_t *mem;
	int fd;

	memfd(&fd);
	mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(mem, MAP_FAILED);
	expect(mem, 0);
}

Test(readable, what_was_never_touched)
{
	uint8_t *mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(mem, MAP_FAILED);
	expect(mem, 0);
}

Test(readable, not_behind_the_end_of_a_file)
{
	int fd;
	uint8_t *mem = memfd(&fd);

	cr_assert_eq(ftruncate(fd, (PAGES - 1) * PAGE), 0);
	expect(mem, -EFAULT);
}

/* Its pages stay in the page table. */
Test(readable, not_what_is_protected)
{
	uint8_t *mem = touched(MAP_PRIVATE | MAP_ANONYMOUS, -1);

	cr_assert_eq(mprotect(mem + PAGES / 2 * PAGE, PAGE, PROT_NONE), 0);
	expect(mem, -EINVAL);
	cr_assert_eq(mprotect(mem, PAGES * PAGE, PROT_NONE), 0);
	expect(mem, -EINVAL);
}

Test(readable, not_where_nothing_is_mapped)
{
	uint8_t *mem = touched(MAP_PRIVATE | MAP_ANONYMOUS, -1);

	cr_assert_eq(munmap(mem + (PAGES - 1) * PAGE, PAGE), 0);
	expect(mem, -ENOMEM);
}

static const char *why_gone(struct fail *f)
{
	void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	cr_assert(!munmap(p, PAGE));
	cr_assert_eq(reach_fail(f, &(struct reach_page){ .region = 3, .page = 7, .addr = p }, false),
		     -EFAULT);
	return fail_text(f);
}

Test(sentence, a_page_that_is_not_mapped)
{
	struct fail f = { 0 };

	cr_assert(strstr(why_gone(&f), "nothing is mapped there; guest RAM must stay mapped"), "%s",
		  fail_text(&f));
}

/* Nothing is said that was not looked at. */
Test(sentence, a_page_of_which_nothing_can_be_found_out)
{
	struct rlimit was, none;
	struct fail f = { 0 };

	cr_assert(!getrlimit(RLIMIT_NOFILE, &was));
	none = (struct rlimit){ 0, was.rlim_max };
	cr_assert(!setrlimit(RLIMIT_NOFILE, &none));
	why_gone(&f);
	cr_assert(!setrlimit(RLIMIT_NOFILE, &was)); /* a leak checker opens files in the end */
	cr_assert(strstr(fail_text(&f),
			 "/proc/self/maps cannot be read: Too many open files; raise the limit of open files"),
		  "%s", fail_text(&f));
}
