/* SPDX-License-Identifier: MIT */
/* rdma-migrate plot: recordings in, a picture or a page out. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "page.h"
#include "report.h"

enum output { OUTPUT_SVG, OUTPUT_PNG, OUTPUT_HTML, OUTPUT_NONE };

static enum output output_of(const char *name)
{
	static const char *const endings[] = { ".svg", ".png", ".html" };
	size_t len = strlen(name);

	for (int i = 0; i < OUTPUT_NONE; i++) {
		size_t n = strlen(endings[i]);

		if (len > n && !strcmp(name + len - n, endings[i]))
			return (enum output)i;
	}
	return OUTPUT_NONE;
}

static int write_picture(FILE *out, enum output kind, const struct timelines *all, const struct groups *g)
{
	enum picture_format f = kind == OUTPUT_PNG ? PICTURE_PNG : PICTURE_SVG;
	char *picture = NULL;
	size_t len = 0;
	int err = all->n == 1 ? page_picture(f, 0, &all->v[0], NULL, &picture, &len)
			      : page_picture(f, 0, NULL, g, &picture, &len);

	if (!err && fwrite(picture, 1, len, out) != len)
		err = -EIO;
	free(picture);
	return err;
}

/* Nothing is left behind of what could not be finished. */
static int write_all(const char *name, enum output kind, const struct timelines *all, const struct groups *g)
{
	FILE *out = fopen(name, "we");
	int err;

	if (!out) {
		fprintf(stderr, "rdma-migrate: --out %s: %s; name a file that can be written.\n", name, strerror(errno));
		return -errno;
	}
	err = kind == OUTPUT_HTML ? page_write(out, all, g) : write_picture(out, kind, all, g);
	if (fclose(out) && !err)
		err = -errno;
	if (err) {
		fprintf(stderr, "rdma-migrate: %s was not written: %s.\n", name, strerror(-err));
		unlink(name);
	}
	return err;
}

bool plot_check_out(const char *name)
{
	if (output_of(name) != OUTPUT_NONE)
		return true;
	fprintf(stderr,
		"rdma-migrate: --out takes a file name that ends in .svg, .png or .html, not \"%s\".\n",
		name);
	return false;
}

int plot_files(char *const *files, unsigned n, const char *name)
{
	struct timelines all = { 0 };
	struct groups g = { 0 };
	int ret = VERDICT_OK;

	for (unsigned i = 0; i < n && ret == VERDICT_OK; i++) {
		if (timelines_load(&all, files[i]))
			ret = VERDICT_USAGE;
	}
	if (ret == VERDICT_OK && (groups_make(&g, &all) || write_all(name, output_of(name), &all, &g)))
		ret = VERDICT_ENVIRONMENT;
	groups_free(&g);
	timelines_free(&all);
	return ret;
}

int cmd_plot(const struct options *o)
{
	if (!o->nfiles) {
		fprintf(stderr, "rdma-migrate: plot needs the name of a file that --record wrote.\n");
		return VERDICT_USAGE;
	}
	if (!o->out) {
		fprintf(stderr, "rdma-migrate: plot needs -o FILE.svg, FILE.png or FILE.html.\n");
		return VERDICT_USAGE;
	}
	return plot_check_out(o->out) ? plot_files(o->files, o->nfiles, o->out) : VERDICT_USAGE;
}
