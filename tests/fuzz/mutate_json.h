/* SPDX-License-Identifier: MIT */
/* Mutations of JSON that leave it valid JSON. */
#ifndef TESTS_FUZZ_MUTATE_JSON_H
#define TESTS_FUZZ_MUTATE_JSON_H

#include <stddef.h>
#include <stdint.h>

/*
 * Bytes from head on are lines of JSON. One value of one line is replaced, removed or repeated. A line that
 * is no JSON, and one time in four any line, is mutated byte by byte. Returns the new size, at most max.
 */
size_t mutate_json(uint8_t *data, size_t size, size_t max, size_t head, unsigned seed);

#endif
