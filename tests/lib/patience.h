/* SPDX-License-Identifier: MIT */
/*
 * A factor for the timeouts of ends that must give up soon: on a busy machine they must not give up only
 * because they had to wait for a CPU. The factor is the load per CPU, or FERRY_TEST_PATIENCE if that is
 * larger; it is set where threads stall whatever the load, as in an emulated machine.
 */
#ifndef TESTS_PATIENCE_H
#define TESTS_PATIENCE_H

#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_MAX 5u

/* Does not change during a test. */
static inline unsigned patience(void)
{
	static unsigned factor; /* each test is a process of its own */
	const char *least = getenv("FERRY_TEST_PATIENCE");
	double load = 0;

	if (factor)
		return factor;
	factor = least && atoi(least) > 1 ? (unsigned)atoi(least) : 1;
	if (getloadavg(&load, 1) == 1 && load / (double)sysconf(_SC_NPROCESSORS_ONLN) > factor)
		factor = (unsigned)(load / (double)sysconf(_SC_NPROCESSORS_ONLN)) + 1;
	if (factor > PATIENCE_MAX)
		factor = PATIENCE_MAX;
	return factor;
}

#endif
