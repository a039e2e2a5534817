// SPDX-License-Identifier: MIT
/*
 * The arbiter on a shared directory: whoever comes first, everybody hears the same; what the file system refuses is a
 * sentence; a file server that does not answer is not waited for. This program's own linkat() and fsync() stand in
 * for the file servers that a test has not got.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ferry/arbiter_file.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LONG 60000000u

static _Atomic int link_lies;  /* makes the link, and says this errno */
static _Atomic int link_fails; /* makes none */
static _Atomic int sync_fails;
static _Atomic bool hangs; /* fsync() does not return */
static _Atomic unsigned hanging;
static _Atomic unsigned dir_syncs;

int linkat(int from, const char *name, int to, const char *as, int flags)
{
	int ret;

	if (link_fails) {
		errno = link_fails;
		return -1;
	}
	ret = (int)syscall(SYS_linkat, from, name, to, as, flags);
	if (!ret && link_lies) {
		errno = link_lies;
		return -1;
	}
	return ret;
}

int fsync(int fd)
{
	struct stat st;

	hanging++;
	while (hangs)
		usleep(1000);
	hanging--;
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode))
		dir_syncs++;
	if (sync_fails) {
		errno = sync_fails;
		return -1;
	}
	return (int)syscall(SYS_fsync, fd);
}

static char dir[64];
static const uint8_t session[16] = { 0xab, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff };
#define RECORD "ab0102030405060708090a0b0c0d0eff.owner"

static void make_dir(void)
{
	snprintf(dir, sizeof(dir), "/tmp/ferry-arbiter.XXXXXX");
	cr_assert(mkdtemp(dir));
}

static unsigned entries(bool remove)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	unsigned n = 0;

	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		n++;
		if (remove)
			unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
	return n;
}

static void remove_dir(void)
{
	entries(true);
	rmdir(dir);
}

TestSuite(arbiter_file, .init = make_dir, .fini = remove_dir);

static int ask_for(enum ferry_owner want, enum ferry_owner *is, uint64_t timeout_us, char why[300])
{
	struct ferry_arbiter_file a = { .size = sizeof(a), .dir = dir, .timeout_us = timeout_us };

	return ferry_arbiter_file_ask(&a, session, want, is, why, 300);
}

static void hears(enum ferry_owner want, enum ferry_owner due)
{
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[300] = "";

	cr_assert_eq(ask_for(want, &is, LONG, why), 0, "%s", why);
	cr_assert_eq(is, due);
}

static void fails(int err, const char *sentence)
{
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[300] = "";
	int got = ask_for(FERRY_OWNER_SOURCE, &is, LONG, why);

	cr_assert_eq(got, err, "%d: %s", got, why);
	cr_assert(strstr(why, sentence) && strstr(why, dir), "\"%s\"", why);
	cr_assert_eq(is, FERRY_OWNER_UNKNOWN);
}

Test(arbiter_file, the_first_decides)
{
	hears(FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_TARGET);
	hears(FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	cr_assert_eq(entries(false), 1);
	/* Who only reads syncs too: the writer may have died before it did. */
	cr_assert_eq(dir_syncs, 3);
}

Test(arbiter_file, the_record_is_two_lines)
{
	char path[160], text[80] = "";
	FILE *f;

	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	snprintf(path, sizeof(path), "%s/%s", dir, RECORD);
	f = fopen(path, "r");
	cr_assert(f && fread(text, 1, sizeof(text) - 1, f));
	fclose(f);
	cr_assert_str_eq(text, "source\nab0102030405060708090a0b0c0d0eff\n");
}

struct racer {
	pthread_t thread;
	enum ferry_owner want, is;
	int err;
};

static void *race(void *arg)
{
	struct racer *r = arg;
	char why[300];

	r->err = ask_for(r->want, &r->is, LONG, why);
	return NULL;
}

/* Four threads in each of four processes: one record, and all sixteen hear the same of it. */
static int race_here(unsigned n)
{
	struct racer r[4];
	int is = -1;

	for (unsigned i = 0; i < 4; i++) {
		r[i] = (struct racer){ .want = (i ^ n) & 1 ? FERRY_OWNER_TARGET : FERRY_OWNER_SOURCE };
		pthread_create(&r[i].thread, NULL, race, &r[i]);
	}
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(r[i].thread, NULL);
		if (r[i].err || (is >= 0 && is != (int)r[i].is))
			return 99;
		is = (int)r[i].is;
	}
	return is;
}

Test(arbiter_file, a_race_has_one_winner)
{
	for (unsigned turn = 0; turn < 20; turn++) {
		int status, is = -1;
		pid_t pid[4];

		for (unsigned i = 0; i < 4; i++) {
			pid[i] = fork();
			if (!pid[i])
				_exit(race_here(i + turn));
		}
		for (unsigned i = 0; i < 4; i++) {
			waitpid(pid[i], &status, 0);
			cr_assert(WIFEXITED(status) && WEXITSTATUS(status) >= FERRY_OWNER_SOURCE &&
					  WEXITSTATUS(status) <= FERRY_OWNER_TARGET,
				  "%#x", status);
			cr_assert(is < 0 || is == WEXITSTATUS(status));
			is = WEXITSTATUS(status);
		}
		cr_assert_eq(entries(true), 1, "temporary files are left");
	}
}

/* NFS: the answer to the request was lost, the request repeated, and the name was there already: its own. */
Test(arbiter_file, a_link_that_was_made_and_denied_counts)
{
	link_lies = EEXIST;
	hears(FERRY_OWNER_TARGET, FERRY_OWNER_TARGET);
	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_TARGET);
	entries(true);
	link_lies = EIO;
	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	cr_assert_eq(entries(false), 1);
}

Test(arbiter_file, no_hard_links)
{
	link_fails = EPERM;
	fails(-EPERM, "has no hard links, which this arbiter needs");
	cr_assert_eq(entries(false), 0);
}

Test(arbiter_file, a_disk_that_loses_what_it_is_given)
{
	sync_fails = EIO;
	fails(-EIO, "cannot write .ab0102");
	cr_assert_eq(entries(false), 0);
}

/* The link is made but may be gone with the power: nobody may act on it. */
Test(arbiter_file, a_directory_that_cannot_be_synced)
{
	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
	sync_fails = EIO;
	fails(-EIO, "cannot be synced with " RECORD);
}

Test(arbiter_file, a_directory_that_is_not_there)
{
	remove_dir();
	fails(-ENOENT, "cannot be opened");
	make_dir();
}

Test(arbiter_file, a_directory_that_is_a_file)
{
	char path[80];

	snprintf(path, sizeof(path), "%s", dir);
	remove_dir();
	close(open(path, O_CREAT | O_WRONLY, 0600));
	fails(-ENOTDIR, "cannot be opened");
	unlink(path);
	make_dir();
}

static void put_record(const char *text)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, RECORD);
	fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
	cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

Test(arbiter_file, a_record_that_is_none)
{
	static const char *const texts[] = {
		"",
		"source\n",
		"source\nab0102030405060708090a0b0c0d0efe\n",
		"nobody\nab0102030405060708090a0b0c0d0eff\n",
		"source\nab0102030405060708090a0b0c0d0eff\n\n",
		"source\nab0102030405060708090a0b0c0d0eff!",
	};
	char path[160];

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		put_record(texts[i]);
		fails(-EPROTO, RECORD " is no record of an owner; find out who wrote it");
	}
	snprintf(path, sizeof(path), "%s/%s", dir, RECORD);
	unlink(path);
	cr_assert_eq(symlink("/etc/hostname", path), 0);
	fails(-ELOOP, "cannot open " RECORD);
	unlink(path);
	cr_assert_eq(mkfifo(path, 0600), 0);
	fails(-EPROTO, "no record");
	cr_assert_eq(entries(false), 1);
}

Test(arbiter_file, a_file_server_that_does_not_answer)
{
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[300] = "";

	hangs = true;
	cr_assert_eq(ask_for(FERRY_OWNER_TARGET, &is, 50000, why), -ETIMEDOUT);
	cr_assert(strstr(why, "has not answered for 50 ms: is its file server there?"), "%s", why);
	cr_assert_eq(is, FERRY_OWNER_UNKNOWN);
	hangs = false;
	while (hanging)
		usleep(1000);
	/* The call that gave up records nothing when the server is back. */
	hears(FERRY_OWNER_SOURCE, FERRY_OWNER_SOURCE);
}

Test(arbiter_file, wrong_arguments)
{
	struct ferry_arbiter_file a = { .size = sizeof(a), .dir = dir };
	enum ferry_owner is = FERRY_OWNER_UNKNOWN;
	char why[300] = "", tiny[4] = "xyz";

	cr_assert_eq(ferry_arbiter_file_ask(&a, session, FERRY_OWNER_NONE, &is, why, sizeof(why)), -EINVAL);
	cr_assert(strstr(why, "not none"), "%s", why);
	a.timeout_us = UINT64_MAX;
	cr_assert_eq(ferry_arbiter_file_ask(&a, session, FERRY_OWNER_SOURCE, &is, tiny, sizeof(tiny)),
		     -EINVAL);
	cr_assert_eq(strlen(tiny), 3);
	a = (struct ferry_arbiter_file){ .size = sizeof(a), .dir = "" };
	cr_assert_eq(ferry_arbiter_file_ask(&a, session, FERRY_OWNER_SOURCE, &is, NULL, 0), -EINVAL);
	a.size = 1;
	cr_assert_eq(ferry_arbiter_file_ask(&a, session, FERRY_OWNER_SOURCE, &is, why, sizeof(why)), -EINVAL);
	cr_assert_eq(is, FERRY_OWNER_UNKNOWN);
	cr_assert_eq(entries(false), 0);
}
