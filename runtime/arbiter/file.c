// SPDX-License-Identifier: MIT
/*
 * The arbiter in a shared directory.
 *
 * The record is written to a file with a unique name, synced, and linked to the session's name. link(2) fails
 * if that name exists, on a local file system and on an NFS server alike. A call does:
 *
 *	record exists	-> sync the directory, answer
 *	otherwise	-> temporary file, write, fsync, link, unlink it; read the record, sync, answer
 *
 * An NFS client may get an error, or EEXIST, for a link that it has made, if the first answer was lost and
 * the request repeated. So the result of link() is not trusted; the record is read instead. Every caller
 * syncs the directory before it answers: a record that the server could still lose in a power failure must
 * not be acted on.
 *
 * A hard NFS mount blocks as long as its server is away, and nothing gets a thread out of that. So a thread
 * of its own does the work and is abandoned if it does not answer in time; whichever side finishes last frees
 * the job. When the server is back, the abandoned thread records nothing, unless its link() was already sent.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ferry/arbiter_file.h"
#include "runtime/base/api.h"
#include "runtime/base/cure.h"
#include "runtime/base/fail.h"
#include "runtime/base/clock.h"
#include "runtime/base/grow.h"
#include "runtime/base/thread.h"

#define TIMEOUT_US 3000000u
#define RECORD_LEN (7 + 33) /* "source\n", 32 digits, "\n" */
#define LOOKS 3u	    /* attempts to open a record that exists: the NFS handle may be stale */

struct job {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done, abandoned; /* lock */
	char *dir;
	char session[33];
	enum ferry_owner want, is;
	int err;
	struct fail fail;
};

static const char *word(enum ferry_owner o)
{
	return o == FERRY_OWNER_SOURCE ? "source\n" : "target\n";
}

static void job_free(struct job *j)
{
	pthread_cond_destroy(&j->cond);
	pthread_mutex_destroy(&j->lock);
	free(j->dir);
	free(j);
}

static bool abandoned(struct job *j)
{
	bool is;

	pthread_mutex_lock(&j->lock);
	is = j->abandoned;
	pthread_mutex_unlock(&j->lock);
	return is;
}

static int refuse_for(struct job *j, enum cure doing, const char *what, const char *name)
{
	int err = -errno;

	return fail_cure(&j->fail, doing, err, "the arbiter's directory %s: %s%s%s", j->dir, what,
			 *name ? " " : "", name);
}

static int refuse(struct job *j, const char *what, const char *name)
{
	return refuse_for(j, CURE_FILE, what, name);
}

/* 1: *is is the recorded owner; 0: there is no record; else the error. */
static int read_record(struct job *j, int dir, const char *name, enum ferry_owner *is)
{
	char buf[RECORD_LEN + 1];
	ssize_t n;
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	if (fd < 0)
		return errno == ENOENT || errno == ESTALE ? 0 : refuse(j, "cannot open", name);
	n = read(fd, buf, sizeof(buf));
	if (n < 0) {
		int err = refuse(j, "cannot read", name);

		close(fd);
		return err;
	}
	close(fd);
	for (*is = FERRY_OWNER_SOURCE; *is <= FERRY_OWNER_TARGET; (*is)++)
		if (n == RECORD_LEN && !memcmp(buf, word(*is), 7) && !memcmp(buf + 7, j->session, 32) &&
		    buf[39] == '\n')
			return 1;
	return fail(&j->fail, -EPROTO,
		    "the arbiter's directory %s: %s is no record of an owner; find out who wrote it before it is removed",
		    j->dir, name);
}

static int write_record(struct job *j, int dir, const char *tmp)
{
	char text[RECORD_LEN + 1];
	int fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), err = 0;

	if (fd < 0)
		return refuse(j, "cannot create", tmp);
	snprintf(text, sizeof(text), "%s%s\n", word(j->want), j->session);
	errno = EIO;
	if (write(fd, text, RECORD_LEN) != RECORD_LEN || fsync(fd))
		err = refuse(j, "cannot write", tmp);
	if (close(fd) && !err)
		err = refuse(j, "cannot write", tmp);
	return err;
}

/* Record want unless a record exists. The caller then reads the record. */
static int propose(struct job *j, int dir, const char *name)
{
	char tmp[80];
	uint64_t nonce;
	int err;

	if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce))
		return refuse_for(j, CURE_CALL, "no random name for", name);
	snprintf(tmp, sizeof(tmp), ".%s.%016" PRIx64, j->session, nonce);
	err = write_record(j, dir, tmp);
	if (!err && abandoned(j))
		err = -ETIMEDOUT;
	/* EIO and the like may hide success: the caller reads the record, and fails only if there is none. */
	if (!err && linkat(dir, tmp, dir, name, 0) && errno != EEXIST) {
		err = errno == EPERM || errno == EOPNOTSUPP
			      ? refuse_for(j, CURE_LINK, "has no hard links, which this arbiter needs, for",
					   name)
			      : refuse(j, "cannot link", name);
	}
	unlinkat(dir, tmp, 0);
	return err;
}

static int decide(struct job *j, int dir)
{
	char name[48];
	int got, err;

	snprintf(name, sizeof(name), "%s.owner", j->session);
	got = read_record(j, dir, name, &j->is);
	if (!got) {
		err = propose(j, dir, name);
		for (unsigned i = 0; !got && i < LOOKS; i++)
			got = read_record(j, dir, name, &j->is);
		if (!got)
			return err ? err
				   : fail(&j->fail, -EIO,
					  "the arbiter's directory %s: %s was made and cannot be found",
					  j->dir, name);
	}
	if (got < 0)
		return got;
	return fsync(dir) ? refuse(j, "cannot be synced with", name) : 0;
}

static void *job_main(void *arg)
{
	struct job *j = arg;
	int dir = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool late;

	j->err = dir < 0 ? refuse(j, "cannot be opened", "") : decide(j, dir);
	if (dir >= 0)
		close(dir);
	pthread_mutex_lock(&j->lock);
	j->done = true;
	late = j->abandoned;
	pthread_cond_signal(&j->cond);
	pthread_mutex_unlock(&j->lock);
	if (late)
		job_free(j);
	return NULL;
}

static struct job *job_new(const char *dir, const uint8_t session[16], enum ferry_owner want)
{
	struct job *j = calloc(1, sizeof(*j));
	pthread_condattr_t attr;

	if (!j)
		return NULL;
	j->dir = strdup(dir);
	j->want = want;
	for (unsigned i = 0; i < 16; i++)
		snprintf(j->session + 2 * i, 3, "%02x", session[i]);
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->cond, &attr);
	pthread_condattr_destroy(&attr);
	if (j->dir)
		return j;
	job_free(j);
	return NULL;
}

static int job_start(struct job *j)
{
	pthread_t t;
	int err = thread_start(&t, job_main, j);

	if (!err)
		pthread_detach(t);
	return err;
}

/* True: the job has ended, and the caller owns it again. */
static bool job_wait(struct job *j, uint64_t timeout_us)
{
	struct timespec ts;
	bool done;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += (time_t)(timeout_us / 1000000);
	ts.tv_nsec += (long)(timeout_us % 1000000 * 1000);
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_nsec -= 1000000000;
		ts.tv_sec++;
	}
	pthread_mutex_lock(&j->lock);
	while (!j->done && pthread_cond_timedwait(&j->cond, &j->lock, &ts) != ETIMEDOUT)
		;
	done = j->done;
	j->abandoned = !done;
	pthread_mutex_unlock(&j->lock);
	return done;
}

static int ask(const struct ferry_arbiter_file *a, const uint8_t session[16], enum ferry_owner want,
	       enum ferry_owner *is, struct fail *f)
{
	uint64_t timeout = a->timeout_us ? a->timeout_us : TIMEOUT_US;
	struct job *j;
	int err;

	if (!a->dir || !*a->dir || (want != FERRY_OWNER_SOURCE && want != FERRY_OWNER_TARGET) ||
	    timeout > DURATION_US_MAX)
		return fail(f, -EINVAL,
			    "an arbiter on a directory needs a directory, an owner to record (source or target, "
			    "not %s) and a timeout of at most a day",
			    ferry_owner_name(want));
	j = job_new(a->dir, session, want);
	if (!j)
		return fail(f, -ENOMEM, "no memory to ask the arbiter in %s", a->dir);
	err = job_start(j);
	if (err) {
		fail_cure(f, CURE_THREAD, err, "no thread to ask the arbiter in %s", a->dir);
	} else if (!job_wait(j, timeout)) {
		return fail(f, -ETIMEDOUT,
			    "the arbiter's directory %s has not answered for %" PRIu64
			    " ms: is its file server there?",
			    a->dir, timeout / 1000);
	} else if (!(err = j->err)) {
		*is = j->is;
	} else {
		fail(f, err, "%s", fail_text(&j->fail));
	}
	job_free(j);
	return err;
}

FERRY_API int ferry_arbiter_file_ask(const struct ferry_arbiter_file *a, const uint8_t session[16],
				     enum ferry_owner want, enum ferry_owner *is, char *why, size_t cap)
{
	struct ferry_arbiter_file own;
	struct fail f = { 0 };
	int err = struct_grow(&own, sizeof(own), a, "arbiter_file", &f);

	if (!err)
		err = ask(&own, session, want, is, &f);
	if (err && cap)
		snprintf(why, cap, "%s", fail_text(&f));
	return err;
}
