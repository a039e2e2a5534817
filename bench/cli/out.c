/* SPDX-License-Identifier: MIT */
/* Checked output: a full disk is an error, not a truncated report. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "out.h"

struct out {
	FILE *file; /* a custom stream, because stdio loses the errno of a write */
	const char *what;
	char *name; /* NULL: standard output */
	char *temp; /* OUT_RENAME: the file being written; NULL: .name is written itself */
	int fd, err;
	bool regular, created;
	off_t begin;	      /* size of the file when it was opened */
	off_t written, whole; /* bytes since then, and up to the last out_whole() */
};

/* A cookie's write function: returns the bytes written; 0 means an error. */
static ssize_t write_out(void *cookie, const char *buf, size_t len)
{
	struct out *o = cookie;
	size_t done = 0;

	while (done < len && !o->err) {
		ssize_t n = write(o->fd, buf + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			o->err = -errno;
			break;
		}
		done += (size_t)n;
		o->written += n;
	}
	return done == len ? (ssize_t)len : 0;
}

static struct out *out_new(int fd, const char *what, const char *name)
{
	struct out *o = calloc(1, sizeof(*o));
	struct stat st;

	if (!o)
		return NULL;
	*o = (struct out){ .fd = fd, .what = what, .name = name ? strdup(name) : NULL };
	o->file = fopencookie(o, "w", (cookie_io_functions_t){ .write = write_out });
	if (!o->file || (name && !o->name)) {
		if (o->file)
			fclose(o->file);
		free(o->name);
		free(o);
		return NULL;
	}
	o->regular = name && !fstat(fd, &st) && S_ISREG(st.st_mode);
	o->begin = o->regular ? st.st_size : 0;
	return o;
}

static void out_free(struct out *o)
{
	free(o->name);
	free(o->temp);
	free(o);
}

void out_begin(void)
{
	for (int fd = 0; fd < 3; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) /* open() returns the lowest free descriptor */
			(void)!open("/dev/null", fd ? O_RDONLY : O_WRONLY);
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
}

struct out *out_stdout(void)
{
	return out_new(STDOUT_FILENO, "standard output", NULL);
}

static int cannot_open(const char *what, const char *name, int err)
{
	fprintf(stderr, "rdma-migrate: %s %s: %s; name a file that can be written.\n", what, name,
		strerror(-err));
	return err;
}

/*
 * Creates a temporary file beside the file that the name leads to. 0 with *fd set; 1: write in place (a device, or
 * no right to create files there).
 */
static int open_temp(const char *name, char **ret, int *fd)
{
	char *real = realpath(name, NULL), *temp;
	mode_t mask = umask(0);
	struct stat st;

	umask(mask);
	if (!real && errno != ENOENT)
		return -errno;
	if (stat(real ? real : name, &st))
		st.st_mode = S_IFREG | (0666 & ~mask);
	else if (!S_ISREG(st.st_mode) || access(real, W_OK)) {
		free(real);
		return 1;
	}
	if (asprintf(&temp, "%s.XXXXXX", real ? real : name) < 0)
		temp = NULL;
	*fd = temp ? mkostemp(temp, O_CLOEXEC) : -1;
	if (*fd >= 0)
		(void)!fchmod(*fd, st.st_mode & 0777);
	free(real);
	if (*fd < 0) {
		free(temp);
		return temp ? 1 : -ENOMEM;
	}
	*ret = temp;
	return 0;
}

/* keep: do not truncate the file, whatever how says. */
static struct out *open_it(const char *what, const char *name, enum out_how how, bool keep)
{
	bool there = !access(name, F_OK);
	char *temp = NULL;
	int fd = -1, ret = how == OUT_RENAME ? open_temp(name, &temp, &fd) : 1;
	struct out *o = NULL;

	if (ret == 1) {
		fd = open(name,
			  O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY |
				  (keep || how == OUT_APPEND ? O_APPEND : O_TRUNC),
			  0666);
		ret = fd < 0 ? -errno : 0;
	}
	if (!ret) {
		o = out_new(fd, what, name);
		ret = o ? 0 : -ENOMEM;
	}
	if (ret) {
		if (fd >= 0)
			close(fd);
		if (temp)
			unlink(temp);
		free(temp);
		cannot_open(what, name, ret);
		return NULL;
	}
	o->temp = temp;
	o->created = !there;
	return o;
}

struct out *out_open(const char *what, const char *name, enum out_how how)
{
	return open_it(what, name, how, false);
}

bool out_possible(const char *what, const char *name, enum out_how how)
{
	struct out *o = open_it(what, name, how, true);

	if (!o)
		return false;
	fclose(o->file);
	close(o->fd);
	if (o->temp || o->created)
		unlink(o->temp ? o->temp : name);
	out_free(o);
	return true;
}

FILE *out_file(struct out *o)
{
	return o->file;
}

int out_whole(struct out *o)
{
	if (fflush(o->file) && !o->err)
		o->err = -EIO;
	if (!o->err)
		o->whole = o->written;
	return o->err;
}

bool out_unread(const struct out *o)
{
	return o->err == -EPIPE && !o->name;
}

void out_fail(struct out *o, int err)
{
	fflush(o->file);
	if (!o->err)
		o->err = err;
}

bool outputs_whole(const struct outputs *to)
{
	struct out *all[] = { to->table, to->json, to->recording };
	bool whole = true;

	for (unsigned i = 0; i < sizeof(all) / sizeof(*all); i++)
		whole &= !all[i] || !out_whole(all[i]);
	return whole;
}

static const char *cure(int err)
{
	switch (-err) {
	case ENOSPC:
	case EDQUOT:
		return "free space, or name another place";
	case EFBIG:
		return "raise the limit (ulimit -f), or name another place";
	case EBADF:
		return "it is closed or not open for writing";
	case ENOMEM:
		return "free memory";
	default:
		return "name another place";
	}
}

/* Cuts the file back to whole objects or runs. *left: the bytes that stay in the file. */
static void cut_back(struct out *o, off_t *left)
{
	struct stat st;

	*left = o->written;
	if (!o->regular)
		return;
	if (o->temp) {
		unlink(o->temp);
		*left = 0;
		return;
	}
	if (fstat(o->fd, &st) ||
	    st.st_size != o->begin + o->written) /* another process has written to it, too */
		return;
	*left = o->whole;
	if (o->created && !o->whole && !unlink(o->name))
		return;
	if (ftruncate(o->fd, o->begin + o->whole))
		*left = o->written;
}

static void complain(const struct out *o, off_t left)
{
	const char *gap = o->name ? " " : "", *name = o->name ? o->name : "";
	char stays[96] = "";

	if (left == o->written && left)
		snprintf(stays, sizeof(stays), ", the first %lld bytes were", (long long)left);
	else if (left)
		snprintf(stays, sizeof(stays), ", the file keeps its %lld complete bytes", (long long)left);
	else if (o->regular && o->temp)
		snprintf(stays, sizeof(stays), ", the file is as it was");
	else if (o->regular)
		snprintf(stays, sizeof(stays), ", and nothing of it is left");
	fprintf(stderr, "rdma-migrate: %s%s%s was not written: %s%s; %s.\n", o->what, gap, name,
		strerror(-o->err), stays, cure(o->err));
}

/* The temporary name is the final name plus a dot and six letters. */
static int put_in_place(const struct out *o)
{
	char *to = strndup(o->temp, strlen(o->temp) - 7);
	int err = to ? 0 : -ENOMEM;

	if (to && rename(o->temp, to))
		err = -errno;
	free(to);
	if (err)
		unlink(o->temp);
	return err;
}

int out_close(struct out *o)
{
	off_t left = 0;
	int err;

	if (!o)
		return 0;
	if (fclose(o->file) && !o->err)
		o->err = -EIO;
	if (o->err)
		cut_back(o, &left);
	if (close(o->fd) && !o->err) { /* a file server may report a full disk only here */
		o->err = -errno;
		left = o->temp ? 0 : o->written;
		if (o->temp)
			unlink(o->temp);
	}
	if (!o->err && o->temp)
		o->err = put_in_place(o);
	if (out_unread(o))
		o->err = 0;
	err = o->err;
	if (err)
		complain(o, left);
	out_free(o);
	return err;
}

int out_close_stdout(int code, int failed)
{
	bool lost = ferror(stdout);

	errno = EIO;
	if (!fclose(stdout) && !lost)
		return code;
	fprintf(stderr, "%s: standard output was not written: %s.\n", program_invocation_short_name,
		strerror(errno));
	return code ? code : failed;
}
