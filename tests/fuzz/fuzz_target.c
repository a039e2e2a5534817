// SPDX-License-Identifier: MIT
/* A whole target session against a hostile source; hostile.h describes the input. */
#include "hostile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	play_hostile_source(data, size, NULL);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
	return hostile_mutate(data, size, max, seed);
}
