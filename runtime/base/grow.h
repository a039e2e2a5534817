/* SPDX-License-Identifier: MIT */
/* Structs of the public headers: they begin with their size and can grow at their end. */
#ifndef FERRY_GROW_H
#define FERRY_GROW_H

#include <stddef.h>

struct fail;

/*
 * Copies a caller's struct into ours. Fields beyond the caller's size become zero. If the caller's struct is
 * larger, all bytes beyond ours must be zero. Otherwise -EINVAL; the sentence names the struct by what.
 */
int struct_grow(void *ret, size_t ours, const void *theirs, const char *what, struct fail *f);

#endif
