/* SPDX-License-Identifier: MIT */
/*
 * The program's outputs: standard output, and the files that options name. The first write that fails is kept
 * with its errno, and closing says it in one sentence on stderr, so that nobody takes half an output for a
 * whole one.
 *
 * A file that cannot be written to its end is cut back to the last out_whole(), and removed where nothing was
 * whole before. A picture is written beside its name and renamed in the end: whoever opens the name finds a
 * whole one. Where no file can be made beside it, it is written in place, and the old one is lost when the
 * new one begins.
 */
#ifndef BENCH_OUT_H
#define BENCH_OUT_H

#include <stdbool.h>
#include <stdio.h>

enum out_how {
	OUT_APPEND,  /* after what the file has */
	OUT_REPLACE, /* from its beginning, as it comes */
	OUT_RENAME   /* the old file stays until the new one is whole; in place where its directory takes no other */
};

struct out;

/* Where a command writes; NULL: nowhere. table: standard output, unless another output goes there. */
struct outputs {
	struct out *table, *json, *recording;
};

/*
 * First of all in main(): a standard descriptor that the caller closed must not become one of our own files,
 * and a write to it fails; a reader that has gone and a file size limit are errors of the output, not
 * signals.
 */
void out_begin(void);
struct out *out_stdout(void); /* NULL: no memory */
/* what: an option such as "--json", for the sentences. NULL after a sentence: the file cannot be opened. */
struct out *out_open(const char *what, const char *name, enum out_how how);
/* Whether out_open() will work, for what is opened only after hours; a sentence if not. Changes no file. */
bool out_possible(const char *what, const char *name, enum out_how how);
FILE *out_file(struct out *o);
/* What was written so far is whole. 0, or the -errno of the output. */
int out_whole(struct out *o);
/* Whoever read standard output has had enough, as head(1): no error, and no reason to write more. */
bool out_unread(const struct out *o);
/* The output is not what it should be for another reason than a write. */
void out_fail(struct out *o, int err);
/* out_whole() of each; whether there is a point in writing more. */
bool outputs_whole(const struct outputs *to);
/* 0, or -errno after a sentence. out_unread() is no error. NULL: 0. */
int out_close(struct out *o);

/* For a program that prints to stdout and no more: closes it. code, or failed after a sentence. */
int out_close_stdout(int code, int failed);

#endif
