/* SPDX-License-Identifier: MIT */
/* One self-contained HTML file with pictures, figures and results. */
#ifndef BENCH_PAGE_H
#define BENCH_PAGE_H

#include "picture.h"

/* Draws one run (t) or the comparison (g) as a picture in memory; free it. */
int page_picture(enum picture_format f, unsigned id, const struct timeline *t, const struct groups *g,
		 char **ret, size_t *len);
/* Writes the page: 0, or a negative errno after a sentence on stderr. */
int page_write(FILE *out, const struct timelines *all, const struct groups *g);

#endif
