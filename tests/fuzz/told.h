/* SPDX-License-Identifier: MIT */
/* Captures the programs' stderr during an execution: it must have no control characters for a terminal. */
#ifndef TESTS_FUZZ_TOLD_H
#define TESTS_FUZZ_TOLD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"

struct told {
	FILE *before;
	char *text;
	size_t len;
};

static inline void told_check(const char *text)
{
	for (const unsigned char *c = (const unsigned char *)text; *c; c++)
		promise((*c >= 0x20 || *c == '\n' || *c == '\t') && *c != 0x7f &&
				!(*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0),
			"byte %#x in: %s", *c, text);
}

static inline void told_begin(struct told *t)
{
	*t = (struct told){ .before = stderr };
	stderr = open_memstream(&t->text, &t->len);
	if (!stderr)
		stderr = t->before;
	promise(stderr != t->before, "no memory for what is said");
}

/* Ends the capture and checks it; true if anything was printed. */
static inline bool told_end(struct told *t)
{
	bool any;

	fclose(stderr);
	stderr = t->before;
	any = t->len;
	told_check(t->text);
	free(t->text);
	return any;
}

#endif
