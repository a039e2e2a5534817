// SPDX-License-Identifier: MIT
/* Starts, freezes and stops an etcd for a test; a pretender that answers anything. */
#include "etcd_server.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STARTS 5 /* another program may take the port first */
#define READY_S 60u

static int listen_any(unsigned *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert(fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof(a)) && !listen(fd, 16) &&
		  !getsockname(fd, (struct sockaddr *)&a, &len));
	*port = ntohs(a.sin_port);
	return fd;
}

static unsigned free_port(void)
{
	unsigned port;

	close(listen_any(&port));
	return port;
}

void etcd_nobody(char url[64])
{
	snprintf(url, 64, "http://127.0.0.1:%u", free_port());
}

static pid_t spawn(char *const *argv, const char *log)
{
	pid_t pid = fork();
	int fd;

	cr_assert_geq(pid, 0);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	setenv("ETCDCTL_API", "3", 1);
	execvp(argv[0], argv);
	_exit(127);
}

static bool healthy(unsigned port)
{
	static const char get[] = "GET /health HTTP/1.0\r\n\r\n";
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char buf[2000];
	size_t len = 0;
	ssize_t n = -1;

	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)) && write(fd, get, sizeof(get) - 1) > 0)
		while (len < sizeof(buf) - 1 && (n = read(fd, buf + len, sizeof(buf) - 1 - len)) > 0)
			len += (size_t)n;
	close(fd);
	buf[len] = 0;
	return strstr(buf, "\"true\"");
}

/* False: etcd has exited. */
static bool start_once(struct etcd_server *e)
{
	unsigned port = free_port(), peer = free_port();
	char peer_url[64], cluster[80], log[80], data[80];
	struct timespec tick = { .tv_nsec = 10000000 };
	time_t until = time(NULL) + READY_S;
	char *argv[] = { "etcd",   "--data-dir",
			 data,	   "--listen-client-urls",
			 e->url,   "--advertise-client-urls",
			 e->url,   "--listen-peer-urls",
			 peer_url, "--initial-advertise-peer-urls",
			 peer_url, "--initial-cluster",
			 cluster,  "--heartbeat-interval",
			 "20",	   "--election-timeout",
			 "200",	   NULL };

	snprintf(e->url, sizeof(e->url), "http://127.0.0.1:%u", port);
	snprintf(peer_url, sizeof(peer_url), "http://127.0.0.1:%u", peer);
	snprintf(cluster, sizeof(cluster), "default=%s", peer_url);
	snprintf(log, sizeof(log), "%s/log", e->dir);
	snprintf(data, sizeof(data), "%s/data", e->dir);
	e->pid = spawn(argv, log);
	while (!healthy(port)) {
		int status;

		if (waitpid(e->pid, &status, WNOHANG) == e->pid) {
			if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
				cr_skip_test("there is no etcd to run: install etcd-server");
			return false;
		}
		cr_assert(time(NULL) < until, "etcd is not healthy after %u s: see %s", READY_S, log);
		nanosleep(&tick, NULL);
	}
	return true;
}

void etcd_start(struct etcd_server *e)
{
	bool up = false;

	snprintf(e->dir, sizeof(e->dir), "/tmp/ferry-etcd.XXXXXX");
	cr_assert(mkdtemp(e->dir));
	for (unsigned i = 0; i < STARTS && !up; i++)
		up = start_once(e);
	cr_assert(up, "etcd ends by itself: see %s/log", e->dir);
}

void etcd_freeze(const struct etcd_server *e, bool frozen)
{
	siginfo_t stopped;

	cr_assert_eq(kill(e->pid, frozen ? SIGSTOP : SIGCONT), 0);
	if (frozen) /* one of its threads may still be answering */
		cr_assert_eq(waitid(P_PID, (id_t)e->pid, &stopped, WSTOPPED), 0);
}

void etcd_stop(struct etcd_server *e)
{
	char *argv[] = { "rm", "-rf", e->dir, NULL };

	kill(e->pid, SIGKILL);
	waitpid(e->pid, NULL, 0);
	waitpid(spawn(argv, "/dev/null"), NULL, 0);
}

int etcd_ctl(const struct etcd_server *e, const char *const *args)
{
	char endpoint[80], log[80], *argv[20] = { "etcdctl", endpoint };
	int status, n = 2;

	snprintf(endpoint, sizeof(endpoint), "--endpoints=%s", e->url);
	snprintf(log, sizeof(log), "%s/log", e->dir);
	while (*args && n < 19)
		argv[n++] = (char *)(uintptr_t)*args++;
	cr_assert(waitpid(spawn(argv, log), &status, 0) > 0 && WIFEXITED(status));
	return WEXITSTATUS(status);
}

struct pretender {
	int fd;
	char *answer;
};

static void *pretend(void *arg)
{
	struct pretender *p = arg;
	char buf[4000];

	for (;;) {
		int fd = accept(p->fd, NULL, NULL);

		if (read(fd, buf, sizeof(buf)) > 0 && write(fd, p->answer, strlen(p->answer)) < 0)
			break;
		shutdown(fd, SHUT_WR);
		while (read(fd, buf, sizeof(buf)) > 0)
			;
		close(fd);
	}
	return NULL;
}

void etcd_pretend(char url[64], const char *answer)
{
	static struct pretender p; /* static: the thread outlives this call; each test is a process */
	unsigned port;
	pthread_t t;

	p.fd = listen_any(&port);
	p.answer = strdup(answer);
	snprintf(url, 64, "http://127.0.0.1:%u", port);
	cr_assert(!pthread_create(&t, NULL, pretend, &p) && !pthread_detach(t));
}
