/* SPDX-License-Identifier: MIT */
/*
 * The program's outputs: standard output, and the files that options name. The errno of the first failed
 * write is kept, and closing prints it in one sentence on stderr, so that an incomplete output is never taken
 * for a complete one.
 *
 * If a file cannot be written to its end, it is cut back to the last out_whole(), or removed if it has no
 * complete part. A picture is written to a temporary file and renamed at the end, so a reader always finds a
 * complete one. If no file can be created beside it, it is written in place; the old picture is then lost
 * when the write begins.
 */
#ifndef BENCH_OUT_H
#define BENCH_OUT_H

#include <stdbool.h>
#include <stdio.h>

enum out_how {
	OUT_APPEND,  /* append to the file */
	OUT_REPLACE, /* truncate, then write as data comes */
	OUT_RENAME   /* keep the old file until the new one is complete, if one can be created beside it */
};

struct out;

/* The outputs of a command; NULL: none. table is standard output, unless another output uses that. */
struct outputs {
	struct out *table, *json, *recording;
};

/*
 * Call first in main(). If the caller closed a standard descriptor, it is not reused for one of our files,
 * and writes to it fail. A closed pipe and the file size limit become errors of the output instead of
 * signals.
 */
void out_begin(void);
struct out *out_stdout(void); /* NULL: no memory */
/* what: the option, such as "--json", for the sentences. NULL, after a sentence, if the file cannot be opened. */
struct out *out_open(const char *what, const char *name, enum out_how how);
/* Whether a later out_open() will work; otherwise prints a sentence. Changes no file. */
bool out_possible(const char *what, const char *name, enum out_how how);
FILE *out_file(struct out *o);
/* Marks the output so far as complete. 0, or the -errno of the output. */
int out_whole(struct out *o);
/* The reader of standard output has closed it, as head(1) does: no error, but more output is pointless. */
bool out_unread(const struct out *o);
/* The output is invalid for another reason than a failed write. */
void out_fail(struct out *o, int err);
/* Calls out_whole() for each output; false if more output is pointless. */
bool outputs_whole(const struct outputs *to);
/* Closes the output: 0, or -errno after a sentence. out_unread() is not an error. NULL: 0. */
int out_close(struct out *o);

/* For programs that only print to stdout: closes it and returns code, or failed after a sentence. */
int out_close_stdout(int code, int failed);

#endif
