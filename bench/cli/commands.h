/* SPDX-License-Identifier: MIT */
/* The commands that have their own file; each returns the program's exit code. */
#ifndef BENCH_COMMANDS_H
#define BENCH_COMMANDS_H

#include "options.h"
#include "out.h"

int cmd_plot(const struct options *o);
int cmd_sweep(const struct options *o, const struct outputs *to);
/* plot.c. Whether the name has a known extension and can be written; if not, a sentence on stderr. */
bool plot_check_out(const char *name);
/* Draws the recordings in files into the picture or page name. */
int plot_files(char *const *files, unsigned n, const char *name);
int cmd_doctor(const struct options *o, const struct outputs *to);

#endif
