/* SPDX-License-Identifier: MIT */
/*
 * Runs gnuplot as a filter: the script from a file in memory, the picture from its standard output. It uses
 * no shell and no file names.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "picture.h"
#include "bench/cli/util.h"

#define PIECE 65536u
#define NO_GNUPLOT 127
#define CPU_SECONDS 600 /* limit per picture, hundreds of times what the largest takes */

void gnuplot_terminal(FILE *script, enum picture_format f, unsigned width, unsigned height, unsigned id)
{
	if (f == PICTURE_PNG)
		fprintf(script,
			"set terminal pngcairo noenhanced size %u,%u font 'DejaVu Sans,10' background '#ffffff'\n",
			width, height);
	else
		fprintf(script,
			"set terminal svg noenhanced size %u,%u font 'DejaVu Sans,Arial,sans-serif,12' name 'p%u' "
			"background '#ffffff'\n",
			width, height, id);
}

void picture_quote(FILE *script, const char *text)
{
	fputc('"', script);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\' || *text == '`')
			fputc('\'', script);
		else
			fputc((unsigned char)*text < 0x20 ? ' ' : *text, script);
	}
	fputc('"', script);
}

static pid_t start(int script, int out[2])
{
	pid_t pid = fork_child();

	if (pid)
		return pid;
	setrlimit(RLIMIT_CPU,
		  &(struct rlimit){ CPU_SECONDS, CPU_SECONDS }); /* ends a script that never ends */
	if (dup2(script, STDIN_FILENO) >= 0 && dup2(out[1], STDOUT_FILENO) >= 0)
		execlp("gnuplot", "gnuplot", "-", (char *)NULL);
	_exit(NO_GNUPLOT);
}

static int read_all(int fd, char **ret, size_t *len)
{
	char *buf = NULL;
	size_t have = 0;

	for (;;) {
		char *more = realloc(buf, have + PIECE);
		ssize_t n;

		if (!more) {
			free(buf);
			return -ENOMEM;
		}
		buf = more;
		n = read(fd, buf + have, PIECE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			*ret = buf;
			*len = have;
			return n < 0 ? -errno : 0;
		}
		have += (size_t)n;
	}
}

static int script_file(const char *script, size_t len)
{
	int fd = memfd_create("gnuplot", MFD_CLOEXEC), err;

	if (fd < 0)
		return -errno;
	err = write_full(fd, script, len);
	if (!err && lseek(fd, 0, SEEK_SET))
		err = -errno;
	if (err)
		close(fd);
	return err ? err : fd;
}

static int verdict(int status, size_t len)
{
	if (WIFEXITED(status) && WEXITSTATUS(status) == NO_GNUPLOT) {
		fprintf(stderr, "rdma-migrate: gnuplot draws the pictures, and it is not installed: "
				"apt-get install gnuplot-nox.\n");
		return -ENOENT;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) || !len) {
		fprintf(stderr, "rdma-migrate: gnuplot failed (%s %d).\n",
			WIFEXITED(status) ? "exit code" : "signal",
			WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
		return -EIO;
	}
	return 0;
}

int gnuplot_run(const char *script, size_t script_len, char **ret, size_t *len)
{
	int in = script_file(script, script_len), out[2], err, status = 0;
	pid_t pid;

	if (in < 0)
		return in;
	if (pipe2(out, O_CLOEXEC)) {
		err = -errno;
		close(in);
		return err;
	}
	pid = start(in, out);
	err = pid < 0 ? -errno : 0;
	close(out[1]);
	close(in);
	*ret = NULL;
	*len = 0;
	if (!err)
		err = read_all(out[0], ret, len);
	close(out[0]);
	if (pid > 0)
		waitpid(pid, &status, 0);
	if (!err)
		err = verdict(status, *len);
	if (err) {
		free(*ret);
		*ret = NULL;
	}
	return err;
}
