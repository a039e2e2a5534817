/* SPDX-License-Identifier: MIT */
/* Whole reads and writes, quantiles, and sizes, durations and numbers as text. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

int read_full(int fd, void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EPIPE;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int write_full(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

void sort_double(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare_double);
}

double quantile(const double *v, size_t n, double p)
{
	size_t i = (size_t)(p * (double)n);

	if (!n)
		return 0;
	return v[i < n ? i : n - 1];
}

const char *grouped(char buf[32], uint64_t v)
{
	char digits[24];
	size_t len = (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v), o = 0;

	for (size_t i = 0; i < len; i++) {
		if (i && (len - i) % 3 == 0)
			buf[o++] = ',';
		buf[o++] = digits[i];
	}
	buf[o] = 0;
	return buf;
}

struct unit {
	const char *suffix;
	uint64_t factor;
};

static int parse_unit(const char *text, const struct unit *units, size_t n, uint64_t *ret)
{
	unsigned long long v;
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (strcasecmp(end, units[i].suffix))
			continue;
		if (v > UINT64_MAX / units[i].factor)
			return -EINVAL;
		*ret = v * units[i].factor;
		return 0;
	}
	return -EINVAL;
}

int parse_size(const char *text, uint64_t *ret)
{
	static const struct unit units[] = {
		{ "", 1 }, { "k", 1 << 10 }, { "M", 1 << 20 }, { "G", 1 << 30 }, { "T", 1ull << 40 },
	};

	return parse_unit(text, units, sizeof(units) / sizeof(*units), ret);
}

int parse_duration(const char *text, uint64_t *ret)
{
	static const struct unit units[] = { { "us", 1 }, { "ms", 1000 }, { "s", 1000000 } };

	if (!strcmp(text, "0")) {
		*ret = 0;
		return 0;
	}
	return parse_unit(text, units, sizeof(units) / sizeof(*units), ret);
}

int parse_count(const char *text, uint64_t *ret)
{
	static const struct unit units[] = { { "", 1 } };

	return parse_unit(text, units, 1, ret);
}

pid_t fork_child(void)
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent) /* it died before prctl() */
		_exit(1);
	return 0;
}
