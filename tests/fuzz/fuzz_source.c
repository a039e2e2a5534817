// SPDX-License-Identifier: MIT
/* A whole source session against a hostile target; hostile.h describes the input. */
#include "hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	play_hostile_target(data, size, NULL);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return hostile_mutate(data, size, max, seed);
}
