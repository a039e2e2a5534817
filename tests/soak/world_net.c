// SPDX-License-Identifier: MIT
/* The two network namespaces of a round, and the wire between them. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worlds.h"

#define ANSWERS_MS 30000

/* Runs a command of iproute2; its complaint is in .why. */
static bool ip(struct net *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool ip(struct net *n, const char *fmt, ...)
{
	char command[300], line[sizeof(n->why)] = "";
	va_list ap;
	int len = snprintf(command, sizeof(command), "ip ");
	FILE *p;

	va_start(ap, fmt);
	vsnprintf(command + len, sizeof(command) - (size_t)len - 8, fmt, ap);
	va_end(ap);
	strcat(command, " 2>&1");
	p = popen(command, "re");
	if (!p)
		return false;
	if (!fgets(line, sizeof(line), p))
		line[0] = 0;
	line[strcspn(line, "\n")] = 0;
	if (!pclose(p))
		return true;
	snprintf(n->why, sizeof(n->why), "%.150s", line[0] ? line : "ip (iproute2) does not work here");
	return false;
}

static bool hear(struct net *n, char *line, size_t cap)
{
	struct pollfd p = { .fd = n->out, .events = POLLIN };
	size_t used = 0;

	while (used + 1 < cap && poll(&p, 1, ANSWERS_MS) > 0 && read(n->out, line + used, 1) == 1) {
		if (line[used] == '\n') {
			line[used] = 0;
			return true;
		}
		used++;
	}
	snprintf(n->why, sizeof(n->why), "the wire does not answer");
	return false;
}

static bool ask(struct net *n, char *answer, size_t cap, const char *command)
{
	if (dprintf(n->in, "%s\n", command) < 0 || !hear(n, answer, cap)) {
		snprintf(n->why, sizeof(n->why), "the wire is gone");
		return false;
	}
	if (!strncmp(answer, "error", 5)) {
		snprintf(n->why, sizeof(n->why), "wire %s: %.100s", command, answer);
		return false;
	}
	return true;
}

bool net_wire(struct net *n, const char *fmt, ...)
{
	char command[100], answer[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	return ask(n, answer, sizeof(answer), command);
}

static bool start_wire(struct net *n, const char *wire)
{
	int in[2], out[2];
	char line[200];

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		return false;
	n->pid = fork();
	if (!n->pid) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(out[1], STDERR_FILENO);
		execl(wire, wire, n->name[SRC], n->name[TGT], NULL);
		dprintf(STDOUT_FILENO, "%s: %s\n", wire, strerror(errno));
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	n->in = in[1];
	n->out = out[0];
	if (!hear(n, line, sizeof(line)))
		return false;
	if (strcmp(line, "up"))
		snprintf(n->why, sizeof(n->why), "%.150s", line);
	return !strcmp(line, "up");
}

static bool set_up_end(struct net *n, int end, const char *address)
{
	char path[80];

	snprintf(path, sizeof(path), "/var/run/netns/%s", n->name[end]);
	n->ns[end] = open(path, O_RDONLY | O_CLOEXEC);
	return n->ns[end] >= 0 && ip(n, "-n %s link set lo up", n->name[end]) &&
	       ip(n, "-n %s link set wire0 up txqueuelen 2000", n->name[end]) &&
	       ip(n, "-n %s addr add %s/24 dev wire0", n->name[end], address);
}

bool net_up(struct net *n, const char *wire)
{
	*n = (struct net){ .ns = { -1, -1 }, .in = -1, .out = -1 };
	for (int i = 0; i < 2; i++)
		snprintf(n->name[i], sizeof(n->name[i]), "ferry-soak-%d-%c", getpid(), "ab"[i]);
	return ip(n, "netns add %s", n->name[SRC]) && ip(n, "netns add %s", n->name[TGT]) &&
	       start_wire(n, wire) && set_up_end(n, SRC, ADDRESS_A) && set_up_end(n, TGT, ADDRESS_B);
}

bool net_set(struct net *n, const struct network *k, uint64_t seed)
{
	bool ok = net_wire(n, "clear") && net_wire(n, "seed %u", (unsigned)(seed & 0xffff)) &&
		  net_wire(n, "delay %u", k->delay_ms) &&
		  net_wire(n, "late %u %u", k->late_percent, k->jitter_ms) &&
		  net_wire(n, "loss %u.%u", k->loss_permille / 10, k->loss_permille % 10) &&
		  net_wire(n, "rate %u 500", k->rate_kb);

	for (unsigned i = 0; i < k->dead && ok; i++)
		ok = net_wire(n, "dead 10.98.0.%u", 10 + i);
	for (int i = 0; i < 2 && ok; i++)
		ok = ip(n, "-n %s link set wire0 mtu %u", n->name[i], k->mtu);
	return ok;
}

bool net_count(struct net *n, uint64_t *carried, uint64_t *vanished)
{
	char line[200];
	uint64_t a, b, c, d;

	if (!ask(n, line, sizeof(line), "count") ||
	    sscanf(line, "ab %" SCNu64 " %*u %" SCNu64 " ba %" SCNu64 " %*u %" SCNu64, &a, &b, &c, &d) != 4)
		return false;
	*carried = a + c;
	*vanished = b + d;
	return true;
}

void net_down(struct net *n)
{
	for (int i = 0; i < 2; i++)
		if (n->ns[i] >= 0)
			close(n->ns[i]);
	if (n->in >= 0)
		close(n->in); /* the end of its input */
	if (n->out >= 0)
		close(n->out);
	if (n->pid > 0)
		waitpid(n->pid, NULL, 0);
	for (int i = 0; i < 2; i++)
		ip(n, "netns del %s", n->name[i]);
}
