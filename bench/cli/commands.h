/* SPDX-License-Identifier: MIT */
/* The commands with a file of their own; each returns the program's exit code. */
#ifndef BENCH_COMMANDS_H
#define BENCH_COMMANDS_H

#include "options.h"
#include "out.h"

int cmd_plot(const struct options *o);
int cmd_sweep(const struct options *o, const struct outputs *to);
/* plot.c: whether the name ends as it must and can be written, with a sentence on stderr; draws files into it. */
bool plot_check_out(const char *name);
int plot_files(char *const *files, unsigned n, const char *name);
int cmd_doctor(const struct outputs *to);

#endif
