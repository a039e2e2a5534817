/* SPDX-License-Identifier: MIT */
/* The table of options, for the parser (options.c) and the help (help.c). */
#ifndef BENCH_OPTIONS_INT_H
#define BENCH_OPTIONS_INT_H

#include <stddef.h>

#include "options.h"

enum value { V_TEXT, V_SIZE, V_DURATION, V_COUNT, V_CHOICE, V_KILL, V_FLAG, V_LIST, V_MANY };

#define RUN (1u << CMD_RUN)
#define SOURCE (1u << CMD_SOURCE)
#define TARGET (1u << CMD_TARGET)
#define FLOOR (1u << CMD_FLOOR)
#define SWEEP (1u << CMD_SWEEP)
#define PLOT (1u << CMD_PLOT)
#define DOCTOR (1u << CMD_DOCTOR)
/* Not commands: the option is about the bench's own guest, or about a QEMU. */
#define OWN (1u << 30)
#define QEMU (1u << 31)
#define GUEST (RUN | SOURCE | SWEEP)
#define ONE_GUEST (RUN | SOURCE) /* for sweep the option is a list */
#define ENDS (RUN | SOURCE | TARGET)

struct option_row {
	const char *name;
	enum value value;
	unsigned commands;
	size_t at;
	const char *takes; /* continues "--name takes ..." */
	const char *help;
	uint64_t min, max;
	const char *word;	    /* help: what stands for the value of V_TEXT, V_MANY; NULL: URI */
	const char *const *choices; /* V_CHOICE: NULL-terminated, in the enum's order */
};

#define AT(field) offsetof(struct options, field)

extern const struct option_row option_rows[];
extern const size_t option_nrows;

/* options_vmm.c: what does not go with --vmm. 0, or -EINVAL after a sentence on stderr. */
int check_vmm(const struct options *o);

#endif
