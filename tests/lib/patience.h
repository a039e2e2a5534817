/* SPDX-License-Identifier: MIT */
/*
 * Ends that are to give up soon must not do so because a busy machine lets them wait: their timeouts are so many times as
 * long. By what waits for each CPU, or as FERRY_TEST_PATIENCE says where a thread may stand still whatever the load, as
 * in an emulated machine.
 */
#ifndef TESTS_PATIENCE_H
#define TESTS_PATIENCE_H

#include <stdlib.h>
#include <unistd.h>

#define PATIENCE_MAX 5u

/* The same for all of a test. */
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
