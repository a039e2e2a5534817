// SPDX-License-Identifier: MIT
/* Starts QEMU, and keeps it. */
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qmp.h"

#define LOOK_MS 10

/* ---- the keeper's process ---- */

static void clean_up(struct launch *l, enum launch_end at_end)
{
	for (size_t i = 0; i < l->ndisk && at_end == LAUNCH_KILL; i++)
		disk_drop(&l->disk[i]);
	for (size_t i = 0; i < l->command.nfile; i++)
		unlink(l->command.file[i]);
	unlink(l->socket);
	unlink(l->log);
	rmdir(l->dir);
}

/* Until QEMU has ended, whose status it returns. fd: the launcher, whose last message *at_end is. */
static int watch(int fd, pid_t pid, int pidfd, enum launch_end *at_end)
{
	struct pollfd p[2] = { { .fd = pidfd, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
	enum launch_end told;
	int status = 0;

	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents) {
			waitpid(pid, &status, 0);
			return status;
		}
		if (!p[1].revents)
			continue;
		if (recv(fd, &told, sizeof(told), 0) == sizeof(told)) {
			*at_end = told;
			continue;
		}
		p[1].fd = -1;
		if (*at_end != LAUNCH_KEEP)
			kill(pid, *at_end == LAUNCH_STOP ? SIGSTOP : SIGKILL);
	}
}

static void run_qemu(const struct launch *l)
{
	int in = open("/dev/null", O_RDONLY);
	int out = open(l->log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);

	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	close(in);
	close(out);
	execvp(l->command.args[0], l->command.args);
	fprintf(stderr, "%s cannot be executed: %s\n", l->command.args[0], strerror(errno));
	_exit(127);
}

_Noreturn static void keeper(struct launch *l, int fd)
{
	enum launch_end at_end = LAUNCH_KILL, told;
	pid_t pid;
	int pidfd, status, null;

	prctl(PR_SET_NAME, "ferry-keeper");
	setsid(); /* a Ctrl-C at the terminal is not for QEMU */
	pid = fork();
	if (!pid)
		run_qemu(l);
	pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	/* Whoever reads what this program prints must see its end; QEMU has what was left open for it. */
	null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	fd = fcntl(fd, F_DUPFD, 5);
	pidfd = fcntl(pidfd, F_DUPFD, 5);
	dup2(fd, 3);
	dup2(pidfd, 4);
	close_range(5, ~0u, 0);
	status = pidfd < 0 ? 126 << 8 : watch(3, pid, 4, &at_end);
	send(3, &status, sizeof(status), MSG_NOSIGNAL | MSG_DONTWAIT);
	/* The launcher reads the log before it closes. */
	while (recv(3, &told, sizeof(told), 0) == sizeof(told))
		at_end = told;
	clean_up(l, at_end);
	_exit(0);
}

/* ---- the launcher's process ---- */

/* The last line of QEMU's log, which is its reason. */
static void last_line(const struct launch *l, char *buf, size_t cap)
{
	FILE *in = fopen(l->log, "re");
	char line[300];

	buf[0] = 0;
	while (in && fgets(line, sizeof(line), in)) {
		line[strcspn(line, "\r\n")] = 0;
		if (line[0])
			snprintf(buf, cap, "%s", line);
	}
	if (in)
		fclose(in);
	for (char *p = buf; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
}

bool launch_ended(struct launch *l, uint64_t timeout_us, char *why, size_t cap)
{
	struct pollfd p = { .fd = l->keeper, .events = POLLIN };
	char how[40], line[300];
	int status;

	if (l->keeper < 0 || poll(&p, 1, (int)(timeout_us / 1000)) != 1)
		return false;
	if (recv(l->keeper, &status, sizeof(status), MSG_DONTWAIT) != sizeof(status)) {
		snprintf(why, cap, "the process that starts QEMU has died");
		return true;
	}
	last_line(l, line, sizeof(line));
	if (WIFSIGNALED(status))
		snprintf(how, sizeof(how), "by signal %d", WTERMSIG(status));
	else
		snprintf(how, sizeof(how), "with status %d", WEXITSTATUS(status));
	snprintf(why, cap, "%.80s has ended %s%s%s", l->command.args[0], how, line[0] ? ": " : "", line);
	return true;
}

void launch_tell(struct launch *l, enum launch_end at_end)
{
	if (l->keeper >= 0)
		send(l->keeper, &at_end, sizeof(at_end), MSG_NOSIGNAL);
}

void launch_close(struct launch *l)
{
	if (l->keeper >= 0)
		close(l->keeper);
	l->keeper = -1;
	command_free(&l->command);
}

static int spawn(struct launch *l, char *why, size_t cap)
{
	int pair[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		snprintf(why, cap, "no socket for QEMU's keeper: %s", strerror(errno));
		return -errno;
	}
	fflush(NULL);
	pid = fork();
	if (!pid) {
		/* Its parent need not wait for it: it outlives this program, or is done soon. */
		if (fork())
			_exit(0);
		close(pair[0]);
		keeper(l, pair[1]);
	}
	close(pair[1]);
	if (pid < 0) {
		snprintf(why, cap, "no process for QEMU's keeper: %s", strerror(errno));
		close(pair[0]);
		return -errno;
	}
	waitpid(pid, NULL, 0);
	l->keeper = pair[0];
	return 0;
}

static int await_monitor(struct launch *l, uint64_t timeout_us, char *why, size_t cap)
{
	uint64_t until_us = clock_us() + timeout_us;

	while (access(l->socket, F_OK)) {
		if (launch_ended(l, LOOK_MS * 1000, why, cap))
			return -ECHILD;
		if (clock_us() >= until_us) {
			snprintf(why, cap, "QEMU has made no monitor at %s in %llu s", l->socket,
				 (unsigned long long)timeout_us / 1000000);
			return -ETIMEDOUT;
		}
	}
	return 0;
}

int launch_qemu(struct launch *l, char *const *args, uint64_t timeout_us, char *why, size_t cap)
{
	int err;

	l->keeper = -1;
	snprintf(l->dir, sizeof(l->dir), "/dev/shm/ferry-qemu.XXXXXX");
	if (!mkdtemp(l->dir)) {
		snprintf(why, cap, "no directory can be made in /dev/shm for QEMU's RAM: %s",
			 strerror(errno));
		return -errno;
	}
	snprintf(l->socket, sizeof(l->socket), "%s/qmp", l->dir);
	snprintf(l->log, sizeof(l->log), "%s/log", l->dir);
	err = command_make(&l->command, args, l->dir, l->socket, why, cap);
	if (!err)
		err = spawn(l, why, cap);
	if (err)
		rmdir(l->dir);
	else
		err = await_monitor(l, timeout_us, why, cap);
	if (err)
		launch_close(l);
	return err;
}
