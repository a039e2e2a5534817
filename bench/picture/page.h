/* SPDX-License-Identifier: MIT */
/* One HTML file with pictures, figures and results in it: nothing is fetched when it is read. */
#ifndef BENCH_PAGE_H
#define BENCH_PAGE_H

#include "picture.h"

/* A picture in memory: draws one run (t) or the comparison (g). To be freed. */
int page_picture(enum picture_format f, unsigned id, const struct timeline *t, const struct groups *g,
		 char **ret, size_t *len);
/* 0, or a negative errno after a sentence on stderr. */
int page_write(FILE *out, const struct timelines *all, const struct groups *g);

#endif
