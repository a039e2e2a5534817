/* SPDX-License-Identifier: MIT */
/* Structs of the public headers, which begin with their size and grow at their end. */
#ifndef FERRY_GROW_H
#define FERRY_GROW_H

#include <stddef.h>

struct fail;

/*
 * Copies a caller's struct that begins with its size into ours: fields that it does not have become zero; a
 * larger one is taken when everything beyond ours is zero. -EINVAL with a sentence naming what.
 */
int struct_grow(void *ret, size_t ours, const void *theirs, const char *what, struct fail *f);

#endif
